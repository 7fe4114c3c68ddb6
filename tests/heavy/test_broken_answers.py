"""Answers that are cut, endless or ambiguous, and headers that no client may see."""

from __future__ import annotations

import json

import pathological as bad
import pytest
from fakes import FILE
from scene import (
    CHUNKED_CUTS,
    CUTS,
    LATE,
    MIB,
    ask,
    content,
    get,
    growing_at_most,
    is_cut,
    outcome,
    plain_headers,
    upload,
    within,
)
from sockets import answer, answering, chunked, request


@pytest.mark.parametrize("how", ["close", "reset", "stall"])
@pytest.mark.parametrize("name", CUTS)
def test_download_that_is_cut_by_length_never_looks_whole(name, how, gateway, stage):
    stage.play(bad.breaking(CUTS[name], how))
    reply = content(gateway, "brief")
    assert reply.status in (502, 504) if name == "before_the_first_byte" else is_cut(reply)


@pytest.mark.parametrize("how", ["close", "reset", "stall"])
@pytest.mark.parametrize("name", CHUNKED_CUTS)
def test_download_that_is_cut_in_chunks_never_looks_whole(name, how, gateway, stage):
    stage.play(bad.breaking(CHUNKED_CUTS[name], how))
    reply = content(gateway, "brief")
    assert reply.status == 200 and is_cut(reply)


@pytest.mark.parametrize("how", ["close", "reset", "stall"])
@pytest.mark.parametrize("name", CHUNKED_CUTS)
def test_download_that_is_cut_is_reset_for_an_http_1_0_client(name, how, gateway, stage):
    """nginx's default `proxy_pass` speaks HTTP/1.0, where an answer without a length ends with the connection."""
    if gateway.kind == "waitress":
        pytest.skip("waitress shows no client socket: tests/heavy/test_http_1_0.py")
    stage.play(bad.breaking(CHUNKED_CUTS[name], how))
    head = request("GET", "/v1/files/file-1/content", headers=plain_headers("brief"), version="1.0")
    reply = ask(gateway, head)
    assert reply.status == 200 and "content-length" not in reply.headers
    assert reply.end == "reset"


def test_metadata_that_is_cut_is_502(gateway, stage):
    half = chunked(json.dumps(FILE).encode())[:-9]
    for framed in (answer(FILE)[:-9], answer(half, content_length=None, transfer_encoding="chunked")):
        for how, status in (("close", 502), ("reset", 502), ("stall", 504)):
            stage.play(bad.breaking(framed, how))
            assert outcome(get(gateway, provider="brief"))[0] == status


INFORMATIONAL = {
    "hints": ([bad.HINTS], 200),
    "continue_and_hints": ([bad.CONTINUE, bad.HINTS, bad.CONTINUE], 200),
    "20_continues": ([bad.CONTINUE * 20], 502),
    "20_hints": ([bad.HINTS * 20], 502),
    "switching": ([bad.SWITCHING], 502),
}


@pytest.mark.parametrize("name", INFORMATIONAL)
def test_informational_answers_are_passed_over_but_not_for_ever(name, gateway, stage):
    blocks, status = INFORMATIONAL[name]
    stage.play(answering(*blocks, answer(FILE)))
    assert [outcome(call(gateway))[0] for call in (get, content, upload)] == [status] * 3


BROKEN = {**bad.GARBAGE, **bad.BAD_FRAMING, **bad.HUGE_HEADERS}


@pytest.mark.parametrize("name", BROKEN)
def test_answer_that_two_readers_could_read_differently_is_502(name, gateway, stage):
    stage.play(answering(BROKEN[name]))
    assert [outcome(call(gateway))[0] for call in (get, content, upload)] == [502] * 3


def test_what_is_merely_odd_is_relayed_without_its_oddity(gateway, stage):
    stage.play(answering(answer({"error": {"message": "No."}}, "599 Whatever")))
    assert get(gateway).status == 599
    stage.play(answering(bad.BARE_CR))
    reply = get(gateway)
    assert reply.status in (200, 502) and "set-cookie" not in reply.headers
    assert b"\r" not in reply.raw.partition(b"\r\n\r\n")[0].replace(b"\r\n", b"")


PRIVATE = {
    "set_cookie": "a=b", "server": "nginx/1.31", "keep_alive": "timeout=5", "via": "1.1 a", "x_powered_by": "x",
    "x_ratelimit_limit": "9\r\n folded", "trailer": "x", "upgrade": "h2c", "access_control_allow_origin": "*",
    "connection": "x-powered-by", "openai_version": "a\x01b",
}  # fmt: skip


def test_private_headers_of_the_upstream_are_not_passed_on(gateway, stage):
    for framing in ({}, {"content_length": None, "transfer_encoding": "chunked"}):
        body = chunked(b"hello") if framing else b"hello"
        stage.play(answering(answer(body, **PRIVATE, **framing, content_type="text/csv")))
        reply = content(gateway)
        assert b"hello" in reply.body and reply.headers["content-type"] == "text/csv"
        left = {name.replace("_", "-") for name in PRIVATE} - {"server", "connection", "via"}
        assert not reply.headers.keys() & left
        assert "nginx/1.31" not in str(reply.headers) and "x-powered-by" not in str(reply.headers)
        assert reply.headers.get("via", "") != "1.1 a"  # waitress has one of its own


@pytest.mark.parametrize(
    "status,deletion", [("204 No Content", 200), ("205 Reset Content", 200), ("304 Not Modified", 502)]
)
def test_answer_without_content_is_502_except_to_a_deletion(status, deletion, gateway, stage):
    stage.play(answering(answer(b"", status, content_length=None, content_type=None)))
    replies = [get(gateway), content(gateway), upload(gateway), get(gateway, method="DELETE")]
    assert [outcome(reply)[0] for reply in replies] == [502, 502, 502, deletion]


HUGE = {"bomb": bad.gzip_bomb(), "json": bad.ENDLESS_JSON}


@pytest.mark.parametrize("name", HUGE)
def test_answer_without_end_is_502_and_costs_little(name, gateway, stage):
    stage.play(HUGE[name])
    with within(2 * LATE), growing_at_most(gateway, 64 * MIB):
        for call in (get, upload):
            reply = call(gateway, provider="patient")
            assert reply.status == 502
            assert reply.error["code"] in ("upstream_answer_too_large", "upstream_invalid_answer")
    if name == "json":
        assert max(peer.sent for peer in stage.peers) < 32 * MIB


def test_error_without_end_keeps_its_status_and_costs_little(gateway, stage):
    stage.play(bad.ENDLESS_ERROR)
    with within(LATE), growing_at_most(gateway, 8 * MIB):
        assert get(gateway).status == 400
    assert stage.peer.sent < 16 * MIB
