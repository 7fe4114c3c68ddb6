"""Translates the messages of OpenAI's chat into Anthropic's: system blocks, turns, tool calls and their results.

Pure functions. https://platform.claude.com/docs/en/api/messages
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...calls import Json
from ...errors import BadRequest
from ...wire.json_fields import at, objects, optional, required
from ...wire.strict_json import Unreadable, loads
from .cache_marks import THOUGHTS, cache_mark, mark_last, take_mark, with_cache_control
from .call_ids import CallIds
from .content import refuse, text_blocks, user_blocks

_USER_BLOCKS = ("document", "image", "tool_result", "container_upload")
_NEVER_MARKED = ("tool_use", *THOUGHTS)  # blocks of an earlier answer: `tool_calls` replace the first


class Conversation:
    """The translation of one request's messages.

    `known` maps file ids to media types that were looked up. `runs_code` says whether the request has the code
    execution tool. `ignored` gets the names of what has no place in Anthropic's messages.
    """

    def __init__(self, messages: list[Any], known: Mapping[str, str], runs_code: bool, ignored: list[str]) -> None:
        self._given = objects(messages, "messages")
        self._known = known
        self._runs_code = runs_code
        self._ignored = ignored
        self._ids = CallIds(_call_ids(messages))

    def translated(self) -> tuple[list[Json], list[Json]]:
        """The system blocks, and the messages. Neighbours of one role are merged; a tool's result counts as a user's.

        BadRequest names what cannot be translated.
        """
        system: list[Json] = []
        messages: list[Json] = []
        for place, message in self._given:
            role, blocks = self._turn(required(message, "role", str, place), message, place)
            blocks = self._without_blanks(blocks)
            self._mark(blocks, cache_mark(message, place))
            if role == "system":
                system += blocks
            elif blocks and messages and messages[-1]["role"] == role:
                messages[-1]["content"] += blocks
            elif blocks:
                messages.append({"role": role, "content": blocks})
        if not messages:
            raise BadRequest("'messages' has no content to answer.", param="messages")
        for turn in messages:  # Anthropic requires results first
            turn["content"].sort(key=lambda block: bool(block["type"] != "tool_result"))
        last = messages[-1]["content"][-1]
        if messages[-1]["role"] == "assistant" and last["type"] == "text":  # Anthropic goes on from there
            messages[-1]["content"][-1] = {**last, "text": last["text"].rstrip()}
        return system, messages

    def _turn(self, role: str, message: Json, place: str) -> tuple[str, list[Json]]:
        content, where = message.get("content"), at(place, "content")
        if role in ("system", "developer"):
            return "system", text_blocks(content, where)
        if role in ("user", "tool"):
            self._ids.end_turn()
        if role == "user":
            return "user", user_blocks(content, where, self._known, self._runs_code)
        if role == "assistant":
            return "assistant", self._assistant(message, place)
        if role == "tool":
            return "user", [self._tool_result(message, place)]
        refuse(at(place, "role"), "This role has no translation for Anthropic")

    def _without_blanks(self, blocks: list[Json]) -> list[Json]:
        """The blocks without text of white space only, which Anthropic refuses in any message.

        The cache mark of such a block goes to the block before it, whose prefix is the same.
        """
        kept: list[Json] = []
        for block in blocks:
            if _is_blank(block):
                self._mark(kept, block.get("cache_control"))
            else:
                kept.append(block)
        return kept

    def _mark(self, blocks: list[Json], mark: Json | None) -> None:
        mark_last(blocks, mark, self._ignored, "messages")

    def _assistant(self, message: Json, place: str) -> list[Json]:
        """The blocks of an assistant: thinking, text and tool calls.

        `content_blocks` is what a client that is not strict got in an earlier answer, thinking included. Its text
        replaces `content`, and `tool_calls` replace its calls: the cache marks of what is replaced, and of thoughts,
        which cannot have one, go to the message's last block.
        """
        for name in ("function_call", "audio"):
            if message.get(name) is not None:
                refuse(at(place, name), "This has no translation for Anthropic")
        blocks, marks = _given_blocks(message, place)
        if not any(block["type"] == "text" and not _is_blank(block) for block in blocks):
            blocks += _spoken(message.get("content"), at(place, "content"))
            refusal = optional(message, "refusal", str, place)
            blocks += [{"type": "text", "text": refusal}] if refusal else []
        elif isinstance(message.get("content"), list):
            marks += [cache_mark(part, where) for where, part in objects(message["content"], at(place, "content"))]
        calls = optional(message, "tool_calls", list, place) or []
        blocks += [self._tool_use(call, where) for where, call in objects(calls, at(place, "tool_calls"))]
        for mark in reversed(marks):
            self._mark(blocks, mark)
        return blocks

    def _tool_use(self, call: Json, place: str) -> Json:
        if call.get("type", "function") != "function":
            refuse(place, "Only calls of the type function can be translated for Anthropic")
        function = required(call, "function", dict, place)
        arguments = _arguments(function, at(place, "function"))
        name, call_id = required(function, "name", str, at(place, "function")), required(call, "id", str, place)
        used = [{"type": "tool_use", "id": self._ids.of_call(call_id), "name": name, "input": arguments}]
        for mark in (cache_mark(call, place), cache_mark(function, at(place, "function"))):
            self._mark(used, mark)
        return used[0]

    def _tool_result(self, message: Json, place: str) -> Json:
        """The result of a tool: text, images and documents, but no files for the code execution tool."""
        result_of = self._ids.of_result(required(message, "tool_call_id", str, place))
        found: Json = {"type": "tool_result", "tool_use_id": result_of}
        content = message.get("content")
        blocks = self._without_blanks(user_blocks(content, at(place, "content"), self._known, runs_code=False))
        if blocks:
            found["content"] = content if isinstance(content, str) else blocks
        return found


def _call_ids(messages: list[Any]) -> Iterator[str]:
    for message in messages:
        calls = message.get("tool_calls")
        ids = [call.get("id") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
        yield from (call_id for call_id in [*ids, message.get("tool_call_id")] if isinstance(call_id, str))


def _is_blank(block: Json) -> bool:
    return block["type"] == "text" and isinstance(block.get("text"), str) and not block["text"].strip()


def _spoken(content: Any, place: str) -> list[Json]:
    if not isinstance(content, list):
        return text_blocks(content, place)
    plain = [
        _as_text(part, where) if part.get("type") == "refusal" else part for where, part in objects(content, place)
    ]
    return text_blocks(plain, place)


def _as_text(part: Json, place: str) -> Json:
    return with_cache_control({"type": "text", "text": required(part, "refusal", str, place)}, part, place)


def _given_blocks(message: Json, place: str) -> tuple[list[Json], list[Json | None]]:
    """The `content_blocks` but the calls, and the cache marks of those that cannot be sent with theirs."""
    given = optional(message, "content_blocks", list, place) or []
    blocks: list[Json] = []
    marks: list[Json | None] = []
    for where, block in objects(given, at(place, "content_blocks")):
        if required(block, "type", str, where) in _USER_BLOCKS:
            refuse(where, "An assistant has no block of this type")
        if block["type"] == "text":
            required(block, "text", str, where)
        bare, mark = take_mark(block, where)
        if block["type"] in _NEVER_MARKED:
            marks.append(mark)
        elif mark:
            bare["cache_control"] = mark
        if block["type"] != "tool_use":
            blocks.append(bare)
    return blocks, marks


def _arguments(function: Json, function_place: str) -> Any:
    """The input of a call. Null, nothing, white space and `[]` (PHP's empty array) are a call without arguments."""
    text, place = optional(function, "arguments", str, function_place), at(function_place, "arguments")
    try:
        loaded = loads(text.encode("utf-8", "surrogatepass"), unique_keys=True) if text and text.strip() else None
    except Unreadable as problem:
        raise BadRequest(f"'{place}' cannot be used: {problem}.", param=place) from None
    if loaded not in (None, []) and not isinstance(loaded, dict):
        raise BadRequest(f"'{place}' must be a JSON object.", param=place)
    return loaded or {}
