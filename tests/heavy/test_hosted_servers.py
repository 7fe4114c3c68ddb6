"""uWSGI, and Apache with mod_wsgi, which locked-down hosts run, with the configuration that docs/deploy.md prints.

What they decode, join, drop and cut, and that nothing of it lets a request be read in two ways.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading

import pytest
from fakes import FILE, form, form_type
from servers import HOSTED_KINDS, missing, running
from sockets import WAIT, Upstream, answer, answering, chunked, receive, until

CONTENT = bytes(range(256)) * 5000
UPLOAD = form(("purpose", "batch"), ("file", "a b.bin", "application/octet-stream", CONTENT))
COMPAT = {"x-portkey-provider": "compat", "authorization": "Bearer sk-caller"}


@pytest.fixture(scope="module")
def upstream():
    """An upstream whose script each test sets."""
    made = Upstream(lambda peer: made.play(peer))
    made.play = answering(answer(FILE))
    with made:
        yield made


@pytest.fixture(scope="module", params=[*HOSTED_KINDS, "uwsgi router"])
def gateway(request, upstream, tmp_path_factory):
    """A gateway under each of them; uWSGI also behind its own router."""
    kind, *router = request.param.split()
    if missing(kind):
        pytest.skip(missing(kind))
    folder = tmp_path_factory.mktemp(kind)
    (folder / "filesproxy.ini").write_text(
        f"[filesproxy]\nfolder = replaced\ndefault_provider = local\n"
        f"[provider:compat]\nkind = openai\nbase_url = {upstream.url}\n",
        "utf-8",
    )
    with running(kind, folder / "run", router=bool(router), FILESPROXY_CONFIG=folder / "filesproxy.ini") as served:
        yield served


@pytest.fixture(autouse=True)
def empty(gateway):
    """The store has no files when a test starts."""
    for file in stored(gateway):
        gateway.request("DELETE", f"/v1/files/{file['id']}")


NOT_TAKEN = (0, 400, 411, 413, 500, 501)  # 0: the server closes without a word


def stored(gateway):
    return json.loads(gateway.request("GET", "/v1/files")[1])["data"]


def ask(gateway, raw, half_close=False):
    """The answer to these bytes."""
    with contextlib.closing(gateway.connect()) as client:
        with contextlib.suppress(OSError):  # uWSGI closes before it has read all, and the rest is reset
            client.sendall(raw)
            if half_close:
                client.shutdown(socket.SHUT_WR)
        return receive(client)


def head(*lines, path="/v1/files"):
    given = ("Host: localhost", "Connection: close", f"Content-Type: {form_type()}", *lines)
    return f"POST {path} HTTP/1.1\r\n{''.join(f'{line}{chr(13)}{chr(10)}' for line in given)}\r\n".encode()


CHUNKED = head("Transfer-Encoding: chunked")


def test_all_five_calls(gateway):
    response, made = gateway.request("POST", "/v1/files", UPLOAD, {"content-type": form_type()})
    made = json.loads(made)
    assert (response.status, made["filename"], made["bytes"]) == (200, "a b.bin", len(CONTENT))
    assert stored(gateway) == [made]
    path = f"/v1/files/{made['id']}"
    assert json.loads(gateway.request("GET", path)[1]) == made
    assert gateway.request("GET", f"{path}/content")[1] == CONTENT
    head_only, nothing = gateway.request("HEAD", f"{path}/content")
    assert (head_only.headers["content-length"], nothing) == (str(len(CONTENT)), b"")
    assert json.loads(gateway.request("DELETE", path)[1])["deleted"] is True
    assert gateway.request("GET", path)[0].status == 404


@pytest.mark.parametrize("size", [1 << 10, 1 << 16, 3 << 20])
def test_upload_without_a_length_is_stored_whole(size, gateway):
    """openai-node's createReadStream; under uWSGI it was a 411."""
    made = ask(gateway, CHUNKED + chunked(UPLOAD, size)).json
    assert made["bytes"] == len(CONTENT)
    assert gateway.request("GET", f"/v1/files/{made['id']}/content")[1] == CONTENT


CUT = {
    "in_a_chunk": chunked(UPLOAD, 65536)[:-9000],
    "between_two_chunks": b"%x\r\n%b\r\n" % (1000, UPLOAD[:1000]),
    "in_a_size": b"%x\r\n%b\r\nff" % (1000, UPLOAD[:1000]),
    "bad_size": b"%x\r\n%b\r\nzz\r\nhello\r\n0\r\n\r\n" % (1000, UPLOAD[:1000]),
    "ended_early": chunked(UPLOAD[:1000]),
}


@pytest.mark.parametrize("name", CUT)
def test_upload_that_breaks_off_is_not_stored(name, gateway):
    assert ask(gateway, CHUNKED + CUT[name], half_close=True).status in NOT_TAKEN
    ask(gateway, head(f"Content-Length: {len(UPLOAD)}") + UPLOAD[:5000], half_close=True)
    assert stored(gateway) == []


