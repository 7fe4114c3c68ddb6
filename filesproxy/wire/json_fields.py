"""Reading a client's JSON field by field: every complaint is a 400 whose `param` points at the place. No I/O."""

from __future__ import annotations

from typing import Any

from ..errors import BadRequest

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
    """The place of a field or an item below another one: `messages[1].content`."""
    if isinstance(name, int):
        return f"{place}[{name}]"
    return f"{place}.{name}" if place else name


def optional(obj: dict[str, Any], name: str, kind: Any, place: str = "") -> Any:
    """A field of this kind; None where it is absent or null. BadRequest for anything else."""
    value = obj.get(name)
    if value is None or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool))):
        return value
    raise BadRequest(f"'{at(place, name)}' must be {_KINDS[kind]}.", param=at(place, name))


def required(obj: dict[str, Any], name: str, kind: Any, place: str = "") -> Any:
    """The same for a field that must be there."""
    value = optional(obj, name, kind, place)
    if value is None:
        raise BadRequest(f"'{at(place, name)}' is missing.", param=at(place, name))
    return value


def objects(items: list[Any], place: str) -> list[tuple[str, dict[str, Any]]]:
    """(place, object) of each item of a list whose items must be objects."""
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise BadRequest(f"'{at(place, index)}' must be an object.", param=at(place, index))
    return [(at(place, index), item) for index, item in enumerate(items)]
