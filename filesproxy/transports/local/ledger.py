"""The ledger in a folder: which owner made which object at which account (`calls.Ledger`).

Several processes of one machine may share it. What it answers is committed and synced (WAL, synchronous = FULL), so it
survives a kill and a power failure.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ...calls import Allowance, Made, Owned
from ...errors import DuplicateId, StoreError, TooLarge, TooMany
from .database import Database
from .disk import check_folder, disk_errors, status
from .reserve import Reserve

DAY = 86400
RESERVED_SECONDS = DAY  # for which an upload of which nothing more was heard counts as stored
INTENT_SECONDS = 30 * DAY  # for which it is remembered, so that `files orphans` can say whose a file may be
DELETED_SECONDS = 30 * DAY  # for which a deleted object's id stays a position in lists
JUDGED_SECONDS = 30 * DAY  # for which a verdict about an input file is remembered
_MINUTE = 60
_PRUNE_SECONDS = 3600  # between two looks for rows that have ended
_MAX_IDS = 500  # in one statement; an SQLite build may limit parameters to 999

_COLUMNS = ", ".join(Owned._fields)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    number INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, id TEXT NOT NULL COLLATE NOCASE,
    owner TEXT NOT NULL, key TEXT NOT NULL, kind TEXT NOT NULL, created_at INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL, is_open INTEGER NOT NULL, expires_at INTEGER,
    deleted_at INTEGER, ends_at INTEGER, filename TEXT NOT NULL, purpose TEXT NOT NULL, bytes INTEGER, sha256 TEXT
);
CREATE INDEX IF NOT EXISTS by_id ON objects (account, id);
CREATE INDEX IF NOT EXISTS by_owner ON objects (owner, kind, account, number);
CREATE INDEX IF NOT EXISTS by_kind ON objects (account, kind, owner);
CREATE INDEX IF NOT EXISTS by_openness ON objects (account, owner, number) WHERE is_open;
CREATE INDEX IF NOT EXISTS by_end ON objects (ends_at) WHERE ends_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS uploads (
    number INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, owner TEXT NOT NULL, key TEXT NOT NULL,
    bytes INTEGER NOT NULL, began_at INTEGER NOT NULL, is_over INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS by_key ON uploads (key, began_at);
CREATE INDEX IF NOT EXISTS by_reservation ON uploads (owner) WHERE NOT is_over;
CREATE TABLE IF NOT EXISTS judged (
    account TEXT NOT NULL, owner TEXT NOT NULL, operation TEXT NOT NULL, id TEXT NOT NULL, at INTEGER NOT NULL,
    PRIMARY KEY (account, owner, operation, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS accounts (account TEXT PRIMARY KEY, since INTEGER NOT NULL) WITHOUT ROWID;
"""
_IS_STORED = "deleted_at IS NULL AND (expires_at IS NULL OR expires_at > ?)"


