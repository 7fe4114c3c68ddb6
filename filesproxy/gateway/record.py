"""What is known of one request when it is over, and who wants to know: observers. The access log is one."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from ..calls import Upload
from ..operations import is_id
from ..redaction import Secret, redact
from ..watchdog import Watch
from .wsgi import RequestBody

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_TRACE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Observer(Protocol):
    """Is told of each request, once, when its last byte was handed over or it failed."""

    def finished(self, record: Record) -> None:
        """Note the request. Must not raise, nor wait for anybody: the client's thread calls it."""


class Record:
    """One request as observers see it: never a secret, never a body, never a file's name.

    `presented` are the keys of an environ under which clients present credentials. One of them may be another than the
    target's, and the target may never be known.
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
        self.secrets: Iterable[Secret] = ()  # the target's, which a client may have put where a word belongs
        self._file_id = ""
        self._error = ""
        said = [str(environ[key]).split()[-1:] for key in environ.keys() & presented]
        # The longest first: another may be its beginning.
        self._presented = sorted([word for words in said for word in words], key=len, reverse=True)

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
        """What every answer carries. Without a trace id Portkey's SDKs retry even if a retry cannot help."""
        # What goes to an authenticated caller is not for a shared cache (RFC 9111 §5.2.2.5).
        provider = {"x-portkey-provider": self.provider, "cache-control": "no-store"} if self.provider else {}
        return {"x-request-id": self.id, "x-portkey-trace-id": self.id, **provider}

    def note_file(self, file_id: str) -> None:
        """Note the id in the request's path."""
        self._file_id = file_id

    def note_answer(self, answer: Any) -> None:
        """Note the file's id in an answer, if it is a file: providers are trusted no more than clients."""
        file_id = answer.get("id") if isinstance(answer, dict) and answer.get("object") == "file" else None
        if isinstance(file_id, str) and is_id(file_id) and redact(file_id, self.secrets) == file_id:
            self._file_id = file_id

    def note_failure(self, error: str) -> None:
        """Note what the request failed of."""
        self._error = error

    def finish(self, status: int, bytes_out: int, error: str) -> None:
        """The request is over; `error` is what ended the answer, "" if nothing did."""
        self.status, self.bytes_out, self._error = status, bytes_out, error or self._error
        self.seconds = time.perf_counter() - self._clock

    def _hidden(self, text: str) -> str:
        if not text:
            return text
        text = redact(text, self.secrets)
        for credential in self._presented:
            text = text.replace(credential, "[redacted]")
        return text
