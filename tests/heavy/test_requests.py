"""What a request may be: its length, its path and method, an id, JSON; and the gateway below a prefix."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from fakes import FILE, OPENAI, form, form_type
from scene import (
    HELLO,
    LATE,
    MIB,
    ask,
    chat,
    checked,
    get,
    growing_at_most,
    main_sections,
    outcome,
    plain_headers,
    said,
    upload_head,
    within,
    written,
)
from servers import KINDS, running
from sockets import WAIT, chunked, receive, request, served

from filesproxy import create_app
from filesproxy.operations import ROUTES

waitress = pytest.importorskip("waitress", reason="needs waitress")


LENGTHS = {
    "negative": ["content-length: -5"],
    "with_a_sign": ["content-length: +5"],
    "a_list": ["content-length: 3, 5"],
    "two": ["content-length: 3", "content-length: 5"],
    "20_digits": ["content-length: 10000000000000000000"],
    "hexadecimal": ["content-length: 0x5"],
    "and_chunked": ["content-length: 5", "transfer-encoding: chunked"],
    "none": [],
}


@pytest.mark.parametrize("name", LENGTHS)
def test_content_length_that_is_not_one_number_is_refused(name, gateway, stage):
    head = upload_head()[:-2] + "".join(f"{line}\r\n" for line in LENGTHS[name]).encode() + b"\r\n"
    reply = ask(gateway, head + (HELLO if name != "none" else b""), half_close=True)
    if name == "and_chunked" and gateway.kind == "waitress":
        pytest.skip("waitress takes the chunks, as RFC 9112 6.3 allows, and shows the application no second length")
    if name == "20_digits" and gateway.kind == "waitress":
        assert reply.status == 413  # its own limit
    else:
        assert reply.status in (400, 411)
    assert stage.calls() == 0


def test_chunks_that_a_server_cannot_decode_are_411(scene, stage):
    """wsgiref's server, since the three decode them all."""

    class Quiet(WSGIRequestHandler):
        def log_message(self, format, *args):
            pass

    app = create_app(written(scene.folder / "wsgiref.ini", main_sections(scene)))
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with socket.create_connection(("127.0.0.1", server.server_port), WAIT) as sock:
            sock.sendall(upload_head(transfer_encoding="chunked") + chunked(HELLO))
            reply = checked(receive(sock))
        thread.join(WAIT)
    assert outcome(reply) == (411, "length_required")
    assert stage.calls() == 0


BAD_IDS = {
    "parent": b"../x", "encoded_parent": b"%2e%2e%2fx", "twice_encoded": b"%252e%252e%252fx", "query": b"a%3Fb",
    "fragment": b"a%23b", "nul": b"a%00", "latin": b"%E9", "utf_8": b"%C3%A9", "10_kb": b"a" * 10_240,
    "3_kb": b"a" * 3000, "empty": b"", "dot": b".", "dots": b"..", "encoded_dots": b"%2e%2e", "space": b"a%20b",
    "crlf": b"a%0d%0ab", "backslash": b"..%5cx", "semicolon": b"a;b", "encoded_slash": b"a%2fcontent",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_IDS)
def test_id_that_is_not_valid_is_refused_without_a_call(name, gateway, stage):
    for tail in (b"", b"/content"):
        head = request("GET", "/v1/files/ID", headers=plain_headers())
        reply = ask(gateway, head.replace(b"/ID ", b"/" + BAD_IDS[name] + tail + b" "))
        assert reply.status in (400, 404, 414) if name == "10_kb" else outcome(reply)[0] in (400, 404)
    assert stage.calls() == 0


@pytest.mark.parametrize("raw", [b"file-1\xc3\xa9", b"file-1#b", b"file-1\0b"])
def test_id_in_raw_bytes_never_changes_the_path(raw, gateway, stage):
    """A server may take a fragment off, which no client may send (RFC 9112 3.2); it must not arrive."""
    reply = ask(gateway, request("GET", "/v1/files/ID", headers=plain_headers()).replace(b"/ID ", b"/" + raw + b" "))
    assert reply.status in (200, 400, 404)
    if stage.calls():
        assert raw == b"file-1#b" and stage.peer.head.startswith(b"GET /v1/files/file-1 HTTP/1.1\r\n")


def routes(method):
    return [route.path.replace(":id", FILE["id"]) for route in ROUTES if route.method == method]


def test_head_has_no_body_on_any_route(gateway, stage):
    for path in routes("GET"):
        reply, got = get(gateway, path, method="HEAD"), get(gateway, path)
        assert (reply.status, reply.body) == (got.status, b"") and got.body, path


def test_wrong_method_is_405_with_allow(gateway, stage):
    for path in {route.path.replace(":id", FILE["id"]) for route in ROUTES}:
        known = {route.method for route in ROUTES if re.fullmatch(route.path.replace(":id", "[^/]+"), path)}
        for method in {"OPTIONS", "PUT", "PATCH", "DELETE", "TRACE"} - known:
            reply = get(gateway, path, method=method)
            assert outcome(reply) == (405, "method_not_allowed")
            assert known <= set(re.split(", *", reply.headers["allow"]))
    assert stage.calls() == 0


