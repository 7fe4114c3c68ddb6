"""Downloads that break off and are resumed with Range until they are whole, through real servers, in little memory."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from processes import memory
from servers import running, write_config

MIB = 1 << 20
SIZE = 1 << 30
BLOCK = MIB - 3  # no multiple of anything that the gateway reads at once
STORED = 256 * MIB
MAX_GROWTH = 8 * MIB
KINDS = [["embedded"], ["gunicorn", "--workers", "1"]]


def blocks(size):
    """Seeded bytes: one block over and over, each with its number in front, so that no two places are alike."""
    tail = random.Random(11).getrandbits(8 * (BLOCK - 8)).to_bytes(BLOCK - 8, "big")
    for number in range(-(-size // BLOCK)):
        yield (number.to_bytes(8, "big") + tail)[: size - number * BLOCK]


def digest(size):
    found = hashlib.sha256()
    for block in blocks(size):
        found.update(block)
    return found.hexdigest()


# The upstream, in a process of its own: knows no ranges, keeps nothing


def answer(sock):
    with contextlib.suppress(OSError), sock:
        head = b""
        while b"\r\n\r\n" not in head:
            received = sock.recv(65536)
            if not received:
                return
            head += received
        tag = 'etag: "v1"\r\n' if b"/file-tagged/" in head else ""
        lines = f"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {SIZE}\r\n{tag}\r\n"
        sock.sendall(lines.encode())
        for block in blocks(SIZE):
            sock.sendall(block)


def serve():
    """Serve until standard input ends, as it does when the tests are over."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        accepting = threading.Thread(target=accept, args=(listener,), daemon=True)
        accepting.start()
        sys.stdin.read()


def accept(listener):
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=answer, args=(sock,), daemon=True).start()


class Rangeless(NamedTuple):
    """Where the upstream is, for write_config."""

    base_url: str


@pytest.fixture(scope="module")
def rangeless():
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve())], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    with process:
        try:
            yield Rangeless(f"http://127.0.0.1:{int(process.stdout.readline())}/v1")
        finally:
            process.kill()


@pytest.fixture(scope="module", params=KINDS, ids=[kind[0] for kind in KINDS])
def gateway(request, rangeless, tmp_path_factory):
    kind, *arguments = request.param
    if kind == "gunicorn":
        pytest.importorskip("gunicorn", reason="needs gunicorn")
    folder = tmp_path_factory.mktemp(f"resume-{kind}")
    config = write_config(folder / "filesproxy.ini", rangeless, folder / "store")
    # What the gateway holds is measured. glibc would keep up to 2 MiB of freed memory for each thread that had some.
    with running(kind, folder / "run", *arguments, FILESPROXY_CONFIG=config, MALLOC_TRIM_THRESHOLD_=1 << 17) as served:
        yield served


# The client


class Download:
    """A file as far as it has come: resumes at its end, and notes what the answers said."""

    def __init__(self, gateway, path, headers, size, use_tag):
        self._gateway, self._path, self._headers = gateway, path, headers
        self._size, self._use_tag = size, use_tag
        self._hash, self._buffer = hashlib.sha256(), memoryview(bytearray(MIB))
        self.at, self.etag, self.connections = 0, "", 0

    def go_on(self, until):
        """Read up to this place, then hang up, as a client does that has lost its net."""
        asked = dict(self._headers)
        if self.at:
            asked["range"] = f"bytes={self.at}-"
            if self._use_tag:
                asked["if-range"] = self.etag
        lines = "".join(f"{name}: {value}\r\n" for name, value in asked.items())
        with self._gateway.connect() as sock:
            sock.sendall(f"GET {self._path} HTTP/1.1\r\nhost: localhost\r\n{lines}connection: close\r\n\r\n".encode())
            self._take(self._check(sock)[: until - self.at])
            while self.at < until:
                count = sock.recv_into(self._buffer[: min(MIB, until - self.at)])
                assert count, f"the answer ended at {self.at}"
                self._take(self._buffer[:count])
            assert until < self._size or sock.recv(1) == b""
        self.connections += 1

    def _check(self, sock):
        """Read the head, which must say what was asked for; the bytes that came with it."""
        raw = b""
        while b"\r\n\r\n" not in raw:
            received = sock.recv(65536)
            assert received, raw
            raw += received
        head, _, data = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        assert int(first.split(" ")[1]) == (206 if self.at else 200), head
        assert int(headers["content-length"]) == self._size - self.at
        whole = f"bytes {self.at}-{self._size - 1}/{self._size}"
        assert headers.get("content-range") == (whole if self.at else None)
        assert headers["accept-ranges"] == "bytes"
        self.etag = headers.get("etag", "")
        assert bool(self.etag) == self._use_tag
        return data

    def _take(self, data):
        self._hash.update(data)
        self.at += len(data)

    def digest(self):
        return self._hash.hexdigest()


def resume(gateway, path, headers, size, use_tag, cuts, seed):
    """Download with these many cuts at random places; print and check what it took."""
    warm = Download(gateway, path, headers, size, use_tag)
    warm.go_on(4 * MIB)
    (worker,) = gateway.workers()
    before, began = memory(worker), time.monotonic()
    chance = random.Random(seed)
    download = Download(gateway, path, headers, size, use_tag)
    for until in [*sorted(chance.randrange(1, size) for _ in range(cuts)), size]:
        download.go_on(until)
    growth = memory(worker, "VmHWM") - before  # the peak, also of what was given back since
    seconds = time.monotonic() - began
    print(f"resumed {size / MIB:.0f} MiB in {download.connections} parts: {seconds:.1f} s, "
          f"{size / MIB / seconds:.0f} MiB/s, the worker grew by {growth / MIB:.1f} MiB")  # fmt: skip
    assert growth < MAX_GROWTH
    assert download.connections == cuts + 1
    return download.digest()


@pytest.mark.parametrize("name", ["tagged", "untagged"])
def test_gibibyte_of_an_upstream_without_ranges_is_resumed(name, gateway):
    headers = {"x-portkey-provider": "compat", "authorization": "Bearer sk-upstream"}
    path = f"/v1/files/file-{name}/content"
    cuts = 8 if name == "tagged" else 4  # each part costs the upstream all that lies before it
    assert resume(gateway, path, headers, SIZE, name == "tagged", cuts, seed=3) == digest(SIZE)


def test_file_of_the_local_store_is_resumed(gateway):
    file_id = store(gateway)
    path = f"/v1/files/{file_id}/content"
    began = gateway.lines(operation="retrieve_file_content")
    assert resume(gateway, path, {}, STORED, True, 12, seed=4) == digest(STORED)
    cut = gateway.wait_for_lines(len(began) + 14, operation="retrieve_file_content")[len(began) :]
    assert [line["error"] for line in cut if line["status"] == 206][-1] is None  # the last part was whole


def store(gateway):
    """Upload the file, made as it is sent; its id."""
    head = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
    )
    tail = b"\r\n--b--\r\n"
    headers = {
        "content-type": "multipart/form-data; boundary=b",
        "content-length": str(len(head) + STORED + len(tail)),
    }
    response, body = gateway.request("POST", "/v1/files", itertools.chain([head], blocks(STORED), [tail]), headers)
    assert response.status == 200, body
    return json.loads(body)["id"]


if __name__ == "__main__":
    serve()
