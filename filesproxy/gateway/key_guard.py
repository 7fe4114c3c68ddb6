"""Gateway keys where none belongs: a request with one there is refused, so that no key is logged or sent upstream.

A key belongs in `x-portkey-api-key` or `authorization`, as the whole token. As a part of one, anywhere else in the
head, in a form's fields and file name, and as a whole string of a JSON body, it was put there by mistake, and the
provider would learn it or the log keep it.
The bytes of a file, and text that only mentions a key, are not looked through. A word under MIN_SECRET characters is
not taken for a key, whatever the configuration says: it would occur by chance.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, islice
from typing import Any
from urllib.parse import parse_qsl

from ..config.load import Key
from ..errors import BadRequest
from ..redaction import MIN_SECRET
from .auth import GATEWAY_KEY_PREFIX, KEY_HEADERS, presented_token, token_hash
from .request import Request

# What `filesproxy key` makes: fp_ and 256 bits in base64 for URLs.
_FORM = re.compile(r"(?<![A-Za-z0-9])fp_[A-Za-z0-9_-]{43}")
_SEPARATORS = re.compile(r"[\s,;=&/]+")
# What a key may be glued to other text with, if it has none of it itself; and what most keys have themselves, too.
_GLUE = re.compile(r"[^A-Za-z0-9._~+-]+")
_JOINTS = re.compile(r"[._~+-]+")
_HEX = re.compile(r"[0-9A-Fa-f-]+")  # ids of traces and UUIDs: one is a key as a whole, or not at all
MAX_WORDS = 512  # of one text that are compared, and as many parts of them; shorter ones than a key do not count
MAX_JOINED = 16  # pieces between joints that are one key
MAX_REMEMBERED = 256  # heads: clients send the same ones again and again
MAX_CHARACTERS = 4096  # of a head that is remembered
# They differ from call to call, so they are not part of the head that is remembered.
_OF_ONE_CALL = ("x-portkey-trace-id", "traceparent", "tracestate", "x-request-id", "x-amzn-trace-id", "idempotency-key")
_APART = frozenset({*KEY_HEADERS, *_OF_ONE_CALL})  # headers that are not part of it
# The escapes of JSON that can stand for a character of a key, which is visible ASCII (RFC 8259 §7).
_ESCAPE = re.compile(rb"\\u00[2-7]")
_SHORT_ESCAPES = frozenset('"\\/')


class KeyGuard:
    """Finds the gateway keys of one application. Thread-safe."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._hashes = frozenset([known for key in keys for known in key.sha256])
        self._judged = lru_cache(maxsize=MAX_REMEMBERED)(self._judge)

    def check_head(self, request: Request) -> tuple[str, ...]:
        """The keys that the caller presents where they belong. BadRequest if there is a key anywhere else in the head.

        Runs before anything of the head is logged or decided, and never quotes what it found.
        """
        headers = request.headers
        rest = "\n".join([text for name, text in headers.items() if name not in _APART])
        judge = self._judged if len(rest) <= MAX_CHARACTERS else self._judge
        presented, is_misplaced = judge(tuple(map(headers.get, KEY_HEADERS)), rest)
        own = [request.path, *[headers[name] for name in _OF_ONE_CALL if name in headers]]
        if request.query_string:
            own += [text for pair in parse_qsl(request.query_string, keep_blank_values=True) for text in pair]
        if is_misplaced or self._found(own, presented):
            raise self._refusal(headers, presented)
        return presented

    def check_form(self, presented: Sequence[str], texts: Sequence[str], field: str | None = None) -> None:
        """BadRequest if one of these texts of a form contains a key. `field` is the field whose value it is."""
        if self._found(texts, presented):
            raise _misplaced(f"The form field {field}" if field else "A part of the form", field)

    def _judge(self, values: tuple[str | None, ...], rest: str) -> tuple[tuple[str, ...], bool]:
        """The keys in the headers where they belong, and whether there is one in the rest of the headers too."""
        given = [value for value in values if value]
        tokens = [token for value in given for token in _readings(value)]
        presented = tuple([token for token in tokens if len(token) >= MIN_SECRET and token_hash(token) in self._hashes])
        return presented, self._found([*rest.split("\n"), *self._with_other_text(given)], presented)

    def _with_other_text(self, values: Sequence[str]) -> list[str]:
        """Those of these values of KEY_HEADERS that are not a key themselves; a credential's may go upstream."""
        return [value for value in values if not any(map(self._is_whole, _readings(value)))]

    def _is_whole(self, token: str) -> bool:
        """Whether this token is a key, known or not: it is judged as one, and never sent upstream."""
        return token.startswith(GATEWAY_KEY_PREFIX) or token_hash(token) in self._hashes

    def _found(self, texts: Sequence[str], presented: Sequence[str]) -> bool:
        joined = "\n".join(texts)  # one search for all of them
        if "fp_" in joined and _FORM.search(joined):
            return True
        if any(key in joined for key in presented):
            return True
        return bool(self._hashes) and any(map(self._is_key, texts))

    def _is_key(self, text: str) -> bool:
        """Whether this text, one of its first words or a part of one is a key of the configuration."""
        words = [word for word in _SEPARATORS.split(text) if len(word) >= MIN_SECRET][:MAX_WORDS]
        parts = islice((part for word in words if not word.isalnum() for part in _parts(word)), MAX_WORDS)
        if words != [text] and text[:1] != "/":  # a path is not a key
            words += [whole for whole in [text.strip()] if len(whole) >= MIN_SECRET]
        return not self._hashes.isdisjoint(map(token_hash, chain(words, parts)))

    def _refusal(self, headers: Mapping[str, str], presented: Sequence[str]) -> BadRequest:
        for name, text in headers.items():
            if self._found(self._with_other_text([text]) if name in KEY_HEADERS else [text], presented):
                return _misplaced(f"The header {name}", name)
        return _misplaced("The URL", None)


