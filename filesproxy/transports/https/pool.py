"""Connections that are kept for the next request, which then needs no TCP and TLS handshake.

The upstream may close a kept connection at any moment, even while a request is on its way. So a kept connection is
used only where that does no harm: a request without a body is sent again, once, over a new connection; a chat uses
only a proven connection; an upload never uses a kept one. A connection is used again only for the caller that it was
opened for (credential, saved provider, owner), so that even an upstream that mixes up its answers cannot show one
caller another's.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Hashable

from .connection import Connection

IDLE_SECONDS = 15.0  # providers' edges close an idle connection after 60 s or more
MAX_IDLE = 32  # for each key
MAX_IDLE_TOTAL = 128  # file descriptors, however many hosts and credentials clients use
# A proven connection, for a request that cannot be sent twice: it has been idle for a few seconds at most, and its
# upstream does not close after each answer: it has given a second one, or has kept the connection open for
# PROVEN_QUIET_SECONDS since its answer.
PROVEN_IDLE_SECONDS = 2.0
PROVEN_QUIET_SECONDS = 0.05


class Pool:
    """Idle connections by key; the most recently used is taken first. Thread-safe, and empty after a fork."""

    def __init__(self) -> None:
        self._idle: dict[Hashable, list[Connection]] = {}
        self._next_sweep = 0.0
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._idle)  # garbage-collected open sockets would warn
        _ALL_POOLS.add(self)

    def forget(self) -> None:
        """Start afresh in a forked child, where a lock held by a thread of the parent would never be released.

        The parent's connections stay open: only the child's copies of the descriptors are closed.
        """
        self._lock = threading.Lock()
        _close_all(self._idle)

    def take(self, key: Hashable, is_proven: bool = False) -> Connection | None:
        """A usable connection with this key, None if there is none. With `is_proven`, only a proven one."""
        while found := self._pop(key):
            idle = time.monotonic() - found.idle_since
            if idle > IDLE_SECONDS or not found.is_quiet():
                found.close()
            elif is_proven and not _is_proven(found, idle):
                for excess in self._push(found):
                    excess.close()
                return None
            else:
                return found
        return None

    def keep(self, connection: Connection) -> None:
        """Keep a connection whose last answer was read to its end. From now on the pool closes it."""
        connection.answers += 1
        connection.idle_since = time.monotonic()
        excess = self._push(connection)
        if connection.idle_since >= self._next_sweep:
            excess += self._take_expired(connection.idle_since)
        for each in excess:
            each.close()

    def close(self) -> None:
        """Close all idle connections."""
        with self._lock:
            _close_all(self._idle)

    def _pop(self, key: Hashable) -> Connection | None:
        with self._lock:
            idle = self._idle.get(key)
            return idle.pop() if idle else None

    def _push(self, connection: Connection) -> list[Connection]:
        """Put a connection in. Returns the connections that no longer fit, for the caller to close."""
        with self._lock:
            total = sum(map(len, self._idle.values()))
            idle = self._idle.setdefault(connection.key, [])
            idle.append(connection)
            if len(idle) > MAX_IDLE:
                return [idle.pop(0)]
            if total >= MAX_IDLE_TOTAL:  # the one that has been idle for longest, whatever its key
                return [min(filter(None, self._idle.values()), key=lambda each: each[0].idle_since).pop(0)]
            return []

    def _take_expired(self, now: float) -> list[Connection]:
        """Take out the connections that have been idle for too long, at most once a second."""
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


_ALL_POOLS: weakref.WeakSet[Pool] = weakref.WeakSet()


def _forget_all() -> None:
    for pool in list(_ALL_POOLS):
        pool.forget()


os.register_at_fork(after_in_child=_forget_all)
