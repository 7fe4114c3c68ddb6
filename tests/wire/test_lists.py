"""Lists and file objects: the parameters of a list request, and the complete shape of every answer."""

from __future__ import annotations

import pytest

from filesproxy.calls import Call
from filesproxy.errors import BadRequest, UpstreamError
from filesproxy.wire.lists import MAX_LIMIT, checked_purpose, deletion, file_list, file_object, list_query, page, sliced

CALL = Call("list_files", "GET", "/files")
FILE = {"id": "file-1", "object": "file", "bytes": 5, "status": "processed"}

GOOD = [
    {},
    {"limit": "1"},
    {"limit": "10000"},
    {"limit": "007"},
    {"order": "asc"},
    {"order": "desc"},
    {"after": "file-1"},
    {"purpose": "fine-tune"},
    {"purpose": "batch", "limit": "2", "after": "a", "order": "asc"},
]
BAD = {
    "limit": [
        "0",
        "-1",
        "+1",
        "1.0",
        "1e3",
        "10001",
        "99999",
        "100000",
        "x",
        " 1",
        "1 ",
        "1\n",
        "٣",
        "１",
        "0x1",
        "1_0",
        "00000",
    ],
    "order": ["ASC", "up", "asc ", "asc,desc", "\n"],
    "after": ["..", ".", "../x", "a b", "a?b", "a\r\n", "é", "a" * 129, "a/b", "a%2fb"],
    "purpose": ["a b", "a\r\nb", "a" * 65, "é", "a&b", "a.b", "'", "../x", "a\0"],
}


@pytest.mark.parametrize("query", GOOD)
def test_query_of_the_contract_is_passed_on_unchanged(query):
    assert list_query(query) == query


def test_other_parameters_and_empty_ones_are_not_passed_on():
    assert list_query({"limit": "", "after": "", "pretty": "1", "include[]": "x", "order": "asc"}) == {"order": "asc"}


@pytest.mark.parametrize("name,value", [(name, value) for name, values in BAD.items() for value in values])
def test_invalid_parameter_is_a_400_that_names_it(name, value):
    with pytest.raises(BadRequest) as refused:
        list_query({name: value})
    assert refused.value.param == name


def test_limit_is_openais():
    assert MAX_LIMIT == 10_000


@pytest.mark.parametrize("purpose", ["assistants", "batch", "fine-tune", "user_data", "vision", "evals", "a", "a" * 64])
def test_purpose_is_any_short_word(purpose):
    assert checked_purpose(purpose) == purpose


@pytest.mark.parametrize("purpose", ["", *BAD["purpose"]])
def test_purpose_that_is_not_a_word_is_400(purpose):
    with pytest.raises(BadRequest) as refused:
        checked_purpose(purpose)
    assert refused.value.param == "purpose"


def test_file_object_gets_the_fields_that_sdks_need_and_keeps_the_others():
    assert file_object({"id": "f"}, CALL) == {"id": "f", "object": "file", "status": "processed"}
    whole = {**FILE, "status": "error", "status_details": None, "expires_at": 7, "x": [1]}
    assert file_object(whole, CALL) == whole


@pytest.mark.parametrize("status", [None, ""])
def test_file_without_a_status_is_processed(status):
    assert file_object({"id": "f", "status": status}, CALL)["status"] == "processed"


@pytest.mark.parametrize(
    "obj", [None, [], "file-1", 5, {}, {"id": None}, {"id": 5}, {"id": True}, {"id": ["a"]}, {"ID": "a"}]
)
def test_answer_without_an_id_is_a_502_that_names_the_field(obj):
    for read in (file_object, deletion) if obj is not None else (file_object,):  # valid for a deletion
        with pytest.raises(UpstreamError, match="'id'") as refused:
            read(obj, CALL)
        assert refused.value.code == "upstream_invalid_answer"


def test_list_gets_a_complete_envelope():
    answer = file_list({"data": [{"id": "a"}, {"id": "b"}], "total": 2}, CALL)
    assert {key: answer[key] for key in ("object", "first_id", "last_id", "has_more", "total")} == {
        "object": "list", "first_id": "a", "last_id": "b", "has_more": False, "total": 2}  # fmt: skip
    assert [item["status"] for item in answer["data"]] == ["processed"] * 2


def test_empty_list_has_null_ids():
    assert file_list({"data": []}, CALL) == page([], False)
    assert page([], False) == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize(
    "given,has_more", [(True, True), (False, False), (None, False), ("true", False), (1, False), ({}, False)]
)
def test_has_more_is_always_a_boolean(given, has_more):
    assert file_list({"data": [FILE], "has_more": given}, CALL)["has_more"] is has_more


def test_first_and_last_id_are_those_of_the_files_in_the_list():
    answer = file_list({"data": [FILE], "first_id": "x", "last_id": None}, CALL)
    assert (answer["first_id"], answer["last_id"]) == ("file-1", "file-1")


@pytest.mark.parametrize(
    "obj",
    [None, [], {}, {"data": None}, {"data": {}}, {"data": "x"}, {"data": [None]}, {"data": [{}]},
     {"data": [FILE, "file-2"]}, {"data": [[FILE]]}],
)  # fmt: skip
def test_answer_that_is_not_a_list_of_files_is_502(obj):
    with pytest.raises(UpstreamError):
        file_list(obj, CALL)


@pytest.mark.parametrize(
    "obj",
    [{"id": "f"}, {"id": "f", "deleted": True}, {"id": "f", "deleted": None, "type": "file_deleted"},
     {"id": "f", "object": "thing"}],
)  # fmt: skip
def test_deletion_has_openais_shape(obj):
    answer = deletion(obj, CALL)
    assert (answer["id"], answer["object"], answer["deleted"]) == ("f", "file", True)


def test_file_that_was_not_deleted_is_an_error():
    with pytest.raises(UpstreamError):
        deletion({"id": "f", "deleted": False}, CALL)


def test_arguments_are_not_changed():
    given = {"data": [{"id": "a"}]}
    file_list(given, CALL)
    deletion(given["data"][0], CALL)
    assert given == {"data": [{"id": "a"}]}


def test_file_without_a_purpose_is_in_no_list_of_a_purpose_and_no_failure():
    """Azure may leave it out; the list was a 500."""
    files = [{"id": "file-1", "created_at": 1}, {"id": "file-2", "created_at": 2, "purpose": "batch"}]
    assert [file["id"] for file in sliced(files, {"purpose": "batch"})["data"]] == ["file-2"]
    assert len(sliced(files, {})["data"]) == 2
