"""What the gateway stands, measured by hand: many uploads, stalled clients, a faulty provider, clients that leave,
few descriptors, answers that come twice, a loop of two gateways, callers that starve others, memory bombs, full disks.

    python tests/bench/stress.py                    all but the soak, about six minutes
    python tests/bench/stress.py doubled            one of them; --help names them
    python tests/bench/stress.py soak --minutes 10

Needs gunicorn; Linux (/proc). On loopback: this process is the clients, a second one the provider, and gunicorn runs
with gunicorn.conf.py as shipped, two workers. Exits 1 if an answer was wrong: a short file that looks whole, another
file's metadata, another SHA-256, another team's content, no answer at all where there has to be one; if one caller
kept another waiting, a worker took more memory than it may, or a full disk could not be emptied.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import multiprocessing
import os
import random
import re
import resource
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "heavy")]

from servers import free_port, running  # noqa: E402

MIB = 1 << 20
BOUNDARY = "stress-boundary-0123456789"
DENSE = b"[" + b'{"a":1},' * 499_990 + b"{}]"  # 4 MB, which parsed take 120 MB
FAULTS = ("reset", "silence", "truncate", "garbage", "page", "early")
wrong = []  # what must stay empty


def content(name, size):
    """The bytes of a file, by its name."""
    block = hashlib.sha256(name.encode()).digest() * 2048
    return (block * (size // len(block) + 1))[:size]


# The provider


class Provider:
    """Answers with the id it was asked for; below /faulty/ one call in five goes wrong in one of six ways.

    Below /doubled/ it keeps its connections, and sends one answer in a hundred twice, 30 ms late.
    """

    def __init__(self, listener):
        self.listener = listener

    def serve(self):
        while True:
            sock, _ = self.listener.accept()
            threading.Thread(target=self.connection, args=(sock,), daemon=True).start()

    def connection(self, sock):
        try:
            with sock, sock.makefile("rb") as stream:
                sock.settimeout(30)
                method, path, _ = stream.readline().decode().split(" ")
                headers = http.client.parse_headers(stream)
                fault = random.choice(FAULTS) if path.startswith("/faulty/") and random.random() < 0.2 else ""
                if fault in ("reset", "early"):
                    self.spoil(sock, fault)
                    return
                digest = self.digest(stream) if "transfer-encoding" in headers else None
                if path.startswith("/doubled/"):
                    self.answer_doubly(sock, stream, path)
                    return
                stream.read(int(headers.get("content-length", 0)))
                self.spoil(sock, fault) if fault else self.answer(sock, path, digest)
        except (OSError, ValueError):
            pass

    def answer_doubly(self, sock, stream, path):
        """Answer this request and those that follow it."""
        whole = threading.Lock()  # an answer may come twice, but none comes in the middle of another one
        while True:
            with whole:
                self.answer(sock, path, None)
            if random.random() < 0.01:
                threading.Timer(0.03, self.answer_late, [sock, path, whole]).start()
            line = stream.readline().decode()
            if not line:
                return
            path = line.split(" ")[1]
            http.client.parse_headers(stream)

    def answer_late(self, sock, path, whole):
        with whole, contextlib.suppress(OSError):  # the gateway may have closed it, as it should
            self.answer(sock, path, None)

    def digest(self, stream):
        """SHA-256 and size of the file of a chunked form; ValueError if it ends early."""
        body = bytearray()
        while size := int(stream.readline().strip() or b"x", 16):
            body += stream.read(size)
            stream.readline()
        opening = body[: body.index(b"\r\n")]
        start = body.index(b"\r\n\r\n", body.index(b"filename=")) + 4
        end = body.rindex(b"\r\n" + opening)
        return hashlib.sha256(body[start:end]).hexdigest(), end - start

    def answer(self, sock, path, digest):
        file_id = re.sub(r".*/files/?([^/]*).*", r"\1", path) or "file-new"
        if path.endswith("/content"):
            body, kind = content(file_id, 300_000), "application/octet-stream"
        elif path.startswith("/dense/"):
            body, kind = b'{"id":"%b","x":%b}' % (file_id.encode(), DENSE), "application/json"
        else:
            made = {"id": file_id, "object": "file", "bytes": 1, "created_at": 1, "filename": "x", "purpose": "batch"}
            if digest:
                made.update(sha256=digest[0], bytes=digest[1])
            body, kind = json.dumps(made).encode(), "application/json"
        sock.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    def spoil(self, sock, fault):
        if fault == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif fault == "silence":
            time.sleep(3)
        elif fault == "truncate":
            sock.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 400\r\n\r\n" + b"x" * 90
            )
        elif fault == "garbage":
            sock.sendall(os.urandom(200))
        elif fault == "page":
            sock.sendall(b"HTTP/1.1 502 Bad\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>")
        else:
            sock.sendall(b"HTTP/1.1 429 Busy\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")


# The clients


def call(gateway, method, path, body=None, provider="good", headers=None):
    """(status, body) of a call, or (0, why) if the connection broke."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    given = {"x-portkey-provider": f"@{provider}", **(headers or {})}
    try:
        connection.request(method, path, body, given, encode_chunked=body is not None)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as problem:
        return 0, type(problem).__name__.encode()
    finally:
        connection.close()


