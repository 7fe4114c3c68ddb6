"""What a streamed chat costs, measured by hand: the first byte, events a second, memory. Needs gunicorn; Linux.

    python tests/bench/events.py [--events 100000] [--first 200]

On loopback: a thread of this process is the upstream, gunicorn runs with gunicorn.conf.py as shipped, one worker. For
OpenAI events are passed through, for Anthropic they are translated. `first` is from the upstream's send of an event to
the client's receipt of it, each in a stream of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "heavy")]

from servers import running  # noqa: E402

from filesproxy.providers.anthropic.stream import chunks  # noqa: E402

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
GROUP = 20  # events in one write of the upstream, as when a model is faster than the wire
START, DELTA, END = "start", "delta", "end"


def anthropic(name, **fields):
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n".encode()


def openai(delta):
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return (
        f"data: {json.dumps({**chunk, 'choices': [{'index': 0, 'delta': delta, 'finish_reason': None}]})}\n\n".encode()
    )


_BEGUN = {"id": "m", "model": "c", "usage": {"input_tokens": 1, "output_tokens": 1}}
PARTS = {
    "claude": {
        START: anthropic("message_start", message=_BEGUN)
        + anthropic("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        DELTA: anthropic("content_block_delta", index=0, delta={"type": "text_delta", "text": " hello world"}),
        END: anthropic("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 9})
        + anthropic("message_stop"),
    },
    "openai": {
        START: openai({"role": "assistant", "content": ""}),
        DELTA: openai({"content": " hello world"}),
        END: b"data: [DONE]\n\n",
    },
}


class Upstream(threading.Thread):
    """Streams `events` deltas for every request, and notes when it sent the first byte."""

    def __init__(self):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/v1"
        self.events, self.kind, self.sent_at = 0, "", 0.0

    def run(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:  # closed
                return
            with sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                received = b""
                while not received.endswith(b"}"):  # the JSON of a request
                    received += sock.recv(65536)
                self.stream(sock, PARTS[self.kind])

    def stream(self, sock, parts):
        self.sent_at = time.perf_counter()
        sock.sendall(HEAD + chunked(parts[START]))
        block = chunked(parts[DELTA]) * GROUP
        for _ in range(self.events // GROUP):
            sock.sendall(block)
        sock.sendall(chunked(parts[END]) + b"0\r\n\r\n")


def chunked(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


def ask(port, provider):
    """(seconds from the upstream's first byte to ours, seconds to the end, deltas) of one streamed chat."""
    body = json.dumps({"model": f"@{provider}/m", "stream": True, "messages": [{"role": "user", "content": "Hi"}]})
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
        )
        tail, count, first = b"", 0, 0.0
        while block := sock.recv(1 << 18):
            if not first and b"data: " in tail + block:
                first = time.perf_counter()
            count += (tail[-10:] + block).count(b" hello world") - tail[-10:].count(b" hello world")
            tail = (tail + block)[-64:]
        assert b"[DONE]" in tail, tail
        return first, time.perf_counter(), count


def resident(gateway):
    status = Path(f"/proc/{gateway.workers()[0]}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--events", type=int, default=100_000)
    options.add_argument("--first", type=int, default=200)
    given = options.parse_args()
    translate(given.events)
    upstream = Upstream()
    upstream.start()
    with tempfile.TemporaryDirectory() as folder, gateway_before(upstream, Path(folder)) as gateway:
        for provider in PARTS:
            measure(gateway, upstream, provider, given)


@contextlib.contextmanager
def gateway_before(upstream, folder):
    """A gunicorn of one worker with the upstream as two saved providers."""
    (folder / "bench.ini").write_text(
        f"[filesproxy]\nopen_access = yes\n[provider:openai]\nbase_url = {upstream.url}\ncredential = sk-bench\n"
        f"[provider:claude]\nkind = anthropic\nbase_url = {upstream.url}\ncredential = sk-bench\n"
    )
    with running("gunicorn", folder / "run", "--workers", "1", FILESPROXY_CONFIG=folder / "bench.ini") as gateway:
        yield gateway


def translate(count):
    """The translation alone, without sockets."""
    parts = PARTS["claude"]
    blocks = [parts[START], *[parts[DELTA] * GROUP] * (count // GROUP), parts[END]]
    began = time.perf_counter()
    for _ in chunks(iter(blocks), True, False, 0.0):
        pass
    print(f"translation alone: {count / (time.perf_counter() - began):,.0f} events/s")


def measure(gateway, upstream, provider, given):
    upstream.kind, upstream.events = provider, 0
    waits = []
    for _ in range(given.first):
        first, _, _ = ask(gateway.port, provider)
        waits.append((first - upstream.sent_at) * 1000)
    p50, p99 = statistics.median(waits), sorted(waits)[-len(waits) // 100 - 1]
    print(f"{provider}: first byte p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    upstream.events, before = given.events, resident(gateway)
    _, ended, count = ask(gateway.port, provider)
    assert count == given.events, count
    rate, grown = count / (ended - upstream.sent_at), resident(gateway) - before
    print(f"{provider}: {rate:,.0f} events/s end to end, peak memory +{grown:.1f} MiB over {count:,} events")


if __name__ == "__main__":
    main()
