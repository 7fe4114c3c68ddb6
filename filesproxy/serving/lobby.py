"""Limits what clients can do to a server's threads while the application has no request of theirs.

A server reads a request's head on one of its threads, and there it also waits for the rest of a body that was refused,
or for a refused client to hang up. A time limit for each read does not end a client that sends a byte now and then,
and a few hundred such clients would take every thread, so that not even a health check is answered.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

CHECK_SECONDS = 0.25
CROWD = 8  # in a worker with so many threads for each, clients that wait for nothing are too many
CROWD_SECONDS = 1.0  # that a client has even so: a head comes in one round trip


class Lobby:
    """The clients for whom a thread waits outside of the application. Thread-safe.

    Each has `seconds`. If they hold more than one of CROWD threads, those go first that have been here longest, unless
    they have just sent something.
    """

    def __init__(self, threads: int, seconds: float) -> None:
        self._seats = max(1, threads // CROWD)
        self._seconds = seconds
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[float, Callable[[], socket.socket]]] = {}  # by thread, the oldest first

    def __len__(self) -> int:
        """How many threads wait."""
        return len(self._waiting)

    def enter(self, client: Callable[[], socket.socket]) -> None:
        """The calling thread now waits for this client. The socket is asked for when it has to be shut down."""
        with self._lock:
            self._waiting[threading.get_ident()] = time.monotonic(), client

    def leave(self) -> bool:
        """The calling thread waits no longer; a second time is harmless. False if its client was shown out."""
        with self._lock:
            return self._waiting.pop(threading.get_ident(), None) is not None

    def check(self) -> None:
        """Show out whose time is over, and the oldest of a crowd: a read there ends as if the client had hung up."""
        now = time.monotonic()
        with self._lock:
            for thread, (since, client) in list(self._waiting.items()):
                is_crowd = len(self._waiting) > self._seats
                if now - since > self._seconds or (is_crowd and now - since > CROWD_SECONDS and _is_silent(client())):
                    self._show_out(thread)
                elif not is_crowd or now - since <= CROWD_SECONDS:
                    return

    def make_room(self) -> bool:
        """Of a crowd, show out the one that has been here longest and is silent. False if there is none."""
        with self._lock:
            if len(self._waiting) > self._seats:
                for thread, (_, client) in self._waiting.items():
                    if _is_silent(client()):
                        self._show_out(thread)
                        return True
        return False

    def close(self) -> None:
        """Show out everybody."""
        with self._lock:
            for thread in list(self._waiting):
                self._show_out(thread)

    def watch(self) -> None:
        """Check for ever."""
        while True:
            time.sleep(CHECK_SECONDS)
            with suppress(Exception):  # a server may have its own class of sockets, and the others must be checked
                self.check()

    def _show_out(self, thread: int) -> None:
        _, client = self._waiting.pop(thread)
        with suppress(OSError):
            socket.socket.shutdown(client(), socket.SHUT_RD)  # not SSLSocket's own method, as in the watchdog


def _is_silent(sock: socket.socket) -> bool:
    """Whether nothing has come that the thread has not read yet."""
    poll = select.poll()
    if sock.fileno() >= 0:
        poll.register(sock, select.POLLIN)
    return not poll.poll(0)
