"""Which headers pass in each direction, and what their values may be. No I/O."""

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

# A token (RFC 9110 §5.6.2), and a field value (§5.5) without control characters, not even TAB, which WSGI servers
# refuse.
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\x20-\x7e\x80-\xff]*")
# A single value: no white space, and no comma, which is how servers join a repeated header.
_SINGLE = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,4096}")

# What servers send for "not encoded". RFC 9110 §8.4.1 knows only `identity`, and says not to send it. The others are
# nothing at all, words that change no byte in mail (RFC 2045 §6.2), and a charset.
_NO_CODINGS = frozenset({"", "identity", "none", "null", "7bit", "8bit", "binary", "utf-8", "utf8"})

MAX_WORDS = 32  # of a list; each of a provider's betas is one
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,99}")  # OpenAI's betas have a version: assistants=v2

_HEADER_DEFECTS = (
    FirstHeaderLineIsContinuationDefect,
    InvalidHeaderDefect,
    MisplacedEnvelopeHeaderDefect,
    MissingHeaderBodySeparatorDefect,
)

#: The headers of an answer that operators and SDKs read. Nothing else is relayed, such as cookies and server names,
#: except what the provider's own entry adds (`answer_headers`).
RELAYED = frozenset({"retry-after", "retry-after-ms", "x-should-retry", "x-request-id", "content-range"})
RELAYED_PREFIXES = ("x-ratelimit-",)
#: The headers that describe a file's bytes, and are relayed with them (RFC 9110 §8).
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
    """The value of a header that must come once; "" if it is absent. BadRequest if it repeats or is not one word."""
    value = headers.get(name)
    if value is None:
        return ""
    value = value.strip(" ")
    if value and not _SINGLE.fullmatch(value):
        raise BadRequest(f"The header {name} must come once and hold one value without spaces or commas.", param=name)
    return value


def media_type(headers: Mapping[str, str]) -> str:
    """The media type of the Content-Type, without parameters, in lower case; "" if there is none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def codings(headers: Mapping[str, str]) -> list[str]:
    """The content codings of a body, in lower case, in the order in which they were applied; empty if it is as it is.

    Whatever asks whether a body is encoded asks here, so that all spellings of "no" are the same (RFC 9110 §8.4).
    """
    value = headers.get("content-encoding")
    if value is None:
        return []
    return [word for word in (text.strip().strip('"').lower() for text in value.split(",")) if word not in _NO_CODINGS]


def words(headers: Mapping[str, str], *names: str) -> list[str]:
    """The words of headers that are comma-separated lists (RFC 9110 §5.6.1), each once. BadRequest if one is not."""
    found = [word.strip(" ") for name in names for word in headers.get(name, "").split(",")]
    if len(found) > MAX_WORDS or not all(_WORD.fullmatch(word) for word in found if word):
        raise BadRequest(f"The header {names[0]} must be a list of at most {MAX_WORDS} words.", param=names[0])
    return [word for word in dict.fromkeys(found) if word]


def are_tokens(names: Iterable[str]) -> bool:
    """Whether all of these are valid header names (RFC 9110 §5.6.2)."""
    return all(map(_TOKEN.fullmatch, names))


def safe(name: str, value: str) -> bool:
    """Whether any server can send this header without splitting the message."""
    return bool(_TOKEN.fullmatch(name) and _VALUE.fullmatch(value))


def relayed(
    headers: Mapping[str, str],
    names: Sequence[str] = (),
    prefixes: tuple[str, ...] = (),
    request_ids: Sequence[str] = (),
    content: bool = False,
) -> dict[str, str]:
    """The headers of an upstream's answer that are relayed to the client. `content` adds those that describe content.

    The rest comes from the provider's entry: `names`, `prefixes` of names, and `request_ids`, the headers whose value
    becomes `x-request-id` if the upstream sent none.
    """
    described = RELAYED_WITH_CONTENT if content else ()
    beginnings = RELAYED_PREFIXES + prefixes
    kept = {
        name: value
        for name, value in headers.items()
        if (name in RELAYED or name in names or name in described or name.startswith(beginnings)) and safe(name, value)
    }
    if "content-encoding" in kept and not codings(headers):  # a client may take the word for a coding it does not know
        del kept["content-encoding"]
    for name in request_ids:
        if name in headers and safe(name, headers[name]):
            kept.setdefault("x-request-id", headers[name])
    return kept


def misread(message: Message) -> bool:
    """Whether `email` met a line that is not a header. It takes that line and everything after it for the body.

    Its other defects concern bodies, which it never gets here.
    """
    return any(isinstance(defect, _HEADER_DEFECTS) for defect in message.defects)
