"""Anthropic: its Files API (beta) and Messages API behind OpenAI's contract.

No purpose, RFC 3339 times, another list, another error: https://platform.claude.com/docs/en/build-with-claude/files.
Lists come in two shapes, chosen by the beta header: `has_more` and ids, or `next_page`; both are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from ...calls import Answer, Call, Json, Provider, Send, Target, exchange, need, replace, unusable
from ...errors import BadRequest, UpstreamAnswered, UpstreamError
from ...wire import sse
from ...wire.lists import Page, behind, deletion, walked
from ..openai import OPENAI, PASSED_THROUGH
from .answer import completion
from .content import media_type_of
from .errors import error
from .request import file_ids, messages_request
from .stream import chunks

VERSION = "2023-06-01"  # 2026-10-21 refuses temperature, which OpenAI's clients send
FILES_BETA = "files-api-2025-04-14"
MAX_PAGE = 1000  # files of one list
MAX_LOOKUPS = 20  # of the types of files that a chat names without one

# What Anthropic refuses in a file's name; it wants 1 to 255 characters.
_NAME = re.compile(r'[^<>:"|?*\\/\x00-\x1f]{1,255}')
# How browsers and SDKs write a quote, LF and CR in one (WHATWG form-data).
_WHATWG = re.compile("%(22|0A|0D)", re.IGNORECASE)
# By the endings of names, for the Node SDKs, which say octet-stream of everything.
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


def authorize(call: Call, target: Target) -> Call:
    """`x-api-key`, or an OAuth token as bearer, never both; and the version that the translation is written for."""
    is_token = target.settings["auth"] == "bearer"
    own = {"authorization": f"Bearer {target.credential}"} if is_token else {"x-api-key": target.credential}
    return replace(call, headers={**call.headers, **own, "anthropic-version": VERSION})


def with_files_beta(call: Call) -> Call:
    """The call with the Files API's beta among those that the client named."""
    betas = [*filter(None, call.headers.get("anthropic-beta", "").split(",")), FILES_BETA]
    return replace(call, headers={**call.headers, "anthropic-beta": ",".join(dict.fromkeys(betas))})


# Files


def prepared_upload(call: Call) -> Call:
    """The upload as Anthropic takes it: a name it allows, a type, no purpose, the expiry under another name."""
    upload = call.upload
    assert upload is not None
    if not _NAME.fullmatch(_WHATWG.sub('"', upload.filename)):
        raise BadRequest('Anthropic takes file names of 1 to 255 characters without < > : " | ? * \\ /.', param="file")
    if upload.content_type == "application/octet-stream":
        upload.content_type = _TYPES.get(upload.filename.rpartition(".")[2].lower(), upload.content_type)
    upload.sent_fields = _sent_fields
    return with_files_beta(call)


def _sent_fields(fields: dict[str, str]) -> dict[str, str]:
    seconds = fields.get("expires_after[seconds]")
    return {"expires_in_seconds": seconds} if seconds else {}


def file_object(obj: Any, call: Call) -> Json:
    """OpenAI's file object.

    Anthropic keeps no purpose: an upload's answer has the client's, later ones tell who made the file.
    """
    expires_at = _seconds(obj, "expires_at") if isinstance(obj, dict) and obj.get("expires_at") is not None else None
    is_expired = expires_at is not None and expires_at <= call.now
    downloadable = isinstance(obj, dict) and obj.get("downloadable") is True
    purpose = call.upload.fields.get("purpose") if call.upload else None
    return {
        "id": need(obj, "id", str),
        "object": "file",
        "bytes": need(obj, "size_bytes", int),
        "created_at": _seconds(obj, "created_at"),
        "expires_at": expires_at,
        "filename": need(obj, "filename", str),
        "purpose": purpose or ("assistants_output" if downloadable else "assistants"),
        "status": "error" if is_expired else "processed",
        "status_details": "expired" if is_expired else None,
        "mime_type": need(obj, "mime_type", str),
        "downloadable": downloadable,
    }


def _seconds(obj: Any, name: str) -> int:
    """A time of RFC 3339 in seconds since the epoch; Python 3.9 and 3.10 read neither Z nor nine digits."""
    found = _TIME.fullmatch(need(obj, name, str))
    zone = "" if not found else "+00:00" if found[3] in "Zz" else found[3]
    try:
        return int(datetime.fromisoformat(f"{found[1]}T{found[2]}{zone}" if found else "").timestamp())
    except (ValueError, OverflowError):
        raise unusable(name) from None


