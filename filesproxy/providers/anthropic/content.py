"""Translates the content parts of OpenAI's chat into the content blocks of Anthropic's messages. Pure functions.

Which block takes which file: https://platform.claude.com/docs/en/build-with-claude/files, …/pdf-support and …/vision
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import unquote

from ...calls import Json
from ...errors import BadRequest
from ...wire.json_fields import at, objects, required
from .cache_marks import with_cache_control
from .media_types import IMAGES, PDF, TEXT, bare_type

# Media types that are text. Inline, all text is sent as plain text, the only type that a text source can have.
_TEXTS = frozenset({"application/json", "application/jsonl", "application/xml", "application/x-ndjson"})
_TYPES = {
    "pdf": PDF, "txt": TEXT, "md": TEXT, "csv": TEXT, "json": TEXT, "jsonl": TEXT, "xml": TEXT,
    "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "gif": "image/gif", "webp": "image/webp",
}  # fmt: skip
_DATA_URL = re.compile(r"data:([^;,]{0,100})((?:;[^;,]{0,100}){0,8}),", re.IGNORECASE)
_CHARSET = re.compile(r"charset=([^;]*)")
_WHITE_SPACE = dict.fromkeys(b" \t\n\v\f\r")  # between the lines of base64 (RFC 2045 §6.8)
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")  # without groups, which cost 40 bytes of memory for each byte of text


def text_blocks(content: Any, place: str) -> list[Json]:
    """Text, or a list of text parts, as blocks."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    found = []
    for part_place, part in objects(content or [], place):
        if part.get("type") != "text":
            refuse(part_place, "Only text is possible here")
        found.append(_text(part, part_place))
    return found


def user_blocks(content: Any, place: str, known: Mapping[str, str], runs_code: bool) -> list[Json]:
    """A user's content as blocks. `known` maps file ids to media types that were looked up.

    `runs_code` says whether the request has the code execution tool, which alone can use files of other types.
    """
    if isinstance(content, str):
        return text_blocks(content, place)
    found = []
    for part_place, part in objects(content or [], place):
        kind = required(part, "type", str, part_place)
        if kind == "text":
            found.append(_text(part, part_place))
        elif kind == "image_url":
            found.append(_image(part, part_place))
        elif kind == "file":
            found.append(_file(part, part_place, known, runs_code))
        else:
            refuse(part_place, "A part of this type cannot be translated for Anthropic")
    return found


def refuse(place: str, reason: str) -> NoReturn:
    """Raise BadRequest for something that has no translation; `place` says where it is."""
    raise BadRequest(f"{reason}: '{place}'.", param=place)


def _text(part: Json, place: str) -> Json:
    return with_cache_control({"type": "text", "text": required(part, "text", str, place)}, part, place)


def _image(part: Json, place: str) -> Json:
    url = required(required(part, "image_url", dict, place), "url", str, at(place, "image_url"))
    where, url = at(place, "image_url.url"), url.strip()
    if url[:5].lower() != "data:":
        kind = "document" if _type_by_extension(_name_in(url)) == PDF else "image"
        return with_cache_control({"type": kind, "source": _url_source(url, where)}, part, place)
    media_type, data = _data_url(url, where)
    if media_type not in IMAGES and media_type != PDF:
        refuse(where, "Anthropic accepts only JPEG, PNG, GIF and WebP images")
    return with_cache_control(
        {"type": _kind(media_type), "source": _inline_source(media_type, data, where)}, part, place
    )


def _file(part: Json, part_place: str, known: Mapping[str, str], runs_code: bool) -> Json:
    """The block of a file part. The gateway has checked that the part has exactly one of the three sources."""
    file, place = part["file"], at(part_place, "file")
    if file.get("file_id"):
        block = _uploaded(file, media_type_of(file, known), place, runs_code)
    elif file.get("file_url"):
        block = _remote(file, at(place, "file_url"))
    else:
        block = _file_data(file, place)
    if block["type"] == "document" and file.get("filename"):
        block["title"] = file["filename"]
    return with_cache_control(block, part, part_place)


