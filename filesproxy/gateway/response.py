"""The answer's side of WSGI (PEP 3333): responses, which close what they hold and show a client that they were cut."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from ..budget import Hold
from ..calls import Answer, Body, Target
from ..errors import FINAL_CODES, FilesproxyError, NeedsHttp11
from ..exchange.answers import answer_headers
from ..exchange.events import EventStream
from ..redaction import Secret, redact
from .record import Record
from .request import is_http_1_0
from .router import Match

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

# Of an answer in one piece. More may not fit into a socket's buffer, and then it takes as long as its client likes.
MAX_PIECE_BYTES = 1 << 16
MAX_READ_AHEAD_BYTES = 1 << 18  # of a download whose client needs its length

# A browser must neither guess the type of an uploaded file nor run it as a page of this origin.
_CONTENT_HEADERS = {"x-content-type-options": "nosniff", "content-security-policy": "sandbox"}
# nginx would wait until it has a buffer full of events.
_EVENT_HEADERS = {"x-accel-buffering": "no"}

_encode = json.JSONEncoder(separators=(",", ":")).encode
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


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


def response_to(answer: Answer, match: Match, target: Target, record: Record) -> Response:
    """The response that relays an answer: its content, its events, or its JSON without the target's credentials."""
    headers = {**record.headers(), **answer_headers(answer, target)}
    ignored = [*(record.upload.ignored if record.upload else ()), *answer.ignored, *record.ignored]
    if record.upload_rules and record.upload_rules.set_expiry:
        headers["x-filesproxy-expires-after"] = str(record.upload_rules.set_expiry)
    if ignored:
        headers["x-filesproxy-ignored"] = redact(", ".join(ignored), target.credentials)
    if answer.body is not None:
        headers.setdefault("content-type", "application/octet-stream")
        own_headers = _EVENT_HEADERS if isinstance(answer.body, EventStream) else _CONTENT_HEADERS
        return Response(answer.status, {**headers, **own_headers}, answer.body)
    record.note_answer(answer.json)
    # Others would say of the answer what no longer holds: 205 has no content, 206 is a range of it.
    status = answer.status if match.route.is_passed_through and answer.status in (200, 201, 202, 204) else 200
    if answer.json is None and (status == 204 or match.route.answer == "nothing"):
        empty = {} if status == 204 else {"content-type": "text/plain", "content-length": "0"}
        return Response(status, {**headers, **empty}, b"")
    return json_response(status, answer.json, headers, target.credentials)


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


def has_no_framing(response: Response, environ: WSGIEnvironment) -> bool:
    """Whether the end of the connection is the end of this answer."""
    is_open = not isinstance(response.body, bytes) and "content-length" not in response.headers
    return is_open and is_http_1_0(environ)


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
