"""The embedded server: the standard library's wsgiref on threads, with what it lacks for files.

It decodes chunked bodies, answers `Expect: 100-continue` when the application reads, bounds what it takes, resets the
connection when a download is cut (a close alone looks like the end), and closes only when the client could read
the answer. One request a connection. For one machine or one team; gunicorn is for more.
"""

from __future__ import annotations

import http.client
import json
import logging
import re
import socket
import socketserver
import struct
import sys
import threading
import time
from contextlib import suppress
from http.server import HTTPServer
from io import BufferedReader
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler, WSGIServer

from ..errors import BadRequest, FilesproxyError
from ..wire.headers import misread
from .request_stream import RequestStream

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

IDLE_SECONDS = 30.0  # between two reads or writes of a client
LINGER_SECONDS = 5.0  # for a refused client to stop sending and read the answer
LINGER_SILENCE_SECONDS = 1.0  # of a client that sends no more
MAX_CONNECTIONS = 256  # a thread each, most of them waiting for a socket
MAX_HEAD_BYTES = 65536

_log = logging.getLogger("filesproxy")
# An absolute-form target (RFC 9112 §3.2.2): Host says the same, and is what is checked.
_ORIGIN_FORM = re.compile(r"\Ahttps?://[^/?]*", re.IGNORECASE)
_REQUEST_LINE = re.compile(rb"[!-~]+ [!-~\x80-\xff]+ HTTP/[1-9][.][0-9]+\r?\n")  # RFC 9112 §3


class Server(socketserver.ThreadingMixIn, WSGIServer):
    """A server for one application: at most `max_connections` at once, the next one gets a 503."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], application: WSGIApplication, max_connections: int = MAX_CONNECTIONS
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._max_connections = max_connections
        self._slots = threading.BoundedSemaphore(max_connections)
        self.silent: set[socket.socket] = set()  # connections that have not sent a request yet
        super().__init__(address, Handler)
        self.set_app(application)

    def server_bind(self) -> None:
        """Bind without HTTPServer's look-up of our own name, which can take seconds on a host without DNS."""
        super(HTTPServer, self).server_bind()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, if one is free."""
        if not self._slots.acquire(blocking=False):
            request.settimeout(1)
            request.sendall(_BUSY)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """What such a thread does."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def drain(self, seconds: float) -> bool:
        """Close the listener, for good, and give requests under way this long to end. True if all have."""
        self.server_close()
        for sock in list(self.silent):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RD)
        deadline = time.monotonic() + seconds
        slots = range(self._max_connections)
        return all(self._slots.acquire(timeout=max(0.0, deadline - time.monotonic())) for _ in slots)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what ended a connection, by class: an exception's text may hold what must not be logged."""
        _log.debug("a connection ended with %s", sys.exc_info()[0])


class Handler(WSGIRequestHandler):
    """One connection, one request."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    default_request_version = request_version = "HTTP/1.1"  # of an answer to what is no HTTP: it has a head
    server: Server
    headers: http.client.HTTPMessage
    _expects_continue = False

    def handle(self) -> None:
        """Read a request head, run the application, close so that the client sees what happened."""
        try:
            body = self._read_head()
        except FilesproxyError as error:
            self.send_error(error.status, error.message)
            self._linger()
            return
        if body is None:
            self._linger()
            return
        gateway = _Gateway(body, self.wfile, self.get_stderr(), self._environ(), multithread=True)  # type: ignore[arg-type]
        gateway.request_handler = self  # type: ignore[attr-defined]
        gateway.run(self.server.get_app())  # type: ignore[arg-type]
        if gateway.cut:
            self._reset()
        elif not body.ended:
            self._linger()

    def _read_head(self) -> RequestStream | None:
        plain, self.rfile = self.rfile, _Head(self.rfile)  # type: ignore[assignment, arg-type]
        self.server.silent.add(self.connection)
        try:
            self.raw_requestline = self.rfile.readline(MAX_HEAD_BYTES)
        finally:
            self.server.silent.discard(self.connection)
        if self.raw_requestline and not _REQUEST_LINE.fullmatch(self.raw_requestline):
            raise BadRequest("The request does not start with a request line.")
        if not self.raw_requestline or not self.parse_request():  # which has sent its answer
            return None
        self.rfile = plain
        _check_headers(self.headers, self.request_version)
        self.path = _ORIGIN_FORM.sub("", self.path) or "/"
        chunked = "transfer-encoding" in self.headers
        return RequestStream(plain, None if chunked else _length(self.headers), self._continue)  # type: ignore[arg-type]

    def handle_expect_100(self) -> bool:
        """Remember that the client waits; it is told to go on when the application wants the body."""
        self._expects_continue = True
        return True

    def _continue(self) -> None:
        if self._expects_continue:
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = self.get_environ()
        environ["REQUEST_URI"] = self.path
        environ["REMOTE_ADDR"] = str(self.client_address[0])
        environ["wsgi.input_terminated"] = True
        if "content-type" not in self.headers:
            environ["CONTENT_TYPE"] = ""  # wsgiref says text/plain of nothing
        environ["filesproxy.socket"] = self.connection  # to see that the client has left
        return environ

    def _reset(self) -> None:
        """Close with a reset (RST): the client sees an error even where nothing told it a length."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _linger(self) -> None:
        """Read on for a while: closing with unread bytes would reset the answer away (RFC 9112 §9.6)."""
        deadline = time.monotonic() + LINGER_SECONDS
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(LINGER_SILENCE_SECONDS)
        while time.monotonic() < deadline and self.connection.recv(1 << 16):
            pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a request that is not HTTP as we take it, in the envelope that clients read."""
        error = BadRequest(message or "The request is not HTTP as this server takes it.")
        body = json.dumps(error.envelope()).encode()
        self.close_connection = True
        self.send_response_only(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the application's access log has the line, if the request was HTTP."""