def pages(call: Call, send: Send) -> Iterator[Page]:
    """The pages of the list, newest first, from behind `after`; where a host has no such cursor, by walking there."""
    after = call.query.get("after")
    limit = MAX_PAGE if "purpose" in call.query else min(MAX_PAGE, int(call.query.get("limit", MAX_PAGE)))
    walk = _pages(call, send, limit, {"after_id": after} if after else {})
    try:
        first = next(walk)
    except UpstreamAnswered as error:
        if not after or error.status not in (400, 404):
            raise
        walk = behind(_pages(call, send, MAX_PAGE, {}), after)
        first = next(walk)
    yield first
    yield from walk


def _pages(call: Call, send: Send, limit: int, cursor: Json) -> Iterator[Page]:
    """The pages from a cursor on, in either of Anthropic's shapes."""
    while True:
        answer = send(with_files_beta(replace(call, query={"limit": str(limit), **cursor}))).json
        data = [file_object(item, call) for item in need(answer, "data", list)]
        following = _following(answer, data)
        yield Page(data, bool(following))
        if not following:
            return
        if following == cursor:
            raise UpstreamError("The provider's list goes round in a circle.", code="upstream_invalid_answer")
        cursor = following


def _following(answer: Json, data: list[Json]) -> Json:
    """The cursor to the next page, empty on the last one."""
    if isinstance(answer.get("has_more"), bool):
        if answer["has_more"] and not data:
            raise unusable("data")
        return {"after_id": data[-1]["id"]} if answer["has_more"] else {}
    following = answer.get("next_page")
    if following is None:
        return {}
    return {"page": need(answer, "next_page", str)}


def deleted(obj: Any, call: Call) -> Json:
    """OpenAI's answer to a deletion."""
    return {name: value for name, value in deletion(obj, call).items() if name != "type"}


# Chat


def create_chat_completion(call: Call, send: Send) -> Answer:
    """A chat completion as a message; a file without a type is looked up first."""
    assert call.json is not None
    known = _looked_up(call, send)
    body, ignored = messages_request(call.json, known)
    asked = replace(call, path="/messages", query={}, json=body)
    reply = send(with_files_beta(asked) if any(True for _ in file_ids(call.json)) else asked)
    if not call.stream:
        return replace(reply, json=completion(reply.json, call.is_strict, call.now), ignored=ignored)
    if reply.body is None or not sse.is_stream(reply):
        raise UpstreamError("The provider answered without events.", code="upstream_invalid_answer")
    with_usage = bool((call.json.get("stream_options") or {}).get("include_usage"))
    return replace(reply, body=chunks(reply.body, call.is_strict, with_usage, call.now), ignored=ignored)


def _looked_up(call: Call, send: Send) -> dict[str, str]:
    """File id → media type, for the files that the chat names without one; each is asked for once."""
    assert call.json is not None
    untyped = [(place, file) for place, file in file_ids(call.json) if not media_type_of(file, {})]
    places = {file["file_id"]: place for place, file in reversed(untyped)}
    if len(places) > MAX_LOOKUPS:
        raise BadRequest(f"More than {MAX_LOOKUPS} files come without a mime_type.", param="messages")
    return {file_id: _media_type(file_id, places[file_id], call, send) for file_id in places}


def _media_type(file_id: str, place: str, call: Call, send: Send) -> str:
    plain: Json = {"json": None, "query": {}, "stream": False, "is_generated": False}
    asked = replace(call, operation="retrieve_file", method="GET", path=f"/files/{file_id}", **plain)
    try:
        media_type: str = need(send(with_files_beta(asked)).json, "mime_type", str)
    except UpstreamAnswered as error:
        error.param = place
        raise
    return media_type


ANTHROPIC: Provider = {
    **OPENAI,
    "base_url": "https://api.anthropic.com/v1",
    "authorize": authorize,
    "error": error,
    "operations": {
        "upload_file": exchange(prepared_upload, file_object),
        "list_files": walked(pages),
        "retrieve_file": exchange(with_files_beta, file_object),
        "retrieve_file_content": exchange(with_files_beta),
        "delete_file": exchange(with_files_beta, deleted),
        "create_chat_completion": create_chat_completion,
    },
    "unsupported": dict.fromkeys(PASSED_THROUGH, "Anthropic has no such operation in OpenAI's contract."),
    "required_fields": (),
    "client_headers": ("anthropic-workspace-id",),
    "list_headers": ("anthropic-beta",),
    "settings": ("auth",),
    "credential_headers": {"x-api-key": "key"},
}
