"""The local store: OpenAI's contract from a folder, shared by processes, with nothing half stored at any failure."""

from __future__ import annotations

import errno
import functools
import gc
import io
import json
import os
import random
import re
import sqlite3
import stat
import threading
import time
from contextlib import closing
from hashlib import sha256
from urllib.parse import unquote
from wsgiref.util import setup_testing_defaults

import pytest
from fakes import form, form_type
from processes import Child, open_files
from sockets import WAIT
from stores import NOTHING, Clock, ask, content_of, ids, open_store, prove, stored, upload

from filesproxy import create_app
from filesproxy.calls import Call
from filesproxy.errors import BadRequest, ClientAborted, NotFound, StoreError
from filesproxy.operations import checked_id
from filesproxy.transports.local import maintenance
from filesproxy.transports.local import transport as transport_module
from filesproxy.transports.local.blobs import BLOCK_BYTES
from filesproxy.transports.local.database import MAX_IDLE
from filesproxy.transports.local.index import MAX_PAGE_TEXT, Index
from filesproxy.transports.local.sweep import Sweeper
from filesproxy.transports.local.transport import SHORT_LIST, Store

KEYS = ["id", "object", "bytes", "created_at", "expires_at", "filename", "purpose", "status"]


pytestmark = pytest.mark.usefixtures("no_sweep_by_itself")


@pytest.fixture
def clock():
    return Clock(1_700_000_000.75)


@pytest.fixture
def store(folder, clock):
    return open_store(folder, clock)


@pytest.fixture
def client(make_client, folder):
    return make_client(transports=None, folder=str(folder), default_provider="local")


def post(client, content=b"hello", name="a.jsonl", kind="application/jsonl", status=200, fields=(), **headers):
    body = form(("purpose", "batch"), *fields, ("file", name, kind, content))
    return client.post("/v1/files", body, {"content-type": form_type(), **headers}, status=status)


def prepare_connections(monkeypatch, prepare):
    """Have each new connection of the index prepared."""
    import filesproxy.transports.local.database

    real = filesproxy.transports.local.database._connect

    def connect(path):
        database = real(path)
        prepare(database)
        return database

    monkeypatch.setattr(filesproxy.transports.local.database, "_connect", connect)


def fill(folder, count, purposes=("batch",), owner="", expires_at=None, filename="a"):
    """Rows without blobs, in one transaction. Their ids, oldest first."""
    names = [f"file-{stamp:014x}{'0' * 24}" for stamp in range(1, count + 1)]
    rows = (
        (
            owner,
            name,
            filename,
            "text/plain",
            purposes[at % len(purposes)],
            1,
            1,
            expires_at,
            sha256(f"{owner}{at}".encode()).hexdigest()[:32],
        )
        for at, name in enumerate(names)
    )
    with closing(sqlite3.connect(folder / "index.sqlite3")) as database, database:
        database.executemany("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)", rows)
    return names


# --- the contract


def test_five_operations_have_openais_shapes(store):
    file = upload(store, b"hello")
    assert list(file) == KEYS
    assert file == {
        "id": file["id"],
        "object": "file",
        "bytes": 5,
        "created_at": 1_700_000_000,
        "expires_at": None,
        "filename": "a.jsonl",
        "purpose": "batch",
        "status": "processed",
    }
    assert ask(store, "retrieve_file", file["id"]).json == file
    envelope = {"object": "list", "data": [file], "first_id": file["id"], "last_id": file["id"], "has_more": False}
    assert ask(store, "list_files").json == envelope
    assert content_of(store, file["id"]) == b"hello"
    assert ask(store, "delete_file", file["id"]).json == {"id": file["id"], "object": "file", "deleted": True}
    assert ask(store, "list_files").json == {**envelope, "data": [], "first_id": None, "last_id": None}


def test_five_operations_through_the_application(client, folder):
    before = int(time.time())
    expiry = (("expires_after[anchor]", "created_at"), ("expires_after[seconds]", "3600"))
    file = post(client, bytes(range(256)), "a.bin", "", fields=expiry).json
    assert list(file) == KEYS
    assert type(file["bytes"]) is type(file["created_at"]) is type(file["expires_at"]) is int
    assert file["bytes"] == 256 and before <= file["created_at"] <= time.time()
    assert file["expires_at"] == file["created_at"] + 3600
    assert client.get(f"/v1/files/{file['id']}").json == file
    assert client.get("/v1/files").json["data"] == [file]
    answer = client.get(f"/v1/files/{file['id']}/content")
    assert (answer.body, answer.headers["content-length"]) == (bytes(range(256)), "256")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.head(f"/v1/files/{file['id']}/content").headers["content-length"] == "256"
    gone = {"id": file["id"], "object": "file", "deleted": True}
    assert client.delete(f"/v1/files/{file['id']}").json == gone
    assert stored(folder) == NOTHING


def test_file_that_is_not_there_is_404_for_each_operation(client):
    file_id = post(client).json["id"]
    client.delete(f"/v1/files/{file_id}")
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        error = client.request(f"/v1/files/{file_id}{path}", method=method, status=404).json["error"]
        assert error["message"] == f"No such File object: {file_id}"
        assert (error["type"], error["param"]) == ("invalid_request_error", "id")


def test_empty_file_is_a_file(client):
    file = post(client, b"").json
    assert file["bytes"] == 0
    answer = client.get(f"/v1/files/{file['id']}/content")
    assert (answer.body, answer.headers["content-length"]) == (b"", "0")


def test_ids_ascend_with_commits_whatever_the_clock_says(store, clock):
    made = []
    for now in (1000.0, 500.5, 500.5, 2000.0, 0.0, 2001.0):
        clock.now = now
        made.append(upload(store))
    names = [file["id"] for file in made]
    assert names == sorted(names) and len(set(names)) == 6
    assert ids(store, order="asc") == names and ids(store) == names[::-1]
    assert [file["created_at"] for file in made] == [1000, 500, 500, 2000, 0, 2001]


