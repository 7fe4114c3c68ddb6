"""The client's side of WSGI (PEP 3333): requests, read by the same rules on any server."""

from __future__ import annotations

import importlib
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Optional
from urllib.parse import parse_qsl

from ..calls import Client
from ..errors import (
    BadRequest,
    ClientAborted,
    ClientError,
    ClientTimeout,
    LengthRequired,
    TooLarge,
)
from ..watchdog import is_resettable
from ..wire.headers import single
from .upload_rules import UploadRules

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

# Before Python 3.10 socket.timeout is not a TimeoutError. EAGAIN is a time limit of the kernel (SO_RCVTIMEO).
_STALLED = (TimeoutError, socket.timeout, BlockingIOError)
_LENGTH = re.compile(r"[0-9]{1,19}", re.ASCII)
# `include[]`, `metadata[team 1]`: the text in brackets is the client's own.
_PARAMETER = re.compile(r"[A-Za-z0-9_.-]{1,64}(\[[^\[\]\x00-\x1f\x7f]{0,64}\])?")
_MILLISECONDS = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
# W3C Trace Context §3.2 and §3.3. Other versions than 00 may be longer.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{1,64})?")
_TRACESTATE = re.compile(r"[ -~]{1,512}")

FormCheck = Callable[[Sequence[str], Optional[str]], None]


class Head:
    """The headers of a request, with names in lower case, and the peer's address, which is "" on a Unix socket."""

    def __init__(self, headers: Mapping[str, str], client_address: str) -> None:
        self.headers = headers
        self.client_address = client_address


class Request(Head):
    """A request. Only `HTTP_*` and CGI keys of the environ are read: some servers put the process's secrets there."""

    def __init__(self, environ: WSGIEnvironment) -> None:
        super().__init__(_headers(environ), str(environ.get("REMOTE_ADDR") or ""))
        self._environ = environ
        self.method: str = environ["REQUEST_METHOD"]
        self.path: str = environ.get("PATH_INFO", "")
        self.query_string: str = environ.get("QUERY_STRING", "")
        self._body: RequestBody | None = None
        #: raises BadRequest if one of these texts of a form must not be in a request; the second value is its field
        self.check_form: FormCheck = lambda texts, field: None
        self.upload_rules = UploadRules()

    @property
    def body(self) -> RequestBody:
        """The body. Raises LengthRequired or BadRequest if the head does not say how long it is."""
        if self._body is None:
            self._body = RequestBody(self._environ)
        return self._body

    @property
    def client(self) -> Client | None:
        """The client's socket, if the server shows it: gunicorn and the embedded server do."""
        found: Client | None = self._environ.get("gunicorn.socket") or self._environ.get("filesproxy.socket")
        return found

    @property
    def sees_a_cut(self) -> bool:
        """Whether the client notices that an answer without a length was cut.

        HTTP/1.1 has chunks for that. In HTTP/1.0 the end of the connection is the end of the answer (RFC 9112 §6.3), so
        only a reset helps, which needs a TCP socket that the server shows.
        """
        return not is_http_1_0(self._environ) or is_resettable(self.client)

    def refuse_encoded_slash(self) -> None:
        """BadRequest for %2F in the path, if the server shows the raw path: in PATH_INFO it looks like any slash."""
        raw = str(self._environ.get("RAW_URI") or self._environ.get("REQUEST_URI") or "")
        if "%" in raw and "%2f" in raw.partition("?")[0].lower():
            raise BadRequest("The path contains an encoded slash, which no id has.", param="id")

    def time_limit(self) -> float | None:
        """Seconds that the client allows for the answer. BadRequest if its header is not a number of milliseconds."""
        name = "x-portkey-request-timeout"
        text = single(self.headers, name)
        if text and not _MILLISECONDS.fullmatch(text):
            raise BadRequest(f"{name} must be a number of milliseconds.", param=name)
        return int(text) / 1000 if text else None

    def parameters(self) -> dict[str, Any]:
        """The query: name → text, or a list of texts if the name ends in `[]`.

        BadRequest for a name that is repeated, since two readers could take different values, or is not valid.
        """
        found: dict[str, Any] = {}
        for name, text in self._query_pairs():
            if not _PARAMETER.fullmatch(name):
                raise BadRequest("The query has a parameter whose name is not valid.")
            if name.endswith("[]"):
                found.setdefault(name, []).append(text)
            elif name in found:
                raise BadRequest("The query has a parameter more than once.")
            else:
                found[name] = text
        return found

    def _query_pairs(self) -> list[tuple[str, str]]:
        try:
            return parse_qsl(self.query_string, keep_blank_values=True, max_num_fields=32)
        except ValueError:
            raise BadRequest("The query has more than 32 parameters.") from None


def is_http_1_0(environ: WSGIEnvironment) -> bool:
    """Whether the client speaks HTTP/1.0 or older, which has no chunks."""
    return str(environ.get("SERVER_PROTOCOL", "")) < "HTTP/1.1"


