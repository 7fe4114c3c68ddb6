"""An upstream's answer, read strictly (RFC 9112): its head, and its body by length, in chunks or to the stream's end.

http.client is not used for it: it lets a head end with the connection, at any byte; takes a bare CR for a line's end,
so that one header becomes two; drops the headers behind a line that is none; reads `+5` and `1_0` as numbers; and
skips two bytes behind a chunk whatever they are. Each hides a cut or a splice, and a connection that is kept would
carry the rest into the next answer. No I/O here: the bytes come from `receive(size)`, b"" at their end.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ..errors import UpstreamError
from .memo import Memo

HEAD_BYTES = 1 << 16  # of a head at most
FIRST_BYTES = 1 << 14  # of the first reads, of which one mostly brings all of a small answer
BLOCK_BYTES = 1 << 18  # of the later ones: more costs memory and gains little
# A read is this part of what has come so far. A client that reads slowly lets some 4 MB into the kernel's buffers, and
# then holds one block for as long as it likes: it shall be a small one.
GROWTH = 256
MAX_FIELDS = 100
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection"})
MAX_INFORMATIONAL = 16  # 1xx answers before the real one, which urllib takes for the last word (RFC 9110 §15.2)
MAX_CHUNK_LINE_BYTES = 4096

_STATUS_LINE = re.compile(r"HTTP/1\.([0-9])[ \t]+([0-9]{3})(?:[ \t][^\r\n]{0,256})?")  # RFC 9112 §4
_NAME = re.compile(r"[!-9;-~]{1,256}")
_HEAD_END = re.compile(rb"\n\r?\n")
_LENGTH = re.compile(r"[0-9]{1,19}", re.ASCII)
_CHUNK_LINE = rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n"  # RFC 9112 §7.1
_FIRST_CHUNK, _NEXT_CHUNK = re.compile(_CHUNK_LINE), re.compile(rb"\r\n" + _CHUNK_LINE)
_TRAILER = re.compile(rb"(?:[^\r\n]+\r?\n)*\r?\n")


class Unanswered(UpstreamError):
    """502: the connection has ended, and not a byte of an answer has come."""


class Response:
    """One answer. `begin` reads its head; then `status` and `headers` (names in lower case) are there."""

    def __init__(self, receive: Callable[[int], bytes]) -> None:
        self._receive = receive
        self._buffer = b""
        self._seen = 0  # bytes behind the head
        self._left: int | None = 0  # bytes of the body, None where it goes on to the end of the stream
        self._chunks: Chunks | None = None
        self._says_close = True
        self.has_begun = False  # a byte of it has come
        self.status = 0
        self.headers: dict[str, str] = {}

    def begin(self) -> None:
        """Read the head, passing over 1xx answers. UpstreamError for one that two readers could read differently."""
        for _ in range(MAX_INFORMATIONAL):
            version, self.status, fields = _parsed(self._head())
            if not 100 <= self.status < 200 or self.status == 101:
                break
        else:
            raise UpstreamError("The provider answers with nothing but informational answers.")
        self.headers = dict(fields)
        said = self.headers if len(self.headers) == len(fields) else _joined(fields)
        self._frame(said.get("content-length"), said.get("transfer-encoding"))
        self._says_close = version < 1 or self._left is None or _SAYS_CLOSE[said.get("connection", "")]

    def _head(self) -> bytes:
        head, searched = self._buffer, 0
        while not (found := _HEAD_END.search(head, searched, HEAD_BYTES)):
            searched = max(0, len(head) - 2)
            block = self._receive(FIRST_BYTES) if len(head) < HEAD_BYTES else b""
            if not block and not self.has_begun:
                raise Unanswered("The provider closed the connection without an answer.")
            if not block:
                raise UpstreamError("The provider answered with something that is not HTTP, or with half of it.")
            self.has_begun = True
            head += block
        self._buffer = head[found.end() :]
        return head[: found.end()]

    def _frame(self, length: str | None, coding: str | None) -> None:
        """How the body ends (RFC 9112 §6.3)."""
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
        """What has come of the body, b"" at its end. UpstreamError if it ends too early, or has bad chunks."""
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
        """Whether nothing speaks against another request over the same connection (RFC 9112 §9.3)."""
        is_clean = self._chunks.is_clean if self._chunks else True
        return self.is_complete and is_clean and not self._buffer and not self._says_close


def _parsed(head: bytes) -> tuple[int, int, list[tuple[str, str]]]:
    """(minor version, status, fields) of a head."""
    text = head.decode("latin-1").replace("\r\n", "\n")
    first, *lines = text[:-2].split("\n")
    if "\r" in text:
        raise _broken()
    if len(lines) > MAX_FIELDS:
        raise UpstreamError(f"The provider's answer has more than {MAX_FIELDS} headers.")
    return *_STATUSES[first], _fields(lines)


def _status(line: str) -> tuple[int, int]:
    """(minor version, status)."""
    found = _STATUS_LINE.fullmatch(line)
    if not found:
        raise _broken()
    return int(found[1]), int(found[2])


def _fields(lines: list[str]) -> list[tuple[str, str]]:
    """The headers (RFC 9112 §5). A folded value keeps its line's end, and so is one that nobody relays."""
    fields: list[tuple[str, str]] = []
    for line in lines:
        said, colon, value = line.partition(":")
        name = _NAMES[said]
        if colon and name:
            fields.append((name, value.lstrip(" \t")))
        elif fields and line[0] in " \t":
            name, value = fields.pop()
            fields.append((name, f"{value}\r\n{line}"))
        else:
            raise _broken()
    return fields


