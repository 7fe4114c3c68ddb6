"""One connection to an upstream: time limits for reads and sends, and a check for an answer that comes early.

On plain TCP the kernel keeps the time limit of reads (SO_RCVTIMEO). Python's own limit would add a poll to each read,
and with it another hand-over of the interpreter's lock. TLS needs Python's own, because OpenSSL does the reads.
"""

from __future__ import annotations

import os
import re
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Union

from ...errors import UpstreamError
from .dial import TIMEOUTS

Buffer = Union[bytes, memoryview]

BULK_BYTES = 1 << 16  # after a larger send, other threads may run first
SMALL_SEND_BYTES = 4096  # the socket buffer of an idle connection takes this much, so the send needs no time limit
MAX_INFORMATIONAL_BYTES = 8192  # of one 1xx response that comes while an upload is sent

# How a send fails when the peer has answered and closed. TLS has its own exceptions for that.
_STOPPED_READING = (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError, *TIMEOUTS)
_INFORMATIONAL_START = b"HTTP/1.1 1"
_INFORMATIONAL = re.compile(rb"HTTP/1\.1 1(?!01)[0-9][0-9][^\n]*\r\n(?:[^\r\n]+\r\n)*\r\n")


class Connection:
    """A connected socket. Only requests with the same `key` may use it; the pool keeps `answers` and `idle_since`."""

    def __init__(self, sock: socket.socket, key: Hashable = None) -> None:
        self.sock = sock
        self.key = key
        self.answers = 0
        self.idle_since = 0.0
        self._tls = sock if isinstance(sock, ssl.SSLSocket) else None
        self.read_timeout = 0.0  # seconds that one read may wait for bytes
        self.send_timeout = 0.0  # seconds that a send may wait for the upstream to read on
        self._current_limit = 0.0  # seconds, as set on the socket
        self._events = select.poll()
        self._events.register(sock, select.POLLIN | select.POLLOUT)
        if not self._tls:
            sock.settimeout(None)

    def receive(self, size: int) -> bytes:
        """The bytes that have arrived, up to `size`; b"" at the end. OSError: one of TIMEOUTS if none arrive."""
        self._set_limit(self.read_timeout)
        return self.sock.recv(size)

    def _set_limit(self, seconds: float) -> None:
        if seconds == self._current_limit:  # usually; this saves a system call
            return
        self._current_limit = seconds
        if self._tls:
            self.sock.settimeout(seconds)
        else:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(seconds))

    def send(self, buffers: Sequence[bytes], check_first: bool = True) -> bool:
        """Send all buffers. False if the upstream stopped reading before the end; an answer may then be readable.

        The beginning of a request can be sent with `check_first=False`: there is no answer to look for yet.
        """
        left: list[Buffer] = [buffer for buffer in buffers if buffer]
        try:
            while left:
                if check_first and not self._tls and not self._wait_until_writable():
                    return False
                if self._tls and (check_first or len(left[0]) > SMALL_SEND_BYTES):
                    self._set_limit(self.send_timeout)
                sent = self._send_some(left)
                left, check_first = _unsent(left, sent), True
                if sent > BULK_BYTES:
                    give_way()
        except _STOPPED_READING:
            return False
        except OSError:
            raise UpstreamError("The connection to the provider broke while sending.") from None
        return True

    def _send_some(self, buffers: Sequence[Buffer]) -> int:
        if self._tls:
            return self.sock.send(buffers[0])  # no check before: TLS 1.3 session tickets would look like an answer
        try:
            return self.sock.sendmsg(buffers, (), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def _wait_until_writable(self) -> bool:
        """Wait until the upstream reads on. False if it has answered instead, or if `send_timeout` has passed."""
        deadline = time.monotonic() + self.send_timeout
        while True:
            left = max(0.0, deadline - time.monotonic())
            events = sum(event for _, event in self._events.poll(left * 1000))
            if events & ~select.POLLOUT and not self._skip_informational():
                return False
            if events & select.POLLOUT:
                return True
            if not left:
                return False
            time.sleep(0.01)  # part of a 1xx response has come; without a pause, poll would report it again and again

    def _skip_informational(self) -> bool:
        """Discard a 1xx response, which may come unasked (RFC 9110 §15.2). False if something else has come."""
        try:
            head = self.sock.recv(MAX_INFORMATIONAL_BYTES, socket.MSG_PEEK)
        except OSError:
            return False
        found = _INFORMATIONAL.match(head)
        if found:
            self.sock.recv(found.end())
        return bool(found) or (0 < len(head) < MAX_INFORMATIONAL_BYTES and _is_informational_so_far(head))

    def is_quiet(self) -> bool:
        """Whether the upstream has neither closed nor sent anything, and a request's beginning can be sent.

        What comes before a request cannot be its answer. An upstream that answered without reading the whole request
        may read no more.
        """
        events = [event for _, event in self._events.poll(0)]
        return events == [select.POLLOUT] and not (self._tls and self._tls.pending())

    def close(self) -> None:
        """Close the socket; a second time is harmless."""
        self.sock.close()


# A thread that carries a large file is always ready to run, so a small request would have to wait for it at each point
# where it needs a processor. Not every platform has sched_yield.
give_way: Callable[[], None] = getattr(os, "sched_yield", lambda: None)


def _timeval(seconds: float) -> bytes:
    return struct.pack("ll", int(seconds), max(1, int(seconds % 1 * 1e6)))  # zero would mean no limit


def _unsent(buffers: list[Buffer], sent: int) -> list[Buffer]:
    """What is left of the buffers after the first `sent` bytes."""
    while buffers and sent >= len(buffers[0]):
        sent -= len(buffers.pop(0))
    return [memoryview(buffers[0])[sent:], *buffers[1:]] if sent else buffers


def _is_informational_so_far(head: bytes) -> bool:
    start = head[: len(_INFORMATIONAL_START)]
    return _INFORMATIONAL_START.startswith(start) and not head.startswith(b"HTTP/1.1 101") and b"\r\n\r\n" not in head
