"""What the package promises about itself: no dependency, no I/O where there should be none, small pieces."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from filesproxy import chat, create_app, files, router
from filesproxy.provider import Provider
from filesproxy.providers import PROVIDERS
from filesproxy.settings import SETTINGS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "filesproxy"
MODULES = sorted(PACKAGE.rglob("*.py"))
TREES = {
    str(path.relative_to(PACKAGE).with_suffix("")): ast.parse(path.read_text(encoding="utf-8")) for path in MODULES
}

# Top may import lower, never the reverse.
LADDER = [
    {"__main__"},
    {"cli"},
    {"demo"},
    {"server"},
    {"__init__"},
    {"app"},
    {"admission", "chat"},
    {"accesslog", "documents", "files"},
    {"target"},
    {"auth"},
    {"config"},
    {"ini"},
    {"exchange", "wsgi"},
    {"store"},
    {"upstream"},
    {"pool"},
    {"connection"},
    {"blobs", "connect", "request_stream", "response"},
    {"settings", "tls"},
    {"providers/__init__"},
    {"providers/anthropic"},
    {"providers/anthropic_request", "providers/anthropic_stream"},
    {"providers/anthropic_answer", "providers/anthropic_errors", "providers/anthropic_tools"},
    {"providers/anthropic_content", "providers/azure_openai", "providers/local"},
    {"providers/openai"},
    {"sse"},
    {"listing", "multipart", "ranges", "watchdog"},
    {"headers", "router"},
    {"provider"},
    {"fields", "memo", "strictjson"},
    {"errors"},
]
NO_IO = {
    "errors",
    "fields",
    "headers",
    "listing",
    "memo",
    "multipart",
    "provider",
    "ranges",
    "response",
    "router",
    "sse",
    "strictjson",
}
IO = {
    "http",
    "os",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib.request",
    "select",
    "sqlite3",
}


def imported(tree):
    """(module, level) of each import, `from . import x` as x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.level
        elif isinstance(node, ast.ImportFrom):
            yield from (
                ("__init__", 1) if alias.name == "__version__" else (alias.name, node.level) for alias in node.names
            )


def own_imports(name):
    for module, level in imported(TREES[name]):
        if level:
            inside = name.startswith("providers/") and level == 1
            path = f"providers/{module}" if inside else module.replace(".", "/")
            yield f"{path}/__init__" if path == "providers" else path


def test_every_module_has_its_place_on_the_ladder():
    assert set().union(*LADDER) == set(TREES)


@pytest.mark.parametrize("name", sorted(TREES))
def test_modules_import_lower_ones_only(name):
    rank = {module: place for place, modules in enumerate(LADDER) for module in modules}
    wrong = [other for other in own_imports(name) if other != "__init__" and rank[other] <= rank[name]]
    assert wrong == []


@pytest.mark.parametrize("name", sorted(NO_IO | {name for name in TREES if name.startswith("providers/")}))
def test_this_half_does_no_io(name):
    assert [
        module for module, level in imported(TREES[name]) if not level and (module in IO or module.split(".")[0] in IO)
    ] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_modules_and_functions_are_small(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert path.read_text(encoding="utf-8").count("\n") <= 350
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in functions if node.end_lineno - node.lineno >= 45] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_what_is_public_says_what_it_is(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [
        node
        for parent in ast.walk(tree)
        if isinstance(parent, (ast.Module, ast.ClassDef)) and not getattr(parent, "name", "").startswith("_")
        for node in parent.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    ]
    protocol = {"__iter__", "__next__", "close"}
    assert [node.name for node in public if not ast.get_docstring(node) and node.name not in protocol] == []


def run(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_import_needs_the_standard_library_only():
    """-I leaves out the environment and the folder, -S site-packages; so the folder is put back by hand."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import filesproxy, filesproxy.cli; filesproxy.create_app()"
    )
    done = run("-I", "-S", "-c", program)
    assert done.returncode == 0, done.stderr


def test_import_has_no_side_effects():
    program = (
        "import logging, os, threading; before = dict(os.environ), logging.root.handlers[:]\n"
        "import filesproxy\n"
        "assert (dict(os.environ), logging.root.handlers) == (before[0], before[1])\n"
        "assert threading.active_count() == 1\n"
        "assert sorted(filesproxy.__all__) == ['__version__', 'create_app']\n"
    )
    done = run("-c", program)
    assert done.returncode == 0, done.stderr


def test_every_operation_has_one_name_everywhere():
    operations = {operation for _, _, operation in router.ROUTES} - {"health"}
    assert set(files.HANDLERS) | set(chat.HANDLERS) == operations
    assert not set(files.HANDLERS) & set(chat.HANDLERS)
    assert set(chat.HANDLERS) >= chat.JSON_OPERATIONS | chat.GENERATED
    for provider in PROVIDERS.values():
        assert set(provider["operations"]) | set(provider.get("unsupported", {})) == operations
        assert set(provider) <= set(Provider.__annotations__)


def test_settings_are_told_apart_by_name_and_documented():
    names = [setting.name for setting in SETTINGS]
    assert len(names) == len(set(names))
    assert all(setting.doc and (setting.app or setting.provider or setting.key) for setting in SETTINGS)
    assert not [setting.name for setting in SETTINGS if setting.key and (setting.app or setting.provider)]
    assert {"credential", "base_url", "resource"} <= {setting.name for setting in SETTINGS if not setting.app}


def test_settings_that_clients_may_choose_exist_and_are_no_address():
    for provider in PROVIDERS.values():
        chosen = set(provider.get("client_settings", {}).values())
        assert chosen <= {setting.name for setting in SETTINGS if setting.provider}
        assert not chosen & {"base_url", "credential", "folder", "proxy", "ca_file", "ca_extra", "kind", "auth"}
        assert set(provider.get("credential_headers", {}).values()) <= {"key", "bearer"}


def test_creating_an_application_opens_nothing(tmp_path):
    create_app(folder=str(tmp_path / "not yet"))
    assert list(tmp_path.iterdir()) == []


def test_application_without_a_store_loads_nothing_that_it_does_not_need():
    """Each worker would hold it in memory: SQLite 0.9 MB, email's policies 0.6 MB."""
    program = "import sys, filesproxy; filesproxy.create_app(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-S", "-c", program], cwd=ROOT, capture_output=True, check=True, text=True)
    assert not {"sqlite3", "filesproxy.store", "email.policy", "difflib", "asyncio"} & set(loaded.stdout.split())
    assert "filesproxy.upstream" in loaded.stdout.split()
