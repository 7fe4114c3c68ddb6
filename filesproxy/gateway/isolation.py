"""The way of a request to an account that several owners share: judged, performed, recorded.

Each step has a module: `ownership` judges, `input_files` what batches name, `recording` records, `owned_lists` makes
lists, `uploads` knows of files from their first byte.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ..budget import Hold
from ..calls import Answer, Call, Json, Ledger, Owned, Target
from ..errors import DuplicateId, Forbidden, UpstreamAnswered
from ..operations import MADE_BY, OPERATIONS
from .auth import Caller
from .input_files import InputFiles
from .known_fields import check_fields
from .object_ids import is_tuned, named_in, place_in, texts_in
from .owned_lists import OwnedLists, with_expiry
from .ownership import Access, Guard, Judge, Owners, SideCall, is_older
from .recording import Recorder
from .uploads import Uploads

#: the operations by which a client begins to upload a file
UPLOADS = ("upload_file", "create_upload")
Seen = Callable[[bytes], None]
Perform = Callable[[Call, "Seen | None"], Answer]


def access_of(target: Target, caller: Caller) -> Access:
    """Who asks, and at which account."""
    is_open = bool(caller.key and caller.key.foreign_ids)
    return Access(target.account, caller.owner, target.view, caller.name, is_open)


class Isolation:
    """Keeps owners apart at the accounts that they share, by a ledger. Thread-safe.

    `kept_bytes(caller)` is what the caller's owner has in stores; it counts towards `max_stored_bytes`.
    """

    def __init__(
        self,
        ledger: Ledger,
        settings: Mapping[str, Any],
        kept_bytes: Callable[[Caller], int],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._owners = Owners(ledger)
        self._guard = Guard(ledger, self._owners, clock)
        self._recorder = Recorder(ledger, self._owners, settings["response_days"] * 86400, clock)
        self._lists = OwnedLists(ledger, self._guard, clock)
        self._inputs = InputFiles(ledger, clock)
        self._uploads = Uploads(ledger, kept_bytes, clock)

    def answer(
        self, call: Call, target: Target, caller: Caller, perform: Perform, side: SideCall, hold: Hold
    ) -> Answer:
        """The answer to a call, within what the caller's owner has.

        `perform(call, seen)` performs it, and shows `seen` its events; `side` performs others for its sake. `hold`
        counts what judging takes. NotFound for what the owner does not have, BadRequest for what cannot be judged,
        DuplicateId and StoreError if the answer cannot be recorded.
        """
        if not target.account:
            return self._uploads.answer(call, target, caller, lambda asked: perform(asked, None), None)
        access = access_of(target, caller)
        allowed = target.settings["allow_fields"]

        def record_results(row: Owned) -> None:
            self._recorder.record_results(row, call, side)

        if call.json is not None:
            check_fields(call.operation, call.json, allowed)
        judge = self._guard.judge(call, access, side, record_results)
        own = judge.call()
        if OPERATIONS[call.operation].is_top_list:
            self._guard.look_at_results(access, record_results)
            return self._list(call, access, side)
        self._inputs.check(call, access, side, judge, hold, allowed)
        if call.upload:
            call.upload.on_fields(lambda given: _judged(judge, given, call.operation))
        if call.operation in UPLOADS:
            return self._uploads.answer(
                call, target, caller, lambda asked: self._performed(asked, access, perform, side, None),
                lambda answer, number: self._recorder.record(call, answer.json, access, side, None, number),
            )  # fmt: skip
        return self._performed(call, access, perform, side, own)

    def is_plainly_own(self, call: Call, target: Target) -> bool:
        """Whether a call only reads one object, and that is remembered as the caller's own: it may go as it is.

        For anything else `answer` decides. Most calls about files are such, and this costs them a few microseconds.
        """
        step = _PLAIN.get(call.operation)
        if step is None or call.query:
            return False
        row = self._owners.remembered(target.account, call.path.split("/")[step])
        # The gateway's own expiry would have to be put into the answer.
        return row is not None and row.owner == target.view and row.expires_at is None and row.deleted_at is None

    def only_own_models(self, models: list[Json], target: Target, caller: Caller) -> list[Json]:
        """The models of a target's list without the fine-tuned ones of other owners."""
        return self._only_own(models, access_of(target, caller))

    def _performed(self, call: Call, access: Access, perform: Perform, side: SideCall, own: Owned | None) -> Answer:
        route = OPERATIONS[call.operation]
        is_foreign = ":id" in route.path and own is None
        is_recorded = not is_foreign and call.operation != "upload_file"  # which is recorded with its upload
        seen = self._recorder.events(call, access, side, own) if is_recorded and route.kind == "response" else None
        is_deletion = call.operation in _DELETIONS
        try:
            answer = perform(call, seen)
        except UpstreamAnswered as error:
            if is_deletion and error.status == 404:  # it was deleted without us
                self._forget(call, access.account)
            raise
        if is_deletion:
            self._forget(call, access.account)
        if answer.body is None and is_recorded:
            self._recorder.record(call, answer.json, access, side, own)
        if call.operation == "retrieve_file":
            answer = answer._replace(json=with_expiry(answer.json, own))
        if call.operation == "list_models" and isinstance(answer.json, dict):
            models = answer.json.get("data")
            data = self._only_own(models if isinstance(models, list) else [], access)
            answer = answer._replace(json={**answer.json, "data": data})
        return answer

    def _list(self, call: Call, access: Access, side: SideCall) -> Answer:
        answer, shown = self._lists.answer(call, access, side)
        for value, row in shown:
            if row is not None:
                with suppress(DuplicateId):  # which is logged; the others of the list are not at fault
                    self._recorder.record(call, {"data": [value]}, access, side, row)
        return answer

    def _forget(self, call: Call, account: str) -> None:
        """An object is no more."""
        item_id = call.file_id or call.path.removeprefix("/models/")
        self._ledger.delete(account, item_id, self._clock())
        self._owners.forget(account, [item_id])

    def _only_own(self, models: list[Json], access: Access) -> list[Json]:
        named = [(each, str(each.get("id"))) for each in models if isinstance(each, dict)]
        owned = self._guard.owned([name for _, name in named], access)
        before = self._guard.opened_before(access)
        return [
            each for each, name in named if owned.get(name, not is_tuned(name) or is_older(each.get("created"), before))
        ]


