"""What an operator does to a store: verify, rebuild, restore; beside a gateway where that is allowed."""

from __future__ import annotations

import gc
import json
import os
import sqlite3
import threading
from contextlib import closing

import pytest
from stores import (
    Clock,
    ask,
    blob_of,
    content_of,
    flipped,
    ids,
    kept_bytes,
    old_store,
    open_store,
    prove,
    stored,
    upload,
)

from filesproxy.errors import NotFound, StoreError
from filesproxy.transports.local import maintenance
from filesproxy.transports.local.backup import backup
from filesproxy.transports.local.blobs import Blobs
from filesproxy.transports.local.index import Index
from filesproxy.transports.local.maintenance import Count

pytestmark = pytest.mark.usefixtures("no_sweep_by_itself")


def forget(folder, file):
    with closing(sqlite3.connect(folder / "index.sqlite3")) as database, database:
        database.execute("DELETE FROM files WHERE id = ?", (file["id"],))


def without_index(folder):
    gc.collect()  # nobody has it open any more
    for path in folder.glob("index.sqlite3*"):
        path.unlink()


# --- verify


def test_store_that_is_whole_has_no_problem(store, folder, said):
    upload(store, b"hello", "team-a")
    upload(store, b"")
    found = maintenance.verify(str(folder), said.append)
    assert (found.kept, found.problems, found.lost) == (Count(2, 5), 0, Count(0, 0))
    assert (found.without_sha256, found.without_sidecar, said) == (0, 0, [])


DAMAGES = {
    "have changed": flipped,
    "has 3 bytes instead of 5": lambda path: os.truncate(path, 3),
    "are missing": lambda path: path.unlink(),
    "sidecar differs": lambda path: path.with_name(path.name + ".json").write_text(
        path.with_name(path.name + ".json").read_text("ascii").replace("team-a", "team-b"), "ascii"
    ),
}


@pytest.mark.parametrize("words", DAMAGES)
def test_damage_is_found_and_named(words, store, folder, said):
    """One byte that had changed was served as 200, and nothing could find it."""
    upload(store, b"whole", "team-a")
    file = upload(store, b"hello", "team-a")
    DAMAGES[words](blob_of(folder, file))
    assert maintenance.verify(str(folder), said.append).problems == 1
    (line,) = said
    assert line.startswith(f"{file['id']} of team-a: ") and words in line


def test_pipe_or_link_in_the_place_of_a_blob_is_a_problem(store, folder, tmp_path, said):
    """A pipe stopped `verify` for ever, and a link was followed to wherever it led."""
    pipe, link = (blob_of(folder, upload(store, b"hello")) for _ in range(2))
    link.rename(tmp_path / "elsewhere")
    link.symlink_to(tmp_path / "elsewhere")
    pipe.unlink()
    os.mkfifo(pipe)
    assert maintenance.verify(str(folder), said.append).problems == 2
    assert "has 0 bytes instead of 5" in said[0] and "cannot be read" in said[1]


def test_blob_of_no_file_is_found_but_not_one_that_is_being_uploaded(store, folder, said):
    def chunks():
        yield b"half"
        found.append(maintenance.verify(str(folder), said.append))

    found = []
    orphan = upload(store, b"orphan")
    path = blob_of(folder, orphan)
    forget(folder, orphan)
    upload(store, chunks())
    assert found[0].problems == 1
    assert said == [f"blobs/{path.name}: no file of the index; the next sweep moves it to lost/"]


def test_what_has_no_sha256_or_sidecar_is_counted(store, folder, said):
    file = store(*_upload_call(b"hello"), is_hashed=False).json
    blob_of(folder, file).with_suffix(".json").unlink()
    found = maintenance.verify(str(folder), said.append)
    assert (found.problems, found.without_sha256, found.without_sidecar, said) == (0, 1, 1, [])
    flipped(blob_of(folder, file))
    assert maintenance.verify(str(folder), said.append).problems == 0


def _upload_call(content):
    from filesproxy.calls import Call, Upload

    return Call(
        "upload_file", "POST", "/files", upload=Upload("a", "text/plain", {"purpose": "b"}, iter([content]))
    ), ""


def test_store_of_0_1_0_is_verified_and_left_as_it_is(tmp_path, said):
    folder = tmp_path / "store"
    old_store(folder, [b"one", b"two"])
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    found = maintenance.verify(str(folder), said.append)
    assert (found.kept, found.problems, found.without_sha256, found.without_sidecar) == (Count(2, 6), 0, 2, 2)
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before


