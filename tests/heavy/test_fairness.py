"""One caller against the others, on real servers: what it can hold ends at its share, and what it drips ends soon."""

from __future__ import annotations

import contextlib
import json
import select
import threading
import time

import pytest
import strict_openai
from configurations import hashed
from servers import impatient_conf, running
from sockets import WAIT, receive, request, until
from strict_openai_routes import StrictOpenAIRoutes

pytest.importorskip("gunicorn", reason="needs gunicorn")

THREADS = 16  # of gunicorn's one worker; the embedded server has 256
FLIGHT = 4 << 20  # bytes of JSON in memory
PATIENCE = 1.0  # seconds of waiting for a body
SIZE = FLIGHT // 8
JSON = {"content-type": "application/json"}
SMALL = ("--workers", "1", "--threads", str(THREADS))
KINDS = ("gunicorn", "embedded")


@pytest.fixture(scope="module")
def provider():
    """The strict upstream of this module's gateways."""
    with StrictOpenAIRoutes() as upstream:
        yield upstream


@contextlib.contextmanager
def serving(kind, folder, provider, conf="gunicorn.conf.py", **settings):
    """A gateway with the keys `hog` and `team`, and one saved provider."""
    lines = ["[filesproxy]", "isolation = no", "default_provider = openai", f"max_json_in_flight = {FLIGHT}"]
    lines += [f"{name} = {value}" for name, value in settings.items()]
    lines += ["[provider:openai]", f"base_url = {provider.base_url}", f"credential = {strict_openai.KEY}"]
    for name in ("hog", "team"):
        lines += [f"[key:{name}]", f"sha256 = {hashed('fp_' + name)}", "providers = openai"]
    (folder / "filesproxy.ini").write_text("\n".join(lines) + "\n", "utf-8")
    arguments = SMALL if kind == "gunicorn" else ()
    with running(kind, folder / "run", *arguments, conf=conf, FILESPROXY_CONFIG=folder / "filesproxy.ini") as gateway:
        yield gateway


def padded_chat(size):
    chat = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}).encode()
    return chat[:-1] + b" " * (size - len(chat)) + b"}"


def head_of_chat(name, path="/v1/chat/completions", **framing):
    return request("POST", path, headers={"x-portkey-api-key": f"fp_{name}", **JSON}, **framing)


def chat(gateway, name, size):
    body = padded_chat(size)
    with gateway.connect(WAIT) as sock:
        sock.sendall(head_of_chat(name, content_length=str(size), connection="close") + body)
        return receive(sock)


def seconds_of_health(gateway):
    began = time.monotonic()
    assert gateway.request("GET", "/v1/health")[0].status == 200
    return time.monotonic() - began


@pytest.mark.parametrize("kind", KINDS)
def test_half_sent_bodies_of_one_key_leave_room_for_another(kind, provider, tmp_path):
    """They held the memory for JSON, and every thread, for half a minute."""
    with serving(kind, tmp_path, provider) as gateway, contextlib.ExitStack() as stack:
        for _ in range(THREADS + 4):
            sock = stack.enter_context(gateway.connect(WAIT))
            sock.sendall(head_of_chat("hog", content_length=str(SIZE)) + padded_chat(SIZE)[:-1000])
        assert len(gateway.wait_for_lines(1, status=429, key="hog", error="caller_busy")) >= 1
        for _ in range(10):
            assert chat(gateway, "team", SIZE).status == 200
        assert max(seconds_of_health(gateway) for _ in range(5)) < 1
        refused = chat(gateway, "hog", SIZE)
        assert (refused.status, refused.error["code"], refused.headers["retry-after"]) == (429, "caller_busy", "1")


@contextlib.contextmanager
def dripping(gateway, count, data):
    """So many clients that have sent this, and go on with a byte now and then."""
    over = threading.Event()
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(gateway.connect(WAIT)) for _ in range(count)]
        for sock in held:
            sock.sendall(data)

        def drip():
            while not over.wait(0.2):
                for sock in held:
                    with contextlib.suppress(OSError):
                        sock.sendall(b"a")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            yield held
        finally:
            over.set()
            thread.join()


DRIPS = {
    "heads": b"GET /v1/health HTTP/1.1\r\nHost: a\r\nx-drip: ",
    "bodies_that_were_refused": request("POST", "/v1/chat/completions", headers=JSON, content_length="100000"),
}


@pytest.mark.parametrize("drip", DRIPS)
@pytest.mark.parametrize("kind", KINDS)
def test_dripped_heads_silence_nobody(kind, drip, provider, tmp_path):
    """Nor do clients without a key that drip what nobody reads any more. Both held a thread, or the server's slot."""
    with serving(kind, tmp_path, provider) as gateway:
        with dripping(gateway, THREADS + 4 if kind == "gunicorn" else 300, DRIPS[drip]):
            assert max(seconds_of_health(gateway) for _ in range(10)) < 3
            assert chat(gateway, "team", SIZE).status == 200
        assert "Traceback" not in gateway.err()


