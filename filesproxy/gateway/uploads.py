"""Uploads that the ledger knows from their first byte: the limits of the key, and an expiry that the provider lacks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from ..calls import Allowance, Answer, Call, Ledger, Target, Upload
from ..errors import BadRequest, DuplicateId, FilesproxyError, StoreError, UpstreamAnswered, UpstreamError
from .auth import Caller
from .expiry import ANCHOR, SECONDS
from .recording import whole

_EXPIRY = (ANCHOR, SECONDS)


def form_fields(target: Target) -> Sequence[str]:
    """The form fields that the target's provider knows, and with a ledger the expiry, which it then has here."""
    known = _of_provider(target)
    return (*known, *_EXPIRY) if target.account and SECONDS not in known else known


def _of_provider(target: Target) -> Sequence[str]:
    fields = target.provider.get("form_fields", ())
    return fields(target) if callable(fields) else fields


class Uploads:
    """Begins and ends uploads in a ledger. `kept_bytes(caller)` is what the caller's owner has in stores."""

    def __init__(
        self, ledger: Ledger, kept_bytes: Callable[[Caller], int], clock: Callable[[], float] = time.time
    ) -> None:
        self._ledger = ledger
        self._kept_bytes = kept_bytes
        self._clock = clock

    def answer(
        self,
        call: Call,
        target: Target,
        caller: Caller,
        perform: Callable[[Call], Answer],
        record: Callable[[Answer, int], None] | None,
    ) -> Answer:
        """The answer to an upload. `record(answer, number)` records the file; None if its store does.

        TooLarge or TooMany (429) with nothing read if the limits of the caller's key do not allow it.
        """
        upload = call.upload
        if upload is None:  # in parts: its JSON says how large it will be
            if _is_emulated(target) and (call.json or {}).get("expires_after"):
                message = "Files that are uploaded in parts do not expire at this provider."
                raise BadRequest(message, param="expires_after", code="no_expiry")
            number = self._begin(target, caller, whole((call.json or {}).get("bytes")) or 0)
            try:
                return perform(call)  # which records the upload: from then on that counts, until it is complete
            finally:
                with suppress(StoreError):
                    self._ledger.end_upload(number)
        number = self._begin(target, caller, self._reserved(upload, target, caller))
        if target.account:
            if target.settings["file_sha256"]:
                upload.hash()
            _keep_expiry_back(upload, target)
        try:
            answer = self._with_expiry(perform(call), upload, target)
            if record:
                record(answer, number)
            else:
                self._ledger.end_upload(number)
            return answer
        except FilesproxyError as error:
            may_be_there = upload.is_begun and isinstance(error, UpstreamError)
            if not may_be_there or isinstance(error, (UpstreamAnswered, DuplicateId)):
                with suppress(StoreError):
                    self._ledger.end_upload(number)
            raise

    def _begin(self, target: Target, caller: Caller, size: int) -> int:
        key = caller.key
        allowance = Allowance()
        if key:
            allowance = Allowance(key.max_stored_bytes, key.max_uploads_per_minute, lambda: self._kept_bytes(caller))
        return self._ledger.begin_upload(target.account, caller.owner, caller.name, size, allowance, self._clock())

    def _with_expiry(self, answer: Answer, upload: Upload, target: Target) -> Answer:
        if not _is_emulated(target) or SECONDS not in upload.fields or not isinstance(answer.json, dict):
            return answer
        created_at = answer.json.get("created_at")
        since = created_at if type(created_at) is int else int(self._clock())
        return answer._replace(json={**answer.json, "expires_at": since + int(upload.fields[SECONDS])})

    def _reserved(self, upload: Upload, target: Target, caller: Caller) -> int:
        """The most bytes that the file can have."""
        if upload.max_size is not None:
            return upload.max_size
        own = caller.key.max_file_bytes if caller.key else 0
        return own or int(target.settings["max_upload_bytes"])


def _is_emulated(target: Target) -> bool:
    return bool(target.account) and SECONDS not in _of_provider(target)


def _keep_expiry_back(upload: Upload, target: Target) -> None:
    """Where the provider has no expiry, the ledger has it: the provider is not told."""
    if _is_emulated(target):
        upload.on_fields(_without_expiry)


def _without_expiry(fields: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in fields.items() if name not in _EXPIRY}
