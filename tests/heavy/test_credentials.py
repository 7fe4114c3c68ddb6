"""Credentials: one word, once; in no answer, log or message; and used for nobody but their owner."""

from __future__ import annotations

import json
import os
import subprocess
from base64 import b64encode
from hashlib import sha256

import pathological as bad
import pytest
from fakes import FILE, form, form_type
from scene import (
    A_FILE,
    CANARY,
    GATEWAY_KEY,
    HELLO,
    KEY,
    SAVED,
    ask,
    exchange,
    is_hidden,
    outcome,
    plain_headers,
    upload_head,
)
from servers import KINDS, ROOT, command, free_port
from sockets import answer, request

TWO_KEYS = {
    "authorization_twice": ["authorization: Bearer KEY", "authorization: Bearer KEY-b"],
    "portkey_twice": ["x-portkey-api-key: KEY", "x-portkey-api-key: KEY-b"],
    "in_a_list": ["x-portkey-api-key: KEY, KEY-b"],
    "nul": ["authorization: Bearer KEY\0b"],
    "bare_cr": ["authorization: Bearer KEY\rx-a: b"],
    "tab": ["authorization: Bearer KEY\tb"],
    "folded": ["authorization: Bearer KEY", " KEY-b"],
    "folded_portkey": ["x-portkey-api-key: KEY", "\tKEY-b"],
    "latin": ["authorization: Bearer KEY\xe9"],
    "space_before_colon": ["authorization : Bearer KEY"],
    "provider_twice": ["authorization: Bearer KEY", "x-portkey-provider: nowhere"],
}


@pytest.mark.parametrize("name", TWO_KEYS)
def test_key_that_does_not_come_once_is_refused(name, gateway, stage):
    lines = "".join(f"{line}\r\n" for line in TWO_KEYS[name]).replace("KEY", KEY).encode("latin-1")
    head = request("GET", "/v1/files/file-1", headers=plain_headers(authorization=None))[:-2] + lines + b"\r\n"
    reply = ask(gateway, head)
    if name == "folded" and gateway.kind == "waitress":  # which puts a space for the fold (RFC 9112 §5.2)
        assert reply.status == 200 and f"authorization: Bearer {KEY} {KEY}-b\r\n".encode() in stage.peer.head
        return
    assert reply.status == 400
    assert stage.calls() == 0


def test_twin_with_underscores_is_never_joined(gateway, stage):
    lines = f"x-portkey-api-key: {KEY}\r\nx_portkey_api_key: {KEY}-b\r\n\r\n".encode()
    head = request("GET", "/v1/files/file-1", headers=plain_headers(authorization=None))[:-2]
    reply = ask(gateway, head + lines)
    assert reply.status == (200 if gateway.kind == "waitress" else 400)  # waitress drops it
    assert stage.calls() == (reply.status == 200)
    if stage.calls():
        assert f"authorization: Bearer {KEY}\r\n".encode() in stage.peer.head