def form(name, size):
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--{BOUNDARY}\r\n'
    head += f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return head.encode() + content(name, size) + f"\r\n--{BOUNDARY}--\r\n".encode()


def upload(gateway, name, size, provider="good"):
    """True if it arrived as it was, False for an error; a wrong answer is noted."""
    kind = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    status, body = call(gateway, "POST", "/v1/files", form(name, size), provider, kind)
    if status == 200 and json.loads(body).get("sha256") != hashlib.sha256(content(name, size)).hexdigest():
        wrong.append(f"upload {name} answered {body[:200]!r}")
    return status == 200


def metadata(gateway, number, provider="good"):
    status, body = call(gateway, "GET", f"/v1/files/file-{number}", provider=provider)
    if status == 200 and json.loads(body)["id"] != f"file-{number}":
        wrong.append(f"file-{number} answered {body[:200]!r}")
    return status == 200


def download(gateway, number, provider="good"):
    status, body = call(gateway, "GET", f"/v1/files/file-{number}/content", provider=provider)
    if status == 200 and body != content(f"file-{number}", 300_000):
        wrong.append(f"content of file-{number}: {len(body)} bytes that look whole")
    return status == 200


def leave(gateway, number):
    """A client that goes away at a random point of a random call."""
    request = (
        f"GET /v1/files/file-{number}/content HTTP/1.1\r\nHost: localhost\r\nx-portkey-provider: @good\r\n\r\n".encode()
        if number % 2
        else f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nx-portkey-provider: @good\r\nContent-Length: 200000\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode()
        + form("a", 100_000)
    )
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as sock:
        sock.sendall(request[: random.randrange(1, len(request) + 1)])
        time.sleep(random.random() * 0.01)
        if random.random() < 0.5:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return True


# The measurements


def resources(gateway):
    """(MiB resident, open descriptors) of all workers."""
    status = [Path(f"/proc/{pid}/status").read_text() for pid in gateway.workers()]
    resident = sum(int(text.split("VmRSS:")[1].split()[0]) for text in status) / 1024
    return resident, sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in gateway.workers())


def settled(gateway, descriptors):
    """The resources once connections have ended."""
    for _ in range(100):
        if resources(gateway)[1] <= descriptors:
            break
        time.sleep(0.1)
    return resources(gateway)


