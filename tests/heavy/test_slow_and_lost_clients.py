"""Clients that leave, stall, drip or read slowly: nothing whole arrives upstream, and their threads come back."""

from __future__ import annotations

import contextlib
import select
import socket
import time

import pathological as bad
import pytest
from scene import (
    BRIEF,
    CLIENT_IDLE,
    FILE_HEAD,
    LATE,
    MIB,
    PURPOSE,
    WAITRESS_TAKES_ALL,
    ask,
    checked,
    gateway_of,
    get,
    growing_at_most,
    in_parallel,
    left_incomplete,
    logged,
    main_sections,
    open_files,
    outcome,
    plain_headers,
    skip_where,
    trace,
    upload_head,
    within,
)
from sockets import WAIT, answer, chunked, receive, request, reset, until


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_client_that_ends_halfway_completes_nothing(framing, gateway, stage):
    block, name = PURPOSE + FILE_HEAD + bytes(3 * MIB), trace()
    if framing == "length":
        head = upload_head(content_length=str(6 * MIB), x_portkey_trace_id=name)
    else:
        head, block = upload_head(transfer_encoding="chunked", x_portkey_trace_id=name), chunked(block)[:-5]
    reply = ask(gateway, head, block, half_close=True)
    assert reply.status == 0 or outcome(reply) == (400, "client_aborted")
    assert left_incomplete(stage, gateway)
    if gateway.kind != "waitress":  # which never calls the application
        assert logged(gateway, name)["error"] == "client_aborted"


def test_client_that_resets_completes_nothing(gateway, stage):
    name = trace()
    with gateway.connect() as sock:
        sock.sendall(upload_head(content_length=str(6 * MIB), x_portkey_trace_id=name) + PURPOSE + FILE_HEAD)
        sock.sendall(bytes(3 * MIB))
        if gateway.kind != "waitress":
            assert until(lambda: stage.calls())
        reset(sock)
    if gateway.kind != "waitress":
        assert logged(gateway, name)["error"] == "client_aborted"
    assert left_incomplete(stage, gateway)


BAD_CHUNKS = {"no_size": b"zz\r\n", "negative": b"-1\r\n", "no_end": b"3\r\nabcde\r\n0\r\n\r\n"}


@pytest.mark.parametrize("name", BAD_CHUNKS)
def test_bad_chunk_completes_nothing(name, gateway, stage):
    good = chunked(PURPOSE + FILE_HEAD + bytes(3 * MIB))[:-5]
    reply = ask(gateway, upload_head(transfer_encoding="chunked"), good, BAD_CHUNKS[name], half_close=True)
    assert reply.status in (0, 400)
    assert left_incomplete(stage, gateway)


