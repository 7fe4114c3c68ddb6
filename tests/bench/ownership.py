"""What it costs to keep owners apart on a shared provider key, measured by hand: isolation on beside `isolation = no`.

    python tests/bench/ownership.py                    everything, some five minutes
    python tests/bench/ownership.py check get          only these: check, app, cache, record, get, chat, upload, list
    python tests/bench/ownership.py get --rounds 20

Needs gunicorn and nginx; Linux. All on loopback: this process is the client, nginx the provider of GETs and chats, a
second process the one of uploads and lists. Two gateways that differ in nothing but the setting run at once and take
turns in each round; what is shown is the median of the rounds and, in brackets, their lowest and highest. CPU is that
of the gateway's workers. The ledger has 10,000 rows of others.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import logging
import os
import random
import socket
import statistics
import sys
import tempfile
import time
import tracemalloc
from hashlib import sha256
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "heavy")]

import inline  # noqa: E402
import relay  # noqa: E402
from compare import CHAT, FILE, SMALL, Upstream, ask, certificate, nginx, shown  # noqa: E402
from compare import _swallow_body as swallow_body  # noqa: E402
from inline import LONG, exact_cpu_seconds, with_head  # noqa: E402
from relay import Client  # noqa: E402
from servers import free_port, running  # noqa: E402

from filesproxy import create_app  # noqa: E402
from filesproxy.calls import Allowance, Answer, Call, Made, Target  # noqa: E402
from filesproxy.config.load import Key  # noqa: E402
from filesproxy.gateway.auth import Caller  # noqa: E402
from filesproxy.gateway.isolation import Isolation  # noqa: E402
from filesproxy.gateway.ownership import MAX_REMEMBERED, Access, Guard, Owners  # noqa: E402
from filesproxy.transports.local.ledger import FolderLedger  # noqa: E402

OTHERS, AT_PROVIDER, OWN = 10_000, 10_000, 50  # rows of others in the ledger; files of the list, and the caller's
KEYS = {name: f"fp_{name}-0123456789abcdef" for name in ("a", "b", "c")}
STARTS = 3  # of the gateways that are compared: no two processes lie in memory alike
CALLS = 1000  # of a round
#: chats by how many messages they have
CHATS = {
    "1 message": {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]},
    "100 messages": {"model": "gpt-4o", "messages": LONG},
}
LISTED = [f"file-{number:024d}" for number in range(AT_PROVIDER)]  # at the provider, oldest first


# The provider of uploads and lists, a process of its own


class Provider(Upstream):
    """Each upload gets an id of its own; the list is always the same."""

    def __init__(self):
        self._numbers = itertools.count()
        files = [{**FILE, "id": name, "created_at": number} for number, name in enumerate(LISTED)]
        self._list = {"object": "list", "data": files[::-1], "has_more": False}

    def answer(self, sock, stream, head):
        if head.startswith(b"POST"):
            swallow_body(stream, head)
            number = next(self._numbers)
            relay._send_json(sock, {**FILE, "id": f"file-up-{os.getpid()}-{number:016d}"})
        else:
            relay._send_json(sock, self._list)


# The gateways


def fill(ledger):
    """Rows of others, the caller's file, and its part of the list."""
    for start in range(0, OTHERS, 1000):
        names = [f"file-other-{number:016d}" for number in range(start, start + 1000)]
        ledger.record("small", "b", "b", [_made(name) for name in names], time.time())
    ledger.record("small", "a", "a", [_made("file-1")], time.time())
    own = set(LISTED[:: AT_PROVIDER // OWN])
    for owner, names in {"a": own, "b": set(LISTED) - own}.items():
        ledger.record("files", owner, owner, [_made(name) for name in LISTED if name in names], time.time() - 10)


def _made(name, **more):
    return Made(name, "file", 1, filename="x.jsonl", purpose="batch", bytes=1024, sha256="0" * 64, **more)


@contextlib.contextmanager
def gateways(options, folder):
    """{"off": (client of small calls, client of files, process ids), "on": …}, started anew."""
    with contextlib.ExitStack() as stack:
        found = {}
        for name, words in {"off": "isolation = no", "on": f"ledger = {folder}/ledger"}.items():
            config = folder / f"{name}.ini"
            config.write_text(
                f"[filesproxy]\n{words}\nmax_caller_requests = 256\n"
                + "".join(f"[provider:{each}]\nkind = openai\nbase_url = http://127.0.0.1:{port}/v1\n"
                          "credential = sk-upstream\n"
                          for each, port in (("small", options.small), ("files", options.files)))
                + "".join(f"[key:{each}]\nsha256 = {sha256(key.encode()).hexdigest()}\nproviders = *\n"
                          for each, key in KEYS.items())
            )  # fmt: skip
            run = Path(tempfile.mkdtemp(dir=folder)) / "run"
            gateway = stack.enter_context(
                running("gunicorn", run, "--workers", str(options.workers), FILESPROXY_CONFIG=config)
            )
            found[name] = client(gateway.port, "small"), client(gateway.port, "files"), gateway.workers()
        yield found


def client(port, provider, owner="a"):
    """A client of this provider, with the key of this owner."""
    return Client(port, "/v1", {"x-portkey-api-key": KEYS[owner], "x-portkey-provider": f"@{provider}"})


def in_turns(options, folder, calls):
    """Print what each of these calls costs: label → (at once, how many in a round, function of the clients)."""
    results = {label: {"off": [], "on": []} for label in calls}
    rounds = -(-options.rounds // STARTS)
    for _ in range(STARTS):
        with gateways(options, folder) as them:
            for label, (concurrency, count, request) in calls.items():
                for turn in range(-1, rounds):
                    for name in random.sample(list(them), len(them)):
                        small, files, pids = them[name]
                        before, began = exact_cpu_seconds(pids), time.perf_counter()
                        seconds = ask(small.port, request(small, files), count, concurrency)
                        passed, cost = time.perf_counter() - began, exact_cpu_seconds(pids) - before
                        if turn >= 0:
                            median = statistics.median(seconds) * 1e3
                            results[label][name].append((median, count / passed, cost / count * 1e6))
    print(f"{'':<24}{'':<5}{'p50 ms':>22}{'calls/s':>26}{'CPU us':>22}")
    for label, both in results.items():
        for name, rounds in both.items():
            p50, rate, cost = zip(*rounds)
            print(f"{label:<24}{name:<5}{shown(p50, 3):>22}{shown(rate, 0):>26}{shown(cost, 0):>22}")
        pairs = list(zip(both["on"], both["off"]))
        changes = [
            f"{what} {statistics.median(on[at] / off[at] for on, off in pairs) * 100 - 100:+.1f} %"
            for at, what in enumerate(("p50", "calls/s", "CPU"))
        ]
        more = statistics.median(on[2] - off[2] for on, off in pairs)
        print(f"{label:<24}on   {', '.join(changes)} and {more:+.0f} us, round by round\n")


# The parts


def measured(run, times=3000, before=lambda: None):
    """Microseconds of CPU of this thread that a call takes, without what is done before each; of seven rounds."""
    rounds = []
    for _ in range(7):
        total = 0
        for _ in range(times):
            before()
            began = time.thread_time_ns()
            run()
            total += time.thread_time_ns() - began
        rounds.append(total / times / 1e3)
    began = time.thread_time_ns()
    for _ in range(times):
        time.thread_time_ns()
    own = (time.thread_time_ns() - began) / times / 1e3
    return [each - own for each in rounds]


def check(options, folder):
    """The check of a GET on an object that is in the ledger, in this process."""
    ledger = FolderLedger(str(folder / "ledger"))
    owners = Owners(ledger)
    guard, access = Guard(ledger, owners), Access("small", "a", "a", "a")
    call = Call("retrieve_file", "GET", "/files/file-1", file_id="file-1")

    def judge():
        guard.judge(call, access, None, None).call()

    forget = lambda: owners.forget("small", ["file-1"])  # noqa: E731
    print(f"{'check, cache cold':<32}{shown(measured(judge, before=forget), 1):>22} us of CPU (target 60)")
    print(f"{'check, cache warm':<32}{shown(measured(judge), 1):>22} us of CPU")
    isolation = Isolation(ledger, {"response_days": 90}, lambda caller: 0)
    settings = {"allow_fields": (), "file_sha256": True}
    target = Target("small", {}, "http://x", settings, owner="a", view="a", account="small")
    caller, answer = Caller(Key("a", (), ("*",), ("*",), False)), Answer(200, json=dict(FILE))

    def whole():
        isolation.answer(call, target, caller, lambda asked, seen: answer, None, None)

    print(f"{'all that isolation does, warm':<32}{shown(measured(whole), 1):>22} us of CPU")
    for label, chat in CHATS.items():
        call = Call("create_chat_completion", "POST", "/chat/completions", json=chat)
        print(f"{f'check, chat of {label}':<32}{shown(measured(judge, 300), 1):>22} us of CPU")
    print()


def app(options, folder):
    """The application in this process: the CPU of its thread, which other programs disturb less than a server."""
    results = {label: {"off": [], "on": []} for label in ("GET", *CHATS)}
    apps = {
        name: create_app({
            "filesproxy": setting,
            "provider:small": {"kind": "openai", "base_url": f"http://127.0.0.1:{options.small}/v1",
                               "credential": "sk-upstream"},
            **{f"key:{each}": {"sha256": sha256(key.encode()).hexdigest(), "providers": "*"}
               for each, key in KEYS.items()},
        })
        for name, setting in {"off": {"isolation": "no"}, "on": {"ledger": str(folder / "ledger")}}.items()
    }  # fmt: skip
    logging.disable()
    for turn in range(-2, max(options.rounds, 30)):
        for label, name in itertools.product(results, random.sample(list(apps), len(apps))):
            chat = json.dumps(CHATS[label]).encode() if label in CHATS else b""
            began = time.thread_time_ns()
            for _ in range(100):
                _called(apps[name], chat)
            if turn >= 0:
                results[label][name].append((time.thread_time_ns() - began) / 1e5)
    for label, both in results.items():
        more = [on - off for on, off in zip(both["on"], both["off"])]
        print(
            f"{f'in the application, {label}':<34}CPU us off {shown(both['off'], 0)}, on {shown(both['on'], 0)}, ",
            end="",
        )
        print(f"more {statistics.median(more):+.0f}")
    logging.disable(logging.NOTSET)
    print()


def _called(application, chat):
    """One GET, or one chat with this JSON, as a server would call."""
    environ = {
        "REQUEST_METHOD": "POST" if chat else "GET", "SCRIPT_NAME": "", "QUERY_STRING": "", "SERVER_NAME": "localhost",
        "PATH_INFO": "/v1/chat/completions" if chat else "/v1/files/file-1", "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": "localhost", "REMOTE_ADDR": "127.0.0.1",
        "HTTP_X_PORTKEY_API_KEY": KEYS["a"], "HTTP_X_PORTKEY_PROVIDER": "@small", "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(chat), "wsgi.errors": sys.stderr, "wsgi.multithread": True,
        "wsgi.multiprocess": True, "wsgi.run_once": False, "CONTENT_TYPE": "application/json" if chat else "",
        "CONTENT_LENGTH": str(len(chat)) if chat else "",
    }  # fmt: skip
    statuses = []
    response = application(environ, lambda status, headers, error=None: statuses.append(status))
    body = b"".join(response)
    getattr(response, "close", lambda: None)()
    assert statuses[0].startswith("200"), body


def cache(options, folder):
    """The memory of the cache at its bound."""
    ledger = FolderLedger(str(folder / "full"))
    sizes = {"ids of 29 characters": (29, 20), "ids of 128, names of 255": (128, 255)}
    for label, (length, name_length) in sizes.items():
        account = label
        names = [f"file-{number:0{length - 5}d}" for number in range(MAX_REMEMBERED)]
        for start in range(0, MAX_REMEMBERED, 512):
            made = [_made(name)._replace(filename="n" * name_length) for name in names[start : start + 512]]
            ledger.record(account, "a", "a", made, time.time())
        owners = Owners(ledger)
        guard, access = Guard(ledger, owners), Access(account, "a", "a", "a")
        tracemalloc.start()
        for name in [*names, *names[:10]]:
            guard.judge(Call("retrieve_file", "GET", f"/files/{name}", file_id=name), access, None, None).call()
        size, held = tracemalloc.get_traced_memory()[0], len(owners._known)
        tracemalloc.stop()
        assert held == MAX_REMEMBERED
        print(f"{f'{held} {label}':<40}{size / (1 << 20):.2f} MiB, {size / held:.0f} bytes each")
    print()


def record(options, folder):
    """What a row costs in this process, with the sync to disk."""
    ledger = FolderLedger(str(folder / "ledger"))
    numbers = itertools.count()

    def write():
        ledger.record("bench", "a", "a", [_made(f"file-row-{next(numbers)}")], time.time())

    def begin():
        ledger.begin_upload("bench", "a", "a", 1024, Allowance(), time.time())

    for label, run in (("record", write), ("begin_upload", begin)):
        seconds = []
        for _ in range(500):
            began = time.perf_counter()
            run()
            seconds.append((time.perf_counter() - began) * 1e3)
        seconds.sort()
        p50, p99 = statistics.median(seconds), seconds[int(len(seconds) * 0.99)]
        print(f"{label:<24}p50 {p50:.3f} ms, p99 {p99:.3f} ms, CPU us {shown(measured(run, 200), 0)}")
    print()


def get(options, folder):
    """GET /v1/files/:id."""
    fetch = lambda small, files: small.get()  # noqa: E731
    in_turns(options, folder, {"GET c=1": (1, CALLS, fetch), "GET c=16": (16, CALLS * 2, fetch)})


def chat(options, folder):
    """Chats that name no file."""
    calls = {
        f"chat, {label}, c={concurrency}": (concurrency, CALLS // 2, lambda small, files, c=body: with_head(small, c))
        for label, body in CHATS.items()
        for concurrency in (1, 16)
    }
    in_turns(options, folder, calls)


def upload(options, folder):
    """Files of 1 KB."""
    send = lambda small, files: client(files.port, "files", "c").small_upload()  # noqa: E731
    in_turns(options, folder, {"upload c=1": (1, 300, send), "upload c=16": (16, 800, send)})


def listing(options, folder):
    """The caller's 50 of 10,000 files, and all the others' by who has them: the first list of a worker, and those
    within the next seconds.
    """
    seconds = {owner: ([], []) for owner in ("a", "b")}
    offs = []
    for _ in range(STARTS):
        with gateways(options, folder) as them:
            ports = {name: files.port for name, (_, files, _) in them.items()}
            for _ in range(-(-options.rounds // STARTS)):
                for owner, (firsts, others) in seconds.items():
                    fetch = client(ports["on"], "files", owner).head("GET", "/files?limit=20")
                    first, *more = ask(ports["on"], fetch, 21, 1)  # over one connection, so of one worker
                    firsts.append(first * 1e3)
                    others.append(statistics.median(more) * 1e3)
                    time.sleep(5.2)  # for the walk to be forgotten
                fetch = client(ports["off"], "files").head("GET", "/files?limit=20")
                offs.append(statistics.median(ask(ports["off"], fetch, 3, 1)) * 1e3)
    for owner, (firsts, others) in seconds.items():
        label = f"20 of {OWN if owner == 'a' else AT_PROVIDER - OWN:,} of 10,000"
        print(f"{label:<24}first {shown(firsts, 1)} ms, within 5 s {shown(others, 1)} ms")
    print(f"{'off':<24}{shown(offs, 1)} ms, for all 10,000: this provider knows no limit\n")


PARTS = {
    "check": check,
    "app": app,
    "cache": cache,
    "record": record,
    "get": get,
    "chat": chat,
    "upload": upload,
    "list": listing,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all of them if none is named")
    parser.add_argument("--rounds", type=int, default=9, help="of each measurement (default 9)")
    parser.add_argument("--workers", type=int, default=2, help="of gunicorn (default 2)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        print(listener.getsockname()[1], flush=True)
        return Provider().serve(listener)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory(prefix="filesproxy-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        fill(FolderLedger(str(folder / "ledger")))
        options.small = free_port()
        words = {"port": options.small, "tls": free_port(), "folder": certificate(folder).parent,
                 "file": json.dumps(FILE), "chat": json.dumps(CHAT)}  # fmt: skip
        stack.enter_context(nginx(folder / "upstream", SMALL % words, options.small))
        options.files = stack.enter_context(serving())
        for part in options.parts or PARTS:
            PARTS[part](options, folder)
    return 0


@contextlib.contextmanager
def serving():
    """The port of the provider of uploads and lists."""
    inline.__file__ = __file__  # which `process` starts again
    with inline.process("--serve") as port:
        yield port


if __name__ == "__main__":
    sys.exit(main())
