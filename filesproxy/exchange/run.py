"""Runs one operation against one target: the only caller of a transport, and the owner of every body."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from ..budget import NO_ROOM, Hold, Shared
from ..calls import Answer, Body, Call, Content, Target, Transport
from ..errors import BadRequest, FilesproxyError, InvalidAnswer, UpstreamAnswered, UpstreamError, UpstreamTimeout
from ..operations import OPERATIONS, is_about
from ..watchdog import Watch
from ..wire import sse, urls
from ..wire.headers import codings
from ..wire.inlined_json import filled
from .answers import count_list, is_nothing, parsed, read, refusal
from .events import EventStream, Source, redact_error


def run(
    call: Call,
    target: Target,
    transports: Mapping[str, Transport],
    hold: Hold | None = None,
    seen: Callable[[bytes], None] | None = None,
) -> Answer:
    """Perform the call's operation. The answer's body is open if it is relayed; every other body is closed.

    What JSON answers take in memory is counted in `hold`, for the caller to release; an EventStream releases it. `seen`
    gets the events of a stream before they are relayed.

    UpstreamAnswered for any status other than 2xx, InvalidAnswer for an answer that cannot be used, NO_ROOM if there is
    no memory left for the answer, BadRequest if the provider does not have the operation.
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
    send = _Send(target, transports, opened, hold)
    try:
        answer = operation(call, send)
        _check_id(call, answer)
        if send.source and answer.body is not None:
            events = EventStream(answer.body, opened, target.credentials, send.source, hold, seen)
            answer = _as_event_stream(answer, events)
        relayed_body = answer.body
        return answer
    except (UpstreamError, *NO_ROOM) as error:
        redact_error(error, target.credentials)
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


def address(call: Call, target: Target) -> str:
    """The URL of a call, without its query. UpstreamError if its origin is neither the target's nor in `hosts`."""
    path = target.provider["path"](call, target) if "path" in target.provider else call.path
    url = path if "://" in path else target.base_url + path
    hosts = map(urls.origin, target.provider.get("hosts", ()))
    if not urls.is_at(target.base_url, url) and urls.origin(url) not in hosts:
        raise UpstreamError("The call would leave the provider's own hosts.", code="upstream_address")
    return url


class _Send:
    """How an operation reaches its target. All its calls together have the time of one."""

    def __init__(self, target: Target, transports: Mapping[str, Transport], opened: list[Body], hold: Hold) -> None:
        self._target = target
        self._transports = transports
        self._opened = opened  # bodies that are not closed yet
        self._read: Body | None = None  # the one of the last call, if it was read to its end
        self.has_sent_content = False  # raw content, of which bytes may have arrived
        self._started = 0.0
        self.source: Source | None = None  # of events, if an answer is a stream of them
        self._hold = hold  # what the answers so far take of the budget
        self._size = 0  # bytes of JSON that the answers so far had: the limit is for all of an operation

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
            raise refusal(call, answer, self._target, self._hold)
        if answer.body is None:  # a transport that answers with JSON of its own
            count_list(answer.json, self._hold)
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
        text = read(blocks, answer.headers, self._target.settings["max_answer_bytes"] - self._size, self._hold)
        self._size += len(text)
        self._read = answer.body
        route = OPERATIONS.get(call.operation)
        is_passed = answer.status == 204 and not text and route is not None and route.is_passed_through
        is_empty = is_passed or (call.expects == "nothing" and is_nothing(text, call.file_id))
        return Answer(answer.status, answer.headers, None if is_empty else parsed(text))

    def _close_read(self) -> None:
        if self._read is not None:
            self._opened.remove(self._read)
            self._read.close()
            self._read = None

    def _perform(self, call: Call) -> Answer:
        target = self._target
        call = self._filled(call._replace(url=address(call, target)))
        if urls.is_at(target.base_url, call.url):  # other hosts never get a credential
            secrets = target.credentials.now()
            target = target if secrets is target.secrets else target._replace(secrets=secrets)
            call = target.provider["authorize"](call, target)
        transport = self._transports.get(call.url.partition(":")[0])
        if transport is None:
            raise UpstreamError("The provider's address has a scheme that is not served.", code="upstream_address")
        return transport(call, target)

    def _filled(self, call: Call) -> Call:
        """The call with its kept files in place of their stand-ins."""
        if call.content is not None and call.inlined:
            raise FilesproxyError("The provider's translation cannot hold kept files.", code="internal_error")
        if call.json is None or not call.inlined:
            return call
        length, blocks = filled(call.json, call.inlined)
        self._opened.append(blocks)  # closes the file that is being sent, if the sending ends early
        return call._replace(json=None, content=Content(length, "application/json", blocks), inlined=())

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
