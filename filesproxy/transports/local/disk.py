"""What the store's modules need of a disk: whole writes, synced folders, and errors that name no path."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from ...errors import StoreError, StoreFull


@contextmanager
def disk_errors(name: str = "The local store") -> Iterator[None]:
    """Raise OSErrors as our own errors about `name`, whose message has no path: that is for the log."""
    try:
        yield
    except OSError as error:
        _raise(error, name)


def _raise(error: OSError, name: str) -> NoReturn:
    code = errno.errorcode.get(error.errno or 0, "unknown")
    detail = f"{error.filename}: {code}" if error.filename else code
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        raise StoreFull(f"{name} has no space left; nothing was stored.", detail=detail) from None
    if error.errno == errno.EROFS:
        raise StoreError(f"{name}'s disk is read-only.", detail=detail) from None
    raise StoreError(f"{name} cannot use its folder ({code}).", detail=detail) from None


def status(path: str) -> os.stat_result | None:
    """The status of what is at this path, links not followed; None if there is nothing."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def check_folder(path: str, name: str = "The local store") -> bool:
    """Whether this folder is there. StoreError for one that others could write to, and for what is not a folder."""
    with disk_errors(name):
        found = status(path)
    if found and (not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022):
        message = f"{name}'s folder must belong to this user, and nobody else may be able to write to it."
        raise StoreError(message, detail=path)
    return found is not None


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


def private(path: str, flags: int) -> int:
    """Open a file as `open` would, for its owner only."""
    return os.open(path, flags, 0o600)


class FolderLock:
    """A lock (flock) on a folder: shared by the processes that use it, or exclusive for who replaces what is in it.

    Writes nothing, so it can be had on a read-only disk. Released by `close`, or when nothing refers to it any more.
    """

    def __init__(self, folder: str, is_exclusive: bool = False) -> None:
        with disk_errors():
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self.close = weakref.finalize(self, os.close, handle)
        try:
            fcntl.flock(handle, (fcntl.LOCK_EX if is_exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            other = "a gateway or a command" if is_exclusive else "a command that rebuilds its index"
            raise StoreError(f"The local store is in use by {other}.") from None
