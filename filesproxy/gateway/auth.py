"""Who calls: the headers that SDKs really send, read once, before a byte of the body."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from ipaddress import ip_address
from typing import NamedTuple

from ..config.load import Key
from ..errors import BadRequest, Forbidden, Unauthorized
from ..redaction import Secret
from ..wire.headers import single
from .wsgi import Head

GATEWAY_KEY_PREFIX = "fp_"  # a gateway key never goes upstream
# What the Portkey SDKs put into Authorization when they were given no key for a provider.
_PLACEHOLDERS = frozenset({"OPENAI_API_KEY", "DUMMY-KEY"})
# What proxies add; one before us would make every peer look like this machine.
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
_BEARER = re.compile(r"(?i:bearer) +([\x21-\x2b\x2d-\x7e]{1,4096})")  # laxer than RFC 6750 §2.1; a comma is a repeat


class Caller(NamedTuple):
    """A caller: its gateway key, None where no keys are configured, and the provider credential that it brought."""

    key: Key | None = None
    credential: Secret = Secret()

    @property
    def name(self) -> str:
        """The name of its gateway key, "" without one."""
        return self.key.name if self.key else ""


def authenticate(head: Head, keys: Sequence[Key]) -> Caller:
    """The caller. Unauthorized where keys are configured and the caller presents none of them.

    The gateway key is `x-portkey-api-key`, else the bearer token. The caller's credential is the bearer token if it is
    neither that key nor an SDK's placeholder; where no keys are configured, else `x-portkey-api-key`.
    """
    presented, bearer = single(head.headers, "x-portkey-api-key"), _bearer(head.headers)
    if not keys:
        return Caller(credential=own(bearer, keys) or own(presented, keys))
    return Caller(_key(presented or bearer, keys), own(bearer, keys))


def own(token: str, keys: Sequence[Key]) -> Secret:
    """The token as what a caller says to a provider; a gateway key is "" and never goes upstream."""
    return Secret(token if may_go(token, keys) else "")


def may_go(token: str, keys: Sequence[Key]) -> bool:
    """Whether this is no gateway key, anybody's: none goes upstream, in whatever header a client sends it."""
    return not (token.startswith(GATEWAY_KEY_PREFIX) or _matching(token, keys))


def refuse_gateway_keys(headers: Mapping[str, str], names: Iterable[str], keys: Sequence[Key]) -> None:
    """BadRequest, if one of these headers, which shape the request upstream, holds a gateway key."""
    for name in names:
        if not may_go(single(headers, name), keys):
            raise BadRequest(f"The header {name} holds a gateway key, which is never sent to a provider.", param=name)


def permit(caller: Caller, operation: str) -> None:
    """Forbidden, if the caller's key is not for this operation."""
    if caller.key and not caller.key.may_do(operation):
        raise Forbidden("This gateway key is not for this operation.")


def require_this_machine(head: Head) -> None:
    """Where nobody needs a key, answer this machine only: by peer, by Host and by Origin (DNS rebinding). Forbidden."""
    host = head.headers.get("host", "")
    if any(header in head.headers for header in _FORWARDED):
        raise Forbidden("Without gateway keys this provider is for this machine only, and for no proxy before it.")
    if not (is_loopback(_hostname(host)) and is_loopback(head.client_address or "localhost")):
        raise Forbidden("Without gateway keys this provider is for this machine only, under a loopback Host.")
    origin = head.headers.get("origin")
    foreign_page = head.headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    if foreign_page or (origin is not None and origin.partition("://")[2] != host):
        raise Forbidden("Without gateway keys no web page of another origin may call.")


def _key(presented: str, keys: Sequence[Key]) -> Key:
    """The key that was presented."""
    found = _matching(presented, keys)
    if not found or not presented:
        raise Unauthorized("A gateway key is needed, in x-portkey-api-key or as the bearer token.")
    return found[0]


def _matching(token: str, keys: Sequence[Key]) -> list[Key]:
    """The keys with this token's hash. Compares with every one, in a time that tells nothing of where they differ."""
    if not keys:
        return []
    digest = sha256(token.encode()).hexdigest()
    return [key for key in keys for known in key.sha256 if hmac.compare_digest(digest, known)]


def _bearer(headers: Mapping[str, str]) -> str:
    value = headers.get("authorization", "")
    if "bearer " not in value.lower():
        return ""  # another scheme is for whoever stands before us
    found = _BEARER.fullmatch(value.rstrip(" "))
    if not found:
        raise BadRequest("The header authorization must come once and hold one bearer token.", param="authorization")
    return "" if found[1] in _PLACEHOLDERS else found[1]


def _hostname(host: str) -> str:
    return re.sub(r":[0-9]*\Z", "", host).strip("[]").lower()


def is_loopback(name: str) -> bool:
    """Whether this host name or address is this machine's own, without asking a name server."""
    if name == "localhost":
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
