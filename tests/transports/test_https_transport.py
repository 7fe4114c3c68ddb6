"""The socket half towards providers: what goes out byte for byte, and every way in which an upstream can misbehave."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import random
import re
import socket
import threading
import time
from email import message_from_bytes

import pytest
from fakes import FILE, form, form_type
from pathological import breaking, refusing
from sockets import (
    COMPAT,
    SOON,
    WAIT,
    Upstream,
    answer,
    answering,
    ask,
    chunked,
    connect,
    dechunked,
    get,
    open_files,
    parsed,
    receive,
    request,
    reset,
    served,
    until,
)

from filesproxy import __version__, create_app
from filesproxy.calls import Call, Target, Upload
from filesproxy.errors import ClientTimeout, UpstreamError
from filesproxy.serving import embedded
from filesproxy.transports.https import transport
from filesproxy.transports.https.transport import HttpTransport
from filesproxy.watchdog import Watch

UPLOAD_HEADERS = {**COMPAT, "content-type": form_type()}
UPLOAD = form(("purpose", "batch"), ("file", "a.jsonl", "application/jsonl", b"hello"))
BIG = form(("purpose", "batch"), ("file", "a.bin", "", bytes(50 << 20)))  # more than all buffers on the way take
MEDIUM = form(("purpose", "batch"), ("file", "a.bin", "", bytes(12 << 20)))  # less, and more than is sent in one go
BRIEF = 0.1  # seconds of real time, where a test waits for a limit: it is the kernel or a poll that keeps it
LIMITS = {"connect_timeout": 5.0, "send_timeout": 5.0, "answer_timeout": 5.0, "read_timeout": 5.0}
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def refused_upload_is_read_to_its_end(monkeypatch):
    """However long a busy machine takes for it: a client that is reset while it sends would be an error of the test."""
    monkeypatch.setattr(embedded, "LINGER_SECONDS", 10 * WAIT)
    monkeypatch.setattr(embedded, "LINGER_SILENCE_SECONDS", WAIT)


def compat(port, **settings):
    """The gateway with one provider on this port."""
    settings = {"kind": "openai", "base_url": f"http://127.0.0.1:{port}/v1", **settings}
    return create_app({"filesproxy": {"max_upload_bytes": 1 << 30, "via_name": "here"}, "provider:compat": settings})


def upload(port, body=UPLOAD, **headers):
    return ask(port, request("POST", "/v1/files", body, {**UPLOAD_HEADERS, **headers}))


def metadata(script, **settings):
    """What a client gets for a file's metadata, in front of this upstream."""
    with Upstream(script) as upstream, served(compat(upstream.port, **settings)) as server:
        return get(server.server_port, "/v1/files/file-1")


def content(script, **settings):
    with Upstream(script) as upstream, served(compat(upstream.port, **settings)) as server:
        return get(server.server_port, "/v1/files/file-1/content")


# What goes out

HEADS = {
    "retrieve_file": ("GET", "/v1/files/file-1", "GET /v1/files/file-1", "application/json"),
    "content": ("GET", "/v1/files/file-1/content", "GET /v1/files/file-1/content", "*/*"),
    "delete_file": ("DELETE", "/v1/files/file-1", "DELETE /v1/files/file-1", "application/json"),
    "list_files": ("GET", "/v1/files?limit=2&x=y", "GET /v1/files?limit=2&x=y", "application/json"),
}


@pytest.mark.parametrize("name", HEADS)
def test_head_that_is_sent_has_these_bytes_and_no_others(name):
    method, path, line, accept = HEADS[name]
    from_client = {
        **COMPAT, "connection": "keep-alive, x-evil", "x-evil": "1", "cookie": "a=b", "user-agent": "curl/8",
        "x-forwarded-for": "10.0.0.1", "proxy": "http://10.0.0.1:1", "accept-encoding": "br", "expect": "100-continue",
        "te": "trailers", "upgrade": "h2c", "range": "bytes=0-1", "if-range": '"tag 1"', "if-none-match": '"tag 1"',
        "x-portkey-openai-project": "proj-1", "x-portkey-request-timeout": "60000",
    }  # fmt: skip
    ranged = 'range: bytes=0-1\r\nif-range: "tag 1"\r\n' if name == "content" else ""
    with Upstream(answering(answer(FILE))) as upstream, served(compat(upstream.port)) as server:
        get(server.server_port, path, from_client, method)
        head = (
            f"{line} HTTP/1.1\r\nhost: 127.0.0.1:{upstream.port}\r\nuser-agent: filesproxy/{__version__}\r\n"
            f"accept-encoding: identity\r\naccept: {accept}\r\n"
            f"openai-project: proj-1\r\n{ranged}authorization: Bearer sk-caller\r\nvia: 1.1 here\r\n\r\n"
        )
        assert bytes(upstream.peer.received) == head.encode()


def test_upload_that_becomes_overdue_between_a_read_and_a_send_is_the_slow_clients_fault():
    watch = Watch()
    watch.total = 1

    def drip():
        yield b"a"
        watch.check(float("inf"))
        yield bytes(1 << 20)

    with Upstream(answering(answer(FILE))) as upstream:
        call = Call("upload_file", "POST", "/files", upload=Upload("a", "", {}, drip()), watch=watch,
                    url=f"{upstream.url}/files")  # fmt: skip
        with pytest.raises(ClientTimeout):
            HttpTransport()(call, Target("compat", {}, upstream.url, LIMITS))


