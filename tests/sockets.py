"""Real sockets for tests: an upstream that runs a script for each connection, a served application, raw clients."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from typing import NamedTuple

import filesproxy
from filesproxy.serving.embedded import Server

WAIT = 10.0  # seconds that a test waits for what should come soon
SOON = 5.0  # seconds within which it comes on a busy machine too, and which no time limit of WAIT or more can explain
COMPAT = {"x-portkey-provider": "compat", "authorization": "Bearer sk-caller"}


def reset(sock):
    """Close with RST: the other side's next read fails."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def fill_up(sock):
    """Read nothing until no more comes: the other side can send no more."""
    count, looks, deadline = 0, 0, time.monotonic() + WAIT
    while looks < 5:
        assert time.monotonic() < deadline
        time.sleep(0.005)  # between two looks at the real thing
        before, count = count, struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))[0]
        looks = looks + 1 if count and count == before else 0


class Peer:
    """The upstream's side of one connection: keeps every byte that came, and how the stream ended."""

    def __init__(self, sock, released):
        self.sock, self._released = sock, released
        self.received = bytearray()
        self.ended = ""  # "fin" or "reset", once a read has met it
        self.over = threading.Event()  # the script has returned

    def read(self):
        """The next bytes; b"" at the end, however it came."""
        try:
            block = self.sock.recv(1 << 18)
        except OSError:
            block, self.ended = b"", "reset"
        self.received += block
        if not block:
            self.ended = self.ended or "fin"
        return block

    def read_head(self):
        """Read at least the request's head."""
        while b"\r\n\r\n" not in self.received and self.read():
            pass
        return self.head

    def read_request(self):
        """Read a whole request, to the final chunk or to the end of the stream."""
        self.read_head()
        while b"transfer-encoding" in self.head and not self.complete and self.read():
            pass

    def read_to_end(self):
        """Read until the other side is done."""
        while self.read():
            pass

    def send(self, *blocks):
        for block in blocks:
            self.sock.sendall(block)

    def stall(self):
        """Keep the connection open, silent and unread until the test is over."""
        self._released.wait(WAIT)

    def reset(self):
        """Close with RST, once what was sent has arrived: a reset overtakes what is still on its way."""
        assert until(lambda: has_acknowledged(self.sock))
        reset(self.sock)

    def fill_up(self):
        """Read nothing until no more comes: every buffer on the way is full."""
        fill_up(self.sock)

    @property
    def head(self):
        """The request's head, with its empty line."""
        return bytes(self.received).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"

    @property
    def complete(self):
        """Whether the final chunk has come."""
        return self.received.endswith(b"\r\n0\r\n\r\n")

    @property
    def body(self):
        """The chunked body, decoded; AssertionError where its framing is broken."""
        return dechunked(bytes(self.received).partition(b"\r\n\r\n")[2])


class Upstream:
    """A TCP server on a port of its own: `script(peer)` for each connection, which is closed after it."""

    def __init__(self, script, wrap=lambda sock: sock):
        self._script, self._wrap = script, wrap
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.peers = []
        self.connections = 0
        self._released = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self):
        self._threads[0].start()
        return self

    def __exit__(self, *problem):
        self._released.set()
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        for peer in self.peers:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(peer.sock, socket.SHUT_RDWR)  # wakes a read: a gateway may keep its connection
        for thread in self._threads:
            thread.join(WAIT)
        self._listener.close()

    @property
    def peer(self):
        """The only connection's peer, once its script has returned; the gateway may be done before we accept it."""
        assert until(lambda: self.peers)
        (peer,) = self.peers
        assert peer.over.wait(WAIT)
        return peer

    def _accept(self):
        while not self._released.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._threads.append(threading.Thread(target=self._serve, args=(sock,)))
            self._threads[-1].start()

    def _serve(self, sock):
        sock.settimeout(WAIT)
        # Without it an answer may wait for a TLS session ticket, and a close with unread bytes throws it away.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            peer = Peer(self._wrap(sock), self._released)
        except OSError:  # a TLS handshake that the client refused
            sock.close()
            return
        self.peers.append(peer)
        try:
            self._script(peer)
        except OSError:  # the gateway has left, which some scripts are about
            pass
        finally:
            peer.sock.close()
            peer.over.set()


def answering(*blocks):
    """A script: read a whole request, answer these bytes, close."""

    def script(peer):
        peer.read_request()
        peer.send(*blocks)

    return script


