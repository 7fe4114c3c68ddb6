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

from .budget import NO_ROOM, Hold, Shared
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
from .watchdog import Watch
from .wire import sse, urls
from .wire.headers import codings, media_type, relayed
from .wire.strict_json import BOM, Unreadable, cost, dumps, loads

# Of an answer, which are not counted. Parsed, 256 of the worst take 100 MB.
UNCOUNTED_BYTES = 1 << 14
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


def run(
    call: Call,
    target: Target,
    transports: Mapping[str, Transport],
    kept: KeptFiles | None = None,
    hold: Hold | None = None,
) -> Answer:
    """Perform the call's operation. The answer's body is open if it is relayed; every other body is closed.

    What JSON answers take in memory is counted in `hold`, for the caller to release; an EventStream releases it.

    UpstreamAnswered for any status other than 2xx, InvalidAnswer for an answer that cannot be used, NO_ROOM for one
    that there is no room for, BadRequest if the provider does not have the operation.
    """
    operation = target.provider["operations"].get(call.operation)
    if operation is None:
        reason = target.provider.get("unsupported", {}).get(
            call.operation, "This provider does not have this operation."
        )
        raise BadRequest(reason, code="unsupported_operation", headers={"x-should-retry": "false"})
    opened: list[Body] = []
    relayed_body = None
    hold = hold or Hold(Shared("memory", float("inf")), "")
    send = _Send(target, transports, kept or NoKeptFiles(), opened, hold)
    try:
        answer = operation(call, send)
        _check_id(call, answer)
        if send.source and answer.body is not None:
            events = EventStream(answer.body, opened, target.credentials, send.source, hold)
            answer = _as_event_stream(answer, events)
        relayed_body = answer.body
        return answer
    except (UpstreamError, *NO_ROOM) as error:
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
        if not isinstance(relayed_body, EventStream):  # an EventStream closes them all, and releases what it holds
            if relayed_body is not None:
                hold.release()
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


def _as_event_stream(answer: Answer, events: EventStream) -> Answer:
    if codings(answer.headers):
        raise InvalidAnswer("The provider's events are compressed.")
    headers = {name: text for name, text in answer.headers.items() if name != "content-length"}
    return answer._replace(headers=headers, body=events)


class Source:
    """The bytes of a provider's stream of events. EventStream says when it waits for an event, and what it got.

    - A stream whose upstream sends no event, or only keep-alives, for `patience` seconds is ended by the watchdog.
      Between two reads the transport's own limit holds, which empty lines and comments would renew for ever.
    - What an event takes beyond one block is counted in `hold` until it has left.
    """

    def __init__(self, body: Body, hold: Hold, watch: Watch, patience: float) -> None:
        self._body = body
        self._hold = hold
        self._watch = watch
        self._patience = patience
        self._silent_by = 0.0
        self._is_silent = False
        self._last = b""  # the block before, if no event has left since

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """The next block. Raises what the body raises, and NO_ROOM."""
        if self._last and sse.ends_event(self._last):  # so many empty lines; nothing of them is kept
            self._hold.release()
            self._last = b""
        block = next(self._body)
        if self._last:
            _count(block, self._hold)
        self._last = block
        return block

    def close(self) -> None:
        """Close the body."""
        self._body.close()

    def begin(self) -> None:
        """An event is waited for; the one before has left."""
        if self._hold.size:
            self._hold.release()
        if not self._is_silent:
            self._silent_by = time.monotonic() + self._patience
        self._watch.silent_by = self._silent_by

    def end(self, events: bytes) -> None:
        """These events came. UpstreamTimeout if there has been no other than keep-alives for too long."""
        self._watch.silent_by = float("inf")
        self._last = b""
        if self._hold.size:  # the client may take its time
            self._hold.resize(min(self._hold.size, len(events)))
        self._is_silent = bool(events) and not sse.has_data(events)
        if self._is_silent and time.monotonic() > self._silent_by:
            raise UpstreamTimeout("The provider has sent nothing but keep-alives for too long.")


