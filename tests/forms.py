"""Multipart bodies: the corpus, what the scanner makes of a body, and mutants that break parsers."""

from __future__ import annotations

import json
import random
from pathlib import Path

from mutants import mutated

from filesproxy.errors import MultipartError
from filesproxy.wire.multipart import parts

CORPUS = Path(__file__).parent / "corpus" / "multipart"
VALID = sorted(path.stem for path in (CORPUS / "valid").glob("*.http"))
INVALID = sorted(path.stem for path in (CORPUS / "invalid").glob("*.http"))
INSERTS = (b"\r", b"\n", b"\r\n", b"\r\n\r\n", b'"', b"\\", b"\0", b";", b":", b"%22", b"--", b" ", b"\t", b"\xff",
           b"=", b";;", b" ; ", b"=?utf-8?B?w6k=?=", b"=?utf-8?Q?=0D?=", b"Content-Transfer-Encoding: base64\r\n",
           b"Content-Transfer-Encoding: 8bit \r\n", b"Content-Encoding: gzip\r\n", b"Content-Type: */*\r\n",
           b"Content-Disposition: form-data; name=x\r\n", b"Content-Type: a/b\r\n", b"filename*=utf-8''%41",
           "filename*=i\u017fo-8859-1''a".encode(), b"\xc3\xa9")  # fmt: skip


def reader(body, sizes=()):
    """A read(size) that returns at most as much as each of `sizes` in turn, as sockets do; then all that is asked."""
    at, sizes = 0, iter(sizes)

    def read(size):
        nonlocal at
        block = body[at : at + min(size, next(sizes, size))]
        at += len(block)
        return block

    return read


def outcome(body, boundary, sizes=(), block_bytes=1 << 20, **limits):
    """What the scanner makes of a body: the parts it saw to their end, and the error's message, if there was one."""
    seen = []
    try:
        for part in parts(reader(body, sizes), boundary, block_bytes=block_bytes, **limits):
            seen.append((part.name, part.filename, part.content_type, b"".join(part.chunks)))
    except MultipartError as error:
        return seen, error.message
    return seen, None


def case(kind, name):
    """A body of the corpus, its boundary, and what is expected of it."""
    expected = json.loads((CORPUS / kind / f"{name}.json").read_text("utf-8"))
    return (CORPUS / kind / f"{name}.http").read_bytes(), expected["boundary"].encode("ascii"), expected


def mutate(body, boundary, rng):
    """A few changes of the kinds that break parsers: at delimiters, quotes and line ends more than elsewhere."""
    inserts = (
        *INSERTS,
        boundary,
        b"\r\n--" + boundary,
        b"\r\n--" + boundary + b"\r\n",
        b"\r\n--" + boundary + b"--\r\n",
    )
    return mutated(body, rng, inserts, targets=(b"\r\n", boundary, b'"', b"; ", b": ", b"--"))


def bodies(seed, count):
    """Mutants of the corpus, each with its boundary and the generator that made it."""
    sources = [case("valid", name)[:2] for name in VALID]
    sources = [(body, boundary) for body, boundary in sources if len(body) < 1500]
    for number in range(count):
        rng = random.Random(seed * 1_000_003 + number)
        body, boundary = rng.choice(sources)
        if rng.random() < 0.2:
            other, its_boundary = rng.choice(sources)
            body += other.replace(its_boundary, boundary)
        yield mutate(body, boundary, rng), boundary, rng
