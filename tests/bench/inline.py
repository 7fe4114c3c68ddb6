"""What it costs to put kept files into requests, measured by hand: large files, memory, text, the look-up of ids, and
a chat that names no kept file, beside other checkouts.

    python tests/bench/inline.py                                       everything, some five minutes
    python tests/bench/inline.py image eight                           only these: image, eight, text, chat, lookup
    python tests/bench/inline.py chat --trees ../before                another checkout's gateway takes turns with this

Needs gunicorn and nginx; Linux. All on loopback: this process is the client, a second one the provider, which lets
requests vanish in the kernel, or nginx where chats are small. `nginx` relays the very body that the gateway made, which
this process sends by sendfile; `direct` sends that to the provider. The contenders take turns in each round; what is
shown is the median of the rounds and, in brackets, their lowest and highest. What a worker grows by is measured in
workers that have put in small files only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from base64 import b64decode
from http.client import HTTPConnection
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "heavy")]

import relay  # noqa: E402
from compare import CHAT, FILE, PROXY, SMALL, Upstream, ask, certificate, nginx, shown, together  # noqa: E402
from compare import _swallow_body as swallow_body  # noqa: E402
from compare import _wait as wait_for  # noqa: E402
from relay import BLOCK, HEAD, PATTERN_BLOCKS, ROOT, TAIL, Client, Watch, cpu_seconds, memory_mib  # noqa: E402
from servers import children, free_port, running  # noqa: E402
from stores import upload as keep  # noqa: E402

from filesproxy.gateway.inlining import MAX_TEXT_BYTES  # noqa: E402
from filesproxy.transports.local.transport import Store  # noqa: E402
from filesproxy.wire.strict_json import dumps  # noqa: E402

PNG = b"\x89PNG\r\n\x1a\n"
KEPT_FILES, ASKED_IDS = 10_000, 20  # of the look-up
CALLS = 250  # of a round, where chats are small: a turn is shorter than what disturbs it
STARTS = 5  # of the gateways that are compared by small chats: no two processes lie in memory alike
#: texts of which each is put in: lines of ASCII as logs have, and letters of two and three bytes with quotes
TEXTS = {
    "text, lines": '2026-01-01T00:00:00Z INFO worker 17: answered in 12 ms, 1024 bytes for "GET /v1/files"\n',
    "text, UTF-8": 'Größere Dateien brauchen länger, und „manche“ haben 日本語 in "Anführungszeichen".\r\n',
}


# The provider, a process of its own: a request vanishes, or is written to a file if its path begins with /recorded/


class Provider(Upstream):
    def __init__(self, record):
        self.record = record

    def answer(self, sock, stream, head):
        if head.startswith(b"POST /recorded/"):
            self._write(sock, stream, head)
        else:
            swallow_body(stream, head)
        relay._send_json(sock, CHAT)

    def _write(self, sock, stream, head):
        left = int(re.search(rb"(?i)\r\ncontent-length: (\d+)", head)[1])
        with open(self.record, "wb") as file:
            held, stream._held = stream._held[:left], stream._held[left:]
            while held:
                file.write(held)
                left -= len(held)
                held = sock.recv(min(left, BLOCK)) if left else b""


# What is sent


def chat_about(*file_ids, text="What is this?"):
    parts = [{"type": "file", "file": {"file_id": file_id}} for file_id in file_ids]
    return {"model": "x", "messages": [{"role": "user", "content": [{"type": "text", "text": text}, *parts]}]}


def with_head(client, body):
    body = body if isinstance(body, bytes) else dumps(body)
    return client.head("POST", "/chat/completions", {"Content-Type": "application/json",
                                                     "Content-Length": len(body)}) + body  # fmt: skip


def call(client, body):
    """Seconds of one chat."""
    began = time.perf_counter()
    with client.connect() as sock:
        sock.sendall(with_head(client, body))
        relay._expect_200(sock)
    return time.perf_counter() - began


def call_with_file(client, path):
    """Seconds of one chat whose body is this file."""
    described = {"Content-Type": "application/json", "Content-Length": path.stat().st_size}
    began = time.perf_counter()
    with client.connect() as sock, open(path, "rb") as body:
        sock.sendall(client.head("POST", "/chat/completions", described))
        sock.sendfile(body)
        relay._expect_200(sock)
    return time.perf_counter() - began


def upload(port, blocks, size):
    """Keep a file; its id."""
    described = {"Content-Type": f"multipart/form-data; boundary={relay.BOUNDARY}",
                 "Content-Length": str(len(HEAD) + size + len(TAIL))}  # fmt: skip
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/files", iter([HEAD, *blocks, TAIL]), described)
        response = connection.getresponse()
        answer = response.read()
    assert response.status == 200, answer
    return json.loads(answer)["id"]


def image(size):
    """The blocks of a file that begins as a PNG: random bytes, over and over."""
    pattern = random.Random(7).randbytes(min(PATTERN_BLOCKS * BLOCK, size))
    blocks = [pattern] * (size // len(pattern)) + [pattern[: size % len(pattern)]]
    return [PNG + blocks[0][len(PNG) :], *blocks[1:]]


def text_of(line):
    """A text that is just not too long for one part."""
    return line * (MAX_TEXT_BYTES // (len(dumps(line)) - 2))


# The gateway


class Scene:
    """The provider, nginx in front of it, and what a gateway's configuration is."""

    def __init__(self, options, folder, stack):
        self.options, self.folder, self.record = options, folder, folder / "record"
        self.upstream = stack.enter_context(process("--serve", str(self.record)))
        self.proxy, self._started = free_port(), 0
        ports = {"small": self.upstream, "files": self.upstream, "port": self.proxy}
        self.nginx = stack.enter_context(nginx(folder / "proxy", PROXY % ports, self.proxy))
        self.config = folder / "filesproxy.ini"
        self.config.write_text(
            f"[filesproxy]\ndefault_files = local\nmax_inline_bytes = 8000000000\n"
            f"max_upload_bytes = {max(options.mib * BLOCK, MAX_TEXT_BYTES) + BLOCK}\n"
            f"[provider:local]\nfolder = {folder}/store\nfile_sha256 = no\n"
            + provider("sink", f"http://127.0.0.1:{self.upstream}/v1")
            + provider("recorded", f"http://127.0.0.1:{self.upstream}/recorded/v1")
        )
        self.body = folder / "body"  # of a request with the large image in it
        self.gateway = stack.enter_context(self.fresh())
        self.image = upload(self.gateway.port, image(options.mib * BLOCK), options.mib * BLOCK)
        self._record_image()

    @contextlib.contextmanager
    def fresh(self):
        """A gateway that nothing large has gone through, but all that it does was done once by each worker."""
        self._started += 1
        with running("gunicorn", self.folder / f"run-{self._started}", "--workers", str(self.options.workers),
                     FILESPROXY_CONFIG=self.config) as gateway:  # fmt: skip
            icon = upload(gateway.port, image(1024), 1024)
            note = upload(gateway.port, [b"text"], 4)
            request = with_head(client_of(gateway), chat_about(icon, note))
            ask(gateway.port, request, 200, 16)
            yield gateway

    def recorded(self, chat):
        """The JSON that the gateway makes of a chat."""
        call(client_of(self.gateway, "recorded"), chat)
        return self.record.read_bytes()

    def _record_image(self):
        """What nginx will relay. It has the file's bytes, or nothing of this would be worth measuring."""
        body = self.recorded(chat_about(self.image))
        start, end = body.index(b";base64,") + 8, body.index(b'"}}', -8)
        content = b64decode(memoryview(body)[start:end])
        assert content == b"".join(image(self.options.mib * BLOCK)), "the file is not what was kept"
        self.record.rename(self.body)


