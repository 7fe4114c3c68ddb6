"""The bytes of the local store: files that appear whole or not at all, and a sweep that spares what is under way.

A blob is written in `incoming/`, synced, renamed into `blobs/`, and the folder synced; only then may an index name it.
Its writer holds a lock (flock) on it until the index does, so whoever can take that lock sees something abandoned.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from ...errors import StoreError, StoreFull

BLOCK_BYTES = 1 << 18  # of a download
_NAME = re.compile(r"[0-9a-f]{32}")
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # no link that leads elsewhere, no pipe that waits


class Blobs:
    """A folder of blobs, for several processes at once. Folders are 0700, files 0600. Raises StoreError, StoreFull."""

    def __init__(self, folder: str) -> None:
        self._incoming = os.path.join(folder, "incoming")
        self._kept = os.path.join(folder, "blobs")
        for path in (folder, self._incoming, self._kept):
            with disk_errors():
                os.makedirs(path, mode=0o700, exist_ok=True)
                found = os.lstat(path)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
                raise StoreError(
                    "The local store's folder must be a folder of this user that nobody else can write to."
                )

    @contextmanager
    def store(self, chunks: Iterable[bytes]) -> Iterator[str]:
        """Write a blob and keep it; inside the block its name can be committed. An exception there removes it again."""
        name, handle = self._create()
        path = os.path.join(self._incoming, name)
        try:
            for chunk in chunks:
                write_all(handle, chunk)
            with disk_errors():
                os.fsync(handle)
                os.rename(path, self.path(name))
                path = self.path(name)
                sync_folder(self._kept)
            yield name
        except BaseException:
            with suppress(OSError):
                os.unlink(path)
            raise
        finally:
            os.close(handle)  # and with it the lock

    def _create(self) -> tuple[str, int]:
        while True:
            name = secrets.token_hex(16)
            path = os.path.join(self._incoming, name)
            with disk_errors():
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX)
                except OSError:
                    os.unlink(path)
                    os.close(handle)
                    raise
                if os.fstat(handle).st_nlink:
                    return name, handle
            os.close(handle)  # a sweep took it in between

    def is_empty(self) -> bool:
        """Whether no blob is kept."""
        with disk_errors(), os.scandir(self._kept) as names:
            return next(names, None) is None

    def path(self, name: str) -> str:
        """Where a kept blob is. StoreError for what is no name of ours, which could lead elsewhere."""
        if not _NAME.fullmatch(name):
            raise StoreError("The local store's index names no blob of its own.")
        return os.path.join(self._kept, name)

    def open(self, name: str, size: int) -> BlobBody:
        """The bytes of a kept blob. StoreError if it is gone or has another size than it should."""
        with disk_errors():
            handle = os.open(self.path(name), _READ)
        if os.fstat(handle).st_size != size:
            os.close(handle)
            raise StoreError("The stored file is damaged: its size is not what it was.")
        return BlobBody(handle, size)

    def remove(self, name: str) -> None:
        """Remove a kept blob that no index names any more."""
        with disk_errors(), suppress(FileNotFoundError):
            os.unlink(self.path(name))

    def sweep(self, is_named: Callable[[str], bool]) -> int:
        """Remove what a killed process left behind: a file of ours, unlocked, named by no index. Returns how many."""
        removed = 0
        for folder in (self._incoming, self._kept):
            with disk_errors(), os.scandir(folder) as names:
                files = (entry for entry in names if entry.is_file(follow_symlinks=False))
                removed += sum(_remove_abandoned(entry.path, entry.name, is_named) for entry in files)
        return removed


class BlobBody:
    """The bytes of a blob; raises if they stop early, closes the file when closed."""

    def __init__(self, handle: int, size: int) -> None:
        self._file = os.fdopen(handle, "rb", buffering=0)
        self._left = size

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """The next block. StoreError where the file cannot be read to its end."""
        with disk_errors():
            block = self._file.read(min(BLOCK_BYTES, self._left)) if self._left else b""
        self._left -= len(block)
        if block:
            return block
        if self._left:
            raise StoreError("The stored file ended early.")
        self.close()
        raise StopIteration

    def skip(self, size: int) -> int:
        """Pass over this many bytes; how many it were."""
        size = min(size, self._left)
        self._file.seek(size, os.SEEK_CUR)
        self._left -= size
        return size

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def write_all(handle: int, block: bytes) -> None:
    """Write a block whole: os.write may stop in the middle of a large one."""
    view = memoryview(block)
    with disk_errors():
        while view:
            view = view[os.write(handle, view) :]


def sync_folder(path: str) -> None:
    """Make a rename inside this folder survive a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_abandoned(path: str, name: str, is_named: Callable[[str], bool]) -> bool:
    if not _NAME.fullmatch(name) or is_named(name):
        return False
    try:
        handle = os.open(path, _READ)
    except FileNotFoundError:
        return False  # renamed or removed by its owner
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_named(name):  # committed while we were looking
            return False
        os.unlink(path)
        return True
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        os.close(handle)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Give the disk's errors our names; their own text holds paths."""
    try:
        yield
    except OSError as error:
        _raise(error)


def _raise(error: OSError) -> NoReturn:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        raise StoreFull("The local store has no space left; nothing was stored.") from None
    name = errno.errorcode.get(error.errno or 0, "unknown")
    raise StoreError(f"The local store cannot use its folder ({name}).") from None
