"""What an operator does to a store that is there: verify, rebuild, back up, restore. A gateway may be running.

Each function is given a folder and `say`, which takes a line about what is wrong with a file. Raises StoreError.
"""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from typing import NamedTuple

from ...calls import Json
from ...errors import FilesproxyError, StoreError
from . import sidecars
from .blobs import READ, Blobs
from .database import LOG_SUFFIXES
from .disk import FolderLock, check_folder, disk_errors, sync_folder
from .index import FILE, Index
from .ledger import FolderLedger, existing
from .reserve import Reserve
from .sweep import is_named
from .transport import Store

Say = Callable[[str], object]
_NEW = "index.new.sqlite3"
BATCH = 1000  # rows of one transaction


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
    return _unusable(folder, "The local store", owners)  # for which the index is opened and read


def unusable_for_ledger(folder: str) -> str:
    """Why a gateway could not keep its ledger in this folder; "" if it can. Makes no folder, and no ledger."""
    return _unusable(folder, FolderLedger.name, existing)


def _unusable(folder: str, name: str, read: Callable[[str], object]) -> str:
    try:
        if not os.path.lexists(folder):
            return _unmakeable(folder)
        check_folder(folder, name)
        _try_to_write(folder)
        read(folder)
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
    return opened(folder)[1].every(owner)


def adopt(folder: str, old: str, new: str, say: Say) -> Count:
    """Make `new` the owner of all files of `old`, one by one; a gateway may be running. How many there were.

    The sidecar comes first, and is synced: a crash leaves a file that the next `adopt` finishes.
    """
    blobs, index = opened(folder)
    in_use = FolderLock(folder)
    count = size = 0
    for row in index.every(old):
        with blobs.locked(row["blob"], "blobs") as is_ours:
            if not index.has(row):
                continue  # it has been deleted or adopted meanwhile
            if not is_ours:
                is_there = os.path.exists(blobs.path(row["blob"]))
                say(f"{title(row)}: {'it is in use; run this again' if is_there else 'its bytes are missing'}")
                continue
            blobs.describe(row["blob"], {**row, "owner": new})
            with disk_errors():
                sync_folder(blobs.place("blobs"))
            index.give(row, new, time.time())
        count, size = count + 1, size + row["bytes"]
    in_use.close()
    return Count(count, size)


def delete(folder: str, file_ids: Iterable[str], say: Say) -> Count:
    """Delete these files, whoever has them; a gateway may be running. How many there were."""
    blobs, index = opened(folder)
    in_use = FolderLock(folder)
    count = size = 0
    for file_id in file_ids:
        row = index.by_id(file_id)
        if row is None or not _delete(blobs, index, row):
            say(f"{file_id}: there is no such file")
            continue
        count, size = count + 1, size + row["bytes"]
    in_use.close()
    return Count(count, size)


def _delete(blobs: Blobs, index: Index, row: Json) -> bool:
    with blobs.removing([row["blob"]], lambda name: index.has(row)) as due:
        return bool(due) and index.remove(row["owner"], row["id"])


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
    blobs, index = opened(folder)
    index.check()
    kept = size = problems = without_sha256 = without_sidecar = 0
    for row in index.every():
        kept, size = kept + 1, size + row["bytes"]
        without_sha256 += not row.get("sha256")
        problem = _problem(blobs, row)
        sidecar = blobs.sidecar(row["blob"])
        if not problem and sidecar and sidecars.encode(sidecar) != sidecars.encode(row):
            with blobs.locked(row["blob"], "blobs") as is_ours:
                if not is_ours or not index.has(row):
                    continue  # it is being deleted or adopted
            problem = "its sidecar differs from the index"
        if (problem or not sidecar) and not index.names(row["blob"]):
            continue  # it has been deleted meanwhile
        without_sidecar += not sidecar
        if problem:
            problems += 1
            say(f"{title(row)}: {problem}")
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
    new = Index(folder, file=_NEW)
    found = _known(blobs, old, say)
    added = 0
    while batch := [row for _, row in zip(range(BATCH), found)]:
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


def restore(folder: str, say: Say) -> tuple[Count, int]:
    """Put what is in `lost/` back among the files, under the ids and owners that its sidecars name.

    What was restored, and how many uploads stay that were killed before any client had an id.
    """
    blobs, index = opened(folder)
    in_use = FolderLock(folder)
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
    in_use.close()
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


def opened(folder: str) -> tuple[Blobs, Index]:
    """The blobs and the index of a store that is there."""
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
        for block in blocks_of(blobs.path(row["blob"])):
            size += len(block)
            digest.update(block)
    except FileNotFoundError:
        return "" if blobs.is_in_trash(row["blob"]) else "its bytes are missing"
    except (OSError, StoreError) as error:
        return f"its bytes cannot be read ({type(error).__name__})"
    if size != row["bytes"]:
        return f"it has {size} bytes instead of {row['bytes']}"
    return "its bytes have changed (SHA-256)" if row.get("sha256") not in (None, digest.hexdigest()) else ""


def blocks_of(path: str) -> Iterator[bytes]:
    """The bytes of a file, opened as a download opens it: no link is followed, no pipe waited for."""
    with open(os.open(path, READ), "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            yield block


def _remove(folder: str, file: str) -> None:
    for suffix in ("", *LOG_SUFFIXES):
        with disk_errors(), suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, file + suffix))


def title(row: Json) -> str:
    """What a file is called for an operator: its id, and whose it is."""
    return f"{row['id']} of {row['owner'] or 'this machine'}"
