"""The documents are true: their tables hold what the code holds, their links lead somewhere, their commands work.

Here is what can be said within this process; tests/heavy/test_documents.py runs the commands.
"""

from __future__ import annotations

import re

import pytest
import webtest
from configurations import hashed
from documents import INLINE_RUN_BY, PAGES, ROOT, RUN_BY, block, blocks, inline_commands, text_of
from fakes import FILE, OPENAI, FakeUpstream, form, form_type

import filesproxy
from filesproxy import create_app, errors
from filesproxy.app import make_transports
from filesproxy.calls import Answer, Provider
from filesproxy.config import settings
from filesproxy.gateway import auth, portkey, target
from filesproxy.operations import OPERATIONS, ROUTES
from filesproxy.providers import PROVIDERS, table
from filesproxy.wire import headers

MAX_README_BYTES = 12_000
CODE = "\n".join(path.read_text("utf-8") for path in (ROOT / "filesproxy").rglob("*.py"))
TESTS = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))


# Pages and their blocks


def test_readme_is_short():
    assert len(text_of("README.md").encode()) <= MAX_README_BYTES


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_says_why_not(page):
    found, known = blocks(page), RUN_BY[page]
    unknown = [
        f"{page}:{each.line}"
        for each, (language, mark, _) in zip(found, known)
        if each.language != language or not each.text.startswith(mark)
    ]
    assert unknown == [], "blocks that tests/documents.py does not know, or knows in another place"
    assert len(found) == len(known)


def test_every_command_in_the_text_is_run_or_says_why_not():
    found = {command for page in PAGES for command in inline_commands(page)}
    assert found == set(INLINE_RUN_BY)
    assert [path for path in re.findall(r"tests/\S+", " ".join(found)) if not (ROOT / path).exists()] == []


def test_every_test_that_runs_a_block_is_there():
    named = {by for known in RUN_BY.values() for _, _, by in known} | set(INLINE_RUN_BY.values())
    named = {by for by in named if not by.startswith("not run: ")}
    assert [name for name in sorted(named) if f"def {name}(" not in TESTS] == []


def test_every_test_that_a_page_names_is_there():
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", text_of(page))}
    assert len(named) > 40
    assert [name for name in sorted(named) if f"def {name}(" not in TESTS] == []
    files = {path for page in PAGES for path in re.findall(r"`((?:tests|filesproxy)/[\w./]+)`", text_of(page))}
    assert files and [path for path in sorted(files) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page):
    """Links within the project; those to other sites are not asked for."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text("utf-8"))):
            broken.append(link)
    assert broken == []


def anchors(text):
    """What the headings of a page are linked by."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_linked_from_the_readme():
    assert [page for page in PAGES if page.startswith("docs/") and f"({page})" not in text_of("README.md")] == []


# Tables


def settings_table():
    """The table of settings, from the one in the code: those of keys last."""
    rows = ["| setting | default | where | what it is |", "|---|---|---|---|"]
    for setting in sorted(settings.known_settings(PROVIDERS).values(), key=lambda setting: setting.key):
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


def routes_table():
    """The table of routes, from the table of operations."""
    bodies = {"none": "", "form": "form", "part": "form", "json": "JSON", "part or json": "form or JSON"}
    rows = [
        f"| `{route.method} {route.path}` | `{route.operation}` | {bodies[route.body]} "
        f"| {'yes' if route.is_passed_through else ''} |"
        for route in OPERATIONS.values()
    ]
    return "\n".join(["| route | operation | request body | passed through |", "|---|---|---|---|", *rows])


@pytest.mark.parametrize("page,make", [("docs/configuration.md", settings_table), ("docs/api.md", routes_table)])
def test_table_is_the_one_in_the_code(page, make):
    assert make() in text_of(page), f"{page} should hold:\n{make()}"


def test_routes_that_no_provider_performs_are_named():
    others = [f"`{route.method} {route.path}`" for route in ROUTES if route.operation not in OPERATIONS]
    assert others and all(each in text_of("docs/api.md") for each in others)


