"""Absolute URLs (RFC 3986): split without an exception, and compared by origin (RFC 6454 §4). No I/O."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit


def split(text: str) -> SplitResult | None:
    """The parts of a URL; None if it is malformed, or has a port that is not one."""
    try:
        parts = urlsplit(text)
        return parts if parts.port is None or parts.port else None
    except ValueError:
        return None
