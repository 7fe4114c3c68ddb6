"""Runs one operation against one target: the only caller of a transport, and the owner of every body.

Imports the watchdog, `wire` and the ground floor (calls, operations, redaction, errors); the transports are handed in.
"""

from __future__ import annotations

import gzip
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from typing import Any

from .calls import Answer, Body, Call, Json, KeptFiles, Target, Transport
from .errors import (
    BadRequest,
    FilesproxyError,
    InvalidAnswer,
    NotFound,
    UpstreamAnswered,
    UpstreamError,
    UpstreamTimeout,
)
from .operations import OPERATIONS, is_about
from .redaction import Secret, redact
from .wire import sse, urls
from .wire.headers import codings, media_type, relayed
from .wire.strict_json import BOM, Unreadable, dumps, loads

MAX_ERROR_BYTES = 65536  # of an error's text; the rest is not read
MAX_PLAIN_REASON = 500  # characters of an error that is plain text
# A web page with one of these statuses is about the request, though a proxy in front of the provider sent it.
_PAGE_STATUSES_KEPT = (411, 413, 414, 429, 431)
# What a status means that servers answer without a word, and what helps.
_MEANINGS = {
    411: "It wants a length, which a streamed upload has not: let it, and any proxy before it, take chunked bodies.",
    413: "The request is larger than it takes: send less, or raise its limit for a body and that of any proxy before "
    "it (nginx: client_max_body_size).",
    414: "The URL is longer than it takes: send fewer query parameters, or raise its limit for the request line.",
    431: "The headers are larger than it takes: send fewer, or raise its limit for headers.",
}


class NoKeptFiles:
    """The kept files of a caller that has no store."""

    def find(self, file_ids: Sequence[str]) -> Mapping[str, Json]:
        """None of them."""
        return {}

    def open(self, file_id: str) -> Answer:
        """NotFound, always."""
        raise NotFound(f"No such File object: {file_id}", param="id")


def run(call: Call, target: Target, transports: Mapping[str, Transport], kept: KeptFiles | None = None) -> Answer:
    """Perform the call's operation. The answer's body is open if it is relayed; every other body is closed.

    UpstreamAnswered for any status other than 2xx, InvalidAnswer for an answer that cannot be used, BadRequest if the
    provider does not have the operation.
    """
    operation = target.provider["operations"].get(call.operation)
    if operation is None:
        reason = target.provider.get("unsupported", {}).get(
            call.operation, "This provider does not have this operation."
        )
        raise BadRequest(reason, code="unsupported_operation", headers={"x-should-retry": "false"})
    opened: list[Body] = []
    relayed_body = None
    send = _Send(target, transports, kept or NoKeptFiles(), opened)
    try:
        answer = operation(call, send)
        _check_id(call, answer)
        if call.is_generated and sse.is_stream(answer) and answer.body is not None:
            answer = _as_event_stream(answer, answer.body, opened, target)
        relayed_body = answer.body
        return answer
    except UpstreamError as error:
        _redact_error(error, target.credentials)
        is_begun = send.has_sent_content or (call.upload is not None and call.upload.is_begun)
        if is_begun and not isinstance(error, UpstreamAnswered):  # it may have arrived
            error.headers.setdefault("x-should-retry", "false")
        if isinstance(error, InvalidAnswer):  # what comes next over the same connection may be wrong too
            for body in opened:
                if discard := getattr(body, "discard", None):
                    discard()
        raise
    finally:
        if not isinstance(relayed_body, EventStream):  # an EventStream closes them all
            for body in opened:
                if body is not relayed_body:  # the response closes that one
                    body.close()


def _check_id(call: Call, answer: Answer) -> None:
    """InvalidAnswer for an answer about another id than the one asked for.

    An upstream that is off by one answers each request with the answer to the one before.
    """
    route = OPERATIONS.get(call.operation)
    is_named = bool(call.file_id and route and route.repeats_id and isinstance(answer.json, dict))
    found = answer.json.get("id") if is_named else None
    if found is not None and not is_about(found, call.file_id):
        raise InvalidAnswer("The provider answered about another id.")


def _as_event_stream(answer: Answer, events: Body, opened: list[Body], target: Target) -> Answer:
    if codings(answer.headers):
        raise InvalidAnswer("The provider's events are compressed.")
    headers = {name: text for name, text in answer.headers.items() if name != "content-length"}
    return answer._replace(headers=headers, body=EventStream(events, opened, target.credentials))


