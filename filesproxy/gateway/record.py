"""The record of one request, and the observers that get it when the request is over. The access log is one."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ..calls import Target, Upload
from ..operations import is_id
from ..redaction import MIN_SECRET, Secret, redact
from ..watchdog import Watch
from .auth import Caller, presented_token
from .request import RequestBody, traced
from .upload_rules import UploadRules

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_TRACE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# What OpenAI's contract says a file is for.
_PURPOSES = frozenset({
    "assistants", "assistants_output", "batch", "batch_output", "evals", "fine-tune", "fine-tune-results", "user_data",
    "vision",
})  # fmt: skip
MIN_CREDENTIAL_IN_ID = 24  # what can be foreseen of an id is shorter: `file-`, and the time in 14 digits
_CODE = re.compile(r"[a-z_]{1,64}|[A-Za-z]{1,64}(Error|Exception)")  # our own codes, and classes of failures


class Observer(Protocol):
    """Gets the record of each request, once, after its last byte was handed over or it failed."""

    def finished(self, record: Record) -> None:
        """Must neither raise nor block: it runs on the thread that serves the client."""


class Record:
    """One request as observers see it: never a secret, never a body, never a file's name.

    What must not be logged is hidden wherever a client or a provider may have put it:

    - `saved`, the credentials of the configuration, everywhere;
    - what the client presents as a credential, in the headers whose keys in the environ are `presented`, whatever the
      target is; but not where it would erase what the client did: in the id in the path, in a purpose of the contract,
      in a code of the gateway and in its `detail`. The id in an answer is dropped if it holds a credential that the
      client cannot have foreseen of the id: all of it, or MIN_CREDENTIAL_IN_ID characters of it. A trace id with one in
      it is dropped.

    Gateway keys never get this far: a request with one where none belongs is refused before anything is noted.
    """

    def __init__(
        self, environ: WSGIEnvironment, presented: frozenset[str] = frozenset(), saved: Iterable[Secret] = ()
    ) -> None:
        self.started = time.time()  # seconds since the epoch
        self._clock = time.perf_counter()
        # Our own, so that no two requests share one. Not from os.urandom, which would give up the interpreter's lock.
        self.id = f"fpr-{random.getrandbits(96):024x}"
        self._trace_id = self._traceparent = ""
        self.key: str | None = None  # the name of the gateway key
        self.owner: str | None = None  # whose the files of the request are
        self.operation: str | None = None
        self.provider: str | None = None  # begins with @ if the saved credential was used
        self.body: RequestBody | None = None
        self.upload: Upload | None = None
        self.upload_rules: UploadRules | None = None
        self.watch: Watch | None = None
        self.sharer: str | None = None  # whom the request counts for while it runs
        self.ignored: list[str] = []  # names of the client's headers that nobody read
        self.metadata: Mapping[str, Any] | None = None  # the client's own; None unless it is wanted and can be logged
        self.inline_files = self.inline_bytes = 0  # kept files in the request, and what they take in it
        self.status = 0
        self.bytes_out = 0
        self.seconds = 0.0
        self._saved = saved
        self._given = [(key, environ[key]) for key in environ.keys() & presented]
        self._file_id = ""
        self._error = self._detail = self._param = ""

    @property
    def trace_id(self) -> str:
        """The client's `x-portkey-trace-id`; "" if it sent none that can be one."""
        return self._without_credential(self._trace_id)

    @property
    def traceparent(self) -> str:
        """The client's place in a distributed trace (W3C Trace Context §3.2); "" if it sent none that is valid."""
        return self._without_credential(self._traceparent)

    @property
    def file_id(self) -> str:
        """The id in the request's path, or of the file in the answer; "" if there is none."""
        return self._without_saved(self._file_id)

    @property
    def extras(self) -> dict[str, Any]:
        """Fields of the log that few requests have: the client's names for it, metadata, a detail, its files."""
        sha256 = self.upload.sha256 if self.upload else None
        rare = self._trace_id or self._traceparent or self._detail or self._param or self.inline_files or sha256
        if not rare and self.metadata is None:
            return {}
        metadata = (
            None
            if self.metadata is None
            else {
                self._hidden(name): self._hidden(text) if isinstance(text, str) else text
                for name, text in self.metadata.items()
            }
        )
        found = {
            "trace_id": self.trace_id,
            "traceparent": self.traceparent,
            "sha256": sha256,
            "detail": self.detail,
            "metadata": metadata,
            "inline_files": self.inline_files or None,
            "inline_bytes": self.inline_bytes if self.inline_files else None,
        }
        return {name: value for name, value in found.items() if value not in ("", None)}

    @property
    def purpose(self) -> str:
        """The purpose of an upload, "" for other requests."""
        purpose = self.upload.fields.get("purpose", "") if self.upload else ""
        return self._without_saved(purpose) if purpose in _PURPOSES else self._hidden(purpose)

    @property
    def error(self) -> str:
        """The code or class of the failure, "" if there was none."""
        hide = self._without_saved if _CODE.fullmatch(self._error) else self._hidden
        return hide(self._error)[:64]  # a provider's code may have any length

    @property
    def detail(self) -> str:
        """What the operator needs to know of the failure, "" if the code says it."""
        return (self._without_saved(self._detail) or self._hidden(self._param))[:300]

    @property
    def bytes_in(self) -> int:
        """Bytes of the request's body that were read."""
        return self.body.size if self.body else 0

    def headers(self) -> dict[str, str]:
        """The headers of every answer. Without a trace id, Portkey's SDKs retry even if a retry cannot help."""
        # What goes to an authenticated caller is not for a shared cache (RFC 9111 §5.2.2.5).
        provider = {"x-portkey-provider": self.provider, "cache-control": "no-store"} if self.provider else {}
        return {"x-request-id": self.id, "x-portkey-trace-id": self.trace_id or self.id, **provider}

    def note_trace(self, headers: Mapping[str, str]) -> None:
        """Note what the client calls this request."""
        trace_id = headers.get("x-portkey-trace-id", "")
        self._trace_id = trace_id if _TRACE_ID.fullmatch(trace_id) else ""
        self._traceparent = traced(headers).get("traceparent", "")

    def note_caller(self, caller: Caller) -> None:
        """Note the gateway key's name, and its owner."""
        self.key, self.owner = caller.name or None, caller.owner or None

    def note_target(self, target: Target) -> None:
        """Note the provider."""
        self.provider = f"@{target.name}" if target.is_saved else target.name

    def note_file(self, file_id: str) -> None:
        """Note the id in the request's path."""
        self._file_id = file_id

    def note_answer(self, answer: Any) -> None:
        """Note the file's id in an answer, if it is a file: providers are trusted no more than clients."""
        file_id = answer.get("id") if isinstance(answer, dict) and answer.get("object") == "file" else None
        if file_id == self._file_id:
            return
        if isinstance(file_id, str) and is_id(file_id) and not self._is_credential(file_id):
            self._file_id = file_id

    def note_failure(self, error: str, detail: str = "", param: str = "") -> None:
        """Note why the request failed: a code, or the class of an exception; and what the code does not say.

        `detail` is our own text; `param`, the field or header at fault, may be the client's.
        """
        self._error, self._detail, self._param = error, detail, param

    def finish(self, status: int, bytes_out: int, error: str) -> None:
        """The request is over; `error` is what ended the answer, "" if nothing did."""
        self.status, self.bytes_out, self._error = status, bytes_out, error or self._error
        self.seconds = time.perf_counter() - self._clock

    def _is_credential(self, file_id: str) -> bool:
        """Whether the id in an answer is or holds a credential. A word that ids begin with is none."""
        # All of an id that is shorter can be foreseen, where a provider counts its files.
        least = min(MIN_CREDENTIAL_IN_ID, max(MIN_SECRET, len(file_id)))
        is_presented = any(len(token) >= least and token in file_id for token in self._presented())
        return is_presented or self._without_saved(file_id) != file_id

    def _presented(self) -> list[Secret]:
        return [secret for key, value in self._given for secret in _secrets_in(key, value)]

    def _hidden(self, text: str) -> str:
        # In one pass: a shorter secret may be the beginning of a longer one.
        if not text:
            return text
        return redact(text, [*self._presented(), *self._saved])

    def _without_credential(self, text: str) -> str:
        return text if self._hidden(text) == text else ""

    def _without_saved(self, text: str) -> str:
        return redact(text, self._saved) if text else text


def _secrets_in(key: str, value: str) -> list[Secret]:
    """The tokens in a header's value; a comma joins repeated headers. Only in Authorization is the scheme known."""
    parts = value.split(",")
    tokens = [presented_token(part) for part in parts]
    if key != "HTTP_AUTHORIZATION" and " " in value:
        tokens += [part.strip(" ") for part in parts]
    return [Secret(token) for token in tokens]
