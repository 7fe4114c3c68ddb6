"""OpenAI's tools and tool_choice as Anthropic's. Pure functions. https://platform.claude.com/docs/en/agents-and-tools"""

from __future__ import annotations

import re

from ...calls import Json
from ...wire.json_fields import at, objects, optional, required
from .content import cached, refuse

# Anthropic's own tools carry the date of their version: they go as they are.
_ANTHROPICS = re.compile(r"[a-z_]{1,40}_[0-9]{8}")
_CODE_EXECUTION = re.compile(r"code_execution_[0-9]{8}")
_CHOICES = {"none": "none", "auto": "auto", "required": "any"}


def tools(body: Json) -> Json:
    """`tools`, or nothing."""
    given = optional(body, "tools", list)
    return {"tools": [_tool(tool, place) for place, tool in objects(given, "tools")]} if given else {}


def runs_code(body: Json) -> bool:
    """Whether Anthropic's code execution tool is among the tools, which can read any file."""
    given = optional(body, "tools", list) or []
    return any(_CODE_EXECUTION.fullmatch(str(tool.get("type"))) for _, tool in objects(given, "tools"))


def _tool(tool: Json, place: str) -> Json:
    kind = required(tool, "type", str, place)
    if _ANTHROPICS.fullmatch(kind):
        return tool
    if kind != "function":
        refuse(place, "Only functions can be translated for Anthropic")
    function = required(tool, "function", dict, place)
    where = at(place, "function")
    schema = optional(function, "parameters", dict, where) or {"properties": {}}
    made: Json = {"name": required(function, "name", str, where), "input_schema": {"type": "object", **schema}}
    if description := optional(function, "description", str, where):
        made["description"] = description
    if optional(function, "strict", bool, where):
        made["strict"] = True
    return cached(made, tool, place)


def tool_choice(body: Json) -> Json:
    """`tool_choice`, which at Anthropic also says that calls come one by one; nothing for its default."""
    one_by_one = optional(body, "parallel_tool_calls", bool) is False
    given = optional(body, "tool_choice", (str, dict))
    if given is None and not one_by_one:
        return {}
    choice = _choice(given)
    if one_by_one and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    return {"tool_choice": choice}


def _choice(given: str | Json | None) -> Json:
    if given is None or isinstance(given, str):
        if given is not None and given not in _CHOICES:
            refuse("tool_choice", "This choice has no translation for Anthropic")
        return {"type": _CHOICES[given or "auto"]}
    if given.get("type") != "function":
        refuse("tool_choice", "This choice has no translation for Anthropic")
    function = required(given, "function", dict, "tool_choice")
    return {"type": "tool", "name": required(function, "name", str, "tool_choice.function")}