CARRIED = {
    "bearer": {"authorization": f"Bearer {KEY}"},
    "two_bearers": {"authorization": f"Bearer {KEY} {KEY}"},
    "basic": {"authorization": f"Basic {KEY}"},
    "portkey": {"authorization": None, "x_portkey_api_key": KEY},
    "azure": {"authorization": None, "api_key": KEY},
    "anthropic": {"authorization": None, "x_api_key": KEY},
    "virtual_key": {"x_portkey_provider": None, "x_portkey_virtual_key": KEY},
    "config": {"x_portkey_config": KEY},
    "custom_host": {"x_portkey_custom_host": f"https://{KEY}@127.0.0.1/"},
    "resource": {"x_portkey_azure_resource_name": KEY},
    "timeout": {"x_portkey_request_timeout": KEY},
    "cookie": {"cookie": KEY},
    "host": {"host": KEY},
    "content_type": {"content_type": f"multipart/form-data; boundary={KEY}\x7f"},
    "length": {"content_length": KEY},
    "range": {"range": KEY},
    "unknown_header": {"x_some_header": KEY},
}
ASKED = {
    "metadata": ("GET", "/v1/files/file-1", b""),
    "content": ("GET", "/v1/files/file-1/content", b""),
    "query": ("GET", f"/v1/files?limit={KEY}&api_key={KEY}", b""),
    "no_route": ("GET", f"/v1/{KEY}?key={KEY}", b""),
    "bad_id": ("GET", f"/v1/files/{KEY}%2f", b""),
    "absolute": ("GET", f"http://{KEY}@127.0.0.1/v1/nothing", b""),
    "method": (KEY.upper(), "/v1/files", b""),
    "form": ("POST", "/v1/files", form(("purpose", f"{KEY} "), ("file", KEY, f"a/{KEY}", KEY.encode()))),
    "file": ("POST", "/v1/files", form(("purpose", "batch"), ("file", KEY, f"a/{KEY}", KEY.encode()), ("x", KEY))),
    "not_a_form": ("POST", "/v1/files", KEY.encode()),
    "json": ("POST", "/v1/chat/completions", json.dumps({"model": f"@{KEY}/{KEY}", KEY: KEY}).encode()),
    "bad_json": ("POST", "/v1/chat/completions", f'{{"{KEY}": {KEY}'.encode()),
}


def test_credential_that_a_client_sends_is_in_no_answer_and_no_log(gateway, keyed, stage):
    """`ask` looks through each answer, the fixtures through all that their servers wrote once they have stopped."""
    for headers in CARRIED.values():
        for name, (method, path, body) in ASKED.items():
            kind = "application/json" if "json" in name else form_type()
            given = {"content_type": kind, "content_length": str(len(body)) if body else None, **headers}
            ask(gateway, request(method, path, b"", plain_headers(**given)) + body, half_close=True)
    for said in ({"x-portkey-api-key": f"{GATEWAY_KEY}x"}, {"authorization": f"Bearer {GATEWAY_KEY}x"}):
        ask(keyed, request("GET", "/v1/files", headers={**said, "connection": "close"}))
    assert is_hidden(gateway, keyed)


def with_line(line):
    return request("GET", "/v1/files", headers=plain_headers())[:-2] + f"{line}\r\n\r\n".encode()


def with_chunk(line):
    return upload_head(transfer_encoding="chunked") + line.encode()


