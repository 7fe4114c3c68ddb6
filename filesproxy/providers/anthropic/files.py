"""OpenAI's Files contract on Anthropic's Files API. Pure functions.

Anthropic's files have no purpose and their times are RFC 3339. The API has two surfaces. The general one has expiry,
and lists by `next_page`. The older one, which the header `anthropic-beta` chooses, has no expiry, and lists by
`has_more` with ids as cursors. The gateway uses the general one, but passes on what the client itself puts into that
header, so it reads both. https://platform.claude.com/docs/en/build-with-claude/files
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from ...calls import Call, Json, Send
from ...errors import BadRequest, InvalidAnswer, UpstreamAnswered
from ..toolkit import Page, deletion, need, rest_after, unusable
from .media_types import registered

FILES_BETA = "files-api-2025-04-14"  # deprecated
MAX_PAGE = 1000  # files per page
_FROM_THE_START: Json = {}

# The file names that Anthropic accepts.
_NAME = re.compile(r'[^<>:"|?*\\/\x00-\x1f]{1,255}')
# How browsers and SDKs encode a quote, LF and CR in a file name (WHATWG form-data).
_WHATWG = re.compile("%(22|0A|0D)", re.IGNORECASE)
# Media types by extension, for the Node SDKs, which send application/octet-stream for every file.
_TYPES = {
    "pdf": "application/pdf", "txt": "text/plain", "md": "text/markdown", "csv": "text/csv", "html": "text/html",
    "json": "application/json", "jsonl": "application/jsonl", "xml": "application/xml",
    "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "gif": "image/gif", "webp": "image/webp",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}  # fmt: skip
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def prepared_upload(call: Call) -> Call:
    """The upload as Anthropic accepts it: with a media type, without a purpose, its expiry under another name.

    BadRequest for a file name that Anthropic refuses. An expiry is never lost: it takes the place of the client's own
    files beta, which has none.
    """
    upload = call.upload
    assert upload is not None
    if not _NAME.fullmatch(_WHATWG.sub('"', upload.filename)):
        raise BadRequest('Anthropic needs file names of 1 to 255 characters without < > : " | ? * \\ /.', param="file")
    upload.content_type = registered(upload.content_type)
    if upload.content_type.partition(";")[0] == "application/octet-stream":
        upload.content_type = _TYPES.get(upload.filename.rpartition(".")[2].lower(), upload.content_type)
    upload.sent_fields = _sent_fields
    if not _has_files_beta(call):
        return call
    if _sent_fields(upload.fields):
        return _without_files_beta(call)
    upload.sent_fields = _no_fields  # the head with the beta goes out before the fields that follow the file are read
    return call


def _has_files_beta(call: Call) -> bool:
    return FILES_BETA in call.headers.get("anthropic-beta", "").split(",")


def _without_files_beta(call: Call) -> Call:
    betas = [beta for beta in call.headers["anthropic-beta"].split(",") if beta != FILES_BETA]
    others = {name: text for name, text in call.headers.items() if name != "anthropic-beta"}
    return call._replace(headers={**others, "anthropic-beta": ",".join(betas)} if betas else others)


def _sent_fields(fields: dict[str, str]) -> dict[str, str]:
    seconds = fields.get("expires_after[seconds]")
    return {"expires_in_seconds": seconds} if seconds else {}


def _no_fields(fields: dict[str, str]) -> dict[str, str]:
    if _sent_fields(fields):
        message = (
            f"With the beta {FILES_BETA}, expires_after must come before the file: Anthropic's beta has no expiry."
        )
        raise BadRequest(message, param="expires_after[seconds]")
    return {}


def file_object(obj: Any, call: Call) -> Json:
    """OpenAI's file object.

    Anthropic keeps no purpose. The answer to an upload has the client's; later ones say `assistants_output` for a file
    that can be downloaded, which only a tool can make, and `assistants` for any other.
    """
    expires_at = seconds(obj, "expires_at") if isinstance(obj, dict) and obj.get("expires_at") is not None else None
    is_expired = expires_at is not None and expires_at <= call.now
    downloadable = isinstance(obj, dict) and obj.get("downloadable") is True
    purpose = call.upload.fields.get("purpose") if call.upload else None
    return {
        "id": need(obj, "id", str),
        "object": "file",
        "bytes": need(obj, "size_bytes", int),
        "created_at": seconds(obj, "created_at"),
        "expires_at": expires_at,
        "filename": need(obj, "filename", str),
        "purpose": purpose or ("assistants_output" if downloadable else "assistants"),
        "status": "error" if is_expired else "processed",
        "status_details": "expired" if is_expired else None,
        "mime_type": need(obj, "mime_type", str),
        "downloadable": downloadable,
    }


def seconds(obj: Any, name: str) -> int:
    """An RFC 3339 time in seconds since the epoch. Python 3.9 and 3.10 read neither Z nor nine digits themselves."""
    found = _TIME.fullmatch(need(obj, name, str))
    zone = "" if not found else "+00:00" if found[3] in "Zz" else found[3]
    try:
        return int(datetime.fromisoformat(f"{found[1]}T{found[2]}{zone}" if found else "").timestamp())
    except (ValueError, OverflowError):
        raise unusable(name) from None


def pages(call: Call, send: Send) -> Iterator[Page]:
    """The pages of the list after `after`, newest first.

    Only the beta takes an id as a cursor. Otherwise, or if it refuses this one, the list is walked to it.
    """
    after = call.query.get("after")
    limit = MAX_PAGE if "purpose" in call.query else min(MAX_PAGE, int(call.query.get("limit", MAX_PAGE)))
    if not after:
        return all_pages(call, send, limit, file_object)
    if not _has_files_beta(call):
        return rest_after(all_pages(call, send, MAX_PAGE, file_object), after)
    return _from_cursor(call, send, limit, after)


def _from_cursor(call: Call, send: Send, limit: int, after: str) -> Iterator[Page]:
    walk = all_pages(call, send, limit, file_object, {"after_id": after})
    try:
        first = next(walk)
    except UpstreamAnswered as error:
        if error.status not in (400, 404):
            raise
        walk = rest_after(all_pages(call, send, MAX_PAGE, file_object), after)
        first = next(walk)
    yield first
    yield from walk


def all_pages(
    call: Call, send: Send, limit: int, item: Callable[[Any, Call], Json], cursor: Json = _FROM_THE_START
) -> Iterator[Page]:
    """The pages of a list from a cursor on, in either shape; `item` translates what is in them. They may never end."""
    while True:
        answer = send(call._replace(query={"limit": str(limit), **cursor})).json
        data = [item(obj, call) for obj in need(answer, "data", list)]
        next_cursor = _next_cursor(answer, data, limit)
        yield Page(data, bool(next_cursor))
        if not next_cursor:
            return
        if next_cursor == cursor:
            raise InvalidAnswer("The provider's list repeats a page.")
        cursor = next_cursor


def _next_cursor(answer: Json, data: list[Json], limit: int) -> Json:
    """The cursor of the next page; empty on the last page. With some betas an answer has the keys of both surfaces."""
    if answer.get("has_more") is False:
        return {}
    if answer.get("next_page"):
        return {"page": need(answer, "next_page", str)}
    if answer.get("has_more") is True:
        if not data:
            raise unusable("data")
        return {"after_id": data[-1]["id"]}
    if "next_page" not in answer and len(data) >= limit:
        raise unusable("next_page")  # a full page that does not say whether it is the last
    return {}


def deleted(obj: Any, call: Call) -> Json:
    """OpenAI's answer to a deletion."""
    return {name: value for name, value in deletion(obj, call).items() if name != "type"}
