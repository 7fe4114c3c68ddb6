"""Records in the ledger what answers tell of: whose it is, before the client learns that it is there."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Any

from ..calls import Call, Json, Ledger, Made, Owned, Upload
from ..errors import DuplicateId, FilesproxyError, InvalidAnswer, StoreError, UpstreamAnswered
from ..operations import MADE_BY, MADE_BY_ITEM, OPERATIONS, ids_at
from ..wire import sse
from ..wire.strict_json import Unreadable, loads
from .object_ids import can_be_id, folded
from .ownership import Access, Owners, SideCall, another, no_such, retrieval

_log = logging.getLogger("filesproxy")
_OF_RESPONSES = frozenset({"response", "item", "conversation"})
_UNFINISHED_SECONDS = 8 * 86400  # for which a finished batch without a file of results is looked at
_FINAL = frozenset({"completed", "failed", "expired", "cancelled", "succeeded"})
_WITHOUT_RESULTS = frozenset({"failed"})
MAX_NUMBER = 1 << 62
_ENDS_UPLOAD = ("complete_upload", "cancel_upload")
# What an event has that may tell of something new, after the first one: its type.
_TELLS = re.compile(rb"response\.(?:output_item\.|completed|incomplete|failed)")
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
    """Records objects of accounts that several owners share. Thread-safe.

    `response_seconds` is how long responses are remembered.
    """

    def __init__(
        self, ledger: Ledger, owners: Owners, response_seconds: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._ledger = ledger
        self._owners = owners
        self._response_seconds = response_seconds
        self._clock = clock

    def record(
        self, call: Call, answer: Any, access: Access, side: SideCall, own: Owned | None, upload: int = 0
    ) -> None:
        """Record what an answer tells of. `own` is the object in the path, to whose owner that then belongs.

        `upload` is the number of the upload that made it. DuplicateId (502) if an id is another owner's. StoreError if
        it cannot be recorded; then what the operation has made is deleted or cancelled at the provider.
        """
        try:
            made = self._made(call, answer)
            self._check_made(call, made)
        except InvalidAnswer:
            if _made_by(call.operation):
                _log.error(
                    "%s: the provider has made an object for %s whose id cannot be used", call.operation, access.owner
                )
            raise
        if made:
            self._commit(call, made, access, side, own, upload)

    def record_results(self, row: Owned, call: Call, side: SideCall) -> None:
        """Ask the provider for a batch or job, and record what has come of it. Raises what `side` raises."""
        asked = retrieval(row.kind, row.id, call)
        access = Access(row.account, row.owner, row.owner, row.key)
        try:
            answer = side(asked).json
        except UpstreamAnswered as error:
            if error.status == 404:  # it was deleted without us; nothing comes of it any more
                self._commit(asked, [Made(row.id, row.kind, row.created_at)], access, side, row)
            raise
        self.record(asked, answer, access, side, row)

    def events(self, call: Call, access: Access, side: SideCall, own: Owned | None) -> Callable[[bytes], None]:
        """A function that gets the events of a response, a block at a time, and records what they tell of.

        It raises what `record` raises. An event that it has not returned for is not sent on.
        """
        known: set[str] = set()
        has_response = False  # the first event that tells of it comes before everything else

        def seen(block: bytes) -> None:
            nonlocal has_response
            if has_response and not _TELLS.search(block):
                return
            for frame in block.split(b"\n\n"):
                if has_response and not _TELLS.search(frame):
                    continue
                event = _event(frame)
                made = self._made_at(call, event.get("item"), MADE_BY_ITEM)
                if isinstance(event.get("response"), dict):
                    made += self._made(call, event["response"])
                    if not has_response:
                        self._check_made(call, made)
                    has_response = True
                made = [each for each in made if each.id not in known]
                if made:
                    known.update(each.id for each in made)
                    self._commit(call, made, access, side, own)

        return seen

    def _commit(
        self, call: Call, made: list[Made], access: Access, side: SideCall, own: Owned | None, upload: int = 0
    ) -> None:
        owner, key = (own.owner, own.key) if own else (access.owner, access.key)
        new = made if upload else self._new(made, access.account, owner)
        if not new and not upload:
            return
        parent = own.id if own else ""
        try:
            actual = self._ledger.record(access.account, owner, key, new, self._clock(), upload, parent)
        except DuplicateId:
            _log.error("%s: the provider's answer to %s names an object of another owner", call.operation, owner)
            raise
        except StoreError:
            self._undo(call, made, side)
            raise
        finally:
            self._owners.forget(access.account, [each.id for each in new])
        if own and actual != owner:  # it was given to another owner after this process had looked
            self._owners.forget(access.account, [own.id])
            raise no_such(own.id, own.kind, "id")

    def _new(self, made: list[Made], account: str, owner: str) -> list[Made]:
        """What the ledger does not have yet, or not so."""
        found = self._owners.of(account, [each.id for each in made], lambda row: row.owner == owner)
        new = []
        for each in made:
            row = next((row for row in found.get(folded(each.id), ()) if row.id == each.id), None)
            if row is None or row.owner != owner or row.is_open != each.is_open or row.is_gone(self._clock()):
                new.append(each)
        return new

    def _undo(self, call: Call, made: list[Made], side: SideCall) -> None:
        operation = UNDOES.get(call.operation)
        for each in made:
            if operation and each.kind == _made_by(call.operation):
                try:
                    side(another(operation, call, each.id))
                except FilesproxyError:
                    _log.error("%s: %s could neither be recorded nor be removed again", call.operation, each.id)

    def _made(self, call: Call, answer: Any) -> list[Made]:
        return self._made_at(call, answer, MADE_BY.get(call.operation, ()))

    def _made_at(self, call: Call, answer: Any, places: tuple[tuple[str, str], ...]) -> list[Made]:
        found: dict[str, Made] = {}
        for place, kind in places:
            if kind in _OF_RESPONSES and not _is_stored(call):
                continue
            for exact, item_id in ids_at(answer, place):
                if not can_be_id(item_id):
                    raise InvalidAnswer("The provider's answer has an id that the ledger cannot have.")
                found.setdefault(item_id, self._described(call, _around(answer, exact), exact, item_id, kind))
        return list(found.values())

    def _described(self, call: Call, around: Json, place: str, item_id: str, kind: str) -> Made:
        """An object by its id, and by the JSON around that, which is the object itself if the id is in `id`."""
        now = int(self._clock())
        is_itself = place.rpartition(".")[2] == "id"
        created_at = whole(around.get("created_at")) if is_itself else None
        made = Made(
            item_id,
            kind,
            now if created_at is None else created_at,
            is_open=call.operation not in _ENDS_UPLOAD and _is_open(kind, around, now),
            ends_after=self._response_seconds if kind in ("response", "item") else None,
        )
        if kind == "upload":
            announced = (call.json or {}).get("bytes")
            return made._replace(bytes=whole(around.get("bytes", announced)))
        if kind != "file" or not is_itself:
            return made
        upload = call.upload if call.operation == "upload_file" else None
        return _uploaded(described(made, around), upload) if upload else described(made, around)

    def _check_made(self, call: Call, made: list[Made]) -> None:
        """InvalidAnswer if an operation that makes an object has answered without a usable id."""
        kind = _made_by(call.operation)
        is_recorded = kind not in _OF_RESPONSES or _is_stored(call)
        if kind and is_recorded and not any(each.kind == kind for each in made):
            raise InvalidAnswer("The provider's answer has no usable id.")


def _made_by(operation: str) -> str:
    """The kind of the object that an operation makes; "" if it makes none."""
    if operation not in UNDOES:
        return ""
    return "file" if operation == "complete_upload" else OPERATIONS[operation].kind


def _is_stored(call: Call) -> bool:
    """Whether the provider keeps the response that a call asks for."""
    return not (call.json and call.json.get("store") is False)


def described(made: Made, file: Json) -> Made:
    """A file with what the provider's object says of it, as far as that can be stored."""
    return made._replace(
        filename=text(file.get("filename")),
        purpose=text(file.get("purpose")),
        bytes=whole(file.get("bytes")),
        expires_at=whole(file.get("expires_at")),
    )