def big_uploads(gateway):
    peak, done = [0.0], threading.Event()

    def sample():
        while not done.wait(0.02):
            peak[0] = max(peak[0], resources(gateway)[0])

    sampler = threading.Thread(target=sample)
    sampler.start()
    began = time.monotonic()
    with ThreadPoolExecutor(32) as pool:
        good = sum(pool.map(lambda n: upload(gateway, f"big-{n}", 20 * MIB), range(32)))
    seconds = time.monotonic() - began
    done.set()
    sampler.join()
    rate = 640 / seconds
    print(f"32 uploads of 20 MiB at once: {good} of 32 right, {rate:.0f} MiB/s, workers together {peak[0]:.0f} MiB")


def stalled_clients(gateway):
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nx-portkey-provider: @good\r\nContent-Length: 1000000\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode()
        + form("stalled", 1000)[:-60]
    )
    socks = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(64)]
    for sock in socks:
        sock.sendall(head)
    time.sleep(0.5)
    times = []
    for number in range(500):
        began = time.perf_counter()
        if not metadata(gateway, number):
            wrong.append("a metadata call failed beside stalled clients")
        times.append((time.perf_counter() - began) * 1000)
    for sock in socks:
        sock.close()
    times.sort()
    print(f"64 stalled clients, 500 metadata calls: p50 {times[250]:.1f} ms, p99 {times[494]:.1f} ms")


def faulty_provider(gateway, count=5000):
    def one(number):
        kind = (metadata, download, metadata)[number % 3]
        return upload(gateway, f"f-{number}", 50_000, "faulty") if number % 10 == 0 else kind(gateway, number, "faulty")

    with ThreadPoolExecutor(32) as pool:
        good = sum(pool.map(one, range(count)))
    print(
        f"{count} calls to a provider that fails one in five: {good} right, {count - good} errors, {len(wrong)} wrong"
    )


def leaving_clients(gateway, count=10_000):
    for number in range(300):
        metadata(gateway, number)
    before = settled(gateway, 0)

    def one(number):
        return leave(gateway, number) if number % 10 == 0 else metadata(gateway, number)

    with ThreadPoolExecutor(16) as pool:
        good = sum(pool.map(one, range(count)))
    after = settled(gateway, before[1])
    print(f"{count} requests, every tenth client leaves: {good} as they should be")
    print(f"  resident {before[0]:.1f} -> {after[0]:.1f} MiB, descriptors {before[1]} -> {after[1]}")


UPLOADS = 1000


def few_descriptors(url, folder):
    """As many uploads at once as there are descriptors: each is answered or refused, and no worker dies."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # this process has a socket for each, too
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    conf = folder / "limited.conf.py"
    shipped = (ROOT / "gunicorn.conf.py").read_text("utf-8")
    limit = "import resource\n\nresource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))\n"
    conf.write_text(shipped + limit, "utf-8")  # the hard one, too; workers inherit it
    config = folder / "limited.ini"
    config.write_text(f"[filesproxy]\nfolder = {folder / 'store'}\ndefault_provider = local\n")
    with running("gunicorn", folder / "limited", conf=conf, FILESPROXY_CONFIG=config) as gateway:
        workers, start = gateway.workers(), threading.Barrier(UPLOADS)

        def one(number):
            start.wait()
            kind = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
            return call(gateway, "POST", "/v1/files", form(f"many-{number}", 100_000), "local", kind)

        began = time.monotonic()
        with ThreadPoolExecutor(UPLOADS) as pool:
            answers = list(pool.map(one, range(UPLOADS)))
        seconds = time.monotonic() - began
        good = sum(status == 200 for status, _ in answers)
        refused = sum(status in (408, 429, 503) and b'"error"' in body for status, body in answers)
        if good + refused < UPLOADS:
            odd = {(status, body[:80]) for status, body in answers if status not in (200, 408, 429, 503)}
            wrong.append(f"{UPLOADS - good - refused} uploads without a clean answer: {sorted(odd)[:5]}")
        if gateway.workers() != workers:
            wrong.append("a worker died under many uploads")
        indexes = sum(open_indexes(pid) for pid in gateway.workers())
        if indexes > 8 * len(workers):
            wrong.append(f"{indexes} connections to the index stayed open")
        if (listed := stored(gateway)) != good:
            wrong.append(f"{good} uploads were acknowledged, {listed} are there")
        _, descriptors = settled(gateway, 200)
    print(
        f"{UPLOADS} uploads of 100 kB at once, 1,024 descriptors: {good} stored, {refused} refused, {seconds:.1f} s\n"
        f"  afterwards {indexes} open files of the index, {descriptors} descriptors of both workers"
    )
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def stored(gateway):
    """How many files the local store lists."""
    count, after = 0, ""
    while True:
        status, body = call(gateway, "GET", f"/v1/files?limit=100{after}", provider="local")
        page = json.loads(body)
        count += len(page["data"])
        if not page["has_more"]:
            return count
        after = f"&after={page['last_id']}"


def open_indexes(pid):
    """How many descriptors of a process lead to a store's index."""
    count = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            count += "/store/" in os.readlink(f"/proc/{pid}/fd/{name}")
    return count


