"""`wsgi.input` of the embedded server: a request body that ends at its length, or that is decoded from chunks."""

from __future__ import annotations

import re
from io import BufferedReader
from typing import Any

MAX_CHUNK_LINE_BYTES = 256
MAX_TRAILER_BYTES = 8192

_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(;[\t\x20-\x7e\x80-\xff]*)?\r\n")


class RequestStream:
    """A body that ends at its Content-Length, or, if `length` is None, decoded from chunks (RFC 9112 §7.1).

    `on_first_read` is called before the first read. Reading raises ValueError for a bad chunk, and EOFError if the
    client closes the connection early.
    """

    def __init__(self, stream: BufferedReader, length: int | None, on_first_read: Any) -> None:
        self._stream = stream
        self._chunked = length is None
        self._left = length or 0  # bytes of the body, or of the current chunk
        self._on_first_read = on_first_read
        self.ended = length == 0

    def read(self, size: int = -1) -> bytes:
        """The bytes that have arrived, up to `size`; b"" at the end."""
        if self._on_first_read and not self.ended:
            self._on_first_read()
        self._on_first_read = None
        if self._chunked and not self._left and not self.ended:
            self._left = self._next_chunk()
        block = self._stream.read1(min(size if size >= 0 else 1 << 20, self._left)) if self._left else b""
        if self._left and not block and size:
            raise EOFError("the client closed the connection")
        self._left -= len(block)
        if not self._left:
            self._end_of_chunk()
        return block

    def _next_chunk(self) -> int:
        found = _CHUNK_SIZE.fullmatch(self._stream.readline(MAX_CHUNK_LINE_BYTES))
        if not found:
            raise ValueError("a chunk does not start with a valid size")
        return int(found[1], 16) or self._last_chunk()

    def _last_chunk(self) -> int:
        seen = 0
        while seen <= MAX_TRAILER_BYTES:
            line = self._stream.readline(MAX_TRAILER_BYTES)
            if line == b"\r\n":
                self.ended = True
                return 0
            if not line.endswith(b"\n"):
                break
            seen += len(line)
        raise ValueError("the trailer section is too long or was cut off")

    def _end_of_chunk(self) -> None:
        if not self._chunked:
            self.ended = True
        elif not self.ended and self._stream.read(2) != b"\r\n":
            raise ValueError("a chunk does not end after its announced size")
