"""A SQLite database (3.34 or newer, WAL mode) in a folder, which several processes may share.

Opening one that is there writes nothing, so that files can be read from a full or read-only disk.
"""

from __future__ import annotations

import fcntl
import os
import re
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import quote

from ...errors import StoreError, StoreFull
from .disk import disk_errors, private

LOG_SUFFIXES = ("-wal", "-shm")  # sqlite's log of changes that are not in the database yet, and the index of that log
_BUSY_SECONDS = 30.0  # to wait for another process's writes, each of which takes milliseconds
MAX_IDLE = 4  # connections; each has two file descriptors
_Result = TypeVar("_Result")


class Database:
    """Connections, transactions and the schema. Each operation borrows a connection. Raises StoreError and StoreFull.

    A subclass says what it belongs to, in `name` (as in "The local store has no space left"), `what` it is itself, and
    what helps if it is damaged; its file, its schema, the version of that, and what an older one becomes. `holds_files`
    says whether the folder holds what an empty database would contradict: then none is made. `make_room` frees space on
    a full disk, for what must work there.
    """

    name = what = "The database"
    remedy = "restore it from a backup"
    file = ""
    schema = ""
    version = 1

    def __init__(
        self,
        folder: str,
        holds_files: Callable[[], bool] = lambda: False,
        make_room: Callable[[], object] = lambda: None,
        file: str = "",
    ) -> None:
        self._idle: list[sqlite3.Connection] = []
        self._writing = threading.Lock()  # one writer for each process: sqlite would let them wait in a loop
        self._folder = folder
        self._path = os.path.join(folder, file or self.file)
        self._make_room = make_room
        self.is_new = False  # whether it was made just now
        self.close = weakref.finalize(self, _close, self._idle, os.getpid())  # at the latest when the process ends
        version = self._version() or self._make(holds_files)
        if version > self.version:
            raise StoreError(f"{self.name} was made by a newer filesproxy.")
        self._is_current = version == self.version

    def damaged(self, detail: str = "") -> StoreError:
        """The error of a database that holds what nobody can have written."""
        return StoreError(f"{self.what} is damaged: {self.remedy}.", detail=detail)

    def check(self) -> None:
        """StoreError if sqlite finds the index damaged. Reads all of it: 0.3 s for 50,000 files.

        The quick check would not compare sqlite's own indexes with the table, and the sweep relies on two of them.
        """
        with self._connection() as database:
            found = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise self.damaged()

    def copy_to(self, path: str) -> None:
        """Copy the index as it is at one moment, whatever is written meanwhile, to a new file."""
        with disk_errors(self.name):
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
        with disk_errors(self.name), open(os.path.join(self._folder, "lock"), "ab", opener=private) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one process at a time makes the tables
            version = self._version()
            if version:
                return version
            if holds_files():  # with an empty index, every file would look abandoned
                raise StoreError(f"{self.name}'s folder holds files but no index: {self.remedy}.")
            with suppress(FileExistsError):  # sqlite itself would apply the umask
                # Only created here, never opened: closing it would drop the POSIX locks of sqlite in this process.
                os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            with self._connection() as database:
                if database.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                    message = f"{self.name} needs a local disk: this one has no shared memory for sqlite's WAL."
                    raise StoreError(message)
                database.executescript(f"BEGIN; {self.schema}; PRAGMA user_version = {self.version}; COMMIT;")
        self.is_new = True
        return self.version

    def _update(self, database: sqlite3.Connection, may_grow: bool) -> None:
        """Bring an older database up to date, inside its first transaction, as far as it `may_grow`."""

    @contextmanager
    def _transaction(self, may_grow: bool = False) -> Iterator[sqlite3.Connection]:
        """A transaction, before which an older index is brought up to date, as far as it `may_grow`."""
        with self._writing, self._connection() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                if not self._is_current:
                    self._update(database, may_grow)
                yield database
                database.execute("COMMIT")
                self._is_current |= may_grow
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
            raise self._our_error(error) from None
        except UnicodeEncodeError:  # of what was to be written
            raise
        except (ValueError, TypeError, OverflowError) as error:  # what was read is not text, or not what it should be
            raise self.damaged(type(error).__name__) from None

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

    def _our_error(self, error: sqlite3.Error) -> StoreError:
        text = str(error)
        if "full" in text:
            return StoreFull(f"{self.name} has no space left.")
        if "readonly" in text:
            return StoreError(f"{self.name}'s disk is read-only.")
        # Before Python 3.11, a message that quotes what is not text is empty.
        if not text or re.search("malformed|not a database|decode|no such (table|column|index)", text):
            return self.damaged()
        return StoreError(f"{self.what} cannot be used.")

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


def _close(idle: list[sqlite3.Connection], maker: int) -> None:
    """Write sqlite's log back, so that a copy of the index alone has all rows, and close the idle connections."""
    if os.getpid() != maker:
        return  # a fork's copies: to close them would drop the locks of the process that made them
    with suppress(sqlite3.Error, ValueError):  # its message may not be text
        if idle:
            idle[0].execute("PRAGMA wal_checkpoint(PASSIVE)")  # waits for nobody
    while idle:
        idle.pop().close()