def test_trailing_slash_and_strange_paths_are_404(gateway, stage):
    for path in ("/v1/files/", "/v1/files//", "/v1//files", "/v1/files/file-1/", "/v1", "/V1/files", "/v1/files/a/b"):
        assert outcome(get(gateway, path))[0] in (400, 404), path
    assert stage.calls() == 0


MOUNTED = """
from filesproxy import create_app
inner = create_app()
def application(environ, start_response):
    if not environ["PATH_INFO"].startswith("/llm/"):
        return inner(environ, start_response)
    moved = {"SCRIPT_NAME": environ.get("SCRIPT_NAME", "") + "/llm", "PATH_INFO": environ["PATH_INFO"][4:]}
    return inner({**environ, **moved}, start_response)
"""


@contextlib.contextmanager
def mounted(kind, scene):
    """The port of a server with the gateway below /llm."""
    folder = scene.folder / f"mounted-{kind}"
    folder.mkdir()
    (folder / "mounted.py").write_text(MOUNTED, "utf-8")
    config = written(folder / "filesproxy.ini", main_sections(scene))
    if kind == "gunicorn":
        words = ("--workers", "1", "--pythonpath", str(folder), "mounted:application")
        with running("gunicorn", folder / "run", *words, FILESPROXY_CONFIG=config) as gateway:
            yield gateway.port
        return
    names = {"filesproxy": None}
    exec(MOUNTED.replace("create_app()", f"create_app({str(config)!r})"), names)
    if kind == "embedded":
        with served(names["application"]) as server:
            yield server.server_port
        return
    server = waitress.create_server(names["application"], host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server.effective_port
    finally:
        server.close()
        thread.join(WAIT)
        assert not thread.is_alive()


@pytest.mark.parametrize("kind", KINDS)
def test_gateway_works_below_a_prefix(kind, scene, stage):
    with mounted(kind, scene) as port:
        with socket.create_connection(("127.0.0.1", port), WAIT) as sock:
            sock.sendall(request("GET", "/llm/v1/files/file-1", headers=plain_headers()))
            assert outcome(checked(receive(sock))) == (200, None)
        with socket.create_connection(("127.0.0.1", port), WAIT) as sock:
            sock.sendall(request("GET", "/llm/llm/v1/files", headers=plain_headers()))
            assert outcome(checked(receive(sock))) == (404, "not_found")
    assert stage.peer.head.startswith(b"GET /v1/files/file-1 HTTP/1.1\r\n")


def test_every_route_passes_the_linter_of_wsgi(client, upstream):
    """`client` runs each request through wsgiref.validate, as it does for the whole suite outside of tests/heavy."""
    upstream.answers({**FILE, "data": [FILE], "has_more": False, "output_file_id": FILE["id"]})
    bodies = {"form": HELLO, "part": form(("data", "a", "", b"x")), "json": said(b"1"), "none": b""}
    bodies["part or json"] = bodies["json"]
    for route in ROUTES:
        kind = {"content-type": "application/json" if "json" in route.body else form_type()}
        headers = {**OPENAI, **kind} if route.method == "POST" else OPENAI
        call = {"method": route.method, "headers": headers, "body": bodies[route.body], "expect_errors": True}
        path = re.sub(":[a-z_]+", FILE["id"], route.path)
        reply = client.request(path, **call)
        assert reply.status_int == 200, (route, reply.text)


BAD_JSON = {
    "nan": said(b"NaN"),
    "infinity": said(b"-Infinity"),
    "out_of_range": said(b"1e999"),
    "two_keys": said(b'{"a": 1, "a": 2}'),
    "two_models": said(b'1, "model": "n"'),
    "huge_integer": said(b"9" * 100_000),
    "deep_lists": said(b"[" * 100_000 + b"]" * 100_000),
    "deep_objects": said(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "deep_and_open": b"[" * 100_000,
    "not_utf_8": said(b'"\xff"'),
    "not_an_object": b"[]",
    "nothing": b"",
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_json_that_two_readers_could_read_differently_is_400(name, gateway, stage):
    with within(LATE):
        assert outcome(chat(gateway, BAD_JSON[name])) == (400, "invalid_json")
    assert stage.calls() == 0


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_json_of_100_megabytes_is_413(framing, gateway, stage):
    body = said(b'"' + bytes(100 * MIB) + b'"')
    with growing_at_most(gateway, 100 * MIB):
        if framing == "length":
            reply = chat(gateway, body)
        else:
            reply = chat(gateway, chunked(body, MIB), transfer_encoding="chunked")
    assert outcome(reply) == (413, "request_too_large")
    assert stage.calls() == 0
