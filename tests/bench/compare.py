"""The gateway beside a direct call, nginx as a plain proxy, and bare WSGI applications on the same gunicorn.

    python tests/bench/compare.py                 everything, some ten minutes
    python tests/bench/compare.py small slow      only these: small, transfers, memory, busy, slow
    python tests/bench/compare.py --rounds 5 --mib 256 --workers 4

Needs gunicorn and nginx; Linux. All on loopback: this process is the client, nginx is the upstream of small calls, and
a second process the one of files, which swallows uploads in the kernel and sends downloads by sendfile. `const` answers
a constant, `floor` does so once it has sent a constant over a kept socket and received something, which no gateway can
do with less, `bare` only reads or only yields. The contenders take turns in each round; what is shown is the median of
the rounds and, in brackets, their lowest and highest. CPU is that of the contender's own processes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "heavy")]

import relay  # noqa: E402
from relay import BLOCK, FILE, HEAD, ROOT, TAIL, Client, cpu_seconds, memory_mib  # noqa: E402
from servers import START_SECONDS, free_port, running  # noqa: E402

CHAT = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o", "choices": [
    {"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}]}  # fmt: skip
CLAUDES_FILE = {"id": "file_1", "type": "file", "size_bytes": 1, "created_at": "2026-01-01T00:00:00Z", "filename": "x",
                "mime_type": "text/plain", "downloadable": False}  # fmt: skip
QUESTION = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}).encode()
BARE = """
import json, socket
FILE = json.dumps({"id": "file-1", "object": "file", "bytes": 1, "filename": "x", "purpose": "batch"}).encode()
HEADERS = [("content-type", "application/json"), ("content-length", str(len(FILE)))]
def const(environ, start_response):
    start_response("200 OK", HEADERS)
    return [FILE]
SOCKETS = []
REQUEST = b"GET /v1/files/file-1 HTTP/1.1\\r\\nhost: upstream\\r\\n\\r\\n"
def floor(environ, start_response):
    sock = SOCKETS.pop() if SOCKETS else socket.create_connection(("127.0.0.1", UPSTREAM))
    sock.sendall(REQUEST)
    assert sock.recv(16384)
    SOCKETS.append(sock)
    return const(environ, start_response)