TEAMS = ("retail", "treasury")


def doubled_answers(url, folder, count=2000):
    """Two teams over an edge that sends some answers twice: none of them sees an answer that is not its own.

    A late double of its own cannot be told from a content, which names no id; these are counted.
    """
    doubles = []
    config = folder / "doubled.ini"
    keys = "\n".join(
        f"[key:{team}]\nsha256 = {hashlib.sha256(f'key-of-{team}'.encode()).hexdigest()}\nproviders = doubled"
        for team in TEAMS
    )
    config.write_text(
        "[filesproxy]\nisolation = no\n"
        f"[provider:doubled]\nkind = openai\nbase_url = {url}/doubled/v1\ncredential = sk-stress\n{keys}\n"
    )
    with running("gunicorn", folder / "doubled", FILESPROXY_CONFIG=config) as gateway:

        def one(number):
            team = TEAMS[number % 2]
            file_id, key = f"{team}-{number}", {"x-portkey-api-key": f"key-of-{team}"}
            status, body = call(gateway, "GET", f"/v1/files/{file_id}", provider="doubled", headers=key)
            if status == 200 and json.loads(body)["id"] != file_id:
                wrong.append(f"{file_id} answered {body[:200]!r}")
            also, data = call(gateway, "GET", f"/v1/files/{file_id}/content", provider="doubled", headers=key)
            if also == 200 and data != content(file_id, 300_000):
                is_own = data.startswith(f'{{"id": "{team}-'.encode())  # the metadata of the call before
                is_own = is_own or any(data == content(f"{team}-{other}", 300_000) for other in range(count))
                doubles.append(file_id) if is_own else wrong.append(f"content of {file_id} is another team's")
            return (status == 200) + (also == 200)

        with ThreadPoolExecutor(16) as pool:
            good = sum(pool.map(one, range(count)))
    print(f"{2 * count} calls of two teams, one answer in a hundred twice: {good} answered, {len(doubles)} own doubles")


def loop_of_two(url, folder, count=20):
    """A → B → A ends with a 508, and each call holds a thread for each hop and no more."""
    ports, names = (free_port(), free_port()), ("a", "b")
    for own, other, port in (("a", "b", ports[1]), ("b", "a", ports[0])):
        (folder / f"{own}.ini").write_text(
            f"[filesproxy]\ndefault_provider = {other}\n"
            f"[provider:{other}]\nkind = openai\nbase_url = http://127.0.0.1:{port}/v1\n"
            f"credential = key-of-{other}-here\n"
            f"[key:{other}]\nsha256 = {hashlib.sha256(f'key-of-{own}-here'.encode()).hexdigest()}\nproviders = *\n"
        )
    with contextlib.ExitStack() as stack:
        first, second = [
            stack.enter_context(
                running("gunicorn", folder / name, "-b", f"127.0.0.1:{port}", FILESPROXY_CONFIG=folder / f"{name}.ini")
            )
            for name, port in zip(names, ports)
        ]
        before, began = threads(first) + threads(second), time.monotonic()
        with ThreadPoolExecutor(count) as pool:
            answers = list(pool.map(lambda number: call(first, "GET", f"/v1/files/file-{number}", provider="b",
                                                        headers={"x-portkey-api-key": "key-of-a-here"}),
                                    range(count)))  # fmt: skip
        seconds, after = time.monotonic() - began, threads(first) + threads(second)
    ended = sum(status == 508 for status, _ in answers)
    if ended < count:
        wrong.append(f"a loop of two gateways did not end with 508: {answers[0]}")
    if after - before > 3 * count or seconds > 10:
        wrong.append(f"a loop of two gateways took {after - before} threads and {seconds:.0f} s")
    print(f"{count} calls into a loop of two gateways: {ended} are 508, {seconds:.1f} s, {after - before} more threads")