MALFORMED = {
    "line_without_colon": with_line(KEY),
    "authorization_without_colon": with_line(f"authorization Bearer {KEY}"),
    "header_name": with_line(f"{KEY}: a"),
    "no_header_name": with_line(f": {KEY}"),
    "underscore": with_line(f"x_y: {KEY}"),
    "nul": with_line(f"a\0: {KEY}"),
    "coding": with_line(f"transfer-encoding: {KEY}"),
    "length": with_line(f"content-length: {KEY}"),
    "chunk_size": with_chunk(f"{KEY}\r\n"),
    "chunk_extension": with_chunk(f"3;{KEY}=\0\r\nabc\r\n"),
    "chunk_end": with_chunk(f"3\r\nabc{KEY}\r\n"),
    "request_line": f"{KEY}\r\n\r\n".encode(),
    "protocol": f"GET / {KEY}/1.1\r\n\r\n".encode(),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_credential_in_what_is_not_http_is_in_no_answer_and_no_log(name, gateway, stage):
    ask(gateway, MALFORMED[name], half_close=True)
    assert is_hidden(gateway)


MISTAKEN = "sk-by-mistake"  # no canary: what is wrong with it is to fail one test and not all
MISTAKES = {
    "purpose": ("POST", "/v1/files", form(("purpose", MISTAKEN), A_FILE), {}),
    "name_of_a_field": ("POST", "/v1/files", form((MISTAKEN, "x"), ("purpose", "batch"), A_FILE), {}),
    "trace_id": ("GET", "/v1/files/file-1", b"", {"x_portkey_trace_id": MISTAKEN}),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_credential_in_the_place_of_a_word_that_is_logged_is_not_logged(name, gateway, stage):
    method, path, body, headers = MISTAKES[name]
    given = plain_headers(authorization=f"Bearer {MISTAKEN}", content_type=form_type(), **headers)
    before = len(gateway.lines())
    reply = ask(gateway, request(method, path, body, given))
    assert MISTAKEN.encode() not in reply.raw
    if gateway.kind != "waitress":  # where logging is for the operator to set up
        assert len(gateway.wait_for_lines(before + 1)) == before + 1
        assert MISTAKEN not in str(gateway.lines()[before:])


def told(key, status="400 Bad Request", **headers):
    return answer({"error": {"message": f"No: {key}", "code": key, "param": key, "type": key}}, status, **headers)


QUOTES = {
    "error": told,
    "error_of_the_server": lambda key: told(key, "500 Internal Server Error"),
    "rejected": lambda key: told(key, "401 Unauthorized"),
    "reason": lambda key: told("", f"400 {key}"),
    "words": lambda key: answer(f"Wrong key {key}".encode(), "400 Bad Request", content_type="text/plain"),
    "page": lambda key: answer(f"<html>{key}".encode(), "403 Forbidden", content_type="text/html"),
    "base64": lambda key: told(b64encode(key.encode()).decode()),
    "redirect": lambda key: answer(b"", "302 Found", location=f"http://127.0.0.1/{key}?key={key}"),
    "headers": lambda key: answer(FILE, **dict.fromkeys(LOOSE_HEADERS, key)),
    "headers_of_an_error": lambda key: told(key, **dict.fromkeys(LOOSE_HEADERS, key)),
    "metadata": lambda key: answer({**FILE, "id": key, "filename": key, key: [key, {key: key}]}),
    "not_json": lambda key: answer(f"{{'{key}': {key}".encode()),
    "wrong_json": lambda key: answer([key]),
    "cut": lambda key: answer(f'{{"id": "{key}'.encode(), content_length="1000"),
    "status_line": lambda key: f"HTTP/1.1 {key}\r\n\r\n".encode(),
    "protocol": lambda key: f"{key}/1.1 200 OK\r\n\r\n".encode(),
    "header_name": lambda key: f"HTTP/1.1 200 OK\r\n{key}\r\n\r\n".encode(),
    "length": lambda key: answer(FILE, content_length=key),
    "coding": lambda key: answer(FILE, content_length=None, transfer_encoding=key),
    "encoding": lambda key: answer(FILE, content_encoding=key),
    "chunk_size": lambda key: answer(f"{key}\r\n".encode(), content_length=None, transfer_encoding="chunked"),
    "informational": lambda key: f"HTTP/1.1 103 {key}\r\nlink: {key}\r\n\r\n".encode() + told(key),
}
LOOSE_HEADERS = (
    "x_request_id", "retry_after", "openai_version", "openai_processing_ms", "x_ratelimit_limit_requests", "set_cookie",
    "content_type", "content_disposition", "etag", "last_modified", "server", "www_authenticate", "location",
)  # fmt: skip


@pytest.mark.parametrize("name", QUOTES)
def test_credential_that_an_upstream_repeats_is_in_no_answer_and_no_log(name, gateway, keyed, stage):
    stage.play(bad.quoting(QUOTES[name]))
    chat = json.dumps({"model": "gpt-5", "messages": [{"role": "user", "content": "Hi"}]}).encode()
    kept = {"x-portkey-provider": "@openai", "x-portkey-api-key": GATEWAY_KEY, "connection": "close"}
    for at, headers in ((gateway, plain_headers()), (keyed, kept)):
        for method, path, body, kind in (
            ("GET", "/v1/files", b"", None),
            ("GET", "/v1/files/file-1", b"", None),
            ("DELETE", "/v1/files/file-1", b"", None),
            ("POST", "/v1/files", HELLO, form_type()),
            ("POST", "/v1/chat/completions", chat, "application/json"),
        ):
            reply = ask(at, request(method, path, body, {**headers, "content-type": kind}))
            assert reply.status
        reply = exchange(at, request("GET", "/v1/files/file-1/content", headers=headers))
        assert CANARY not in str(reply.headers)
    seen = b"".join(bytes(peer.received) for peer in stage.peers)
    assert KEY.encode() in seen and SAVED.encode() in seen and GATEWAY_KEY.encode() not in seen
    assert is_hidden(gateway, keyed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["value", "key", "credential", "url", "proxy", "line"])
def test_credential_in_a_configuration_is_in_no_message(place, kind, scene):
    wrong = {
        "value": f"[filesproxy]\nmax_upload_bytes = {KEY}",
        "key": f"[provider:openai]\n{KEY} = x",
        "credential": f"[provider:openai]\ncredential = {KEY} and more",
        "url": f"[provider:compat]\nkind = openai\nbase_url = https://user:{KEY}@127.0.0.1/v1",
        "proxy": f"[filesproxy]\nproxy = https://user:{KEY}@127.0.0.1",
        "line": f"[filesproxy]\n{KEY}",
    }
    folder = scene.folder / f"wrong-{kind}-{place}"
    folder.mkdir()
    config = folder / "filesproxy.ini"
    config.write_text(wrong[place] + "\n", "utf-8")
    said = failed_start(kind, folder, config)
    assert "filesproxy.ini" in said and CANARY not in said.lower()


def failed_start(kind, folder, config):
    """All that a server of this kind says which does not start."""
    done = subprocess.run(
        command(kind, free_port()), cwd=ROOT, capture_output=True, encoding="utf-8", timeout=30,
        env={**os.environ, "FILESPROXY_CONFIG": str(config), "XDG_DATA_HOME": str(folder)},
    )  # fmt: skip
    assert done.returncode
    return done.stdout + done.stderr


UNWELCOME = {
    "wrong_key": ({"x-portkey-api-key": f"{GATEWAY_KEY}x"}, "@openai", (401, "invalid_api_key")),
    "half_a_key": ({"x-portkey-api-key": GATEWAY_KEY[:-1]}, "@openai", (401, "invalid_api_key")),
    "its_hash": ({"x-portkey-api-key": sha256(GATEWAY_KEY.encode()).hexdigest()}, "@openai", (401, "invalid_api_key")),
    "no_key": ({}, "@openai", (401, "invalid_api_key")),
    "the_saved_credential": ({"authorization": f"Bearer {SAVED}"}, "@openai", (401, "invalid_api_key")),
    "provider_that_is_not_its": ({"x-portkey-api-key": GATEWAY_KEY}, "@local", (400, "unknown_provider")),
    "unknown_provider": ({"x-portkey-api-key": GATEWAY_KEY}, "nobody", (400, "unknown_provider")),
    "unknown_slug": ({"x-portkey-api-key": GATEWAY_KEY}, "@nobody", (400, "unknown_provider")),
    "without_a_saved_credential": ({"x-portkey-api-key": GATEWAY_KEY}, "@compat", (400, "unknown_provider")),
    "plain_name_without_a_credential": ({"x-portkey-api-key": GATEWAY_KEY}, "openai", (403, "forbidden")),
}


@pytest.mark.parametrize("name", UNWELCOME)
def test_saved_credential_is_used_for_nobody_but_its_key(name, keyed, stage):
    """Keys are compared by `hmac.compare_digest`, which a unit test sees; through sockets no time would show."""
    said, provider, expected = UNWELCOME[name]
    headers = {"x-portkey-provider": provider, "connection": "close", **said}
    for path in ("/v1/files", "/v1/files/file-1/content"):
        assert outcome(ask(keyed, request("GET", path, headers=headers))) == expected
    form_headers = {**headers, "content-type": form_type(), "content-length": str(len(HELLO))}
    assert outcome(ask(keyed, request("POST", "/v1/files", b"", form_headers), HELLO)) == expected
    assert stage.calls() == 0
