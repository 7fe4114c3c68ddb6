"""The WSGI edge (PEP 3333): requests are read by the same rules on any server, responses close what they hold."""

from __future__ import annotations

import errno
import importlib
import json
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, Optional
from urllib.parse import parse_qsl

from ..budget import Hold
from ..calls import Answer, Body, Client
from ..errors import (
    FINAL_CODES,
    BadRequest,
    ClientAborted,
    ClientError,
    ClientTimeout,
    FilesproxyError,
    LengthRequired,
    NeedsHttp11,
    TooLarge,
)
from ..redaction import Secret, redact
from ..watchdog import is_resettable
from ..wire.headers import single

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

# Of an answer in one piece. More may not fit into a socket's buffer, and then it takes as long as its client likes.
MAX_PIECE_BYTES = 1 << 16
MAX_READ_AHEAD_BYTES = 1 << 18  # of a download whose client needs its length

# Before Python 3.10 socket.timeout is not a TimeoutError. EAGAIN is a time limit of the kernel (SO_RCVTIMEO).
_STALLED = (TimeoutError, socket.timeout, BlockingIOError)
_encode = json.JSONEncoder(separators=(",", ":")).encode
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_LENGTH = re.compile(r"[0-9]{1,19}", re.ASCII)
# `include[]`, `metadata[team 1]`: the text in brackets is the client's own.
_PARAMETER = re.compile(r"[A-Za-z0-9_.-]{1,64}(\[[^\[\]\x00-\x1f\x7f]{0,64}\])?")
_MILLISECONDS = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)


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
        return not _is_http_1_0(self._environ) or is_resettable(self.client)

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


def _headers(environ: WSGIEnvironment) -> dict[str, str]:
    headers = {_header_name(key): value for key, value in environ.items() if key.startswith("HTTP_")}
    if environ.get("CONTENT_TYPE"):
        headers["content-type"] = environ["CONTENT_TYPE"]
    return headers


@lru_cache(maxsize=512)  # clients send the same names with every request
def _header_name(key: str) -> str:
    return key[len("HTTP_") :].replace("_", "-").lower()


# W3C Trace Context §3.2 and §3.3. Other versions than 00 may be longer.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{1,64})?")
_TRACESTATE = re.compile(r"[ -~]{1,512}")


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


class Response(NamedTuple):
    """A status, headers, and either all the bytes or an open body, which its sender closes."""

    status: int
    headers: Mapping[str, str]
    body: bytes | Body


def json_response(status: int, value: Any, headers: Mapping[str, str], secrets: Iterable[Secret] = ()) -> Response:
    """The value as JSON, without secrets that it may contain. In ASCII, since UTF-8 cannot encode lone surrogates."""
    body = redact(_encode(value), secrets).encode("ascii")
    described = {"content-type": "application/json", "content-length": str(len(body))}
    return Response(status, {**headers, **described}, body)


def error_response(error: FilesproxyError, headers: Mapping[str, str]) -> Response:
    """OpenAI's error envelope. The error's own headers win."""
    added = {"x-should-retry": "false"} if error.code in FINAL_CODES else {}
    if error.status == 401:
        added["www-authenticate"] = 'Bearer realm="filesproxy"'  # RFC 9110 §15.5.2 requires one
    return json_response(error.status, error.envelope(), {**headers, **added, **error.headers})


class Pieces:
    """Bytes as an open body of pieces: they are then watched until the client has them, as any transfer is.

    `hold` is released when the client has it, or has gone.
    """

    def __init__(self, whole: bytes, hold: Hold | None = None) -> None:
        self._left = memoryview(whole)
        self._hold = hold

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece, self._left = self._left[:MAX_PIECE_BYTES], self._left[MAX_PIECE_BYTES:]
        if not piece:
            raise StopIteration
        return bytes(piece)

    def close(self) -> None:
        """Let go of the bytes."""
        self._left = self._left[:0]
        if self._hold:
            self._hold.release()


def held(response: Response, hold: Hold) -> Response:
    """The response. Bytes that a slow client would keep in memory are sent in pieces, which has a time limit.

    Releases what `hold` holds for a parsed answer. Saturated if the budget does not have room for the bytes.
    """
    if not isinstance(response.body, bytes):
        return response
    if len(response.body) <= MAX_PIECE_BYTES:
        if hold.size:
            hold.release()
        return response
    hold.resize(len(response.body))
    return response._replace(body=Pieces(response.body, hold))


