"""Streaming server-sent events (WHATWG HTML §9.2): complete events out of blocks that are cut anywhere. No I/O."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from ..calls import Answer, Body
from ..errors import FilesproxyError, UpstreamError
from .headers import media_type
from .strict_json import BOM, Unreadable, dumps, loads

MAX_EVENT_BYTES = 8 << 20  # the last event of a response repeats the whole response
MEDIA_TYPE = "text/event-stream"
DONE = b"data: [DONE]\n\n"
_EMPTY_LINE = re.compile(rb"\n\n|\r\n\r\n|\r\r")
_FIRST_DATA = re.compile(rb"^data:(?: [^\n]|[^ \n])", re.MULTILINE)

MAX_FIRST_LINE = 4096  # bytes of the line that shows that a body of another type has events
MAX_CHOICES = 128  # of one answer: the most that OpenAI's `n` asks for

_IGNORED = re.compile(rb"[\r\n]+|:[^\r\n]{0,%d}[\r\n]" % MAX_FIRST_LINE)  # before the first event
_FIRST_LINE = re.compile(rb"[^\r\n]{0,%d}[\r\n]" % MAX_FIRST_LINE)
_FIELDS = (b"data:", b"event:", b"id:", b"retry:")
_GAP = rb"(?:\s|data:)*"  # between two tokens of JSON, which may be on several lines of an event
# What only an event has that ends an answer, a chat's or one of RESPONSE_ENDS. Most chunks have `"finish_reason":null`,
# and are not parsed.
_MAY_END = re.compile(
    rb'"(?:finish_reason|error)"%b:%b[^\sn]|"type"%b:%b"(?:response\.(?:completed|incomplete|failed)|error)"'
    % ((_GAP,) * 4)
)
AFTER_DONE = 16  # blocks that are read after `[DONE]`, so that the connection can be used again

#: the types of event that end a response; a chat completion ends with `[DONE]`
RESPONSE_ENDS = ("response.completed", "response.incomplete", "response.failed", "error")


def is_stream(answer: Answer) -> bool:
    """Whether the answer is a stream of events."""
    return answer.body is not None and media_type(answer.headers) == MEDIA_TYPE


def recognised(blocks: Body) -> tuple[bool, Body]:
    """Whether a body of another media type begins as events do, and its blocks, those that were read to tell included.

    Some hosts send events as text/plain or without a type. They are told by their first line: after a byte order mark,
    blank lines and comments, it must be complete, of at most MAX_FIRST_LINE bytes, and begin with a field's name.
    """
    held, is_start = b"", True
    for block in blocks:
        held += block
        if is_start and len(held) < len(BOM) and BOM.startswith(held):
            continue
        held, is_start = held.removeprefix(BOM) if is_start else held, False
        at = 0
        while found := _IGNORED.match(held, at):
            at = found.end()
        held = held[at:]  # so that comments without end need no memory
        if _FIRST_LINE.match(held):
            return held.startswith(_FIELDS), _again(held, blocks)
        if len(held) > MAX_FIRST_LINE:
            break
    return False, _again(held, blocks)


def _again(held: bytes, blocks: Body) -> Generator[bytes, None, None]:
    yield held
    yield from blocks


def frames(blocks: Iterator[bytes], max_bytes: int = MAX_EVENT_BYTES) -> Iterator[list[bytes]]:
    """For each block, the events that it completes, if any: without the empty line after them, with LF as line end.

    An incomplete event at the end of the stream is dropped (§9.2.6), unless its data is whole: `[DONE]`, or an object
    of JSON. UpstreamError for an event of more than `max_bytes`.
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
            del whole
        if len(held) > max_bytes:
            raise UpstreamError(
                f"An event of the provider is over {max_bytes} bytes.", code="upstream_answer_too_large"
            )
    rest = bytes(held.strip(b"\n"))
    text = data(rest).strip()
    if text == b"[DONE]" or (text.startswith(b"{") and isinstance(_value(text), dict)):
        yield [rest]