class FolderLedger(Database):
    """A ledger in this folder, which is made if it is missing. Raises StoreError and StoreFull."""

    name = what = "The ledger"
    file = "ledger.sqlite3"
    schema = _SCHEMA

    def __init__(self, folder: str) -> None:
        with disk_errors(self.name):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        check_folder(folder, self.name)
        self._identity: tuple[int, int] | None = None
        super().__init__(folder, make_room=Reserve(folder).release)  # of a store in the same folder
        self._identity = self._look()
        self._prune_at = 0.0  # by time.monotonic

    def _borrow(self) -> sqlite3.Connection:
        """A connection. StoreError if the file is another one than at the start, or gone: rows would be lost."""
        if self._identity and self._look() != self._identity:
            raise StoreError("The ledger is not where it was: put it back and restart the gateway.")
        return super()._borrow()

    def _look(self) -> tuple[int, int] | None:
        with disk_errors(self.name):
            found = status(self._path)
        return (found.st_dev, found.st_ino) if found else None

    def owners(self, account: str, ids: Sequence[str]) -> list[Owned]:
        """What is known of these ids."""
        found: list[Owned] = []
        ids = [each for each in ids if each.isascii() or each.encode("utf-8", "ignore").decode("utf-8") == each]
        with self._connection() as database:
            for start in range(0, len(ids), _MAX_IDS):
                asked = ids[start : start + _MAX_IDS]
                query = f"SELECT {_COLUMNS} FROM objects WHERE account = ? AND id IN ({', '.join('?' * len(asked))})"
                found += map(_owned, database.execute(query, (account, *asked)))
        return found

    def begin_upload(self, account: str, owner: str, key: str, size: int, allowance: Allowance, now: float) -> int:
        """Note an upload that begins and reserve its bytes, if the owner and the key may have one more."""
        with self._transaction(may_grow=True) as database:
            self._prune_if_due(database, int(now))
            _since(database, account, now)
            if allowance.max_uploads_per_minute:
                _check_rate(database, key, allowance.max_uploads_per_minute, int(now))
            if allowance.max_stored_bytes:
                stored = _stored(database, owner, int(now)) + allowance.kept()  # in this order: see `Allowance`
                _check_stored(stored, size, allowance.max_stored_bytes)
            row = (account, owner, key, size, int(now))
            insert = "INSERT INTO uploads (account, owner, key, bytes, began_at, is_over) VALUES (?, ?, ?, ?, ?, 0)"
            return int(database.execute(insert, row).lastrowid or 0)

    def end_upload(self, number: int) -> None:
        """Give an upload's reservation back."""
        self._with_room(lambda: self._end_upload(number))

    def _end_upload(self, number: int) -> None:
        with self._transaction() as database:
            database.execute("UPDATE uploads SET is_over = 1 WHERE number = ?", (number,))

    def record(
        self, account: str, owner: str, key: str, made: Sequence[Made], now: float, upload: int = 0, parent: str = ""
    ) -> str:
        """Record objects in one transaction; returns whose they are. DuplicateId if one is another owner's."""
        with self._transaction(may_grow=True) as database:
            self._prune_if_due(database, int(now))
            _since(database, account, now)
            if parent:
                query = "SELECT owner, key FROM objects WHERE account = ? AND id = ? AND +id = ? COLLATE BINARY"
                owner, key = database.execute(query, (account, parent, parent)).fetchone() or (owner, key)
            for each in made:
                _insert(database, account, owner, key, each, int(now), is_new=bool(upload))
            if upload:
                database.execute("UPDATE uploads SET is_over = 1 WHERE number = ?", (upload,))
        return owner

    def delete(self, account: str, item_id: str, now: float) -> None:
        """Remember that an object has been deleted, and for a while what it was. Works on a full disk."""
        self._with_room(lambda: self._delete(account, item_id, now))

    def _delete(self, account: str, item_id: str, now: float) -> None:
        with self._transaction() as database:
            update = "UPDATE objects SET deleted_at = ?, ends_at = ?, is_open = 0 WHERE account = ? AND id = ?"
            which = (int(now), int(now) + DELETED_SECONDS, account, item_id, item_id)
            database.execute(f"{update} AND +id = ? COLLATE BINARY AND deleted_at IS NULL", which)
            database.execute("DELETE FROM judged WHERE account = ? AND id = ?", (account, item_id))

    def unfinished(self, account: str, owner: str, limit: int) -> list[Owned]:
        """An owner's batches and jobs that are not finished, the newest first."""
        where = "account = ? AND owner = ? AND is_open AND kind IN ('batch', 'job') ORDER BY number DESC LIMIT ?"
        return self._rows(f"SELECT {_COLUMNS} FROM objects WHERE {where}", account, owner, limit)

    def of_kind(self, account: str, owner: str, kind: str) -> list[Owned]:
        """An owner's objects of one kind that were not deleted here, in the order in which they were recorded."""
        where = "account = ? AND owner = ? AND kind = ? AND deleted_at IS NULL"
        return self._rows(f"SELECT {_COLUMNS} FROM objects WHERE {where} ORDER BY number", account, owner, kind)

    def owners_of(self, account: str, kind: str) -> list[str]:
        """Who has objects of one kind, by name."""
        query = "SELECT DISTINCT owner FROM objects WHERE account = ? AND kind = ? ORDER BY owner"
        with self._connection() as database:
            return [str(row[0]) for row in database.execute(query, (account, kind))]

    def known_owners(self) -> list[str]:
        """Everybody who has objects, by name."""
        with self._connection() as database:
            found = database.execute("SELECT DISTINCT owner FROM objects WHERE deleted_at IS NULL ORDER BY owner")
            return [str(row[0]) for row in found]

    def known_accounts(self) -> list[str]:
        """Every account where somebody has objects, by name."""
        with self._connection() as database:
            found = database.execute("SELECT DISTINCT account FROM objects WHERE deleted_at IS NULL ORDER BY account")
            return [str(row[0]) for row in found]

    def since(self, account: str, now: float) -> int:
        """When the account came to this ledger, in seconds since the epoch: at the latest now."""
        with self._connection() as database:
            found = database.execute("SELECT since FROM accounts WHERE account = ?", (account,)).fetchone()
        if found:
            return int(found[0])
        with self._transaction(may_grow=True) as database:
            return _since(database, account, now)

    def is_judged(self, account: str, owner: str, operation: str, file_id: str) -> bool:
        """Whether a file was found to name no object of others, as the input of this operation."""
        query = "SELECT 1 FROM judged WHERE account = ? AND owner = ? AND operation = ? AND id = ?"
        with self._connection() as database:
            return database.execute(query, (account, owner, operation, file_id)).fetchone() is not None

    def note_judged(self, account: str, owner: str, operation: str, file_id: str, now: float) -> None:
        """Remember that it was."""
        with self._transaction(may_grow=True) as database:
            row = (account, owner, operation, file_id, int(now))
            database.execute("INSERT OR REPLACE INTO judged VALUES (?, ?, ?, ?, ?)", row)

    # For the operator's commands.

    def every(self, account: str | None = None, owner: str | None = None, limit: int = 1000) -> Iterator[Owned]:
        """All rows, deleted ones included, or those of an account or an owner, in the order of recording.

        A page at a time: a long look would keep sqlite from writing back its log.
        """
        last = 0
        while True:
            where = "number > ? AND (? IS NULL OR account = ?) AND (? IS NULL OR owner = ?)"
            query = f"SELECT {_COLUMNS} FROM objects WHERE {where} ORDER BY number LIMIT ?"
            rows = self._rows(query, last, account, account, owner, owner, limit)
            yield from rows
            if len(rows) < limit:
                return
            last = rows[-1].number

    def give(self, old: str, new: str, account: str) -> int:
        """Make another owner the owner of all objects of one at an account; returns how many there were."""
        with self._transaction() as database:
            database.execute("DELETE FROM judged WHERE account = ?", (account,))
            database.execute("UPDATE uploads SET owner = ? WHERE owner = ? AND account = ?", (new, old, account))
            update = "UPDATE objects SET owner = ? WHERE owner = ? AND account = ?"
            return database.execute(update, (new, old, account)).rowcount

    def expired(self, account: str, now: float) -> list[Owned]:
        """The files that have expired and were not deleted here."""
        where = "account = ? AND deleted_at IS NULL AND expires_at <= ? ORDER BY number"
        return self._rows(f"SELECT {_COLUMNS} FROM objects WHERE {where}", account, int(now))

    def uploads(self, account: str) -> list[tuple[str, str, int, int]]:
        """(owner, key, bytes, time) of the uploads to this account of which nothing more was heard."""
        query = "SELECT owner, key, bytes, began_at FROM uploads WHERE account = ? AND NOT is_over ORDER BY number"
        with self._connection() as database:
            return [(row[0], row[1], row[2], row[3]) for row in database.execute(query, (account,))]

    def prune(self, now: float) -> int:
        """Forget what has ended; returns how many objects that were."""
        with self._transaction() as database:
            return _prune(database, int(now))

    def _prune_if_due(self, database: sqlite3.Connection, now: int) -> None:
        if time.monotonic() >= self._prune_at:
            self._prune_at = time.monotonic() + _PRUNE_SECONDS
            _prune(database, now)

    def _rows(self, query: str, *values: Any) -> list[Owned]:
        with self._connection() as database:
            return list(map(_owned, database.execute(query, values)))