def _is_http_1_0(environ: WSGIEnvironment) -> bool:
    return str(environ.get("SERVER_PROTOCOL", "")) < "HTTP/1.1"


def has_no_framing(response: Response, environ: WSGIEnvironment) -> bool:
    """Whether the end of the connection is the end of this answer."""
    is_open = not isinstance(response.body, bytes) and "content-length" not in response.headers
    return is_open and _is_http_1_0(environ)


def with_length(answer: Answer) -> Answer:
    """The content with its length, for a client that would not see a cut; what is short is read ahead to count it.

    NeedsHttp11 (505) if the content has no length and is not short.
    """
    body = answer.body
    if body is None or "content-length" in answer.headers:
        return answer
    content = bytearray()
    for block in body:
        content += block
        if len(content) > MAX_READ_AHEAD_BYTES:
            raise NeedsHttp11(
                "The file's length is not known, and over HTTP/1.0 a download that was cut would look complete. "
                "Use HTTP/1.1; for nginx, that is 'proxy_http_version 1.1;'."
            )
    body.close()
    headers = {**answer.headers, "content-length": str(len(content))}
    return answer._replace(headers=headers, body=Pieces(bytes(content)))


def respond(
    response: Response,
    method: str,
    start_response: StartResponse,
    done: Callable[[int, str], None],
    cut: Callable[[], None],
) -> Iterable[bytes]:
    """Send a response. `done(bytes sent, error)` is called once: when the last byte was handed over, or it failed.

    `cut()` is called when a started answer cannot be completed, but not for events, whose last one says so.

    The first chunk of an open body is fetched before `start_response`, so that a failure can still become an answer.
    """
    body = response.body
    if method == "HEAD":
        if not isinstance(body, bytes):
            body.close()
        body = b""
    if not isinstance(body, bytes):
        return _stream(response, body, start_response, done, cut)
    if len(body) > MAX_PIECE_BYTES:
        return _stream(response, Pieces(body), start_response, done, cut)
    _start(response, start_response)
    done(len(body), "")
    return [body] if body else []


def _stream(
    response: Response,
    body: Body,
    start_response: StartResponse,
    done: Callable[[int, str], None],
    cut: Callable[[], None],
) -> Iterable[bytes]:
    try:
        stream = ResponseStream(body, done, cut)
        _start(response, start_response)
        return stream
    except BaseException:
        body.close()
        raise


def _start(response: Response, start_response: StartResponse) -> None:
    phrase = _PHRASES.get(response.status, "Status")  # providers have statuses of their own, such as 529
    start_response(f"{response.status} {phrase}", list(response.headers.items()))


class ResponseStream:
    """A body on its way to the client: counts its bytes, closes what it holds, and makes a cut visible.

    A class, not a generator: a generator that is never started does not run its `finally`.
    """

    def __init__(self, body: Body, done: Callable[[int, str], None], cut: Callable[[], None]) -> None:
        self._body = body
        self._cut = cut
        self._done: Callable[[int, str], None] | None = done
        self._first = next(body, None)
        self._sent = 0
        self.delivered = 0  # bytes that the server had taken when it asked for more
        self._error = "client_aborted"  # unless the end is reached

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk, self._first = self._first, None
        self.delivered = self._sent
        if chunk is None:
            chunk = self._next()
        self._sent += len(chunk)
        return chunk

    def _next(self) -> bytes:
        try:
            return next(self._body)
        except StopIteration:
            self._error = getattr(self._body, "error", "")  # of events, whose last one may be a failure
            raise
        except FilesproxyError as error:
            self._error = error.code or "error"
        except Exception as error:
            self._error = type(error).__name__
        self._cut()
        # The one failure that every WSGI server turns into a closed connection and none into a clean end. Raised out of
        # the `except`, it carries no other exception, whose text a server might log.
        raise ConnectionResetError(errno.ECONNRESET, "the upstream's answer was cut short")

    def close(self) -> None:
        """Close the body and report. The server calls this however the response ended (PEP 3333)."""
        try:
            self._body.close()
        finally:
            done, self._done = self._done, None
            if done:
                done(self._sent, self._error)
