"""What the gateway costs, measured by hand: throughput, CPU, memory, small calls, start-up, the multipart scanner.

    python tests/bench/relay.py                    1 GiB each way, a minute or two
    python tests/bench/relay.py --quick            64 MiB and fewer calls
    python tests/bench/relay.py --size-mib 4096 --rounds 3 --conf my.conf.py

Needs gunicorn; Linux (/proc). Everything is on loopback: this process is the client, a second one is a fake upstream
that counts uploads or hashes them and sends downloads with sendfile, and gunicorn runs with gunicorn.conf.py as
shipped. `direct` is the same without the gateway: the ceiling of this machine. A throughput is the best of --rounds;
SHA-256 is compared in passes of their own, whose time does not count. Exits 1 if bytes differ or a temp file shows.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import os
import random
import re
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "heavy")]

from servers import running  # noqa: E402

BLOCK = 1 << 20
PATTERN_BLOCKS = 64  # the file is these, over and over
TICKS = os.sysconf("SC_CLK_TCK")
BOUNDARY = "bench-boundary-0123456789abcdef"
HEAD = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="x.bin"\r\n'
    "Content-Type: application/octet-stream\r\n\r\n"
).encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()
FILE = {"id": "file-1", "object": "file", "bytes": 1, "created_at": 1, "filename": "x", "purpose": "batch",
        "status": "processed"}  # fmt: skip


# The fake upstream, a process of its own: /count/v1 and /hash/v1 are the same but for what they do with an upload.


class Upstream:
    """Answers one connection after another, a thread each; kept alive only if the client wants that."""

    def __init__(self, pattern, size):
        self.pattern, self.size = os.open(pattern, os.O_RDONLY), size
        self.hashed = {"sha256": "", "bytes": 0}

    def serve(self, listener):
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.connection, args=(sock,), daemon=True).start()

    def connection(self, sock):
        with sock, sock.makefile("rb", buffering=65536) as stream, contextlib.suppress(OSError):
            while line := stream.readline():
                headers = http.client.parse_headers(stream)
                method, path, _ = line.decode().split(" ")
                self.answer(sock, stream, method, path, headers)
                if headers.get("connection", "").lower() == "close":
                    return

    def answer(self, sock, stream, method, path, headers):
        if method == "POST":
            chunked = "transfer-encoding" in headers
            blocks = _chunks(stream) if chunked else _counted(stream, int(headers["content-length"]))
            received = self.hash(blocks) if path.startswith("/hash/") else sum(map(len, blocks))
            return _send_json(sock, {**FILE, "bytes": received})
        if path.endswith("/hashed"):
            return _send_json(sock, self.hashed)
        if not path.endswith("/content"):
            return _send_json(sock, FILE)
        sock.sendall(_HEAD_OF_CONTENT % self.size)
        send_pattern(sock, self.pattern, self.size)

    def hash(self, blocks):
        """Digest the file of a form whose last part it is: from the empty line of its headers to the delimiter."""
        digest, held, opened, count = hashlib.sha256(), b"", False, 0
        for block in blocks:
            held += block
            if not opened:
                at = held.find(b"\r\n\r\n", held.find(b"filename="))
                if at < 0:
                    continue
                boundary = held[: held.index(b"\r\n")]
                held, opened, tail = held[at + 4 :], True, len(boundary) + 6
            if len(held) > tail:
                digest.update(held[:-tail])
                count += len(held) - tail
                held = held[-tail:]
        assert held == b"\r\n" + boundary + b"--\r\n", "the form does not end with its file"
        self.hashed = {"sha256": digest.hexdigest(), "bytes": count}
        return count


_HEAD_OF_CONTENT = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n"


def _counted(stream, left):
    while left:
        block = stream.read1(min(left, BLOCK))
        if not block:
            raise ConnectionError
        left -= len(block)
        yield block


def _chunks(stream):
    while size := int(stream.readline(), 16):
        yield from _counted(stream, size)
        stream.read(2)
    stream.read(2)


def _send_json(sock, value):
    body = json.dumps(value).encode()
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def send_pattern(sock, handle, size):
    """The file's bytes by sendfile, from the pattern's start again and again."""
    period = PATTERN_BLOCKS * BLOCK
    sent = 0
    while sent < size:
        at = sent % period
        sent += os.sendfile(sock.fileno(), handle, at, min(period - at, size - sent))


def serve_upstream(pattern, size):
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(listener.getsockname()[1], flush=True)
    Upstream(pattern, size).serve(listener)


# The client


class Client:
    """Plain HTTP over one kept connection where it can, with as little Python in it as possible."""

    def __init__(self, port, base, headers=None):
        self.port, self.base, self.headers = port, base, headers or {}

    def head(self, method, path, more=None):
        headers = {"Host": "localhost", **self.headers, **(more or {})}
        lines = [
            f"{method} {self.base}{path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in headers.items()),
            "",
            "",
        ]
        return "\r\n".join(lines).encode()

    def connect(self):
        sock = socket.create_connection(("127.0.0.1", self.port))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):  # a time limit in Python would not block in sendfile
            sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", 120, 0))
        return sock

    def upload(self, pattern, size):
        """Seconds for a file of `size` bytes."""
        length = {"Content-Length": len(HEAD) + size + len(TAIL),
                  "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}  # fmt: skip
        began = time.perf_counter()
        with self.connect() as sock:
            sock.sendall(self.head("POST", "/files", {**length, "Connection": "close"}) + HEAD)
            send_pattern(sock, pattern, size)
            sock.sendall(TAIL)
            _expect_200(sock)
        return time.perf_counter() - began

    def download(self, size, digest=None):
        """Seconds for the file; a digest costs time and is for the passes that compare."""
        began = time.perf_counter()
        with self.connect() as sock, sock.makefile("rb", buffering=0) as raw:
            sock.sendall(self.head("GET", "/files/file-1/content", {"Connection": "close"}))
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += raw.read(1)
            assert head.startswith(b"HTTP/1.1 200"), head
            window = memoryview(bytearray(BLOCK))
            got = 0
            while count := sock.recv_into(window):
                got += count
                if digest:
                    digest.update(window[:count])
        assert got == size, f"{got} bytes of {size}"
        return time.perf_counter() - began

    def calls(self, count, request):
        """The seconds of each of `count` small calls over one connection."""
        seconds = []
        with self.connect() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(count):
                began = time.perf_counter()
                sock.sendall(request)
                _expect_200(sock)
                seconds.append(time.perf_counter() - began)
        return seconds

    def get(self):
        return self.head("GET", "/files/file-1")

    def small_upload(self):
        body = HEAD + b"x" * 1024 + TAIL
        described = {"Content-Length": len(body), "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        return self.head("POST", "/files", described) + body


def _expect_200(sock):
    """Read one small answer with a length."""
    got = b""
    while b"\r\n\r\n" not in got:
        block = sock.recv(65536)
        assert block, f"closed after {got!r}"
        got += block
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), got
    left = int(re.search(rb"(?i)\r\ncontent-length: (\d+)", head)[1]) - len(body)
    while left > 0:
        left -= len(sock.recv(left))


# What the kernel says


def cpu_seconds(pids):
    """User and system time of these processes so far."""
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(fields[11]) + int(fields[12]) for fields in stats) / TICKS


def memory_mib(pid, field="VmRSS"):
    return int(re.search(rf"{field}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


class Watch:
    """Samples the workers' memory every 20 ms, and the files they hold open; `growth` is of the one that grew most."""

    def __init__(self, pids):
        self.pids = pids
        self.base = {pid: memory_mib(pid) for pid in pids}
        self.peak = dict(self.base)
        self.files = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self):
        for pid in self.pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the high-water mark starts anew
        self._before = self._open_files()
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._over.set()
        self._thread.join()
        self.growth = max(self.peak[pid] - self.base[pid] for pid in self.pids)
        self.high_water = max(memory_mib(pid, "VmHWM") - self.base[pid] for pid in self.pids)

    def _sample(self):
        while not self._over.wait(0.02):
            for pid in self.pids:
                self.peak[pid] = max(self.peak[pid], memory_mib(pid))
            self.files |= self._open_files() - self._before

    def _open_files(self):
        found = set()
        for pid in self.pids:
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(FileNotFoundError):
                    found.add(os.readlink(entry.path))
        return {target for target in found if not target.startswith(("socket:", "anon_inode:", "pipe:"))}


