"""Answers that are read whole: their JSON, within limits and counted, and what an error says to the client."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from typing import Any

from ..budget import NO_ROOM, Hold
from ..calls import Answer, Call, Target
from ..errors import InvalidAnswer, UpstreamAnswered, UpstreamError
from ..redaction import redact
from ..wire import urls
from ..wire.headers import codings, media_type, relayed
from ..wire.lists import says_done
from ..wire.strict_json import BOM, Unreadable, cost, loads

# Of an answer, which are not counted. Parsed, 256 of the worst take 100 MB.
UNCOUNTED_BYTES = 1 << 14
# Of a list that a transport makes itself: how many files are not counted, and what each takes with its JSON.
UNCOUNTED_FILES = 100
BYTES_PER_FILE = 2048
BLOCK_BYTES = 65536  # of a compressed answer, which are inflated before they are counted
MAX_MEMBERS = 10_000  # of gzip; empty ones have 20 bytes each and cost the CPU of thousands
_MEMBER = b"\x1f\x8b\x08"  # how each begins (RFC 1952 §2.3); what else looks so is one in 16 MB of compressed data
MAX_ERROR_BYTES = 65536  # of an error's text; the rest is not read
MAX_PLAIN_REASON = 500  # characters of an error that is plain text
# A web page with one of these statuses is about the request, though a proxy in front of the provider sent it.
_PAGE_STATUSES_KEPT = (411, 413, 414, 429, 431)
# What a status means that servers answer without a word, and what helps.
_MEANINGS = {
    411: "It wants a length, which a streamed upload lacks: let it, and any proxy before it, take chunked bodies.",
    413: "The request is larger than it takes: send less, or raise its limit for a body and that of any proxy before "
    "it (nginx: client_max_body_size).",
    414: "The URL is longer than it takes: send fewer query parameters, or raise its limit for the request line.",
    431: "The headers are larger than it takes: send fewer, or raise its limit for headers.",
}


def refusal(call: Call, answer: Answer, target: Target, hold: Hold) -> UpstreamError:
    """The error for an answer that is not 2xx: what the provider says, or what its status means for the client."""
    if target.is_saved and answer.status in (401, 403):  # the caller's own key is not at fault
        refused = "refused the saved credential" if target.secrets else "asks for a credential, and none is saved"
        return UpstreamError(f"The provider {refused}.", code="upstream_credential_rejected")
    if answer.status < 400:
        return UpstreamError("The provider redirects, which the gateway never follows.", code="upstream_redirect")
    text = _reason(answer, hold)
    if _is_page(answer, text) and answer.status not in _PAGE_STATUSES_KEPT:
        message = f"Something before the provider answered {answer.status} with a web page."
        return InvalidAnswer(message + _hint(call, answer, target), headers=answer_headers(answer, target))
    try:
        body = parsed(text)
    except UpstreamError:
        body = {"message": _described(answer, text, target)}
    error = target.provider["error"](body)
    if answer.status in _MEANINGS and error["message"] == target.provider["error"]({})["message"]:
        error = {**error, "message": _described(answer, b"", target)}  # JSON that says nothing
    shown = {name: redact(text, target.credentials) if isinstance(text, str) else text for name, text in error.items()}
    shown["message"] = f"{shown['message']}{_hint(call, answer, target)}"
    kind = "server_error" if answer.status >= 500 else "invalid_request_error"
    return UpstreamAnswered(answer.status, {**shown, "type": shown["type"] or kind}, answer_headers(answer, target))


def _hint(call: Call, answer: Answer, target: Target) -> str:
    """What a 404 for a path without an id most likely means; for a 413 with kept files, what helps."""
    if answer.status == 413 and call.inlined:
        return (
            " The kept files count towards its limit: send fewer or smaller ones. The operator can set max_inline_bytes"
            " to that limit, so that nothing is sent in vain."
        )
    if answer.status != 404 or call.file_id or urls.has_path(target.base_url):
        return ""
    return " The provider's base_url has no path, and most hosts need /v1 there."


def _described(answer: Answer, text: bytes | bytearray, target: Target) -> str:
    """What an error says that is not JSON: its plain text, what its status means, or that it says nothing."""
    said, status = "", answer.status
    if media_type(answer.headers) == "text/plain":
        with suppress(UnicodeDecodeError):
            said = redact(text.decode("utf-8").strip(), target.credentials)[:MAX_PLAIN_REASON]
    if status in _MEANINGS:
        return f"The provider answered {status}{said and f' ({said})'}. {_MEANINGS[status]}"
    return said or f"The provider answered {status} without a readable reason."


def answer_headers(answer: Answer, target: Target) -> dict[str, str]:
    """The headers of an answer that the client gets, without a credential that the provider may have repeated."""
    provider = target.provider
    kept = relayed(
        answer.headers,
        provider.get("answer_headers", ()),
        provider.get("answer_header_prefixes", ()),
        provider.get("request_id_headers", ()),
        content=answer.body is not None and answer.status < 300,
    )
    return {name: redact(text, target.credentials) for name, text in kept.items()}


def _reason(answer: Answer, hold: Hold) -> bytes | bytearray:
    try:
        return read(answer.body or (), answer.headers, MAX_ERROR_BYTES, hold)
    except (UpstreamError, *NO_ROOM):
        return b""


def _is_page(answer: Answer, text: bytes | bytearray) -> bool:
    start = text[:64].removeprefix(BOM).lstrip()
    return media_type(answer.headers) == "text/html" or start.lower().startswith((b"<!doctype", b"<html"))


def read(body: Iterable[bytes], headers: Mapping[str, str], limit: int, hold: Hold) -> bytearray:
    """All of a body, decoded, and counted in `hold` with what it takes once it is parsed.

    UpstreamError if it has more than `limit` bytes. NO_ROOM if the budget has no room left for it.
    """
    text = _gathered(body, limit, hold)
    return _gathered(_inflated(text), limit, hold) if text and codings(headers) else text


def _gathered(blocks: Iterable[bytes], limit: int, hold: Hold) -> bytearray:
    text, counted = bytearray(), 0
    for block in blocks:
        text += block
        if len(text) > limit:
            raise _too_large()
        if len(text) > UNCOUNTED_BYTES:
            count(text[counted:], hold)
            counted = len(text)
    return text


def count(text: bytes | bytearray, hold: Hold) -> None:
    """Count what this part of a JSON text will take. UpstreamError if it would not fit even alone, else NO_ROOM."""
    _take(cost(text), hold)


def count_list(value: Any, hold: Hold) -> None:
    """Count what a long list will take that a transport has made, by its files. Raises what `count` raises."""
    files = value.get("data") if isinstance(value, dict) else None
    if isinstance(files, list) and len(files) > UNCOUNTED_FILES:
        _take(BYTES_PER_FILE * len(files), hold)


def _take(size: int, hold: Hold) -> None:
    if not hold.fits(size):  # a 503 would promise that it fits later
        raise _too_large("would take more memory than max_json_in_flight")
    hold.take(size)


def _too_large(how: str = "is over max_answer_bytes") -> UpstreamError:
    return UpstreamError(f"The provider's answer {how}.", code="upstream_answer_too_large")


def _inflated(body: bytearray) -> Iterator[bytes]:
    """The decoded body in blocks. The gateway asks for identity (RFC 9110 §12.5.3), but some proxies send gzip anyway.

    InvalidAnswer if it is not complete gzip, of one or more members (RFC 1952 §2.2), or of very many.
    """
    if body.count(_MEMBER) > MAX_MEMBERS:
        raise InvalidAnswer("The provider's answer has too many gzip members.")
    try:
        with gzip.GzipFile(fileobj=BytesIO(body)) as plain:
            while block := plain.read(BLOCK_BYTES):
                yield block
    except (OSError, EOFError, zlib.error):
        raise InvalidAnswer("The provider's answer has an encoding that does not decode.") from None


def is_nothing(body: bytes | bytearray, file_id: str) -> bool:
    """Whether an answer without content has none: it is empty, or a word such as OK that is not JSON."""
    if not body.strip():
        return True
    try:
        loads(body)
    except Unreadable:
        return says_done(body.decode("utf-8", "replace"), file_id)
    return False


def parsed(body: bytes | bytearray) -> Any:
    """The value of an answer's JSON. InvalidAnswer if it is not valid."""
    try:
        return loads(body)
    except Unreadable:
        raise InvalidAnswer("The provider's answer is not valid JSON.") from None
