"""Runs one operation against one target: the only caller of a transport, and the owner of every answer."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from .calls import Answer, Body, Call, Target, Transport, replace
from .errors import BadRequest, FilesproxyError, UpstreamAnswered, UpstreamError, UpstreamTimeout
from .wire import sse
from .wire.headers import media_type, redact, relayed
from .wire.strict_json import Unreadable, loads, says_only

MAX_ERROR_BYTES = 65536  # of an error's text; the rest is not read
_KEPT_FOR_A_PAGE = (413, 429)  # which an edge answers for the provider; other pages say nothing of the request


def run(call: Call, target: Target, transports: Mapping[str, Transport]) -> Answer:
    """The operation's answer, its body still open if it is a stream; whatever else was opened is closed.

    Raises UpstreamAnswered for every status but 2xx, UpstreamError for an answer that cannot be used,
    BadRequest where the provider has no such operation.
    """
    operation = target.provider["operations"].get(call.operation)
    if operation is None:
        reason = target.provider.get("unsupported", {}).get(call.operation, "This provider has no such operation.")
        raise BadRequest(reason, code="unsupported_operation", headers={"x-should-retry": "false"})
    opened: list[Body] = []
    kept = None
    try:
        answer = operation(call, _Sender(target, transports, opened))
        answer = _watched(answer, opened, target) if call.is_generated and sse.is_stream(answer) else answer
        kept = answer.body
        return answer
    except UpstreamError as error:
        if call.upload and call.upload.is_begun and not isinstance(error, UpstreamAnswered):  # it may have arrived
            error.headers.setdefault("x-should-retry", "false")
        raise
    finally:
        if not isinstance(kept, EventStream):  # which closes them all
            for body in opened:
                if body is not kept:  # that one is the response's to close
                    body.close()


def _watched(answer: Answer, opened: list[Body], target: Target) -> Answer:
    """The answer with a body that closes everything under it, and makes an event of what breaks it off."""
    assert answer.body is not None
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise UpstreamError("The provider's events have an encoding.", code="upstream_invalid_answer")
    headers = {name: text for name, text in answer.headers.items() if name != "content-length"}
    return replace(answer, headers=headers, body=EventStream(answer.body, opened, target.credential))


class EventStream:
    """A provider's events on their way to a client, translated or not; owns the bodies that they are made of.

    A failure before the first event is raised. Behind it the status has gone, so it becomes the last event, and its
    code is in `error`.
    """

    def __init__(self, events: Iterator[bytes], bodies: list[Body], secret: str) -> None:
        self._events = events
        self._bodies = bodies
        self._secret = secret
        self._begun = False
        self.error = ""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """The next events, without a credential that the provider may have repeated."""
        try:
            block = next(self._events)
        except FilesproxyError as error:
            error.message = redact(error.message, self._secret)
            error.param = error.param and redact(error.param, self._secret)
            error.code = error.code and redact(error.code, self._secret)
            if not self._begun:
                raise
            self.error = error.code or type(error).__name__
            self._events = iter(())
            block = sse.error_event(error)
        self._begun = True
        return redact(block.decode("latin-1"), self._secret).encode("latin-1") if self._secret else block

    def close(self) -> None:
        """Close every body."""
        for body in self._bodies:
            body.close()


def address(call: Call, target: Target) -> str:
    """The URL of a call without its query, which is one of the target's own origin or of the provider's hosts."""
    path = target.provider["path"](call, target) if "path" in target.provider else call.path
    url = path if "://" in path else target.base_url + path
    if not _is_at(target.base_url, url) and _origin(url) not in map(_origin, target.provider.get("hosts", ())):
        raise UpstreamError("The call would leave the provider's own hosts.", code="upstream_address")
    return url


def _is_at(base_url: str, url: str) -> bool:
    """Whether both have one origin: surely so if the first ends, with a slash behind it, inside the second."""
    return url.startswith(base_url + "/") or _origin(url) == _origin(base_url)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port
    except ValueError:
        raise UpstreamError("The call has an address that is no URL.", code="upstream_address") from None


class _Sender:
    """What an operation sends with: it may send several calls, all within the time of one."""

    def __init__(self, target: Target, transports: Mapping[str, Transport], opened: list[Body]) -> None:
        self._target = target
        self._transports = transports
        self._opened = opened  # bodies that nobody has read and closed yet
        self._started = 0.0

    def __call__(self, call: Call) -> Answer:
        """Send a call. JSON is read and its body closed; the body of a stream is left open."""
        answer = self._perform(self._in_time(call))
        if answer.body is not None:
            self._opened.append(answer.body)
        if not 200 <= answer.status < 300:
            raise _refusal(answer, self._target)
        if call.stream and answer.status not in (200, 206):
            raise UpstreamError("The provider answered without the content.", code="upstream_invalid_answer")
        if answer.body is None or (call.stream and (sse.is_stream(answer) or not call.is_generated)):
            return answer  # events, or a file's bytes: nothing else is relayed without being read
        text = _read(answer, self._target.settings["max_answer_bytes"])
        value = _parse(text)
        self._opened.pop().close()
        return replace(answer, json=value, body=None, parsed=(value, text if says_only(text, value) else b""))

    def _perform(self, call: Call) -> Answer:
        target = self._target
        call = replace(call, url=address(call, target))
        if _is_at(target.base_url, call.url):
            call = target.provider["authorize"](call, target)
        transport = self._transports.get(call.url.partition(":")[0])
        if transport is None:
            raise UpstreamError("The provider's address has a scheme that is not served.", code="upstream_address")
        return transport(call, target)

    def _in_time(self, call: Call) -> Call:
        """The call with the time that the ones before it have left."""
        if not self._started:
            self._started = time.monotonic()
            return call
        passed = time.monotonic() - self._started
        if passed > (call.timeout or self._target.settings["answer_timeout"]):
            raise UpstreamTimeout("The provider's answers took too long together.")
        if call.watch:
            call.watch.transfer()  # the time of the answer before is over
        return replace(call, timeout=max(0.001, call.timeout - passed)) if call.timeout else call


def _refusal(answer: Answer, target: Target) -> UpstreamError:
    if target.is_saved and answer.status in (401, 403):  # the caller's own key is not at fault
        return UpstreamError("The provider refused the saved credential.", code="upstream_credential_rejected")
    if answer.status < 400:
        return UpstreamError("The provider redirects, which the gateway never follows.", code="upstream_redirect")
    text = _reason(answer)
    if _is_page(answer, text) and answer.status not in _KEPT_FOR_A_PAGE:
        message = f"Something before the provider answered {answer.status} with a web page."
        return UpstreamError(message, code="upstream_invalid_answer", headers=_relayed(answer, target))
    try:
        body = _parse(text)
    except UpstreamError:
        body = {"message": f"The provider answered {answer.status} without a readable reason."}
    error = target.provider["error"](body)
    shown = {name: redact(text, target.credential) if isinstance(text, str) else text for name, text in error.items()}
    kind = "server_error" if answer.status >= 500 else "invalid_request_error"
    return UpstreamAnswered(answer.status, {**shown, "type": shown["type"] or kind}, _relayed(answer, target))


def _relayed(answer: Answer, target: Target) -> dict[str, str]:
    return {name: redact(text, target.credential) for name, text in relayed(answer.headers).items()}


def _reason(answer: Answer) -> bytes:
    try:
        return _read(answer, MAX_ERROR_BYTES)
    except UpstreamError:
        return b""


def _is_page(answer: Answer, text: bytes) -> bool:
    return media_type(answer.headers) == "text/html" or text[:64].lstrip().lower().startswith((b"<!doctype", b"<html"))


def _read(answer: Answer, limit: int) -> bytes:
    read: bytes | bytearray = b""
    for block in answer.body or ():
        if read and isinstance(read, bytes):  # mostly one block is all, and not copied
            read = bytearray(read)
        read += block
        if len(read) > limit:
            raise UpstreamError(f"The provider's answer is over {limit} bytes.", code="upstream_answer_too_large")
    return _decoded(bytes(read), answer.headers.get("content-encoding", "identity"), limit)


def _decoded(body: bytes, encoding: str, limit: int) -> bytes:
    """We ask for identity (RFC 9110 §12.5.3); some edges send gzip all the same."""
    if encoding.strip().lower() in ("", "identity"):
        return body
    try:
        inflater = zlib.decompressobj(31)
        plain = inflater.decompress(body, limit)
    except zlib.error:
        plain, inflater = b"", zlib.decompressobj()
    if not inflater.eof:
        raise UpstreamError(
            "The provider's answer has an encoding that does not decode.", code="upstream_invalid_answer"
        )
    return plain


def _parse(body: bytes) -> Any:
    try:
        return loads(body)
    except Unreadable:
        raise UpstreamError("The provider's answer is no JSON.", code="upstream_invalid_answer") from None
