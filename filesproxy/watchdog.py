"""Ends what takes too long, and what nobody waits for: one thread looks at the sockets of the requests under way.

A time limit on a socket is one between two reads, and a byte now and then passes it; gunicorn's `read(n)` waits for
all n. And WSGI tells an application that its client has left only when it writes, while a model may be silent for
minutes. So the thread shuts sockets down: whoever reads or writes there wakes up, and asks its watch why.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from .provider import Client

INTERVAL_SECONDS = 0.2  # between two looks


class Watch:
    """One request under watch: the time that its present phase may take, and the sockets at its two ends."""

    def __init__(self, dog: Watchdog | None = None, client: Client | None = None) -> None:
        self._dog = dog
        self.total = float("inf")  # seconds of a transfer, beside those that its bytes are worth
        self.min_rate = 1 << 14  # bytes that are worth a second
        self.client = client  # where the server shows it
        self.upstream: socket.socket | None = None
        self.follows_client = False  # a client that hangs up ends the request
        self.is_answering = False  # the status has gone: a client that is cut off sees it
        self.has_left = False
        self.is_overdue = False
        self._ends = float("inf")
        self._moved: Callable[[], int] = lambda: 0

    def allow(self, seconds: float, moved: Callable[[], int] = lambda: 0) -> None:
        """Begin a phase of so many seconds, and more as bytes move, which `moved` counts."""
        self._ends = float("inf")  # while the two that follow do not belong together
        self._moved = moved
        self._ends = time.monotonic() + seconds - moved() / self.min_rate

    def transfer(self, moved: Callable[[], int] = lambda: 0) -> None:
        """Begin a phase of the length of a transfer."""
        self.allow(self.total, moved)

    def look(self, now: float) -> None:
        """End the request if its phase has taken too long."""
        if not self.is_overdue and now > self._ends + self._moved() / self.min_rate:
            self.is_overdue = True
            self._shut()

    def leave(self) -> None:
        """End the request: its client has hung up."""
        self.has_left = True
        self._shut()

    def close(self) -> None:
        """The request is over; a second time is harmless."""
        if self._dog:
            self._dog.forget(self)

    def _shut(self) -> None:
        # Reading from the client stops; an answer can still be written, unless one is on its way already.
        ends = (
            (self.upstream, socket.SHUT_RDWR),
            (self.client, socket.SHUT_RDWR if self.is_answering else socket.SHUT_RD),
        )
        for sock, how in ends:
            if isinstance(sock, socket.socket):
                with suppress(OSError):
                    socket.socket.shutdown(sock, how)  # under TLS, whose own method is not for two threads


class Watchdog:
    """The requests under way in an application. Its thread runs while there are any: forking before is safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches: set[Watch] = set()
        self._runs_in = 0  # the process id of the thread's process, 0 while there is none

    def watch(self, client: Client | None) -> Watch:
        """Watch a request until its watch is closed."""
        made = Watch(self, client)
        with self._lock:
            self._watches.add(made)
            if self._runs_in != os.getpid():
                if self._runs_in:  # a parent's requests are not this process's
                    self._watches = {made}
                self._runs_in = os.getpid()
                threading.Thread(target=self._run, name="filesproxy watchdog", daemon=True).start()
        return made

    def forget(self, watch: Watch) -> None:
        """Drop a watch."""
        with self._lock:
            self._watches.discard(watch)

    def _run(self) -> None:
        while True:
            time.sleep(INTERVAL_SECONDS)
            with self._lock:
                if not self._watches:
                    self._runs_in = 0
                    return
                watches = list(self._watches)
            now = time.monotonic()
            for watch in watches:
                watch.look(now)
            _leave_with_clients(watches)


def _leave_with_clients(watches: list[Watch]) -> None:
    """End what follows a client that has closed its side (POLLRDHUP), which none does that waits for an answer."""
    poll, by_descriptor = select.poll(), {}
    for watch in watches:
        descriptor = _descriptor(watch.client) if watch.follows_client else -1
        if descriptor >= 0:
            poll.register(descriptor, select.POLLRDHUP)
            by_descriptor[descriptor] = watch
    for descriptor, event in poll.poll(0):
        if not event & select.POLLNVAL:  # closed by the server meanwhile
            by_descriptor[descriptor].leave()


def _descriptor(client: Client | None) -> int:
    try:
        return client.fileno() if client else -1
    except Exception:  # a server's own class of socket; the thread must live on
        return -1
