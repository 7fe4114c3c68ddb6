"""A copy of a store that is in use: whole, whatever comes, goes or cannot be read meanwhile."""

from __future__ import annotations

import os
import stat
import threading

import pytest
from stores import Clock, ask, blob_of, content_of, flipped, ids, open_store, upload

from filesproxy.calls import Made
from filesproxy.errors import NotFound, StoreError
from filesproxy.transports.local import backup as module
from filesproxy.transports.local.backup import backup
from filesproxy.transports.local.ledger import FolderLedger
from filesproxy.transports.local.maintenance import Count, adopt, verify
from filesproxy.transports.local.transport import Store

pytestmark = pytest.mark.usefixtures("no_sweep_by_itself")


def test_backup_of_a_store_in_use_is_a_store(store, folder, tmp_path, said):
    file = upload(store, b"hello", "team-a", seconds=7200)
    target = tmp_path / "copy"
    assert backup(str(folder), str(target), said.append) == (Count(1, 5), True)
    upload(store, b"later", "team-a")
    ask(store, "delete_file", file["id"], "team-a")
    copy = open_store(target, Clock(1_700_000_000.0))
    assert ask(copy, "list_files", owner="team-a").json["data"] == [file]
    assert content_of(copy, file["id"], "team-a") == b"hello"
    copy.sweep()
    assert verify(str(target), said.append).problems == 0 and said == []
    assert {stat.S_IMODE(path.stat().st_mode) for path in target.rglob("*")} == {0o700, 0o600}
    ask(copy, "delete_file", file["id"], "team-a")
    assert len(ids(store, owner="team-a")) == 1


def test_ledger_beside_the_store_is_copied_with_it(store, folder, tmp_path, said):
    upload(store)
    ledger = FolderLedger(str(folder))
    ledger.record("openai", "retail", "a", [Made("file-1", "file", 1)], 2)
    backup(str(folder), str(tmp_path / "copy"), said.append)
    ledger.record("openai", "retail", "a", [Made("file-2", "file", 1)], 2)
    (row,) = FolderLedger(str(tmp_path / "copy")).every()
    assert (row.id, row.owner) == ("file-1", "retail")
    assert stat.S_IMODE((tmp_path / "copy" / "ledger.sqlite3").stat().st_mode) == 0o600


def test_backup_to_another_file_system_is_a_copy(store, folder, tmp_path, said, monkeypatch):
    def link(*arguments, **more):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    file = upload(store, b"hello")
    assert backup(str(folder), str(tmp_path / "copy"), said.append) == (Count(1, 5), False)
    flipped(blob_of(folder, file))
    assert verify(str(tmp_path / "copy"), said.append).problems == 0


def test_files_that_are_deleted_during_a_backup_do_not_break_it(store, folder, tmp_path, said, monkeypatch):
    made = [upload(store, b"%d" % number)["id"] for number in range(10)]
    real = module._copy
    done = []

    def copy(source, target):
        if len(done) == 3:
            for file_id in made[5:]:
                ask(store, "delete_file", file_id)
        done.append(source)
        return real(source, target)

    monkeypatch.setattr(module, "_copy", copy)
    assert backup(str(folder), str(tmp_path / "copy"), said.append)[0].files == 5
    assert ids(open_store(tmp_path / "copy", Clock(1_700_000_000.0)), order="asc") == made[:5]
    assert verify(str(tmp_path / "copy"), said.append).problems == 0 and said == []


def test_file_that_is_deleted_while_it_is_copied_does_not_break_a_backup(store, folder, tmp_path, said, monkeypatch):
    def link(source, *arguments, **more):
        if source == str(path):
            ask(store, "delete_file", file["id"])
        raise OSError(18, "Invalid cross-device link")

    file = upload(store, b"hello")
    path = blob_of(folder, file)
    monkeypatch.setattr(os, "link", link)
    assert backup(str(folder), str(tmp_path / "copy"), said.append) == (Count(0, 0), False)
    assert said == [] and list((tmp_path / "copy" / "blobs").iterdir()) == []


