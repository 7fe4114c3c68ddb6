"""The access log: one JSON line for each request, on the logger `filesproxy.access`."""

from __future__ import annotations

import json
import logging
import sys
import time

from .record import Record

_access = logging.getLogger("filesproxy.access")


class AccessLog:
    """The observer that writes the access log."""

    def finished(self, record: Record) -> None:
        """Log the request, if anybody listens."""
        if _access.isEnabledFor(logging.INFO):
            _access.info("%s", line(record))


def line(record: Record) -> str:
    """The JSON line of a request. ASCII; `ms` are milliseconds to the last byte."""
    at = int(record.started * 1000)
    second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at // 1000))
    return json.dumps(
        {
            "time": f"{second}.{at % 1000:03d}Z",
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


def to_stdout() -> None:
    """Send the access log to standard output, and nowhere else."""
    _access.propagate = False
    _access.setLevel(logging.INFO)
    _access.addHandler(logging.StreamHandler(sys.stdout))
