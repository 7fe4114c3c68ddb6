"""Streaming server-sent events (WHATWG HTML §9.2): complete events out of blocks that are cut anywhere. No I/O."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any

from ..calls import Answer
from ..errors import FilesproxyError, UpstreamError
from .headers import media_type
from .strict_json import Unreadable, dumps, loads

MAX_EVENT_BYTES = 8 << 20  # the last event of a response repeats the whole response
MEDIA_TYPE = "text/event-stream"
_BOM = b"\xef\xbb\xbf"
DONE = b"data: [DONE]\n\n"

#: the types of event that end a response; a chat completion ends with `[DONE]`
RESPONSE_ENDS = ("response.completed", "response.incomplete", "response.failed", "error")


def is_stream(answer: Answer) -> bool:
    """Whether the answer is a stream of events."""
    return answer.body is not None and media_type(answer.headers) == MEDIA_TYPE


def frames(blocks: Iterator[bytes], max_bytes: int = MAX_EVENT_BYTES) -> Iterator[list[bytes]]:
    """For each block, the events that it completes, if any: without the empty line after them, with LF as line end.

    An incomplete event at the end of the stream is dropped (§9.2.6), unless it is `[DONE]`. UpstreamError for an event
    of more than `max_bytes`.
    """
    held = bytearray()
    for text in _lines(_without_mark(blocks)):
        searched = max(0, len(held) - 1)
        held += text
        end = held.rfind(b"\n\n", searched)
        if end >= 0:
            whole = _split(held[:end])
            del held[: end + 2]
            if whole:
                yield whole
        if len(held) > max_bytes:
            raise UpstreamError(
                f"An event of the provider is over {max_bytes} bytes.", code="upstream_answer_too_large"
            )
    if held.strip() == DONE.strip():
        yield [bytes(held.strip())]


def _without_mark(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks without the byte order mark that a stream may begin with (§9.2.5)."""
    start = b""
    for block in blocks:
        start += block
        if len(start) >= len(_BOM) or not _BOM.startswith(start):
            break
    yield start[len(_BOM) :] if start.startswith(_BOM) else start
    yield from blocks


def _lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks with LF for each CR LF and each CR. A CR at the end of a block waits for the next block."""
    is_open = False
    for block in blocks:
        text = b"\r" + block if is_open else block
        is_open = text.endswith(b"\r")
        text = text[:-1] if is_open else text
        yield text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in text else text
    if is_open:
        yield b"\n"


def _split(held: bytearray) -> list[bytes]:
    return [frame for frame in (part.strip(b"\n") for part in bytes(held).split(b"\n\n")) if frame]


def data(frame: bytes) -> bytes:
    """The data of an event, its lines joined by LF; b"" for an event without data, such as a comment."""
    fields = (line[5:] for line in frame.split(b"\n") if line.startswith(b"data:"))
    return b"\n".join(value[1:] if value.startswith(b" ") else value for value in fields)


def passed_through(blocks: Iterator[bytes], last_types: Sequence[str] = ()) -> Generator[bytes, None, None]:
    """The complete events of each block. UpstreamError if the last one is not `[DONE]`, an error or of `last_types`."""
    last = b""
    for whole in frames(blocks):
        last = next((text for text in map(data, reversed(whole)) if text), last)
        yield b"\n\n".join(whole) + b"\n\n"
    if not _is_last(last.strip(), last_types):
        raise UpstreamError("The provider ended its stream early.")


def _is_last(text: bytes, last_types: Sequence[str]) -> bool:
    """Whether an event with this data may end a stream."""
    if text == b"[DONE]":
        return True
    try:
        value = loads(text)
    except Unreadable:
        return False
    return isinstance(value, dict) and (value.get("type") in last_types or bool(value.get("error")))


def event(value: Any) -> bytes:
    """An event whose data is this value as JSON."""
    return b"data: " + dumps(value) + b"\n\n"


def error_event(error: FilesproxyError) -> bytes:
    """The last event of a stream that fails after its status was sent. OpenAI's SDKs raise an exception for it."""
    return event(error.envelope())
