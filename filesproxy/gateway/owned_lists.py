"""Lists of accounts that several owners share: the ledger says whose, the provider what is still there, and how.

The provider's list is walked for that and kept for a few seconds, so that the pages of one listing, and the lists of
several owners, need one walk. A list that is too long to walk to its end ends early: older objects are then retrieved
one by one, as far as the page that is asked for needs them.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from itertools import islice
from typing import Any, NamedTuple

from ..calls import Answer, Call, Json, Ledger, Owned
from ..errors import BadRequest, InvalidAnswer, UpstreamAnswered, UpstreamError, UpstreamTimeout
from ..operations import OPERATIONS
from ..wire.json_fields import need
from ..wire.lists import list_query, page
from ..wire.strict_json import dumps, loads
from .ownership import Access, Guard, SideCall, another, is_older, retrieval

WALK_SECONDS = 5.0  # for which a walk is kept
MAX_KEPT_BYTES = 16 << 20  # of the JSON of all walks of an application; a longer one serves one request
MAX_PAGES = 20  # of a walk
MAX_WALK_BYTES = 32 << 20  # of the JSON of a walk: more than 100,000 files
MAX_LIMIT, DEFAULT_LIMIT = 100, 20  # of lists of other objects than files, as in OpenAI's contract
_PAGE = {"file": "10000"}  # what one page of a walk may have, the contract's most
_OWN_PARAMETERS = ("limit", "after", "order", "purpose")
_FILTERS = {"list_fine_tuning_jobs": re.compile(r"metadata(\[[^\]]{1,64}\])?"), "list_containers": re.compile("name")}
_NO_FILTER = re.compile("(?!)")
_SHOWABLE = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")


class Walk(NamedTuple):
    """A provider's list: when it was walked (seconds since the epoch), id → the object's JSON, and whether it is whole.

    The newest objects come first, so one that is not whole lacks old ones.
    """

    began: float
    objects: Mapping[str, bytes]
    is_whole: bool = True

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
        self._turns: dict[Hashable, _Turn] = {}

    def walk(self, key: Hashable, is_enough: Callable[[Walk], bool], make: Callable[[float], Walk]) -> Walk:
        """The list as it was lately, if that `is_enough`, else as it is now. Raises what `make` raises.

        Who waits for another's walk that the provider fails gets that failure, and does not walk again.
        """
        with self._lock:
            turn = self._turns.setdefault(key, _Turn())
            turn.count += 1
        failures = turn.failures
        try:
            with turn.lock:
                kept, now = self._kept.get(key), self._clock()
                if kept and now - WALK_SECONDS < kept.began <= now and is_enough(kept):
                    return kept
                if turn.failure and turn.failures > failures:
                    raise _again(turn.failure)
                try:
                    made = make(now)
                except UpstreamError as error:
                    if not isinstance(error, UpstreamTimeout):  # the time was that of the one who walked
                        turn.failure, turn.failures = error, turn.failures + 1
                    raise
                self._keep(key, made)
                return made
        finally:
            with self._lock:
                turn.count -= 1
                if not turn.count:
                    self._turns.pop(key, None)

    def _keep(self, key: Hashable, made: Walk) -> None:
        with self._lock:
            self._kept = {
                each: walk
                for each, walk in self._kept.items()
                if walk.began > made.began - WALK_SECONDS and each != key
            }
            if sum(walk.size for walk in self._kept.values()) + made.size <= MAX_KEPT_BYTES:
                self._kept[key] = made


class _Turn:
    """Whose turn it is to walk through a list: its lock, how many want it, and how often and why walks have failed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = self.failures = 0
        self.failure: UpstreamError | None = None


def _again(error: UpstreamError) -> UpstreamError:
    """The same failure for another request, which may change it."""
    fresh = Exception.__new__(type(error), *error.args)
    fresh.__dict__.update(error.__dict__, headers=dict(error.headers))
    return fresh


