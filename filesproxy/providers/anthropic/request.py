"""Translates OpenAI's chat completion request into Anthropic's Messages request. Pure functions.

A field without a translation is ignored and reported if that does no harm; if it would change the answer, it is a 400
that names the field. https://platform.claude.com/docs/en/api/messages
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from ...calls import Json
from ...errors import BadRequest
from ...wire.json_fields import NUMBER, at, objects, optional, required
from ...wire.strict_json import MAX_VALUES, marks
from .cache_marks import limit_marks
from .content import refuse
from .conversation import Conversation
from .schemas import closed
from .tools import runs_code, tool_choice, tools
from .untranslated import untranslated

DEFAULT_MAX_TOKENS = 4096  # Anthropic requires a limit; OpenAI does not
#: reasoning effort → thinking budget in tokens, for models without adaptive thinking
BUDGETS = {"minimal": 1024, "low": 1024, "medium": 4096, "high": 16384, "xhigh": 32768, "max": 32768}

_BUDGETED = re.compile(r"claude-(3-7-|(opus|sonnet|haiku)-4(-[0-5])?(-[0-9]{8}|@|$))")
_WITHOUT_THINKING = re.compile(r"claude-(3-[0-5]|3-(opus|sonnet|haiku)|2|instant)")
# Fields without a translation, and the values at which they change nothing. Other values are refused.
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
    "response_format", "cache_control", *_NEUTRAL,
}  # fmt: skip

MAX_USER = 256  # characters of metadata.user_id
# Anthropic refuses an identifier that names a person. More than these may pass; what they match is never worth a 400.
_PERSONAL = re.compile(r"\S@\S|^\s*(\+[\d\s().-]{7,}|\(?\d{2,4}[\s().-]+[\d\s().-]{5,}|\d{10,15})\s*$", re.ASCII)
_NAMEABLE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MAX_NAMED = 20


def messages_request(body: Json, known: Mapping[str, str]) -> tuple[Json, list[str]]:
    """The Messages request, and the names of the fields that were ignored.

    `known` maps file ids to media types that were looked up. BadRequest names what cannot be translated.
    """
    _check_neutral(body)
    _check_arguments(body["messages"])
    ignored = [name for name in body if name not in _HANDLED and body[name] is not None]
    choice, made = tool_choice(body, tools(body, ignored), ignored)
    system, messages = Conversation(body["messages"], known, runs_code(made), ignored).translated()
    request: Json = {"model": required(body, "model", str), "max_tokens": _max_tokens(body), "messages": messages}
    request.update({"system": system} if system else {})
    request.update(_sampling(body, ignored))
    request.update({"tools": made, **choice} if made else {})
    if not made:
        ignored += [name for name in ("tool_choice", "parallel_tool_calls") if body.get(name) is not None]
    if control := optional(body, "cache_control", dict):
        request["cache_control"] = control
    limit_marks(request, ignored)
    request.update(_output_format(body, ignored))
    ignored += untranslated(body)
    request.update(_thinking(body, request, ignored))
    if optional(body, "stream", bool):
        optional(optional(body, "stream_options", dict) or {}, "include_usage", bool, "stream_options")
        request["stream"] = True
    return request, list(islice(dict.fromkeys(filter(_NAMEABLE.fullmatch, ignored)), _MAX_NAMED))


def file_ids(body: Json) -> Iterator[tuple[str, Json]]:
    """(place, file) of every file part that refers to an uploaded file."""
    for place, message in objects(body["messages"], "messages"):
        content = message.get("content")
        for part_place, part in objects(content, at(place, "content")) if isinstance(content, list) else ():
            if part.get("type") == "file" and part["file"].get("file_id"):
                yield at(part_place, "file.file_id"), part["file"]


def _check_neutral(body: Json) -> None:
    for name, values in _NEUTRAL.items():
        if body.get(name) is not None and not any(_is_same(body[name], value) for value in values):
            raise BadRequest(f"This value of '{name}' cannot be translated for Anthropic.", param=name)


def _is_same(value: Any, other: Any) -> bool:
    """Whether both are equal in JSON, where 1 is not true."""
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def _check_arguments(messages: list[Any]) -> None:
    """Count the values in all arguments together: each one alone may have as many as a whole request."""
    lists = [message.get("tool_calls") for message in messages if isinstance(message, dict)]
    calls = [call for given in lists if isinstance(given, list) for call in given if isinstance(call, dict)]
    functions = [call["function"] for call in calls if isinstance(call.get("function"), dict)]
    texts = [function["arguments"] for function in functions if isinstance(function.get("arguments"), str)]
    if sum(marks(text.encode("utf-8", "replace")) for text in texts) > MAX_VALUES:
        raise BadRequest(f"The arguments of the tool calls have more than {MAX_VALUES} values.", param="messages")


def _max_tokens(body: Json) -> int:
    newer, older = optional(body, "max_completion_tokens", int), optional(body, "max_tokens", int)
    given: int | None = older if newer is None else newer
    if given is not None and given < 1:
        name = "max_tokens" if newer is None else "max_completion_tokens"
        raise BadRequest(f"'{name}' must be 1 or more.", param=name)
    return DEFAULT_MAX_TOKENS if given is None else given


def _sampling(body: Json, ignored: list[str]) -> Json:
    """Temperature, top_p, top_k, stop sequences, and the user.

    OpenAI's temperature goes to 2, Anthropic's to 1. Newer models accept only one of `temperature` and `top_p`.
    """
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
        if len(user) > MAX_USER or _PERSONAL.search(user):
            ignored.append("user")
        else:
            found["metadata"] = {"user_id": user}
    return found


def _stop(body: Json) -> list[str]:
    stop = optional(body, "stop", (str, list))
    sequences: list[Any] = [stop] if isinstance(stop, str) else stop or []
    for index, sequence in enumerate(sequences):
        if not isinstance(sequence, str):
            raise BadRequest(f"'stop[{index}]' must be text.", param=f"stop[{index}]")
        if sequence.isspace():
            refuse("stop" if isinstance(stop, str) else f"stop[{index}]", "Anthropic cannot stop at white space")
    return [sequence for sequence in sequences if sequence]


def _output_format(body: Json, ignored: list[str]) -> Json:
    wanted = optional(body, "response_format", dict)
    kind = required(wanted, "type", str, "response_format") if wanted else "text"
    if kind == "text" or wanted is None:
        return {}
    if kind != "json_schema":
        refuse("response_format", "Anthropic supports only json_schema")
    place = "response_format.json_schema"
    schema = required(required(wanted, "json_schema", dict, "response_format"), "schema", dict, place)
    schema = closed(schema, at(place, "schema"), ignored)
    return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}


def _thinking(body: Json, request: Json, ignored: list[str]) -> Json:
    """The client's own `thinking`, or what `reasoning_effort` means for this model's generation."""
    given, effort = optional(body, "thinking", dict), optional(body, "reasoning_effort", str)
    if effort is not None and effort not in ("none", *BUDGETS):
        raise BadRequest(f"'reasoning_effort' must be one of none, {', '.join(BUDGETS)}.", param="reasoning_effort")
    if given or effort is None or effort == "none" or _WITHOUT_THINKING.match(request["model"]):
        ignored += ["reasoning_effort"] if effort not in (None, "none") else []
        return _own_thinking(body, given) if given else {}
    if _BUDGETED.match(request["model"]):
        return _thinking_with_budget(body, request, BUDGETS[effort], ignored)
    level = "low" if effort == "minimal" else effort
    _drop_sampling(request, ignored)
    return {
        "thinking": {"type": "adaptive"},
        "output_config": {**request.get("output_config", {}), "effort": level},
    }


def _own_thinking(body: Json, thinking: Json) -> Json:
    """The client's own `thinking`. If the client set no limit, the answer gets the default on top of the budget."""
    budget = optional(thinking, "budget_tokens", int, "thinking")
    room = {} if budget is None or _is_limited(body) else {"max_tokens": DEFAULT_MAX_TOKENS + budget}
    return {"thinking": thinking, **room}


