"""Secrets, and texts without them: the one place that redacts. Pure functions; imports nothing of the gateway."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Protocol
from urllib.parse import quote

_PLAIN = re.compile(r"[A-Za-z0-9._~-]+")


class Secret(str):
    """Text that its repr does not show, nor the repr of a container that holds it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'[secret]'"

    @property
    def forms(self) -> tuple[str, ...]:
        """How texts may hold it: plain, in JSON, in a URL with digits in either case, in base64 after other text."""
        return _forms(str(self))


@lru_cache(maxsize=128)  # the same few credentials come with every request
def _forms(secret: str) -> tuple[str, ...]:
    if _PLAIN.fullmatch(secret):  # JSON and URLs hold it unchanged
        return tuple(dict.fromkeys([secret, *_base64_forms(secret.encode())]))
    encoded = quote(secret, safe="")
    lower = re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), encoded)
    return tuple(dict.fromkeys([secret, json.dumps(secret)[1:-1], encoded, lower, *_base64_forms(secret.encode())]))


def _base64_forms(secret: bytes) -> Iterator[str]:
    """Its base64, and the digits that it alone decides after 0, 1 or 2 other bytes, in both alphabets."""
    yield b64encode(secret).decode()
    for ahead in range(3):
        first, last = -(-ahead * 4 // 3), (ahead + len(secret)) * 4 // 3
        digits = b64encode(bytes(ahead) + secret).decode()[first:last]
        if len(digits) >= 8:  # shorter ones occur in innocent text
            yield from (digits, digits.replace("+", "-").replace("/", "_"))


class Credentials(Protocol):
    """The secrets of one upstream identity, by name: one credential, or a key id, a secret and a token.

    Iterating yields every secret that a text may still hold: the present ones, and those that were just replaced.
    """

    def now(self) -> Mapping[str, Secret]:
        """The secrets to authorise the next call with. May renew them, which is I/O, so providers never ask."""

    def __iter__(self) -> Iterator[Secret]: ...


class FixedCredentials:
    """Credentials that never change: those of a caller, or those that the configuration holds."""

    def __init__(self, secrets: Mapping[str, Secret] | None = None) -> None:
        self._secrets = dict(secrets or {})

    def now(self) -> Mapping[str, Secret]:
        """The secrets, always the same."""
        return self._secrets

    def __iter__(self) -> Iterator[Secret]:
        return iter(self._secrets.values())


def single_credential(secret: Secret) -> FixedCredentials:
    """The credentials of a provider that needs one secret; none if it is empty."""
    return FixedCredentials({"credential": secret} if secret else {})


def redact(text: str, secrets: Iterable[Secret]) -> str:
    """The text, with `[redacted]` in place of each secret in any of its forms.

    Longer secrets first: a shorter one may be the beginning of a longer one, of which the rest would stay.
    """
    forms = [form for secret in secrets if secret for form in secret.forms]
    if any(form in text for form in forms):
        for form in sorted(forms, key=len, reverse=True):
            text = text.replace(form, "[redacted]")
    return text