def test_folder_without_a_store_is_refused_and_nothing_made_in_it(tmp_path, said):
    for command in (
        maintenance.files,
        maintenance.discard,
        lambda folder: maintenance.verify(folder, said.append),
        lambda folder: maintenance.rebuild(folder, said.append),
        lambda folder: maintenance.restore(folder, said.append),
        lambda folder: backup(folder, str(tmp_path / "copy"), said.append),
    ):
        with pytest.raises(StoreError, match="no local store"):
            command(str(tmp_path / "nowhere"))
    assert list(tmp_path.iterdir()) == []


# --- rebuild


def test_index_is_made_anew_from_the_sidecars(folder, said):
    store = open_store(folder, Clock(1_700_000_000.0))
    made = [
        upload(store, b"%d" % number, f"team-{number % 2}", f"{number}\u6587.txt", seconds=7200) for number in range(5)
    ]
    gone = upload(store, b"deleted", "team-0")
    ask(store, "delete_file", gone["id"], "team-0")
    del store
    without_index(folder)
    assert maintenance.rebuild(str(folder), said.append) == (5, "")
    store = open_store(folder, Clock(1_700_000_000.0))
    for owner in (0, 1):
        listed = ask(store, "list_files", owner=f"team-{owner}", order="asc").json["data"]
        assert listed == made[owner::2]
    assert content_of(store, made[3]["id"], "team-1") == b"3"
    assert upload(open_store(folder, Clock(1.0)))["id"] > made[-1]["id"]  # ids go on ascending, whatever the clock says
    assert maintenance.verify(str(folder), said.append).problems == 0 and said == []
    rows, kept, incoming = stored(folder)
    assert rows == kept and len(rows) == 6 and incoming == []


def test_usable_index_is_not_replaced_unless_that_is_asked_for(folder, said):
    upload(open_store(folder, Clock(1.0)), b"hello")
    gc.collect()
    with pytest.raises(StoreError, match="--force"):
        maintenance.rebuild(str(folder), said.append)
    assert not list(folder.glob("*.old-*"))


def test_old_index_is_kept_aside(folder, said):
    store = open_store(folder, Clock(1_700_000_000.0))
    file = upload(store, b"hello")
    del store
    gc.collect()
    before = (folder / "index.sqlite3").read_bytes()
    count, aside = maintenance.rebuild(str(folder), said.append, is_forced=True)
    assert count == 1 and (folder / aside).read_bytes() == before
    assert ids(open_store(folder, Clock(1_700_000_000.0))) == [file["id"]]


def test_index_is_not_replaced_under_a_gateway(store, folder, said):
    upload(store, b"hello")
    with pytest.raises(StoreError, match="in use"):
        maintenance.rebuild(str(folder), said.append, is_forced=True)
    assert not list(folder.glob("*.old-*")) and len(ids(store)) == 1


@pytest.mark.parametrize("damage", ["not a database", "truncated", "empty"])
def test_damaged_index_is_replaced(damage, folder, said):
    store = open_store(folder, Clock(1_700_000_000.0))
    made = [upload(store, b"%d" % number)["id"] for number in range(12)]
    del store
    gc.collect()
    path = folder / "index.sqlite3"
    if damage == "not a database":
        path.write_bytes(b"no database at all" * 1000)
    else:
        os.truncate(path, 0 if damage == "empty" else 8192)
    assert maintenance.rebuild(str(folder), said.append)[0] == 12
    assert ids(open_store(folder, Clock(1_700_000_000.0)), order="asc") == made


def test_files_of_0_1_0_come_from_the_old_index_where_that_can_be_read(folder, said):
    made = old_store(folder, [b"one", b"two"])
    assert maintenance.rebuild(str(folder), said.append, is_forced=True)[0] == 2
    store = open_store(folder, Clock(1_700_000_000.0))
    assert ids(store, order="asc") == made and content_of(store, made[1]) == b"two"


def test_blob_of_which_nothing_is_known_is_said_and_stays(folder, said):
    made = old_store(folder, [b"one"])
    (folder / "index.sqlite3").unlink()
    store = None
    assert maintenance.rebuild(str(folder), said.append) == (0, "")
    (line,) = said
    assert "no sidecar" in line and kept_bytes(folder, "blobs") == [b"one"] and made
    assert store is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"id": "file-1"}', "[" * 100_000, "\xff"])