class EventStream:
    """A provider's events on their way to a client, translated or not. Owns the bodies that they come from.

    A failure before the first event is raised. After it, the status has been sent, so the failure becomes the last
    event, and its code is in `error`.
    """

    def __init__(
        self, events: Iterator[bytes], bodies: list[Body], secrets: Iterable[Secret], source: Source, hold: Hold
    ) -> None:
        self._events = events
        self._bodies = bodies
        self._secrets = secrets
        self._source = source
        self._hold = hold
        self._begun = False
        self.error = ""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """The next events, without a credential that the provider may have repeated."""
        block = b""
        try:
            while not block:  # it is empty for an event that this client does not get
                self._source.begin()
                block = _without_secrets(next(self._events), self._secrets)
                self._source.end(block)
        except FilesproxyError as error:
            _redact_error(error, self._secrets)
            if not self._begun:
                raise
            self.error = error.code or type(error).__name__
            self._events = iter(())
            block = _without_secrets(sse.error_event(error), self._secrets)
        self._begun = True
        return block

    def close(self) -> None:
        """Close every body."""
        self._hold.release()
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
        self, target: Target, transports: Mapping[str, Transport], kept: KeptFiles, opened: list[Body], hold: Hold
    ) -> None:
        self._target = target
        self._transports = transports
        self._opened = opened  # bodies that are not closed yet
        self._read: Body | None = None  # the one of the last call, if it was read to its end
        self.has_sent_content = False  # raw content, of which bytes may have arrived
        self._started = 0.0
        self.source: Source | None = None  # of events, if an answer is a stream of them
        self._hold = hold  # what the answers so far take of the budget
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
            raise _refusal(call, answer, self._target, self._hold)
        if answer.body is None:  # a transport that answers with JSON of its own
            return answer
        if call.expects in ("bytes", "events") and answer.status not in (200, 206):
            raise InvalidAnswer("The provider answered without the content.")
        if call.expects == "bytes":
            return answer
        blocks = answer.body
        if call.expects == "events":
            watch, patience = call.watch or Watch(), self._target.settings["generation_timeout"]
            if not sse.is_stream(answer):
                watch.silent_by = time.monotonic() + patience  # what comes before the first event may come for ever
                is_stream, blocks = sse.recognised(blocks)
                watch.silent_by = float("inf")
                if is_stream:
                    answer = answer._replace(headers={**answer.headers, "content-type": sse.MEDIA_TYPE})
            if sse.is_stream(answer):
                self.source = Source(blocks, self._hold, watch, patience)
                return answer._replace(body=self.source)
        text = _read(blocks, answer.headers, self._target.settings["max_answer_bytes"] - self._size, self._hold)
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


def _refusal(call: Call, answer: Answer, target: Target, hold: Hold) -> UpstreamError:
    if target.is_saved and answer.status in (401, 403):  # the caller's own key is not at fault
        refused = "refused the saved credential" if target.secrets else "asks for a credential, and none is saved"
        return UpstreamError(f"The provider {refused}.", code="upstream_credential_rejected")
    if answer.status < 400:
        return UpstreamError("The provider redirects, which the gateway never follows.", code="upstream_redirect")
    text = _reason(answer, hold)
    if _is_page(answer, text) and answer.status not in _PAGE_STATUSES_KEPT:
        message = (
            f"Something before the provider answered {answer.status} with a web page.{_hint(call, answer, target)}"
        )
        return InvalidAnswer(message, headers=answer_headers(answer, target))
    try:
        body = _parse(text)
    except UpstreamError:
        body = {"message": _described(answer, text, target)}
    error = target.provider["error"](body)
    shown = {name: redact(text, target.credentials) if isinstance(text, str) else text for name, text in error.items()}
    shown["message"] = f"{shown['message']}{_hint(call, answer, target)}"
    kind = "server_error" if answer.status >= 500 else "invalid_request_error"
    return UpstreamAnswered(answer.status, {**shown, "type": shown["type"] or kind}, answer_headers(answer, target))


def _hint(call: Call, answer: Answer, target: Target) -> str:
    """What a 404 for a path without an id most likely means."""
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
        return _read(answer.body or (), answer.headers, MAX_ERROR_BYTES, hold)
    except (UpstreamError, *NO_ROOM):
        return b""


def _is_page(answer: Answer, text: bytes | bytearray) -> bool:
    start = text[:64].removeprefix(BOM).lstrip()
    return media_type(answer.headers) == "text/html" or start.lower().startswith((b"<!doctype", b"<html"))


def _read(body: Iterable[bytes], headers: Mapping[str, str], limit: int, hold: Hold) -> bytes | bytearray:
    """All of a body, decoded, and counted in `hold` with what it takes once it is parsed.

    UpstreamError if it is over the limit, in bytes. NO_ROOM if there is no more.
    """
    read, counted = bytearray(), 0
    for block in body:
        read += block
        if len(read) > limit:
            raise _too_large()
        if len(read) > UNCOUNTED_BYTES:
            _count(read[counted:], hold)
            counted = len(read)
    text = _decoded(read, limit) if read and codings(headers) else read
    if text is not read and len(text) > UNCOUNTED_BYTES:
        _count(text, hold)
    return text


def _count(text: bytes | bytearray, hold: Hold) -> None:
    """Count what this part of a JSON text will take. UpstreamError if it would not fit even alone, else NO_ROOM."""
    size = cost(text)
    if not hold.fits(size):  # a 503 would promise that it fits later
        raise _too_large("would take more memory than max_json_in_flight")
    hold.take(size)


def _too_large(how: str = "is over max_answer_bytes") -> UpstreamError:
    return UpstreamError(f"The provider's answer {how}.", code="upstream_answer_too_large")


def _decoded(body: bytearray, limit: int) -> bytes:
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


def _parse(body: bytes | bytearray) -> Any:
    try:
        return loads(body)
    except Unreadable:
        raise InvalidAnswer("The provider's answer is not valid JSON.") from None
