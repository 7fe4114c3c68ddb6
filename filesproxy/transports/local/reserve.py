"""A reserve of space, so that a full disk can be emptied: sqlite needs room to remove a row.

The reserve is a file that takes the space from everybody, other programs included. What must work on a full disk
releases it. Uploads need it to be there, so they cannot eat what deletes have freed.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from ...errors import StoreFull
from .disk import disk_errors, write_all

RESERVE_BYTES = 8 << 20  # twice what sqlite's log takes before it is written back (1000 pages of 4 KiB)


class Reserve:
    """The file `reserve` of a store."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._path = os.path.join(folder, "reserve")

    def keep(self, wanted: int) -> None:
        """See that the reserve is there, and that beside it there is room for this many bytes.

        StoreFull if there is not, StoreError on a read-only disk.
        """
        with disk_errors():
            if not self.check_room(wanted):
                self._make()

    def check_room(self, wanted: int = 0) -> bool:
        """Whether the reserve is there. StoreFull if there is no room for it and for this many bytes."""
        with disk_errors():
            found = os.statvfs(self._folder)
            # With room for one reserve only, it would take at once what a delete has just released and not yet used.
            is_there = self._is_whole()
        needed = (0 if is_there else 2 * RESERVE_BYTES) + wanted
        if found.f_bavail * found.f_frsize < needed and found.f_blocks:  # 0: a disk that does not say its size
            raise StoreFull("The local store has no space left for this file; nothing was stored.")
        return is_there

    def _make(self) -> None:
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            _allocate(handle)
        except BaseException:
            os.unlink(self._path)  # a part of it would be in the way of deletes
            raise
        finally:
            os.close(handle)

    def release(self) -> None:
        """Give the space back, if it is there."""
        with suppress(OSError):
            os.unlink(self._path)

    def _is_whole(self) -> bool:
        try:
            return os.stat(self._path).st_size >= RESERVE_BYTES
        except FileNotFoundError:
            return False


def _allocate(handle: int) -> None:
    try:
        os.posix_fallocate(handle, 0, RESERVE_BYTES)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system without it, where libc does not help
            raise
        write_all(handle, bytes(RESERVE_BYTES))
