"""Ends what takes too long, and what nobody waits for: one thread looks at the sockets of the requests under way.

A time limit on a socket is one between two reads, and a byte now and then passes it; gunicorn's `read(n)` waits for
all n. And WSGI tells an application that its client has left only when it writes, while a model may be silent for
minutes. So the thread shuts sockets down: whoever reads or writes there wakes up, and asks its watch why.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .calls import Client

INTERVAL_SECONDS = 0.2  # between two looks
CUT_SECONDS = 1.0  # for an overdue answer to end by itself, with an event that says so where it can


def nothing() -> int:
    """What prolongs a phase in which no bytes count."""
    return 0


class Watch:
    """One request under watch: the time that its present phase may take, and the sockets at its two ends."""

    total = float("inf")  # seconds of a transfer, beside those that its bytes are worth
    min_rate = 1 << 14  # bytes that are worth a second
    upstream: socket.socket | None = None
    follows_client = False  # a client that hangs up ends the request
    is_answering = False  # the status has gone
    cuts_by_reset = False  # and nothing behind it can say that the answer is not whole
    has_left = False
    is_overdue = False
    upstream_took_all = False  # of what it was sent, when the time was over: the client was the slow one
    _phase: tuple[float, Callable[[], int]] = (float("inf"), nothing)  # its end, and what prolongs it
    _cut = float("inf")  # when a client that an overdue answer goes to is cut off

    def __init__(self, dog: Watchdog | None = None, client: Client | None = None) -> None:
        self._dog = dog
        self.client = client  # where the server shows it
        self._lock = threading.Lock()  # of the upstream's socket, which may be another request's a moment later

    def allow(self, seconds: float, moved: Callable[[], int] = nothing) -> None:
        """Begin a phase of so many seconds, and more as bytes move, which `moved` counts."""
        ahead = 0.0 if moved is nothing else moved() / self.min_rate
        self._phase = time.monotonic() + seconds - ahead, moved

    def transfer(self, moved: Callable[[], int] = nothing) -> None:
        """Begin a phase of the length of a transfer."""
        self.allow(self.total, moved)

    def look(self, now: float) -> None:
        """End the request if its phase has taken too long."""
        ends, moved = self._phase
        if not self.is_overdue and now > ends + moved() / self.min_rate:
            self.upstream_took_all = _is_writable(self.upstream)
            self.is_overdue, self._cut = True, now + CUT_SECONDS
            self._wake()
        elif self.is_overdue and self.is_answering and now > self._cut:
            _shut(self.client, socket.SHUT_RDWR)

    def leave(self) -> None:
        """End the request: its client has hung up."""
        self.has_left = True
        self._wake()

    @property
    def is_woken(self) -> bool:
        """Whether its sockets have been shut down."""
        return self.is_overdue or self.has_left

    def let_go(self) -> bool:
        """Leave the upstream's socket to others. False if it has been shut down, or is about to be."""
        with self._lock:
            self.upstream = None
            return not self.is_woken

    def close(self) -> None:
        """The request is over; a second time is harmless."""
        self.client = self.upstream = None
        if self._dog:
            self._dog.forget(self)

    def _wake(self) -> None:
        """Wake up whoever reads or writes: it knows how to end an answer so that the client sees it."""
        if self.is_answering and self.cuts_by_reset:
            _end_by_reset(self.client)  # before anybody wakes up and closes it
        with self._lock:
            _shut(self.upstream, socket.SHUT_RDWR)
        if not self.is_answering:
            _shut(self.client, socket.SHUT_RD)  # an answer can still be written


def _is_writable(sock: socket.socket | None) -> bool:
    """Whether a send would not block."""
    poll = select.poll()
    if sock is not None and sock.fileno() >= 0:
        poll.register(sock, select.POLLOUT)
    return any(event & select.POLLOUT for _, event in poll.poll(0))


def _shut(sock: Any, how: int) -> None:
    if isinstance(sock, socket.socket):
        with suppress(OSError):
            socket.socket.shutdown(sock, how)  # under TLS, whose own method is not for two threads


def _end_by_reset(sock: Any) -> None:
    """Let the server's close be a reset (RST): an end without one may look like that of a whole answer."""
    if isinstance(sock, socket.socket):
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Watchdog:
    """The requests under way in an application. Its thread runs while there are any: forking before is safe."""

    def __init__(self, sleep: Callable[[float], object] = time.sleep) -> None:
        self._sleep = sleep
        self._lock = threading.Lock()
        self._watches: set[Watch] = set()
        self._runs_in = 0  # the process id of the thread's process, 0 while there is none

    def watch(self, client: Client | None) -> Watch:
        """Watch a request until its watch is closed."""
        made = Watch(self, client)
        with self._lock:
            if self._runs_in != os.getpid():
                self._watches = set()  # a parent's requests are not this process's
                threading.Thread(target=self._run, name="filesproxy watchdog", daemon=True).start()
                self._runs_in = os.getpid()
            self._watches.add(made)
        return made

    def forget(self, watch: Watch) -> None:
        """Drop a watch."""
        with self._lock:
            self._watches.discard(watch)

    def _run(self) -> None:
        while True:
            self._sleep(INTERVAL_SECONDS)
            with self._lock:
                if not self._watches:
                    self._runs_in = 0
                    return
                watches = list(self._watches)
            with suppress(Exception):  # of a server's own class of socket: the thread must live on
                now = time.monotonic()
                for watch in watches:
                    watch.look(now)
                _leave_with_clients(watches)


def _leave_with_clients(watches: list[Watch]) -> None:
    """End what follows a client that has closed its side (POLLRDHUP), which none does that waits for an answer."""
    poll, by_descriptor = select.poll(), {}
    for watch in watches:
        client = watch.client if watch.follows_client and not watch.is_overdue else None
        descriptor = client.fileno() if client else -1
        if descriptor >= 0:
            poll.register(descriptor, select.POLLRDHUP)
            by_descriptor[descriptor] = watch
    for descriptor, event in poll.poll(0):
        if not event & select.POLLNVAL:  # closed by the server meanwhile
            by_descriptor[descriptor].leave()
