"""Calls for the sake of a request: one after the other, in the time of one, and nothing of them stays counted."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from fakes import FakeUpstream, hold_of, left, memory

from filesproxy.calls import Call, Target
from filesproxy.config.load import load
from filesproxy.errors import RequestTimeout, UpstreamTimeout
from filesproxy.exchange.side_calls import SideCalls
from filesproxy.providers import PROVIDERS

CALL = Call("retrieve_batch", "GET", "/batches/batch_1", file_id="batch_1")
LARGE = {"id": "batch_1", "text": "x" * 40_000}


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("filesproxy.exchange.side_calls.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def made(upstream, budget, seconds=None):
    settings = load({}, {}, PROVIDERS, {}).providers["openai"]
    target = Target("openai", PROVIDERS["openai"], settings["base_url"], settings)
    return SideCalls(target, {"https": upstream}, hold_of(budget), seconds)


def test_all_calls_together_have_the_time_of_one(clock):
    upstream = FakeUpstream()
    upstream.answers({"id": "batch_1"})
    side = made(upstream, memory(), 10.0)
    side(CALL)
    clock[0] += 7.5
    side(CALL)
    clock[0] += 2.5
    with pytest.raises(UpstreamTimeout):
        side(CALL)
    assert [call.timeout for call in upstream.calls] == [10.0, 2.5]


def test_time_that_the_client_did_not_limit_is_not_said_to_be_its_own(clock):
    upstream = FakeUpstream()
    upstream.answers({"id": "batch_1"})
    side = made(upstream, memory())
    side(CALL)
    clock[0] += 100
    side(CALL)
    assert [call.timeout for call in upstream.calls] == [None, None]
    assert [target.settings["answer_timeout"] for target in upstream.targets] == [120.0, 20.0]
    clock[0] += 20
    with pytest.raises(UpstreamTimeout) as caught:
        side(CALL)
    assert caught.value.status == 504


def test_time_that_the_client_limited_is_a_408(clock):
    upstream = FakeUpstream()
    upstream.answers({"id": "batch_1"})
    side = made(upstream, memory(), 5.0)
    side(CALL)
    clock[0] += 5
    with pytest.raises(RequestTimeout):
        side(CALL)


def test_what_is_left_to_do_for_a_stream_has_time_of_its_own(clock):
    upstream = FakeUpstream()
    upstream.answers({"id": "batch_1"})
    side = made(upstream, memory(), 10.0)
    side(CALL)
    side.end()
    clock[0] += 3600
    side(CALL)
    assert upstream.calls[-1].timeout is None


def test_answer_is_counted_until_the_next_call_or_the_end():
    upstream, budget = FakeUpstream(), memory(1 << 20)
    upstream.answers(LARGE)
    side = made(upstream, budget)
    side(CALL)
    counted = (1 << 20) - left(budget)
    assert counted >= len(json.dumps(LARGE))
    side(CALL)
    assert (1 << 20) - left(budget) == counted
    side.end()
    assert left(budget) == 1 << 20
    side(CALL)  # of a stream, of which nobody would say that it is over
    assert left(budget) == 1 << 20
    assert all(body.closed for body in upstream.bodies)