def test_file_whose_bytes_are_missing_is_said_and_not_in_the_backup(store, folder, tmp_path, said):
    file, whole = upload(store, b"hello"), upload(store, b"whole")
    blob_of(folder, file).unlink()
    assert backup(str(folder), str(tmp_path / "copy"), said.append)[0] == Count(1, 5)
    assert said == [f"{file['id']} of this machine: its bytes are missing"]
    assert ids(open_store(tmp_path / "copy", Clock(1_700_000_000.0))) == [whole["id"]]


def test_backup_goes_on_after_a_file_that_cannot_be_read(store, folder, tmp_path, said, monkeypatch):
    """It ended at the first one, and what came after was in no backup."""

    def link(*arguments, **more):
        raise OSError(18, "Invalid cross-device link")

    def read(path, flags, *mode, **more):
        if path == str(rotten):
            raise OSError(5, "Input/output error", path)
        return real(path, flags, *mode, **more)

    rotten, linked, whole = (upload(store, content) for content in (b"rotten", b"linked", b"whole"))
    lines = [f"{rotten['id']} of this machine: its bytes cannot be read (EIO)",
             f"{linked['id']} of this machine: its bytes cannot be read (not a file)"]  # fmt: skip
    rotten, path, real = blob_of(folder, rotten), blob_of(folder, linked), os.open
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(os, "open", read)
    assert backup(str(folder), str(tmp_path / "copy"), said.append) == (Count(1, 5), False)
    assert said == lines
    assert ids(open_store(tmp_path / "copy", Clock(1_700_000_000.0))) == [whole["id"]]
    assert len(list((tmp_path / "copy" / "blobs").iterdir())) == 2


def test_backup_ends_where_the_copy_cannot_be_written(store, folder, tmp_path, said, monkeypatch):
    def fsync(handle):
        if "copy/blobs/" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(28, "No space left on device")

    upload(store)
    monkeypatch.setattr(os, "link", lambda *arguments, **more: os.open("/dev/null/x", 0))
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StoreError, match="no space"):
        backup(str(folder), str(tmp_path / "copy"), said.append)
    assert said == []


def test_backup_goes_into_no_folder_that_holds_something(store, folder, tmp_path, said):
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "invoice.pdf").write_bytes(b"important")
    with pytest.raises(StoreError, match="not empty"):
        backup(str(folder), str(tmp_path / "copy"), said.append)
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["invoice.pdf"]


def test_backup_while_files_come_and_go_is_whole(store, folder, tmp_path, said):
    over = threading.Event()
    problems = []

    def churn():
        while not over.is_set():
            file = upload(store, b"x" * 100)
            try:
                ask(store, "delete_file", file["id"])
            except NotFound as error:
                problems.append(error)

    stays = [upload(store, b"%d" % number)["id"] for number in range(10)]
    threads = [threading.Thread(target=churn) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(5):
            backup(str(folder), str(tmp_path / f"copy{number}"), said.append)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    for number in range(5):
        copy = Store(str(tmp_path / f"copy{number}"))
        assert set(stays) <= set(ids(copy))
        assert verify(str(tmp_path / f"copy{number}"), said.append).problems == 0
    assert said == problems == []


def test_backup_of_a_file_that_is_adopted_meanwhile_agrees_with_itself(store, folder, tmp_path, said, monkeypatch):
    file = upload(store, b"hello", "a")
    real = module._copy

    def copy(source, target):
        adopt(str(folder), "a", "b", said.append)
        return real(source, target)

    monkeypatch.setattr(module, "_copy", copy)
    assert backup(str(folder), str(tmp_path / "copy"), said.append)[0] == Count(1, 5)
    assert verify(str(tmp_path / "copy"), said.append).problems == 0 and said == []
    assert ids(open_store(tmp_path / "copy", Clock(1_700_000_000.0)), owner="a") == [file["id"]]
    assert verify(str(folder), said.append).problems == 0 and ids(store, owner="b") == [file["id"]]
