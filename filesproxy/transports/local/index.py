"""The index of kept files: a table in sqlite (3.34 or newer, WAL mode), which several processes may share.

Opening an index that is there writes nothing, so that files can be read from a full or read-only disk.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import quote

from ...calls import Json
from ...errors import StoreError, StoreFull
from ...operations import is_kept_id
from .clock import Now, Sight, judge
from .disk import disk_errors, private
from .sidecars import is_blob, is_row, stamp_of

FILE = "index.sqlite3"
LOG_SUFFIXES = ("-wal", "-shm")  # sqlite's log of changes that are not in the database yet, and the index of that log
_BUSY_SECONDS = 30.0  # to wait for another process's writes, each of which takes milliseconds
_VERSION = 3
MAX_PAGE_TEXT = 1 << 21  # bytes of file names and purposes as JSON; 10,000 names of usual length are less
MAX_IDLE = 4  # connections; each has two file descriptors
_MAX_IDS = 500  # in one statement; an SQLite build may limit parameters to 999
_ALIVE = "(expires_at IS NULL OR expires_at > ?)"
_REBUILD = "`python3 -m filesproxy files rebuild` makes a new one from the files"
_SHOWN = "id, filename, purpose, bytes, created_at, expires_at"  # in a list
_SHOWN_TYPES = frozenset((str, str, str, int, int, expires_at) for expires_at in (int, type(None)))
_Result = TypeVar("_Result")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    owner TEXT NOT NULL, id TEXT NOT NULL, filename TEXT NOT NULL, content_type TEXT NOT NULL,
    purpose TEXT NOT NULL, bytes INTEGER NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER,
    blob TEXT NOT NULL UNIQUE, sha256 TEXT, PRIMARY KEY (owner, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_id ON files (id);
CREATE INDEX IF NOT EXISTS by_purpose ON files (owner, purpose, id);
CREATE INDEX IF NOT EXISTS by_expiry ON files (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS stamps (last INTEGER NOT NULL);
INSERT INTO stamps SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM stamps);
"""
_CLOCK = "CREATE TABLE IF NOT EXISTS clock (wall INTEGER, boot TEXT, ticks INTEGER, ahead INTEGER, since INTEGER)"


