"""Settings: each from keyword, environment, mapping and INI file; errors name the setting and never quote its value."""

from __future__ import annotations

import os
from ipaddress import ip_network
from pathlib import Path

import pytest
from configurations import SECRET, config, hashed, refusal, written

from filesproxy.config.settings import base_url, is_name, known_settings, parsed
from filesproxy.providers import PROVIDERS
from filesproxy.redaction import Secret

BY_NAME = known_settings(PROVIDERS)
SETTINGS = BY_NAME.values()
ABOVE = {setting.name for setting in SETTINGS if setting.app}
BELOW = {setting.name for setting in SETTINGS if setting.provider}
OF_KEYS = {setting.name for setting in SETTINGS if setting.key}
ONE, TWO = hashed("one"), hashed("two")

# setting → (text, value); {file} is a readable file
GOOD = {
    "listen": [("0.0.0.0:80", ("0.0.0.0", 80)), ("[::1]:8787", ("::1", 8787)), (":0", ("", 0)),
               ("localhost:65535", ("localhost", 65535))],
    "default_provider": [("openai", "openai"), ("none", "none")],
    "default_files": [("openai", "openai"), ("none", "none")],
    "default_chat": [("openai", "openai"), ("none", "none")],
    "max_upload_bytes": [("1", 1), ("0", 0), ("536870912", 536870912)],
    "max_answer_bytes": [("1000", 1000)],
    "folder": [("/var/lib/a b", "/var/lib/a b"), ("/a/../b/", "/b"), ("", ""), ("/a%b", "/a%b"), ("/a;b#c", "/a;b#c")],
    "proxy": [("none", "none"), ("env", "env"),
              ("http://user:pw@proxy.example:3128", "http://user:pw@proxy.example:3128")],
    "ca_file": [("{file}", "{file}"), ("", "")],
    "ca_extra": [("{file}", "{file}")],
    "client_cert": [("", "")],  # a usable one needs its key: tests/heavy/test_tls.py
    "client_key": [("", "")],
    "tls_strict": [("yes", True), ("no", False)],
    "file_sha256": [("yes", True), ("no", False)],
    "via_name": [("central-1", "central-1"), ("A_b", "A_b")],
    "connect_timeout": [("3", 3.0), ("0.5", 0.5)],
    "send_timeout": [("999999.999", 999999.999)],
    "answer_timeout": [("60", 60.0)],
    "read_timeout": [("0.001", 0.001)],
    "generation_timeout": [("600", 600.0)],
    "generation_total": [("3600", 3600.0)],
    "total_timeout": [("60", 60.0)],
    "min_rate": [("1", 1), ("16384", 16384)],
    "max_json_bytes": [("33554432", 33554432)],
    "max_inline_bytes": [("0", 0), ("33554432", 33554432)],
    "files": [("own", "own"), ("none", "none")],
    "file_parts": [("text", ("text",)), ("pdf  image text", ("text", "image", "pdf"))],
    "inline_to": [("openai", ("openai",)), ("openai  anthropic", ("openai", "anthropic")), ("", ())],
    "max_json_in_flight": [("1000", 1000)],
    "max_caller_requests": [("0", 0), ("64", 64)],
    "body_timeout": [("15", 15.0)],
    "trusted_proxies": [("10.0.0.1", (ip_network("10.0.0.1"),)), ("", ()), ("unix:", ("unix:",)),
                        ("10.0.0.0/8  ::1 unix:", (ip_network("10.0.0.0/8"), ip_network("::1"), "unix:"))],
    "log_metadata": [("yes", True), ("no", False)],
    "forward_headers": [("x-a", ("x-a",)), ("x-a  traceparent openai-safety-identifier",
                                            ("x-a", "traceparent", "openai-safety-identifier")), ("", ())],
    "open_access": [("yes", True), ("no", False)],
    "ledger": [("/var/lib/a b", "/var/lib/a b"), ("/a/../b/", "/b"), ("", "")],
    "isolation": [("yes", True), ("no", False)],
    "response_days": [("1", 1), ("90", 90)],
    "allow_fields": [("x_new", ("x_new",)), ("x_new  web_search.v3", ("x_new", "web_search.v3")), ("", ())],
    "account": [("acme", "acme"), ("a" * 64, "a" * 64)],
    "kind": [("openai", "openai"), ("azure-openai", "azure-openai")],
    "base_url": [("https://a.example/v1/", "https://a.example/v1"), ("http://[::1]:8000", "http://[::1]:8000")],
    "credential": [("sk-a-b-c", "sk-a-b-c"), ("a=b;c#d%e", "a=b;c#d%e"), ("env:A_CREDENTIAL", "sk-of-the-environment"),
                   ("file:{credential}", "sk-of-a-file"), ("a" * 4096, "a" * 4096), ("environment", "environment")],
    "resource": [("my-resource", "my-resource"), ("A" * 64, "A" * 64)],
    "api_version": [("v1", "v1"), ("2024-10-21", "2024-10-21"), ("2025-04-01-preview", "2025-04-01-preview")],
    "auth": [("key", "key"), ("bearer", "bearer")],
    "sha256": [(ONE, (ONE,)), (f"{ONE} {TWO}", (ONE, TWO)), (f"{ONE}\t{TWO}", (ONE, TWO))],
    "providers": [("*", ("*",)), ("openai", ("openai",)), ("openai  azure-openai", ("openai", "azure-openai")),
                  ("", ())],
    "operations": [("*", ("*",)), ("list_files", ("list_files",)), ("", ()),
                   ("upload_file delete_file", ("upload_file", "delete_file"))],
    "owner": [("retail", "retail"), ("a" * 64, "a" * 64)],
    "sees": [("all", "all"), ("own", "own")],
    "foreign_ids": [("yes", True), ("no", False)],
    "max_file_bytes": [("0", 0), ("536870912", 536870912)],
    "max_stored_bytes": [("0", 0)],  # more needs a ledger: tests/config/test_isolation_settings.py
    "max_uploads_per_minute": [("0", 0)],
    "allowed_purposes": [("batch", ("batch",)), ("batch  user_data fine-tune", ("batch", "user_data", "fine-tune")),
                         ("", ())],
    "allowed_types": [("text/csv", ("text/csv",)), ("image/*  application/vnd.api+json",
                      ("image/*", "application/vnd.api+json")), ("", ())],
    "default_expires_after": [("0", 0), ("3600", 3600), ("2592000", 2592000)],
    "max_expires_after": [("0", 0), ("86400", 86400)],
    "caller_credentials": [("yes", True), ("no", False)],
}  # fmt: skip
NUMBERS = ["", "-1", "+1", "1.0", "1e3", "0x1", "1_0", "٣", "１", " 1", "9" * 19, SECRET, "True", "None"]
SECONDS = ["", "0", "0.0", "-1", "1e3", "inf", "nan", "1.", ".5", "1.0000", "9" * 7, "٣", SECRET]
WORDS = ["", "OpenAI", "-a", "a b", "a/b", "a" * 65, "é", "../x"]
TRUTHS = ["", "Yes", "true", "True", "1", "on", "y", "yes no", SECRET]
BAD = {
    "listen": ["", "80", "localhost", "a:b", "a:65536", "a:-1", "a:٣", "a:", SECRET],
    "default_provider": [*WORDS, "nobody", "local", SECRET],
    "default_files": [*WORDS, "nobody", "local", SECRET],
    "default_chat": [*WORDS, "nobody", "local", SECRET],
    "max_upload_bytes": NUMBERS,
    "max_answer_bytes": NUMBERS,
    "folder": [],
    "proxy": ["", "https://proxy.example", "proxy.example:3128", "http://", "socks5://a", "http://a:x", "http://a b",
              "None", SECRET],
    "ca_file": ["/nonexistent/" + SECRET, SECRET],
    "ca_extra": ["/nonexistent/" + SECRET],
    "client_cert": ["/nonexistent/" + SECRET],
    "client_key": ["/nonexistent/" + SECRET],
    "tls_strict": TRUTHS,
    "file_sha256": TRUTHS,
    "via_name": ["a b", "a,b", "a.b", "a" * 65, "é", SECRET + "/"],
    "connect_timeout": SECONDS,
    "send_timeout": SECONDS,
    "answer_timeout": SECONDS,
    "read_timeout": SECONDS,
    "generation_timeout": SECONDS,
    "generation_total": SECONDS,
    "total_timeout": SECONDS,
    "min_rate": [*NUMBERS, "0"],
    "max_json_bytes": NUMBERS,
    "max_inline_bytes": NUMBERS,
    "files": [*WORDS, "nobody", "openai", SECRET],
    "file_parts": ["", "Text", "text,image", "docx", SECRET],
    "inline_to": ["OpenAI", "@openai", "openai,anthropic", "nobody", "x", SECRET, "é"],
    "max_json_in_flight": NUMBERS,
    "max_caller_requests": NUMBERS,
    "body_timeout": SECONDS,
    "trusted_proxies": ["10.0.0.1/8", "10.0.0", "10.0.0.1,10.0.0.2", "localhost", "*", "unix:/run/a", "unix", SECRET],
    "log_metadata": TRUTHS,
    "forward_headers": ["X-A", "x_a", "x-a,x-b", "é", "*", "host", "authorization", "x-api-key", "api-key", "cookie",
                        "content-length", "transfer-encoding", "via", "x-portkey-a", "proxy-authorization", "x-a host",
                        SECRET.upper()],
    "open_access": TRUTHS,
    "ledger": [],
    "isolation": TRUTHS,
    "response_days": [*NUMBERS, "0"],
    "allow_fields": ["a,b", "é", "a b/c", SECRET + "!", "a" * 65],
    "account": [*WORDS, SECRET.upper()],
    "kind": [*WORDS, "nobody", "none"],
    "base_url": ["", "a.example", "ftp://a.example", "//a.example", "https://", "https:///v1",
                 "https://user@a.example", SECRET,
                 "https://user:" + SECRET + "@a.example", "https://:" + SECRET + "@a.example", "https://@a.example",
                 "https://a.example?x=" + SECRET, "https://a.example#x", "https://a.example/v1?",
                 "https://a.example/v1#",
                 "https://a b", "https://é.example", "https://a.example:x", "https://a.example:0",
                 "https://a.example:99999",
                 "https://[::1", "https://a.example/\\x/ y", "file:///etc/passwd", "javascript:alert(1)", "local:"],
    "credential": ["", "x", "file", "null", "None", "NONE", "ollama", "sk-1234", "env:A_SHORT_ONE", "env:NONE",
                   "file:{short}",
                   SECRET + " b", SECRET + "\tb", SECRET + "é", SECRET + "\0", SECRET + "\x7f", "a" * 4097,
                   "env:", "env:UNSET_" + SECRET, "env:AN_EMPTY_VARIABLE", "env:TWO_WORDS", "env:A_CREDENTIAL ",
                   "file:", "file:/nonexistent/" + SECRET, "file:/", "file:{empty}", "file:{two_lines}",
                   "file:{binary}", "file:{long}"],
    "resource": ["", "a.b", "a/b", "a@b", "evil.example#", "a" * 65, "é", "a b", "a:1", SECRET + "."],
    "api_version": ["", "v2", "V1", "2024-1-1", "2024-10-21-beta", "2024-10-21&x=y", "٢٠٢٤-10-21", "latest", SECRET],
    "auth": ["", "Key", "api-key", "entra", SECRET],
    "sha256": ["", ONE[:-1], ONE + "0", ONE.upper(), ONE + "," + TWO, "g" * 64, "sha256:" + ONE, "fp_" + SECRET,
               ONE + " " + SECRET],
    "providers": ["* openai", "OpenAI", "@openai", "openai,local", "nobody", "openai nobody", SECRET, "é"],
    "operations": ["* list_files", "LIST_FILES", "list_files,delete_file", "list", "list_files nothing", SECRET],
    "owner": [*WORDS, SECRET.upper()],
    "sees": ["", "All", "yes", "own all", SECRET],
    "foreign_ids": TRUTHS,
    "max_file_bytes": NUMBERS,
    "max_stored_bytes": NUMBERS,
    "max_uploads_per_minute": NUMBERS,
    "allowed_purposes": ["a,b", "a b/c", SECRET + "!", "é"],
    "allowed_types": ["text", "Text/csv", "text/csv,image/png", "*/*", "text/*/x", SECRET, "é/a"],
    "default_expires_after": [*NUMBERS, "1", "3599", "2592001"],
    "max_expires_after": [*NUMBERS, "1", "3599", "2592001"],
    "caller_credentials": TRUTHS,
}  # fmt: skip
FILES = {
    "file": (Path(__file__).parent.parent / "ca.pem").read_bytes(),
    "credential": b"sk-of-a-file\n",
    "empty": b"\n",
    "short": b"hunter2\n",
    "two_lines": b"sk-canary-0123\nsk-canary-0123\n",
    "binary": b"\xff\xfe" + SECRET.encode("utf-16-le"),
    "long": SECRET.encode() * 400,
}


