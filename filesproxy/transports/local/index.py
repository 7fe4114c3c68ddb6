"""The index of kept files: a table in sqlite (3.34 or newer, WAL mode), which several processes may share."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from ...calls import Json
from ...errors import StoreError, StoreFull
from .blobs import disk_errors

_ID = re.compile(r"file-[0-9a-f]{38}")
_BUSY_SECONDS = 30.0  # to wait for another process's writes, each of which takes milliseconds
_VERSION = 1
MAX_IDLE = 4  # connections; each has two file descriptors
_MAX_IDS = 500  # in one statement; an SQLite build may limit parameters to 999

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


def is_id(text: str) -> bool:
    """Whether a file of a store can have this id, now or before it was deleted."""
    return bool(_ID.fullmatch(text))


class Index:
    """The table of files. Each operation borrows a connection to sqlite. Raises StoreError and StoreFull."""

    def __init__(self, folder: str, must_exist: bool = False) -> None:
        self._idle: list[sqlite3.Connection] = []
        self._writing = threading.Lock()  # one writer for each process: sqlite would let them wait in a loop
        self._path = os.path.join(folder, "index.sqlite3")
        if must_exist and not os.path.exists(self._path):  # with an empty index, every file would look abandoned
            message = "The local store's folder holds files but no index: restore the index, or use an empty folder."
            raise StoreError(message)
        with disk_errors(), open(os.path.join(folder, "lock"), "ab", opener=_private) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one process at a time creates the tables
            with suppress(FileExistsError):  # sqlite itself would apply the umask
                # Only created here, never opened: closing it would drop the POSIX locks of sqlite in this process.
                os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            self._create_tables()

    def add(self, row: Json) -> None:
        """Insert a file and set its id. Ids ascend in the order of commits, even if a clock goes backwards."""
        with self._transaction() as database:
            database.execute("UPDATE stamps SET last = max(last + 1, ?)", (row["created_at"] * 1_000_000,))
            stamp = database.execute("SELECT last FROM stamps").fetchone()[0]
            row["id"] = f"file-{stamp:014x}{secrets.token_hex(12)}"
            names = ", ".join(row)
            marks = ", ".join(f":{name}" for name in row)
            database.execute(f"INSERT INTO files ({names}) VALUES ({marks})", row)

    def find_many(self, file_ids: Sequence[str], owner: str, now: float) -> list[Json]:
        """The rows of those files that this owner has and that have not expired, by one query for each 500 ids."""
        found: list[Json] = []
        with self._connection() as database:
            for start in range(0, len(file_ids), _MAX_IDS):
                asked = file_ids[start : start + _MAX_IDS]
                marks = ", ".join("?" * len(asked))
                query = f"SELECT * FROM files WHERE owner = ? AND id IN ({marks}) AND {_ALIVE}"
                found += [dict(row) for row in database.execute(query, (owner, *asked, int(now)))]
        return found

    def find(self, file_id: str, owner: str, now: float) -> Json | None:
        """The row of a file, None unless this owner has it and it has not expired."""
        with self._connection() as database:
            query = f"SELECT * FROM files WHERE id = ? AND owner = ? AND {_ALIVE}"
            row = database.execute(query, (file_id, owner, int(now))).fetchone()
        return dict(row) if row else None

    def page(
        self, owner: str, purpose: str | None, after: str | None, newest_first: bool, limit: int, now: float
    ) -> list[Json]:
        """Up to `limit` rows after the id `after`, in the order of ids. Reads no more rows than it returns."""
        conditions, values = ["owner = ?"], [owner]
        if purpose:
            conditions, values = [*conditions, "purpose = ?"], [*values, purpose]
        if after:
            conditions, values = [*conditions, "id < ?" if newest_first else "id > ?"], [*values, after]
        where = " AND ".join([*conditions, _ALIVE])
        # Without the hint, the planner would read all of the owner's files.
        table = "files INDEXED BY by_purpose" if purpose else "files"
        query = f"SELECT * FROM {table} WHERE {where} ORDER BY id {'DESC' if newest_first else 'ASC'} LIMIT ?"
        with self._connection() as database:
            return [dict(row) for row in database.execute(query, (*values, int(now), limit))]

    def remove(self, owner: str, file_id: str) -> bool:
        """Remove a file's row. False if there was none, because another process had removed it."""
        with self._transaction() as database:
            query = "DELETE FROM files WHERE owner = ? AND id = ?"
            return database.execute(query, (owner, file_id)).rowcount == 1

    def expired(self, now: float) -> list[Json]:
        """The owner, id and blob of up to 1000 expired files."""
        with self._connection() as database:
            query = "SELECT owner, id, blob FROM files WHERE expires_at <= ? LIMIT 1000"
            return [dict(row) for row in database.execute(query, (int(now),))]

    def names(self, blob: str) -> bool:
        """Whether a row names this blob."""
        with self._connection() as database:
            return database.execute("SELECT 1 FROM files WHERE blob = ?", (blob,)).fetchone() is not None

    def _create_tables(self) -> None:
        with self._connection() as database:
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version > _VERSION:
                raise StoreError("The local store was made by a newer filesproxy.")
            if database.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                raise StoreError("The local store needs a local disk: this one has no shared memory for sqlite's WAL.")
            database.executescript(_SCHEMA + f"PRAGMA user_version = {_VERSION};")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writing, self._connection() as database:
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
                database.close()  # after a failure it is not used again
                raise
            if len(self._idle) < MAX_IDLE:
                self._idle.append(database)
            else:
                database.close()
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
        database.execute("PRAGMA synchronous = FULL")  # an acknowledged file survives a power failure
    except BaseException:
        database.close()
        raise
    return database


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
