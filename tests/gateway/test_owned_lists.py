"""Lists of an account that several owners share: each own object once, none of others, whatever the provider's are."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from shared_account import START, Account, Owner, json_answer, ready_ledger, sections
from sockets import WAIT, until
from stores import Clock

from filesproxy.errors import InvalidAnswer, UpstreamAnswered, UpstreamTimeout
from filesproxy.gateway.isolation import Isolation
from filesproxy.gateway.owned_lists import MAX_PAGES, Walk, Walks
from filesproxy.transports.local.ledger import FolderLedger

KINDS = {"file": "/files", "batch": "/batches", "job": "/fine_tuning/jobs", "container": "/containers",
         "vector_store": "/vector_stores"}  # fmt: skip
AZURE = {"kind": "azure-openai", "resource": "mine", "api_version": "2024-10-21", "credential": "sk-saved-azure"}
EXPIRY = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}


@pytest.fixture
def clock():
    return Clock(START)


@pytest.fixture
def upstream(clock):
    return Account(clock)


@pytest.fixture
def make_owners(make_client, tmp_path, clock, monkeypatch):
    """A function that makes the clients of these keys, in their order, on one application with a set clock."""
    monkeypatch.setattr("filesproxy.app.Isolation", partial(Isolation, clock=clock))

    def make(*keys, provider="openai"):
        config = sections(*keys, **{"provider:azure": AZURE})
        client = make_client(config, ledger=ready_ledger(tmp_path / "ledger"), default_provider=provider)
        return [Owner(client, section[len("key:") :]) for section in config if section.startswith("key:")]

    return make


@pytest.fixture
def owners(make_owners):
    return make_owners("a", "b")


@pytest.fixture
def files(owners, clock):
    """Six files of each owner by turns, made in different seconds: the ids of the first owner's."""
    a, b = owners
    mine = []
    for _ in range(6):
        mine.append(a.file())
        b.file()
        clock.runs(10)
    return mine


def pages(owner, path, limit, cursor="&after={}"):
    """The pages of a listing as SDKs walk it: by the last id, to the end."""
    found, after = [], ""
    for _ in range(100):
        page = owner.get(f"{path}{'&' if '?' in path else '?'}limit={limit}{after}").json
        ids = [each["id"] for each in page["data"]]
        assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
        found.append(ids)
        if not page["has_more"]:
            return found
        after = cursor.format(ids[-1])
    raise AssertionError("the list has no end")


# What is listed.


@pytest.mark.parametrize("kind", KINDS)
def test_each_owner_gets_what_is_its_own_newest_first(kind, owners, clock):
    made = {owner.key: [] for owner in owners}
    for _ in range(3):
        for owner in owners:
            made[owner.key].append(owner.make(kind))
            clock.runs(1)
    for owner in owners:
        listed = [item_id for item_id in owner.ids(KINDS[kind]) if kind != "file" or item_id in made[owner.key]]
        assert listed == made[owner.key][::-1]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_made_without_the_gateway_is_not_listed(kind, owners, upstream):
    upstream.make(kind, filename="a", purpose="batch", bytes=1)
    assert all(owner.ids(KINDS[kind]) == [] for owner in owners)


def test_list_has_the_objects_as_the_provider_shows_them(owners, upstream):
    a, _ = owners
    file_id = a.file()
    upstream.objects[file_id]["status"] = "error"
    page = a.get("/files").json
    assert page == {"object": "list", "data": [upstream.objects[file_id]], "first_id": file_id, "last_id": file_id,
                    "has_more": False}  # fmt: skip


def test_empty_list_has_the_form_of_a_list(owners):
    assert owners[0].get("/files").json == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


def test_files_of_one_second_keep_their_order_forwards_and_backwards(owners):
    a, _ = owners
    made = [a.file() for _ in range(5)]
    assert a.ids() == made[::-1] and a.ids("/files?order=asc") == made


def test_order_asc_begins_with_the_oldest(owners, files):
    assert owners[0].ids("/files?order=asc") == files and owners[0].ids("/files?order=desc") == files[::-1]