def bare(environ, start_response):
    if environ["PATH_INFO"].endswith("/content"):
        start_response("200 OK", [("content-type", "application/octet-stream"), ("content-length", str(SIZE))])
        return (BLOCK for _ in range(SIZE // len(BLOCK)))
    while environ["wsgi.input"].read(1 << 20):
        pass
    return const(environ, start_response)
"""
NGINX = """
daemon off; worker_processes %(workers)d; pid %(folder)s/pid; error_log %(folder)s/error crit;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 100000000; client_max_body_size 0; client_body_temp_path %(folder)s/body;
proxy_temp_path %(folder)s/proxy; fastcgi_temp_path %(folder)s/f; uwsgi_temp_path %(folder)s/u; scgi_temp_path %(folder)s/s;
%(servers)s }
"""  # noqa: E501
# Behind gunicorn.conf.py; the hook of `pre_request` is what reads bodies directly.
WITHOUT_HOOK = "\n\ndef pre_request(worker, req):\n    pass\n"
SMALL = """
server { listen 127.0.0.1:%(port)d; listen 127.0.0.1:%(tls)d ssl; ssl_certificate %(folder)s/cert.pem;
  ssl_certificate_key %(folder)s/cert.pem; default_type application/json;
  location = /v1/files/file-1 { return 200 '%(file)s'; } location = /v1/files { return 200 '%(file)s'; }
  location = /v1/chat/completions { return 200 '%(chat)s'; } }
"""
PROXY = """
upstream small { server 127.0.0.1:%(small)d; keepalive 64; } upstream files { server 127.0.0.1:%(files)d; }
server { listen 127.0.0.1:%(port)d; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_request_buffering off;
  proxy_max_temp_file_size 0; location /small/ { proxy_pass http://small/; } location /files/ { proxy_pass http://files/; } }
"""  # noqa: E501


class Upstream:
    """Serves each connection by a thread of its own; `answer(sock, stream, head)` answers one request."""

    def serve(self, listener):
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=self._connection, args=(sock,), daemon=True).start()

    def _connection(self, sock):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with sock, contextlib.suppress(OSError, ValueError):
            stream = Stream(sock)
            while head := stream.until(b"\r\n\r\n"):
                self.answer(sock, stream, head)


class Files(Upstream):
    """The upstream of files: uploads vanish in the kernel (MSG_TRUNC), downloads are a sparse file by sendfile."""

    def __init__(self, size):
        self.size = size
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._file.truncate(size)

    def answer(self, sock, stream, head):
        if head.startswith(b"POST"):
            _swallow_body(stream, head)
            relay._send_json(sock, CLAUDES_FILE if b"\nx-api-key:" in head.lower() else FILE)
        else:
            sock.sendall(relay._HEAD_OF_CONTENT % self.size)
            sent = 0
            while sent < self.size:
                sent += os.sendfile(sock.fileno(), self._file.fileno(), sent, self.size - sent)


class Stream:
    """What comes over a socket: lines, and bytes that vanish in the kernel."""

    def __init__(self, sock):
        self._sock, self._held, self._nothing = sock, b"", bytearray(BLOCK)

    def until(self, end):
        """The bytes up to this end, with it; b"" if there are none any more."""
        while (at := self._held.find(end)) < 0:
            block = self._sock.recv(4096)
            if not block:
                return b""
            self._held += block
        found, self._held = self._held[: at + len(end)], self._held[at + len(end) :]
        return found

    def swallow(self, left):
        held = self._held[:left]
        self._held, left = self._held[left:], left - len(held)
        while left:
            got = self._sock.recv_into(self._nothing, min(left, BLOCK), socket.MSG_TRUNC)
            if not got:
                raise OSError
            left -= got


def _swallow_body(stream, head):
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), None)
    if length is not None:
        return stream.swallow(length)
    while size := int(stream.until(b"\r\n"), 16):
        stream.swallow(size + 2)
    return stream.swallow(2)


# Contenders


class Contender:
    """Where a client calls, and the processes whose CPU and memory are its cost."""

    def __init__(self, name, port, pids, small="/v1", files="/v1", key=None):
        self.name, self.port, self.pids = name, port, pids
        self.small = Client(port, small, {**(key or {}), "x-portkey-provider": "small"})
        self.files = Client(port, files, {**(key or {}), "x-portkey-provider": "files"})
        self.translated = Client(port, files, {**(key or {}), "x-portkey-provider": "claude"})
        self.over_tls = Client(port, small, {**(key or {}), "x-portkey-provider": "tls"})


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.contextmanager
def nginx(folder, servers, port, workers=1):
    folder.mkdir()
    config = folder / "conf"
    config.write_text(NGINX % {"folder": folder, "servers": servers, "workers": workers})
    program = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(config)], stderr=subprocess.DEVNULL,
                               env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin"})  # fmt: skip
    try:
        _wait(port)
        yield children(program.pid)
    finally:
        program.terminate()
        program.wait()


def _wait(port):
    ends = time.monotonic() + START_SECONDS
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.02)


@contextlib.contextmanager
def bare(folder, name, workers):
    """One of the bare applications, with gunicorn as the gateway has it."""
    with served(ROOT / "gunicorn.conf.py", workers, "--pythonpath", str(folder), f"bareapp:{name}") as (port, pids):
        yield Contender(name, port, pids)


@contextlib.contextmanager
def served(conf, workers, *words, **environment):
    """(port, process ids of the workers) of a gunicorn."""
    port = free_port()
    program = subprocess.Popen([sys.executable, "-m", "gunicorn", "-c", str(conf), "-b", f"127.0.0.1:{port}",
                                "-w", str(workers), *words], cwd=ROOT, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, env={**os.environ, **environment})  # fmt: skip
    try:
        _wait(port)
        time.sleep(0.5)
        yield port, children(program.pid)
    finally:
        program.terminate()
        program.wait()


@contextlib.contextmanager
def portable(folder, workers, config, key):
    """The gateway without the body hook of gunicorn.conf.py: it reads `wsgi.input` as it is on other servers."""
    with served(folder / "portable.conf.py", workers, FILESPROXY_CONFIG=str(config)) as (port, pids):
        yield Contender("portable", port, pids, key=key)


@contextlib.contextmanager
def fresh(folder, workers, config, key):
    """The gateway once more, whose heap nothing has used yet: the C library gives little of it back."""
    with running("gunicorn", folder / "fresh", "-w", str(workers), FILESPROXY_CONFIG=config) as gateway:
        time.sleep(0.5)  # for all workers to be there
        yield Contender("fresh", gateway.port, gateway.workers(), key=key)


def certificate(folder):
    """A CA of its own, and one certificate in one file."""
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem",
            "-out", folder / "cert.pem"]  # fmt: skip
    subprocess.run(list(map(str, make)), check=True, capture_output=True)
    with open(folder / "cert.pem", "a") as both:
        both.write((folder / "key.pem").read_text())
    return folder / "cert.pem"


@contextlib.contextmanager
def contenders(options, folder):
    size = options.mib * BLOCK
    small, tls, proxy = free_port(), free_port(), free_port()
    cert = certificate(folder)
    files = subprocess.Popen([sys.executable, __file__, "--serve-files", str(options.mib)], stdout=subprocess.PIPE)
    port = int(files.stdout.readline())
    words = {"port": small, "tls": tls, "folder": folder, "file": json.dumps(FILE), "chat": json.dumps(CHAT)}
    config = folder / "filesproxy.ini"
    config.write_text(
        f"[filesproxy]\nmax_upload_bytes = {size + BLOCK}\nmax_caller_requests = 256\n"
        f"[provider:small]\nkind = openai\nbase_url = http://127.0.0.1:{small}/v1\n"
        f"[provider:tls]\nkind = openai\nbase_url = https://127.0.0.1:{tls}/v1\nca_file = {cert}\n"
        f"[provider:files]\nkind = openai\nbase_url = http://127.0.0.1:{port}/v1\n"
        f"[provider:claude]\nkind = anthropic\nbase_url = http://127.0.0.1:{port}/v1\n"
    )
    (folder / "bareapp.py").write_text(f"SIZE, BLOCK, UPSTREAM = {size}, bytes(1 << 18), {small}\n" + BARE)
    (folder / "portable.conf.py").write_text((ROOT / "gunicorn.conf.py").read_text() + WITHOUT_HOOK)
    key = {"Authorization": "Bearer sk-bench"}
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(nginx(folder / "upstream", SMALL % words, small))
            ports = {"small": small, "files": port, "port": proxy}
            pids = stack.enter_context(nginx(folder / "proxy", PROXY % ports, proxy))
            gateway = stack.enter_context(running("gunicorn", folder / "run", "-w", str(options.workers),
                                                  FILESPROXY_CONFIG=config))  # fmt: skip
            yield {
                "direct": Contender("direct", small, []),
                "nginx": Contender("nginx", proxy, pids, "/small/v1", "/files/v1"),
                "const": stack.enter_context(bare(folder, "const", options.workers)),
                "floor": stack.enter_context(bare(folder, "floor", options.workers)),
                "bare": stack.enter_context(bare(folder, "bare", options.workers)),
                "gateway": Contender("gateway", gateway.port, gateway.workers(), key=key),
                "fresh": lambda: fresh(folder, options.workers, config, key),
                "portable": stack.enter_context(portable(folder, options.workers, config, key)),
                "files": Contender("direct", port, []),
            }
    finally:
        files.terminate()
        files.wait()
        files.stdout.close()


# Small calls: one thread and epoll, so that the client costs little


def ask(port, request, count, concurrency):
    """Seconds of each call, `concurrency` at a time over as many connections."""
    poll, open_calls, seconds, sent = select.epoll(), {}, [], 0
    for _ in range(concurrency):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(sock, select.EPOLLIN)
        sock.sendall(request)
        open_calls[sock.fileno()] = [sock, time.perf_counter(), b""]
        sent += 1
    while len(seconds) < count:
        for descriptor, _ in poll.poll():
            call = open_calls[descriptor]
            block = call[0].recv(65536)
            assert block, f"closed after {call[2]!r}"
            call[2] += block
            head, end, body = call[2].partition(b"\r\n\r\n")
            if not end or len(body) < _length(head):
                continue
            assert head.startswith(b"HTTP/1.1 200"), call[2]
            now = time.perf_counter()
            seconds.append(now - call[1])
            if sent < count:
                call[0].sendall(request)
                sent += 1
            call[1:] = [now, b""]
    for sock, _, _ in open_calls.values():
        sock.close()
    poll.close()
    return seconds


def _length(head):
    lower = head.lower()
    at = lower.find(b"content-length:")
    return int(lower[at + 15 : lower.find(b"\r\n", at) if lower.find(b"\r\n", at) > 0 else None]) if at >= 0 else 0


def shown(values, digits=2):
    """Median, lowest and highest."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def chat(client):
    return client.head("POST", "/chat/completions", {"Content-Type": "application/json",
                                                     "Content-Length": len(QUESTION)}) + QUESTION  # fmt: skip


CALLS = {
    "GET c=1": (1, lambda who: who.small.get(), ("nginx", "const", "floor")),
    "GET c=16": (16, lambda who: who.small.get(), ("nginx", "const", "floor")),
    "GET over TLS c=16": (16, lambda who: who.over_tls.get(), ()),
    "1 KB upload c=1": (1, lambda who: who.files.small_upload(), ("nginx",)),
    "chat c=1": (1, lambda who: chat(who.small), ("nginx",)),
}


def small(options, them):
    """Calls a second, latencies and CPU."""
    print(f"{'':<20}{'':<9}{'p50 ms':>22}{'p99 ms':>22}{'calls/s':>26}{'CPU us':>22}")
    for label, (concurrency, request, also) in CALLS.items():
        results = {}
        for turn in range(-1, options.rounds):
            for name in ("direct", "nginx", "const", "floor", "gateway"):
                who = them["files" if (name, label[:4]) == ("direct", "1 KB") else name]
                if name not in also + ("direct", "gateway"):
                    continue
                before, began = cpu_seconds(who.pids), time.perf_counter()
                seconds = sorted(ask(who.port, request(who), 2000 if turn >= 0 else 200, concurrency))
                passed, cost = time.perf_counter() - began, cpu_seconds(who.pids) - before
                if turn >= 0:
                    p50, p99 = statistics.median(seconds) * 1e3, seconds[int(len(seconds) * 0.99)] * 1e3
                    results.setdefault(name, []).append((p50, p99, len(seconds) / passed, cost / len(seconds) * 1e6))
        for name, rounds in results.items():
            p50, p99, rate, cost = zip(*rounds)
            print(f"{label:<20}{name:<9}{shown(p50):>22}{shown(p99):>22}{shown(rate, 0):>26}{shown(cost, 0):>22}")
        for name in ("floor", "gateway") if "const" in results else ():
            parts = [own[2] / const[2] * 100 for own, const in zip(results[name], results["const"])]
            print(f"{label:<20}{name:<9} has {shown(parts, 0)} % of const's calls/s, round by round")
    print()


# Large files


def upload(client, size):
    """Seconds for a file of `size` bytes, of zeros."""
    length = {"Content-Length": len(HEAD) + size + len(TAIL),
              "Content-Type": f"multipart/form-data; boundary={relay.BOUNDARY}"}  # fmt: skip
    began = time.perf_counter()
    with client.connect() as sock, tempfile.TemporaryFile() as zeros:
        zeros.truncate(size)
        sock.sendall(client.head("POST", "/files", {**length, "Connection": "close"}) + HEAD)
        sent = 0
        while sent < size:
            sent += os.sendfile(sock.fileno(), zeros.fileno(), sent, size - sent)
        sock.sendall(TAIL)
        relay._expect_200(sock)
    return time.perf_counter() - began


def download(client, size):
    """Seconds to read it, and let it vanish in the kernel."""
    began = time.perf_counter()
    with client.connect() as sock:
        sock.sendall(client.head("GET", "/files/file-1/content", {"Connection": "close"}))
        stream = Stream(sock)
        head = stream.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        stream.swallow(size)
    return time.perf_counter() - began


def transfers(options, them):
    """Throughput and CPU of one large file each way."""
    size, gib = options.mib * BLOCK, options.mib / 1024
    print(f"{'':<20}{'':<9}{'MiB/s':>26}{'CPU s/GiB':>22}")
    for run in (upload, download):
        results = {}
        for turn in range(-1, options.rounds):
            for name, who, client in _ways(them):
                before = cpu_seconds(who.pids)
                seconds = run(client, size)
                if turn >= 0:
                    results.setdefault(name, []).append((options.mib / seconds, (cpu_seconds(who.pids) - before) / gib))
        for name, rounds in results.items():
            rate, cost = zip(*rounds)
            print(f"{run.__name__:<20}{name:<9}{shown(rate, 0):>26}{shown(cost):>22}")
    print()


def _ways(them):
    """(label, contender, client) of the ways that a large file can go."""
    found = [(them[name].name, them[name], them[name].files) for name in ("files", "nginx", "bare", "gateway")]
    found.append(("anthropic", them["gateway"], them["gateway"].translated))
    return [*found, ("portable", them["portable"], them["portable"].files)]


def memory(options, them):
    """How much the workers grow, all together, by one transfer, eight and sixteen."""
    who, size = them["gateway"], options.mib * BLOCK
    for label, run, count in (("one upload", upload, 1), ("one download", download, 1), ("8 uploads", upload, 8),
                              ("8 downloads", download, 8), ("16 uploads", upload, 16)):  # fmt: skip
        before = sum(map(memory_mib, who.pids))
        with relay.Watch(who.pids) as watch:
            together(count, lambda run=run: run(who.files, size))
        grown = sum(watch.peak.values()) - before
        print(f"{label:<20}RSS of all workers {grown:+.1f} MiB, the one that grew most {watch.growth:+.1f}")
    print()


def together(count, action):
    threads = [threading.Thread(target=action) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def busy(options, them):
    """Small calls while 16 uploads run."""
    for name in ("nginx", "gateway"):
        who, over, p99s = them[name], threading.Event(), []

        def uploads(who=who, over=over):
            while not over.is_set():
                upload(who.files, 64 * BLOCK)

        threads = [threading.Thread(target=uploads) for _ in range(16)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(options.rounds):
                seconds = sorted(ask(who.port, who.small.get(), 300, 1))
                p99s.append(seconds[int(len(seconds) * 0.99)] * 1e3)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        print(f"{'GET, 16 uploads run':<20}{name:<9} p99 ms {shown(p99s)}")
    print()


def slow(options, them):
    """200 clients at 1 KB/s, up and then down, and 100 small calls meanwhile; in workers that did nothing before."""
    with them["fresh"]() as who:
        _slow(who)


def _slow(who):
    for label, drip in (("200 slow uploads", _drip_up), ("200 slow readers", _drip_down)):
        over = threading.Event()
        socks = [who.files.connect() for _ in range(200)]
        thread = threading.Thread(target=drip, args=(who.files, socks, over))
        thread.start()
        time.sleep(3)
        seconds = sorted(s for _ in range(100) for s in ask(who.port, who.small.get(), 1, 1))
        held = [f"{memory_mib(pid):.1f} MiB with {len(os.listdir(f'/proc/{pid}/task'))} threads" for pid in who.pids]
        over.set()
        thread.join()
        for sock in socks:
            sock.close()
        p99, worst = seconds[98] * 1e3, seconds[-1] * 1e3
        print(f"{label:<20}{len(seconds)} of 100 answered, p99 {p99:.1f} ms, worst {worst:.1f},"
              f" RSS of the workers {', '.join(held)}")  # fmt: skip
        time.sleep(2)
    print()


def _drip_up(client, socks, over):
    described = {"Content-Length": 10 * BLOCK, "Content-Type": f"multipart/form-data; boundary={relay.BOUNDARY}"}
    for sock in socks:
        sock.sendall(client.head("POST", "/files", described) + HEAD)
    while not over.wait(1):
        for sock in socks:
            sock.sendall(bytes(1024))


def _drip_down(client, socks, over):
    for sock in socks:
        sock.sendall(client.head("GET", "/files/file-1/content"))
    while not over.wait(1):
        for sock in socks:
            assert sock.recv(1024)


PARTS = {"small": small, "transfers": transfers, "memory": memory, "busy": busy, "slow": slow}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all of them if none is named")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=1024, help="size of a large file (default 1024)")
    parser.add_argument("--workers", type=int, default=2, help="of gunicorn (default 2)")
    parser.add_argument("--serve-files", type=int, metavar="MIB", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if options.serve_files:
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        print(listener.getsockname()[1], flush=True)
        return Files(options.serve_files * BLOCK).serve(listener)
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory(prefix="filesproxy-bench-") as folder, contenders(options, Path(folder)) as them:
        for name in options.parts or PARTS:
            PARTS[name](options, them)
    return 0


if __name__ == "__main__":
    sys.exit(main())
