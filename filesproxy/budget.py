"""What callers share, the threads of a worker and its memory for JSON, so that none of them starves the others."""

from __future__ import annotations

import threading

from .errors import CallerBusy, Saturated

_AGAIN = {"retry-after": "1"}


class Shared:
    """An amount of `what` that requests of several callers hold together. Thread-safe.

    The rule: nobody holds more than it leaves free. So a caller that is alone gets a half, two that want everything get
    a third each, and there is always something for the next one. `each`, if it is not 0, is a fixed share instead.
    """

    def __init__(self, what: str, total: float, each: int = 0) -> None:
        self._what = what
        self._left = total
        self._each = each
        self._held: dict[str, int] = {}
        self._lock = threading.Lock()

    def take(self, caller: str, amount: int = 1, own: int = 0) -> None:
        """Hold so much more for the caller; `own` is what this request holds already.

        Raises Saturated (503) if there is less left. Raises CallerBusy (429) if it is over the caller's share, but not
        for a caller's only request: otherwise one that is larger than a share could never be served.
        """
        with self._lock:
            if amount > self._left:
                raise Saturated(f"The gateway is out of {self._what}; try again later.", headers=_AGAIN)
            held = self._held.get(caller, 0)
            if held > own and held + amount > (self._each or self._left - amount):
                message = f"Other requests of this caller hold its share of the {self._what}; try again later."
                raise CallerBusy(message, headers=_AGAIN)
            self._left -= amount
            self._held[caller] = held + amount

    def give_back(self, caller: str, amount: int = 1) -> None:
        """Hold so much less for the caller."""
        with self._lock:
            self._left += amount
            self._held[caller] -= amount
            if not self._held[caller]:
                del self._held[caller]
