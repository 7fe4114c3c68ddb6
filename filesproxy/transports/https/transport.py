"""The transport for http and https: `urllib.request` with a `do_open` of its own.

`urlopen` would follow redirects with the credential, open file: and ftp: URLs, believe `http_proxy`, lose an answer
that comes before the upload has ended, and build a trust store for each connection. So the director is built by hand,
with the one handler below. Each connection belongs to the answer's body, which closes it or gives it back.
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
from ...errors import ClientAborted, ClientTimeout, FilesproxyError, RequestTimeout, UpstreamError, UpstreamTimeout
from ...watchdog import Watch, nothing
from ...wire.headers import are_tokens
from ...wire.http1 import AnswerReader, Unanswered
from ...wire.multipart import encode
from ...wire.strict_json import dumps
from .connection import Connection, give_way
from .dial import TIMEOUTS, Dialer, way
from .pool import Pool

EARLY_ANSWER_SECONDS = 2.0  # for the answer of an upstream that stopped reading an upload
_OWN_HEADERS = {"user-agent": f"filesproxy/{__version__}", "accept-encoding": "identity"}

# What a head may hold beside its lines' ends, without a look at each line: RFC 9110 §5.5, as in `safe`.
_FIELD_BYTES = bytes([*range(0x20, 0x7F), *range(0x80, 0x100)])

Dial = Callable[[SplitResult, Mapping[str, Any], Watch], socket.socket]


class HttpTransport:
    """Performs a call over http or https and answers with an open body.

    Safe for threads. Opens nothing before its first call.
    """

    def __init__(self, dial: Dial | None = None) -> None:
        self._handler = _Handler(dial or Dialer())
        self._director = urllib.request.OpenerDirector()
        self._director.addheaders = []
        self._director.add_handler(self._handler)

    def __call__(self, call: Call, target: Target) -> Answer:
        body: ResponseBody | None = self._director.open(_Request(call, target))
        if body is None:  # the director has handlers for two schemes only
            raise UpstreamError("The provider's base_url is neither http nor https.", code="upstream_address")
        return Answer(body.status, body.headers, body=body)

    def close(self) -> None:
        """Close the kept connections. The next call makes a new one."""
        self._handler.pool.close()


class _Request(urllib.request.Request):
    """urllib's request, with the call that it was made of and its target's settings.

    Its constructor sets what urllib's director reads, and not more.
    """

    full_url = ""  # urllib has properties of these names
    data = None

    def __init__(self, call: Call, target: Target) -> None:
        self.full_url = call.url + (f"?{urlencode(call.query, doseq=True)}" if call.query else "")
        self.url = urlsplit(self.full_url)
        self.selector = (self.url.path or "/") + (f"?{self.url.query}" if self.url.query else "")
        self.type, self.method, self.headers = self.url.scheme, call.method, {}
        self.call = call
        self.settings = target.settings
        self.secrets = tuple(target.secrets.values())
        self.watch: Watch = call.watch or Watch()
        self._deadline = time.monotonic() + call.timeout if call.timeout else None

    @property
    def is_repeatable(self) -> bool:
        """Whether it may be sent twice: the method is idempotent (RFC 9110 §9.2.2), and it has no body."""
        call = self.call
        return call.method in ("GET", "HEAD", "DELETE") and call.json is None and not self.has_stream

    @property
    def has_stream(self) -> bool:
        """Whether its body comes from an iterable, which can be read once."""
        return self.call.upload is not None or self.call.content is not None

    def seconds(self, setting: str) -> float:
        """The time limit of a phase: its setting, or what is left of the client's own limit."""
        limit: float = self.settings[setting]
        if self.call.is_generated and setting == "answer_timeout":
            limit = self.settings["generation_timeout"]
        return limit if self._deadline is None else min(limit, max(0.001, self._deadline - time.monotonic()))

    def begin_sending(self) -> None:
        """Begin the phase of a transfer, which lasts as long as bytes of the upload move."""
        upload = self.call.upload
        if upload:
            upload.is_begun = True
        self.watch.transfer((lambda: upload.size) if upload else nothing)

    def read_seconds(self) -> float:
        """The time limit between two reads of an answer, which the client's own limit is not about."""
        limit: float = self.settings["generation_timeout" if self.call.is_generated else "read_timeout"]
        return limit

    def is_overdue(self) -> bool:
        """Whether the client's own limit has passed."""
        return self._deadline is not None and time.monotonic() >= self._deadline