def test_ids_cannot_be_guessed_and_are_ids_to_the_router(store):
    secrets_of_ids = set()
    for _ in range(20):
        name = upload(store)["id"]
        assert re.fullmatch(r"file-[0-9a-f]{14}[0-9a-f]{24}", name)  # 96 bits after the stamp
        assert checked_id(name) == name
        secrets_of_ids.add(name[-24:])
    assert len(secrets_of_ids) == 20


def test_ids_ascend_across_stores_threads_and_restarts(folder, store, clock):
    other = Store(str(folder), Clock(1.0))
    made, lock = [], threading.Lock()

    def run(one):
        for _ in range(5):
            file_id = upload(one)["id"]
            with lock:
                made.append(file_id)

    threads = [threading.Thread(target=run, args=(one,)) for one in (store, other) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = upload(Store(str(folder), Clock(2.0)))["id"]
    assert last > max(made) and len(set(made)) == 20
    assert ids(store, order="asc") == [*sorted(made), last]


# --- names, types, owners


NAMES = {
    "a.jsonl": "a.jsonl",
    "na\u00efve \u6587\U0001f600.txt": "na\u00efve \u6587\U0001f600.txt",
    "a%22b.txt": 'a"b.txt',
    "../../etc/passwd": "../../etc/passwd",
    "/etc/passwd": "/etc/passwd",
    "C:\\x\\y.txt": "C:\\x\\y.txt",
    "a;b,c'd (1).txt": "a;b,c'd (1).txt",
    "100%25 %0d%0aX-Evil: 1": "100%25 %0d%0aX-Evil: 1",
    "..": "..",
    "": "upload",
    "\u6587" * 300: "\u6587" * 300,
}


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_file_name_is_kept_as_text_and_is_never_a_path(name, client, folder, tmp_path):
    file = post(client, name=name).json
    assert file["filename"] == NAMES[name]
    assert client.get("/v1/files").json["data"] == [file]
    disposition = client.get(f"/v1/files/{file['id']}/content").headers["content-disposition"]
    value = re.fullmatch(  # RFC 8187 §3.2.1, value-chars
        r"attachment; filename\*=UTF-8''((?:%[0-9A-F]{2}|[A-Za-z0-9!#$&+.^_`|~-])*)", disposition
    )
    assert value and unquote(value[1]) == NAMES[name]
    rows, kept, incoming = stored(folder)
    assert rows == kept and incoming == [] and re.fullmatch("[0-9a-f]{32}", kept[0])
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


TYPES = {
    "": "application/octet-stream",
    "text/csv; charset=utf-8": "text/csv; charset=utf-8",
    "text/html": "text/html",
    "Application/JSON; a=b": "application/json",
}


@pytest.mark.parametrize("kind,shown", TYPES.items())
def test_content_has_the_type_its_client_gave_and_is_never_shown(kind, shown, client):
    answer = client.get(f"/v1/files/{post(client, kind=kind).json['id']}/content")
    assert answer.headers["content-type"] == shown
    assert answer.headers["content-disposition"].startswith("attachment;")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_owners_do_not_see_each_others_files(store):
    mine, yours = upload(store, b"mine", "a"), upload(store, b"yours", "b")
    assert (ids(store, owner="a"), ids(store, owner="b"), ids(store)) == ([mine["id"]], [yours["id"]], [])
    for operation in ("retrieve_file", "retrieve_file_content", "delete_file"):
        for owner in ("b", ""):
            with pytest.raises(NotFound):
                ask(store, operation, mine["id"], owner)
    assert content_of(store, mine["id"], "a") == b"mine"
    assert ids(store, owner="b", after=mine["id"], order="asc") == [yours["id"]]


def test_client_without_a_key_cannot_say_whose_files_it_means(client, store):
    post(client)
    upload(store, owner="b")
    error = client.get("/v1/files", headers={"x-filesproxy-owner": "b"}, status=403).json["error"]
    assert error["param"] == "x-filesproxy-owner"
    assert len(client.get("/v1/files").json["data"]) == 1


# --- the files of every owner


@pytest.fixture
def shop(store, clock):
    """Files of three owners: name → ids, oldest first."""
    made = {"a": [], "b": [], "c": []}
    for owner in "acbacaab":
        clock.runs(1)
        made[owner].append(upload(store, owner=owner, purpose="batch" if len(made[owner]) % 2 else "vision")["id"])
    return made


def walk_all(store, **query):
    """All ids that a caller sees who sees all, page by page."""
    seen = []
    while True:
        page = store(Call("list_files", "GET", "/files", query=query), "", view=None).json
        found = [file["id"] for file in page["data"]]
        seen += found
        if not page["has_more"]:
            return seen
        assert found
        query["after"] = page["last_id"]


@pytest.mark.parametrize("limit", ["1", "2", "3", "7", "8", "9", "100"])
def test_owners_follow_each_other_by_name_in_the_list_of_all(limit, store, shop):
    expected = [*reversed(shop["a"]), *reversed(shop["b"]), *reversed(shop["c"])]
    assert walk_all(store, limit=limit) == expected
    assert walk_all(store, limit=limit, order="asc") == [*shop["a"], *shop["b"], *shop["c"]]


@pytest.mark.parametrize("limit", ["1", "2", "100"])
def test_purpose_selects_in_the_list_of_all(limit, store, shop):
    expected = [each for ids in shop.values() for each in ids[0::2]]
    assert walk_all(store, limit=limit, purpose="vision", order="asc") == expected


def test_list_of_all_of_nobody_is_empty(store):
    assert walk_all(store) == []


def test_position_in_the_list_of_all_must_be_there_because_nobody_knows_whose_it_was(store, shop):
    gone = shop["b"][0]
    ask(store, "delete_file", gone, "b")
    with pytest.raises(BadRequest, match="name its owner") as caught:
        store(Call("list_files", "GET", "/files", query={"after": gone}), "", view=None)
    assert caught.value.param == "after"
    assert ids(store, owner="b", after=gone, order="asc") == shop["b"][1:]


def test_position_in_the_list_of_all_whose_owner_changed_meanwhile_is_refused(store, clock, shop, folder):
    """Thousands of files were left out: the list went on after the new owner."""
    first = store(Call("list_files", "GET", "/files", query={"limit": "2"}), "", view=None).json
    maintenance.adopt(str(folder), "a", "z", print)
    clock.now = time.time()
    again = Call("list_files", "GET", "/files", query={"limit": "2", "after": first["last_id"]})
    with pytest.raises(BadRequest, match="begin the list again"):
        store(again, "", view=None)
    clock.runs(600)
    assert len(walk_all(store, limit="2")) == 8 and store(again, "", view=None).status == 200


def test_who_sees_all_reads_every_file_until_it_expires_and_deletes_none(store, clock, shop):
    file = upload(store, b"secret", "b", seconds=3600)["id"]
    seen = Call("retrieve_file", "GET", f"/files/{file}", file_id=file)
    content = Call("retrieve_file_content", "GET", f"/files/{file}/content", file_id=file)
    deletion = Call("delete_file", "DELETE", f"/files/{file}", file_id=file)
    assert store(seen, "auditor", view=None).json["id"] == file
    with closing(store(content, "auditor", view=None).body) as body:
        assert b"".join(body) == b"secret"
    with pytest.raises(NotFound):
        store(deletion, "auditor", view=None)
    clock.runs(3600)
    for call in (seen, content):
        with pytest.raises(NotFound):
            store(call, "auditor", view=None)


def test_list_of_all_is_not_in_memory_at_once(store, monkeypatch):
    monkeypatch.setattr(transport_module, "MAX_PAGE_TEXT", 500)
    made = [upload(store, owner=owner, name="n" * 200)["id"] for owner in "abcdef"]
    page = store(Call("list_files", "GET", "/files", query={}), "", view=None).json
    assert len(page["data"]) == 3 and page["has_more"] and walk_all(store) == made


# --- lists


def walk(store, meanwhile=lambda page: None, **query):
    """All ids, page by page."""
    seen = []
    while True:
        page = ask(store, "list_files", **query).json
        found = [file["id"] for file in page["data"]]
        assert (page["first_id"], page["last_id"]) == ((found[0], found[-1]) if found else (None, None))
        assert len(found) <= int(query["limit"])
        seen += found
        if not page["has_more"]:
            return seen
        assert len(found) == int(query["limit"])
        meanwhile(page)
        query["after"] = page["last_id"]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 7, 100, 2499, 2500, 2501, 10000])
