"""A strict reader of an upstream's HTTP/1 answer (RFC 9112): its head, and its body by length, chunks or close. No I/O.

http.client is not used, because it accepts truncated and spliced answers, which on a kept connection would corrupt the
next one. A head may end with the connection, at any byte. A bare CR ends a line, so one header becomes two. The headers
after a malformed line are dropped. `+5` and `1_0` are numbers. The two bytes after a chunk may be anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ..errors import UpstreamError

HEAD_BYTES = 1 << 16  # of the largest head
FIRST_BYTES = 1 << 14  # of the first reads; one is usually enough for a small answer
BLOCK_BYTES = 1 << 18  # of the largest read
# A read asks for 1/GROWTH of the bytes read so far. A slow client stops the relay after about 4 MB, which the kernel
# buffers, and then keeps one block in memory for as long as it likes. With this rule, that block has FIRST_BYTES.
GROWTH = 256
MAX_HEADERS = 100
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection"})
MAX_INFORMATIONAL = 16  # 1xx answers before the final one (RFC 9110 §15.2)
MAX_CHUNK_LINE_BYTES = 4096

_STATUS_LINE = re.compile(r"HTTP/1\.([0-9])[ \t]+([1-5][0-9]{2})(?:[ \t][^\r\n]{0,256})?")  # RFC 9112 §4, RFC 9110 §15
_NAME = re.compile(r"[!-9;-~]{1,256}")
_HEAD_END = re.compile(rb"\n\r?\n")
_LENGTH = re.compile(r"[0-9]{1,19}", re.ASCII)
_CHUNK_LINE = rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n"  # RFC 9112 §7.1
_FIRST_CHUNK, _NEXT_CHUNK = re.compile(_CHUNK_LINE), re.compile(rb"\r\n" + _CHUNK_LINE)
_TRAILER = re.compile(rb"(?:[^\r\n]+\r?\n)*\r?\n")


class Unanswered(UpstreamError):
    """502: the connection ended before the first byte of the answer."""


class AnswerReader:
    """Reads one answer. `begin` reads its head and sets `status` and `headers` (names in lower case).

    `receive(size)` returns the next bytes, at most `size`, and b"" at the end of the connection.
    """

    def __init__(self, receive: Callable[[int], bytes]) -> None:
        self._receive = receive
        self._buffer = b""
        self._seen = 0  # bytes read of the body
        self._left: int | None = 0  # bytes left of the body; None if it ends with the connection
        self._chunks: Chunks | None = None
        self._will_close = True
        self.has_begun = False  # its first byte has arrived
        self.status = 0
        self.headers: dict[str, str] = {}

    def begin(self) -> None:
        """Read the head; 1xx answers are skipped. UpstreamError for a head that two readers could read differently."""
        for _ in range(MAX_INFORMATIONAL):
            version, self.status, lines = _parsed(self._head())
            if not 100 <= self.status < 200 or self.status == 101:
                break
        else:
            raise UpstreamError("The provider sent only informational answers.")
        self.headers = dict(lines)
        framing = _joined(lines)
        self._frame(framing.get("content-length"), framing.get("transfer-encoding"))
        options = map(str.strip, framing.get("connection", "").lower().split(","))
        self._will_close = version < 1 or self._left is None or "close" in options

    def _head(self) -> bytes:
        head, searched = self._buffer, 0
        while not (found := _HEAD_END.search(head, searched, HEAD_BYTES)):
            searched = max(0, len(head) - 2)
            block = self._receive(FIRST_BYTES) if len(head) < HEAD_BYTES else b""
            if not block and not self.has_begun:
                raise Unanswered("The provider closed the connection without an answer.")
            if not block:
                raise UpstreamError("The provider's answer is not HTTP, or ended inside its head.")
            self.has_begun = True
            head += block
        self._buffer = head[found.end() :]
        return head[: found.end()]

    def _frame(self, length: str | None, coding: str | None) -> None:
        """Determine how the body ends (RFC 9112 §6.3)."""
        is_bad = bool(coding is not None and (length is not None or coding.lower() != "chunked"))
        if self.status == 101 or is_bad or not (length is None or _LENGTH.fullmatch(length)):
            raise _broken()
        if self.status in (204, 304):
            return
        if coding is not None:
            self._chunks = Chunks()
        else:
            self._left = None if length is None else int(length)

    def read(self) -> bytes:
        """The next bytes of the body, b"" at its end. UpstreamError if it ends early or has malformed chunks."""
        while not self.is_complete:
            block = self._buffer or self._receive(min(BLOCK_BYTES, max(FIRST_BYTES, self._seen // GROWTH)))
            self._buffer = b""
            self._seen += len(block)
            if not block and (self._chunks or self._left):
                raise UpstreamError("The provider ended its answer early.")
            if taken := self._taken(block):
                return taken
        return b""

    def _taken(self, block: bytes) -> bytes:
        if self._chunks:
            taken = self._chunks.feed(block)
            self._buffer = self._chunks.rest
        elif self._left is None:
            taken, self._left = block, None if block else 0
        else:
            taken, self._buffer = block[: self._left], block[self._left :]
            self._left -= len(taken)
        return taken

    @property
    def is_complete(self) -> bool:
        """Whether all of the body has been read."""
        return self._chunks.is_over if self._chunks else self._left == 0

    @property
    def is_reusable(self) -> bool:
        """Whether the connection can carry another request (RFC 9112 §9.3)."""
        is_clean = self._chunks.is_clean if self._chunks else True
        return self.is_complete and is_clean and not self._buffer and not self._will_close


def _parsed(head: bytes) -> tuple[int, int, list[tuple[str, str]]]:
    """(minor version, status, headers) of a head."""
    text = head.decode("latin-1").replace("\r\n", "\n")
    first, *lines = text[:-2].split("\n")
    found = _STATUS_LINE.fullmatch(first)
    if not found or "\r" in text:
        raise _broken()
    if len(lines) > MAX_HEADERS:
        raise UpstreamError(f"The provider's answer has more than {MAX_HEADERS} headers.")
    return int(found[1]), int(found[2]), _headers(lines)


def _headers(lines: list[str]) -> list[tuple[str, str]]:
    """The header lines (RFC 9112 §5), names in lower case. A folded value keeps its break, so it is not relayed."""
    headers: list[tuple[str, str]] = []
    for line in lines:
        name, colon, value = line.partition(":")
        if colon and _NAME.fullmatch(name):
            headers.append((name.lower(), value.strip(" \t")))  # OWS (RFC 9110 §5.5)
        elif headers and line[0] in " \t":
            name, value = headers.pop()
            headers.append((name, f"{value}\r\n{line}"))
        else:
            raise _broken()
    return headers


def _joined(headers: list[tuple[str, str]]) -> dict[str, str]:
    """The headers that decide where the message ends; values of a repeated one are joined (RFC 9110 §5.3)."""
    joined: dict[str, str] = {}
    for name, value in headers:
        if name in _FRAMING:
            joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined


def _broken() -> UpstreamError:
    return UpstreamError("The provider's answer has broken HTTP framing.")


class Chunks:
    """Decodes a chunked body (RFC 9112 §7.1) from pieces that are cut anywhere."""

    def __init__(self) -> None:
        self._line = _FIRST_CHUNK
        self._left = 0  # bytes left of the current chunk
        self._held = b""  # an incomplete line
        self.is_over = False  # the last chunk has been read
        self.is_clean = False  # and so has its trailer
        self.rest = b""  # bytes after the end

    def feed(self, data: bytes) -> bytes:
        """The bytes of the body that this piece completes. UpstreamError for a malformed chunk line."""
        data, at, blocks = self._held + data, 0, []
        self._held = b""
        while at < len(data) and not self.is_over:
            if not self._left:
                at = self._begin_chunk(data, at)
            block = data[at : at + self._left]
            self._left -= len(block)
            at += len(block)
            blocks.append(block)
        return b"".join(blocks)

    def _begin_chunk(self, data: bytes, at: int) -> int:
        """Where the bytes of the next chunk begin; the end of the data if the chunk's line is incomplete."""
        found = self._line.match(data, at)
        if not found:
            return self._hold(data, at)
        self._line, self._left = _NEXT_CHUNK, int(found[1], 16)
        if not self._left:
            self._end(data, found.end())
        return found.end()

    def _hold(self, data: bytes, at: int) -> int:
        if data.find(b"\n", at + 2) >= 0 or len(data) - at > MAX_CHUNK_LINE_BYTES:
            raise UpstreamError("The provider's answer has a chunk whose size is missing or wrong.")
        self._held = data[at:]
        return len(data)

    def _end(self, data: bytes, at: int) -> None:
        """Note the last chunk. A trailer says nothing about the content, so the answer does not wait for it."""
        found = _TRAILER.match(data, at)
        self.is_over, self.is_clean = True, bool(found)
        self.rest = data[found.end() :] if found else b""