def threads(gateway):
    """How many threads the workers have; gunicorn ends none that it has begun."""
    return sum(len(os.listdir(f"/proc/{pid}/task")) for pid in gateway.workers())


# One caller against the others

KEYS = {"hog": "fp_stress-hog", "team": "fp_stress-team"}
CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 300_000}]}).encode()
JSON_KIND = {"content-type": "application/json"}


def by_key(name):
    return {"x-portkey-api-key": KEYS[name]}


def beside(gateway, what, seconds=24):
    """Another team's chats and health checks, one after another, beside what somebody does."""
    ends, chats, health, slowest = time.monotonic() + seconds, [], [], 0.0
    while time.monotonic() < ends:
        for answers, call_one in (
            (
                chats,
                lambda: call(gateway, "POST", "/v1/chat/completions", CHAT, headers={**by_key("team"), **JSON_KIND}),
            ),
            (health, lambda: call(gateway, "GET", "/v1/health")),
        ):
            began = time.monotonic()
            answers.append(call_one()[0])
            slowest = max(slowest, time.monotonic() - began)
        time.sleep(0.1)
    bad = [status for status in chats + health if status != 200]
    print(f"  beside {what}: {chats.count(200)} of {len(chats)} chats of another team, {health.count(200)} of "
          f"{len(health)} health checks, the slowest after {slowest:.1f} s", flush=True)  # fmt: skip
    if bad or slowest > 3:
        wrong.append(f"beside {what}: answers {sorted(set(bad))}, the slowest after {slowest:.1f} s")


def connected(gateway, data):
    """A connection that is to send this, as far as it is taken, and then stays open."""
    sock = socket.create_connection(("127.0.0.1", gateway.port), 60)
    sock.setblocking(False)
    return sock, memoryview(data)


def is_readable(sock):
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def push(held):
    """Send what each still takes; those that the other side has closed are left out."""
    left = []
    for sock, rest in held:
        try:
            while rest:
                rest = rest[sock.send(rest) :]
        except BlockingIOError:
            pass
        except OSError:
            rest = None
        if rest is None or is_readable(sock):  # an answer or an end: a refusal
            sock.close()
        else:
            left.append((sock, rest))
    return left


@contextlib.contextmanager
def going_on(held, seconds, again):
    """Send on at this interval, with `again` of what is left."""
    over = threading.Event()

    def work():
        nonlocal held
        while not over.wait(seconds):
            held = again(held)

    worker = threading.Thread(target=work)
    worker.start()
    yield
    over.set()
    worker.join()
    for sock, _ in held:
        sock.close()


def half_sent_bodies(gateway, large=260, small=340):
    """JSON of one key that stops before its end: so much that it fills the memory for JSON, and every thread.

    Who is dropped or refused comes back after two seconds.
    """

    def half_sent(size):
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size + 1000}\r\n"
        head += f"Content-Type: application/json\r\nx-portkey-provider: @good\r\nx-portkey-api-key: {KEYS['hog']}\r\n"
        return connected(gateway, head.encode() + b"\r\n" + b" " * size)

    def again(held):
        nonlocal due
        held = push(held)
        if time.monotonic() > due:
            due = time.monotonic() + 2
            held += push([half_sent(50_000) for _ in range(large + small - len(held))])
        return held

    due = time.monotonic() + 2
    held = push([half_sent(1_200_000) for _ in range(large)])
    held += push([half_sent(50_000) for _ in range(small)])
    with going_on(held, 0.05, again):
        time.sleep(4)
        beside(gateway, f"{large + small} half-sent bodies of one key")


