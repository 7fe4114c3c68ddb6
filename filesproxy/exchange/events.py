"""A provider's stream of events on its way to a client: counted, watched, without secrets, and closed at its end."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator

from ..budget import Hold
from ..calls import Body
from ..errors import FilesproxyError, UpstreamTimeout
from ..redaction import Secret, redact
from ..watchdog import Watch
from ..wire import sse
from ..wire.strict_json import Unreadable, dumps, loads
from .answers import count

# The escapes of JSON that can stand for a character of a secret, which is visible ASCII (RFC 8259 §7).
_ESCAPE = re.compile(r'\\(?:u00([2-7][0-9A-Fa-f])|(["\\/]))')
_REMOVED = b": data with a credential was removed"  # a comment


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
            count(block, self._hold)
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
    event, and its code is in `error`. `seen` gets the events before the client does, and may raise to keep them back.
    """

    def __init__(
        self,
        events: Iterator[bytes],
        bodies: list[Body],
        secrets: Iterable[Secret],
        source: Source,
        hold: Hold,
        seen: Callable[[bytes], None] | None = None,
    ) -> None:
        self._seen = seen
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
            if self._seen:
                self._seen(block)
        except FilesproxyError as error:
            redact_error(error, self._secrets)
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


def redact_error(error: FilesproxyError, secrets: Iterable[Secret]) -> None:
    """Remove the secrets from an error that may quote the provider."""
    error.message = redact(error.message, secrets)
    error.args = (error.message,)
    error.param = error.param and redact(error.param, secrets)
    error.code = error.code and redact(error.code, secrets)


def _without_secrets(events: bytes, secrets: Iterable[Secret]) -> bytes:
    """Complete events without the secrets, even if escapes of JSON hide one: SDKs read `\\u002B` and `\\/` as text."""
    if b"\\u00" in events and any(secrets):  # redact itself knows the short escapes, such as `\\/`
        events = b"\n\n".join(_unescaped(event, secrets) for event in events.split(b"\n\n"))
    return redact(events.decode("latin-1"), secrets).encode("latin-1")


def _unescaped(event: bytes, secrets: Iterable[Secret]) -> bytes:
    """The event; with its JSON written anew if that holds a secret, or without its data if it cannot be.

    Whether it does is read off its text: what is refused here, such as NaN or a key that comes twice, some SDKs read.
    """
    data = sse.data(event)
    text = _ESCAPE.sub(_character, data.decode("utf-8", "replace"))
    if redact(text, secrets) == text:
        return event
    others = [line for line in event.split(b"\n") if not line.startswith(b"data")]
    try:
        text = dumps(loads(data)).decode("utf-8")
    except Unreadable:
        text = ""
    clean = redact(text, secrets)
    return b"\n".join(others + ([b"data: " + clean.encode("utf-8")] if clean != text else [_REMOVED]))


def _character(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16)) if escape[1] else escape[2]
