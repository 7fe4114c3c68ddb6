"""The way to a provider's host: it ends with its request, and a failure quotes nothing of an unusable proxy."""

from __future__ import annotations

import socket
import threading

import pytest
from sockets import WAIT, Upstream, answer, answering, get, served

from filesproxy import create_app
from filesproxy.calls import Call, Target
from filesproxy.errors import ClientAborted, UpstreamTimeout
from filesproxy.transports.https.transport import HttpTransport
from filesproxy.watchdog import Watch

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
    "not_a_url": "://hunter2",
    "white_space": "http://user:hunter2 @127.0.0.1:{port}",
    "not_ascii": "http://user:hunter2é@127.0.0.1:{port}",
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


def refused_port():
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Peer:
    """Accepts one connection, reads what comes first, sends its answer, and closes."""

    def __init__(self, reply=b""):
        self._listener, self._reply = socket.create_server(("127.0.0.1", 0)), reply
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def _serve(self):
        sock, _ = self._listener.accept()
        with sock:
            sock.recv(65536)
            sock.sendall(self._reply)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._thread.join()
        self._listener.close()


def failure(base_url, **more):
    """(code, message) of a call to a provider there."""
    section = {"kind": "openai", "base_url": base_url, **more}
    with served(create_app({"provider:compat": section})) as server:
        reply = get(server.server_port, "/v1/files/file-1")
    return reply.error["code"], reply.error["message"]


def test_refused_connection_names_host_port_and_cause_and_no_proxy_where_there_is_none():
    """The message used to say "or the proxy before it"."""
    for scheme in ("http", "https"):
        end = f"127.0.0.1:{refused_port()}"
        assert failure(f"{scheme}://{end}/v1") == (
            "upstream_unreachable",
            f"Cannot connect to {end} (ECONNREFUSED).",
        )


def test_host_without_an_address_is_named_with_its_cause():
    code, message = failure("https://nowhere.invalid/v1")
    assert code == "upstream_unreachable" and message.startswith("Cannot resolve nowhere.invalid:443 (EAI_")


def test_proxy_that_is_down_is_told_from_the_host_and_not_named():
    port = refused_port()
    code, message = failure("https://api.example/v1", proxy=f"http://127.0.0.1:{port}")
    assert (code, message) == (
        "upstream_unreachable",
        "Cannot connect to the proxy before api.example:443 (ECONNREFUSED).",
    )


@pytest.mark.parametrize(
    "reply,cause",
    [
        (b"HTTP/1.1 407 hunter2\r\n\r\n", " (status 407)"),
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", " (status 403)"),
        (b"", ""),
        (b"SSH-2.0-OpenSSH hunter2\r\n", ""),
    ],
)
def test_proxy_that_opens_no_tunnel_is_named_as_the_cause(reply, cause):
    with Peer(reply) as proxy:
        code, message = failure("https://api.example/v1", proxy=f"http://127.0.0.1:{proxy.port}")
    assert (code, message) == ("upstream_unreachable", f"The proxy opened no connection to api.example:443{cause}.")


@pytest.mark.parametrize("reply", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n", b"hello\n"])
def test_https_to_a_plain_port_is_said_to_be_that(reply):
    """The message used to be about a client_cert."""
    with Peer(reply) as peer:
        code, message = failure(f"https://127.0.0.1:{peer.port}/v1")
    assert code == "upstream_tls" and message.startswith(f"127.0.0.1:{peer.port} does not answer in TLS")


def test_connection_that_ends_during_the_handshake_is_said_to_be_that():
    with Peer() as peer:
        code, message = failure(f"https://127.0.0.1:{peer.port}/v1")
    assert code in ("upstream_tls", "upstream_unreachable") and f"127.0.0.1:{peer.port}" in message
    assert "handshake" in message and "client_cert" not in message


LIMITS = {"connect_timeout": WAIT, "send_timeout": WAIT, "answer_timeout": WAIT, "read_timeout": WAIT}
ENDS = {
    "its_time_is_over": (lambda watch: watch.check(float("inf")), UpstreamTimeout, 504),
    "its_client_leaves": (Watch.leave, ClientAborted, 400),
}


@pytest.mark.parametrize("name", ENDS)
def test_connection_of_a_request_that_ended_while_its_host_was_looked_up_is_closed_unused(name, monkeypatch):
    """There was no socket to shut down yet, so the request went on over one that nobody watched."""
    end, failure, status = ENDS[name]
    watch, look_up = Watch(), socket.getaddrinfo

    def end_then_look_up(*arguments):
        end(watch)
        return look_up(*arguments)

    with Upstream(lambda peer: peer.read_to_end()) as upstream:
        monkeypatch.setattr(socket, "getaddrinfo", end_then_look_up)
        call = Call("retrieve_file", "GET", "/files/file-1", url=f"{upstream.url}/files/file-1", watch=watch)
        with pytest.raises(failure) as ended:
            HttpTransport()(call, Target("compat", {}, upstream.url, LIMITS))
        assert ended.value.status == status
        assert (bytes(upstream.peer.received), upstream.peer.ended) == (b"", "fin")
    assert watch.upstream is None
