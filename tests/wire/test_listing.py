"""Lists of compatible hosts: a list ends where the host says so, and no page is lost in silence."""

from __future__ import annotations

import pytest

from filesproxy.calls import Answer, Call
from filesproxy.errors import InvalidAnswer, UpstreamAnswered, UpstreamError
from filesproxy.wire.listing import by_cursor, listed, listing
from filesproxy.wire.lists import MAX_LIMIT

CALL = Call("list_files", "GET", "/files")
FILE = {"id": "file-1", "object": "file", "bytes": 5, "status": "processed"}
REFUSED = UpstreamAnswered(400, {"message": "No such parameter: after", "type": "x", "param": None, "code": None}, {})


class Host:
    """A host with so many files: how it understands `limit` and `after`, and what it says beside the files."""

    def __init__(self, count, says=lambda page, rest: {}, page=20, knows_limit=True, after="exclusive"):
        self.ids = [f"file-{number}" for number in range(count)]
        self.says, self.page, self.knows_limit, self.after = says, page, knows_limit, after
        self.queries = []

    def __call__(self, call):
        self.queries.append(dict(call.query))
        start = 0
        if "after" in call.query and self.after == "refused":
            raise REFUSED
        if "after" in call.query and self.after != "ignored":
            start = self.ids.index(call.query["after"]) + (self.after == "exclusive")
        size = int(call.query.get("limit", self.page)) if self.knows_limit else self.page
        found, rest = self.ids[start : start + size], self.ids[start + size :]
        data = [{"id": file_id} for file_id in found]
        return Answer(200, json={"object": "list", "data": data, **self.says(found, rest)})


def ask(host, **query):
    return listed()(CALL._replace(query=query), host).json


def read(answer, **query):
    """What becomes of an answer, whatever is asked for."""
    return listed()(CALL._replace(query=query), lambda call: Answer(200, json=answer)).json


def everything(host, **query):
    """The ids that a client gets which asks until `has_more` is false, as SDKs do."""
    ids, after = [], {}
    for _ in range(len(host.ids) + 1):
        answer = ask(host, **query, **after)
        ids += [file["id"] for file in answer["data"]]
        if not answer["has_more"]:
            return ids
        after = {"after": answer["data"][-1]["id"]}
    raise AssertionError("the list never ends")


def test_list_gets_a_complete_envelope():
    answer = read({"data": [{"id": "a"}, {"id": "b"}], "total": 2})
    assert {key: answer[key] for key in ("object", "first_id", "last_id", "has_more", "total")} == {
        "object": "list", "first_id": "a", "last_id": "b", "has_more": False, "total": 2}  # fmt: skip
    assert [item["status"] for item in answer["data"]] == ["processed"] * 2


def test_first_and_last_id_are_those_of_the_files_in_the_list():
    answer = read({"data": [FILE], "first_id": "x", "last_id": None})
    assert (answer["first_id"], answer["last_id"]) == ("file-1", "file-1")


def test_arguments_are_not_changed():
    given = {"data": [{"id": "a"}]}
    read(given)
    assert given == {"data": [{"id": "a"}]}


@pytest.mark.parametrize(
    "obj",
    [None, [], {}, {"data": "x"}, {"data": 0}, {"data": False}, {"message": "Ok"}, {"data": [None]}, {"data": [{}]},
     {"data": [FILE, "file-2"]}, {"data": [[FILE]]}, {"object": "list", "data": "x"}, {"object": "list", "data": 0},
     {"object": "list", "data": {"a": 1}}, {"data": [FILE] * (MAX_LIMIT + 1)}],
)  # fmt: skip
def test_answer_that_is_not_a_list_of_files_is_502(obj):
    with pytest.raises(UpstreamError):
        read(obj)


@pytest.mark.parametrize(
    "obj",
    [{"object": "list", "data": []}, {"object": "list", "data": None}, {"object": "list"}, {"data": [], "next": None},
     {"object": "list", "data": {}}, {"data": None, "has_more": False}, {"object": "list", "data": None, "total": 0},
     {"data": None}, {"data": {}}, {"code": 0, "data": None}, {"data": None, "total": 0}, {"data": None, "next": None},
     {"code": 20000, "data": {"object": "list", "data": None}}, {"data": None, "has_more": None},
     {"code": 20000, "message": "Ok", "data": []}],
)  # fmt: skip
def test_empty_list_may_be_null_or_absent(obj):
    """Go writes an empty list as null or leaves it out, Lua as `{}`; it was a 502."""
    answer = read(obj)
    assert {key: answer[key] for key in ("object", "data", "first_id", "last_id", "has_more")} == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}  # fmt: skip


ENDS = [
    {"has_more": False},
    {"has_more": False, "total": 250, "next_cursor": "x"},
    {"next_page_token": None},
    {"pagination_token": ""},
    {"cursor": None},
    {"next_page": False},
    {"cursor": "this-page", "next_cursor": None},
    {"pagination": {"next": None}},
    {"links": {"next": None, "self": "/files"}},
    {"total": 20},
    {"total": "20"},
    {"total_count": 3},
    {"meta": {"total": 20}},
]


