"""Whose an object is that a request names: looked up in the ledger, and refused like a missing one if it is another's.

Everything is decided before the request goes anywhere. An id that nobody has, and an id that somebody else has, get the
same answer in the same time.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ..calls import Answer, Call, Json, Ledger, Owned
from ..errors import FilesproxyError, NotFound, UpstreamAnswered
from ..operations import OPERATIONS, is_id
from .object_ids import (
    PLANS,
    Plan,
    can_be_id,
    folded,
    ids_in,
    is_tuned,
    kind_in,
    named_in,
    normal,
    place_in,
    texts_in,
)

REMEMBERED_SECONDS = 60.0  # for which an owner is; so long may an adoption take to have its effect
MAX_REMEMBERED = 4096  # ids, at a few hundred bytes each
RESULTS_SECONDS = 30.0  # between two looks at an owner's unfinished batches and jobs
MAX_UNFINISHED = 20  # that are looked at
LOOK_SECONDS = 5.0  # for a look, after which no further one is asked for
MAX_LOOKING = 64  # owners whose batches and jobs are looked at side by side
MAX_SHOWN = 128  # characters of an id in a message
FOREIGN_SECONDS = 86400  # by which a foreign object must be older than the account's first sight here
_TITLES = {"vector_store": "vector store"}

# Some hosts number the items of a response, or let clients name them. What does not look issued counts in its declared
# places only: elsewhere it would be a word that one owner takes from all others.
_ISSUED = re.compile(r"(?=\w*[0-9])[a-z]{2,5}_\w*[A-Za-z0-9]{16,}", re.ASCII)

#: what retrieves an object of a kind
RETRIEVES = {
    OPERATIONS[name].kind: name
    for name in ("retrieve_file", "retrieve_batch", "retrieve_fine_tuning_job", "retrieve_response",
                 "retrieve_container", "retrieve_vector_store")
}  # fmt: skip
RETRIEVES["model"] = "retrieve_model"


class Access(NamedTuple):
    """Who asks, and at which account.

    `view` is the owner whose objects it lists and reads, None for those of every owner. `opens_foreign` says whether it
    may also use what nobody owns and is older than the account's first sight here.
    """

    account: str
    owner: str
    view: str | None
    key: str
    opens_foreign: bool = False

    def has(self, row: Owned, is_reading: bool) -> bool:
        """Whether this object can be used, or if `is_reading`, be listed and read."""
        return row.owner == self.owner if not is_reading else self.view is None or row.owner == self.view


SideCall = Callable[[Call], Answer]  # performs another call to the same target, for the sake of a request
_UNKNOWN: tuple[float, list[Owned]] = (0.0, [])


class Owners:
    """Look-ups in a ledger. Only what was found is remembered, for a minute at most. Thread-safe.

    What is remembered answers only those whose it is. For anybody else an id of another owner must take as long as one
    that nobody has.
    """

    def __init__(self, ledger: Ledger, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._clock = clock
        self._known: dict[tuple[str, str], tuple[float, list[Owned]]] = {}

    def of(self, account: str, ids: Iterable[str], is_mine: Callable[[Owned], bool]) -> dict[str, list[Owned]]:
        """Each id in lower case, as far as the ledger has it → its rows: more than one only if they differ in case."""
        now, found, left = self._clock(), dict[str, list[Owned]](), list[str]()
        for each in dict.fromkeys(map(folded, ids)):
            until, rows = self._known.get((account, each), _UNKNOWN)
            if until > now and all(map(is_mine, rows)):
                found[each] = rows
            else:
                left.append(each)
        if left:
            looked_up: dict[str, list[Owned]] = {}
            for row in self._ledger.owners(account, left):
                looked_up.setdefault(folded(row.id), []).append(row)
            mine = {each: rows for each, rows in looked_up.items() if all(map(is_mine, rows))}
            self._remember(account, mine, now + REMEMBERED_SECONDS)
            found.update(looked_up)
        return found

    def remembered(self, account: str, item_id: str) -> Owned | None:
        """The row of exactly this id, if it is remembered."""
        until, rows = self._known.get((account, item_id.lower()), _UNKNOWN)
        return next((row for row in rows if row.id == item_id), None) if until > self._clock() else None

    def forget(self, account: str, ids: Iterable[str]) -> None:
        """Look these ids up anew when they are asked for."""
        for each in ids:
            self._known.pop((account, folded(each)), None)

    def _remember(self, account: str, found: Mapping[str, list[Owned]], until: float) -> None:
        if len(self._known) + len(found) > MAX_REMEMBERED:
            self._known.clear()
        if len(found) <= MAX_REMEMBERED:
            self._known.update({(account, each): (until, list(map(_short, rows))) for each, rows in found.items()})


def _short(row: Owned) -> Owned:
    """A row without what only an audit asks, which may be long."""
    return row._replace(filename="", purpose="", sha256=None)


class Guard:
    """Judges the ids in requests to accounts that several owners share. Thread-safe."""

    def __init__(self, ledger: Ledger, owners: Owners, clock: Callable[[], float] = time.time) -> None:
        self._ledger = ledger
        self._owners = owners
        self._clock = clock
        self._looked: dict[tuple[str, str], float] = {}  # (account, owner) → when its batches and jobs were looked at
        self._looking = [threading.Lock() for _ in range(MAX_LOOKING)]

    def judge(self, call: Call, access: Access, side: SideCall, record_results: Callable[[Owned], None]) -> Judge:
        """What judges one call. `record_results(row)` records what has come of an unfinished batch or job."""
        return Judge(self, self._owners, call, access, side, record_results, self._clock)

    def owned(self, ids: Iterable[str], access: Access) -> dict[str, bool]:
        """Those of these ids that somebody has → whether the caller may list and read the object."""
        ids = list(ids)
        found = self._owners.of(access.account, ids, lambda row: access.has(row, is_reading=True))
        return {
            each: any(row.id == each and access.has(row, is_reading=True) for row in found[folded(each)])
            for each in ids
            if folded(each) in found
        }

    def opened_before(self, access: Access) -> float:
        """Before which time an object that nobody owns must have been made, so that the caller may use it."""
        if not access.opens_foreign:
            return float("-inf")
        return self._ledger.since(access.account, self._clock()) - FOREIGN_SECONDS

    def look_at_results(self, access: Access, record_results: Callable[[Owned], None]) -> bool:
        """Whether what has come of the owner's batches and jobs was recorded: not if that was done lately."""
        key, came = (access.account, access.owner), time.monotonic()
        with self._looking[hash(key) % len(self._looking)]:  # who comes during a look waits for what it finds
            now, last = time.monotonic(), self._looked.get(key, float("-inf"))
            if now < last + RESULTS_SECONDS:
                return last > came
            if len(self._looked) >= MAX_REMEMBERED:
                self._looked.clear()
            unfinished = self._ledger.unfinished(access.account, access.owner, MAX_UNFINISHED)
            for row in unfinished:
                if time.monotonic() > now + LOOK_SECONDS:
                    break
                with suppress(FilesproxyError):  # the provider's trouble with one is not about this request
                    record_results(row)
            self._looked[key] = time.monotonic()
            return bool(unfinished)