@pytest.fixture
def filled(tmp_path, monkeypatch):
    """A function that puts paths of real files into a text. The variables that the tables name are set."""
    for name, text in (
        ("A_CREDENTIAL", "sk-of-the-environment"),
        ("AN_EMPTY_VARIABLE", ""),
        ("TWO_WORDS", "a b"),
        ("A_SHORT_ONE", "sk-1234"),
        ("NONE", "none"),
    ):
        monkeypatch.setenv(name, text)
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)

    def fill(text):
        for name in FILES if isinstance(text, str) else ():
            text = text.replace(f"{{{name}}}", str(tmp_path / name))
        return text

    return fill


def rows(table, names):
    """The names, of which a new one needs a row in GOOD and one in BAD."""
    assert not names - table.keys(), f"add rows to GOOD and BAD for {', '.join(names - table.keys())}"
    return sorted(names)


def source(section, name, text):
    """A mapping that is valid if and only if `name = text` is."""
    azure = dict.fromkeys(("resource", "api_version", "auth"), {"kind": "azure-openai"})
    kept = {"folder": {"kind": "local"}, "inline_to": {"kind": "local", "folder": "/srv/files"}}
    needed = {"provider:x": {**azure, **kept}.get(name, {"kind": "openai"}), "key:x": {"sha256": ONE}}.get(section, {})
    access = {"filesproxy": {"open_access": "yes"}} if name == "credential" else {}
    return {**access, section: {**needed, name: text}}


