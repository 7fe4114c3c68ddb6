"""The README is true: its commands run, its tables hold what the code holds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import filesproxy
from filesproxy import errors
from filesproxy import operations as router
from filesproxy.app import create_app
from filesproxy.config import settings
from filesproxy.gateway import auth, target
from filesproxy.providers import PROVIDERS
from filesproxy.providers.table import FOREIGN_SCOPE, FOREIGN_SCOPE_PREFIXES
from filesproxy.wire import headers

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "filesproxy").rglob("*.py"))


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def settings_table():
    """The README's table of settings, from the one table in the code."""
    rows = ["| setting | default | where | what it is |", "|---|---|---|---|"]
    for setting in settings.by_name(PROVIDERS).values():
        scopes = {"`[filesproxy]`": setting.app, "`[provider:…]`": setting.provider, "`[key:…]`": setting.key}
        default = shown(setting)
        places = ", ".join(scope for scope, is_one in scopes.items() if is_one)
        rows.append(f"| `{setting.name}` | {default and f'`{default}`'} | {places} | {setting.doc} |")
    return "\n".join(rows)


def shown(setting):
    """A default as it would be written in the file."""
    if isinstance(setting.default, bool):
        return "yes" if setting.default else "no"
    if isinstance(setting.default, tuple):
        return (":" if setting.name == "listen" else " ").join(map(str, setting.default))
    return f"{setting.default:g}" if isinstance(setting.default, float) else str(setting.default)


def test_settings_table_is_the_one_in_the_code():
    assert settings_table() in README, "the README's settings table should be:\n" + settings_table()


def test_every_header_and_error_code_is_in_the_readme():
    codes = set(re.findall(r'code="([a-z_]+)"', CODE)) | {
        kind.code for kind in vars(errors).values() if isinstance(kind, type) and getattr(kind, "code", None)
    }
    codes -= {errors.ConfigError.code}  # never an answer
    names = set(headers.RELAYED | headers.RELAYED_WITH_CONTENT) | set(target._REFUSED) | auth._PLACEHOLDERS
    names |= FOREIGN_SCOPE | {f"{prefix}*" for prefix in FOREIGN_SCOPE_PREFIXES}
    for provider in PROVIDERS.values():
        names |= {*provider.get("client_headers", ()), *provider.get("client_settings", {})}
        names |= set(provider.get("credential_headers", {}))
    names |= set(re.findall(r'"(x-(?:portkey|filesproxy)-[a-z-]*[a-z])"', CODE))
    names -= {"x-filesproxy-owner"}  # stays inside
    missing = sorted(word for word in codes | names if f"{word}`" not in README)
    assert missing == []


def test_every_route_is_in_the_readme_with_its_operation():
    rows = [f"| `{method} {path}` | `{operation}` |" for method, path, operation, *_ in router.ROUTES]
    assert [row for row in rows if row not in README and "`health`" not in row] == []
    assert all(f"`{method} {path}`" in README for method, path, operation, *_ in router.ROUTES if operation == "health")


def test_every_status_we_answer_is_in_the_error_table():
    statuses = {kind.status for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "status")}
    assert [status for status in sorted(statuses) if f"| {status} |" not in README] == []


def test_every_test_that_the_readme_names_is_there():
    files = set(re.findall(r"`(tests/[a-z_/]+\.py)`", README))
    assert files and [name for name in sorted(files) if not (ROOT / name).exists()] == []


def test_every_provider_is_named():
    assert [name for name in PROVIDERS if f"`{name}`" not in README] == []


def test_ini_example_is_a_configuration(tmp_path, monkeypatch):
    (example,) = blocks("ini")
    path, secret = tmp_path / "filesproxy.ini", tmp_path / "secret"
    secret.write_text("azure-key\n", encoding="ascii")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant")
    example = example.replace("/run/secrets/azure", str(secret))
    example = example.replace("/etc/ssl/certs/ca-certificates.crt", str(ROOT / "tests" / "ca.pem"))
    path.write_text(example, encoding="utf-8")
    found = create_app(str(path)).config
    assert set(found.providers) == {
        "openai", "azure-openai", "azure-prod", "anthropic", "claude", "local", "compat",
    }  # fmt: skip
    assert found.providers["azure-prod"]["credential"] == "azure-key"
    assert [(key.name, key.providers) for key in found.keys] == [("team-a", ("openai", "claude", "local"))]


def test_embedding_example_makes_an_application(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "filesproxy.ini").write_text("[filesproxy]\n", encoding="utf-8")
    example = next(block for block in blocks("python") if "create_app" in block)
    names = {}
    exec(example, names)
    assert names["application"].config.settings["max_upload_bytes"] == 100 * 2**20


def test_version_is_the_same_everywhere():
    assert f"filesproxy {filesproxy.__version__} listens" in README
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## Unreleased" in changelog or f"## {filesproxy.__version__}" in changelog


@pytest.fixture
def running(tmp_path):
    """`python3 -m filesproxy` as the README starts it, on a free port; yields its banner's lines."""
    environ = {**os.environ, "XDG_DATA_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "filesproxy", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(
        command, env=environ, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        yield [process.stderr.readline().rstrip() for _ in range(6)]
    finally:
        process.terminate()
        process.wait(timeout=10)
        process.stderr.close()


def test_banner_is_the_one_shown(running, tmp_path):
    (shown,) = (block for block in blocks("text") if "listens on" in block)
    port = re.search(r":(\d+) ", running[0])[1]
    said = "\n".join(running).replace(port, "8787").replace(str(tmp_path), "~/.local/share") + "\n"
    assert said == shown


def test_curl_lines_work_as_printed(running, tmp_path):
    """Every curl line for the local store, in the order of the page; those to OpenAI need a key and a net."""
    port = re.search(r":(\d+) ", running[0])[1]
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("curl ")]
    local = [line for line in lines if "x-portkey-api-key" not in line]
    assert len(local) == 7
    answers = []
    for line in local:
        script = line.replace(":8787", f":{port}").replace("curl ", "curl -sS --fail ", 1)
        script = script.replace("--output ", f"--output {tmp_path}/")
        environ = {**os.environ, "ID": answers[0]["id"]} if answers else dict(os.environ)
        done = subprocess.run(["sh", "-ec", script], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, (line, done.stderr)
        answers.append(json.loads(done.stdout) if done.stdout else None)
    upload, listed, filtered, retrieved, _, _, deleted = answers
    assert [file["id"] for file in listed["data"]] == [file["id"] for file in filtered["data"]] == [upload["id"]]
    assert retrieved == upload and deleted["deleted"] is True
    readme = (ROOT / "README.md").read_bytes()
    assert (tmp_path / "file_content.jsonl").read_bytes() == readme
    assert (tmp_path / "first_100_bytes").read_bytes() == readme[:100]
    (shown,) = (json.loads(block) for block in blocks("json"))
    assert list(shown) == list(upload)
