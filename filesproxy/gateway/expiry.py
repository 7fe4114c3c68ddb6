"""The expiry that an upload's form asks for: honoured or refused with the field's name, never ignored.

SDKs write OpenAI's `expires_after` in three ways: `expires_after[seconds]` (Python, Node), `expires_after.seconds` (Go,
Azure's examples) and one field `expires_after` that is a JSON object (Ruby, Vercel).
"""

from __future__ import annotations

import re
from typing import Any

from ..config.settings import MAX_EXPIRY, MIN_EXPIRY
from ..errors import BadRequest
from ..wire.json_fields import required
from ..wire.strict_json import Unreadable, loads

ANCHOR, SECONDS = "expires_after[anchor]", "expires_after[seconds]"
_SPELLED = {ANCHOR: ANCHOR, SECONDS: SECONDS, "expires_after.anchor": ANCHOR, "expires_after.seconds": SECONDS}
# Whatever a client or a host calls it: expires_at, expiresAfter, expiry, ttl, file_ttl, lifetime, deleteAfter. Inside
# brackets only what says `expir`: metadata[ttl] is a text of the client's own.
_ABOUT_EXPIRY = re.compile(
    r"(?ai:expir|\Attl|\A[^\[]*(?:ttl(?![a-z])|ttl(?:in|sec|min|hour|day)|time[_-]?to[_-]?live|life[_-]?(?:time|span)"
    r"|retention|(?:delete|remove|purge)[_-]?(?:after|(?:at|in)(?![a-z]))))"
)
_WHOLE = re.compile(r"[0-9]{1,7}", re.ASCII)


def is_about_expiry(name: str) -> bool:
    """Whether a form field asks for an expiry, in a way that is known here or not."""
    return bool(_ABOUT_EXPIRY.search(name))


def in_brackets(name: str, value: str) -> dict[str, str]:
    """A field about expiry as the fields of OpenAI's form. BadRequest, with the field's name, if it is not valid."""
    if name == "expires_after":
        return _from_json(value)
    if name not in _SPELLED:
        message = f"The field '{name}' is not known: an expiry is asked for with {ANCHOR} and {SECONDS}."
        raise BadRequest(message, param=name)
    if _SPELLED[name] == ANCHOR:
        _check_anchor(value, name)
    elif not _WHOLE.fullmatch(value):
        raise _not_seconds(name)
    else:
        _check_seconds(int(value), name)
    return {_SPELLED[name]: value}


def _from_json(text: str) -> dict[str, str]:
    try:
        value: Any = loads(text.encode("utf-8"), unique_keys=True)
    except Unreadable:
        value = None
    if not isinstance(value, dict) or set(value) - {"anchor", "seconds"}:
        raise BadRequest("'expires_after' must be an object with 'anchor' and 'seconds'.", param="expires_after")
    anchor, seconds = (
        required(value, name, kind, "expires_after") for name, kind in (("anchor", str), ("seconds", int))
    )
    _check_anchor(anchor, "expires_after.anchor")
    _check_seconds(seconds, "expires_after.seconds")
    return {ANCHOR: anchor, SECONDS: str(seconds)}


def _check_anchor(value: str, name: str) -> None:
    if value != "created_at":
        raise BadRequest(f"{name} must be created_at.", param=name)


def _check_seconds(value: int, name: str) -> None:
    if not MIN_EXPIRY <= value <= MAX_EXPIRY:
        raise _not_seconds(name)


def _not_seconds(name: str) -> BadRequest:
    return BadRequest(f"{name} must be a whole number from {MIN_EXPIRY} to {MAX_EXPIRY}.", param=name)