def ini(sections):
    return "".join(
        f"[{section}]\n" + "".join(f"{key} = {text}\n" for key, text in keys.items())
        for section, keys in sections.items()
    )


def test_tables_of_this_file_cover_every_setting():
    assert ABOVE | BELOW | OF_KEYS == set(GOOD) == set(BAD) == set(BY_NAME)


@pytest.mark.parametrize("name", rows(GOOD, ABOVE))
def test_application_setting_comes_from_keyword_environment_mapping_and_file(name, filled, tmp_path):
    for text, value in GOOD[name]:
        text, value = filled(text), filled(value)
        assert config(**{name: text}).settings[name] == value
        assert config(environ={f"FILESPROXY_{name.upper()}": text}).settings[name] == value
        assert config({"filesproxy": {name: text}}).settings[name] == value
        assert config(written(tmp_path, f"[filesproxy]\n{name} = {text}\n")).settings[name] == value


@pytest.mark.parametrize("name", rows(GOOD, BELOW - {"ca_file", "ca_extra"}))
def test_provider_setting_comes_from_mapping_and_file(name, filled, tmp_path):
    for text, value in GOOD[name]:
        if text:
            given, value = source("provider:x", name, filled(text)), filled(value)
            assert config(given).providers["x"][name] == value
            assert config(written(tmp_path, ini(given))).providers["x"][name] == value


