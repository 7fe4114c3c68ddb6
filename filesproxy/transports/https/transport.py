"""The transport for http and https: `urllib.request` with its own handler.

`urlopen` would follow redirects with the credential, open file: and ftp: URLs, trust `http_proxy`, lose an answer that
comes before the upload has ended, and build a trust store for each connection. So the director is put together here,
with a single handler. The body of an answer owns the connection, and closes it or returns it to the pool.
"""

from __future__ import annotations

import secrets
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, urlencode, urlsplit

from ... import __version__
from ...calls import Answer, Call, Content, Target, Upload
from ...errors import ClientTimeout, FilesproxyError, RequestTimeout, UpstreamError, UpstreamTimeout
from ...watchdog import Watch, no_bytes
from ...wire.headers import are_tokens
from ...wire.http1 import AnswerReader, Unanswered
from ...wire.multipart import encode
from ...wire.strict_json import dumps
from .answer_body import AnswerBody, actual_failure
from .connection import Connection, give_way
from .dial import TIMEOUTS, Dialer, destination
from .pool import Pool

EARLY_ANSWER_SECONDS = 2.0  # for the answer of an upstream that stopped reading an upload
_OWN_HEADERS = {"user-agent": f"filesproxy/{__version__}", "accept-encoding": "identity"}

# The bytes that header lines may contain (RFC 9110 §5.5, as in `wire.headers.safe`). One step checks a whole head.
_FIELD_BYTES = bytes([*range(0x20, 0x7F), *range(0x80, 0x100)])

Dial = Callable[[SplitResult, Mapping[str, Any], Watch], socket.socket]


class HttpTransport:
    """Performs a call over http or https and returns an answer with an open body.

    Thread-safe. Opens nothing before its first call.
    """

    def __init__(self, dial: Dial | None = None) -> None:
        self._handler = _Handler(dial or Dialer())
        self._director = urllib.request.OpenerDirector()
        self._director.addheaders = []
        self._director.add_handler(self._handler)

    def __call__(self, call: Call, target: Target) -> Answer:
        request = _Request(call, target)
        body: AnswerBody | None = self._director.open(request)
        if body is None:  # the director has a handler for these two schemes only
            raise UpstreamError("The provider's base_url is neither http nor https.", code="upstream_address")
        return Answer(body.status, body.headers, body=body, is_repeat=request.is_repeat)

    def close(self) -> None:
        """Close the kept connections. The next call opens a new one."""
        self._handler.pool.close()


class _Stale(UpstreamError):
    """Something arrived on a kept connection, or it was closed, before anything was sent; a new one may serve."""


class _Request(urllib.request.Request):
    """A request as urllib's director takes it, made from a call and its target's settings.

    The constructor sets only the attributes that the director reads; it does not call urllib's own.
    """

    bytes_taken = 0  # of the raw content so far
    is_sent = False  # whole, over the last connection
    is_repeat = False  # after it was sent whole over another connection
    full_url = ""  # urllib has properties with these names
    data = None

    def __init__(self, call: Call, target: Target) -> None:
        self.full_url = call.url + (f"?{urlencode(call.query, doseq=True)}" if call.query else "")
        self.url = urlsplit(self.full_url)
        self.selector = (self.url.path or "/") + (f"?{self.url.query}" if self.url.query else "")
        self.type, self.method, self.headers = self.url.scheme, call.method, {}
        self.call = call
        self.settings = target.settings
        # What separates callers: the credential, the saved provider that it comes from, and the owner who calls.
        self.identity = (tuple(target.secrets.values()), target.name if target.is_saved else "", target.owner)
        self.watch: Watch = call.watch or Watch()
        self._deadline = time.monotonic() + call.timeout if call.timeout else None

    @property
    def is_repeatable(self) -> bool:
        """Whether it may be sent twice: the method is idempotent (RFC 9110 §9.2.2), and there is no body."""
        call = self.call
        return call.method in ("GET", "HEAD", "DELETE") and call.json is None and not self.has_stream

    @property
    def has_stream(self) -> bool:
        """Whether the body comes from an iterable, which can be read only once."""
        return self.call.upload is not None or self.call.content is not None

    def seconds(self, setting: str) -> float:
        """The time limit of a phase: its setting, or what is left of the client's own limit if that is less."""
        limit: float = self.settings[setting]
        if self.call.is_generated and setting == "answer_timeout":
            limit = self.settings["generation_timeout"]
        return limit if self._deadline is None else min(limit, max(0.001, self._deadline - time.monotonic()))

    def begin_sending(self) -> None:
        """Begin the transfer phase, which lasts as long as bytes of the upload move."""
        upload = self.call.upload
        if upload:
            upload.is_begun = True
        counted = (lambda: upload.size) if upload else (lambda: self.bytes_taken)
        self.watch.transfer(counted if self.has_stream else no_bytes)

    def read_seconds(self) -> float:
        """The time limit between two reads of an answer; the client's own limit does not apply to it."""
        limit: float = self.settings["generation_timeout" if self.call.is_generated else "read_timeout"]
        return limit

    def is_overdue(self) -> bool:
        """Whether the client's own limit has passed."""
        return self._deadline is not None and time.monotonic() >= self._deadline


