"""Byte ranges of content (RFC 9110 §14), for providers that ignore Range. One range per request. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ..calls import Answer, Body
from ..errors import BadRequest, InvalidAnswer, RangeNotSatisfiable, UpstreamError
from .headers import codings, safe

_RANGE = re.compile(r"(?i:bytes)=([0-9]{0,19})-([0-9]{0,19})", re.ASCII)


def conditions(headers: Mapping[str, str]) -> dict[str, str]:
    """The client's Range and If-Range, if Range asks for one range of bytes; otherwise nothing (RFC 9110 §14.2).

    BadRequest for an If-Range that cannot be sent.
    """
    found = _RANGE.fullmatch(headers.get("range", "").strip())
    if not found or not (found[1] or found[2]):
        return {}
    asked = {"range": found[0]}
    if not safe("if-range", headers.get("if-range", "")):
        raise BadRequest("The header if-range contains characters that cannot be sent.", param="if-range")
    return {**asked, "if-range": headers["if-range"]} if "if-range" in headers else asked


def partial(answer: Answer, asked: Mapping[str, str]) -> Answer:
    """The requested range, cut out of a complete answer of known length. Any other answer is returned unchanged.

    RangeNotSatisfiable (416) if the content has no such range; UpstreamError for a 206 that was not requested. The
    answer stays complete if If-Range does not match it by a strong validator (RFC 9110 §13.1.5).
    """
    length = answer.headers.get("content-length")
    if answer.status == 206 and ("range" not in asked or "content-range" not in answer.headers):
        raise InvalidAnswer("The provider sent a range that was not requested.")
    body = answer.body
    if answer.status != 200 or body is None or length is None or codings(answer.headers):
        return answer
    answer = answer._replace(headers={**answer.headers, "accept-ranges": "bytes"})
    if "range" not in asked or length == "0" or not _is_current(asked.get("if-range"), answer.headers):
        return answer
    start, end = _bounds(asked["range"], int(length))
    headers = {
        **answer.headers,
        "content-length": str(end - start),
        "content-range": f"bytes {start}-{end - 1}/{length}",
    }
    return answer._replace(status=206, headers=headers, body=Slice(body, start, end))


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
    """The bytes of a body from `start` up to but not including `end`. What precedes them is skipped, or discarded."""

    def __init__(self, body: Body, start: int, end: int) -> None:
        self._body = body
        self._left = end - start
        skip = getattr(body, "skip", None)
        self._ahead = start - (skip(start) if skip else 0)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """The next bytes of the range. Raises what the body raises, and UpstreamError if it ends early."""
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
