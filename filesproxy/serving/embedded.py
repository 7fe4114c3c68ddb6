"""The embedded server: the standard library's wsgiref on threads, with what wsgiref lacks for files.

It decodes chunked bodies, answers `Expect: 100-continue` when the application reads, limits what it accepts, resets
the connection if a download is cut off (a plain close looks like its end), and gives the client time to read the answer
before it closes. It serves one request per connection. It is meant for one machine or one team; beyond that, use
gunicorn.
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
from http.server import HTTPServer
from io import BufferedReader
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler, WSGIServer

from ..errors import BadRequest, ClientTimeout, FilesproxyError
from ..wire.headers import misread
from .lobby import Lobby
from .request_stream import RequestStream

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

HEAD_SECONDS = 10.0  # for the whole head of a request
IDLE_SECONDS = 30.0  # that one read from or write to a client may take
ROOM_SECONDS = 0.5  # for a connection to end whose slot another one needs
LINGER_SECONDS = 5.0  # for a client to stop sending and read the answer
LINGER_SILENCE_SECONDS = 1.0  # after which a client is taken to have stopped sending
MAX_CONNECTIONS = 256  # each has a thread, which mostly waits for its socket
MAX_HEAD_BYTES = 65536

_log = logging.getLogger("filesproxy")
# The origin in a target in absolute form (RFC 9112 §3.2.2). It is dropped: only Host is checked.
_ORIGIN = re.compile(r"\Ahttps?://[^/?]*", re.IGNORECASE)
_EMPTY_LINES = (b"\r\n", b"\n")
_FIELD_NAME = re.compile(rb"[!-9;-~]+:")
_REQUEST_LINE = re.compile(rb"[!-~]+ [!-~\x80-\xff]+ HTTP/[1-9][.][0-9]+\r?\n")  # RFC 9112 §3


class Server(socketserver.ThreadingMixIn, WSGIServer):
    """A server for one application. It serves at most `max_connections` at the same time; any more get a 503."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], application: WSGIApplication, max_connections: int = MAX_CONNECTIONS
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.max_connections = max_connections
        self._slots = threading.BoundedSemaphore(max_connections)
        self.lobby = Lobby(max_connections, HEAD_SECONDS)  # for connections that have not sent a request yet
        super().__init__(address, Handler)
        self.set_app(application)

    def server_bind(self) -> None:
        """Bind without HTTPServer's look-up of the host's own name, which can hang on a host without DNS."""
        super(HTTPServer, self).server_bind()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, or answer 503 if there are too many."""
        if not self._slots.acquire(blocking=False) and not self._takes_the_slot_of_an_idler():
            request.settimeout(1)
            request.sendall(_BUSY)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._slots.release()
            raise

    def _takes_the_slot_of_an_idler(self) -> bool:
        return self.lobby.make_room() and self._slots.acquire(timeout=ROOM_SECONDS)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection in its thread, and free its slot."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def drain(self, seconds: float) -> bool:
        """Stop listening for good, and give running requests this many seconds to end. True if all have ended."""
        self.server_close()
        self.lobby.close()
        deadline = time.monotonic() + seconds
        slots = range(self.max_connections)
        return all(self._slots.acquire(timeout=max(0.0, deadline - time.monotonic())) for _ in slots)

    def service_actions(self) -> None:
        """Called between two connections, and at each poll interval."""
        self.lobby.check()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log the class of the exception that ended a connection. Its text may contain a secret."""
        _log.debug("a connection ended with %s", sys.exc_info()[0])


