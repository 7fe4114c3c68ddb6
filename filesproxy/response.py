"""An answer's head and chunks, read more strictly than http.client does.

It lets a head end with the connection, at any byte; takes a bare CR for a line's end, so that one header becomes two;
reads `+5` and `1_0` as numbers; and skips two bytes behind a chunk whatever they are. Each hides a cut or a splice.
"""

from __future__ import annotations

import re
from http.client import HTTPException, HTTPResponse, parse_headers
from typing import IO, Any

from .errors import UpstreamError
from .headers import misread

MAX_INFORMATIONAL = 16  # 1xx answers before the real one
MAX_LINE_BYTES = 65536  # http.client's own

_STATUS_LINE = re.compile(rb"HTTP/1\.[0-9]+[ \t]+[0-9]{3}(?:[ \t][^\r\n]*)?\r?\n")
_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")  # RFC 9112 §7.1
_LENGTH = re.compile(r"[0-9]{1,19}", re.ASCII)


class Response(HTTPResponse):
    """An HTTP response. It passes over 1xx answers, of which urllib takes 103 for the last word (RFC 9110 §15.2)."""

    def begin(self) -> None:
        """Read the head. HTTPException for one that is cut, or holds what a line must not."""
        stream = self.fp
        self.fp = _Head(stream)  # type: ignore[assignment]
        super().begin()
        if self.fp is not None:  # an answer without a body has closed it
            self.fp = stream

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MAX_INFORMATIONAL):
            line: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
            if not 100 <= line[1] < 200 or line[1] == 101:
                return line
            parse_headers(self.fp)
            self.fp.is_first = True  # type: ignore[attr-defined]
        raise HTTPException("too many informational answers")

    def _read_next_chunk_size(self) -> int:
        found = _CHUNK_SIZE.fullmatch(self.fp.readline(MAX_LINE_BYTES + 1))
        if not found:
            raise HTTPException("a chunk has no size")
        return int(found[1], 16)

    def _safe_read(self, amt: int) -> bytes:
        end: bytes = super()._safe_read(amt)  # type: ignore[misc]
        if end != b"\r\n":  # while chunks are read as they come, this is called for what ends one
            raise HTTPException("a chunk does not end where it said")
        return end


class _Head:
    """The stream while a head is read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.is_first = True  # the next line is a status line

    def readline(self, limit: int) -> bytes:
        """A line with its end."""
        line = self._stream.readline(limit)
        if line and len(line) < limit and not line.endswith(b"\n"):
            raise HTTPException("the head was cut")
        if not line and not self.is_first:
            raise HTTPException("the head was cut")
        if line and self.is_first and not _STATUS_LINE.fullmatch(line):
            raise HTTPException("this is no status line")
        if b"\r" in line[:-2]:
            raise HTTPException("a header line holds a bare CR")
        self.is_first = False
        return line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def check(response: HTTPResponse, whole: bool) -> None:
    """Refuse what two readers could read differently (RFC 9112 §6.3), and success for half an upload."""
    lengths = response.headers.get_all("content-length", [])
    codings = response.headers.get_all("transfer-encoding", [])
    if (
        misread(response.headers)
        or response.status == 101
        or len(lengths) + len(codings) > 1
        or not all(_LENGTH.fullmatch(length.strip(" \t")) for length in lengths)
        or any(coding.lower() != "chunked" for coding in codings)
    ):
        raise UpstreamError("The provider's answer has broken HTTP framing.")
    if not whole and response.status < 400:
        raise UpstreamError("The provider answered before the upload had ended.")
