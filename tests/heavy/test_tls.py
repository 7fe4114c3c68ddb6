"""The way to providers over TLS: whom we trust, what fails and how it is told, early answers, CONNECT proxies."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import ssl
import time
import warnings

import pytest
from certificates import Authority, compat, connect_lines, metadata, secure, tunnel
from fakes import FILE, form, form_type
from pathological import refusing
from sockets import (
    COMPAT,
    SOON,
    WAIT,
    Upstream,
    answer,
    answering,
    ask,
    chunked,
    get,
    open_files,
    request,
    served,
    until,
)

from filesproxy import create_app
from filesproxy.errors import ConfigError
from filesproxy.transports.https.connection import Connection

UPLOAD = form(("purpose", "batch"), ("file", "a.jsonl", "application/jsonl", b"hello"))
BIG = form(("purpose", "batch"), ("file", "a.bin", "", bytes(50 << 20)))

pytestmark = pytest.mark.usefixtures("no_proxy_from_outside")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"), "private-ca")


@pytest.fixture(scope="module")
def good(authority):
    """A server's context that is valid for localhost and 127.0.0.1."""
    return authority.context("good")


def upload(port, body=UPLOAD):
    return ask(port, request("POST", "/v1/files", body, {**COMPAT, "content-type": form_type()}))


# Whom we trust


def test_unknown_ca_is_502_that_names_the_host_and_the_setting(good):
    with secure(answering(answer(FILE)), good) as upstream:
        reply = metadata(upstream.port)
        assert (reply.status, reply.error["code"]) == (502, "upstream_tls")
        assert "localhost" in reply.error["message"] and "ca_file" in reply.error["message"]
        assert upstream.peers == []  # no handshake, so no credential