class _Handler(urllib.request.BaseHandler):
    """Opens http and https URLs: connects, sends, receives, and raises every failure as one of our own errors."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self.pool = Pool()

    def add_parent(self, parent: urllib.request.OpenerDirector) -> None:
        """Store no reference to the director: the cycle would keep the pool's sockets open."""

    def http_open(self, request: _Request) -> AnswerBody:
        """Send one request and receive its answer over one connection, which the returned body then owns."""
        try:
            return self._perform(request)
        except UpstreamError as error:
            failure = actual_failure(error, request.watch)
            if isinstance(failure, UpstreamTimeout) and request.is_overdue():
                failure = RequestTimeout("The time in x-portkey-request-timeout has passed.")
            raise failure from None

    https_open = http_open  # the director finds these by the scheme in their names

    def _perform(self, request: _Request) -> AnswerBody:
        """Use a kept connection if there is one; if it ends without an answer, try once more over a new one."""
        key = (destination(request.url, request.settings), *request.identity)
        kept = None if request.has_stream else self.pool.take(key, is_proven=not request.is_repeatable)
        if kept:
            try:
                return self._exchange(kept, request)
            except _Stale:
                pass
            except Unanswered:
                if not request.is_repeatable or request.watch.is_woken:
                    raise
                request.is_repeat = request.is_sent
        limits = {"connect_timeout": request.seconds("connect_timeout")}
        sock = self._dial(request.url, {**request.settings, **limits}, request.watch)
        return self._exchange(Connection(sock, key), request)

    def _exchange(self, connection: Connection, request: _Request) -> AnswerBody:
        request.watch.hold_upstream(connection.sock)
        request.begin_sending()
        try:
            is_sent = request.is_sent = _send(connection, request)
            if not is_sent and request.watch.upstream_took_all:  # the watchdog ended it because the client was slow
                raise ClientTimeout("The client sent the request body too slowly.")
            response = _receive(connection, request, is_sent)
            # After half a request, the upstream would read the next request as the rest of it.
            pool = self.pool if is_sent else None
            is_relayed = request.call.expects in ("bytes", "events")
            return AnswerBody(connection, response, request.watch, pool, is_relayed)
        except BaseException:
            request.watch.release_upstream()
            connection.close()
            raise


def _send(connection: Connection, request: _Request) -> bool:
    """Send the request. False if the upstream stopped reading before its end; it may have answered.

    Whatever the body's iterable raises is passed on: the connection is then closed before the end of the body.
    """
    call = request.call
    boundary = secrets.token_hex(16) if call.upload else ""
    blocks: Iterator[Sequence[bytes]] = iter(())
    if call.upload:
        blocks = _chunked(call.upload, boundary)
    elif call.content:
        blocks = _counted(call.content, request)
    connection.send_timeout = request.seconds("send_timeout")
    beginning = [_head(request, boundary), *next(blocks, ())]
    if connection.answers and not connection.is_quiet():  # the pool has looked, but building the head took time
        raise _Stale("The kept connection has something to read before a request was sent.")
    is_sent = connection.send(beginning, check_first=False)
    while is_sent and (buffers := next(blocks, ())):
        connection.send_timeout = request.seconds("send_timeout")
        is_sent = connection.send(buffers)
        give_way()
    return is_sent


