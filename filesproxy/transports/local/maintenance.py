"""What an operator does to a store that is there: verify, rebuild, back up, restore. A gateway may be running.

Each function is given a folder and `say`, which takes a line about what is wrong with a file. Raises StoreError.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import chain
from typing import NamedTuple

from ...calls import Json
from ...errors import FilesproxyError, StoreError
from . import sidecars
from .blobs import PLACES, READ, Blobs
from .disk import FolderLock, disk_errors, private, sync_folder
from .index import FILE, LOG_SUFFIXES, Index
from .reserve import Reserve
from .sweep import is_named
from .transport import Store

Say = Callable[[str], object]
_NEW = "index.new.sqlite3"
_BATCH = 1000  # rows of one transaction


class Count(NamedTuple):
    """How many files, and how many bytes they have together."""

    files: int
    bytes: int


class Verified(NamedTuple):
    """What was looked at: files, problems that were said, files whose SHA-256 or sidecar is not there, `lost/`.

    `unanswered` of those in `lost/` are uploads that were killed before any client had an id.
    """

    kept: Count
    problems: int
    without_sha256: int
    without_sidecar: int
    lost: Count
    unanswered: int


def unusable(folder: str) -> str:
    """Why a gateway could not keep files in this folder; "" if it can. Leaves nothing behind, and makes no folder."""
    try:
        if not os.path.lexists(folder):
            return _unmakeable(folder)
        Blobs.check_folder(folder)
        _try_to_write(folder)
        owners(folder)  # the index can be opened and read
        return ""
    except StoreError as error:
        return f"{folder}: {error.message}{error.detail and f' ({error.detail})'}"


def _unmakeable(folder: str) -> str:
    """Why this folder could not be made; "" if it could. Only making one tells: root may, and in /proc it fails."""
    parent = _existing_parent(folder)
    try:
        os.rmdir(tempfile.mkdtemp(prefix="probe-", dir=parent))
    except OSError as error:
        return f"{folder}: cannot be made in {parent} ({errno.errorcode.get(error.errno or 0, 'unknown')})"
    return ""


def _existing_parent(folder: str) -> str:
    parent = os.path.dirname(folder)
    return parent if os.path.lexists(parent) or parent == folder else _existing_parent(parent)


def _try_to_write(folder: str) -> None:
    """Write and sync a file, and see whether there is room for an upload. Raises StoreError and StoreFull."""
    with disk_errors():
        handle, path = tempfile.mkstemp(prefix="probe-", dir=folder)
        try:
            os.write(handle, b"probe")
            os.fsync(handle)
        finally:
            os.close(handle)
            os.unlink(path)
    Reserve(folder).check_room()


def owners(folder: str) -> list[str]:
    """Everybody who has a file in this folder; nobody if there is no store in it."""
    if not os.path.isdir(os.path.join(folder, "blobs")):
        return []
    index = _index(folder)
    try:
        return index.owners()
    finally:
        index.close()


def files(folder: str, owner: str | None = None) -> Iterator[Json]:
    """The rows of all files, or of one owner's, by owner and id."""
    return _opened(folder)[1].every(owner)


def adopt(folder: str, old: str, new: str, say: Say) -> Count:
    """Make `new` the owner of all files of `old`, one by one; a gateway may be running. How many there were.

    The sidecar comes first: a crash leaves a file that the next `adopt` finishes, and both agree again.
    """
    blobs, index = _opened(folder)
    count = size = 0
    for row in index.every(old):
        with blobs.locked(row["blob"], "blobs") as is_ours:
            if not is_ours:
                if index.by_id(row["id"]):
                    say(f"{_title(row)}: it is in use; run this again")
                continue
            if index.find(row["id"], old, -1) is None:
                continue  # it has been deleted meanwhile
            blobs.describe(row["blob"], {**row, "owner": new})
            index.give(row, new)
        count, size = count + 1, size + row["bytes"]
    return Count(count, size)


def delete(folder: str, file_ids: Iterable[str], say: Say) -> Count:
    """Delete these files, whoever has them; a gateway may be running. How many there were."""
    blobs, index = _opened(folder)
    count = size = 0
    for file_id in file_ids:
        row = index.by_id(file_id)
        if row is None:
            say(f"{file_id}: there is no such file")
            continue
        with blobs.removing([row["blob"]]):
            index.remove(row["owner"], row["id"])
        count, size = count + 1, size + row["bytes"]
    return Count(count, size)


def sweep(folder: str) -> Count:
    """Sweep the store once, as a gateway does. How many files had expired and are gone."""
    _blobs(folder)
    return Count(*Store(folder).sweep())


def lost(folder: str) -> Count:
    """What is in `lost/`."""
    blobs = _blobs(folder)
    with disk_errors():
        sizes = [os.stat(blobs.path(name, "lost")).st_size for name in blobs.names("lost")]
    return Count(len(sizes), sum(sizes))


def _unanswered(blobs: Blobs) -> int:
    return sum(blobs.is_unanswered(name, "lost") for name in blobs.names("lost"))