def existing(folder: str) -> FolderLedger | None:
    """The ledger in this folder; None if there is none yet, which the gateway makes and nobody else."""
    is_there = bool(folder) and os.path.exists(os.path.join(folder, FolderLedger.file))
    return FolderLedger(folder) if is_there else None


def _owned(row: sqlite3.Row) -> Owned:
    return Owned(*row)


def _since(database: sqlite3.Connection, account: str, now: float) -> int:
    database.execute("INSERT OR IGNORE INTO accounts VALUES (?, ?)", (account, int(now)))
    return int(database.execute("SELECT since FROM accounts WHERE account = ?", (account,)).fetchone()[0])


def _insert(
    database: sqlite3.Connection, account: str, owner: str, key: str, made: Made, now: int, is_new: bool
) -> None:
    """Insert an object. Of one that its owner has already, only whether more is to come of it may be new.

    `is_new` says that it was made just now: then what its id stood for before is no more.
    """
    query = "SELECT owner, number, deleted_at, expires_at FROM objects WHERE account = ? AND id = ?"
    known = database.execute(f"{query} AND +id = ? COLLATE BINARY", (account, made.id, made.id)).fetchone()
    if known and known[0] != owner:
        if made.kind == "item":  # some hosts number them, each response anew; then nobody can refer to the second one
            return
        raise DuplicateId("The provider's answer names an object that belongs to another owner.")
    is_there = known and known[2] is None and (known[3] is None or known[3] > now)
    if is_there and not is_new:
        database.execute("UPDATE objects SET is_open = ? WHERE number = ?", (made.is_open, known[1]))
        return
    if known:  # made again: some hosts derive the id from the content or the name
        database.execute("DELETE FROM objects WHERE number = ?", (known[1],))
        database.execute("DELETE FROM judged WHERE account = ? AND id = ?", (account, made.id))
    values = {name: value for name, value in made._asdict().items() if name != "ends_after"}
    values.update(account=account, owner=owner, key=key, recorded_at=now)
    values["ends_at"] = None if made.ends_after is None else now + made.ends_after
    names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
    database.execute(f"INSERT INTO objects ({names}) VALUES ({marks})", values)