def test_pages_over_2500_files_visit_each_once(limit, order, store, folder):
    names = fill(folder, 2500, ("batch", "assistants"))
    fill(folder, 30, owner="another")
    if limit > 1:
        assert walk(store, limit=str(limit), order=order) == names[:: 1 if order == "asc" else -1]
    found = walk(store, limit=str(limit), order=order, purpose="assistants")
    assert found == (names[1::2] if order == "asc" else names[1::2][::-1])


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_go_on_after_a_file_that_was_deleted_meanwhile(order, store, folder):
    names = fill(folder, 2500)
    seen = walk(store, lambda page: ask(store, "delete_file", page["last_id"]), limit="100", order=order)
    assert seen == names[:: 1 if order == "asc" else -1]
    assert len(ids(store)) == 2500 - 24


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_visit_each_once_while_files_are_added(order, store, folder):
    names = fill(folder, 500)
    added = []
    seen = walk(store, lambda page: added.append(upload(store)["id"]), limit="100", order=order)
    assert seen == ([*names, *added] if order == "asc" else names[::-1])


def test_default_is_newest_first_and_10000(store, folder):
    names = fill(folder, 10_050)
    page = ask(store, "list_files").json
    assert [file["id"] for file in page["data"]] == names[:49:-1]
    assert page["has_more"] is True


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("filename", ["n" * 4000, "\U0001f600" * 1000])
def test_page_of_long_names_ends_at_two_megabytes_and_the_next_one_goes_on(filename, order, folder, store):
    """10,000 names of 4 KB made an answer of 41 MB."""
    names = fill(folder, 600, ("batch", "assistants"), filename=filename)[:: 1 if order == "asc" else -1]
    for purpose, expected in (({}, names), ({"purpose": "assistants"}, names[order == "asc" :: 2])):
        seen, has_more, after = [], True, {}
        while has_more:
            page = ask(store, "list_files", order=order, **purpose, **after).json
            assert sum(len(json.dumps(file["filename"])) for file in page["data"]) <= MAX_PAGE_TEXT
            seen += [file["id"] for file in page["data"]]
            has_more, after = page["has_more"], {"after": page["last_id"]}
        assert seen == expected


def test_page_has_at_least_one_file_however_long_its_name_is(folder, store):
    names = fill(folder, 2, filename="n" * (MAX_PAGE_TEXT + 1))
    assert walk(store, limit="1") == names[::-1]
    page = ask(store, "list_files").json
    assert ([file["id"] for file in page["data"]], page["has_more"]) == (names[1:], True)


