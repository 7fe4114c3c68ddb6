"""The access log: one JSON line a request on the logger `filesproxy.access`, and the ids that go with it."""

from __future__ import annotations

import json
import logging
import random
import re
import time
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
        # An id needs no secrecy, and os.urandom would give up the GIL.
        self.id = given if _TRACE_ID.fullmatch(given) else f"fpr-{random.getrandbits(96):024x}"
        self.fields: dict[str, Any] = {}
        self.body: RequestBody | None = None
        self.upload: Upload | None = None
        self.watch: Watch | None = None
        self.error = ""
        self.secret = ""  # the credential, which a client may have put where a word belongs

    def headers(self) -> dict[str, str]:
        """What every answer carries: without a trace id, Portkey's SDKs retry where a retry cannot help."""
        name = self.fields.get("provider")
        shown = redact(self.id, self.secret)
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
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(self.started))
            + f".{int(self.started % 1 * 1000):03d}Z",
            "request_id": self.id,
            **{name: self.fields.get(name) for name in ("key", "operation", "provider", "file_id")},
            "purpose": self.upload.fields.get("purpose") if self.upload else None,
            "bytes_in": self.body.size if self.body else 0,
            "bytes_out": sent,
            "status": status,
            "error": (error or self.error)[:64] or None,  # a provider's code may be of any length
            "ms": round((time.perf_counter() - self._clock) * 1000, 1),
        }
        _access.info(redact(json.dumps(line), self.secret))
