"""The sweep: what has expired, been deleted or been abandoned goes, and nothing that may have been acknowledged.

It runs in a thread of its own, beside requests and beside the sweeps of other processes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ...calls import Json
from ...errors import FilesproxyError
from . import clock
from .blobs import Blobs
from .index import Index

SWEEP_SECONDS = 600.0  # between two sweeps of a process
_DAY = 86400

_log = logging.getLogger("filesproxy")


class Sweeper:
    """Sweeps one store. Every sweep is done anew from what is in the folder, so one that was killed does no harm."""

    def __init__(self, blobs: Blobs, index: Index, look: Callable[[], clock.Now]) -> None:
        self._blobs = blobs
        self._index = index
        self._look = look
        self._is_sound = False
        self._is_described = False
        self._swept = float("-inf")
        self._said: set[str] = set()

    def start_if_due(self) -> None:
        """Start a sweep in a thread, at the first call and then every SWEEP_SECONDS."""
        if time.monotonic() - self._swept > SWEEP_SECONDS:
            self._swept = time.monotonic()
            threading.Thread(target=self._sweep_quietly, name="filesproxy-sweep", daemon=True).start()

    def _sweep_quietly(self) -> None:
        try:
            self.sweep()
        except FilesproxyError as error:
            self._warn(f"the local store was not swept: {error.message}")
        except Exception as error:  # nobody else would say so
            self._warn(f"the local store was not swept ({type(error).__name__})")

    def sweep(self) -> tuple[int, int]:
        """Sweep once, and return how many files had expired and are gone, and how many bytes they had.

        Not before the index was found sound: what it does not name would look abandoned.
        """
        if not self._is_sound:
            self._index.check()
            self._is_sound = True
        for name in self._blobs.abandoned("trash", lambda name: False):
            finish_removal(self._blobs, self._index, name)
        expired = self._remove_expired()
        for name in self._blobs.abandoned("incoming", self._index.names):
            self._blobs.drop(name, "incoming")
        self._set_lost_aside()
        if not self._is_described:
            self._describe()
            self._is_described = True
        return expired

    def _remove_expired(self) -> tuple[int, int]:
        count = size = 0
        last, sight = self._index.see(self._look())
        if last and sight.ahead - last.ahead > _DAY:
            days = (sight.ahead - last.ahead) // _DAY
            self._warn(f"the clock gained {days} days since a sweep: the bytes of expired files stay for six hours")
        for rows in self._index.expired(sight.proven):
            expired = [row for row in rows if not self._is_kept_by_sidecar(row, sight.proven)]
            expired = self._remove(expired)
            count, size = count + len(expired), size + sum(row["bytes"] for row in expired)
        return count, size

    def _remove(self, rows: list[Json]) -> list[Json]:
        """Remove these files, and return those that nobody else has removed or got meanwhile."""
        by_blob = {row["blob"]: row for row in rows}
        with self._blobs.removing(list(by_blob), lambda name: self._index.has(by_blob[name])) as due:
            self._index.forget([by_blob[name] for name in due])
        return [by_blob[name] for name in due]

    def _is_kept_by_sidecar(self, row: Json, now: float) -> bool:
        """Whether the file's sidecar says that it has not expired. One of the two is damaged, then."""
        sidecar = self._blobs.sidecar(row["blob"])
        if sidecar is None or (sidecar["expires_at"] is not None and sidecar["expires_at"] <= now):
            return False
        self._warn("files have expired by the index but not by their sidecars: they stay; `files verify` names them")
        return True

    def _set_lost_aside(self) -> None:
        lost = 0
        for name in self._blobs.abandoned("blobs", lambda name: is_named(self._blobs, self._index, name)):
            if self._index.is_empty():
                self._warn(
                    "the local store's index is empty, but there are files: `filesproxy files rebuild` makes it anew"
                )
                return
            self._blobs.lose(name)
            lost += 1
        if lost:
            _log.warning(
                "%d files of the local store are in no index: they are in its folder lost/, which nothing serves", lost
            )

    def _describe(self) -> None:
        """Write the sidecars that are missing: those of version 0.1.0's files, and what a power failure took.

        Both happen before a process starts, so once is enough.
        """
        for name in self._blobs.undescribed():
            with self._blobs.locked(name, "blobs") as is_ours:
                if is_ours and (row := self._index.of_blob(name, None)):
                    self._blobs.describe(name, row)

    def _warn(self, text: str) -> None:
        """Say it once: the next sweep may find the same."""
        if text not in self._said:
            _log.warning(text)
            self._said.add(text)


def is_named(blobs: Blobs, index: Index, name: str) -> bool:
    """Whether a row names this kept blob. Where sqlite's index says no, the row that its sidecar names is looked at."""
    return index.names(name) or index.of_blob(name, blobs.sidecar(name)) is not None


def finish_removal(blobs: Blobs, index: Index, name: str) -> None:
    """Complete the removal of a blob in `trash/`, whose lock the caller has."""
    row = index.of_blob(name, blobs.sidecar(name, "trash") or blobs.sidecar(name))
    if row:
        index.forget([row])
    blobs.destroy(name)