class Handler(WSGIRequestHandler):
    """Serves one request on one connection."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    default_request_version = request_version = "HTTP/1.1"  # even the answer to a request that is not HTTP has a head
    server: Server
    headers: http.client.HTTPMessage
    _expects_continue = False

    def handle(self) -> None:
        """Read a request head, run the application, and close so that the client sees how the answer ended."""
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
        self.server.lobby.enter(lambda: self.connection)
        try:
            return self._parsed_head()
        except BadRequest:
            if not self.server.lobby.leave():
                raise ClientTimeout("The client sent the head of its request too slowly.") from None
            raise
        finally:
            self.server.lobby.leave()

    def _parsed_head(self) -> RequestStream | None:
        plain, self.rfile = self.rfile, _Head(self.rfile)  # type: ignore[assignment, arg-type]
        while (line := self.rfile.readline(MAX_HEAD_BYTES)) in _EMPTY_LINES:  # RFC 9112 §2.2: from old clients
            pass
        self.raw_requestline = line
        if self.raw_requestline and not _REQUEST_LINE.fullmatch(self.raw_requestline):
            raise BadRequest("The request does not start with a request line.")
        if not self.raw_requestline or not self.parse_request():  # parse_request has sent the error
            return None
        self.rfile = plain
        _check_headers(self.headers, self.request_version)
        self.path = _ORIGIN.sub("", self.path) or "/"
        chunked = "transfer-encoding" in self.headers
        return RequestStream(plain, None if chunked else _length(self.headers), self._continue)  # type: ignore[arg-type]

    def handle_expect_100(self) -> bool:
        """Remember that the client waits. It is told to continue once the application reads the body."""
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
            environ["CONTENT_TYPE"] = ""  # wsgiref would set text/plain
        environ["filesproxy.socket"] = self.connection  # lets the watchdog notice that the client has gone
        return environ

    def _reset(self) -> None:
        """Close with a reset (RST), so that the client sees an error even if it does not know the length."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _linger(self) -> None:
        """Read on for a while. Closing with unread bytes would reset the connection, and the answer could be lost.

        RFC 9112 §9.6 describes this.
        """
        deadline = time.monotonic() + LINGER_SECONDS
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(LINGER_SILENCE_SECONDS)
        self.server.lobby.enter(lambda: self.connection)
        try:
            while time.monotonic() < deadline and self.connection.recv(1 << 16):
                pass
        finally:
            self.server.lobby.leave()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a request that is not acceptable HTTP, with OpenAI's error envelope."""
        error = BadRequest(message or "This server accepts only HTTP/1.0 and HTTP/1.1 requests.")
        body = json.dumps(error.envelope()).encode()
        self.close_connection = True
        self.send_response_only(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing here: the application's access log has a line for each request that is HTTP."""


class _Gateway(ServerHandler):
    """wsgiref's sending half. `cut` tells whether an answer stopped in the middle."""

    headers: Any
    headers_sent: bool
    status: Any
    environ: dict[str, Any]
    http_version = "1.1"
    server_software = "filesproxy"
    os_environ: dict[str, str] = {}  # wsgiref would pass the process's environment, which may contain secrets
    cut = False
    _is_chunked = False

    def finish_response(self) -> None:
        """Send the application's answer. If anything stops it in the middle, set `cut`."""
        try:
            super().finish_response()
        except BaseException:
            self.cut = True
            raise

    def finish_content(self) -> None:
        """End an answer without a body. For a HEAD, wsgiref would announce a length of 0."""
        if self.environ["REQUEST_METHOD"] == "HEAD" and not self.headers_sent:
            self.send_headers()
        else:
            super().finish_content()
        if self._is_chunked:
            self._is_chunked = False
            self._write(b"0\r\n\r\n")

    def set_content_length(self) -> None:
        """Announce the length of a body in one piece, except for a HEAD, whose body is always empty."""
        if self.environ["REQUEST_METHOD"] != "HEAD" and str(self.status)[:3] not in ("204", "304"):  # RFC 9110 §8.6
            super().set_content_length()

    def cleanup_headers(self) -> None:
        """Announce that the connection is closed after this answer, and choose the framing."""
        super().cleanup_headers()
        self.headers["Connection"] = "close"
        has_body = self.environ["REQUEST_METHOD"] != "HEAD" and str(self.status)[:3] not in ("204", "304")
        if has_body and "Content-Length" not in self.headers and self.environ["SERVER_PROTOCOL"] == "HTTP/1.1":
            # Else the connection's end would be the answer's end, even when this process is killed.
            self.headers["Transfer-Encoding"] = "chunked"

    def send_headers(self) -> None:
        """Send the head; the body may follow in chunks (RFC 9112 §7.1)."""
        super().send_headers()
        self._is_chunked = "Transfer-Encoding" in self.headers

    def _write(self, data: bytes) -> None:
        if not self._is_chunked:
            super()._write(data)
        elif data:
            super()._write(b"%x\r\n%b\r\n" % (len(data), data))

    def log_exception(self, exc_info: Any) -> None:
        """Log only the exception's class: its text may contain a secret."""
        _log.error("the application failed with %s", exc_info[0])


class _Head:
    """The stream while a request head is read: at most 64 KiB, without a bare CR or a NUL.

    White space at the end of a field line is dropped (RFC 9110 §5.5), since `email` leaves it in the value. Other lines
    keep theirs: white space alone folds the line before it, and without it would be the end of the head.
    """

    def __init__(self, stream: BufferedReader) -> None:
        self._stream = stream
        self._left = MAX_HEAD_BYTES

    def readline(self, limit: int = -1) -> bytes:
        """A line with its line end. BadRequest for what a head must not contain."""
        line = self._stream.readline(self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            raise _HeadTooLarge(f"The request head is larger than {MAX_HEAD_BYTES} bytes.")
        if not line.endswith(b"\n") and (line or self._left < MAX_HEAD_BYTES):
            raise BadRequest("The request head was cut off.")
        text = line.rstrip(b"\r\n")
        if b"\r" in text or b"\0" in line or line.endswith(b"\r\r\n"):
            raise BadRequest("The request head contains a bare CR or a NUL.")
        return text.rstrip(b" \t") + line[len(text) :] if _FIELD_NAME.match(line) else line

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()


class _HeadTooLarge(BadRequest):
    status = 431


def _check_headers(headers: http.client.HTTPMessage, version: str) -> None:
    """Refuse what two parsers could read differently (RFC 9112 §5.2, §6.3), and names that WSGI cannot tell apart."""
    lengths, codings = headers.get_all("content-length", []), headers.get_all("transfer-encoding", [])
    if misread(headers) or any("\n" in value or "\r" in value for value in headers.values()):
        raise BadRequest("The request has a header line that cannot be parsed.")
    if any("_" in name for name in headers):
        raise BadRequest("The request has a header name with an underscore.")
    if len(headers.get_all("host", [])) != 1 and version == "HTTP/1.1":
        raise BadRequest("The request must have exactly one Host header.")  # RFC 9112 §3.2
    if codings and version != "HTTP/1.1":
        raise BadRequest("A chunked body needs HTTP/1.1.")  # RFC 9112 §6.1
    if len(lengths) + len(codings) > 1 or any(coding.lower() != "chunked" for coding in codings):
        raise BadRequest("The request's body must have one Content-Length or be chunked.")


def _length(headers: http.client.HTTPMessage) -> int:
    text = headers.get("content-length", "0")
    if not re.fullmatch(r"[0-9]{1,19}", text, re.ASCII):
        raise BadRequest("The Content-Length is not a valid number of bytes.")
    return int(text)


_BUSY_BODY = json.dumps(FilesproxyError("All connections are in use.", code="saturated").envelope()).encode()
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(_BUSY_BODY), _BUSY_BODY)
)
