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
    of its own. A result is that of the newest turn with a call of its id that has none yet, and in a turn that of the
    first such call.
    """

    def __init__(self, given: Iterable[str]) -> None:
        """`given` are the ids of all calls and results."""
        self._taken = {call_id for call_id in given if _VALID.fullmatch(call_id)}
        self._made: dict[tuple[str, int], str] = {}  # (client's id, which of the calls with it) → Anthropic's
        self._calls: dict[str, int] = {}  # client's id → number of calls with it so far
        self._turn = 0
        # client's id → (turn, first, last of the calls with it that have no result) of each turn with some, newest last
        self._unanswered: dict[str, list[tuple[int, int, int]]] = {}

    def end_turn(self) -> None:
        """What follows is another turn of the assistant."""
        self._turn += 1

    def of_call(self, call_id: str) -> str:
        """The id for the next call with this id."""
        self._calls[call_id] = number = self._calls.get(call_id, 0) + 1
        turns = self._unanswered.setdefault(call_id, [])
        first = turns.pop()[1] if turns and turns[-1][0] == self._turn else number
        turns.append((self._turn, first, number))
        return self._id(call_id, number)

    def of_result(self, call_id: str) -> str:
        """The id for the next result with this id; that of the last call if each has a result already."""
        turns = self._unanswered.get(call_id)
        if not turns:
            return self._id(call_id, self._calls.get(call_id, 1))
        turn, number, last = turns.pop()
        if number < last:
            turns.append((turn, number + 1, last))
        return self._id(call_id, number)

    def _id(self, call_id: str, number: int) -> str:
        if number == 1 and call_id in self._taken:
            return call_id
        if (call_id, number) not in self._made:
            made, attempt = _made_id(call_id, number, 0), 0
            while made in self._taken:
                attempt += 1
                made = _made_id(call_id, number, attempt)
            self._taken.add(made)
            self._made[call_id, number] = made
        return self._made[call_id, number]


def _made_id(call_id: str, number: int, attempt: int) -> str:
    text = f"{number} {attempt} {call_id}".encode("utf-8", "surrogatepass")
    return f"{_OTHERS.sub('_', call_id)[:_KEPT]}_{hashlib.sha256(text).hexdigest()[:16]}"