def provider(name, base_url):
    return (f"[provider:{name}]\nkind = openai\nbase_url = {base_url}\ncredential = none\nfiles = local\n"
            "file_parts = text image\n")  # fmt: skip


def client_of(gateway, name="sink"):
    return Client(gateway.port, "/v1", {"x-portkey-provider": f"@{name}"})


@contextlib.contextmanager
def process(*words):
    """The port of this program as another process."""
    started = subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE)
    try:
        yield int(started.stdout.readline())
    finally:
        started.terminate()
        started.wait()
        started.stdout.close()


# The parts


def one_image(scene):
    """One large image: throughput and CPU beside nginx, and what a worker grows by."""
    options, mib = scene.options, scene.body.stat().st_size / BLOCK
    gateway, chat = scene.gateway, chat_about(scene.image)
    ways = {
        "direct": ([], lambda: call_with_file(Client(scene.upstream, "/v1"), scene.body)),
        "nginx": (scene.nginx, lambda: call_with_file(Client(scene.proxy, "/files/v1"), scene.body)),
        "gateway": (gateway.workers(), lambda: call(client_of(gateway), chat)),
    }
    results = {}
    for turn in range(-1, options.rounds):
        for name, (pids, run) in ways.items():
            before = cpu_seconds(pids)
            seconds = run()
            if turn >= 0:
                cost = (cpu_seconds(pids) - before) / (mib / 1024)
                results.setdefault(name, []).append((options.mib / seconds, mib / seconds, cost))
    print(
        f"{f'image of {options.mib} MiB':<20}{'':<9}{'MiB/s of file':>26}{'MiB/s of body':>26}{'CPU s/GiB of body':>22}"
    )
    for name, rounds in results.items():
        of_file, of_body, cost = zip(*rounds)
        print(f"{'':<20}{name:<9}{shown(of_file, 0):>26}{shown(of_body, 0):>26}{shown(cost):>22}")
    parts = [own[1] / other[1] for own, other in zip(results["gateway"], results["nginx"])]
    print(f"{'':<20}gateway has {shown(parts)} of nginx's MiB/s, round by round")
    grown(scene, "one image", lambda client: call(client, chat))