def test_purpose_leaves_only_its_files(owners):
    a, b = owners
    mine = [a.file(purpose=purpose) for purpose in ("batch", "user_data", "batch", "fine-tune")]
    b.file(purpose="user_data")
    assert a.ids("/files?purpose=batch") == [mine[2], mine[0]] and a.ids("/files?purpose=user_data") == [mine[1]]
    assert a.ids("/files?purpose=vision") == []


@pytest.mark.parametrize("order", ["desc", "asc"])
def test_pages_have_each_file_once_and_say_honestly_whether_more_follow(order, owners, files):
    for limit in (1, 2, 3, 5, 6, 7, 10_000):
        found = pages(owners[0], f"/files?order={order}", limit)
        assert [item_id for page in found for item_id in page] == (files if order == "asc" else files[::-1])
        assert all(len(page) == limit for page in found[:-1]) and found[-1]


def test_purpose_and_pages_go_together(owners):
    a, _ = owners
    mine = [a.file(purpose=("batch", "user_data")[number % 2]) for number in range(8)]
    found = pages(a, "/files?purpose=batch", 3)
    assert found == [[mine[6], mine[4], mine[2]], [mine[0]]]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "file"])
def test_lists_of_other_objects_have_twenty_unless_asked(kind, owners):
    a, _ = owners
    source = a.file(b'{"messages":[]}\n' if kind == "job" else b"")
    bodies = {"batch": {"input_file_id": source}, "job": {"model": "m", "training_file": source},
              "container": {"name": "c"}, "vector_store": {"name": "v"}}  # fmt: skip
    for _ in range(22):
        assert a.post(KINDS[kind], bodies[kind]).status_int == 200
    page = a.get(KINDS[kind]).json
    assert (len(page["data"]), page["has_more"]) == (20, True)
    assert [len(each) for each in pages(a, KINDS[kind], 15)] == [15, 7]
    assert a.get(f"{KINDS[kind]}?limit=101").status_int == 400


def test_head_is_judged_as_get_is(owners, files):
    assert [each("HEAD", f"/files/{files[0]}").status_int for each in owners] == [200, 404]


BAD = ["limit=0", "limit=x", "limit=-1", "limit=10001", "order=up", "purpose=%20", "after=a%2Fb", "limit=1&limit=2",
       "before=file-1", "before_id=file-1", "cursor=x", "page=2", "offset=10", "after[]=file-1"]  # fmt: skip


@pytest.mark.parametrize("query", BAD)
def test_parameter_that_cannot_be_honoured_is_refused_and_not_ignored(query, owners, upstream):
    answer = owners[0].get(f"/files?{query}")
    assert answer.status_int in ((400, 404) if query.startswith("after=") else (400,)) and upstream.calls == []


@pytest.mark.parametrize("query", ["before", "after[]", "cursor", "page", "offset", "page_token", "starting_after"])
@pytest.mark.parametrize("kind", KINDS)
def test_cursor_that_is_not_after_is_refused_in_every_list(query, kind, owners, upstream):
    answer = owners[0].get(f"{KINDS[kind]}?{query}=x")
    assert (answer.status_int, answer.json["error"]["param"], upstream.calls) == (400, query, [])


def test_other_filters_are_for_the_provider(owners, upstream):
    owners[0].make("job")
    owners[0].get("/fine_tuning/jobs?metadata[team]=blue")
    assert upstream.calls[-1].query["metadata[team]"] == "blue"


@pytest.mark.parametrize(
    "path", ["/files?x=1", "/batches?status=failed", "/vector_stores?metadata[a]=b", "/files?<b>=1"]
)
def test_parameter_that_no_list_of_this_kind_has_costs_no_walk(path, owners, upstream):
    answer = owners[0].get(path)
    assert (answer.status_int, upstream.calls) == (400, []) and "<b>" not in answer.text


def test_versions_that_azure_sdks_send_with_everything_are_no_filter(owners):
    assert owners[0].get("/files?api-version=2024-10-21").status_int == 200


# Positions.


def deleted(a, upstream, clock, file_id):
    a.delete(f"/files/{file_id}")


def gone(a, upstream, clock, file_id):
    del upstream.objects[file_id]


