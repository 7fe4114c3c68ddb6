"""The embedded server on real sockets: bodies, heads that are no HTTP, slow and lost clients, cuts, stopping."""

from __future__ import annotations

import contextlib
import hashlib
import random
import select
import signal
import socket
import socketserver
import threading
import time

import pytest
from fakes import form, form_type
from sockets import SOON, WAIT, ask, chunked, connect, get, parsed, program, receive, request, reset, served, until

from filesproxy import create_app
from filesproxy.serving import embedded
from filesproxy.serving.embedded import Handler, Server

UPLOAD = form(("purpose", "batch"), ("file", "a.jsonl", "application/jsonl", b"hello"))
FORM = {"content-type": form_type()}
CHUNKED = {**FORM, "transfer-encoding": "chunked"}
LOCAL = {"host": "localhost"}


def echo(environ, start_response):
    """Answers with the request's body, or with the first words of what went wrong."""
    body, status = b"", "200 OK"
    try:
        while True:
            block = environ["wsgi.input"].read(65536)
            if not block:
                break
            body += block
    except (ValueError, EOFError) as problem:
        body, status = str(problem).encode(), "400 Bad Request"
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def unread(environ, start_response):
    """Answers without a look at the body."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


@pytest.fixture
def local(tmp_path):
    """The port of a gateway with a local store."""
    with served(create_app(folder=str(tmp_path / "files"), default_provider="local")) as server:
        yield server.server_port


def stored(port):
    return get(port, "/v1/files", LOCAL).json["data"]


# Bodies


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 999, 65536])
def test_chunked_upload_in_any_split_is_stored_whole(size, local):
    assert ask(local, request("POST", "/v1/files", chunked(UPLOAD, size), CHUNKED)).json["bytes"] == 5
    assert len(stored(local)) == 1


def test_chunked_body_that_dribbles_in_is_read_whole():
    data = request("POST", "/", chunked(b"hello world", 3, b";a=b"), {"transfer-encoding": "chunked"})
    with served(echo) as server, connect(server.server_port) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(data)):
            client.sendall(data[at : at + 1])
        assert receive(client).body == b"hello world"


@pytest.mark.parametrize("extension", [b";name", b";name=value", b' ; name="a quoted; value"', b";a=1;b=2", b"  "])
@pytest.mark.parametrize("trailer", [b"", b"x-checksum: 1\r\n", b"a: 1\r\nb: 2\r\n"])
def test_chunk_extensions_and_trailers_are_passed_over(extension, trailer):
    body = chunked(b"hello world", 4, extension, trailer)
    with served(echo) as server:
        reply = ask(server.server_port, request("POST", "/", body, {"transfer-encoding": "Chunked"}))
    assert (reply.status, reply.body, reply.end) == (200, b"hello world", "fin")


BAD_CHUNKS = {
    "no_size": b"\r\nhello\r\n0\r\n\r\n",
    "no_hex_size": b"xyz\r\nhello\r\n0\r\n\r\n",
    "negative_size": b"-5\r\nhello\r\n0\r\n\r\n",
    "size_with_a_plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "size_with_0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "size_with_underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "size_after_a_space": b" 5\r\nhello\r\n0\r\n\r\n",
    "size_of_17_digits": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "size_line_ends_in_lf": b"5\nhello\r\n0\r\n\r\n",
    "bare_cr_in_extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "extension_of_a_kilobyte": b"5;" + b"a" * 1024 + b"\r\nhello\r\n0\r\n\r\n",
    "data_longer_than_size": b"5\r\nhello!\r\n0\r\n\r\n",
    "data_shorter_than_size": b"7\r\nhello\r\n0\r\n\r\n",
    "no_crlf_after_data": b"5\r\nhello0\r\n\r\n",
    "trailer_of_20_kb": b"5\r\nhello\r\n0\r\n" + b"a: 1\r\n" * 3500 + b"\r\n",
    "trailer_line_of_20_kb": b"5\r\nhello\r\n0\r\na: " + b"a" * 20000 + b"\r\n\r\n",
    "ends_in_a_size": b"5\r\nhello\r\n5",
    "ends_in_a_chunk": b"5\r\nhel",
    "ends_after_a_chunk": b"5\r\nhello",
    "ends_before_the_last_chunk": b"5\r\nhello\r\n",
    "ends_in_the_trailer": b"5\r\nhello\r\n0\r\nx: 1\r\n",
    "ends_after_the_last_size": b"5\r\nhello\r\n0\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("name", BAD_CHUNKS)
def test_bad_or_truncated_chunked_body_is_an_error_of_the_read(name):
    with served(echo) as server:
        data = request("POST", "/", BAD_CHUNKS[name], {"transfer-encoding": "chunked"})
        assert ask(server.server_port, data, half_close=True).status == 400


TRUNCATED = {
    "by_length": request("POST", "/v1/files", UPLOAD, FORM)[:-9],
    "in_a_chunk": request("POST", "/v1/files", chunked(UPLOAD)[:-30], CHUNKED),
    "no_last_chunk": request("POST", "/v1/files", chunked(UPLOAD)[:-5], CHUNKED),
    "bad_chunk": request("POST", "/v1/files", chunked(UPLOAD)[:-5] + b"zz\r\n\r\n", CHUNKED),
    "no_closing_boundary": request("POST", "/v1/files", chunked(UPLOAD[:-4]), CHUNKED),
}


@pytest.mark.parametrize("name", TRUNCATED)
def test_truncated_upload_is_400_and_stores_nothing(name, local, tmp_path):
    reply = ask(local, TRUNCATED[name], half_close=True)
    assert (reply.status, reply.error["type"]) == (400, "invalid_request_error")
    assert stored(local) == []
    held = [path for path in (tmp_path / "files").rglob("*") if path.is_file() and b"hello" in path.read_bytes()]
    assert held == []


def test_upload_whose_client_resets_stores_nothing(local, access_log):
    with connect(local) as client:
        client.sendall(request("POST", "/v1/files", UPLOAD, FORM)[:-9])
        assert stored(local) == []
        reset(client)
    assert until(lambda: [line for line in access_log() if line["operation"] == "upload_file"])
    assert stored(local) == []


def test_body_never_goes_past_its_length():
    with served(echo) as server:
        data = request("POST", "/", b"hello", {"content-length": "5"}) + b"GET /second HTTP/1.1\r\n\r\n"
        reply = ask(server.server_port, data)
    assert (reply.body, reply.raw.count(b"HTTP/1.1")) == (b"hello", 1)


def test_request_without_a_body_reads_as_empty_without_waiting():
    with served(echo) as server:
        assert ask(server.server_port, request("POST", "/")).body == b""
        assert ask(server.server_port, request("POST", "/", headers={"content-length": "0"})).body == b""


def test_connection_is_closed_after_one_request():
    with served(unread) as server:
        reply = ask(server.server_port, request("GET", "/a", connection="keep-alive") * 2)
    assert (reply.headers["connection"], reply.raw.count(b"HTTP/1.1 200")) == ("close", 1)


# Expect: 100-continue


def test_continue_is_sent_when_the_application_reads(local):
    data = request("POST", "/v1/files", UPLOAD, FORM, expect="100-continue")
    with connect(local) as client:
        head, _, body = data.partition(b"\r\n\r\n")
        client.sendall(head + b"\r\n\r\n")
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert receive(client).status == 200


@pytest.mark.parametrize(
    "path,headers,status",
    [
        ("/v1/files", {"content-type": "application/json"}, 415),
        ("/nowhere", FORM, 404),
        ("/v1/health", FORM, 405),
        ("/v1/files", {**FORM, "x-portkey-provider": "openai"}, 401),
        ("/v1/files", {**FORM, "x-portkey-provider": "nobody"}, 400),
        ("/v1/files", {**FORM, "content-length": "9999999999"}, 413),
        ("/v1/files", {"content-type": "multipart/form-data"}, 400),
    ],
)
def test_continue_is_not_sent_for_what_is_refused(path, headers, status, local):
    given = {"content-length": "1000000", "expect": "100-continue", **headers}
    with connect(local) as client:
        client.sendall(request("POST", path, headers=given))
        reply = parsed(client.recv(65536))
    assert (reply.status, b"100 Continue" in reply.raw) == (status, False)


# Heads


LINE = b"POST / HTTP/1.1\r\nhost: a\r\n"
BAD_HEADS = {
    "length_and_chunks": LINE + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\nhello",
    "two_lengths": LINE + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "same_length_twice": LINE + b"content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "length_list": LINE + b"content-length: 5, 5\r\n\r\nhello",
    "negative_length": LINE + b"content-length: -5\r\n\r\nhello",
    "length_with_a_plus": LINE + b"content-length: +5\r\n\r\nhello",
    "length_of_20_digits": LINE + b"content-length: 10000000000000000000\r\n\r\n",
    "length_of_arabic_digits": LINE + "content-length: ٣\r\n\r\nhel".encode(),
    "empty_length": LINE + b"content-length:\r\n\r\nhello",
    "other_coding": LINE + b"transfer-encoding: gzip\r\n\r\nhello",
    "two_codings": LINE + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding_twice": LINE + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks_under_http_1_0": b"POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "obscured_coding": LINE + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "underscore": LINE + b"x_portkey_api_key: evil\r\n\r\n",
    "underscore_length": LINE + b"content_length: 5\r\n\r\nhello",
    "bare_cr_in_value": LINE + b"a: b\rx-evil: 1\r\n\r\n",
    "bare_cr_at_the_end": LINE + b"a: b\r\r\n\r\n",
    "nul_in_value": LINE + b"a: b\0c\r\n\r\n",
    "nul_in_name": LINE + b"a\0: b\r\n\r\n",
    "bare_cr_in_request_line": b"GET /\rx HTTP/1.1\r\nhost: a\r\n\r\n",
    "nul_in_request_line": b"GET /\0 HTTP/1.1\r\nhost: a\r\n\r\n",
    "folded": LINE + b"a: b\r\n c\r\n\r\n",
    "folded_by_white_space_alone": LINE + b"a: b\r\n \t \r\ncontent-length: 5\r\n\r\nhello",
    "white_space_before_a_name": LINE + b" content-length: 5 \r\n\r\nhello",
    "white_space_alone_before_the_end": LINE + b"content-length: 5\r\n \r\n\r\nhello",
    "length_with_a_form_feed": LINE + b"content-length: 5\x0c\r\n\r\nhello",
    "length_with_a_no_break_space": LINE + b"content-length: 5\xa0\r\n\r\nhello",
    "length_with_a_blank_inside": LINE + b"content-length: 5 5\r\n\r\nhello",
    "coding_with_a_vertical_tab": LINE + b"transfer-encoding: chunked\x0b \r\n\r\n0\r\n\r\n",
    "coding_with_a_comma": LINE + b"transfer-encoding: chunked, \r\n\r\n0\r\n\r\n",
    "coding_and_length_with_blanks": LINE + b"content-length: 5 \r\ntransfer-encoding: chunked \r\n\r\nhello",
    "white_space_before_the_request_line": b" \r\n" + LINE + b"\r\n",
    "white_space_after_the_request_line": b"GET / HTTP/1.1 \r\nhost: a\r\n\r\n",
    "folded_with_tab": LINE + b"a: b\r\n\tx-evil: 1\r\n\r\n",
    "first_line_folded": b"GET / HTTP/1.1\r\n host: a\r\n\r\n",
    "no_colon": LINE + b"no colon here\r\nx-a: 1\r\n\r\n",
    "space_before_colon": LINE + b"content-length : 5\r\n\r\nhello",
    "empty_name": LINE + b": 5\r\n\r\n",
    "words": b"garbage\r\n\r\n",
    "four_words": b"GET / a HTTP/1.1\r\nhost: a\r\n\r\n",
    "tls_hello": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n",
    "method_alone": b"GET\r\n\r\n",
    "no_version": b"POST /\r\n\r\n",
    "odd_version": b"GET / HTTP/x.1\r\nhost: a\r\n\r\n",
    "other_protocol": b"GET / ICY/1.1\r\nhost: a\r\n\r\n",
}


BLANKS = {
    "length": b"content-length: \t5 \t\r\n\r\nhello",
    "chunks": b"transfer-encoding:chunked \t\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "others": b"x-a: \r\ncontent-type:\t \r\nconnection: close \r\ncontent-length:5\t\r\n\r\nhello",
}


@pytest.mark.parametrize("name", BLANKS)
@pytest.mark.parametrize("before", [b"", b"\r\n", b"\r\n\r\n", b"\n"])
def test_white_space_round_a_value_and_empty_lines_before_a_request_mean_nothing(name, before):
    """RFC 9110 §5.5 (SP and HTAB are not part of a value), RFC 9112 §2.2; a `Content-Length: 12 ` was a 400."""
    with served(echo) as server:
        reply = ask(server.server_port, before + LINE.replace(b"host: a", b"host: a \t") + BLANKS[name])
    assert (reply.status, reply.body) == (200, b"hello")


def test_value_reaches_the_application_without_the_white_space_round_it():
    seen = []

    def application(environ, start_response):
        seen.append({name: environ.get(name) for name in ("HTTP_X_A", "HTTP_HOST", "CONTENT_TYPE", "CONTENT_LENGTH")})
        return unread(environ, start_response)

    with served(application) as server:
        ask(server.server_port, b"GET / HTTP/1.1\r\nHost:a\t\r\nX-A: b \t c \t \r\nContent-Type: a/b \r\n"
                                b"Content-Length: 0 \r\n\r\n")  # fmt: skip
    assert seen == [{"HTTP_X_A": "b \t c", "HTTP_HOST": "a", "CONTENT_TYPE": "a/b", "CONTENT_LENGTH": "0"}]


@pytest.mark.parametrize("name", BAD_HEADS)
def test_head_that_is_not_http_is_400_in_the_envelope(name):
    reached = []

    def application(environ, start_response):
        reached.append(environ)
        return unread(environ, start_response)

    with served(application) as server:
        reply = ask(server.server_port, BAD_HEADS[name])
    assert (reply.status, reply.headers.get("content-type")) == (400, "application/json")
    assert reply.error["type"] == "invalid_request_error"
    assert reached == []


def test_version_that_nobody_speaks_is_505_in_the_envelope():
    with served(unread) as server:
        reply = ask(server.server_port, b"GET / HTTP/2.0\r\nhost: a\r\n\r\n")
    assert (reply.status, reply.error["param"]) == (505, None)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\na: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"a: " + b"a" * 1000 + b"\r\n") * 70 + b"\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: 1\r\n" * 200 + b"\r\n",
        b"a" * 70_000,
    ],
    ids=["request_line", "one_header", "all_headers", "200_headers", "no_line_at_all"],
)
def test_head_over_its_limit_is_431_in_the_envelope(head):
    with served(unread) as server:
        reply = ask(server.server_port, head)
    assert (reply.status, reply.error["type"]) == (431, "invalid_request_error")


def test_head_just_under_its_limit_is_taken():
    with served(unread) as server:
        assert (
            ask(
                server.server_port, b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"a: " + b"a" * 1000 + b"\r\n") * 60 + b"\r\n"
            ).status
            == 200
        )


def test_application_sees_nothing_of_the_process_and_the_raw_target(monkeypatch):
    monkeypatch.setenv("CANARY_SECRET", "canary")
    seen = []

    def application(environ, start_response):
        seen.append(dict(environ))
        return unread(environ, start_response)

    with served(application) as server:
        ask(server.server_port, request("GET", "/a%2Fb?c=%2F", proxy="http://evil.example"))
    (environ,) = seen
    assert "canary" not in str(environ) and "PATH" not in environ and "HOME" not in environ
    assert (environ["REQUEST_URI"], environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/a%2Fb?c=%2F", "/a/b", "c=%2F")
    assert (environ["REMOTE_ADDR"], environ["wsgi.input_terminated"], environ["wsgi.multithread"]) == (
        "127.0.0.1",
        True,
        True,
    )


@pytest.mark.parametrize(
    "path",
    ["/v1/files/a%2Fcontent", "/v1/files/a%2fb", "/v1/files/%2e%2e", "/v1/files/a%00", "/v1/files/..%2F..%2Fetc"],
)
def test_id_with_an_encoded_slash_is_400(path, local):
    assert get(local, path, LOCAL).status == 400


def test_host_that_is_not_this_machine_is_403(local):
    assert get(local, "/v1/files", {"host": "evil.example"}).status == 403
    assert get(local, "/v1/files", {"host": "evil.example:8787"}).status == 403


def test_request_without_one_host_is_400(local):
    """RFC 9112 §3.2."""
    assert get(local, "/v1/files", {"host": None}).status == 400
    assert ask(local, b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n").status == 400


def test_absolute_target_is_taken_for_its_path(local):
    """RFC 9112 §3.2.2: a server must accept it."""
    assert ask(local, b"GET http://elsewhere.example/v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n").status == 200


def test_head_answers_without_a_body_and_with_the_length_of_get(local):
    file = ask(local, request("POST", "/v1/files", UPLOAD, FORM)).json["id"]
    for path in ("/", "/v1/files", f"/v1/files/{file}", f"/v1/files/{file}/content", "/nowhere"):
        head, whole = get(local, path, LOCAL, "HEAD"), get(local, path, LOCAL)
        assert (head.status, head.body, head.end) == (whole.status, b"", "fin")
        assert head.headers["content-length"] == whole.headers["content-length"] == str(len(whole.body))


def test_head_of_what_has_no_known_length_claims_none():
    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else iter([b"hello", b" world"])

    with served(application) as server:
        assert get(server.server_port, "/", LOCAL).body == b"hello world"
        assert "content-length" not in get(server.server_port, "/", LOCAL, "HEAD").headers


# Slow and stalled clients


STALLED = {
    "says_nothing": b"",
    "in_the_request_line": b"GET / HT",
    "in_the_head": b"GET /v1/health HTTP/1.1\r\nhost: a\r\n",
    "in_the_body": request("POST", "/v1/files", UPLOAD, FORM)[:-9],
    "in_a_chunk": request("POST", "/v1/files", chunked(UPLOAD)[:-30], CHUNKED),
}


@pytest.mark.parametrize("name", STALLED)
def test_stalled_client_frees_its_thread_in_time(name, tmp_path, monkeypatch):
    monkeypatch.setattr(Handler, "timeout", 0.2)  # real time, which the kernel counts
    monkeypatch.setattr(embedded, "LINGER_SILENCE_SECONDS", 0.1)
    application = create_app(folder=str(tmp_path), default_provider="local")
    with served(application, max_connections=1) as server, connect(server.server_port) as client:
        client.sendall(STALLED[name])
        started = time.monotonic()
        assert until(lambda: get(server.server_port, "/v1/health").status == 200)  # until then there is no other thread
        assert time.monotonic() - started < SOON
        reply = receive(client)
    assert (reply.status, reply.raw[:4]) in ((0, b""), (408, b"HTTP"))
    if "body" in name or "chunk" in name:
        assert (reply.status, reply.error["code"]) == (408, "client_timeout")


def test_client_that_does_not_read_frees_its_thread_in_time(monkeypatch):
    monkeypatch.setattr(Handler, "timeout", 0.2)
    closed = threading.Event()

    class Endless:
        def __iter__(self):
            return self

        def __next__(self):
            return bytes(1 << 16)

        def close(self):
            closed.set()

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Endless()

    with served(application) as server, connect(server.server_port) as client:
        client.sendall(request("GET", "/"))
        assert closed.wait(SOON)


def test_slow_client_that_keeps_sending_is_served(monkeypatch):
    monkeypatch.setattr(Handler, "timeout", 0.3)
    data = request("POST", "/", b"hello", {"content-length": "5"})
    with served(echo) as server, connect(server.server_port) as client:
        for block in (data[:9], data[9:-3], data[-3:]):
            client.sendall(block)
            time.sleep(0.11)  # real time must pass: each pause is under the limit, together they are over it
        assert receive(client).body == b"hello"


# Cut downloads


def breaking(problem, length):
    """An application whose body fails in the middle."""

    def body():
        yield b"x" * 1000
        raise problem

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain"), *([("Content-Length", "2000")] if length else [])])
        return body()

    return application


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("length", [True, False], ids=["length", "no_length"])
@pytest.mark.parametrize(
    "problem", [ConnectionResetError("a"), OSError("b"), ValueError("c"), BrokenPipeError("d")], ids=repr
)
def test_cut_download_is_visible_to_the_client(problem, length, version, caplog):
    with served(breaking(problem, length)) as server:
        reply = ask(server.server_port, request("GET", "/", version=version))
    assert (reply.status, len(reply.body)) == (200, 1000)
    assert reply.end == "reset"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_whole_download_of_unknown_length_ends_cleanly(version):
    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return iter([b"x" * 1000] * 99)

    with served(application) as server:
        reply = ask(server.server_port, request("GET", "/", version=version))
    assert (len(reply.body), reply.end) == (99_000, "fin")


def test_failure_before_the_first_byte_is_a_500_that_arrives(caplog):
    def application(environ, start_response):
        raise ValueError("secret")

    with served(application) as server:
        for _ in range(20):
            assert get(server.server_port, "/", LOCAL).status == 500
    assert "secret" not in caplog.text and "ValueError" in caplog.text


# Many clients


def test_connection_over_the_limit_is_503_and_the_next_one_is_served():
    both, go = threading.Barrier(3), threading.Event()

    def busy(environ, start_response):
        if environ["REQUEST_METHOD"] == "POST":
            both.wait(WAIT)
            go.wait(WAIT)
        return unread(environ, start_response)

    with served(busy, max_connections=2) as server:
        with connect(server.server_port) as one, connect(server.server_port) as two:
            for client in (one, two):
                client.sendall(request("POST", "/"))
            both.wait(WAIT)
            reply = get(server.server_port, "/", LOCAL)
            go.set()
            assert receive(one).status == receive(two).status == 200
        assert (reply.status, reply.error["code"], reply.headers["retry-after"]) == (503, "saturated", "1")
        assert until(lambda: get(server.server_port, "/", LOCAL).status == 200)


def test_refused_connections_are_not_kept():
    with served(unread, max_connections=1) as server, connect(server.server_port):
        assert until(lambda: len(server.lobby) == 1)
        for _ in range(20):
            assert get(server.server_port, "/", LOCAL).status == 503
        assert len(server.lobby) == 1
    assert until(lambda: not len(server.lobby))
    with served(unread) as server:
        for line in (b"GET /\rx HTTP/1.1\r\n\r\n", b"GET /\0 HTTP/1.1\r\n\r\n", b"a" * 70_000, b"garbage\r\n\r\n"):
            assert ask(server.server_port, line).status in (400, 431)
        assert until(lambda: not len(server.lobby), 1)


def test_connections_without_a_request_give_way_to_one_that_has_one():
    """They used to hold every slot for as long as they dripped, and everybody else got a 503."""
    with served(unread, max_connections=8) as server, contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(connect(server.server_port)).sendall(b"GET / HTTP/1.1\r\nhost: loc")
        assert until(lambda: len(server.lobby) == 8)
        assert [get(server.server_port, "/", LOCAL).status for _ in range(20)] == [200] * 20


def test_head_that_drips_is_408_when_its_time_is_over(monkeypatch):
    monkeypatch.setattr(embedded, "HEAD_SECONDS", 0.3)
    with served(unread) as server, connect(server.server_port) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        began = time.monotonic()
        while time.monotonic() - began < WAIT and not select.select([client], [], [], 0.02)[0]:
            client.sendall(b"a")
        reply = receive(client)
    assert (reply.status, reply.json["error"]["message"][:10]) == (408, "The client")
    assert time.monotonic() - began < 2


def test_slots_come_back_however_a_connection_ended(monkeypatch):
    with served(breaking(OSError(), True), max_connections=1) as server:
        for data in (
            b"",
            b"garbage\r\n\r\n",
            b"a" * 70_000,
            request("GET", "/"),
            b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\n",
        ):
            for leave in (lambda client: client.close(), reset):
                with connect(server.server_port) as client:
                    client.sendall(data)
                    leave(client)
        assert until(lambda: get(server.server_port, "/", LOCAL).status == 200)


BIG = form(("purpose", "batch"), ("file", "a.bin", "", bytes(20 << 20)))


@pytest.mark.parametrize(
    "path,headers,status",
    [
        ("/v1/files", FORM, 413),
        ("/v1/files", CHUNKED, 413),
        ("/v1/files", {**FORM, "x-portkey-provider": "openai"}, 401),
        ("/v1/files", {"content-type": "text/plain"}, 415),
        ("/nowhere", FORM, 404),
    ],
    ids=["413", "413_by_counting", "401", "415", "404"],
)
def test_client_of_a_refused_20_megabyte_upload_reads_the_answer(path, headers, status, tmp_path):
    body = chunked(BIG, 1 << 20) if headers is CHUNKED else BIG
    app = create_app(folder=str(tmp_path), default_provider="local", max_upload_bytes=1 << 20)
    with served(app) as server, connect(server.server_port) as client:
        client.sendall(request("POST", path, body, headers))  # raises where the server has closed too early
        client.shutdown(socket.SHUT_WR)
        reply = receive(client)
    assert (reply.status, reply.end) == (status, "fin")


BAD_LINES = {
    "words": (b"garbage\r\n\r\n", 400),
    "four_words": (b"POST / a HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "version": (b"POST / HTTP/2.0\r\nhost: a\r\n\r\n", 505),
    "odd_version": (b"POST / HTTP/x.1\r\nhost: a\r\n\r\n", 400),
    "bare_cr": (b"POST /\rx HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "too_long": (b"POST /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n", 431),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_client_that_goes_on_sending_after_a_refused_request_line_reads_the_answer(name):
    line, status = BAD_LINES[name]
    with served(unread) as server, connect(server.server_port) as client:
        client.sendall(line)
        for at in range(0, len(BIG), 1 << 20):
            client.sendall(BIG[at : at + (1 << 20)])  # raises where the server has closed too early
        client.shutdown(socket.SHUT_WR)
        reply = receive(client)
    assert (reply.status, reply.end) == (status, "fin")


def test_loopback_of_version_6_is_served(tmp_path):
    if not has_ipv6():
        pytest.skip("this machine has no ::1")
    app = create_app(folder=str(tmp_path), default_provider="local")
    with served(app, ("::1", 0)) as server:
        data = request("GET", "/v1/files", headers={"host": f"[::1]:{server.server_port}"})
        assert ask(server.server_port, data, host="::1").json["data"] == []


def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


# Stopping


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_idle_server_stops_in_time_with_status_0(signum, tmp_path):
    with program(tmp_path) as served_process:
        assert get(served_process.port, "/v1/health").status == 200
        started = time.monotonic()
        status, _, err = served_process.stop(signum)
        assert time.monotonic() - started < SOON
        assert (status, err) == (0, "")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_download_under_way_is_finished_before_the_server_stops(signum, tmp_path):
    data = random.Random(3).getrandbits(8 * (16 << 20)).to_bytes(16 << 20, "big")
    with program(tmp_path) as served_process:
        body = form(("purpose", "batch"), ("file", "a.bin", "", data))
        file = ask(served_process.port, request("POST", "/v1/files", body, FORM)).json["id"]
        with connect(served_process.port) as client:
            client.sendall(request("GET", f"/v1/files/{file}/content"))
            first = client.recv(65536)  # the rest does not fit into the buffers on the way
            served_process.process.send_signal(signum)
            assert until(lambda: refuses(served_process.port))
            rest = receive(client)
        reply = parsed(first + rest.raw)
        assert rest.end == "fin"
        assert hashlib.sha256(reply.body).hexdigest() == hashlib.sha256(data).hexdigest()
        assert served_process.wait()[0] == 0


def test_second_signal_does_not_wait_for_the_download(tmp_path):
    with program(tmp_path) as served_process:
        body = form(("purpose", "batch"), ("file", "a.bin", "", bytes(16 << 20)))
        file = ask(served_process.port, request("POST", "/v1/files", body, FORM)).json["id"]
        with connect(served_process.port) as client:
            client.sendall(request("GET", f"/v1/files/{file}/content"))
            client.recv(65536)
            served_process.process.send_signal(signal.SIGTERM)
            assert until(lambda: refuses(served_process.port))
            served_process.process.send_signal(signal.SIGTERM)
            assert served_process.process.wait(SOON) == -signal.SIGTERM


def refuses(port):
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # it closed while we connected: ask again
        return False
    return False


@pytest.mark.parametrize("whole", [True, False])
def test_drain_says_whether_everything_has_ended(whole):
    arrived, go = threading.Event(), threading.Event()

    def application(environ, start_response):
        arrived.set()
        go.wait(WAIT)
        return unread(environ, start_response)

    server = Server(("127.0.0.1", 0), application)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    with connect(server.server_port) as client:
        client.sendall(request("GET", "/"))
        assert arrived.wait(WAIT)
        server.shutdown()
        thread.join()
        if whole:
            threading.Timer(0.1, go.set).start()
        assert server.drain(WAIT if whole else 0.1) is whole
        assert refuses(server.server_port)
        go.set()
        assert receive(client).body == b"ok"


def test_drain_does_not_wait_for_a_client_that_has_sent_nothing():
    server = Server(("127.0.0.1", 0), unread)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    with connect(server.server_port) as client:
        assert until(lambda: len(server.lobby))
        server.shutdown()
        thread.join()
        started = time.monotonic()
        assert server.drain(WAIT)
        assert time.monotonic() - started < SOON
        assert receive(client).status == 0


def test_connection_for_which_no_thread_can_start_gives_its_slot_back(monkeypatch):
    def fail(server, request, client_address):
        raise RuntimeError("can't start new thread")

    with served(unread, max_connections=1) as server:
        with monkeypatch.context() as patched:
            patched.setattr(socketserver.ThreadingMixIn, "process_request", fail)
            for _ in range(3):
                assert get(server.server_port, "/", LOCAL).status == 0
        assert get(server.server_port, "/", LOCAL).status == 200