def _check_rate(database: sqlite3.Connection, key: str, limit: int, now: int) -> None:
    # What began later than now was noted before the clock was put back.
    where = "key = ? AND began_at > ? AND began_at <= ? ORDER BY began_at DESC LIMIT 1 OFFSET ?"
    query = f"SELECT began_at FROM uploads WHERE {where}"
    earlier = database.execute(query, (key, now - _MINUTE, now + 1, limit - 1)).fetchone()
    if earlier:
        seconds = max(1, earlier[0] + _MINUTE - now)
        message = f"This gateway key may begin {limit} uploads a minute; the next one in {seconds} s."
        raise TooMany(message, headers={"retry-after": str(seconds)})


def _stored(database: sqlite3.Connection, owner: str, now: int) -> int:
    """The bytes of an owner's files at all accounts, and of its uploads that have begun, in one part or in several."""
    begun = now - RESERVED_SECONDS
    of_files = f"SELECT total(bytes) FROM objects WHERE owner = ? AND kind = 'file' AND {_IS_STORED}"
    in_parts = "SELECT total(bytes) FROM objects WHERE owner = ? AND kind = 'upload' AND is_open AND recorded_at > ?"
    of_uploads = "SELECT total(bytes) FROM uploads WHERE owner = ? AND NOT is_over AND began_at > ?"
    sums = ((of_files, now), (in_parts, begun), (of_uploads, begun))
    return int(sum(database.execute(query, (owner, since)).fetchone()[0] for query, since in sums))


def _check_stored(stored: int, size: int, limit: int) -> None:
    if stored + size > limit:
        left = f"{max(0, limit - stored)} are left, and this upload may have {size}"
        message = f"The files of this owner may have {limit} bytes together; {left}."
        raise TooLarge(message, param="file", code="quota_exceeded")


def _prune(database: sqlite3.Connection, now: int) -> int:
    database.execute(
        "DELETE FROM uploads WHERE began_at < ? AND (is_over OR began_at < ?)",
        (now - 2 * _MINUTE, now - INTENT_SECONDS),
    )
    database.execute("DELETE FROM judged WHERE at < ?", (now - JUDGED_SECONDS,))
    return database.execute("DELETE FROM objects WHERE ends_at <= ?", (now,)).rowcount
