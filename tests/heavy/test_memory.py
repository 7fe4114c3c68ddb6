"""Memory bombs under gunicorn: JSON that is mostly brackets, many at the same time, in one worker."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
from scene import MIB, gateway_of, growing_at_most, in_parallel, main_sections, plain_headers
from sockets import answer, receive, request

DENSE = b"[" + b'{"a":1},' * 499_990 + b"{}]"  # 4 MB, which parsed take 120 MB
COUNT = 24


@pytest.fixture
def worker(scene):
    """A gateway with one worker."""
    with gateway_of("gunicorn", scene, main_sections(scene), "--workers", "1") as gateway:
        yield gateway


def asked(gateway, data, source="127.0.0.1"):
    with gateway.connect(60, source) as sock:
        with contextlib.suppress(OSError):  # a refusal may come before all of it is sent
            sock.sendall(data)
        return receive(sock)


@pytest.mark.parametrize("callers", [1, COUNT])  # without keys, addresses
@pytest.mark.parametrize("side", ["requests", "answers"])
def test_dense_json_costs_its_budget_and_no_more(side, callers, worker, stage):
    """48 such answers took 3.4 GiB, and 32 such requests 2.9 GiB."""
    gate = threading.Barrier(COUNT)  # all are there at the same time
    body = b'{"id":"file-1","x":' + DENSE + b"}"

    def script(peer):
        peer.read_request()
        if side == "answers":
            with contextlib.suppress(threading.BrokenBarrierError):
                gate.wait(20)
            peer.send(answer(body))
        else:
            while len(peer.received) < len(DENSE) and peer.read():
                pass
            time.sleep(2)  # real time: a model that thinks while the others come
            peer.send(answer({}))

    stage.play(script)
    data = request("GET", "/v1/files/file-1", headers=plain_headers("patient"))
    if side == "requests":
        chat = b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"x":' + DENSE + b"}"
        headers = {**plain_headers("patient"), "content-type": "application/json"}
        data = request("POST", "/v1/chat/completions", chat, headers)
    with growing_at_most(worker, 300 * MIB):
        sources = [f"127.0.0.{1 + number % callers}" for number in range(COUNT)]
        replies = in_parallel([lambda source=source: asked(worker, data, source) for source in sources])
    refusals = {503: "saturated"} if callers > 1 else {503: "saturated", 429: "caller_busy"}
    statuses = {reply.status for reply in replies if reply.status}
    assert statuses <= {200, *refusals} and statuses & set(refusals) and (200 in statuses or callers == 1)
    refused = [reply for reply in replies if reply.status in refusals]
    assert all(reply.error["code"] == refusals[reply.status] and reply.headers["retry-after"] for reply in refused)
    assert asked(worker, request("GET", "/v1/health", headers={"connection": "close"})).status == 200
