"""Settings: each by keyword, environment and INI file, which wins, and errors that never repeat a value."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from filesproxy import create_app
from filesproxy.config import SETTINGS, base_url, load
from filesproxy.errors import ConfigError
from filesproxy.providers import PROVIDERS

SECRET = "sk-canary-0123"
ABOVE = {setting.name for setting in SETTINGS if setting.app}
BELOW = {setting.name for setting in SETTINGS if setting.provider}

# setting → (text, value); {file} is a readable file
GOOD = {
    "listen": [("0.0.0.0:80", ("0.0.0.0", 80)), ("[::1]:8787", ("::1", 8787)), (":0", ("", 0)),
               ("localhost:65535", ("localhost", 65535))],
    "default_provider": [("openai", "openai"), ("none", "none")],
    "max_upload_bytes": [("1", 1), ("0", 0), ("536870912", 536870912)],
    "max_answer_bytes": [("1000", 1000)],
    "folder": [("/var/lib/a b", "/var/lib/a b"), ("/a/../b/", "/b"), ("", ""), ("/a%b", "/a%b"), ("/a;b#c", "/a;b#c")],
    "proxy": [("none", "none"), ("env", "env"),
              ("http://user:pw@proxy.example:3128", "http://user:pw@proxy.example:3128")],
    "ca_file": [("{file}", "{file}"), ("", "")],
    "ca_extra": [("{file}", "{file}")],
    "connect_timeout": [("3", 3.0), ("0.5", 0.5)],
    "send_timeout": [("999999.999", 999999.999)],
    "answer_timeout": [("60", 60.0)],
    "read_timeout": [("0.001", 0.001)],
    "kind": [("openai", "openai")],
    "base_url": [("https://a.example/v1/", "https://a.example/v1"), ("http://[::1]:8000", "http://[::1]:8000")],
}  # fmt: skip
NUMBERS = ["", "-1", "+1", "1.0", "1e3", "0x1", "1_0", "٣", "１", " 1", "9" * 19, SECRET, "True", "None"]
SECONDS = ["", "0", "0.0", "-1", "1e3", "inf", "nan", "1.", ".5", "1.0000", "9" * 7, "٣", SECRET]
WORDS = ["", "OpenAI", "-a", "a b", "a/b", "a" * 65, "é", "../x"]
BAD = {
    "listen": ["", "80", "localhost", "a:b", "a:65536", "a:-1", "a:٣", "a:", SECRET],
    "default_provider": [*WORDS, "nobody", "local", SECRET],
    "max_upload_bytes": NUMBERS,
    "max_answer_bytes": NUMBERS,
    "folder": [],
    "proxy": ["", "https://proxy.example", "proxy.example:3128", "http://", "socks5://a", "http://a:x", "http://a b",
              "None", SECRET],
    "ca_file": ["/nonexistent/" + SECRET, SECRET],
    "ca_extra": ["/nonexistent/" + SECRET],
    "connect_timeout": SECONDS,
    "send_timeout": SECONDS,
    "answer_timeout": SECONDS,
    "read_timeout": SECONDS,
    "kind": [*WORDS, "nobody", "none"],
    "base_url": ["", "a.example", "ftp://a.example", "//a.example", "https://", "https:///v1",
                 "https://user@a.example", SECRET,
                 "https://user:" + SECRET + "@a.example", "https://:" + SECRET + "@a.example", "https://@a.example",
                 "https://a.example?x=" + SECRET, "https://a.example#x", "https://a.example/v1?",
                 "https://a.example/v1#",
                 "https://a b", "https://é.example", "https://a.example:x", "https://a.example:0",
                 "https://a.example:99999",
                 "https://[::1", "https://a.example/\\x/ y", "file:///etc/passwd", "javascript:alert(1)", "local:"],
}  # fmt: skip


@pytest.fixture
def ini(tmp_path):
    """Writes an INI file and gives its path."""

    def write(text):
        path = tmp_path / "filesproxy.ini"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        return str(path)

    return write


def config(source=None, environ=None, **keywords):
    return load(source, keywords, PROVIDERS, environ or {})


def refusal(source=None, environ=None, secret=SECRET, **keywords):
    """The message of a ConfigError, which must not hold the secret."""
    with pytest.raises(ConfigError) as refused:
        config(source, environ, **keywords)
    assert secret not in refused.value.message
    assert refused.value.__cause__ is None and refused.value.__suppress_context__ or refused.value.__context__ is None
    return refused.value.message


def cases(table, names):
    return [
        (name, *case) if isinstance(case, tuple) else (name, case) for name in sorted(names) for case in table[name]
    ]


def test_these_tables_know_every_setting():
    assert ABOVE | BELOW == set(GOOD) == set(BAD)


@pytest.mark.parametrize("name,text,value", cases(GOOD, ABOVE))
def test_application_setting_comes_from_keyword_environment_mapping_and_file(name, text, value, ini):
    path = ini("")
    text, value = (part.replace("{file}", path) if isinstance(part, str) else part for part in (text, value))
    assert config(**{name: text}).settings[name] == value
    assert config(environ={f"FILESPROXY_{name.upper()}": text}).settings[name] == value
    assert config({"filesproxy": {name: text}}).settings[name] == value
    assert config(ini(f"[filesproxy]\n{name} = {text}\n")).settings[name] == value


@pytest.mark.parametrize("name,text,value", cases(GOOD, BELOW))
def test_provider_setting_comes_from_mapping_and_file(name, text, value, ini):
    path = ini("")
    text, value = (part.replace("{file}", path) if isinstance(part, str) else part for part in (text, value))
    others = {} if name == "kind" else {"kind": "openai"}
    assert config({"provider:x": {**others, name: text}}).providers["x"][name] == value
    lines = "".join(f"{key} = {other}\n" for key, other in {**others, name: text}.items())
    assert config(ini(f"[provider:x]\n{lines}")).providers["x"][name] == value


@pytest.mark.parametrize("name,text", cases(BAD, ABOVE))
def test_bad_application_setting_is_refused_from_everywhere_by_name_and_never_repeated(name, text, ini):
    messages = [
        refusal(**{name: text}),
        refusal(environ={f"FILESPROXY_{name.upper()}": text}),
        refusal({"filesproxy": {name: text}}),
    ]
    if text.strip() == text:  # the file's values have no blanks around them
        messages.append(refusal(ini(f"[filesproxy]\n{name} = {text}\n")))
    assert all(name in message for message in messages)
    assert all(len(text) < 8 or text not in message for message in messages)


@pytest.mark.parametrize("name,text", cases(BAD, BELOW))
def test_bad_provider_setting_is_refused_by_section_and_name_and_never_repeated(name, text):
    others = {} if name == "kind" else {"kind": "openai"}
    message = refusal({"provider:x": {**others, name: text}})
    assert "[provider:x]" in message and name in message
    assert len(text) < 8 or text not in message


def test_without_anything_the_defaults_hold_and_there_is_no_local_store():
    found = config()
    assert found.settings == {setting.name: setting.default for setting in SETTINGS if setting.app}
    assert set(found.providers) == {"openai"}
    assert found.providers["openai"]["kind"] == "openai"
    assert found.providers["openai"]["base_url"] == "https://api.openai.com/v1"


def test_keywords_win_over_the_environment_and_that_over_the_file(ini):
    path = ini("[filesproxy]\nmax_upload_bytes = 1\nmax_answer_bytes = 1\nread_timeout = 1\n")
    environ = {"FILESPROXY_MAX_UPLOAD_BYTES": "2", "FILESPROXY_MAX_ANSWER_BYTES": "2"}
    found = config(path, environ, max_upload_bytes=3).settings
    assert (found["max_upload_bytes"], found["max_answer_bytes"], found["read_timeout"]) == (3, 2, 1.0)


def test_section_of_a_provider_wins_over_what_all_providers_inherit():
    source = {"filesproxy": {"read_timeout": "1"}, "provider:x": {"kind": "openai", "send_timeout": "9"}}
    found = config(source, {"FILESPROXY_CONNECT_TIMEOUT": "2"}, send_timeout=3)
    own, other = found.providers["x"], found.providers["openai"]
    assert [own[name] for name in ("read_timeout", "connect_timeout", "send_timeout")] == [1.0, 2.0, 9.0]
    assert [other[name] for name in ("read_timeout", "connect_timeout", "send_timeout")] == [1.0, 2.0, 3.0]


def test_keywords_may_be_values_of_python(tmp_path):
    found = config(max_upload_bytes=5, read_timeout=2.5, connect_timeout=3, folder=tmp_path).settings
    assert (found["max_upload_bytes"], found["read_timeout"], found["connect_timeout"]) == (5, 2.5, 3.0)
    assert found["folder"] == str(tmp_path)


@pytest.mark.parametrize("name", sorted(ABOVE))
@pytest.mark.parametrize("value", [None, True, b"bytes", ["a"]])
def test_keyword_of_another_type_is_refused_and_never_becomes_a_name(name, value):
    assert name in refusal(**{name: value})


def test_folder_may_be_relative_and_may_name_a_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert config(folder="~/files").settings["folder"] == "/home/somebody/files"
    assert config(folder="files").settings["folder"] == os.path.abspath("files")


def test_file_comes_from_filesproxy_config_if_no_other_is_given(ini, tmp_path):
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


def test_what_kubernetes_sets_for_a_service_of_this_name_is_harmless():
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


def test_what_kubernetes_sets_for_a_service_whose_name_begins_like_ours_is_harmless():
    environ = {
        "FILESPROXY_CANARY_PORT": "tcp://10.0.0.1:8787",
        "FILESPROXY_CANARY_PORT_8787_TCP_ADDR": "10.0.0.1",
        "FILESPROXY_CANARY_SERVICE_HOST": "10.0.0.1",
        "FILESPROXY_CANARY_SERVICE_PORT_HTTP": "8787",
    }
    assert config(environ=environ) == config()


@pytest.mark.parametrize(
    "name",
    ["FILESPROXY_MAX_UPLOAD_BYTE", "FILESPROXY_KIND", "FILESPROXY_BASE_URL", "FILESPROXY_", "FILESPROXY_API_KEY"],
)
def test_unknown_variable_of_ours_is_refused_by_its_name(name):
    assert name[11:].lower() in refusal(environ={name: SECRET})


def test_variables_of_others_are_not_read():
    assert (
        config(
            environ={"OPENAI_API_KEY": SECRET, "FILESPROXYX": "1", "filesproxy_folder": "/x", "MAX_UPLOAD_BYTES": "1"}
        )
        == config()
    )


@pytest.mark.parametrize(
    "near,name",
    [("max_upload_byte", "max_upload_bytes"), ("Folder", "folder"), ("read-timeout", "read_timeout"),
     ("default_providers", "default_provider")],
)  # fmt: skip
def test_unknown_setting_is_refused_and_the_nearest_is_named(near, name):
    assert f"Did you mean {name}?" in refusal({"filesproxy": {near: SECRET}})
    assert f"Did you mean {name}?" in refusal(**{near: SECRET})


def test_setting_of_the_other_kind_of_section_is_refused():
    refusal({"filesproxy": {"base_url": "https://a.example"}})
    refusal({"provider:openai": {"listen": "localhost:1"}})
    assert "Did you mean" not in refusal({"filesproxy": {"qqqq": SECRET}})


@pytest.mark.parametrize(
    "section",
    ["DEFAULT", "default", "Filesproxy", "filesproxy ", "provider", "provider:", "provider:none", "provider: x",
     "provider:A", "provider:a b", "provider:../x", "Provider:openai", "providers:openai", "key:a", "provider:x:y"],
)  # fmt: skip
def test_unknown_section_is_refused(section, ini):
    assert "is no section" in refusal({section: {"kind": "openai"}})
    assert "is no section" in refusal(ini(f"[{section}]\nkind = openai\n"))


def test_provider_of_an_unknown_kind_is_refused_with_those_there_are():
    assert "local, openai" in refusal({"provider:mine": {"base_url": "https://a.example"}})


def test_store_of_a_folder_has_no_base_url(tmp_path):
    assert "base_url" in refusal({"provider:local": {"folder": str(tmp_path), "base_url": "https://a.example"}})


def test_default_provider_must_be_configured(tmp_path):
    refusal(default_provider="local")
    assert config(default_provider="local", folder=str(tmp_path)).settings["default_provider"] == "local"
    assert config({"provider:x": {"kind": "openai"}}, default_provider="x").settings["default_provider"] == "x"


READABLE = {
    "byte_order_mark": b"\xef\xbb\xbf[filesproxy]\nfolder = /a\n",
    "crlf": b"[filesproxy]\r\nfolder = /a\r\n",
    "no_end_of_line": b"[filesproxy]\nfolder = /a",
    "comments_on_lines_of_their_own": b"# one\n; two\n[filesproxy]\n# three\n  # four\nfolder = /a\n; five\n",
    "no_blanks": b"[filesproxy]\nfolder=/a\n",
    "indented": b"[filesproxy]\n  folder = /a\n",
    "blank_lines": b"\n\n[filesproxy]\n\nfolder = /a\n\n\n",
}


@pytest.mark.parametrize("name", READABLE)
def test_file_that_reads_as_it_looks_is_taken(name, ini):
    assert config(ini(READABLE[name])).settings["folder"] == "/a"


@pytest.mark.parametrize(
    "value", ["/a%b", "/a%(folder)s", "/a%%b", "/a$b", "${folder}/x", "/a=b", "/a:b", "/a'b\"", "/日本"]
)
def test_value_is_taken_as_it_stands_without_interpolation(value, ini):
    assert config(ini(f"[filesproxy]\nfolder = {value}\n")).settings["folder"] == os.path.abspath(value)


def test_value_holds_no_comment_and_no_second_line(ini):
    for text in ("/a # b", "/a ; b", "/a\t#b", "/a\n  /b", "/a\n\t/b"):
        assert "one line" in refusal(ini(f"[filesproxy]\nfolder = {text}\n"))


# what must not be read, and what the message must say; {secret} must not be in it
UNREADABLE = {
    "line_without_sign": ("[filesproxy]\n{secret}\n", "line 2"),
    "colon_for_a_sign": ("[filesproxy]\nfolder: {secret}\n", "line 2"),
    "key_before_a_section": ("folder = {secret}\n", "line 1"),
    "key_twice": ("[filesproxy]\nfolder = {secret}\nfolder = {secret}\n", "line 3"),
    "section_twice": ("[filesproxy]\nfolder = /a\n[filesproxy]\nproxy = {secret}\n", "line 3"),
    "section_without_end": ("[filesproxy\nfolder = {secret}\n", "line 1"),
    "no_key": ("[filesproxy]\n= {secret}\n", "line 2"),
    "default_section": ("[DEFAULT]\nfolder = {secret}\n", "[DEFAULT]"),
    "empty_section": ("[]\nfolder = {secret}\n", "line 1"),
    "unknown_section": ("[keys]\na = {secret}\n", "[keys]"),
    "unknown_key": ("[filesproxy]\ncredential = {secret}\n", "credential"),
    "inline_comment": ("[filesproxy]\nmax_upload_bytes = 5 # {secret}\n", "max_upload_bytes"),
    "continuation_line": ("[filesproxy]\nmax_upload_bytes = 5\n  {secret}\n", "max_upload_bytes"),
    "continuation_behind_a_comment": ("[filesproxy]\nmax_upload_bytes = 5\n  # note\n  {secret}\n", "line 4"),
    "value_that_is_none": ("[filesproxy]\nread_timeout = {secret}\n", "read_timeout"),
    "bad_base_url": ("[provider:x]\nkind = openai\nbase_url = https://u:{secret}@a.example\n", "base_url"),
    "bad_proxy": ("[filesproxy]\nproxy = https://u:{secret}@a.example\n", "proxy"),
    "secret_as_kind": ("[provider:x]\nkind = {secret}\n", "[provider:x]"),
    "base64_behind_a_colon": ("[provider:openai]\ncredential: {secret}==\n", "[provider:openai]"),
    "base64_alone": ("[provider:openai]\n{secret}==\n", "[provider:openai]"),
    "assignment_of_a_shell": ("[filesproxy]\nexport KEY_{secret}=1\n", "[filesproxy]"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREADABLE)
def test_file_that_does_not_parse_is_refused_with_its_place_and_without_its_text(name, ini):
    text, where = UNREADABLE[name]
    path = ini(text.replace("{secret}", SECRET))
    message = refusal(path)
    assert message.startswith(path) and where in message


def test_file_that_is_not_utf8_is_refused_without_its_text(ini):
    assert "UTF-8" in refusal(ini(b"[filesproxy]\nfolder = " + SECRET.encode() + b"\xff\n"))
    assert "UTF-8" in refusal(ini(("[filesproxy]\nfolder = " + SECRET).encode("utf-16")))


def test_file_that_cannot_be_read_is_refused_by_its_path(tmp_path):
    for path in (tmp_path / "missing.ini", tmp_path):
        assert refusal(path) == f"{path}: cannot be read."
    assert "missing.ini" in refusal(environ={"FILESPROXY_CONFIG": str(tmp_path / "missing.ini")})


@pytest.mark.parametrize("setting", ["ca_file", "ca_extra"])
def test_trust_store_must_be_readable_at_the_start(setting, tmp_path):
    assert setting in refusal(**{setting: str(tmp_path / "missing.pem")})


@pytest.mark.parametrize(
    "text,url",
    [("https://a.example", "https://a.example"), ("https://a.example//", "https://a.example"),
     ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
     ("https://a.example/openai/v1/", "https://a.example/openai/v1")],
)  # fmt: skip
def test_base_url_loses_its_end_slash_only(text, url):
    assert base_url(text) == url


def test_every_setting_has_a_sentence_and_is_for_somebody():
    assert all(setting.doc and (setting.app or setting.provider) for setting in SETTINGS)
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)
