"""Translates tools and tool_choice into Anthropic's. https://platform.claude.com/docs/en/agents-and-tools"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator

from ...calls import Json
from ...wire.json_fields import at, objects, optional, required
from .cache_marks import cache_mark, mark_last, take_mark
from .content import refuse
from .schemas import closed

# The types of Anthropic's own tools end in a date. They are passed on unchanged.
_ANTHROPIC_TOOL = re.compile(r"[a-z_]{1,40}_[0-9]{8}")
_CODE_EXECUTION = re.compile(r"code_execution_[0-9]{8}")
_CHOICES = {"none": "none", "auto": "auto", "required": "any"}


def tools(body: Json, ignored: list[str]) -> list[Json]:
    """The tools, in their order. `ignored` gets the names of what is lost."""
    given = optional(body, "tools", list) or []
    return [_tool(tool, place, ignored) for place, tool in objects(given, "tools")]


def runs_code(made: list[Json]) -> bool:
    """Whether the tools include Anthropic's code execution tool, which can read any file."""
    return any(_CODE_EXECUTION.fullmatch(str(tool.get("type"))) for tool in made)


def _tool(tool: Json, place: str, ignored: list[str]) -> Json:
    kind = required(tool, "type", str, place)
    if _ANTHROPIC_TOOL.fullmatch(kind):
        bare, mark = take_mark(tool, place)
        return {**bare, "cache_control": mark} if mark else bare
    if kind != "function":
        refuse(place, "Only tools of the type function can be translated for Anthropic")
    function = required(tool, "function", dict, place)
    where = at(place, "function")
    schema = optional(function, "parameters", dict, where) or {"properties": {}}
    made: Json = {"name": required(function, "name", str, where), "input_schema": {"type": "object", **schema}}
    if description := optional(function, "description", str, where):
        made["description"] = description
    if optional(function, "strict", bool, where):
        made.update(strict=True, input_schema=closed(made["input_schema"], at(where, "parameters"), ignored))
    marked = [made]
    for mark in (cache_mark(tool, place), cache_mark(function, where)):
        mark_last(marked, mark, ignored, "tools")
    return marked[0]


def tool_choice(body: Json, made: list[Json], ignored: list[str]) -> tuple[Json, list[Json]]:
    """`{"tool_choice": …}`, which also replaces `parallel_tool_calls`, and the tools that may be used.

    The choice is empty for Anthropic's default. Anthropic has no `allowed_tools`: the other tools are not sent. The
    cache mark of such a tool goes to the last one that is sent, because it covers all up to there.
    """
    is_serial = optional(body, "parallel_tool_calls", bool) is False
    given = optional(body, "tool_choice", (str, dict))
    if given is None and not is_serial:
        return {}, made
    if isinstance(given, dict) and given.get("type") == "allowed_tools":
        given, names = _allowed(given, made)
        marks = [tool.get("cache_control") for tool in made if _key(tool) not in names]
        made = [tool for tool in made if _key(tool) in names]
        for mark in reversed(marks):
            mark_last(made, mark, ignored, "tools")
    choice = _choice(given)
    if is_serial and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    return {"tool_choice": choice}, made


def _allowed(choice: Json, made: list[Json]) -> tuple[str, Container[tuple[str, str]]]:
    """The mode of `allowed_tools`, and the keys of the tools that it names."""
    place = "tool_choice.allowed_tools"
    wanted = required(choice, "allowed_tools", dict, "tool_choice")
    mode = required(wanted, "mode", str, place)
    if mode not in ("auto", "required"):
        refuse(at(place, "mode"), "This mode has no translation for Anthropic")
    names = dict(_named(required(wanted, "tools", list, place), at(place, "tools")))
    keys = set(map(_key, made))
    missing = next((where for key, where in names.items() if key not in keys), "" if names else at(place, "tools"))
    if made and missing:
        refuse(missing, "This names none of the tools")
    return mode, names


def _named(given: list[Json], place: str) -> Iterator[tuple[tuple[str, str], str]]:
    """((type, name), place) of each tool that a choice names; Anthropic's own have their name in the type."""
    for where, tool in objects(given, place):
        kind, name = required(tool, "type", str, where), ""
        if kind == "function":
            name = required(required(tool, "function", dict, where), "name", str, at(where, "function"))
        yield (kind, name), where


def _key(tool: Json) -> tuple[str, str]:
    return (tool["type"], "") if "type" in tool else ("function", tool["name"])


def _choice(given: str | Json | None) -> Json:
    if given is None or isinstance(given, str):
        if given is not None and given not in _CHOICES:
            refuse("tool_choice", "This choice has no translation for Anthropic")
        return {"type": _CHOICES[given or "auto"]}
    if given.get("type") != "function":
        refuse("tool_choice", "This choice has no translation for Anthropic")
    function = required(given, "function", dict, "tool_choice")
    return {"type": "tool", "name": required(function, "name", str, "tool_choice.function")}
