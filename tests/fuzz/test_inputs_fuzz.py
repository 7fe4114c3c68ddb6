"""Fuzzing with a seed, of what test_fuzz and test_chat_fuzz leave: a provider's HTTP, requests, INI, JSON, time.

The sentence to hold: any bytes in any chunking either parse or raise our error, in linear time (100 ms for 64 KiB, of
which these tests grant three times as much), with bounded memory. What is read is compared with a second reader,
written here from the RFCs, which is slower and takes less: where the gateway says "whole", it must agree.

FUZZ_CASES makes the campaigns longer. What once broke something is a file below corpus/, and is replayed.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import re
import socket
import string
import time
import tracemalloc
from pathlib import Path

import pytest
from configurations import config, hashed
from mutants import mutated
from sockets import chunked

from filesproxy.calls import Call, Target, Upload
from filesproxy.config.load import Config
from filesproxy.errors import ConfigError, FilesproxyError, MultipartError, UpstreamError
from filesproxy.providers import PROVIDERS
from filesproxy.redaction import Secret
from filesproxy.serving.embedded import Server
from filesproxy.transports.https.transport import HttpTransport
from filesproxy.wire.http1 import MAX_INFORMATIONAL
from filesproxy.wire.multipart import boundary_of, parse_header
from filesproxy.wire.sse import data as data_of
from filesproxy.wire.sse import frames
from filesproxy.wire.strict_json import MAX_DEPTH, MAX_DIGITS, Unreadable, dumps, loads

CASES = int(os.environ.get("FUZZ_CASES", "4000"))  # of the fuzzer of answers; the others run a share of them
SEED = 20261126
CORPUS = Path(__file__).parent.parent / "corpus"
SIZE = 1 << 16
SECONDS = 0.3  # of CPU for so many bytes: three times the bar, since a machine has more to do


def corpus(kind):
    """The files that once broke something, by name."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / kind).glob("*")) if path.is_file()}


def seconds_of_cpu(action, *arguments):
    """How long this takes at best, of three."""
    taken = []
    for _ in range(3):
        started = time.process_time()
        action(*arguments)
        taken.append(time.process_time() - started)
        if taken[-1] < SECONDS / 10:
            break
    return min(taken)


# A provider's answer: any bytes, through a real Sender on a real socket


class Wire(socket.socket):
    """The gateway's end of a socket pair. When it has sent so many blocks, or all, the other end answers and closes.

    What comes is handed out in pieces of these sizes. An end that has left bytes unread closes with an error.
    """

    def __init__(self, answer, sizes=(), sends=1, is_reset=False):
        ours, self._peer = socket.socketpair()
        super().__init__(ours.family, ours.type, ours.proto, fileno=ours.detach())
        self._answer, self._sizes, self._sends, self._is_reset = answer, list(sizes), sends, is_reset
        self.sent = bytearray()
        self._peer.setblocking(False)

    def sendmsg(self, blocks, *rest):
        count = super().sendmsg(blocks, *rest)
        self.sent += b"".join(blocks)[:count]
        self._sends -= 1
        if self._sends == 0 or (self._sends > 0 and self.sent.endswith(b"\r\n0\r\n\r\n")):
            self._sends = 0
            self._respond()
        return count

    def _respond(self):
        while not self._is_reset:
            try:
                self._peer.recv(SIZE)
            except BlockingIOError:
                break
        self._peer.setblocking(True)
        self._peer.sendall(self._answer)
        self._peer.close()

    def recv(self, size, *rest):
        return super().recv(self._sizes.pop() if self._sizes else size, *rest)

    def close(self):
        self._peer.close()
        super().close()


TARGET = Target("a", PROVIDERS["openai"], "http://127.0.0.1:1/v1",
                {**config().providers["openai"], "answer_timeout": 1.0, "send_timeout": 1.0},
                secrets={"credential": Secret("sk-a")})  # fmt: skip
GET = Call(
    "retrieve_file_content", "GET", "/files/f/content", url="http://127.0.0.1:1/v1/files/f/content", expects="bytes"
)


def received(wire, call=GET):
    """(status, bytes) of an answer that is whole, or the message of one of our errors. Anything else is raised."""
    got = bytearray()
    sender = HttpTransport(lambda url, settings, watch: wire)
    try:
        answer = sender(call, TARGET)
        try:
            for block in answer.body:
                assert block
                got += block
        finally:
            answer.body.close()
    except UpstreamError as error:
        assert error.message and 400 <= error.status < 600 and "sk-a" not in error.message
        return error.message
    finally:
        sender.close()
        assert wire.fileno() == -1  # closed or kept, however it ended
        wire.close()
    return answer.status, bytes(got)


_CHUNK_LINE = re.compile(rb"[ \t]*([0-9A-Fa-f]+)[ \t]*(;[^\r\n]*)?")