class EventStream:
    """A provider's events on their way to a client, translated or not. Owns the bodies that they come from.

    A failure before the first event is raised. After it, the status has been sent, so the failure becomes the last
    event, and its code is in `error`.
    """

    def __init__(self, events: Iterator[bytes], bodies: list[Body], secrets: Iterable[Secret]) -> None:
        self._events = events
        self._bodies = bodies
        self._secrets = secrets
        self._begun = False
        self.error = ""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """The next events, without a credential that the provider may have repeated."""
        try:
            block = next(self._events)
        except FilesproxyError as error:
            _redact_error(error, self._secrets)
            if not self._begun:
                raise
            self.error = error.code or type(error).__name__
            self._events = iter(())
            block = sse.error_event(error)
        self._begun = True
        return _without_secrets(block, self._secrets)

    def close(self) -> None:
        """Close every body."""
        for body in self._bodies:
            body.close()


def _redact_error(error: FilesproxyError, secrets: Iterable[Secret]) -> None:
    """Remove the secrets from an error that may quote the provider."""
    error.message = redact(error.message, secrets)
    error.args = (error.message,)
    error.param = error.param and redact(error.param, secrets)
    error.code = error.code and redact(error.code, secrets)


def _without_secrets(events: bytes, secrets: Iterable[Secret]) -> bytes:
    """Complete events without the secrets, even if escapes of JSON hide one: SDKs read `\\u002B` and `\\/` as text."""
    if b"\\" in events and any(secrets):
        events = b"\n\n".join(_unescaped(event, secrets) for event in events.split(b"\n\n"))
    return redact(events.decode("latin-1"), secrets).encode("latin-1")


def _unescaped(event: bytes, secrets: Iterable[Secret]) -> bytes:
    """The event; with its JSON written anew if that holds a secret."""
    try:
        text = dumps(loads(sse.data(event))).decode("utf-8")
    except Unreadable:
        return event
    clean = redact(text, secrets)
    if clean == text:
        return event
    others = [line for line in event.split(b"\n") if not line.startswith(b"data")]
    return b"\n".join([*others, b"data: " + clean.encode("utf-8")])


def address(call: Call, target: Target) -> str:
    """The URL of a call, without its query. UpstreamError if its origin is neither the target's nor in `hosts`."""
    path = target.provider["path"](call, target) if "path" in target.provider else call.path
    url = path if "://" in path else target.base_url + path
    hosts = map(urls.origin, target.provider.get("hosts", ()))
    if not urls.is_at(target.base_url, url) and urls.origin(url) not in hosts:
        raise UpstreamError("The call would leave the provider's own hosts.", code="upstream_address")
    return url


class _Send:
    """How an operation reaches its target and the kept files. All its calls together have the time of one."""

    def __init__(
        self, target: Target, transports: Mapping[str, Transport], kept: KeptFiles, opened: list[Body]
    ) -> None:
        self._target = target
        self._transports = transports
        self._opened = opened  # bodies that are not closed yet
        self._read: Body | None = None  # the one of the last call, if it was read to its end
        self.has_sent_content = False  # raw content, of which bytes may have arrived
        self._started = 0.0
        self._size = 0  # bytes of JSON that the answers so far had: the limit is for all of an operation
        self._kept = kept

    @property
    def kept(self) -> KeptFiles:
        """The caller's kept files. The exchange closes the bodies that are opened through it."""
        return _TrackedKeptFiles(self._kept, self._opened)

    def __call__(self, call: Call) -> Answer:
        """Send a call. A body to be relayed is left open; any other is read, and closed when the next call is sent."""
        self._close_read()
        self.has_sent_content |= call.content is not None
        answer = self._perform(self._in_time(call))
        if answer.body is not None:
            self._opened.append(answer.body)
        if answer.is_repeat and answer.status == 404 and call.method == "DELETE":
            return Answer(204)  # the first one has done it (RFC 9110 §9.2.2); what was asked for is so
        if not 200 <= answer.status < 300:
            raise _refusal(answer, self._target)
        if answer.body is None:  # a transport that answers with JSON of its own
            return answer
        if call.expects in ("bytes", "events") and answer.status not in (200, 206):
            raise InvalidAnswer("The provider answered without the content.")
        if call.expects == "bytes" or (call.expects == "events" and sse.is_stream(answer)):
            return answer
        blocks = answer.body
        if call.expects == "events":
            is_stream, blocks = sse.recognised(blocks)
            if is_stream:
                return answer._replace(headers={**answer.headers, "content-type": sse.MEDIA_TYPE}, body=blocks)
        text = _read(blocks, answer.headers, self._target.settings["max_answer_bytes"] - self._size)
        self._size += len(text)
        self._read = answer.body
        value = None if call.expects == "nothing" and not text.strip() else _parse(text)
        return Answer(answer.status, answer.headers, value)

    def _close_read(self) -> None:
        if self._read is not None:
            self._opened.remove(self._read)
            self._read.close()
            self._read = None

    def _perform(self, call: Call) -> Answer:
        target = self._target
        call = call._replace(url=address(call, target))
        if urls.is_at(target.base_url, call.url):  # other hosts never get a credential
            secrets = target.credentials.now()
            target = target if secrets is target.secrets else target._replace(secrets=secrets)
            call = target.provider["authorize"](call, target)
        transport = self._transports.get(call.url.partition(":")[0])
        if transport is None:
            raise UpstreamError("The provider's address has a scheme that is not served.", code="upstream_address")
        return transport(call, target)

    def _in_time(self, call: Call) -> Call:
        """The call with the time that the calls before it have left."""
        if not self._started:
            self._started = time.monotonic()
            return call
        passed = time.monotonic() - self._started
        if passed > (call.timeout or self._target.settings["answer_timeout"]):
            raise UpstreamTimeout("The provider's answers took too long together.")
        if call.watch:
            call.watch.transfer()  # the phase of the answer before is over
        return call._replace(timeout=max(0.001, call.timeout - passed)) if call.timeout else call


