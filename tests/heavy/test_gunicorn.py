"""gunicorn as shipped: what it refuses, what slow and broken peers do to it, what it logs, and how it stops."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest
from servers import impatient_conf, running
from sockets import SOON, until
from strict_openai import KEY, LEAKS

pytest.importorskip("gunicorn", reason="needs gunicorn")

COMPAT = {"authorization": f"Bearer {KEY}", "x-portkey-provider": "compat"}
FORM = {"content-type": "multipart/form-data; boundary=b"}
HEAD = (
    b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
)
TAIL = b"\r\n--b--\r\n"


def form(content):
    return HEAD + content + TAIL


def post_head(length, **more):
    """The head of an upload to `compat`, for a socket."""
    headers = {"host": "localhost", **COMPAT, **FORM, "content-length": str(length), **more}
    lines = ["POST /v1/files HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode()


def exchange(gateway, request, timeout=10):
    """What comes back for these bytes, until the server closes; b"" for a reset."""
    with gateway.connect(timeout) as sock:
        sock.sendall(request)
        return read_all(sock)


def read_all(sock):
    got = b""
    with contextlib.suppress(ConnectionError):
        while block := sock.recv(65536):
            got += block
    return got


def status_of(answer):
    return int(answer.split(b" ", 2)[1]) if answer else 0


# What is refused before the application sees it

GET = "GET /v1/files HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
REFUSED = {
    "a twin with underscores": GET + "x-portkey-api-key: a\r\nx_portkey_api_key: b\r\n\r\n",
    "an underscore alone": GET + "x_portkey_provider: compat\r\n\r\n",
    "SCRIPT_NAME": GET + "SCRIPT_NAME: /elsewhere\r\n\r\n",
    "PATH_INFO": GET + "PATH_INFO: /v1/files/file-1\r\n\r\n",
    "length and coding": GET.replace("GET", "POST")
    + "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": GET.replace("GET", "POST") + "content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "a negative length": GET.replace("GET", "POST") + "content-length: -5\r\n\r\n",
    "an unknown coding": GET.replace("GET", "POST") + "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
def test_request_that_two_servers_could_read_differently_is_refused(name, gunicorn, fake):
    before = len(fake.requests)
    assert status_of(exchange(gunicorn, REFUSED[name].encode())) in (400, 501)
    assert len(fake.requests) == before


def test_scheme_is_not_a_clients_to_set(gunicorn):
    answer = exchange(gunicorn, (GET + "x-forwarded-proto: https\r\nx-forwarded-ssl: off\r\n\r\n").encode())
    assert status_of(answer) in (200, 400)  # never a 500, and whatever it says has no say


# Slow and broken clients


def test_50_trickling_uploads_do_not_starve_metadata_calls(gunicorn, fake):
    (file_id,) = fake.seed(1)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(gunicorn.connect()) for _ in range(50)]
        for sock in slow:
            sock.sendall(post_head(1 << 28) + HEAD + bytes(1 << 20))  # one block, so that the upstream hears of it
        over = threading.Event()
        trickler = threading.Thread(target=trickle, args=(slow, over))
        trickler.start()
        try:
            assert fake.wait_for(lambda: len(fake.uploading) == 50)
            answered = timed_calls(gunicorn, f"/v1/files/{file_id}", 100)
        finally:
            over.set()
            trickler.join()
    p99 = sorted(seconds for _, seconds in answered)[98]
    print(f"metadata beside 50 trickling uploads: p99 {p99 * 1000:.1f} ms")
    assert [status for status, _ in answered] == [200] * 100
    assert p99 < 2
    assert fake.wait_for(lambda: fake.aborted == 50)


def trickle(socks, over, seconds=10):
    """1 KB a second into each, until it is over."""
    end = time.monotonic() + seconds
    while not over.wait(1) and time.monotonic() < end:
        for sock in socks:
            sock.sendall(b"x" * 1024)


def test_refused_clients_that_do_not_hang_up_hold_nobody_up(start):
    """gunicorn 27 lingers up to 2 s on such a connection in the one thread that accepts all others."""
    gateway = start("gunicorn", "--workers", "1")
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            sock = stack.enter_context(gateway.connect())
            sock.sendall(post_head(1 << 40, connection="close"))  # 413, by its length alone
            assert status_of(sock.recv(65536)) == 413
        seconds = [seconds for _, seconds in timed_calls(gateway, "/v1/health", 5)]
    assert max(seconds) < 1


def timed_calls(gateway, path, count):
    """(status, seconds) of calls one after another, each over a connection of its own."""
    answered = []
    for _ in range(count):
        began = time.perf_counter()
        response, _ = gateway.request("GET", path, headers=COMPAT)
        answered.append((response.status, time.perf_counter() - began))
    return answered


@pytest.fixture(scope="module")
def short_conf(tmp_path_factory):
    return impatient_conf(tmp_path_factory.mktemp("conf") / "impatient.conf.py", 1)


@pytest.fixture(scope="module")
def impatient(start, short_conf):
    """One worker with one thread, whose clients may be idle for a second."""
    return start("gunicorn", "--workers", "1", "--threads", "1", conf=short_conf)


UNFINISHED_HEADS = {
    "request_line": b"GET /v1/fi",
    "header": b"GET /v1/files HTTP/1.1\r\nhost: loc",
    "no_empty_line": b"GET /v1/files HTTP/1.1\r\nhost: localhost\r\n",
}


@pytest.mark.parametrize("name", UNFINISHED_HEADS)
def test_clients_that_never_finish_a_request_head_are_closed(name, start, short_conf):
    gateway = start("gunicorn", conf=short_conf)
    with contextlib.ExitStack() as stack:
        began = time.monotonic()
        held = [stack.enter_context(gateway.connect(8)) for _ in range(40)]
        for sock in held:
            sock.sendall(UNFINISHED_HEADS[name])
        answered = timed_calls(gateway, "/v1/health", 5)
        for sock in held:
            read_all(sock)  # the server gives up, we do not
        assert time.monotonic() - began < 1 + SOON
        answered += timed_calls(gateway, "/v1/health", 5)
    assert {status for status, _ in answered} == {200}
    assert max(seconds for _, seconds in answered) < 1
    assert "Traceback" not in gateway.err()  # one a connection would fill the log


def test_header_line_that_gunicorn_cannot_read_is_not_in_its_log(start):
    gateway = start("gunicorn")
    with gateway.connect(8) as sock:
        sock.sendall(b"GET /v1/health HTTP/1.1\r\nhost: localhost\r\nauthorization Bearer sk-canary\r\n\r\n")
        assert status_of(read_all(sock)) == 400
    assert "Invalid request" in gateway.err() and "sk-canary" not in gateway.err() + gateway.out()


# gunicorn reads a body in chunks by blocks of 1 MiB: before the first is whole the upstream knows nothing of it.
EARLY_AND_LATE = pytest.mark.parametrize("size,seen_upstream", [(100_000, 0), (3 << 20, 1)])


@EARLY_AND_LATE
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_client_that_stalls_gives_its_thread_back(framing, size, seen_upstream, impatient, fake):
    stored, before = len(fake.files), len(impatient.lines(error="client_timeout"))
    seen_upstream = seen_upstream if framing == "chunked" else 1
    block = HEAD + b"x" * size
    head = post_head(1 << 24)
    if framing == "chunked":
        head = head.replace(b"content-length: %d" % (1 << 24), b"transfer-encoding: chunked")
        block = b"%x\r\n%b\r\n" % (len(block), block)
    with impatient.connect(10) as sock:
        sock.sendall(head + block)
        began = time.monotonic()
        answer = read_all(sock)  # the server gives up, we do not
        assert time.monotonic() - began < 1 + SOON
    assert status_of(answer) in (0, 408)
    assert impatient.request("GET", "/v1/health")[0].status == 200  # by the only thread there is
    assert len(impatient.wait_for_lines(before + 1, error="client_timeout")) == before + 1
    assert fake.wait_for(lambda: fake.aborted == seen_upstream)
    assert len(fake.files) == stored


def test_client_that_stops_reading_gives_its_thread_back(impatient, fake):
    obj = fake.store("big", "text/plain", bytes(64 << 20), "batch")
    request = f"GET /v1/files/{obj['id']}/content HTTP/1.1\r\nhost: localhost\r\n"
    request += "".join(f"{name}: {value}\r\n" for name, value in COMPAT.items()) + "\r\n"
    with impatient.connect(10) as sock:
        sock.sendall(request.encode())
        began = time.monotonic()
        assert impatient.request("GET", "/v1/health")[0].status == 200
        assert time.monotonic() - began < 1 + SOON
    (line,) = impatient.wait_for_lines(1, operation="retrieve_file_content")
    assert line["error"] == "client_aborted"
    del fake.files[obj["id"]]


@pytest.mark.parametrize("leaving", ["half-close", "close", "reset"])
def test_client_that_leaves_halfway_completes_no_upload(leaving, gunicorn, fake):
    stored, before = len(fake.files), len(gunicorn.lines(error="client_aborted"))
    with gunicorn.connect() as sock:
        sock.sendall(post_head(4 << 20) + HEAD + b"x" * (2 << 20))
        assert fake.wait_for(lambda: fake.uploading)
        if leaving == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        elif leaving == "half-close":
            sock.shutdown(socket.SHUT_WR)
            answer = read_all(sock)
            assert status_of(answer) == 400
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "client_aborted"
    assert fake.wait_for(lambda: fake.aborted == 1)
    assert len(gunicorn.wait_for_lines(before + 1, error="client_aborted")) == before + 1
    assert len(fake.files) == stored


@EARLY_AND_LATE
def test_bad_chunk_completes_no_upload(size, seen_upstream, gunicorn, fake):
    stored = len(fake.files)
    head = post_head(1).replace(b"content-length: 1\r\n", b"transfer-encoding: chunked\r\n")
    block = form(b"x" * size)[:-4]
    answer = exchange(gunicorn, head + b"%x\r\n%b\r\nzz\r\n" % (len(block), block))
    assert status_of(answer) in (0, 400)
    assert fake.wait_for(lambda: fake.aborted == seen_upstream)
    assert len(fake.files) == stored


# Broken upstreams


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("cut", [0, 1000, 300_000])
def test_download_that_the_upstream_cuts_never_looks_whole(framing, cut, gunicorn, fake, tmp_path):
    obj = fake.store("a", "text/plain", bytes(500_000), "batch")
    fake.chunked, fake.cut = framing == "chunked", cut
    path = f"/v1/files/{obj['id']}/content"
    try:
        response, _ = gunicorn.request("GET", path, headers=COMPAT)
        assert (response.status, cut) == (502, 0)  # nothing had been sent yet
    except (http.client.IncompleteRead, ConnectionError):
        assert cut
    if shutil.which("curl") and cut:
        headers = [word for name, value in COMPAT.items() for word in ("-H", f"{name}: {value}")]
        words = ["curl", "-sS", "--max-time", "10", *headers, "-o", str(tmp_path / "x"), gunicorn.root_url + path]
        assert subprocess.run(words, capture_output=True, timeout=20).returncode in (18, 56)
    assert gunicorn.wait_for_lines(1, file_id=obj["id"])[0]["error"] == "upstream_error"


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_whole_download_has_a_clean_end(framing, gunicorn, fake):
    content = random.Random(3).randbytes(700_001)
    obj = fake.store("a", "text/csv", content, "batch")
    fake.chunked = framing == "chunked"
    response, got = gunicorn.request("GET", f"/v1/files/{obj['id']}/content", headers=COMPAT)
    assert got == content
    assert response.headers["content-type"] == "text/csv"
    assert "filename*=UTF-8''a" in response.headers["content-disposition"]
    assert not {"set-cookie", "x-internal-host"} & {name.lower() for name in response.headers}
    assert LEAKS["server"] not in response.headers.get("server", "")


EARLY = {401: "AuthenticationError", 413: "APIStatusError"}


@pytest.mark.parametrize("status", EARLY)
def test_upstream_that_refuses_during_50_mb_is_heard_by_the_sdk(status, gunicorn, fake):
    openai = pytest.importorskip("openai", reason="needs the openai package")
    fake.early = status
    began = time.monotonic()
    with sdk(openai, gunicorn) as client, pytest.raises(getattr(openai, EARLY[status])) as caught:
        client.files.create(file=("big", bytes(50 << 20)), purpose="batch")
    assert caught.value.status_code == status
    assert KEY not in caught.value.message
    assert time.monotonic() - began < 20  # much less than any time limit of the gateway


def test_gateway_that_refuses_50_mb_is_heard_by_the_sdk(gunicorn, fake):
    openai = pytest.importorskip("openai", reason="needs the openai package")
    before = len(fake.requests)
    with sdk(openai, gunicorn, "OPENAI_API_KEY") as client, pytest.raises(openai.AuthenticationError) as caught:
        client.files.create(file=("big", bytes(50 << 20)), purpose="batch")
    assert caught.value.code == "invalid_api_key"
    assert len(fake.requests) == before


@pytest.mark.parametrize("refused", ["no credential", "too large", "no form", "unknown provider"])
def test_gateway_that_refuses_50_mb_is_heard_by_a_plain_client(refused, gunicorn):
    headers = {**COMPAT, **FORM}
    length = 50 << 20
    if refused == "no credential":
        del headers["authorization"]
    elif refused == "too large":
        length = 600 << 20
    elif refused == "no form":
        headers["content-type"] = "text/plain"
    else:
        headers["x-portkey-provider"] = "nobody"
    with gunicorn.connect() as sock:
        lines = [f"{name}: {value}" for name, value in {**headers, "content-length": length}.items()]
        sock.sendall("\r\n".join(["POST /v1/files HTTP/1.1", "host: localhost", *lines, "", ""]).encode())
        block = bytes(1 << 20)
        with contextlib.suppress(ConnectionError):
            for _ in range(50):
                sock.sendall(block)
        answer = sock.recv(65536)
    expected = {"no credential": 401, "too large": 413, "no form": 415, "unknown provider": 400}
    assert status_of(answer) == expected[refused]


def sdk(openai, gateway, key=KEY):
    headers = {"x-portkey-provider": "compat"}
    return openai.OpenAI(api_key=key, base_url=gateway.url, default_headers=headers, max_retries=0, timeout=30)


# Stopping


def test_stop_lets_a_download_end(start, fake):
    gateway = start("gunicorn")
    content = random.Random(4).randbytes(400_000)
    obj = fake.store("slow", "text/plain", content, "batch")
    fake.goes_on.clear()
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", f"/v1/files/{obj['id']}/content", headers=COMPAT)
        with connection.getresponse() as response:
            got = response.read(1000)
            gateway.process.send_signal(signal.SIGTERM)
            assert until(gateway.has_begun_to_stop)
            fake.goes_on.set()
            got += response.read()
    assert got == content
    assert gateway.process.wait(10) == 0
    assert gateway.lines(file_id=obj["id"])[0]["error"] is None


# What is left behind


def test_warnings_of_a_configuration_are_on_standard_error(fake, tmp_path):
    hashes = [hashlib.sha256(name.encode()).hexdigest() for name in ("fp_a", "fp_b")]
    keys = "".join(f"[key:team-{n}]\nsha256 = {digest}\nproviders = saved\n" for n, digest in enumerate(hashes))
    saved = f"[provider:saved]\nkind = openai\nbase_url = {fake.base_url}\ncredential = {KEY}\n"
    path = tmp_path / "filesproxy.ini"
    path.write_text("[filesproxy]\nisolation = no\n" + saved + keys, "utf-8")
    with running("gunicorn", tmp_path / "run", FILESPROXY_CONFIG=path) as gateway:
        said = "The keys team-0, team-1 share the files of the saved provider saved."
        assert said in gateway.err()
        assert said not in gateway.out() and KEY not in gateway.err()


def test_access_log_has_one_line_a_request_with_the_bytes_that_went(start, fake):
    gateway = start("gunicorn")
    content = random.Random(5).randbytes(123_457)
    body = form(content)
    _, made = gateway.request("POST", "/v1/files", body, {**COMPAT, **FORM, "x-portkey-trace-id": "t-up"})
    path = f"/v1/files/{json.loads(made)['id']}"
    seen = {"t-up": (len(body), len(made))}
    for trace, method, target in (("t-list", "GET", "/v1/files"), ("t-get", "GET", path), ("t-head", "HEAD", path),
                                  ("t-content", "GET", f"{path}/content"), ("t-del", "DELETE", path),
                                  ("t-404", "GET", path), ("t-none", "GET", "/v1/nothing")):  # fmt: skip
        _, answer = gateway.request(method, target, headers={**COMPAT, "x-portkey-trace-id": trace})
        seen[trace] = (0, len(answer))
    assert seen["t-content"] == (0, len(content))
    for trace, (bytes_in, bytes_out) in seen.items():
        (line,) = gateway.wait_for_lines(1, trace_id=trace)
        assert (line["bytes_in"], line["bytes_out"]) == (bytes_in, bytes_out), trace
    (line,) = gateway.lines(trace_id="t-up")
    assert (line["operation"], line["provider"], line["purpose"]) == ("upload_file", "compat", "batch")
    assert (line["status"], line["error"], line["file_id"]) == (200, None, json.loads(made)["id"])
    assert all(line.startswith("{") for line in gateway.out().splitlines())


def open_files(gateway):
    """What the workers hold open: {(pid, descriptor): target}."""
    held = {}
    for pid in gateway.workers():
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                held[pid, entry.name] = os.readlink(entry.path)
    return held


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_upload_touches_no_file(framing, gunicorn, fake):
    gunicorn.request("POST", "/v1/files", form(b"x"), {**COMPAT, **FORM})  # what opens once has been opened
    before = set(open_files(gunicorn).values())
    content = random.Random(6).randbytes(3 << 20)
    body = form(content)
    head = post_head(len(body), connection="close")
    if framing == "chunked":
        head = head.replace(b"content-length: %d" % len(body), b"transfer-encoding: chunked")
    sent = set()
    with gunicorn.connect() as sock:
        sock.sendall(head)
        for start, end in ((0, 1 << 20), (1 << 20, 2 << 20), (2 << 20, len(body) - 1), (len(body) - 1, len(body))):
            block = body[start:end]
            sock.sendall(b"%x\r\n%b\r\n" % (len(block), block) if framing == "chunked" else block)
            if start and end < len(body):  # a mebibyte is on its way: two sockets are open
                assert until(lambda: len(set(open_files(gunicorn).values()) - before) >= 2)
            sent |= set(open_files(gunicorn).values()) - before
        if framing == "chunked":
            sock.sendall(b"0\r\n\r\n")
        answer = read_all(sock)
    made = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert fake.files[made["id"]][3] == hashlib.sha256(content).hexdigest()
    assert sent  # the sockets of this very upload
    assert {target for target in sent if not target.startswith(("socket:", "anon_inode:"))} == set()
    assert os.listdir(gunicorn.folder / "tmp") == []


CANARY = "sk-canary-7f3a9c"
GIVEN = {
    "bearer": {"authorization": f"Bearer {CANARY}"},
    "two bearers": {"authorization": f"Bearer {CANARY} {CANARY}"},
    "portkey": {"x-portkey-api-key": CANARY},
    "azure": {"api-key": CANARY},
    "anthropic": {"x-api-key": CANARY},
    "cookie": {"cookie": CANARY},
}
ASKED = (
    ("GET", "/v1/files", None),
    ("GET", f"/v1/nothing?key={CANARY}", None),
    ("POST", "/v1/files", form(b"x")),
    ("POST", "/v1/files", b"no form"),
)


def test_logs_and_answers_hold_no_credential_whatever_went_wrong(start, fake):
    gateway = start("gunicorn", "--log-level", "debug")
    for provider in ("compat", "nowhere", "nobody", "local", CANARY):
        for headers in GIVEN.values():
            for method, path, body in ASKED:
                named = {**headers, **FORM, "x-portkey-provider": provider}
                response, answer = gateway.request(method, path, body, named)
                assert CANARY not in answer.decode() + str(response.headers)
    exchange(gateway, f"GET / HTTP/1.1\r\nauthorization: Bearer {CANARY}\r\nx_y: {CANARY}\r\n\r\n".encode())
    with gateway.connect() as sock:
        sock.sendall(post_head(1 << 20).replace(KEY.encode(), CANARY.encode()) + HEAD + CANARY.encode())
    assert len(gateway.wait_for_lines(121)) >= 121
    assert CANARY not in gateway.out()
    assert CANARY not in gateway.err()


@pytest.mark.parametrize("kind", ["gunicorn", "waitress", "embedded"])
@pytest.mark.parametrize("provider", ["compat", "local"])
def test_five_operations_on_each_server(kind, provider, start):
    if kind == "waitress":
        pytest.importorskip("waitress", reason="needs waitress")
    gateway = start(kind)
    headers = {**COMPAT, "x-portkey-provider": provider}
    content = random.Random(7).randbytes(1_500_000)
    response, answer = gateway.request("POST", "/v1/files", form(content), {**headers, **FORM})
    assert response.status == 200, answer
    path = f"/v1/files/{json.loads(answer)['id']}"
    assert json.loads(gateway.request("GET", path, headers=headers)[1]) == json.loads(answer)
    assert json.loads(gateway.request("GET", "/v1/files?limit=1", headers=headers)[1])["data"] == [json.loads(answer)]
    assert gateway.request("GET", f"{path}/content", headers=headers)[1] == content
    assert json.loads(gateway.request("DELETE", path, headers=headers)[1])["deleted"] is True
    assert gateway.request("GET", path, headers=headers)[0].status == 404


# The body reader that replaces gunicorn's own


@pytest.fixture
def parsed_by_gunicorn():
    """Makes gunicorn's request of these bytes, as pre_request gets it, and the client's end of its socket."""
    from gunicorn.config import Config
    from gunicorn.http.message import Request
    from gunicorn.http.unreader import SocketUnreader

    from filesproxy.serving.gunicorn import pre_request
    from filesproxy.serving.lobby import Lobby

    open_ones = []

    def parse(data):
        theirs, ours = socket.socketpair()
        open_ones.extend((theirs, ours))
        theirs.sendall(data)
        request = Request(Config(), SocketUnreader(ours), ("127.0.0.1", 1), 1)
        pre_request(SimpleNamespace(filesproxy_lobby=Lobby(1, 10)), request)
        return request, theirs

    yield parse
    for sock in open_ones:
        sock.close()


UPLOAD_HEAD = b"POST /v1/files HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n"


@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
@pytest.mark.parametrize("ahead", [0, 1, 100, 5000])
def test_body_read_from_the_socket_is_that_body_and_leaves_the_next_request(size, ahead, parsed_by_gunicorn):
    body, next_one = os.urandom(5000), b"GET / HTTP/1.1\r\n"
    request, client = parsed_by_gunicorn(UPLOAD_HEAD % len(body) + body[:ahead])
    client.sendall(body[ahead:] + next_one)
    assert "read" in vars(request.body)  # replaced, with the gunicorn that is installed here
    blocks = list(iter(lambda: request.body.read(size), b""))
    assert b"".join(blocks) == body and max(map(len, blocks)) <= size
    assert request.unreader.read() == next_one


def test_body_whose_client_leaves_is_short_and_one_that_resets_is_an_error(parsed_by_gunicorn):
    request, client = parsed_by_gunicorn(UPLOAD_HEAD % 10 + b"hello")
    client.close()
    assert [request.body.read(100) for _ in range(2)] == [b"hello", b""]
    request, _ = parsed_by_gunicorn(UPLOAD_HEAD % 10)
    request.unreader.sock.close()
    with pytest.raises(OSError):
        request.body.read(100)
    assert request.body.failed


def test_body_in_chunks_is_read_by_gunicorn(parsed_by_gunicorn):
    head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    request, _ = parsed_by_gunicorn(head + b"5\r\nhello\r\n0\r\n\r\n")
    assert "read" not in vars(request.body) and request.body.read(100) == b"hello"