@pytest.mark.parametrize("how", [deleted, gone])
@pytest.mark.parametrize("order", ["desc", "asc"])
def test_position_may_be_a_file_that_is_not_there_any_more(how, order, owners, files, upstream, clock):
    a, _ = owners
    for place in (3, 0, 5, 2, 1, 4):
        how(a, upstream, clock, files[place])
        clock.runs(10)
        expected = files[place + 1 :] if order == "asc" else files[:place][::-1]
        found = a.ids(f"/files?order={order}&after={files[place]}")
        assert found == [item_id for item_id in expected if item_id in upstream.objects]


def test_position_may_be_a_file_that_has_expired(make_owners, clock, upstream):
    [a] = make_owners("a", provider="azure")
    made = []
    for number in range(5):
        made.append(a.file(**(EXPIRY if number == 2 else {})))
        clock.runs(10)
    clock.runs(3600)
    assert a.ids() == [made[4], made[3], made[1], made[0]]
    assert a.ids(f"/files?after={made[2]}") == [made[1], made[0]]
    assert a.ids(f"/files?order=asc&after={made[2]}") == [made[3], made[4]]


def test_file_that_is_deleted_between_two_pages_costs_no_other(owners, files, upstream):
    a, _ = owners
    first = a.get("/files?limit=3").json["data"]
    a.delete(f"/files/{first[-1]['id']}")
    assert a.ids(f"/files?limit=3&after={first[-1]['id']}") == files[2::-1]


def test_position_must_be_the_callers(owners, files, upstream):
    _, b = owners
    upstream.calls.clear()
    for after in (files[0], "file-Ab99999999"):
        answer = b.get(f"/files?after={after}")
        assert (answer.status_int, answer.json["error"]["param"], upstream.calls) == (404, "after", [])


def test_end_of_the_list_is_empty(owners, files):
    a, _ = owners
    page = a.get(f"/files?after={files[0]}").json
    assert (page["data"], page["has_more"]) == ([], False)


# Walks.


def test_fifty_of_ten_thousand_files_are_listed_once_with_one_walk(owners, upstream, clock):
    a, b = owners
    mine = []
    for number in range(10_000):
        if number % 200 == 7:
            clock.runs(2)
            mine.append(a.file())
        else:
            upstream.file(b"")
    clock.runs(10)
    upstream.page = 100
    upstream.calls.clear()
    found = pages(a, "/files", 20)
    assert [item_id for page in found for item_id in page] == mine[::-1]
    walk = ["list_files"] * MAX_PAGES  # of a provider with short pages; what is older is retrieved, page by page
    assert upstream.operations[:MAX_PAGES] == walk and "list_files" not in upstream.operations[MAX_PAGES:]
    retrieved = [call.file_id for call in upstream.calls[MAX_PAGES:]]
    assert set(retrieved) <= set(mine[:-10]) and len(retrieved) <= len(mine) + 3
    upstream.calls.clear()
    assert b.ids() == [] and upstream.calls == []  # one walk for all owners
    clock.runs(5.1)
    upstream.page = 10_000
    assert a.ids() == mine[::-1] and len(upstream.calls) == 1


def test_file_that_was_uploaded_right_after_a_walk_is_in_the_next_list(owners, upstream):
    a, b = owners
    first = a.file()
    assert a.ids() == [first]
    second = a.file()
    assert a.ids() == [second, first] and b.ids() == []


def test_file_that_was_deleted_right_after_a_walk_is_not_in_the_next_list(owners, upstream):
    a, _ = owners
    first, second = a.file(), a.file()
    assert a.ids() == [second, first]
    a.delete(f"/files/{second}")
    upstream.calls.clear()
    assert a.ids() == [first]


def test_file_that_was_deleted_outside_is_gone_once_the_walk_is_old(owners, upstream, clock):
    a, _ = owners
    first, second = a.file(), a.file()
    clock.runs(10)
    assert a.ids() == [second, first]
    del upstream.objects[second]
    clock.runs(5)
    assert a.ids() == [first]


def test_file_that_is_gone_does_not_cost_a_walk_each_time(owners, upstream, clock):
    a, _ = owners
    first, second = a.file(), a.file()
    del upstream.objects[first]
    clock.runs(10)
    upstream.calls.clear()
    assert [a.ids() for _ in range(5)] == [[second]] * 5
    assert upstream.operations == ["list_files"]