class _Gateway(ServerHandler):
    """wsgiref's response half, which here can tell a cut download from a whole one."""

    headers: Any
    headers_sent: bool
    status: Any
    environ: dict[str, Any]
    http_version = "1.1"
    server_software = "filesproxy"
    os_environ: dict[str, str] = {}  # wsgiref would hand the application the process's secrets
    cut = False
    _is_chunked = False

    def finish_response(self) -> None:
        """Send the application's answer; whatever stops it in the middle leaves it cut."""
        try:
            super().finish_response()
        except BaseException:
            self.cut = True
            raise

    def finish_content(self) -> None:
        """End an answer without a body; wsgiref would claim that a HEAD has a length of 0."""
        if self.environ["REQUEST_METHOD"] == "HEAD" and not self.headers_sent:
            self.send_headers()
        else:
            super().finish_content()
        if self._is_chunked:
            self._is_chunked = False
            self._write(b"0\r\n\r\n")

    def set_content_length(self) -> None:
        """Tell the length of an answer in one piece, which a HEAD does not show."""
        if self.environ["REQUEST_METHOD"] != "HEAD":
            super().set_content_length()

    def cleanup_headers(self) -> None:
        """Say that the connection ends here."""
        super().cleanup_headers()
        self.headers["Connection"] = "close"
        has_body = self.environ["REQUEST_METHOD"] != "HEAD" and str(self.status)[:3] not in ("204", "304")
        if has_body and "Content-Length" not in self.headers and self.environ["SERVER_PROTOCOL"] == "HTTP/1.1":
            # An end of the connection would be the end of the answer, also when this process is killed.
            self.headers["Transfer-Encoding"] = "chunked"

    def send_headers(self) -> None:
        """Send the head; what follows may be in chunks (RFC 9112 §7.1)."""
        super().send_headers()
        self._is_chunked = "Transfer-Encoding" in self.headers

    def _write(self, data: bytes) -> None:
        if not self._is_chunked:
            super()._write(data)
        elif data:
            super()._write(b"%x\r\n%b\r\n" % (len(data), data))

    def log_exception(self, exc_info: Any) -> None:
        """Log by class, for the same reason as above."""
        _log.error("the application failed with %s", exc_info[0])


class _Head:
    """The stream while a request head is read: at most 64 KiB, no bare CR, no NUL."""

    def __init__(self, stream: BufferedReader) -> None:
        self._stream = stream
        self._left = MAX_HEAD_BYTES

    def readline(self, limit: int = -1) -> bytes:
        """A line with its end. BadRequest for what a head must not hold."""
        line = self._stream.readline(self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            raise _TooLargeHead(f"The request head is over {MAX_HEAD_BYTES} bytes.")
        if not line.endswith(b"\n") and (line or self._left < MAX_HEAD_BYTES):
            raise BadRequest("The request head was cut.")
        if b"\r" in line.rstrip(b"\r\n") or b"\0" in line or line.endswith(b"\r\r\n"):
            raise BadRequest("The request head holds a bare CR or a NUL.")
        return line

    def close(self) -> None:
        """Close the stream itself."""
        self._stream.close()


class _TooLargeHead(BadRequest):
    status = 431


def _check_headers(headers: http.client.HTTPMessage, version: str) -> None:
    """Refuse what two readers could read differently (RFC 9112 §5.2, §6.3), and names that WSGI would fold together."""
    lengths, codings = headers.get_all("content-length", []), headers.get_all("transfer-encoding", [])
    if misread(headers) or any("\n" in value or "\r" in value for value in headers.values()):
        raise BadRequest("The request has a header line that does not parse.")
    if any("_" in name for name in headers):
        raise BadRequest("The request has a header name with an underscore.")
    if len(headers.get_all("host", [])) != 1 and version == "HTTP/1.1":
        raise BadRequest("The request must have one Host.")  # RFC 9112 §3.2
    if codings and version != "HTTP/1.1":
        raise BadRequest("A body in chunks needs HTTP/1.1.")  # RFC 9112 §6.1
    if len(lengths) + len(codings) > 1 or any(coding.lower() != "chunked" for coding in codings):
        raise BadRequest("The request's body must have one Content-Length, or be chunked.")


def _length(headers: http.client.HTTPMessage) -> int:
    text = headers.get("content-length", "0")
    if not re.fullmatch(r"[0-9]{1,19}", text, re.ASCII):
        raise BadRequest("The Content-Length is no number of bytes.")
    return int(text)


_BUSY_BODY = json.dumps(FilesproxyError("All connections are in use.", code="saturated").envelope()).encode()
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(_BUSY_BODY), _BUSY_BODY)
)
