"""The socket half towards http and https providers: urllib.request with a `do_open` of our own.

`urlopen` would follow redirects with the credential, open file: and ftp: URLs, believe `http_proxy`, lose an answer
that comes before the upload has ended, and build a trust store for each connection. So the director is built by hand
with the one handler below, and whoever gets a connection here closes it.
"""

from __future__ import annotations

import re
import secrets
import select
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException, HTTPMessage
from typing import Any
from urllib.parse import SplitResult, urlencode, urlsplit

from . import __version__
from .connect import TIMEOUTS, Connector
from .errors import ClientAborted, ClientTimeout, FilesproxyError, RequestTimeout, UpstreamError, UpstreamTimeout
from .headers import safe
from .multipart import encode
from .provider import Answer, Call, Target, Upload
from .response import Response, check
from .strictjson import dumps
from .watchdog import Watch

BLOCK_BYTES = 1 << 18  # of a download: more costs memory and gains little
UNCOPIED_BYTES = 1 << 16  # of an upload: a block from this size on is sent by itself, not copied into its frame
EARLY_ANSWER_SECONDS = 2.0  # for the answer of an upstream that stopped reading an upload
MAX_INFORMATIONAL_BYTES = 8192  # of one of them, while an upload is sent

# How a send fails when the peer has answered and closed; TLS has names of its own for it.
_STOPPED_READING = (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError, *TIMEOUTS)
_INFORMATIONAL_START = b"HTTP/1.1 1"
_INFORMATIONAL = re.compile(rb"HTTP/1\.1 1(?!01)[0-9][0-9][^\n]*\r\n(?:[^\r\n]+\r\n)*\r\n")
_OWN_HEADERS = {"user-agent": f"filesproxy/{__version__}", "accept-encoding": "identity", "connection": "close"}

Connect = Callable[[SplitResult, Mapping[str, Any], Watch], socket.socket]


class Sender:
    """The transport for http and https: performs a call, and answers with an open body.

    Safe for threads; opens nothing before its first call. `connect` makes the connections, so a pool can replace it.
    """

    def __init__(self, connect: Connect | None = None) -> None:
        self._director = urllib.request.OpenerDirector()
        self._director.addheaders = []
        self._director.add_handler(_Handler(connect or Connector()))

    def __call__(self, call: Call, target: Target) -> Answer:
        body: ResponseBody | None = self._director.open(_Request(call, target))
        if body is None:  # the director has handlers for two schemes only
            raise UpstreamError("The provider's base_url is neither http nor https.", code="upstream_address")
        return Answer(body.status, {name.lower(): value for name, value in body.headers.items()}, body=body)


class _Request(urllib.request.Request):
    """urllib's request, with the call it came from and its target's settings."""

    def __init__(self, call: Call, target: Target) -> None:
        query = f"?{urlencode(call.query, doseq=True)}" if call.query else ""
        super().__init__(call.url + query, method=call.method)
        self.call = call
        self.settings = target.settings
        self.watch: Watch = call.watch or Watch()
        self._deadline = time.monotonic() + call.timeout if call.timeout else None

    def seconds(self, setting: str) -> float:
        """The time limit of a phase: its setting, or what is left of the client's own limit."""
        limit: float = self.settings[setting]
        if self.call.is_generated and setting == "answer_timeout":
            limit = self.settings["generation_timeout"]
        return limit if self._deadline is None else min(limit, max(0.001, self._deadline - time.monotonic()))

    def begin_sending(self) -> None:
        """Allow the time of a transfer: it goes on as long as bytes of the upload move."""
        upload = self.call.upload
        if upload:
            upload.is_begun = True
        self.watch.transfer((lambda: upload.size) if upload else lambda: 0)

    def read_seconds(self) -> float:
        """The time limit between two reads of an answer, which the client's own limit is not about."""
        limit: float = self.settings["generation_timeout" if self.call.is_generated else "read_timeout"]
        return limit

    def is_overdue(self) -> bool:
        """Whether the client's own limit has passed."""
        return self._deadline is not None and time.monotonic() >= self._deadline


