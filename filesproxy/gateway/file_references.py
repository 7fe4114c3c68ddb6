"""Where chats and Responses refer to files, and what such a part becomes once it holds the file itself. No I/O.

https://platform.openai.com/docs/api-reference/chat/create and …/responses/create have the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ..calls import Json
from ..errors import BadRequest
from ..operations import is_kept_id
from ..wire.file_types import Kind
from ..wire.inlined_json import base64_of
from ..wire.json_fields import at

_RESPONSE_FIELDS = frozenset(
    {"type", "file_id", "filename", "mime_type", "detail", "file_data", "file_url", "image_url"}
)


class Reference(NamedTuple):
    """A part that refers to a file: `holder[key]` is the part, `place` says where the id is.

    `given` is the object with the id: what else it has, such as `filename`, says what the file is. `rest` is what the
    part has beside its file, such as a cache mark. `is_image` says whether the part can only be an image.
    """

    holder: Any
    key: Any
    place: str
    file_id: str
    given: Json
    rest: Json
    is_image: bool


class Content(NamedTuple):
    """What a part shall hold: a file's kind, media type and name, and the stand-in for its content."""

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
        content = message.get("content")
        for number, part in enumerate(content) if isinstance(content, list) else ():
            name = part["type"]
            if name not in ("file", "image_url"):
                continue
            given = part.get(name)
            given = {"url": given} if isinstance(given, str) else given
            place = f"messages[{index}].content[{number}].{name}"
            found = _named(given, ("file_id",) if name == "file" else ("file_id", "url"), place)
            if found:
                rest = {field: value for field, value in part.items() if field not in ("type", name)}
                yield Reference(content, number, *found, given, rest, name == "image_url")


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
        yield from _in_parts(variables, name, f"prompt.variables.{name}")


def _in_parts(holder: Any, key: Any, place: str) -> Iterator[Reference]:
    part = holder[key]
    name = part.get("type") if isinstance(part, dict) else None
    if name not in ("input_file", "input_image", "computer_screenshot"):
        return
    is_image = name != "input_file"
    found = _named(part, ("file_id", "image_url") if is_image else ("file_id",), place)
    if found:
        rest = {field: value for field, value in part.items() if field not in _RESPONSE_FIELDS}
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
    sources = [name for name in ("file_id", "file_data", "file_url", "image_url", "url") if given.get(name)]
    if found and len(sources) > 1 and any(is_kept_id(file_id) for _, file_id in found):
        raise BadRequest(f"'{place}' must have one of {' and '.join(sources)}.", param=place)
    return found[0] if found else None


#: operation → the references in its request's JSON
REFERENCES: Mapping[str, Callable[[Json], Iterator[Reference]]] = {
    "create_chat_completion": in_chat,
    "create_response": in_response,
    "count_response_input_tokens": in_response,
    "compact_response": in_response,
}


def chat_part(reference: Reference, file: Content, text_is_file: bool) -> Json | None:
    """The part of a chat that holds the file, None if there is no such part."""
    made: Json | None = None
    if file.kind == "image":
        made = {"type": "image_url", "image_url": {"url": file.data_url, **_detail(reference)}}
    elif file.kind == "pdf" or (file.kind == "text" and text_is_file):
        made = {"type": "file", "file": {"filename": file.name, "file_data": file.data_url}}
    elif file.kind == "text":
        made = {"type": "text", "text": file.text}
    elif file.kind == "audio":
        form = "mp3" if file.media_type == "audio/mpeg" else "wav"
        made = {"type": "input_audio", "input_audio": {"data": base64_of(file.stand_in), "format": form}}
    elif file.kind == "video":
        made = {"type": "video_url", "video_url": {"url": file.data_url}}
    return made and {**reference.rest, **made}


def response_part(reference: Reference, file: Content, text_is_file: bool) -> Json | None:
    """The part of a request to Responses that holds the file, None if there is no such part."""
    made: Json | None = None
    if file.kind == "image":
        name = "computer_screenshot" if reference.given["type"] == "computer_screenshot" else "input_image"
        detail = _detail(reference) or ({"detail": "auto"} if name == "input_image" else {})
        made = {"type": name, "image_url": file.data_url, **detail}
    elif file.kind == "pdf":
        made = {"type": "input_file", "filename": file.name, "file_data": file.data_url}
    elif file.kind == "text":
        made = {"type": "input_text", "text": file.text}
    return made and {**reference.rest, **made}


def _detail(reference: Reference) -> Json:
    detail = reference.given.get("detail")
    return {} if detail is None else {"detail": detail}


#: operation → what makes the part that holds a file
PARTS: Mapping[str, Callable[[Reference, Content, bool], Json | None]] = {
    **dict.fromkeys(REFERENCES, response_part),
    "create_chat_completion": chat_part,
}
