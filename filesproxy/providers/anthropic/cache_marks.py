"""Where a prompt may be cached: the marks of clients, and what Anthropic takes of them. Pure functions.

https://platform.claude.com/docs/en/build-with-claude/prompt-caching
"""

from __future__ import annotations

from collections.abc import Iterator

from ...calls import Json
from ...wire.json_fields import optional

MAX_MARKS = 4  # in one request
_MARKS = ("cache_control", "prompt_cache_breakpoint")
THOUGHTS = ("thinking", "redacted_thinking")  # the blocks that cannot have a cache mark


def with_cache_control(block: Json, part: Json, place: str) -> Json:
    """The block with the part's cache mark, if it has one."""
    mark = cache_mark(part, place)
    return {**block, "cache_control": mark} if mark else block


def cache_mark(obj: Json, place: str) -> Json | None:
    """The mark that a prompt may be cached up to this message, part or tool.

    It is Anthropic's own `cache_control`, which Portkey's clients may set, or OpenAI's `prompt_cache_breakpoint`, an
    object with or without fields, or true.
    """
    control = optional(obj, "cache_control", dict, place)
    is_switch = isinstance(obj.get("prompt_cache_breakpoint"), bool)
    point = optional(obj, "prompt_cache_breakpoint", bool if is_switch else dict, place)
    return control or (None if point is None or point is False else {"type": "ephemeral"})


def mark_last(blocks: list[Json], mark: Json | None, ignored: list[str], kind: str) -> None:
    """Give the last block this cache mark. `ignored` names it if that block cannot have it, or has another one."""
    if not mark:
        return
    if blocks and blocks[-1].get("type") not in THOUGHTS and (blocks[-1].get("cache_control") or mark) == mark:
        blocks[-1] = {**blocks[-1], "cache_control": mark}
    else:
        ignored.append(f"{kind}.cache_control")


def take_mark(block: Json, place: str) -> tuple[Json, Json | None]:
    """One of Anthropic's own blocks or tools without its cache mark, and the mark."""
    if not any(name in block for name in _MARKS):
        return block, None
    return {name: value for name, value in block.items() if name not in _MARKS}, cache_mark(block, place)


def limit_marks(request: Json, ignored: list[str]) -> None:
    """Remove the first of the cache marks if they are too many, which OpenAI allows: it takes the last ones."""
    lists = _lists_of_blocks(request)
    marked = [(blocks, n) for blocks in lists for n, block in enumerate(blocks) if "cache_control" in block]
    for blocks, n in marked[: max(0, len(marked) - MAX_MARKS + ("cache_control" in request))]:
        blocks[n] = {name: value for name, value in blocks[n].items() if name != "cache_control"}
        ignored.append("cache_control")


def _lists_of_blocks(request: Json) -> Iterator[list[Json]]:
    """The lists of what may have a cache mark, in the order of the prompt."""
    yield request.get("tools", [])
    yield request.get("system", [])
    for message in request["messages"]:
        yield from (block["content"] for block in message["content"] if _is_list_of_results(block))
        yield message["content"]


def _is_list_of_results(block: Json) -> bool:
    return block["type"] == "tool_result" and isinstance(block.get("content"), list)