def answer(body=b"", status="200 OK", **headers):
    """The bytes of an HTTP answer; a value that is not bytes becomes JSON, a header None is left out."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"content-type": "application/json", "content-length": str(len(body))}
    lines.update({name.replace("_", "-"): value for name, value in headers.items()})
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body


def dechunked(data):
    """A chunked body decoded, as far as it goes."""
    body, at = b"", 0
    while at < len(data):
        size, _, _ = data[at : at + 32].partition(b"\r\n")
        assert re.fullmatch(rb"[0-9A-Fa-f]+", size), size
        start, length = at + len(size) + 2, int(size, 16)
        body += data[start : start + length]
        at = start + length + 2
        if length == 0 or at > len(data):
            break
        assert data[at - 2 : at] == b"\r\n"
    return body


def chunked(data, size=65536, extension=b"", trailer=b""):
    """The bytes as a chunked body."""
    blocks = (data[at : at + size] for at in range(0, len(data), size))
    return b"".join(b"%x%b\r\n%b\r\n" % (len(block), extension, block) for block in blocks) + b"0\r\n%b\r\n" % trailer


@contextlib.contextmanager
def served(application, address=("127.0.0.1", 0), **options):
    """The application on the embedded server, which stops after the block."""
    server = Server(address, application, **options)
    # The interval is how long the end of each such block may take, and there are hundreds of them.
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.001})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(WAIT)
        server.drain(WAIT)


class Reply(NamedTuple):
    """What a client saw: the answer, and whether the stream ended in "fin", "reset" or "timeout"."""

    status: int
    headers: dict
    body: bytes
    end: str
    raw: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]


def request(method, path, body=b"", headers=None, version="1.1", **more):
    """The bytes of a request; Content-Length is added for a body, unless a header says how it is framed."""
    given = {"host": "localhost", **(headers or {})}
    given.update({name.replace("_", "-"): value for name, value in more.items()})
    if body and not {"content-length", "transfer-encoding"} & set(given):
        given["content-length"] = str(len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items() if value is not None)
    return f"{method} {path} HTTP/{version}\r\n{lines}\r\n".encode("latin-1") + body


def connect(port, host="127.0.0.1"):
    return socket.create_connection((host, port), WAIT)


def ask(port, data, half_close=False, host="127.0.0.1"):
    """Send these bytes, then read the answer to the end of the stream. A send that fails is an error of the test."""
    with connect(port, host) as sock:
        sock.sendall(data)
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        return receive(sock)


def get(port, path, headers=None, method="GET"):
    return ask(port, request(method, path, headers=headers or COMPAT))


def receive(sock):
    """Read an answer to the end of the stream."""
    raw, end = bytearray(), "fin"
    try:
        while True:
            block = sock.recv(1 << 18)
            if not block:
                break
            raw += block
    except ConnectionResetError:
        end = "reset"
    except socket.timeout:
        end = "timeout"
    return parsed(bytes(raw), end)


def parsed(raw, end="fin"):
    """An answer's bytes as a Reply; status 0 where nothing came."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    found = re.fullmatch(r"HTTP/1\.[01] ([0-9]{3}) .*", first)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = dechunked(body)
    return Reply(int(found[1]) if found else 0, headers, body, end, raw)


def until(condition, seconds=WAIT):
    """Poll a condition; its last value, so that a test can assert it."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > deadline:
            return value
        time.sleep(0.002)  # between two looks at the real thing


def has_acknowledged(sock):
    """Whether the other side's kernel has every byte that was sent, read or not (SIOCOUTQ)."""
    return struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0] == 0


def has_own_handlers(pid):
    """Whether a process of gunicorn catches SIGABRT, as its workers do and their master and an ended worker do not."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii")
    except (FileNotFoundError, ProcessLookupError):  # reaped since its id was read
        return False
    caught = re.search(r"(?m)^SigCgt:\t([0-9a-f]+)$", status)[1]
    return bool(int(caught, 16) >> (signal.SIGABRT - 1) & 1)


def children(pid):
    """The process ids of a process's children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]


def open_files():
    """How many file descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


def in_child(check):
    """Whether a check holds in a forked process."""
    child = os.fork()
    if child == 0:
        result = 1
        try:
            result = 0 if check() else 1
        finally:
            os._exit(result)
    _, status = os.waitpid(child, 0)
    return status == 0


class Program:
    """`python -m filesproxy …` as a process, its URL read from the banner."""

    def __init__(self, process, banner):
        self.process, self.banner = process, banner
        found = re.search(r"http://(\S+):([0-9]+)", banner)
        self.url, self.port = (found[0], int(found[2])) if found else ("", 0)

    def stop(self, signum=signal.SIGTERM):
        """Send a signal, wait; (exit status, standard output, standard error after the banner)."""
        self.process.send_signal(signum)
        return self.wait()

    def wait(self):
        out, err = self.process.communicate(timeout=WAIT)
        return self.process.returncode, out, err


def command(*arguments, flags=()):
    return [sys.executable, *flags, "-m", "filesproxy", *arguments]


def environment(home, **more):
    """An environment for a process: this repository, a home of its own, nothing of the developer's."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(filesproxy.__file__)))
    measured = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    plain = {"PYTHONPATH": root, "HOME": str(home), "PATH": os.defpath, "PYTHONIOENCODING": "utf-8"}
    return {**measured, **plain, **more}


@contextlib.contextmanager
def program(home, *arguments, flags=(), **more):
    """Serve in a process of its own, on a free port; ended after the block if it still runs."""
    process = subprocess.Popen(
        command("--listen", "127.0.0.1:0", *arguments, flags=flags),
        env=environment(home, **more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("try:"):
                break
        yield Program(process, "".join(lines))
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(WAIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()


def run(home, *arguments, **more):
    """Run a command that ends by itself; the completed process."""
    return subprocess.run(
        command(*arguments),
        env=environment(home, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
