"""What callers share, the threads of a worker and its memory for JSON, so that none of them starves the others."""

from __future__ import annotations

import threading

from .errors import CallerBusy, Saturated

#: what a `Shared` that has no room raises
NO_ROOM = (CallerBusy, Saturated)
_AGAIN = {"retry-after": "1"}


class Shared:
    """An amount of `what` that requests of several callers hold together. Thread-safe.

    The rule: nobody holds more than it leaves free. So a caller that is alone gets a half, two that want everything get
    a third each, and there is always something for the next one. `each`, if it is not 0, is a fixed share instead.
    """

    def __init__(self, what: str, total: float, each: int = 0) -> None:
        self.total = total
        self._what = what
        self._left = total
        self._each = each
        self._held: dict[str, int] = {}
        self._lock = threading.Lock()

    def take(self, caller: str, amount: int = 1, own: int = 0) -> None:
        """Hold so much more for the caller; `own` is what this request holds already.

        Raises Saturated (503) if there is less left. Raises CallerBusy (429) if it is over the caller's share, but not
        for a caller's only request: otherwise one that is larger than a share could never be served. When it
        raises, `own` is given back at once: of requests that together fill everything, the last finds room.
        """
        with self._lock:
            held = self._held.get(caller, 0)
            is_over = amount > self._left
            if not is_over and (held <= own or held + amount <= (self._each or self._left - amount)):
                self._change(caller, amount)
                return
            self._change(caller, -own)
        if is_over:
            raise Saturated(f"The gateway is out of {self._what}; try again later.", headers=_AGAIN)
        message = f"Other requests of this caller hold its share of the {self._what}; try again later."
        raise CallerBusy(message, headers=_AGAIN)

    def give_back(self, caller: str, amount: int = 1) -> None:
        """Hold so much less for the caller."""
        with self._lock:
            self._change(caller, -amount)

    def _change(self, caller: str, amount: int) -> None:
        self._left -= amount
        held = self._held.pop(caller, 0) + amount
        if held:
            self._held[caller] = held


class Hold:
    """What one request of a caller has taken of something shared. For one thread at a time."""

    def __init__(self, shared: Shared, caller: str) -> None:
        self._shared = shared
        self._caller = caller
        self.size = 0

    def fits(self, amount: int) -> bool:
        """Whether so much more would fit if there were no other request."""
        return self.size + amount <= self._shared.total

    def take(self, amount: int) -> None:
        """Hold so much more. Raises what `Shared.take` raises, and holds nothing then."""
        if amount:
            own, self.size = self.size, 0
            self._shared.take(self._caller, amount, own)
            self.size = own + amount

    def resize(self, size: int) -> None:
        """Hold this much from now on. Raises what `Shared.take` raises, if it is more than before."""
        if size >= self.size:
            self.take(size - self.size)
        else:
            less, self.size = self.size - size, size
            self._shared.give_back(self._caller, less)

    def release(self) -> None:
        """Give back everything; a second time is harmless."""
        self.resize(0)