def _head(request: _Request, boundary: str) -> bytes:
    """The request's head, followed by its JSON if it has any. Only this function sets the framing (RFC 9112 §6)."""
    call = request.call
    content = b"" if call.json is None else dumps(call.json)
    headers = {
        "host": request.url.netloc,
        **_OWN_HEADERS,
        "accept": "*/*" if call.expects in ("bytes", "events") else "application/json",
    }
    headers.update(call.headers)
    if name := request.settings.get("via_name"):  # RFC 9110 §7.6.3: added to the client's, so that a loop is detected
        headers["via"] = ", ".join([*filter(None, [headers.get("via")]), f"1.1 {name}"])
    if call.upload:
        headers["content-type"] = f"multipart/form-data; boundary={boundary}"
        headers["transfer-encoding"] = "chunked"
    elif call.content:
        headers["content-type"] = call.content.media_type
        headers["content-length"] = str(call.content.length)
    elif call.method == "POST":
        headers["content-length"] = str(len(content))  # RFC 9110 §8.6: sent even if it is 0
    if call.json is not None:
        headers["content-type"] = "application/json"
    lines = [f"{call.method} {request.selector} HTTP/1.1", *[f"{name}: {headers[name]}" for name in headers], "", ""]
    if not are_tokens(headers):
        raise _unsendable()
    return _lines(lines, request.selector) + content


def _lines(lines: Sequence[str], selector: str) -> bytes:
    """The lines as bytes. UpstreamError for line ends or control characters within a line, or a target with spaces."""
    text = "\r\n".join(lines)
    if not text.isascii() and max(text) > "\xff":  # checked here: the encoder's own error would quote the text
        raise _unsendable()
    head = text.encode("latin-1")
    rest = head.translate(None, _FIELD_BYTES)
    if rest != b"\r\n" * (len(lines) - 1) or " " in selector or not selector.isascii():
        raise _unsendable()
    return head


def _unsendable() -> UpstreamError:
    message = "A header for the provider contains characters that cannot be sent."
    return UpstreamError(message, code="upstream_address")


def _chunked(upload: Upload, boundary: str) -> Iterator[Sequence[bytes]]:
    """The upload in chunks (RFC 9112 §7.1), each as several buffers, so that a file's block is not copied."""
    closing = f"--{boundary}--\r\n".encode("ascii")  # the boundary is random, so only the last block contains this
    for block in encode(upload, boundary):
        yield b"%x\r\n" % len(block), block, b"\r\n0\r\n\r\n" if block.endswith(closing) else b"\r\n"


def _counted(content: Content, request: _Request) -> Iterator[Sequence[bytes]]:
    """The content's chunks, counted in the request; never more than the announced length.

    FilesproxyError if they are not as many bytes as that.
    """
    left = content.length
    for chunk in content.chunks:
        left -= len(chunk)
        if left < 0:
            break
        request.bytes_taken += len(chunk)
        yield (chunk,)
    if left:
        raise FilesproxyError("The content to be sent does not have its announced length.", code="internal_error")


def _receive(connection: Connection, request: _Request, is_sent: bool) -> AnswerReader:
    """Read the head of the answer. `is_sent`: whether the whole request was sent."""
    limit = request.seconds("answer_timeout")
    limit = limit if is_sent else min(limit, EARLY_ANSWER_SECONDS)
    connection.read_timeout = limit
    request.watch.allow(limit)
    response = AnswerReader(connection.receive)
    try:
        response.begin()
    except OSError as error:
        raise _receive_failure(error, response.has_begun, is_sent) from None
    if not is_sent and response.status < 400:
        raise UpstreamError("The provider answered before the upload had ended.")
    connection.read_timeout = request.read_seconds()
    if request.call.is_generated:
        request.watch.allow(request.settings["generation_total"])
    else:
        request.watch.transfer()
    return response


def _receive_failure(error: OSError, has_begun: bool, is_sent: bool) -> UpstreamError:
    if isinstance(error, TIMEOUTS):
        return UpstreamTimeout(f"The provider {'did not answer in time' if is_sent else 'stopped reading the upload'}.")
    is_cut = isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError))
    if isinstance(error, ssl.SSLError) and not is_cut:  # TLS 1.3 reports a refused client certificate only now
        message = "The provider refused the TLS connection; it may require a client_cert, or a different one."
        return UpstreamError(message, code="upstream_tls")
    kind = UpstreamError if has_begun else Unanswered
    return kind("The provider closed the connection before its answer.")
