"""Translates Anthropic's message into OpenAI's chat completion. https://platform.claude.com/docs/en/api/messages"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ...calls import Json
from ..toolkit import need, unusable

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def completion(message: Any, is_strict: bool, now: float) -> Json:
    """The chat.completion. Unknown blocks are ignored, as Anthropic asks. UpstreamError names a missing field.

    `now` (seconds since the epoch) becomes `created`.
    """
    return {
        "id": need(message, "id", str),
        "object": "chat.completion",
        "created": int(now),
        "model": need(message, "model", str),
        "choices": [
            {
                "index": 0,
                "message": _message(need(message, "content", list), is_strict),
                "logprobs": None,
                "finish_reason": finish_reason(message.get("stop_reason")),
            }
        ],
        "usage": usage(need(message, "usage", dict)),
    }


def finish_reason(stop_reason: Any) -> str:
    """OpenAI's finish_reason; `stop` for an unknown reason."""
    return _FINISH_REASONS.get(stop_reason, "stop") if isinstance(stop_reason, str) else "stop"


#: the numbers of a usage that are translated
COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens",
          "output_tokens_details")  # fmt: skip


def usage(counts: Json) -> Json:
    """OpenAI's usage, in which prompt tokens include the cache's, and completion tokens include thinking's."""
    read, written = count(counts, "cache_read_input_tokens"), count(counts, "cache_creation_input_tokens")
    prompt, answer = need(counts, "input_tokens", int) + read + written, need(counts, "output_tokens", int)
    details = counts.get("output_tokens_details")
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
        "completion_tokens_details": {
            "reasoning_tokens": count(details, "thinking_tokens") if isinstance(details, dict) else 0
        },
    }


def count(counts: Json, name: str) -> int:
    """A number of tokens; 0 if it is missing or null."""
    return 0 if counts.get(name) is None else need(counts, name, int)


def _message(blocks: Sequence[Any], is_strict: bool) -> Json:
    texts = [need(block, "text", str) for block in blocks if _kind(block) == "text"]
    calls = [_tool_call(block) for block in blocks if _kind(block) == "tool_use"]
    message: Json = {"role": "assistant", "content": "".join(texts) if texts or not calls else None, "refusal": None}
    if calls:
        message["tool_calls"] = calls
    if not is_strict:
        message["content_blocks"] = [block for block in blocks if _kind(block) != "tool_use"]
    return message


def _kind(block: Any) -> Any:
    if not isinstance(block, dict):
        raise unusable("content")
    return need(block, "type", str)


def _tool_call(block: Json) -> Json:
    arguments = json.dumps(need(block, "input", dict), separators=(",", ":"), ensure_ascii=False)
    function = {"name": need(block, "name", str), "arguments": arguments}
    return {"id": need(block, "id", str), "type": "function", "function": function}
