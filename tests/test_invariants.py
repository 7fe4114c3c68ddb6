"""What the package promises about itself: no dependency, no I/O where there should be none, small pieces."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from filesproxy import create_app
from filesproxy.config.settings import SETTINGS, known_settings
from filesproxy.providers import PROVIDERS
from filesproxy.providers.table import settings_of

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "filesproxy"
MODULES = sorted(PACKAGE.rglob("*.py"))
TREES = {
    str(path.relative_to(PACKAGE).with_suffix("")): ast.parse(path.read_text(encoding="utf-8")) for path in MODULES
}

#: rooms from the top down; a module imports from its own room and from those below
ROOMS = [
    {"__main__"},
    {"serving"},
    {"__init__"},
    {"app"},
    {"gateway"},
    {"config"},
    {"exchange", "transports", "providers"},
    {"budget", "watchdog"},
    {"wire"},
    {"calls"},
    {"operations", "redaction"},
    {"errors"},
]
RANK = {room: place for place, rooms in enumerate(ROOMS) for room in rooms}
#: what providers may see: what their authors use, and pure functions
PROVIDERS_SEE = {"providers", "wire", "calls", "operations", "redaction", "errors"}
#: the half of the house without I/O
NO_IO = {"wire", "providers", "calls", "operations", "redaction", "errors"}
IO = {"http", "os", "select", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time"}


class Import(NamedTuple):
    """One import as it stands in a file: the module that it names, and the line."""

    module: str
    line: int
    is_own: bool


def imports(name):
    """Every import of a module; relative ones with their path below the package."""
    package = name.split("/")[:-1]
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield Import(str(node.module), node.lineno, False)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            paths = [node.module.split(".")] if node.module else [[alias.name] for alias in node.names]
            yield from (Import("/".join([*base, *path]), node.lineno, True) for path in paths)


def room_of(module):
    """The room of a module; names that the package itself defines are in `__init__`."""
    first = module.split("/")[0]
    return first if first in RANK else "__init__"


def line_of(name, found):
    """The offending line, as an editor finds it."""
    text = (PACKAGE / f"{name}.py").read_text(encoding="utf-8").splitlines()[found.line - 1].strip()
    return f"filesproxy/{name}.py:{found.line}: {text}"


def may_import(name, found):
    room, other = room_of(name), room_of(found.module)
    if found.module == "__version__":
        return True
    if room == "providers":
        return other in PROVIDERS_SEE
    if room == "transports" and other == "transports":
        return name.split("/")[1] == found.module.split("/")[1]  # one transport knows nothing of another
    if room == "gateway" and other == "transports":
        return False  # the application builds transports and hands them in
    return other == room or RANK[other] > RANK[room]


def test_every_module_is_in_a_room():
    """One that is in none would be taken for a part of `__init__`, and could import what it likes below that."""
    assert {name.split("/")[0] for name in TREES} == set(RANK)


@pytest.mark.parametrize("name", sorted(TREES))
def test_imports_go_one_way(name):
    wrong = [line_of(name, found) for found in imports(name) if found.is_own and not may_import(name, found)]
    assert not wrong, "\n".join(["against the arrows of docs/architecture.md:", *wrong])


@pytest.mark.parametrize("name", sorted(name for name in TREES if room_of(name) in NO_IO))
def test_this_half_does_no_io(name):
    wrong = [
        line_of(name, found)
        for found in imports(name)
        if not found.is_own and (found.module == "urllib.request" or found.module.split(".")[0] in IO)
        if found.module != "os.path"  # names only
    ]
    assert not wrong, "\n".join(["I/O in the half of the house that has none:", *wrong])


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=lambda path: path.parent.name)
def test_room_says_what_lives_in_it(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


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
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import filesproxy.serving.cli; filesproxy.create_app()"
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


def test_settings_are_told_apart_by_name_and_documented():
    settings = known_settings(PROVIDERS).values()
    assert len(settings) == len(SETTINGS) + len(list(settings_of(PROVIDERS)))
    assert all(setting.doc and (setting.app or setting.provider or setting.key) for setting in settings)
    assert not [setting.name for setting in settings if setting.key and (setting.app or setting.provider)]
    assert {"credential", "base_url", "resource"} <= {setting.name for setting in settings if not setting.app}


def texts(tree):
    """(line, text) of every string in the code but docstrings."""
    documented = [node for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))]
    docstrings = {id(node.body[0].value) for node in documented if ast.get_docstring(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def test_core_names_no_provider_and_none_of_their_headers_and_settings():
    """All that is special about a provider is in its own module."""
    names = {"anthropic", "azure", "claude", "apim"}
    exact = {setting.name for setting in settings_of(PROVIDERS)}
    for entry in PROVIDERS.values():
        for key in ("client_headers", "list_headers", "client_settings", "credential_headers", "answer_headers"):
            exact |= {*entry.get(key, ())}
    wrong = [
        f"filesproxy/{name}.py:{line}: {text!r}"
        for name in TREES
        if room_of(name) not in {"providers", "serving"}
        for line, text in texts(TREES[name])
        if text in exact or any(word in text.lower() for word in names)
    ]
    assert not wrong, "\n".join(["the core knows a provider:", *wrong])


def test_creating_an_application_opens_nothing(tmp_path):
    create_app(folder=str(tmp_path / "not yet"))
    assert list(tmp_path.iterdir()) == []


def test_application_loads_nothing_that_it_does_not_need():
    """Each worker would hold it in memory: email's policies alone are 0.6 MB."""
    program = "import sys, filesproxy; filesproxy.create_app(); print(*sys.modules)"
    done = run("-S", "-c", program)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "filesproxy.transports.https.transport" in loaded  # so that the names below are spelled as Python does
    assert not {"email.policy", "asyncio", "filesproxy.serving"} & loaded