class _TrackedKeptFiles:
    """Kept files whose opened bodies are remembered, so that the exchange can close them."""

    def __init__(self, kept: KeptFiles, opened: list[Body]) -> None:
        self._kept = kept
        self._opened = opened

    def find(self, file_ids: Sequence[str]) -> Mapping[str, Json]:
        return self._kept.find(file_ids)

    def open(self, file_id: str) -> Answer:
        answer = self._kept.open(file_id)
        if answer.body is not None:
            self._opened.append(answer.body)
        return answer


def _refusal(answer: Answer, target: Target) -> UpstreamError:
    if target.is_saved and answer.status in (401, 403):  # the caller's own key is not at fault
        refused = "refused the saved credential" if target.secrets else "asks for a credential, and none is saved"
        return UpstreamError(f"The provider {refused}.", code="upstream_credential_rejected")
    if answer.status < 400:
        return UpstreamError("The provider redirects, which the gateway never follows.", code="upstream_redirect")
    text = _reason(answer)
    if _is_page(answer, text) and answer.status not in _PAGE_STATUSES_KEPT:
        message = f"Something before the provider answered {answer.status} with a web page."
        return InvalidAnswer(message, headers=answer_headers(answer, target))
    try:
        body = _parse(text)
    except UpstreamError:
        body = {"message": _described(answer, text, target)}
    error = target.provider["error"](body)
    shown = {name: redact(text, target.credentials) if isinstance(text, str) else text for name, text in error.items()}
    kind = "server_error" if answer.status >= 500 else "invalid_request_error"
    return UpstreamAnswered(answer.status, {**shown, "type": shown["type"] or kind}, answer_headers(answer, target))


def _described(answer: Answer, text: bytes, target: Target) -> str:
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


def _reason(answer: Answer) -> bytes:
    try:
        return _read(answer.body or (), answer.headers, MAX_ERROR_BYTES)
    except UpstreamError:
        return b""


def _is_page(answer: Answer, text: bytes) -> bool:
    start = text[:64].removeprefix(BOM).lstrip()
    return media_type(answer.headers) == "text/html" or start.lower().startswith((b"<!doctype", b"<html"))


def _read(body: Iterable[bytes], headers: Mapping[str, str], limit: int) -> bytes:
    """All of a body, decoded. UpstreamError if it is over the limit, in bytes."""
    read = bytearray()
    for block in body:
        read += block
        if len(read) > limit:
            raise _too_large()
    return _decoded(bytes(read), limit) if read and codings(headers) else bytes(read)


def _too_large() -> UpstreamError:
    return UpstreamError("The provider's answer is over max_answer_bytes.", code="upstream_answer_too_large")


def _decoded(body: bytes, limit: int) -> bytes:
    """The decoded body. The gateway asks for identity (RFC 9110 §12.5.3), but some proxies send gzip anyway.

    UpstreamError if it is over the limit, in bytes. InvalidAnswer if it is not complete gzip, of one or more members
    (RFC 1952 §2.2).
    """
    try:
        plain = gzip.GzipFile(fileobj=BytesIO(body)).read(limit + 1)
    except (OSError, EOFError, zlib.error):
        raise InvalidAnswer("The provider's answer has an encoding that does not decode.") from None
    if len(plain) > limit:
        raise _too_large()
    return plain


def _parse(body: bytes) -> Any:
    try:
        return loads(body)
    except Unreadable:
        raise InvalidAnswer("The provider's answer is not valid JSON.") from None
