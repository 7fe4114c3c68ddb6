"""Authentication: reads the caller's gateway key and credential from the headers, before the body is read."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from ipaddress import ip_address
from typing import NamedTuple

from ..config.load import Key
from ..errors import BadRequest, Forbidden, Unauthorized
from ..redaction import Secret
from .request import Head

GATEWAY_KEY_PREFIX = "fp_"  # of generated keys; no gateway key is ever sent upstream
#: the headers in which clients send a gateway key
KEY_HEADERS = ("x-portkey-api-key", "authorization")
# What SDKs put into Authorization if they have no key for a provider.
_PLACEHOLDERS = frozenset({"OPENAI_API_KEY", "DUMMY-KEY"})
# Headers that proxies add. Behind a proxy, every peer would look like this machine.
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
#: the headers that this module reads
AUTH_HEADERS = frozenset({"authorization", "x-portkey-api-key", "host", "origin", "sec-fetch-site", *_FORWARDED})
# A credential is whatever visible text follows the scheme, inner spaces included: laxer than RFC 6750 §2.1, because the
# upstream judges its own keys. Only the comma is left out, which means that the header was repeated.
_CREDENTIAL = re.compile(r"[\x20-\x2b\x2d-\x7e]{1,4096}")


class Caller(NamedTuple):
    """A caller: its gateway key (None if no keys are configured), and the provider credential that it sent."""

    key: Key | None = None
    credential: Secret = Secret()

    @property
    def name(self) -> str:
        """The name of the gateway key; "" if no keys are configured."""
        return self.key.name if self.key else ""

    @property
    def owner(self) -> str:
        """Whose the caller's files are; "" if no keys are configured."""
        return self.key.whose if self.key else ""


def authenticate(head: Head, keys: Sequence[Key]) -> Caller:
    """The caller. Raises Unauthorized if keys are configured and the caller presents none of them.

    The gateway key is `x-portkey-api-key`, otherwise the bearer token. The caller's credential is the bearer token,
    unless that is a gateway key or an SDK's placeholder; if no keys are configured, it is otherwise
    `x-portkey-api-key`.
    """
    presented, bearer = presented_in(head.headers, "x-portkey-api-key"), _bearer(head.headers)
    if not keys:
        return Caller(credential=own_credential(bearer, keys) or own_credential(presented, keys))
    return Caller(_key(presented or bearer, keys), own_credential(bearer, keys))


def presented_in(headers: Mapping[str, str], name: str) -> str:
    """The credential that is a header's whole value; "" if it is absent. BadRequest if it cannot be one credential."""
    value = headers.get(name, "").strip(" ")
    if value and not _CREDENTIAL.fullmatch(value):
        raise BadRequest(f"The header {name} must come once and hold one credential.", param=name)
    return value


def own_credential(token: str, keys: Sequence[Key]) -> Secret:
    """The token as the caller's own credential; "" if a gateway key, whoever's, is in it: none goes upstream."""
    words = [token, *token.split(" ")] if " " in token else [token]
    is_key = any(word.startswith(GATEWAY_KEY_PREFIX) or _matching(word, keys) for word in words)
    return Secret("" if is_key else token)


def presented_token(value: str) -> str:
    """The token in a header's value: all that follows the scheme, such as `Bearer`, or all of it without a scheme."""
    value = value.strip(" ")
    return value.partition(" ")[2].strip(" ") or value


def token_hash(token: str) -> str:
    """What the configuration holds of a gateway key: its SHA-256."""
    return sha256(token.encode("utf-8", "replace")).hexdigest()


def permit(caller: Caller, operation: str) -> None:
    """Raise Forbidden if the caller's key does not allow this operation."""
    if caller.key and not caller.key.may_do(operation):
        raise Forbidden("This gateway key does not allow this operation.")


def require_this_machine(head: Head) -> None:
    """Raise Forbidden unless the request comes from this machine. For requests that need no gateway key.

    Checks the peer's address, and against DNS rebinding also Host and Origin.
    """
    host = head.headers.get("host", "")
    if any(header in head.headers for header in _FORWARDED):
        raise Forbidden("Without gateway keys, this provider can be used from this machine only, not through a proxy.")
    if not (is_loopback(_hostname(host)) and is_loopback(head.client_address or "localhost")):
        raise Forbidden("Without gateway keys, this provider can be used from this machine only, with a loopback Host.")
    origin = head.headers.get("origin")
    foreign_page = head.headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    if foreign_page or (origin is not None and origin.partition("://")[2] != host):
        raise Forbidden("Without gateway keys, web pages of another origin cannot call this gateway.")


def _key(presented: str, keys: Sequence[Key]) -> Key:
    """The key that was presented. Raises Unauthorized if it is missing or unknown."""
    found = _matching(presented, keys)
    if not found or not presented:
        sent = " The one that was sent is not known here." if presented else ""
        raise Unauthorized(f"A gateway key is required, in x-portkey-api-key or as the bearer token.{sent}")
    return found[0]


def _matching(token: str, keys: Sequence[Key]) -> list[Key]:
    """The keys with this token's hash. All keys are compared, each in constant time."""
    if not keys:
        return []
    digest = token_hash(token)
    return [key for key in keys for known in key.sha256 if hmac.compare_digest(digest, known)]


def _bearer(headers: Mapping[str, str]) -> str:
    value = headers.get("authorization", "").strip(" ")
    if "bearer " not in value.lower():
        return ""  # another scheme may be meant for a proxy in front of us
    scheme, _, rest = value.partition(" ")
    token = rest.strip(" ")
    if scheme.lower() != "bearer" or not _CREDENTIAL.fullmatch(token):
        message = "The header authorization must occur once and contain one bearer token."
        raise BadRequest(message, param="authorization")
    return "" if token in _PLACEHOLDERS else token


def _hostname(host: str) -> str:
    return re.sub(r":[0-9]*\Z", "", host).strip("[]").lower()


def is_loopback(name: str) -> bool:
    """Whether this is `localhost` or a loopback address. No name is looked up."""
    if name == "localhost":
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
