"""Byte ranges of content (RFC 9110 §14), for providers that ignore them. Single ranges; no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ..calls import Answer, Body, replace
from ..errors import BadRequest, RangeNotSatisfiable, UpstreamError
from .headers import safe

_RANGE = re.compile(r"(?i:bytes)=([0-9]{0,19})-([0-9]{0,19})", re.ASCII)


def conditions(headers: Mapping[str, str]) -> dict[str, str]:
    """A client's Range and If-Range, if they ask for one range of bytes; others are ignored (RFC 9110 §14.2)."""
    found = _RANGE.fullmatch(headers.get("range", "").strip())
    if not found or not (found[1] or found[2]):
        return {}
    asked = {"range": found[0]}
    if not safe("if-range", headers.get("if-range", "")):
        raise BadRequest("The header if-range holds characters that cannot be sent.", param="if-range")
    return {**asked, "if-range": headers["if-range"]} if "if-range" in headers else asked


def partial(answer: Answer, asked: Mapping[str, str]) -> Answer:
    """The part that was asked for, cut out of a whole answer of known length; else the answer as it is.

    RangeNotSatisfiable (416) where it has no such part. An If-Range that does not name this very representation by a
    strong validator makes the answer whole (RFC 9110 §13.1.5).
    """
    length = answer.headers.get("content-length")
    if answer.status == 206 and ("range" not in asked or "content-range" not in answer.headers):
        raise UpstreamError("The provider sent a part that nobody asked for.", code="upstream_invalid_answer")
    if answer.status != 200 or answer.body is None or length is None or "content-encoding" in answer.headers:
        return answer
    answer = replace(answer, headers={**answer.headers, "accept-ranges": "bytes"})
    if "range" not in asked or length == "0" or not _is_current(asked.get("if-range"), answer.headers):
        return answer
    start, end = _bounds(asked["range"], int(length))
    headers = {
        **answer.headers,
        "content-length": str(end - start),
        "content-range": f"bytes {start}-{end - 1}/{length}",
    }
    assert answer.body is not None
    return replace(answer, status=206, headers=headers, body=Slice(answer.body, start, end))


def _is_current(validator: str | None, headers: Mapping[str, str]) -> bool:
    if validator is None:
        return True
    strong_tag = validator.startswith('"') and validator == headers.get("etag")
    return strong_tag or (not validator.startswith(("W/", '"')) and validator == headers.get("last-modified"))


def _bounds(asked: str, length: int) -> tuple[int, int]:
    first, last = asked[len("bytes=") :].split("-")
    if first:
        start, end = int(first), min(int(last) + 1 if last else length, length)
    else:
        start, end = max(0, length - int(last)), length
    if start >= end:
        raise RangeNotSatisfiable("The file has no such range.", headers={"content-range": f"bytes */{length}"})
    return start, end


class Slice:
    """The bytes from `start` to before `end` of a body; skips where the body can, else reads and forgets."""

    def __init__(self, body: Body, start: int, end: int) -> None:
        self._body = body
        self._left = end - start
        skip = getattr(body, "skip", None)
        self._ahead = start - (skip(start) if skip else 0)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """The next bytes of the range; whatever the body raises."""
        while self._left:
            block = next(self._body, None)
            if block is None:
                raise UpstreamError("The provider ended its answer early.")
            wanted = block[self._ahead : self._ahead + self._left]
            self._ahead = max(0, self._ahead - len(block))
            self._left -= len(wanted)
            if wanted:
                return wanted
        self.close()
        raise StopIteration

    def close(self) -> None:
        """Close the body."""
        self._body.close()
