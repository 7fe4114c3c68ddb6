"""A local store as tests use it: a clock that they set, calls without HTTP, and what lies in the folder."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from filesproxy.calls import Call, Upload
from filesproxy.transports.local.clock import HOLD_SECONDS
from filesproxy.transports.local.transport import Store


class Clock:
    """A clock that stands still until it is set, beside a counter of time that nobody sets."""

    def __init__(self, now):
        self.now = now
        self.ticks = 1000.0

    def __call__(self):
        return self.now

    def runs(self, seconds):
        self.now += seconds
        self.ticks += seconds


def open_store(folder, clock):
    return Store(str(folder), clock, lambda: clock.ticks)


def prove(store, clock):
    """Let the clock run until the sweeps believe it."""
    store.sweep()
    clock.runs(HOLD_SECONDS)
    store.sweep()


def upload(store, content=b"hello", owner="", name="a.jsonl", kind="application/jsonl", purpose="batch", seconds=None):
    """Upload to the store itself; `content` may be an iterable of chunks. The file object."""
    fields = {"purpose": purpose}
    if seconds:
        fields.update({"expires_after[anchor]": "created_at", "expires_after[seconds]": str(seconds)})
    chunks = iter([content] if isinstance(content, bytes) else content)
    return store(Call("upload_file", "POST", "/files", upload=Upload(name, kind, fields, chunks)), owner).json


def ask(store, operation, file_id="", owner="", **query):
    path = {"list_files": "/files", "retrieve_file_content": f"/files/{file_id}/content"}.get(
        operation, f"/files/{file_id}"
    )
    return store(Call(operation, "GET", path, query=query, file_id=file_id), owner)


def ids(store, **query):
    return [file["id"] for file in ask(store, "list_files", **query).json["data"]]


def content_of(store, file_id, owner=""):
    body = ask(store, "retrieve_file_content", file_id, owner).body
    try:
        return b"".join(body)
    finally:
        body.close()


def stored(folder):
    """What lies in the folder: names of rows' blobs, of kept blobs, of incoming files; sidecars beside blobs only."""
    with closing(sqlite3.connect(folder / "index.sqlite3")) as database:
        rows = sorted(name for (name,) in database.execute("SELECT blob FROM files"))
    assert list((folder / "trash").iterdir()) == []
    kept = {path.name for path in (folder / "blobs").iterdir()}
    assert {name[: -len(".json")] for name in kept if name.endswith(".json")} <= kept
    blobs = sorted(name for name in kept if not name.endswith(".json"))
    return rows, blobs, sorted(path.name for path in (folder / "incoming").iterdir())


NOTHING = ([], [], [])


def kept_bytes(folder, *places):
    """The bytes of every blob in these folders, sorted."""
    paths = [path for place in places for path in (folder / place).iterdir() if path.suffix != ".json"]
    return sorted(path.read_bytes() for path in paths)


#: the schema of version 0.1.0
OLD_SCHEMA = """
CREATE TABLE files (
    owner TEXT NOT NULL, id TEXT NOT NULL, filename TEXT NOT NULL, content_type TEXT NOT NULL,
    purpose TEXT NOT NULL, bytes INTEGER NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER,
    blob TEXT NOT NULL UNIQUE, PRIMARY KEY (owner, id)
) WITHOUT ROWID;
CREATE INDEX by_purpose ON files (owner, purpose, id);
CREATE INDEX by_expiry ON files (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE stamps (last INTEGER NOT NULL);
INSERT INTO stamps VALUES (0);
PRAGMA user_version = 1;
"""


def old_store(folder, contents, owner=""):
    """A folder as version 0.1.0 left it: no sidecars, no SHA-256, no trash/, no lost/. The ids, oldest first."""
    for place in ("", "incoming", "blobs"):
        (folder / place).mkdir(mode=0o700)
    made = [f"file-{stamp:014x}{'0' * 24}" for stamp in range(1, len(contents) + 1)]
    with closing(sqlite3.connect(folder / "index.sqlite3")) as database, database:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(OLD_SCHEMA)
        for number, (file_id, content) in enumerate(zip(made, contents)):
            (folder / "blobs" / f"{number:032x}").write_bytes(content)
            row = (owner, file_id, "a.txt", "text/plain", "batch", len(content), 1, None, f"{number:032x}")
            database.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    return made


def blob_of(folder, file):
    """The path of the blob of this file."""
    with closing(sqlite3.connect(folder / "index.sqlite3")) as database:
        ((name,),) = database.execute("SELECT blob FROM files WHERE id = ?", (file["id"],))
    return folder / "blobs" / name


def flipped(path):
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[2] ^= 1
    path.write_bytes(content)