def test_every_header_is_in_the_api_page():
    names = set(headers.RELAYED | headers.RELAYED_WITH_CONTENT) | set(target._REFUSED) | auth._PLACEHOLDERS
    names |= portkey.READ
    names |= table.FOREIGN_SCOPE | {*table.FOREIGN_SCOPE_PREFIXES, *headers.RELAYED_PREFIXES}
    for provider in PROVIDERS.values():
        for key in (
            "client_headers", "list_headers", "client_settings", "credential_headers", "scope_prefixes",
            "answer_headers", "answer_header_prefixes",
        ):  # fmt: skip
            names |= {*provider.get(key, ())}
        names |= {provider["model_header"]} if "model_header" in provider else set()
    names = {f"{name}*" if name.endswith("-") else name for name in names}
    names |= set(re.findall(r'"(x-(?:portkey|filesproxy)-[a-z-]*[a-z])"', CODE))
    assert sorted(name for name in names if f"`{name}`" not in text_of("docs/api.md")) == []


def test_headers_of_proxies_are_in_the_configuration_page():
    assert [name for name in auth._FORWARDED if f"`{name}`" not in text_of("docs/configuration.md")] == []


def failures():
    """Every class of failure that becomes an answer."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return [kind for kind in kinds if issubclass(kind, errors.FilesproxyError) and kind is not errors.ConfigError]


def test_every_status_and_error_code_is_in_the_api_page():
    page = text_of("docs/api.md")
    rows = re.findall(r"^\| ([0-9]{3}) \| (.*?) \|", page, re.MULTILINE)
    named = {code for _, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    codes = set(re.findall(r'code="([a-z_]+)"', CODE)) | {kind.code for kind in failures() if kind.code}
    assert sorted(codes - named - {"config_error"}) == []
    assert sorted({str(kind.status) for kind in failures()} - {status for status, _ in rows}) == []
    (final,) = (line for line in page.splitlines() if line.startswith("Retrying cannot help with"))
    assert sorted(code for code in errors.FINAL_CODES if f"`{code}`" not in final) == []


def test_fields_of_the_access_log_are_in_the_api_page(make_client, access_log, tmp_path):
    far = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "files": "local"}
    settings = {"log_metadata": True, "folder": tmp_path / "files", "transports": make_transports()}
    client = make_client({"provider:far": far}, **settings)
    asked = {"x-portkey-provider": "far", "authorization": "Bearer sk-caller", "x-portkey-metadata": '{"a": 1}'}
    traced = {"x-portkey-trace-id": "t", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    upload = form(("purpose", "batch"), ("file", "a", "", b"a"))
    kept = client.post("/v1/files", upload, {**asked, "content-type": form_type()}).json["id"]
    part = {"type": "file", "file": {"file_id": kept}}
    chat = {"model": "m", "messages": [{"role": "user", "content": [part]}]}
    client.post_json("/v1/chat/completions", chat, headers={**asked, **traced}, status=502)
    fields = {name for line in access_log() for name in line}
    section = text_of("docs/api.md").partition("## Access log")[2]
    named = " ".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE))
    assert sorted(re.findall(r"`(\w+)`", named)) == sorted(fields)


def test_messages_that_the_troubleshooting_page_quotes_are_in_the_code():
    rows = re.findall(r"^\| (.+?) \|", text_of("docs/troubleshooting.md"), re.MULTILINE)
    quoted = [part for row in rows for text in re.findall(r'"(.+?)"', row) for part in text.split(" … ")]
    assert len(quoted) > 5
    assert [part for part in quoted if part not in CODE] == []


def test_every_provider_and_key_of_a_provider_is_in_the_providers_page():
    page = text_of("docs/providers.md")
    assert [name for name in PROVIDERS if f"`{name}`" not in page] == []
    keys = re.findall(r"^\| `(\w+)` \|", page.partition("### A dictionary")[2], re.MULTILINE)
    assert sorted(keys) == sorted(Provider.__annotations__)


def test_rooms_are_those_of_the_package():
    picture = block("docs/architecture.md", "text", "filesproxy/\n")
    named = set(re.findall(r"^  (\w+(?:/|\.py)) ", picture, re.MULTILINE))
    paths = [path for path in (ROOT / "filesproxy").iterdir() if path.name not in ("__init__.py", "__main__.py")]
    found = {f"{path.name}/" if path.is_dir() else path.name for path in paths} - {"__pycache__/", "py.typed"}
    assert named == found


def test_version_is_the_same_everywhere():
    version = filesproxy.__version__
    assert f"filesproxy {version} listens" in text_of("README.md")
    released = re.findall(r"^## (.+)$", text_of("CHANGELOG.md"), re.MULTILINE)
    assert released[0] == "Unreleased"
    assert re.fullmatch(rf"{re.escape(version)} - 20[0-9]{{2}}-[0-9]{{2}}-[0-9]{{2}}", released[1])


# Configurations and Python


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "ini")])
def test_ini_example_is_a_configuration(page, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-a")
    (tmp_path / "secret").write_text("azure-key\n", "ascii")
    for each in blocks(page, "ini"):
        example = each.text.replace("/run/secrets/azure", str(tmp_path / "secret"))
        example = example.replace("/etc/ssl/certs/ca-certificates.crt", str(ROOT / "tests" / "ca.pem"))
        (tmp_path / "filesproxy.ini").write_text(example, "utf-8")
        found = create_app(str(tmp_path / "filesproxy.ini")).config
        named = set(re.findall(r"^\[provider:(.+)\]$", example, re.MULTILINE))
        assert named and named <= set(found.providers)
        assert [key.name for key in found.keys] == re.findall(r"^\[key:(.+)\]$", example, re.MULTILINE)


def test_embedding_example_makes_an_application(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "filesproxy.ini").write_text("[filesproxy]\n", "utf-8")
    made = executed(block("docs/embed.md", "python", "create_app"))
    assert made["application"].config.settings["max_upload_bytes"] == 100 * 2**20


def test_host_that_sets_the_gateway_key_as_printed(tmp_path):
    config = {"key:host": {"sha256": hashed("key-of-the-host"), "providers": "local"}}
    gateway = create_app(config, folder=str(tmp_path / "store"), default_provider="local")
    wrapped = executed(block("docs/embed.md", "python", "class WithGatewayKey"))["WithGatewayKey"]
    client = webtest.TestApp(wrapped(gateway, "key-of-the-host"))
    assert client.get("/v1/files", headers={"x-portkey-api-key": "what a user sends"}).json["data"] == []
    webtest.TestApp(gateway).get("/v1/files", status=401)


def test_private_provider_is_served(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "filesproxy.ini").write_text("[provider:acme]\nread_timeout = 5\n", "utf-8")
    made = executed(block("docs/providers.md", "python", 'acme = {**PROVIDERS["openai"]'))
    assert made["application"].config.providers["acme"]["kind"] == "acme"
    upstream = FakeUpstream()
    upstream.answers(FILE)
    served = create_app("filesproxy.ini", providers={"acme": made["acme"]}, transports={"https": upstream})
    webtest.TestApp(served).get("/v1/files/file-1", headers={**OPENAI, "x-portkey-provider": "acme"})
    assert [call.url for call in upstream.calls] == ["https://llm.acme.example/v1/files/file-1"]


def test_provider_that_pages_by_a_cursor_is_read_to_its_end():
    paged = executed(block("docs/providers.md", "python", "by_cursor("))["paged"]
    asked = []

    def host(call, target):
        asked.append(dict(call.query))
        start = int(call.query.get("page_token", "0"))
        data = [{**FILE, "id": f"file-{number}"} for number in range(start, min(start + 100, 250))]
        token = str(start + 100) if start < 200 else ""
        return Answer(200, json={"object": "list", "data": data, "next_page_token": token})

    served = create_app(providers={"paged": paged}, transports={"https": host})
    answer = webtest.TestApp(served).get("/v1/files", headers={**OPENAI, "x-portkey-provider": "paged"}).json
    assert ([len(answer["data"]), answer["has_more"]], len(asked)) == ([250, False], 3)


def executed(source):
    """The names that a snippet leaves behind."""
    names = {}
    exec(compile(source, "snippet", "exec"), names)
    return names