def test_long_lists_are_read_one_at_a_time_and_short_ones_do_not_wait(folder, store, monkeypatch):
    """100 long lists of one caller kept a short one of another waiting for 8 seconds, and took 400 MB."""
    upload(store)
    real, running, most, gate, lock = Index.page, [], [], threading.Event(), threading.Lock()

    def page(index, owner, purpose, after, newest_first, limit, now):
        if limit > SHORT_LIST:
            with lock:
                running.append(limit)
                most.append(len(running))
            gate.wait(WAIT)
            running.pop()
        return real(index, owner, purpose, after, newest_first, limit, now)

    monkeypatch.setattr(Index, "page", page)
    threads = [threading.Thread(target=ids, args=(store,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert len(ids(store, limit=str(SHORT_LIST))) == 1 and not gate.is_set()
    gate.set()
    for thread in threads:
        thread.join(WAIT)
    assert most == [1, 1, 1]


def test_after_of_a_file_that_is_gone_is_a_place_in_the_order(client, store):
    names = sorted(upload(store)["id"] for _ in range(3))
    gone, last = f"file-{0:014x}{'a' * 24}", f"file-{'f' * 38}"
    for after, order, expected in (
        (last, "desc", names[::-1]),
        (last, "asc", []),
        (gone, "desc", []),
        (gone, "asc", names),
    ):
        answer = client.get(f"/v1/files?after={after}&order={order}")
        assert [file["id"] for file in answer.json["data"]] == expected, (after, order)


NO_IDS = ["zzz", "abc", "file-", "file-0", "file-1", "file-" + "0" * 37, "file-" + "0" * 39, "file-" + "g" * 38,
          "0" * 38, "FILE-" + "0" * 38, "file-" + "A" * 38, "file_" + "0" * 38, "batch_" + "0" * 38,
          "file-abc123", "file_011CNha8iCJcU1wXNR6q4V8w"]  # fmt: skip


@pytest.mark.parametrize("after", NO_IDS)
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_after_that_no_file_of_the_store_can_have_had_is_a_400(after, order, client, store):
    """It gave an empty list, or the whole first page again: a client that mixes up two stores never noticed."""
    upload(store)
    error = client.get(f"/v1/files?after={after}&order={order}", status=400).json["error"]
    assert (error["param"], error["type"]) == ("after", "invalid_request_error")


SHAPES = [
    {"order": order, **purpose, **after}
    for order in ("asc", "desc")
    for purpose in ({}, {"purpose": "batch"})
    for after in ({}, {"after": f"file-{50:014x}{'0' * 24}"})
]


@pytest.mark.parametrize("query", SHAPES, ids=str)
def test_page_is_found_by_an_index_without_sorting(query, folder, monkeypatch):
    statements = []
    prepare_connections(monkeypatch, lambda database: database.set_trace_callback(statements.append))
    store = Store(str(folder))
    fill(folder, 100, ("batch", "assistants"))
    assert ids(store, limit="10", **query)
    (select,) = [statement for statement in statements if "ORDER BY" in statement]
    with closing(sqlite3.connect(folder / "index.sqlite3")) as database:
        plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {select}")]
    assert len(plan) == 1, plan  # no temp b-tree for ORDER BY, no second index for the OR
    index = "INDEX by_purpose (owner=? AND purpose=?" if "purpose" in query else "PRIMARY KEY (owner=?"
    assert plan[0].startswith("SEARCH") and index in plan[0], plan
    assert ("AND id" in plan[0]) == ("after" in query), plan


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """A folder with 100,000 rows of one owner, in ten purposes and one that only one row has, and the ids."""
    folder = tmp_path_factory.mktemp("crowded") / "store"
    Store(str(folder))
    purposes = [f"p{number}" for number in range(10)] * 10_000
    purposes[50_000] = "rare"
    return folder, fill(folder, 100_000, purposes)


@pytest.mark.fuzz
@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("purpose", [{}, {"purpose": "p3"}], ids=["all", "one_purpose"])
def test_page_of_100_in_100000_costs_the_same_at_any_depth(purpose, order, crowded, monkeypatch):
    folder, names = crowded
    steps = []
    prepare_connections(monkeypatch, lambda database: database.set_progress_handler(lambda: steps.append(10), 10))
    store = Store(str(folder))
    ids(store, limit="1")  # opening the index has a cost of its own
    costs = []
    for depth in (None, 1_000, 50_000, 98_999):
        after = {} if depth is None else {"after": names[depth]}
        steps.clear()
        assert len(ids(store, limit="100", order=order, **purpose, **after)) == 100
        costs.append(sum(steps))
    assert max(costs) < 5_000  # virtual machine steps of sqlite; a scan of all rows takes a hundred times that
    assert max(costs) - min(costs) < 100


@pytest.mark.fuzz
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_page_of_a_rare_purpose_does_not_read_the_others(order, crowded, monkeypatch):
    folder, names = crowded
    steps = []
    prepare_connections(monkeypatch, lambda database: database.set_progress_handler(lambda: steps.append(10), 10))
    store = Store(str(folder))
    for purpose, found in (("rare", [names[50_000]]), ("nobodys", [])):
        steps.clear()
        assert ids(store, limit="100", order=order, purpose=purpose) == found
        assert sum(steps) < 1_000


@pytest.mark.fuzz
def test_file_is_found_among_100000_by_its_key(crowded, monkeypatch):
    folder, names = crowded
    steps = []
    prepare_connections(monkeypatch, lambda database: database.set_progress_handler(lambda: steps.append(1), 1))
    store = Store(str(folder))
    steps.clear()
    ask(store, "retrieve_file", names[77_777])
    assert 0 < len(steps) < 100


# --- whole or not at all


def test_file_is_listed_only_after_write_sync_rename_sync_and_commit(folder, monkeypatch):
    events, listed = [], []
    reader = Store(str(folder))

    def happened(event):
        events.append(event)
        listed.append(len(ids(reader)))

    def record(function, describe):
        real = getattr(os, function)

        def recorded(*arguments):
            result = real(*arguments)
            happened(describe(*arguments))
            return result

        monkeypatch.setattr(os, function, recorded)

    ids(reader)  # its connection is made now and not traced
    record("write", lambda handle, block: "write")
    record("fsync", lambda handle: "sync folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "sync file")
    record("rename", lambda old, new: "rename")
    real_add = Index.add

    def add(index, row, **more):
        happened("before commit")
        real_add(index, row, **more)
        happened("committed")

    monkeypatch.setattr(Index, "add", add)
    upload(Store(str(folder)), [b"a", b"b"])
    before = ["write", "write", "sync file", "rename", "sync folder", "before commit", "write"]
    after = ["committed", "sync file"]  # of the sidecar, which was written before the commit
    assert list(zip(events, listed)) == [*((event, 0) for event in before), *((event, 1) for event in after)]


def test_commit_is_one_transaction_and_synced(folder, monkeypatch):
    statements, made = [], []

    def prepare(database):
        made.append(database)
        database.set_trace_callback(statements.append)

    prepare_connections(monkeypatch, prepare)
    store = Store(str(folder))
    statements.clear()
    upload(store)
    verbs = [statement.split()[0] for statement in statements]
    assert verbs == ["BEGIN", "UPDATE", "SELECT", "INSERT", "COMMIT"]
    (database,) = made
    assert database.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    assert database.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def is_folder(handle):
    return stat.S_ISDIR(os.fstat(handle).st_mode)


POINTS = {
    "create": ("open", lambda path, flags, *mode: flags & os.O_EXCL),
    "second_write": ("write", lambda handle, block: os.fstat(handle).st_size),
    "sync_file": ("fsync", lambda handle: not is_folder(handle)),
    "rename": ("rename", lambda old, new: True),
    "sync_folder": ("fsync", is_folder),
}
CODES = {"ENOSPC": 507, "EDQUOT": 507, "EIO": 500, "EACCES": 500, "EROFS": 500}


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("point", POINTS)
def test_upload_that_the_disk_refuses_leaves_nothing(point, code, client, folder, monkeypatch):
    client.get("/v1/files")
    function, matches = POINTS[point]
    real = getattr(os, function)

    def broken(*arguments, **more):
        if matches(*arguments):
            raise OSError(getattr(errno, code), "the disk's own words", "/a/private/path")
        return real(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, function, broken)
        error = post(client, b"x" * (3 << 20), status=CODES[code]).json["error"]
    assert error["code"] == ("store_full" if CODES[code] == 507 else "store_error")
    assert error["type"] == "server_error"
    assert "path" not in error["message"] and "words" not in error["message"]
    assert stored(folder) == NOTHING
    assert [path for path in open_files(folder) if "index" not in path and path != str(folder)] == []
    assert post(client).json["bytes"] == 5


def test_upload_whose_client_leaves_leaves_nothing(client, folder):
    client.get("/v1/files")
    body = form(("purpose", "batch"), ("file", "a", "", b"x" * (3 << 20)))
    headers = {"content-type": form_type(), "content-length": str(len(body) + 9)}
    assert client.post("/v1/files", body, headers, status=400).json["error"]["code"] == "client_aborted"
    assert stored(folder) == NOTHING


@pytest.mark.parametrize("rest", [(), (("file", "b", "", b"two"),)], ids=["no_purpose", "second_file"])
def test_upload_that_is_refused_after_its_file_leaves_nothing(rest, client, folder):
    client.get("/v1/files")
    fields = (("purpose", "batch"),) if rest else ()
    body = form(*fields, ("file", "a", "", b"x" * (2 << 20)), *rest)
    client.post("/v1/files", body, {"content-type": form_type()}, status=400)
    assert stored(folder) == NOTHING


class Failing(sqlite3.Connection):
    """A connection that fails at the statement it is told to, once something was done before it."""

    start, error = "", ""

    def execute(self, sql, *parameters):
        if self.start and sql.startswith(self.start):
            raise sqlite3.OperationalError(self.error)
        return super().execute(sql, *parameters)


REFUSALS = {
    "database or disk is full": 507,
    "disk I/O error": 500,
    "database is locked": 500,
    "attempt to write a readonly database": 500,
}


@pytest.mark.parametrize("error,status", REFUSALS.items())
@pytest.mark.parametrize("start", ["BEGIN", "UPDATE", "INSERT", "COMMIT"])
def test_upload_that_the_index_refuses_leaves_nothing(start, error, status, client, folder, monkeypatch):
    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Failing))
    client.get("/v1/files")
    with monkeypatch.context() as patch:
        patch.setattr(Failing, "start", start)
        patch.setattr(Failing, "error", error)
        envelope = post(client, status=status).json["error"]
    assert envelope["code"] == ("store_full" if status == 507 else "store_error")
    assert error not in envelope["message"]
    assert stored(folder) == NOTHING
    assert post(client).json["bytes"] == 5


def test_index_on_a_full_disk_is_507_and_leaves_nothing(client, folder, monkeypatch):
    limits = [16]  # pages; sqlite keeps it for a connection, and one that failed is not used again
    prepare_connections(
        monkeypatch, lambda database: [database.execute(f"PRAGMA max_page_count = {n}") for n in limits]
    )
    acknowledged = []
    for _ in range(100):
        answer = post(client, name="a" * 3000, status=[200, 507])
        if answer.status_int == 507:
            break
        acknowledged.append(answer.json)
    assert answer.json["error"]["code"] == "store_full"
    rows, kept, incoming = stored(folder)
    assert rows == kept and len(rows) == len(acknowledged) > 0 and incoming == []
    assert client.get("/v1/files?order=asc").json["data"] == acknowledged
    limits.clear()
    client.delete(f"/v1/files/{acknowledged[0]['id']}")  # what makes room is possible
    assert post(client).json["bytes"] == 5


def test_index_that_is_locked_for_too_long_is_500_and_leaves_nothing(folder, monkeypatch):
    monkeypatch.setattr("filesproxy.transports.local.database._BUSY_SECONDS", 0.05)
    store = Store(str(folder))
    with closing(sqlite3.connect(folder / "index.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError) as caught:
            upload(store)
        assert caught.value.status == 500
        assert ids(store) == []  # readers do not wait
        other.execute("ROLLBACK")
    assert stored(folder) == NOTHING
    assert upload(store)["bytes"] == 5


@pytest.mark.parametrize("error", [ClientAborted("gone"), KeyboardInterrupt(), GeneratorExit()])
def test_upload_that_breaks_off_leaves_nothing(error, store, folder):
    def chunks():
        yield b"half"
        raise error

    with pytest.raises(type(error)):
        upload(store, chunks())
    assert stored(folder) == NOTHING and ids(store) == []


# --- expiry


def test_expired_file_is_gone_immediately_and_its_bytes_at_the_next_sweep(store, folder, clock):
    prove(store, clock)
    stays = upload(store, b"stays", seconds=7200)
    file = upload(store, b"hello", seconds=3600)
    assert file["expires_at"] == file["created_at"] + 3600
    clock.now = file["expires_at"] - 0.01
    assert content_of(store, file["id"]) == b"hello" and len(ids(store)) == 2
    clock.now = float(file["expires_at"])
    assert ids(store) == ids(store, purpose="batch", order="asc") == [stays["id"]]
    for operation in ("retrieve_file", "retrieve_file_content", "delete_file"):
        with pytest.raises(NotFound):
            ask(store, operation, file["id"])
    assert len(stored(folder)[1]) == 2
    clock.ticks += 3600
    store.sweep()
    rows, kept, incoming = stored(folder)
    assert rows == kept and len(kept) == 1 and incoming == []
    assert content_of(store, stays["id"]) == b"stays"


def test_expired_files_do_not_shorten_a_page(store, folder, clock):
    names = [upload(store, seconds=3600 if at % 2 else None)["id"] for at in range(8)]
    clock.now += 3600
    assert walk(store, limit="2", order="asc") == names[::2]


# --- deleting, reading, damage


def serve(application, path):
    """Status and iterable of a GET, as a server would hold them."""
    environ = {"PATH_INFO": path, "REMOTE_ADDR": "127.0.0.1", "wsgi.input": io.BytesIO()}
    setup_testing_defaults(environ)
    started = []
    return started, application(environ, lambda status, headers: started.append(status))


def test_reader_gets_all_bytes_of_a_file_that_is_deleted_meanwhile(client, folder):
    content = random.Random(2).randbytes(3 * BLOCK_BYTES + 5)
    file_id = post(client, content).json["id"]
    started, stream = serve(create_app(folder=str(folder), default_provider="local"), f"/v1/files/{file_id}/content")
    first = next(stream)
    client.delete(f"/v1/files/{file_id}")
    Store(str(folder)).sweep()
    client.get(f"/v1/files/{file_id}/content", status=404)
    assert stored(folder) == NOTHING
    assert first + b"".join(stream) == content and started == ["200 OK"]
    stream.close()


def test_file_that_is_deleted_between_index_and_disk_is_404(store, folder, monkeypatch):
    file_id = upload(store)["id"]
    other = Store(str(folder))
    real = Index.find

    def find(index, *arguments):
        row = real(index, *arguments)
        monkeypatch.setattr(Index, "find", real)
        ask(other, "delete_file", file_id)
        return row

    monkeypatch.setattr(Index, "find", find)
    with pytest.raises(NotFound):
        ask(store, "retrieve_file_content", file_id)


def test_file_is_deleted_once_where_two_try(store, folder, monkeypatch):
    file_id = upload(store)["id"]
    other = Store(str(folder))
    real = Index.remove

    def remove(index, *arguments):
        monkeypatch.setattr(Index, "remove", real)
        ask(other, "delete_file", file_id)
        return index.remove(*arguments)

    monkeypatch.setattr(Index, "remove", remove)
    with pytest.raises(NotFound):
        ask(store, "delete_file", file_id)
    assert stored(folder) == NOTHING


@pytest.mark.parametrize("size", [0, 4, 6, None], ids=["empty", "shorter", "longer", "gone"])
def test_damaged_file_is_500_before_its_first_byte(size, client, folder):
    file_id = post(client).json["id"]
    (blob,) = (folder / "blobs").glob("*[!n]")
    if size is None:
        blob.unlink()
    else:
        os.truncate(blob, size)
    error = client.get(f"/v1/files/{file_id}/content", status=500).json["error"]
    assert error["code"] == "store_error"
    assert blob.name not in error["message"] and str(folder) not in error["message"]
    client.delete(f"/v1/files/{file_id}")
    assert stored(folder) == NOTHING


def test_file_that_is_cut_while_it_is_sent_breaks_the_connection(client, folder):
    file_id = post(client, b"x" * (3 * BLOCK_BYTES)).json["id"]
    started, stream = serve(create_app(folder=str(folder), default_provider="local"), f"/v1/files/{file_id}/content")
    next(stream)
    (blob,) = (folder / "blobs").glob("*[!n]")
    os.truncate(blob, BLOCK_BYTES + 7)
    with pytest.raises(ConnectionResetError):
        list(stream)
    stream.close()
    assert [path for path in open_files(folder) if "blobs" in path] == []


# --- the sweep


def sweep_threads():
    return [thread for thread in threading.enumerate() if thread.name == "filesproxy-sweep"]


def test_sweep_runs_at_the_first_call_and_then_when_it_is_due(store, monkeypatch):
    swept = []
    monkeypatch.setattr(Sweeper, "sweep", lambda self: swept.append(threading.current_thread().name))

    def calls(count):
        for _ in range(count):
            ask(store, "list_files")
        for thread in sweep_threads():
            thread.join()
        return len(swept)

    monkeypatch.setattr("filesproxy.transports.local.sweep.SWEEP_SECONDS", 600.0)
    assert calls(3) == 1
    monkeypatch.setattr("filesproxy.transports.local.sweep.SWEEP_SECONDS", 0.0)
    assert calls(2) == 3
    assert set(swept) == {"filesproxy-sweep"}


def test_sweep_removes_what_is_abandoned_and_nothing_else(store, folder):
    file = upload(store, b"hello")
    (folder / "incoming" / ("a" * 32)).write_bytes(b"half")
    (folder / "blobs" / ("b" * 32)).write_bytes(b"orphan")
    store.sweep()
    rows, kept, incoming = stored(folder)
    assert rows == kept and len(rows) == 1 and incoming == []
    assert content_of(store, file["id"]) == b"hello"
    assert (folder / "lost" / ("b" * 32)).read_bytes() == b"orphan"  # it may have been acknowledged


def test_sweep_under_an_index_that_is_older_destroys_nothing_and_says_so(store, folder, caplog):
    """A backup of the index alone, restored: the next sweep removed every newer blob, and no log had a line of it."""
    old = upload(store, b"old")
    with closing(sqlite3.connect(folder / "index.sqlite3")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    backup = (folder / "index.sqlite3").read_bytes()
    new = [upload(store, content)["id"] for content in (b"one", b"two")]
    del store
    gc.collect()
    for path in folder.glob("index.sqlite3*"):
        path.unlink()
    (folder / "index.sqlite3").write_bytes(backup)
    restored = Store(str(folder))
    with caplog.at_level("WARNING", logger="filesproxy"):
        restored.sweep()
        restored.sweep()
    assert ids(restored) == [old["id"]] and not set(new) & set(ids(restored))
    assert sorted(path.read_bytes() for path in (folder / "lost").glob("*[!n]")) == [b"one", b"two"]
    assert [record.getMessage() for record in caplog.records] == [
        "2 files of the local store are in no index: they are in its folder lost/, which nothing serves"]  # fmt: skip


@pytest.mark.parametrize("way", ["delete", "expiry"])
def test_file_whose_removal_meets_a_sweep_is_not_taken_for_lost(way, store, folder, clock, monkeypatch):
    """The sweep came after the index had forgotten the file, and moved its bytes to lost/, where they stayed."""
    file, swept = upload(store, seconds=86400), []
    prove(store, clock)
    sweeper, forgets = open_store(folder, clock), "remove" if way == "delete" else "forget"
    forget = getattr(store._index, forgets)

    def forget_then_sweep(*arguments):
        result = forget(*arguments)
        swept.append(sweeper.sweep())
        return result

    monkeypatch.setattr(store._index, forgets, forget_then_sweep)
    if way == "delete":
        ask(store, "delete_file", file["id"])
    else:
        clock.runs(file["expires_at"] - clock.now + 1)
        store.sweep()
    assert len(swept) == 1
    assert stored(folder) == NOTHING and list((folder / "lost").iterdir()) == []


def test_sweep_spares_a_strangers_files(store, folder):
    """The folder may be one that somebody else put files into before it became ours."""
    for place in ("incoming", "blobs"):
        (folder / place / "invoice.pdf").write_bytes(b"important")
        (folder / place / ("c" * 31)).write_bytes(b"important")
        (folder / place / ("d" * 32)).symlink_to(folder / place / "invoice.pdf")
        (folder / place / ("e" * 32)).mkdir()
    store.sweep()
    assert all(len(list((folder / place).iterdir())) == 4 for place in ("incoming", "blobs"))
    assert all((folder / place / "invoice.pdf").read_bytes() == b"important" for place in ("incoming", "blobs"))


def test_folder_with_files_but_without_its_index_is_refused_and_nothing_removed(store, folder):
    upload(store, b"hello")
    for name in ("index.sqlite3", "index.sqlite3-wal", "index.sqlite3-shm"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(StoreError) as refused:
        Store(str(folder))
    assert "no index" in refused.value.message
    assert len(list((folder / "blobs").glob("*[!n]"))) == 1 and not (folder / "index.sqlite3").exists()


@pytest.mark.parametrize("place", ["", "incoming", "blobs"])
def test_folder_that_others_can_write_to_is_refused(place, store, folder):
    (folder / place).chmod(0o777)
    with pytest.raises(StoreError) as refused:
        Store(str(folder))
    assert "nobody else" in refused.value.message
    (folder / place).chmod(0o700)


def test_index_that_names_a_file_elsewhere_is_not_followed(store, folder):
    """A planted index must not make us read or remove what is not ours."""
    victim = folder.parent / "victim.txt"
    victim.write_bytes(b"victim")
    file = upload(store, b"hello!")
    with closing(sqlite3.connect(folder / "index.sqlite3")) as index, index:
        index.execute("UPDATE files SET blob = '../../victim.txt'")
    for operation in ("retrieve_file_content", "delete_file"):
        with pytest.raises(StoreError):
            ask(store, operation, file["id"])
    assert victim.read_bytes() == b"victim"


def test_sweep_of_another_store_spares_an_upload_until_it_is_listed(store, folder, monkeypatch):
    sweeper = Store(str(folder))
    real = Index.add

    def add(index, row, **more):
        sweeper.sweep()
        real(index, row, **more)
        sweeper.sweep()

    def chunks():
        yield b"half"
        sweeper.sweep()
        yield b"whole"

    monkeypatch.setattr(Index, "add", add)
    file = upload(store, chunks())
    sweeper.sweep()
    assert content_of(sweeper, file["id"]) == b"halfwhole"


def test_sweep_that_fails_is_logged_without_paths_and_does_not_end_the_service(store, folder, monkeypatch, caplog):
    def broken(path):
        raise OSError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", broken)
    monkeypatch.setattr("filesproxy.transports.local.sweep.SWEEP_SECONDS", 600.0)
    assert ids(store) == []
    for thread in sweep_threads():
        thread.join()
    assert "not swept" in caplog.text and str(folder) not in caplog.text


# --- the folder, shared


def test_nothing_is_opened_before_the_first_request(make_client, folder):
    client = make_client(transports=None, folder=str(folder), default_provider="local")
    assert not folder.exists()
    client.get("/v1/health")
    client.get("/v1/files", headers={"host": "evil.example"}, status=403)
    client.get("/nowhere", status=404)
    assert not folder.exists()
    client.get("/v1/files")
    assert folder.is_dir()


def test_folders_are_0700_and_files_0600_under_any_umask(folder):
    before = os.umask(0)
    try:
        store = Store(str(folder))
        upload(store)
        modes = {path.relative_to(folder): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(modes) >= 6  # incoming, blobs, a blob, lock, the index with its WAL
    for path, mode in modes.items():
        assert mode == (0o700 if str(path) in ("incoming", "blobs", "trash", "lost") else 0o600), path


def test_two_stores_on_one_folder_see_each_others_files(store, folder):
    other = Store(str(folder))
    mine, yours = upload(store, b"mine"), upload(other, b"yours")
    for one in (store, other):
        assert ids(one, order="asc") == [mine["id"], yours["id"]]
        assert content_of(one, mine["id"]) + content_of(one, yours["id"]) == b"mineyours"
    ask(other, "delete_file", mine["id"])
    assert ids(store) == [yours["id"]]


OTHER_STORE = """
import sys, time
import filesproxy.transports.local.sweep
from filesproxy.calls import Call, Upload
from filesproxy.transports.local.transport import Store
filesproxy.transports.local.sweep.SWEEP_SECONDS = float("inf")
for line in sys.stdin:
    start, count, folder = line.rstrip().split(" ", 2)
    while time.time() < float(start):
        pass
    store = Store(folder)
    for _ in range(int(count)):
        upload = Upload("a", "text/plain", {"purpose": "batch"}, iter([b"hello"]))
        store(Call("upload_file", "POST", "/files", upload=upload), "")
    data = store(Call("list_files", "GET", "/files"), "").json["data"]
    del store
    print(len(data), flush=True)
"""


class OtherStore(Child):
    """Another process that opens folders, uploads into them and says how many files it sees."""

    def __init__(self):
        super().__init__(OTHER_STORE)

    def opens(self, folder, uploads=0, start=0.0):
        self.told(f"{start} {uploads} {folder}")

    def sees(self):
        return int(self.said() or -1)


def test_two_processes_may_make_one_fresh_folder_together(tmp_path):
    with OtherStore() as one, OtherStore() as two:
        for number in range(12):
            folder = tmp_path / str(number) / "store"
            for child in (one, two):
                child.opens(folder, 1, time.time() + 0.01)
            assert sorted([one.sees(), two.sees()]) in ([1, 2], [2, 2])
            rows, kept, incoming = stored(folder)
            assert rows == kept and len(rows) == 2 and incoming == []
            with closing(sqlite3.connect(folder / "index.sqlite3")) as database:
                assert database.execute("SELECT count(*) FROM stamps").fetchone() == (1,)


def test_second_store_of_a_process_does_not_take_the_locks_of_the_first(store, folder):
    """POSIX locks: closing any handle of a file gives up all that the process has on it, sqlite's too."""
    upload(store)
    second = Store(str(folder))
    with OtherStore() as other:  # the last to close an index removes its WAL, if nobody has a lock
        other.opens(folder)
        assert other.sees() == 1
        upload(store)
        upload(second)
        assert len(ids(store)) == len(ids(second)) == 3
        other.opens(folder, 1)
        assert other.sees() == 4
        assert len(ids(store)) == 4


def test_index_of_a_newer_version_is_refused_and_left_alone(folder):
    Store(str(folder))
    with closing(sqlite3.connect(folder / "index.sqlite3", isolation_level=None)) as database:
        database.execute("PRAGMA user_version = 4")
    with pytest.raises(StoreError, match="newer"):
        Store(str(folder))
    with closing(sqlite3.connect(folder / "index.sqlite3")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (4,)
    assert open_files(folder) == []


def test_disk_without_shared_memory_is_refused_and_named(folder, monkeypatch):
    real = sqlite3.connect

    def connect(path, **options):  # this way of locking has no shared memory, so no WAL
        return real(f"file:{path}?vfs=unix-dotfile", uri=True, **options)

    monkeypatch.setattr(sqlite3, "connect", connect)
    with pytest.raises(StoreError, match="WAL"):
        Store(str(folder))
    assert open_files(folder) == []


def test_index_that_is_not_a_database_is_refused_and_closed(client, folder):
    folder.mkdir()
    (folder / "index.sqlite3").write_bytes(b"no database at all" * 100)
    assert client.get("/v1/files", status=500).json["error"]["code"] == "store_error"
    gc.collect()  # Python 3.13 warns of a connection that nobody closed
    assert open_files(folder) == []


def test_folder_that_cannot_be_made_is_500_and_tried_again_at_the_next_request(client, folder):
    folder.write_text("in the way")
    error = client.get("/v1/files", status=500).json["error"]
    assert error["code"] == "store_error" and str(folder) not in error["message"]
    folder.unlink()
    assert client.get("/v1/files").json["data"] == []


def test_folder_on_a_full_disk_is_507(client, folder, monkeypatch):
    def full(path, *arguments, **more):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(os, "makedirs", full)
    assert client.get("/v1/files", status=507).json["error"]["code"] == "store_full"


def test_store_that_is_dropped_closes_what_it_opened(folder):
    store = Store(str(folder))
    file_id = upload(store)["id"]
    threads = [threading.Thread(target=content_of, args=(store, file_id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ask(store, "delete_file", file_id)
    assert open_files(folder)
    del store, threads, thread
    gc.collect()
    assert open_files(folder) == []


# Kept files of one owner


def test_owners_files_are_found_many_at_a_time_and_nobody_elses(store):
    mine = [upload(store, owner="a")["id"] for _ in range(3)]
    other = upload(store, owner="b")["id"]
    kept = store.kept_by("a")
    asked = [*mine, other, "file-none", *(f"file-{number}" for number in range(1500))]
    assert set(kept.find(asked)) == set(mine)
    assert kept.find(mine)[mine[0]] == ask(store, "retrieve_file", mine[0], owner="a").json
    assert kept.find([]) == {}


def test_owners_file_opens_with_its_length_and_another_owners_is_404(store):
    file_id = upload(store, b"hello", owner="a")["id"]
    answer = store.kept_by("a").open(file_id)
    assert (answer.headers["content-length"], b"".join(answer.body)) == ("5", b"hello")
    answer.body.close()
    with pytest.raises(NotFound):
        store.kept_by("b").open(file_id)


def test_many_uploads_at_once_leave_a_few_connections_behind(store, folder):
    """194 connections of sqlite stayed open for ever after a thousand uploads at once."""
    started = threading.Barrier(40)

    def many():
        started.wait(10)
        for _ in range(3):
            upload(store)

    threads = [threading.Thread(target=many) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(ids(store, limit=1000)) == 120
    assert len(store._index._idle) <= MAX_IDLE
