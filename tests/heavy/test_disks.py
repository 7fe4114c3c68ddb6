"""The local store on real disks that are full or read-only, and what real servers leave behind when they stop."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing

import pytest
from fakes import form, form_type
from servers import running

pytest.importorskip("gunicorn")

MIB = 1 << 20


def can_mount():
    with contextlib.suppress(OSError):
        return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
    return False


needs_mount = pytest.mark.skipif(os.geteuid() != 0 or not can_mount(), reason="needs root, to mount a disk")


class Disk:
    """A disk of its own in memory (tmpfs), with a store on it."""

    def __init__(self, path):
        self.path, self.folder = path, path / "store"

    @contextlib.contextmanager
    def is_read_only(self):
        """Under a read-only mount of itself: processes that run may hold files of the disk below."""
        subprocess.run(["mount", "--bind", str(self.path), str(self.path)], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", str(self.path)], check=True)
            yield
        finally:
            subprocess.run(["umount", "--lazy", str(self.path)], check=True)

    def is_filled(self):
        """Write until nothing more goes, as another program would."""
        with contextlib.suppress(OSError), open(self.path / "other", "ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def free(self):
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=700", "tmpfs", str(path)], check=True)
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextlib.contextmanager
def served(kind, folder, run_folder):
    more = ("--workers", "2") if kind == "gunicorn" else ()
    with running(
        kind, run_folder, *more, FILESPROXY_FOLDER=str(folder), FILESPROXY_DEFAULT_PROVIDER="local"
    ) as gateway:
        yield gateway


def upload(gateway, content=b"hello", **headers):
    body = form(("purpose", "batch"), ("file", "a.bin", "application/octet-stream", content))
    response, answer = gateway.request("POST", "/v1/files", body, {"content-type": form_type(), **headers})
    return response.status, json.loads(answer)


def call(gateway, method, path):
    response, answer = gateway.request(method, path)
    return response.status, answer


def listed(gateway):
    status, answer = call(gateway, "GET", "/v1/files?order=asc")
    assert status == 200, answer
    return [file["id"] for file in json.loads(answer)["data"]]


def error_of(answer):
    return json.loads(answer)["error"] if isinstance(answer, bytes) else answer["error"]


# --- stopping


@pytest.mark.parametrize("kind", ["embedded", "gunicorn"])
def test_index_alone_has_all_rows_after_a_stop(kind, tmp_path):
    """After a SIGTERM all rows were only in the -wal: a copy of "the database file" was empty."""
    folder = tmp_path / "store"
    with served(kind, folder, tmp_path / "run") as gateway:
        made = {upload(gateway)[1]["id"] for _ in range(20)}
        assert set(listed(gateway)) == made
        gateway.stop()
    shutil.copy(folder / "index.sqlite3", tmp_path / "copy.sqlite3")
    with closing(sqlite3.connect(tmp_path / "copy.sqlite3")) as copy:
        assert {name for (name,) in copy.execute("SELECT id FROM files")} == made
    assert not (folder / "index.sqlite3-wal").exists()


# --- a full disk


@needs_mount
@pytest.mark.parametrize("kind", ["embedded", "gunicorn"])
def test_full_disk_is_read_and_emptied(kind, disk, tmp_path):
    """Nothing could be deleted on a full disk (507 in 20 of 20), so that it stayed full."""
    with served(kind, disk.folder, tmp_path / "run") as gateway:
        made = [upload(gateway, b"%d" % number * 1000)[1]["id"] for number in range(30)]
        disk.is_filled()
        assert disk.free() == 0
        status, answer = upload(gateway, b"x" * MIB)
        assert (status, error_of(answer)["code"]) == (507, "store_full")
        assert listed(gateway) == made
        for file_id in made[:20]:
            assert call(gateway, "DELETE", f"/v1/files/{file_id}")[0] == 200
        assert listed(gateway) == made[20:]
        for number, file_id in enumerate(made[20:], 20):
            assert call(gateway, "GET", f"/v1/files/{file_id}/content") == (200, b"%d" % number * 1000)
        assert upload(gateway)[0] == 507  # what was freed is for deletes, until the reserve fits again
        (disk.path / "other").unlink()
        assert upload(gateway)[0] == 200 and (disk.folder / "reserve").stat().st_size == 8 * MIB


@needs_mount
def test_store_that_fills_its_own_disk_is_emptied_by_deletes_alone(disk, tmp_path):
    with served("gunicorn", disk.folder, tmp_path / "run") as gateway:
        made = []
        while (answer := upload(gateway, os.urandom(3 * MIB)))[0] == 200:
            made.append(answer[1]["id"])
        assert answer[0] == 507 and len(made) > 10
        while (answer := upload(gateway, os.urandom(5000)))[0] == 200:  # small ones, to the last block
            made.append(answer[1]["id"])
            assert len(made) < 2000
        assert error_of(answer[1])["code"] == "store_full"
        assert (disk.folder / "reserve").exists() and os.listdir(disk.folder / "incoming") == []
        for file_id in made:
            assert call(gateway, "DELETE", f"/v1/files/{file_id}")[0] == 200
        assert listed(gateway) == [] and disk.free() > 40 * MIB
        assert upload(gateway, os.urandom(3 * MIB))[0] == 200


@needs_mount
@pytest.mark.parametrize("kind", ["embedded", "gunicorn"])
def test_full_disk_is_read_by_a_server_that_was_just_started(kind, disk, tmp_path):
    """sqlite makes the index of its log when the first connection opens the database."""
    with served("embedded", disk.folder, tmp_path / "first") as gateway:
        made = [upload(gateway, b"hello")[1]["id"] for _ in range(30)]
        gateway.stop()
    assert not (disk.folder / "index.sqlite3-shm").exists()
    disk.is_filled()
    with served(kind, disk.folder, tmp_path / "second") as gateway:
        assert listed(gateway) == made
        assert call(gateway, "GET", f"/v1/files/{made[3]}/content") == (200, b"hello")
        assert upload(gateway)[0] == 507
        for file_id in made[:20]:
            assert call(gateway, "DELETE", f"/v1/files/{file_id}")[0] == 200
        assert listed(gateway) == made[20:]


@needs_mount
def test_upload_that_cannot_fit_is_refused_before_its_body_was_read(disk, tmp_path):
    with served("gunicorn", disk.folder, tmp_path / "run") as gateway:
        upload(gateway)
        body = form(("purpose", "batch"), ("file", "a.bin", "application/octet-stream", b"x" * 2 * MIB))
        with contextlib.closing(gateway.connect()) as sock:
            head = f"POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-type: {form_type()}\r\n"
            sock.sendall(f"{head}content-length: {200 * MIB}\r\n\r\n".encode() + body[: MIB + 500])
            assert sock.recv(65536).startswith(b"HTTP/1.1 507 ")  # 199 MiB were never sent
        assert os.listdir(disk.folder / "incoming") == []


# --- a read-only disk


@needs_mount
@pytest.mark.parametrize("kind", ["embedded", "gunicorn"])
@pytest.mark.parametrize("moment", ["running", "after_a_stop", "after_a_kill"])
def test_read_only_disk_is_read_and_says_what_it_is(moment, kind, disk, tmp_path):
    """Each request was a 500. Without a running process there is no log beside the index, and none can be made."""
    with contextlib.ExitStack() as stack:
        gateway = stack.enter_context(served(kind, disk.folder, tmp_path / "first"))
        made = [upload(gateway, b"hello")[1]["id"] for _ in range(5)]
        if moment == "after_a_kill":
            for worker in gateway.workers():
                os.kill(worker, 9)
            gateway.process.kill()
            gateway.process.wait()
        if moment != "running":
            gateway.stop()
        with disk.is_read_only():
            if moment != "running":
                gateway = stack.enter_context(served(kind, disk.folder, tmp_path / "second"))
            before = sorted(os.listdir(disk.folder))
            for _ in range(8):  # by each worker
                assert listed(gateway) == made
                assert call(gateway, "GET", f"/v1/files/{made[1]}/content") == (200, b"hello")
                assert call(gateway, "GET", f"/v1/files/{made[1]}")[0] == 200
                assert call(gateway, "GET", "/v1/files/file-none")[0] == 404
                status, answer = upload(gateway)
                assert status == 500 and "read-only" in error_of(answer)["message"]
                status, answer = call(gateway, "DELETE", f"/v1/files/{made[1]}")
                assert status == 500 and "read-only" in error_of(answer)["message"]
            assert sorted(os.listdir(disk.folder)) == before
        assert call(gateway, "DELETE", f"/v1/files/{made[1]}")[0] == 200
        assert upload(gateway)[0] == 200
        assert len(listed(gateway)) == 5