def grown(scene, label, run):
    """Print what fresh workers grow by, and the worker that grows most."""
    totals, most = [], []
    for _ in range(min(scene.options.rounds, 3)):
        with scene.fresh() as gateway:
            pids = gateway.workers()
            before = sum(map(memory_mib, pids))
            with Watch(pids) as watch:
                run(client_of(gateway))
            totals.append(sum(watch.peak.values()) - before)
            most.append(watch.growth)
            assert not os.listdir(gateway.folder / "tmp"), "a temporary file"
    print(f"{label:<20}RSS of all workers MiB +{shown(totals, 1)}, the one that grew most +{shown(most, 1)}\n")


def eight_images(scene):
    """Eight at once."""
    options, mib = scene.options, scene.body.stat().st_size / BLOCK * 8
    chat, rates = chat_about(scene.image), []

    def run(client):
        began = time.perf_counter()
        together(8, lambda: call(client, chat))
        passed = time.perf_counter() - began
        rates.append((8 * options.mib / passed, mib / passed))

    grown(scene, "8 images at once", run)
    of_file, of_body = zip(*rates)
    print(f"{'8 images at once':<20}MiB/s of files {shown(of_file, 0)}, of bodies {shown(of_body, 0)}, all together\n")


def texts(scene):
    """Texts, which are read twice: measured, and then sent."""
    options, gateway = scene.options, scene.gateway
    pids, chats, results = gateway.workers(), {}, {}
    for name, line in TEXTS.items():
        text = text_of(line)
        content = text.encode()
        ids = [upload(gateway.port, [content], len(content)) for _ in range(options.texts)]
        chats[name] = chat_about(*ids), len(content) * options.texts / BLOCK
        parts = json.loads(scene.recorded(chat_about(*ids[:2])))["messages"][0]["content"]
        assert [part["text"].count(text) for part in parts] == [0, 1, 1], "the text is not what was kept"
    for turn in range(-1, options.rounds):
        for name, (chat, mib) in chats.items():
            before = cpu_seconds(pids)
            seconds = call(client_of(gateway), chat)
            if turn >= 0:
                cost = (cpu_seconds(pids) - before) / (mib / 1024)
                results.setdefault(name, []).append((mib / seconds, cost))
    print(f"{f'{options.texts} texts of 10 MiB':<29}{'MiB/s of files':>26}{'CPU s/GiB of files':>22}")
    for name, rounds in results.items():
        rate, cost = zip(*rounds)
        print(f"{name:<29}{shown(rate, 0):>26}{shown(cost):>22}")
    grown(scene, f"{options.texts} texts", lambda client: [call(client, chat) for chat, _ in chats.values()])


# A chat without kept files. `kept` is this tree where they can be named: it looks for ids in each chat.

LONG = [{"role": role, "content": [{"type": "text", "text": "word " * 100}]} for role in ("user", "assistant") * 50]
SMALL_CHATS = {
    "chat": {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]},
    "chat of 100 messages": {"model": "gpt-4o", "messages": LONG},
}


def exact_cpu_seconds(pids):
    """As `cpu_seconds`, in nanoseconds and not in ticks: the clock that clock_getcpuclockid(3) names."""
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)


