"""Reads an INI file strictly. Errors name file and line, and never quote the text, which may contain a secret."""

from __future__ import annotations

import configparser
import os
import re
import stat
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import ConfigError

_PROBLEMS: dict[type, str] = {
    configparser.DuplicateSectionError: "there is already a section with this name",
    configparser.DuplicateOptionError: "the section already has this key",
    configparser.MissingSectionHeaderError: "there is a key before the first [section]",
}
_SECTION = re.compile(r"\[(.+)\]")
_KEY = re.compile(r"([^=#;\s][^=]*?)\s*=")


class Source(NamedTuple):
    """Sections of keys with texts or values.

    For a file, also its path, the line of each section and key, and whether others than its owner can read it.
    """

    sections: Mapping[str, Mapping[str, Any]]
    path: str = ""
    lines: Mapping[tuple[str, str], int] = {}
    is_exposed: bool = False

    def place(self, section: str, key: str = "") -> str:
        """How an error names a section, or a key in it: with file and line, if there is a file."""
        return f"{self.line(section, key)}[{section}]"

    def line(self, section: str, key: str = "") -> str:
        """File and line of a section, or of a key that stands in it, followed by ": "; "" without a file."""
        line = self.lines.get((section, key), self.lines.get((section, "")))
        return f"{self.path}, line {line}: " if line else f"{self.path}: " if self.path else ""


def read(path: str) -> Source:
    """The file's sections. ConfigError names file and line of what cannot be parsed, but never quotes the line."""
    parser = configparser.ConfigParser(
        interpolation=None,
        delimiters=("=",),
        comment_prefixes=("#", ";"),
        empty_lines_in_values=False,
        default_section="",
    )
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    text, mode = _text(path)
    problem = ""
    try:
        parser.read_string(text)
    except configparser.Error as error:
        what = _PROBLEMS.get(type(error), "cannot be parsed")
        problem = "\n".join(f"{path}, line {line}: {what}." for line in _failed_lines(error))
    if problem:  # raised outside the except block, because the parser's error quotes the line
        raise ConfigError(problem)
    sections = {name: dict(parser[name]) for name in parser.sections()}
    return Source(sections, path, _lines(text), bool(mode & (stat.S_IRGRP | stat.S_IROTH)))


def _text(path: str) -> tuple[str, int]:
    """The text of the file, and its mode."""
    try:
        with open(path, "rb") as file:
            content, mode = file.read(), os.fstat(file.fileno()).st_mode
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise ConfigError(f"{path}: the file cannot be read ({reason}).") from None
    text = content.decode("utf-8-sig", errors="replace").replace("\r\n", "\n")
    if "\ufffd" in text:
        raise ConfigError(f"{path}: the file is not UTF-8 text.")
    return text, mode


def _lines(text: str) -> dict[tuple[str, str], int]:
    """(section, key) → line number, for a text that has been parsed; the key of a section's own line is ""."""
    found, section = {}, ""
    for number, line in enumerate(text.split("\n"), 1):
        header, key = _SECTION.match(line.strip()), _KEY.match(line.strip())
        if header:
            section = header[1]
        if header or key:
            found[section, key[1] if key and not header else ""] = number
    return found


def _failed_lines(problem: configparser.Error) -> list[Any]:
    errors = getattr(problem, "errors", None)
    return [line for line, _ in errors] if errors else [getattr(problem, "lineno", "?")]
