"""JSON schemas as Anthropic's structured outputs and strict tools take them: with every object closed. Pure functions.

https://platform.claude.com/docs/en/build-with-claude/structured-outputs
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from ...calls import Json
from ...wire.json_fields import at
from .content import refuse

# Where a schema has other schemas. What `enum`, `const`, `default` and `examples` hold only looks like one.
_SCHEMAS = (
    "items", "additionalItems", "unevaluatedItems", "contains", "not", "if", "then", "else", "propertyNames",
    "contentSchema",
)  # fmt: skip
_LISTS_OF_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SCHEMAS_BY_NAME = (
    "properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies",
)  # fmt: skip
# The keywords whose schemas judge the same value as the schema that has them.
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_BOTH = ("allOf", "if", "then", "else", "not", "dependentSchemas", "dependencies")
_ALTERNATIVES = ("anyOf", "oneOf")
_OF_OBJECTS = ("properties", "patternProperties", "additionalProperties", "unevaluatedProperties")
_OF_NO_OBJECT = ("type", "enum", "const")
_INDEX = re.compile(r"[0-9]{1,9}")
_NAMEABLE = re.compile(r"[A-Za-z0-9_.$-]{1,64}")


def closed(schema: Json, place: str, ignored: list[str]) -> Json:
    """The schema, with `additionalProperties: false` in each object that does not say whether it is open.

    What satisfies the closed schema satisfies the open one. An object that names no properties can then only be empty,
    so it is reported in `ignored`, as `additionalProperties` of the place. BadRequest, at its own place, for an object
    that is said to be open, and for open objects that are combined: each would forbid the properties of the others.
    """
    return _Closing(schema, place, ignored).closed(schema, place)


class _Closing:
    def __init__(self, root: Json, place: str, ignored: list[str]) -> None:
        self._root = root
        self._label = re.sub(r"\[\d+\]", "", at(place, "additionalProperties"))
        self._ignored = ignored
        # id of a schema that has been closed → whether it is of an open object, a closed one, or (None) of no object
        self._open: dict[int, bool | None] = {}

    def closed(self, schema: Json, place: str) -> Json:
        made = {name: self._inside(name, value, at(place, name)) for name, value in schema.items()}
        self._note_parts(schema, place)
        if not _is_object(schema):
            return made
        for name in ("additionalProperties", "unevaluatedProperties"):
            if schema.get(name, False) is not False:
                refuse(at(place, name), "Anthropic's schemas allow no other properties")
        if not any(name in schema for name in _OF_OBJECTS):
            self._ignored.append(self._label)
        return {**made, "additionalProperties": False}

    def _inside(self, name: str, value: Any, place: str) -> Any:
        """The value of a keyword, with the schemas in it closed."""
        if name in _SCHEMAS_BY_NAME and isinstance(value, dict):
            return {key: self._if_schema(each, at(place, _nameable(key))) for key, each in value.items()}
        if name in _LISTS_OF_SCHEMAS and isinstance(value, list):
            return [self._if_schema(each, at(place, index)) for index, each in enumerate(value)]
        return self._if_schema(value, place) if name in _SCHEMAS else value

    def _if_schema(self, value: Any, place: str) -> Any:
        return self.closed(value, place) if isinstance(value, dict) else value

    def _note_parts(self, schema: Json, place: str) -> None:
        """Refuse a schema that combines objects of which one is open; note what it is itself."""
        parts = [(name, is_open) for name, is_open in self._parts(schema) if is_open is not None]
        is_open = any(is_open for _, is_open in parts)
        if len(parts) > 1 and is_open:
            keyword = next(name for name, _ in parts if name)
            refuse(at(place, keyword), "Anthropic's schemas cannot combine open objects")
        self._open[id(schema)] = is_open if parts else None

    def _parts(self, schema: Json) -> Iterator[tuple[str, bool | None]]:
        """(keyword, whether it is of an open object) of each schema that judges the same value; "" is the schema."""
        if _is_object(schema):
            yield "", "additionalProperties" not in schema
        for name in _REFERENCES:
            if isinstance(schema.get(name), str):
                yield name, self._is_target_open(schema[name])
        for name in _BOTH:
            yield from ((name, self._open.get(id(each))) for each in _schemas_of(schema, name))
        for name in _ALTERNATIVES:
            found = {self._open.get(id(each)) for each in _schemas_of(schema, name)} - {None}
            yield name, (any(found) if found else None)

    def _is_target_open(self, reference: str) -> bool | None:
        """Like the values of `_open`. A reference that leads further, or nowhere, may be of an open object."""
        target = _at_pointer(self._root, reference)
        if not isinstance(target, dict):
            return True
        if _is_object(target):
            return "additionalProperties" not in target
        leads_on = any(name in target for name in (*_REFERENCES, *_BOTH, *_ALTERNATIVES))
        return True if leads_on and not any(name in target for name in _OF_NO_OBJECT) else None


def _schemas_of(schema: Json, name: str) -> list[Json]:
    """The schemas that a keyword has, whether one, a list or an object of them."""
    value = schema.get(name)
    if isinstance(value, dict) and name in _SCHEMAS_BY_NAME:
        value = list(value.values())
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, dict)]


def _at_pointer(root: Json, reference: str) -> Any:
    """What a reference inside the same schema points to (RFC 6901 §6); None if it is another kind or leads nowhere."""
    start, *steps = unquote(reference).split("/")
    found: Any = root if start == "#" else None
    for step in steps:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list):
            found = found[int(key)] if _INDEX.fullmatch(key) and int(key) < len(found) else None
        else:
            found = found.get(key) if isinstance(found, dict) else None
    return found


def _is_object(schema: Json) -> bool:
    kind = schema.get("type")
    is_named = kind == "object" or (isinstance(kind, list) and "object" in kind)
    return is_named or any(name in schema for name in _OF_OBJECTS)


def _nameable(key: str) -> str:
    return key if _NAMEABLE.fullmatch(key) else "*"