@pytest.mark.parametrize("marks", ENDS)
def test_list_ends_where_the_host_says_so_and_is_asked_for_once(marks):
    host = Host(20, lambda page, rest: marks)
    assert ask(host)["has_more"] is False
    assert host.queries == [{}]


CURSORS = ["next_page_token", "pagination_token", "cursor", "next_cursor", "next_page", "nextPageToken", "next",
           "continuation_token"]  # fmt: skip


@pytest.mark.parametrize("name", CURSORS)
@pytest.mark.parametrize("where", ["", "pagination", "meta", "envelope"])
def test_cursor_that_is_not_known_for_the_provider_is_a_502_and_never_an_end(name, where):
    """Its first page was shown as the whole list."""
    page = {"object": "list", "data": [FILE]}
    for value in ("opaque", 2, {"after": "x"}, "https://api.example/files?page=2", True):
        marks = {name: value, "total": 9}
        answer = {"": {**page, **marks}, "envelope": {"code": 20000, "data": page, **marks}}
        try:
            read(answer.get(where, {**page, where: marks}))
        except InvalidAnswer as error:
            assert f"'{name}'" in str(error), value
        else:
            pytest.fail(f"{value!r} was taken for an end")


@pytest.mark.parametrize("empty", ["next_page_token", "pagination_token", "cursor"])
def test_empty_cursor_beside_another_that_is_not_is_no_end(empty):
    with pytest.raises(InvalidAnswer, match="'next_cursor'"):
        read({"data": [FILE], empty: None, "next_cursor": "opaque"})


MORE = {
    "total": lambda page, rest: {"total": 50},
    "total_as_text": lambda page, rest: {"total": "50"},
    "total_in_meta": lambda page, rest: {"meta": {"total_count": 50}},
    "pages": lambda page, rest: {"page": 1, "total_pages": 3},
    "flag": lambda page, rest: {"hasMore": bool(rest)},
    "has_more_as_text": lambda page, rest: {"has_more": "true" if rest else "false"},
    "has_more_as_a_number": lambda page, rest: {"has_more": int(bool(rest))},
}


@pytest.mark.parametrize("name", MORE)
@pytest.mark.parametrize("after", ["exclusive", "inclusive"])
def test_host_that_says_in_its_own_way_that_more_follow_is_read_to_its_end(name, after):
    host = Host(50, MORE[name], after=after)
    assert everything(host, limit="20") == host.ids


@pytest.mark.parametrize("name", MORE)
def test_host_that_says_that_more_follow_but_repeats_its_page_is_a_502(name):
    """100 of 250 files of a host with `total`, which pages by number, were shown as all."""
    with pytest.raises(InvalidAnswer, match="repeats"):
        ask(Host(50, MORE[name], after="ignored"))


@pytest.mark.parametrize("data", [[], None, {}])
def test_host_that_says_that_more_follow_but_has_no_files_is_a_502(data):
    with pytest.raises(InvalidAnswer):
        read({"data": data, "total": 5})


def test_total_of_every_purpose_does_not_keep_a_list_of_one_from_ending():
    host = Host(3, lambda page, rest: {"total": 50})
    assert ask(host, purpose="batch")["has_more"] is False
    assert host.queries[1] == {"purpose": "batch", "after": "file-2", "limit": "2"}


SILENT = {
    "more_follow": (Host(50), True),
    "it_is_the_end": (Host(20), False),
    "fewer_than_asked_for": (Host(19), False),
    "fewer_than_asked_for_by_its_own_cap": (Host(50, page=10, knows_limit=False), True),
    "it_repeats_the_page": (Host(50, after="ignored"), False),
    "it_counts_from_after_itself": (Host(21, after="inclusive"), True),
    "it_counts_from_after_itself_and_ends": (Host(20, after="inclusive"), False),
    "it_refuses_after": (Host(50, after="refused"), True),
    "it_ignores_the_limit": (Host(50, page=30, knows_limit=False), True),
}


@pytest.mark.parametrize("limit", [{}, {"limit": "20"}])
@pytest.mark.parametrize("name", SILENT)
def test_host_that_says_nothing_is_asked_once_more(name, limit):
    host, has_more = SILENT[name]
    host.queries.clear()
    assert ask(host, purpose="batch", **limit)["has_more"] is has_more
    last = host.ids[: host.page][-1]
    assert host.queries == [{"purpose": "batch", **limit}, {"purpose": "batch", "limit": "2", "after": last}]


def test_empty_list_of_a_host_that_says_nothing_is_asked_for_once():
    host = Host(0)
    assert (ask(host)["has_more"], host.queries) == (False, [{}])


