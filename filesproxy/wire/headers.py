"""Which headers pass, and what their values may hold: allow-lists in both directions, each rule in one place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from email.errors import (
    FirstHeaderLineIsContinuationDefect,
    InvalidHeaderDefect,
    MisplacedEnvelopeHeaderDefect,
    MissingHeaderBodySeparatorDefect,
)
from email.message import Message

from ..errors import BadRequest

# RFC 9110 §5.6.2 token, §5.5 field value without control characters (TAB too: WSGI servers refuse it).
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\x20-\x7e\x80-\xff]*")
# A single-valued header: no white space, and no comma, which is how servers join a header that came twice.
_SINGLE = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,4096}")

MAX_WORDS = 32  # of a list; each beta of a provider is one
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

_HEADER_DEFECTS = (
    FirstHeaderLineIsContinuationDefect,
    InvalidHeaderDefect,
    MisplacedEnvelopeHeaderDefect,
    MissingHeaderBodySeparatorDefect,
)

#: What operators and SDKs read of any provider's answer. Nothing else is relayed, cookies and server names included,
#: but for what the provider's own entry adds (`answer_headers`).
RELAYED = frozenset({"retry-after", "retry-after-ms", "x-should-retry", "x-request-id", "content-range"})
RELAYED_PREFIXES = ("x-ratelimit-",)
#: What describes the bytes of a file, relayed with them (RFC 9110 §8).
RELAYED_WITH_CONTENT = frozenset(
    {
        "content-type",
        "content-length",
        "content-disposition",
        "content-encoding",
        "accept-ranges",
        "etag",
        "last-modified",
    }
)


def single(headers: Mapping[str, str], name: str) -> str:
    """The value of a header that must come once, "" when absent. BadRequest when it repeats or holds odd characters."""
    value = headers.get(name)
    if value is None:
        return ""
    value = value.strip(" ")
    if value and not _SINGLE.fullmatch(value):
        raise BadRequest(f"The header {name} must come once and hold one value without spaces or commas.", param=name)
    return value


def media_type(headers: Mapping[str, str]) -> str:
    """The media type of a Content-Type without its parameters, in lower case; "" where there is none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def words(headers: Mapping[str, str], *names: str) -> list[str]:
    """The words of headers that hold comma lists (RFC 9110 §5.6.1), each once. BadRequest for anything else."""
    found = [word.strip(" ") for name in names for word in headers.get(name, "").split(",")]
    if len(found) > MAX_WORDS or not all(_WORD.fullmatch(word) for word in found if word):
        raise BadRequest(f"The header {names[0]} is a comma list of at most {MAX_WORDS} words.", param=names[0])
    return [word for word in dict.fromkeys(found) if word]


def are_tokens(names: Iterable[str]) -> bool:
    """Whether all of these can be names of headers (RFC 9110 §5.6.2)."""
    return all(map(_TOKEN.fullmatch, names))


def safe(name: str, value: str) -> bool:
    """Whether this header can be sent on any server without splitting a message."""
    return bool(_TOKEN.fullmatch(name) and _VALUE.fullmatch(value))


def relayed(
    headers: Mapping[str, str],
    names: Sequence[str] = (),
    prefixes: tuple[str, ...] = (),
    request_ids: Sequence[str] = (),
    content: bool = False,
) -> dict[str, str]:
    """The headers of an upstream's answer that the client gets; with `content`, those that describe it too.

    The provider's own: `names`, `prefixes` of names, and `request_ids`, headers that hold what the client gets as
    `x-request-id` if the upstream has no header of that name.
    """
    described = RELAYED_WITH_CONTENT if content else ()
    beginnings = RELAYED_PREFIXES + prefixes
    kept = {
        name: value
        for name, value in headers.items()
        if (name in RELAYED or name in names or name in described or name.startswith(beginnings)) and safe(name, value)
    }
    for name in request_ids:
        if name in headers and safe(name, headers[name]):
            kept.setdefault("x-request-id", headers[name])
    return kept


def misread(message: Message) -> bool:
    """Whether `email` met a line that is not a header: it takes that line, and all after it, for the body.

    Its other defects are about bodies, which it never sees here.
    """
    return any(isinstance(defect, _HEADER_DEFECTS) for defect in message.defects)
