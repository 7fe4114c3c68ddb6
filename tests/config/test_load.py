"""The configuration as a whole: precedence, providers and keys, what stops the start, and what causes a warning."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from configurations import SECRET, config, hashed, refusal, written

from filesproxy import create_app
from filesproxy.config.credentials import is_saved
from filesproxy.config.load import Key
from filesproxy.config.settings import known_settings
from filesproxy.providers import PROVIDERS

KEY = {"sha256": hashed("fp_a"), "providers": "*"}
OPEN = {"filesproxy": {"open_access": "yes"}}


@pytest.fixture
def ini(tmp_path):
    """A function that writes an INI file and returns its path."""
    return lambda text: written(tmp_path, text)


def test_without_configuration_there_are_defaults_but_no_local_store_and_no_key():
    found = config()
    made = found.settings["via_name"]
    assert made.startswith("filesproxy-") and made == config().settings["via_name"]
    assert found.settings == {
        **{setting.name: setting.default for setting in known_settings(PROVIDERS).values() if setting.app},
        "via_name": made,
        "default_files": "none",
        "default_chat": "none",
    }
    assert set(found.providers) == PROVIDERS.keys() - {"local"}
    assert found.providers["openai"]["kind"] == "openai"
    assert found.providers["openai"]["base_url"] == "https://api.openai.com/v1"
    assert found.providers["azure-openai"]["base_url"] == ""
    assert not any(own["credential"] for own in found.providers.values())
    assert (found.keys, found.warnings) == ((), ())


def test_every_provider_has_a_value_for_every_setting():
    every = {setting.name for setting in known_settings(PROVIDERS).values()}
    assert all(set(own) == every for own in config({"provider:x": {"kind": "openai"}}).providers.values())


def test_keywords_override_the_environment_which_overrides_the_file(ini):
    path = ini("[filesproxy]\nmax_upload_bytes = 1\nmax_answer_bytes = 1\nread_timeout = 1\n")
    environ = {"FILESPROXY_MAX_UPLOAD_BYTES": "2", "FILESPROXY_MAX_ANSWER_BYTES": "2"}
    found = config(path, environ, max_upload_bytes=3).settings
    assert (found["max_upload_bytes"], found["max_answer_bytes"], found["read_timeout"]) == (3, 2, 1.0)


def test_section_of_a_provider_overrides_what_all_providers_inherit():
    source = {"filesproxy": {"read_timeout": "1"}, "provider:x": {"kind": "openai", "send_timeout": "9"}}
    found = config(source, {"FILESPROXY_CONNECT_TIMEOUT": "2"}, send_timeout=3)
    own, other = found.providers["x"], found.providers["openai"]
    assert [own[name] for name in ("read_timeout", "connect_timeout", "send_timeout")] == [1.0, 2.0, 9.0]
    assert [other[name] for name in ("read_timeout", "connect_timeout", "send_timeout")] == [1.0, 2.0, 3.0]


def test_filesproxy_config_names_the_file_if_none_is_given(ini, tmp_path):
    path = ini("[filesproxy]\nmax_upload_bytes = 7\n")
    assert config(environ={"FILESPROXY_CONFIG": path}).settings["max_upload_bytes"] == 7
    assert config(Path(path)).settings["max_upload_bytes"] == 7
    assert config(environ={"FILESPROXY_CONFIG": ""}).settings["max_upload_bytes"] == 512 << 20
    other = {"filesproxy": {"max_upload_bytes": "8"}}
    assert config(other, {"FILESPROXY_CONFIG": str(tmp_path / "missing.ini")}).settings["max_upload_bytes"] == 8


def test_application_reads_the_environment_of_its_process(ini, monkeypatch):
    monkeypatch.setenv("FILESPROXY_CONFIG", ini("[filesproxy]\nmax_upload_bytes = 7\n"))
    monkeypatch.setenv("FILESPROXY_READ_TIMEOUT", "8")
    settings = create_app(send_timeout=9).config.settings
    assert [settings[name] for name in ("max_upload_bytes", "read_timeout", "send_timeout")] == [7, 8.0, 9.0]


def test_variables_of_a_kubernetes_service_with_our_name_are_ignored():
    environ = {
        "FILESPROXY_PORT": "tcp://10.0.0.1:8787",
        "FILESPROXY_PORT_8787_TCP": "tcp://10.0.0.1:8787",
        "FILESPROXY_PORT_8787_TCP_PROTO": "tcp",
        "FILESPROXY_PORT_8787_TCP_PORT": "8787",
        "FILESPROXY_PORT_8787_TCP_ADDR": "10.0.0.1",
        "FILESPROXY_SERVICE_HOST": "10.0.0.1",
        "FILESPROXY_SERVICE_PORT": "8787",
        "FILESPROXY_SERVICE_PORT_HTTP": "8787",
    }
    assert config(environ=environ) == config()


def test_variables_of_a_kubernetes_service_whose_name_begins_with_ours_are_ignored():
    environ = {
        "FILESPROXY_CANARY_PORT": "tcp://10.0.0.1:8787",
        "FILESPROXY_CANARY_PORT_8787_TCP_ADDR": "10.0.0.1",
        "FILESPROXY_CANARY_SERVICE_HOST": "10.0.0.1",
        "FILESPROXY_CANARY_SERVICE_PORT_HTTP": "8787",
    }
    assert config(environ=environ) == config()


@pytest.mark.parametrize(
    "name",
    ["FILESPROXY_MAX_UPLOAD_BYTE", "FILESPROXY_KIND", "FILESPROXY_BASE_URL", "FILESPROXY_", "FILESPROXY_API_KEY",
     "FILESPROXY_CREDENTIAL", "FILESPROXY_SHA256"],
)  # fmt: skip
def test_unknown_variable_with_our_prefix_is_refused_by_name(name):
    assert refusal(environ={name: SECRET}).startswith(f"{name}: ")


def test_variables_without_our_prefix_are_not_read():
    assert (
        config(
            environ={"OPENAI_API_KEY": SECRET, "FILESPROXYX": "1", "filesproxy_folder": "/x", "MAX_UPLOAD_BYTES": "1"}
        )
        == config()
    )


@pytest.mark.parametrize(
    "section",
    ["DEFAULT", "default", "Filesproxy", "filesproxy ", "provider", "provider:", "provider:none", "provider: x",
     "provider:A", "provider:a b", "provider:../x", "Provider:openai", "providers:openai", "provider:x:y", "key",
     "key:", "key:none", "key:A", "key:a b", "keys:a", "key:@a"],
)  # fmt: skip
def test_unknown_section_is_refused_and_the_known_ones_are_named(section, ini):
    expected = "sections are [filesproxy], [provider:NAME] and [key:NAME]."
    assert expected in refusal({section: {"kind": "openai"}})
    path = ini(f"\n[{section}]\nkind = openai\n")
    assert refusal(path) == f"{path}, line 2: {expected}"


def test_provider_of_an_unknown_kind_is_refused_and_the_known_kinds_are_named():
    assert ", ".join(sorted(PROVIDERS)) in refusal({"provider:mine": {"base_url": "https://a.example"}})


@pytest.mark.parametrize("name,text", [("base_url", "https://a.example"), ("credential", SECRET)])
def test_local_store_accepts_no_address_and_no_credential(name, text, tmp_path):
    assert name in refusal({**OPEN, "provider:local": {"folder": str(tmp_path), name: text}})


def test_azure_address_is_a_base_url_or_a_resource_but_not_both():
    both = {"kind": "azure-openai", "base_url": "https://a.example", "resource": "mine"}
    assert "[provider:x]" in refusal({"provider:x": both})


def test_default_provider_must_be_configured(tmp_path):
    refusal(default_provider="local")
    assert config(default_provider="local", folder=str(tmp_path)).settings["default_provider"] == "local"
    assert config({"provider:x": {"kind": "openai"}}, default_provider="x").settings["default_provider"] == "x"


def test_key_has_the_settings_of_its_section_and_otherwise_defaults():
    one, two = hashed("fp_a"), hashed("fp_b")
    every_setting = {"sha256": two, "providers": "*", "operations": "list_files", "caller_credentials": "yes"}
    found = config({"key:a": {"sha256": one}, "key:b": every_setting}).keys
    assert found == (Key("a", (one,), (), ("*",), False), Key("b", (two,), ("*",), ("list_files",), True))
    a, b = found
    assert (a.may_use("openai"), b.may_use("openai")) == (False, True)
    assert (a.may_do("delete_file"), b.may_do("delete_file"), b.may_do("list_files")) == (True, False, True)


def test_hash_that_occurs_twice_is_refused():
    assert "twice" in refusal({"key:a": KEY, "key:b": KEY})
    assert "twice" in refusal({"key:a": {"sha256": f"{hashed('fp_a')} {hashed('fp_a')}"}})


def test_key_without_a_hash_is_refused_and_the_message_tells_how_to_make_one():
    assert "python3 -m filesproxy key" in refusal({"key:a": {"providers": "*"}})


@pytest.mark.parametrize("providers", ["nobody", "openai nobody", "local"])
def test_key_that_names_an_unknown_provider_is_refused(providers):
    assert "[key:a]: providers" in refusal({"key:a": {**KEY, "providers": providers}})


@pytest.mark.parametrize("providers", ["openai", "azure-openai openai mine", "*", ""])
def test_key_may_name_any_configured_provider(providers):
    source = {"key:a": {**KEY, "providers": providers}, "provider:mine": {"kind": "openai"}}
    assert config(source).keys[0].providers == tuple(providers.split())


def test_saved_credential_that_anybody_could_use_is_refused_by_file_and_line(ini):
    text = "[filesproxy]\nproxy = none\n\n[provider:openai]\ncredential = sk-canary-0123\n"
    path = ini(text)
    message = refusal(path)
    assert message.startswith(f"{path}, line 5: [provider:openai]: ") and "open_access" in message
    assert "[provider:x]" in refusal({"provider:x": {"kind": "openai", "credential": SECRET}})
    refusal({"filesproxy": {"open_access": "no"}, "provider:openai": {"credential": SECRET}})


def test_everything_that_is_wrong_is_said_at_once_each_on_its_own_line(ini, tmp_path):
    (tmp_path / "no.pem").write_text("no certificate")
    path = ini(f"""[filesproxy]