def test_upload_is_framed_once_and_has_our_boundary():
    with Upstream(answering(answer(FILE))) as upstream, served(compat(upstream.port)) as server:
        assert upload(server.server_port).json == FILE
        head = upstream.peer.head.decode()
    names = [line.partition(":")[0] for line in head.split("\r\n")[1:-2]]
    assert sorted(names) == ["accept", "accept-encoding", "authorization", "content-type", "host", "transfer-encoding",
                             "user-agent", "via"]  # fmt: skip
    assert "\r\ntransfer-encoding: chunked\r\n" in head
    assert re.search(r"\r\ncontent-type: multipart/form-data; boundary=[0-9a-f]{32}\r\n", head)


def test_upload_decodes_to_the_right_parts_in_the_right_order():
    body = form(("purpose", "batch"), ("shade", "blue"),
                ("file", 'naïve "日本".jsonl', "application/jsonl", b"a\r\n\0"),
                ("expires_after[anchor]", "created_at"), ("expires_after[seconds]", "3600"))  # fmt: skip
    body = body.replace('naïve "日本"'.encode(), 'naïve \\"日本\\"'.encode())
    with Upstream(answering(answer(FILE))) as upstream, served(compat(upstream.port)) as server:
        assert upload(server.server_port, body).status == 200
        head, sent = upstream.peer.head, upstream.peer.body
    parts = message_from_bytes(head.partition(b"\r\n")[2] + sent).get_payload()
    assert [
        (part["content-disposition"], part["content-type"], part.get_payload(decode=True)) for part in parts[:1]
    ] == [('form-data; name="purpose"', None, b"batch")]
    assert [part.get_param("name", header="content-disposition") for part in parts] == [
        "purpose", "file", "expires_after[anchor]", "expires_after[seconds]"
    ]  # fmt: skip
    assert parts[1]["content-type"] == "application/jsonl"
    assert parts[1].get_payload(decode=True) == b"a\r\n\0"
    assert 'filename="naïve %22日本%22.jsonl"\r\n'.encode() in sent


@pytest.mark.parametrize("name", ["content_length", "chunked"])
def test_upload_of_several_mebibytes_keeps_its_sha256(name):
    data = random.Random(7).getrandbits(8 * (5 << 20)).to_bytes(5 << 20, "big")
    body = form(("purpose", "batch"), ("file", "a.bin", "", data))
    headers = {} if name == "content_length" else {"transfer-encoding": "chunked"}
    with Upstream(answering(answer(FILE))) as upstream, served(compat(upstream.port)) as server:
        assert upload(server.server_port, chunked(body, 70001) if headers else body, **headers).status == 200
        sent = upstream.peer.body
    file = sent.split(b"\r\n\r\n", 2)[2].rpartition(b"\r\n--")[0]
    assert hashlib.sha256(file).hexdigest() == hashlib.sha256(data).hexdigest()


def test_nothing_is_sent_for_a_scheme_that_is_not_http():
    target = Target("compat", {}, "", {})
    for url in ("file:///etc/hostname", "ftp://127.0.0.1/x", "data:text/plain,x", "gopher://127.0.0.1/"):
        with pytest.raises(UpstreamError) as caught:
            HttpTransport()(Call("retrieve_file", "GET", "/", url=url), target)
        assert caught.value.code == "upstream_address"


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\r\n folded", "a\0b", "a\nb", "日"])
def test_header_that_could_split_the_request_is_never_sent(value):
    with Upstream(answering(answer(FILE))) as upstream:
        url = f"{upstream.url}/files/file-1"
        with pytest.raises(UpstreamError) as caught:
            call = Call("retrieve_file", "GET", "/files/file-1", headers={"x-evil": value}, url=url)
            HttpTransport()(call, Target("compat", {}, upstream.url, LIMITS))
        assert caught.value.code == "upstream_address"
        assert all(not peer.received for peer in upstream.peers)


# Uploads that end before their end


def left_without_success(upstream):
    """The upstream saw the connection end, and no final chunk."""
    peer = upstream.peer
    return peer.ended != "" and not peer.complete and b"--\r\n" not in peer.received[-8:]


LATE = {
    "no_purpose": form(("file", "a", "", b"x" * 9999)),
    "second_file": form(("purpose", "batch"), ("file", "a", "", b"x" * 9999), ("file", "b", "", b"y")),
    "half_an_expiry": form(("purpose", "batch"), ("file", "a", "", b"x"), ("expires_after[seconds]", "3600")),
    "no_closing_boundary": UPLOAD[:-6],
}


@pytest.mark.parametrize("name", LATE)
def test_late_error_of_the_form_leaves_the_upstream_without_the_final_chunk(name):
    with Upstream(answering(answer(FILE))) as upstream, served(compat(upstream.port)) as server:
        assert upload(server.server_port, LATE[name]).status == 400
        assert left_without_success(upstream)


def test_upload_over_the_limit_by_counting_is_413_and_completes_nothing():
    with Upstream(answering(answer(FILE))) as upstream:
        section = {"kind": "openai", "base_url": upstream.url}
        app = create_app({"filesproxy": {"max_upload_bytes": 3 << 20}, "provider:compat": section})
        body = form(("purpose", "batch"), ("file", "a", "", bytes(4 << 20)))
        with served(app) as server:
            reply = upload(server.server_port, chunked(body), **{"transfer-encoding": "chunked"})
        assert (reply.status, reply.error["code"]) == (413, "request_too_large")
        assert left_without_success(upstream)