class _Handler(urllib.request.BaseHandler):
    """Opens http and https URLs: connect, send, receive, and every failure under one of our names."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self.pool = Pool()

    def add_parent(self, parent: urllib.request.OpenerDirector) -> None:
        """Keep no reference to the director: a cycle would keep the pool's sockets open."""

    def http_open(self, request: _Request) -> ResponseBody:
        """What urllib's director calls for the scheme http."""
        return self.do_open(request)

    def https_open(self, request: _Request) -> ResponseBody:
        """What urllib's director calls for the scheme https."""
        return self.do_open(request)

    def do_open(self, request: _Request) -> ResponseBody:
        """One request and its answer over one connection, which the returned body then owns."""
        try:
            return self._perform(request, request.url)
        except UpstreamError as error:
            failure = _blamed(error, request.watch)
            if isinstance(failure, UpstreamTimeout) and request.is_overdue():
                failure = RequestTimeout("The time in x-portkey-request-timeout has passed.")
            raise failure from None

    def _perform(self, request: _Request, url: SplitResult) -> ResponseBody:
        """Use a kept connection if one may serve; if it ends without an answer, a fresh one."""
        key = (way(url, request.settings), request.secrets)
        kept = None if request.has_stream else self.pool.take(key, is_proven=not request.is_repeatable)
        if kept:
            try:
                return self._over(kept, request, url)
            except Unanswered:
                if not request.is_repeatable or request.watch.is_woken:
                    raise
        limits = {"connect_timeout": request.seconds("connect_timeout")}
        sock = self._dial(url, {**request.settings, **limits}, request.watch)
        return self._over(Connection(sock, key), request, url)

    def _over(self, connection: Connection, request: _Request, url: SplitResult) -> ResponseBody:
        request.watch.upstream = connection.sock
        request.begin_sending()
        try:
            whole = _send(connection, request, url)
            if not whole and request.watch.upstream_took_all:  # the watchdog ended it, and the client was the slow one
                raise ClientTimeout("The client sent the request body too slowly.")
            response = _receive(connection, request, whole)
            # After part of a request, the upstream would read the next request as the rest of it.
            return ResponseBody(connection, response, request.watch, self.pool if whole else None)
        except BaseException:
            connection.close()
            raise


def _blamed(error: UpstreamError, watch: Watch) -> FilesproxyError:
    """The failure under its real name, if the watchdog caused it."""
    if watch.has_left:
        return ClientAborted("The client closed the connection before the answer.")
    if watch.is_overdue and not isinstance(error, UpstreamTimeout):
        return UpstreamTimeout("The provider took too long.")
    return error


def _send(connection: Connection, request: _Request, url: SplitResult) -> bool:
    """Send the request. False if the upstream stopped reading before its end; it may have answered.

    An error of the iterable passes through: the connection is then closed without the end of the body.
    """
    call = request.call
    boundary = secrets.token_hex(16) if call.upload else ""
    blocks: Iterator[Sequence[bytes]] = iter(())
    if call.upload:
        blocks = _chunked(call.upload, boundary)
    elif call.content:
        blocks = _exactly(call.content)
    connection.to_send = request.seconds("send_timeout")
    is_sent = connection.send([_head(request, url, boundary), *next(blocks, ())], looks=False)
    while is_sent and (buffers := next(blocks, ())):
        connection.to_send = request.seconds("send_timeout")
        is_sent = connection.send(buffers)
        give_way()
    return is_sent


def _head(request: _Request, url: SplitResult, boundary: str) -> bytes:
    """The request's head, with its JSON if it has any. Framing is set nowhere else (RFC 9112 §6)."""
    call = request.call
    content = b"" if call.json is None else dumps(call.json)
    headers = {
        "host": url.netloc,
        **_OWN_HEADERS,
        "accept": "*/*" if call.expects in ("bytes", "events") else "application/json",
    }
    if name := request.settings.get("via_name"):
        headers["via"] = f"1.1 {name}"  # RFC 9110 §7.6.3: how a loop is noticed
    headers.update(call.headers)
    if call.upload:
        headers["content-type"] = f"multipart/form-data; boundary={boundary}"
        headers["transfer-encoding"] = "chunked"
    elif call.content:
        headers["content-type"] = call.content.media_type
        headers["content-length"] = str(call.content.length)
    elif call.method == "POST":
        headers["content-length"] = str(len(content))  # RFC 9110 §8.6: also if there is none
    if call.json is not None:
        headers["content-type"] = "application/json"
    lines = [f"{call.method} {request.selector} HTTP/1.1", *[f"{name}: {headers[name]}" for name in headers], "", ""]
    if not are_tokens(headers):
        raise _unsendable()
    return _lines(lines, request.selector) + content


