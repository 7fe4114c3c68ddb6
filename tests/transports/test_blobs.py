"""The bytes of the local store: whole or not at all, written in the right order, swept without touching live ones."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import stat
import threading
from contextlib import suppress

import pytest
from processes import Child, open_files

from filesproxy.errors import ClientAborted, FilesproxyError, StoreError, StoreFull
from filesproxy.transports.local.blobs import BLOCK_BYTES, BlobBody, Blobs


@pytest.fixture
def blobs(folder):
    return Blobs(str(folder))


def keep(blobs, *chunks):
    with blobs.store(chunks) as blob:
        return blob.name


def held(folder):
    """The blobs of both folders; each kept one has its sidecar beside it."""
    kept = {path.name for path in (folder / "blobs").iterdir()}
    blobs = {name for name in kept if not name.endswith(".json")}
    assert kept == blobs | {f"{name}.json" for name in blobs}
    return sorted(
        [*(f"blobs/{name}" for name in blobs), *(f"incoming/{path.name}" for path in (folder / "incoming").iterdir())]
    )


def sweep_all(blobs, is_named):
    """How many abandoned blobs a whole sweep finds, and tidies up."""
    found = 0
    for name in blobs.abandoned("incoming", is_named):
        blobs.drop(name, "incoming")
        found += 1
    for name in blobs.abandoned("blobs", is_named):
        blobs.lose(name)
        found += 1
    return found


def nobody(name):
    return False


def is_folder(handle):
    return stat.S_ISDIR(os.fstat(handle).st_mode)


# --- writing


def test_blob_is_written_synced_renamed_and_its_folder_synced_before_anybody_may_name_it(blobs, folder, monkeypatch):
    events = []

    def record(function, describe):
        real = getattr(os, function)

        def recorded(*arguments):
            result = real(*arguments)
            events.append(describe(*arguments))
            return result

        monkeypatch.setattr(os, function, recorded)

    record("write", lambda handle, block: ("write", bytes(block)))
    record("fsync", lambda handle: ("fsync", os.readlink(f"/proc/self/fd/{handle}").replace(str(folder), "")))
    record("rename", lambda old, new: ("rename", old.replace(str(folder), ""), new.replace(str(folder), "")))
    with blobs.store([b"one", b"two"]) as blob:
        name = blob.name
        events.append(("named", name))
    assert events == [
        ("write", b"one"),
        ("write", b"two"),
        ("fsync", f"/incoming/{name}"),
        ("rename", f"/incoming/{name}", f"/blobs/{name}"),
        ("fsync", "/blobs"),
        ("named", name),
    ]


def test_writes_that_stop_in_the_middle_are_continued(blobs, folder, monkeypatch):
    content = random.Random(1).randbytes(1000)
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, block: real(handle, block[:7]))
    name = keep(blobs, content[:600], b"", content[600:])
    assert (folder / "blobs" / name).read_bytes() == content


POINTS = {
    "create": ("open", lambda path, flags, *mode: flags & os.O_EXCL),
    "second_write": ("write", lambda handle, block: os.fstat(handle).st_size),
    "sync_file": ("fsync", lambda handle: not is_folder(handle)),
    "rename": ("rename", lambda old, new: True),
    "open_folder": ("open", lambda path, flags, *mode: flags & os.O_DIRECTORY),
    "sync_folder": ("fsync", is_folder),
}
CODES = {
    "ENOSPC": StoreFull,
    "EDQUOT": StoreFull,
    "EFBIG": StoreFull,
    "EIO": StoreError,
    "EACCES": StoreError,
    "EROFS": StoreError,
}


def fail_at(monkeypatch, point, number):
    function, matches = POINTS[point]
    real = getattr(os, function)

    def broken(*arguments, **more):
        if matches(*arguments):
            raise OSError(number, os.strerror(number), "/a/private/path")
        return real(*arguments, **more)

    monkeypatch.setattr(os, function, broken)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("point", POINTS)
def test_disk_that_fails_leaves_nothing_and_gets_our_name(point, code, blobs, folder, monkeypatch):
    with monkeypatch.context() as patch:
        fail_at(patch, point, getattr(errno, code))
        with pytest.raises(StoreError) as caught:
            keep(blobs, b"one", b"two")
    assert type(caught.value) is CODES[code]
    assert caught.value.status == (507 if CODES[code] is StoreFull else 500)
    assert "path" not in caught.value.message and str(folder) not in caught.value.message
    assert held(folder) == open_files(folder) == []
    name = keep(blobs, b"again")
    assert held(folder) == [f"blobs/{name}"]


def test_file_that_cannot_be_locked_leaves_nothing(blobs, folder, monkeypatch):
    def no_locks(handle, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(StoreError, match="ENOLCK"):
        keep(blobs, b"one")
    leaked, left = open_files(folder), held(folder)
    for handle in os.listdir("/proc/self/fd"):  # so that a failure here does not follow us into other tests
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{handle}") in leaked:
                os.close(int(handle))
    assert (leaked, left) == ([], [])


@pytest.mark.parametrize("error", [ClientAborted("gone"), KeyboardInterrupt(), SystemExit(), ValueError()])
def test_upload_that_breaks_off_leaves_nothing(error, blobs, folder):
    def chunks():
        yield b"half"
        raise error

    with pytest.raises(type(error)), blobs.store(chunks()):
        pytest.fail("a name for half an upload")
    assert held(folder) == open_files(folder) == []


@pytest.mark.parametrize("error", [StoreFull("index"), KeyboardInterrupt(), ValueError()])
def test_name_that_is_not_committed_leaves_nothing(error, blobs, folder):
    with pytest.raises(type(error)), blobs.store([b"whole"]) as blob:
        assert held(folder) == [f"blobs/{blob.name}"]
        raise error
    assert held(folder) == open_files(folder) == []


def test_half_written_blob_is_not_among_the_kept(blobs, folder):
    def chunks():
        yield b"half"
        assert [entry.split("/")[0] for entry in held(folder)] == ["incoming"]

    with blobs.store(chunks()) as blob:
        pass
    assert held(folder) == [f"blobs/{blob.name}"]
    assert open_files(folder) == []


def test_folders_are_0700_and_files_0600_under_any_umask(folder):
    before = os.umask(0)
    try:
        name = keep(Blobs(str(folder)), b"x")
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "incoming", folder / "blobs")}
    assert set(modes.values()) == {0o700}, modes
    assert stat.S_IMODE((folder / "blobs" / name).stat().st_mode) == 0o600


def test_folder_that_is_a_file_is_our_error_without_its_path(folder):
    folder.write_text("")
    with pytest.raises(StoreError) as caught:
        Blobs(str(folder))
    assert str(folder) not in caught.value.message


# --- reading


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 17])
def test_body_gives_all_bytes_in_blocks_and_closes_itself(size, blobs, folder):
    content = bytes(range(256)) * (size // 256 + 1)
    body = blobs.open(keep(blobs, content[:size]), size)
    blocks = list(body)
    assert b"".join(blocks) == content[:size]
    assert all(0 < len(block) <= BLOCK_BYTES for block in blocks)
    assert open_files(folder) == []
    body.close()


def test_body_that_is_not_read_to_its_end_is_closed_by_close(blobs, folder):
    body = blobs.open(keep(blobs, b"x" * (BLOCK_BYTES + 1)), BLOCK_BYTES + 1)
    next(body)
    assert len(open_files(folder)) == 1
    body.close()
    body.close()
    assert open_files(folder) == []


@pytest.mark.parametrize("size", [0, 4, 6])
def test_blob_of_another_size_is_refused_before_its_first_byte(size, blobs, folder):
    name = keep(blobs, b"hello")
    os.truncate(blobs.path(name), size)
    with pytest.raises(StoreError) as caught:
        blobs.open(name, 5)
    assert caught.value.status == 500
    assert open_files(folder) == []


def test_blob_that_is_gone_is_our_error_without_its_path(blobs, folder):
    with pytest.raises(StoreError) as caught:
        blobs.open("0" * 32, 5)
    assert "0000" not in caught.value.message and str(folder) not in caught.value.message


@pytest.mark.parametrize("left", [0, BLOCK_BYTES, BLOCK_BYTES + 5])
def test_blob_that_is_cut_while_it_is_read_raises_and_never_ends_quietly(left, blobs):
    name = keep(blobs, b"x" * (3 * BLOCK_BYTES))
    body = blobs.open(name, 3 * BLOCK_BYTES)
    next(body)
    os.truncate(blobs.path(name), left)
    with pytest.raises(FilesproxyError):
        list(body)
    body.close()


def test_blob_that_grows_while_it_is_read_ends_where_it_should(blobs):
    name = keep(blobs, b"x" * BLOCK_BYTES)
    body = blobs.open(name, BLOCK_BYTES)
    with open(blobs.path(name), "ab") as file:
        file.write(b"more")
    assert b"".join(body) == b"x" * BLOCK_BYTES


def test_disk_that_fails_while_it_is_read_gets_our_name():
    body = BlobBody(os.open("/proc/self/mem", os.O_RDONLY), 5)  # address 0 is not mapped: a real EIO
    try:
        with pytest.raises(FilesproxyError):
            next(body)
    finally:
        body.close()


def test_blob_that_cannot_be_moved_is_left_unlocked_and_closed(blobs, folder):
    """As on a read-only disk, where each deletion left a descriptor open."""
    name = keep(blobs, b"x")
    (folder / "trash" / name).mkdir()
    with pytest.raises(StoreError), blobs.removing([name], lambda name: True):
        pytest.fail("it was not moved")
    assert open_files(folder) == []
    with blobs.locked(name, "blobs") as is_ours:
        assert is_ours


def test_reader_of_a_removed_blob_gets_all_of_it(blobs, folder):
    content = bytes(range(256)) * 4096
    name = keep(blobs, content)
    body = blobs.open(name, len(content))
    first = next(body)
    for _ in range(2):  # somebody else may have been faster
        with blobs.removing([name], lambda name: True):
            pass
    assert held(folder) == []
    assert first + b"".join(body) == content


# --- the sweep


def test_sweep_removes_what_nobody_holds_and_no_index_names(blobs, folder):
    kept, orphan = keep(blobs, b"kept"), keep(blobs, b"orphan")
    (folder / "incoming" / ("a" * 32)).write_bytes(b"half")
    assert sweep_all(blobs, lambda name: name == kept) == 2
    assert held(folder) == [f"blobs/{kept}"] and orphan != kept
    assert sweep_all(blobs, lambda name: name == kept) == 0
    assert open_files(folder) == []


WRITER = """
import sys
from filesproxy.transports.local.blobs import Blobs
def step(word):
    print(word, flush=True)
    sys.stdin.readline()
