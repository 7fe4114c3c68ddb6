"""Upstreams that refuse early, cannot be reached, say nothing, or drip."""

from __future__ import annotations

import time

import pathological as bad
import pytest
from scene import BRIEF, LATE, MIB, content, get, in_parallel, is_cut, logged, outcome, trace, upload, upload_of, within
from sockets import answer


def refusal(status):
    return answer({"error": {"message": "No, says the upstream.", "code": "told_early"}}, f"{status} No")


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("status", [413, 401])
def test_early_answer_of_an_upstream_that_closes_reaches_the_client(status, scheme, gateway, stage, scene):
    upstream = scene.secure if scheme == "https" else stage
    upstream.play(bad.early(refusal(status)))
    began = time.monotonic()
    reply = upload_of(200 * MIB, gateway, "secure" if scheme == "https" else "compat")
    assert outcome(reply) == (status, "told_early")
    assert gateway.kind == "waitress" or time.monotonic() - began < LATE  # waitress reads 200 MB before anything


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_early_answer_of_an_upstream_that_stops_reading_reaches_the_client(scheme, gateway, stage, scene):
    upstream = scene.secure if scheme == "https" else stage
    upstream.play(bad.early(refusal(413), "stop_reading"))
    with within(BRIEF + LATE + 0.5):
        reply = upload_of(50 * MIB, gateway, "secure-brief" if scheme == "https" else "brief")
    assert outcome(reply) == (413, "told_early")


UNREACHABLE = {
    "nowhere": (502, "upstream_unreachable"),
    "unresolved": (502, "upstream_unreachable"),
    "swallowed": (504, "upstream_timeout"),
}


@pytest.mark.parametrize("name", UNREACHABLE)
def test_upstream_that_cannot_be_reached_is_502_or_504(name, gateway, stage):
    with within(BRIEF + LATE):
        replies = in_parallel([lambda: get(gateway, provider=name), lambda: upload(gateway, provider=name)])
    assert [outcome(reply) for reply in replies] == [UNREACHABLE[name]] * 2
    assert stage.calls() == 0


def test_upstream_that_never_answers_is_504(gateway, stage):
    for script in (bad.silent, bad.deaf):
        stage.play(script)
        with within(BRIEF + LATE):
            calls = [lambda call=call: call(gateway, provider="brief") for call in (get, content, upload)]
            assert [outcome(reply) for reply in in_parallel(calls)] == [(504, "upstream_timeout")] * 3


HEAD_DRIPS = {"value": bad.DRIPPING_HEAD, "lines": bad.DRIPPING_LINES, "informational": bad.DRIPPING_INFORMATIONAL}


@pytest.mark.parametrize("name", HEAD_DRIPS)
def test_dripping_head_is_504_in_the_time_to_the_answer(name, gateway, stage):
    stage.play(HEAD_DRIPS[name])
    with within(BRIEF + LATE):
        calls = [lambda call=call: call(gateway, provider="brief") for call in (get, content, upload)]
        assert [outcome(reply) for reply in in_parallel(calls)] == [(504, "upstream_timeout")] * 3


def test_dripping_json_is_504_in_the_total(gateway, stage):
    for script in (bad.DRIPPING_JSON, bad.DRIPPING_CHUNKS):
        stage.play(script)
        with within(BRIEF + LATE):
            calls = [lambda call=call: call(gateway, provider="hurried") for call in (get, upload)]
            assert [outcome(reply) for reply in in_parallel(calls)] == [(504, "upstream_timeout")] * 2


def test_dripping_content_is_cut_in_the_total(gateway, stage):
    for script in (bad.DRIPPING_CONTENT, bad.DRIPPING_CHUNKS):
        stage.play(script)
        name = trace()
        with within(BRIEF + LATE):
            reply = content(gateway, "hurried", x_portkey_trace_id=name)
        assert reply.status == 200 and is_cut(reply)
        if gateway.kind != "waitress":
            assert logged(gateway, name)["error"] in ("upstream_timeout", "client_timeout")