def test_lists_with_other_filters_have_walks_of_their_own(owners, upstream, clock):
    a, _ = owners
    a.make("job")
    clock.runs(10)
    a.get("/fine_tuning/jobs")
    upstream.calls.clear()
    a.get("/fine_tuning/jobs?metadata[a]=b")
    a.get("/fine_tuning/jobs?limit=1")
    asked = [call.query for call in upstream.calls if call.operation == "list_fine_tuning_jobs"]
    assert [query.get("metadata[a]") for query in asked] == ["b"]


def test_walk_sends_only_the_parameters_that_the_provider_must_know(owners, upstream):
    a, _ = owners
    mine = [a.file() for _ in range(3)]
    upstream.calls.clear()
    a.get(f"/files?limit=1&order=asc&purpose=batch&after={mine[0]}")
    assert [dict(call.query) for call in upstream.calls] == [{"limit": "10000"}]


# Hosts with lists of their own.


def host(upstream, answer):
    """Let an account list as this function says: (all files, newest first, and the query) → JSON."""

    def listed(call):
        every = [each for each in upstream.objects.values() if each["object"] == "file"][::-1]
        return json_answer(answer(every, call.query))

    upstream.instead["list_files"] = listed


def after(every, query):
    ids = [each["id"] for each in every]
    return every[ids.index(query["after"]) + 1 :] if query.get("after") in ids else every


HOSTS = {
    "ignores everything": lambda every, query: {"object": "list", "data": every},
    "ignores everything and ends": lambda every, query: {"data": every, "has_more": False},
    "has no has_more": lambda every, query: {"object": "list", "data": after(every, query)[:3]},
    "has pages of two": lambda every, query: {
        "data": after(every, query)[:2],
        "has_more": len(after(every, query)) > 2,
    },
    "has null at the end": lambda every, query: {"data": after(every, query) or None},
    "says how many there are": lambda every, query: {"data": every, "total": len(every)},
    "lists a file twice": lambda every, query: {"data": [*every, *every], "has_more": False},
}


@pytest.mark.parametrize("name", HOSTS)
def test_each_file_is_listed_once_whatever_the_hosts_pages_are(name, owners, files, upstream):
    host(upstream, HOSTS[name])
    assert owners[0].ids() == files[::-1]
    assert [item_id for page in pages(owners[0], "/files", 4) for item_id in page] == files[::-1]


def test_host_that_refuses_the_length_of_a_page_is_asked_for_one_of_its_own(owners, files, upstream):
    def listed(call):
        if "limit" in call.query:
            return json_answer({"error": {"message": "limit is too large"}}, 400)
        every = [each for each in upstream.objects.values() if each["object"] == "file"][::-1]
        return json_answer({"object": "list", "data": every, "has_more": False})

    upstream.instead["list_files"] = listed
    assert owners[0].ids() == files[::-1]


def test_host_that_says_its_list_goes_on_but_repeats_it_is_a_fault(owners, files, upstream):
    host(upstream, lambda every, query: {"object": "list", "data": every[:3], "has_more": True})
    upstream.calls.clear()
    answer = owners[0].get("/files")
    assert (answer.status_int, answer.json["error"]["code"]) == (502, "upstream_invalid_answer")
    assert len(upstream.calls) < 5


def test_list_without_end_is_walked_for_a_while_and_own_objects_are_retrieved(owners, upstream, clock):
    mine = owners[0].file()
    numbers = iter(range(10**6))
    page = {"object": "list", "has_more": True}
    upstream.instead["list_files"] = lambda call: json_answer(
        {**page, "data": [{"id": f"file-{next(numbers)}", "object": "file", "bytes": 1, "status": "processed"}]}
    )
    upstream.calls.clear()
    assert owners[0].ids() == [mine]
    assert upstream.operations == ["list_files"] * MAX_PAGES + ["retrieve_file"]


@pytest.mark.parametrize("status", [401, 404, 429, 500])
def test_failure_of_the_provider_is_told_and_nothing_is_invented(status, owners, files, upstream):
    upstream.instead["list_files"] = lambda call: json_answer({"error": {"message": "no"}}, status)
    answer = owners[0].get("/files")
    assert answer.status_int == (502 if status == 401 else status)
    del upstream.instead["list_files"]
    assert owners[0].ids() == files[::-1]


