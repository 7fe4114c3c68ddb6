"""Gateways under three servers, in front of upstreams that misbehave, and what clients do to them.

Every request carries a canary key, which no answer, log or output of a server may contain. Upstreams count their
connections, so that a test can assert that nothing was called.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pathological as bad
import pytest
from certificates import Authority
from fakes import BOUNDARY, form, form_type
from pathological import Stage, black_hole
from processes import memory
from servers import free_port, impatient_conf, running
from sockets import SOON, WAIT, answer, chunked, receive, request

pytest.importorskip("gunicorn", reason="needs gunicorn")
pytest.importorskip("waitress", reason="needs waitress")

CANARY = "sk-canary-heavy"  # what all keys here start with; a search for it finds each of them
KEY, SAVED = f"{CANARY}-plain", f"{CANARY}-saved"
GATEWAY_KEY = f"fp_{CANARY}-gateway"
CLIENT_IDLE = 2  # seconds, under gunicorn; the embedded server's 30 cannot be set, so there totals are tested
BRIEF = 0.5  # seconds that an upstream, or a total, has where a test waits for the end of them
LATE = SOON  # after its limit, within which a thread must be back
MIB = 1 << 20
HELLO = form(("purpose", "batch"), ("file", "a.jsonl", "application/jsonl", b"hello"))
FILE_HEAD = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'.encode()
PURPOSE = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'.encode()
END = f"\r\n--{BOUNDARY}--\r\n".encode()
IDS = itertools.count(1)


class Scene(NamedTuple):
    """What the gateways have behind them, and the files they are configured with."""

    folder: Path
    plain: Stage  # the upstream of most providers
    secure: Stage  # the same over TLS
    proxy: Stage  # https_proxy
    elsewhere: Stage  # in no table: nobody may ever connect
    hole: int
    conf: Path
    authority: Authority
    stranger: Authority
    unmarked: Authority  # without keyUsage


@contextlib.contextmanager
def opened(folder):
    """A scene in this folder."""
    authority, stranger = Authority(folder, "private-ca"), Authority(folder, "stranger")
    unmarked = Authority(folder, "unmarked", usage=False)
    good = bad.server_context(authority.issue("good"))
    authority.issue("client")
    conf = impatient_conf(folder / "short.conf.py", CLIENT_IDLE)
    with Stage() as plain, Stage(good) as secure, Stage() as proxy, Stage() as elsewhere, black_hole() as hole:
        proxy.play(bad.tunnelling)
        yield Scene(folder, plain, secure, proxy, elsewhere, hole, conf, authority, stranger, unmarked)
        assert elsewhere.calls() == 0


def main_sections(scene):
    """The gateway without keys: providers that differ in their limits, and in what is wrong with the way to them."""
    phases = ("connect_timeout", "send_timeout", "answer_timeout", "read_timeout")
    quick, brief = dict.fromkeys(phases, 2), dict.fromkeys(phases, BRIEF)
    whole = {"kind": "openai", "base_url": scene.plain.url}
    tls = {"kind": "openai", "base_url": scene.secure.url, **quick}
    trusted = {**tls, "ca_file": scene.authority.ca}
    local = scene.secure.url.replace("127.0.0.1", "localhost")
    return {
        "filesproxy": {"max_upload_bytes": 600 * MIB, "folder": scene.folder / "store", "via_name": "the-main-one"},
        "provider:compat": {**whole, **quick},
        "provider:patient": whole,
        "provider:brief": {**whole, **brief},
        "provider:hurried": {**whole, "total_timeout": BRIEF, "min_rate": 64 * MIB},
        "provider:unhurried": {**whole, "total_timeout": 2, "min_rate": 64 * MIB},
        "provider:nowhere": {**whole, "base_url": f"http://127.0.0.1:{free_port()}/v1"},
        "provider:unresolved": {**whole, "base_url": "http://nosuch.invalid/v1"},
        "provider:swallowed": {**whole, **brief, "base_url": f"http://127.0.0.1:{scene.hole}/v1"},
        "provider:secure": trusted,
        "provider:secure-brief": {**trusted, **brief},
        "provider:stranger": {**tls, "ca_file": scene.stranger.ca},
        "provider:strict": {**tls, "ca_file": scene.unmarked.ca},
        "provider:lax": {**tls, "ca_file": scene.unmarked.ca, "tls_strict": "no"},
        "provider:mutual": {**trusted, "client_cert": scene.folder / "private-ca-client.pem"},
        "provider:tunnelled": {**trusted, "proxy": "env"},
        "provider:direct": {**trusted, "proxy": "env", "base_url": local},
    }


def keyed_sections(scene):
    """The gateway with a key and a saved credential, for uploads of up to a mebibyte."""
    return {
        "filesproxy": {"max_upload_bytes": MIB},
        "provider:openai": {"credential": SAVED, "base_url": scene.plain.url},
        "provider:compat": {"kind": "openai", "base_url": scene.plain.url},
        "provider:mutual": {
            "kind": "openai",
            "base_url": scene.secure.url,
            "credential": SAVED,
            "ca_file": scene.authority.ca,
            "client_cert": scene.folder / "private-ca-client.pem",
        },
        "key:team": {"sha256": sha256(GATEWAY_KEY.encode()).hexdigest(), "providers": "openai mutual"},
    }


def written(path, sections):
    lines = []
    for name, settings in sections.items():
        lines += [f"[{name}]", *(f"{key} = {value}" for key, value in settings.items())]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


@contextlib.contextmanager
def gateway_of(kind, scene, sections, *arguments):
    """A gateway of this kind; when it has stopped, nothing that it wrote may hold a credential."""
    folder = scene.folder / f"{kind}-{next(IDS)}"
    folder.mkdir()
    config = written(folder / "filesproxy.ini", sections)
    # Only https_proxy is ever to be used, by providers with `proxy = env`; gunicorn reads none of these.
    elsewhere = f"http://127.0.0.1:{scene.elsewhere.port}"
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"), elsewhere)
    proxies.update(https_proxy=f"http://127.0.0.1:{scene.proxy.port}", no_proxy="localhost")
    with running(kind, folder / "run", *arguments, conf=scene.conf, FILESPROXY_CONFIG=config, **proxies) as gateway:
        yield gateway
    assert is_hidden(gateway)


def skip_where(gateway, kind, reason):
    if gateway.kind == kind:
        pytest.skip(reason)


WAITRESS_TAKES_ALL = "waitress takes the whole request before the application runs, and shows no client socket: "


def plain_headers(provider="compat", **more):
    """The headers of a caller with a credential of its own; a name in keywords has _ for -, None takes one out."""
    more = {name.replace("_", "-"): value for name, value in more.items()}
    given = {"x-portkey-provider": provider, "authorization": f"Bearer {KEY}", "connection": "close", **more}
    return {name: value for name, value in given.items() if value is not None}


def upload_head(provider="compat", **more):
    """The head of an upload, its framing among the keywords."""
    return request("POST", "/v1/files", b"", plain_headers(provider, **{"content_type": form_type(), **more}))


def ask(gateway, *blocks, half_close=False):
    """Send these bytes as far as they are taken, then read the answer to its end. It never holds a credential."""
    return checked(exchange(gateway, *blocks, half_close=half_close))


def exchange(gateway, *blocks, half_close=False):
    """The same for content, whose bytes nobody looks into."""
    with gateway.connect(WAIT) as sock:
        with contextlib.suppress(OSError):
            for block in blocks:
                sock.sendall(block)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
        return receive(sock)


def checked(reply):
    """The reply, which quotes no credential; the pages of gunicorn and waitress quote a bad line to its sender."""
    is_ours = "x-request-id" in reply.headers or reply.headers.get("content-type") == "application/json"
    assert not (is_ours and CANARY.encode() in reply.raw.lower())
    return reply


def get(gateway, path="/v1/files/file-1", provider="compat", method="GET", **more):
    return ask(gateway, request(method, path, headers=plain_headers(provider, **more)))


def content(gateway, provider="compat", **more):
    return get(gateway, "/v1/files/file-1/content", provider, **more)


def upload(gateway, body=HELLO, provider="compat", **more):
    return ask(gateway, upload_head(provider, content_length=str(len(body)), **more), body)


def upload_of(size, gateway, provider="compat"):
    """Upload a file of this size in blocks of a mebibyte."""
    body = [PURPOSE + FILE_HEAD, *[bytes(MIB)] * (size // MIB), END]
    return ask(gateway, upload_head(provider, content_length=str(sum(map(len, body)))), *body)


def outcome(reply):
    """(status, code), of an answer that is OpenAI's error object if it is an error."""
    assert reply.status, reply
    if reply.status < 400:
        return reply.status, None
    assert set(reply.error) == {"message", "type", "param", "code"}
    return reply.status, reply.error["code"]