@pytest.mark.parametrize(
    "asked,status,size", [("bytes=0-9", 206, 10), ("bytes=-5", 206, 5), ("bytes=9999999-", 416, 0)]
)
def test_range_of_a_file(asked, status, size, gateway):
    made = json.loads(gateway.request("POST", "/v1/files", UPLOAD, {"content-type": form_type()})[1])
    response, content = gateway.request("GET", f"/v1/files/{made['id']}/content", headers={"range": asked})
    assert response.status == status
    if status == 206:
        assert content in (CONTENT[:size], CONTENT[-size:]) and len(content) == size


def test_events_pass_one_by_one(gateway, upstream):
    """The first one is there before the upstream has sent the second."""
    goes_on = threading.Event()
    events = b"content-type: text/event-stream\r\nconnection: close\r\n\r\n"

    def script(peer):
        peer.read_request()
        peer.sock.sendall(b"HTTP/1.1 200 OK\r\n" + events + b'data: {"first": 1}\n\n')
        goes_on.wait(WAIT)
        peer.sock.sendall(b'data: {"second": 2}\n\ndata: [DONE]\n\n')

    upstream.play = script
    body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}).encode()
    lines = ["Host: localhost", "Connection: close", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in COMPAT.items()]
    with contextlib.closing(gateway.connect()) as client:
        client.sendall("\r\n".join(["POST /v1/chat/completions HTTP/1.1", *lines, "", ""]).encode() + body)
        seen = b""
        while b'{"first": 1}' not in seen:
            seen += client.recv(65536) or pytest.fail(f"ended before the first event: {seen}")
        assert b"second" not in seen
        goes_on.set()
        assert b"data: [DONE]" in seen + receive(client).raw


REFUSED = {
    "authorization_twice": ("Authorization: Bearer a", "Authorization: Bearer b", "X-Portkey-Provider: compat"),
    "provider_twice": ("X-Portkey-Provider: compat", "X-Portkey-Provider: local"),
    "length_twice": ("Content-Length: 5", "Content-Length: 6"),
    "same_length_twice": ("Content-Length: 5", "Content-Length: 5"),
    "length_with_a_sign": ("Content-Length: +5",),
    "two_codings": ("Transfer-Encoding: gzip, chunked",),
    "another_coding": ("Transfer-Encoding: gzip",),
}


@pytest.mark.parametrize("name", REFUSED)
def test_header_that_two_readers_could_read_differently_is_refused(name, gateway, upstream):
    """A repeated header arrives joined by a comma, so the gateway sees both values."""
    lines = REFUSED[name]
    framed = any(line.startswith(("Content-Length", "Transfer-Encoding")) for line in lines)
    raw = head(*lines, *(() if framed else (f"Content-Length: {len(UPLOAD)}",))) + UPLOAD
    connections = upstream.connections
    assert ask(gateway, raw, half_close=True).status in NOT_TAKEN
    assert (stored(gateway), upstream.connections) == ([], connections)


def test_header_name_with_underscores_is_taken_by_uwsgi_and_dropped_by_mod_wsgi(gateway):
    """As the page says; gunicorn and the embedded server refuse it."""
    reply = gateway.request("GET", "/v1/files", headers={"x_portkey_provider": "nobody"})[0]
    assert reply.status == (400 if gateway.kind == "uwsgi" else 200)


def test_length_beside_chunks_never_counts(gateway):
    """RFC 9112 §6.3: Apache drops the length, under uWSGI it is a 400."""
    reply = ask(gateway, head("Content-Length: 5", "Transfer-Encoding: chunked") + chunked(UPLOAD, 65536))
    if gateway.kind == "uwsgi":
        assert (reply.status, stored(gateway)) == (400, [])
    else:
        assert reply.json["bytes"] == len(CONTENT)


def test_key_arrives(gateway, upstream):
    """WSGIPassAuthorization On: without it the caller's credential never came."""
    upstream.play = answering(answer(FILE))
    assert gateway.request("GET", "/v1/files/file-1", headers=COMPAT)[0].status == 200


def test_download_that_breaks_off_is_shorter_than_it_said(gateway, upstream):
    def script(peer):
        peer.read_request()
        peer.sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + bytes(300_000))

    upstream.play = script
    with contextlib.closing(gateway.connect()) as client:
        lines = [f"{name}: {value}\r\n" for name, value in {"host": "localhost", **COMPAT}.items()]
        client.sendall(f"GET /v1/files/file-1/content HTTP/1.1\r\n{''.join(lines)}connection: close\r\n\r\n".encode())
        raw = b""
        with contextlib.suppress(ConnectionResetError):
            for block in iter(lambda: client.recv(65536), b""):
                raw += block
    given, _, body = raw.partition(b"\r\n\r\n")
    assert b"content-length: 1000000" in given.lower() and len(body) < 1_000_000


def test_access_log_goes_where_the_page_says(gateway):
    gateway.request("GET", "/v1/files/file-none-of-these")
    assert until(lambda: "file-none-of-these" in gateway.err() + gateway.out())