class Index:
    """The table of files. Each operation borrows a connection to sqlite. Raises StoreError and StoreFull.

    `holds_files` says whether the folder holds blobs: then no empty index is made. `make_room` frees space on a full
    disk, for what must work there.
    """

    def __init__(
        self,
        folder: str,
        file: str = FILE,
        holds_files: Callable[[], bool] = lambda: False,
        make_room: Callable[[], object] = lambda: None,
    ) -> None:
        self._idle: list[sqlite3.Connection] = []
        self._writing = threading.Lock()  # one writer for each process: sqlite would let them wait in a loop
        self._folder = folder
        self._path = os.path.join(folder, file)
        self._make_room = make_room
        self.close = weakref.finalize(self, _close, self._idle, os.getpid())  # at the latest when the process ends
        version = self._version() or self._make(holds_files)
        if version > _VERSION:
            raise StoreError("The local store was made by a newer filesproxy.")
        self._is_current = version == _VERSION

    def add(self, row: Json, before_commit: Callable[[Json], None] = lambda row: None) -> None:
        """Insert a file and set its id. Ids ascend in the order of commits, even if a clock goes backwards."""
        with self._transaction() as database:
            database.execute("UPDATE stamps SET last = max(last + 1, ?)", (row["created_at"] * 1_000_000,))
            stamp = database.execute("SELECT last FROM stamps").fetchone()[0]
            row["id"] = f"file-{stamp:014x}{secrets.token_hex(12)}"
            if not is_kept_id(row["id"]):
                raise _damaged()
            _insert(database, row)
            before_commit(row)

    def adopt(self, rows: Iterable[Json]) -> int:
        """Insert files that have ids already; returns how many were not there yet. Later ids will be higher."""
        added = 0
        with self._transaction() as database:
            for row in rows:
                added += _insert(database, row, "IGNORE")
                database.execute("UPDATE stamps SET last = max(last, ?)", (stamp_of(row["id"]),))
        return added

    def find_many(self, file_ids: Sequence[str], owner: str, now: float) -> list[Json]:
        """The rows of those files that this owner has and that have not expired, by one query for each 500 ids."""
        found: list[Json] = []
        with self._connection() as database:
            for start in range(0, len(file_ids), _MAX_IDS):
                asked = file_ids[start : start + _MAX_IDS]
                marks = ", ".join("?" * len(asked))
                query = f"SELECT * FROM files WHERE owner = ? AND id IN ({marks}) AND {_ALIVE}"
                found += [_row(row) for row in database.execute(query, (owner, *asked, int(now)))]
        return found

    def find(self, file_id: str, owner: str, now: float) -> Json | None:
        """The row of a file, None unless this owner has it and it has not expired."""
        with self._connection() as database:
            query = f"SELECT * FROM files WHERE id = ? AND owner = ? AND {_ALIVE}"
            row = database.execute(query, (file_id, owner, int(now))).fetchone()
        return _row(row) if row else None

    def by_id(self, file_id: str) -> Json | None:
        """The row of a file, whoever has it and also if it has expired."""
        with self._connection() as database:
            row = database.execute("SELECT * FROM files WHERE id = ?", (file_id,)).fetchone()
        return _row(row) if row else None

    def owner_after(self, owner: str | None) -> str | None:
        """The first owner, by name, after this one who has a file; None if there is none. Before all is None."""
        condition, values = ("WHERE owner > ?", (owner,)) if owner is not None else ("", ())
        with self._connection() as database:
            query = f"SELECT owner FROM files {condition} ORDER BY owner LIMIT 1"
            found = database.execute(query, values).fetchone()
        if found and type(found[0]) is not str:
            raise _damaged()
        return found[0] if found else None

    def page(
        self, owner: str, purpose: str | None, after: str | None, newest_first: bool, limit: int, now: float
    ) -> tuple[list[Json], bool]:
        """What a list shows of the rows after the id `after`, in the order of ids, and whether more follow.

        They are at most `limit`, and fewer where their text would be more than MAX_PAGE_TEXT: clients go on from the
        last one either way. Of the others, no more than one row is read.
        """
        conditions, values = ["owner = ?"], [owner]
        if purpose:
            conditions, values = [*conditions, "purpose = ?"], [*values, purpose]
        if after:
            conditions, values = [*conditions, "id < ?" if newest_first else "id > ?"], [*values, after]
        where = " AND ".join([*conditions, _ALIVE])
        # Without the hint, the planner would read all of the owner's files.
        table = "files INDEXED BY by_purpose" if purpose else "files"
        query = f"SELECT {_SHOWN} FROM {table} WHERE {where} ORDER BY id {'DESC' if newest_first else 'ASC'} LIMIT ?"
        rows: list[Json] = []
        size = 0
        with self._connection() as database, closing(database.execute(query, (*values, int(now), limit + 1))) as found:
            for row in found:
                shown = _shown(row)
                size += len(json.dumps((shown["filename"], shown["purpose"])))
                if len(rows) == limit or (rows and size > MAX_PAGE_TEXT):
                    return rows, True
                rows.append(shown)
        return rows, False

    def owners(self) -> list[str]:
        """Everybody who has a file."""
        found: list[str] = []
        while (owner := self.owner_after(found[-1] if found else None)) is not None:
            found.append(owner)
        return found

    def every(self, only: str | None = None, limit: int = 1000) -> Iterator[Json]:
        """All rows, or those of one owner, by owner and id, a page at a time.

        A long look would keep sqlite from writing back its log.
        """
        owner, after = only or "", ""
        condition = "(owner, id) > (?, ?)" if only is None else "owner = ? AND id > ?"
        while True:
            query = f"SELECT * FROM files WHERE {condition} ORDER BY owner, id LIMIT ?"
            with self._connection() as database:
                rows = [_row(found) for found in database.execute(query, (owner, after, limit))]
            yield from rows
            if len(rows) < limit:
                return
            owner, after = rows[-1]["owner"], rows[-1]["id"]

    def remove(self, owner: str, file_id: str) -> bool:
        """Remove a file's row, on a full disk too. False if there was none: another process had removed it."""
        return self._with_room(lambda: self._remove("owner = ? AND id = ?", [(owner, file_id)])) == 1

    def give(self, row: Json, owner: str) -> bool:
        """Make somebody else the owner of a file. False if it is gone."""
        with self._transaction() as database:
            which = (owner, row["owner"], row["id"], row["blob"])
            return (
                database.execute("UPDATE files SET owner = ? WHERE owner = ? AND id = ? AND +blob = ?", which).rowcount
                > 0
            )

    def forget(self, rows: Sequence[Json]) -> None:
        """Remove these rows, where they still name the same blobs."""
        which = [(row["owner"], row["id"], row["blob"]) for row in rows]
        self._with_room(lambda: self._remove("owner = ? AND id = ? AND +blob = ?", which))

    def _remove(self, condition: str, which: Sequence[tuple[str, ...]]) -> int:
        with self._transaction() as database:
            return database.executemany(f"DELETE FROM files WHERE {condition}", which).rowcount

    def expired(self, now: float) -> Iterator[list[Json]]:
        """The rows of files that had expired at this time, up to 100 at once.

        What it leads to cannot be undone, so the row itself is looked at: the planner is content with the entry in
        `by_expiry`, where one bit may have changed. StoreError if the two differ.
        """
        after = (-1, "", "")
        while True:
            due = (
                "SELECT owner, id FROM files WHERE expires_at <= ? AND (expires_at, owner, id) > (?, ?, ?)"
                " ORDER BY expires_at, owner, id LIMIT 100"
            )
            query = f"SELECT files.* FROM ({due}) AS due LEFT JOIN files USING (owner, id)"
            with self._connection() as database:
                rows = [_row(found) for found in database.execute(query, (int(now), *after))]
            if not all(row["expires_at"] is not None and row["expires_at"] <= now for row in rows):
                raise _damaged()
            if not rows:
                return
            yield rows
            after = max((row["expires_at"], row["owner"], row["id"]) for row in rows)

    def of_blob(self, blob: str, sidecar: Json | None) -> Json | None:
        """The row that names this blob, as the row itself says: by sqlite's index of blobs, or where `sidecar` leads.

        The `+` makes sqlite look at the row, and not again into its index, which may be damaged.
        """
        by_index = "(owner, id) IN (SELECT owner, id FROM files WHERE blob = ?) AND +blob = ?"
        with self._connection() as database:
            found = database.execute(f"SELECT * FROM files WHERE {by_index}", (blob, blob)).fetchone()
            if not found and sidecar:
                key = (sidecar["owner"], sidecar["id"])
                found = database.execute("SELECT * FROM files WHERE owner = ? AND id = ?", key).fetchone()
            row = _row(found) if found else None
        return row if row and row["blob"] == blob else None

    def names(self, blob: str) -> bool:
        """Whether a row names this blob, as sqlite's index of blobs has it. Before a file goes, `of_blob` is asked."""
        with self._connection() as database:
            return database.execute("SELECT 1 FROM files WHERE blob = ?", (blob,)).fetchone() is not None

    def is_empty(self) -> bool:
        """Whether it names no file at all."""
        with self._connection() as database:
            return database.execute("SELECT 1 FROM files LIMIT 1").fetchone() is None

    def see(self, now: Now) -> tuple[Sight | None, Sight]:
        """What was seen of the clocks last, and what is to be remembered now. Works on a full disk."""
        return self._with_room(lambda: self._see(now))

    def _see(self, now: Now) -> tuple[Sight | None, Sight]:
        with self._transaction() as database:
            found = database.execute("SELECT * FROM clock").fetchone()
            last = Sight(*found) if found else None
            sight = judge(last, now)
            database.execute("DELETE FROM clock")
            database.execute("INSERT INTO clock VALUES (?, ?, ?, ?, ?)", sight)
        return last, sight

    def check(self) -> None:
        """StoreError if sqlite finds the index damaged. Reads all of it: 0.3 s for 50,000 files.

        The quick check would not compare sqlite's own indexes with the table, and the sweep relies on two of them.
        """
        with self._connection() as database:
            found = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise _damaged()

    def copy_to(self, path: str) -> None:
        """Copy the index as it is at one moment, whatever is written meanwhile, to a new file."""
        with disk_errors():
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with self._connection() as database:
            target = sqlite3.connect(path)
            try:
                database.backup(target)
            finally:
                target.close()

    def _version(self) -> int:
        """The version of the schema; 0 if there is no index."""
        if not os.path.exists(self._path):
            return 0
        with self._connection() as database:
            return int(database.execute("PRAGMA user_version").fetchone()[0])

    def _make(self, holds_files: Callable[[], bool]) -> int:
        with disk_errors(), open(os.path.join(self._folder, "lock"), "ab", opener=private) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one process at a time makes the tables
            version = self._version()
            if version:
                return version
            if holds_files():  # with an empty index, every file would look abandoned
                raise StoreError(f"The local store's folder holds files but no index: {_REBUILD}.")
            with suppress(FileExistsError):  # sqlite itself would apply the umask
                # Only created here, never opened: closing it would drop the POSIX locks of sqlite in this process.
                os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            with self._connection() as database:
                if database.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                    message = "The local store needs a local disk: this one has no shared memory for sqlite's WAL."
                    raise StoreError(message)
                database.executescript(f"{_SCHEMA}{_CLOCK}; PRAGMA user_version = {_VERSION};")
        return _VERSION

    def _update(self, database: sqlite3.Connection) -> None:
        """Bring an older index up to date, inside its first transaction; version 1 is that of filesproxy 0.1.0."""
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version < 2:
            database.execute("ALTER TABLE files ADD COLUMN sha256 TEXT")
            database.execute(_CLOCK)
        if version < _VERSION:
            database.execute("CREATE INDEX IF NOT EXISTS by_id ON files (id)")
            database.execute(f"PRAGMA user_version = {_VERSION}")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writing, self._connection() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                if not self._is_current:
                    self._update(database)
                yield database
                database.execute("COMMIT")
                self._is_current = True
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
            if len(self._idle) < MAX_IDLE and not isinstance(database, _Passing) and self.close.alive:
                self._idle.append(database)
            else:
                database.close()
        except sqlite3.Error as error:
            raise _our_error(error) from None
        except UnicodeEncodeError:  # of what was to be written
            raise
        except (ValueError, TypeError, OverflowError) as error:  # what was read is not text, or not what it should be
            raise _damaged(type(error).__name__) from None

    def _borrow(self) -> sqlite3.Connection:
        with suppress(IndexError):
            return self._idle.pop()
        try:
            return _connect(self._path)
        except sqlite3.OperationalError as error:
            # On a full disk, sqlite cannot make the index of its log; it says so, or speaks of an I/O error.
            if not re.search("full|I/O", str(error)):
                raise
            self._make_room()
            return _connect(self._path)

    def _with_room(self, work: Callable[[], _Result]) -> _Result:
        try:
            return work()
        except StoreFull:
            self._make_room()  # or another thread has made it
            return work()