def is_cut(reply):
    """Whether the client can see that this answer is not whole."""
    if "content-length" in reply.headers:
        return len(reply.body) < int(reply.headers["content-length"])
    return reply.end == "reset" or ("transfer-encoding" in reply.headers and not reply.raw.endswith(b"0\r\n\r\n"))


@contextlib.contextmanager
def within(seconds):
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def in_parallel(calls):
    """Run these calls on threads of their own; their results in order."""
    results = [None] * len(calls)

    def work(number, call):
        results[number] = call()

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@contextlib.contextmanager
def growing_at_most(gateway, size):
    """No worker's memory may peak this far above where it was."""
    before = {pid: memory(pid) for pid in gateway.workers()}
    for pid in before:
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
    yield
    for pid, was in before.items():
        assert memory(pid, "VmHWM") - was < size


def cpu_seconds(gateway):
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in gateway.workers()]
    return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")


def open_files(gateway):
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in gateway.workers())


A_FILE = ("file", "a", "", b"hello")


def trace():
    """A trace id of its own, by which the access log is searched."""
    return f"request-{next(IDS)}"


def logged(gateway, trace_id):
    (line,) = gateway.wait_for_lines(1, trace_id=trace_id)
    return line


def left_incomplete(stage, gateway):
    """Nothing whole has arrived upstream; under waitress, nothing at all."""
    if gateway.kind == "waitress":
        return stage.calls() == 0
    return not stage.peer.complete