@pytest.mark.parametrize("name", rows(GOOD, OF_KEYS))
def test_setting_of_a_key_comes_from_mapping_and_file(name, tmp_path):
    for text, value in GOOD[name]:
        given = source("key:x", name, text)
        for found in (config(given), config(written(tmp_path, ini(given)))):
            assert [(key.name, getattr(key, name)) for key in found.keys] == [("x", value)], text


@pytest.mark.parametrize("name", rows(BAD, ABOVE))
def test_bad_application_setting_is_refused_by_name_from_every_source_and_never_quoted(name, tmp_path):
    for text in BAD[name]:
        messages = [
            refusal(**{name: text}),
            refusal(environ={f"FILESPROXY_{name.upper()}": text}),
            refusal({"filesproxy": {name: text}}),
        ]
        if text.strip() == text:  # in a file, spaces around a value are not part of it
            messages.append(refusal(written(tmp_path, f"[filesproxy]\n{name} = {text}\n")))
            assert "filesproxy.ini, line 2: [filesproxy]" in messages[-1], text
        for message in messages:
            assert name in message and (len(text) < 8 or text not in message), text


@pytest.mark.parametrize("name", rows(BAD, BELOW))
def test_bad_provider_setting_is_refused_by_section_and_name_and_never_quoted(name, filled):
    for text in map(filled, BAD[name]):
        message = refusal(source("provider:x", name, text))
        assert "[provider:x]" in message and name in message, text
        assert len(text) < 8 or text not in message


