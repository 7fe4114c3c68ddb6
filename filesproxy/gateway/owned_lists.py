"""Lists of accounts that several owners share: the ledger says whose, the provider what is still there, and how.

The provider's list is walked to its end and kept for a few seconds, so that the pages of one listing, and the lists of
several owners, need one walk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

from ..calls import Answer, Call, Json, Ledger, Owned
from ..errors import BadRequest, InvalidAnswer, UpstreamAnswered, UpstreamError
from ..operations import OPERATIONS
from ..wire.json_fields import need
from ..wire.lists import list_query, page
from ..wire.strict_json import dumps, loads
from .ownership import Access, Guard, SideCalls, another, is_older

WALK_SECONDS = 5.0  # for which a walk is kept
MAX_KEPT_BYTES = 16 << 20  # of the JSON of all walks of an application; a longer one serves one request
MAX_PAGES = 100  # of a walk
MAX_LIMIT, DEFAULT_LIMIT = 100, 20  # of lists of other objects than files, as in OpenAI's contract
_PAGE = {"file": "10000"}  # what one page of a walk may have, the contract's most
_OWN_PARAMETERS = ("limit", "after", "order", "purpose")
_OTHER_CURSORS = frozenset(
    {"before", "before_id", "after_id", "cursor", "page", "offset", "page_token", "starting_after"}
)


class Walk(NamedTuple):
    """A provider's whole list: when it began, and id → the object's JSON."""

    began: float  # seconds since the epoch
    objects: Mapping[str, bytes]

    @property
    def size(self) -> int:
        """Bytes of its JSON."""
        return sum(map(len, self.objects.values()))


class Walks:
    """Walks through providers' lists, each kept for a while. One at a time for the same list. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[Hashable, Walk] = {}
        self._locks: dict[Hashable, threading.Lock] = {}

    def walk(self, key: Hashable, is_enough: Callable[[Walk], bool], make: Callable[[], Mapping[str, bytes]]) -> Walk:
        """The list as it was lately, if that `is_enough`, else as it is now."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            kept = self._kept.get(key)
            now = self._clock()
            if kept and now - WALK_SECONDS < kept.began <= now and is_enough(kept):
                return kept
            made = Walk(now, make())
            self._keep(key, made)
            return made

    def _keep(self, key: Hashable, made: Walk) -> None:
        with self._lock:
            self._kept = {
                each: walk
                for each, walk in self._kept.items()
                if walk.began > made.began - WALK_SECONDS and each != key
            }
            self._locks = {each: lock for each, lock in self._locks.items() if each in self._kept or lock.locked()}
            if sum(walk.size for walk in self._kept.values()) + made.size <= MAX_KEPT_BYTES:
                self._kept[key] = made


class OwnedLists:
    """Makes the lists of files, batches, jobs, containers and vector stores for their owners. Thread-safe."""

    def __init__(self, ledger: Ledger, guard: Guard, clock: Callable[[], float] = time.time) -> None:
        self._ledger = ledger
        self._guard = guard
        self._clock = clock
        self._walks = Walks(clock)

    def answer(self, call: Call, access: Access, side: SideCalls) -> tuple[Answer, list[tuple[Json, Owned | None]]]:
        """The page that a call asks for, and its objects with their rows; None for one that nobody owns.

        Objects follow each other by time, those of one owner after those of another, by the owners' names. BadRequest
        for a parameter that is invalid or that this list cannot honour.
        """
        kind = OPERATIONS[call.operation].kind
        query = _query(call, kind)
        rows = self._rows(access, kind)
        filters = {name: value for name, value in call.query.items() if name not in _OWN_PARAMETERS}
        key = (access.account, kind, tuple(sorted((name, str(value)) for name, value in filters.items())))
        walk = self._walks.walk(key, lambda kept: _has_seen(kept, rows), lambda: walked(call, kind, filters, side))
        found = self._found(rows, walk, access)
        newest_first = query.get("order", "desc") == "desc"
        ordered = sorted(found, key=lambda each: _position(each.row, each.value), reverse=newest_first)
        ordered = sorted(ordered, key=lambda each: each.row.owner if each.row else "")
        if after := query.get("after"):
            ordered = self._after(ordered, after, access, newest_first)
        if purpose := query.get("purpose"):
            ordered = [each for each in ordered if each.value.get("purpose") == purpose]
        limit = int(query["limit"])
        shown = ordered[:limit]
        made = page([each.value for each in shown], len(ordered) > limit)
        return Answer(200, json=made), [(each.value, each.row) for each in shown]

    def _rows(self, access: Access, kind: str) -> list[Owned]:
        """The rows of all objects that the caller may list."""
        now = self._clock()
        names = self._ledger.owners_of(access.account, kind) if access.view is None else [access.view]
        return [
            row for name in names for row in self._ledger.of_kind(access.account, name, kind) if not row.is_gone(now)
        ]

    def _found(self, rows: list[Owned], walk: Walk, access: Access) -> list[_Listed]:
        found = [_Listed(with_expiry(loads(walk.objects[row.id]), row), row) for row in rows if row.id in walk.objects]
        if not access.opens_foreign:
            return found
        mine = {row.id for row in rows}
        others = {item_id: loads(text) for item_id, text in walk.objects.items() if item_id not in mine}
        before = self._guard.opened_before(access)
        old = [each for each, value in others.items() if is_older(value.get("created_at"), before)]
        owned = self._guard.owned(old, access)
        return found + [_Listed(others[each], None) for each in old if each not in owned]

    def _after(self, found: list[_Listed], after: str, access: Access, newest_first: bool) -> list[_Listed]:
        """What follows this position. Its object may be gone: then its row says where it was."""
        for number, each in enumerate(found):
            if each.value["id"] == after:
                return found[number + 1 :]
        row = next((row for row in self._ledger.owners(access.account, [after]) if row.id == after), None)
        if row is None:
            raise BadRequest("The list has no object with the id in 'after'.", param="after")
        here = _position(row, {})
        return [
            each
            for each in found
            if (owner := each.row.owner if each.row else "") > row.owner
            or (owner == row.owner and (_position(each.row, each.value) < here) == newest_first)
        ]


def _has_seen(walk: Walk, rows: list[Owned]) -> bool:
    """Whether a walk began after all these objects were there, the second of their record included."""
    return all(row.id in walk.objects or row.recorded_at + 1 < walk.began for row in rows)


class _Listed(NamedTuple):
    value: Json
    row: Owned | None


def with_expiry(value: Json, row: Owned | None) -> Json:
    """An object with the expiry that the gateway gave it, where the provider has none."""
    if row is None or row.expires_at is None or value.get("expires_at") is not None:
        return value
    return {**value, "expires_at": row.expires_at}


def _position(row: Owned | None, value: Json) -> tuple[int, int]:
    """Where an object stands: by its row, because the position of one that is gone must be the same."""
    if row is not None:
        return row.created_at, row.number
    created_at = value.get("created_at")
    return (created_at if type(created_at) is int else 0), 0


def _query(call: Call, kind: str) -> dict[str, str]:
    """The parameters of a list. BadRequest for an invalid one, and for a cursor that is not `after`."""
    for name in call.query:
        if name in _OTHER_CURSORS or name.startswith("after["):
            raise BadRequest(f"'{name}' is not known here: 'after' is the position in a list.", param=name)
    query = list_query(call.query)
    if kind == "file":
        return {"limit": "10000", **query}
    if int(query.get("limit", DEFAULT_LIMIT)) > MAX_LIMIT:
        raise BadRequest(f"'limit' must be a whole number from 1 to {MAX_LIMIT}.", param="limit")
    return {"limit": str(DEFAULT_LIMIT), **query}


def walked(call: Call, kind: str, filters: Mapping[str, Any], side: SideCalls) -> dict[str, bytes]:
    """Id → JSON of every object of the provider's list that these filters leave."""
    found: dict[str, bytes] = {}
    query: dict[str, Any] = {**filters, "limit": _PAGE.get(kind, str(MAX_LIMIT))}
    for number in range(MAX_PAGES):
        listed = side(another(call.operation, call)._replace(query=query)).json if number else _first(call, query, side)
        items, before = need(listed, "data", list), len(found)
        for item in items:
            found[need(item, "id", str)] = dumps(item)
        has_more, is_new = listed.get("has_more"), len(found) > before
        if has_more is False or not (has_more or is_new):
            return found
        if not is_new:
            raise InvalidAnswer("The provider says that its list goes on, but repeats it.")
        query["after"] = items[-1]["id"]
    raise UpstreamError("The provider's list is too long to walk.", code="upstream_answer_too_large")


def _first(call: Call, query: dict[str, Any], side: SideCalls) -> Json:
    """The first page. A host that refuses the length of the page is asked for one of its own."""
    asked = another(call.operation, call)
    try:
        listed: Json = side(asked._replace(query=query)).json
    except UpstreamAnswered as error:
        if error.status not in (400, 422):
            raise
        del query["limit"]
        listed = side(asked._replace(query=query)).json
    return listed