def right_answer(raw, is_reset=False):
    """The same by a second reader (RFC 9112 §2.2, §4, §5, §6.3, §7.1): (status, bytes), None if it is not whole."""
    for _ in range(MAX_INFORMATIONAL):
        head, raw = _head(raw)
        status = _status(head[0]) if head else 0
        if status < 100 or b"\r" in b"".join(head[1:]):
            return None
        if not 100 <= status < 200 or status == 101:
            break
    if status < 200:
        return None
    fields = _fields(head[1:])
    if fields is None:
        return None
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    if len(lengths) + len(codings) > 1 or any(coding.lower() != b"chunked" for coding in codings):
        return None
    if lengths and not re.fullmatch(rb"[0-9]{1,19}", lengths[0]):
        return None
    if status in (204, 304):
        return status, b""
    if codings:
        body = _unchunked(raw)
    elif lengths:
        body = raw[: int(lengths[0])] if len(raw) >= int(lengths[0]) else None
    else:
        body = None if is_reset else raw
    return None if body is None else (status, body)


def _status(line):
    """The three digits, 0 if it is no status line; blanks and the minor version may be odd, which changes no byte."""
    version, status, *_ = (*line.decode("latin-1").split(None, 2), "", "")
    known = "HTTP/" if status.startswith("1") else "HTTP/1."  # nobody minds what an informational answer is
    return int(status) if version.startswith(known) and re.fullmatch("[0-9]{3}", status, re.ASCII) else 0


def _head(raw):
    """Its lines, and what follows the empty one; no lines where there is none."""
    lines = []
    while True:
        line, end, raw = raw.partition(b"\n")
        line = line[:-1] if line.endswith(b"\r") else line
        if not end:
            return [], b""
        if not line:
            return lines, raw
        lines.append(line)


def _fields(lines):
    """(name, value) of each, a folded line joined to the one before it; None where a line is no header."""
    fields = []
    for line in lines:
        if line[:1] in (b" ", b"\t") and fields:
            fields[-1][1] += b" " + line  # which no length and no coding survives, as it must be
        elif re.match(rb"[!-9;-~]+:", line):
            name, _, value = line.partition(b":")
            fields.append([name.lower(), value.strip(b" \t")])
        else:
            return None
    return fields


def _unchunked(raw):
    body = b""
    while True:
        line, end, raw = raw.partition(b"\n")
        found = _CHUNK_LINE.fullmatch(line[:-1] if line.endswith(b"\r") else line)
        size = int(found[1], 16) if found and end else -1
        if size == 0:
            return body  # trailers say nothing of the bytes (RFC 9112 §8: the last chunk has come)
        if size < 0 or raw[size : size + 2] != b"\r\n":
            return None
        body, raw = body + raw[:size], raw[size + 2 :]


HEADERS = (b"content-type: text/csv", b"x-request-id: req-1", b"server: a", b"connection: close", b"set-cookie: a=b",
           b"openai-version: 2020-10-01", b"x: a\r\n b", b"retry-after: 1", b'etag: "a"',
           b"date: Mon, 1 Jan 2024")  # fmt: skip
STATUSES = (
    b"200 OK",
    b"200 OK",
    b"200 OK",
    b"206 Partial Content",
    b"204 No Content",
    b"404 Not Found",
    b"529 ",
    b"302 X",
)
INSERTS = (b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b"0", b"00", b"-", b"+", b"_", b"0x",
           b"f",
           b"0\r\n", b"0\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 101 X\r\n\r\n",
           b"HTTP/1.0 ", b"content-length: 5\r\n", b"content-length: 0\r\n", b"Content-Length",
           b"transfer-encoding: chunked\r\n",
           b"chunked", b"gzip", b"identity", b",", b"\xff", b"5\r\nhello\r\n", b"99999999999999999999", b"x: y\r\n",
           b"1 ")  # fmt: skip


def body_of(rng):
    size = rng.choice((0, 1, 5, 30, 300, rng.randint(0, 3000)))
    return rng.choice(
        (bytes(rng.randrange(256) for _ in range(size)), b'{"id": "file-1"}', b"0\r\n\r\n" * 9, b"5\r\nhello\r\n")
    )


def chunks_of(body, rng):
    """A chunked body as servers write it: sizes padded or not, extensions, trailers."""
    size = rng.choice((b"%x", b"%X", b"%04x", b"%x ", b"%08x"))
    blocks, at = b"", 0
    while at < len(body):
        block = body[at : at + rng.choice((1, 5, 100, 4000))]
        blocks += size % len(block) + rng.choice((b"", b"", b";a=b")) + b"\r\n" + block + b"\r\n"
        at += len(block)
    return blocks + rng.choice((b"0", b"0", b"000")) + b"\r\n" + rng.choice((b"", b"", b"x-md5: a\r\n")) + b"\r\n"


