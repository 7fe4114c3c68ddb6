"""Where a request names objects at a provider: in the declared places, and in any text that is an id. No I/O."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ..calls import Call, Json
from ..errors import BadRequest, TooLarge
from ..operations import OPERATIONS, ids_at
from ..wire.json_fields import MAX_NAME_IN_PLACE, at, place_of

MAX_ID = 256  # characters of an id that the ledger can have
MAX_TEXTS = 50_000  # of a request or a line, which may be ids; together they take a few MiB
# Words of the contract, which are no ids. They need not be looked up for every chat.
_WORDS = frozenset({
    "", "assistant", "auto", "body", "content", "custom_id", "detail", "developer", "effort", "file",
    "filename", "format", "function", "high", "id", "image_url", "include", "input", "input_file", "input_image",
    "input_text", "instructions", "json_object", "json_schema", "low", "max_completion_tokens", "max_output_tokens",
    "max_tokens", "medium", "message", "messages", "metadata", "method", "model", "n", "name", "none", "object",
    "output_text", "parameters", "properties", "purpose", "reasoning", "required", "response_format", "role", "schema",
    "seed", "store", "stream", "stream_options", "strict", "string", "system", "temperature", "text", "tool",
    "tool_call_id", "tool_calls", "tool_choice", "tools", "top_p", "type", "url", "user",
})  # fmt: skip
# Where a tool of Responses names objects.
_IN_TOOL = (
    "container",
    "container.container_id",
    "container.file_ids[]",
    "environment.container_id",
    "environment.file_ids[]",
    "input_image_mask.file_id",
    "vector_store_ids[]",
)
# Where an item of the input names objects.
_IN_ITEM = ("container_id", "environment.container_id", "approval_request_id")
# The beginnings of the last name in a place, and what kind of id is there; else it is a file's.
_KIND_AT = {"previous_response": "response", "comparison_response": "response", "container": "container",
            "vector_store": "vector_store", "model": "model", "conversation": "conversation"}  # fmt: skip
_AUTO = "auto"  # in the place of a container's id: the provider makes one


def normal(text: str) -> str:
    """A text as ids are compared: without spaces around it, compatibility forms of characters as these themselves.

    A text that is too long to be an id stays so: those forms can be eighteen times as long.
    """
    text = text.strip()
    return text if len(text) > MAX_ID or text.isascii() else unicodedata.normalize("NFKC", text).strip()


def folded(text: str) -> str:
    """A text with its ASCII letters in lower case, as the ledger compares ids."""
    return text.lower() if text.isascii() else "".join(each.lower() if each.isascii() else each for each in text)


def texts_in(value: Any) -> set[str]:
    """Each text of a JSON value that can be an id, names of fields included, as `normal` has it. Prose has spaces.

    TooLarge if there are more than MAX_TEXTS of them.
    """
    found: set[str] = set()
    left = [value]
    while left:
        outer = left.pop()
        if type(outer) is dict:
            found.update(outer)
            inside: Iterable[Any] = outer.values()
        else:
            inside = outer
        for inner in inside:
            kind = type(inner)
            if kind is str:
                if len(inner) <= MAX_ID or len(inner.strip()) <= MAX_ID:
                    found.add(inner)
            elif kind is dict or kind is list:
                left.append(inner)
        if len(found) > MAX_TEXTS:
            raise TooLarge(f"The request has more than {MAX_TEXTS} different texts of one word, too many to judge.")
    return {text for text in map(normal, found - _WORDS) if can_be_id(text)}


def place_in(value: Any, text: str) -> str:
    """The place of a text that `texts_in` has found; "" if it is not there."""
    left: list[tuple[Any, Any]] = [(value, None)]
    while left:
        outer, path = left.pop()
        for key, inner in outer.items() if isinstance(outer, dict) else enumerate(outer):
            if text in (normal(each) for each in (key, inner) if isinstance(each, str)):
                return place_of((path, key))
            if isinstance(inner, (dict, list)):
                left.append((inner, (path, key)))
    return ""


def can_be_id(text: str) -> bool:
    """Whether this can be an id: of up to MAX_ID characters that can be printed, none of them a space."""
    return 0 < len(text) <= MAX_ID and text.isprintable() and " " not in text


def named_in(operation: str, body: Json) -> Iterator[tuple[str, str]]:
    """(place, id) of the objects that a request names where the contract says so. The caller must own them.

    Of an operation that is not served here, only a fine-tuned model is known.
    """
    route = OPERATIONS.get(operation)
    for place in route.request_ids if route else ():
        yield from ids_at(body, place)
    model = body.get("model")
    if isinstance(model, str) and is_tuned(model):
        yield "model", model
    if route and route.kind == "response":
        yield from _in_response(body)


def is_tuned(model: str) -> bool:
    """Whether this names a fine-tuned model, which is somebody's own.

    As OpenAI names them, `ft:gpt-4o-mini:acme::a1`, or Azure, `gpt-4o-mini-2024-07-18.ft-b044a9d3cf9c4228`.
    """
    name = normal(model).lower()
    return name.startswith("ft:") or ".ft-" in name


def _in_response(body: Json) -> Iterator[tuple[str, str]]:
    yield from _in_tools(body, "")
    options = body.get("prompt_cache_options")
    yield from ((at("prompt_cache_options", place), text) for place, text in ids_at(options, "comparison_response_id"))
    items = body.get("input")
    repeated = {str(item.get("id")) for item in items if isinstance(item, dict)} if isinstance(items, list) else set()
    for number, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict):
            place = at("input", number)
            kind = item.get("type")
            is_reference = isinstance(kind, str) and normal(kind).lower() == "item_reference"
            inner = ("id", *_IN_ITEM) if is_reference or item.keys() <= {"id", "type", "status"} else _IN_ITEM
            for each in inner:
                for name, text in ids_at(item, each):
                    if not (each == "approval_request_id" and text in repeated):  # of an item that comes along
                        yield at(place, name), text
            yield from _in_tools(item, place)
    prompt = body.get("prompt")
    variables = prompt.get("variables") if isinstance(prompt, dict) else None
    for name, part in variables.items() if isinstance(variables, dict) else ():
        place = at("prompt.variables", name[:MAX_NAME_IN_PLACE])
        yield from ((at(place, inner), text) for inner, text in ids_at(part, "file_id"))


def _in_tools(holder: Mapping[str, Any], place: str) -> Iterator[tuple[str, str]]:
    tools = holder.get("tools")
    for number, tool in enumerate(tools if isinstance(tools, list) else ()):
        if isinstance(tool, dict):
            here = at(at(place, "tools"), number)
            for inner in _IN_TOOL:
                for name, text in ids_at(tool, inner):
                    if not (inner == "container" and text == _AUTO):
                        yield f"{here}.{name}", text
            yield from _in_tools(tool, here)


class Plan(NamedTuple):
    """Where a call of an operation has ids: which step of its path, counted from 1; 0 if none.

    In a vector store, files have the ids that they have everywhere; they are `below` it.
    """

    kind: str
    step: int
    is_top_list: bool
    names_model: bool
    has_file_below: bool
    lists_files_below: bool


#: operation → where its calls have ids
PLANS = {
    name: Plan(
        route.kind,
        route.path.split("/").index(":id") - 1 if ":id" in route.path else 0,
        route.is_top_list,
        route.names_model,
        route.path.startswith("/v1/vector_stores/:id/files/:id"),
        name in ("list_vector_store_files", "list_vector_store_file_batch_files"),
    )
    for name, route in OPERATIONS.items()
}
_BELOW = 4  # the first step of a path that can have an id below another: /containers/ID/files/ID


def ids_in(call: Call, plan: Plan) -> tuple[list[tuple[str, str]], list[Any]]:
    """(place, id) of what the caller must own, and what else may hold ids: JSON, a query, the rest of the path."""
    steps = call.path.split("/")
    named: list[tuple[str, str]] = [("id", steps[plan.step])] if plan.step else []
    parts: list[Any] = [{"id": steps[_BELOW]}] if len(steps) > _BELOW else []
    if plan.has_file_below and parts:
        named.append(("file_id", steps[_BELOW]))
    if plan.names_model:
        model = call.path[len("/models/") :]
        parts.append({"id": model})
        if is_tuned(model):
            named.append(("model", model))
    if call.query:
        parts.append(
            {name: list(text) if isinstance(text, (list, tuple)) else text for name, text in call.query.items()}
        )
        after = call.query.get("after")
        if (plan.is_top_list or plan.lists_files_below) and after:
            if not isinstance(after, str):
                raise BadRequest("Name one position in 'after'.", param="after")
            named.append(("after", after) if plan.is_top_list else ("after.file_id", after))
    if call.json:
        named += named_in(call.operation, call.json)
        parts.append(call.json)
    return named, parts


def kind_in(place: str, kind: str) -> str:
    """What kind of id is at a place; `kind` is that of the call's own objects."""
    if place in ("id", "after"):
        return kind or "file"
    name = place.rpartition(".")[2]
    if place.startswith("input[") and name in ("id", "approval_request_id"):
        return "item"
    if ".container" in place and name.startswith("file_ids"):
        return "file"
    return next((kind for start, kind in _KIND_AT.items() if name.startswith(start)), "file")
