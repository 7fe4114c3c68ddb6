"""Calls that the gateway makes for the sake of a request, to the same target: all of them in the time of one."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ..budget import Hold
from ..calls import Answer, Call, Target, Transport
from ..errors import RequestTimeout, UpstreamTimeout
from .run import run


class SideCalls:
    """Performs calls to a target. The JSON of each answer is counted in `hold` until the next call, or `end`.

    Together they may take `seconds`, which the client has asked for, or else as long as one answer of the provider.
    """

    def __init__(
        self, target: Target, transports: Mapping[str, Transport], hold: Hold, seconds: float | None = None
    ) -> None:
        self._target = target
        self._transports = transports
        self._hold = hold
        self._seconds = seconds
        self._end: float | None = None  # by time.monotonic
        self._is_over = False

    def __call__(self, call: Call) -> Answer:
        """The answer. Raises what `run` raises, and UpstreamTimeout if the calls before it have used up the time."""
        self._hold.release()
        try:
            target = self._target
            if not self._is_over:
                call, target = self._in_time(call)
            return run(call, target, self._transports, hold=self._hold)
        finally:
            if self._is_over:
                self._hold.release()

    def end(self) -> None:
        """The request has its answer. What is still to be done, for a stream that goes on, has the time of its own."""
        self._is_over = True
        self._hold.release()

    def _in_time(self, call: Call) -> tuple[Call, Target]:
        """The call and the target with the time that is left. A limit that the client did not set is not said to be."""
        now, limit = time.monotonic(), self._target.settings["answer_timeout"]
        self._end = now + (self._seconds or limit) if self._end is None else self._end
        left = self._end - now
        if left <= 0:
            if self._seconds:
                raise RequestTimeout("The time in x-portkey-request-timeout has passed.")
            raise UpstreamTimeout("What this request needs to know from the provider took too long.")
        if self._seconds:
            return call._replace(timeout=left), self._target
        return call, self._target._replace(settings={**self._target.settings, "answer_timeout": left})