@pytest.mark.parametrize("item", [{}, {"id": 1}, None, "file-1", []])
def test_item_without_an_id_is_a_fault_of_the_provider(item, owners, upstream):
    upstream.instead["list_batches"] = lambda call: json_answer({"object": "list", "data": [item], "has_more": False})
    assert owners[0].get("/batches").status_int == 502


# Keys that see all.


@pytest.fixture
def auditor(make_owners, clock):
    """A key that sees all, and what two owners and it have made: owner → ids."""
    a, b, sees_all = make_owners("a", "b", ("m", {"sees": "all"}))
    made = {"a": [], "b": [], "m": []}
    for _ in range(3):
        for owner in (b, sees_all, a):
            made[owner.key].append(owner.file())
            clock.runs(1)
    return sees_all, made


def test_list_of_every_owner_has_one_owner_after_the_other_by_name(auditor):
    sees_all, made = auditor
    assert sees_all.ids() == [*made["a"][::-1], *made["b"][::-1], *made["m"][::-1]]
    assert sees_all.ids("/files?order=asc") == [*made["a"], *made["b"], *made["m"]]


@pytest.mark.parametrize("order", ["desc", "asc"])
def test_list_of_every_owner_has_pages(order, auditor):
    sees_all, _ = auditor
    every = sees_all.ids(f"/files?order={order}")
    for limit in (1, 2, 4, 9):
        found = pages(sees_all, f"/files?order={order}", limit)
        assert [item_id for page in found for item_id in page] == every and len(every) == 9


@pytest.mark.parametrize("order", ["desc", "asc"])
def test_list_of_every_owner_goes_on_after_a_file_that_is_gone(order, auditor, upstream):
    sees_all, made = auditor
    every = sees_all.ids(f"/files?order={order}")
    for place, item_id in enumerate(every):
        kept = upstream.objects.pop(item_id)
        assert sees_all.ids(f"/files?order={order}&after={item_id}")[:1] == every[place + 1 : place + 2]
        upstream.objects[item_id] = kept


def test_list_can_be_that_of_one_owner(auditor):
    sees_all, made = auditor
    for owner in made:
        assert sees_all.ids("/files?limit=2", x_filesproxy_owner=owner) == made[owner][:0:-1]
        page = sees_all.get(f"/files?limit=2&after={made[owner][1]}", x_filesproxy_owner=owner).json
        assert ([each["id"] for each in page["data"]], page["has_more"]) == ([made[owner][0]], False)


# The walks by themselves.


def test_walk_is_kept_for_five_seconds_unless_it_is_not_enough():
    clock, made = Clock(100.0), []
    walks = Walks(clock)

    def walk(is_enough=lambda kept: True):
        return walks.walk("key", is_enough, lambda now: made.append(now) or Walk(now, {}))

    walk()
    clock.runs(4.9)
    walk()
    walk(lambda kept: False)
    assert made == [100.0, 104.9]
    clock.runs(5)
    walk()
    assert made == [100.0, 104.9, 109.9]


def test_walk_from_the_future_is_not_used():
    clock, made = Clock(100.0), []
    walks = Walks(clock)
    for now in (100.0, 50.0):
        clock.now = now
        walks.walk("key", lambda kept: True, lambda now: made.append(now) or Walk(now, {}))
    assert made == [100.0, 50.0]


def test_walk_that_fails_is_not_kept():
    walks = Walks(Clock(100.0))

    def fail(now):
        raise InvalidAnswer("no")

    with pytest.raises(InvalidAnswer):
        walks.walk("key", lambda kept: True, fail)
    assert walks.walk("key", lambda kept: True, lambda now: Walk(now, {"x": b"{}"})) == Walk(100.0, {"x": b"{}"})


def test_walks_are_bounded_in_memory(monkeypatch):
    monkeypatch.setattr("filesproxy.gateway.owned_lists.MAX_KEPT_BYTES", 100)
    walks, made = Walks(Clock(100.0)), []
    for key, size in (("small", 60), ("large", 60), ("small", 60), ("large", 60), ("too large", 101)):
        walks.walk(
            key, lambda kept: True, lambda now, key=key, size=size: made.append(key) or Walk(now, {"x": b"y" * size})
        )
    assert made == ["small", "large", "large", "too large"]


