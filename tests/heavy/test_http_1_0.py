"""HTTP/1.0 clients, and nginx as it is by default: no download that was cut looks whole, on any server.

Where a reset shows the cut, such a download is streamed. Elsewhere what is short gets a length, and the rest a 505.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess

import pathological as bad
import pytest
from scene import MIB, gateway_of, is_cut, logged, main_sections, outcome, plain_headers, trace
from servers import START_SECONDS, free_port
from sockets import WAIT, answer, answering, chunked, receive, request, until

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
#: who serves, and whether a client of it can see a reset
SERVERS = {"gunicorn": True, "gunicorn_unix": False, "embedded": True, "waitress": False}
WAYS = ["direct", pytest.param("nginx", marks=pytest.mark.skipif(NGINX is None, reason="needs nginx"))]
SHORT, LONG = b"x" * 100_000, b"x" * (3 * MIB)
UNMEASURED = {"content_length": None, "transfer_encoding": "chunked", "content_type": "text/csv"}


class Served:
    """A gateway's way in: `port`, or `path` of a Unix socket; and the same behind nginx."""

    def __init__(self, name, gateway, path, nginx_port):
        self.name, self.gateway, self.path, self.nginx_port = name, gateway, path, nginx_port
        self.shows_reset = SERVERS[name]

    def connect(self, way="direct", small=False):
        to_path = way == "direct" and self.path
        sock = socket.socket(socket.AF_UNIX if to_path else socket.AF_INET)
        sock.settimeout(WAIT)
        if small and not to_path:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        port = self.gateway.port if way == "direct" else self.nginx_port
        sock.connect(str(self.path) if to_path else ("127.0.0.1", port))
        return sock

    def ask(self, way, data):
        with self.connect(way) as sock:
            sock.sendall(data)
            return receive(sock)


@pytest.fixture(scope="module", params=SERVERS)
def served(request, scene, tmp_path_factory):
    kind, _, is_unix = request.param.partition("_")
    folder = tmp_path_factory.mktemp(request.param)
    path = folder / "socket" if is_unix else None
    arguments = ["-b", f"unix:{path}"] if is_unix else []
    with contextlib.ExitStack() as stack:
        gateway = stack.enter_context(gateway_of(kind, scene, main_sections(scene), *arguments))
        to = f"unix:{path}:" if is_unix else f"127.0.0.1:{gateway.port}"
        port = stack.enter_context(nginx(folder, to)) if NGINX else 0
        yield Served(request.param, gateway, path, port)


@contextlib.contextmanager
def nginx(folder, to):
    """nginx with `proxy_pass` and nothing else; versions before 1.29.7 speak HTTP/1.0 to it then. Its port."""
    port = free_port()
    kept = " ".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log notice;\n"
        f"events {{ worker_connections 64; }}\nhttp {{ access_log off; {kept}\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{to}; proxy_http_version 1.0; }} }} }}\n",
        encoding="utf-8",
    )
    process = subprocess.Popen([NGINX, "-c", f"{folder}/nginx.conf", "-p", str(folder)], stderr=subprocess.DEVNULL)
    try:
        assert until(lambda: is_open(port))
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(WAIT)


def is_open(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def head(way, provider="brief", path="/v1/files/file-1/content", **more):
    """A request over HTTP/1.0; to nginx over HTTP/1.1, which passes it on over HTTP/1.0."""
    version = "1.0" if way == "direct" else "1.1"
    return request("GET", path, headers=plain_headers(provider, **more), version=version)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("content", [SHORT, LONG], ids=["short", "long"])
def test_whole_download_arrives_whole_or_is_refused(content, framing, way, served, stage):
    framed = answer(content) if framing == "length" else answer(chunked(content), **UNMEASURED)
    stage.play(answering(framed))
    reply = served.ask(way, head(way, "patient"))
    if framing == "length" or served.shows_reset or content is SHORT:
        assert (reply.status, reply.end) == (200, "fin") and reply.body == content
    else:
        assert outcome(reply) == (505, "http_version_not_supported")
        assert "proxy_http_version 1.1" in reply.error["message"] and reply.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("how", ["close", "reset", "stall"])
@pytest.mark.parametrize("size", [50_000, 2 * MIB], ids=["short", "long"])
def test_cut_download_never_looks_whole(size, how, way, served, stage):
    if how == "reset" and not served.shows_reset and size > MIB:
        how = "close"  # the gateway has refused it before: nobody is there to see a reset
    stage.play(bad.breaking(answer(chunked(LONG)[:size], **UNMEASURED), how))
    reply = served.ask(way, head(way))
    if served.shows_reset:
        assert reply.status == 502 or (reply.status == 200 and is_cut(reply))
    elif size < MIB:
        assert outcome(reply)[0] in (502, 504)
    else:
        assert outcome(reply) == (505, "http_version_not_supported")


def test_slow_reader_that_is_ended_by_its_total_sees_a_cut(served, stage):
    """It reads nothing until the gateway has ended it, then everything that is left."""
    stage.play(bad.endless(answer(b"", content_length=None), b"x" * 65536))
    if not served.shows_reset:
        assert outcome(served.ask("direct", head("direct", "hurried")))[0] == 505
        return
    name = trace()
    with served.connect(small=True) as sock:
        sock.sendall(head("direct", "hurried", x_portkey_trace_id=name))
        assert sock.recv(100).startswith(b"HTTP/1.")
        assert logged(served.gateway, name)["error"] in ("client_timeout", "upstream_timeout")
        assert receive(sock).end == "reset"


@pytest.mark.parametrize("way", WAYS)
def test_stream_of_events_is_served_and_one_that_is_cut_says_so(way, served, stage):
    body = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "Hi"}]}'
    headers = {**plain_headers("patient"), "content-type": "application/json"}
    asked = request("POST", "/v1/chat/completions", body, headers, version="1.0" if way == "direct" else "1.1")
    events = b"data: " + b"x" * 50_000 + b"\n\n"
    for last, seen in ((b"data: [DONE]\n\n", b"data: [DONE]\n\n"), (b"", b'"code":"upstream_error"}}\n\n')):
        stage.play(
            answering(answer(chunked(events * 10 + last), **{**UNMEASURED, "content_type": "text/event-stream"}))
        )
        reply = served.ask(way, asked)
        assert (reply.status, reply.end) == (200, "fin") and reply.body.endswith(seen)


def test_killed_worker_is_a_cut(scene, stage):
    """The kernel would end the connection normally."""
    for kind in ("gunicorn", "embedded"):
        with gateway_of(kind, scene, main_sections(scene)) as gateway, gateway.connect() as sock:
            stage.play(bad.breaking(answer(chunked(LONG)[: 2 * MIB], **UNMEASURED), "stall"))
            sock.sendall(head("direct", "patient"))
            seen = 0
            while seen < 2 * MIB - 100_000:
                seen += len(sock.recv(1 << 18))
            for pid in gateway.workers():
                os.kill(pid, signal.SIGKILL)
            assert receive(sock).end == "reset"
            if kind == "gunicorn":  # a worker that has just been forked would lose the signal that stops it
                assert until(gateway.is_ready, START_SECONDS)