def _joined(fields: list[tuple[str, str]]) -> dict[str, str]:
    """What they say of the message's end, with all values of a header that comes more than once (RFC 9110 §5.3)."""
    names = _FRAMING.intersection([name for name, _ in fields])
    return {name: ",".join([value for other, value in fields if other == name]) for name in names}


# An upstream says the same ones with each answer.
_STATUSES = Memo(_status)
_NAMES = Memo(lambda text: text.lower() if _NAME.fullmatch(text) else "")  # in lower case, "" for what is no name
_SAYS_CLOSE = Memo(lambda value: "close" in map(str.strip, value.lower().split(",")))


def _broken() -> UpstreamError:
    return UpstreamError("The provider's answer has broken HTTP framing.")


class Chunks:
    """Decodes a chunked body (RFC 9112 §7.1) in whatever pieces it comes."""

    def __init__(self) -> None:
        self._line = _FIRST_CHUNK
        self._left = 0  # bytes of the chunk that has begun
        self._held = b""  # a line that has begun
        self.is_over = False  # the last chunk has come
        self.is_clean = False  # and its trailer
        self.rest = b""  # what came behind

    def feed(self, data: bytes) -> bytes:
        """The bytes of the body in this piece. UpstreamError for a line that is no chunk's."""
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
        """Where the bytes of the next chunk begin; the end of the data if its line has not all come."""
        found = self._line.match(data, at)
        if not found:
            return self._hold(data, at)
        self._line, self._left = _NEXT_CHUNK, int(found[1], 16)
        if not self._left:
            self._end(data, found.end())
        return found.end()

    def _hold(self, data: bytes, at: int) -> int:
        if data.find(b"\n", at + 2) >= 0 or len(data) - at > MAX_CHUNK_LINE_BYTES:
            raise UpstreamError("The provider broke off its answer: a chunk has no size, or another one.")
        self._held = data[at:]
        return len(data)

    def _end(self, data: bytes, at: int) -> None:
        """The last chunk has come. A trailer says nothing of the bytes, so nobody waits for one."""
        found = _TRAILER.match(data, at)
        self.is_over, self.is_clean = True, bool(found)
        self.rest = data[found.end() :] if found else b""
