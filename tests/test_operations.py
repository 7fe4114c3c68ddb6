"""The table of operations: one row each, the check of ids, and the places of ids."""

from __future__ import annotations

import pytest

from filesproxy.errors import BadRequest
from filesproxy.gateway.json_requests import HANDLERS
from filesproxy.operations import FILE_OPERATIONS, OPERATIONS, PASSED_THROUGH, ROUTES, checked_id, ids_at, is_kept_id


def test_each_operation_but_health_has_one_row():
    names = [route.operation for route in ROUTES if route.operation != "health"]
    assert len(names) == len(set(names)) and set(names) == OPERATIONS.keys() == HANDLERS.keys()


def test_only_post_has_a_body():
    assert not [route for route in ROUTES if route.body != "none" and route.method != "POST"]


WITHOUT_IDS = ("list_fine_tuning_events", "retrieve_vector_store_file_content")  # events and texts


def test_routes_with_an_id_name_the_place_of_ids_in_the_answer():
    assert not [route.path for route in ROUTES if ":id" in route.path and route.answer != "bytes"
                and not route.answer_ids and route.operation not in WITHOUT_IDS]  # fmt: skip


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
def test_ids_are_found_with_their_exact_places(value, place, found):
    assert list(ids_at(value, place)) == found


@pytest.mark.parametrize(
    "text,is_kept",
    [
        ("file-0660d3fd1a774004570ae91458c94f624c975f", True),
        ("file-0660d3fd1a774004570ae91458c94f624c975", False),
        ("file-0660d3fd1a774004570ae91458c94f624c975f0", False),
        ("file-0660D3FD1A774004570AE91458C94F624C975F", False),
        ("file-0660d3fd1a774004570ae91458c94f624c975f\n", False),
        ("file_0660d3fd1a774004570ae91458c94f624c975f", False),
        ("file-abc123", False),  # OpenAI
        ("file-9f86d081884c7d659a2feaa0c55ad015", False),  # Azure
        ("", False),
    ],
)
def test_kept_id_has_a_form_of_its_own(text, is_kept):
    assert is_kept_id(text) is is_kept


def test_places_in_the_table_are_valid():
    for route in ROUTES:
        for place in (*route.request_ids, *route.answer_ids):
            assert all(step.removesuffix("[]").isidentifier() for step in place.split("."))
            assert list(ids_at({}, place)) == []