class _Passing(sqlite3.Connection):
    """A connection for one operation: it was opened where nothing can be written, and would stay so."""


def _connect(path: str) -> sqlite3.Connection:
    if os.access(path, os.W_OK):
        return _opened(path)
    try:
        return _opened(path, factory=_Passing)
    except sqlite3.OperationalError as error:
        if "unable to open" not in str(error) or not _is_frozen(path):
            raise
        return _opened(f"file:{quote(path)}?immutable=1", uri=True, factory=_Passing)


def _opened(path: str, **options: Any) -> sqlite3.Connection:
    database: sqlite3.Connection
    database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, **options)
    database.row_factory = sqlite3.Row
    try:
        database.execute("PRAGMA synchronous = FULL")  # an acknowledged file survives a power failure
        database.execute("PRAGMA schema_version").fetchone()  # opens its log: what cannot be had shows now
    except BaseException:
        database.close()
        raise
    return database


def _is_frozen(path: str) -> bool:
    """Whether nothing can be written there and everything is in the database itself.

    sqlite would have to make a log beside it in order to read it, unless it is told that nobody writes.
    """
    log = path + LOG_SUFFIXES[0]
    return not os.access(os.path.dirname(path), os.W_OK) and not (os.path.exists(log) and os.path.getsize(log))