# The table


def say(label, direct="", gateway="", note=""):
    print(f"{label:<44}{direct:>14}{gateway:>14}  {note}", flush=True)


def number(value, digits=0):
    return f"{value:,.{digits}f}"


class Failure(Exception):
    """Bytes differ, or a file was written."""


def transfers(options, direct, gateways, gateway, pattern, size):
    """Throughput, CPU and memory of one large file each way."""
    workers = gateway.workers()
    gib = size / (1 << 30)
    expected = pattern_digest(pattern, size)
    runs = {"upload": lambda client: client.upload(pattern, size), "download": lambda client: client.download(size)}
    for name, run in runs.items():
        best_direct = min(run(direct) for _ in range(options.rounds))
        best, cost = float("inf"), float("inf")
        for turn in range(options.rounds):
            with Watch(workers) as watch:
                before = cpu_seconds(workers)
                best = min(best, run(gateways["count"]))
                cost = min(cost, (cpu_seconds(workers) - before) / gib)
            if turn == 0:  # memory once grown stays: the first one shows it
                growth, high_water = watch.growth, watch.high_water
            if watch.files or os.listdir(gateway.folder / "tmp"):
                raise Failure(f"files were opened: {watch.files} {os.listdir(gateway.folder / 'tmp')}")
        say(f"{name} {size >> 20} MiB, MiB/s", number(size / BLOCK / best_direct), number(size / BLOCK / best))
        say(f"{name}, CPU s/GiB of the workers", "", number(cost, 2))
        say(f"{name}, RSS growth MiB (sampled, VmHWM)", "", number(growth, 1), number(high_water, 1))
    gateways["hash"].upload(pattern, size)
    _, answer = call(options.upstream_port, "/hash/v1/hashed")
    compare("upload", answer, {"sha256": expected, "bytes": size})
    digest = hashlib.sha256()
    gateways["count"].download(size, digest)
    compare("download", {"sha256": digest.hexdigest()}, {"sha256": expected})


