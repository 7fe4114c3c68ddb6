"""The sweep and what it must never do: empty a store because its index or the clock is wrong."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sqlite3
import stat
from contextlib import closing

import pytest
from processes import Child
from stores import NOTHING, Clock, ask, content_of, ids, kept_bytes, old_store, open_store, prove, stored, upload

from filesproxy.errors import NotFound, StoreError
from filesproxy.transports.local.blobs import Blobs
from filesproxy.transports.local.index import Index

pytestmark = pytest.mark.usefixtures("no_sweep_by_itself")


@pytest.fixture
def clock():
    return Clock(1_700_000_000.0)


@pytest.fixture
def store(folder, clock):
    return open_store(folder, clock)


def warnings(caplog):
    return [record.getMessage() for record in caplog.records]


# --- sidecars


def test_sidecar_says_all_that_the_index_knows(store, folder):
    file = upload(store, b"hello", "team-a", 'n"\u6587.txt', "text/plain", "batch", 3600)
    (path,) = (folder / "blobs").glob("*.json")
    assert json.loads(path.read_bytes()) == {
        "id": file["id"],
        "owner": "team-a",
        "filename": 'n"\u6587.txt',
        "content_type": "text/plain",
        "purpose": "batch",
        "bytes": 5,
        "created_at": 1_700_000_000,
        "expires_at": 1_700_003_600,
        "sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_upload_whose_sidecar_cannot_be_synced_is_refused_and_leaves_nothing(store, folder, monkeypatch):
    real = os.fsync

    def fsync(handle):
        if os.readlink(f"/proc/self/fd/{handle}").endswith(".json"):
            raise OSError(5, "Input/output error")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StoreError):
        upload(store)
    assert stored(folder) == NOTHING


def test_first_sweep_gives_the_files_of_0_1_0_their_sidecars(folder, clock):
    made = old_store(folder, [b"one", b"two"], "team-a")
    store = open_store(folder, clock)
    assert content_of(store, made[0], "team-a") == b"one"
    store.sweep()
    described = [json.loads(path.read_bytes()) for path in sorted((folder / "blobs").glob("*.json"))]
    assert [(row["id"], row["owner"], row["sha256"]) for row in described] == [(name, "team-a", None) for name in made]
    before = {path: path.stat().st_ino for path in (folder / "blobs").iterdir()}
    store.sweep()
    assert {path: path.stat().st_ino for path in (folder / "blobs").iterdir()} == before
    newest = upload(store, b"three", "team-a")["id"]
    assert ids(store, owner="team-a", order="asc") == [*made, newest]


def test_sidecar_that_a_power_failure_left_empty_is_written_again(store, folder):
    file = upload(store, b"hello")
    (path,) = (folder / "blobs").glob("*.json")
    whole = path.read_bytes()
    os.truncate(path, 0)
    store.sweep()
    assert path.read_bytes() == whole and content_of(store, file["id"]) == b"hello"
    assert list((folder / "incoming").iterdir()) == []


# --- deleting

DELETES = """
import os, signal, sys
from filesproxy.calls import Call
from filesproxy.transports.local import blobs, index, sweep
from filesproxy.transports.local.transport import Store
sweep.SWEEP_SECONDS = float("inf")
folder, file_id, step = sys.argv[1:]
def die(*arguments, **more):
    os.kill(os.getpid(), signal.SIGKILL)
places = {"blob moved": (os, "rename"), "all moved": (index.Index, "remove"), "row removed": (blobs.Blobs, "destroy")}
owner, name = places[step]
real, calls = getattr(owner, name), []
def once(*arguments, **more):
    calls.append(arguments)
    if step != "blob moved" or len(calls) == 2:
        die()
    return real(*arguments, **more)
