"""The way to a provider's host: an unusable proxy of the environment is a failure that quotes nothing of it."""

from __future__ import annotations

import pytest
from sockets import Upstream, answer, answering, get, served

from filesproxy import create_app

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
UNUSABLE = {
    "no_host": "http://user:hunter2@",
    "no_host_but_a_port": "http://user:hunter2@:3128",
    "half_an_address": "http://user:hunter2@[::1",
    "port_that_is_a_word": "http://user:hunter2@127.0.0.1:hunter2",
    "port_of_six_digits": "http://user:hunter2@127.0.0.1:999999",
    "port_0": "http://user:hunter2@127.0.0.1:0",
    "negative_port": "http://user:hunter2@127.0.0.1:-1",
    "word_for_a_port_and_no_scheme": "user:hunter2@127.0.0.1:hunter2",
    "password_alone": "hunter2@",
    "socks4": "socks4://user:hunter2@127.0.0.1:{port}",
    "socks5": "socks5://user:hunter2@127.0.0.1:{port}",
    "socks5h": "socks5h://user:hunter2@127.0.0.1:{port}",
    "https": "https://user:hunter2@127.0.0.1:{port}",
    "file": "file:///hunter2",
    "no_url": "://hunter2",
    "white_space": "http://user:hunter2 @127.0.0.1:{port}",
    "no_ascii": "http://user:hunter2é@127.0.0.1:{port}",
}


@pytest.fixture(autouse=True)
def no_proxy_from_outside(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY"])
@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_proxy_of_the_environment_is_502_and_not_quoted(name, variable, monkeypatch, caplog):
    with Upstream(answering(answer(b"{}"))) as trap:
        monkeypatch.setenv(variable, UNUSABLE[name].format(port=trap.port))
        section = {"kind": "openai", "base_url": f"https://127.0.0.1:{trap.port}/v1", "proxy": "env"}
        with served(create_app({"provider:compat": section})) as server:
            for path in ("/v1/files/file-1", "/v1/files/file-1/content"):
                reply = get(server.server_port, path)
                assert (reply.status, reply.error["code"]) == (502, "upstream_unreachable")
                assert b"hunter2" not in reply.raw
        assert trap.connections == 0  # neither as a proxy, nor past it
    assert "hunter2" not in caplog.text
