"""One connection to an upstream: sends that notice an early answer, reads with a time limit, and what it is good for.

On plain TCP the kernel keeps the time limit of reads (SO_RCVTIMEO): one in Python costs a poll, and with it another
hand-over of the interpreter's lock, for each. OpenSSL needs Python's own.
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

BULK_BYTES = 1 << 16  # a send of more lets others go first
ROOM_BYTES = 4096  # that an idle connection takes without waiting, so that a small request needs no limit set for it
MAX_INFORMATIONAL_BYTES = 8192  # of one of them, while an upload is sent

# How a send fails when the peer has answered and closed; TLS has names of its own for it.
_STOPPED_READING = (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError, *TIMEOUTS)
_INFORMATIONAL_START = b"HTTP/1.1 1"
_INFORMATIONAL = re.compile(rb"HTTP/1\.1 1(?!01)[0-9][0-9][^\n]*\r\n(?:[^\r\n]+\r\n)*\r\n")


class Connection:
    """A connected socket. `key` says for which requests it is good; the pool counts its answers and its idle time."""

    def __init__(self, sock: socket.socket, key: Hashable = None) -> None:
        self.sock = sock
        self.key = key
        self.answers = 0
        self.idle_since = 0.0
        self._tls = sock if isinstance(sock, ssl.SSLSocket) else None
        self.to_read = 0.0  # seconds that one read may wait for bytes
        self.to_send = 0.0  # and a send until the upstream reads on
        self._limit_set = 0.0  # on the socket
        self._events = select.poll()
        self._events.register(sock, select.POLLIN | select.POLLOUT)
        if not self._tls:
            sock.settimeout(None)

    def receive(self, size: int) -> bytes:
        """What has come, up to so many bytes; b"" at the end. OSError, of which those in TIMEOUTS say that none has."""
        self._limit(self.to_read)
        return self.sock.recv(size)

    def _limit(self, seconds: float) -> None:
        if seconds == self._limit_set:  # mostly: and setting it is a system call
            return
        self._limit_set = seconds
        if self._tls:
            self.sock.settimeout(seconds)
        else:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(seconds))

    def send(self, buffers: Sequence[bytes], looks: bool = True) -> bool:
        """Send these bytes. False if the upstream stopped reading before their end; it may have an answer.

        Whoever sends a request's beginning need not look whether the answer is there already.
        """
        left: list[Buffer] = [buffer for buffer in buffers if buffer]
        try:
            while left:
                if looks and not self._tls and not self._may_send():
                    return False
                if self._tls and (looks or len(left[0]) > ROOM_BYTES):
                    self._limit(self.to_send)
                sent = self._send_some(left)
                left, looks = _behind(left, sent), True
                if sent > BULK_BYTES:
                    give_way()
        except _STOPPED_READING:
            return False
        except OSError:
            raise UpstreamError("The connection to the provider broke while sending.") from None
        return True

    def _send_some(self, buffers: Sequence[Buffer]) -> int:
        if self._tls:
            return self.sock.send(buffers[0])  # TLS 1.3 session tickets look like an answer: nobody looks
        try:
            return self.sock.sendmsg(buffers, (), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def _may_send(self) -> bool:
        """Wait until the upstream reads on. False if it has answered instead, or done neither in its time."""
        deadline = time.monotonic() + self.to_send
        while True:
            left = max(0.0, deadline - time.monotonic())
            events = sum(event for _, event in self._events.poll(left * 1000))
            if events & ~select.POLLOUT and not self._passes_informational():
                return False
            if events & select.POLLOUT:
                return True
            if not left:
                return False
            time.sleep(0.01)  # half of a 1xx head has come, of which poll would tell again at once

    def _passes_informational(self) -> bool:
        """Read away a 1xx head, which may come unasked (RFC 9110 §15.2). False if something else has come."""
        try:
            head = self.sock.recv(MAX_INFORMATIONAL_BYTES, socket.MSG_PEEK)
        except OSError:
            return False
        found = _INFORMATIONAL.match(head)
        if found:
            self.sock.recv(found.end())
        return bool(found) or (0 < len(head) < MAX_INFORMATIONAL_BYTES and _is_informational_so_far(head))

    def is_quiet(self) -> bool:
        """Whether the upstream has neither closed nor said anything, and has room for a request's beginning.

        Whatever comes before a request is no answer. One that has answered without reading all may read no more.
        """
        events = [event for _, event in self._events.poll(0)]
        return events == [select.POLLOUT] and not (self._tls and self._tls.pending())

    def close(self) -> None:
        """Give it up; a second time is harmless."""
        self.sock.close()


# Threads that carry large files are ready to run at any moment, and stand before a small request at each of the ten or
# so points where it waits for a processor. Not everywhere is there such a call.
give_way: Callable[[], None] = getattr(os, "sched_yield", lambda: None)


def _timeval(seconds: float) -> bytes:
    return struct.pack("ll", int(seconds), max(1, int(seconds % 1 * 1e6)))  # nought would be no limit


def _behind(buffers: list[Buffer], sent: int) -> list[Buffer]:
    """What is left of the buffers behind so many bytes."""
    while buffers and sent >= len(buffers[0]):
        sent -= len(buffers.pop(0))
    return [memoryview(buffers[0])[sent:], *buffers[1:]] if sent else buffers


def _is_informational_so_far(head: bytes) -> bool:
    start = head[: len(_INFORMATIONAL_START)]
    return _INFORMATIONAL_START.startswith(start) and not head.startswith(b"HTTP/1.1 101") and b"\r\n\r\n" not in head