@pytest.mark.parametrize("name", rows(BAD, OF_KEYS))
def test_bad_setting_of_a_key_is_refused_by_section_and_name_and_never_quoted(name):
    for text in BAD[name]:
        message = refusal(source("key:x", name, text))
        assert "[key:x]" in message and name in message, text
        assert len(text) < 8 or text not in message


@pytest.mark.parametrize("scope,names", [("app", ABOVE), ("provider", BELOW), ("key", OF_KEYS)])
def test_setting_in_the_wrong_section_is_refused(scope, names):
    for name in set(BY_NAME) - names:
        problems = []
        assert parsed({name: SECRET}, scope, lambda key: f"here, at {key}", BY_NAME, problems) == {}
        assert problems == [f"here, at {name}: the setting '{name}' does not belong here."]


@pytest.mark.parametrize("name", sorted(BELOW - ABOVE | OF_KEYS))
def test_setting_of_a_provider_or_key_is_refused_as_keyword_and_as_variable(name):
    assert name in refusal(**{name: SECRET})
    assert f"FILESPROXY_{name.upper()}" in refusal(environ={f"FILESPROXY_{name.upper()}": SECRET})


def test_keywords_may_be_python_values(tmp_path):
    found = config(max_upload_bytes=5, read_timeout=2.5, connect_timeout=3, folder=tmp_path, open_access=True).settings
    assert (found["max_upload_bytes"], found["read_timeout"], found["connect_timeout"]) == (5, 2.5, 3.0)
    assert (found["folder"], found["open_access"]) == (str(tmp_path), True)


@pytest.mark.parametrize("name", sorted(ABOVE))
def test_keyword_of_the_wrong_type_is_refused(name):
    for value in (None, True, b"bytes", ["a"]):
        if value is True and name in ("file_sha256", "isolation", "log_metadata", "open_access", "tls_strict"):
            assert config(**{name: value}).settings[name] is True
        else:
            assert name in refusal(**{name: value})