def _uploaded(made: Made, upload: Upload) -> Made:
    """A file with what its upload says of it."""
    return made._replace(
        filename=made.filename or text(upload.filename),
        purpose=made.purpose or text(upload.fields.get("purpose")),
        bytes=upload.size,
        sha256=upload.sha256,
    )


def _event(frame: bytes) -> Json:
    """The JSON object that is an event's data; an empty one if it is something else. InvalidAnswer if it is invalid."""
    data = sse.data(frame)
    if not data.lstrip().startswith(b"{"):
        return {}
    try:
        event = loads(data)
    except Unreadable:
        raise InvalidAnswer("An event of the provider is not valid JSON.") from None
    return event if isinstance(event, dict) else {}


def _around(answer: Json, place: str) -> Json:
    """The object that holds the id at this place."""
    found: Any = answer
    for step in place.split(".")[:-1]:
        name, _, index = step.partition("[")
        found = found[name]
        if index:
            found = found[int(index[:-1])]
    return found if isinstance(found, dict) else {}


def _is_open(kind: str, answer: Json, now: int) -> bool:
    """Whether something is still to come of an object: results of a batch or job, the file of an upload in parts."""
    if kind not in ("batch", "job", "upload"):
        return False
    status = answer.get("status")
    if not isinstance(status, str) or status not in _FINAL:
        return True
    if kind == "upload" or status in _WITHOUT_RESULTS or any(answer.get(name) for name in _RESULTS):
        return False
    created_at = answer.get("created_at")  # some hosts say which file has the results only after a while
    return type(created_at) is int and created_at > now - _UNFINISHED_SECONDS


def text(value: Any) -> str:
    """Text that can be stored: what is not Unicode is replaced."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else ""


def whole(value: Any) -> int | None:
    """A whole number that can be stored; None for anything else."""
    return value if type(value) is int and 0 <= value < MAX_NUMBER else None