DATA = b"x" * 300_000
CUTS = {
    "before_the_first_byte": answer(b"", content_length="300000"),
    "after_99_bytes": answer(DATA[:99], content_length="300000"),
    "before_the_last_byte": answer(DATA[:-1], content_length="300000"),
}
CHUNKED_CUTS = {
    "inside_a_chunk": answer(chunked(DATA)[:150_000], content_length=None, transfer_encoding="chunked"),
    "before_the_last_chunk": answer(chunked(DATA)[:-5], content_length=None, transfer_encoding="chunked"),
    "bad_chunk": answer(chunked(DATA)[:-5] + b"zz\r\n", content_length=None, transfer_encoding="chunked"),
}


def is_hidden(*gateways):
    return not any(CANARY in (gateway.out() + gateway.err()).lower() for gateway in gateways)


def by_key(keyed, provider="@openai", **more):
    """A call with the gateway key, to a saved provider."""
    headers = {"x-portkey-provider": provider, "x-portkey-api-key": GATEWAY_KEY, "connection": "close", **more}
    return ask(keyed, request("GET", "/v1/files/file-1", headers=headers))


def chat(gateway, body, **framing):
    head = plain_headers(content_type="application/json", **(framing or {"content_length": str(len(body))}))
    return ask(gateway, request("POST", "/v1/chat/completions", b"", head), body)


def said(content):
    return b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}], "x": ' + content + b"}"