@contextlib.contextmanager
def served(tree, config, workers):
    """(client, process ids of the workers) of a checkout under gunicorn, as it is there."""
    port = free_port()
    words = ["-m", "gunicorn", "-c", "gunicorn.conf.py", "-b", f"127.0.0.1:{port}", "-w", str(workers)]
    environment = {**os.environ, "PYTHONPATH": str(tree), "FILESPROXY_CONFIG": str(config)}
    program = subprocess.Popen([sys.executable, *words], cwd=tree, env=environment, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        wait_for(port)
        time.sleep(0.5)  # for all workers to be there
        yield Client(port, "/v1", {"x-portkey-provider": "@sink"}), children(program.pid)
    finally:
        program.terminate()
        program.wait()


def chats(options, folder):
    """Chats that name no kept file, of this checkout and of others, in turns."""
    small, tls = free_port(), free_port()
    words = {"port": small, "tls": tls, "folder": certificate(folder).parent, "file": json.dumps(FILE),
             "chat": json.dumps(CHAT)}  # fmt: skip
    plain, kept = folder / "plain.ini", folder / "kept.ini"
    section = provider("sink", f"http://127.0.0.1:{small}/v1")
    plain.write_text("[filesproxy]\n" + section.partition("files =")[0])
    kept.write_text(f"[filesproxy]\ndefault_files = local\n[provider:local]\nfolder = {folder}/chats\n{section}")
    them = {**{str(tree): (tree, plain) for tree in options.trees}, "this": (ROOT, plain), "this, kept": (ROOT, kept)}
    results = {label: {name: [] for name in them} for label in SMALL_CHATS}
    with nginx(folder / "upstream", SMALL % words, small):
        for _ in range(STARTS):
            with contextlib.ExitStack() as stack:
                started = {name: stack.enter_context(served(*of, options.workers)) for name, of in them.items()}
                for label, chat in SMALL_CHATS.items():
                    _take_turns(options.chat_rounds // STARTS, chat, started, results[label])
    print(f"{'':<22}{'':<20}{'p50 ms':>22}{'CPU us':>22}")
    for label, of_label in results.items():
        _say_chats(label, of_label)


def _take_turns(rounds, chat, started, results):
    for turn in range(-1, rounds):
        for name in random.sample(list(started), len(started)):
            client, pids = started[name]
            before = exact_cpu_seconds(pids)
            seconds = ask(client.port, with_head(client, chat), CALLS, 1)
            if turn >= 0:
                cost = (exact_cpu_seconds(pids) - before) / len(seconds)
                results[name].append((statistics.median(seconds) * 1e3, cost * 1e6))


def _say_chats(label, results):
    for name, rounds in results.items():
        p50, cost = zip(*rounds)
        print(f"{label:<22}{name[-19:]:<20}{shown(p50, 3):>22}{shown(cost, 0):>22}")
    first, *others = results
    for name in others:
        ratios = [[own[at] / other[at] for own, other in zip(results[name], results[first])] for at in (0, 1)]
        p50, cost = (f"{statistics.median(each) * 100 - 100:+.1f} %" for each in ratios)
        print(f"{label:<22}{name[-19:]:<20}p50 {p50} and CPU {cost} against {first[-19:]}, round by round")
    print()


def lookup(options, folder):
    """Twenty ids at once, in the store itself."""
    store, owner = Store(str(folder / "lookup")), "team"
    names = [keep(store, b"x", owner, name=f"{number}.txt")["id"] for number in range(KEPT_FILES)]
    kept, seconds = store.kept_by(owner), []
    for _ in range(1000):
        asked = random.sample(names, ASKED_IDS)
        began = time.perf_counter()
        found = kept.find(asked)
        seconds.append((time.perf_counter() - began) * 1e3)
        assert len(found) == ASKED_IDS
    seconds.sort()
    p50, p99 = statistics.median(seconds), seconds[int(len(seconds) * 0.99)]
    print(f"{f'{ASKED_IDS} ids of {KEPT_FILES:,}':<20}p50 {p50:.3f} ms, p99 {p99:.3f} ms\n")


WITH_FILES = {"image": one_image, "eight": eight_images, "text": texts}
OTHERS = {"chat": chats, "lookup": lookup}


def checkout(text):
    return Path(text).resolve()


def main():
    parts = [*WITH_FILES, *OTHERS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}; all of them if none is named")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chat-rounds", type=int, default=60, help=f"of {CALLS} chats each (default 60)")
    parser.add_argument("--mib", type=int, default=500, help="size of the image (default 500)")
    parser.add_argument("--texts", type=int, default=32, help="texts in a request (default 32)")
    parser.add_argument("--workers", type=int, default=2, help="of gunicorn (default 2)")
    parser.add_argument("--trees", nargs="+", type=checkout, default=[], metavar="DIR", help="others to compare with")
    parser.add_argument("--serve", type=Path, metavar="RECORD", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        print(listener.getsockname()[1], flush=True)
        return Provider(options.serve).serve(listener)
    if unknown := set(options.parts) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    asked = options.parts or parts
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory(prefix="filesproxy-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        scene = Scene(options, folder, stack) if set(asked) & set(WITH_FILES) else None
        for part in asked:
            if part in OTHERS:
                OTHERS[part](options, folder)
            else:
                WITH_FILES[part](scene)
    return 0


if __name__ == "__main__":
    sys.exit(main())