def _is_limited(body: Json) -> bool:
    return body.get("max_tokens") is not None or body.get("max_completion_tokens") is not None


def _thinking_with_budget(body: Json, request: Json, budget: int, ignored: list[str]) -> Json:
    """Thinking with a budget, which is part of max_tokens.

    Anthropic refuses it with a forced tool, and in a tool loop that began without thinking.
    """
    is_limited = _is_limited(body)
    limit: int = request["max_tokens"] if is_limited else request["max_tokens"] + budget
    is_forced = request.get("tool_choice", {}).get("type") in ("any", "tool")
    if limit <= 1024 or is_forced or _is_in_tool_loop_without_thinking(request["messages"]):
        ignored.append("reasoning_effort")
        return {}
    _drop_sampling(request, ignored)
    share = max(1024, min(budget, limit // 2)) if is_limited else budget  # the rest is for the answer
    return {"max_tokens": limit, "thinking": {"type": "enabled", "budget_tokens": share}}


def _drop_sampling(request: Json, ignored: list[str]) -> None:
    """Remove the sampling fields, which Anthropic refuses with thinking."""
    for name in ("temperature", "top_p", "top_k"):
        if request.pop(name, None) is not None:
            ignored.append(name)


def _is_in_tool_loop_without_thinking(messages: list[Json]) -> bool:
    last = next((message for message in reversed(messages) if message["role"] == "assistant"), None)
    kinds = [block["type"] for block in last["content"]] if last else []
    return "tool_use" in kinds and kinds[0] not in ("thinking", "redacted_thinking")
