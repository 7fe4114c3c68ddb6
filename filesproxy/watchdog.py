"""Ends requests that take too long, or whose client has gone: one thread checks the sockets of all running requests.

A socket's time limit applies to each read, so a peer that sends a byte now and then never exceeds it, and gunicorn's
`read(n)` waits for all n bytes. WSGI tells an application that its client has gone only when the application writes,
but a model may be silent for minutes. So the thread shuts sockets down: a thread that is blocked in a read or write
there wakes up and learns the reason from its watch.
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

INTERVAL_SECONDS = 0.2  # between two checks
SLOWEST_BODY = 1 << 10  # bytes per second that a request body must bring
_SO_MAX_PACING_RATE = 47  # bytes per second, on Linux; Python has no name for it
CUT_SECONDS = 1.0  # for an overdue answer to end by itself, with an error event if it is an event stream


def no_bytes() -> int:
    """Count no bytes: for a phase that bytes do not prolong."""
    return 0


class Watch:
    """A request that is watched: how long its current phase may take, and the sockets to client and upstream."""

    total = float("inf")  # seconds that a transfer may take, plus one for each `min_rate` bytes that move
    min_rate = 1 << 14  # bytes per second
    upstream: socket.socket | None = None
    follows_client = False  # the request ends when its client closes the connection
    is_answering = False  # the status line has been sent
    cuts_by_reset = False  # a reset tells the client that the answer is incomplete; without a length, nothing else may
    has_left = False  # the client has closed the connection
    is_overdue = False  # a phase has taken too long, or the body was too slow
    upstream_took_all = False  # when the time was over, the upstream had read all it was sent: the client was slow
    silent_by = float("inf")  # when an upstream that streams events will have sent none for too long
    _phase: tuple[float, Callable[[], int]] = (float("inf"), no_bytes)  # its end, and the bytes that prolong it
    _is_awaited: Callable[[], bool] | None = None  # whether a read waits for the request's body
    _patience = _whole_patience = 0.0  # seconds that the client may still keep it waiting, and those it had at first
    _looked = 0.0  # when the body was last looked at
    _arrived = 0  # bytes that had come on the client's connection by then
    _is_unmeasured = False  # the answer ends with the connection
    _cut = float("inf")  # when an overdue answer that is still being sent is cut off

    def __init__(
        self, watchdog: Watchdog | None = None, client: Client | None = None, seconds: float = float("inf")
    ) -> None:
        self._watchdog = watchdog
        self._end = time.monotonic() + seconds  # of all phases together
        self.client = client  # None if the server does not give access to the socket
        self._lock = threading.Lock()  # for the upstream's socket, which another request may use a moment later

    def allow(self, seconds: float, moved: Callable[[], int] = no_bytes) -> None:
        """Begin a phase of this many seconds; each `min_rate` bytes that `moved` counts from now on add one."""
        moved_before = 0 if moved is no_bytes else moved()
        self._phase = time.monotonic() + seconds - moved_before / self.min_rate, moved

    def transfer(self, moved: Callable[[], int] = no_bytes) -> None:
        """Begin a phase that lasts as long as a transfer may: `total`, prolonged by the bytes that `moved` counts."""
        self.allow(self.total, moved)

    def expect_body(self, seconds: float, is_awaited: Callable[[], bool]) -> None:
        """End the request if the client keeps it waiting for its body. `is_awaited` says whether a read does wait.

        Waiting uses up `seconds`, and each SLOWEST_BODY bytes that arrive give back one. So a body that stops is over
        after that time, one that drips is too, and a slow one may still stall now and then.
        """
        self._patience = self._whole_patience = seconds
        self._is_awaited, self._looked = is_awaited, time.monotonic()

    def check(self, now: float) -> None:
        """End the request if its phase has taken too long, or if its client keeps it waiting."""
        end, moved = self._phase
        is_over = now > min(self._end, self.silent_by, end + moved() / self.min_rate)
        if not self.is_overdue and (is_over or self._is_kept_waiting(now)):
            self.upstream_took_all = _is_writable(self.upstream)
            self.is_overdue, self._cut = True, now + CUT_SECONDS
            self._wake()
        elif self.is_overdue and self.is_answering and now > self._cut:
            self._end_answer()

    def _is_kept_waiting(self, now: float) -> bool:
        """Whether the client has used up our patience with its body."""
        before, self._looked = self._looked, now
        is_awaited = self._is_awaited  # the request may end meanwhile
        arrived = _bytes_received(self.client) if is_awaited and is_awaited() else None
        if arrived is None:
            return False
        patience = self._patience - (now - before) + (arrived - self._arrived) / SLOWEST_BODY
        self._patience, self._arrived = min(patience, self._whole_patience), arrived
        return patience < 0

    def leave(self) -> None:
        """End the request, because its client has closed the connection."""
        self.has_left = True
        self._wake()

    @property
    def is_woken(self) -> bool:
        """Whether the watchdog has shut the request's sockets down."""
        return self.is_overdue or self.has_left

    def hold_upstream(self, sock: socket.socket) -> None:
        """Watch this socket to the upstream. If the request has been ended already, shut it down now."""
        with self._lock:
            self.upstream = sock
            if self.is_woken:
                _shut(sock, socket.SHUT_RDWR)

    def release_upstream(self) -> bool:
        """Stop watching the upstream's socket, before it is closed or used again. False if the request was ended."""
        with self._lock:
            self.upstream = None
            return not self.is_woken

    def close(self) -> None:
        """The request is over; a second time is harmless."""
        self.client = self.upstream = self._is_awaited = None
        if self._watchdog:
            self._watchdog.forget(self)

    def begin_unmeasured(self) -> None:
        """An answer begins whose end is that of the connection: if this process is killed, that must not look normal.

        `complete` makes it one again.
        """
        self._is_unmeasured = True
        _set_linger(self.client, is_reset=True)

    def complete(self) -> None:
        """The answer is complete."""
        if self._is_unmeasured:
            _set_linger(self.client, is_reset=False)

    def cut(self) -> None:
        """Reset the client's connection: the answer cannot be completed, and a normal end could look complete.

        An HTTP/1.0 client (nginx by default) takes a normal end for the end of an answer without a length. SO_LINGER
        alone does not help: gunicorn ends its sending side before it closes. So an unconnected socket replaces the
        descriptor, which makes the kernel reset the connection at once and leaves the server something to close.
        """
        client, self.client = self.client, None  # the watchdog must not take the other socket for a client that left
        if self.cuts_by_reset and isinstance(client, socket.socket):
            _set_linger(client, is_reset=True)
            with suppress(OSError), socket.socket() as unconnected:
                os.dup2(unconnected.fileno(), client.fileno(), inheritable=False)

    def _end_answer(self) -> None:
        """Wake the thread whose client does not read on. It must not see a normal end of the answer either.

        Only ending the sending side wakes a blocked thread, and it queues a normal end (FIN) behind the bytes that the
        client has not taken. So these are slowed down first, until the thread has reset the connection (`cut`).
        """
        if self.cuts_by_reset and _is_writable(self.client):
            return  # the thread is not blocked there, and resets the connection itself
        if self.cuts_by_reset and isinstance(self.client, socket.socket):
            with suppress(OSError):
                self.client.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, 1)
        _shut(self.client, socket.SHUT_RDWR)

    def _wake(self) -> None:
        """Wake the thread that is blocked in a read or write: it ends the answer so that the client notices."""
        if self.is_answering and self.cuts_by_reset:
            _set_linger(self.client, is_reset=True)  # before that thread wakes up and closes the socket
        with self._lock:
            _shut(self.upstream, socket.SHUT_RDWR)
        if not self.is_answering:
            _shut(self.client, socket.SHUT_RD)  # an answer can still be sent