def chunks():
    yield b"half"
    step("writing")
    yield b"whole"
with Blobs(sys.argv[1]).store(chunks()) as blob:
    step("kept")
step("done")
"""


class Writer(Child):
    """Another process that writes one blob, a step at a time."""

    def __init__(self, folder):
        super().__init__(WRITER, str(folder))

    def reaches(self, word):
        return self.said() == word

    def goes_on(self):
        self.told("")


def test_sweep_spares_what_another_process_is_writing(blobs, folder):
    with Writer(folder) as writer:
        for word, part in (("writing", "incoming"), ("kept", "blobs")):
            assert writer.reaches(word)
            assert sweep_all(blobs, nobody) == 0
            assert [entry.split("/")[0] for entry in held(folder)] == [part]
            writer.goes_on()
        assert writer.reaches("done")
        assert sweep_all(blobs, nobody) == 1  # its index never named it


@pytest.mark.parametrize("word,part", [("writing", "incoming"), ("kept", "blobs")])
def test_sweep_removes_what_a_killed_process_was_writing(word, part, blobs, folder):
    with Writer(folder) as writer:
        while not writer.reaches(word):
            writer.goes_on()
        writer.is_killed()
        assert [entry.split("/")[0] for entry in held(folder)] == [part]
        assert sweep_all(blobs, nobody) == 1
    assert held(folder) == []


def test_writer_whose_new_file_is_swept_before_it_has_the_lock_takes_another(blobs, folder, monkeypatch):
    real, swept = fcntl.flock, []

    def flock(handle, how):
        if how == fcntl.LOCK_EX and not swept:  # the writer, just after it created its file
            swept.append(0)
            swept[0] = sweep_all(blobs, nobody)
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    name = keep(blobs, b"all of it")
    assert swept == [1]
    assert held(folder) == [f"blobs/{name}"]
    assert (folder / "blobs" / name).read_bytes() == b"all of it"
    assert open_files(folder) == []


def test_writer_waits_for_a_sweep_that_has_its_lock_and_then_takes_another_file(blobs, folder, monkeypatch):
    created, locked = threading.Event(), threading.Event()
    asked, named = [], []
    real = fcntl.flock

    def flock(handle, how):
        if how == fcntl.LOCK_EX and not created.is_set():
            created.set()
            assert locked.wait(5)
        real(handle, how)

    def is_named(name):
        asked.append(name)
        if len(asked) == 2:  # the second question comes with the lock in hand
            locked.set()
        return name in named

    def write():
        with blobs.store([b"all of it"]) as blob:
            named.append(blob.name)

    monkeypatch.setattr(fcntl, "flock", flock)
    writer = threading.Thread(target=write)
    writer.start()
    assert created.wait(5)
    assert sweep_all(blobs, is_named) == 1
    writer.join()
    assert asked[0] == asked[1] and asked[0] not in named
    assert held(folder) == [f"blobs/{name}" for name in named]


def test_sweep_that_asked_before_the_commit_asks_again_under_the_lock(blobs, folder):
    named = set()
    upload = blobs.store([b"whole"])
    name = upload.__enter__().name

    def is_named(asked):
        known = asked in named
        if not named:  # the commit happens after the sweep's first question
            named.add(name)
            upload.__exit__(None, None, None)
        return known

    assert sweep_all(blobs, is_named) == 0
    assert held(folder) == [f"blobs/{name}"]


class HeldUpload:
    """An upload in a thread that stays half written until it is told to end, committed or broken."""

    def __init__(self, blobs, named):
        self._blobs, self._named = blobs, named
        self._half, self._go_on = threading.Event(), threading.Event()
        self.fails = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._half.wait(5)

    def _chunks(self):
        yield b"half"
        self._half.set()
        assert self._go_on.wait(5)
        yield b"whole"

    def _run(self):
        with suppress(ValueError), self._blobs.store(self._chunks()) as blob:
            if self.fails:
                raise ValueError
            self._named.add(blob.name)

    def ends(self):
        self._go_on.set()
        self._thread.join()


@pytest.mark.parametrize("fails", [False, True], ids=["committed", "broken"])
@pytest.mark.parametrize("moment", ["asked", "opened"])
def test_sweep_that_saw_an_upload_under_way_spares_what_became_of_it(moment, fails, blobs, folder, monkeypatch):
    named = set()
    upload = HeldUpload(blobs, named)
    upload.fails = fails
    real = os.open

    def is_named(name):
        known = name in named
        if moment == "asked":
            upload.ends()
        return known

    def open_then_end(path, flags, *mode, **more):
        handle = real(path, flags, *mode, **more)
        if moment == "opened" and "incoming" in str(path) and not flags & os.O_CREAT:
            upload.ends()
        return handle

    monkeypatch.setattr(os, "open", open_then_end)
    try:
        assert sweep_all(blobs, is_named) == 0
    finally:
        upload.ends()
    assert held(folder) == [f"blobs/{name}" for name in named]
    assert len(named) == (0 if fails else 1)
    assert open_files(folder) == []


def test_two_sweeps_together_take_each_file_once(blobs, folder):
    inner = []

    def is_named(name):
        if not inner:
            inner.append(0)
            inner[0] = sweep_all(Blobs(str(folder)), nobody)
        return False

    (folder / "incoming" / ("a" * 32)).write_bytes(b"half")
    keep(blobs, b"orphan")
    assert (sweep_all(blobs, is_named), inner) == (0, [2])
    assert held(folder) == []


def test_sweep_spares_a_file_whose_lock_another_sweep_has(blobs, folder):
    (folder / "incoming" / ("a" * 32)).write_bytes(b"half")
    with open(folder / "incoming" / ("a" * 32), "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert sweep_all(blobs, nobody) == 0
    assert sweep_all(blobs, nobody) == 1


@pytest.mark.parametrize("function", ["scandir", "open", "unlink"])
def test_disk_that_fails_in_a_sweep_gets_our_name(function, blobs, folder, monkeypatch):
    (folder / "incoming" / ("a" * 32)).write_bytes(b"half")

    def broken(path, *arguments, **more):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, function, broken)
        with pytest.raises(FilesproxyError) as caught:
            sweep_all(blobs, nobody)
    assert str(folder) not in str(caught.value)
    assert open_files(folder) == []


def test_nothing_committed_is_lost_while_sweeps_never_rest(blobs, folder):
    named, lock, over = {}, threading.Lock(), threading.Event()

    def is_named(name):
        with lock:
            return name in named

    def write(seed):
        draw = random.Random(seed)
        for number in range(25):
            content = b"%d-%d-" % (seed, number) * draw.randrange(1, 500)
            with blobs.store([content[:7], content[7:]]) as blob, lock:
                named[blob.name] = content

    def sweep():
        while not over.is_set():
            sweep_all(blobs, is_named)

    sweepers = [threading.Thread(target=sweep) for _ in range(2)]
    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(3)]
    for thread in sweepers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    over.set()
    for thread in sweepers:
        thread.join()
    assert len(named) == 75
    assert {path.name: path.read_bytes() for path in (folder / "blobs").glob("*[!n]")} == named
    assert list((folder / "incoming").iterdir()) == []
