"""Runs one operation against one target: the only caller of a transport, and the owner of every answer."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from .errors import BadRequest, UpstreamAnswered, UpstreamError
from .headers import redact, relayed
from .provider import Answer, Body, Call, Target, Transport

MAX_ERROR_BYTES = 65536  # of an error's text; the rest is not read


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
    answer = None
    try:
        answer = operation(call, lambda sent: _send(sent, target, transports, opened))
        return answer
    except UpstreamError as error:
        if call.upload and call.upload.is_begun and not isinstance(error, UpstreamAnswered):  # it may have arrived
            error.headers.setdefault("x-should-retry", "false")
        raise
    finally:
        for body in opened:
            if answer is None or body is not answer.body:  # that one is the response's to close
                body.close()


def address(call: Call, target: Target) -> str:
    """The URL of a call without its query, which is one of the target's own origin or of the provider's hosts."""
    url = call.path if "://" in call.path else target.base_url + call.path
    if _origin(url) not in {_origin(target.base_url), *map(_origin, target.provider.get("hosts", ()))}:
        raise UpstreamError("The call would leave the provider's own hosts.", code="upstream_address")
    return url


def _origin(url: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port
    except ValueError:
        raise UpstreamError("The call has an address that is no URL.", code="upstream_address") from None


def _send(call: Call, target: Target, transports: Mapping[str, Transport], opened: list[Body]) -> Answer:
    call = replace(call, url=address(call, target))
    if _origin(call.url) == _origin(target.base_url):
        call = target.provider["authorize"](call, target)
    transport = transports.get(urlsplit(call.url).scheme)
    if transport is None:
        raise UpstreamError("The provider's address has a scheme that is not served.", code="upstream_address")
    answer = transport(call, target)
    if answer.body is not None:
        opened.append(answer.body)
    if not 200 <= answer.status < 300:
        raise _refusal(answer, target)
    if call.stream and answer.status not in (200, 206):
        raise UpstreamError("The provider answered without the content.", code="upstream_invalid_answer")
    if call.stream or answer.body is None:
        return answer
    return replace(answer, json=_parse(_read(answer, target.settings["max_answer_bytes"])), body=None)


def _refusal(answer: Answer, target: Target) -> UpstreamError:
    if target.is_saved and answer.status in (401, 403):  # the caller's own key is not at fault
        return UpstreamError("The provider refused the saved credential.", code="upstream_credential_rejected")
    if answer.status < 400:
        return UpstreamError("The provider redirects, which the gateway never follows.", code="upstream_redirect")
    try:
        body = _parse(_read(answer, MAX_ERROR_BYTES))
    except UpstreamError:  # an HTML page of some proxy on the way: its words are no use to a client
        body = {"message": f"The provider answered {answer.status} without a readable reason."}
    error = target.provider["error"](body)
    shown = {name: redact(text, target.credential) if isinstance(text, str) else text for name, text in error.items()}
    headers = {name: redact(text, target.credential) for name, text in relayed(answer.headers).items()}
    kind = "server_error" if answer.status >= 500 else "invalid_request_error"
    return UpstreamAnswered(answer.status, {**shown, "type": shown["type"] or kind}, headers)


def _read(answer: Answer, limit: int) -> bytes:
    read = bytearray()
    for block in answer.body or ():
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
        return json.loads(body, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError):
        raise UpstreamError("The provider's answer is no JSON.", code="upstream_invalid_answer") from None


def _finite(text: str) -> float:
    """A number; NaN and what overflows have no JSON to be sent on as."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("no JSON number")
    return number
