"""GET /v1/models over providers that hang or drip: five seconds for each, and no thread is left behind."""

from __future__ import annotations

import contextlib
import json
import threading
import time

import pytest
from sockets import Upstream, answer, ask, request, served, until

from filesproxy import create_app
from filesproxy.gateway.models import SECONDS

MODELS = {"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "a"}]}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n"
BEFORE = {"at once": b"", "in its head": b"HTTP/1.1 200 OK\r\nx-a: ", "in its body": HEAD + b'{"a": "'}


@pytest.mark.parametrize("drips", BEFORE)
def test_provider_that_hangs_costs_five_seconds_and_leaves_no_thread(drips):
    def slow(peer):
        peer.read_head()
        peer.send(BEFORE[drips])
        with contextlib.suppress(OSError):
            while BEFORE[drips]:
                peer.send(b"x")
                time.sleep(0.05)  # the drip itself
        peer.stall()

    def fast(peer):
        peer.read_head()
        peer.send(answer(MODELS))

    with Upstream(slow) as hangs, Upstream(fast) as answers:
        own = {"kind": "openai", "credential": "none", "min_rate": "1"}
        sections = {"provider:slow": {**own, "base_url": hangs.url}, "provider:fast": {**own, "base_url": answers.url}}
        with served(create_app(sections)) as server:
            began = time.monotonic()
            reply = ask(server.server_port, request("GET", "/v1/models"))
            assert time.monotonic() - began < SECONDS + 2
            assert [each["id"] for each in json.loads(reply.body)["data"]] == ["@fast/m"]
            assert reply.headers["x-filesproxy-ignored"] == "@slow"
            assert until(lambda: not [each for each in threading.enumerate() if each.name == "filesproxy models"])
