"""The ids of tool calls, as Anthropic takes them: `[a-zA-Z0-9_-]+`, and no two calls with the same one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

_VALID = re.compile(r"[a-zA-Z0-9_-]+")
_OTHERS = re.compile(r"[^a-zA-Z0-9_-]")
_KEPT = 40  # characters of an id in the one that is made from it, which has 57 at most


class CallIds:
    """Anthropic's id for each call of a conversation, and for the result that refers to it.

    A valid id is unchanged. An invalid one, such as `functions.f:0` or none at all, gets one that depends on nothing
    but itself, so that the same conversation is the same prompt again; different ids get different ones, and none that
    another call already has. Of an id that several calls have, such as `call_0` in each turn, each later call gets one
    of its own, and their results are taken in the order of the calls.
    """

    def __init__(self, given: Iterable[str]) -> None:
        """`given` are the ids of all calls and results."""
        self._taken = {call_id for call_id in given if _VALID.fullmatch(call_id)}
        self._made: dict[tuple[str, int], str] = {}  # (client's id, which of the calls with it) → Anthropic's
        self._calls: dict[str, int] = {}  # client's id → number of calls with it so far
        self._results: dict[str, int] = {}

    def of_call(self, call_id: str) -> str:
        """The id for the next call with this id."""
        self._calls[call_id] = turn = self._calls.get(call_id, 0) + 1
        return self._id(call_id, turn)

    def of_result(self, call_id: str) -> str:
        """The id for the next result with this id: that of the first call with it that has no result yet."""
        self._results[call_id] = turn = min(self._results.get(call_id, 0) + 1, max(1, self._calls.get(call_id, 0)))
        return self._id(call_id, turn)

    def _id(self, call_id: str, turn: int) -> str:
        if turn == 1 and call_id in self._taken:
            return call_id
        if (call_id, turn) not in self._made:
            made, attempt = _made_id(call_id, turn, 0), 0
            while made in self._taken:
                attempt += 1
                made = _made_id(call_id, turn, attempt)
            self._taken.add(made)
            self._made[call_id, turn] = made
        return self._made[call_id, turn]


def _made_id(call_id: str, turn: int, attempt: int) -> str:
    text = f"{turn} {attempt} {call_id}".encode("utf-8", "surrogatepass")
    return f"{_OTHERS.sub('_', call_id)[:_KEPT]}_{hashlib.sha256(text).hexdigest()[:16]}"
