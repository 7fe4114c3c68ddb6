"""Calls that the gateway makes for the sake of a request, to the same target: all of them in the time of one."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ..budget import Hold
from ..calls import Answer, Call, Target, Transport
from ..errors import UpstreamTimeout
from .run import run


class SideCalls:
    """Performs calls to a target. The JSON of each answer is counted in `hold` until the next call, or `end`.

    Together they may take as long as one answer of the provider may, or as long as the client has asked for.
    """

    def __init__(
        self, target: Target, transports: Mapping[str, Transport], hold: Hold, seconds: float | None = None
    ) -> None:
        self._target = target
        self._transports = transports
        self._hold = hold
        self._seconds = seconds or float(target.settings["answer_timeout"])
        self._started = 0.0
        self._is_over = False

    def __call__(self, call: Call) -> Answer:
        """The answer. Raises what `run` raises, and UpstreamTimeout if the calls before it have used up the time."""
        self._hold.release()
        self._started = self._started or time.monotonic()
        left = self._seconds - (time.monotonic() - self._started)
        if left <= 0 and not self._is_over:
            raise UpstreamTimeout("What this request needs to know from the provider took too long.")
        try:
            asked = call._replace(timeout=max(left, 0.001)) if not self._is_over else call
            return run(asked, self._target, self._transports, hold=self._hold)
        finally:
            if self._is_over:
                self._hold.release()

    def end(self) -> None:
        """The request has its answer. What is still to be done, for a stream that goes on, has the time of its own."""
        self._is_over = True
        self._hold.release()
