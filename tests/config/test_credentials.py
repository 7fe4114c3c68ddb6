"""Saved credentials: a text that cannot be one is refused with what was most likely meant, and never quoted."""

from __future__ import annotations

import pytest
from configurations import SECRET, config, refusal

from filesproxy.config.credentials import credential


def said(text, **more):
    """What a configuration with this credential is refused with."""
    source = {"filesproxy": {"open_access": "yes"}, "provider:openai": {"credential": text}}
    return refusal(source, **more).removeprefix("[provider:openai]: credential must be ")


MISTAKES = {
    "path": ("/run/secrets/openai", "file:/path"),
    "path_at_home": ("~/openai.key", "file:/path"),
    "relative_path": ("./openai.key", "file:/path"),
    "path_upwards": ("../openai.key", "file:/path"),
    "shell_variable": ("${OPENAI_API_KEY}", "env:NAME"),
    "variable_without_braces": ("$OPENAI_API_KEY", "env:NAME"),
    "command": ("$(cat key)", "env:NAME"),
    "windows_variable": ("%OPENAI_API_KEY%", "env:NAME"),
    "template": ("{{ openai_api_key }}", "env:NAME"),
    "double_quotes": (f'"{SECRET}"', "without quotation marks"),
    "single_quotes": (f"'{SECRET}'", "without quotation marks"),
    "quoted_reference": ('"env:OPENAI_API_KEY"', "without quotation marks"),
    "capital_reference": ("ENV:OPENAI_API_KEY", "small letters"),
    "reference_with_a_space": ("env : OPENAI_API_KEY", "small letters"),
    "capital_file": ("File:/run/secrets/openai", "small letters"),
    "with_its_scheme": (f"Bearer {SECRET}", "without Bearer"),
    "placeholder": ("<your-api-key>", "in place of the <…>"),
    "back_quotes": (f"`{SECRET}`", "without quotation marks"),
    "assignment": (f"OPENAI_API_KEY={SECRET}", "without NAME="),
    "line_of_a_script": (f"export OPENAI_API_KEY={SECRET}", "without NAME="),
    "json": (f'{{"api_key": "{SECRET}"}}', "without the JSON"),
    "list": (f'["{SECRET}"]', "without the JSON"),
    "another_gateways_reference": ("os.environ/OPENAI_API_KEY", "env:NAME"),
    "two_words": (f"{SECRET} {SECRET}", "one word"),
    "not_ascii": (f"{SECRET}é", "one word"),
    "short": ("hunter2", "8 characters or more"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_text_that_is_no_credential_is_refused_with_what_was_meant(name):
    text, meant = MISTAKES[name]
    message = said(text)
    assert meant in message and (len(text) < 8 or text not in message)


@pytest.mark.parametrize("name", MISTAKES)
def test_the_same_mistakes_in_a_variable_are_refused(name, monkeypatch):
    """`docker run --env-file` keeps quotation marks: they were sent as part of the credential."""
    text, meant = MISTAKES[name]
    monkeypatch.setenv("A_CREDENTIAL", text)
    message = said("env:A_CREDENTIAL")
    assert message.startswith("env:NAME of a variable that holds") and meant in message and text not in message


NOT_IN_FILES = ("path", "path_at_home", "relative_path", "path_upwards", "variable_without_braces", "command",
                "windows_variable")  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_the_same_mistakes_in_a_file_are_refused_but_it_may_begin_with_a_slash(name, tmp_path):
    text, meant = MISTAKES[name]
    (tmp_path / "credential").write_text(text + "\n", "utf-8")
    if name in NOT_IN_FILES and " " not in text:
        assert credential(f"file:{tmp_path}/credential") == text
        return
    message = said(f"file:{tmp_path}/credential")
    assert message.startswith("file:/path of a file that holds") and text not in message
    assert meant in message or name == "command"  # which is two words


def test_unset_variable_missing_file_empty_ones_and_two_lines_are_messages_of_their_own(tmp_path, monkeypatch):
    for name, content in {
        "empty": "\n",
        "two_lines": f"{SECRET}\n{SECRET}\n",
        "short": "abc",
        "words": "a b c d e",
    }.items():
        (tmp_path / name).write_text(content)
    monkeypatch.delenv("A_CREDENTIAL", raising=False)
    monkeypatch.setenv("AN_EMPTY_ONE", " ")
    texts = ["env:A_CREDENTIAL", "env:AN_EMPTY_ONE", "file:/nowhere/credential", f"file:{tmp_path}",
             *(f"file:{tmp_path / name}" for name in ("empty", "two_lines", "short", "words"))]  # fmt: skip
    messages = [said(text) for text in texts]
    assert len(set(messages)) == len(texts)
    parts = ["not set", "empty", "is there", "can read", "empty", "one line", "8 characters", "one word"]
    assert all(part in message for part, message in zip(parts, messages))


@pytest.mark.parametrize("content", [SECRET, f"{SECRET}\n", f"  {SECRET}\r\n\n"])
def test_file_may_end_in_white_space(content, tmp_path):
    (tmp_path / "credential").write_text(content)
    assert credential(f"file:{tmp_path}/credential") == SECRET


@pytest.mark.parametrize("text", ["sk-proj-abc_DEF-123", "a=b;c#d%e", "AKIA+abc/def==", "environment", "filed:away",
                                  "AB_CD_EFGH==", "os.environment-key", "{not-json-0"])  # fmt: skip
def test_credential_may_look_strange(text):
    """A literal, as hosts issue them: only what clearly is something else is refused."""
    source = {"filesproxy": {"open_access": "yes"}, "provider:openai": {"credential": text}}
    assert config(source).providers["openai"]["credential"] == text
