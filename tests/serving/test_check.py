"""What `check` and a start say of the folders in which files are to be kept: whether they can be, and for whom."""

from __future__ import annotations

import os
import time

import pytest
from configurations import hashed
from sockets import get, program, until
from stores import Clock, ids, open_store, upload

from filesproxy.serving import cli
from filesproxy.transports.local import reserve


@pytest.fixture
def checked(tmp_path, folder, capsys):
    """Runs `check` on a configuration with this folder: checked(*names of keys) → (status, stdout, stderr)."""

    def call(*keys):
        path = written(tmp_path, folder, *keys)
        status = cli.main(("check", "--config", str(path)))
        return (status, *capsys.readouterr())

    return call


def written(tmp_path, folder, *keys):
    path = tmp_path / "filesproxy.ini"
    sections = [f"[key:{name}]\nsha256 = {hashed('fp_' + name)}\nproviders = *\n" for name in keys]
    path.write_text(f"[filesproxy]\nfolder = {folder}\ndefault_provider = local\n" + "".join(sections))
    return path


def test_folder_that_is_not_there_yet_can_be_used_and_is_not_made(checked, folder):
    assert checked()[0] == 0 and os.listdir(folder.parent) == ["filesproxy.ini"]


def test_store_in_use_is_left_as_it_is(checked, folder):
    store = open_store(folder, Clock(1_700_000_000.0))
    file = upload(store)
    before = sorted(folder.rglob("*"))
    assert checked()[0] == 0
    assert sorted(folder.rglob("*")) == before
    assert ids(store) == [file["id"]]


def no_folder(folder, monkeypatch):
    folder.write_text("a file")


def others_may_write(folder, monkeypatch):
    folder.mkdir()
    folder.chmod(0o777)


def of_another_user(folder, monkeypatch):
    folder.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)


def not_to_be_made(folder, monkeypatch):
    def refuse(path, mode=0o777):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "mkdir", refuse)


def no_room(folder, monkeypatch):
    folder.mkdir()
    monkeypatch.setattr(reserve, "RESERVE_BYTES", 1 << 60)


def no_sync(folder, monkeypatch):
    def fail(handle):
        raise OSError(5, "EIO")

    folder.mkdir()
    monkeypatch.setattr(os, "fsync", fail)


def files_without_an_index(folder, monkeypatch):
    (folder / "blobs").mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)


def damaged_index(folder, monkeypatch):
    (folder / "blobs").mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    (folder / "index.sqlite3").write_bytes(b"this is no database" * 1000)


UNUSABLE = [no_folder, others_may_write, of_another_user, not_to_be_made, no_room, no_sync, files_without_an_index,
            damaged_index]  # fmt: skip


@pytest.mark.parametrize("break_it", UNUSABLE)
def test_folder_that_cannot_be_used_is_status_1_with_its_path(break_it, checked, folder, monkeypatch):
    """`check`, the start and the health route were all well, and then every call was a 500."""
    with monkeypatch.context() as patched:
        break_it(folder, patched)
        status, _, said = checked()
    assert status == 1 and str(folder) in said and "Traceback" not in said
    assert list(folder.glob("probe-*")) == [] if folder.is_dir() else True


@pytest.mark.parametrize("place", ["file/x", "file/x/y", "nowhere/x", "/proc/x", "/proc/x/y", "/sys/x"])
def test_folder_that_could_not_be_made_even_by_root_is_status_1(place, tmp_path, capsys):
    """`check` asked only whether the nearest name that exists may be written, which root may everywhere."""
    (tmp_path / "file").touch(0o777)
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    folder = tmp_path / place  # an absolute place stays as it is
    assert cli.main(["check", "--config", str(written(tmp_path, folder))]) == 1
    assert f"{folder}: cannot be made in {folder.parents[place.count('x/')]}" in capsys.readouterr().err


def test_start_says_that_a_folder_cannot_be_used_and_serves_the_rest(tmp_path, folder):
    no_folder(folder, None)
    with program(tmp_path, "--config", str(written(tmp_path, folder))) as gateway:
        assert f"{folder}: " in gateway.banner
        assert get(gateway.port, "/v1/health", {"host": "localhost"}).status == 200


def test_owners_that_no_key_has_are_named(checked, folder, tmp_path):
    """A section that was renamed took the team's files out of sight, and nothing told."""
    store = open_store(folder, Clock(1_700_000_000.0))
    upload(store, owner="retail")
    upload(store, owner="treasury")
    assert "warning" not in checked("retail", "treasury")[1]
    said = checked("retail-emea", "treasury")[1]
    assert "retail, and no gateway key has that owner: `files adopt`" in said and "treasury," not in said
    upload(store)
    assert "from a time without gateway keys" in checked("retail", "treasury")[1]
    assert "files of retail, treasury" in checked()[1]
    with program(tmp_path, "--config", str(written(tmp_path, folder, "treasury"))) as gateway:
        assert "files of retail" in gateway.banner


def test_start_sweeps_a_store_that_nobody_asks_anything(tmp_path, folder):
    """The first sweep came with the first request, so what had expired in an idle store stayed on the disk."""
    upload(open_store(folder, Clock(time.time())))
    left = folder / "incoming" / ("a" * 32)
    left.write_bytes(b"half an upload, of a process that was killed")
    with program(tmp_path, "--config", str(written(tmp_path, folder))):
        assert until(lambda: not left.exists())