def compare(name, got, expected):
    if got != expected:
        raise Failure(f"{name}: {got} is not {expected}")
    say(f"{name}, SHA-256 at both ends", "", "equal")


def pattern_digest(pattern, size):
    digest = hashlib.sha256()
    for at in range(0, size, BLOCK):
        digest.update(os.pread(pattern, min(BLOCK, size - at), at % (PATTERN_BLOCKS * BLOCK)))
    return digest.hexdigest()


def call(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", path)
        with connection.getresponse() as response:
            return response.status, json.loads(response.read())


def small_calls(options, direct, client, workers):
    """Latencies; each client is a thread here, so at c=16 a part of the cost is this process's own."""
    count = 300 if options.quick else 2000
    for concurrency, label, request in (
        (1, "GET file c=1, ms p50 / p99", Client.get),
        (16, "GET file c=16, ms p50 / p99", Client.get),
        (1, "1 KB upload c=1, ms p50 / p99", Client.small_upload),
    ):
        shown = []
        for target in (direct, client):
            target.calls(50, request(target))
            before, began = cpu_seconds(workers), time.perf_counter()
            seconds = sorted(concurrent_calls(target, count, concurrency, request(target)))
            rate = len(seconds) / (time.perf_counter() - began)
            cost = (cpu_seconds(workers) - before) / len(seconds) * 1e6
            p50, p99 = statistics.median(seconds) * 1e3, seconds[int(len(seconds) * 0.99)] * 1e3
            shown.append(f"{p50:.2f} / {p99:.2f}")
        say(label, *shown, f"{rate:,.0f}/s, {cost:,.0f} CPU µs each")


def concurrent_calls(target, count, concurrency, request):
    seconds = []
    each = count // concurrency
    threads = [threading.Thread(target=lambda: seconds.extend(target.calls(each, request))) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seconds) == each * concurrency, "a call failed"
    return seconds


def start_up(options):
    """Imports, and from exec to the first answer."""
    rounds = 3 if options.quick else 10
    python = [sys.executable, "-X", "importtime", "-c", "import filesproxy"]
    totals = []
    for _ in range(rounds):
        report = subprocess.run(python, cwd=ROOT, capture_output=True, text=True, check=True).stderr
        totals.append(int(re.search(r"\|\s+(\d+) \| filesproxy\n", report)[1]) / 1000)
    bare = statistics.median(wall("pass") for _ in range(rounds))
    full = statistics.median(wall("import filesproxy") for _ in range(rounds))
    say("import filesproxy, ms (-X importtime, cumulative)", "", number(statistics.median(totals), 1))
    say("import filesproxy, ms of wall over bare python", "", number((full - bare) * 1e3, 1), f"bare {bare * 1e3:.1f}")
    for kind, name in (("embedded", "python -m filesproxy"), ("gunicorn", "gunicorn")):
        seconds = statistics.median(first_answer(kind) for _ in range(3 if options.quick else 5))
        say(f"{name}: exec to first answer, s", "", number(seconds, 3))


def wall(code):
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    return time.perf_counter() - began


def first_answer(kind):
    """Seconds until a server without configuration has answered."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with running(kind, Path(folder) / "run", poll_seconds=0.002):
            return time.perf_counter() - began


def scanner(options):
    """The multipart scanner alone, in memory, in blocks of 1 MiB."""
    from filesproxy.wire.multipart import parts

    size = (32 if options.quick else 256) * BLOCK
    near = b"\r\n--" + BOUNDARY.encode()[:-1] + b"#"
    line = json.dumps({"custom_id": "request-1", "method": "POST", "url": "/v1/chat/completions"}).encode() + b"\r\n"
    for name, unit in (("random", random.Random(1).randbytes(BLOCK)), ("CRLF JSONL", line), ("all \\n", b"\n"),
                       ("all \\r", b"\r"), ("near-miss delimiters", near)):  # fmt: skip
        body = HEAD + (unit * (BLOCK // len(unit) + 1))[:BLOCK] * (size // BLOCK) + TAIL
        view = memoryview(body)
        best = min(scan(parts, view, size) for _ in range(3))
        say(f"scanner, {name}, MB/s", "", number(size / best / 1e6))


def scan(parts, view, size):
    blocks = iter([bytes(view[at : at + BLOCK]) for at in range(0, len(view), BLOCK)])
    began = time.perf_counter()
    got = sum(len(chunk) for part in parts(lambda _: next(blocks, b""), BOUNDARY.encode()) for chunk in part.chunks)
    seconds = time.perf_counter() - began
    assert got == size + len("batch")
    return seconds


def measure(options, folder):
    size = options.size_mib << 20
    path = folder / "pattern"
    path.write_bytes(random.Random(7).randbytes(PATTERN_BLOCKS * BLOCK))
    words = [sys.executable, __file__, "--serve-upstream", str(path), "--size-mib", str(options.size_mib)]
    upstream = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    pattern = os.open(path, os.O_RDONLY)
    try:
        options.upstream_port = int(upstream.stdout.readline())
        config = folder / "filesproxy.ini"
        hosts = [f"[provider:{mode}]\nkind = openai\nbase_url = http://127.0.0.1:{options.upstream_port}/{mode}/v1\n"
                 for mode in ("count", "hash")]  # fmt: skip
        config.write_text(f"[filesproxy]\nmax_upload_bytes = {size + (1 << 20)}\n" + "".join(hosts))
        with running("gunicorn", folder / "run", conf=options.conf, FILESPROXY_CONFIG=config) as gateway:
            measure_gateway(options, gateway, pattern, size)
    finally:
        os.close(pattern)
        upstream.terminate()
        upstream.wait()
        upstream.stdout.close()


def measure_gateway(options, gateway, pattern, size):
    direct = Client(options.upstream_port, "/count/v1")
    key = {"Authorization": "Bearer sk-bench"}
    gateways = {mode: Client(gateway.port, "/v1", {**key, "x-portkey-provider": mode}) for mode in ("count", "hash")}
    concurrent_calls(gateways["count"], 160, 16, gateways["count"].get())  # so that both workers have answered
    workers = gateway.workers()
    idle = [memory_mib(pid) for pid in workers]
    say(f"idle RSS MiB of each of {len(workers)} workers", "", " ".join(number(mib, 1) for mib in idle))
    transfers(options, direct, gateways, gateway, pattern, size)
    small_calls(options, direct, gateways["count"], workers)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size-mib", type=int, default=1024, help="size of the large file (default 1024)")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each transfer; the best counts (default 2)")
    parser.add_argument(
        "--conf", default="gunicorn.conf.py", help="gunicorn's configuration (default: the shipped one)"
    )
    parser.add_argument("--quick", action="store_true", help="64 MiB, one round, fewer calls")
    parser.add_argument("--serve-upstream", metavar="PATTERN", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_upstream:
        return serve_upstream(options.serve_upstream, options.size_mib << 20)
    if options.quick:
        options.size_mib, options.rounds = min(options.size_mib, 64), 1
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    say("", "direct", "gateway")
    with tempfile.TemporaryDirectory(prefix="filesproxy-bench-") as folder:
        try:
            measure(options, Path(folder))
        except Failure as failure:
            print(f"FAILED: {failure}")
            return 1
    start_up(options)
    scanner(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
