"""OpenAI's chat completion request as Anthropic's Messages request. Pure functions.

What has no meaning there and does no harm is ignored, and named; what would change the answer is a 400 that names it.
https://platform.claude.com/docs/en/api/messages
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ...calls import Json
from ...errors import BadRequest
from ...wire.json_fields import NUMBER, at, objects, optional, required
from ...wire.strict_json import MAX_VALUES, Unreadable, loads, marks
from .content import cached, refuse, text_blocks, user_blocks
from .tools import runs_code, tool_choice, tools

DEFAULT_MAX_TOKENS = 4096  # Anthropic wants a limit, OpenAI has none
#: a budget for models that want one, by effort; they have no adaptive thinking
BUDGETS = {"minimal": 1024, "low": 1024, "medium": 4096, "high": 16384, "xhigh": 32768, "max": 32768}

_BUDGETED = re.compile(r"claude-(3-7-|(opus|sonnet|haiku)-4(-[0-5])?(-[0-9]{8}|@|$))")
_THOUGHTLESS = re.compile(r"claude-(3-[0-5]|3-(opus|sonnet|haiku)|2|instant)")
# These change nothing at these values; at others the answer would not be what was asked for.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "modalities": (["text"],),
    "functions": (),
    "function_call": ("none",),
    "audio": (),
    "web_search_options": (),
}
_HANDLED = {
    "model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "stop", "stream",
    "stream_options", "user", "tools", "tool_choice", "parallel_tool_calls", "reasoning_effort", "thinking",
    "response_format", *_NEUTRAL,
}  # fmt: skip
_USERS_BLOCKS = ("document", "image", "tool_result", "container_upload")
_NAMEABLE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MAX_NAMED = 20


def messages_request(body: Json, known: Mapping[str, str]) -> tuple[Json, list[str]]:
    """The Messages request, and the names of the fields that are ignored.

    `known` has the media types of files that come without one, by id. BadRequest names what cannot be translated.
    """
    _check_neutral(body)
    _check_arguments(body["messages"])
    ignored = [name for name in body if name not in _HANDLED and body[name] is not None and _NAMEABLE.fullmatch(name)]
    system, messages = _conversation(body["messages"], known, runs_code(body))
    request: Json = {"model": required(body, "model", str), "max_tokens": _max_tokens(body), "messages": messages}
    request.update({"system": system} if system else {})
    request.update(_sampling(body, ignored))
    choice = tool_choice(body)
    request.update({**tools(body), **choice} if body.get("tools") else {})
    if not body.get("tools"):
        ignored += [name for name in ("tool_choice", "parallel_tool_calls") if body.get(name) is not None]
    if any(isinstance(message, dict) and message.get("name") for message in body["messages"]):
        ignored.append("messages.name")
    request.update(_output(body))
    request.update(_thinking(body, request, ignored))
    if optional(body, "stream", bool):
        optional(optional(body, "stream_options", dict) or {}, "include_usage", bool, "stream_options")
        request["stream"] = True
    return request, ignored[:_MAX_NAMED]


def file_ids(body: Json) -> Iterator[tuple[str, Json]]:
    """(place, file) of every file part that refers to an uploaded file."""
    for place, message in objects(body["messages"], "messages"):
        content = message.get("content")
        for part_place, part in objects(content, at(place, "content")) if isinstance(content, list) else ():
            if part.get("type") == "file" and part["file"].get("file_id"):
                yield at(part_place, "file.file_id"), part["file"]


def _check_neutral(body: Json) -> None:
    for name, values in _NEUTRAL.items():
        if body.get(name) is not None and not any(_is(body[name], value) for value in values):
            raise BadRequest(f"'{name}' has no translation for Anthropic, at this value.", param=name)


def _is(value: Any, other: Any) -> bool:
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def _check_arguments(messages: list[Any]) -> None:
    """Each text of arguments may hold as many values as a whole request, so all of them together are counted."""
    lists = [message.get("tool_calls") for message in messages if isinstance(message, dict)]
    calls = [call for given in lists if isinstance(given, list) for call in given if isinstance(call, dict)]
    functions = [call["function"] for call in calls if isinstance(call.get("function"), dict)]
    texts = [function["arguments"] for function in functions if isinstance(function.get("arguments"), str)]
    if sum(marks(text.encode("utf-8", "replace")) for text in texts) > MAX_VALUES:
        raise BadRequest(f"The arguments of tool calls hold more than {MAX_VALUES} values.", param="messages")


def _max_tokens(body: Json) -> int:
    newer, older = optional(body, "max_completion_tokens", int), optional(body, "max_tokens", int)
    given: int | None = older if newer is None else newer
    if given is not None and given < 1:
        name = "max_tokens" if newer is None else "max_completion_tokens"
        raise BadRequest(f"'{name}' must be 1 or more.", param=name)
    return DEFAULT_MAX_TOKENS if given is None else given


def _sampling(body: Json, ignored: list[str]) -> Json:
    """Temperature and its like; OpenAI's goes to 2, Anthropic's to 1, and newer models take one of the two only."""
    found: Json = {}
    for name in ("temperature", "top_p"):
        value = optional(body, name, NUMBER)
        if value is not None:
            found[name] = min(max(value, 0), 1)
    if len(found) > 1:
        del found["top_p"]
        ignored.append("top_p")
    if (top_k := optional(body, "top_k", int)) is not None:
        found["top_k"] = top_k
    if stop := _stop(body):
        found["stop_sequences"] = stop
    if user := optional(body, "user", str):
        found["metadata"] = {"user_id": user}
    return found


def _stop(body: Json) -> list[str]:
    stop = optional(body, "stop", (str, list))
    sequences: list[Any] = [stop] if isinstance(stop, str) else stop or []
    for index, sequence in enumerate(sequences):
        if not isinstance(sequence, str):
            raise BadRequest(f"'stop[{index}]' must be text.", param=f"stop[{index}]")
    return [sequence for sequence in sequences if sequence]


def _output(body: Json) -> Json:
    wanted = optional(body, "response_format", dict)
    kind = required(wanted, "type", str, "response_format") if wanted else "text"
    if kind == "text" or wanted is None:
        return {}
    if kind != "json_schema":
        refuse("response_format", "Anthropic has json_schema only")
    schema = required(
        required(wanted, "json_schema", dict, "response_format"), "schema", dict, "response_format.json_schema"
    )
    return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}


def _thinking(body: Json, request: Json, ignored: list[str]) -> Json:
    """`thinking` as it is, else what `reasoning_effort` means for the model's generation."""
    given, effort = optional(body, "thinking", dict), optional(body, "reasoning_effort", str)
    if effort is not None and effort not in ("none", *BUDGETS):
        raise BadRequest(f"'reasoning_effort' is none, {', '.join(BUDGETS)}.", param="reasoning_effort")
    if given or effort is None or effort == "none" or _THOUGHTLESS.match(request["model"]):
        ignored += ["reasoning_effort"] if effort not in (None, "none") else []
        return _given_thinking(body, given) if given else {}
    if _BUDGETED.match(request["model"]):
        return _budget(body, request, BUDGETS[effort], ignored)
    level = "low" if effort == "minimal" else effort
    request.update(_plain_sampling(request, ignored))
    return {
        "thinking": {"type": "adaptive"},
        "output_config": {**request.get("output_config", {}), "effort": level},
    }


