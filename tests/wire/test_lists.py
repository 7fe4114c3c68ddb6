"""Lists and file objects: the parameters of a list request, and the complete shape of every answer."""

from __future__ import annotations

import pytest

from filesproxy.calls import Call, Upload
from filesproxy.errors import BadRequest, InvalidAnswer, UpstreamError
from filesproxy.wire.lists import MAX_LIMIT, checked_purpose, deletion, file_object, list_query, page, sliced

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


def test_empty_list_has_null_ids():
    assert page([], False) == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


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
    assert file_object({"id": "f"}, CALL) == {"id": "f", "object": "file", "bytes": 0, "status": "processed"}
    whole = {**FILE, "status": "error", "status_details": None, "expires_at": 7, "x": [1]}
    assert file_object(whole, CALL) == whole


SIZES = {
    "null": ({"bytes": None}, 7),
    "absent": ({}, 7),
    "text": ({"bytes": "5"}, 5),
    "float": ({"bytes": 5.0}, 5),
    "zero": ({"bytes": 0}, 0),
    "another_name": ({"bytes": None, "size_bytes": 5}, 5),
    "size": ({"size": 5}, 5),
    "negative": ({"bytes": -1}, 7),
    "half": ({"bytes": 5.5}, 7),
    "true": ({"bytes": True}, 7),
    "words": ({"bytes": "5 kB"}, 7),
    "list": ({"bytes": [5]}, 7),
}


@pytest.mark.parametrize("name", SIZES)
def test_size_is_a_whole_number_whatever_the_host_writes(name):
    """`bytes` is what the host says in any form, else what was just relayed, else 0: OpenAI requires an integer."""
    given, size = SIZES[name]
    upload = Upload("a", "a/b", {}, iter([b"1234567"]))
    assert list(upload) == [b"1234567"]
    found = file_object({"id": "f", **given}, CALL._replace(upload=upload))["bytes"]
    assert (found, type(found)) == (size, int)
    assert file_object({"id": "f", **given}, CALL)["bytes"] == (size if size != 7 else 0)


@pytest.mark.parametrize("status", [None, ""])
def test_file_without_a_status_is_processed(status):
    assert file_object({"id": "f", "status": status}, CALL)["status"] == "processed"


@pytest.mark.parametrize(
    "obj", [None, [], "file-1", 5, {}, {"id": None}, {"id": 5}, {"id": True}, {"id": ["a"]}, {"ID": "a"}]
)
def test_answer_without_an_id_is_a_502_that_names_the_field(obj):
    with pytest.raises(UpstreamError, match="'id'") as refused:
        file_object(obj, CALL)
    assert refused.value.code == "upstream_invalid_answer"


DELETED = [
    None,
    {},
    {"deleted": True},
    {"id": "f"},
    {"id": "f", "deleted": True},
    {"id": "f", "deleted": None, "type": "file_deleted"},
    {"id": "f", "object": "thing"},
    {"id": None, "object": "file", "deleted": True},
    {"id": "", "success": True},
    {"deleted": "true"},
    {"deleted": 1},
    {"message": "File deleted."},
    {"status": "deleted"},
    {"code": 20000, "message": "Ok", "status": True, "data": {"id": "f", "object": "file", "deleted": True}},
    {"code": 20000, "message": "Ok", "data": None},
    {"success": True, "result": {"deleted": True}},
    True,
    "",
    [],
    "OK",
    "deleted",
    "f",
    1,
    "The file f has been deleted.",
    {"code": 0, "data": "ok"},
]


@pytest.mark.parametrize("obj", DELETED)
def test_deletion_that_did_not_fail_has_openais_shape(obj):
    """A 2xx is a success unless the answer denies it, and the call knows the id: without one it was a 502."""
    answer = deletion(obj, CALL._replace(file_id="f"))
    assert (answer["id"], answer["object"], answer["deleted"]) == ("f", "file", True)


NOT_DELETED = [
    {"id": "f", "deleted": False},
    {"deleted": False},
    {"id": "f", "deleted": 0},
    {"deleted": "false"},
    {"success": False},
    {"status": "error", "message": "The file is in use."},
    {"error": {"message": "The file is in use."}},
    {"error": "The file is in use."},
    {"code": 50000, "message": "The file is in use.", "data": None},
    {"code": 50000, "data": {}},
    {"code": 20000, "data": {"id": "f", "deleted": False}},
    {"id": ["f"]},
    {"id": True},
    False,
    "The file is in use.",
    ["f"],
    5,
    0,
    "not deleted",
    "g",
    "the file",
    "g deleted",
    "file not found",
    "ok " * 200,
]


@pytest.mark.parametrize("obj", NOT_DELETED)
def test_deletion_that_the_answer_denies_is_an_error(obj):
    with pytest.raises(InvalidAnswer):
        deletion(obj, CALL._replace(file_id="f"))


def test_deletion_keeps_the_id_of_the_answer_for_the_check_that_it_is_the_one_asked_for():
    assert deletion({"id": "other"}, CALL._replace(file_id="f"))["id"] == "other"
    assert deletion({"id": 12}, CALL._replace(file_id="12"))["id"] == "12"


def test_arguments_are_not_changed():
    given = {"id": "a"}
    file_object(given, CALL)
    deletion(given, CALL)
    assert given == {"id": "a"}


def test_file_without_a_purpose_is_in_no_list_of_a_purpose_and_no_failure():
    """Azure may leave it out; the list was a 500."""
    files = [{"id": "file-1", "created_at": 1}, {"id": "file-2", "created_at": 2, "purpose": "batch"}]
    assert [file["id"] for file in sliced(files, {"purpose": "batch"})["data"]] == ["file-2"]
    assert len(sliced(files, {})["data"]) == 2