@contextlib.contextmanager
def stalled(gateway, count, provider, size=100_000):
    """So many clients in the middle of an upload, silent."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(gateway.connect(WAIT)) for _ in range(count)]
        for sock in held:
            sock.sendall(upload_head(provider, content_length=str(MIB)) + PURPOSE + FILE_HEAD + bytes(size))
        yield held


def seconds_of_a_call(gateway):
    began = time.monotonic()
    assert get(gateway).status == 200
    return time.monotonic() - began


def test_stalled_clients_are_ended_and_others_are_served(gateway, stage):
    """By the idle limit under gunicorn, by the total under the embedded server."""
    provider, limit = ("compat", CLIENT_IDLE) if gateway.kind == "gunicorn" else ("hurried", BRIEF)
    before = len(gateway.lines(error="client_timeout"))
    began = time.monotonic()
    with stalled(gateway, 64, provider) as held:
        seconds = [seconds_of_a_call(gateway) for _ in range(10)]
        assert max(seconds) < LATE
        if gateway.kind == "waitress":
            return  # it holds no thread for them: the four that it has have just answered
        replies = in_parallel([lambda sock=sock: checked(receive(sock)) for sock in held])
    assert time.monotonic() - began < limit + LATE
    assert {outcome(reply) for reply in replies if reply.status} <= {(408, "client_timeout")}
    assert len(gateway.wait_for_lines(before + 64, error="client_timeout")) == before + 64


def test_as_many_stalled_clients_as_threads_give_them_back(gateway, stage, scene):
    """Clients that neither send, nor read, nor hang up. One address gets no more than its share of threads."""
    skip_where(gateway, "waitress", WAITRESS_TAKES_ALL + "a stalled client never has a thread")
    with contextlib.ExitStack() as stack:
        full, count, provider, limit = gateway, 256, "unhurried", 2  # MAX_CONNECTIONS of the embedded server
        if gateway.kind == "gunicorn":
            small = gateway_of("gunicorn", scene, main_sections(scene), "--workers", "1", "--threads", "4")
            full, count, provider, limit = stack.enter_context(small), 4, "compat", CLIENT_IDLE

        def is_refused():
            """One that is served may have had the place of the last stalled one: then there is room for one more."""
            if outcome(get(full)) == (429, "caller_busy"):
                return True
            stack.enter_context(stalled(full, 1, provider, size=1000))
            return False

        began = time.monotonic()
        stack.enter_context(stalled(full, count, provider, size=1000))
        assert until(is_refused, limit)
        assert get(full, "/v1/health").status == 200
        assert until(lambda: get(full).status == 200, limit + LATE)
        print(f"{gateway.kind}: a thread was back after {time.monotonic() - began:.2f} s, the limit was {limit} s")
        assert time.monotonic() - began < limit + LATE + 0.5


def drip(sock, block, seconds=WAIT):
    """Send a byte of this block now and then until there is an answer; what came."""
    end = time.monotonic() + seconds
    with contextlib.suppress(ConnectionError):
        while time.monotonic() < end and not select.select([sock], [], [], 0.1)[0]:
            sock.sendall(block)
    assert time.monotonic() < end
    return checked(receive(sock))


@pytest.fixture(scope="module")
def hasty(gateway, scene):
    """A gateway whose own total is short, which holds until it knows the provider."""
    sections = main_sections(scene)
    sections["filesproxy"].update(total_timeout=BRIEF, min_rate=64 * MIB)
    with gateway_of(gateway.kind, scene, sections) as running_one:
        yield running_one


DRIPS = {  # who sets the total, the framing, the bytes before the drip: an upload is relayed by blocks of a mebibyte
    "provider_before_the_call": ("provider", "length", 1000),
    "provider_during_the_call": ("provider", "chunked", 3 * MIB),
    "application_before_the_call": ("application", "chunked", 1000),
    "application_during_the_call": ("application", "length", 3 * MIB),
}


@pytest.mark.parametrize("name", DRIPS)
def test_dripping_upload_is_ended_by_its_total(name, gateway, hasty, stage):
    skip_where(gateway, "waitress", WAITRESS_TAKES_ALL + "a dripping client never has a thread")
    set_by, framing, size = DRIPS[name]
    at, provider = (gateway, "hurried") if set_by == "provider" else (hasty, "compat")
    body, drop = PURPOSE + FILE_HEAD + bytes(size), b"a"
    framed = {"content_length": str(100 * MIB)}
    if framing == "chunked":
        body, drop, framed = chunked(body)[:-5], b"1\r\na\r\n", {"transfer_encoding": "chunked"}
    with within(BRIEF + LATE), at.connect() as sock:
        sock.sendall(upload_head(provider, **framed) + body)
        reply = drip(sock, drop)
    assert outcome(reply) == (408, "client_timeout")
    assert stage.calls() == 0 or not stage.peer.complete


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_client_that_leaves_mid_download_frees_the_upstream(leave, gateway, stage):
    get(gateway)
    before = open_files(gateway)
    stage.play(bad.ENDLESS_CONTENT)
    with gateway.connect() as sock:
        sock.sendall(request("GET", "/v1/files/file-1/content", headers=plain_headers("patient")))
        assert sock.recv(1000)
        if leave == "reset":
            reset(sock)
    assert until(lambda: stage.peers[0].over.is_set(), LATE)
    assert until(lambda: open_files(gateway) <= before)


def test_client_that_leaves_a_silent_download_frees_the_upstream(gateway, stage):
    skip_where(gateway, "waitress", "waitress shows no client socket: it is noticed at the next byte, or read_timeout")
    stage.play(bad.breaking(answer(b"a" * 1000, content_length="5000"), "stall"))
    with gateway.connect() as sock:
        sock.sendall(request("GET", "/v1/files/file-1/content", headers=plain_headers("patient")))
        assert sock.recv(1000)
    assert until(lambda: stage.peers[0].over.is_set(), LATE)


def test_slow_reader_of_a_gibibyte_costs_little_and_is_ended(gateway, stage):
    skip_where(gateway, "waitress", "waitress holds outbuf_high_watermark (16 MiB) itself, and shows no client socket")
    stage.play(bad.ENDLESS_CONTENT)
    name, provider = trace(), "patient" if gateway.kind == "gunicorn" else "hurried"
    with contextlib.closing(socket.socket()) as sock, growing_at_most(gateway, 8 * MIB):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        sock.connect(("127.0.0.1", gateway.port))
        head = request("GET", "/v1/files/file-1/content", headers=plain_headers(provider, x_portkey_trace_id=name))
        sock.sendall(head)
        began = time.monotonic()
        assert get(gateway, "/v1/health").status == 200
        assert until(lambda: stage.peers and stage.peers[0].over.is_set(), CLIENT_IDLE + LATE)
        assert time.monotonic() - began < CLIENT_IDLE + LATE
    print(f"{gateway.kind}: {stage.peers[0].sent / MIB:.1f} MiB were in flight")
    assert stage.peers[0].sent < 16 * MIB  # of it the kernel's buffers, of two connections
    assert logged(gateway, name)["error"] in ("client_timeout", "client_aborted")
