"""Names the fields inside messages, tools and formats that have no translation. Pure functions.

Leaving them out does no harm, but a client should know: `x-filesproxy-ignored` has their names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...calls import Json

# The fields that are translated.
_MARKS = {"cache_control", "prompt_cache_breakpoint"}
_OF_MESSAGES = {"role", "content", *_MARKS}
_OF_ROLES = {
    "assistant": {*_OF_MESSAGES, "tool_calls", "refusal", "content_blocks"},
    "tool": {*_OF_MESSAGES, "tool_call_id"},
}
_OF_CALLS = {"id", "type", "function", "index", *_MARKS}  # the index says what the order says
_OF_CALLED = {"name", "arguments", *_MARKS}
_OF_PARTS = {"type", "text", "refusal", "image_url", "file", *_MARKS}
_OF_IMAGES = {"url"}
_OF_FILES = {"file_id", "file_data", "file_url", "filename", "mime_type"}
_OF_TOOLS = {"type", "function", *_MARKS}
_OF_FUNCTIONS = {"name", "description", "parameters", "strict", *_MARKS}
_OF_FORMATS = {"name", "schema", "strict"}


def untranslated(body: Json) -> Iterator[str]:
    """The names, such as `messages.content.image_url.detail`, of a body that has been translated."""
    for message in body["messages"]:
        yield from _others(message, _OF_ROLES.get(message["role"], _OF_MESSAGES), "messages")
        if message["role"] == "assistant" and _has_lost_call(message):
            yield "messages.content_blocks"
        for call in message.get("tool_calls") or () if message["role"] == "assistant" else ():
            yield from _others(call, _OF_CALLS, "messages.tool_calls")
            yield from _others(call["function"], _OF_CALLED, "messages.tool_calls.function")
        for part in message["content"] if isinstance(message.get("content"), list) else ():
            place = "messages.content"
            yield from _others(part, _OF_PARTS, place)
            yield from _others(part.get("file"), _OF_FILES, f"{place}.file")
            image = part.get("image_url")
            is_plain = isinstance(image, dict) and image.get("detail") == "auto"
            yield from _others(image, _OF_IMAGES | ({"detail"} if is_plain else set()), f"{place}.image_url")
    for tool in body.get("tools") or ():
        if tool["type"] == "function":
            yield from _others(tool, _OF_TOOLS, "tools")
            yield from _others(tool["function"], _OF_FUNCTIONS, "tools.function")
    wanted = body.get("response_format") or {}
    yield from _others(wanted.get("json_schema"), _OF_FORMATS, "response_format.json_schema")


def _has_lost_call(message: Json) -> bool:
    """Whether `content_blocks` has a call that `tool_calls`, which replace its calls, do not have."""
    kept = {call["id"] for call in message.get("tool_calls") or ()}
    blocks = message.get("content_blocks") or ()
    return any(block["type"] == "tool_use" and str(block.get("id")) not in kept for block in blocks)


def _others(obj: Any, known: set[str], place: str) -> Iterator[str]:
    """The places of an object's other fields, if they say anything."""
    if isinstance(obj, dict) and not obj.keys() <= known:
        others = {name: value for name, value in obj.items() if name not in known}
        yield from (f"{place}.{name}" for name, value in others.items() if value not in (None, "", [], {}))
