"""The access log: one JSON line for each request, on the logger `filesproxy.access` or to standard output."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from contextlib import suppress
from functools import lru_cache

from .record import Record

_access = logging.getLogger("filesproxy.access")
# File descriptors to which each line is written by one system call. Through a logging handler, which makes a record and
# takes a lock, a small call costs 7 % more CPU (`tests/bench/compare.py small`, GET c=1).
_outputs: list[int] = []


class AccessLog:
    """The observer that writes the access log."""

    def finished(self, record: Record) -> None:
        """Log the request if there is anywhere to log it to."""
        if _outputs or _access.isEnabledFor(logging.INFO):
            text = line(record)
            for descriptor in _outputs:
                _write(descriptor, text.encode("ascii") + b"\n")
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
            "operation": record.operation,
            "provider": record.provider,
            "file_id": record.file_id or None,
            "purpose": record.purpose or None,
            "bytes_in": record.bytes_in,
            "bytes_out": record.bytes_out,
            "status": record.status,
            "error": record.error or None,
            "ms": round(record.seconds * 1000, 1),
        }
    )


@lru_cache(maxsize=8)
def _second(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))


def to_stdout() -> None:
    """Send the access log to standard output too, and to no handler of the logger's parents."""
    _access.propagate = False
    _outputs.append(sys.stdout.fileno())


def _write(descriptor: int, text: bytes) -> None:
    with suppress(OSError):  # a log that cannot be written must not fail the request
        while text:
            text = text[os.write(descriptor, text) :]
