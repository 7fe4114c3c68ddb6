"""The list of models of all saved providers that a caller may chat with, each as `@NAME/model`.

It is for requests that name no provider. The providers are asked side by side; one that does not answer in time, or not
with a list, is left out and named.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

from ..budget import Hold, Shared
from ..calls import Call, Json, Target, Transport
from ..errors import FilesproxyError, UpstreamError, UpstreamTimeout
from ..exchange.run import run
from ..watchdog import Watchdog
from ..wire.json_fields import need
from ..wire.strict_json import cost, dumps
from .files import call_of
from .record import Record
from .request import Request
from .response import Response, json_response
from .router import Match

AT_A_TIME = 8  # providers that an application asks side by side, whoever wants to know
SECONDS = 5.0  # for the whole answer of one provider
REMEMBERED_SECONDS = 60.0
# A list that lacks a provider, and a failure, are remembered too, so that a dead provider does not cost every request
# its time; but briefly, so that the provider is seen soon after it is back.
INCOMPLETE_SECONDS = 5.0
MAX_REMEMBERED = 128  # callers
MAX_REMEMBERED_BYTES = 1 << 24  # of memory for all lists of an application; a list that finds no room is asked anew
MAX_LIST_BYTES = 1 << 21  # of one provider's answer; the longest lists known, of routers, have half a MiB
_SPARE_SECONDS = 1.0  # for a call that has been ended to return

Ask = Callable[[Call, Target], Json]  # the JSON that a target answers, within SECONDS
Only = Callable[[list[Json], Target], list[Json]]  # the models of a target's list that a caller may see


def asks_by(transports: Mapping[str, Transport], watchdog: Watchdog, answers: Shared) -> Ask:
    """How an application asks: within SECONDS, and with what an answer takes counted in `answers` while it is read."""

    def ask(call: Call, target: Target) -> Json:
        watch = watchdog.watch(None, SECONDS)
        hold = Hold(answers, f"@{target.name}")  # its list is for more than one request
        settings = {
            **target.settings,
            "connect_timeout": min(SECONDS, target.settings["connect_timeout"]),
            "max_answer_bytes": min(MAX_LIST_BYTES, target.settings["max_answer_bytes"]),
        }
        try:
            found: Json = run(
                call._replace(watch=watch), target._replace(settings=settings), transports, hold=hold
            ).json
            return found
        finally:
            watch.close()
            hold.release()

    return ask


class Models(NamedTuple):
    """A list of models, and the names of the providers that it lacks."""

    data: list[Json]
    missing: list[str]


class ModelLists:
    """Asks providers for their models, and remembers the answers by caller. Thread-safe.

    `ask` performs one call. It must return or raise after SECONDS at the latest; a thread whose call does not is left
    behind and ends when its call does.
    """

    def __init__(self, ask: Ask, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._slots = threading.BoundedSemaphore(AT_A_TIME)
        self._known: dict[Hashable, _Remembered] = {}
        self._lock = threading.Lock()

    def response(
        self, request: Request, match: Match, caller: Hashable, targets: Sequence[Target], record: Record, only: Only
    ) -> Response:
        """The answer to a request for the models of these targets. Raises what `of` raises."""
        via = {"via": request.headers["via"]} if "via" in request.headers else {}
        found = self.of(caller, call_of(match, headers=via, now=record.started), targets, only)
        headers = {**record.headers(), "cache-control": "no-store"}
        if ignored := [*(f"@{name}" for name in found.missing), *record.ignored]:
            headers["x-filesproxy-ignored"] = ", ".join(ignored)
        secrets = [secret for target in targets for secret in target.credentials]
        return json_response(200, {"object": "list", "data": found.data}, headers, secrets)

    def of(
        self,
        caller: Hashable,
        call: Call,
        targets: Sequence[Target],
        only: Only = lambda models, target: models,
    ) -> Models:
        """The models of these targets for this caller, who must always come with the same ones.

        Raises the failure of the last target if all have failed.
        """
        with self._lock:
            if caller not in self._known and len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            known = self._known.setdefault(caller, _Remembered())
        with known.lock:  # requests of the same caller that come meanwhile wait for the same answers
            if known.until <= self._clock():
                known.forget()
                found = self._gathered(call, targets, only)
                self._remember(known, found)
            else:
                found = known.found
        if isinstance(found, Models):
            return found
        failure = UpstreamError(
            found.message, code=found.code, detail=found.detail
        )  # every request gets one of its own
        failure.status = max(failure.status, found.status)  # a provider's 4xx is not about this request
        raise failure

    def _remember(self, known: _Remembered, found: Models | FilesproxyError) -> None:
        """Remember this as `known` if there is room for it beside what others were told and is not over its time."""
        is_whole = isinstance(found, Models) and not found.missing
        size = cost(dumps(found.data)) if isinstance(found, Models) else 0
        with self._lock:
            now = self._clock()
            for caller, each in list(self._known.items()):
                if each.until <= now and not each.lock.locked():
                    del self._known[caller]
            if sum(each.size for each in self._known.values()) + size <= MAX_REMEMBERED_BYTES:
                known.found, known.size = found, size
                known.until = now + (REMEMBERED_SECONDS if is_whole else INCOMPLETE_SECONDS)

    def _gathered(self, call: Call, targets: Sequence[Target], only: Only) -> Models | FilesproxyError:
        gathering = _Gathering(self._ask, self._slots, call, targets, only)
        found = gathering.run()
        data = [model for target in targets for model in found.get(target.name, ())]
        missing = [target.name for target in targets if target.name not in found]
        return Models(data, missing) if found else gathering.failure


class _Remembered:
    """What one caller was told, until when, and the lock of whoever asks anew."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Be as new."""
        self.until = float("-inf")
        self.found: Models | FilesproxyError = Models([], [])
        self.size = 0  # bytes of memory


class _Gathering:
    """One round of questions, on threads of its own."""

    def __init__(
        self, ask: Ask, slots: threading.BoundedSemaphore, call: Call, targets: Sequence[Target], only: Only
    ) -> None:
        self._only = only
        self._ask = ask
        self._slots = slots
        self._call = call
        self._left = deque(targets)
        self._found: dict[str, list[Json]] = {}
        self.failure: FilesproxyError = UpstreamTimeout("No saved provider answered in time.")

    def run(self) -> dict[str, list[Json]]:
        """Name of a provider → its models, for those that answered in time."""
        rounds = -(-len(self._left) // AT_A_TIME)
        end = time.monotonic() + rounds * SECONDS + _SPARE_SECONDS
        threads = [
            threading.Thread(target=self._work, args=(end,), name="filesproxy models", daemon=True)
            for _ in range(min(AT_A_TIME, len(self._left)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._left.clear()
        return dict(self._found)

    def _work(self, end: float) -> None:
        while self._slots.acquire(timeout=max(0.0, end - time.monotonic())):
            try:
                self._ask_next()
            except IndexError:  # there is nobody left to ask
                return
            finally:
                self._slots.release()

    def _ask_next(self) -> None:
        target = self._left.popleft()
        try:
            models = self._only(need(self._ask(self._call, target), "data", list), target)
            self._found[target.name] = [{**model, "id": f"@{target.name}/{need(model, 'id', str)}"} for model in models]
        except FilesproxyError as failure:
            self.failure = failure
        except Exception as failure:
            self.failure = FilesproxyError(f"The gateway failed: {type(failure).__name__}.", code="internal_error")