class _Handler(urllib.request.BaseHandler):
    """Opens http and https URLs: connect, send, receive, and every failure under one of our names."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    def http_open(self, request: _Request) -> ResponseBody:
        """What urllib's director calls for the scheme http."""
        return self.do_open(request)

    def https_open(self, request: _Request) -> ResponseBody:
        """What urllib's director calls for the scheme https."""
        return self.do_open(request)

    def do_open(self, request: _Request) -> ResponseBody:
        """One exchange over one connection, which the returned body owns from then on."""
        url, limits = urlsplit(request.full_url), {"connect_timeout": request.seconds("connect_timeout")}
        try:
            sock = self._connect(url, {**request.settings, **limits}, request.watch)
            return _exchange(sock, request, url)
        except UpstreamError as error:
            failure = _blamed(error, request.watch)
            if isinstance(failure, UpstreamTimeout) and request.is_overdue():
                failure = RequestTimeout("The time in x-portkey-request-timeout has passed.")
            raise failure from None


def _exchange(sock: socket.socket, request: _Request, url: SplitResult) -> ResponseBody:
    request.watch.upstream = sock
    request.begin_sending()
    try:
        whole = _send(sock, request, _request_blocks(request, url))
        if not whole and request.watch.upstream_took_all:  # the watchdog has ended the sending, and for whom
            raise ClientTimeout("The client sent the request body too slowly.")
        return _receive(sock, request, whole)
    except BaseException:
        sock.close()
        raise


def _blamed(error: UpstreamError, watch: Watch) -> FilesproxyError:
    """The failure under its real name, if the watchdog has caused it."""
    if watch.has_left:
        return ClientAborted("The client closed the connection before the answer.")
    if watch.is_overdue and not isinstance(error, UpstreamTimeout):
        return UpstreamTimeout("The provider took too long.")
    return error


def _request_blocks(request: _Request, url: SplitResult) -> Iterator[bytes]:
    """The bytes of a request: its head, then JSON, or an upload in chunks (RFC 9112 §7.1).

    Framing is set nowhere else.
    """
    call, boundary = request.call, secrets.token_hex(16)
    content = b"" if call.json is None else dumps(call.json)
    headers = {"host": url.netloc, **_OWN_HEADERS, "accept": "*/*" if call.stream else "application/json"}
    if name := request.settings.get("via_name"):
        headers["via"] = f"1.1 {name}"  # RFC 9110 §7.6.3: how a loop is noticed
    headers.update(call.headers)
    if call.upload:
        headers["content-type"] = f"multipart/form-data; boundary={boundary}"
        headers["transfer-encoding"] = "chunked"
    elif call.method == "POST":
        headers["content-length"] = str(len(content))  # RFC 9110 §8.6: also of none
    if call.json is not None:
        headers["content-type"] = "application/json"
    if not all(safe(name, value) for name, value in headers.items()):
        raise UpstreamError("A header for the provider holds characters that cannot be sent.", code="upstream_address")
    lines = [f"{call.method} {request.selector} HTTP/1.1", *(f"{name}: {headers[name]}" for name in headers)]
    yield "\r\n".join([*lines, "", ""]).encode("latin-1") + content
    if call.upload:
        yield from _chunked(call.upload, boundary)


def _chunked(upload: Upload, boundary: str) -> Iterator[bytes]:
    for block in encode(upload, boundary):
        if len(block) < UNCOPIED_BYTES:
            yield b"%x\r\n%b\r\n" % (len(block), block)
        else:
            yield b"%x\r\n" % len(block)
            yield block
            yield b"\r\n"
    yield b"0\r\n\r\n"


def _send(sock: socket.socket, request: _Request, blocks: Iterator[bytes]) -> bool:
    """Send the request. False if the upstream stopped reading before its end, which it may have an answer for.

    An error of whoever makes the blocks passes: the connection is then closed without the final chunk.
    """
    watch = None
    if not isinstance(sock, ssl.SSLSocket):  # TLS 1.3 session tickets look like an answer
        watch = select.poll()
        watch.register(sock, select.POLLIN | select.POLLOUT)
    return all(_sent(sock, block, request.seconds("send_timeout"), watch) for block in blocks)