def _bytes_received(sock: Any) -> int | None:
    """Bytes that have arrived on a TCP connection, read or not; None for other sockets.

    The kernel's count (Linux 4.1), because gunicorn hands over a body in chunks by large blocks only.
    """
    if not isinstance(sock, socket.socket):
        return None
    with suppress(OSError, struct.error):
        (count,) = struct.unpack_from("Q", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136), 128)
        return int(count)
    return None


def _is_writable(sock: Client | None) -> bool:
    """Whether a send would not block."""
    poll = select.poll()
    if sock is not None and sock.fileno() >= 0:
        poll.register(sock, select.POLLOUT)
    return any(event & select.POLLOUT for _, event in poll.poll(0))


def is_resettable(client: Any) -> bool:
    """Whether closing this client's socket can be made a reset. A Unix socket knows none."""
    return isinstance(client, socket.socket) and client.family in (socket.AF_INET, socket.AF_INET6)


def _shut(sock: Any, how: int) -> None:
    if isinstance(sock, socket.socket):
        with suppress(OSError):
            socket.socket.shutdown(sock, how)  # not SSLSocket's own method, which is not safe for two threads


def _set_linger(sock: Any, is_reset: bool) -> None:
    """Make the server's close a reset (RST), or a normal one, which may look like the end of a complete answer."""
    if isinstance(sock, socket.socket):
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", is_reset, 0))


class Watchdog:
    """All running requests of an application. Its thread runs only while there are any, so forking before is safe."""

    def __init__(self, sleep: Callable[[float], object] = time.sleep) -> None:
        self._sleep = sleep
        self._lock = threading.Lock()
        self._watches: set[Watch] = set()
        self._runs_in = 0  # the id of the process in which the thread runs, 0 while it does not run

    def watch(self, client: Client | None, seconds: float = float("inf")) -> Watch:
        """Start watching a request, which may take this long in all. Its watch must be closed when it is over."""
        made = Watch(self, client, seconds)
        with self._lock:
            if self._runs_in != os.getpid():
                self._watches = set()  # after a fork: the parent's requests do not run here
                threading.Thread(target=self._run, name="filesproxy watchdog", daemon=True).start()
                self._runs_in = os.getpid()
            self._watches.add(made)
        return made

    def forget(self, watch: Watch) -> None:
        """Stop watching a request."""
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
            now = time.monotonic()
            for watch in watches:
                with suppress(Exception):  # a server may have its own class of sockets; the others must be checked
                    watch.check(now)
            with suppress(Exception):
                _end_abandoned(watches)


def _end_abandoned(watches: list[Watch]) -> None:
    """End the requests that follow their client if it has closed its side.

    POLLRDHUP shows that. No client closes its side while it waits for an answer.
    """
    poll, by_descriptor = select.poll(), {}
    for watch in watches:
        client = watch.client if watch.follows_client and not watch.is_overdue else None
        with suppress(Exception):  # as above
            descriptor = client.fileno() if client else -1
            if descriptor >= 0:
                poll.register(descriptor, select.POLLRDHUP)
                by_descriptor[descriptor] = watch
    for descriptor, event in poll.poll(0):
        # A request may have ended meanwhile, and its descriptor have been closed or belong to another client.
        if not event & select.POLLNVAL and by_descriptor[descriptor].client:
            by_descriptor[descriptor].leave()