def verify(folder: str, say: Say) -> Verified:
    """Compare the index, the sidecars and all bytes. Changes nothing."""
    blobs, index = _opened(folder)
    index.check()
    kept = size = problems = without_sha256 = without_sidecar = 0
    for row in index.every():
        kept, size = kept + 1, size + row["bytes"]
        without_sha256 += not row.get("sha256")
        problem = _problem(blobs, row)
        sidecar = blobs.sidecar(row["blob"])
        if not problem and sidecar and sidecars.encode(sidecar) != sidecars.encode(row):
            problem = "its sidecar differs from the index"
        if (problem or not sidecar) and not index.names(row["blob"]):
            continue  # it has been deleted meanwhile
        without_sidecar += not sidecar
        if problem:
            problems += 1
            say(f"{_title(row)}: {problem}")
    for name in blobs.abandoned("blobs", lambda name: is_named(blobs, index, name)):
        problems += 1
        say(f"blobs/{name}: no file of the index; the next sweep moves it to lost/")
    return Verified(Count(kept, size), problems, without_sha256, without_sidecar, lost(folder), _unanswered(blobs))


def rebuild(folder: str, say: Say, is_forced: bool = False) -> tuple[int, str]:
    """Make an index from the sidecars. How many files it has, and under which name the old index is kept.

    What has no sidecar is taken from the old index, where that can be read. StoreError if a gateway is running, or if
    the index is usable and `is_forced` is not set.
    """
    blobs = _blobs(folder)
    in_use = FolderLock(folder, is_exclusive=True)
    old = None
    with suppress(StoreError):
        old = _index(folder)
    if old and not is_forced and _is_usable(old, blobs):
        raise StoreError("The index is usable. --force makes a new one from the sidecars all the same.")
    _remove(folder, _NEW)
    new = Index(folder, _NEW)
    found = _known(blobs, old, say)
    added = 0
    while batch := [row for _, row in zip(range(_BATCH), found)]:
        added += new.adopt(batch)
    new.close()
    if old:
        old.close()
    aside = f"{FILE}.old-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    with disk_errors():
        for suffix in ("", *LOG_SUFFIXES):
            with suppress(FileNotFoundError):
                os.rename(os.path.join(folder, FILE + suffix), os.path.join(folder, aside + suffix))
        os.rename(os.path.join(folder, _NEW), os.path.join(folder, FILE))
        sync_folder(folder)
    in_use.close()
    return added, aside if os.path.exists(os.path.join(folder, aside)) else ""


def backup(folder: str, target: str, say: Say) -> tuple[Count, bool]:
    """Copy a store that may be in use to a new folder, which can be used as a store.

    What was copied, and whether blobs are shared with the store (hard links) because both are on one file system.
    Files that are deleted meanwhile are left out; those whose bytes are missing are said.
    """
    blobs, index = _opened(folder)
    with disk_errors():
        if os.path.isdir(target) and os.listdir(target):
            raise StoreError("The folder for the backup is not empty.")
        for path in (target, *(os.path.join(target, place) for place in PLACES)):
            os.makedirs(path, mode=0o700, exist_ok=True)
            os.chmod(path, stat.S_IRWXU)
    index.copy_to(os.path.join(target, FILE))
    copy, copies = _index(target), Blobs(target)
    gone: list[Json] = []
    kept = size = linked = 0
    for row in copy.every():
        try:
            linked += _copy(blobs.path(row["blob"]), copies.path(row["blob"]))
            kept, size = kept + 1, size + row["bytes"]
        except FileNotFoundError:
            gone.append(row)
            if index.names(row["blob"]) and not blobs.is_in_trash(row["blob"]):
                say(f"{_title(row)}: its bytes are missing")
        except _Unreadable as error:
            gone.append(row)
            say(f"{_title(row)}: its bytes cannot be read ({error})")
    for start in range(0, len(gone), _BATCH):
        copy.forget(gone[start : start + _BATCH])
    copy.close()
    with disk_errors():
        sync_folder(copies.place("blobs"))
        sync_folder(target)
    return Count(kept, size), bool(linked)


def restore(folder: str, say: Say) -> tuple[Count, int]:
    """Put what is in `lost/` back among the files, under the ids and owners that its sidecars name.

    What was restored, and how many uploads stay that were killed before any client had an id.
    """
    blobs, index = _opened(folder)
    restored = size = unanswered = 0
    for name in blobs.names("lost"):
        with blobs.locked(name, "lost") as is_ours:
            if not is_ours:
                continue
            if blobs.is_unanswered(name, "lost"):
                unanswered += 1
                continue
            row = _described(blobs, name, "lost")
            if row is None:
                say(f"lost/{name}: it has no sidecar that fits it")
                continue
            blobs.move(name, "lost", "blobs")  # still locked, so no sweep takes it away again
            with disk_errors():
                sync_folder(blobs.place("blobs"))
            if index.adopt([row]) or index.of_blob(name, row):  # its own row may be there still
                restored, size = restored + 1, size + row["bytes"]
            else:
                blobs.move(name, "blobs", "lost")
                say(f"lost/{name}: there is another file {row['id']}")
    return Count(restored, size), unanswered