def test_head_that_drips_is_dropped_when_its_time_is_over(provider, tmp_path):
    conf = impatient_conf(tmp_path / "conf.py", 30)
    conf.write_text(conf.read_text("utf-8") + "served.HEAD_SECONDS = 1\n", "utf-8")
    with serving("gunicorn", tmp_path, provider, conf) as gateway:
        began = time.monotonic()
        with dripping(gateway, 1, DRIPS["heads"]) as (sock,), contextlib.suppress(ConnectionError):
            assert sock.recv(1) == b""
        assert 0.9 < time.monotonic() - began < 3
        sock = gateway.connect(WAIT)
        with contextlib.closing(sock):  # a request that takes longer than a head may, on a connection that is kept
            sock.sendall(head_of_chat("team", content_length="2000"))
            time.sleep(1.5)  # longer than the head's time: the body's own limit holds now
            sock.sendall(padded_chat(2000))
            assert sock.recv(12) == b"HTTP/1.1 200"


def test_hooks_that_replace_ours_are_a_warning_and_harm_no_request(provider, tmp_path):
    """A head's end could not be seen then, and whole requests would be taken for heads."""
    conf = impatient_conf(tmp_path / "conf.py", 30)
    more = "served.HEAD_SECONDS = 0.2\n\n\ndef pre_request(worker, req):\n    pass\n"
    conf.write_text(conf.read_text("utf-8") + more, "utf-8")
    with serving("gunicorn", tmp_path, provider, conf) as gateway:
        assert gateway.err().count("The time of a request's head is not limited") == 1
        with gateway.connect(WAIT) as sock:
            sock.sendall(head_of_chat("team", content_length="2000"))
            assert not select.select([sock], [], [], 1)[0]
            sock.sendall(padded_chat(2000))
            assert sock.recv(12) == b"HTTP/1.1 200"


def framed(framing, block):
    return block if framing == "length" else b"%x\r\n%b\r\n" % (len(block), block)


def framing_of(framing, size):
    return {"content_length": str(size)} if framing == "length" else {"transfer_encoding": "chunked"}


@pytest.fixture(scope="module", params=KINDS)
def impatient(request, provider, tmp_path_factory):
    """A gateway that waits a second for a body that does not come."""
    folder = tmp_path_factory.mktemp(request.param)
    with serving(request.param, folder, provider, body_timeout=PATIENCE) as gateway:
        yield gateway


UPLOAD = {"content-type": "multipart/form-data; boundary=b", "x-portkey-api-key": "fp_team"}
FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
STALLING = {"json": (lambda **how: head_of_chat("team", **how), b'{"model": "'),
            "upload": (lambda **how: request("POST", "/v1/files", headers=UPLOAD, **how), FILE)}  # fmt: skip


@pytest.mark.parametrize("drop", [b"", b"a"], ids=["stopped", "dripped"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("what", STALLING)
def test_dripping_body_is_408_after_its_patience(what, framing, drop, impatient):
    head, begun = STALLING[what]
    with impatient.connect(WAIT) as sock:
        sock.sendall(head(**framing_of(framing, 1 << 20)) + framed(framing, begun))
        began = time.monotonic()
        while not select.select([sock], [], [], 0.1)[0]:
            if drop:
                sock.sendall(framed(framing, drop))
        reply = receive(sock)
    assert (reply.status, reply.error["code"]) == (408, "client_timeout")
    assert PATIENCE - 0.2 < time.monotonic() - began < PATIENCE + 4


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_slow_body_with_stalls_arrives(framing, impatient):
    """Each piece buys its stall. Under gunicorn, a body in chunks shows in the application by large blocks only."""
    body = padded_chat(32 << 10)
    with impatient.connect(WAIT) as sock:
        sock.sendall(head_of_chat("team", connection="close", **framing_of(framing, len(body))))
        for at in range(0, len(body), 8 << 10):
            time.sleep(0.7 * PATIENCE)  # the stall that is tested
            sock.sendall(framed(framing, body[at : at + (8 << 10)]))
        sock.sendall(b"" if framing == "length" else b"0\r\n\r\n")
        assert receive(sock).status == 200


def test_threads_of_stopped_bodies_come_back(impatient):
    with contextlib.ExitStack() as stack:
        for _ in range(THREADS // 2):
            sock = stack.enter_context(impatient.connect(WAIT))
            sock.sendall(head_of_chat("hog", content_length="9999") + b"{")
        began = time.monotonic()
        if impatient.kind == "gunicorn":
            assert until(lambda: chat(impatient, "hog", 1000).status == 429)
        assert until(lambda: chat(impatient, "hog", 1000).status == 200)
    assert time.monotonic() - began < PATIENCE + 2
