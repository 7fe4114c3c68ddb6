"""The INI file: what has only one reading is accepted; anything else is refused by file and line, and never quoted."""

from __future__ import annotations

import os
import re

import pytest
from configurations import SECRET, config, refusal, written

from filesproxy.config.ini import Source, read
from filesproxy.errors import ConfigError


@pytest.fixture
def ini(tmp_path):
    """A function that writes an INI file and returns its path."""
    return lambda text: written(tmp_path, text)


READABLE = {
    "byte_order_mark": b"\xef\xbb\xbf[filesproxy]\nfolder = /a\n",
    "crlf": b"[filesproxy]\r\nfolder = /a\r\n",
    "no_final_line_end": b"[filesproxy]\nfolder = /a",
    "comments_on_separate_lines": b"# one\n; two\n[filesproxy]\n# three\n  # four\nfolder = /a\n; five\n",
    "no_spaces": b"[filesproxy]\nfolder=/a\n",
    "indented": b"[filesproxy]\n  folder = /a\n",
    "blank_lines": b"\n\n[filesproxy]\n\nfolder = /a\n\n\n",
}


@pytest.mark.parametrize("name", READABLE)
def test_file_with_only_one_reading_is_accepted(name, ini):
    found = read(ini(READABLE[name]))
    assert found.sections == {"filesproxy": {"folder": "/a"}}
    line = next(n for n, text in enumerate(READABLE[name].splitlines(), 1) if b"folder" in text)
    assert found.place("filesproxy", "folder") == f"{found.path}, line {line}: [filesproxy]"


@pytest.mark.parametrize(
    "value", ["/a%b", "/a%(folder)s", "/a%%b", "/a$b", "${folder}/x", "/a=b", "/a:b", "/a'b\"", "/日本"]
)
def test_value_is_taken_literally_without_interpolation(value, ini):
    assert config(ini(f"[filesproxy]\nfolder = {value}\n")).settings["folder"] == os.path.abspath(value)


def test_value_with_a_comment_or_a_second_line_is_refused(ini):
    for text in ("/a # b", "/a ; b", "/a\t#b", "/a\n  /b", "/a\n\t/b"):
        assert "one line" in refusal(ini(f"[filesproxy]\nfolder = {text}\n"))


def test_keys_are_case_sensitive(ini):
    assert "Did you mean folder?" in refusal(ini("[filesproxy]\nFolder = /a\n"))


def test_line_of_each_section_and_key_is_known(ini):
    text = "# a\n\n[filesproxy]\nfolder = /a\n# b\n[provider:x]\nkind=openai\n\nbase_url  =  https://a.example/?a=b\n[key:a]\n"
    found = read(ini(text))
    places = [("filesproxy", ""), ("filesproxy", "folder"), ("provider:x", ""), ("provider:x", "kind"),
              ("provider:x", "base_url"), ("key:a", "")]  # fmt: skip
    lines = [3, 4, 6, 7, 9, 10]
    assert [found.place(*place) for place in places] == [
        f"{found.path}, line {line}: [{section}]" for line, (section, _) in zip(lines, places)
    ]


def test_place_in_a_mapping_has_no_line():
    assert Source({"filesproxy": {}}).place("filesproxy", "folder") == "[filesproxy]"


