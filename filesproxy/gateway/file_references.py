"""Where chats and Responses refer to files, and what such a part becomes once it holds the file itself. No I/O.

https://platform.openai.com/docs/api-reference/chat/create and …/responses/create have the parts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..calls import Json
from ..errors import BadRequest
from ..operations import is_kept_id
from ..wire.file_types import Kind
from ..wire.inlined_json import base64_of
from ..wire.json_fields import MAX_NAME_IN_PLACE, at, place_of

# What says where the content of a file is, and what says what it is. The rest of a part is for the model host.
_SOURCES = ("file_id", "file_data", "file_url", "image_url", "url")
_DESCRIPTION = frozenset({"type", "filename", "mime_type", "detail", *_SOURCES})
# Fields that refer to files. Anywhere else a kept id is prose, a name or the client's own: it tells a provider nothing.
_REFERRING = re.compile(
    r"(?:\w+_)?files?|(?:\w+_)?file_(?:ids?|url|data)|part_ids|url|(?:image|video|audio)_url|data|model|container|after"
)
# What a client repeats of what was said and done before, what is its own, and forms that an answer shall have.
_NOT_FOR_FILES = frozenset({
    "metadata", "attributes", "arguments", "annotations", "results", "action", "content_blocks", "schema",
    "json_schema", "input_schema", "response_format", "format", "guided_json", "structured_outputs",
    "chat_template_kwargs", "filters", "headers", "documents",
})  # fmt: skip


class Reference(NamedTuple):
    """A part that refers to a file: `holder[key]` is the part, `place` says where the id is.

    `given` is the object with the id: what else it has, such as `filename`, says what the file is. `rest` is what the
    part has beside its file, such as a cache mark. `is_image` says whether the part can only be an image, `takes_files`
    whether there may be files here: instructions and what a model said are text alone.
    """

    holder: Any
    key: Any
    place: str
    file_id: str
    given: Json
    rest: Json
    is_image: bool
    takes_files: bool = True


class Content(NamedTuple):
    """What a part will hold: a file's kind, media type and name, and the stand-in for its content."""

    kind: Kind
    media_type: str
    name: str
    stand_in: str

    @property
    def data_url(self) -> str:
        """The file as a data URL (RFC 2397)."""
        return f"data:{self.media_type};base64,{base64_of(self.stand_in)}"

    @property
    def text(self) -> str:
        """The file as text that says which file it is."""
        return f"[file: {self.name}]\n{self.stand_in}\n[end of {self.name}]"


def in_chat(body: Json) -> Iterator[Reference]:
    """The references in a chat, whose messages have been checked (`check_messages`)."""
    for index, message in enumerate(body["messages"]):
        content, takes_files = message.get("content"), message["role"] in ("user", "tool")
        for number, part in enumerate(content) if isinstance(content, list) else ():
            name = part["type"]
            if name not in ("file", "image_url"):
                continue
            given, place = part.get(name), f"messages[{index}].content[{number}].{name}"
            given = {"url": given} if isinstance(given, str) else given
            found = _named(given, ("file_id",) if name == "file" else ("file_id", "url"), place)
            if found:
                rest = {field: value for field, value in part.items() if field not in ("type", name)}
                yield Reference(content, number, *found, given, rest, name == "image_url", takes_files)


def in_response(body: Json) -> Iterator[Reference]:
    """The references in a request to Responses: in items, in the outputs of tools, and in a prompt's variables."""
    items = body.get("input")
    for index, item in enumerate(items) if isinstance(items, list) else ():
        yield from _in_parts(items, index, f"input[{index}]")
        for name in ("content", "output") if isinstance(item, dict) else ():
            parts, place = item.get(name), f"input[{index}].{name}"
            if isinstance(parts, dict):
                yield from _in_parts(item, name, place)
            for number in range(len(parts)) if isinstance(parts, list) else ():
                yield from _in_parts(parts, number, at(place, number))
    prompt = body.get("prompt")
    variables = prompt.get("variables") if isinstance(prompt, dict) else None
    for name in variables if isinstance(variables, dict) else ():
        yield from _in_parts(variables, name, f"prompt.variables.{name[:MAX_NAME_IN_PLACE]}")


def _in_parts(holder: Any, key: Any, place: str) -> Iterator[Reference]:
    part = holder[key]
    name = part.get("type") if isinstance(part, dict) else None
    if name not in ("input_file", "input_image", "computer_screenshot"):
        return
    is_image = name != "input_file"
    found = _named(part, ("file_id", "image_url") if is_image else ("file_id",), place)
    if found:
        rest = {field: value for field, value in part.items() if field not in _DESCRIPTION}
        yield Reference(holder, key, *found, part, rest, is_image)