def valid_answer(rng):
    """An answer as providers give it, and whether it is framed otherwise than by the end of the stream."""
    status, body = rng.choice(STATUSES), body_of(rng)
    lines = [b"HTTP/1.1 " + status, *rng.sample(HEADERS, rng.randint(0, 5))]
    framing = rng.choice(("length", "length", "chunked", "chunked", "close"))
    if status.startswith(b"204"):
        body, framing = b"", "close"
    if framing == "length":
        lines.insert(
            rng.randint(1, len(lines)), rng.choice((b"Content-Length: %d", b"content-length:%d\t ")) % len(body)
        )
    elif framing == "chunked":
        lines.insert(
            rng.randint(1, len(lines)), b"Transfer-Encoding: " + rng.choice((b"chunked", b"Chunked", b"\tchunked \t"))
        )
        body = chunks_of(body, rng)
    before = rng.choice(
        (b"", b"", b"", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n")
    )
    return before + b"\r\n".join([*lines, b"", b""]) + body


def sizes(rng, length):
    """Of the pieces in which bytes arrive; none: in as few as there can be."""
    most = rng.choice((0, 1, 3, 17, 400))
    return [rng.randint(1, most) for _ in range(length)] if most else []


def answers(seed, count):
    """Valid answers, cut ones and mutants, each with how its connection ends and the generator that made it."""
    for number in range(count):
        rng = random.Random(seed * 1_000_003 + number)
        raw, kind = valid_answer(rng), rng.randrange(10)
        if 1 <= kind <= 4:
            raw = raw[: rng.randint(0, len(raw))]
        elif kind > 4:
            raw = mutated(raw, rng, INSERTS)
        yield raw, kind == 0, rng.random() < 0.2, rng


def check_answer(raw, is_valid=False, is_reset=False, rng=None, call=GET, sends=1):
    """One answer: whole and right, or one of our errors."""
    found = received(Wire(raw, sizes(rng, len(raw)) if rng else (), sends, is_reset), call)
    right = right_answer(raw, is_reset)
    if isinstance(found, tuple):
        assert found == right, (raw, found, right)
    elif is_valid and not is_reset:
        assert right is None, (raw, found, right)
    return found


@pytest.mark.fuzz
def test_any_answer_in_any_chunking_is_whole_and_right_or_an_upstream_error():
    whole = 0
    for raw, is_valid, is_reset, rng in answers(SEED, CASES):
        whole += isinstance(check_answer(raw, is_valid, is_reset, rng), tuple)
    assert CASES // 10 < whole < CASES * 9 // 10  # a fuzzer that only breaks, or never does, tests nothing


@pytest.mark.fuzz
def test_any_answer_is_the_same_in_any_chunking():
    for raw, _, is_reset, rng in answers(SEED + 1, CASES // 4):
        first = received(Wire(raw, (), 1, is_reset))
        for _ in range(2):
            assert received(Wire(raw, sizes(rng, len(raw)), 1, is_reset)) == first, raw
        assert received(Wire(raw, [1] * len(raw), 1, is_reset)) == first, raw


@pytest.mark.fuzz
def test_answer_that_is_cut_anywhere_is_never_a_shorter_one():
    """Every offset of a few answers, with either end of the connection."""
    bodies = [b"hello world, this is a file", b"", b"0\r\n\r\n0\r\n\r\n"]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/csv\r\n%b\r\nx-request-id: a\r\n\r\n%b"
    for body in bodies:
        padded = b"".join(
            b"%08x\r\n%b\r\n" % (len(body[at : at + 9]), body[at : at + 9]) for at in range(0, len(body), 9)
        )
        for framing, framed in ((b"content-length: %d" % len(body), body), (b"transfer-encoding: chunked",
                                chunked(body, 7)),
                                (b"transfer-encoding: chunked", padded + b"00000000\r\n\r\n")):  # fmt: skip
            raw = b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" + head % (framing, framed)
            for at in range(len(raw)):
                for is_reset in (False, True):
                    found = received(Wire(raw[:at], (), 1, is_reset))
                    assert isinstance(found, str) or found[1] == body, (raw[:at], found)


@pytest.mark.fuzz
def test_any_answer_in_the_middle_of_an_upload_is_an_error_or_comes_after_all_of_it():
    early = 0
    for raw, _, is_reset, rng in answers(SEED + 2, CASES // 4):
        blocks = [bytes(rng.randint(1, 90)) for _ in range(rng.randint(1, 6))]
        upload = Upload("a", "a/b", {"purpose": "batch"}, iter(blocks))
        call = Call("upload_file", "POST", "/files", url="http://127.0.0.1:1/v1/files", upload=upload)
        wire = Wire(raw, sizes(rng, len(raw)), rng.randint(1, 8), is_reset)
        found = received(wire, call)
        if isinstance(found, tuple) and found[0] < 400:
            assert wire.sent.endswith(b"\r\n0\r\n\r\n"), (raw, found)
        early += isinstance(found, tuple) and not wire.sent.endswith(b"\r\n0\r\n\r\n")
    assert early  # refusals before the end are what clients must get to see


@pytest.mark.parametrize("name", corpus("answers"))
def test_answer_that_once_was_read_wrongly_is_right_or_an_upstream_error(name):
    raw = corpus("answers")[name]
    for is_reset in (False, True):
        check_answer(raw, is_reset=is_reset)
        check_answer(raw, is_reset=is_reset, rng=random.Random(SEED))


CHUNKED_ANSWER = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
LONG_ANSWERS = {
    "header_lines": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 9000,
    "one_header": b"HTTP/1.1 200 OK\r\na: " + b"x" * SIZE,
    "folds": b"HTTP/1.1 200 OK\r\na: b\r\n" + b" c\r\n" * 90 + b"\r\n",
    "bare_crs": b"HTTP/1.1 200 OK\r\na: " + b"x\r" * (SIZE // 2) + b"\r\n\r\n",
    "status_line": b"HTTP/1.1 200 " + b"x" * SIZE,
    "blanks": b" " * SIZE,
    "newlines": b"\r\n" * (SIZE // 2),
    "informational": b"HTTP/1.1 100 C\r\n\r\n" * 3500,
    "chunks_of_a_byte": CHUNKED_ANSWER + b"1\r\nx\r\n" * 9000 + b"0\r\n\r\n",
    "chunk_size": CHUNKED_ANSWER + b"0" * SIZE,
    "chunk_size_of_digits": CHUNKED_ANSWER + b"9" * SIZE + b"\r\n",
    "chunk_extension": CHUNKED_ANSWER + b"5;" + b"a" * SIZE + b"\r\nhello\r\n0\r\n\r\n",
    "trailers": CHUNKED_ANSWER + b"0\r\n" + b"a: b\r\n" * 10000 + b"\r\n",
    "length_of_digits": b"HTTP/1.1 200 OK\r\ncontent-length: " + b"9" * (SIZE - 99) + b"\r\n\r\n",
    "body": b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * SIZE,
}  # fmt: skip


@pytest.mark.fuzz
@pytest.mark.parametrize("name", LONG_ANSWERS)
def test_answer_costs_linear_time(name):
    raw = LONG_ANSWERS[name]
    assert seconds_of_cpu(lambda: check_answer(raw)) < SECONDS * max(1, len(raw) / SIZE)


# Headers of forms: what is well written is read as it was meant


def quoted(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def test_header_that_is_well_written_is_read_as_it_was_meant():
    token, anything = string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~", string.printable[:95] + 'é日\u2028 ;\\"'
    for number in range(CASES // 2):
        rng = random.Random((SEED + 3) * 1_000_003 + number)
        names = {"".join(rng.choice(token) for _ in range(rng.randint(1, 9))).lower() for _ in range(rng.randint(0, 5))}
        meant, text = {}, rng.choice(("form-data", "Form-Data", "multipart/form-data", "a/b"))
        for name in sorted(names):
            value = "".join(rng.choice(anything) for _ in range(rng.randint(0, 12)))
            plain = re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", value) and rng.random() < 0.7
            text += (
                rng.choice((";", "; ", " ;\t", ";;", "; ;\t; "))
                + rng.choice((name, name.upper()))
                + "="
                + (value if plain else quoted(value))
            )
            meant[name] = value
        text += rng.choice(("", ";", " ; "))
        head, parameters = parse_header(text)
        assert head == text.partition(";")[0].strip().lower()
        assert {name.lower(): value for name, value in parameters.items()} == meant or "\\" in text, text


def test_boundary_that_is_allowed_is_read_as_it_was_meant():
    allowed = string.ascii_letters + string.digits + "'()+_,-./:=? "
    for number in range(CASES // 4):
        rng = random.Random((SEED + 4) * 1_000_003 + number)
        meant = "".join(rng.choice(allowed) for _ in range(rng.choice((1, 40, 70, 80, 256))))
        text = f'multipart/form-data; charset=utf-8; boundary="{meant}"'
        if meant.endswith(" "):
            with pytest.raises(MultipartError):
                boundary_of(text)
        else:
            assert boundary_of(text) == meant.encode()


LONG_HEADERS = (
    "a",
    ";",
    "; ",
    "=",
    '"',
    '\\"',
    "\\",
    ";a=",
    '; a="',
    ' ;a="\\',
    ";a=b",
    '";',
    " ",
    "\t",
    "é",
    ';a="b" ',
)


@pytest.mark.fuzz
@pytest.mark.parametrize("piece", LONG_HEADERS)
def test_header_costs_linear_time(piece):
    for start, end in (
        ("form-data", ""),
        ("form-data; name=", '"'),
        ('form-data; name="', ""),
        ("a/b; boundary=", "\0"),
    ):
        text = start + piece * (SIZE // len(piece)) + end

        def parse(text=text):
            for read in (parse_header, boundary_of):
                with contextlib.suppress(MultipartError):
                    read(text)

        assert seconds_of_cpu(parse) < SECONDS, (start, end)


# Events: against a second reader, in linear time, with one event in memory


def events_of(text):
    """The data of each event by WHATWG HTML §9.2.6, read line by line; a last one without its empty line is dropped."""
    found, lines = [], []
    for line in re.split(b"\r\n|\n|\r", text[3 * text.startswith(b"\xef\xbb\xbf") :])[:-1]:
        if line:
            lines += [line[5:]] if line.startswith(b"data:") else []
        else:
            found += [b"\n".join(each[1:] if each.startswith(b" ") else each for each in lines)] if lines else []
            lines = []
    return found


SSE_PIECES = (b"data:", b"data: ", b"data", b"event: x", b"id: 1", b": ping", b"\n", b"\n", b"\r", b"\r\n", b"\n\n",
              b"\r\r", b"x",
              b"  x", b"data: {}\n\n", b"data: [DONE]\n\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"retry: 5",
              b"data:  a\r\n\r\n")  # fmt: skip


@pytest.mark.fuzz
def test_any_bytes_are_the_events_that_a_second_reader_finds():
    for number in range(CASES // 2):
        rng = random.Random((SEED + 5) * 1_000_003 + number)
        text = b"".join(rng.choice(SSE_PIECES) for _ in range(rng.randint(0, 40)))
        blocks, at = [], 0
        while at < len(text):
            blocks.append(text[at : at + rng.choice((1, 2, 5, 40))])
            at += len(blocks[-1])
        found = [data_of(frame) for whole in frames(iter(blocks)) for frame in whole]
        if found and found[-1] == b"[DONE]" and events_of(text)[-1:] != [b"[DONE]"]:
            found.pop()  # which is taken without the empty line after it
        assert [data for data in found if data] == [data for data in events_of(text) if data], text


@pytest.mark.parametrize("name", corpus("events"))
def test_events_that_once_were_read_wrongly_are_those_of_a_second_reader(name):
    text = corpus("events")[name]
    for blocks in ([text], [text[at : at + 1] for at in range(len(text))]):
        found = [data_of(frame) for whole in frames(iter(blocks)) for frame in whole]
        assert [data for data in found if data] == [data for data in events_of(text) if data]


def test_event_over_the_limit_is_an_error_in_any_chunking():
    for number in range(CASES // 40):
        rng = random.Random((SEED + 6) * 1_000_003 + number)
        size, limit = rng.randint(0, 400), 200
        text = b"data: " + b"x" * size + b"\n\n"
        most = rng.choice((1, 3, 50))
        blocks = [text[at : at + most] for at in range(0, len(text), most)]
        if size + 6 <= limit - 2:
            assert list(frames(iter(blocks), limit)) == [[text[:-2]]]
        elif size + 6 > limit + most:
            with pytest.raises(UpstreamError):
                list(frames(iter(blocks), limit))


@pytest.mark.fuzz
@pytest.mark.parametrize(
    "piece", [b"\n", b"\r", b"\r\n", b"data:", b"data: x\n", b"data: x\n\n", b":\n", b"x", b"\n\r", b"\n\nx"]
)
def test_events_cost_linear_time(piece):
    text = piece * (SIZE // len(piece))
    for most in (1, 7, 1000, SIZE):
        blocks = [text[at : at + most] for at in range(0, len(text), most)]
        assert seconds_of_cpu(lambda blocks=blocks: list(map(len, frames(iter(blocks))))) < SECONDS, most


@pytest.mark.fuzz
def test_events_hold_one_event_in_memory():
    def endless():
        for _ in range(4000):
            yield b"data: " + b"x" * 8000 + b"\n\n" + b": y\n\n" * 40

    tracemalloc.start()
    try:
        for _ in frames(endless()):
            pass
        assert tracemalloc.get_traced_memory()[1] < 1 << 20  # of 32 MiB
        tracemalloc.reset_peak()
        with pytest.raises(UpstreamError):
            for _ in frames((b"data: x" for _ in range(1 << 20)), 1 << 16):
                pass
        assert tracemalloc.get_traced_memory()[1] < 1 << 19
    finally:
        tracemalloc.stop()


# The configuration


CANARY = "sk-canary-7f3a9c0000"
INI = f"""# a file
[filesproxy]
listen = 127.0.0.1:8787
default_provider = openai
max_upload_bytes = 1000
read_timeout = 60.5
ca_file =
proxy = http://user:{CANARY}@127.0.0.1:3128
open_access = no

[provider:openai]
credential = {CANARY}

[provider:azure-openai]
resource = contoso
api_version = 2024-10-21
auth = key
credential = {CANARY}1

[provider:mine]
kind = openai
base_url = https://gateway.example/v1
proxy = none

[provider:local]
folder = a-folder

[key:team]
sha256 = {hashed("fp_a")}
    {hashed("fp_b")}
providers = openai mine
operations = *
caller_credentials = yes
""".replace(f"\n    {hashed('fp_b')}", "").encode()
INI_INSERTS = (b"\n", b"\r\n", b"\r", b"=", b" = ", b":", b"[", b"]", b"#", b";", b" ", b"\t", b"\n ", b"\0",
               b"\xff", b"\xc3\xa9",
               b"\xef\xbb\xbf", b"%(x)s", b"env:HOME", b"file:/dev/null", b"file:", b"env:",
               b"\n[provider:openai]\n", b"\n[key:a]\n",
               b"\ncredential = ", b"\nproxy = ", b"\nca_file = /dev/null\n", b"yes", b"no", b"*", b"-1", b"9" * 400,
               b"~", b"/", b"@",
               b"\xe2\x80\xa8", b"\x0c", b"\x1c", b"\x85", b'"', b"kind", b"local", b"[filesproxy]\n",
               b"[DEFAULT]\n", b"\n=\n")  # fmt: skip


def load_ini(text, folder):
    """The Config, or the ConfigError's message; anything else is raised."""
    path = folder / "fuzz.ini"
    path.write_bytes(text)
    try:
        found = config(str(path))
    except ConfigError as error:
        return error.message
    assert isinstance(found, Config)
    return found


def shows(message):
    """Whether it shows a part of the secret that could not stand there by chance."""
    return any(CANARY[at : at + 6] in message for at in range(len(CANARY) - 5))


@pytest.mark.fuzz
def test_any_configuration_loads_or_is_a_config_error_without_the_secret(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = 0
    for number in range(CASES // 4):
        rng = random.Random((SEED + 7) * 1_000_003 + number)
        text = mutated(INI, rng, INI_INSERTS, rng.choice((1, 1, 4)))
        found = load_ini(text, tmp_path)
        assert isinstance(found, Config) or not shows(found), (text, found)  # what a Config shows, test_secrets asks
        good += isinstance(found, Config)
    assert CASES // 80 < good < CASES // 4


@pytest.mark.parametrize("name", corpus("ini"))
def test_configuration_that_once_broke_something_loads_or_is_a_config_error(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = load_ini(corpus("ini")[name], tmp_path)
    assert isinstance(found, Config) or not shows(found), found


@pytest.mark.fuzz
@pytest.mark.parametrize("piece", [b"[a]\n", b"a = b\n", b"[provider:%d]\nkind = openai\n", b"#\n", b"\n", b"=",
                         b"[", b" ", b"a\n ",
                                   b"[key:%d]\n", b"\xff", b"credential", b";", b"k%d = v\n"])  # fmt: skip
def test_configuration_costs_linear_time(piece, tmp_path):
    count = SIZE // (len(piece) + 3)
    text = b"".join(piece % number if b"%" in piece else piece for number in range(count))
    for start in (b"", b"[filesproxy]\n", b"[filesproxy]\nlisten = "):
        assert seconds_of_cpu(load_ini, start + text, tmp_path) < 3 * SECONDS, start  # the operator's own file


# JSON


JSON_PIECES = (b"{", b"}", b"[", b"]", b",", b":", b'"', b'"a"', b"\\", b'"\\u', b"d800", b"null", b"true", b"1",
               b"-", b"0", b".5", b"e9",
               b"1e999", b"NaN", b"Infinity", b" ", b"\n", b"\t", b"\0", b"\xff", b"\xc3\xa9", b"\xef\xbb\xbf",
               b'{"a":', b"[[", b"/")  # fmt: skip


@pytest.mark.fuzz
def test_any_text_is_the_json_that_the_standard_library_reads_or_unreadable():
    read = 0
    for number in range(CASES):
        rng = random.Random((SEED + 8) * 1_000_003 + number)
        text = b"".join(rng.choice(JSON_PIECES) for _ in range(rng.randint(0, 9)))
        if rng.random() < 0.5:
            text = mutated(
                b'{"a": [1, -2.5e3, "\\u00e9\\ud800", null, true], "b": {"c": {}, "d": []}}', rng, JSON_PIECES, 2
            )
        try:
            value = loads(text, unique_keys=rng.random() < 0.5)
        except Unreadable as error:
            assert "a" not in re.findall(r"'(.*?)'", str(error))
            continue
        read += 1
        assert value == json.loads(text.decode("utf-8-sig")) and finite(value)
        assert loads(dumps(value)) == value
    assert CASES // 100 < read < CASES


def finite(value):
    if isinstance(value, (dict, list)):
        return all(map(finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


LONG_JSON = {
    "open_lists": b"[" * SIZE,
    "lists": b"[" * (SIZE // 2) + b"]" * (SIZE // 2),
    "open_objects": b'{"a":' * (SIZE // 5),
    "wide_lists": b"[" + b"[]," * (SIZE // 3) + b"[]]",
    "wide_and_deep": b"[" + (b"[" * (MAX_DEPTH - 2) + b"]" * (MAX_DEPTH - 2) + b",") * (SIZE // MAX_DEPTH // 2) + b"1]",
    "numbers": b"[" + b"1," * (SIZE // 2) + b"1]",
    "digits": b"9" * SIZE,
    "long_numbers": b"[" + (b"9" * MAX_DIGITS + b",") * (SIZE // MAX_DIGITS) + b"1]",
    "fraction": b"0." + b"9" * SIZE,
    "fractions": b"[" + (b"0." + b"9" * 400 + b",") * (SIZE // 403) + b"1]",
    "exponent": b"1e" + b"9" * SIZE,
    "small_exponents": b"[" + b"1e-400," * (SIZE // 7) + b"1]",
    "backslashes": b'"' + b"\\" * SIZE + b'"',
    "escapes": b'"' + b"\\u00e9" * (SIZE // 6) + b'"',
    "surrogates": b'"' + b"\\ud800" * (SIZE // 6) + b'"',
    "quotes": b'"' * SIZE,
    "blanks": b" " * SIZE,
    "blanks_between": b"[" + b"1 ,\n" * (SIZE // 4) + b"1]",
    "keys": b"{" + b",".join(b'"%d":1' % number for number in range(SIZE // 9)) + b"}",
    "same_keys": b"{" + b",".join([b'"a":1'] * (SIZE // 6)) + b"}",
    "not_utf8": b'"' + b"\xff" * SIZE,
    "commas_in_strings": b"[" + b'",,,,,,",' * (SIZE // 9) + b"1]",
}


@pytest.mark.fuzz
@pytest.mark.parametrize("name", LONG_JSON)
def test_json_costs_linear_time(name):
    def parse():
        for unique_keys in (False, True):
            with contextlib.suppress(Unreadable):
                loads(LONG_JSON[name], unique_keys)

    assert seconds_of_cpu(parse) < SECONDS


# Requests to the embedded server


REQUESTS = (
    b"GET /v1/files HTTP/1.1\r\nhost: localhost\r\nx-portkey-provider: openai\r\n\r\n",
    b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\nContent-Type: text/plain\r\n\r\nhello world",
    b"POST /v1/files HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nt: u\r\n\r\n",
    b"POST http://a/v1/files?x=y HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    b"DELETE /v1/files/file-1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nhost: localhost\r\naccept: */*\r\n\r\nGET / HTTP/1.1\r\nhost: b\r\n\r\n",
)
REQUEST_INSERTS = (*INSERTS, b"GET ", b"POST ", b"Host: b\r\n", b"content_length: 5\r\n",
                   b"Transfer-Encoding: identity\r\n", b"HTTP/9.9", b"HTTP/0.9", b"%2f", b"%00", b"//", b"http://b",
                   b"\x0b", b"\x85", b"\xa0", b"Content-Length: 5, 5\r\n", b" chunked", b"xchunked",
                   b"GET / HTTP/1.1\r\nhost: c\r\n\r\n")  # fmt: skip


class Seen:
    """A WSGI application that reads the body to its end, and keeps what it was told."""

    def __init__(self):
        self.environ = self.body = self.error = None

    def __call__(self, environ, start_response):
        self.environ, body = environ, bytearray()
        try:
            while block := environ["wsgi.input"].read(SIZE):
                body += block
        except (ValueError, EOFError, OSError) as error:
            self.error = error
        self.body = bytes(body)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"seen"]


@pytest.fixture(scope="module")
def server():
    """A server of which only the handler is used; nobody connects to it."""
    made = Server(("127.0.0.1", 0), Seen())
    yield made
    made.server_close()


def served_once(server, raw, rng=None):
    """What the application saw of these bytes, None if it was not asked, and what the client got."""
    ours, theirs = socket.socketpair()
    seen = Seen()
    server.set_app(seen)
    with ours, theirs:
        theirs.sendall(raw)
        theirs.shutdown(socket.SHUT_WR)
        conn = Wire.__new__(Wire)
        socket.socket.__init__(conn, ours.family, ours.type, ours.proto, fileno=ours.detach())
        conn._peer, conn._sizes, conn._sends = theirs, sizes(rng, len(raw)) if rng else [], -1
        conn.sent = bytearray()
        server.RequestHandlerClass(conn, ("127.0.0.1", 1), server)
        socket.socket.close(conn)
        theirs.settimeout(5)
        answer = b""
        with contextlib.suppress(ConnectionResetError):  # bytes after the request were left unread
            while block := theirs.recv(SIZE):
                answer += block
    return (seen if seen.environ else None), answer


def right_request(raw):
    """By the second reader: (method, target, fields, body); None where it is to be refused or is not whole."""
    head, rest = _head(re.sub(rb"\A(?:\r?\n)+", b"", raw))  # a server may skip these (RFC 9112 §2.2)
    words = head[0].split(b" ") if head else []
    fields = _fields(head[1:])
    if len(words) != 3 or fields is None or not re.fullmatch(rb"HTTP/1\.[0-9]+", words[2]) or b"\r" in b"".join(head):
        return None
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    hosts = [value for name, value in fields if name == b"host"]
    if len(lengths) + len(codings) > 1 or any(coding.lower() != b"chunked" for coding in codings):
        return None
    if (words[2] == b"HTTP/1.1" and len(hosts) != 1) or any(b"_" in name for name, _ in fields):
        return None
    body = _unchunked(rest) if codings else rest[: int(lengths[0])] if lengths else b""
    short = body is None or (lengths and len(body) < int(lengths[0]))
    return words[0], words[1], fields, None if short else body


def check_request(server, raw, rng=None):
    """An application that was asked saw what a second reader sees; a client whose request was refused got an answer."""
    seen, answer = served_once(server, raw, rng)
    if answer:
        assert re.match(rb"HTTP/1\.[01] [1-5][0-9][0-9] [^\r\n]*\r\n", answer), (raw, answer)
        assert b"HTTP/1.1 500" not in answer, (raw, answer)
    if seen is None:
        return None
    right = right_request(raw)
    assert right is not None, (raw, seen.environ["REQUEST_METHOD"], seen.body)
    method, target, fields, body = right
    assert seen.environ["REQUEST_METHOD"].encode("latin-1") == method, raw
    assert not any(character in str(value) for key, value in seen.environ.items() if key.startswith("HTTP_")
                   for character in "\r\n\0"), raw  # fmt: skip
    assert seen.error is not None or seen.body == body, (raw, seen.body, body)  # a stricter reader is welcome
    return seen


@pytest.mark.parametrize("number", range(len(REQUESTS)))
def test_request_that_is_well_written_is_read_to_its_end(number, server):
    for rng in (None, *map(random.Random, range(20))):
        seen = check_request(server, REQUESTS[number], rng)
        assert seen.error is None and seen.body == right_request(REQUESTS[number])[3]


@pytest.mark.fuzz
def test_any_request_is_the_one_that_a_second_reader_reads_or_is_refused(server):
    asked = 0
    for number in range(CASES // 4):
        rng = random.Random((SEED + 9) * 1_000_003 + number)
        raw = mutated(rng.choice(REQUESTS), rng, REQUEST_INSERTS, rng.choice((1, 1, 4)))
        asked += check_request(server, raw, rng) is not None
    assert CASES // 80 < asked < CASES // 4


@pytest.mark.parametrize("name", corpus("requests"))
def test_request_that_once_was_read_wrongly_is_right_or_refused(name, server):
    raw = corpus("requests")[name]
    check_request(server, raw)
    check_request(server, raw, random.Random(SEED))


CHUNKED_REQUEST = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
LONG_REQUESTS = {
    "request_line": b"GET /" + b"a" * SIZE,
    "words": b"GET " + b"/ " * (SIZE // 2),
    "headers": b"GET / HTTP/1.1\r\nhost: a\r\n" + b"a: b\r\n" * 10900 + b"\r\n",
    "many_small_headers": b"GET / HTTP/1.1\r\nhost: a\r\n" + b"a:\r\n" * 95 + b"\r\n",
    "one_header": b"GET / HTTP/1.1\r\nhost: a\r\na: " + b"b" * (SIZE - 99) + b"\r\n\r\n",
    "folds": b"GET / HTTP/1.1\r\nhost: a\r\n" + b" b\r\n" * 90 + b"\r\n",
    "newlines": b"\r\n" * (SIZE // 2),
    "crs": b"\r" * SIZE,
    "percent": b"GET /" + b"%41" * (SIZE // 3 - 99) + b" HTTP/1.1\r\nhost: a\r\n\r\n",
    "absolute": b"GET http://" + b"a" * (SIZE - 999) + b"/ HTTP/1.1\r\nhost: a\r\n\r\n",
    "chunks": CHUNKED_REQUEST + b"1\r\nx\r\n" * 10900 + b"0\r\n\r\n",
    "trailers": CHUNKED_REQUEST + b"0\r\n" + b"a: b\r\n" * 10900 + b"\r\n",
    "extension": CHUNKED_REQUEST + b"1;" + b"a" * SIZE + b"\r\nx\r\n0\r\n\r\n",
    "after_the_body": b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" + b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 2000,
}  # fmt: skip


@pytest.mark.fuzz
@pytest.mark.parametrize("name", LONG_REQUESTS)
def test_request_costs_linear_time(name, server):
    assert seconds_of_cpu(served_once, server, LONG_REQUESTS[name]) < SECONDS


def test_all_errors_here_are_of_one_family():
    assert all(issubclass(error, FilesproxyError) for error in (ConfigError, MultipartError, UpstreamError))