# what must be refused, and what the message must contain; it must not contain {secret}
UNREADABLE = {
    "line_without_an_equals_sign": ("[filesproxy]\n{secret}\n", "line 2"),
    "colon_instead_of_an_equals_sign": ("[filesproxy]\nfolder: {secret}\n", "line 2"),
    "key_before_a_section": ("folder = {secret}\n", "line 1"),
    "key_twice": ("[filesproxy]\nfolder = {secret}\nfolder = {secret}\n", "line 3"),
    "section_twice": ("[filesproxy]\nfolder = /a\n[filesproxy]\nproxy = {secret}\n", "line 3"),
    "section_without_closing_bracket": ("[filesproxy\nfolder = {secret}\n", "line 1"),
    "no_key": ("[filesproxy]\n= {secret}\n", "line 2"),
    "default_section": ("[DEFAULT]\nfolder = {secret}\n", "line 1: sections are"),
    "empty_section": ("[]\nfolder = {secret}\n", "line 1"),
    "unknown_section": ("[keys]\na = {secret}\n", "line 1: sections are"),
    "unknown_key": ("[filesproxy]\ncredential = {secret}\n", "line 2: [filesproxy]: the setting 'credential'"),
    "inline_comment": ("[filesproxy]\nmax_upload_bytes = 5 # {secret}\n", "line 2: [filesproxy]: the value"),
    "continuation_line": ("[filesproxy]\nmax_upload_bytes = 5\n  {secret}\n", "line 2: [filesproxy]: the value"),
    "continuation_after_a_comment": ("[filesproxy]\nmax_upload_bytes = 5\n  # note\n  {secret}\n", "line 4"),
    "invalid_value": ("[filesproxy]\nread_timeout = {secret}\n", "line 2: [filesproxy]: read_timeout"),
    "indented_invalid_value": ("[filesproxy]\n  read_timeout = {secret}\n", "line 2: [filesproxy]: read_timeout"),
    "bad_base_url": ("[provider:x]\nkind = openai\nbase_url = https://u:{secret}@a.example\n", "line 3: [provider:x]"),
    "bad_proxy": ("[filesproxy]\nproxy = https://u:{secret}@a.example\n", "line 2: [filesproxy]: proxy"),
    "secret_as_kind": ("[provider:x]\nkind = {secret}\n", "[provider:x]"),
    "base64_after_a_colon": ("[provider:openai]\ncredential: {secret}==\n", "line 2: [provider:openai]"),
    "base64_alone": ("[provider:openai]\n{secret}==\n", "line 2: [provider:openai]"),
    "shell_assignment": ("[filesproxy]\nexport KEY_{secret}=1\n", "line 2: [filesproxy]"),
    "credential_with_a_space": ("[provider:openai]\ncredential = {secret} b\n", "line 2: [provider:openai]: cred"),
    "key_instead_of_its_hash": ("[key:a]\nproviders = *\nsha256 = fp_{secret}\n", "line 3: [key:a]: sha256"),
    "unknown_provider_of_a_key": ("[key:a]\nsha256 = {hash}\nproviders = {secret}\n", "line 3: [key:a]: providers"),
    "unknown_operation_of_a_key": ("[key:a]\noperations = {secret}\n", "line 2: [key:a]: operations"),
    "saved_without_a_key": ("[filesproxy]\n[provider:openai]\ncredential = {secret}\n", "line 3: [provider:openai]"),
    "key_without_a_hash": ("\n[key:a]\nproviders = *\n# {secret}\n", "line 2: [key:a] needs sha256"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREADABLE)
def test_invalid_file_is_refused_by_file_and_line_without_quoting_it(name, ini):
    text, where = UNREADABLE[name]
    path = ini(text.replace("{secret}", SECRET).replace("{hash}", "0" * 64))
    message = refusal(path)
    assert message.startswith(path) and where in message


def test_file_that_is_not_utf8_is_refused_without_quoting_it(ini):
    assert "UTF-8" in refusal(ini(b"[filesproxy]\nfolder = " + SECRET.encode() + b"\xff\n"))
    assert "UTF-8" in refusal(ini(("[filesproxy]\nfolder = " + SECRET).encode("utf-16")))


def test_file_that_cannot_be_read_is_named_by_its_path(tmp_path):
    for path in (tmp_path / "missing.ini", tmp_path):
        assert re.fullmatch(rf"{re.escape(str(path))}: the file cannot be read \([a-z ]+\)\.", refusal(path))
        with pytest.raises(ConfigError):
            read(str(path))
    assert "missing.ini" in refusal(environ={"FILESPROXY_CONFIG": str(tmp_path / "missing.ini")})
