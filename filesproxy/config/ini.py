"""The configuration file: an INI file read strictly, which knows its lines, since its text may hold a secret."""

from __future__ import annotations

import configparser
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import ConfigError

_PROBLEMS: dict[type, str] = {
    configparser.DuplicateSectionError: "this section stands twice",
    configparser.DuplicateOptionError: "this key stands twice in its section",
    configparser.MissingSectionHeaderError: "a key stands before the first [section]",
}
_SECTION = re.compile(r"\[(.+)\]")
_KEY = re.compile(r"([^=#;\s][^=]*?)\s*=")


class Source(NamedTuple):
    """Sections of text or values, and where each key stands, if that is a file."""

    sections: Mapping[str, Mapping[str, Any]]
    path: str = ""
    lines: Mapping[tuple[str, str], int] = {}

    def place(self, section: str, key: str = "") -> str:
        """How to name a section, or a key in it, to whoever wrote it."""
        return f"{self.line(section, key)}[{section}]"

    def line(self, section: str, key: str = "") -> str:
        """File and line where a section stands, or a key in it."""
        line = self.lines.get((section, key))
        return f"{self.path}, line {line}: " if line else f"{self.path}: " if self.path else ""


def read(path: str) -> Source:
    """The file's sections. ConfigError names file and line, and never repeats the line."""
    parser = configparser.ConfigParser(
        interpolation=None,
        delimiters=("=",),
        comment_prefixes=("#", ";"),
        empty_lines_in_values=False,
        default_section="",
    )
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    text = _text(path)
    problem = ""
    try:
        parser.read_string(text)
    except configparser.Error as error:
        problem = f"{path}, line {_line(error)}: {_PROBLEMS.get(type(error), 'does not parse')}."
    if problem:  # raised out here, it does not carry the parser's error, which repeats the line
        raise ConfigError(problem)
    return Source({name: dict(parser[name]) for name in parser.sections()}, path, _lines(text))


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError:
        raise ConfigError(f"{path}: cannot be read.") from None
    text = content.decode("utf-8-sig", errors="replace").replace("\r\n", "\n")
    if "\ufffd" in text:
        raise ConfigError(f"{path}: is not UTF-8 text.")
    return text


def _lines(text: str) -> dict[tuple[str, str], int]:
    """Where sections and keys stand, for a text that has parsed."""
    found, section = {}, ""
    for number, line in enumerate(text.split("\n"), 1):
        header, key = _SECTION.match(line.strip()), _KEY.match(line.strip())
        if header:
            section = header[1]
        if header or key:
            found[section, key[1] if key and not header else ""] = number
    return found


def _line(problem: configparser.Error) -> Any:
    errors = getattr(problem, "errors", None)
    return errors[0][0] if errors else getattr(problem, "lineno", "?")