def test_each_row_that_a_list_shows_is_its_owners(owners, files, tmp_path):
    rows = {row.id: row.owner for row in FolderLedger(str(tmp_path / "ledger")).every()}
    assert {rows[item_id] for item_id in owners[0].ids()} == {"a"}


REFUSED = UpstreamAnswered(503, {"message": "no", "type": "x", "param": None, "code": None}, {"retry-after": "1"})


@pytest.mark.parametrize("failure", [InvalidAnswer("no"), REFUSED])
def test_whoever_waits_for_a_walk_that_the_provider_fails_gets_its_failure_and_walks_no_more(failure):
    walks, began, go, made = Walks(Clock(100.0)), threading.Event(), threading.Event(), []

    def fail(now):
        made.append("walk")
        began.set()
        assert go.wait(WAIT)
        raise failure

    def walk():
        with pytest.raises(type(failure)) as caught:
            walks.walk("key", lambda kept: True, fail)
        return caught.value

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(walk)
        assert began.wait(WAIT)
        others = [pool.submit(walk) for _ in range(3)]
        assert until(lambda: walks._turns["key"].count == 4)
        go.set()
        errors = [each.result(WAIT) for each in (first, *others)]
    assert made == ["walk"] and walks._turns == {}
    assert len({id(error.headers) for error in errors}) == 4
    assert {(error.status, error.message, error.code) for error in errors} == {(failure.status, "no", failure.code)}


def test_whoever_waits_for_a_walk_whose_own_time_was_over_walks_itself():
    walks, began, go, made = Walks(Clock(100.0)), threading.Event(), threading.Event(), []

    def late(now):
        began.set()
        assert go.wait(WAIT)
        raise UpstreamTimeout("late")

    def first():
        with pytest.raises(UpstreamTimeout):
            walks.walk("key", lambda kept: True, late)

    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(first)
        assert began.wait(WAIT)
        other = pool.submit(walks.walk, "key", lambda kept: True, lambda now: made.append(now) or Walk(now, {}))
        assert until(lambda: walks._turns["key"].count == 2)
        go.set()
        running.result(WAIT)
        assert other.result(WAIT) == Walk(100.0, {})


@pytest.mark.parametrize("limit", ["MAX_WALK_BYTES", "MAX_PAGES"])
@pytest.mark.parametrize("kind", ["file", "vector_store"])
def test_objects_beyond_what_can_be_walked_are_retrieved_as_far_as_the_page_needs_them(
    limit, kind, owners, upstream, clock, monkeypatch
):
    a, b = owners
    upstream.page = 10
    mine = [a.make(kind) for _ in range(3)]
    for _ in range(40):
        upstream.make(kind)
    mine.append(a.make(kind))
    del upstream.objects[mine[1]]
    clock.runs(10)
    monkeypatch.setattr(f"filesproxy.gateway.owned_lists.{limit}", 1)
    path = KINDS[kind]
    upstream.calls.clear()
    assert a.ids(f"{path}?limit=1") == [mine[3]]
    retrieved = [call.file_id for call in upstream.calls if call.operation == f"retrieve_{kind}"]
    assert mine[0] not in retrieved
    assert [each for each in a.ids(f"{path}?limit=20") if each in mine] == [mine[3], mine[2], mine[0]]
    assert a.ids(f"{path}?limit=1&after={mine[3]}") == [mine[2]]
    assert b.ids(path) == []


def test_only_what_can_be_in_the_page_is_retrieved_and_what_is_gone_is_learned(owners, upstream, clock, monkeypatch):
    a, _ = owners
    upstream.page = 10
    old = [a.file(purpose=purpose) for purpose in ("vision", "batch", "batch", "batch")]
    for _ in range(40):
        upstream.make("file")
    del upstream.objects[old[1]]
    clock.runs(10)
    monkeypatch.setattr("filesproxy.gateway.owned_lists.MAX_PAGES", 1)
    upstream.calls.clear()
    assert a.ids("/files?purpose=vision") == [old[0]]
    assert [call.file_id for call in upstream.calls if call.operation == "retrieve_file"] == [old[0]]
    for expected in (3, 2):
        upstream.calls.clear()
        assert a.ids("/files?purpose=batch") == [old[3], old[2]]
        assert upstream.operations.count("retrieve_file") == expected
