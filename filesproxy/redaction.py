"""Secrets, and the only code that removes them from text. Pure; imports nothing from the package."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Protocol
from urllib.parse import quote

MIN_SECRET = 8  # characters of a secret that is removed from text
_PLAIN = re.compile(r"[A-Za-z0-9._~-]+")


class Secret(str):
    """Text that neither its own repr nor the repr of a container shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'[secret]'"

    @property
    def forms(self) -> tuple[str, ...]:
        """The forms in which text may contain it: as it is, escaped for JSON, percent-encoded with digits in either
        case, and in base64, alone or after other text.
        """
        return _forms(self)


@lru_cache(maxsize=128)  # the same few credentials come with every request
def _forms(secret: str) -> tuple[str, ...]:
    if _PLAIN.fullmatch(secret):  # neither JSON nor a URL changes it
        return tuple(dict.fromkeys([secret, *_base64_forms(secret.encode())]))
    encoded = quote(secret, safe="")
    lower = re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), encoded)
    return tuple(dict.fromkeys([secret, json.dumps(secret)[1:-1], encoded, lower, *_base64_forms(secret.encode())]))


def _base64_forms(secret: bytes) -> Iterator[str]:
    """Its base64, and the digits that depend on it alone after 0, 1 or 2 other bytes, in both alphabets (RFC 4648)."""
    yield b64encode(secret).decode()
    for ahead in range(3):
        first, last = -(-ahead * 4 // 3), (ahead + len(secret)) * 4 // 3
        digits = b64encode(bytes(ahead) + secret).decode()[first:last]
        if len(digits) >= 8:  # shorter ones also occur in text without it
            yield from (digits, digits.replace("+", "-").replace("/", "_"))


class Credentials(Protocol):
    """The secrets of one upstream identity, by name: one credential, or a key id, a secret and a token.

    Iterating yields every secret that text may still contain: the current ones, and those just replaced.
    """

    def now(self) -> Mapping[str, Secret]:
        """The secrets for the next call. May renew them, which is I/O, so providers never call this."""

    def __iter__(self) -> Iterator[Secret]: ...


class FixedCredentials:
    """Credentials that never change: a caller's, or those in the configuration."""

    def __init__(self, secrets: Mapping[str, Secret] | None = None) -> None:
        self._secrets = dict(secrets or {})

    def now(self) -> Mapping[str, Secret]:
        """The secrets, always the same."""
        return self._secrets

    def __iter__(self) -> Iterator[Secret]:
        return iter(self._secrets.values())


def single_credential(secret: Secret) -> FixedCredentials:
    """The credentials of a provider that needs one secret; no credentials if it is empty."""
    return FixedCredentials({"credential": secret} if secret else {})


def redact(text: str, secrets: Iterable[Secret]) -> str:
    """The text, with `[redacted]` in place of each secret, in any of its forms.

    Longer secrets go first: a shorter one may be the beginning of a longer one, and the rest of that would remain. One
    under MIN_SECRET characters is left alone: it also occurs by chance, and to replace it would spoil other text.
    """
    found = [form for secret in secrets if len(secret) >= MIN_SECRET for form in _forms(secret) if form in text]
    for form in sorted(found, key=len, reverse=True):
        text = text.replace(form, "[redacted]")
    return text