class OwnedLists:
    """Makes the lists of files, batches, jobs, containers and vector stores for their owners. Thread-safe."""

    def __init__(self, ledger: Ledger, guard: Guard, clock: Callable[[], float] = time.time) -> None:
        self._ledger = ledger
        self._guard = guard
        self._clock = clock
        self._walks = Walks(clock)

    def answer(self, call: Call, access: Access, side: SideCall) -> tuple[Answer, list[tuple[Json, Owned | None]]]:
        """The page that a call asks for, and its objects with their rows; None for one that nobody owns.

        Objects follow each other by time, those of one owner after those of another, by the owners' names. BadRequest
        for a parameter that is invalid or that this list cannot honour.
        """
        kind = OPERATIONS[call.operation].kind
        query, filters = _query(call, kind), _filters(call)
        rows = self._rows(access, kind)
        key = (access.account, kind, tuple(sorted(filters.items())))
        walk = self._walks.walk(
            key, lambda kept: _has_seen(kept, rows), lambda now: walked(call, kind, filters, side, now)
        )
        newest_first = query.get("order", "desc") == "desc"
        ordered = sorted(self._listed(rows, walk, access), key=lambda each: each.position, reverse=newest_first)
        ordered = sorted(ordered, key=lambda each: each.owner)
        if after := query.get("after"):
            ordered = self._after(ordered, after, access, newest_first)
        limit, purpose = int(query["limit"]), query.get("purpose")
        likely = (each for each in ordered if each.id in walk.objects or _may_be_for(each, purpose))
        values = ((self._value(each, walk, call, kind, side), each.row) for each in likely)
        wanted = ((value, row) for value, row in values if value and purpose in (None, value.get("purpose")))
        shown = list(islice(wanted, limit))
        has_more = next(wanted, None) is not None
        return Answer(200, json=page([value for value, _ in shown], has_more)), shown

    def _value(self, listed: _Listed, walk: Walk, call: Call, kind: str, side: SideCall) -> Json | None:
        """The provider's object; None if it has been deleted without us."""
        if listed.id in walk.objects:
            return with_expiry(loads(walk.objects[listed.id]), listed.row)
        try:  # the walk ended before it came to this one
            return with_expiry(side(retrieval(kind, listed.id, call)).json, listed.row)
        except UpstreamAnswered as error:
            if error.status != 404:
                raise
            if listed.row:
                self._ledger.delete(listed.row.account, listed.id, self._clock())
            return None

    def _rows(self, access: Access, kind: str) -> list[Owned]:
        """The rows of all objects that the caller may list."""
        now = self._clock()
        names = self._ledger.owners_of(access.account, kind) if access.view is None else [access.view]
        return [
            row for name in names for row in self._ledger.of_kind(access.account, name, kind) if not row.is_gone(now)
        ]

    def _listed(self, rows: list[Owned], walk: Walk, access: Access) -> list[_Listed]:
        """What the caller may list and the provider has."""
        there = [row for row in rows if row.id in walk.objects or not walk.is_whole]
        found = [_Listed(row.id, (row.created_at, row.number), row) for row in there]
        if not access.opens_foreign:
            return found
        mine, before = {row.id for row in rows}, self._guard.opened_before(access)
        others = {each: loads(walk.objects[each]).get("created_at") for each in walk.objects if each not in mine}
        old = [each for each, created_at in others.items() if is_older(created_at, before)]
        owned = self._guard.owned(old, access)
        return found + [_Listed(each, (others[each], 0), None) for each in old if each not in owned]

    def _after(self, found: list[_Listed], after: str, access: Access, newest_first: bool) -> list[_Listed]:
        """What follows this position. Its object may be gone: then its row says where it was."""
        for number, each in enumerate(found):
            if each.id == after:
                return found[number + 1 :]
        row = next((row for row in self._ledger.owners(access.account, [after]) if row.id == after), None)
        if row is None:
            raise BadRequest("The list has no object with the id in 'after'.", param="after")
        here = row.created_at, row.number
        return [
            each
            for each in found
            if each.owner > row.owner or (each.owner == row.owner and (each.position < here) == newest_first)
        ]


class _Listed(NamedTuple):
    """An object in a list: where it stands, which is by its row if it has one, also once it is gone."""

    id: str
    position: tuple[int, int]
    row: Owned | None

    @property
    def owner(self) -> str:
        """Whose it is; "" if nobody's."""
        return self.row.owner if self.row else ""


def _may_be_for(listed: _Listed, purpose: str | None) -> bool:
    """Whether an object can have this purpose, by its row, so that it is worth retrieving."""
    return purpose is None or listed.row is None or listed.row.purpose in ("", purpose)


def _has_seen(walk: Walk, rows: list[Owned]) -> bool:
    """Whether a walk began after all these objects were there, the second of their record included."""
    return all(row.id in walk.objects or row.recorded_at + 1 < walk.began for row in rows)


def with_expiry(value: Json, row: Owned | None) -> Json:
    """An object with the expiry that the gateway gave it, where the provider has none."""
    if row is None or row.expires_at is None or value.get("expires_at") is not None:
        return value
    return {**value, "expires_at": row.expires_at}


def _query(call: Call, kind: str) -> dict[str, str]:
    """The parameters of a list. BadRequest for an invalid one."""
    query = list_query(call.query)
    if kind == "file":
        return {"limit": "10000", **query}
    if int(query.get("limit", DEFAULT_LIMIT)) > MAX_LIMIT:
        raise BadRequest(f"'limit' must be a whole number from 1 to {MAX_LIMIT}.", param="limit")
    return {"limit": str(DEFAULT_LIMIT), **query}


def _filters(call: Call) -> dict[str, str]:
    """The parameters by which the provider chooses what it lists. BadRequest for one that is not known here."""
    filters = {}
    for name, value in call.query.items():
        if name in _OWN_PARAMETERS or name == "api-version":  # which Azure's SDKs send with everything
            continue
        if not _FILTERS.get(call.operation, _NO_FILTER).fullmatch(name) or not isinstance(value, str):
            shown = f"'{name}'" if _SHOWABLE.fullmatch(name) else "A parameter"
            message = f"{shown} is not supported in this list, which takes limit, after and order."
            raise BadRequest(message, param=name if _SHOWABLE.fullmatch(name) else None)
        filters[name] = value
    return filters


def walked(call: Call, kind: str, filters: Mapping[str, Any], side: SideCall, now: float) -> Walk:
    """The provider's list as far as it can be walked, of the objects that these filters leave."""
    found: dict[str, bytes] = {}
    size = 0
    query: dict[str, Any] = {**filters, "limit": _PAGE.get(kind, str(MAX_LIMIT))}
    for number in range(MAX_PAGES):
        listed = side(another(call.operation, call)._replace(query=query)).json if number else _first(call, query, side)
        items, before = need(listed, "data", list), len(found)
        for item in items:
            text = found[need(item, "id", str)] = dumps(item)
            size += len(text)
        has_more, is_new = listed.get("has_more"), len(found) > before
        if has_more is False or not (has_more or is_new):
            return Walk(now, found)
        if not is_new:
            raise InvalidAnswer("The provider says that its list goes on, but repeats it.")
        if size > MAX_WALK_BYTES:
            break
        query["after"] = items[-1]["id"]
    return Walk(now, found, is_whole=False)


def _first(call: Call, query: dict[str, Any], side: SideCall) -> Json:
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
