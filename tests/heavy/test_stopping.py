"""The end of a process: stopped, reloaded, replaced or killed in the middle of a download."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pathological as bad
import pytest
from scene import CHUNKED_CUTS, CUTS, gateway_of, get, is_cut, main_sections, plain_headers
from servers import KINDS
from sockets import has_own_handlers, parsed, receive, request, until

DATA = bytes(range(250)) * 800


@contextlib.contextmanager
def download_under_way(gateway, stage):
    """A download of which half has come: calling the function lets the rest come, and says what its client has seen."""
    goes_on = threading.Event()
    stage.play(bad.in_two_parts(DATA[:20_000], DATA[20_000:], goes_on))

    def whole():
        goes_on.set()
        return parsed(first + receive(sock).raw)

    with gateway.connect(20) as sock:
        sock.sendall(request("GET", "/v1/files/file-1/content", headers=plain_headers("patient")))
        first = beginning(sock)
        yield whole


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
    with gateway_of(kind, scene, main_sections(scene)) as gateway, download_under_way(gateway, stage) as whole:
        gateway.process.send_signal(signal.SIGTERM)
        assert until(gateway.has_begun_to_stop)
        assert whole().body == DATA
        assert gateway.process.wait(10) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_reload_lets_a_download_end_and_serves_on(kind, scene, stage):
    if kind != "gunicorn":
        pytest.skip(f"{kind} does not reload on SIGHUP: its default ends the process, as SIGKILL does")
    with gateway_of(kind, scene, main_sections(scene)) as gateway, download_under_way(gateway, stage) as whole:
        old = set(gateway.workers())
        gateway.process.send_signal(signal.SIGHUP)
        assert until(lambda: len(set(gateway.workers()) - old) == 2)
        assert get(gateway, "/v1/health").status == 200
        assert whole().body == DATA


@pytest.mark.parametrize("kind", KINDS)
def test_worker_that_has_had_its_requests_lets_a_download_end(kind, scene, stage):
    if kind != "gunicorn":
        pytest.skip(f"{kind} has no max_requests")
    served_ones = gateway_of(kind, scene, main_sections(scene), "--workers", "1", "--max-requests", "3")
    with served_ones as gateway, download_under_way(gateway, stage) as whole:
        (old,) = gateway.workers()

        def is_over():
            assert is_healthy(gateway)
            return "Autorestarting worker" in gateway.err()

        assert until(is_over)
        assert whole().body == DATA
        assert until(lambda: is_healthy(gateway)) and gateway.workers() != [old]


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
            assert until(lambda: is_healthy(gateway))


def test_a_worker_that_was_reaped_since_its_id_was_read_has_no_handlers_and_fails_no_test():
    worker = subprocess.Popen([sys.executable, "-c", ""])
    worker.wait()
    assert not has_own_handlers(worker.pid)
