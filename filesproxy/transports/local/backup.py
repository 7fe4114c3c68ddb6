"""Copies a store that is in use to a folder, which can be used as a store."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain

from ...calls import Json
from ...errors import StoreError
from . import sidecars
from .blobs import PLACES, Blobs
from .disk import disk_errors, private, sync_folder
from .index import FILE, Index
from .ledger import existing
from .maintenance import BATCH, Count, Say, blocks_of, opened, title


def backup(folder: str, target: str, say: Say) -> tuple[Count, bool]:
    """Copy a store that may be in use, and a ledger beside it, to a new folder, which can be used as a store.

    What was copied, and whether blobs are shared with the store (hard links) because both are on one file system.
    Files that are deleted meanwhile are left out; those whose bytes are missing are said.
    """
    blobs, index = opened(folder)
    with disk_errors():
        if os.path.isdir(target) and os.listdir(target):
            raise StoreError("The folder for the backup is not empty.")
        for path in (target, *(os.path.join(target, place) for place in PLACES)):
            os.makedirs(path, mode=0o700, exist_ok=True)
            os.chmod(path, stat.S_IRWXU)
    index.copy_to(os.path.join(target, FILE))
    if ledger := existing(folder):
        ledger.copy_to(os.path.join(target, ledger.file))
    copy, copies = Index(target, holds_files=lambda: True), Blobs(target)
    gone: list[Json] = []
    kept = size = linked = 0
    for row in copy.every():
        try:
            linked += _copy(blobs.path(row["blob"]), copies.path(row["blob"]))
            sidecar = copies.sidecar(row["blob"])
            if sidecar and sidecars.encode(sidecar) != sidecars.encode(row):  # another owner has got it meanwhile
                copies.describe(row["blob"], row)
            kept, size = kept + 1, size + row["bytes"]
        except FileNotFoundError:
            gone.append(row)
            if index.names(row["blob"]) and not blobs.is_in_trash(row["blob"]):
                say(f"{title(row)}: its bytes are missing")
        except _Unreadable as error:
            gone.append(row)
            say(f"{title(row)}: its bytes cannot be read ({error})")
    for start in range(0, len(gone), BATCH):
        copy.forget(gone[start : start + BATCH])
    copy.close()
    with disk_errors():
        sync_folder(copies.place("blobs"))
        sync_folder(target)
    return Count(kept, size), bool(linked)


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
        yield from blocks_of(path)


@contextmanager
def _reading() -> Iterator[None]:
    """Tell what the disk says of the store apart from what it says of the copy."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _Unreadable(errno.errorcode.get(error.errno or 0, "unknown")) from None