@pytest.mark.parametrize("setting", ["ca_file", "ca_extra"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_private_ca_is_trusted_where_it_is_configured(setting, host, authority, good):
    with secure(answering(answer(FILE)), good) as upstream:
        assert metadata(upstream.port, host=host, **{setting: authority.ca}).json == FILE
        assert f"\r\nhost: {host}:{upstream.port}\r\n".encode() in upstream.peer.head


def test_ca_file_is_the_only_ca_and_ca_extra_is_beside_it(authority, good, tmp_path):
    other = Authority(tmp_path, "other-ca")
    with secure(answering(answer(FILE)), good) as upstream:
        assert metadata(upstream.port, ca_file=other.ca).status == 502
        assert metadata(upstream.port, ca_file=other.ca, ca_extra=authority.ca).json == FILE


def test_each_provider_has_its_own_trust(authority, good):
    with secure(answering(answer(FILE)), good) as upstream:
        section = {"kind": "openai", "base_url": f"https://localhost:{upstream.port}/v1"}
        app = create_app({"provider:compat": section, "provider:private": {**section, "ca_file": str(authority.ca)}})
        with served(app) as server:
            for name, status in (("compat", 502), ("private", 200), ("compat", 502)):
                assert (
                    get(server.server_port, "/v1/files/file-1", {**COMPAT, "x-portkey-provider": name}).status == status
                )


def test_certificate_for_another_name_is_502(authority):
    context = authority.context("other", "other.example")
    with secure(answering(answer(FILE)), context) as upstream:
        reply = metadata(upstream.port, ca_file=authority.ca)
        assert (reply.status, reply.error["code"]) == (502, "upstream_tls")
        assert "other.example" not in reply.error["message"]
        assert all(not peer.received for peer in upstream.peers)


def test_expired_certificate_is_502(authority):
    context = authority.context("expired", "localhost", days=-1)
    with secure(answering(answer(FILE)), context) as upstream:
        reply = metadata(upstream.port, ca_file=authority.ca)
        assert (reply.status, reply.error["code"]) == (502, "upstream_tls")


def test_server_that_speaks_tls_1_1_alone_is_refused(authority):
    context = authority.context("old", "localhost")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    if not speaks_tls_1_1(context, authority):
        pytest.skip("this OpenSSL cannot speak TLS 1.1, so no server can be made that speaks nothing else")
    with secure(answering(answer(FILE)), context) as upstream:
        reply = metadata(upstream.port, ca_file=authority.ca)
        assert (reply.status, reply.error["code"]) == (502, "upstream_tls")
        assert "localhost" in reply.error["message"]


def speaks_tls_1_1(server, authority):
    """Whether a client that is willing gets through to such a server."""
    client = ssl.create_default_context(cafile=str(authority.ca))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        client.minimum_version = ssl.TLSVersion.TLSv1_1
    client.set_ciphers("ALL:@SECLEVEL=0")
    with (
        secure(lambda peer: peer.read(), server) as upstream,
        socket.create_connection(("127.0.0.1", upstream.port)) as sock,
    ):
        try:
            with client.wrap_socket(sock, server_hostname="localhost") as secured:
                return secured.version() == "TLSv1.1"
        except OSError:
            return False


def test_server_that_speaks_no_tls_is_502_and_sees_no_credential(authority):
    with Upstream(lambda peer: (peer.read(), peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"))) as upstream:
        reply = metadata(upstream.port, ca_file=authority.ca)
        assert (reply.status, reply.error["code"]) == (502, "upstream_tls")
        assert b"sk-caller" not in upstream.peer.received


def test_handshake_that_stalls_is_504_in_connect_timeout(authority):
    with Upstream(lambda peer: peer.stall()) as upstream:
        started = time.monotonic()
        reply = metadata(upstream.port, ca_file=authority.ca, connect_timeout=0.2)
        assert (reply.status, reply.error["code"]) == (504, "upstream_timeout")
        assert time.monotonic() - started < SOON


def test_session_keys_are_not_written_to_sslkeylogfile(authority, good, tmp_path, monkeypatch):
    path = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(path))
    with secure(answering(answer(FILE)), good) as upstream:
        for setting in ("ca_file", "ca_extra"):
            assert metadata(upstream.port, **{setting: authority.ca}).json == FILE
    assert not path.exists()


UNUSABLE = {"no_pem": b"no certificate", "empty": b"", "key_alone": b"-----BEGIN PRIVATE KEY-----\nAAAA\n",
            "half_a_certificate": b"-----BEGIN CERTIFICATE-----\nMIIB\n"}  # fmt: skip


@pytest.mark.parametrize("setting", ["ca_file", "ca_extra"])
@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_trust_store_stops_the_start(name, setting, tmp_path):
    path = tmp_path / "unusable.pem"
    path.write_bytes(UNUSABLE[name])
    with pytest.raises(ConfigError, match=rf"\[provider:compat\].*{setting} is not"):
        compat(1, **{setting: path})


@pytest.mark.parametrize("setting", ["ca_file", "ca_extra"])
@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_trust_store_of_all_providers_stops_the_start(name, setting, tmp_path):
    path = tmp_path / "unusable.pem"
    path.write_bytes(UNUSABLE[name])
    with pytest.raises(ConfigError, match=f"{setting} is not"):
        create_app({"filesproxy": {setting: str(path)}})
    with pytest.raises(ConfigError, match=f"{setting} is not"):
        create_app(**{setting: str(path)})


# Bytes over TLS


def test_upload_and_download_over_tls_keep_their_bytes(authority, good):
    data = bytes(range(256)) * 20_000
    with (
        secure(answering(answer(FILE)), good) as upstream,
        served(compat(upstream.port, ca_file=authority.ca)) as server,
    ):
        assert upload(server.server_port, form(("purpose", "batch"), ("file", "a.bin", "", data))).json == FILE
        assert data in upstream.peer.body
    for framed in (answer(data), answer(chunked(data), content_length=None, transfer_encoding="chunked")):
        with secure(answering(framed), good) as upstream, served(compat(upstream.port, ca_file=authority.ca)) as server:
            assert get(server.server_port, "/v1/files/file-1/content").body == data


def unwrap(peer):
    """Close as TLS wants it, with close_notify; the other side's is not waited for."""
    peer.sock.settimeout(0.1)
    with contextlib.suppress(OSError):
        peer.sock.unwrap()


EARLY = {
    "closes": lambda peer: None,
    "closes_with_close_notify": unwrap,
    "resets": lambda peer: peer.reset(),
    "keeps_open_and_stops_reading": lambda peer: peer.stall(),
    "keeps_open_and_reads_on": lambda peer: peer.read_to_end(),
}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["tls_1_2", "tls_1_3"])
@pytest.mark.parametrize("name", EARLY)
def test_early_413_over_tls_reaches_a_caller_who_is_sending_50_megabytes(name, version, authority):
    context = authority.context(f"early-{version.name}", "localhost")
    context.maximum_version = version
    with secure(refusing(EARLY[name]), context) as upstream:
        with served(compat(upstream.port, ca_file=authority.ca, send_timeout=1)) as server:
            started = time.monotonic()
            reply = upload(server.server_port, BIG)
            assert time.monotonic() - started < SOON
        assert (reply.status, reply.error["message"]) == (413, "Too big.")


def cut(peer):
    """Close the TCP connection below TLS: no close_notify."""
    socket.socket(fileno=peer.sock.detach()).close()


@pytest.mark.parametrize("close", [cut, unwrap], ids=["tcp_close", "close_notify"])
@pytest.mark.parametrize("name", ["length", "chunked"])
def test_truncated_tls_download_never_ends_quietly(name, close, authority, good):
    data = bytes(300_000)
    whole = (
        answer(chunked(data), content_length=None, transfer_encoding="chunked") if name == "chunked" else answer(data)
    )

    def script(peer):
        peer.read_request()
        peer.send(whole[:150_000])
        close(peer)

    with secure(script, good) as upstream, served(compat(upstream.port, ca_file=authority.ca)) as server:
        reply = get(server.server_port, "/v1/files/file-1/content")
        assert len(reply.body) < len(data)
        assert reply.end == "reset" or len(reply.body) < int(reply.headers["content-length"])
        if name == "chunked":
            assert reply.end == "reset"


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
DATA = bytes(range(256)) * 2000
FRAMED = {
    "length": answer(DATA),
    "chunked": answer(chunked(DATA), content_length=None, transfer_encoding="chunked"),
    "to_the_end_of_the_stream": answer(DATA, content_length=None),
}


def closed_by(close, framed, version, authority, path="/v1/files/file-1/content"):
    """What a client gets from an upstream that sends these bytes and then closes in this way."""
    context = authority.context(f"closing-{version.name}", "localhost")
    context.maximum_version = version

    def script(peer):
        peer.read_request()
        peer.send(framed)
        close(peer)

    with secure(script, context) as upstream, served(compat(upstream.port, ca_file=authority.ca)) as server:
        return get(server.server_port, path)


@VERSIONS
def test_download_to_the_end_of_the_stream_without_close_notify_is_a_cut(version, authority):
    reply = closed_by(cut, FRAMED["to_the_end_of_the_stream"], version, authority)
    assert (reply.status, reply.end) == (200, "reset")
    cut_at_the_head = closed_by(cut, answer(b"", content_length=None), version, authority)
    assert cut_at_the_head.status == 502
    metadata_of_it = closed_by(cut, answer(FILE, content_length=None), version, authority, "/v1/files/file-1")
    assert metadata_of_it.status == 502


@VERSIONS
@pytest.mark.parametrize("name", FRAMED)
def test_download_that_ends_with_close_notify_is_whole(name, version, authority):
    reply = closed_by(unwrap, FRAMED[name], version, authority)
    assert (reply.status, reply.body, reply.end) == (200, DATA, "fin")


@VERSIONS
@pytest.mark.parametrize("name", ["length", "chunked"])
def test_download_that_says_where_it_ends_needs_no_close_notify(name, version, authority):
    reply = closed_by(cut, FRAMED[name], version, authority)
    assert (reply.status, reply.body, reply.end) == (200, DATA, "fin")
    assert closed_by(cut, answer(FILE), version, authority, "/v1/files/file-1").json == FILE


def test_small_calls_over_a_kept_tls_connection_set_no_time_limit_anew(authority, good, monkeypatch):
    limits = []

    def noted(sock, seconds):
        if not sock.server_side:
            limits.append(seconds)
        socket.socket.settimeout(sock, seconds)

    def answers(peer):
        while peer.read():  # a small request comes whole
            peer.send(answer(FILE))

    with secure(answers, good) as upstream, served(compat(upstream.port, ca_file=authority.ca)) as server:
        assert get(server.server_port, "/v1/files/file-1").json == FILE
        monkeypatch.setattr(ssl.SSLSocket, "settimeout", noted)
        for _ in range(5):
            assert get(server.server_port, "/v1/files/file-1").json == FILE
        assert upstream.connections == 1
    assert len(limits) <= 1


@pytest.mark.parametrize("size", [1024, 1 << 20])
def test_tls_upstream_that_stops_reading_is_given_up_in_send_timeout(size, authority, good):
    trust = ssl.create_default_context(cafile=str(authority.ca))
    with secure(lambda peer: (peer.read_head(), peer.stall()), good) as upstream:
        sock = trust.wrap_socket(socket.create_connection(("127.0.0.1", upstream.port)), server_hostname="localhost")
        connection = Connection(sock)
        connection.read_timeout, connection.send_timeout = 60, 0.3
        assert connection.send([b"POST / HTTP/1.1\r\n\r\n"], check_first=False)
        began, sent = time.monotonic(), 0
        while connection.send([bytes(size)]):
            sent, began = sent + size, time.monotonic()
            assert sent < 1 << 26
        assert 0.2 < time.monotonic() - began < SOON
        connection.close()


def test_client_that_leaves_mid_download_frees_the_tls_connection(authority, good):
    def script(peer):
        peer.read_request()
        peer.send(answer(b"", content_length=str(1 << 40)))
        while True:
            peer.send(bytes(1 << 16))

    with secure(script, good) as upstream, served(compat(upstream.port, ca_file=authority.ca)) as server:
        before = open_files()
        with socket.create_connection(("127.0.0.1", server.server_port), WAIT) as client:
            client.sendall(request("GET", "/v1/files/file-1/content", headers=COMPAT))
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
            left = time.monotonic()
        assert until(lambda: upstream.peers[0].over.is_set())
        assert time.monotonic() - left < SOON
        assert until(lambda: open_files() <= before)


# CONNECT proxies


def basic(user, password):
    return "proxy-authorization: basic " + base64.b64encode(f"{user}:{password}".encode()).decode().lower()


def test_configured_proxy_gets_connect_and_its_own_password_and_nothing_of_the_providers(authority, good):
    with Upstream(tunnel) as proxy, secure(answering(answer(FILE)), good) as upstream:
        settings = {"ca_file": authority.ca, "proxy": f"http://user:p%40ss@127.0.0.1:{proxy.port}"}
        with served(compat(upstream.port, **settings)) as server:
            assert get(server.server_port, "/v1/files/file-1").json == FILE
            assert upload(server.server_port).json == FILE
        assert proxy.connections == upstream.connections == 2
        for lines in connect_lines(proxy):
            assert lines[0].startswith(f"connect localhost:{upstream.port} http/1.")
            assert basic("user", "p@ss") in lines
            assert not [line for line in lines if line.startswith(("authorization", "user-agent", "x-"))]
        for peer in proxy.peers:
            assert b"sk-caller" not in peer.received and b"hello" not in peer.received
        for peer in upstream.peers:
            assert b"sk-caller" in peer.received
            assert b"proxy-auth" not in bytes(peer.received).lower()


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY"])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_proxy_of_the_environment_is_used_where_the_setting_says_so(variable, scheme, authority, good, monkeypatch):
    with Upstream(tunnel) as proxy, secure(answering(answer(FILE)), good) as upstream:
        monkeypatch.setenv(variable, f"{scheme}user:word@127.0.0.1:{proxy.port}")
        assert metadata(upstream.port, ca_file=authority.ca, proxy="env").json == FILE
        ((line, *rest),) = connect_lines(proxy)
        assert line.startswith(f"connect localhost:{upstream.port} ")
        assert basic("user", "word") in rest
        assert b"sk-caller" not in proxy.peers[0].received
        assert metadata(upstream.port, ca_file=authority.ca, proxy="none").json == FILE
        assert metadata(upstream.port, ca_file=authority.ca).json == FILE
        assert proxy.connections == 1


@pytest.mark.parametrize(
    "value,direct", [("localhost", True), ("*", True), ("example.com,localhost", True), ("other.example", False)]
)
def test_no_proxy_of_the_environment_is_obeyed(value, direct, authority, good, monkeypatch):
    with Upstream(tunnel) as proxy, secure(answering(answer(FILE)), good) as upstream:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", value)
        assert metadata(upstream.port, ca_file=authority.ca, proxy="env").json == FILE
        assert proxy.connections == (0 if direct else 1)


def test_environment_without_a_proxy_means_a_direct_connection(authority, good, monkeypatch):
    with Upstream(tunnel) as trap, secure(answering(answer(FILE)), good) as upstream:
        for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{trap.port}")
        assert metadata(upstream.port, ca_file=authority.ca, proxy="env").json == FILE
        assert trap.connections == 0


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "403 Forbidden", "502 Bad Gateway"])
def test_proxy_that_refuses_is_502_without_its_password(status, authority, good, caplog):
    refusal = answer(b"denied for user:hunter2", status)
    with (
        Upstream(lambda peer: (peer.read_head(), peer.send(refusal))) as proxy,
        secure(answering(answer(FILE)), good) as upstream,
    ):
        url = f"http://user:hunter2@127.0.0.1:{proxy.port}"
        reply = metadata(upstream.port, ca_file=authority.ca, proxy=url)
        assert (reply.status, reply.error["code"]) == (502, "upstream_unreachable")
        assert "proxy" in reply.error["message"]
        assert "hunter2" not in json.dumps(reply.json) + caplog.text
        assert upstream.connections == 0
        assert b"sk-caller" not in proxy.peer.received