def _may_send(sock: socket.socket, watch: select.poll, seconds: float) -> bool:
    """Wait until the upstream reads on. False if it has answered instead, or done neither in this time."""
    deadline = time.monotonic() + seconds
    while True:
        left = max(0.0, deadline - time.monotonic())
        events = sum(event for _, event in watch.poll(left * 1000))
        if not events or (events & ~select.POLLOUT and not _passes_informational(sock)):
            return False
        if events & select.POLLOUT:
            return True
        time.sleep(0.01)  # half of a 1xx head has come, of which poll would tell again at once


def _passes_informational(sock: socket.socket) -> bool:
    """Read away a 1xx head, which may come unasked (RFC 9110 §15.2). False if something else has come."""
    try:
        head = sock.recv(MAX_INFORMATIONAL_BYTES, socket.MSG_PEEK)
    except OSError:
        return False
    found = _INFORMATIONAL.match(head)
    if found:
        sock.recv(found.end())
    return bool(found) or (0 < len(head) < MAX_INFORMATIONAL_BYTES and _is_informational_so_far(head))


def _is_informational_so_far(head: bytes) -> bool:
    start = head[: len(_INFORMATIONAL_START)]
    return _INFORMATIONAL_START.startswith(start) and not head.startswith(b"HTTP/1.1 101") and b"\r\n\r\n" not in head


def _sent(sock: socket.socket, block: bytes, timeout: float, watch: select.poll | None) -> bool:
    sock.settimeout(timeout)
    view = memoryview(block)
    try:
        while view:
            if watch and not _may_send(sock, watch, timeout):
                return False
            view = view[sock.send(view) :]  # each send has the whole timeout; sendall would share it
    except _STOPPED_READING:
        return False
    except OSError:
        raise UpstreamError("The connection to the provider broke while sending.") from None
    return True


def _receive(sock: socket.socket, request: _Request, whole: bool) -> ResponseBody:
    limit = request.seconds("answer_timeout")
    limit = limit if whole else min(limit, EARLY_ANSWER_SECONDS)
    sock.settimeout(limit)
    request.watch.allow(limit)
    response = Response(sock, method=request.call.method)
    try:
        response.begin()
        check(response, whole)
    except BaseException as error:
        response.close()
        raise _receive_failure(error, whole) from None
    sock.settimeout(request.read_seconds())
    if request.call.is_generated:
        request.watch.allow(request.settings["generation_total"])
    else:
        request.watch.transfer()
    return ResponseBody(sock, response, request.watch)


def _receive_failure(error: BaseException, whole: bool) -> BaseException:
    if isinstance(error, TIMEOUTS):
        return UpstreamTimeout(f"The provider {'did not answer in time' if whole else 'stopped reading the upload'}.")
    is_cut = isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError))
    if isinstance(error, ssl.SSLError) and not is_cut:  # under TLS 1.3 a refused client is told only now
        message = "The provider refused the TLS connection: it may want a client_cert, or another one."
        return UpstreamError(message, code="upstream_tls")
    if isinstance(error, (OSError, HTTPException)):
        return UpstreamError("The provider closed the connection, or answered with something that is not HTTP.")
    return error


class ResponseBody:
    """The bytes of an answer as they arrive; raises if they stop early, frees the connection when closed."""

    def __init__(self, sock: socket.socket, response: Response, watch: Watch) -> None:
        self._sock = sock
        self._response = response
        self._watch = watch
        self.status = response.status
        self.headers: HTTPMessage = response.headers

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """The next bytes, whatever has come. UpstreamError if the answer ends before its own length."""
        try:
            block = self._read()
        except UpstreamError as error:
            raise _blamed(error, self._watch) from None
        if block:
            return block
        self.close()
        raise StopIteration

    def _read(self) -> bytes:
        try:
            block = self._response.read1(BLOCK_BYTES)  # read() would wait for all of it
        except TIMEOUTS:
            raise UpstreamTimeout("The provider stopped sending.") from None
        except (OSError, HTTPException, ValueError):
            raise UpstreamError("The provider broke off its answer.") from None
        if not block and (self._response.length or self._watch.has_left or self._watch.is_overdue):
            raise UpstreamError("The provider ended its answer early.")  # http.client is silent about it
        return block

    def close(self) -> None:
        """Give the connection up; what was not read is discarded with it."""
        self._response.close()
        self._sock.close()
