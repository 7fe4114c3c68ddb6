"""The main operations under `python -O`: nothing that the gateway does may stand in an assert."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from configurations import hashed
from fakes import FILE, form, form_type
from kept_alive import COMPLETION, serving
from sockets import Upstream, answer, ask, environment, get, program, request

LOCAL = {"host": "localhost"}
KEY, SAVED = "fp_" + "optimized" * 5, "sk-saved-optimized"
UPLOAD = form(("purpose", "batch"), ("file", "a.jsonl", "application/jsonl", b"hello"))
CHAT = {"model": "@saved/gpt-5", "messages": [{"role": "user", "content": "Hi"}]}
CONFIGURATION = """\
[filesproxy]
folder = {folder}
default_provider = other
[provider:saved]
kind = openai
base_url = {saved}
credential = {credential}
[provider:other]
kind = openai
base_url = {other}
credential = sk-other
[key:team]
sha256 = {hashed}
providers = *
"""


@pytest.fixture
def optimized(tmp_path):
    """Serves under `python -O` in a process of its own: optimized(*arguments)."""

    def serve(*arguments):
        return program(tmp_path, *arguments, flags=("-O",))

    return serve


def test_asserts_are_off_in_such_a_process(tmp_path):
    words = [sys.executable, "-O", "-c", "assert False, 'these tests would prove nothing'"]
    assert subprocess.run(words, env=environment(tmp_path)).returncode == 0


def test_local_store_does_all_five_calls(optimized):
    with optimized() as gateway:
        made = ask(gateway.port, request("POST", "/v1/files", UPLOAD, {**LOCAL, "content-type": form_type()})).json
        path = f"/v1/files/{made['id']}"
        assert [file["id"] for file in get(gateway.port, "/v1/files", LOCAL).json["data"]] == [made["id"]]
        assert get(gateway.port, path, LOCAL).json == made
        assert get(gateway.port, f"{path}/content", LOCAL).body == b"hello"
        part = get(gateway.port, f"{path}/content", {**LOCAL, "range": "bytes=1-2"})
        assert (part.status, part.body) == (206, b"el")
        assert get(gateway.port, path, LOCAL, "DELETE").json["deleted"] is True
        assert get(gateway.port, path, LOCAL).status == 404
        assert gateway.stop()[0] == 0


def test_what_is_wrong_is_refused(optimized):
    broken = UPLOAD[:-6]
    with optimized() as gateway:
        for body, kind, status in ((broken, form_type(), 400), (b"{}", "application/json", 415)):
            reply = ask(gateway.port, request("POST", "/v1/files", body, {**LOCAL, "content-type": kind}))
            assert (reply.status, reply.error["type"]) == (status, "invalid_request_error")
        assert get(gateway.port, "/v1/files", LOCAL).json["data"] == []
        assert get(gateway.port, "/v1/files/..%2f", LOCAL).status == 400


@pytest.fixture
def upstreams():
    """The saved provider that a chat's model names, and another, which is the default."""

    def framed(data):
        return answer(COMPLETION if b"/chat/completions " in data else FILE)

    with Upstream(serving(framed=framed)) as saved, Upstream(serving(framed=framed)) as other:
        yield saved, other


def test_chat_goes_to_the_provider_that_its_model_names_and_a_file_to_that_of_its_header(
    optimized, upstreams, tmp_path
):
    saved, other = upstreams
    config = tmp_path / "filesproxy.ini"
    places = {"folder": tmp_path / "store", "saved": saved.url, "other": other.url, "hashed": hashed(KEY)}
    config.write_text(CONFIGURATION.format(credential=SAVED, **places), "utf-8")
    with optimized("--config", str(config)) as gateway:
        given = {"x-portkey-api-key": KEY, "content-type": "application/json"}
        reply = ask(gateway.port, request("POST", "/v1/chat/completions", json.dumps(CHAT).encode(), given))
        assert (reply.status, reply.json["id"]) == (200, COMPLETION["id"])
        assert other.connections == 0
        sent = bytes(saved.peers[0].received)
        assert f"\r\nauthorization: Bearer {SAVED}\r\n".encode() in sent
        assert b'"model":"gpt-5"' in sent.replace(b'": "', b'":"') and KEY.encode() not in sent
        given = {"x-portkey-api-key": KEY, "x-portkey-provider": "@saved", "content-type": form_type()}
        assert ask(gateway.port, request("POST", "/v1/files", UPLOAD, given)).json == FILE
        assert other.connections == 0
        assert get(gateway.port, "/v1/files", {"host": "localhost"}).status == 401
