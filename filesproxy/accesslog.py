"""The access log: one JSON line a request on the logger `filesproxy.access`, and the ids that go with it."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import sys
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from .headers import redact
from .provider import Upload
from .router import is_id
from .watchdog import Watch
from .wsgi import RequestBody

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_access = logging.getLogger("filesproxy.access")
_TRACE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Record:
    """What one request leaves in the access log: one JSON line, never a secret, never a body."""

    def __init__(self, environ: WSGIEnvironment) -> None:
        self.started = time.time()
        self._clock = time.perf_counter()
        given = str(environ.get("HTTP_X_PORTKEY_TRACE_ID", ""))
        self._is_given = bool(_TRACE_ID.fullmatch(given))
        # An id needs no secrecy, and os.urandom would give up the GIL.
        self.id = given if self._is_given else f"fpr-{random.getrandbits(96):024x}"
        self.fields: dict[str, Any] = {}
        self.body: RequestBody | None = None
        self.upload: Upload | None = None
        self.watch: Watch | None = None
        self.error = ""
        self.secret = ""  # the credential, which a client may have put where a word belongs

    def headers(self) -> dict[str, str]:
        """What every answer carries: without a trace id, Portkey's SDKs retry where a retry cannot help."""
        name = self.fields.get("provider")
        shown = redact(self.id, self.secret) if self._is_given else self.id
        return {
            "x-request-id": shown,
            "x-portkey-trace-id": shown,
            **({"x-portkey-provider": name} if name else {}),
        }

    def note_file(self, answer: Any, credential: str) -> None:
        """Take the file's id from an answer, if it is one: providers are no more trusted than clients."""
        is_file = isinstance(answer, dict) and answer.get("object") == "file"
        file_id = answer.get("id") if is_file else None
        if isinstance(file_id, str) and is_id(file_id) and redact(file_id, credential) == file_id:
            self.fields["file_id"] = file_id

    def write(self, status: int, sent: int, error: str) -> None:
        """Log the request, once it is over."""
        if not _access.isEnabledFor(logging.INFO):
            return
        line = {
            "time": datetime.fromtimestamp(self.started, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
            "request_id": self.id,
            **{name: self.fields.get(name) for name in ("key", "operation", "provider", "file_id")},
            "purpose": self.upload.fields.get("purpose") if self.upload else None,
            "bytes_in": self.body.size if self.body else 0,
            "bytes_out": sent,
            "status": status,
            "error": (error or self.error)[:64] or None,  # a provider's code may be of any length
            "ms": round((time.perf_counter() - self._clock) * 1000, 1),
        }
        text = redact(json.dumps(line), self.secret)
        # Made here: the logger's own methods would first look for the caller's file and line, which nobody logs.
        _access.handle(logging.LogRecord(_access.name, logging.INFO, "", 0, text, None, None))


class LineHandler(logging.Handler):
    """Writes a line by one system call to a file descriptor.

    A StreamHandler holds its lock while it writes, and Python gives up the interpreter's meanwhile: the other threads
    of a busy worker then stand in line for the log, a fifth of the time that a small request takes.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def handle(self, record: logging.LogRecord) -> bool:
        """Write the record, without a lock: the kernel does not mix up what two threads write."""
        line = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except OSError:
            self.handleError(record)
        return True


def to_stdout() -> None:
    """Send the access log to standard output, and to nobody else."""
    _access.addHandler(LineHandler(sys.stdout.fileno()))
    _access.setLevel(logging.INFO)
    _access.propagate = False
