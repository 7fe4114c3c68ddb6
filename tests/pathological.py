"""Upstreams that misbehave, each a script for `sockets.Upstream` or a function that makes one, and a stage for them."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import re
import socket
import ssl
import threading
import time
import warnings

from fakes import FILE
from sockets import WAIT, Upstream, answer, answering, chunked

PAUSE = 0.1  # between two drops; far below any time limit between two reads


class Stage(Upstream):
    """An upstream for many tests, always on the same port: each test sets the script, and the TLS context if any."""

    def __init__(self, context=None):
        super().__init__(lambda peer: self.script(peer), lambda sock: self._wrapped(sock))
        self.script, self.context, self._usual = answering(answer(FILE)), context, context
        self._own, self._ended = set(), 1  # the first thread is the one that accepts
        if context:
            self.url = self.url.replace("http:", "https:")

    def play(self, script, context=None):
        """Let go what still stalls, end the connections so far; this script, and this context, for those to come.

        A gateway keeps connections, and on one of an earlier test that test's script would answer.
        """
        self.calls()
        released, self._released = self._released, threading.Event()
        released.set()
        for peer in self.peers:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(peer.sock, socket.SHUT_RDWR)
        ended, self._ended = self._ended, len(self._threads)
        for thread in self._threads[ended : self._ended]:
            thread.join(1)
        self.peers, self.connections, self.script = [], 0, script
        self.context = context or self._usual
        self._own.clear()
        return self

    def calls(self):
        """How many connections there have been; one of our own, accepted after them all, says that none is missed."""
        with socket.socket() as own:
            own.settimeout(WAIT)
            own.bind(("127.0.0.1", 0))
            self._own.add(own.getsockname())
            own.connect(("127.0.0.1", self.port))
            own.recv(1)
        return self.connections - len(self._own)

    def _serve(self, sock):
        if _peer_of(sock) in self._own:
            sock.close()
        else:
            super()._serve(sock)

    def _wrapped(self, sock):
        return self.context.wrap_socket(sock, server_side=True) if self.context else sock


def _peer_of(sock):
    with contextlib.suppress(OSError):  # it has gone already
        return sock.getpeername()
    return None


# Silence


def deaf(peer):
    """Accept, and neither read nor answer."""
    peer.stall()


def silent(peer):
    """Read the whole request, and never answer."""
    peer.read_request()
    peer.stall()


@contextlib.contextmanager
def black_hole():
    """A port that takes no connection and refuses none: a full accept queue drops what comes without a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as stack:
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


# Answers that stop, or never do


def breaking(framed, how="close"):
    """Answer these bytes, then `close`, `reset`, or `stall`."""

    def script(peer):
        peer.read_request()
        peer.send(framed)
        if how == "reset":
            peer.reset()
        elif how == "stall":
            peer.read_to_end()

    return script


def refusing(then, first=65536):
    """Answer 413 once the first bytes have come, then do with the rest what a server may."""

    def script(peer):
        peer.read_head()
        while len(peer.received) < first and peer.read():
            pass
        peer.send(answer({"error": {"message": "Too big."}}, "413 Content Too Large"))
        then(peer)

    return script


def dripping(framed, drop=b"a"):
    """Answer these bytes, then a drop now and then, for ten seconds."""

    def script(peer):
        peer.read_request()
        peer.send(framed)
        for _ in range(int(10 / PAUSE)):
            time.sleep(PAUSE)  # real time: what ends such an answer is a limit on the whole
            peer.send(drop)

    return script


DRIPPING_HEAD = dripping(b"HTTP/1.1 200 OK\r\nx-a: ")
DRIPPING_LINES = dripping(b"HTTP/1.1 200 OK\r\n", b"x-a: b\r\n")
DRIPPING_INFORMATIONAL = dripping(b"HTTP/1.1 10", b"0 ")
DRIPPING_JSON = dripping(answer(b'{"id": "', content_length="1000000"))
DRIPPING_CHUNKS = dripping(answer(b"", content_length=None, transfer_encoding="chunked"), b"1\r\na\r\n")
DRIPPING_CONTENT = dripping(answer(b"a" * 1000, content_length="1000000"))


def endless(framed, block=bytes(1 << 16)):
    """Answer these bytes, then a block again and again, up to a gibibyte; `peer.sent` counts."""

    def script(peer):
        peer.read_request()
        peer.sent = 0
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        peer.send(framed)
        while peer.sent < 1 << 30:
            peer.send(block)
            peer.sent += len(block)

    return script


ENDLESS_CONTENT = endless(answer(b"", content_length=str(1 << 30), content_type="application/octet-stream"))
ENDLESS_JSON = endless(answer(b'{"data": [""', content_length=None), b',"aaaaaaaaaaaaaaaaaaaaaaaa"' * 4096)
ENDLESS_ERROR = endless(answer(b'{"error": "', "400 Bad Request", content_length=None), b"a" * 65536)


def in_two_parts(first, rest, goes_on):
    """Answer content, and wait for this event before its second part."""

    def script(peer):
        peer.read_request()
        size = str(len(first) + len(rest))
        peer.send(answer(first, content_length=size, content_type="application/octet-stream"))
        goes_on.wait(WAIT)
        peer.send(rest)

    return script


def gzip_bomb(mebibytes=200):
    """A JSON answer of a few hundred kilobytes that inflates to this much."""
    packed = gzip.compress(b'{"id": "' + bytes(mebibytes << 20) + b'"}', 1)
    return answering(answer(packed, content_encoding="gzip"))


# Answers before the request has ended