@pytest.mark.parametrize(
    "said",
    [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000, b"HTTP/1.1 200"],
    ids=["nothing", "garbage", "long", "half"],
)
def test_proxy_that_is_none_is_502(said, authority, good):
    with Upstream(lambda peer: (peer.read_head(), peer.send(said))) as proxy:
        reply = metadata(1, ca_file=authority.ca, proxy=f"http://127.0.0.1:{proxy.port}")
        assert reply.status == 502


def test_proxy_that_says_nothing_is_504_in_connect_timeout(authority):
    with Upstream(lambda peer: (peer.read_head(), peer.stall())) as proxy:
        reply = metadata(1, ca_file=authority.ca, proxy=f"http://127.0.0.1:{proxy.port}", connect_timeout=0.2)
        assert (reply.status, reply.error["code"]) == (504, "upstream_timeout")


def test_certificate_is_checked_against_the_provider_behind_a_proxy(authority):
    context = authority.context("proxied", "other.example")
    with Upstream(tunnel) as proxy, secure(answering(answer(FILE)), context) as upstream:
        reply = metadata(upstream.port, ca_file=authority.ca, proxy=f"http://127.0.0.1:{proxy.port}")
        assert (reply.status, reply.error["code"]) == (502, "upstream_tls")
        reply = metadata(
            upstream.port, host="other.example", ca_file=authority.ca, proxy=f"http://127.0.0.1:{proxy.port}"
        )
        assert reply.json == FILE  # the name is the proxy's to resolve
