"""The bytes of the local store: blobs that appear whole or not at all, and go in one step.

A blob is written in `incoming/`, synced, and renamed into `blobs/`, and that folder is synced; only then may an index
name the blob. Beside it stands its sidecar, which says what the index knows of the file. It is empty until the index
has given the file an id; it is written before the index commits and synced before the client has its answer.

A blob that is deleted is renamed into `trash/`, and that folder is never read again: from then on the file is deleted,
whatever the index still says. Then the index forgets it, and then it is removed.

Whoever writes or removes a blob holds a lock (flock) on it, so a blob that can be locked and that no index names has
been abandoned. A blob in `blobs/` may have been acknowledged to a client, and the index may be the one that is wrong
(an old backup, a damaged page); so an abandoned blob of `blobs/` is never removed, but moved to `lost/`.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256

from ...calls import Json
from ...errors import StoreError
from . import sidecars
from .disk import check_folder, disk_errors, status, sync_folder, write_all

BLOCK_BYTES = 1 << 18  # read at a time for a download
PLACES = ("incoming", "blobs", "trash", "lost")
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a link may lead elsewhere, a pipe may block


class Blobs:
    """A folder of blobs, which several processes may share. Folders are created 0700, files 0600.

    A folder that is there is not written to until a method does so. Raises StoreError and StoreFull.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._is_made = self._check()
        if not os.path.isdir(self.place("blobs")):
            self.make()

    def place(self, place: str) -> str:
        """The path of one of the folders."""
        return os.path.join(self._folder, place)

    def _paths(self) -> list[str]:
        return [self._folder, *map(self.place, PLACES)]

    def _check(self) -> bool:
        """Whether all folders are there. StoreError for one that others could write to."""
        found = [check_folder(path) for path in self._paths()]  # each is looked at
        return all(found)

    def make(self) -> None:
        """Make the folders that are not there yet."""
        if self._is_made:
            return
        for path in self._paths():
            with disk_errors():
                os.makedirs(path, mode=0o700, exist_ok=True)
        self._is_made = self._check()

    @contextmanager
    def store(self, chunks: Iterable[bytes], is_hashed: bool = True) -> Iterator[NewBlob]:
        """Write a blob, which can be committed inside the `with` block.

        An exception raised there removes the blob again.
        """
        self.make()
        name, handle = self._create()
        path, sidecar = self.path(name, "incoming"), None
        digest = sha256() if is_hashed else None
        try:
            for chunk in chunks:
                write_all(handle, chunk)
                if digest:
                    digest.update(chunk)
            with disk_errors():
                os.fsync(handle)
                os.rename(path, self.path(name))
                path = self.path(name)
                sidecar = os.open(path + sidecars.SUFFIX, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                sync_folder(self.place("blobs"))
            yield NewBlob(name, digest.hexdigest() if digest else None, sidecar)
        except BaseException:
            for left in (path + sidecars.SUFFIX, path):
                with suppress(OSError):
                    os.unlink(left)
            raise
        finally:
            os.close(handle)  # releases the lock
            if sidecar is not None:
                os.close(sidecar)

    def _create(self) -> tuple[str, int]:
        while True:
            name = secrets.token_hex(16)
            path = self.path(name, "incoming")
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
        return next(self.names("blobs"), None) is None

    def names(self, place: str) -> Iterator[str]:
        """The names of the blobs in one of the folders."""
        with disk_errors():
            try:
                entries = os.scandir(self.place(place))
            except FileNotFoundError:
                return
        with disk_errors(), entries:
            for entry in entries:
                if sidecars.is_blob(entry.name) and entry.is_file(follow_symlinks=False):
                    yield entry.name

    def path(self, name: str, place: str = "blobs") -> str:
        """The path of a blob. StoreError for a name that is not in our form, which could lead elsewhere."""
        if not sidecars.is_blob(name):
            raise StoreError("The local store's index contains a blob name that the store did not make.")
        return os.path.join(self._folder, place, name)

    def sidecar(self, name: str, place: str = "blobs") -> Json | None:
        """What the sidecar of this blob says. None if there is none, or it is not whole."""
        return sidecars.read(self.path(name, place) + sidecars.SUFFIX)

    def is_unanswered(self, name: str, place: str) -> bool:
        """Whether a blob's sidecar is empty: its upload was killed, and no client was ever told an id."""
        with disk_errors():
            found = status(self.path(name, place) + sidecars.SUFFIX)
        return found is not None and found.st_size == 0

    def describe(self, name: str, row: Json) -> None:
        """Give a kept blob the sidecar that it lacks. It appears whole, but may not survive a power failure."""
        self.make()
        made, handle = self._create()
        try:
            write_all(handle, sidecars.encode(row))
            with disk_errors():
                os.fsync(handle)
                os.rename(self.path(made, "incoming"), self.path(name) + sidecars.SUFFIX)
        except BaseException:
            with suppress(OSError):
                os.unlink(self.path(made, "incoming"))
            raise
        finally:
            os.close(handle)

    def open(self, name: str, size: int) -> BlobBody:
        """The bytes of a kept blob. StoreError if it is gone, or if its size is not `size`."""
        with disk_errors():
            handle = os.open(self.path(name), READ)
        if os.fstat(handle).st_size != size:
            os.close(handle)
            raise StoreError("The stored file is damaged: its size is not what it was.")
        return BlobBody(handle, size)

    @contextmanager
    def removing(self, names: Sequence[str], is_due: Callable[[str], bool]) -> Iterator[list[str]]:
        """Delete blobs: move them to `trash/`, and remove them after the block in which their index forgets them.

        The block gets the names of those for which `is_due` still holds once they are locked: meanwhile a file may have
        been given to another owner. They stay locked, so that nobody takes them for abandoned.
        """
        self.make()
        handles: list[int] = []
        try:
            with disk_errors():
                due = [name for name in names if self._discard(name, handles, is_due)]
                sync_folder(self.place("blobs"))
            yield due
            for name in due:
                self.destroy(name)
        finally:
            for handle in handles:
                os.close(handle)

    def _discard(self, name: str, handles: list[int], is_due: Callable[[str], bool]) -> bool:
        """Move a blob to `trash/` if that is due. `handles` gets its lock, which others that remove it too share."""
        kept, trashed = self.path(name), self.path(name, "trash")
        for path in (kept, trashed):  # in trash/ is what a killed process was removing
            with suppress(FileNotFoundError):
                handles.append(os.open(path, READ))
                fcntl.flock(handles[-1], fcntl.LOCK_SH)
                break
        else:
            return is_due(name)
        if not is_due(name):
            return False
        for suffix in ("", sidecars.SUFFIX):
            with suppress(FileNotFoundError):
                os.rename(kept + suffix, trashed + suffix)
        return True

    def is_in_trash(self, name: str) -> bool:
        """Whether this blob has been deleted, though an index may still name it."""
        return os.path.exists(self.path(name, "trash"))

    def destroy(self, name: str) -> None:
        """Remove a blob in `trash/` that no index names any longer, the blob itself last."""
        for path in (self.path(name) + sidecars.SUFFIX, self.path(name, "trash") + sidecars.SUFFIX):
            with disk_errors(), suppress(FileNotFoundError):
                os.unlink(path)
        self.drop(name, "trash")

    def drop(self, name: str, place: str) -> None:
        """Remove a blob that never was a file, or no longer is one."""
        with disk_errors(), suppress(FileNotFoundError):
            os.unlink(self.path(name, place))

    def lose(self, name: str) -> None:
        """Move a kept blob to `lost/`, its sidecar first: the blob is what a sweep looks for."""
        self.move(name, "blobs", "lost")

    def move(self, name: str, source: str, target: str) -> None:
        """Move a blob from one folder to another, its sidecar first."""
        self.make()
        for suffix in (sidecars.SUFFIX, ""):
            with disk_errors(), suppress(FileNotFoundError):
                os.rename(self.path(name, source) + suffix, self.path(name, target) + suffix)

    def abandoned(self, place: str, is_named: Callable[[str], bool]) -> Iterator[str]:
        """The blobs in a folder that nobody holds and no index names. Each is locked while the caller looks at it."""
        for name in self.names(place):
            if not is_named(name):
                with self.locked(name, place) as is_ours:
                    if is_ours and not is_named(name):  # it may have been committed since the first look
                        yield name

    def undescribed(self) -> Iterator[str]:
        """The kept blobs without a sidecar, or with an empty one; also those that are just being committed."""
        for name in self.names("blobs"):
            with disk_errors():
                found = status(self.path(name) + sidecars.SUFFIX)
            if not (found and found.st_size):
                yield name

    @contextmanager
    def locked(self, name: str, place: str) -> Iterator[bool]:
        """Lock a blob. False if somebody else has it, or if it is not there (any more)."""
        with disk_errors():
            handle = _lock(self.path(name, place))
        try:
            yield handle is not None
        finally:
            if handle is not None:
                os.close(handle)


class NewBlob:
    """A blob that is about to be committed: its name, and the SHA-256 of its bytes if it was computed."""

    def __init__(self, name: str, sha256: str | None, sidecar: int) -> None:
        self.name = name
        self.sha256 = sha256
        self._sidecar = sidecar

    def describe(self, row: Json) -> None:
        """Write the sidecar, once the file has its id."""
        write_all(self._sidecar, sidecars.encode(row))

    def sync(self) -> None:
        """Make the sidecar survive a power failure."""
        with disk_errors():
            os.fsync(self._sidecar)


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


def _lock(path: str) -> int | None:
    """A handle that has the lock of the file at this path; None if somebody else has it, or there is no such file."""
    try:
        handle = os.open(path, READ)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), os.lstat(path)):
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None