setattr(owner, name, once)
Store(folder)(Call("delete_file", "DELETE", "/files", file_id=file_id), "")
"""
STEPS = ["blob moved", "all moved", "row removed"]


def killed_while_deleting(folder, file_id, step):
    with Child(DELETES, str(folder), file_id, step) as child:
        assert child.said() == ""
    assert len(kept_bytes(folder, "trash")) == 1 and kept_bytes(folder, "blobs") == []


@pytest.mark.parametrize("step", STEPS)
def test_deletion_that_a_kill_broke_off_is_ended_by_the_next_sweep(step, store, folder):
    file_id = upload(store)["id"]
    killed_while_deleting(folder, file_id, step)
    store.sweep()
    assert stored(folder) == NOTHING and list((folder / "blobs").iterdir()) == []
    assert kept_bytes(folder, "lost") == []


@pytest.mark.parametrize("step", STEPS)
def test_deletion_that_a_kill_broke_off_is_ended_by_the_next_reader(step, store, folder):
    file_id = upload(store)["id"]
    killed_while_deleting(folder, file_id, step)
    for _ in range(2):
        with pytest.raises(NotFound):
            ask(store, "retrieve_file_content", file_id)
    assert ids(store) == []


def test_deletion_that_a_kill_broke_off_can_be_asked_for_again(store, folder):
    file_id = upload(store)["id"]
    killed_while_deleting(folder, file_id, "all moved")
    assert ask(store, "delete_file", file_id).json["deleted"] is True
    assert stored(folder) == NOTHING and list((folder / "blobs").iterdir()) == []


def test_reader_and_sweep_leave_a_deletion_under_way_to_who_began_it(store, folder, clock, monkeypatch):
    file_id = upload(store)["id"]
    other = open_store(folder, clock)
    real = Index.remove

    def remove(index, *arguments):
        monkeypatch.setattr(Index, "remove", real)
        other.sweep()
        with pytest.raises(NotFound):
            ask(other, "retrieve_file_content", file_id)
        return real(index, *arguments)

    monkeypatch.setattr(Index, "remove", remove)
    assert ask(store, "delete_file", file_id).json["deleted"] is True  # and no 404 to its own client
    assert stored(folder) == NOTHING


def test_blob_is_in_the_trash_and_the_folder_synced_before_the_row_goes(store, folder, monkeypatch):
    upload(store)
    (file_id,) = ids(store)
    events = []
    real_sync, real_remove = os.fsync, Index.remove

    def fsync(handle):
        events.append(("sync", os.readlink(f"/proc/self/fd/{handle}").replace(str(folder), "")))
        real_sync(handle)

    def remove(index, *arguments):
        events.append(("row", len(list((folder / "trash").iterdir())), len(list((folder / "blobs").iterdir()))))
        return real_remove(index, *arguments)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Index, "remove", remove)
    ask(store, "delete_file", file_id)
    assert events == [("sync", "/blobs"), ("row", 2, 0)]


# --- an index that is wrong

DAMAGES = {
    "empty": lambda path: os.truncate(path, 0),
    "half": lambda path: os.truncate(path, os.path.getsize(path) // 2 // 4096 * 4096),
    "first_page": lambda path: os.truncate(path, 4096),
    "not_a_database": lambda path: path.write_bytes(b"no database at all" * 1000),
    "gone": lambda path: path.unlink(),
}


def damaged_page(number):
    def damage(path):
        with open(path, "r+b") as file:
            file.seek(number * 4096)
            file.write(b"\xa5" * 2000)

    return damage


DAMAGES.update({f"page_{number}": damaged_page(number) for number in range(1, 9)})


CONTENTS = sorted(b"%d" % number * 50 for number in range(60))


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """The folder of a store with sixty files that is closed."""
    folder, clock = tmp_path_factory.mktemp("filled") / "store", Clock(1_700_000_000.0)
    store = open_store(folder, clock)
    prove(store, clock)
    for content in CONTENTS:
        upload(store, content, seconds=3600, name="n" * 200)
    del store
    gc.collect()
    return folder, clock.now


@pytest.fixture
def broken(filled, folder, clock):
    """Copies that store, and damages its index."""

    def make(damage):
        shutil.copytree(filled[0], folder)
        clock.now = filled[1]
        damage(folder / "index.sqlite3")
        return folder

    return make


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_index_never_empties_the_store(damage, broken, clock):
    """Where the index was empty, cut or damaged, a sweep removed the files, the list was [], and no log had a line."""
    folder = broken(DAMAGES[damage])
    for _ in range(3):
        try:
            store = open_store(folder, clock)
            store.sweep()
            store._sweeper._sweep_quietly()
            ids(store)
        except StoreError as error:
            assert "index" in error.message and "rebuild" in error.message
        store = None
    assert kept_bytes(folder, "blobs", "lost") == CONTENTS
    assert kept_bytes(folder, "trash", "incoming") == []


def test_damaged_index_is_told_once(broken, clock, caplog):
    folder = broken(damaged_page(8))
    store = open_store(folder, clock)
    for _ in range(3):
        store._sweeper._sweep_quietly()
    (said,) = warnings(caplog)
    assert "index is damaged" in said and "files rebuild" in said
    assert len(kept_bytes(folder, "blobs")) == 60 and kept_bytes(folder, "lost") == []


def test_index_is_checked_once_for_each_store_and_before_anything_is_swept(store, folder, monkeypatch):
    order = []
    real_check, real_names = Index.check, Blobs.names

    def check(index):
        order.append("check")
        real_check(index)

    def names(blobs, place):
        order.append(place)
        return real_names(blobs, place)

    monkeypatch.setattr(Index, "check", check)
    monkeypatch.setattr(Blobs, "names", names)
    store.sweep()
    store.sweep()
    assert order[0] == "check" and order.count("check") == 1 and order.count("trash") == 2
    order.clear()
    ids(store)
    assert order == []


def test_empty_index_sweeps_no_blob_away(folder, clock, caplog):
    """An index of an old backup may be empty; then all is left where it is, and one warning says so."""
    store = open_store(folder, clock)
    with closing(sqlite3.connect(folder / "index.sqlite3")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    backup = (folder / "index.sqlite3").read_bytes()
    upload(store, b"hello")
    del store
    gc.collect()
    (folder / "index.sqlite3").write_bytes(backup)
    store = open_store(folder, clock)
    for _ in range(2):
        store.sweep()
    assert kept_bytes(folder, "blobs") == [b"hello"] and kept_bytes(folder, "lost") == []
    (said,) = warnings(caplog)
    assert "index is empty" in said and "rebuild" in said


def test_lost_blob_keeps_its_sidecar(store, folder):
    upload(store, b"stays")
    lost = upload(store, b"lost", "team-a")
    with closing(sqlite3.connect(folder / "index.sqlite3")) as database, database:
        database.execute("DELETE FROM files WHERE id = ?", (lost["id"],))
    store.sweep()
    (described,) = (folder / "lost").glob("*.json")
    assert json.loads(described.read_bytes())["id"] == lost["id"] and kept_bytes(folder, "lost") == [b"lost"]
    rows, kept, incoming = stored(folder)
    assert rows == kept and len(kept) == 1 and incoming == []


def entry_changed(folder, index, old, new):
    """Replace bytes in the only page of one of sqlite's indexes: its table still has what it had."""
    gc.collect()
    path = folder / "index.sqlite3"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ((page,),) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (index,))
        ((size,),) = database.execute("PRAGMA page_size")
    content = bytearray(path.read_bytes())
    start = content.rindex(old, (page - 1) * size, page * size)  # of the oldest entry: they stand from the end
    content[start : start + len(old)] = new
    path.write_bytes(content)