def discard(folder: str) -> Count:
    """Remove what is in `lost/`, for good."""
    blobs, count = _blobs(folder), lost(folder)
    for name in blobs.names("lost"):
        for path in (blobs.path(name, "lost") + sidecars.SUFFIX, blobs.path(name, "lost")):
            with disk_errors(), suppress(FileNotFoundError):
                os.unlink(path)
    return count


def _blobs(folder: str) -> Blobs:
    if not os.path.isdir(os.path.join(folder, "blobs")):
        raise StoreError("There is no local store in this folder.")
    return Blobs(folder)


def _index(folder: str) -> Index:
    return Index(folder, holds_files=lambda: True)  # never made here


def _opened(folder: str) -> tuple[Blobs, Index]:
    return _blobs(folder), _index(folder)


def _is_usable(index: Index, blobs: Blobs) -> bool:
    try:
        index.check()
        rows = sum(1 for _ in index.every())  # sqlite does not know what a row must be
        return rows > 0 or blobs.is_empty()
    except FilesproxyError:
        return False


def _known(blobs: Blobs, old: Index | None, say: Say) -> Iterator[Json]:
    """The rows of all kept blobs of which something is known."""
    for name in blobs.names("blobs"):
        row = _described(blobs, name, "blobs")
        if row is None and old:
            with suppress(StoreError):
                row = old.of_blob(name, None)
        if row is None:
            say(f"blobs/{name}: it has no sidecar that fits it; the next sweep moves it to lost/")
        else:
            yield row


def _described(blobs: Blobs, name: str, place: str) -> Json | None:
    """The row of a blob by its sidecar. None if there is none, or if the blob is not as large as it says."""
    row = blobs.sidecar(name, place)
    with disk_errors():
        fits = row is not None and os.stat(blobs.path(name, place)).st_size == row["bytes"]
    return {**row, "blob": name} if row and fits else None


def _problem(blobs: Blobs, row: Json) -> str:
    """What is wrong with the bytes of a file; "" if nothing is."""
    try:
        size, digest = 0, sha256()
        for block in _blocks(blobs.path(row["blob"])):
            size += len(block)
            digest.update(block)
    except FileNotFoundError:
        return "" if blobs.is_in_trash(row["blob"]) else "its bytes are missing"
    except (OSError, StoreError) as error:
        return f"its bytes cannot be read ({type(error).__name__})"
    if size != row["bytes"]:
        return f"it has {size} bytes instead of {row['bytes']}"
    return "its bytes have changed (SHA-256)" if row.get("sha256") not in (None, digest.hexdigest()) else ""


class _Unreadable(Exception):
    """What is to be copied cannot be read; says why."""


def _copy(source: str, target: str) -> bool:
    """Link or copy a blob and its sidecar. Whether it was linked.

    FileNotFoundError if there is no blob, _Unreadable if it cannot be read; then nothing is left of the copy. The first
    sweep of the copy writes a sidecar that could not be read.
    """
    is_linked = False
    for suffix in (sidecars.SUFFIX, ""):
        try:
            is_linked = _linked(source + suffix, target + suffix)
        except (FileNotFoundError, _Unreadable):
            if not suffix:
                with suppress(FileNotFoundError):
                    os.unlink(target + sidecars.SUFFIX)
                raise
    return is_linked


def _linked(source: str, target: str) -> bool:
    """Whether a file could be linked; it is copied if not."""
    with _reading():
        is_file = stat.S_ISREG(os.lstat(source).st_mode)
    if not is_file:
        raise _Unreadable("not a file")
    try:
        os.link(source, target, follow_symlinks=False)
        return True
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        pass
    blocks = _readable(source)
    first = next(blocks, b"")  # opens it, before there is a copy
    with disk_errors():
        try:
            with open(target, "xb", opener=private) as new:
                for block in chain([first], blocks):
                    new.write(block)
                new.flush()
                os.fsync(new.fileno())
        except _Unreadable:
            os.unlink(target)
            raise
    return False


def _readable(path: str) -> Iterator[bytes]:
    with _reading():
        yield from _blocks(path)


@contextmanager
def _reading() -> Iterator[None]:
    """Tell what the disk says of the store apart from what it says of the copy."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _Unreadable(errno.errorcode.get(error.errno or 0, "unknown")) from None


def _blocks(path: str) -> Iterator[bytes]:
    """The bytes of a file, opened as a download opens it: no link is followed, no pipe waited for."""
    with open(os.open(path, READ), "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            yield block


def _remove(folder: str, file: str) -> None:
    for suffix in ("", *LOG_SUFFIXES):
        with disk_errors(), suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, file + suffix))


def _title(row: Json) -> str:
    return f"{row['id']} of {row['owner'] or 'this machine'}"
