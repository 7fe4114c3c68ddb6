"""The local provider's disk half: the transport that answers calls from a folder, with OpenAI's contract.

An index (sqlite in WAL mode) names blobs. Several processes may share a folder; what a list shows is always whole.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote

from ...calls import Answer, Call, Json, Target, Upload
from ...errors import FilesproxyError, NotFound, StoreError, StoreFull
from ...wire.lists import MAX_LIMIT, page
from .blobs import Blobs, disk_errors

SWEEP_SECONDS = 600.0  # between two sweeps for expired and abandoned files
_BUSY_SECONDS = 30.0  # for another process's write; each takes milliseconds
_VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    owner TEXT NOT NULL, id TEXT NOT NULL, filename TEXT NOT NULL, content_type TEXT NOT NULL,
    purpose TEXT NOT NULL, bytes INTEGER NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER,
    blob TEXT NOT NULL UNIQUE, PRIMARY KEY (owner, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_purpose ON files (owner, purpose, id);
CREATE INDEX IF NOT EXISTS by_expiry ON files (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS stamps (last INTEGER NOT NULL);
INSERT INTO stamps SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM stamps);
"""


class LocalTransport:
    """The transport for `local:` URLs. Each folder is opened at its first call, so that forking before is safe."""

    def __init__(self) -> None:
        self._stores: dict[str, Store] = {}
        self._lock = threading.Lock()

    def __call__(self, call: Call, target: Target) -> Answer:
        folder = target.settings["folder"]
        with self._lock:
            if folder not in self._stores:
                self._stores[folder] = Store(folder)
        return self._stores[folder](call)


class Store:
    """One folder of files. Raises StoreError (500), StoreFull (507), NotFound; a file is stored whole or not at all."""

    def __init__(self, folder: str, clock: Callable[[], float] = time.time) -> None:
        self._blobs = Blobs(folder)
        self._index = Index(folder, must_exist=not self._blobs.is_empty())
        self._clock = clock
        self._swept = float("-inf")

    def __call__(self, call: Call) -> Answer:
        """Perform one of the five operations, for the owner that the call names."""
        self._sweep_if_due()
        operation: Callable[[Call, str], Answer] = getattr(self, call.operation)
        return operation(call, call.headers["x-filesproxy-owner"])

    def upload_file(self, call: Call, owner: str) -> Answer:
        """Write, sync, rename, sync the folder, commit: in this order a crash at any point leaves no half file."""
        upload = call.upload
        assert upload is not None
        with self._blobs.store(upload) as blob:
            row = _row(upload, owner, blob, self._clock())
            self._index.add(row)
        return Answer(200, json=_object(row))

    def list_files(self, call: Call, owner: str) -> Answer:
        """A page, by the index alone: newest first, or oldest first, from behind `after`, which may be gone."""
        limit = int(call.query.get("limit", MAX_LIMIT))
        newest_first = call.query.get("order", "desc") == "desc"
        purpose, after = call.query.get("purpose"), call.query.get("after")
        rows = self._index.page(owner, purpose, after, newest_first, limit + 1, self._clock())
        return Answer(200, json=page([_object(row) for row in rows[:limit]], len(rows) > limit))

    def retrieve_file(self, call: Call, owner: str) -> Answer:
        """The file's metadata."""
        return Answer(200, json=_object(self._find(call, owner)))

    def retrieve_file_content(self, call: Call, owner: str) -> Answer:
        """The file's bytes, with the type its client gave; a browser saves them and never shows them."""
        row = self._find(call, owner)
        headers = {
            "content-type": row["content_type"],
            "content-length": str(row["bytes"]),
            "content-disposition": f"attachment; filename*=UTF-8''{quote(row['filename'], safe='')}",  # RFC 8187
            "etag": f'"{row["blob"]}"',
        }
        try:
            return Answer(200, headers, body=self._blobs.open(row["blob"], row["bytes"]))
        except StoreError:
            self._find(call, owner)  # deleted in between: a 404
            raise

    def delete_file(self, call: Call, owner: str) -> Answer:
        """Forget the file, then remove its bytes; who is reading them reads on."""
        row = self._find(call, owner)
        if not self._index.remove(owner, row["id"]):
            raise _no_such(row["id"])
        self._blobs.remove(row["blob"])
        return Answer(200, json={"id": row["id"], "object": "file", "deleted": True})

    def sweep(self) -> None:
        """Remove expired files, and what a killed process left behind."""
        while expired := self._index.expired(self._clock()):
            for row in expired:
                if self._index.remove(row["owner"], row["id"]):
                    self._blobs.remove(row["blob"])
        self._blobs.sweep(self._index.names)

    def _find(self, call: Call, owner: str) -> Json:
        row = self._index.find(call.file_id, owner, self._clock())
        if row is None:
            raise _no_such(call.file_id)
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


