"""JSON, read strictly (RFC 8259): a value that could not be written as JSON again is refused. No I/O."""

from __future__ import annotations

import json
import math
from typing import Any

BOM = b"\xef\xbb\xbf"
MAX_DEPTH = 100  # of lists and objects in each other; Python's own limit differs between versions
MAX_VALUES = 1_000_000  # at worst, these cost a second of CPU and 24 times the text in memory
BYTES_PER_MARK = 64  # of memory, for each `,` `:` `[` `{`: an empty list, a short text, a key's share of its object
_SLICE_BYTES = 1 << 20
MAX_DIGITS = 400  # of a whole number; the time to convert one grows with the square of its length


class Unreadable(ValueError):
    """The text is not JSON that is accepted here. The message completes "it cannot be used: …" and quotes nothing."""


def loads(text: bytes | bytearray, unique_keys: bool = False) -> Any:
    """The value of a JSON text in UTF-8. A byte order mark before it is ignored, which RFC 8259 §8.1 allows.

    Unreadable if it is invalid or exceeds a limit, or if a number is NaN or out of range. `unique_keys` also refuses
    an object that has a key twice: two readers could take different values (RFC 8259 §4).
    """
    decoder = _UNIQUE if unique_keys else _SHORT if len(text) <= MAX_DIGITS else _PLAIN
    if len(text) > MAX_VALUES and marks(text) > MAX_VALUES and _has_too_many_values(text):
        raise Unreadable(f"it has more than {MAX_VALUES} values")
    try:
        value = decoder.decode(
            str(memoryview(text)[len(BOM) :], "utf-8") if text.startswith(BOM) else text.decode("utf-8")
        )
    except Unreadable:
        raise
    except RecursionError:
        raise Unreadable(_TOO_DEEP) from None
    except ValueError:
        raise Unreadable("it is not valid JSON in UTF-8") from None
    if len(text) > MAX_DEPTH and text.count(b"{") + text.count(b"[") > MAX_DEPTH:  # otherwise it cannot be too deep
        _check_depth(value)
    return value


_TOO_DEEP = f"its lists and objects are more than {MAX_DEPTH} levels deep"


def dumps(value: Any) -> bytes:
    """The value as compact JSON, in UTF-8; in ASCII if it contains lone surrogates, which UTF-8 cannot encode."""
    try:
        return _ENCODER.encode(value).encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode("ascii")


def marks(text: bytes | bytearray) -> int:
    """An upper bound for the number of values: brackets, braces and commas, including those inside strings."""
    return text.count(b"[") + text.count(b"{") + text.count(b",")


def cost(text: bytes | bytearray) -> int:
    """An estimate of the bytes that a JSON text takes in memory once it is parsed; marks inside strings count too.

    Parsed, `{"a":1}` takes 30 times its text, but base64 only as much as its text.
    """
    return len(text) + BYTES_PER_MARK * (marks(text) + text.count(b":"))


def _has_too_many_values(text: bytes | bytearray) -> bool:
    """Whether too many of the marks are outside strings. Works in slices: splitting costs 40 bytes for each quote."""
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    count, is_inside = 0, 0
    for start in range(0, len(plain), _SLICE_BYTES):
        pieces = plain[start : start + _SLICE_BYTES].split(b'"')
        count += marks(b"".join(pieces[is_inside::2]))
        is_inside = (is_inside + len(pieces) - 1) % 2
        if count > MAX_VALUES:
            return True
    return False


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Unreadable("it has NaN or a number out of range")
    return number


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise Unreadable(f"it has a number of more than {MAX_DIGITS} digits")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Unreadable("an object has a key twice")
    return found


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise Unreadable(_TOO_DEEP)
        inside = (
            outer.values() if isinstance(outer, dict) else outer for outer in level if type(outer) in (dict, list)
        )
        level = [child for children in inside for child in children if type(child) in (dict, list)]


# Made once, because json.loads and json.dumps make a new one for each call that has options.
_SHORT = json.JSONDecoder(parse_constant=_finite, parse_float=_finite)  # for short text: no number can be too long
_PLAIN = json.JSONDecoder(parse_constant=_finite, parse_float=_finite, parse_int=_integer)
_UNIQUE = json.JSONDecoder(parse_constant=_finite, parse_float=_finite, parse_int=_integer, object_pairs_hook=_unique)
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