NO_ENDS = {
    "nothing": lambda page, rest: {},
    "has_more_is_null": lambda page, rest: {"has_more": None},
    "has_more_in_words": lambda page, rest: {"has_more": "false"},
    "flag_of_the_page": lambda page, rest: {"truncated": False},
    "one_page": lambda page, rest: {"total_pages": 1},
    "total_of_all": lambda page, rest: {"total": 250},
    "total_deep_inside": lambda page, rest: {"meta": {"pagination": {"total": 250, "per_page": 20}}},
    "count_of_the_page": lambda page, rest: {"count": len(page)},
    "remaining": lambda page, rest: {"remaining": len(rest)},
    "number_of_pages": lambda page, rest: {"page": 1, "pages": 13, "page_count": 13, "num_pages": 13},
    "totals_of_other_names": lambda page, rest: {"totalResults": 250, "totalElements": 250},
    "offset": lambda page, rest: {"next_offset": 20},
    "cursors_of_other_names": lambda page, rest: {"next_after": "c", "bookmark": "c", "continuation": "c"},
    "cursor_called_after": lambda page, rest: {"after": page[-1] if page else None},
    "cursor_in_paging": lambda page, rest: {"paging": {"cursors": {"after": "c"}}},
    "cursor_in_metadata": lambda page, rest: {"response_metadata": {"next_cursor": "c"}},
}


@pytest.mark.parametrize("query", [{}, {"limit": "500"}, {"limit": "20"}], ids=str)
@pytest.mark.parametrize("says", NO_ENDS.values(), ids=NO_ENDS)
def test_list_without_a_confident_end_is_never_ended_early(says, query):
    """20 of 250 files looked like all where the client sent no limit, 200 of 250 where the host gave a `total`."""
    host = Host(250, says, knows_limit=False)
    assert everything(host, **query) == host.ids


@pytest.mark.parametrize("after", ["exclusive", "inclusive"])
def test_silent_host_is_read_to_its_end(after):
    host = Host(45, after=after)
    assert everything(host, limit="10") == host.ids


def test_host_that_ignores_after_and_answers_with_everything_gives_what_follows_it():
    host = Host(5, after="ignored")
    assert [file["id"] for file in ask(host, after="file-2")["data"]] == ["file-3", "file-4"]
    assert ask(host, after="file-4")["data"] == []


def test_host_that_ignores_after_and_has_more_is_a_502_and_never_an_end():
    with pytest.raises(InvalidAnswer):
        ask(Host(50, lambda page, rest: {"total": 50}, after="ignored"), after="file-19")


@pytest.mark.parametrize("has_more", [True, False])
@pytest.mark.parametrize("query", [{}, {"limit": "5"}, {"after": "file-1"}], ids=str)
def test_openais_has_more_is_believed_and_costs_no_second_request(has_more, query):
    host = Host(5, lambda page, rest: {"has_more": has_more, "total": 9})
    assert ask(host, **query)["has_more"] is has_more
    assert host.queries == [query]


def test_listing_says_nothing_where_the_host_says_nothing():
    assert listing({"object": "list", "data": [FILE]}, CALL).has_more is None


# A cursor that the provider's entry declares


def pages_of(count, size=20, last=None):
    """A host that pages by `next_page_token` and `page_token`, and knows nothing else."""
    ids = [f"file-{number}" for number in range(count)]
    queries = []

    def send(call):
        queries.append(dict(call.query))
        start = int(call.query.get("page_token", "t0")[1:])
        data = [{"id": file_id, "purpose": "batch"} for file_id in ids[start : start + size]]
        token = f"t{start + size}" if start + size < count else last
        return Answer(200, json={"object": "list", "data": data, "next_page_token": token, "total": count})

    return ids, queries, send


WALK = by_cursor("next_page_token", "page_token")


@pytest.mark.parametrize("count", [0, 1, 20, 21, 250])
@pytest.mark.parametrize("last", [None, "", False])
def test_declared_cursor_is_followed_to_its_end(count, last):
    ids, queries, send = pages_of(count, last=last)
    answer = WALK(CALL, send).json
    assert ([file["id"] for file in answer["data"]], answer["has_more"]) == (ids, False)
    assert len(queries) == max(1, -(-count // 20))


def test_declared_cursor_serves_limit_after_and_order():
    ids, queries, send = pages_of(50)
    first = WALK(CALL._replace(query={"limit": "5"}), send).json
    assert ([file["id"] for file in first["data"]], first["has_more"]) == (ids[:5], True)
    second = WALK(CALL._replace(query={"limit": "30", "after": "file-4"}), send).json
    assert ([file["id"] for file in second["data"]], second["has_more"]) == (ids[5:35], True)
    last = WALK(CALL._replace(query={"order": "asc"}), send).json
    assert [file["id"] for file in last["data"]] == ids[::-1]
    assert all(set(query) <= {"page_token"} for query in queries)


@pytest.mark.parametrize(
    "answer", [{"next_page_token": "same"}, {"next_page_token": True}, {"next_cursor": "another"}, {"total": 9}]
)
def test_declared_cursor_that_leads_nowhere_is_a_502(answer):
    with pytest.raises(InvalidAnswer):
        WALK(CALL, lambda call: Answer(200, json={"object": "list", "data": [FILE], **answer}))