def _lines(lines: Sequence[str], selector: str) -> bytes:
    """The lines as bytes. UpstreamError for other line ends or control characters in them, or spaces in the target."""
    text = "\r\n".join(lines)
    if not text.isascii() and max(text) > "\xff":  # the encoder's own error would quote it
        raise _unsendable()
    head = text.encode("latin-1")
    others = head.translate(None, _FIELD_BYTES)
    if others != b"\r\n" * (len(lines) - 1) or " " in selector or not selector.isascii():
        raise _unsendable()
    return head


def _unsendable() -> UpstreamError:
    message = "A header for the provider holds characters that cannot be sent."
    return UpstreamError(message, code="upstream_address")


def _chunked(upload: Upload, boundary: str) -> Iterator[Sequence[bytes]]:
    """The upload in chunks (RFC 9112 §7.1), each as a list of buffers, so that a file's block is not copied."""
    closing = f"--{boundary}--\r\n".encode("ascii")  # the boundary is random, so only the last block holds this
    for block in encode(upload, boundary):
        yield b"%x\r\n" % len(block), block, b"\r\n0\r\n\r\n" if block.endswith(closing) else b"\r\n"


def _exactly(content: Content) -> Iterator[Sequence[bytes]]:
    """The content's chunks. FilesproxyError if they are not as many bytes as it says; nothing past its end is sent."""
    left = content.length
    for chunk in content.chunks:
        left -= len(chunk)
        if left < 0:
            break
        yield (chunk,)
    if left:
        raise FilesproxyError(
            "The content to be sent does not have the length that was announced.", code="internal_error"
        )


def _receive(connection: Connection, request: _Request, whole: bool) -> AnswerReader:
    limit = request.seconds("answer_timeout")
    limit = limit if whole else min(limit, EARLY_ANSWER_SECONDS)
    connection.to_read = limit
    request.watch.allow(limit)
    response = AnswerReader(connection.receive)
    try:
        response.begin()
    except OSError as error:
        raise _receive_failure(error, response.has_begun, whole) from None
    if not whole and response.status < 400:
        raise UpstreamError("The provider answered before the upload had ended.")
    connection.to_read = request.read_seconds()
    if request.call.is_generated:
        request.watch.allow(request.settings["generation_total"])
    else:
        request.watch.transfer()
    return response


def _receive_failure(error: OSError, has_begun: bool, whole: bool) -> UpstreamError:
    if isinstance(error, TIMEOUTS):
        return UpstreamTimeout(f"The provider {'did not answer in time' if whole else 'stopped reading the upload'}.")
    is_cut = isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError))
    if isinstance(error, ssl.SSLError) and not is_cut:  # under TLS 1.3 a refused client is told only now
        message = "The provider refused the TLS connection: it may need a client_cert, or another one."
        return UpstreamError(message, code="upstream_tls")
    kind = UpstreamError if has_begun else Unanswered
    return kind("The provider broke the connection off before its answer.")


class ResponseBody:
    """The bytes of an answer as they arrive. Raises if they stop early. Closing it returns or ends the connection."""

    def __init__(self, connection: Connection, response: AnswerReader, watch: Watch, pool: Pool | None) -> None:
        self._connection: Connection | None = connection
        self._response = response
        self._watch = watch
        self._pool = pool
        self.status = response.status
        self.headers = response.headers

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """The bytes that have come. UpstreamError if the answer ends before its own length."""
        if self._connection is None and self._response.is_complete:
            raise StopIteration
        try:
            block = self._read()
        except UpstreamError as error:
            raise _blamed(error, self._watch) from None
        if self._response.is_complete:
            self.close()
        if block:
            return block
        raise StopIteration

    def _read(self) -> bytes:
        try:
            block = self._response.read()
        except TIMEOUTS:
            raise UpstreamTimeout("The provider stopped sending.") from None
        except OSError:
            raise UpstreamError("The provider broke off its answer.") from None
        if not block and self._watch.is_woken:  # the watchdog made this end
            raise UpstreamError("The provider ended its answer early.")
        return block

    def close(self) -> None:
        """Return the connection to the pool if the answer was read to its end; else close it with what is unread."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._watch.let_go() and self._pool and self._response.is_reusable:
            self._pool.keep(connection)
        else:
            connection.close()
