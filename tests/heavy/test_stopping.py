"""The end of a process: stopped, reloaded, replaced or killed in the middle of a download."""

from __future__ import annotations

import contextlib
import os
import signal

import pathological as bad
import pytest
from scene import CHUNKED_CUTS, CUTS, gateway_of, get, is_cut, main_sections, plain_headers
from servers import KINDS
from sockets import parsed, receive, request, until

SLOW = bytes(200_000)


@contextlib.contextmanager
def slow_download(gateway, stage, seconds=1.5):
    """A download under way: what its client will have seen, by calling the function."""
    stage.play(bad.paced([SLOW[:20_000]] * 10, seconds / 10, len(SLOW)))
    with gateway.connect(20) as sock:
        sock.sendall(request("GET", "/v1/files/file-1/content", headers=plain_headers("patient")))
        first = beginning(sock)
        yield lambda: parsed(first + receive(sock).raw)


def beginning(sock):
    """The answer's head and the first of its bytes."""
    got = b""
    while not got.partition(b"\r\n\r\n")[2]:
        got += sock.recv(1000)
    assert got.startswith(b"HTTP/1.1 200 ")
    return got


@pytest.mark.parametrize("kind", KINDS)
def test_stop_lets_a_download_end(kind, scene, stage):
    if kind == "waitress":
        pytest.skip("waitress has no handler for SIGTERM: it ends at once, which the test of SIGKILL covers")
    with gateway_of(kind, scene, main_sections(scene)) as gateway, slow_download(gateway, stage) as whole:
        gateway.process.send_signal(signal.SIGTERM)
        assert whole().body == SLOW
        assert gateway.process.wait(10) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_reload_lets_a_download_end_and_serves_on(kind, scene, stage):
    if kind != "gunicorn":
        pytest.skip(f"{kind} does not reload on SIGHUP: its default ends the process, as SIGKILL does")
    with gateway_of(kind, scene, main_sections(scene)) as gateway, slow_download(gateway, stage) as whole:
        old = set(gateway.workers())
        gateway.process.send_signal(signal.SIGHUP)
        assert until(lambda: len(set(gateway.workers()) - old) == 2, 5)
        assert get(gateway, "/v1/health").status == 200
        assert whole().body == SLOW


@pytest.mark.parametrize("kind", KINDS)
def test_worker_that_has_had_its_requests_lets_a_download_end(kind, scene, stage):
    if kind != "gunicorn":
        pytest.skip(f"{kind} has no max_requests")
    served_ones = gateway_of(kind, scene, main_sections(scene), "--workers", "1", "--max-requests", "3")
    with served_ones as gateway, slow_download(gateway, stage) as whole:
        for _ in range(8):
            assert until(lambda: is_healthy(gateway), 5)
        assert whole().body == SLOW


def is_healthy(gateway):
    with contextlib.suppress(OSError):
        return get(gateway, "/v1/health").status == 200


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_killed_worker_is_an_error_and_no_short_success(framing, kind, scene, stage):
    with gateway_of(kind, scene, main_sections(scene)) as gateway:
        begun = CUTS["after_99_bytes"] if framing == "length" else CHUNKED_CUTS["inside_a_chunk"]
        stage.play(bad.breaking(begun, "stall"))
        with gateway.connect(20) as sock:
            sock.sendall(request("GET", "/v1/files/file-1/content", headers=plain_headers("patient")))
            first = beginning(sock)
            for pid in gateway.workers():
                os.kill(pid, signal.SIGKILL)
            rest = receive(sock)
            assert is_cut(parsed(first + rest.raw, rest.end))
        if kind == "gunicorn":
            assert until(lambda: is_healthy(gateway), 5)
