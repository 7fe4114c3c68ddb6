"""JSON schemas for Anthropic: every object is closed, nothing else is changed, and what is open on purpose is a 400."""

from __future__ import annotations

import copy

import pytest

from filesproxy.errors import BadRequest
from filesproxy.providers.anthropic.request import messages_request
from filesproxy.providers.anthropic.schemas import closed

A = {"type": "string"}


def obj(**properties):
    return {"type": "object", "properties": properties}


def shut(**properties):
    return {**obj(**properties), "additionalProperties": False}


# The keywords that have schemas: one, a list of them, or an object of them.
ONE = ["items", "additionalItems", "unevaluatedItems", "contains", "not", "if", "then", "else", "propertyNames",
       "contentSchema"]  # fmt: skip
MANY = ["anyOf", "oneOf", "allOf", "prefixItems", "items"]
BY_NAME = ["$defs", "definitions", "dependentSchemas", "dependencies"]
CLOSED = {
    "plain": (obj(a=A), shut(a=A)),
    "closed": (shut(a=A), shut(a=A)),
    "without_a_type": ({"properties": {"a": A}}, {"properties": {"a": A}, "additionalProperties": False}),
    "nullable": ({**obj(a=A), "type": ["object", "null"]}, {**shut(a=A), "type": ["object", "null"]}),
    "empty_on_purpose": (obj(), shut()),
    "in_a_property": (obj(a=obj(b=obj(c=A))), shut(a=shut(b=shut(c=A)))),
    "in_items": ({"type": "array", "items": obj(a=A)}, {"type": "array", "items": shut(a=A)}),
    "in_a_tuple": ({"prefixItems": [obj(a=A), A]}, {"prefixItems": [shut(a=A), A]}),
    "in_an_old_tuple": ({"items": [obj(a=A)]}, {"items": [shut(a=A)]}),
    "in_any_of": (obj(a={"anyOf": [obj(b=A), {"type": "null"}]}), shut(a={"anyOf": [shut(b=A), {"type": "null"}]})),
    "in_one_of": ({"oneOf": [obj(b=A), obj(c=A)]}, {"oneOf": [shut(b=A), shut(c=A)]}),
    "in_all_of_one": ({"allOf": [obj(b=A)]}, {"allOf": [shut(b=A)]}),
    "all_of_references": ({"allOf": [{"$ref": "#/$defs/a"}, A]}, {"allOf": [{"$ref": "#/$defs/a"}, A]}),
    "in_definitions": (
        {**obj(a={"$ref": "#/$defs/x"}), "$defs": {"x": obj(b=A)}, "definitions": {"y": obj(c=A)}},
        {**shut(a={"$ref": "#/$defs/x"}), "$defs": {"x": shut(b=A)}, "definitions": {"y": shut(c=A)}},
    ),
    "properties_named_like_keywords": (
        obj(type=A, properties=obj(items=A), additionalProperties={"type": "boolean"}),
        shut(type=A, properties=shut(items=A), additionalProperties={"type": "boolean"}),
    ),
    "values_that_look_like_schemas": (
        {"enum": [{"type": "object"}], "const": obj(a=A), "default": obj(a=A), "examples": [obj(a=A)]},
        {"enum": [{"type": "object"}], "const": obj(a=A), "default": obj(a=A), "examples": [obj(a=A)]},
    ),
    "all_of_one_object_and_what_names_no_properties": (
        {"allOf": [obj(a=A), {"required": ["a"]}]},
        {"allOf": [shut(a=A), {"required": ["a"]}]},
    ),
    "conditions_that_name_no_properties": (
        {**obj(a=A), "anyOf": [{"required": ["a"]}, {"maxProperties": 0}], "if": {"required": ["a"]}},
        {**shut(a=A), "anyOf": [{"required": ["a"]}, {"maxProperties": 0}], "if": {"required": ["a"]}},
    ),
    "combined_as_they_are_closed": ({**shut(a=A), "allOf": [shut(a=A)]}, {**shut(a=A), "allOf": [shut(a=A)]}),
    "reference_to_no_object": (
        {**obj(a=A), "$defs": {"n": {"enum": [1]}}, "allOf": [{"$ref": "#/$defs/n"}]},
        {**shut(a=A), "$defs": {"n": {"enum": [1]}}, "allOf": [{"$ref": "#/$defs/n"}]},
    ),
    "reference_with_words": (
        obj(a={"$ref": "#", "description": "d", "default": None}),
        shut(a={"$ref": "#", "description": "d", "default": None}),
    ),
    **{
        f"in_{name}": ({name: value(obj(a=A))}, {name: value(shut(a=A))})
        for name, value in [
            *((name, lambda each: each) for name in ONE),
            *((name, lambda each: [each, True]) for name in MANY),
            *((name, lambda each: {"x": each, "y": True}) for name in BY_NAME),
        ]
    },
    "in_pattern_properties": (
        {"patternProperties": {"^x": obj(a=A)}},
        {"patternProperties": {"^x": shut(a=A)}, "additionalProperties": False},
    ),
    "other_types": (A, A),
    "true": (obj(a=True, b=False), shut(a=True, b=False)),
    "nonsense": (
        {"items": 5, "anyOf": {}, "type": 7, "$defs": None},
        {"items": 5, "anyOf": {}, "type": 7, "$defs": None},
    ),
}


@pytest.mark.parametrize("name", CLOSED)
def test_every_object_of_a_schema_is_closed_and_nothing_else_is_changed(name):
    """Anthropic answers 400 to an object that does not say `additionalProperties: false`."""
    given, made = CLOSED[name]
    before, ignored = copy.deepcopy(given), []
    assert closed(given, "p", ignored) == made and given == before and ignored == []
    assert closed(made, "p", ignored) == made


