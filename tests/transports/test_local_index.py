"""The index as sqlite sees it: opening writes nothing, closing leaves all in one file; and the store's reserve."""

from __future__ import annotations

import errno
import gc
import os
import sqlite3
from contextlib import closing

import pytest
from processes import Child, open_files
from stores import NOTHING, Clock, ask, content_of, ids, old_store, open_store, prove, stored, upload

from filesproxy.calls import Call
from filesproxy.errors import StoreError, StoreFull
from filesproxy.transports.local.disk import FolderLock
from filesproxy.transports.local.index import Index
from filesproxy.transports.local.reserve import RESERVE_BYTES, Reserve

pytestmark = pytest.mark.usefixtures("no_sweep_by_itself")


@pytest.fixture
def clock():
    return Clock(1_700_000_000.0)


def closed(folder, clock, count=1):
    """A store with files that nobody has open. The ids."""
    store = open_store(folder, clock)
    made = [upload(store, b"%d" % number)["id"] for number in range(count)]
    del store
    gc.collect()
    return made


def seen(folder):
    """Every path in the folder with its size and times."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


# --- opening, reading


STORES = {"new": lambda folder, clock: closed(folder, clock), "0.1.0": lambda folder, clock: old_store(folder, [b"0"])}


@pytest.mark.parametrize("make", STORES.values(), ids=STORES)
def test_opening_and_reading_write_nothing(make, folder, clock, monkeypatch):
    (file_id,) = make(folder, clock)
    before = seen(folder)
    written = []
    real = os.open

    def recorded(path, flags, *mode, **more):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.append(path)
        return real(path, flags, *mode, **more)

    monkeypatch.setattr(os, "open", recorded)
    monkeypatch.setattr(os, "makedirs", None)
    store = open_store(folder, clock)
    assert ids(store) == [file_id] and content_of(store, file_id) == b"0"
    assert ask(store, "retrieve_file", file_id).json["bytes"] == 1
    del store
    gc.collect()
    assert written == [] and seen(folder) == before


def test_first_write_brings_an_index_of_0_1_0_up_to_date(folder, clock):
    (old,) = old_store(folder, [b"0"])
    store, other = open_store(folder, clock), open_store(folder, clock)
    assert ids(store) == ids(other) == [old]
    made = [upload(one)["id"] for one in (store, other, store)]
    assert ids(store, order="asc") == ids(other, order="asc") == [old, *made]
    with closing(sqlite3.connect(folder / "index.sqlite3")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (3,)
        plan = database.execute("EXPLAIN QUERY PLAN SELECT * FROM files WHERE id = 'x'").fetchall()
        assert "by_id" in plan[0][-1]
        assert [bool(digest) for (digest,) in database.execute("SELECT sha256 FROM files ORDER BY id")] == [
            False,
            *[True] * 3,
        ]


def test_index_of_the_version_before_gets_its_index_of_ids_with_the_first_write(folder, clock):
    old, gone = old_store(folder, [b"hello", b"gone"])
    with closing(sqlite3.connect(folder / "index.sqlite3")) as database, database:
        database.execute("ALTER TABLE files ADD COLUMN sha256 TEXT")
        database.execute("CREATE TABLE clock (wall INTEGER, boot TEXT, ticks INTEGER, ahead INTEGER, since INTEGER)")
        database.execute("PRAGMA user_version = 2")
    store = open_store(folder, clock)
    assert content_of(store, old) == b"hello"
    ask(store, "delete_file", gone)  # the index of ids would take room that a full disk does not have
    with closing(sqlite3.connect(folder / "index.sqlite3")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (2,)
    assert store(Call("retrieve_file", "GET", f"/files/{old}", file_id=old), "", view=None).json["id"] == old
    upload(store)
    with closing(sqlite3.connect(folder / "index.sqlite3")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (3,)
        assert database.execute("SELECT name FROM sqlite_master WHERE name = 'by_id'").fetchone()


@pytest.mark.parametrize("name", ["index.sqlite3", "a folder?with#odd %41 names"])
def test_index_that_cannot_be_written_and_has_no_log_is_read(name, tmp_path, clock, monkeypatch):
    """sqlite would make a log beside it in order to read it. tests/heavy/test_disks.py does this on a real disk."""
    folder = tmp_path / name / "store"
    made = closed(folder, clock, 3)
    real = sqlite3.connect

    def connect(path, **options):
        if "immutable" not in path:
            raise sqlite3.OperationalError("unable to open database file")
        return real(path, **options)

    monkeypatch.setattr(sqlite3, "connect", connect)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    store = open_store(folder, clock)
    assert ids(store, order="asc") == made and content_of(store, made[0]) == b"0"
    with pytest.raises(StoreError, match="read-only"):
        ask(store, "delete_file", made[0])
    assert store._index._idle == []


def test_log_that_is_there_is_never_ignored(folder, clock, monkeypatch):
    """With `immutable`, sqlite would read the database without it, and rows would be missing."""
    store = open_store(folder, clock)
    upload(store)
    assert (folder / "index.sqlite3-wal").stat().st_size

    def connect(path, **options):
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(sqlite3, "connect", connect)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(StoreError, match="cannot be used"):
        Index(str(folder))


# --- closing


def rows_of(path):
    """The ids in a copy of the database file alone."""
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    with closing(sqlite3.connect(copy)) as database:
        return [name for (name,) in database.execute("SELECT id FROM files ORDER BY id")]


def test_store_that_is_dropped_leaves_all_rows_in_one_file(folder, clock):
    made = closed(folder, clock, 5)
    assert rows_of(folder / "index.sqlite3") == made
    assert not (folder / "index.sqlite3-wal").exists() and open_files(folder) == []


KEEPS_OPEN = """
import sys
from filesproxy.transports.local.index import Index
index = Index(sys.argv[1])
print(index.is_empty(), flush=True)
sys.stdin.readline()
"""


def test_rows_are_in_one_file_although_another_process_has_the_index_open(folder, clock):
    store = open_store(folder, clock)
    with Child(KEEPS_OPEN, str(folder)) as other:
        assert other.said() == "True"
        made = [upload(store)["id"] for _ in range(5)]
        del store
        gc.collect()
        assert rows_of(folder / "index.sqlite3") == made


ENDS = """
import sys, threading
from filesproxy.calls import Call, Upload
from filesproxy.transports.local.transport import LocalTransport
transport = LocalTransport()
store = transport.store(sys.argv[1])
for _ in range(5):
    upload = Upload("a", "text/plain", {"purpose": "batch"}, iter([b"hello"]))
    store(Call("upload_file", "POST", "/files", upload=upload), "")
