"""The index of kept files: what is asked of the table of files."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing

from ...calls import Json
from ...operations import is_kept_id
from .clock import Now, Sight, judge
from .database import Database
from .sidecars import is_blob, is_row, stamp_of

FILE = "index.sqlite3"
MAX_PAGE_TEXT = 1 << 21  # bytes of file names and purposes as JSON; 10,000 names of usual length are less
_MAX_IDS = 500  # in one statement; an SQLite build may limit parameters to 999
_ALIVE = "(expires_at IS NULL OR expires_at > ?)"
_SHOWN = "id, filename, purpose, bytes, created_at, expires_at"  # in a list
_SHOWN_TYPES = frozenset((str, str, str, int, int, expires_at) for expires_at in (int, type(None)))

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    owner TEXT NOT NULL, id TEXT NOT NULL, filename TEXT NOT NULL, content_type TEXT NOT NULL,
    purpose TEXT NOT NULL, bytes INTEGER NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER,
    blob TEXT NOT NULL UNIQUE, sha256 TEXT, adopted_at INTEGER, PRIMARY KEY (owner, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_id ON files (id);
CREATE INDEX IF NOT EXISTS by_purpose ON files (owner, purpose, id);
CREATE INDEX IF NOT EXISTS by_expiry ON files (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS stamps (last INTEGER NOT NULL);
INSERT INTO stamps SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM stamps);
"""
_CLOCK = "CREATE TABLE IF NOT EXISTS clock (wall INTEGER, boot TEXT, ticks INTEGER, ahead INTEGER, since INTEGER)"


class Index(Database):
    """The table of files, and of what the sweeps saw of the clock. Raises StoreError and StoreFull."""

    name, what = "The local store", "The local store's index"
    remedy = "`python3 -m filesproxy files rebuild` makes a new one from the files"
    file = FILE
    schema = _SCHEMA + _CLOCK
    version = 3

    def _update(self, database: sqlite3.Connection, may_grow: bool) -> None:
        """Bring an older index up to date, inside its first transaction; version 1 is that of filesproxy 0.1.0.

        The index of ids takes room, and without it all works, if slower: it has to wait for a transaction that needs
        room anyway, since files must be deleted from a full disk.
        """
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version < 2:
            database.execute("ALTER TABLE files ADD COLUMN sha256 TEXT")
            database.execute(_CLOCK)
            database.execute("PRAGMA user_version = 2")
        if version < self.version and may_grow:
            database.execute("ALTER TABLE files ADD COLUMN adopted_at INTEGER")
            database.execute("CREATE INDEX IF NOT EXISTS by_id ON files (id)")
            database.execute(f"PRAGMA user_version = {self.version}")

    def add(self, row: Json, before_commit: Callable[[Json], None] = lambda row: None) -> None:
        """Insert a file and set its id. Ids ascend in the order of commits, even if a clock goes backwards."""
        with self._transaction(may_grow=True) as database:
            database.execute("UPDATE stamps SET last = max(last + 1, ?)", (row["created_at"] * 1_000_000,))
            stamp = database.execute("SELECT last FROM stamps").fetchone()[0]
            row["id"] = f"file-{stamp:014x}{secrets.token_hex(12)}"
            if not is_kept_id(row["id"]):
                raise self.damaged()
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
                found += [self._row(row) for row in database.execute(query, (owner, *asked, int(now)))]
        return found

    def find(self, file_id: str, owner: str, now: float) -> Json | None:
        """The row of a file, None unless this owner has it and it has not expired."""
        with self._connection() as database:
            query = f"SELECT * FROM files WHERE id = ? AND owner = ? AND {_ALIVE}"
            row = database.execute(query, (file_id, owner, int(now))).fetchone()
        return self._row(row) if row else None

    def has(self, row: Json) -> bool:
        """Whether this row still stands in the table, with the same owner and blob."""
        with self._connection() as database:
            query = "SELECT 1 FROM files WHERE owner = ? AND id = ? AND +blob = ?"
            return database.execute(query, (row["owner"], row["id"], row["blob"])).fetchone() is not None

    def by_id(self, file_id: str) -> Json | None:
        """The row of a file, whoever has it and also if it has expired."""
        with self._connection() as database:
            row = database.execute("SELECT * FROM files WHERE id = ?", (file_id,)).fetchone()
        return self._row(row) if row else None

    def owner_after(self, owner: str | None) -> str | None:
        """The first owner, by name, after this one who has a file; None if there is none. Before all is None."""
        condition, values = ("WHERE owner > ?", (owner,)) if owner is not None else ("", ())
        with self._connection() as database:
            query = f"SELECT owner FROM files {condition} ORDER BY owner LIMIT 1"
            found = database.execute(query, values).fetchone()
        if found and type(found[0]) is not str:
            raise self.damaged()
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
                shown = self._shown(row)
                size += len(json.dumps((shown["filename"], shown["purpose"])))
                if len(rows) == limit or (rows and size > MAX_PAGE_TEXT):
                    return rows, True
                rows.append(shown)
        return rows, False

    def stored_bytes(self, owner: str, now: float) -> int:
        """The bytes of all files of an owner that have not expired."""
        query = f"SELECT total(bytes) FROM files WHERE owner = ? AND {_ALIVE}"
        with self._connection() as database:
            return int(database.execute(query, (owner, int(now))).fetchone()[0])

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
                rows = [self._row(found) for found in database.execute(query, (owner, after, limit))]
            yield from rows
            if len(rows) < limit:
                return
            owner, after = rows[-1]["owner"], rows[-1]["id"]

    def remove(self, owner: str, file_id: str) -> bool:
        """Remove a file's row, on a full disk too. False if there was none: another process had removed it."""
        return self._with_room(lambda: self._remove("owner = ? AND id = ?", [(owner, file_id)])) == 1

    def give(self, row: Json, owner: str, now: float) -> bool:
        """Make somebody else the owner of a file. False if it is gone."""
        with self._transaction(may_grow=True) as database:
            which = (owner, int(now), row["owner"], row["id"], row["blob"])
            update = "UPDATE files SET owner = ?, adopted_at = ? WHERE owner = ? AND id = ? AND +blob = ?"
            return database.execute(update, which).rowcount > 0

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
                rows = [self._row(found) for found in database.execute(query, (int(now), *after))]
            if not all(row["expires_at"] is not None and row["expires_at"] <= now for row in rows):
                raise self.damaged()
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
            row = self._row(found) if found else None
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

    def _row(self, found: sqlite3.Row) -> Json:
        """A row as sqlite has it. StoreError for one that the store cannot have written."""
        row = dict(found)
        if not is_row(row) or not is_blob(row.get("blob")):
            raise self.damaged()
        return row

    def _shown(self, found: sqlite3.Row) -> Json:
        """What a list shows of a row. It may be one of ten thousand, so that only its types are looked at."""
        if tuple(map(type, found)) not in _SHOWN_TYPES:
            raise self.damaged()
        return dict(found)


def _insert(database: sqlite3.Connection, row: Json, otherwise: str = "ABORT") -> int:
    names = ", ".join(row)
    marks = ", ".join(f":{name}" for name in row)
    return database.execute(f"INSERT OR {otherwise} INTO files ({names}) VALUES ({marks})", row).rowcount