def test_folder_may_be_relative_and_may_begin_with_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert config(folder="~/files").settings["folder"] == "/home/somebody/files"
    assert config(folder="files").settings["folder"] == os.path.abspath("files")


@pytest.mark.parametrize(
    "near,name",
    [("max_upload_byte", "max_upload_bytes"), ("Folder", "folder"), ("read-timeout", "read_timeout"),
     ("default_providers", "default_provider"), ("open-access", "open_access")],
)  # fmt: skip
def test_unknown_setting_is_refused_and_the_nearest_is_named(near, name):
    assert f"Did you mean {name}?" in refusal({"filesproxy": {near: SECRET}})
    assert f"Did you mean {name}?" in refusal(**{near: SECRET})


@pytest.mark.parametrize("section,near,name", [("provider:openai", "credentials", "credential"),
                                               ("provider:openai", "api-version", "api_version"),
                                               ("key:a", "provider", "providers"), ("key:a", "sha_256", "sha256"),
                                               ("key:a", "operation", "operations")])  # fmt: skip
def test_nearest_setting_is_one_of_the_same_section(section, near, name):
    message = refusal({section: {near: SECRET}})
    assert f"[{section}]" in message and (f"Did you mean {name}?" in message or near == "sha_256")


@pytest.mark.parametrize(
    "key", [SECRET, "credential " + SECRET, "credential1", "qqqq", "folder" + SECRET, "kredential\0"]
)
def test_key_that_resembles_no_setting_or_may_be_a_secret_is_not_quoted(key):
    assert refusal({"provider:openai": {key: "x"}}) == "[provider:openai]: this key is not a setting."


@pytest.mark.parametrize("name", ["proxy", "credential"])
def test_setting_that_may_contain_a_secret_is_hidden_from_every_repr(name):
    text = "http://user:" + SECRET + "@proxy.example" if name == "proxy" else SECRET
    found = config(source("provider:x", name, text))
    assert type(found.providers["x"][name]) is Secret and found.providers["x"][name] == text
    assert SECRET not in f"{found!r} {found.providers['x']!r} {found.providers['x'][name]!r}"


@pytest.mark.parametrize("name", ["ca_file", "ca_extra"])
def test_trust_store_of_a_provider_is_checked_at_the_start(name, filled):
    assert "[provider:x]" in refusal(source("provider:x", name, filled("{credential}")))
    assert config(source("provider:x", name, "")).providers["x"][name] == ""


@pytest.mark.parametrize("name", ["folder", "resource", "api_version", "auth"])
def test_setting_of_one_kind_of_provider_is_refused_for_another_kind(name):
    text = GOOD[name][0][0]
    assert f"a provider of kind openai has no setting {name}" in refusal({"provider:x": {"kind": "openai", name: text}})


@pytest.mark.parametrize("setting", ["ca_file", "ca_extra"])
def test_trust_store_that_cannot_be_read_is_refused_at_the_start(setting, tmp_path):
    assert setting in refusal(**{setting: str(tmp_path / "missing.pem")})


@pytest.mark.parametrize(
    "text,url",
    [("https://a.example", "https://a.example"), ("https://a.example//", "https://a.example"),
     ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
     ("https://a.example/openai/v1/", "https://a.example/openai/v1")],
)  # fmt: skip
def test_base_url_loses_only_its_trailing_slashes(text, url):
    assert base_url(text) == url


@pytest.mark.parametrize("text", ["a", "0", "azure-prod", "team_a", "a" * 64])
def test_name_consists_of_lower_case_letters_digits_hyphens_and_underscores(text):
    assert is_name(text)
    assert not any(
        is_name(other) for other in (f"-{text}", f"{text}\n", f"{text} ", text + "É", f"@{text}", "a" + text * 64)
    )


def test_every_setting_has_a_description_and_belongs_to_a_section():
    assert all(setting.doc and (setting.app or setting.provider or setting.key) for setting in SETTINGS)
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)
