"""Translates tools and tool_choice into Anthropic's. https://platform.claude.com/docs/en/agents-and-tools"""

from __future__ import annotations

import re

from ...calls import Json
from ...wire.json_fields import at, objects, optional, required
from .content import refuse, with_cache_control

# The types of Anthropic's own tools end in a date. They are passed on unchanged.
_ANTHROPIC_TOOL = re.compile(r"[a-z_]{1,40}_[0-9]{8}")
_CODE_EXECUTION = re.compile(r"code_execution_[0-9]{8}")
_CHOICES = {"none": "none", "auto": "auto", "required": "any"}


def tools(body: Json) -> Json:
    """`{"tools": …}`; empty without tools."""
    given = optional(body, "tools", list)
    return {"tools": [_tool(tool, place) for place, tool in objects(given, "tools")]} if given else {}


def runs_code(body: Json) -> bool:
    """Whether the tools include Anthropic's code execution tool, which can read any file."""
    given = optional(body, "tools", list) or []
    return any(_CODE_EXECUTION.fullmatch(str(tool.get("type"))) for _, tool in objects(given, "tools"))


def _tool(tool: Json, place: str) -> Json:
    kind = required(tool, "type", str, place)
    if _ANTHROPIC_TOOL.fullmatch(kind):
        return tool
    if kind != "function":
        refuse(place, "Only tools of the type function can be translated for Anthropic")
    function = required(tool, "function", dict, place)
    where = at(place, "function")
    schema = optional(function, "parameters", dict, where) or {"properties": {}}
    made: Json = {"name": required(function, "name", str, where), "input_schema": {"type": "object", **schema}}
    if description := optional(function, "description", str, where):
        made["description"] = description
    if optional(function, "strict", bool, where):
        made["strict"] = True
    return with_cache_control(made, tool, place)


def tool_choice(body: Json) -> Json:
    """`{"tool_choice": …}`, which also replaces `parallel_tool_calls`; empty for Anthropic's default."""
    is_serial = optional(body, "parallel_tool_calls", bool) is False
    given = optional(body, "tool_choice", (str, dict))
    if given is None and not is_serial:
        return {}
    choice = _choice(given)
    if is_serial and choice["type"] != "none":
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