def test_sidecar_that_is_not_ours_makes_no_file(text, folder, said):
    store = open_store(folder, Clock(1_700_000_000.0))
    file, other = upload(store, b"hello"), upload(store, b"other")
    path = blob_of(folder, file).with_suffix(".json")
    path.write_bytes(text.encode("latin-1"))
    del store
    without_index(folder)
    assert maintenance.rebuild(str(folder), said.append)[0] == 1
    assert len(said) == 1 and ids(open_store(folder, Clock(1_700_000_000.0))) == [other["id"]]


WRONG = [("id", "file-1"), ("id", "../x"), ("owner", None), ("bytes", True), ("bytes", -1), ("created_at", "1"),
         ("expires_at", 1.5), ("sha256", "x"), ("blob", "a")]  # fmt: skip


@pytest.mark.parametrize("name,value", WRONG)
def test_sidecar_with_a_wrong_field_makes_no_file(name, value, folder, said):
    store = open_store(folder, Clock(1_700_000_000.0))
    file = upload(store, b"hello")
    path = blob_of(folder, file).with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    del store
    without_index(folder)
    assert maintenance.rebuild(str(folder), said.append)[0] == 0 and len(said) == 1


def test_nothing_that_was_deleted_comes_back(folder, said):
    """A kill between the move to trash/ and the rest, and then the loss of the index."""
    store = open_store(folder, Clock(1_700_000_000.0))
    file, stays = upload(store, b"deleted"), upload(store, b"stays")
    path = blob_of(folder, file)
    path.rename(folder / "trash" / path.name)
    del store
    without_index(folder)
    assert maintenance.rebuild(str(folder), said.append)[0] == 1
    store = open_store(folder, Clock(1_700_000_000.0))
    store.sweep()
    assert ids(store) == [stays["id"]] and kept_bytes(folder, "blobs", "trash", "lost") == [b"stays"]
    assert len(list((folder / "blobs").iterdir())) == 2


# --- lost/


def lose(store, folder, content=b"lost"):
    upload(store, b"stays")
    file = upload(store, content, "team-a")
    forget(folder, file)
    store.sweep()
    return file


def test_what_is_in_lost_comes_back_as_it_was(store, folder, said):
    file = lose(store, folder)
    assert maintenance.lost(str(folder)) == Count(1, 4) == maintenance.verify(str(folder), said.append).lost
    assert maintenance.restore(str(folder), said.append) == (Count(1, 4), 0)
    assert ask(store, "list_files", owner="team-a").json["data"] == [file]
    assert content_of(store, file["id"], "team-a") == b"lost"
    store.sweep()
    assert maintenance.lost(str(folder)) == Count(0, 0) and said == []


def test_restored_file_is_never_taken_away_by_a_sweep_beside_it(store, folder, said):
    made = [lose(store, folder, b"%d" % number)["id"] for number in range(8)]
    over = threading.Event()

    def sweep():
        while not over.is_set():
            store.sweep()

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        assert maintenance.restore(str(folder), said.append)[0].files == 8
    finally:
        over.set()
        sweeper.join()
    store.sweep()
    assert ids(store, owner="team-a", order="asc") == made and said == []


def test_lost_file_without_a_sidecar_or_with_an_id_that_is_taken_stays_and_is_named(store, folder, said):
    (file,) = [lose(store, folder)]
    (path,) = (folder / "lost").glob("*[!n]")
    double = folder / "lost" / ("a" * 32)
    double.write_bytes(b"lost")
    (folder / "lost" / f"{'a' * 32}.json").write_bytes((folder / "lost" / f"{path.name}.json").read_bytes())
    (folder / "lost" / ("b" * 32)).write_bytes(b"unknown")
    assert maintenance.restore(str(folder), said.append) == (Count(1, 4), 0)
    assert sorted(kept_bytes(folder, "lost")) == [b"lost", b"unknown"]
    assert len(said) == 2 and any("no sidecar" in line for line in said) and any(file["id"] in line for line in said)


def test_lost_blob_whose_own_row_is_there_comes_back(store, folder, said):
    """It was refused because of a file of that id, which was the file itself."""
    file = upload(store, b"hello")
    path = blob_of(folder, file)
    for suffix in ("", ".json"):
        (folder / "blobs" / (path.name + suffix)).rename(folder / "lost" / (path.name + suffix))
    assert maintenance.restore(str(folder), said.append) == (Count(1, 5), 0)
    assert content_of(store, file["id"]) == b"hello" and said == [] and kept_bytes(folder, "lost") == []


def test_lost_is_emptied_only_when_that_is_asked_for(store, folder):
    lose(store, folder)
    for _ in range(3):
        store.sweep()
    assert maintenance.discard(str(folder)) == Count(1, 4)
    assert list((folder / "lost").iterdir()) == [] and len(ids(store)) == 1