busy = store._index._connection().__enter__()  # a thread that is in the middle of something
kept_alive = threading.Thread(target=threading.Event().wait, args=(60,), daemon=True)
kept_alive.store = store
kept_alive.start()
print("done", flush=True)
"""


def test_process_that_ends_leaves_all_rows_in_one_file(folder):
    with Child(ENDS, str(folder)) as child:
        assert child.said() == "done"
        assert child.said() == ""  # it has ended
    assert len(rows_of(folder / "index.sqlite3")) == 5


def test_fork_that_ends_closes_nothing_of_its_parent(folder, clock):
    store = open_store(folder, clock)
    upload(store)
    child = os.fork()
    if not child:
        store._index.close()
        os._exit(len(store._index._idle))
    assert os.waitpid(child, 0)[1] >> 8 == len(store._index._idle) > 0
    assert upload(store) and len(ids(store)) == 2


# --- the lock of the folder


def test_folder_is_locked_for_one_that_replaces_its_index(folder, clock):
    store = open_store(folder, clock)
    second = open_store(folder, clock)
    with pytest.raises(StoreError, match="in use by a gateway"):
        FolderLock(str(folder), is_exclusive=True)
    del store, second
    gc.collect()
    lock = FolderLock(str(folder), is_exclusive=True)
    with pytest.raises(StoreError, match="rebuilds"):
        open_store(folder, clock)
    lock.close()
    assert ids(open_store(folder, clock)) == []


# --- the reserve


@pytest.fixture
def reserve(tmp_path):
    return Reserve(str(tmp_path))


def test_reserve_takes_its_space_really_and_gives_it_back(reserve, tmp_path):
    reserve.keep(0)
    found = (tmp_path / "reserve").stat()
    assert found.st_size == RESERVE_BYTES <= found.st_blocks * 512 and found.st_mode & 0o777 == 0o600
    reserve.keep(0)
    assert (tmp_path / "reserve").stat().st_ino == found.st_ino
    reserve.release()
    reserve.release()
    assert list(tmp_path.iterdir()) == []


def test_reserve_that_is_not_whole_is_completed(reserve, tmp_path):
    (tmp_path / "reserve").write_bytes(b"x")
    reserve.keep(0)
    assert (tmp_path / "reserve").stat().st_size == RESERVE_BYTES


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_reserve_for_which_there_is_no_room_leaves_nothing(number, reserve, tmp_path, monkeypatch):
    def full(handle, start, size):
        os.write(handle, b"a part")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreFull):
        reserve.keep(0)
    assert list(tmp_path.iterdir()) == []


def test_reserve_is_written_where_the_file_system_cannot_allocate(reserve, tmp_path, monkeypatch):
    def unknown(handle, start, size):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unknown)
    reserve.keep(0)
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= RESERVE_BYTES


def with_free(monkeypatch, size):
    real = os.statvfs

    def statvfs(path):
        found = list(real(path))
        found[4] = size // found[1]  # f_bavail, in blocks of f_frsize
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", statvfs)


def test_reserve_leaves_to_a_delete_what_that_has_just_released(reserve, tmp_path, monkeypatch):
    with_free(monkeypatch, 2 * RESERVE_BYTES - 4096)
    with pytest.raises(StoreFull):
        reserve.keep(0)
    assert list(tmp_path.iterdir()) == []
    with_free(monkeypatch, 2 * RESERVE_BYTES)
    reserve.keep(0)


def test_upload_that_cannot_fit_is_refused_before_it_is_read(make_client, folder, monkeypatch):
    from fakes import form, form_type

    client = make_client(transports=None, folder=str(folder), default_provider="local")
    body = form(("purpose", "batch"), ("file", "a", "", b"x" * 100_000))
    headers = {"content-type": form_type()}
    assert client.post("/v1/files", body, headers).status_int == 200
    with_free(monkeypatch, 50_000)
    monkeypatch.setattr("filesproxy.transports.local.blobs.Blobs.store", None)  # not even begun
    error = client.post("/v1/files", body, headers, status=507).json["error"]
    assert error["code"] == "store_full" and "this file" in error["message"]


def test_row_is_removed_with_the_room_of_the_reserve(folder, clock, monkeypatch):
    store = open_store(folder, clock)
    file_id = upload(store)["id"]
    real, failed = Index._remove, []

    def remove(index, *arguments):
        if (folder / "reserve").exists():
            failed.append(1)
            raise StoreFull("full")
        return real(index, *arguments)

    monkeypatch.setattr(Index, "_remove", remove)
    assert ask(store, "delete_file", file_id).json["deleted"] is True
    assert failed == [1] and ids(store) == []


def test_index_is_opened_with_the_room_of_the_reserve(folder, clock, monkeypatch):
    made = closed(folder, clock)
    real = sqlite3.connect

    def connect(path, **options):
        if (folder / "reserve").exists():
            raise sqlite3.OperationalError("disk I/O error")
        return real(path, **options)

    monkeypatch.setattr(sqlite3, "connect", connect)
    assert ids(open_store(folder, clock)) == made


def test_sweep_of_a_full_disk_removes_what_has_expired(folder, clock, monkeypatch):
    store = open_store(folder, clock)
    prove(store, clock)
    upload(store, seconds=3600)
    clock.runs(3600)
    real = Index._see

    def see(index, *arguments):
        if (folder / "reserve").exists():
            raise StoreFull("full")
        return real(index, *arguments)

    monkeypatch.setattr(Index, "_see", see)
    store.sweep()
    assert stored(folder) == NOTHING


def test_upload_is_taken_where_a_disk_does_not_say_its_size(reserve, tmp_path, monkeypatch):
    """A tmpfs without a size is 0 blocks, of which none are free."""
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result([4096, 4096, *[0] * 8]))
    reserve.keep(1000)
    assert (tmp_path / "reserve").exists()
