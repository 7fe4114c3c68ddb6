"""The bytes of the local store: blobs that appear whole or not at all, and a sweep that tidies up abandoned ones.

A blob is written in `incoming/`, synced, and renamed into `blobs/`, and that folder is synced; only then may an index
name the blob. Its writer holds a lock (flock) on it until the index names it, so a blob that can be locked and that no
index names has been abandoned.

A blob in `blobs/` may have been acknowledged to a client. If no index names it, the index may be the one that is wrong
(an old backup, a damaged page), so a sweep never removes such a blob: it moves it to `lost/`.
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

BLOCK_BYTES = 1 << 18  # read at a time for a download
_NAME = re.compile(r"[0-9a-f]{32}")
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a link may lead elsewhere, a pipe may block


class Blobs:
    """A folder of blobs, which several processes may share. Folders are created 0700, files 0600.

    Raises StoreError and StoreFull.
    """

    def __init__(self, folder: str) -> None:
        self._incoming = os.path.join(folder, "incoming")
        self._kept = os.path.join(folder, "blobs")
        self._lost = os.path.join(folder, "lost")
        for path in (folder, self._incoming, self._kept, self._lost):
            with disk_errors():
                os.makedirs(path, mode=0o700, exist_ok=True)
                found = os.lstat(path)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
                raise StoreError(
                    "The local store's folder must belong to this user, and nobody else may be able to write to it."
                )

    @contextmanager
    def store(self, chunks: Iterable[bytes]) -> Iterator[str]:
        """Write a blob and give its name, which can be committed inside the `with` block.

        An exception raised there removes the blob again.
        """
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
            os.close(handle)  # releases the lock

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
            os.close(handle)  # a sweep removed it before we had the lock

    def is_empty(self) -> bool:
        """Whether no blob is kept."""
        with disk_errors(), os.scandir(self._kept) as names:
            return next(names, None) is None

    def path(self, name: str) -> str:
        """The path of a kept blob. StoreError for a name that is not in our form, which could lead elsewhere."""
        if not _NAME.fullmatch(name):
            raise StoreError("The local store's index contains a blob name that the store did not make.")
        return os.path.join(self._kept, name)

    def open(self, name: str, size: int) -> BlobBody:
        """The bytes of a kept blob. StoreError if it is gone, or if its size is not `size`."""
        with disk_errors():
            handle = os.open(self.path(name), _READ)
        if os.fstat(handle).st_size != size:
            os.close(handle)
            raise StoreError("The stored file is damaged: its size is not what it was.")
        return BlobBody(handle, size)

    def remove(self, name: str) -> None:
        """Remove a kept blob that no index names any longer."""
        with disk_errors(), suppress(FileNotFoundError):
            os.unlink(self.path(name))

    @contextmanager
    def removing(self, name: str) -> Iterator[None]:
        """Remove a kept blob after the block in which its index forgets it. Until then, no sweep takes it for lost."""
        handle = None
        with disk_errors(), suppress(FileNotFoundError):
            handle = os.open(self.path(name), _READ)
        try:
            if handle is not None:
                with disk_errors():
                    fcntl.flock(handle, fcntl.LOCK_SH)  # shared: others may be removing it too
            yield
            self.remove(name)
        finally:
            if handle is not None:
                os.close(handle)

    def sweep_incoming(self, is_named: Callable[[str], bool]) -> int:
        """Remove uploads that a killed process left. Returns how many."""
        return self._each_abandoned(self._incoming, is_named, os.unlink)

    def sweep_kept(self, is_named: Callable[[str], bool]) -> int:
        """Move blobs that no index names to `lost/`. Returns how many."""
        return self._each_abandoned(self._kept, is_named, self._lose)

    def _each_abandoned(self, folder: str, is_named: Callable[[str], bool], tidy: Callable[[str], None]) -> int:
        with disk_errors(), os.scandir(folder) as names:
            files = (entry for entry in names if entry.is_file(follow_symlinks=False))
            return sum(_tidied(entry.path, entry.name, is_named, tidy) for entry in files)

    def _lose(self, path: str) -> None:
        os.rename(path, os.path.join(self._lost, os.path.basename(path)))


class BlobBody:
    """The bytes of a blob. Raises if they stop early; closing it closes the file."""

    def __init__(self, handle: int, size: int) -> None:
        self._file = os.fdopen(handle, "rb", buffering=0)
        self._left = size

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """The next block. StoreError if the file cannot be read to its end."""
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
        """Skip up to this many bytes; returns how many were skipped."""
        size = min(size, self._left)
        self._file.seek(size, os.SEEK_CUR)
        self._left -= size
        return size

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def write_all(handle: int, block: bytes) -> None:
    """Write a whole block: os.write may write only a part of a large one."""
    view = memoryview(block)
    with disk_errors():
        while view:
            view = view[os.write(handle, view) :]


def sync_folder(path: str) -> None:
    """Make renames in this folder survive a power failure."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _tidied(path: str, name: str, is_named: Callable[[str], bool], tidy: Callable[[str], None]) -> bool:
    """Tidy up a blob if it is abandoned. Whether it was."""
    if not _NAME.fullmatch(name) or is_named(name):
        return False
    try:
        handle = os.open(path, _READ)
    except FileNotFoundError:
        return False  # its writer has renamed or removed it
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_named(name):  # committed since the first look
            return False
        tidy(path)
        return True
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        os.close(handle)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Raise OSErrors as our own errors, because the text of an OSError contains paths."""
    try:
        yield
    except OSError as error:
        _raise(error)


def _raise(error: OSError) -> NoReturn:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        raise StoreFull("The local store has no space left; nothing was stored.") from None
    name = errno.errorcode.get(error.errno or 0, "unknown")
    raise StoreError(f"The local store cannot use its folder ({name}).") from None
