"""Fields and tools of passed-through JSON: the known pass, all others are refused unless the operator opens them."""

from __future__ import annotations

from typing import Any

import pytest

from filesproxy.errors import BadRequest
from filesproxy.gateway.known_fields import FIELDS, MAX_QUOTED, TOOL_TYPES, check_fields
from filesproxy.operations import OPERATIONS

WITH_JSON = [
    name for name, route in OPERATIONS.items() if route.is_passed_through and route.body in ("json", "part or json")
]
WITH_TOOLS = [name for name, fields in FIELDS.items() if "tools" in fields]
HOSTILE = {
    "markup": "<script>alert(1)</script>",
    "line_break": "user\nX-Admin: 1",
    "last_line_break": "user\n",
    "quotes": "a' or '1",
    "escape": "\x1b[31mred",
    "lone_surrogate": "\ud800",
    "other_alphabet": "mоdel",  # its second letter is Cyrillic
    "nothing": "",
}


def refused(body: dict[str, Any], operation: str = "create_response", allowed: tuple[str, ...] = ()) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        check_fields(operation, body, allowed)
    return caught.value


def accepted(body: dict[str, Any], operation: str = "create_response", allowed: tuple[str, ...] = ()) -> None:
    check_fields(operation, body, allowed)


def test_every_passed_through_operation_with_json_has_an_entry_and_no_other_has() -> None:
    assert sorted(FIELDS) == sorted(WITH_JSON)


@pytest.mark.parametrize(("operation", "field"), [(name, field) for name in FIELDS for field in sorted(FIELDS[name])])
def test_a_known_field_is_accepted(operation: str, field: str) -> None:
    accepted({field: [] if field == "tools" else "x"}, operation)


@pytest.mark.parametrize("operation", WITH_JSON)
@pytest.mark.parametrize("value", ["x", None, {"id": "x"}], ids=["text", "null", "object"])
def test_an_unknown_field_is_refused_with_its_name_whatever_its_value(operation: str, value: Any) -> None:
    error = refused({"agent_id": value}, operation)
    assert (error.status, error.param, error.code) == (400, "agent_id", "unknown_field")
    assert "'agent_id'" in error.message and "allow_fields" in error.message


def test_the_operator_can_open_a_field() -> None:
    accepted({"model": "m", "agent_id": "x"}, allowed=("agent_id",))


def test_a_field_that_is_open_opens_no_other() -> None:
    assert refused({"agent_id": "x", "agent": "x"}, allowed=("agent_id",)).param == "agent"


def test_a_field_of_one_operation_is_unknown_in_another() -> None:
    assert refused({"input_file_id": "file-1"}, "create_embedding").param == "input_file_id"


def test_a_name_is_compared_exactly() -> None:
    assert refused({"Model": "m"}).param == "Model"


def test_the_vector_store_of_a_file_is_named_by_the_path_only() -> None:
    assert refused({"attributes": {}, "vector_store_id": "vs_2"}, "update_vector_store_file").param == "vector_store_id"


@pytest.mark.parametrize("operation", ["create_chat_completion", "list_files", "no_such_operation"])
def test_an_operation_without_an_entry_is_not_checked(operation: str) -> None:
    accepted({"agent_id": "x", "tools": "x"}, operation)


@pytest.mark.parametrize("kind", sorted(TOOL_TYPES))
@pytest.mark.parametrize("operation", WITH_TOOLS)
def test_a_tool_of_a_known_type_is_accepted(operation: str, kind: str) -> None:
    accepted({"tools": [{"type": kind}]}, operation)


@pytest.mark.parametrize("operation", WITH_TOOLS)
def test_a_tool_of_an_unknown_type_is_refused_with_its_place(operation: str) -> None:
    tools = [{"type": "function"}, {"type": "web_search"}, {"type": "memory_search"}]
    error = refused({"tools": tools}, operation)
    assert (error.status, error.param, error.code) == (400, "tools[2].type", "unknown_tool")
    assert "'memory_search'" in error.message and "allow_fields" in error.message


def test_a_later_date_of_a_known_type_is_not_known() -> None:
    assert refused({"tools": [{"type": "web_search_2099_01_01"}]}).param == "tools[0].type"


def test_the_operator_can_open_a_type_of_tool_whatever_is_in_it() -> None:
    accepted({"tools": [{"type": "toolbox", "tools": ["a"]}]}, allowed=("toolbox",))


def test_a_type_that_is_open_opens_no_other() -> None:
    assert refused({"tools": [{"type": "toolbox"}, {"type": "memory"}]}, allowed=("toolbox",)).param == "tools[1].type"


def test_the_name_of_the_field_opens_no_tools() -> None:
    assert refused({"tools": [{"type": "memory"}]}, allowed=("tools",)).param == "tools[0].type"


def test_tools_in_a_namespace_are_checked() -> None:
    inner = [{"type": "function", "name": "a"}, {"type": "custom", "name": "b"}]
    accepted({"tools": [{"type": "namespace", "tools": inner}]})
    error = refused({"tools": [{"type": "namespace", "tools": [*inner, {"type": "memory"}]}]})
    assert (error.param, error.code) == ("tools[0].tools[2].type", "unknown_tool")
    accepted({"tools": [{"type": "namespace", "tools": [{"type": "memory"}]}]}, allowed=("memory",))


@pytest.mark.parametrize(
    ("tools", "param", "says"),
    [
        ({"type": "function"}, "tools", "must be a list"),
        ("function", "tools", "must be a list"),
        (False, "tools", "must be a list"),
        (["function"], "tools[0]", "must be an object"),
        ([{"type": "function"}, None], "tools[1]", "must be an object"),
        ([{"type": ["function"]}], "tools[0].type", "must be text"),
        ([{"type": {"function": 1}}], "tools[0].type", "must be text"),
        ([{"type": 1}], "tools[0].type", "must be text"),
        ([{"type": None}], "tools[0].type", "is missing"),
        ([{"name": "function"}], "tools[0].type", "is missing"),
        ([{"type": "namespace", "tools": {}}], "tools[0].tools", "must be a list"),
        ([{"type": "namespace", "tools": ["a"]}], "tools[0].tools[0]", "must be an object"),
    ],
)
def test_malformed_tools_are_refused_even_if_all_is_open(tools: Any, param: str, says: str) -> None:
    error = refused({"tools": tools}, allowed=("tools", "type", "function", ""))
    assert (error.status, error.param) == (400, param)
    assert says in error.message


def test_no_tools_are_no_fault() -> None:
    accepted({"model": "m"})
    accepted({"model": "m", "tools": None})
    accepted({"model": "m", "tools": []})


@pytest.mark.parametrize("name", HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_name_of_a_field_is_not_quoted(name: str) -> None:
    error = refused({name: 1})
    assert (error.param, error.code) == (None, "unknown_field")
    assert error.message.startswith("The gateway does not know a field of this request")


@pytest.mark.parametrize("name", HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_type_of_a_tool_is_not_quoted(name: str) -> None:
    error = refused({"tools": [{"type": name}]})
    assert error.param == "tools[0].type"
    assert error.message.startswith("The gateway does not know the type of tool in 'tools[0].type'")


def test_of_a_long_name_only_the_beginning_is_quoted() -> None:
    field, tool = refused({"a" * 1000: 1}), refused({"tools": [{"type": "a" * 1000}]})
    assert field.param == "a" * MAX_QUOTED
    assert all(f"'{'a' * MAX_QUOTED}'" in error.message for error in (field, tool))
