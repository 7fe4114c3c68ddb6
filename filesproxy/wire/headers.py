"""Which headers pass, and what a header value may hold: allow-lists in both directions, one place for each rule."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from email.errors import (
    FirstHeaderLineIsContinuationDefect,
    InvalidHeaderDefect,
    MisplacedEnvelopeHeaderDefect,
    MissingHeaderBodySeparatorDefect,
)
from email.message import Message

from ..calls import Secret
from ..errors import BadRequest
from .memo import Memo

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

#: What operators and SDKs read from a provider's answer; everything else, cookies and server names included, stays.
RELAYED = frozenset(
    {
        "retry-after",
        "retry-after-ms",
        "x-should-retry",
        "x-request-id",
        "openai-processing-ms",
        "openai-version",
        "content-range",  # of a 206, and of a 416
    }
)
RELAYED_PREFIXES = ("x-ratelimit-", "anthropic-ratelimit-")
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
_IS_RELAYED = Memo(lambda name: name in RELAYED or name.startswith(RELAYED_PREFIXES))
_IS_TOKEN = Memo(lambda name: bool(_TOKEN.fullmatch(name)))


def single(headers: Mapping[str, str], name: str) -> str:
    """The value of a header that must come once, "" when absent. BadRequest when it repeats or holds odd characters."""
    value = headers.get(name, "").strip(" ")
    if value and not _SINGLE.fullmatch(value):
        raise BadRequest(f"The header {name} must come once and hold one value without spaces or commas.", param=name)
    return value


def media_type(headers: Mapping[str, str]) -> str:
    """The media type of a Content-Type without its parameters, in lower case; "" where there is none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def words(headers: Mapping[str, str], *names: str) -> list[str]:
    """The words of headers that hold comma lists (RFC 9110 §5.6.1), each once. BadRequest for what is no word."""
    found = [word.strip(" ") for name in names for word in headers.get(name, "").split(",")]
    if len(found) > MAX_WORDS or not all(_WORD.fullmatch(word) for word in found if word):
        raise BadRequest(f"The header {names[0]} is a comma list of at most {MAX_WORDS} words.", param=names[0])
    return [word for word in dict.fromkeys(found) if word]


def are_tokens(names: Iterable[str]) -> bool:
    """Whether these can be the names of headers (RFC 9110 §5.6.2)."""
    return all(map(_IS_TOKEN.__getitem__, names))


def safe(name: str, value: str) -> bool:
    """Whether this header can be sent on any server without splitting a message."""
    return _IS_TOKEN[name] and bool(_VALUE.fullmatch(value))


def relayed(headers: Mapping[str, str], content: bool = False) -> dict[str, str]:
    """The upstream's headers that a client may see; `request-id` styles also count as `x-request-id`."""
    described = RELAYED_WITH_CONTENT if content else ()
    kept = {
        name: value for name, value in headers.items() if (_IS_RELAYED[name] or name in described) and safe(name, value)
    }
    for own_name in ("request-id", "apim-request-id"):
        if own_name in headers and safe(own_name, headers[own_name]):
            kept.setdefault("x-request-id", headers[own_name])
    return kept


def misread(message: Message) -> bool:
    """Whether `email` met a line that is no header: it takes such a line, and all behind it, for the body.

    Its other defects are about bodies, which here it never sees.
    """
    return any(isinstance(defect, _HEADER_DEFECTS) for defect in message.defects)


def redact(text: str, secret: str) -> str:
    """What an upstream wrote, without the credential that it was given, in any of the forms that texts hold one in."""
    secret = secret if isinstance(secret, Secret) else Secret(secret)
    if not secret or len(text) < secret.shortest:
        return text
    for form in secret.forms:
        if form in text:
            text = text.replace(form, "[redacted]")
    return text
