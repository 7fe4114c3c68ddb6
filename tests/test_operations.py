"""The table of operations: one row for each, ids in one function, and the places where ids are found."""

from __future__ import annotations

import pytest

from filesproxy.errors import BadRequest
from filesproxy.gateway.json_requests import HANDLERS
from filesproxy.operations import FILE_OPERATIONS, OPERATIONS, PASSED_THROUGH, ROUTES, checked_id, ids_at


def test_each_operation_but_health_has_one_row():
    names = [route.operation for route in ROUTES if route.operation != "health"]
    assert len(names) == len(set(names)) and set(names) == OPERATIONS.keys() == HANDLERS.keys()


def test_bodies_come_with_the_methods_that_have_one():
    assert not [route for route in ROUTES if route.body != "none" and route.method != "POST"]


def test_routes_with_an_id_say_where_the_answer_has_it():
    assert not [route.path for route in ROUTES if ":id" in route.path and route.answer != "bytes"
                and not route.answer_ids and "events" not in route.operation]  # fmt: skip


def test_groups_of_operations_are_read_from_the_table():
    assert len(FILE_OPERATIONS) == 5 and not set(FILE_OPERATIONS) & set(PASSED_THROUGH)
    assert set(OPERATIONS) - set(FILE_OPERATIONS) - set(PASSED_THROUGH) == {"create_chat_completion"}


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "a b", "é", "a%2f", "a" * 129, "a\n"])
def test_id_that_no_provider_could_have_issued_is_400(text):
    with pytest.raises(BadRequest) as refused:
        checked_id(text, "after")
    assert refused.value.param == "after"


CHAT = {"messages": [{"content": "hi"}, {"content": [{"type": "text"}, {"file": {"file_id": "file-1"}}]}, "odd", None]}


@pytest.mark.parametrize(
    "value,place,found",
    [
        ({"id": "a"}, "id", [("id", "a")]),
        ({"file": {"id": "a"}}, "file.id", [("file.id", "a")]),
        ({"data": [{"id": "a"}, {}, {"id": 5}, {"id": "b"}]}, "data[].id", [("data[0].id", "a"), ("data[3].id", "b")]),
        ({"part_ids": ["a", None, "b"]}, "part_ids[]", [("part_ids[0]", "a"), ("part_ids[2]", "b")]),
        (CHAT, "messages[].content[].file.file_id", [("messages[1].content[1].file.file_id", "file-1")]),
        ({"id": ["a"]}, "id", []),
        ({"data": {"id": "a"}}, "data[].id", []),
        ([], "id", []),
        (None, "data[].id", []),
    ],
)
def test_ids_are_found_at_their_places_with_the_exact_place(value, place, found):
    assert list(ids_at(value, place)) == found


def test_places_of_the_table_can_be_read():
    for route in ROUTES:
        for place in (*route.request_ids, *route.answer_ids):
            assert all(step.removesuffix("[]").isidentifier() for step in place.split("."))
            assert list(ids_at({}, place)) == []