# --- adoption


class Paused:
    """Runs something when a step of the store is reached for the first time, in the middle of something else."""

    def __init__(self, monkeypatch, owner, name, meanwhile, before=True):
        self._meanwhile, self._is_done, real = meanwhile, False, getattr(owner, name)

        def step(*arguments, **more):
            if before:
                self._run()
            answer = real(*arguments, **more)
            if not before:
                self._run()
            return answer

        monkeypatch.setattr(owner, name, step)

    def _run(self):
        if not self._is_done:
            self._is_done = True
            self._meanwhile()


def adopted(folder, said):
    return maintenance.adopt(str(folder), "a", "b", said.append)


def test_file_that_is_adopted_while_its_old_owner_deletes_it_stays(store, folder, said, monkeypatch):
    """The delete was a 404, and the bytes of the new owner's file were gone."""
    file = upload(store, b"hello", "a")
    Paused(monkeypatch, Blobs, "removing", lambda: adopted(folder, said))
    with pytest.raises(NotFound):
        ask(store, "delete_file", file["id"], "a")
    assert content_of(store, file["id"], "b") == b"hello" and kept_bytes(folder, "trash") == []


def test_file_that_is_adopted_while_the_command_deletes_it_stays(store, folder, said, monkeypatch):
    file = upload(store, b"hello", "a")
    Paused(monkeypatch, Blobs, "removing", lambda: adopted(folder, said))
    assert maintenance.delete(str(folder), [file["id"]], said.append) == Count(0, 0)
    assert content_of(store, file["id"], "b") == b"hello" and said == [f"{file['id']}: there is no such file"]


def test_file_that_is_adopted_while_a_sweep_removes_it_is_removed_once_and_whole(folder, said, monkeypatch):
    clock = Clock(1_700_000_000.0)
    store = open_store(folder, clock)
    upload(store, b"hello", "a", seconds=86400)
    prove(store, clock)
    clock.runs(86400)
    Paused(monkeypatch, Blobs, "removing", lambda: adopted(folder, said))
    assert store.sweep() == (1, 5)  # under its new owner, whose row comes later
    assert stored(folder) == ([], [], [])


def test_file_that_is_deleted_while_it_is_adopted_is_gone(store, folder, said, monkeypatch):
    file = upload(store, b"hello", "a")
    Paused(monkeypatch, Blobs, "locked", lambda: ask(store, "delete_file", file["id"], "a"))
    assert adopted(folder, said) == Count(0, 0)
    assert said == [] and stored(folder) == ([], [], [])


def test_file_whose_bytes_are_missing_is_said_and_not_adopted(store, folder, said):
    file = upload(store, b"hello", "a")
    blob_of(folder, file).unlink()
    assert adopted(folder, said) == Count(0, 0)
    assert said == [f"{file['id']} of a: its bytes are missing"]


def test_sidecar_is_on_the_disk_before_the_index_has_the_new_owner(store, folder, said, monkeypatch):
    upload(store, b"hello", "a")
    steps = []
    for owner, name in ((maintenance, "sync_folder"), (Index, "give")):
        Paused(monkeypatch, owner, name, lambda name=name: steps.append(name))
    adopted(folder, said)
    assert steps == ["sync_folder", "give"]


def test_index_is_not_rebuilt_while_files_are_adopted_deleted_or_restored(store, folder, said, monkeypatch):
    """Each spoiled what the other did."""
    file = upload(store, b"hello", "a")
    del store
    gc.collect()
    refusals = []

    def rebuild():
        with pytest.raises(StoreError, match="in use") as caught:
            maintenance.rebuild(str(folder), said.append, is_forced=True)
        refusals.append(caught.value)

    for run in (lambda: adopted(folder, said), lambda: maintenance.delete(str(folder), [file["id"]], said.append),
                lambda: maintenance.restore(str(folder), said.append)):  # fmt: skip
        with monkeypatch.context() as patch:
            Paused(patch, Blobs, "names", rebuild)
            Paused(patch, Index, "has", rebuild)
            run()
    assert len(refusals) >= 3


def test_verify_takes_a_file_that_is_being_adopted_for_no_problem(store, folder, said, monkeypatch):
    file = upload(store, b"hello", "a")
    Paused(monkeypatch, Blobs, "sidecar", lambda: adopted(folder, said))
    assert maintenance.verify(str(folder), said.append).problems == 0 and said == []
    assert ids(store, owner="b") == [file["id"]]
