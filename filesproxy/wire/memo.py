"""Functions of short texts, such as names of headers, which are the same in every message."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


MAX_TEXTS = 512
MAX_CHARACTERS = 64  # of a text, else it is not kept


class Memo(dict[str, Value]):
    """A pure function's last results by its argument: as a dict, a known one costs no call. Safe for threads."""

    def __init__(self, function: Callable[[str], Value]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, text: str) -> Value:
        value = self._function(text)
        if len(text) <= MAX_CHARACTERS:
            if len(self) >= MAX_TEXTS:
                self.clear()
            self[text] = value
        return value