def dripped_heads(gateway, count=530):
    """Connections that send a byte of their head every two seconds, and come back when they are dropped."""

    def dripping():
        return connected(gateway, b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\nx-drip: ")

    def again(held):
        held = push([(sock, memoryview(b"a")) for sock, _ in held])
        return held + push([dripping() for _ in range(count - len(held))])

    with going_on(push([dripping() for _ in range(count)]), 2, again):
        time.sleep(2)
        beside(gateway, f"{count} dripped heads")


def starving_callers(provider, folder):
    config = folder / "starve.ini"
    sections = ["[filesproxy]", "isolation = no", "[provider:good]", "kind = openai", f"base_url = {provider}/good/v1",
                "credential = sk-stress"]  # fmt: skip
    for name, key in KEYS.items():
        sections += [f"[key:{name}]", f"sha256 = {hashlib.sha256(key.encode()).hexdigest()}", "providers = good"]
    config.write_text("\n".join(sections))
    for kind in ("gunicorn", "embedded"):
        for attack in (half_sent_bodies, dripped_heads):
            with running(kind, folder / f"{kind}-{attack.__name__}", FILESPROXY_CONFIG=config) as gateway:
                print(kind)
                attack(gateway)


def memory_bombs(url, folder, count=48, limit=350):
    """JSON that is mostly brackets, as requests and as answers, all at the same time: what one worker holds of it."""
    config = folder / "memory.ini"
    config.write_text(f"[filesproxy]\nopen_access = yes\n[provider:dense]\nkind = openai\nbase_url = {url}/dense/v1\n"
                      "credential = sk-stress\n[provider:good]\nkind = openai\n"
                      f"base_url = {url}/good/v1\ncredential = sk-stress\n")  # fmt: skip
    chat = b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"x":' + DENSE + b"}"
    json_type = {"content-type": "application/json"}
    cases = {
        "answers": lambda gateway, number: call(gateway, "GET", f"/v1/files/file-{number}", provider="dense"),
        "requests": lambda gateway, number: call(gateway, "POST", "/v1/chat/completions", chat, "good", json_type),
    }
    for name, ask in cases.items():
        with running("gunicorn", folder / f"memory-{name}", "--workers", "1", FILESPROXY_CONFIG=config) as gateway:
            (pid,), start = gateway.workers(), threading.Barrier(count)

            def one(number, gateway=gateway, ask=ask, start=start):
                start.wait()
                return ask(gateway, number)[0]

            with ThreadPoolExecutor(count) as pool:
                statuses = list(pool.map(one, range(count)))
            peak = int(re.search(r"VmHWM:\s+([0-9]+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024
            if peak > limit or gateway.workers() != [pid] or set(statuses) - {200, 404, 429, 502, 503}:
                wrong.append(f"{count} dense {name}: {peak:.0f} MiB, {sorted(set(statuses))}")
        good = sum(status == 200 for status in statuses)
        print(
            f"{count} {name} of 4 MB that are mostly brackets: {good} answered, the worker took {peak:.0f} MiB at most"
        )


def full_disk(url, folder, count=20):
    """A disk that is full to the last block: files can be read and deleted, uploads are refused, then there is room."""
    disk = folder / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=700", "tmpfs", str(disk)], capture_output=True)
    if mount.returncode:
        print("full disk: not tried, because only root can mount one")
        return
    try:
        config = folder / "disk.ini"
        config.write_text(f"[filesproxy]\nfolder = {disk / 'store'}\ndefault_provider = local\n")
        with running("gunicorn", folder / "full", FILESPROXY_CONFIG=config) as gateway:
            kind = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}

            def put(name):
                return call(gateway, "POST", "/v1/files", form(name, 1_000_000), "local", kind)

            kept = [json.loads(put(f"disk-{number}")[1])["id"] for number in range(count)]
            with contextlib.suppress(OSError), open(disk / "other", "ab", buffering=0) as other:
                while True:
                    other.write(bytes(4096))
            refused = sum(put("one more")[0] == 507 for _ in range(count))
            read = sum(call(gateway, "GET", f"/v1/files/{name}/content", provider="local")[0] == 200 for name in kept)
            gone = sum(call(gateway, "DELETE", f"/v1/files/{name}", provider="local")[0] == 200 for name in kept)
            (disk / "other").unlink()
            again = put("after")[0]
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
    if (refused, read, gone, again) != (count, count, count, 200):
        wrong.append(f"full disk: {refused} uploads refused, {read} read, {gone} deleted of {count}; then {again}")
    print(
        f"full disk: {refused} of {count} uploads are 507, {read} files read, {gone} deleted; with room again: {again}"
    )


OF_THE_SHIPPED = {"big": big_uploads, "stalled": stalled_clients, "faulty": faulty_provider, "leaving": leaving_clients}
OF_THEIR_OWN = {"descriptors": few_descriptors, "doubled": doubled_answers, "loop": loop_of_two,
                "starve": starving_callers, "memory": memory_bombs, "disk": full_disk}  # fmt: skip


def soak(gateway, minutes):
    ends, count, number = time.monotonic() + minutes * 60, 0, 0
    with ThreadPoolExecutor(8) as pool:
        while time.monotonic() < ends:
            jobs = [pool.submit(upload, gateway, f"s-{n}", 200_000) for n in range(4)]
            jobs += [pool.submit(download, gateway, n) for n in range(number, number + 20)]
            jobs += [pool.submit(metadata, gateway, n) for n in range(number, number + 60)]
            jobs += [pool.submit(leave, gateway, n) for n in range(4)]
            jobs += [pool.submit(metadata, gateway, n, "faulty") for n in range(4)]
            count, number = count + sum(bool(job.result()) for job in jobs), number + 60
            if number % 30_000 < 60:
                resident, descriptors = resources(gateway)
                print(f"  {count} calls, {resident:.1f} MiB, {descriptors} descriptors", flush=True)
    resident, descriptors = settled(gateway, 0)
    print(f"soak of {minutes:g} min: {count} right calls, {resident:.1f} MiB, {descriptors} descriptors at its end")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", nargs="?", choices=["all", "soak", *OF_THE_SHIPPED, *OF_THEIR_OWN], default="all")
    options.add_argument("--minutes", type=float, default=10)
    given = options.parse_args()
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    provider = multiprocessing.get_context("fork").Process(target=Provider(listener).serve, daemon=True)
    provider.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "stress.ini"
        kinds = "\n".join(
            f"[provider:{name}]\nkind = openai\nbase_url = {url}/{name}/v1\ncredential = sk-stress\n"
            "answer_timeout = 2\n"
            for name in ("good", "faulty")
        )
        config.write_text(f"[filesproxy]\nopen_access = yes\n{kinds}")
        chosen = [given.what] if given.what != "all" else [*OF_THE_SHIPPED, *OF_THEIR_OWN]
        if given.what == "soak" or set(chosen) & set(OF_THE_SHIPPED):
            with running("gunicorn", Path(folder) / "run", FILESPROXY_CONFIG=config) as gateway:
                if given.what == "soak":
                    soak(gateway, given.minutes)
                for name in [name for name in chosen if name in OF_THE_SHIPPED]:
                    OF_THE_SHIPPED[name](gateway)
        for name in chosen:
            if name in OF_THEIR_OWN:
                OF_THEIR_OWN[name](url, Path(folder))
    provider.terminate()
    print("\n".join(wrong[:20]))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
