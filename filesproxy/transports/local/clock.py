"""How far a sweep believes the clock.

For clients, a file has expired as soon as the clock says so. Its bytes are gone for good, and a clock may be wrong: one
start with a clock that is sixty days ahead would destroy every file that ever expires. So each sweep leaves in the
index what it saw of the clock, and compares the next sight with the machine's own counter of time (CLOCK_BOOTTIME),
which nobody sets. What the clock has gained beyond that counter is a leap. Nothing proves how long a machine was off,
so the time between two boots is a leap too. A leap is believed when the clock has run on without another one for
HOLD_SECONDS; until then, a sweep removes what would have expired without it.
"""

from __future__ import annotations

import time
from typing import NamedTuple

HOLD_SECONDS = 6 * 3600  # to notice a wrong clock and set it
TOLERANCE_SECONDS = 60  # corrections (NTP), and the moment between two looks


class Now(NamedTuple):
    """One look at both clocks: seconds since the epoch, this boot, seconds since the boot."""

    wall: int
    boot: str
    ticks: int


class Sight(NamedTuple):
    """What a sweep saw, and what follows: a leap of `ahead` seconds, in doubt since `since` (ticks of this boot)."""

    wall: int
    boot: str
    ticks: int
    ahead: int
    since: int

    @property
    def proven(self) -> int:
        """The time that a sweep may act on, in seconds since the epoch."""
        return self.wall - self.ahead


def since_boot() -> float:
    """The machine's own counter: seconds since the boot, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def look(wall: float, ticks: float) -> Now:
    """What these clocks say, and of which boot."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
    except OSError:
        boot = ""
    return Now(int(wall), boot, int(ticks))


def judge(last: Sight | None, now: Now) -> Sight:
    """What to believe after this look. Without a last one, as in an index that was just made, all is in doubt."""
    if last is None:
        return Sight(*now, ahead=now.wall, since=now.ticks)
    is_same_boot = now.boot == last.boot and now.ticks >= last.ticks
    leap = now.wall - last.wall - (now.ticks - last.ticks if is_same_boot else 0)
    if abs(leap) > TOLERANCE_SECONDS:
        return Sight(*now, ahead=max(0, last.ahead + leap), since=now.ticks)
    since = last.since if is_same_boot else now.ticks
    is_held = last.ahead and now.ticks - since < HOLD_SECONDS
    return Sight(*now, ahead=last.ahead if is_held else 0, since=since)
