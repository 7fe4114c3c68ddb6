"""Who calls: the headers that SDKs really send, read once, before a byte of the body."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from .errors import BadRequest, Forbidden
from .headers import single
from .wsgi import Request

GATEWAY_KEY_PREFIX = "fp_"  # a gateway key never goes upstream
# What the Portkey SDK puts into Authorization when it was given no key for a provider.
_PLACEHOLDERS = frozenset({"OPENAI_API_KEY", "DUMMY-KEY"})
_BEARER = re.compile(r"(?i:bearer) +([\x21-\x2b\x2d-\x7e]{1,4096})")  # RFC 6750 §2.1, but for the comma of a repeat


@dataclass(frozen=True)
class Caller:
    """A caller: the name of its gateway key, "" without one, and the provider credential it brought, if any."""

    name: str = ""
    credential: str = field(default="", repr=False)


def authenticate(request: Request) -> Caller:
    """The caller. Its credential is the bearer token, if an SDK did not invent it, else `x-portkey-api-key`."""
    key = single(request.headers, "x-portkey-api-key")
    found = [token for token in (_bearer(request.headers), key) if not token.startswith(GATEWAY_KEY_PREFIX)]
    return Caller(credential=next((token for token in found if token), ""))


def require_this_machine(request: Request) -> None:
    """Where nobody needs a key, answer this machine only: by peer, by Host and by Origin (DNS rebinding). Forbidden."""
    host = request.headers.get("host", "")
    if not (_is_loopback(_hostname(host)) and _is_loopback(request.client_address or "localhost")):
        raise Forbidden("Without gateway keys the local store answers this machine only, under a loopback Host.")
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        raise Forbidden("Without gateway keys no web page of another origin may call.")


def _bearer(headers: Mapping[str, str]) -> str:
    value = headers.get("authorization", "")
    if value[:7].lower() != "bearer ":
        return ""  # another scheme is for whoever stands before us
    found = _BEARER.fullmatch(value.rstrip(" "))
    if not found:
        raise BadRequest("The header authorization must come once and hold one bearer token.", param="authorization")
    return "" if found[1] in _PLACEHOLDERS else found[1]


def _hostname(host: str) -> str:
    return re.sub(r":[0-9]*\Z", "", host).strip("[]").lower()


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
