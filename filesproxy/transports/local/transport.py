"""The transport that answers calls from a folder, with OpenAI's contract.

An index names the blobs that hold the files' bytes. Several processes may share a folder. A file is listed only when
it is complete.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any
from urllib.parse import quote

from ...calls import Answer, Call, Json, Target, Upload
from ...errors import BadRequest, NotFound, StoreError
from ...operations import is_kept_id
from ...wire.lists import MAX_LIMIT, page
from .blobs import Blobs, NewBlob
from .clock import look, since_boot
from .disk import FolderLock
from .index import MAX_PAGE_TEXT, Index
from .reserve import Reserve
from .sweep import Sweeper, finish_removal

# Files. Of longer lists, a process reads one at a time from a store: they would all be in memory, and wait for each
# other anyway.
SHORT_LIST = 100
ADOPTION_SECONDS = 600  # for which a file that was given to another owner is no position in the list of all


class LocalTransport:
    """The transport for `local:FOLDER`. A folder is opened by its first call, so forking before is safe."""

    def __init__(self) -> None:
        self._stores: dict[str, Store] = {}
        self._lock = threading.Lock()

    def __call__(self, call: Call, target: Target) -> Answer:
        return self._store_of(target)(call, target.owner, target.settings["file_sha256"], target.view)

    def kept_files(self, target: Target) -> OwnersFiles:
        """The files of the target's owner in the target's folder, for a request to another provider."""
        return self._store_of(target).kept_by(target.owner)

    def _store_of(self, target: Target) -> Store:
        return self.store(target.base_url[len("local:") :])

    def store(self, folder: str) -> Store:
        """The store in this folder. There is one for each folder in this process."""
        with self._lock:
            if folder not in self._stores:
                self._stores[folder] = Store(folder)
            return self._stores[folder]


class Store:
    """One folder of files. A file is stored whole or not at all.

    Raises StoreError (500), StoreFull (507) and NotFound (404).
    """

    def __init__(
        self, folder: str, clock: Callable[[], float] = time.time, ticks: Callable[[], float] = since_boot
    ) -> None:
        self._blobs = Blobs(folder)
        self._in_use = FolderLock(folder)
        self._reserve = Reserve(folder)
        self._index = Index(folder, holds_files=lambda: not self._blobs.is_empty(), make_room=self._reserve.release)
        self._sweeper = Sweeper(self._blobs, self._index, lambda: look(clock(), ticks()))
        self._clock = clock
        self._long_list = threading.Lock()

    def __call__(self, call: Call, owner: str, is_hashed: bool = True, view: str | None = "") -> Answer:
        """Perform one of the five file operations, which are methods of the same name, for this owner.

        `is_hashed` says whether an upload's SHA-256 is computed and kept. `view` is the owner whose files are listed
        and read; None for every owner's, "" for the caller's own.
        """
        self.begin_sweep()
        if call.operation == "upload_file":
            return self.upload_file(call, owner, is_hashed)
        if call.operation == "delete_file":
            return self.delete_file(call, owner)
        operation: Callable[[Call, str | None], Answer] = getattr(self, call.operation)
        return operation(call, owner if view == "" else view)

    def kept_by(self, owner: str) -> OwnersFiles:
        """The files of one owner, for a request to another provider."""
        return OwnersFiles(self, owner)

    def stored_bytes(self, owner: str) -> int:
        """The bytes of all files of an owner that have not expired."""
        return self._index.stored_bytes(owner, self._clock())

    def upload_file(self, call: Call, owner: str, is_hashed: bool = True) -> Answer:
        """Write, sync, rename, sync the folder, then commit. In this order no crash leaves a partial file.

        The sidecar needs the id, which the file gets in the order of commits: it is written in the transaction, where
        other uploads wait, and synced after it, where none does.
        """
        upload = call.upload
        assert upload is not None
        self._reserve.keep(upload.max_size or 0)
        with self._blobs.store(upload, is_hashed) as blob:
            row = _row(upload, owner, blob, self._clock())
            upload.sha256 = blob.sha256
            self._index.add(row, before_commit=blob.describe)
            try:
                blob.sync()
            except BaseException:
                self._index.remove(owner, row["id"])
                raise
        return Answer(200, json=_object(row))

    def list_files(self, call: Call, owner: str | None) -> Answer:
        """The page after the id `after`, newest or oldest first. BadRequest if no file can ever have had that id.

        The file itself may be gone: its id stays a position in the list, because ids ascend with time. In the list of
        every owner's files, which follow each other by the owner's name, it must be there: else nobody knows whose it
        was.
        """
        limit = int(call.query.get("limit", MAX_LIMIT))
        newest_first = call.query.get("order", "desc") == "desc"
        purpose, after = call.query.get("purpose"), call.query.get("after")
        if after and not is_kept_id(after):
            raise BadRequest("'after' is not the id of a file in this store.", param="after")
        with self._long_list if limit > SHORT_LIST else nullcontext():
            if owner is None:
                rows, has_more = self._page_of_all(purpose, after, newest_first, limit)
            else:
                rows, has_more = self._index.page(owner, purpose, after, newest_first, limit, self._clock())
            data = [_object(row) for row in rows]
        return Answer(200, json=page(data, has_more))

    def _page_of_all(
        self, purpose: str | None, after: str | None, newest_first: bool, limit: int
    ) -> tuple[list[Json], bool]:
        last = self._index.by_id(after) if after else None
        if after and last is None:
            raise BadRequest("The file of 'after' is gone; name its owner in x-filesproxy-owner.", param="after")
        if last and self._clock() - (last.get("adopted_at") or 0) < ADOPTION_SECONDS:
            raise BadRequest("The file of 'after' has just got another owner: begin the list again.", param="after")
        rows: list[Json] = []
        owner, size = last["owner"] if last else self._index.owner_after(None), 0
        while owner is not None:
            left = limit + 1 - len(rows)  # one more, to know whether the list goes on
            found, has_more = self._index.page(owner, purpose, after, newest_first, left, self._clock())
            rows, after, owner = rows + found, None, self._index.owner_after(owner)
            size += sum(len(row["filename"]) for row in found)
            if len(rows) > limit or has_more or (size > MAX_PAGE_TEXT and owner is not None):
                return rows[:limit], True
        return rows, False

    def retrieve_file(self, call: Call, owner: str | None) -> Answer:
        """The file's metadata."""
        return Answer(200, json=_object(self._find(call.file_id, owner)))

    def retrieve_file_content(self, call: Call, owner: str | None) -> Answer:
        """The file's bytes, with the media type that the client gave. A browser saves them and never shows them."""
        return self.open(call.file_id, owner)

    def find(self, file_ids: Sequence[str], owner: str) -> Mapping[str, Json]:
        """Id → file object, for the ids of files that this owner has and that have not expired."""
        rows = self._index.find_many(file_ids, owner, self._clock())
        return {row["id"]: _object(row) for row in rows}

    def open(self, file_id: str, owner: str | None) -> Answer:
        """The content of a file, as an open body. NotFound if this owner, or with None any owner, has no such file."""
        row = self._find(file_id, owner)
        headers = {
            "content-type": row["content_type"],
            "content-length": str(row["bytes"]),
            "content-disposition": f"attachment; filename*=UTF-8''{quote(row['filename'], safe='')}",  # RFC 8187
            "etag": f'"{row["blob"]}"',
        }
        try:
            return Answer(200, headers, body=self._blobs.open(row["blob"], row["bytes"]))
        except StoreError:
            self._find(file_id, owner)  # raises NotFound if the file was deleted in the meantime
            self._check_deleted(row)
            raise

    def _check_deleted(self, row: Json) -> None:
        """NotFound if the blob is in `trash/`. If the process that put it there was killed, what it began is ended."""
        if not self._blobs.is_in_trash(row["blob"]):
            return
        with suppress(StoreError), self._blobs.locked(row["blob"], "trash") as is_ours:
            if is_ours:
                finish_removal(self._blobs, self._index, row["blob"])
        raise _no_such(row["id"])

    def delete_file(self, call: Call, owner: str) -> Answer:
        """Move the blob to `trash/`, then remove the row, then the blob. A download that has begun goes on."""
        row = self._find(call.file_id, owner)
        with self._blobs.removing([row["blob"]], lambda name: self._index.has(row)) as due:
            if not due or not self._index.remove(owner, row["id"]):
                raise _no_such(row["id"])
        return Answer(200, json={"id": row["id"], "object": "file", "deleted": True})

    def begin_sweep(self) -> None:
        """Sweep in a thread of its own, unless this process has done so lately."""
        self._sweeper.start_if_due()

    def sweep(self) -> tuple[int, int]:
        """Remove expired files and what a killed process left. No other file that was acknowledged is ever destroyed.

        Returns how many files had expired, and how many bytes they had.
        """
        return self._sweeper.sweep()

    def _find(self, file_id: str, owner: str | None) -> Json:
        now = self._clock()
        row = self._index.by_id(file_id) if owner is None else self._index.find(file_id, owner, now)
        if row is None or (row["expires_at"] is not None and row["expires_at"] <= now):
            raise _no_such(file_id)
        return row