@pytest.fixture
def expiring(folder, clock):
    """A folder with two files, which expire in thirty days. One entry of by_expiry says that one has long expired."""
    store = open_store(folder, clock)
    prove(store, clock)
    for content in (b"one", b"two"):
        upload(store, content, seconds=30 * 86400)
    del store
    ends = int(clock.now) + 30 * 86400
    entry_changed(folder, "by_expiry", ends.to_bytes(4, "big"), (ends ^ 1 << 30).to_bytes(4, "big"))
    return folder


def test_bit_that_changed_in_sqlites_index_of_expiries_destroys_no_file(expiring, clock, caplog):
    """The quick check does not compare an index with its table: the sweep believed it, and the bytes were gone."""
    for _ in range(2):
        open_store(expiring, clock)._sweeper._sweep_quietly()
    assert kept_bytes(expiring, "blobs") == [b"one", b"two"] and kept_bytes(expiring, "trash") == []
    assert "index is damaged" in warnings(caplog)[0]


def test_file_is_removed_by_its_row_and_not_by_sqlites_index(expiring, clock, monkeypatch):
    """The check is made once for each process: what changes later must not destroy a file either."""
    monkeypatch.setattr(Index, "check", lambda index: None)
    with pytest.raises(StoreError, match="index is damaged"):
        open_store(expiring, clock).sweep()
    assert kept_bytes(expiring, "blobs") == [b"one", b"two"]


