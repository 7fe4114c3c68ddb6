"""The access log: one JSON line a request on the logger `filesproxy.access`, and the ids that go with it."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import sys
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..calls import Upload
from ..operations import is_id
from ..watchdog import Watch
from ..wire.headers import redact
from .wsgi import RequestBody

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_access = logging.getLogger("filesproxy.access")
_outputs: list[int] = []  # file descriptors
_TRACE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Record:
    """What one request leaves in the access log: one JSON line, never a secret, never a body.

    `presented` are the keys of an environ under which clients present credentials: one of them may be another than the
    target's, or the target may never be known.
    """

    def __init__(self, environ: WSGIEnvironment, presented: frozenset[str] = frozenset()) -> None:
        self.started = time.time()
        self._clock = time.perf_counter()
        given = str(environ.get("HTTP_X_PORTKEY_TRACE_ID", ""))
        self._is_given = bool(given and _TRACE_ID.fullmatch(given))
        # An id needs no secrecy, and os.urandom would give up the GIL.
        self.id = given if self._is_given else f"fpr-{random.getrandbits(96):024x}"
        self.fields: dict[str, Any] = {}
        self.body: RequestBody | None = None
        self.upload: Upload | None = None
        self.watch: Watch | None = None
        self.error = ""
        self.secret = ""  # the credential, which a client may have put where a word belongs
        said = [str(environ[key]).split()[-1:] for key in environ.keys() & presented]
        # The longest first: another may be its beginning.
        self._presented = sorted([word for words in said for word in words], key=len, reverse=True)

    def headers(self) -> dict[str, str]:
        """What every answer carries: without a trace id, Portkey's SDKs retry where a retry cannot help."""
        name, shown = self.fields.get("provider"), self._shown_id()
        return {
            "x-request-id": shown,
            "x-portkey-trace-id": shown,
            **({"x-portkey-provider": name} if name else {}),
        }

    def note_file(self, answer: Any, credential: str) -> None:
        """Take the file's id from an answer, if it is one: providers are no more trusted than clients."""
        is_file = isinstance(answer, dict) and answer.get("object") == "file"
        file_id = answer.get("id") if is_file else None
        if file_id == self.fields["file_id"]:
            return
        if isinstance(file_id, str) and is_id(file_id) and redact(file_id, credential) == file_id:
            self.fields["file_id"] = file_id

    def write(self, status: int, sent: int, error: str) -> None:
        """Log the request, once it is over."""
        if not (_outputs or _is_heard()):
            return
        text = self._line(status, sent, error)
        for descriptor in _outputs:
            _print(descriptor, text)
        if _is_heard():
            # Made here: the logger's own methods would first look for the caller's file and line, which nobody logs.
            _access.handle(logging.LogRecord(_access.name, logging.INFO, "", 0, text, None, None))

    def _line(self, status: int, sent: int, error: str) -> str:
        """The line, in a third of the time that json.dumps takes. In an id JSON has nothing to escape."""
        at = int(self.started * 1000)
        named, file_id = self.fields.get, self._hidden(self.fields.get("file_id") or "")
        error = self._hidden(error or self.error)[:64]  # a provider's code may be of any length
        purpose = self._hidden(self.upload.fields.get("purpose", "")) if self.upload else ""
        shown_file = f'"{file_id}"' if file_id else "null"
        return (
            f'{{"time": "{_second(at // 1000)}.{at % 1000:03d}Z", "request_id": "{self._shown_id()}", '
            f'"key": {_json(named("key"))}, "operation": {_json(named("operation"))}, '
            f'"provider": {_json(named("provider"))}, "file_id": {shown_file}, "purpose": {_json(purpose or None)}, '
            f'"bytes_in": {self.body.size if self.body else 0}, "bytes_out": {sent}, "status": {status}, '
            f'"error": {_json(error or None)}, "ms": {(time.perf_counter() - self._clock) * 1000:.1f}}}'
        )

    def _shown_id(self) -> str:
        return self._hidden(self.id) if self._is_given else self.id

    def _hidden(self, text: str) -> str:
        if not text:
            return text
        text = redact(text, self.secret)
        for credential in self._presented:
            if credential in text:
                text = text.replace(credential, "[redacted]")
        return text


_json = lru_cache(maxsize=256)(json.dumps)  # of words that are short, and seldom new to a process


@lru_cache(maxsize=8)
def _second(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))


def _is_heard() -> bool:
    return _access.hasHandlers() and _access.isEnabledFor(logging.INFO)


def _print(descriptor: int, text: str) -> None:
    """Write a line by one system call, without a lock: the kernel does not mix up what two threads write."""
    line = text.encode("ascii") + b"\n"
    try:
        while line:
            line = line[os.write(descriptor, line) :]
    except OSError:  # a log that nobody can take must not fail the request
        return


def to_stdout() -> None:
    """Send the access log to standard output too, without a handler of logging's.

    One would hold its lock while it writes, and Python gives up the interpreter's meanwhile: the other threads of a
    busy worker then stand in line. A LogRecord, of which a line of JSON needs nothing, costs as much again.
    """
    _access.propagate = False
    _outputs.append(sys.stdout.fileno())