def early(framed, how="close"):
    """Answer once the head has come; then `close` with the rest unread, or `stop_reading` and keep the connection."""

    def script(peer):
        peer.read_head()
        peer.send(framed)
        if how == "stop_reading":
            peer.stall()

    return script


# What is not HTTP, or HTTP that two readers could read differently

_BODY = json.dumps(FILE).encode()
_LENGTH = b"content-length: %d\r\n" % len(_BODY)


def _framed(head, body=_BODY, status=b"200 OK"):
    return b"HTTP/1.1 " + status + b"\r\n" + head + b"\r\n" + body


GARBAGE = {
    "words": b"garbage\r\n\r\n",
    "nothing": b"",
    "half_a_head": b"HTTP/1.1 200 OK\r\ncontent-le",
    "another_protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a_tls_alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "status_that_is_a_word": _framed(_LENGTH, status=b"OK"),
    "status_of_two_digits": _framed(_LENGTH, status=b"20 OK"),
}
BAD_FRAMING = {
    "two_lengths": _framed(_LENGTH + b"content-length: 5\r\n"),
    "same_length_twice": _framed(_LENGTH * 2),
    "negative_length": _framed(b"content-length: -1\r\n"),
    "length_with_a_sign": _framed(b"content-length: +5\r\n"),
    "length_and_chunks": _framed(_LENGTH + b"transfer-encoding: chunked\r\n", chunked(_BODY)),
    "gzip_and_chunks": _framed(b"transfer-encoding: gzip, chunked\r\n", chunked(_BODY)),
    "line_without_colon": _framed(b"no colon here\r\n" + _LENGTH),
    "first_line_folded": _framed(b" folded\r\n" + _LENGTH),
    "length_after_a_bare_cr": _framed(_LENGTH + b"x-a: 1\rcontent-length: 5\r\n"),
    "bad_chunk_size": _framed(b"transfer-encoding: chunked\r\n", b"zz\r\n" + _BODY),
}
HUGE_HEADERS = {
    "101_headers": _framed(b"x-a: 1\r\n" * 101 + _LENGTH),
    "line_of_70_kb": _framed(b"x-a: " + b"a" * 70_000 + b"\r\n" + _LENGTH),
    "status_line_of_70_kb": _framed(_LENGTH, status=b"200 " + b"a" * 70_000),
}
HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"
BARE_CR = _framed(b"openai-version: 1\rset-cookie: a=b\r\n" + _LENGTH)


def redirecting(status, location):
    """Send the caller elsewhere."""
    return answering(answer(b"", f"{status} Elsewhere", location=location))


def quoting(framed_with):
    """Answer with what `framed_with` makes of the request's credential."""

    def script(peer):
        peer.read_request()
        found = re.search(rb"(?i)\r\n(?:authorization: bearer|x-api-key:|api-key:) *(\S+)", peer.head)
        peer.send(framed_with(found[1].decode() if found else "none"))

    return script


# What passes on


def relaying_to(port):
    """Connect to this port for each connection, and pass the bytes on both ways: a proxy that nobody told us of."""

    def script(peer):
        with socket.create_connection(("127.0.0.1", port), 10) as onward:
            _join(peer.sock, onward)

    return script


def tunnelling(peer):
    """A CONNECT proxy, for 127.0.0.1 only."""
    port = int(re.match(rb"CONNECT (?:127\.0\.0\.1|localhost):([0-9]+) ", peer.read_head())[1])
    with socket.create_connection(("127.0.0.1", port), 10) as onward:
        peer.send(b"HTTP/1.1 200 Connected\r\n\r\n")
        _join(peer.sock, onward)


def _join(near, far):
    back = threading.Thread(target=_pass, args=(far, near))
    back.start()
    _pass(near, far)
    back.join()


def _pass(source, sink):
    with contextlib.suppress(OSError):
        while block := source.recv(1 << 16):
            sink.sendall(block)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


# What reads well, and says what it has read


def hashing(peer):
    """Take an upload of any size: `peer.sha256` and `peer.size` of its file, which must be the last part."""
    stream, digest, held, peer.size = peer.sock.makefile("rb"), hashlib.sha256(), b"", 0
    head = b"".join(iter(stream.readline, b"\r\n"))
    tail = len(re.search(rb"boundary=(\S+)", head)[1]) + 8  # CRLF -- boundary -- CRLF
    inside = False
    while size := int(stream.readline(), 16):
        held += stream.read(size)
        stream.read(2)
        if not inside and b'filename="' in held:
            held, inside = held.partition(b'filename="')[2].partition(b"\r\n\r\n")[2], True
        if inside:
            block, held = held[:-tail], held[-tail:]
            digest.update(block)
            peer.size += len(block)
    peer.sha256 = digest.hexdigest()
    peer.send(answer(FILE))


def file_part(peer):
    """(name, media type, bytes) of the one file that a peer was sent; the boundary is taken from the head."""
    boundary = re.search(rb"boundary=(\S+)", peer.head)[1]
    (part,) = [part for part in peer.body.split(b"--" + boundary) if b'filename="' in part.partition(b"\r\n\r\n")[0]]
    head, _, content = part.partition(b"\r\n\r\n")
    name = re.search(rb'filename="((?:[^"\\]|\\.)*)"', head)[1].decode("utf-8")
    name = re.sub(r'\\(["\\])', r"\1", name).replace("%22", '"')
    return name, re.search(rb"(?i)content-type: ([^\r]*)", head)[1].decode(), content[: -len(b"\r\n")]


def server_context(certificate, client_ca=None):
    """A TLS server's context; with `client_ca` it demands a certificate of its client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    return context


def old_server_context(certificate):
    """The context of a server that speaks TLS 1.1 at best."""
    context = server_context(certificate)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    return context
