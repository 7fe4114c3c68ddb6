"""Who calls: the headers that SDKs really send, read once, before a byte of the body."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address

from .config import Key
from .errors import BadRequest, Forbidden, Unauthorized
from .headers import single
from .provider import Secret
from .wsgi import Request

GATEWAY_KEY_PREFIX = "fp_"  # a gateway key never goes upstream
# What the Portkey SDKs put into Authorization when they were given no key for a provider.
_PLACEHOLDERS = frozenset({"OPENAI_API_KEY", "DUMMY-KEY"})
_BEARER = re.compile(r"(?i:bearer) +([\x21-\x2b\x2d-\x7e]{1,4096})")  # RFC 6750 §2.1, but for the comma of a repeat


@dataclass(frozen=True)
class Caller:
    """A caller: its gateway key, None where no keys are configured, and the provider credential that it brought."""

    key: Key | None = None
    credential: Secret = Secret()

    @property
    def name(self) -> str:
        """The name of its gateway key, "" without one."""
        return self.key.name if self.key else ""


def authenticate(request: Request, keys: Sequence[Key]) -> Caller:
    """The caller. Unauthorized where keys are configured and the caller presents none of them.

    The gateway key is `x-portkey-api-key`, else the bearer token. The caller's credential is the bearer token if it is
    neither that key nor an SDK's placeholder; where no keys are configured, else `x-portkey-api-key`.
    """
    presented, bearer = single(request.headers, "x-portkey-api-key"), _bearer(request.headers)
    if not keys:
        return Caller(credential=_own(bearer) or _own(presented))
    key = _key(presented or bearer, keys)
    return Caller(key, _own(bearer) if bearer != presented else Secret())


def permit(caller: Caller, operation: str) -> None:
    """Forbidden, if the caller's key is not for this operation."""
    if caller.key and not caller.key.may_do(operation):
        raise Forbidden("This gateway key is not for this operation.")


def require_this_machine(request: Request) -> None:
    """Where nobody needs a key, answer this machine only: by peer, by Host and by Origin (DNS rebinding). Forbidden."""
    host = request.headers.get("host", "")
    if not (_is_loopback(_hostname(host)) and _is_loopback(request.client_address or "localhost")):
        raise Forbidden("Without gateway keys this provider is for this machine only, under a loopback Host.")
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        raise Forbidden("Without gateway keys no web page of another origin may call.")


def _key(presented: str, keys: Sequence[Key]) -> Key:
    """The key with this hash. Compares with every one, in a time that tells nothing about where they differ."""
    digest = sha256(presented.encode()).hexdigest()
    found = [key for key in keys for known in key.sha256 if hmac.compare_digest(digest, known)]
    if not found or not presented:
        raise Unauthorized("A gateway key is needed, in x-portkey-api-key or as the bearer token.")
    return found[0]


def _own(token: str) -> Secret:
    """The token as a provider's credential: a gateway key is none."""
    return Secret("" if token.startswith(GATEWAY_KEY_PREFIX) else token)


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
