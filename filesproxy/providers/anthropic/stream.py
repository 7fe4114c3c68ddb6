"""Translates Anthropic's stream of events into OpenAI's chunks, event by event.

Unknown events, blocks and deltas are ignored, as Anthropic asks. A stream that ends before its `message_stop` is an
error. https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

from ...calls import Json
from ...errors import FilesproxyError, InvalidAnswer, UpstreamAnswered, UpstreamError
from ...wire import sse
from ...wire.strict_json import Unreadable, dumps, loads
from ..toolkit import need, unusable
from .answer import COUNTS, finish_reason, usage
from .errors import STATUSES, error

MAX_TOOL_CALLS = 1000  # of one answer
MAX_WORD = 256  # characters of the message's id, and of its model's name
PING = b": ping\n\n"  # a comment, which SDKs skip and which keeps proxies from closing an idle connection


def chunks(blocks: Iterator[bytes], is_strict: bool, with_usage: bool, now: float) -> Generator[bytes, None, None]:
    """The events of a chat completion: its chunks, those of one block together, and `[DONE]`.

    b"" stands for events that have none, such as a strict client's thinking: the model is not silent. `with_usage` adds
    the chunk that `stream_options.include_usage` asks OpenAI for. `now` (seconds since the epoch) becomes `created`.
    UpstreamAnswered for an error event, UpstreamError for a stream that is malformed or ends early.
    """
    stream = _Stream(is_strict, with_usage, int(now))
    for whole in sse.frames(blocks):
        made: list[bytes] = []
        failure = stream.translate_all(filter(None, map(sse.data, whole)), made)
        if b"" in made:
            yield b""
        if any(made):
            yield b"".join(made)
        if failure:
            raise failure
        if stream.is_over:
            return
        del whole, made  # as in `sse.passed_through`
    raise UpstreamError("The provider ended its stream early.")


class _Stream:
    """The state of one stream. Tool calls are numbered from 0, not counting the blocks between them."""

    def __init__(self, is_strict: bool, with_usage: bool, created: int) -> None:
        self._is_strict = is_strict
        self._with_usage = with_usage
        self._created = created
        self._head = b""  # the beginning of every chunk, up to its delta
        self._usage: Json = {}
        self._tools: dict[int, int] = {}  # index of a block → number of its tool call
        self._is_empty: set[int] = set()  # indexes of tool blocks without arguments so far
        self._has_finished = False
        self.is_over = False

    def translate_all(self, events: Iterator[bytes], made: list[bytes]) -> FilesproxyError | None:
        """Append the chunks of these events to `made`, up to the stream's last event. Returns the failure, if any."""
        try:
            for data in events:
                made.append(self.translate(data))
                if self.is_over:
                    break
        except FilesproxyError as failure:
            return failure
        return None

    def translate(self, data: bytes) -> bytes:
        """The chunks of one event, from its JSON; b"" if it has none."""
        try:
            event = loads(data)
        except Unreadable:
            raise InvalidAnswer("An event of the provider is not valid JSON.") from None
        handler = _HANDLERS.get(need(event, "type", str))
        if handler is None:
            return b""
        if not self._head and handler not in _BEFORE_THE_START:
            raise InvalidAnswer("The provider's stream has no message_start.")
        return handler(self, event)

    def start(self, event: Json) -> bytes:
        message = need(event, "message", dict)
        fixed = {"id": _word(message, "id"), "object": "chat.completion.chunk", "created": self._created}
        fixed["model"] = _word(message, "model")
        self._count(need(message, "usage", dict))
        self._head = b"data: " + dumps(fixed)[:-1] + b',"choices":[{"index":0,"delta":'
        return self._chunk({"role": "assistant", "content": ""})

    def ping(self, event: Json) -> bytes:
        return PING

    def block_start(self, event: Json) -> bytes:
        index, block = need(event, "index", int), need(event, "content_block", dict)
        kind = need(block, "type", str)
        if kind == "tool_use":
            return self._tool_start(index, block)
        if kind == "text" and block.get("text"):
            return self._text(index, need(block, "text", str))
        if kind == "redacted_thinking" and not self._is_strict:
            return self._extra(index, {"data": block.get("data")})
        return b""

    def _tool_start(self, index: int, block: Json) -> bytes:
        if len(self._tools) >= MAX_TOOL_CALLS:
            message = f"The provider's stream has more than {MAX_TOOL_CALLS} tool calls."
            raise UpstreamError(message, code="upstream_answer_too_large")
        number = self._tools[index] = len(self._tools)
        given = need(block, "input", dict) if block.get("input") else {}
        if not given:
            self._is_empty.add(index)
        function = {"name": need(block, "name", str), "arguments": dumps(given).decode() if given else ""}
        call = {"index": number, "id": need(block, "id", str), "type": "function", "function": function}
        return self._chunk({"tool_calls": [call]})

    def block_delta(self, event: Json) -> bytes:
        index, delta = need(event, "index", int), need(event, "delta", dict)
        kind = need(delta, "type", str)
        if kind == "text_delta":
            return self._text(index, need(delta, "text", str))
        if kind == "input_json_delta" and index in self._tools:
            return self._arguments(index, need(delta, "partial_json", str))
        if not self._is_strict and kind in _EXTRAS:
            return self._extra(index, {name: delta[name] for name in _EXTRAS[kind] if name in delta})
        return b""

    def block_stop(self, event: Json) -> bytes:
        index = need(event, "index", int)
        if index not in self._is_empty:
            return b""
        return self._arguments(index, "{}")  # without arguments nothing was streamed, and "" is not valid JSON

    def message_delta(self, event: Json) -> bytes:
        counts = event.get("usage")
        if isinstance(counts, dict):  # cumulative; null means unchanged
            self._count(counts)
        reason = need(event, "delta", dict).get("stop_reason")
        return b"" if reason is None else self._finish(reason)

    def _count(self, counts: Json) -> None:
        """Note the known numbers only: a stream that goes on for ever could name ever new ones."""
        self._usage.update({name: counts[name] for name in COUNTS if counts.get(name) is not None})

    def _finish(self, reason: Any) -> bytes:
        if self._has_finished:
            return b""
        self._has_finished = True
        return self._chunk({}, dumps(finish_reason(reason)))

    def stop(self, event: Json) -> bytes:
        self.is_over = True
        end = self._finish(None)  # if no event gave a reason
        if not self._with_usage:
            return end + sse.DONE
        head = self._head[: self._head.index(b',"choices":')]
        return end + head + b',"choices":[],"usage":' + dumps(usage(self._usage)) + b"}\n\n" + sse.DONE

    def failure(self, event: Json) -> bytes:
        found = error(event)
        inner = event.get("error")
        kind = inner.get("type") if isinstance(inner, dict) else None
        status = STATUSES.get(kind, 500) if isinstance(kind, str) else 500
        raise UpstreamAnswered(status, {**found, "type": found["type"] or "server_error"}, {})

    def _text(self, index: int, text: str) -> bytes:
        extra = {} if self._is_strict else {"content_blocks": [{"index": index, "delta": {"text": text}}]}
        return self._chunk({"content": text, **extra})

    def _arguments(self, index: int, partial: str) -> bytes:
        if partial:
            self._is_empty.discard(index)
        return self._chunk({"tool_calls": [{"index": self._tools[index], "function": {"arguments": partial}}]})

    def _extra(self, index: int, delta: Json) -> bytes:
        return self._chunk({"content_blocks": [{"index": index, "delta": delta}]})

    def _chunk(self, delta: Json, reason: bytes = b"null") -> bytes:
        usage_yet = b',"usage":null' if self._with_usage else b""
        return self._head + dumps(delta) + b',"logprobs":null,"finish_reason":' + reason + b"}]" + usage_yet + b"}\n\n"


def _word(message: Json, name: str) -> str:
    """A short text, which every chunk repeats: one of megabytes would make megabytes of every small event."""
    text: str = need(message, name, str)
    if len(text) > MAX_WORD:
        raise unusable(name)
    return text


_EXTRAS = {"thinking_delta": ("thinking",), "signature_delta": ("signature",), "citations_delta": ("citation",)}
_HANDLERS: dict[str, Callable[[_Stream, Any], bytes]] = {
    "message_start": _Stream.start,
    "ping": _Stream.ping,
    "content_block_start": _Stream.block_start,
    "content_block_delta": _Stream.block_delta,
    "content_block_stop": _Stream.block_stop,
    "message_delta": _Stream.message_delta,
    "message_stop": _Stream.stop,
    "error": _Stream.failure,
}
_BEFORE_THE_START = (_Stream.start, _Stream.ping, _Stream.failure)