class Index:
    """The table of files, in sqlite 3.34 or newer; a few connections, borrowed for a statement or two each."""

    def __init__(self, folder: str, must_exist: bool = False) -> None:
        self._idle: list[sqlite3.Connection] = []
        self._path = os.path.join(folder, "index.sqlite3")
        if must_exist and not os.path.exists(self._path):  # an empty one would make every file look abandoned
            raise StoreError("The local store's folder holds files but no index: restore it, or use an empty folder.")
        with disk_errors(), open(os.path.join(folder, "lock"), "ab", opener=_private) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one process at a time makes the tables
            with suppress(FileExistsError):  # sqlite would take the umask's mode
                # Only ever made here, never opened: closing it would drop the POSIX locks of sqlite in this process.
                os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            self._make()

    def add(self, row: Json) -> None:
        """Insert a file and give it its id, ascending in the order of commits, whatever the clocks say."""
        with self._transaction() as database:
            database.execute("UPDATE stamps SET last = max(last + 1, ?)", (row["created_at"] * 1_000_000,))
            stamp = database.execute("SELECT last FROM stamps").fetchone()[0]
            row["id"] = f"file-{stamp:014x}{secrets.token_hex(12)}"
            names = ", ".join(row)
            marks = ", ".join(f":{name}" for name in row)
            database.execute(f"INSERT INTO files ({names}) VALUES ({marks})", row)

    def find(self, file_id: str, owner: str, now: float) -> Json | None:
        """The row of a file that this owner has and that has not expired."""
        with self._connection() as database:
            query = f"SELECT * FROM files WHERE id = ? AND owner = ? AND {_ALIVE}"
            row = database.execute(query, (file_id, owner, int(now))).fetchone()
        return dict(row) if row else None

    def page(
        self, owner: str, purpose: str | None, after: str | None, newest_first: bool, limit: int, now: float
    ) -> list[Json]:
        """Up to `limit` rows in the order of ids, from behind `after`; reads no more rows than it returns."""
        conditions, values = ["owner = ?"], [owner]
        if purpose:
            conditions, values = [*conditions, "purpose = ?"], [*values, purpose]
        if after:
            conditions, values = [*conditions, "id < ?" if newest_first else "id > ?"], [*values, after]
        where = " AND ".join([*conditions, _ALIVE])
        table = "files INDEXED BY by_purpose" if purpose else "files"  # the planner would read the owner's other files
        query = f"SELECT * FROM {table} WHERE {where} ORDER BY id {'DESC' if newest_first else 'ASC'} LIMIT ?"
        with self._connection() as database:
            return [dict(row) for row in database.execute(query, (*values, int(now), limit))]

    def remove(self, owner: str, file_id: str) -> bool:
        """Forget a file; False if another process already had."""
        with self._transaction() as database:
            query = "DELETE FROM files WHERE owner = ? AND id = ?"
            return database.execute(query, (owner, file_id)).rowcount == 1

    def expired(self, now: float) -> list[Json]:
        """The rows of files past their time, a thousand at most."""
        with self._connection() as database:
            query = "SELECT owner, id, blob FROM files WHERE expires_at <= ? LIMIT 1000"
            return [dict(row) for row in database.execute(query, (int(now),))]

    def names(self, blob: str) -> bool:
        """Whether a file has this blob."""
        with self._connection() as database:
            return database.execute("SELECT 1 FROM files WHERE blob = ?", (blob,)).fetchone() is not None

    def _make(self) -> None:
        with self._connection() as database:
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version > _VERSION:
                raise StoreError("The local store was made by a newer filesproxy.")
            if database.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                raise StoreError("The local store needs a local disk: this one has no shared memory for sqlite's WAL.")
            database.executescript(_SCHEMA + f"PRAGMA user_version = {_VERSION};")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connection() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            database = self._borrow()
            try:
                yield database
            except BaseException:
                database.close()  # one that failed is not used again
                raise
            self._idle.append(database)
        except sqlite3.Error as error:
            full = "full" in str(error)
            kind = StoreFull if full else StoreError
            message = "The local store has no space left." if full else "The local store's index cannot be used."
            raise kind(message) from None

    def _borrow(self) -> sqlite3.Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return _connect(self._path)

    def __del__(self) -> None:
        for database in self._idle:
            database.close()


_ALIVE = "(expires_at IS NULL OR expires_at > ?)"


def _connect(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    database.row_factory = sqlite3.Row
    try:
        database.execute("PRAGMA synchronous = FULL")  # a file that was acknowledged survives a power cut
    except BaseException:
        database.close()
        raise
    return database


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _row(upload: Upload, owner: str, blob: str, now: float) -> Json:
    seconds = upload.fields.get("expires_after[seconds]")
    return {
        "owner": owner,
        "filename": upload.filename.replace("%22", '"'),  # how browsers and SDKs write it (WHATWG form-data)
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
