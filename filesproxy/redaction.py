"""Secrets, and the only code that removes them from text. Pure; imports nothing from the package."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple, Protocol

MIN_SECRET = 8  # characters of a secret that is removed from text
_ENTITIES = {"&": ("amp",), "<": ("lt",), ">": ("gt",), '"': ("quot",), "'": ("apos",)}


class Secret(str):
    """Text that neither its own repr nor the repr of a container shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'[secret]'"


class _Forms(NamedTuple):
    """What to look for in a text: `plain` in every one, the others only in one that can have escapes."""

    plain: tuple[str, ...]  # itself, and in base64
    percent: tuple[str, ...]  # every character percent-encoded, with digits in either case
    spelled: re.Pattern[str] | None  # any of its special characters escaped in any way; None if it has none


@lru_cache(maxsize=128)  # the same few credentials come with every request
def _forms(secret: str) -> _Forms:
    text = secret.encode("utf-8", "surrogatepass")
    upper = "".join(f"%{byte:02X}" for byte in text)
    # Letters and digits stay literal, so that the search for most credentials begins at a fixed text, which is fast.
    spelled = None if secret.isalnum() and secret.isascii() else re.compile("".join(map(_spellings, secret)))
    return _Forms(
        tuple(dict.fromkeys([secret, secret.replace(" ", "+"), *_base64_forms(text)])), (upper, upper.lower()), spelled
    )


def _spellings(character: str) -> str:
    """A pattern of what encoders make of a character: JSON in itself (RFC 8259 §7), URLs, HTML, each several times.

    Repetitions are bounded, so that a search stays linear.
    """
    if character.isalnum() and character.isascii():
        return character
    units = character.encode("utf-16-be", "surrogatepass").hex()
    json = "".join(rf"\\{{1,8}}u{units[at : at + 4]}" for at in range(0, len(units), 4))
    octets = character.encode("utf-8", "surrogatepass")
    percent = "".join(f"%(?:25){{0,3}}{octet:02x}" for octet in octets)
    names = "".join(f"|{name}" for name in _ENTITIES.get(character, ()))
    html = f"&(?:amp;){{0,3}}(?:#0{{0,6}}{ord(character)}|#x0{{0,6}}{ord(character):x}{names});"
    form = r"|\+" if character == " " else ""
    # The longer ones first: a percent sign is also the beginning of its own code.
    return rf"(?i:{json}|{percent}|{html}|\\{{0,8}}{re.escape(character)}{form})"


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
    """The text, with `[redacted]` in place of each secret: as it is, in base64, or escaped for JSON, a URL or HTML.

    Longer secrets go first: a shorter one may be the beginning of a longer one, and the rest of that would remain. One
    under MIN_SECRET characters is left alone: it also occurs by chance, and to replace it would spoil other text.
    """
    found = [form for secret in secrets if len(secret) >= MIN_SECRET for form in _forms(secret).plain if form in text]
    if "\\" in text or "%" in text or "&" in text:
        found += [form for secret in secrets if len(secret) >= MIN_SECRET for form in _escaped(secret, text)]
    for form in sorted(found, key=len, reverse=True):
        text = text.replace(form, "[redacted]")
    return text


def _escaped(secret: str, text: str) -> Iterator[str]:
    """The secret as the text has it, in each of its escaped forms."""
    forms = _forms(secret)
    yield from [form for form in forms.percent if form in text]
    if forms.spelled:
        yield from dict.fromkeys(forms.spelled.findall(text))