class Judge:
    """Judges one call. Made by `Guard.judge`."""

    def __init__(
        self,
        guard: Guard,
        owners: Owners,
        call: Call,
        access: Access,
        side: SideCall,
        record_results: Callable[[Owned], None],
        clock: Callable[[], float],
    ) -> None:
        self._guard = guard
        self._owners = owners
        self._call = call
        self._access = access
        self._side = side
        self._record_results = record_results
        self._clock = clock
        self._is_reading = call.method == "GET"

    def call(self) -> Owned | None:
        """The object that the call's path names, None if it names none.

        NotFound for an id that the caller may not use, wherever it is; foreign objects are allowed.
        """
        plan = PLANS[self._call.operation]
        named, parts = ids_in(self._call, plan)
        keys = self._keys(named, plan.kind)
        found = self._found(keys, parts)
        own = None
        for (place, item_id), key in zip(named, keys):
            row = self._own(place, item_id, key, found)
            if row is None and not self._is_foreign(plan, place, item_id, key in found):
                raise no_such(item_id, kind_in(place, plan.kind), place)
            if place == "id":
                own = row
        if found and parts:
            self._refuse_others(parts, found)
        return own

    def texts(self, value: Json, operation: str) -> None:
        """NotFound for an id in other JSON, of a form or a line of a file, that the caller may not use."""
        named = list(named_in(operation, value))
        keys = self._keys(named, "")
        found = self._found(keys, [value])
        for (place, item_id), key in zip(named, keys):
            if self._own(place, item_id, key, found) is None:
                raise no_such(item_id, kind_in(place, ""), place)
        if found:
            self._refuse_others([value], found)

    def _keys(self, named: Sequence[tuple[str, str]], kind: str) -> list[str]:
        """The ids as they are compared. NotFound for a text that can be none: it would be looked up in vain."""
        keys = []
        for place, item_id in named:
            key = normal(item_id)
            if not can_be_id(key):
                raise no_such(item_id, kind_in(place, kind), place)
            keys.append(folded(key))
        return keys

    def _found(self, keys: Sequence[str], parts: Sequence[Any]) -> dict[str, list[Owned]]:
        """What the ledger has of all ids: of those that are named, and of the texts that may be some."""
        ids = set(keys).union(*map(texts_in, parts)) if parts else keys
        return self._owners.of(self._access.account, ids, self._is_mine)

    def _is_mine(self, row: Owned) -> bool:
        return self._access.has(row, self._is_reading)

    def _own(self, place: str, item_id: str, key: str, found: Mapping[str, list[Owned]]) -> Owned | None:
        """The object, if the caller may use it and it is still there; as a position in a list it need not be."""
        row = self._row(item_id, found.get(key, ()))
        if row is None and self._guard.look_at_results(self._access, self._record_results):
            row = self._row(item_id, self._owners.of(self._access.account, [key], self._is_mine).get(key, ()))
        return row if row and (place == "after" or not row.is_gone(self._clock())) else None

    def _row(self, item_id: str, rows: Sequence[Owned]) -> Owned | None:
        return next((row for row in rows if row.id == item_id and self._is_mine(row)), None)

    def _refuse_others(self, parts: Sequence[Any], found: Mapping[str, list[Owned]]) -> None:
        """NotFound for a text that is the id of another owner's object, wherever in these parts it stands."""
        for text in set[str]().union(*map(texts_in, parts)):
            rows = [row for row in found.get(folded(text), ()) if row.kind != "item" or _ISSUED.fullmatch(row.id)]
            rows = [row for row in rows if row.id == text] or rows  # a provider may tell ids apart by case, or not
            if rows and not any(map(self._is_mine, rows)):
                place = next(filter(None, (place_in(part, text) for part in parts)), "id")
                raise no_such(text, kind_in(place, ""), place)

    def _is_foreign(self, plan: Plan, place: str, item_id: str, is_owned: bool) -> bool:
        """Whether nobody owns this object, and it was made before the gateway came, which the provider is asked."""
        kind = kind_in(place, plan.kind)
        is_fit = is_tuned(item_id) if kind == "model" else is_id(item_id)
        if not self._access.opens_foreign or is_owned or kind not in RETRIEVES or not is_fit:
            return False
        try:
            answer = self._side(retrieval(kind, item_id, self._call)).json
        except UpstreamAnswered as error:
            if error.status == 404:
                return False
            raise
        before = self._guard.opened_before(self._access)
        return isinstance(answer, dict) and is_older(answer.get("created_at", answer.get("created")), before)


def is_older(created_at: Any, before: float) -> bool:
    """Whether a provider says that something was made before this time."""
    return type(created_at) is int and created_at < before


def retrieval(kind: str, item_id: str, call: Call) -> Call:
    """The call that retrieves an object, for the sake of another call."""
    return another(RETRIEVES[kind], call, item_id)


def another(operation: str, call: Call, item_id: str = "") -> Call:
    """A call of another operation on the same request's time, with none of the client's own headers but `via`."""
    route = OPERATIONS[operation]
    headers = {name: text for name, text in call.headers.items() if name == "via"}
    path = route.path[len("/v1") :].replace(":model" if route.names_model else ":id", item_id, 1)
    return Call(operation, route.method, path, headers=headers, expects=route.answer, file_id=item_id,
                watch=call.watch, now=call.now)  # fmt: skip


def no_such(item_id: str, kind: str, place: str) -> NotFound:
    """The 404 of an id that nobody has, or somebody else."""
    title = _TITLES.get(kind, kind).capitalize()
    is_shown = is_id(item_id) or (is_tuned(item_id) and can_be_id(item_id) and len(item_id) <= MAX_SHOWN)
    return NotFound(f"No such {title} object{f': {item_id}' if is_shown else '.'}", param=place or "id")