class OwnersFiles:
    """The kept files of one owner (`calls.KeptFiles`)."""

    def __init__(self, store: Store, owner: str) -> None:
        self._store = store
        self._owner = owner

    def find(self, file_ids: Sequence[str]) -> Mapping[str, Json]:
        """Id → file object, for the ids of files that exist and have not expired."""
        return self._store.find(file_ids, self._owner)

    def open(self, file_id: str) -> Answer:
        """The content as an answer with an open body. NotFound if there is no such file."""
        return self._store.open(file_id, self._owner)

    def stored_bytes(self) -> int:
        """The bytes of all files that have not expired."""
        return self._store.stored_bytes(self._owner)


def _row(upload: Upload, owner: str, blob: NewBlob, now: float) -> Json:
    seconds = upload.fields.get("expires_after[seconds]")
    return {
        "owner": owner,
        "filename": upload.filename.replace("%22", '"'),  # how browsers and SDKs encode a quote (WHATWG form-data)
        "content_type": upload.content_type,
        "purpose": upload.fields["purpose"],
        "bytes": upload.size,
        "created_at": int(now),
        "expires_at": int(now) + int(seconds) if seconds else None,
        "blob": blob.name,
        "sha256": blob.sha256,
    }


def _object(row: Any) -> Json:
    shown = ("bytes", "created_at", "expires_at", "filename", "purpose")
    return {"id": row["id"], "object": "file", **{name: row[name] for name in shown}, "status": "processed"}


def _no_such(file_id: str) -> NotFound:
    return NotFound(f"No such File object: {file_id}", param="id")