OPEN = [
    ({**obj(a=A), "additionalProperties": True}, "p.additionalProperties"),
    ({"type": "object", "additionalProperties": A}, "p.additionalProperties"),
    ({"type": "object", "additionalProperties": {}}, "p.additionalProperties"),
    (obj(a={**obj(b=A), "additionalProperties": None}), "p.properties.a.additionalProperties"),
    ({"items": {**obj(b=A), "additionalProperties": True}}, "p.items.additionalProperties"),
    ({"anyOf": [A, {**obj(b=A), "additionalProperties": True}]}, "p.anyOf[1].additionalProperties"),
    ({"$defs": {"a b": {**obj(b=A), "additionalProperties": True}}}, "p.$defs.*.additionalProperties"),
    ({"allOf": [obj(a=A), obj(b=A)]}, "p.allOf"),
    ({"type": "object", "unevaluatedProperties": A}, "p.unevaluatedProperties"),
]


@pytest.mark.parametrize("schema,param", OPEN, ids=[param for _, param in OPEN])
def test_object_that_is_open_on_purpose_is_refused_at_its_place(schema, param):
    with pytest.raises(BadRequest) as refused:
        closed(schema, "p", [])
    assert refused.value.param == param


B = obj(b=A)
DEFS = {"$defs": {"a/b": obj(b=A), "c": shut(c=A), "d": {"$ref": "#/$defs/c"}}}
COMBINED = [
    *(({**obj(a=A), name: B}, f"p.{name}") for name in ("if", "then", "else", "not")),
    *(({**obj(a=A), name: [B]}, f"p.{name}") for name in ("allOf", "anyOf", "oneOf")),
    *(({**obj(a=A), name: {"a": B}}, f"p.{name}") for name in ("dependentSchemas", "dependencies")),
    *(({**obj(a=A), "$ref": ref, **DEFS}, "p.$ref") for ref in ("#/$defs/a~1b", "#/$defs/c", "#/$defs/d", "#x", "#/y")),
    ({"type": "object", "anyOf": [B, A]}, "p.anyOf"),
    ({**shut(a=A), "allOf": [B]}, "p.allOf"),
    ({"patternProperties": {"^a": A}, "allOf": [B]}, "p.allOf"),
    ({"if": B, "then": obj(c=A)}, "p.if"),
    ({"anyOf": [B], "oneOf": [B]}, "p.anyOf"),
    ({"allOf": [{"anyOf": [A, B]}, {"allOf": [B]}]}, "p.allOf"),
    ({"allOf": [{"$ref": "#/$defs/a~1b"}, {"$ref": "#/$defs/c"}], **DEFS}, "p.allOf"),
    ({"$ref": "#/$defs/c", "allOf": [B], **DEFS}, "p.$ref"),
    (obj(x={"items": {**obj(a=A), "allOf": [B]}}), "p.properties.x.items.allOf"),
]


@pytest.mark.parametrize("schema,param", COMBINED, ids=range(len(COMBINED)))
def test_open_objects_that_are_combined_are_refused_at_their_place(schema, param):
    """Closed, each forbids the properties of the other: no answer could satisfy both."""
    with pytest.raises(BadRequest) as refused:
        closed(schema, "p", [])
    assert refused.value.param == param


@pytest.mark.parametrize("reference", ["", "#", "#/", "#/$defs", "#/$defs/x/anyOf/0", "#/$defs/x/anyOf/" + "9" * 5000,
                                       "https://a/b#/c", "#/%24defs/x", "#/$defs/x/anyOf/-1", 5, None])  # fmt: skip
def test_reference_of_any_kind_is_unchanged(reference):
    schema = {**obj(a={"$ref": reference}), "$defs": {"x": {"anyOf": [A]}}}
    assert closed(schema, "p", []) == {**schema, "additionalProperties": False}


def test_object_that_names_no_properties_is_closed_and_reported():
    """It can only be empty then, as with the vendors' own SDKs."""
    ignored = []
    made = closed(obj(a={"type": "object"}), "a[5].p", ignored)
    assert made == shut(a={"type": "object", "additionalProperties": False})
    assert ignored == ["a.p.additionalProperties"]


def request(**body):
    return messages_request({"model": "claude-opus-4-8", "messages": [{"role": "user", "content": "hi"}], **body}, {})


@pytest.mark.parametrize("strict", [{}, {"strict": True}, {"strict": False}])
def test_schema_of_an_answer_is_closed_strict_or_not(strict):
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": obj(a=obj(b=A)), **strict}}
    made, ignored = request(response_format=wanted)
    assert made["output_config"]["format"]["schema"] == shut(a=shut(b=A)) and ignored == []


@pytest.mark.parametrize("more,is_closed", [({"strict": True}, True), ({}, False), ({"strict": False}, False)])
def test_schema_of_a_strict_tool_is_closed_and_any_other_tools_is_unchanged(more, is_closed):
    tool = {"type": "function", "function": {"name": "f", "parameters": obj(a=obj(b=A)), **more}}
    (made,) = request(tools=[tool])[0]["tools"]
    assert made["input_schema"] == (shut(a=shut(b=A)) if is_closed else obj(a=obj(b=A)))


@pytest.mark.parametrize(
    "body,param",
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": OPEN[0][0]}}},
            "response_format.json_schema.schema.additionalProperties",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "strict": True, "parameters": OPEN[0][0]}}]},
            "tools[0].function.parameters.additionalProperties",
        ),
    ],
)
def test_open_schema_is_a_400_that_names_its_place(body, param):
    with pytest.raises(BadRequest) as refused:
        request(**body)
    assert refused.value.param == param