LONG = form(("purpose", "batch"), ("file", "a.bin", "", bytes(3 << 20)))
BROKEN_BY_THE_CLIENT = {
    "fin_at_half_of_the_length": (request("POST", "/v1/files", LONG, UPLOAD_HEADERS)[: -len(LONG) // 2], False),
    "fin_inside_a_chunk": (
        request("POST", "/v1/files", chunked(LONG)[:-700], {**UPLOAD_HEADERS, "transfer-encoding": "chunked"}), False),
    "no_final_chunk": (
        request("POST", "/v1/files", chunked(LONG)[:-5], {**UPLOAD_HEADERS, "transfer-encoding": "chunked"}), False),
    "bad_chunk": (
        request("POST", "/v1/files", chunked(LONG)[:-5] + b"x\r\n", {**UPLOAD_HEADERS, "transfer-encoding": "chunked"}),
        False),
    "reset_at_half_of_the_length": (request("POST", "/v1/files", LONG, UPLOAD_HEADERS)[: -len(LONG) // 2], True),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_BY_THE_CLIENT)
def test_client_that_breaks_off_leaves_the_upstream_without_success(name):
    data, by_reset = BROKEN_BY_THE_CLIENT[name]
    with Upstream(answering(answer(FILE))) as upstream, served(compat(upstream.port)) as server:
        with connect(server.server_port) as client:
            client.sendall(data)
            assert until(lambda: upstream.peers and len(upstream.peers[0].received) > 1000)
            if by_reset:
                reset(client)
            else:
                client.shutdown(socket.SHUT_WR)
                assert receive(client).status == 400
        assert left_without_success(upstream)


# Answers that come before the upload has ended


EARLY = {
    "closes": refusing(lambda peer: None),
    "resets": refusing(lambda peer: peer.reset()),
    "keeps_open_and_stops_reading": refusing(lambda peer: peer.stall()),
    "keeps_open_and_reads_on": refusing(lambda peer: peer.read_to_end()),
    "at_the_head": refusing(lambda peer: peer.stall(), first=1),
    "half_closes_and_stops_reading": refusing(lambda peer: (peer.sock.shutdown(socket.SHUT_WR), peer.stall())),
}


@pytest.mark.parametrize("name", EARLY)
def test_early_413_reaches_a_caller_who_is_sending_12_megabytes(name):
    with Upstream(EARLY[name]) as upstream, served(compat(upstream.port)) as server:
        started = time.monotonic()
        reply = upload(server.server_port, MEDIUM)
        assert time.monotonic() - started < SOON
        assert (reply.status, reply.error["message"]) == (413, "Too big.")
        assert not upstream.peers[0].complete


def test_413_of_an_upstream_that_first_stops_reading_comes_after_the_send_timeout():
    def script(peer):
        peer.read_head()
        peer.fill_up()
        peer.send(answer({"error": {"message": "Too big."}}, "413 Content Too Large"))
        peer.stall()

    with Upstream(script) as upstream, served(compat(upstream.port, send_timeout=0.6)) as server:
        assert upload(server.server_port, BIG).status == 413


def test_upstream_that_stops_reading_and_says_nothing_is_504(monkeypatch):
    monkeypatch.setattr(transport, "EARLY_ANSWER_SECONDS", BRIEF)

    def script(peer):
        peer.read_head()
        peer.stall()

    with Upstream(script) as upstream, served(compat(upstream.port, send_timeout=BRIEF)) as server:
        reply = upload(server.server_port, BIG)
        assert (reply.status, reply.headers["x-should-retry"]) == (504, "false")


def test_success_before_the_upload_has_ended_is_502():
    def script(peer):
        peer.read_head()
        peer.send(answer(FILE))
        peer.read_to_end()

    with Upstream(script) as upstream, served(compat(upstream.port)) as server:
        reply = upload(server.server_port, BIG)
        assert (reply.status, reply.headers["x-should-retry"]) == (502, "false")
        assert left_without_success(upstream)


def read_more(peer, size):
    """Read some more of an upload, so that what is sent next comes in its middle."""
    wanted = len(peer.received) + size
    while len(peer.received) < wanted and peer.read():
        pass


def interrupting(*pieces, then=lambda peer: (peer.read_request(), peer.send(answer(FILE)))):
    """A script: send these pieces in the middle of the upload, one after another, and then do that."""

    def script(peer):
        peer.read_head()
        for piece in pieces:
            read_more(peer, 1 << 20)
            peer.send(piece)
        then(peer)

    return script


GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\nlink: </b>\r\n\r\n"
INFORMATIONAL = {
    "100": (GO_ON,),
    "102": (b"HTTP/1.1 102 Processing\r\n\r\n",),
    "103": (HINTS,),
    "100_and_103_together": (GO_ON + HINTS,),
    "100_then_103": (GO_ON, HINTS),
    "halves_in_the_version": (HINTS[:6], HINTS[6:]),
    "halves_in_the_status": (HINTS[:10], HINTS[10:]),
    "halves_in_a_header": (HINTS[:35], HINTS[35:]),
    "halves_in_the_last_line": (HINTS[:-3], HINTS[-3:]),
    "one_and_a_half": (GO_ON + HINTS[:20], HINTS[20:]),
}


@pytest.mark.parametrize("name", INFORMATIONAL)
def test_informational_answer_in_the_middle_of_an_upload_does_not_end_it(name):
    data = bytes(range(256)) * (5 << 12)
    body = form(("purpose", "batch"), ("file", "a.bin", "", data))
    with Upstream(interrupting(*INFORMATIONAL[name])) as upstream, served(compat(upstream.port)) as server:
        reply = upload(server.server_port, body)
        assert (reply.status, reply.json) == (200, FILE)
        file = upstream.peer.body.split(b"\r\n\r\n", 2)[2].rpartition(b"\r\n--")[0]
    assert hashlib.sha256(file).hexdigest() == hashlib.sha256(data).hexdigest()


TOO_BIG = answer({"error": {"message": "Too big."}}, "413 Content Too Large")
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"
FINAL_AFTER_INFORMATIONAL = {
    "413_later": ((HINTS, TOO_BIG), 413),
    "413_together": ((GO_ON + TOO_BIG,), 413),
    "413_in_halves": ((GO_ON, TOO_BIG[:6], TOO_BIG[6:]), 413),
    "413_after_half_a_103": ((HINTS[:20], HINTS[20:] + TOO_BIG), 413),
    "101_later": ((HINTS, SWITCHING), 502),
    "101_together": ((GO_ON + SWITCHING,), 502),
    "101_in_halves": ((SWITCHING[:10], SWITCHING[10:]), 502),
}


@pytest.mark.parametrize("name", FINAL_AFTER_INFORMATIONAL)
def test_final_answer_after_an_informational_one_still_ends_an_upload_early(name):
    pieces, status = FINAL_AFTER_INFORMATIONAL[name]
    with Upstream(interrupting(*pieces, then=lambda peer: peer.stall())) as upstream:
        with served(compat(upstream.port)) as server:
            started = time.monotonic()
            reply = upload(server.server_port, MEDIUM)
            assert time.monotonic() - started < SOON
        assert (reply.status, reply.headers.get("x-should-retry")) == (status, "false" if status == 502 else None)
        assert not upstream.peers[0].complete


def test_answer_that_comes_while_a_send_is_blocked_is_not_left_until_the_time_limit():
    """The upstream stops reading, so that the send blocks, and only then refuses."""

    def script(peer):
        peer.read_head()
        peer.fill_up()
        peer.send(TOO_BIG)
        peer.stall()

    with Upstream(script) as upstream, served(compat(upstream.port, send_timeout="9")) as server:
        started = time.monotonic()
        assert upload(server.server_port, BIG).status == 413
        assert time.monotonic() - started < SOON


# Upstreams that cannot be had, or say nothing


def test_refused_connection_is_502():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with served(compat(port)) as server:
        reply = get(server.server_port, "/v1/files/file-1")
        assert (reply.status, reply.error["code"]) == (502, "upstream_unreachable")
        assert "127.0.0.1" in reply.error["message"]
        assert "x-should-retry" not in upload(server.server_port).headers  # nothing was sent: a retry may help


@pytest.mark.parametrize(
    "host", ["nosuch.invalid", "a..b.invalid", f"{'a' * 64}.invalid"], ids=["unknown", "empty_label", "long_label"]
)
def test_name_that_does_not_resolve_is_502(host):
    with served(compat(0, base_url=f"http://{host}/v1")) as server:
        reply = get(server.server_port, "/v1/files/file-1")
        assert (reply.status, reply.error["code"]) == (502, "upstream_unreachable")
        assert host in reply.error["message"]


@contextlib.contextmanager
def swallowing():
    """A port that takes no connection and refuses none: a full accept queue drops what comes without a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port, waiting = listener.getsockname()[1], []
        try:
            for _ in range(4):
                waiting.append(socket.socket())
                waiting[-1].setblocking(False)
                waiting[-1].connect_ex(("127.0.0.1", port))
            yield port
        finally:
            for sock in waiting:
                sock.close()


def test_host_that_swallows_connections_is_504_in_connect_timeout():
    with swallowing() as port, served(compat(port, connect_timeout=BRIEF)) as server:
        reply = get(server.server_port, "/v1/files/file-1")
    assert (reply.status, reply.error["code"]) == (504, "upstream_timeout")


def never_answers(peer):
    peer.read_request()
    peer.stall()


def test_upstream_that_never_answers_is_504_in_answer_timeout():
    started = time.monotonic()
    reply = metadata(never_answers, answer_timeout=BRIEF)
    assert time.monotonic() - started < SOON
    assert (reply.status, reply.error["code"]) == (504, "upstream_timeout")


AFTER_SENDING = {
    "no_answer": (never_answers, 504),
    "closes": (answering(), 502),
    "garbage": (answering(b"garbage\r\n\r\n"), 502),
    "half_a_head": (answering(b"HTTP/1.1 200 OK\r\nContent-Le"), 502),
    "truncated_json": (answering(answer(FILE)[:-9]), 502),
    "not_json": (answering(answer(b"<html>")), 502),
    "redirect": (answering(answer(b"", "307 Temporary Redirect", location="/v1/elsewhere")), 502),
}


@pytest.mark.parametrize("name", AFTER_SENDING)
def test_upload_that_fails_after_it_was_sent_must_not_be_retried(name):
    script, status = AFTER_SENDING[name]
    seconds = BRIEF if script is never_answers else WAIT
    with Upstream(script) as upstream, served(compat(upstream.port, answer_timeout=seconds)) as server:
        reply = upload(server.server_port)
        assert (reply.status, reply.headers.get("x-should-retry")) == (status, "false")


# A limit of the client's own


def limited(milliseconds):
    return {**COMPAT, "x-portkey-request-timeout": str(milliseconds)}


def is_timed_out(reply):
    return (reply.status, reply.error["type"], reply.error["code"]) == (408, "timeout_error", "request_timeout")


def silent(peer):
    """A script: never answer, and see when the gateway hangs up."""
    peer.read_to_end()


@pytest.mark.parametrize("name", HEADS)
def test_upstream_that_never_answers_is_408_in_the_clients_time(name):
    method, path, _, _ = HEADS[name]
    with Upstream(silent) as upstream, served(compat(upstream.port)) as server:
        started = time.monotonic()
        reply = get(server.server_port, path, limited(100), method)
        assert 0.1 <= time.monotonic() - started < SOON
        assert is_timed_out(reply)
        assert upstream.peer.ended  # the gateway has hung up


def test_upload_that_is_never_answered_is_408_and_must_not_be_retried():
    with Upstream(silent) as upstream, served(compat(upstream.port)) as server:
        reply = upload(server.server_port, **{"x-portkey-request-timeout": "100"})
        assert is_timed_out(reply)
        assert upstream.peer.complete
        assert reply.headers.get("x-should-retry") == "false"  # SDKs retry a 408, and the file has arrived


def test_upstream_that_stops_reading_an_upload_is_408_in_the_clients_time():
    def script(peer):
        peer.read_head()
        peer.stall()

    with Upstream(script) as upstream, served(compat(upstream.port)) as server:
        started = time.monotonic()
        reply = upload(server.server_port, BIG, **{"x-portkey-request-timeout": "200"})
        seconds = time.monotonic() - started
        assert is_timed_out(reply)
        assert not upstream.peers[0].complete
        assert reply.headers.get("x-should-retry") == "false"
        assert seconds < SOON


def test_host_that_swallows_connections_is_408_in_the_clients_time():
    with swallowing() as port, served(compat(port)) as server:
        started = time.monotonic()
        replies = [get(server.server_port, "/v1/files/file-1", limited(100)),
                   upload(server.server_port, **{"x-portkey-request-timeout": "100"})]  # fmt: skip
        assert time.monotonic() - started < SOON
    assert all(map(is_timed_out, replies))
    assert "x-should-retry" not in replies[1].headers  # nothing was sent: a retry may help


def test_clients_limit_does_not_cut_a_download_that_has_begun():
    def script(peer):
        peer.read_request()
        peer.send(answer(b"abc", content_length="9"))
        for _ in range(2):
            time.sleep(0.3)  # real time must pass: together it is more than the client's limit
            peer.send(b"abc")

    with Upstream(script) as upstream, served(compat(upstream.port)) as server:
        reply = get(server.server_port, "/v1/files/file-1/content", limited(500))
        assert (reply.status, reply.body, reply.end) == (200, b"abcabcabc", "fin")


def test_answer_in_the_clients_time_is_that_answer():
    with Upstream(answering(answer(FILE))) as upstream, served(compat(upstream.port)) as server:
        assert get(server.server_port, "/v1/files/file-1", limited(5000)).json == FILE
        assert upload(server.server_port, **{"x-portkey-request-timeout": "5000"}).json == FILE


@pytest.mark.parametrize("headers", [COMPAT, {**COMPAT, "x-portkey-request-timeout": ""}, limited(999_999_999)],
                         ids=["none", "empty", "eleven_days"])  # fmt: skip
def test_configured_limits_hold_where_the_client_has_none_or_a_longer_one(headers):
    with Upstream(never_answers) as upstream, served(compat(upstream.port, answer_timeout=BRIEF)) as server:
        reply = get(server.server_port, "/v1/files/file-1", headers)
    assert (reply.status, reply.error["code"]) == (504, "upstream_timeout")
    with swallowing() as port, served(compat(port, connect_timeout=BRIEF)) as server:
        assert get(server.server_port, "/v1/files/file-1", headers).status == 504


BAD_LIMITS = ["0", "-1", "+1", "1.5", "1e3", "0x10", "007", "soon", "10 ms", "10ms", "1,2", "1_000", "1000000000",
              "inf", "\xb2"]  # fmt: skip


def test_limit_that_is_not_a_number_of_milliseconds_is_400_and_calls_nobody():
    with Upstream(answering(answer(FILE))) as upstream, served(compat(upstream.port)) as server:
        for text in BAD_LIMITS:
            for reply in (get(server.server_port, "/v1/files/file-1", limited(text)),
                          upload(server.server_port, **{"x-portkey-request-timeout": text})):  # fmt: skip
                assert (reply.status, reply.error["param"]) == (400, "x-portkey-request-timeout"), text
        assert upstream.connections == 0


# Ranges


def test_partial_answer_of_the_upstream_is_passed_on():
    ranged = answer(b"cd", "206 Partial Content", content_range="bytes 2-3/9", etag='"1"', accept_ranges="bytes")
    with Upstream(answering(ranged)) as upstream, served(compat(upstream.port)) as server:
        reply = get(server.server_port, "/v1/files/file-1/content", {**COMPAT, "range": "bytes=2-3"})
        assert b"\r\nrange: bytes=2-3\r\n" in upstream.peer.head
    assert (reply.status, reply.body, reply.end) == (206, b"cd", "fin")
    assert (reply.headers["content-range"], reply.headers["content-length"]) == ("bytes 2-3/9", "2")


def test_whole_answer_of_the_upstream_is_cut_and_its_rest_is_not_waited_for():
    def script(peer):
        peer.read_request()
        peer.send(answer(bytes(range(100)), content_length=str(1 << 40)))
        peer.read_to_end()

    with Upstream(script) as upstream, served(compat(upstream.port)) as server:
        reply = get(server.server_port, "/v1/files/file-1/content", {**COMPAT, "range": "bytes=10-19"})
        assert (reply.status, reply.body, reply.end) == (206, bytes(range(10, 20)), "fin")
        assert reply.headers["content-range"] == f"bytes 10-19/{1 << 40}"
        assert upstream.peer.ended  # the gateway has hung up


def test_range_after_the_end_is_416_from_either_side():
    asked = {**COMPAT, "range": "bytes=9-"}
    refused = answer({"error": {"message": "No."}}, "416 Range Not Satisfiable", content_range="bytes */9")
    for framed in (refused, answer(b"x" * 9)):
        with Upstream(answering(framed)) as upstream, served(compat(upstream.port)) as server:
            reply = get(server.server_port, "/v1/files/file-1/content", asked)
        assert (reply.status, reply.headers["content-range"]) == (416, "bytes */9")
        assert reply.error["type"] == "invalid_request_error"


def test_range_of_an_answer_that_is_cut_never_ends_quietly():
    framed = answer(DATA[:99], content_length="300000")
    with Upstream(breaking(framed)) as upstream, served(compat(upstream.port)) as server:
        reply = get(server.server_port, "/v1/files/file-1/content", {**COMPAT, "range": "bytes=50-199"})
        assert (reply.status, reply.headers["content-length"]) == (206, "150")
        assert reply.body == DATA[:49]
        before_it = get(server.server_port, "/v1/files/file-1/content", {**COMPAT, "range": "bytes=99-199"})
        assert before_it.status == 502


def test_if_range_that_cannot_be_sent_is_not_the_providers_fault():
    with Upstream(answering(answer(b"x" * 9))) as upstream, served(compat(upstream.port)) as server:
        asked = {**COMPAT, "range": "bytes=0-1", "if-range": '"a\tb"'}
        assert get(server.server_port, "/v1/files/file-1/content", asked).status in (200, 400)


# Answers


def test_content_by_length_chunked_and_to_the_end_of_the_stream():
    data = bytes(range(256)) * 3000
    for framed in (answer(data), answer(chunked(data, 1000), content_length=None, transfer_encoding="chunked"),
                   answer(data, content_length=None)):  # fmt: skip
        reply = content(answering(framed))
        assert (reply.status, reply.body, reply.end) == (200, data, "fin")


def test_content_of_no_bytes():
    for framed in (answer(b""), answer(b"0\r\n\r\n", content_length=None, transfer_encoding="Chunked"),
                   answer(b"", content_length=None)):  # fmt: skip
        reply = content(answering(framed))
        assert (reply.status, reply.body, reply.end) == (200, b"", "fin")


def test_content_that_came_compressed_is_relayed_as_it_is_and_says_so():
    packed = gzip.compress(b"hello" * 99, mtime=0)
    reply = content(answering(answer(packed, content_encoding="gzip", content_type="text/plain")))
    assert (reply.body, reply.headers["content-encoding"]) == (packed, "gzip")
    assert reply.headers["content-length"] == str(len(packed))


def test_json_that_came_compressed_is_read():
    reply = metadata(answering(answer(gzip.compress(json.dumps(FILE).encode()), content_encoding="gzip")))
    assert reply.json == FILE
    assert "content-encoding" not in reply.headers


def test_bytes_are_passed_on_as_they_come():
    arrived = threading.Event()

    def script(peer):
        peer.read_request()
        peer.send(answer(b"abc", content_length="6"))
        arrived.wait(WAIT)
        peer.send(b"def")

    with Upstream(script) as upstream, served(compat(upstream.port)) as server, connect(server.server_port) as client:
        client.sendall(request("GET", "/v1/files/file-1/content", headers=COMPAT))
        raw = b""
        while not raw.endswith(b"abc"):
            block = client.recv(65536)
            assert block
            raw += block
        arrived.set()
        assert receive(client).raw == b"def"


DATA = b"x" * 300_000
HALF_CHUNKED = answer(chunked(DATA)[:150_000], content_length=None, transfer_encoding="chunked")
NEARLY_CHUNKED = answer(chunked(DATA)[:-5], content_length=None, transfer_encoding="chunked")
CUT = {
    "length_then_close": breaking(answer(DATA[:99], content_length="300000")),
    "length_then_reset": breaking(answer(DATA[:99], content_length="300000"), "reset"),
    "length_then_stall": breaking(answer(DATA[:99], content_length="300000"), "stall"),
    "chunked_inside_a_chunk": breaking(HALF_CHUNKED),
    "chunked_without_the_last": breaking(NEARLY_CHUNKED),
    "chunked_then_garbage": breaking(NEARLY_CHUNKED + b"zz\r\n"),
    "chunked_then_stall": breaking(HALF_CHUNKED, "stall"),
    "endless_then_reset": breaking(answer(DATA, content_length=None), "reset"),
    "endless_then_stall": breaking(answer(DATA, content_length=None), "stall"),
}


@pytest.mark.parametrize("name", CUT)
def test_download_that_the_upstream_cuts_never_ends_quietly(name):
    reply = content(CUT[name], read_timeout=BRIEF if name.endswith("stall") else WAIT)
    assert reply.status == 200
    assert len(reply.body) <= len(DATA)
    if "content-length" not in reply.headers:
        assert reply.end == "reset"
    else:
        assert len(reply.body) < int(reply.headers["content-length"])


def test_download_cut_before_its_first_byte_is_502_or_504():
    for how, status in (("close", 502), ("stall", 504)):
        assert content(breaking(answer(b"", content_length="9"), how), read_timeout=BRIEF).status == status
        head = answer(b"", content_length=None, transfer_encoding="chunked")
        assert content(breaking(head, how), read_timeout=BRIEF).status == status


def test_metadata_that_is_cut_is_502_or_504():
    for how, status in (("close", 502), ("reset", 502), ("stall", 504)):
        assert metadata(breaking(answer(FILE)[:-9], how), read_timeout=BRIEF).status == status
        half = chunked(json.dumps(FILE).encode())[:-9]
        framed = answer(half, content_length=None, transfer_encoding="chunked")
        assert metadata(breaking(framed, how), read_timeout=BRIEF).status == status


def test_informational_answers_are_passed_over_but_not_for_ever():
    hints = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
    go_on = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert metadata(answering(hints, answer(FILE))).json == FILE
    assert metadata(answering(go_on, hints, go_on, answer(FILE))).json == FILE
    assert metadata(answering(go_on * 20, answer(FILE))).status == 502
    assert metadata(answering(hints * 20, answer(FILE))).status == 502
    switched = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"
    assert metadata(answering(switched, answer(FILE))).status == 502


BODY = json.dumps(FILE).encode()
FRAME = f"content-length: {len(BODY)}\r\n".encode()
BROKEN_ANSWERS = {
    "two_lengths": b"HTTP/1.1 200 OK\r\n" + FRAME + b"content-length: 5\r\n\r\n" + BODY,
    "same_length_twice": b"HTTP/1.1 200 OK\r\n" + FRAME * 2 + b"\r\n" + BODY,
    "length_in_a_list": f"HTTP/1.1 200 OK\r\ncontent-length: {len(BODY)}, {len(BODY)}\r\n\r\n".encode() + BODY,
    "length_with_a_sign": f"HTTP/1.1 200 OK\r\ncontent-length: +{len(BODY)}\r\n\r\n".encode() + BODY,
    "negative_length": b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n" + BODY,
    "length_and_chunks": b"HTTP/1.1 200 OK\r\n" + FRAME + b"transfer-encoding: chunked\r\n\r\n" + chunked(BODY),
    "gzip_and_chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n" + chunked(BODY),
    "two_codings": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: gzip\r\n\r\n" + chunked(BODY),
    "chunked_and_a_vertical_tab": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\x0b\r\n\r\n" + chunked(BODY),
    "chunked_and_a_parameter": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked; a=b\r\n\r\n" + chunked(BODY),
    "chunked_and_a_no_break_space": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\xa0\r\n\r\n" + chunked(BODY),
    "length_and_a_no_break_space": b"HTTP/1.1 200 OK\r\ncontent-length: 5\xa0\r\n\r\n" + BODY,
    "length_after_a_no_break_space": b"HTTP/1.1 200 OK\r\ncontent-length: \xa05\r\n\r\n" + BODY,
    "unknown_coding": b"HTTP/1.1 200 OK\r\n" + FRAME + b"transfer-encoding: xchunked\r\n\r\n" + BODY,
    "line_without_colon": b"HTTP/1.1 200 OK\r\nno colon here\r\n" + FRAME + b"\r\n" + BODY,
    "space_before_colon": b"HTTP/1.1 200 OK\r\nx-a : 1\r\n" + FRAME + b"\r\n" + BODY,
    "first_line_folded": b"HTTP/1.1 200 OK\r\n folded\r\n" + FRAME + b"\r\n" + BODY,
    "length_after_a_bare_cr": b"HTTP/1.1 200 OK\r\n" + FRAME + b"x-a: 1\rcontent-length: 5\r\n\r\n" + BODY,
    "101_headers": b"HTTP/1.1 200 OK\r\n" + b"x-a: 1\r\n" * 101 + FRAME + b"\r\n" + BODY,
    "line_of_70_kb": b"HTTP/1.1 200 OK\r\nx-a: " + b"a" * 70_000 + b"\r\n" + FRAME + b"\r\n" + BODY,
    "status_line_of_70_kb": b"HTTP/1.1 200 " + b"a" * 70_000 + b"\r\n" + FRAME + b"\r\n" + BODY,
    "status_of_two_digits": b"HTTP/1.1 20 OK\r\n" + FRAME + b"\r\n" + BODY,
    "status_that_is_a_word": b"HTTP/1.1 OK\r\n" + FRAME + b"\r\n" + BODY,
    "other_protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "tls_alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "http_0_9": BODY,
    "nothing": b"",
    "half_a_head": b"HTTP/1.1 200 OK\r\ncontent-le",
}


@pytest.mark.parametrize("blank", [b" ", b"\t", b" \t "])
def test_white_space_round_the_framing_of_an_answer_means_nothing(blank):
    """RFC 9110 §5.5: SP and HTAB round a value are not part of it; the answer was a 502."""
    lengths = (b"transfer-encoding", b"chunked", chunked(BODY)), (b"content-length", b"%d" % len(BODY), BODY)
    for name, value, body in lengths:
        head = b"HTTP/1.1 200 OK\r\n" + name + b":" + blank + value + blank + b"\r\n\r\n"
        assert metadata(answering(head + body)).status == 200


@pytest.mark.parametrize("name", BROKEN_ANSWERS)
def test_answer_that_two_readers_could_read_differently_is_502(name):
    for ask_for in (metadata, content):
        reply = ask_for(answering(BROKEN_ANSWERS[name]))
        assert (reply.status, reply.error["type"]) == (502, "server_error")


@pytest.mark.parametrize("status", ["201 Created", "202 Accepted", "204 No Content", "205 Reset Content"])
def test_content_that_is_answered_with_another_success_than_200_is_502(status):
    for framed in (answer(b"", status, content_length=None), answer(b"not the file", status)):
        reply = content(answering(framed))
        assert (reply.status, reply.error["code"]) == (502, "upstream_invalid_answer")


def test_bare_cr_in_an_answers_header_goes_no_further():
    split = b"HTTP/1.1 200 OK\r\nopenai-version: 1\rset-cookie: a=b\r\n" + FRAME + b"\r\n" + BODY
    for ask_for in (metadata, content):
        reply = ask_for(answering(split))
        assert reply.status in (200, 502)
        assert "set-cookie" not in reply.headers
        assert b"\r" not in reply.raw.partition(b"\r\n\r\n")[0].replace(b"\r\n", b"")


def test_status_of_the_providers_own_is_relayed_as_an_error():
    for status in (429, 529, 599):
        reply = metadata(answering(answer({"error": {"message": "No."}}, f"{status} Whatever")))
        assert (reply.status, reply.error["message"]) == (status, "No.")


def test_hop_by_hop_and_private_headers_of_the_upstream_are_not_passed_on():
    private = {
        "set_cookie": "a=b",
        "server": "nginx/1",
        "connection": "keep-alive",
        "keep_alive": "timeout=5",
        "via": "1.1 a",
        "x_powered_by": "x",
        "x_ratelimit_limit": "9\r\n folded",
        "trailer": "x",
        "upgrade": "h2c",
        "alt_svc": "h3",
        "access_control_allow_origin": "*",
    }
    kept = {"content_type": "text/csv", "openai_version": "2020-10-01"}
    reply = content(answering(answer(b"hello", **private, **kept)))
    assert reply.body == b"hello"
    assert (reply.headers["content-type"], reply.headers["openai-version"]) == ("text/csv", "2020-10-01")
    assert reply.headers["connection"] == "close"
    left = {name.replace("_", "-") for name in private} - {"server", "connection"}
    assert not reply.headers.keys() & {*left, "transfer-encoding"}
    assert "nginx" not in str(reply.headers)


@pytest.mark.parametrize("status", ["301 A", "302 B", "303 C", "307 D", "308 E", "300 F", "304 G"])
def test_redirect_is_502_and_nobody_else_is_called(status):
    with Upstream(answering(answer(FILE))) as elsewhere:
        port = elsewhere.port
        origins = ("http://127.0.0.1", "http://localhost", "//127.0.0.1", "ftp://127.0.0.1")
        for location in (*(f"{origin}:{port}/" for origin in origins), "file:///etc/hostname"):
            with (
                Upstream(answering(answer(b"", status, location=location))) as upstream,
                served(compat(upstream.port)) as server,
            ):
                replies = [
                    get(server.server_port, "/v1/files/file-1"),
                    get(server.server_port, "/v1/files/file-1/content"),
                    get(server.server_port, "/v1/files/file-1", method="DELETE"),
                    upload(server.server_port),
                ]
                assert [(reply.status, reply.error["code"]) for reply in replies] == [(502, "upstream_redirect")] * 4
                assert upstream.connections == 4
        assert elsewhere.connections == 0


@pytest.mark.parametrize("variable", PROXY_VARIABLES[:3])
@pytest.mark.parametrize("proxy", ["none", "env"])
def test_http_provider_is_reached_past_any_proxy_of_the_environment(variable, proxy, monkeypatch):
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with Upstream(answering(answer(FILE))) as trap, Upstream(answering(answer(FILE))) as upstream:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{trap.port}")
        monkeypatch.setenv(variable.upper(), f"http://127.0.0.1:{trap.port}")
        with served(compat(upstream.port, proxy=proxy)) as server:
            from_client = {**COMPAT, "proxy": f"http://127.0.0.1:{trap.port}"}
            assert get(server.server_port, "/v1/files/file-1", from_client).json == FILE
        assert trap.connections == 0


def test_https_provider_is_reached_past_the_environment_where_proxy_is_none(monkeypatch):
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with Upstream(answering(b"")) as trap, Upstream(lambda peer: peer.read()) as upstream:
        for variable in PROXY_VARIABLES[:3]:
            monkeypatch.setenv(variable, f"http://127.0.0.1:{trap.port}")
            monkeypatch.setenv(variable.upper(), f"http://127.0.0.1:{trap.port}")
        with served(compat(0, base_url=f"https://127.0.0.1:{upstream.port}/v1", proxy="none")) as server:
            reply = get(server.server_port, "/v1/files/file-1")
        assert reply.status == 502  # this upstream speaks no TLS
        assert (trap.connections, upstream.connections) == (0, 1)
        assert b"sk-caller" not in upstream.peer.received


# Connections are given up


def endless(peer):
    peer.read_request()
    peer.send(answer(b"", content_length=str(1 << 40)))
    while True:
        peer.send(bytes(1 << 16))


@pytest.mark.parametrize("by_reset", [False, True])
def test_client_that_leaves_mid_download_frees_the_upstream(by_reset):
    with Upstream(endless) as upstream, served(compat(upstream.port)) as server:
        before = open_files()
        for count in range(1, 4):
            client = connect(server.server_port)
            client.sendall(request("GET", "/v1/files/file-1/content", headers=COMPAT))
            assert parsed(client.recv(65536)).status == 200
            left = time.monotonic()
            reset(client) if by_reset else client.close()
            assert until(lambda at=count: len(upstream.peers) == at and upstream.peers[-1].over.is_set())
            assert time.monotonic() - left < SOON
        assert until(lambda: open_files() <= before)


@pytest.mark.parametrize("name", ["nothing", "two_lengths", "half_a_head", "line_of_70_kb"])
def test_failures_leave_no_file_descriptor_open(name):
    with Upstream(answering(BROKEN_ANSWERS[name])) as upstream, served(compat(upstream.port)) as server:
        before = open_files()
        for _ in range(5):
            assert get(server.server_port, "/v1/files/file-1").status == 502
            assert upload(server.server_port, LATE["no_purpose"]).status == 400
        assert until(lambda: open_files() <= before)


def test_answers_never_meet_another_request():
    def script(peer):
        name = peer.read_head().split(b" ")[1].rpartition(b"/")[2].decode()
        peer.send(answer({**FILE, "id": name}))

    with Upstream(script) as upstream, served(compat(upstream.port)) as server:
        got = {}

        def client(number):
            for turn in range(10):
                name = f"file-{number}-{turn}"
                got[name] = get(server.server_port, f"/v1/files/{name}").json["id"]

        threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(got) == 80
    assert all(name == answered for name, answered in got.items())


def test_dechunked_of_these_tests_reads_what_chunked_writes():
    data = random.Random(1).getrandbits(8 * 5000).to_bytes(5000, "big")
    for size in (1, 7, 4096, 9999):
        assert dechunked(chunked(data, size)) == data
