"""Reading a client's JSON: fields of each kind, and errors that name the place."""

from __future__ import annotations

import pytest

from filesproxy.errors import BadRequest
from filesproxy.wire.json_fields import NUMBER, at, objects, optional, required

SAMPLES = ["", "x", 0, 1, -1, 1.0, 2.5, True, False, [], [1], {}, {"a": 1}]
KINDS = {
    "text": (str, [str]),
    "whole": (int, [int]),
    "number": (NUMBER, [int, float]),
    "truth": (bool, [bool]),
    "list": (list, [list]),
    "object": (dict, [dict]),
    "text_or_list": ((str, list), [str, list]),
    "text_or_object": ((str, dict), [str, dict]),
}
CASES = [(kind, value) for kind in KINDS for value in SAMPLES]


@pytest.mark.parametrize("kind,value", CASES)
def test_field_of_another_kind_is_a_400_that_names_it(kind, value):
    wanted, types = KINDS[kind]
    body = {"f": value}
    for read in (optional, required):
        if type(value) in types:
            assert read(body, "f", wanted) is value
            assert read(body, "f", wanted, "a[0]") is value
            continue
        with pytest.raises(BadRequest, match=r"'f' must be ") as refused:
            read(body, "f", wanted)
        assert (refused.value.param, refused.value.status) == ("f", 400)
        with pytest.raises(BadRequest, match=r"'a\[0\]\.f' must be ") as refused:
            read(body, "f", wanted, "a[0]")
        assert refused.value.param == "a[0].f"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", [{}, {"f": None}, {"F": "x"}])
def test_absent_or_null_field_is_none_if_optional_and_a_400_if_required(kind, body):
    wanted, _ = KINDS[kind]
    assert optional(body, "f", wanted) is None
    with pytest.raises(BadRequest, match="'p.f' is missing") as refused:
        required(body, "f", wanted, "p")
    assert refused.value.param == "p.f"


@pytest.mark.parametrize("value", [0, "", [], {}, False])
def test_required_field_may_be_empty(value):
    kind = bool if value is False else type(value)
    assert required({"f": value}, "f", kind) == value


@pytest.mark.parametrize(
    "place,name,whole",
    [("", "a", "a"), ("a", "b", "a.b"), ("a", 0, "a[0]"), ("a[0]", "b", "a[0].b"), ("a[0].b", 12, "a[0].b[12]")],
)
def test_place_is_written_like_code(place, name, whole):
    assert at(place, name) == whole


def test_objects_come_with_their_places():
    assert objects([{"a": 1}, {}], "m") == [("m[0]", {"a": 1}), ("m[1]", {})]
    assert objects([], "m") == []


@pytest.mark.parametrize("item", [None, "x", 1, True, [], [{}]])
def test_item_that_is_not_an_object_is_named(item):
    with pytest.raises(BadRequest) as refused:
        objects([{}, item, {}], "messages[2].content")
    assert refused.value.param == "messages[2].content[1]"