def _parts(word: str) -> Iterator[str]:
    """The parts of a word that may be a key glued to other text: `a[KEY]`, `{"key":"KEY"`, `KEY.txt`, `x-KEY-1`."""
    pieces = _GLUE.split(word)
    for piece in pieces:
        if len(piece) < MIN_SECRET:
            continue
        if len(pieces) > 1:
            yield piece
        if not _HEX.fullmatch(piece):
            joints = [found.span() for found in _JOINTS.finditer(piece)]
            starts, ends = [0, *[end for _, end in joints]], [*[start for start, _ in joints], len(piece)]
            for at, start in enumerate(starts):
                for end in ends[at : at + MAX_JOINED]:
                    if MIN_SECRET <= end - start < len(piece):
                        yield piece[start:end]


def _readings(value: str) -> Sequence[str]:
    """What may be the key in the value of one of KEY_HEADERS: what follows the scheme, or all of it."""
    value = value.strip(" ")
    return tuple({presented_token(value), value})


def check_json(text: bytes | bytearray, value: Any, presented: Sequence[str]) -> None:
    """BadRequest if a string or a name in this JSON value is a key that the caller presents. `text` is its source."""
    if any(_may_be_in(text, key) for key in presented) and not set(presented).isdisjoint(_strings(value)):
        raise _misplaced("The request body", None)


def _may_be_in(text: bytes | bytearray, key: str) -> bool:
    """Whether a key may be in a JSON text, as it is or escaped. Most texts need not be looked through."""
    is_escapable = b"\\" in text and not _SHORT_ESCAPES.isdisjoint(key)
    return key.encode() in text or is_escapable or bool(_ESCAPE.search(text))


def _strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value, names included."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            yield from item
            left.extend(item.values())
        elif isinstance(item, list):
            left.extend(item)


def _misplaced(where: str, param: str | None) -> BadRequest:
    message = f"{where} contains a gateway key, which belongs in x-portkey-api-key or authorization, alone."
    return BadRequest(message, param=param, code="misplaced_gateway_key")
