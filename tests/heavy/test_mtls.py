"""TLS for locked-down networks: client certificates, CAs that RFC 5280 does not allow, proxies that want a password.

What test_tls proves (whom we trust, TLS 1.1, CONNECT, `no_proxy`) is not proved again.
"""

from __future__ import annotations

import glob
import json
import os
import re
import ssl
import subprocess
import sys
import threading
from base64 import b64encode
from pathlib import Path

import pytest
from certificates import Authority, certificate, connect_lines, metadata, secure, tunnel
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fakes import FILE, form, form_type
from sockets import COMPAT, Upstream, answer, answering, ask, get, request, served

from filesproxy import create_app
from filesproxy.errors import ConfigError
from filesproxy.transports.https import tls

ROOT = Path(__file__).resolve().parents[2]
PATH = "/v1/files/file-1"
OVER_TLS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])

pytestmark = pytest.mark.usefixtures("no_proxy_from_outside")


class Pair:
    """A client's certificate and key, signed by the authority, as PEM files: apart, and both in one."""

    def __init__(self, folder, authority, name, password=None):
        key = ec.generate_private_key(ec.SECP256R1())
        locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        self.key_text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
        self.cert_text = certificate(name, key, authority.name, authority.key)
        self.cert, self.key, self.both = (folder / f"{name}-{kind}.pem" for kind in ("cert", "key", "both"))
        self.cert.write_bytes(self.cert_text)
        self.key.write_bytes(self.key_text)
        self.both.write_bytes(self.key_text + self.cert_text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mtls")


@pytest.fixture(scope="module")
def authority(folder):
    return Authority(folder, "private-ca")


@pytest.fixture(scope="module")
def pair(folder, authority):
    return Pair(folder, authority, "client")


@pytest.fixture(scope="module")
def other(folder, authority):
    return Pair(folder, authority, "another")


@pytest.fixture(scope="module")
def locked(folder, authority):
    return Pair(folder, authority, "locked", b"hunter2")


def wants_a_certificate(authority, version=ssl.TLSVersion.TLSv1_3):
    """A server's context that takes nobody without a certificate of this authority."""
    context = authority.context(f"mutual-{version.name}")
    context.minimum_version = context.maximum_version = version
    context.load_verify_locations(authority.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


SAVED = {"x-portkey-provider": "@compat"}
OPEN = {"open_access": "yes"}
UPLOAD = form(("purpose", "batch"), ("file", "a.jsonl", "application/jsonl", b"hello"))


def section(port, **settings):
    """A saved provider: the gateway's certificate is for those of the gateway's own credentials."""
    settings = {"kind": "openai", "base_url": f"https://localhost:{port}/v1", "credential": "sk-saved", **settings}
    return {name: str(value) for name, value in settings.items()}


def saved(port, **settings):
    return create_app({"filesproxy": OPEN, "provider:compat": section(port, **settings)})


def metadata_of_saved(port, **settings):
    with served(saved(port, **settings)) as server:
        return get(server.server_port, PATH, SAVED)


def upload(port, headers=SAVED):
    return ask(port, request("POST", "/v1/files", UPLOAD, {**headers, "content-type": form_type()}))


def shows_nothing_of(pair, text):
    lines = (pair.key_text + pair.cert_text).decode().split("\n")
    assert not [line for line in lines if len(line) > 8 and "-----" not in line and line in text]


# A provider that wants a certificate


@OVER_TLS
@pytest.mark.parametrize("way", ["apart", "both_in_client_cert", "key_first_in_client_key"])
def test_provider_that_wants_a_certificate_is_served_one(way, version, authority, pair):
    files = {
        "apart": {"client_cert": pair.cert, "client_key": pair.key},
        "both_in_client_cert": {"client_cert": pair.both},
        "key_first_in_client_key": {"client_cert": pair.both, "client_key": pair.both},
    }[way]
    seen = []

    def script(peer):
        seen.append(dict(part[0] for part in peer.sock.getpeercert()["subject"])["commonName"])
        answering(answer(FILE))(peer)

    with secure(script, wants_a_certificate(authority, version)) as upstream:
        with served(saved(upstream.port, ca_file=authority.ca, **files)) as server:
            assert get(server.server_port, PATH, SAVED).json == FILE
            assert upload(server.server_port).json == FILE
        assert seen == ["client", "client"]


@OVER_TLS
def test_caller_with_a_credential_of_its_own_is_not_lent_the_gateways_certificate(version, authority, pair):
    """It would be a second identity, which the caller has not got."""
    with secure(answering(answer(FILE)), wants_a_certificate(authority, version)) as upstream:
        settings = {"ca_file": authority.ca, "client_cert": pair.both, "credential": "sk-saved"}
        for app in (
            saved(upstream.port, **settings),
            create_app(
                {
                    "filesproxy": {"client_cert": str(pair.both), "ca_file": str(authority.ca)},
                    "provider:compat": {"kind": "openai", "base_url": f"https://localhost:{upstream.port}/v1"},
                }
            ),
        ):
            with served(app) as server:
                assert get(server.server_port, PATH, COMPAT).status == 502
        assert all(not peer.received for peer in upstream.peers)


@OVER_TLS
@pytest.mark.parametrize("shown", ["none", "of_another_ca"])
def test_provider_that_is_shown_no_certificate_that_it_takes_is_502_that_names_the_setting(
    shown, version, authority, tmp_path, caplog
):
    """TLS 1.3 tells of it late, at the first read; the operator must read the same."""
    stranger = Pair(tmp_path, Authority(tmp_path, "other-ca"), "stranger")
    files = {} if shown == "none" else {"client_cert": stranger.cert, "client_key": stranger.key}
    with secure(answering(answer(FILE)), wants_a_certificate(authority, version)) as upstream:
        reply = metadata_of_saved(upstream.port, ca_file=authority.ca, **files)
        assert reply.status == 502 and reply.error["code"] in ("upstream_tls", "upstream_error")
        shows_nothing_of(stranger, json.dumps(reply.json) + caplog.text)
        assert str(tmp_path) not in reply.raw.decode("latin-1")
        assert all(not peer.received for peer in upstream.peers)  # no credential without a certificate
        assert "client_cert" in reply.error["message"]


@OVER_TLS
def test_upload_to_a_provider_that_is_shown_no_certificate_is_502(version, authority):
    with secure(answering(answer(FILE)), wants_a_certificate(authority, version)) as upstream:
        with served(saved(upstream.port, ca_file=authority.ca)) as server:
            reply = upload(server.server_port)
        assert reply.status == 502 and reply.error["code"] in ("upstream_tls", "upstream_error")


def test_each_provider_shows_its_own_certificate(authority, pair, other):
    names = []

    def script(peer):
        names.append(dict(part[0] for part in peer.sock.getpeercert()["subject"])["commonName"])
        answering(answer(FILE))(peer)

    with secure(script, wants_a_certificate(authority)) as upstream:
        app = create_app({
            "filesproxy": {**OPEN, "client_cert": str(pair.both), "ca_file": str(authority.ca)},
            "provider:first": section(upstream.port),
            "provider:second": section(upstream.port, client_cert=other.cert, client_key=other.key),
        })  # fmt: skip
        with served(app) as server:
            for name in ("first", "second", "first"):
                assert get(server.server_port, PATH, {"x-portkey-provider": f"@{name}"}).json == FILE
    assert names == ["client", "another", "client"]


# A certificate that cannot be used stops the start


def unusable(tmp_path, pair, other, locked):
    """name → (settings, whose content must not show)."""
    (tmp_path / "garbage.pem").write_bytes(
        b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0LWNhbmFyeQ==\n-----END PRIVATE KEY-----\n"
    )
    (tmp_path / "empty.pem").write_bytes(b"")
    return {
        "key_of_another_certificate": {"client_cert": pair.cert, "client_key": other.key},
        "certificate_without_its_key": {"client_cert": pair.cert},
        "exchanged": {"client_cert": pair.key, "client_key": pair.cert},
        "key_alone_as_certificate": {"client_cert": pair.key},
        "garbage_key": {"client_cert": pair.cert, "client_key": tmp_path / "garbage.pem"},
        "empty_key": {"client_cert": pair.cert, "client_key": tmp_path / "empty.pem"},
        "empty_certificate": {"client_cert": tmp_path / "empty.pem"},
        "key_with_a_password": {"client_cert": locked.cert, "client_key": locked.key},
        "both_with_a_password": {"client_cert": locked.both},
        "key_without_certificate": {"client_key": pair.key},
    }


UNUSABLE = ("key_of_another_certificate", "certificate_without_its_key", "exchanged", "key_alone_as_certificate",
            "garbage_key",
            "empty_key", "empty_certificate", "key_with_a_password", "both_with_a_password",
            "key_without_certificate")  # fmt: skip


@pytest.mark.parametrize("where", ["provider:mine", "filesproxy"])
@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_certificate_stops_the_start_with_its_place_and_without_its_content(
    name, where, tmp_path, pair, other, locked
):
    settings = unusable(tmp_path, pair, other, locked)[name]
    lines = ["# a file", f"[{where}]", *(["kind = openai", "base_url = https://a.example/v1"] if ":" in where else [])]
    path = tmp_path / "filesproxy.ini"
    lines += [f"{key} = {value}" for key, value in settings.items()]
    path.write_text("\n".join([*lines, ""]))
    with pytest.raises(ConfigError) as refused:
        create_app(str(path))
    at = int(re.match(f"{path}, line ([0-9]+): \\[{where}\\]: ", refused.value.message)[1])
    assert lines[at - 1].startswith("client_")
    for each in (pair, other, locked):
        shows_nothing_of(each, f"{refused.value.message} {refused.value!r}")
    assert "hunter2" not in refused.value.message and "c2VjcmV0" not in refused.value.message
    if "password" in name:
        assert "password" in refused.value.message


def test_certificate_of_a_host_without_a_credential_needs_a_key_as_a_credential_does(pair):
    section_of_it = section(1, credential="none", client_cert=pair.cert, client_key=pair.key)
    with pytest.raises(ConfigError, match=r"needs a \[key:NAME\], or open_access = yes"):
        create_app({"provider:compat": section_of_it})
    create_app({"filesproxy": OPEN, "provider:compat": section_of_it})


def test_key_with_a_password_asks_nobody(tmp_path, locked):
    """OpenSSL would ask on the terminal, and wait there; a terminal of its own shows that nobody is asked."""
    path = tmp_path / "filesproxy.ini"
    path.write_text(f"[filesproxy]\nclient_cert = {locked.both}\n")
    terminal, inner = os.openpty()
    try:
        done = subprocess.run([sys.executable, "-m", "filesproxy", "--config", str(path), "--listen", "127.0.0.1:0"],
                              stdin=inner, stdout=inner, stderr=subprocess.PIPE, timeout=20, start_new_session=True,
                              cwd=ROOT, env={"PATH": os.defpath, "HOME": str(tmp_path)})  # fmt: skip
        os.set_blocking(terminal, False)
        try:
            asked = os.read(terminal, 4096)
        except OSError:
            asked = b""
    finally:
        os.close(terminal)
        os.close(inner)
    assert done.returncode not in (0, None)
    assert b"password" in done.stderr and b"line 2: [filesproxy]" in done.stderr
    assert b"Traceback" not in done.stderr and b"pass phrase" not in asked + done.stderr


# CAs that only a lax reader takes


@pytest.fixture(scope="module")
def lax(folder):
    """A CA whose certificate has no key usage, as many private ones; VERIFY_X509_STRICT refuses it."""
    return Authority(folder, "lax-ca", usage=False)


@pytest.fixture(scope="module")
def lax_context(lax):
    return lax.context("server", "localhost")


ASK = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
from filesproxy import create_app
from sockets import COMPAT, get, served
for strict in ("yes", "no"):
    section = {{"kind": "openai", "base_url": "https://localhost:{port}/v1", "ca_file": {ca!r}, "tls_strict": strict}}
    with served(create_app({{"provider:compat": section}})) as server:
        reply = get(server.server_port, "/v1/files/file-1")
        print(strict, reply.status, reply.json.get("error", {{}}).get("code"), reply.json.get("error",
        {{}}).get("message"))
"""


def asked_by(python, port, authority):
    """What a gateway of this Python says with tls_strict and without: {setting: (status, code, message)}."""
    script = ASK.format(root=str(ROOT), port=port, ca=str(authority.ca))
    done = subprocess.run([python, "-c", script], capture_output=True, timeout=60, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    lines = (line.split(" ", 3) for line in done.stdout.splitlines())
    return {strict: (int(status), code, message) for strict, status, code, message in lines}


def python_313():
    """An interpreter of 3.13 or newer, None where there is none."""
    if sys.version_info >= (3, 13):
        return sys.executable
    found = glob.glob(os.path.expanduser("~/.pyenv/versions/3.1[3-9].*/bin/python"))
    return found[0] if found else None


def test_ca_without_key_usage_is_taken_where_tls_strict_is_no(lax, lax_context):
    python = python_313()
    if not python:
        pytest.skip("needs Python 3.13, the first that verifies strictly; none is installed here")
    with secure(answering(answer(FILE)), lax_context) as upstream:
        said = asked_by(python, upstream.port, lax)
        assert said["no"][:2] == (200, "None")
        assert said["yes"][:2] == (502, "upstream_tls")
        assert "tls_strict" in said["yes"][2]  # the message says what to set


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="Python 3.13 verifies strictly")
@pytest.mark.parametrize("strict", ["yes", "no"])
def test_ca_without_key_usage_is_taken_by_older_pythons_always(strict, lax, lax_context):
    with secure(answering(answer(FILE)), lax_context) as upstream:
        assert metadata(upstream.port, ca_file=lax.ca, tls_strict=strict).json == FILE


@pytest.mark.parametrize("strict", ["yes", "no"])
def test_tls_strict_loosens_nothing_else(strict, authority, lax, lax_context):
    """The name, the trust and the time are checked all the same."""
    with secure(answering(answer(FILE)), lax_context) as upstream:
        assert metadata(upstream.port, host="127.0.0.1", ca_file=lax.ca, tls_strict=strict).status == 502
        assert metadata(upstream.port, ca_file=authority.ca, tls_strict=strict).status == 502
        assert upstream.peers == [] or all(not peer.received for peer in upstream.peers)
    expired = authority.context("expired", "localhost", days=-1)
    with secure(answering(answer(FILE)), expired) as upstream:
        assert metadata(upstream.port, ca_file=authority.ca, tls_strict=strict).status == 502


def test_ca_file_replaces_and_ca_extra_adds_for_two_providers_together(authority, lax, lax_context):
    """The one that names another `ca_file` no longer trusts what the application's has; `ca_extra` is beside it."""
    good = authority.context("good", "localhost")
    with secure(answering(answer(FILE)), good) as first, secure(answering(answer(FILE)), lax_context) as second:
        sections = {"filesproxy": {"ca_file": str(authority.ca), "tls_strict": "no"}}
        more = {"inherits": {}, "replaces": {"ca_file": str(lax.ca)}, "adds": {"ca_extra": str(lax.ca)}}
        for name, settings in more.items():
            for number, upstream in enumerate((first, second)):
                own = {"kind": "openai", "base_url": f"https://localhost:{upstream.port}/v1", **settings}
                sections[f"provider:{name}{number}"] = own
        with served(create_app(sections)) as server:
            statuses = {name: [get(server.server_port, PATH, {**COMPAT, "x-portkey-provider": f"{name}{number}"}).status
                               for number in (0, 1)] for name in more}  # fmt: skip
    assert statuses == {"inherits": [200, 502], "replaces": [502, 200], "adds": [200, 200]}


# A CONNECT proxy that wants a password, and a provider behind it that wants a certificate


def guarded(password):
    """A proxy that lets in who knows this password."""
    wanted = b"basic " + b64encode(b"user:" + password)

    def script(peer):
        head = peer.read_head()
        lines = {line.partition(b":")[0].lower(): line.partition(b":")[2].strip() for line in head.split(b"\r\n")}
        if lines.get(b"proxy-authorization", b"").replace(b"Basic", b"basic") != wanted:
            peer.send(answer(b"who is user:hunter2?", "407 No", proxy_authenticate='Basic realm="hunter2"'))
            return
        tunnel(peer)

    return script


@pytest.mark.parametrize("way", ["setting", "environment"])
def test_proxy_with_a_password_leads_to_a_provider_that_wants_a_certificate(way, authority, pair, monkeypatch):
    context = wants_a_certificate(authority)
    with Upstream(guarded(b"p@ss:w/rd")) as proxy, secure(answering(answer(FILE)), context) as upstream:
        url = f"http://user:p%40ss%3Aw%2Frd@127.0.0.1:{proxy.port}"
        if way == "environment":
            monkeypatch.setenv("https_proxy", url)
        settings = {"ca_file": authority.ca, "client_cert": pair.both, "proxy": "env" if way == "environment" else url}
        assert metadata_of_saved(upstream.port, **settings).json == FILE
        assert proxy.connections == upstream.connections == 1
        assert b"sk-saved" not in proxy.peers[0].received


@pytest.mark.parametrize("way", ["setting", "environment"])
@pytest.mark.parametrize("credential", ["user:hunter3", "hunter2:user", "user:", "user", ""])
def test_proxy_that_is_told_a_wrong_password_is_502_and_no_message_shows_either(
    credential, way, authority, pair, monkeypatch, caplog
):
    caplog.set_level("DEBUG")
    context = wants_a_certificate(authority)
    with Upstream(guarded(b"hunter2")) as proxy, secure(answering(answer(FILE)), context) as upstream:
        url = f"http://{credential}{'@' if credential else ''}127.0.0.1:{proxy.port}"
        if way == "environment":
            monkeypatch.setenv("https_proxy", url)
        settings = {"ca_file": authority.ca, "client_cert": pair.both, "proxy": "env" if way == "environment" else url}
        with served(saved(upstream.port, **settings)) as server:
            for reply in (get(server.server_port, PATH, SAVED), upload(server.server_port)):
                assert (reply.status, reply.error["code"]) == (502, "upstream_unreachable")
                assert "proxy" in reply.error["message"]
                assert b"hunter" not in reply.raw
        assert upstream.connections == 0
        assert "hunter" not in caplog.text
        assert all(b"sk-saved" not in peer.received for peer in proxy.peers)
        assert all(line[0].startswith(f"connect localhost:{upstream.port} ") for line in connect_lines(proxy))


# One context for each configuration


@pytest.fixture
def contexts(monkeypatch):
    """The settings of each TLS context that is built."""
    built, real = [], tls.context

    def counted(settings):
        built.append(tls.configuration(settings))
        return real(settings)

    monkeypatch.setattr(tls, "context", counted)
    return built


def test_one_context_is_built_for_each_configuration_however_many_requests_come(authority, pair, contexts):
    with secure(answering(answer(FILE)), authority.context("good", "localhost")) as upstream:
        names = {"a": {}, "b": {}, "c": {"client_cert": pair.both}, "d": {"tls_strict": "no"}}
        sections = {name: section(upstream.port, ca_file=authority.ca, **more) for name, more in names.items()}
        app = create_app({"filesproxy": OPEN, **{f"provider:{name}": sections[name] for name in names}})
        at_the_start = len(contexts)  # to see that the files can be read
        contexts.clear()
        with served(app) as server:
            replies = []

            def one(name):
                replies.append(get(server.server_port, PATH, {"x-portkey-provider": f"@{name}"}).status)

            threads = [threading.Thread(target=one, args=(name,)) for name in list(names) * 4]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert replies == [200] * len(threads)
        assert len(contexts) == len(set(contexts)) == 3  # a and b share one
        assert at_the_start <= len(names)


def test_no_context_is_built_before_it_is_needed(contexts):
    """The system's store takes 50 ms to read, and plain http needs none."""
    with Upstream(answering(answer(FILE))) as upstream:
        app = create_app({"provider:compat": {"kind": "openai", "base_url": upstream.url}})
        with served(app) as server:
            assert get(server.server_port, PATH).json == FILE
    assert contexts == []
