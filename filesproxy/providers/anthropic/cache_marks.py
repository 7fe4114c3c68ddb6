"""Where a prompt may be cached: the marks of clients, and what Anthropic takes of them. Pure functions.

https://platform.claude.com/docs/en/build-with-claude/prompt-caching
"""

from __future__ import annotations

from collections.abc import Iterator

from ...calls import Json
from ...wire.json_fields import optional

MAX_MARKS = 4  # in one request


def with_cache_control(block: Json, part: Json, place: str) -> Json:
    """The block with the part's cache mark, if it has one."""
    mark = cache_mark(part, place)
    return {**block, "cache_control": mark} if mark else block


def cache_mark(obj: Json, place: str) -> Json | None:
    """The mark that a prompt may be cached up to this message, part or tool.

    It is Anthropic's own `cache_control`, which Portkey's clients may set, or OpenAI's `prompt_cache_breakpoint`.
    """
    control, point = optional(obj, "cache_control", dict, place), optional(obj, "prompt_cache_breakpoint", dict, place)
    return control or ({"type": "ephemeral"} if point else None)


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