read_timeout = soon
default_provider = nobody
[surprise]
[provider:openai]
send_timeout = later
credential = {SECRET}
[provider:one]
kind = unknown
[provider:two]
kind = anthropic
resource = mine
ca_file = {tmp_path}/no.pem
[provider:three]
kind = openai
client_key = {tmp_path}/no.pem
[key:a]
providers = openai two missing
[key:b]
sha256 = {hashed("fp_b")} {hashed("fp_c")}
[key:c]
sha256 = {hashed("fp_c")}
operations = fly
[key:d]
sha256 = {hashed(SECRET)} {hashed("fp_c")}
""")
    expected = [
        (2, "[filesproxy]: read_timeout must be"),
        (3, "[filesproxy]: default_provider must be none or one of"),
        (4, "sections are"),
        (6, "[provider:openai]: send_timeout must be"),
        (7, "[provider:openai]: the credential is a gateway key"),
        (9, "[provider:one] needs kind = one of"),
        (12, "[provider:two]: a provider of kind anthropic has no setting resource"),
        (13, "[provider:two]: ca_file is not a PEM file"),
        (16, "[provider:three]: client_key needs client_cert"),
        (17, "[key:a] needs sha256"),
        (18, "[key:a]: providers contains one that is not configured"),
        (22, "[key:c]: the same hash occurs twice"),
        (23, "[key:c]: operations must be"),
        (25, "[key:d]: the same hash occurs twice"),
    ]
    lines = refusal(path).splitlines()
    for number, text in expected:
        assert any(line.startswith(f"{path}, line {number}: {text}") for line in lines), (number, text)
    assert len(lines) == len(expected)


@pytest.mark.parametrize(
    "source",
    [
        {**OPEN, "filesproxy": {"open_access": "yes", "default_provider": "x"}, "provider:x": {"kind": "fly"}},
        {**OPEN, "provider:x": {"kind": "Bad Kind", "base_url": "https://a.example"}},
        {**OPEN, "provider:x": {"kind": "azure-openai", "credential": SECRET, "base_url": "nowhere"}},
        {"key:a": {"sha256": "short", "providers": "openai"}},
        {"key:a": {**KEY, "providers": "x"}, "provider:x": {"kind": "fly"}},
    ],
)
def test_one_mistake_is_one_problem(source):
    """What follows from a mistake is not a second one."""
    assert len(refusal(source).splitlines()) == 1


@pytest.mark.parametrize("guard", [{"key:a": KEY}, {"key:a": {**KEY, "providers": ""}}, OPEN])
def test_saved_credential_is_accepted_with_a_key_or_with_open_access(guard):
    found = config({**guard, "provider:openai": {"credential": SECRET}})
    assert found.providers["openai"]["credential"] == SECRET


def test_open_access_may_come_from_the_environment_or_a_keyword():
    saved = {"provider:openai": {"credential": SECRET}}
    assert config(saved, {"FILESPROXY_OPEN_ACCESS": "yes"}).settings["open_access"]
    assert config(saved, open_access=True).settings["open_access"]


@pytest.mark.parametrize("sha256", [hashed(SECRET), f"{hashed('fp_old')} {hashed(SECRET)}"])
@pytest.mark.parametrize("credential", [SECRET, "env:A_CREDENTIAL"])
def test_saved_credential_that_is_a_gateway_key_is_refused(sha256, credential, monkeypatch):
    monkeypatch.setenv("A_CREDENTIAL", SECRET)
    source = {"provider:x": {"kind": "openai", "credential": credential},
              "key:a": {"sha256": hashed("fp_b")}, "key:b": {"sha256": sha256}}  # fmt: skip
    assert refusal(source) == "[provider:x]: the credential is a gateway key."


SHARED = "share the files of the saved provider x"
PLAIN = "sends its credential over plain http"
SAVED = {"kind": "openai", "credential": SECRET}
# providers of two keys, base_url, expected warnings
WARNED = [
    (("x", "x"), "https://a.example", [SHARED]),
    (("*", "x"), "https://a.example", [SHARED]),
    (("*", "*"), "https://a.example", [SHARED]),
    (("x", "openai"), "https://a.example", []),
    (("x", ""), "https://a.example", []),
    (("x", ""), "http://a.example/v1", [PLAIN]),
    (("x", ""), "http://10.0.0.5:8000", [PLAIN]),
    (("x", ""), "HTTP://a.example/v1", [PLAIN]),
    (("x", ""), "http://localhost.evil.example", [PLAIN]),
    (("x", ""), "http://127.evil.example", [PLAIN]),
    (("x", ""), "http://localhost:8000/v1", []),
    (("x", ""), "http://localhost/v1", []),
    (("x", ""), "http://localhost", []),
    (("x", ""), "http://127.0.0.1:8000", []),
    (("x", ""), "http://127.0.0.1", []),
    (("x", ""), "http://[::1]:8000/v1", []),
    (("x", "x"), "http://a.example", [SHARED, PLAIN]),
]


@pytest.mark.parametrize("providers,url,expected", WARNED)
def test_shared_files_and_plain_http_cause_warnings(providers, url, expected, caplog):
    source = {"filesproxy": {"isolation": "no"}, "provider:x": {**SAVED, "base_url": url}}
    for name, used in zip("ab", providers):
        source[f"key:{name}"] = {"sha256": hashed(f"fp_{name}"), "providers": used}
    warnings = config(source).warnings
    assert len(warnings) == len(expected) and all(part in text for part, text in zip(expected, warnings))
    caplog.set_level(logging.WARNING, logger="filesproxy")
    create_app(source)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", text) for text in warnings
    ]
    assert SECRET not in caplog.text


def test_plain_http_without_a_credential_and_a_shared_local_store_cause_no_warning(tmp_path):
    source = {
        "provider:x": {"kind": "openai", "base_url": "http://a.example"},
        "provider:local": {"folder": str(tmp_path)},
        "key:a": KEY,
        "key:b": {**KEY, "sha256": hashed("fp_b")},
    }
    assert config(source).warnings == ()


def test_repr_of_a_configuration_shows_no_credential():
    source = {"filesproxy": {"proxy": f"http://u:{SECRET}@proxy.example"}, "provider:openai": {"credential": SECRET},
              "key:a": KEY}  # fmt: skip
    assert SECRET not in repr(config(source))


VLLM = {"kind": "openai", "base_url": "http://127.0.0.1:8000/v1", "credential": "none"}


def test_saved_provider_without_a_credential_needs_no_key_and_no_open_access():
    found = config({"provider:vllm": VLLM})
    assert is_saved(found.providers["vllm"]) and found.providers["vllm"]["credential"] == ""
    assert not is_saved(found.providers["openai"])


@pytest.mark.parametrize("section", ["openai", "anthropic"])
def test_provider_without_a_credential_names_its_host(section):
    message = refusal({f"provider:{section}": {"credential": "none"}})
    assert message == f"[provider:{section}]: credential = none needs the base_url of a host that asks for none."


@pytest.mark.parametrize("credential", ["file", "null", "x", "ollama", "sk-1234"])
def test_credential_that_answers_could_contain_by_chance_is_refused_with_the_way_out(credential):
    message = refusal({"provider:vllm": {**VLLM, "credential": credential}}, secret=f" {credential} ")
    assert "8 characters or more, or `none` for a host that asks for no credential" in message


WRITTEN_OUT = f"[filesproxy]\nopen_access = yes\n[provider:openai]\ncredential = {SECRET}\n"
PROXY_URL = "[provider:openai]\nproxy = http://user:{}@127.0.0.1:1\n"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o440])
@pytest.mark.parametrize("text", [WRITTEN_OUT, PROXY_URL.replace("{}", SECRET)], ids=["credential", "proxy"])
def test_secret_written_out_in_a_file_that_others_can_read_is_a_warning_without_it(text, mode, tmp_path):
    path = written(tmp_path, text)
    os.chmod(path, mode)
    (warning,) = config(path).warnings
    assert SECRET not in warning and "mode 600" in warning
    line = text[: text.index(SECRET)].count("\n") + 1
    assert warning.startswith(f"{path}, line {line}: [provider:openai]")


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700, 0o620])
def test_file_that_only_its_owner_can_read_may_have_a_secret_in_it(mode, tmp_path):
    path = written(tmp_path, WRITTEN_OUT)
    os.chmod(path, mode)
    assert config(path).warnings == ()


HARMLESS = {
    "variable": "credential = env:A_CREDENTIAL",
    "file": "credential = file:{folder}/secret",
    "no_proxy": "proxy = none",
    "proxy_without_a_password": "proxy = http://127.0.0.1:1",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_file_without_a_secret_in_it_may_be_read_by_all(name, tmp_path, monkeypatch):
    monkeypatch.setenv("A_CREDENTIAL", SECRET)
    (tmp_path / "secret").write_text(SECRET)
    line = HARMLESS[name].replace("{folder}", str(tmp_path))
    path = written(tmp_path, f"[filesproxy]\nopen_access = yes\n[provider:openai]\n{line}\n")
    os.chmod(path, 0o644)
    assert config(path).warnings == ()