def _insert(database: sqlite3.Connection, row: Json, otherwise: str = "ABORT") -> int:
    names = ", ".join(row)
    marks = ", ".join(f":{name}" for name in row)
    return database.execute(f"INSERT OR {otherwise} INTO files ({names}) VALUES ({marks})", row).rowcount


def _close(idle: list[sqlite3.Connection], maker: int) -> None:
    """Write sqlite's log back, so that a copy of the index alone has all rows, and close the idle connections."""
    if os.getpid() != maker:
        return  # a fork's copies: to close them would drop the locks of the process that made them
    with suppress(sqlite3.Error, ValueError):  # its message may not be text
        if idle:
            idle[0].execute("PRAGMA wal_checkpoint(PASSIVE)")  # waits for nobody
    while idle:
        idle.pop().close()


def _our_error(error: sqlite3.Error) -> StoreError:
    text = str(error)
    if "full" in text:
        return StoreFull("The local store has no space left.")
    if "readonly" in text:
        return StoreError("The local store's disk is read-only.")
    # Before Python 3.11, a message that quotes what is not text is empty.
    if not text or re.search("malformed|not a database|decode|no such (table|column|index)", text):
        return _damaged()
    return StoreError("The local store's index cannot be used.")


def _damaged(detail: str = "") -> StoreError:
    return StoreError(f"The local store's index is damaged: {_REBUILD}.", detail=detail)


def _row(found: sqlite3.Row) -> Json:
    """A row as sqlite has it. StoreError for one that the store cannot have written."""
    row = dict(found)
    if not is_row(row) or not is_blob(row.get("blob")):
        raise _damaged()
    return row


def _shown(found: sqlite3.Row) -> Json:
    """What a list shows of a row. It may be one of ten thousand, so that only its types are looked at."""
    if tuple(map(type, found)) not in _SHOWN_TYPES:
        raise _damaged()
    return dict(found)
