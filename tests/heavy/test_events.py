"""Streams of events under gunicorn: a long one costs no memory, and the first event does not wait for the second."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))

from events import PARTS, Upstream, ask, gateway_before, resident

pytest.importorskip("gunicorn", reason="needs gunicorn")


@pytest.fixture(scope="module")
def upstream():
    streaming = Upstream()
    streaming.start()
    yield streaming
    streaming.listener.close()


@pytest.mark.parametrize("provider", PARTS)
def test_stream_of_100_000_events_arrives_whole_and_costs_no_memory(provider, upstream, tmp_path):
    upstream.kind = provider
    with gateway_before(upstream, tmp_path) as gateway:
        upstream.events = 1000
        ask(gateway.port, provider)
        before, upstream.events = resident(gateway), 100_000
        _, _, count = ask(gateway.port, provider)
        assert count == 100_000
        assert resident(gateway) - before <= 4  # MiB at the peak; one event more or less is 100 bytes