def _given_thinking(body: Json, thinking: Json) -> Json:
    """The client's own, and above its budget the default for an answer if the client set no limit."""
    budget = optional(thinking, "budget_tokens", int, "thinking")
    room = {} if budget is None or _is_limited(body) else {"max_tokens": DEFAULT_MAX_TOKENS + budget}
    return {"thinking": thinking, **room}


def _is_limited(body: Json) -> bool:
    return body.get("max_tokens") is not None or body.get("max_completion_tokens") is not None


def _budget(body: Json, request: Json, budget: int, ignored: list[str]) -> Json:
    """Thinking by budget, which is a part of max_tokens. It goes with no forced tool, and with no tool loop that began
    without it, whose thoughts are gone."""
    is_limited = _is_limited(body)
    limit: int = request["max_tokens"] if is_limited else request["max_tokens"] + budget
    is_forced = request.get("tool_choice", {}).get("type") in ("any", "tool")
    if limit <= 1024 or is_forced or _is_in_a_thoughtless_loop(request["messages"]):
        ignored.append("reasoning_effort")
        return {}
    request.update(_plain_sampling(request, ignored))
    share = max(1024, min(budget, limit // 2)) if is_limited else budget  # the answer needs some of it too
    return {"max_tokens": limit, "thinking": {"type": "enabled", "budget_tokens": share}}


def _plain_sampling(request: Json, ignored: list[str]) -> Json:
    """Nothing, after taking away what does not go with thinking."""
    for name in ("temperature", "top_p", "top_k"):
        if request.pop(name, None) is not None:
            ignored.append(name)
    return {}


def _is_in_a_thoughtless_loop(messages: list[Json]) -> bool:
    last = next((message for message in reversed(messages) if message["role"] == "assistant"), None)
    kinds = [block["type"] for block in last["content"]] if last else []
    return "tool_use" in kinds and kinds[0] not in ("thinking", "redacted_thinking")


def _conversation(given: list[Any], known: Mapping[str, str], with_code: bool) -> tuple[list[Json], list[Json]]:
    """The system's blocks, and the messages, of which neighbours with one role are one: so are tool results."""
    system: list[Json] = []
    messages: list[Json] = []
    for place, message in objects(given, "messages"):
        role = required(message, "role", str, place)
        if role in ("system", "developer"):
            system += text_blocks(message.get("content"), at(place, "content"))
            continue
        speaker, blocks = _turn(role, message, place, known, with_code)
        if blocks and messages and messages[-1]["role"] == speaker:
            messages[-1]["content"] += blocks
        elif blocks:
            messages.append({"role": speaker, "content": blocks})
    if not messages:
        raise BadRequest("'messages' has nothing to answer.", param="messages")
    for turn in messages:
        turn["content"].sort(key=lambda block: bool(block["type"] != "tool_result"))  # Anthropic wants these first
    return system, messages


def _turn(role: str, message: Json, place: str, known: Mapping[str, str], with_code: bool) -> tuple[str, list[Json]]:
    if role == "user":
        return "user", user_blocks(message.get("content"), at(place, "content"), known, with_code)
    if role == "assistant":
        return "assistant", _assistant(message, place)
    if role == "tool":
        return "user", [_tool_result(message, place)]
    refuse(at(place, "role"), "This role has no translation for Anthropic")


def _assistant(message: Json, place: str) -> list[Json]:
    """Its thoughts, text and tool calls. `content_blocks` are what a client got that was not strict: thoughts too."""
    for name in ("function_call", "audio"):
        if message.get(name) is not None:
            refuse(at(place, name), "This has no translation for Anthropic")
    blocks = _given_blocks(message, place)
    if not any(block["type"] == "text" for block in blocks):
        blocks += _said(message.get("content"), at(place, "content"))
        refusal = optional(message, "refusal", str, place)
        blocks += [{"type": "text", "text": refusal}] if refusal else []
    calls = optional(message, "tool_calls", list, place) or []
    return blocks + [_tool_use(call, where) for where, call in objects(calls, at(place, "tool_calls"))]


def _said(content: Any, place: str) -> list[Json]:
    if not isinstance(content, list):
        return text_blocks(content, place)
    plain = [
        {"type": "text", "text": required(part, "refusal", str, where)} if part.get("type") == "refusal" else part
        for where, part in objects(content, place)
    ]
    return text_blocks(plain, place)


def _given_blocks(message: Json, place: str) -> list[Json]:
    given = optional(message, "content_blocks", list, place) or []
    for where, block in objects(given, at(place, "content_blocks")):
        if required(block, "type", str, where) in _USERS_BLOCKS:
            refuse(where, "A block of this type is none of an assistant's")
    return [block for block in given if block["type"] != "tool_use" and block.get("text") != ""]


def _tool_use(call: Json, place: str) -> Json:
    if call.get("type", "function") != "function":
        refuse(place, "Only calls of functions can be translated for Anthropic")
    function = required(call, "function", dict, place)
    place, where = at(place, "function"), place
    text = required(function, "arguments", str, place)
    try:
        arguments = loads(text.encode("utf-8", "surrogatepass"), unique_keys=True) if text.strip() else {}
    except Unreadable as problem:
        raise BadRequest(
            f"'{at(place, 'arguments')}' cannot be used: {problem}.", param=at(place, "arguments")
        ) from None
    if not isinstance(arguments, dict):
        raise BadRequest(f"'{at(place, 'arguments')}' must be a JSON object.", param=at(place, "arguments"))
    name, call_id = required(function, "name", str, place), required(call, "id", str, where)
    return cached({"type": "tool_use", "id": call_id, "name": name, "input": arguments}, call, where)


def _tool_result(message: Json, place: str) -> Json:
    found: Json = {"type": "tool_result", "tool_use_id": required(message, "tool_call_id", str, place)}
    content = message.get("content")
    blocks = text_blocks(content, at(place, "content"))
    if blocks:
        found["content"] = content if isinstance(content, str) else blocks
    return cached(found, message, place)
