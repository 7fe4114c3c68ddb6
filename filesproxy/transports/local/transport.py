"""The transport that answers calls from a folder, with OpenAI's contract.

An index names the blobs that hold the files' bytes. Several processes may share a folder. A file is listed only when
it is complete.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ...calls import Answer, Call, Json, Target, Upload
from ...errors import BadRequest, FilesproxyError, NotFound, StoreError
from ...wire.lists import MAX_LIMIT, page
from .blobs import Blobs
from .index import Index, is_id

SWEEP_SECONDS = 600.0  # between two sweeps for expired and abandoned files


class LocalTransport:
    """The transport for `local:FOLDER`. A folder is opened by its first call, so forking before is safe."""

    def __init__(self) -> None:
        self._stores: dict[str, Store] = {}
        self._lock = threading.Lock()

    def __call__(self, call: Call, target: Target) -> Answer:
        return self.store(target.base_url[len("local:") :])(call, target.owner)

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

    def __init__(self, folder: str, clock: Callable[[], float] = time.time) -> None:
        self._blobs = Blobs(folder)
        self._index = Index(folder, must_exist=not self._blobs.is_empty())
        self._clock = clock
        self._swept = float("-inf")

    def __call__(self, call: Call, owner: str) -> Answer:
        """Perform one of the five file operations, which are methods of the same name, for this owner."""
        self._sweep_if_due()
        operation: Callable[[Call, str], Answer] = getattr(self, call.operation)
        return operation(call, owner)

    def kept_by(self, owner: str) -> OwnersFiles:
        """The files of one owner, for an operation that needs them in addition to its own target."""
        return OwnersFiles(self, owner)

    def upload_file(self, call: Call, owner: str) -> Answer:
        """Write, sync, rename, sync the folder, then commit. In this order no crash leaves a partial file."""
        upload = call.upload
        assert upload is not None
        with self._blobs.store(upload) as blob:
            row = _row(upload, owner, blob, self._clock())
            self._index.add(row)
        return Answer(200, json=_object(row))

    def list_files(self, call: Call, owner: str) -> Answer:
        """The page after the id `after`, newest or oldest first. BadRequest if no file can ever have had that id.

        The file itself may be gone: its id stays a position in the list, because ids ascend with time.
        """
        limit = int(call.query.get("limit", MAX_LIMIT))
        newest_first = call.query.get("order", "desc") == "desc"
        purpose, after = call.query.get("purpose"), call.query.get("after")
        if after and not is_id(after):
            raise BadRequest("'after' is not the id of a file in this store.", param="after")
        rows = self._index.page(owner, purpose, after, newest_first, limit + 1, self._clock())
        return Answer(200, json=page([_object(row) for row in rows[:limit]], len(rows) > limit))

    def retrieve_file(self, call: Call, owner: str) -> Answer:
        """The file's metadata."""
        return Answer(200, json=_object(self._find(call.file_id, owner)))

    def retrieve_file_content(self, call: Call, owner: str) -> Answer:
        """The file's bytes, with the media type that the client gave. A browser saves them and never shows them."""
        return self.open(call.file_id, owner)

    def find(self, file_ids: Sequence[str], owner: str) -> Mapping[str, Json]:
        """Id → file object, for the ids of files that this owner has and that have not expired."""
        rows = self._index.find_many(file_ids, owner, self._clock())
        return {row["id"]: _object(row) for row in rows}

    def open(self, file_id: str, owner: str) -> Answer:
        """The content of a file, as an open body. NotFound if this owner has no such file."""
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
            raise

    def delete_file(self, call: Call, owner: str) -> Answer:
        """Remove the file from the index, then its bytes. A download that has begun goes on."""
        row = self._find(call.file_id, owner)
        with self._blobs.removing(row["blob"]):
            if not self._index.remove(owner, row["id"]):
                raise _no_such(row["id"])
        return Answer(200, json={"id": row["id"], "object": "file", "deleted": True})

    def sweep(self) -> None:
        """Remove expired files and what a killed process left. No file that was acknowledged is ever destroyed."""
        while expired := self._index.expired(self._clock()):
            for row in expired:
                with self._blobs.removing(row["blob"]):
                    self._index.remove(row["owner"], row["id"])
        self._blobs.sweep_incoming(self._index.names)
        if lost := self._blobs.sweep_kept(self._index.names):
            message = "%d files of the local store are in no index: they are in its folder lost/, which nothing serves"
            logging.getLogger("filesproxy").warning(message, lost)

    def _find(self, file_id: str, owner: str) -> Json:
        row = self._index.find(file_id, owner, self._clock())
        if row is None:
            raise _no_such(file_id)
        return row

    def _sweep_if_due(self) -> None:
        if time.monotonic() - self._swept > SWEEP_SECONDS:
            self._swept = time.monotonic()
            threading.Thread(target=self._sweep_quietly, name="filesproxy-sweep", daemon=True).start()

    def _sweep_quietly(self) -> None:
        try:
            self.sweep()
        except FilesproxyError as error:
            logging.getLogger("filesproxy").warning("the local store was not swept: %s", error.message)


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


def _row(upload: Upload, owner: str, blob: str, now: float) -> Json:
    seconds = upload.fields.get("expires_after[seconds]")
    return {
        "owner": owner,
        "filename": upload.filename.replace("%22", '"'),  # how browsers and SDKs encode a quote (WHATWG form-data)
        "content_type": upload.content_type,
        "purpose": upload.fields["purpose"],
        "bytes": upload.size,
        "created_at": int(now),
        "expires_at": int(now) + int(seconds) if seconds else None,
        "blob": blob,
    }


def _object(row: Any) -> Json:
    shown = ("bytes", "created_at", "expires_at", "filename", "purpose")
    return {"id": row["id"], "object": "file", **{name: row[name] for name in shown}, "status": "processed"}


def _no_such(file_id: str) -> NotFound:
    return NotFound(f"No such File object: {file_id}", param="id")