def media_type_of(file: Json, known: Mapping[str, str]) -> str:
    """The media type that the part names or that was looked up, without parameters; "" if it is unknown."""
    return bare_type(file.get("mime_type") or "") or bare_type(known.get(file.get("file_id") or "", ""))


def _uploaded(file: Json, media_type: str, place: str, runs_code: bool) -> Json:
    if media_type in IMAGES or media_type in (PDF, TEXT):
        return {"type": _kind(media_type), "source": {"type": "file", "file_id": file["file_id"]}}
    if not runs_code:
        refuse(place, "Anthropic reads PDF, plain text and images; other types of file need the code execution tool")
    return {"type": "container_upload", "file_id": file["file_id"]}


def _remote(file: Json, place: str) -> Json:
    """A file by its URL. What is there is unknown, so its type must be named, in full or as an extension."""
    source = _url_source(file["file_url"], place)
    media_type = media_type_of(file, {}) or _type_by_extension(file.get("filename") or "")
    media_type = media_type or _type_by_extension(_name_in(source["url"]))
    if media_type not in IMAGES and media_type != PDF:
        helps = "if this is one, set mime_type; otherwise send it as file_data, or upload it"
        refuse(place, f"Anthropic fetches only PDF and images by URL ({helps})")
    return {"type": _kind(media_type), "source": source}


def _name_in(url: str) -> str:
    """The last segment of an https URL's path."""
    path = re.split("[?#]", url, maxsplit=1)[0].partition("//")[2].partition("/")[2]
    return unquote(path.rpartition("/")[2])


def _file_data(file: Json, place: str) -> Json:
    place, data, declared = at(place, "file_data"), file["file_data"].strip(), ""
    if data[:5].lower() == "data:":
        declared, data = _data_url(data, place)
    filename = file.get("filename") or ""
    by_name = _type_by_extension(filename) if _extension(filename) is not None else PDF
    media_type = declared or media_type_of(file, {}) or by_name
    if media_type.startswith("text/") or media_type in _TEXTS:
        media_type = TEXT
    if media_type not in IMAGES and media_type not in (PDF, TEXT):
        refuse(place, "Anthropic reads PDF, text and images; files of other types must be uploaded first")
    return {"type": _kind(media_type), "source": _inline_source(media_type, data, place)}


def _type_by_extension(filename: str) -> str:
    """The media type for the extension of a file name; "" if there is none, or an unknown one."""
    return _TYPES.get((_extension(filename) or "").lower(), "")


def _extension(filename: str) -> str | None:
    name, dot, extension = filename.rpartition(".")
    return extension if dot and name else None


def _kind(media_type: str) -> str:
    return "image" if media_type in IMAGES else "document"


def _inline_source(media_type: str, data: str, place: str) -> Json:
    if not _BASE64.fullmatch(data):
        data = data.translate(_WHITE_SPACE)
    if not _BASE64.fullmatch(data) or len(data) % 4:
        refuse(place, "The data is empty or not valid base64 (RFC 4648 §4)")
    if media_type != TEXT:
        return {"type": "base64", "media_type": media_type, "data": data}
    try:
        return {"type": "text", "media_type": TEXT, "data": base64.b64decode(data).decode("utf-8")}
    except (binascii.Error, UnicodeDecodeError):
        refuse(place, "The text is not UTF-8")


def _data_url(url: str, place: str) -> tuple[str, str]:
    """The media type, as `bare_type` has it, and the base64 text of a data URL (RFC 2397)."""
    found = _DATA_URL.match(url)
    if not found or not found[2].lower().replace(" ", "").endswith(";base64"):
        refuse(place, "A data URL must be data:TYPE;base64,…")
    if not set(_CHARSET.findall(found[2].lower())) <= {"utf-8", "us-ascii"}:
        refuse(place, "The text of a data URL must be UTF-8")
    data = url[found.end() :]
    return bare_type(found[1]), unquote(data) if "%" in data else data


def _url_source(url: str, place: str) -> Json:
    if not re.match(r"https://[^/?#\s]+", url, re.IGNORECASE):
        refuse(place, "Anthropic fetches https URLs only")
    return {"type": "url", "url": url}
