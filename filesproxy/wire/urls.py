"""Absolute URLs (RFC 3986): split without exceptions, compared by origin (RFC 6454 §4). No I/O."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from ..errors import UpstreamError

_PORTS = {"http": 80, "https": 443}


def split(text: str) -> SplitResult | None:
    """The parts of a URL; None if it is malformed or its port is invalid."""
    try:
        parts = urlsplit(text)
        return parts if parts.port is None or parts.port else None
    except ValueError:
        return None


def is_at(base_url: str, url: str) -> bool:
    """Whether both URLs have the same origin: scheme, host and port. UpstreamError if one is malformed."""
    return url.startswith(base_url + "/") or origin(url) == origin(base_url)


def has_path(url: str) -> bool:
    """Whether a URL has more than an origin."""
    parts = split(url)
    return bool(parts and parts.path.strip("/"))


def origin(url: str) -> tuple[str, str | None, int | None]:
    """The scheme, host and port of a URL, also where the port is the scheme's own. UpstreamError if it is malformed."""
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        raise UpstreamError("The call's address is not a valid URL.", code="upstream_address") from None
