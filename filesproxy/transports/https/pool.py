"""Connections that are kept for the next request: a TCP and a TLS handshake saved on each small call.

A kept connection may be closed by the upstream at any moment, also while a request is on its way. So one is used only
where that costs nothing: what has no body is sent again over a fresh one, once; a chat only over a connection that has
proven itself; an upload never. It is used again with the credential only that it was made with, so that even an
upstream that mixes up its answers shows no caller another's.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Hashable

from .connection import Connection

IDLE_SECONDS = 15.0  # far below the 60 s and more after which providers' edges close
MAX_IDLE = 32  # for each key
MAX_IDLE_TOTAL = 128  # file descriptors, whatever hosts and credentials clients bring
# A connection for what cannot be sent twice: idle for seconds only, and one whose upstream does not close behind each
# answer: it has given a second one, or let so much time pass in silence.
PROVEN_IDLE_SECONDS = 2.0
PROVEN_QUIET_SECONDS = 0.05


class Pool:
    """Idle connections by key; the one used last is taken first. Safe for threads, and empty behind a fork."""

    def __init__(self) -> None:
        self._idle: dict[Hashable, list[Connection]] = {}
        self._next_sweep = 0.0
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._idle)  # sockets that are garbage would warn; this runs before
        _POOLS.add(self)

    def forget(self) -> None:
        """Begin anew in a forked process: a thread of the parent's may hold the lock for ever. Closes copies only."""
        self._lock = threading.Lock()
        _close_all(self._idle)

    def take(self, key: Hashable, is_proven: bool = False) -> Connection | None:
        """A connection that nothing speaks against, None if there is none. `is_proven` asks for more."""
        while found := self._pop(key):
            idle = time.monotonic() - found.idle_since
            if idle > IDLE_SECONDS or not found.is_quiet():
                found.close()
            elif is_proven and not _is_proven(found, idle):
                for over in self._push(found):
                    over.close()
                return None
            else:
                return found
        return None

    def keep(self, connection: Connection) -> None:
        """Keep a connection whose last answer was read to its end; it is this pool's to close from here on."""
        connection.answers += 1
        connection.idle_since = time.monotonic()
        over = self._push(connection)
        if connection.idle_since >= self._next_sweep:
            over += self._swept(connection.idle_since)
        for each in over:
            each.close()

    def close(self) -> None:
        """Close what is idle."""
        with self._lock:
            _close_all(self._idle)

    def _pop(self, key: Hashable) -> Connection | None:
        with self._lock:
            idle = self._idle.get(key)
            return idle.pop() if idle else None

    def _push(self, connection: Connection) -> list[Connection]:
        """Put it in; what has no place any more."""
        with self._lock:
            total = sum(map(len, self._idle.values()))
            idle = self._idle.setdefault(connection.key, [])
            idle.append(connection)
            return [idle.pop(0)] if len(idle) > MAX_IDLE or total >= MAX_IDLE_TOTAL else []

    def _swept(self, now: float) -> list[Connection]:
        """Take out, once a second, what has been idle for too long: whoever came for it would find it so."""
        with self._lock:
            self._next_sweep = now + 1
            found = [each for idle in self._idle.values() for each in idle if each.idle_since < now - IDLE_SECONDS]
            for key, idle in list(self._idle.items()):
                idle[:] = [each for each in idle if each not in found]
                if not idle:
                    del self._idle[key]
            return found


def _is_proven(connection: Connection, idle: float) -> bool:
    return idle <= PROVEN_IDLE_SECONDS and (connection.answers > 1 or idle >= PROVEN_QUIET_SECONDS)


def _close_all(idle: dict[Hashable, list[Connection]]) -> None:
    for connections in idle.values():
        for connection in connections:
            connection.close()
    idle.clear()


_POOLS: weakref.WeakSet[Pool] = weakref.WeakSet()


def _forget_all() -> None:
    for pool in list(_POOLS):
        pool.forget()


os.register_at_fork(after_in_child=_forget_all)