def _named(given: Any, fields: tuple[str, ...], place: str) -> tuple[str, str] | None:
    """(place, id) of the file that an object refers to, if it does. In a field for URLs, only a kept id refers to one.

    BadRequest for an id of ours beside another source: one of the two would be lost.
    """
    if not isinstance(given, dict):
        return None
    found = [
        (at(place, name), given[name])
        for name in fields
        if isinstance(given.get(name), str) and given[name] and (name == "file_id" or is_kept_id(given[name]))
    ]
    sources = [name for name in _SOURCES if given.get(name)]
    if found and len(sources) > 1 and any(is_kept_id(file_id) for _, file_id in found):
        raise _conflict(place, sources)
    return found[0] if found else None


def _conflict(place: str, names: Sequence[str]) -> BadRequest:
    message = f"'{place}' must have only one of {' and '.join(names)}."
    return BadRequest(message, param=place, code="conflicting_sources")


def kept_id_in(value: Any) -> str | None:
    """The place of a kept id in a field of a JSON value that refers to a file; None if no field has one."""
    left: list[tuple[Iterator[tuple[Any, Any]], str, Any, Any]] = [(_items(value), "", value, None)]
    while left:
        items, name, outer, path = left[-1]
        for key, inner in items:
            is_named = isinstance(outer, dict)
            field = key if is_named else name
            if isinstance(inner, str):
                is_prose = is_named and name == "variables"  # of a prompt, whose names are the client's
                is_short = len(inner) < MAX_NAME_IN_PLACE and not is_prose
                if is_short and is_kept_id(inner.strip()) and _REFERRING.fullmatch(field):
                    return place_of((path, key))
            elif inner and isinstance(inner, (dict, list)) and field not in _NOT_FOR_FILES:
                is_schema = field == "parameters" and is_named and "name" in outer  # of a function
                if not is_schema:
                    left.append((_items(inner), field, inner, (path, key)))
                    break
        else:
            left.pop()
    return None


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    return iter(value.items()) if isinstance(value, dict) else enumerate(value)


#: operation → the references in its request's JSON
REFERENCES: Mapping[str, Callable[[Json], Iterator[Reference]]] = {
    "create_chat_completion": in_chat,
    "create_response": in_response,
    "count_response_input_tokens": in_response,
    "compact_response": in_response,
}


def chat_part(reference: Reference, file: Content, text_is_file: bool) -> Json:
    """The part of a chat that holds the file."""
    others = {name: value for name, value in reference.given.items() if name not in _DESCRIPTION}
    if file.kind == "image":
        return {"type": "image_url", "image_url": {**others, "url": file.data_url, **_detail(reference)}}
    if file.kind == "pdf" or (file.kind == "text" and text_is_file and reference.takes_files):
        return {"type": "file", "file": {**others, "filename": file.name, "file_data": file.data_url}}
    if file.kind == "text":
        return {"type": "text", "text": file.text}
    if file.kind == "audio":
        form = "mp3" if file.media_type == "audio/mpeg" else "wav"
        return {"type": "input_audio", "input_audio": {**others, "data": base64_of(file.stand_in), "format": form}}
    return {"type": "video_url", "video_url": {**others, "url": file.data_url}}


def response_part(reference: Reference, file: Content, text_is_file: bool) -> Json | None:
    """The part of a request to Responses that holds the file; None if no part of it can hold this kind of file."""
    if file.kind == "image":
        name = "computer_screenshot" if reference.given["type"] == "computer_screenshot" else "input_image"
        detail = _detail(reference) or ({"detail": "auto"} if name == "input_image" else {})
        return {"type": name, "image_url": file.data_url, **detail}
    if file.kind == "pdf":
        return {"type": "input_file", "filename": file.name, "file_data": file.data_url}
    return {"type": "input_text", "text": file.text} if file.kind == "text" else None


def _detail(reference: Reference) -> Json:
    detail = reference.given.get("detail")
    return {} if detail is None else {"detail": detail}


def whole(reference: Reference, part: Json) -> tuple[Json, list[str]]:
    """The new part with the client's other fields, and the names of those that have no place in it.

    BadRequest if one of the client's fields would be overwritten.
    """
    if taken := sorted(set(reference.rest) & set(part)):
        raise _conflict(reference.place.rpartition(".")[0], ["file_id", *taken])
    inner = next((value for value in part.values() if isinstance(value, dict)), {})
    used = (_DESCRIPTION - {"detail"}) | set(part) | set(inner) | set(reference.rest)
    return {**reference.rest, **part}, [name for name in reference.given if name not in used]


#: operation → what makes the part that holds a file
PARTS: Mapping[str, Callable[[Reference, Content, bool], Json | None]] = {
    **dict.fromkeys(REFERENCES, response_part),
    "create_chat_completion": chat_part,
}
