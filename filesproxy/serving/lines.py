"""How the commands print files: sizes, times and names, for a terminal."""

from __future__ import annotations

import time


def line(file_id: str, owner: str, size: int | None, created_at: int, expires_at: int | None, name: str) -> str:
    """A file in one line: id, owner, bytes, time, age, expiry, name."""
    expiry = f"expires {moment(expires_at)}" if expires_at else "stays"
    known = "?" if size is None else str(size)
    fields = (
        printable(file_id),
        printable(owner) or "-",
        known,
        moment(created_at),
        age(created_at),
        expiry,
        printable(name),
    )
    return "  ".join(fields)


def files(count: int) -> str:
    """So many files."""
    return f"{count} file{'s' * (count != 1)}"


def counted(count: int, size: int) -> str:
    """So many files, and their bytes."""
    return f"{files(count)} ({size} bytes)"


def moment(seconds: int) -> str:
    """A time since the epoch, in UTC (RFC 3339)."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (OverflowError, OSError, ValueError):  # further away than the system can count
        return f"@{seconds}"


def age(since: int) -> str:
    """How long ago that was, in its largest unit: 5s, 12m, 3h, 40d."""
    seconds = max(0, int(time.time()) - since)
    units = (("d", 86400), ("h", 3600), ("m", 60))
    return next((f"{seconds // unit}{letter}" for letter, unit in units if seconds >= unit), f"{seconds}s")


def printable(text: str) -> str:
    """Text for a terminal, which control characters could steer."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
