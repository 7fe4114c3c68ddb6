"""Records in the ledger what answers tell of: whose it is, before the client learns that it is there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..calls import Call, Json, Ledger, Made, Owned
from ..errors import DuplicateId, FilesproxyError, InvalidAnswer, StoreError
from ..operations import MADE_BY, MADE_BY_ITEM, OPERATIONS, ids_at
from ..wire import sse
from ..wire.strict_json import Unreadable, loads
from .object_ids import MAX_ID
from .ownership import Access, Owners, SideCalls, another, retrieval

_log = logging.getLogger("filesproxy")
_OF_RESPONSES = frozenset({"response", "item", "conversation"})
_UNFINISHED_SECONDS = 8 * 86400  # for which a finished batch without a file of results is looked at
_FINAL = frozenset({"completed", "failed", "expired", "cancelled", "succeeded"})
_WITHOUT_RESULTS = frozenset({"failed"})
_RESULTS = ("output_file_id", "error_file_id", "fine_tuned_model")
#: what undoes an operation whose object could not be recorded; the id is of the object that it made
UNDOES = {
    "upload_file": "delete_file",
    "create_upload": "cancel_upload",
    "complete_upload": "delete_file",
    "create_batch": "cancel_batch",
    "create_fine_tuning_job": "cancel_fine_tuning_job",
    "create_response": "delete_response",
    "compact_response": "delete_response",
    "create_container": "delete_container",
    "create_vector_store": "delete_vector_store",
}


class Recorder:
    """Records objects of accounts that several owners share. Thread-safe. `response_seconds` is how long responses are
    remembered.
    """

    def __init__(
        self, ledger: Ledger, owners: Owners, response_seconds: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._ledger = ledger
        self._owners = owners
        self._response_seconds = response_seconds
        self._clock = clock

    def record(
        self, call: Call, answer: Any, access: Access, side: SideCalls, own: Owned | None, upload: int = 0
    ) -> None:
        """Record what an answer tells of. `own` is the object in the path, to whose owner that then belongs.

        `upload` is the number of the upload that made it. DuplicateId (502) if an id is another owner's. StoreError if
        it cannot be recorded; then what the operation has made is deleted or cancelled at the provider.
        """
        made = self._made(call, answer, own)
        if made:
            self._commit(call, made, access, side, own, upload)

    def record_results(self, row: Owned, call: Call, side: SideCalls) -> None:
        """Ask the provider for a batch or job, and record what has come of it. Raises what `side` raises."""
        asked = retrieval(row.kind, row.id, call)
        access = Access(row.account, row.owner, row.owner, row.key)
        self.record(asked, side(asked).json, access, side, row)

    def events(self, call: Call, access: Access, side: SideCalls, own: Owned | None) -> Callable[[bytes], None]:
        """A function that gets the events of a response, a block at a time, and records what they tell of.

        It raises what `record` raises. An event that it has not returned for is not sent on.
        """
        known: set[str] = set()

        def seen(block: bytes) -> None:
            if known and b'"response.output_item.' not in block:
                return
            for frame in block.split(b"\n\n"):
                made = [each for each in self._in_event(call, frame, own, is_first=not known) if each.id not in known]
                if made:
                    known.update(each.id for each in made)
                    self._commit(call, made, access, side, own)

        return seen

    def _in_event(self, call: Call, frame: bytes, own: Owned | None, is_first: bool) -> list[Made]:
        try:
            event = loads(sse.data(frame)) if b"{" in frame else None
        except Unreadable:
            raise InvalidAnswer("An event of the provider is not valid JSON.") from None
        if not isinstance(event, dict):
            return []
        item, response = event.get("item"), event.get("response")
        found = self._made_at(call, item, MADE_BY_ITEM, own) if isinstance(item, dict) else []
        if isinstance(response, dict) and is_first:
            found += self._made(call, response, own)
        return found

    def _commit(
        self, call: Call, made: list[Made], access: Access, side: SideCalls, own: Owned | None, upload: int = 0
    ) -> None:
        owner, key = (own.owner, own.key) if own else (access.owner, access.key)
        new = self._new(made, access.account, owner)
        if not new and not upload:
            return
        try:
            self._ledger.record(access.account, owner, key, new, self._clock(), upload)
        except DuplicateId:
            _log.error("%s: %s got an id from the provider that another owner has", call.operation, owner)
            raise
        except StoreError:
            self._undo(call, made, side)
            raise
        finally:
            self._owners.forget(access.account, [each.id for each in new])

    def _new(self, made: list[Made], account: str, owner: str) -> list[Made]:
        """What the ledger does not have yet, or not so."""
        found = self._owners.of(account, [each.id for each in made])
        new = []
        for each in made:
            rows = [row for row in found.get(each.id.lower(), ()) if row.id == each.id]
            if not rows or rows[0].owner != owner or rows[0].is_open != each.is_open or rows[0].deleted_at:
                new.append(each)
        return new

    def _undo(self, call: Call, made: list[Made], side: SideCalls) -> None:
        operation = UNDOES.get(call.operation)
        kind = "file" if call.operation == "complete_upload" else OPERATIONS[call.operation].kind
        for each in made:
            if operation and each.kind == kind:
                with suppress(FilesproxyError):  # it is left, and `files orphans` finds it
                    side(another(operation, call, each.id))

    def _made(self, call: Call, answer: Any, own: Owned | None) -> list[Made]:
        return self._made_at(call, answer, MADE_BY.get(call.operation, ()), own)

    def _made_at(self, call: Call, answer: Any, places: tuple[tuple[str, str], ...], own: Owned | None) -> list[Made]:
        is_stored = not (call.json and call.json.get("store") is False)
        found: dict[str, Made] = {}
        for place, kind in places:
            if not is_stored and kind in _OF_RESPONSES:
                continue
            for exact, item_id in ids_at(answer, place):
                if not 0 < len(item_id) <= MAX_ID:
                    raise InvalidAnswer("The provider's answer has an id that the ledger cannot have.")
                found.setdefault(item_id, self._described(call, answer, exact, item_id, kind, own))
        return list(found.values())

    def _described(self, call: Call, answer: Json, place: str, item_id: str, kind: str, own: Owned | None) -> Made:
        around = _around(answer, place)
        now = int(self._clock())
        is_itself = place.rpartition(".")[2] == "id"
        created_at = around.get("created_at") if is_itself else None
        made = Made(
            item_id,
            kind,
            created_at if type(created_at) is int else now,
            parent="" if own is None or own.id == item_id else own.id,
            is_open=kind in ("batch", "job") and _is_open(around, now),
            ends_after=self._response_seconds if kind in _OF_RESPONSES else None,
        )
        return _file(made, around, call) if kind == "file" and is_itself else made


def _around(answer: Json, place: str) -> Json:
    """The object that holds the id at this place."""
    found: Any = answer
    for step in place.split(".")[:-1]:
        name, _, index = step.partition("[")
        found = found[name]
        if index:
            found = found[int(index[:-1])]
    return found if isinstance(found, dict) else {}


def _is_open(answer: Json, now: int) -> bool:
    """Whether results of a batch or job may still come."""
    status = answer.get("status")
    if status not in _FINAL:
        return True
    if status in _WITHOUT_RESULTS or any(answer.get(name) for name in _RESULTS):
        return False
    created_at = answer.get("created_at")  # some hosts say which file has the results only after a while
    return type(created_at) is int and created_at > now - _UNFINISHED_SECONDS


def _file(made: Made, file: Json, call: Call) -> Made:
    """What is known of a file: by the provider's answer and, where that says nothing, by the upload."""
    upload = call.upload if call.operation == "upload_file" else None
    size, expires_at = file.get("bytes"), file.get("expires_at")
    return made._replace(
        filename=_text(file.get("filename")) or (upload.filename if upload else ""),
        purpose=_text(file.get("purpose")) or (upload.fields.get("purpose", "") if upload else ""),
        bytes=upload.size if upload else size if type(size) is int else None,
        sha256=upload.sha256 if upload else None,
        expires_at=expires_at if type(expires_at) is int else None,
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