def _without_mark(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks without the byte order mark that a stream may begin with (§9.2.5)."""
    start = b""
    for block in blocks:
        start += block
        if len(start) >= len(BOM) or not BOM.startswith(start):
            break
    yield start[len(BOM) :] if start.startswith(BOM) else start
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


def ends_event(block: bytes) -> bool:
    """Whether an event, or only empty lines, end in this block. May miss an end that is cut in two."""
    return bool(_EMPTY_LINE.search(block))


def has_data(events: bytes) -> bool:
    """Whether any of these complete events has data. One without is a keep-alive (§9.2.6 does not dispatch it)."""
    return events.startswith(b"data: {") or bool(_FIRST_DATA.search(events))


def passed_through(
    blocks: Iterator[bytes], last_types: Sequence[str] = (), has_several: bool = False
) -> Generator[bytes, None, None]:
    """The complete events of each block, up to `[DONE]`.

    An answer is whole if its client has seen its end: `[DONE]`, an error, an event of one of `last_types`, or, in a
    chat, a finish_reason of every choice that began; then a missing `[DONE]` is added. UpstreamError for any other end.
    `has_several` says that more than one choice was asked for.
    """
    blocks = iter(blocks)
    answer = _Progress(last_types)
    for whole in frames(blocks):
        text = b"\n\n".join(whole) + b"\n\n"
        if b"[DONE]" in text and (place := _done(whole)) is not None:
            yield b"\n\n".join(whole[: place + 1]) + b"\n\n"
            _read_to_the_end(blocks)
            return
        if has_several or _MAY_END.search(text):
            answer.note(whole)
        yield text
        del whole, text  # an event of megabytes must not be kept while the next one is waited for
    if not answer.is_whole:
        raise UpstreamError("The provider ended its stream early.")
    if not answer.has_ended:
        yield DONE


def _done(whole: list[bytes]) -> int | None:
    return next((place for place, frame in enumerate(whole) if data(frame).strip() == b"[DONE]"), None)


def _read_to_the_end(blocks: Iterator[bytes]) -> None:
    """Read what little may follow `[DONE]`. The client has its whole answer, so no failure matters any more."""
    with suppress(FilesproxyError):
        for _ in islice(blocks, AFTER_DONE):
            pass


class _Progress:
    """How far an answer has come, by what its client has seen."""

    def __init__(self, last_types: Sequence[str]) -> None:
        self._last_types = last_types
        self._begun: set[int] = set()  # indexes of choices
        self._finished: set[int] = set()
        self.has_ended = False  # by an event that is the last one, or an error

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing but, perhaps, `[DONE]`."""
        return self.has_ended or (bool(self._finished) and self._begun <= self._finished)

    def note(self, whole: list[bytes]) -> None:
        """Note what these events say."""
        for value in map(_value, map(data, whole)):
            if isinstance(value, dict):
                self.has_ended |= value.get("type") in self._last_types or bool(value.get("error"))
                choices = value.get("choices")
                for choice in choices if isinstance(choices, list) and not self._last_types else ():
                    self._note_choice(choice)

    def _note_choice(self, choice: Any) -> None:
        if isinstance(choice, dict):
            index = choice.get("index")
            index = index if isinstance(index, int) and index in range(MAX_CHOICES) else 0
            self._begun.add(index)
            if choice.get("finish_reason") not in (None, "", "null"):  # some hosts write the last two for "not yet"
                self._finished.add(index)


def _value(text: bytes) -> Any:
    """The value of this JSON; None if it is not JSON."""
    try:
        return loads(text)
    except Unreadable:
        return None


def event(value: Any) -> bytes:
    """An event whose data is this value as JSON."""
    return b"data: " + dumps(value) + b"\n\n"


def error_event(error: FilesproxyError) -> bytes:
    """The last event of a stream that fails after its status was sent. OpenAI's SDKs raise an exception for it."""
    return event(error.envelope())