def _headers(environ: WSGIEnvironment) -> dict[str, str]:
    headers = {_header_name(key): value for key, value in environ.items() if key.startswith("HTTP_")}
    if environ.get("CONTENT_TYPE"):
        headers["content-type"] = environ["CONTENT_TYPE"]
    return headers


@lru_cache(maxsize=512)  # clients send the same names with every request
def _header_name(key: str) -> str:
    return key[len("HTTP_") :].replace("_", "-").lower()


def traced(headers: Mapping[str, str]) -> dict[str, str]:
    """The client's place in a distributed trace, for the upstream: `traceparent`, and `tracestate` if it has one.

    Empty if it is not valid (W3C Trace Context §4.3).
    """
    parent, state = headers.get("traceparent", ""), headers.get("tracestate", "")
    if not _TRACEPARENT.fullmatch(parent):
        return {}
    return {"traceparent": parent, "tracestate": state} if _TRACESTATE.fullmatch(state) else {"traceparent": parent}


class RequestBody:
    """`wsgi.input` by rules for any server: each read has a size, none goes past the end, a short body is an error."""

    def __init__(self, environ: WSGIEnvironment) -> None:
        self._length = _content_length(environ)
        self._input = _input(environ)
        self._limit: int | None = None
        self.size = 0  # bytes read so far
        self.is_awaited = False  # a read waits for the client
        self.is_overdue: Callable[[], bool] = lambda: False  # whether the watchdog ended the reading, as too slow

    @property
    def length(self) -> int | None:
        """Its length in bytes, if the client gave one."""
        return self._length

    def limit(self, max_bytes: int) -> None:
        """Refuse more than this many bytes (TooLarge): now by Content-Length, else once they have been read."""
        self._limit = max_bytes
        if (self._length or 0) > max_bytes:
            raise self._too_large()

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, b"" at the end. Raises ClientAborted, ClientTimeout or TooLarge; never OSError."""
        wanted = size if self._length is None else min(size, self._length - self.size)
        block = self._read(wanted) if wanted else b""
        if wanted and not block and self._length is not None:
            raise self._aborted("The request body ended before its Content-Length.")
        if self.is_overdue():  # the watchdog's shutdown may look like the end of a chunked body, or cut a block
            raise self._aborted("")
        self.size += len(block)
        if self._limit is not None and self.size > self._limit:
            raise self._too_large()
        return block

    def _read(self, size: int) -> bytes:
        self.is_awaited = True
        try:
            block: bytes | None = self._input.read(size)
        except _STALLED:
            raise ClientTimeout("The client stopped sending the request body.") from None
        except Exception:  # each server has its own classes for a malformed chunk and a lost client
            raise self._aborted("The request body could not be read to its end.") from None
        finally:
            self.is_awaited = False
        if block is None:  # a buffered reader's sign that a time limit has passed
            raise ClientTimeout("The client stopped sending the request body.")
        return block

    def _aborted(self, message: str) -> ClientError:
        if self.is_overdue():
            return ClientTimeout("The client sent the request body too slowly.")
        return ClientAborted(message)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The request body is over the limit of {self._limit} bytes.")


class _UwsgiChunks:
    """A chunked body under uWSGI, which decodes it for those that ask it chunk by chunk (`uwsgi.chunked_read`)."""

    def __init__(self) -> None:
        self._next_chunk: Callable[[], bytes] = importlib.import_module("uwsgi").chunked_read
        self._chunk = b""

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, b"" at the end. OSError for a malformed body, or a silent client."""
        chunk = self._chunk or self._next_chunk()
        self._chunk = chunk[size:]
        return chunk[:size]


def _input(environ: WSGIEnvironment) -> Any:
    is_left_to_us = environ.get("HTTP_TRANSFER_ENCODING") and not environ.get("wsgi.input_terminated")
    return _UwsgiChunks() if is_left_to_us else environ["wsgi.input"]


def _content_length(environ: WSGIEnvironment) -> int | None:
    """Bytes to come; None if the body is chunked, and the server ends the stream itself or is uWSGI."""
    coding = environ.get("HTTP_TRANSFER_ENCODING")
    if coding and environ.get("wsgi.input_terminated"):  # the server has checked the coding
        return None
    if coding and "uwsgi.version" in environ:
        if coding.strip(" \t").lower() != "chunked" or environ.get("CONTENT_LENGTH"):  # RFC 9112 §6.3
            raise BadRequest("The request's body must have one Content-Length or be chunked.")
        return None
    if coding:
        raise LengthRequired("This server cannot decode a chunked request body; send a Content-Length.")
    text = (environ.get("CONTENT_LENGTH") or "0").strip(" \t")  # some servers leave it there (RFC 9110 §5.5)
    if not _LENGTH.fullmatch(text):
        raise BadRequest("The Content-Length is not a number of bytes.")
    return int(text)
