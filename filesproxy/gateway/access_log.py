"""The access log: one JSON line for each request, on the logger `filesproxy.access` or to standard output."""

from __future__ import annotations

import json
import logging
import os
import stat
import sys
import threading
import time
from functools import lru_cache

from .record import Record

_access = logging.getLogger("filesproxy.access")
# Outputs to which each line is written by one system call. Through a logging handler, which makes a record and takes a
# lock, a small call costs 7 % more CPU (`tests/bench/compare.py small`, GET c=1).
_outputs: list[Output] = []


class AccessLog:
    """The observer that writes the access log."""

    def finished(self, record: Record) -> None:
        """Log the request if there is anywhere to log it to."""
        if _outputs or _access.isEnabledFor(logging.INFO):
            text = line(record)
            for output in _outputs:
                output.write(text.encode("ascii") + b"\n")
            if _access.isEnabledFor(logging.INFO) and _access.hasHandlers():
                _access.info("%s", text)


def line(record: Record) -> str:
    """The JSON line of a request. ASCII; `ms` are milliseconds to the last byte."""
    at = int(record.started * 1000)
    return json.dumps(
        {
            "time": f"{_second(at // 1000)}.{at % 1000:03d}Z",
            "request_id": record.id,
            "key": record.key,
            "owner": record.owner,
            "operation": record.operation,
            "provider": record.provider,
            "file_id": record.file_id or None,
            "purpose": record.purpose or None,
            "bytes_in": record.bytes_in,
            "bytes_out": record.bytes_out,
            "status": record.status,
            "error": record.error or None,
            "ms": round(record.seconds * 1000, 1),
            **record.extras,
        }
    )


@lru_cache(maxsize=8)
def _second(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))


def to_stdout() -> None:
    """Send the access log to standard output too, and to no handler of the logger's parents."""
    _access.propagate = False
    if sys.stdout is not None:  # it is None if it was closed before the start
        _outputs.append(Output(sys.stdout.fileno()))


class Output:
    """Writes lines to a file descriptor and never waits: a log that nobody reads must not stop a request.

    A line that does not fit is dropped. Once there is room again, a line that counts the dropped ones comes first.
    Safe for threads.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = _not_blocking(descriptor)
        self._lock = threading.Lock()
        self._dropped = 0

    def write(self, text: bytes) -> None:
        """Write a line whole, or drop it."""
        if self._dropped:
            self._report()
        if self._dropped or not self._put(text):
            with self._lock:
                self._dropped += 1

    def _report(self) -> None:
        with self._lock:
            notice = {"time": f"{_second(int(time.time()))}.000Z", "dropped_lines": self._dropped}
            if self._dropped and self._put(json.dumps(notice).encode("ascii") + b"\n"):
                self._dropped = 0

    def _put(self, text: bytes) -> bool:
        try:
            return os.write(self._descriptor, text) == len(text)  # a pipe takes a line of this length whole (PIPE_BUF)
        except OSError:
            return False


def _not_blocking(descriptor: int) -> int:
    """A descriptor of the same pipe, socket or terminal whose writes fail instead of waiting; files never wait.

    O_NONBLOCK on the descriptor itself would hold for everybody who has inherited it.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:  # a socket, or a pipe of another user
        return descriptor
