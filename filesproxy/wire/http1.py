"""An upstream's HTTP/1 answer, read strictly (RFC 9112): its head, then its body by length, in chunks, or to the end.

http.client does not read it, because it hides cuts and splices, which a kept connection would carry into the next
answer. It lets a head end with the connection, at any byte. It takes a bare CR for the end of a line, so one header
becomes two. It drops the headers after a malformed line. It reads `+5` and `1_0` as numbers. After a chunk it skips two
bytes, whatever they are. No I/O here: the bytes come from `receive(size)`, b"" at their end.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ..errors import UpstreamError

HEAD_BYTES = 1 << 16  # of a head at most
FIRST_BYTES = 1 << 14  # of the first reads: mostly one brings all of a small answer
BLOCK_BYTES = 1 << 18  # of later reads: more costs memory and gains little
# A read asks for this part of what has come so far. The kernel buffers about 4 MB for a client that reads slowly; after
# that the client holds one block for as long as it likes, so the block must be small.
GROWTH = 256
MAX_HEADERS = 100
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection"})
MAX_INFORMATIONAL = 16  # 1xx answers before the final one (RFC 9110 §15.2)
MAX_CHUNK_LINE_BYTES = 4096

# RFC 9112 §5, with its folded lines. Each alternative begins with another character, so matching is linear.
_HEADER_LINE = r"([!-9;-~]{1,256}):[ \t]*((?:[^\r\n \t][^\r\n]*)?(?:\n[ \t][^\r\n]*)*)\n"
_HEADER = re.compile(_HEADER_LINE)
_HEAD = re.compile(r"HTTP/1\.([0-9])[ \t]+([0-9]{3})(?:[ \t][^\r\n]{0,256})?\n(?:" + _HEADER_LINE + r")*\n")
_HEAD_END = re.compile(rb"\n\r?\n")
_LENGTH = re.compile(r"[0-9]{1,19}", re.ASCII)
_CHUNK_LINE = rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n"  # RFC 9112 §7.1
_FIRST_CHUNK, _NEXT_CHUNK = re.compile(_CHUNK_LINE), re.compile(rb"\r\n" + _CHUNK_LINE)
_TRAILER = re.compile(rb"(?:[^\r\n]+\r?\n)*\r?\n")


class Unanswered(UpstreamError):
    """502: the connection ended before the first byte of an answer."""


class AnswerReader:
    """Reads one answer. `begin` reads its head and sets `status` and `headers` (names in lower case)."""

    def __init__(self, receive: Callable[[int], bytes]) -> None:
        self._receive = receive
        self._buffer = b""
        self._seen = 0  # bytes of the body
        self._left: int | None = 0  # bytes of the body to come, None if it ends with the connection
        self._chunks: Chunks | None = None
        self._says_close = True
        self.has_begun = False  # the first byte has come
        self.status = 0
        self.headers: dict[str, str] = {}

    def begin(self) -> None:
        """Read the head, skipping 1xx answers. UpstreamError for a head that two readers could read differently."""
        for _ in range(MAX_INFORMATIONAL):
            version, self.status, lines = _parsed(self._head())
            if not 100 <= self.status < 200 or self.status == 101:
                break
        else:
            raise UpstreamError("The provider sends informational answers only.")
        self.headers = dict(lines)
        framing = _joined(lines)
        self._frame(framing.get("content-length"), framing.get("transfer-encoding"))
        options = map(str.strip, framing.get("connection", "").lower().split(","))
        self._says_close = version < 1 or self._left is None or "close" in options

    def _head(self) -> bytes:
        head, searched = self._buffer, 0
        while not (found := _HEAD_END.search(head, searched, HEAD_BYTES)):
            searched = max(0, len(head) - 2)
            block = self._receive(FIRST_BYTES) if len(head) < HEAD_BYTES else b""
            if not block and not self.has_begun:
                raise Unanswered("The provider closed the connection without an answer.")
            if not block:
                raise UpstreamError("The provider's answer is not HTTP, or its head was cut.")
            self.has_begun = True
            head += block
        self._buffer = head[found.end() :]
        return head[: found.end()]

    def _frame(self, length: str | None, coding: str | None) -> None:
        """Find out how the body ends (RFC 9112 §6.3)."""
        is_bad = bool(coding is not None and (length is not None or coding.lower() != "chunked"))
        if self.status == 101 or is_bad or not (length is None or _LENGTH.fullmatch(length.rstrip(" \t"))):
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
        return self.is_complete and is_clean and not self._buffer and not self._says_close


def _parsed(head: bytes) -> tuple[int, int, list[tuple[str, str]]]:
    """(minor version, status, headers) of a head, with names in lower case.

    A folded value (RFC 9112 §5.2) keeps its line break, so it is never relayed.
    """
    text = head.decode("latin-1").replace("\r\n", "\n")
    found = _HEAD.fullmatch(text)
    if not found:
        raise _broken()
    lines = _HEADER.findall(text, text.index("\n") + 1)  # a status line may look like a header
    if len(lines) > MAX_HEADERS:
        raise UpstreamError(f"The provider's answer has more than {MAX_HEADERS} headers.")
    return int(found[1]), int(found[2]), [(name.lower(), value) for name, value in lines]


def _joined(headers: list[tuple[str, str]]) -> dict[str, str]:
    """What the headers say of the message's end; the values of one that is repeated are joined (RFC 9110 §5.3)."""
    joined: dict[str, str] = {}
    for name, value in headers:
        if name in _FRAMING:
            joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined


def _broken() -> UpstreamError:
    return UpstreamError("The provider's answer has broken HTTP framing.")


class Chunks:
    """Decodes a chunked body (RFC 9112 §7.1), however it is cut into pieces."""

    def __init__(self) -> None:
        self._line = _FIRST_CHUNK
        self._left = 0  # bytes of the chunk that has begun
        self._held = b""  # the beginning of a line
        self.is_over = False  # the last chunk has come
        self.is_clean = False  # so has its trailer
        self.rest = b""  # bytes after the end

    def feed(self, data: bytes) -> bytes:
        """The bytes of the body in this piece. UpstreamError for a malformed chunk line."""
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
        """Where the bytes of the next chunk begin; the end of the data if its line is not complete yet."""
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
        """The last chunk has come. A trailer says nothing of the content, so nothing waits for it."""
        found = _TRAILER.match(data, at)
        self.is_over, self.is_clean = True, bool(found)
        self.rest = data[found.end() :] if found else b""
