"""Saved credentials: where a configuration says to find them, and what was probably meant if one cannot be right."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..redaction import MIN_SECRET, Secret

#: `credential = none`: the provider is saved, and its host asks for no credential. Told apart by identity.
NO_CREDENTIAL = Secret()
MAX_CHARACTERS = 4096

_WORD = re.compile(r"[\x21-\x7e]+")
# What a credential does not look like → what was most likely meant.
_MISTAKES: Sequence[tuple[re.Pattern[str], str]] = (
    (re.compile(r"(?s)(['\"`]).*\1\Z"), "written without quotation marks"),
    (re.compile(r"(?s)[\[{](?!\{).*[\]}]\Z"), "the credential alone, without the JSON around it"),
    (re.compile(r"(export\s+)?[A-Z][A-Z0-9]*(_[A-Z0-9]+)+=[^=]"), "the credential alone, without NAME= before it"),
    (re.compile(r"(?i)(bearer|basic)\s"), "the credential alone, without Bearer before it"),
    (re.compile(r"(?i)(env|file)\s*:"), "env:NAME or file:/path, in small letters and without spaces"),
    (re.compile(r"\$\{|\{\{|os\.environ[/\[]"), "env:NAME, if it is in a variable: nothing is replaced here"),
    (re.compile(r"<.*>\Z"), "the credential itself, in place of the <…> of an example"),
)
# The same, and what a credential in a file may begin with.
_MISTAKES_OUTSIDE_FILES: Sequence[tuple[re.Pattern[str], str]] = (
    *_MISTAKES,
    (re.compile(r"[~.]{0,2}/"), "file:/path, if it is in a file; one with a / at its start needs a file, too"),
    (re.compile(r"\$|%\w+%"), "env:NAME, if it is in a variable: nothing is replaced here"),
)


def credential(text: str) -> Secret:
    """A credential: `env:NAME`, `file:/path` or the literal itself; one word of visible ASCII characters.

    NO_CREDENTIAL for the literal `none`. ValueError says what the text must be; it never quotes it.
    """
    if text == "none":
        return NO_CREDENTIAL
    place, mistakes = "", _MISTAKES_OUTSIDE_FILES
    if text.startswith("env:"):
        text, place = _of_variable(text[4:]), "env:NAME of a variable that holds "
    elif text.startswith("file:"):
        text, place, mistakes = _of_file(text[5:]), "file:/path of a file that holds ", _MISTAKES
    for pattern, meant in mistakes:
        if pattern.match(text):
            raise ValueError(f"{place}a credential; this one should be {meant}" if place else meant)
    if not _WORD.fullmatch(text) or len(text) > MAX_CHARACTERS:
        raise ValueError(f"{place}one word of up to {MAX_CHARACTERS} visible ASCII characters")
    if len(text) < MIN_SECRET:
        raise ValueError(f"{place}{MIN_SECRET} characters or more, or `none` for a host that asks for no credential")
    return Secret(text)


def _of_variable(name: str) -> str:
    if name not in os.environ:
        raise ValueError("env:NAME of a variable that is set; this one is not set here")
    if not os.environ[name].strip():
        raise ValueError("env:NAME of a variable that holds a credential; this one is empty")
    return os.environ[name]


def _of_file(path: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(2 * MAX_CHARACTERS).strip()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        missing = isinstance(error, FileNotFoundError)
        raise ValueError(f"file:/path of a file that {'is there' if missing else 'this process can read'}") from None
    if not content:
        raise ValueError("file:/path of a file that holds a credential; this one is empty")
    if b"\n" in content:
        raise ValueError("file:/path of a file with one line; this one has more")
    return content.decode("ascii", "replace")


def is_saved(own: Mapping[str, Any]) -> bool:
    """Whether a provider with these settings is a saved one: with a credential, or with `credential = none`."""
    return bool(own["credential"]) or own["credential"] is NO_CREDENTIAL


def is_literal(text: str) -> bool:
    """Whether this text of a setting is itself the secret."""
    return text != "none" and not text.startswith(("env:", "file:"))
