"""JSON schemas as Anthropic's structured outputs and strict tools take them: with every object closed. Pure functions.

https://platform.claude.com/docs/en/build-with-claude/structured-outputs
"""

from __future__ import annotations

import re
from typing import Any

from ...calls import Json
from ...wire.json_fields import at
from .content import refuse

# Where a schema has other schemas. What `enum`, `const`, `default` and `examples` hold only looks like one.
_SCHEMAS = ("items", "contains", "not", "if", "then", "else", "propertyNames")
_LISTS_OF_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SCHEMAS_BY_NAME = ("properties", "$defs", "definitions", "dependentSchemas")
_NAMEABLE = re.compile(r"[A-Za-z0-9_.$-]{1,64}")


def closed(schema: Json, place: str, ignored: list[str]) -> Json:
    """The schema, with `additionalProperties: false` in each object that does not say whether it is open.

    What satisfies the closed schema satisfies the open one. An object that names no properties can then only be empty,
    so it is reported in `ignored`, as `additionalProperties` of the place. BadRequest, at its own place, for an object
    that is said to be open, and for open objects that are combined: each would forbid the properties of the others.
    """
    return _Closing(place, ignored).closed(schema, place)


class _Closing:
    def __init__(self, place: str, ignored: list[str]) -> None:
        self._label = re.sub(r"\[\d+\]", "", at(place, "additionalProperties"))
        self._ignored = ignored

    def closed(self, schema: Json, place: str) -> Json:
        made = {name: self._inside(name, value, at(place, name)) for name, value in schema.items()}
        if not _is_object(schema):
            return made
        if schema.get("additionalProperties", False) is not False:
            refuse(at(place, "additionalProperties"), "Anthropic's schemas allow no other properties")
        if "additionalProperties" not in schema and "properties" not in schema:
            self._ignored.append(self._label)
        return {**made, "additionalProperties": False}

    def _inside(self, name: str, value: Any, place: str) -> Any:
        """The value of a keyword, with the schemas in it closed."""
        if name in _SCHEMAS_BY_NAME and isinstance(value, dict):
            return {key: self._if_schema(each, at(place, _nameable(key))) for key, each in value.items()}
        if name in _LISTS_OF_SCHEMAS and isinstance(value, list):
            made = [self._if_schema(each, at(place, index)) for index, each in enumerate(value)]
            if name == "allOf" and len(value) > 1 and made != value:
                refuse(place, "Anthropic's schemas cannot combine open objects")
            return made
        return self._if_schema(value, place) if name in _SCHEMAS else value

    def _if_schema(self, value: Any, place: str) -> Any:
        return self.closed(value, place) if isinstance(value, dict) else value


def _is_object(schema: Json) -> bool:
    kind = schema.get("type")
    return kind == "object" or (isinstance(kind, list) and "object" in kind) or "properties" in schema


def _nameable(key: str) -> str:
    return key if _NAMEABLE.fullmatch(key) else "*"