# What ids of files look like, and the fields that hold ids of objects at a provider.
_LIKE_AN_ID = re.compile(
    r"(?i)(?:file|assistant)[-_](?=[a-z_-]*[0-9])[a-z0-9_-]{12,}|file_ids?|vector_store_ids?|container_id"
)
# Operation → the step of its path that is the id of the object that it only reads, and tells nothing else of.
_PLAIN = {
    name: route.path.split("/").index(":id") - 1
    for name, route in OPERATIONS.items()
    if route.method == "GET" and route.path.count(":id") == 1 and route.kind != "response" and name not in MADE_BY
}
_DELETIONS = ("delete_file", "delete_response", "delete_container", "delete_vector_store", "delete_model")


def _judged(judge: Judge, fields: dict[str, str], operation: str) -> dict[str, str]:
    """The fields of a form, none of which is another owner's id."""
    judge.texts(fields, operation)
    return fields


def refuse_file_ids(call: Call) -> None:
    """Forbidden for a chat that names a file, by a key for chats alone where no ledger says whose it is."""
    if call.json is None:
        return
    named = [place for place, _ in named_in(call.operation, call.json) if place != "model"]
    named += [place_in(call.json, text) for text in texts_in(call.json) if _LIKE_AN_ID.fullmatch(text)]
    if named:
        message = (
            "A chat with this gateway key cannot name files of this provider: other owners share it, and the gateway "
            "does not remember whose they are. Send the file's content instead, or ask the operator to set `ledger`."
        )
        raise Forbidden(message, param=named[0])
