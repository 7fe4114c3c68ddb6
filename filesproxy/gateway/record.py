"""The record of one request, and the observers that get it when the request is over. The access log is one."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from ..calls import Target, Upload
from ..operations import is_id
from ..redaction import Secret, redact
from ..watchdog import Watch
from .auth import Caller
from .wsgi import RequestBody

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_TRACE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Observer(Protocol):
    """Gets the record of each request, once, after its last byte was handed over or it failed."""

    def finished(self, record: Record) -> None:
        """Must neither raise nor block: it runs on the thread that serves the client."""


class Record:
    """One request as observers see it: never a secret, never a body, never a file's name.

    `presented` names the keys of an environ in which clients present credentials. All of these are hidden: the target
    may have another credential, or may never be known.
    """

    def __init__(self, environ: WSGIEnvironment, presented: frozenset[str] = frozenset()) -> None:
        self.started = time.time()  # seconds since the epoch
        self._clock = time.perf_counter()
        given = str(environ.get("HTTP_X_PORTKEY_TRACE_ID", ""))
        self._is_given = bool(given and _TRACE_ID.fullmatch(given))
        # An id needs no secrecy, and os.urandom would give up the interpreter's lock.
        self._id = given if self._is_given else f"fpr-{random.getrandbits(96):024x}"
        self.key: str | None = None  # the name of the gateway key
        self.operation: str | None = None
        self.provider: str | None = None  # begins with @ if the saved credential was used
        self.body: RequestBody | None = None
        self.upload: Upload | None = None
        self.watch: Watch | None = None
        self.status = 0
        self.bytes_out = 0
        self.seconds = 0.0
        self._secrets: Iterable[Secret] = ()  # the caller's, then the target's; a client may put one anywhere
        self._file_id = ""
        self._error = ""
        # Each is a header's last word: "Bearer …" comes before it.
        self._presented = [
            Secret(word) for key in environ.keys() & presented for word in str(environ[key]).split()[-1:]
        ]

    @property
    def id(self) -> str:
        """The request's id: the client's trace id if it sent one, without a credential."""
        return self._hidden(self._id) if self._is_given else self._id

    @property
    def file_id(self) -> str:
        """The id in the request's path, or of the file in the answer; "" if there is none."""
        return self._hidden(self._file_id)

    @property
    def purpose(self) -> str:
        """The purpose of an upload, "" for other requests."""
        return self._hidden(self.upload.fields.get("purpose", "")) if self.upload else ""

    @property
    def error(self) -> str:
        """The code or class of the failure, "" if there was none."""
        return self._hidden(self._error)[:64]  # a provider's code may have any length

    @property
    def bytes_in(self) -> int:
        """Bytes of the request's body that were read."""
        return self.body.size if self.body else 0

    def headers(self) -> dict[str, str]:
        """The headers of every answer. Without a trace id, Portkey's SDKs retry even if a retry cannot help."""
        # What goes to an authenticated caller is not for a shared cache (RFC 9111 §5.2.2.5).
        provider = {"x-portkey-provider": self.provider, "cache-control": "no-store"} if self.provider else {}
        request_id = self.id
        return {"x-request-id": request_id, "x-portkey-trace-id": request_id, **provider}

    def note_caller(self, caller: Caller) -> None:
        """Note the gateway key's name and the caller's own credential."""
        self.key, self._secrets = caller.name or None, (caller.credential,)

    def note_target(self, target: Target) -> None:
        """Note the provider and its credentials."""
        self.provider, self._secrets = f"@{target.name}" if target.is_saved else target.name, target.credentials

    def note_file(self, file_id: str) -> None:
        """Note the id in the request's path."""
        self._file_id = file_id

    def note_answer(self, answer: Any) -> None:
        """Note the file's id in an answer, if it is a file: providers are trusted no more than clients."""
        file_id = answer.get("id") if isinstance(answer, dict) and answer.get("object") == "file" else None
        if isinstance(file_id, str) and is_id(file_id) and self._hidden(file_id) == file_id:
            self._file_id = file_id

    def note_failure(self, error: str) -> None:
        """Note why the request failed: a code, or the class of an exception."""
        self._error = error

    def finish(self, status: int, bytes_out: int, error: str) -> None:
        """The request is over; `error` is what ended the answer, "" if nothing did."""
        self.status, self.bytes_out, self._error = status, bytes_out, error or self._error
        self.seconds = time.perf_counter() - self._clock

    def _hidden(self, text: str) -> str:
        # In one pass: a shorter secret may be the beginning of a longer one.
        return redact(text, [*self._presented, *self._secrets]) if text else text
