"""Reading JSON field by field. No I/O.

A fault in a client's JSON is a 400 whose `param` is the place; one in an upstream's JSON is a 502 that names the field.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

from ..errors import BadRequest, InvalidAnswer, UpstreamError

MAX_NAME_IN_PLACE = 64  # characters of a client's own name for something, in a message
NUMBER = (int, float)
_KINDS: dict[Any, str] = {
    str: "text",
    int: "a whole number",
    NUMBER: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    (str, list): "text or a list",
    (str, dict): "text or an object",
}


def at(place: str, name: str | int) -> str:
    """The place of a field or item inside another place: `messages[1].content`."""
    if isinstance(name, int):
        return f"{place}[{name}]"
    return f"{place}.{name}" if place else name


def place_of(path: Any) -> str:
    """The place that a path leads to: (the path of what is around it, and the name or number in that), or None."""
    keys: list[str | int] = []
    while path:
        path, key = path
        keys.append(key[:MAX_NAME_IN_PLACE] if isinstance(key, str) else key)
    return reduce(at, reversed(keys), "")


def optional(obj: dict[str, Any], name: str, kind: Any, place: str = "") -> Any:
    """A field of a client's object; None if it is absent or null. BadRequest if it is not of this kind."""
    value = obj.get(name)
    if value is None or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool))):
        return value
    raise BadRequest(f"'{at(place, name)}' must be {_KINDS[kind]}.", param=at(place, name))


def required(obj: dict[str, Any], name: str, kind: Any, place: str = "") -> Any:
    """A field of a client's object. BadRequest if it is absent, null, or not of this kind."""
    value = optional(obj, name, kind, place)
    if value is None:
        raise BadRequest(f"'{at(place, name)}' is missing.", param=at(place, name))
    return value


def objects(items: list[Any], place: str) -> list[tuple[str, dict[str, Any]]]:
    """(place, object) of each item of a client's list. BadRequest if an item is not an object."""
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise BadRequest(f"'{at(place, index)}' must be an object.", param=at(place, index))
    return [(at(place, index), item) for index, item in enumerate(items)]


def need(obj: Any, name: str, kind: type | tuple[type, ...]) -> Any:
    """A field of an upstream's object. UpstreamError (502) if it is missing or of another kind: nothing is invented."""
    value = obj.get(name) if isinstance(obj, dict) else None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise unusable(name)
    return value


def unusable(name: str) -> UpstreamError:
    """The 502 for a field of an upstream's answer that is missing or of the wrong type."""
    return InvalidAnswer(f"The provider's answer has no usable field '{name}'.")