def test_file_whose_sidecar_says_that_it_has_not_expired_stays(store, folder, clock, caplog):
    prove(store, clock)
    for number in range(102):  # more than one batch of what stays
        upload(store, b"%03d" % number, seconds=30 * 86400)
    with closing(sqlite3.connect(folder / "index.sqlite3")) as database, database:
        database.execute("UPDATE files SET expires_at = 1700000000 + bytes")
    gone = upload(store, b"gone", seconds=3600)
    clock.runs(3600)
    store.sweep()
    assert len(kept_bytes(folder, "blobs")) == 102 and gone["id"] not in ids(store)
    assert any("not by their sidecars" in line for line in warnings(caplog))


@pytest.fixture
def unnamed(folder, clock):
    """A folder with two files. sqlite's index of blobs has another name for the blob of one; the row has its own."""
    store = open_store(folder, clock)
    made = [upload(store, content)["id"] for content in (b"one", b"two")]
    del store
    with closing(sqlite3.connect(folder / "index.sqlite3")) as database:
        ((blob,),) = database.execute("SELECT blob FROM files WHERE id = ?", (made[0],))
    entry_changed(folder, "sqlite_autoindex_files_1", blob.encode(), blob[:-1].encode() + b"g")
    return folder, made


def test_bit_that_changed_in_sqlites_index_of_blobs_loses_no_file(unnamed, clock, caplog):
    folder, made = unnamed
    open_store(folder, clock)._sweeper._sweep_quietly()
    assert kept_bytes(folder, "blobs") == [b"one", b"two"] and "index is damaged" in warnings(caplog)[0]


def test_file_is_lost_by_its_row_and_not_by_sqlites_index(unnamed, clock, monkeypatch):
    folder, made = unnamed
    monkeypatch.setattr(Index, "check", lambda index: None)
    store = open_store(folder, clock)
    store.sweep()
    assert kept_bytes(folder, "lost") == [] and [content_of(store, name) for name in made] == [b"one", b"two"]


# --- a clock that is wrong


def test_clock_that_was_sixty_days_ahead_for_one_start_destroys_nothing(store, folder, clock):
    prove(store, clock)
    file = upload(store, b"hello", seconds=7200)
    clock.now += 60 * 86400
    wrong = open_store(folder, clock)
    assert ids(wrong) == []  # for clients, the clock counts
    for _ in range(5):
        wrong.sweep()
        clock.runs(600)
    clock.now -= 60 * 86400
    again = open_store(folder, clock)
    again.sweep()
    assert content_of(again, file["id"]) == b"hello"
    clock.runs(7200)
    again.sweep()
    assert stored(folder) == NOTHING


def test_leap_of_the_clock_is_told_once(store, clock, caplog):
    prove(store, clock)
    store.sweep()
    assert warnings(caplog) == []
    clock.now += 60 * 86400
    for _ in range(3):
        store.sweep()
        clock.runs(600)
    (said,) = warnings(caplog)
    assert "60 days" in said


def test_files_that_expired_while_the_gateway_was_off_go_when_the_clock_has_run_for_six_hours(store, folder, clock):
    prove(store, clock)
    for number in range(101):  # more than one batch
        upload(store, b"%d" % number, seconds=3600)
    clock.now += 30 * 86400
    store.sweep()
    assert len(kept_bytes(folder, "blobs")) == 101
    clock.runs(6 * 3600)
    store.sweep()
    assert stored(folder) == NOTHING
