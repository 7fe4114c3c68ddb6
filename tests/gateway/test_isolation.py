"""Owners on one provider key: each uses what is its own, and what is another's is like what does not exist."""

from __future__ import annotations

import json
import re
import sqlite3
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from hashlib import sha256
from io import BytesIO

import pytest
import webtest
from fakes import FakeBody, form, form_type
from shared_account import (
    LINE,
    START,
    Account,
    Anthropic,
    Owner,
    batch_of,
    json_answer,
    ready_ledger,
    sections,
    seen_of,
)
from sockets import WAIT
from stores import Clock

from filesproxy.calls import Answer
from filesproxy.errors import StoreError, StoreFull, UpstreamError
from filesproxy.gateway.isolation import Isolation
from filesproxy.gateway.recording import UNDOES
from filesproxy.operations import KINDS, OPERATIONS
from filesproxy.transports.local.ledger import FolderLedger

DAY = 86400
OLD = START - 30 * DAY


@pytest.fixture
def clock():
    return Clock(START)


@pytest.fixture
def upstream(clock):
    return Account(clock)


@pytest.fixture
def make_owners(make_client, tmp_path, clock, monkeypatch):
    """A function that makes the clients of these keys, by name, on one application with a ledger and a set clock."""
    monkeypatch.setattr("filesproxy.app.Isolation", partial(Isolation, clock=clock))

    def make(*keys, settings=(), **more):
        config = sections(*keys, **more)
        settings = {"ledger": None, "default_provider": "openai", **dict(settings)}
        if settings["ledger"] is None:
            settings["ledger"] = ready_ledger(tmp_path / "ledger")
        client = make_client(config, **settings)
        names = [section[len("key:") :] for section in config if section.startswith("key:")]
        return [Owner(client, name) for name in names]

    return make


@pytest.fixture
def owners(make_owners):
    """The clients of two owners."""
    return make_owners("a", "b")


@pytest.fixture
def rows(tmp_path):
    """A function that reads the rows of the ledger, by id."""
    return lambda **which: {row.id: row for row in FolderLedger(str(tmp_path / "ledger")).every(**which)}


@pytest.fixture
def no_wait(monkeypatch):
    """Unfinished batches and jobs are looked at whenever that is asked."""
    monkeypatch.setattr("filesproxy.gateway.ownership.RESULTS_SECONDS", 0.0)


# Every operation of the table.

PART = form(("data", "a", "", b"hello"))
FILE_PART = {"role": "user", "content": [{"type": "file", "file": {"file_id": "{file}"}}]}
INPUT_PART = [{"role": "user", "content": [{"type": "input_file", "file_id": "{file}"}]}]
BODIES = {
    "upload_file": form(("purpose", "batch"), ("file", "a", "", b"hello")),
    "create_chat_completion": {"model": "m", "messages": [FILE_PART]},
    "create_response": {"model": "m", "input": INPUT_PART},
    "count_response_input_tokens": {"model": "m", "input": INPUT_PART},
    "compact_response": {"model": "m", "input": INPUT_PART},
    "create_upload": {"filename": "a", "purpose": "batch", "bytes": 5, "mime_type": "text/plain"},
    "add_upload_part": PART,
    "complete_upload": {"part_ids": ["part_1"]},
    "create_batch": batch_of("{file}"),
    "create_fine_tuning_job": {"model": "m", "training_file": "{file}", "validation_file": "{file}"},
    "create_embedding": {"model": "m", "input": "hello"},
    "create_container": {"name": "c", "file_ids": ["{file}"]},
    "create_container_file": {"file_id": "{file}"},
    "create_vector_store": {"name": "v", "file_ids": ["{file}"]},
    "update_vector_store": {"name": "w"},
    "search_vector_store": {"query": "q"},
    "create_vector_store_file": {"file_id": "{file}"},
    "update_vector_store_file": {"attributes": {"k": "v"}},
    "create_vector_store_file_batch": {"file_ids": ["{file}"]},
}
PERFORMED = [name for name in OPERATIONS if OPERATIONS[name].kind]


STORED_FILE = "/vector_stores/:id/files/:id"  # whose second id is that of a file


def kinds_of(operation):
    """The kinds of the objects that a request of this operation names."""
    route = OPERATIONS[operation]
    in_path = [route.kind] if ":id" in route.path else []
    return in_path + ["file"] * ("{file}" in str(BODIES.get(operation)) or STORED_FILE in route.path)


NAMING = [(name, kind) for name in (*PERFORMED, "create_chat_completion") for kind in dict.fromkeys(kinds_of(name))]


def perform(owner, operation, ids, **headers):
    """Ask for an operation about the objects with these ids, by kind. What is inside another is called `inside`."""
    route, body = OPERATIONS[operation], BODIES.get(operation)
    inside = ids.get("file", "") if STORED_FILE in route.path else "inside"
    path = route.path[len("/v1") :].replace(":id", ids.get(route.kind, ""), 1).replace(":id", inside)
    if isinstance(body, dict):
        body = json.loads(json.dumps(body).replace("{file}", ids.get("file", "")))
    elif body is None and route.body == "json":
        body = {}
    return owner(route.method, path, body, **headers)


def others_calls(upstream, own):
    """The calls but those that look at the caller's own unfinished batches and jobs."""
    looks = ("retrieve_batch", "retrieve_fine_tuning_job")
    return [call for call in upstream.calls if call.file_id not in own.values() or call.operation not in looks]


def test_every_operation_that_takes_a_body_has_one_here():
    assert [name for name in PERFORMED if OPERATIONS[name].body != "none" and name not in BODIES] == []


@pytest.mark.parametrize("operation", PERFORMED)
def test_maker_may_do_everything_with_what_is_its_own(operation, owners, upstream):
    a, _ = owners
    ids = {kind: a.make(kind) for kind in dict.fromkeys(kinds_of(operation))}
    if operation == "retrieve_batch_output":
        upstream.finish_batch(ids["batch"])
    upstream.calls.clear()
    answer = perform(a, operation, ids)
    assert (answer.status_int, operation in upstream.operations) == (200, True)


@pytest.mark.parametrize("operation,kind", NAMING)
def test_object_of_another_is_like_one_that_does_not_exist(operation, kind, owners, upstream):
    a, b = owners
    own = {each: b.make(each) for each in dict.fromkeys(kinds_of(operation))}
    foreign = a.make(kind)
    missing = upstream.new_id(kind)
    upstream.calls.clear()
    answers = {each: perform(b, operation, {**own, kind: each}) for each in (foreign, missing)}
    assert others_calls(upstream, own) == []
    assert answers[foreign].status_int == 404 and answers[foreign].json["error"]["code"] == "not_found"
    status, headers, body = seen_of(answers[foreign])
    assert (status, headers, body.replace(foreign.encode(), missing.encode())) == seen_of(answers[missing])


@pytest.mark.parametrize("operation", [name for name, route in OPERATIONS.items() if route.path.count(":id") == 2])
def test_second_id_in_the_path_must_not_be_anothers(operation, owners, upstream):
    a, b = owners
    route, foreign, own = OPERATIONS[operation], a.file(), b.make(OPERATIONS[operation].kind)
    upstream.calls.clear()
    path = route.path[len("/v1") :].replace(":id", own, 1).replace(":id", foreign)
    body = BODIES.get(operation, {}) if route.body == "json" else None
    answer = b(route.method, path, body)
    assert (answer.status_int, answer.json["error"]["code"], upstream.calls) == (404, "not_found", [])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("model", "conversation", "item")])
def test_refusal_is_in_the_form_that_openai_has(kind, owners):
    a, b = owners
    item_id = a.make(kind)
    operation = next(name for name in PERFORMED if OPERATIONS[name].kind == kind and ":id" in OPERATIONS[name].path)
    title = kind.replace("_", " ").capitalize()
    error = perform(b, operation, {kind: item_id}).json["error"]
    assert error == {
        "message": f"No such {title} object: {item_id}",
        "type": "invalid_request_error",
        "param": "id",
        "code": "not_found",
    }


def test_what_one_owner_cannot_do_the_other_can_still(owners):
    a, b = owners
    file_id = a.file()
    assert b.delete(f"/files/{file_id}").status_int == 404
    assert a.get(f"/files/{file_id}").json["id"] == file_id


def test_keys_of_one_owner_share_what_they_have(make_owners):
    one, two, other = make_owners(("one", {"owner": "shop"}), ("two", {"owner": "shop"}), "other")
    file_id = one.file()
    assert [each.get(f"/files/{file_id}").status_int for each in (one, two, other)] == [200, 200, 404]


def test_second_provider_of_the_same_account_is_no_way_round(make_owners):
    second = {"kind": "openai", "credential": "sk-saved-rotated", "account": "openai"}
    a, b = make_owners("a", "b", **{"provider:again": second})
    file_id = a.file()
    assert a.get(f"/files/{file_id}", x_portkey_provider="@again").status_int == 200
    assert b.get(f"/files/{file_id}", x_portkey_provider="@again").status_int == 404


def test_ids_of_two_accounts_have_nothing_to_do_with_each_other(make_owners, upstream):
    second = {"kind": "openai", "credential": "sk-saved-second"}
    a, b = make_owners("a", "b", **{"provider:second": second})
    file_id = a.file()
    upstream.new_id = lambda kind: file_id  # the other account gives the same id
    made = b.post("/files", BODIES["upload_file"], x_portkey_provider="@second")
    assert made.json["id"] == file_id
    assert b.get(f"/files/{file_id}", x_portkey_provider="@second").status_int == 200
    assert b.get(f"/files/{file_id}").status_int == 404


def test_callers_own_credential_is_its_own_account(make_owners, upstream):
    a, own = make_owners("a", ("own", {"caller_credentials": "yes"}))
    file_id = a.file()
    answer = own.get(f"/files/{file_id}", x_portkey_provider="openai", authorization="Bearer sk-of-the-caller")
    assert answer.status_int == 200  # its own account at the provider decides


@pytest.mark.parametrize("provider,account", [("azure", None), ("claude", Anthropic)])
def test_owners_are_kept_apart_at_other_providers_too(provider, account, clock, make_client, tmp_path):
    upstream = (account or Account)(clock)
    more = {
        "provider:azure": {"kind": "azure-openai", "resource": "mine", "credential": "sk-saved-azure"},
        "provider:claude": {"kind": "anthropic", "credential": "sk-saved-claude"},
    }
    settings = {"default_provider": provider, "transports": {"https": upstream}, "ledger": str(tmp_path / "ledger")}
    client = make_client(sections("a", "b", **more), **settings)
    a, b = Owner(client, "a"), Owner(client, "b")
    ids = [a.file(), b.file(), a.file()]
    assert [sorted(a.ids()), b.ids()] == [[ids[0], ids[2]], [ids[1]]]
    upstream.calls.clear()
    for operation in ("retrieve_file", "retrieve_file_content", "delete_file", "create_chat_completion"):
        assert perform(b, operation, {"file": ids[0]}).status_int == 404
    assert upstream.calls == []
    assert a.delete(f"/files/{ids[0]}").json["deleted"] is True and a.ids() == [ids[2]]


# Ids wherever they stand.


def nested(value, depth=40):
    for number in range(depth):
        value = {"inner": value} if number % 2 else [value]
    return value


def user(*parts):
    return {"model": "m", "input": [{"role": "user", "content": list(parts)}]}


HELLO = {"model": "m", "input": "hello"}
IN_RESPONSES = {
    "file of a message": (user({"type": "input_file", "file_id": "{file}"}), "file"),
    "image of a message": (user({"type": "input_image", "file_id": "{file}"}), "file"),
    "one part that is not in a list": ({"model": "m", "input": [{"content": {"file_id": "{file}"}}]}, "file"),
    "screenshot of a computer": (
        {"model": "m", "input": [{"type": "computer_call_output", "call_id": "c", "output": {"file_id": "{file}"}}]},
        "file",
    ),
    "output of a function": (
        {"model": "m", "input": [{"type": "function_call_output", "output": [{"file_id": "{file}"}]}]},
        "file",
    ),
    "mask": (
        {**HELLO, "tools": [{"type": "image_generation", "input_image_mask": {"file_id": "{file}"}}]},
        "file",
    ),
    "files of a container": (
        {**HELLO, "tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["{file}"]}}]},
        "file",
    ),
    "variable of a prompt": ({"model": "m", "prompt": {"variables": {"a": {"file_id": "{file}"}}}}, "file"),
    "container of a tool": (
        {**HELLO, "tools": [{"type": "code_interpreter", "container": "{container}"}]},
        "container",
    ),
    "container of a shell": (
        {**HELLO, "tools": [{"type": "shell", "environment": {"container_id": "{container}"}}]},
        "container",
    ),
    "vector store of a tool": (
        {**HELLO, "tools": [{"type": "file_search", "vector_store_ids": ["{vector_store}"]}]},
        "vector_store",
    ),
    "previous response": ({**HELLO, "previous_response_id": "{response}"}, "response"),
    "reference to an item": ({"model": "m", "input": [{"type": "item_reference", "id": "{item}"}]}, "item"),
    "item that is only an id": ({"model": "m", "input": [{"id": "{item}"}]}, "item"),
    "conversation": ({**HELLO, "conversation": "{conversation}"}, "conversation"),
    "conversation as an object": ({**HELLO, "conversation": {"id": "{conversation}"}}, "conversation"),
    "fine-tuned model": ({"model": "{model}", "input": "hello"}, "model"),
}  # fmt: skip


def everything(owner, upstream, suffix):
    """The ids of one object of each kind, by kind."""
    ids = {kind: owner.make(kind) for kind in ("file", "container", "vector_store", "job")}
    upstream.instead["create_response"] = lambda call: json_answer(
        upstream.make("response", output=[{"id": f"msg_{suffix}"}], conversation={"id": f"conv_{suffix}"})
    )
    ids.update(response=owner.make("response"), item=f"msg_{suffix}", conversation=f"conv_{suffix}")
    del upstream.instead["create_response"]
    upstream.finish_job(ids["job"])
    ids["model"] = owner.get(f"/fine_tuning/jobs/{ids['job']}").json["fine_tuned_model"]
    return ids


def filled(body, ids):
    text = json.dumps(body)
    for kind, item_id in ids.items():
        text = text.replace(f"{{{kind}}}", item_id)
    return json.loads(text)


@pytest.mark.parametrize("place", IN_RESPONSES)
def test_response_may_name_only_what_is_the_callers(place, make_owners, upstream):
    a, b = make_owners("a", "b", settings={"allow_fields": "prompt conversation"})
    (body, kind), mine, others = IN_RESPONSES[place], everything(a, upstream, "a"), everything(b, upstream, "b")
    missing = {kind: re.sub("[0-9ab]$", "x", item_id) for kind, item_id in others.items()}
    for path in ("/responses", "/responses/input_tokens", "/responses/compact"):
        upstream.calls.clear()
        answers = [b.post(path, filled(body, ids)) for ids in (mine, missing)]
        assert upstream.calls == []
        (status, headers, refused), unknown = map(seen_of, answers)
        assert (status, headers, refused.replace(mine[kind].encode(), missing[kind].encode())) == unknown
        assert status == 404
        assert a.post(path, filled(body, mine)).status_int == 200 and len(upstream.calls) == 1


ELSEWHERE = {
    "metadata": {"metadata": {"note": "X"}},
    "name of a field of metadata": {"metadata": {"X": "note"}},
    "user": {"user": "X"},
    "text of an input": {"input": "X"},
    "text of a message": {"input": [{"role": "user", "content": "X"}]},
    "text of a part": {"input": [{"role": "user", "content": [{"type": "input_text", "text": "X"}]}]},
    "instructions": {"instructions": "X"},
    "argument of a function": {"tools": [{"type": "function", "name": "f", "parameters": {"default": "X"}}]},
    "field that is not known in an item": {"input": [{"type": "new", "attachment": {"ref": "X"}}]},
    "deep in an item": {"input": [{"type": "new", "deep": nested("X")}]},
    "address of an image": {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "X"}]}]},
    "tool choice": {"tool_choice": {"type": "file_search", "name": "X"}},
    "prompt": {"prompt": {"id": "X"}},
    "model": {"model": "X"},
    "list of texts": {"include": ["output", "X"]},
}
SPELLED = {
    "as it is": lambda item_id: item_id,
    "in capitals": str.upper,
    "in small letters": str.lower,
    "in fullwidth letters": lambda item_id: "".join(chr(ord(each) + 0xFEE0) for each in item_id),
    "in bold letters": lambda item_id: item_id.replace("file", "𝐟𝐢𝐥𝐞"),
    "with a ligature": lambda item_id: item_id.replace("fi", "ﬁ"),
    "in spaces": lambda item_id: f"  {item_id}\n",
    "in wide spaces": lambda item_id: f"\u3000{item_id}\u00a0",
    "in many spaces": lambda item_id: " " * 300 + item_id,
}


@pytest.mark.parametrize("place", ELSEWHERE)
def test_id_of_another_is_refused_wherever_it_stands(place, owners, upstream):
    a, b = owners
    foreign, own = a.file(), b.file()
    upstream.calls.clear()
    body = {**HELLO, **ELSEWHERE[place]}
    answer = b.post("/responses", json.loads(json.dumps(body).replace("X", foreign)))
    assert (answer.status_int, answer.json["error"]["code"], upstream.calls) == (404, "not_found", [])
    assert b.post("/responses", json.loads(json.dumps(body).replace("X", own))).status_int == 200


@pytest.mark.parametrize("spelled", SPELLED)
def test_id_of_another_is_refused_however_it_is_spelled(spelled, owners, upstream):
    a, b = owners
    foreign = SPELLED[spelled](a.file())
    upstream.calls.clear()
    chat = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "metadata": {"k": foreign}}
    bodies = {"/responses": {**HELLO, "metadata": {"k": foreign}}, "/chat/completions": chat}
    bodies["/batches"] = batch_of(foreign)
    bodies["/containers"] = {"name": foreign}
    assert [b.post(path, body).status_int for path, body in bodies.items()] == [404] * 4
    assert upstream.calls == []


@pytest.mark.parametrize("spelled", [name for name in SPELLED if name != "as it is"])
def test_own_id_in_a_declared_place_must_be_spelled_as_it_is(spelled, owners, upstream):
    a, _ = owners
    own = a.file()
    upstream.calls.clear()
    answer = a.post("/batches", batch_of(SPELLED[spelled](own)))
    assert (answer.status_int, upstream.calls) == (404, [])


def test_id_that_differs_from_an_own_one_only_in_case_is_anothers_still(owners, upstream):
    a, b = owners
    ids = ["file-AbCd", "file-aBcD", "cntr_1"]
    upstream.new_id = lambda kind: ids.pop(0)
    assert [a.file(), b.file()] == ["file-AbCd", "file-aBcD"]
    upstream.calls.clear()
    assert b.get("/files/file-AbCd").status_int == 404
    assert b.post("/containers", {"name": "file-AbCd"}).status_int == 404
    assert upstream.calls == []
    assert b.get("/files/file-aBcD").status_int == 200
    assert b.post("/containers", {"name": "file-aBcD"}).status_int == 200


@pytest.mark.parametrize("text", ["\ud800", "file-\udfff", "a\x00b", "ſ", "İ", "x" * 100_000, "../files", "'; --"])
def test_text_that_no_id_can_be_is_a_missing_one_where_an_id_must_be_and_passes_elsewhere(text, owners, upstream):
    a, _ = owners
    a.file()
    upstream.calls.clear()
    named = {"/batches": batch_of(text), "/containers": {"name": "c", "file_ids": [text]}}
    named["/responses"] = {**HELLO, "previous_response_id": text}
    named["/chat/completions"] = {**CHAT, "model": f"ft:{text}"}
    assert [a.post(path, body).status_int for path, body in named.items()] == [404] * 4 and upstream.calls == []
    assert a.post("/containers", {"name": text}).status_int == 200


@pytest.mark.parametrize("text", ["%ED%A0%80", "%00", "%FF", "x" * 3000])
def test_position_that_no_id_can_be_is_a_missing_one(text, owners, upstream):
    a, _ = owners
    assert [a.get(f"{path}?after={text}").status_int for path in ("/files", "/batches")] == [404] * 2
    assert a.get(f"/files?purpose={text}").status_int == 400


def test_prose_that_quotes_an_id_passes(owners):
    a, b = owners
    assert b.post("/responses", {"model": "m", "input": f"What is {a.file()}?"}).status_int == 200


@pytest.mark.parametrize("path", ["/vector_stores/{store}/files", "/files", "/batches", "/responses/{response}"])
@pytest.mark.parametrize("query", ["x={foreign}", "after={foreign}", "include[]=a&include[]={foreign}", "{foreign}=1"])
def test_query_must_not_name_what_is_anothers(path, query, owners, upstream):
    a, b = owners
    ids = {"store": b.make("vector_store"), "response": b.make("response"), "foreign": a.file()}
    upstream.calls.clear()
    answer = b.get(f"{path}?{query}".format(**ids))
    assert (answer.status_int, answer.json["error"]["code"], upstream.calls) == (404, "not_found", [])


def test_form_of_a_container_names_a_file_that_is_uploaded_already(owners, upstream):
    a, b = owners
    own, foreign, container = b.file(), a.file(), b.make("container")
    path = f"/containers/{container}/files"
    assert b.post(path, form(("file_id", own))).status_int == 200
    upstream.calls.clear()
    for file_id in (foreign, upstream.new_id("file")):
        answer = b.post(path, form(("file_id", file_id)))
        assert (answer.status_int, answer.json["error"]["param"]) == (404, "file_id")
    assert upstream.calls == []


@pytest.mark.parametrize("order", [1, -1])
def test_form_of_a_container_with_a_file_must_not_name_anothers_beside_it(order, owners, upstream):
    a, b = owners
    container = b.make("container")
    path, file = f"/containers/{container}/files", ("file", "a", "", b"hello")
    for file_id, status in ((a.file(), 404), (upstream.new_id("file"), 404), (b.file(), 200)):
        upstream.forms.clear()
        answer = b.post(path, form(*[("file_id", file_id), file][::order]))
        assert (answer.status_int, len(upstream.forms)) == (status, status == 200)  # a whole request left


def test_key_that_comes_twice_is_refused(owners, upstream):
    a, b = owners
    foreign, own = a.file(), b.file()
    upstream.calls.clear()
    twice = f'{{"input_file_id":"{own}","input_file_id":"{foreign}","endpoint":"/v1/chat/completions"}}'
    answer = b("POST", "/batches", twice.encode(), content_type="application/json")
    assert (answer.status_int, answer.json["error"]["code"], upstream.calls) == (400, "invalid_json", [])


# Fine-tuned models.


@pytest.fixture
def tuned(owners, upstream):
    """A model and its checkpoint that the first owner has fine-tuned."""
    a, _ = owners
    job = a.make("job")
    _, model, step = upstream.finish_job(job)
    a.get(f"/fine_tuning/jobs/{job}")
    a.get(f"/fine_tuning/jobs/{job}/checkpoints")
    upstream.calls.clear()
    return model, step


BY_MODEL = [
    ("POST", "/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
    ("POST", "/responses", {"input": "hello"}),
    ("POST", "/embeddings", {"input": "hello"}),
    ("GET", "/models/{}", None),
    ("DELETE", "/models/{}", None),
]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("method,path,body", BY_MODEL)
def test_fine_tuned_model_belongs_to_who_made_the_job(method, path, body, which, tuned, owners, upstream):
    a, b = owners
    for model in (tuned[which], "ft:gpt-4o-mini:acme::00000000", tuned[which].upper()):
        answer = b(method, path.format(model), body and {**body, "model": model})
        assert answer.status_int == 404, model
    assert upstream.calls == []
    assert a(method, path.format(tuned[which]), body and {**body, "model": tuned[which]}).status_int == 200


def test_fine_tuned_model_in_a_job_must_be_the_callers(tuned, owners, upstream):
    a, b = owners
    training = {owner: owner.file(b'{"messages":[]}\n') for owner in owners}
    upstream.calls.clear()
    assert b.post("/fine_tuning/jobs", {"model": tuned[0], "training_file": training[b]}).status_int == 404
    assert upstream.calls == []
    assert a.post("/fine_tuning/jobs", {"model": tuned[0], "training_file": training[a]}).status_int == 200


@pytest.mark.parametrize("header", [{"x_portkey_provider": "@openai"}, {}])
def test_list_of_models_hides_the_fine_tuned_ones_of_others(header, tuned, owners):
    a, b = owners
    prefix = "" if header else "@openai/"
    everybodys = f"{prefix}gpt-4o-mini"
    assert a.ids("/models", **header) == [everybodys, *(f"{prefix}{name}" for name in tuned)]
    assert b.ids("/models", **header) == [everybodys]


@pytest.mark.parametrize("method,path,body", BY_MODEL)
def test_fine_tuned_model_with_another_name_belongs_to_who_made_the_job_too(method, path, body, owners, upstream):
    a, b = owners
    job, model = a.make("job"), "gpt-4o-mini-2024-07-18.ft-b044a9d3cf9c4228"  # as Azure names them
    upstream.objects[model] = {"id": model, "object": "model"}
    upstream.objects[job].update(status="succeeded", fine_tuned_model=model)
    a.get(f"/fine_tuning/jobs/{job}")
    upstream.calls.clear()
    body = body and {**body, "model": model}
    assert b(method, path.format(model), body).status_int == 404 and upstream.calls == []
    assert [model in each.ids("/models", x_portkey_provider="@openai") for each in owners] == [True, False]
    assert a(method, path.format(model), body).status_int == 200


def test_model_that_was_deleted_is_nobodys(tuned, owners, upstream):
    a, _ = owners
    assert a.delete(f"/models/{tuned[0]}").status_int == 200
    upstream.calls.clear()
    assert a.get(f"/models/{tuned[0]}").status_int == 404 and upstream.calls == []


# What is recorded, and when.


def test_row_says_who_uploaded_what_and_when_through_which_key(make_owners, rows, clock, access_log):
    [a] = make_owners(("a-key", {"owner": "retail"}))
    made = a.upload(b"hello", "Bericht ü.txt", "user_data", **{"expires_after[anchor]": "created_at",
                                                            "expires_after[seconds]": "3600"}).json  # fmt: skip
    row, digest = rows()[made["id"]], sha256(b"hello").hexdigest()
    known = (row.account, row.owner, row.key, row.kind, row.filename, row.purpose, row.bytes, row.sha256)
    assert known == ("openai", "retail", "a-key", "file", "Bericht ü.txt", "user_data", 5, digest)
    assert (row.created_at, row.expires_at, row.deleted_at) == (START, START + 3600, None)
    line = access_log()[-1]
    assert (line["key"], line["owner"], line["sha256"], line["file_id"]) == ("a-key", "retail", digest, made["id"])
    assert "Bericht" not in json.dumps(line)


def test_log_says_whose_a_request_was_that_is_refused(owners, access_log):
    a, b = owners
    b.get(f"/files/{a.file()}")
    line = access_log()[-1]
    assert (line["key"], line["owner"], line["status"], line["error"]) == ("b", "b", 404, "not_found")


def test_digest_is_left_out_where_the_operator_does_not_want_it(make_owners, rows):
    [a] = make_owners("a", settings={"file_sha256": "no"})
    file_id = a.file()
    assert rows()[file_id].sha256 is None


def test_upload_in_parts_completes_to_a_file_of_the_same_owner(owners, upstream, rows):
    a, b = owners
    upload = a.make("upload")
    assert a.post(f"/uploads/{upload}/parts", PART).status_int == 200
    file_id = a.post(f"/uploads/{upload}/complete", {"part_ids": ["part_1"]}).json["file"]["id"]
    row = rows()[file_id]
    assert (row.owner, row.kind, row.filename, row.bytes) == ("a", "file", "a.jsonl", 5)
    assert [a.get(f"/files/{file_id}").status_int, b.get(f"/files/{file_id}").status_int] == [200, 404]


def test_results_of_a_batch_belong_to_who_made_it(owners, upstream):
    a, b = owners
    batch = a.make("batch")
    results = upstream.finish_batch(batch)
    a.get(f"/batches/{batch}")
    assert [[each.get(f"/files/{file_id}/content").status_int for each in owners] for file_id in results] == [
        [200, 404],
        [200, 404],
    ]
    assert [len(a.ids()), b.ids()] == [3, []]


@pytest.mark.parametrize("kind", ["batch", "job"])
def test_results_are_their_owners_before_it_has_asked_for_them(kind, owners, upstream, no_wait):
    a, b = owners
    made = a.make(kind)
    results = upstream.finish_batch(made) if kind == "batch" else upstream.finish_job(made)[:1]
    for file_id in results:
        assert [b.get(f"/files/{file_id}").status_int, a.get(f"/files/{file_id}").status_int] == [404, 200]


def test_results_are_listed_before_their_owner_has_asked_for_the_batch(owners, upstream, no_wait):
    a, b = owners
    batch = a.make("batch")
    results = upstream.finish_batch(batch)
    assert b.ids() == [] and a.ids()[:2] == results[::-1]


def test_results_that_come_in_a_list_of_batches_are_recorded(owners, upstream, rows):
    a, _ = owners
    batch = a.make("batch")
    a.get("/files/file-missing")  # the unfinished ones were looked at, and will not be for a while
    results = upstream.finish_batch(batch)
    listed = a.get("/batches").json["data"]
    assert listed[0]["output_file_id"] == results[0]
    assert {rows()[each].owner for each in results} == {"a"}


def test_unfinished_batches_are_looked_at_only_every_half_minute(owners, upstream):
    a, _ = owners
    a.make("batch")
    upstream.calls.clear()
    for _ in range(5):
        assert a.get("/files/file-missing").status_int == 404
    assert upstream.operations == ["retrieve_batch"]


def test_at_most_twenty_unfinished_batches_are_looked_at(owners, upstream):
    a, _ = owners
    file_id = a.file()
    for _ in range(25):
        a.post("/batches", batch_of(file_id))
    upstream.calls.clear()
    a.get("/files/file-missing")
    assert upstream.operations == ["retrieve_batch"] * 20


def test_batch_that_has_ended_is_not_looked_at_any_more(owners, upstream, no_wait):
    a, _ = owners
    batch = a.make("batch")
    upstream.finish_batch(batch)
    a.get(f"/batches/{batch}")
    upstream.calls.clear()
    a.get("/files/file-missing")
    assert upstream.calls == []


def test_trouble_with_an_unfinished_batch_is_not_about_the_request(owners, upstream):
    a, b = owners
    file_id, foreign = a.file(), b.file()
    a.make("batch")
    upstream.instead["retrieve_batch"] = lambda call: json_answer({"error": {"message": "down"}}, 500)
    assert [a.get(f"/files/{each}").status_int for each in (file_id, foreign)] == [200, 404]
    assert file_id in a.ids()


def test_results_belong_to_the_owner_of_the_batch_whoever_looks(make_owners, upstream, rows):
    a, auditor = make_owners("a", ("auditor", {"sees": "all"}))
    batch = a.make("batch")
    results = upstream.finish_batch(batch)
    assert auditor.get(f"/batches/{batch}").json["output_file_id"] == results[0]
    assert {rows()[each].owner for each in results} == {"a"} and {rows()[each].key for each in results} == {"a"}


def test_output_of_a_batch_can_be_read_by_its_maker_alone(owners, upstream):
    a, b = owners
    batch = a.make("batch")
    upstream.finish_batch(batch)
    answers = [each.get(f"/batches/{batch}/output") for each in owners]
    assert [each.status_int for each in answers] == [200, 404]


def test_items_and_containers_of_a_response_are_recorded(owners, upstream, rows):
    a, b = owners
    container = upstream.make("container", name="made by a tool")["id"]
    upstream.output = [{"id": "ci_1", "type": "code_interpreter_call", "container_id": container}]
    response = a.make("response")
    kinds = {row.id: (row.kind, row.owner) for row in rows().values() if row.owner == "a"}
    assert kinds[response] == ("response", "a") and kinds["ci_1"] == ("item", "a")
    assert kinds[container] == ("container", "a")
    assert [each.get(f"/containers/{container}").status_int for each in owners] == [200, 404]


@pytest.mark.parametrize("stream", [False, True])
def test_response_that_is_not_stored_gets_no_row(stream, owners, upstream, rows):
    a, _ = owners
    upstream.output = [{"id": "ci_1", "type": "code_interpreter_call", "container_id": "cntr_of_a_tool"}]
    assert a.post("/responses", {**HELLO, "store": False, "stream": stream}).status_int == 200
    assert {row.kind for row in rows().values()} == {"container"}  # which lives on


def test_rows_of_responses_end_after_a_while_and_those_of_files_do_not(make_owners, rows, clock, tmp_path):
    [a] = make_owners("a", settings={"response_days": "2"})
    response, file_id = a.make("response"), a.file()
    ledger = FolderLedger(str(tmp_path / "ledger"))
    ledger.prune(START + 2 * DAY - 1)
    assert {response, file_id} <= rows().keys()
    ledger.prune(START + 2 * DAY)
    assert set(rows()) == {file_id}


# Streams.


def started(client, owner, path, body, method="POST"):
    """Begin a request; returns its status and an iterator of its body of which nothing was taken."""
    request = webtest.TestRequest.blank(f"/v1{path}", method=method, body=json.dumps(body).encode())
    request.headers.update({"x-portkey-api-key": f"fp_{owner}", "content-type": "application/json"})
    request.environ.update(client.extra_environ)
    status, _, chunks = request.call_application(client.app)
    return int(status[:3]), chunks


@pytest.fixture
def streaming(owners):
    """A function that begins a streamed response of the first owner."""
    return lambda: started(owners[0].client, "a", "/responses", {**HELLO, "stream": True})


def test_first_event_of_a_response_comes_once_its_row_is_there(streaming, upstream, rows, monkeypatch):
    at_first_event = []
    record = FolderLedger.record
    monkeypatch.setattr(FolderLedger, "record", lambda *given: (at_first_event.append(given), record(*given)))
    status, chunks = streaming()
    assert status == 200 and len(at_first_event) == 1  # before the status even
    assert [row.kind for row in rows().values()] == ["response"]
    with closing(chunks):
        first = next(iter(chunks))
        assert b"response.created" in first and next(iter(rows())).encode() in first


def test_items_of_a_stream_are_recorded_before_they_are_sent(streaming, upstream, rows):
    upstream.output = [{"id": "ci_1", "type": "code_interpreter_call", "container_id": "cntr_of_a_tool"}]
    _, chunks = streaming()
    with closing(chunks):
        for event in chunks:
            for item_id in re.findall(rb'"(?:id|container_id)":"([^"]+)"', event):
                assert item_id.decode() in rows(), event
    assert sorted(row.kind for row in rows().values()) == ["container", "item", "item", "response"]


def test_streamed_response_is_its_callers(owners, upstream):
    a, b = owners
    answer = a.post("/responses", {**HELLO, "stream": True})
    response = re.search(r"resp_\w+", answer.text)[0]
    assert [each.get(f"/responses/{response}").status_int for each in owners] == [200, 404]
    answers = [each.get(f"/responses/{response}?stream=true") for each in owners]
    assert [each.status_int for each in answers] == [200, 404]


def test_stream_whose_row_cannot_be_written_is_an_error_and_the_response_is_deleted(owners, upstream, monkeypatch):
    def record(*given):
        raise StoreFull("The ledger has no space left.")

    monkeypatch.setattr(FolderLedger, "record", record)
    answer = owners[0].post("/responses", {**HELLO, "stream": True})
    assert (answer.status_int, answer.json["error"]["code"]) == (507, "store_full")
    assert b"resp_" not in answer.body
    assert upstream.operations == ["create_response", "delete_response"] and upstream.objects == {}


def test_later_event_that_cannot_be_recorded_is_kept_back(streaming, upstream, monkeypatch):
    record, upstream.output = FolderLedger.record, [{"id": "ci_1", "container_id": "cntr_of_a_tool"}]

    def full(ledger, account, owner, key, made, *more):
        if "ci_1" in [each.id for each in made]:
            raise StoreFull("The ledger has no space left.")
        return record(ledger, account, owner, key, made, *more)

    monkeypatch.setattr(FolderLedger, "record", full)
    status, chunks = streaming()
    with closing(chunks):
        events = b"".join(chunks)
    assert status == 200 and b"ci_1" not in events and b"store_full" in events.split(b"\n\n")[-2]


@pytest.mark.parametrize("operation", UNDOES)
def test_object_that_cannot_be_recorded_is_undone_at_the_provider(operation, owners, upstream, monkeypatch):
    a, _ = owners
    ids = {kind: a.make(kind) for kind in dict.fromkeys(kinds_of(operation))}

    def record(*given):
        raise StoreError("The ledger's disk is read-only.")

    monkeypatch.setattr(FolderLedger, "record", record)
    before = set(upstream.objects)
    upstream.calls.clear()
    answer = perform(a, operation, ids)
    assert (answer.status_int, answer.json["error"]["code"]) == (500, "store_error")
    assert upstream.operations[-2:] == [operation, UNDOES[operation]]
    new = set(upstream.objects) - before
    if UNDOES[operation].startswith("delete_"):
        assert not new
    else:
        assert {upstream.objects[each].get("status", "cancelled") for each in new} == {"cancelled"}


def test_failure_to_undo_does_not_hide_why(owners, upstream, monkeypatch):
    def record(*given):
        raise StoreError("The ledger's disk is read-only.")

    monkeypatch.setattr(FolderLedger, "record", record)
    upstream.instead["delete_file"] = lambda call: json_answer({"error": {"message": "no"}}, 500)
    assert owners[0].upload().json["error"]["code"] == "store_error"


# Ids that are given twice.


@pytest.mark.parametrize("operation", ["upload_file", "create_container", "create_response"])
def test_id_that_another_owner_has_is_a_fault_of_the_provider_and_nothing_is_deleted(
    operation, owners, upstream, rows, caplog
):
    a, b = owners
    kind = OPERATIONS[operation].kind
    mine = a.make(kind)
    own = b.file()
    upstream.new_id = lambda kind: mine
    upstream.calls.clear()
    answer = perform(b, operation, {"file": own})
    assert (answer.status_int, answer.json["error"]["code"]) == (502, "duplicate_id")
    assert answer.headers["x-should-retry"] == "false" and mine not in answer.text
    assert upstream.operations == [operation] and rows()[mine].owner == "a"
    assert operation in caplog.text and "another owner" in caplog.text
    assert [each.get(f"/{OPERATIONS[operation].path.split('/')[2]}/{mine}").status_int for each in owners] == [200, 404]


def test_streamed_id_that_another_owner_has_never_leaves(owners, upstream):
    a, b = owners
    mine = a.make("response")
    upstream.new_id = lambda kind: mine
    upstream.calls.clear()
    answer = b.post("/responses", {**HELLO, "stream": True})
    assert (answer.status_int, answer.json["error"]["code"]) == (502, "duplicate_id")
    assert mine not in answer.text and upstream.operations == ["create_response"]


def test_host_that_gives_the_same_content_the_same_id_again(owners, upstream, rows):
    a, _ = owners
    file_id = a.file()
    upstream.new_id = lambda kind: file_id
    assert a.file() == file_id
    a.delete(f"/files/{file_id}")
    assert a.get(f"/files/{file_id}").status_int == 404
    assert a.file() == file_id
    assert a.get(f"/files/{file_id}").status_int == 200 and rows()[file_id].deleted_at is None


def test_race_of_two_owners_for_one_id_has_one_winner(owners, upstream, rows):
    a, b = owners
    ids = iter(["file-Ab00000077"] * 2)
    upstream.new_id = lambda kind: next(ids)
    answers = []
    upstream.instead["upload_file"] = lambda call: (
        upstream.instead.pop("upload_file"),
        answers.append(b.upload()),  # the other's upload is answered while this one is at the provider
        json_answer(upstream.file()),
    )[-1]
    answers.append(a.upload())
    assert [each.status_int for each in answers] == [200, 502] and rows()["file-Ab00000077"].owner == "b"


# Deletion and expiry.


@pytest.mark.parametrize("kind", ["file", "response", "container", "vector_store"])
def test_what_was_deleted_is_gone_for_its_owner_too(kind, owners, upstream):
    a, b = owners
    item_id = a.make(kind)
    assert perform(a, f"delete_{kind}", {kind: item_id}).status_int == 200
    upstream.calls.clear()
    answers = [seen_of(perform(each, f"retrieve_{kind}", {kind: item_id})) for each in owners]
    assert answers[0] == answers[1] and answers[0][0] == 404 and upstream.calls == []


def test_deletion_of_what_was_deleted_outside_says_so_once(owners, upstream):
    a, _ = owners
    file_id = a.file()
    del upstream.objects[file_id]
    assert a.delete(f"/files/{file_id}").json["error"]["message"] == "The provider has no such object."
    upstream.calls.clear()
    assert a.delete(f"/files/{file_id}").json["error"]["code"] == "not_found" and upstream.calls == []


def test_deletion_that_fails_changes_nothing(owners, upstream):
    a, _ = owners
    file_id = a.file()
    upstream.instead["delete_file"] = lambda call: json_answer({"error": {"message": "busy"}}, 503)
    assert a.delete(f"/files/{file_id}").status_int == 503
    assert a.get(f"/files/{file_id}").status_int == 200 and a.ids() == [file_id]


AZURE = {"kind": "azure-openai", "resource": "mine", "api_version": "2024-10-21", "credential": "sk-saved-azure"}


@pytest.fixture
def make_expiring(make_owners):
    """A function that makes owners with these rules at a provider whose files do not expire."""
    return lambda *keys: make_owners(*keys, settings={"default_provider": "azure"}, **{"provider:azure": AZURE})


def test_expiry_that_the_provider_lacks_is_kept_by_the_ledger(make_expiring, upstream, clock, rows):
    [a] = make_expiring("a")
    expiry = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    made = a.upload(**expiry).json
    assert made["expires_at"] == START + 3600 and b"expires" not in upstream.forms[-1]
    assert rows()[made["id"]].expires_at == START + 3600
    path = f"/files/{made['id']}"
    assert a.get(path).json["expires_at"] == a.get("/files").json["data"][0]["expires_at"] == START + 3600
    clock.runs(3599)
    assert a.get(path).status_int == 200
    clock.runs(1)
    upstream.calls.clear()
    for operation in ("retrieve_file", "retrieve_file_content", "delete_file", "create_chat_completion"):
        assert perform(a, operation, {"file": made["id"]}).status_int == 404
    assert upstream.calls == [] and a.ids() == []


@pytest.mark.parametrize("order", [1, -1])
def test_expiry_is_kept_back_wherever_it_stands_in_the_form(order, make_expiring, upstream):
    [a] = make_expiring("a")
    parts = [("expires_after[anchor]", "created_at"), ("expires_after[seconds]", "7200"), ("file", "a", "", b"hello")]
    made = a.post("/files", form(("purpose", "batch"), *parts[::order])).json
    assert made["expires_at"] == START + 7200 and b"expires" not in upstream.forms[-1]


RULES = [
    ({"default_expires_after": "3600"}, None, 3600),
    ({"default_expires_after": "3600"}, 7200, 7200),
    ({"max_expires_after": "3600"}, None, 3600),
    ({"max_expires_after": "3600"}, 7200, 3600),
    ({"max_expires_after": "7200"}, 3600, 3600),
    ({"default_expires_after": "3600", "max_expires_after": "7200"}, None, 3600),
]


@pytest.mark.parametrize("make", ["make_owners", "make_expiring"])
@pytest.mark.parametrize("rules,asked,given", RULES)
def test_key_limits_how_long_its_files_are_there(make, rules, asked, given, request, upstream, rows):
    [a] = request.getfixturevalue(make)(("a", rules))
    expiry = {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(asked)} if asked else {}
    answer = a.upload(**expiry)
    told = None if asked == given else str(given)
    assert answer.headers.get("x-filesproxy-expires-after") == told
    assert answer.json["expires_at"] == rows()[answer.json["id"]].expires_at == START + given


def test_expiry_of_a_provider_that_has_it_is_recorded(owners, upstream, rows):
    a, _ = owners
    made = a.upload(**{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}).json
    assert b"3600" in upstream.forms[-1] and rows()[made["id"]].expires_at == made["expires_at"] == START + 3600


# Keys that see all.


@pytest.fixture
def auditor(make_owners):
    """The clients of two owners, and of a key that sees all."""
    return make_owners("a", "b", ("auditor", {"sees": "all"}))


@pytest.mark.parametrize("operation,kind", NAMING)
def test_key_that_sees_all_may_read_everything_and_do_nothing_else(operation, kind, auditor, upstream):
    a, _, sees_all = auditor
    own = {each: sees_all.make(each) for each in dict.fromkeys(kinds_of(operation))}
    foreign = a.make(kind)
    upstream.contents[foreign] = b"results"
    if kind == "batch":
        upstream.finish_batch(foreign)
    upstream.calls.clear()
    answer = perform(sees_all, operation, {**own, kind: foreign})
    is_reading = OPERATIONS[operation].method == "GET"
    assert answer.status_int == (200 if is_reading else 404)
    assert bool(others_calls(upstream, own)) == is_reading


def test_key_that_sees_all_can_look_as_one_owner(auditor):
    a, b, sees_all = auditor
    mine, others = a.file(), b.file()
    assert sees_all.get(f"/files/{mine}", x_filesproxy_owner="a").status_int == 200
    assert sees_all.get(f"/files/{others}", x_filesproxy_owner="a").status_int == 404
    assert sees_all.ids(x_filesproxy_owner="a") == [mine] and sees_all.ids(x_filesproxy_owner="nobody") == []


@pytest.mark.parametrize("path", ["/files", "/batches", "/containers", "/vector_stores", "/fine_tuning/jobs"])
def test_only_a_key_that_sees_all_can_look_as_another(path, auditor, upstream):
    _, b, _ = auditor
    answer = b.get(path, x_filesproxy_owner="a")
    assert (answer.status_int, answer.json["error"]["param"], upstream.calls) == (403, "x-filesproxy-owner", [])
    assert b.get(path, x_filesproxy_owner="b").status_int == 200


def test_key_that_sees_all_makes_what_is_its_own(auditor, rows):
    _, b, sees_all = auditor
    file_id = sees_all.file()
    assert rows()[file_id].owner == "auditor" and b.get(f"/files/{file_id}").status_int == 404
    assert sees_all.delete(f"/files/{file_id}").status_int == 200


# Objects that were there before the gateway.


@pytest.fixture
def foreign(make_owners):
    """The clients of two owners, of which the second may use what nobody owns."""
    return make_owners("a", ("b", {"foreign_ids": "yes"}))


USES = ["retrieve_file", "retrieve_file_content", "create_batch", "create_chat_completion", "create_container",
        "delete_file"]  # fmt: skip


@pytest.mark.parametrize("operation", USES)
def test_file_from_before_the_gateway_opens_to_a_key_that_may(operation, foreign, upstream):
    a, b = foreign
    a.file()  # the account comes to the ledger
    old = upstream.file(LINE, created_at=OLD)["id"]
    assert perform(a, operation, {"file": old}).status_int == 404
    assert perform(b, operation, {"file": old}).status_int == 200


@pytest.mark.parametrize("age,status", [(DAY + 1, 200), (DAY, 404), (0, 404), (-DAY, 404)])
@pytest.mark.parametrize("operation", USES)
def test_file_that_is_newer_than_the_gateway_does_not(operation, age, status, foreign, upstream, clock):
    a, b = foreign
    a.file()
    file_id = upstream.file(LINE, created_at=START - age)["id"]
    clock.runs(30 * DAY)
    answer = perform(b, operation, {"file": file_id})
    assert answer.status_int == status
    assert operation in upstream.operations or status == 404 or operation == "retrieve_file"


@pytest.mark.parametrize("operation", USES)
def test_file_of_another_owner_never_does(operation, foreign, upstream):
    a, b = foreign
    file_id = a.file()
    upstream.objects[file_id]["created_at"] = OLD
    upstream.calls.clear()
    assert perform(b, operation, {"file": file_id}).status_int == 404 and upstream.calls == []


@pytest.mark.parametrize("created_at", [None, "1", 1.5, True, {}])
def test_file_of_unknown_age_does_not(created_at, foreign, upstream):
    a, b = foreign
    a.file()
    old = upstream.file(created_at=created_at)["id"]
    assert b.get(f"/files/{old}").status_int == 404


@pytest.mark.parametrize("kind", ["batch", "job", "response", "container", "vector_store"])
def test_other_objects_from_before_the_gateway_open_too(kind, foreign, upstream):
    a, b = foreign
    a.file()
    old = upstream.make(kind, created_at=OLD)["id"]
    operation = next(name for name in PERFORMED if OPERATIONS[name].kind == kind and name.startswith("retrieve_"))
    assert [perform(each, operation, {kind: old}).status_int for each in foreign] == [404, 200]


def test_foreign_files_are_listed_for_who_may_use_them(foreign, upstream):
    a, b = foreign
    mine, others = b.file(), a.file()
    old, new = upstream.file(created_at=OLD)["id"], upstream.file()["id"]
    assert set(b.ids()) == {mine, old} and a.ids() == [others] and new not in b.ids()


def test_use_of_a_foreign_file_makes_nobody_its_owner(foreign, upstream, rows):
    a, b = foreign
    a.file()
    old = upstream.file(created_at=OLD)["id"]
    b.get(f"/files/{old}")
    assert old not in rows()


# Keys for chat alone.

CHAT_ALONE = {"operations": "create_chat_completion"}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def test_chat_that_names_a_file_is_checked_where_there_is_a_ledger(make_owners, upstream):
    a, chats = make_owners("a", ("chats", CHAT_ALONE))
    file_id = a.file()
    upstream.calls.clear()
    assert perform(chats, "create_chat_completion", {"file": file_id}).status_int == 404 and upstream.calls == []
    assert perform(a, "create_chat_completion", {"file": file_id}).status_int == 200
    assert chats.post("/chat/completions", CHAT).status_int == 200


def test_chat_that_names_a_file_is_refused_without_a_ledger_and_told_why(make_owners, upstream, tmp_path):
    a, chats = make_owners("a", ("chats", CHAT_ALONE), settings={"ledger": ""})
    file_id = a.file()
    upstream.calls.clear()
    for each in (file_id, upstream.new_id("file")):
        answer = perform(chats, "create_chat_completion", {"file": each})
        error = answer.json["error"]
        assert (answer.status_int, error["code"], error["param"]) == (
            403,
            "forbidden",
            "messages[0].content[0].file.file_id",
        )
        assert "ledger" in error["message"] and upstream.calls == []
    assert chats.post("/chat/completions", CHAT).status_int == 200
    assert perform(a, "create_chat_completion", {"file": file_id}).status_int == 200
    assert not (tmp_path / "ledger").exists()


# What is not known.


@pytest.mark.parametrize("path", ["/responses", "/embeddings"])
def test_field_that_is_not_known_is_refused_unless_the_operator_opens_it(path, make_owners, upstream):
    a, _ = make_owners("a", "b")
    answer = a.post(path, {**HELLO, "attachments": ["x"]})
    assert (answer.status_int, answer.json["error"]["code"], answer.json["error"]["param"]) == (
        400,
        "unknown_field",
        "attachments",
    )
    assert upstream.calls == []
    a, _ = make_owners("a", "b", settings={"allow_fields": "attachments"})
    assert a.post(path, {**HELLO, "attachments": ["x"]}).status_int == 200


def test_open_field_must_not_name_what_is_anothers_still(make_owners):
    a, b = make_owners("a", "b", settings={"allow_fields": "attachments new_tool"})
    body = {**HELLO, "attachments": [a.file()], "tools": [{"type": "new_tool"}]}
    assert [each.post("/responses", body).status_int for each in (a, b)] == [200, 404]


def test_type_of_a_tool_that_is_not_known_is_refused_unless_the_operator_opens_it(make_owners, upstream):
    body = {**HELLO, "tools": [{"type": "new_tool"}]}
    a, _ = make_owners("a", "b")
    answer = a.post("/responses", body)
    assert (answer.status_int, answer.json["error"]["code"]) == (400, "unknown_tool") and upstream.calls == []
    a, _ = make_owners("a", "b", settings={"allow_fields": "new_tool"})
    assert a.post("/responses", body).status_int == 200


def test_where_one_owner_has_all_any_field_passes(make_owners):
    [a] = make_owners("a", settings={"ledger": ""})
    assert a.post("/responses", {**HELLO, "attachments": ["x"], "tools": [{"type": "new_tool"}]}).status_int == 200


# Limits.


def test_owner_may_store_only_so_much(make_owners, upstream):
    a, b = make_owners(("a", {"max_stored_bytes": "600"}), "b")
    file_id = a.file(b"x" * 300)
    upstream.calls.clear()
    answer = a.upload(b"x" * 301)
    assert (answer.status_int, answer.json["error"]["code"], answer.json["error"]["param"]) == (
        413,
        "quota_exceeded",
        "file",
    )
    assert upstream.calls == [] and b.upload(b"x" * 5000).status_int == 200
    assert a.delete(f"/files/{file_id}").status_int == 200 and a.upload(b"x" * 301).status_int == 200


def test_what_is_stored_counts_and_not_what_was_sent_with_it(make_owners):
    [a] = make_owners(("a", {"max_stored_bytes": "2000"}))
    answers = [a.upload(b"x" * 100).status_int for _ in range(15)]
    assert answers == [200] * 15  # a form has some hundred bytes more, which are reserved only while it is sent


def test_upload_in_parts_says_what_it_will_store(make_owners, upstream):
    [a] = make_owners(("a", {"max_stored_bytes": "600"}))
    body = {"filename": "a", "purpose": "batch", "mime_type": "text/plain"}
    answer = a.post("/uploads", {**body, "bytes": 601})
    assert (answer.status_int, answer.json["error"]["code"], upstream.calls) == (413, "quota_exceeded", [])
    assert a.post("/uploads", {**body, "bytes": 600}).status_int == 200


def test_uploads_in_parts_that_are_open_take_space(make_owners, upstream):
    [a] = make_owners(("a", {"max_stored_bytes": "600"}))
    body = {"filename": "a", "purpose": "batch", "mime_type": "text/plain", "bytes": 400}
    uploads = [a.post("/uploads", body) for _ in range(3)]
    assert [each.status_int for each in uploads] == [200, 413, 413]
    assert a.post(f"/uploads/{uploads[0].json['id']}/cancel", {}).status_int == 200
    assert a.post("/uploads", body).status_int == 200


def test_owner_that_has_two_keys_has_one_limit(make_owners):
    limit = {"max_stored_bytes": "900", "owner": "shop"}
    one, two = make_owners(("one", limit), ("two", limit))
    one.upload(b"x" * 600)
    assert two.upload(b"x" * 301).status_int == 413


def test_key_may_begin_only_so_many_uploads_a_minute(make_owners, upstream, clock):
    a, b = make_owners(("a", {"max_uploads_per_minute": "2"}), "b")
    statuses = [a.upload().status_int for _ in range(2)]
    clock.runs(20)
    upstream.calls.clear()
    for answer in (a.upload(), a.post("/uploads", BODIES["create_upload"])):
        assert (answer.status_int, answer.json["error"]["code"]) == (429, "too_many_uploads")
        assert answer.headers["retry-after"] == "40" and upstream.calls == []
    assert b.upload().status_int == 200
    clock.runs(40)
    assert [*statuses, a.upload().status_int] == [200] * 3


def test_upload_that_the_provider_refuses_takes_no_space(make_owners, upstream):
    [a] = make_owners(("a", {"max_stored_bytes": "600"}))
    upstream.instead["upload_file"] = lambda call: json_answer({"error": {"message": "no"}}, 400)
    assert [a.upload(b"x" * 300).status_int for _ in range(4)] == [400] * 4
    del upstream.instead["upload_file"]
    assert a.upload(b"x" * 300).status_int == 200


def test_upload_that_may_have_arrived_keeps_its_space_for_a_day(make_owners, upstream, clock, tmp_path):
    [a] = make_owners(("a", {"max_stored_bytes": "900"}))

    def lost(call):
        raise UpstreamError("The connection ended.")

    upstream.instead["upload_file"] = lost
    assert a.upload(b"x" * 300).status_int == 502
    [(owner, key, size, began_at)] = FolderLedger(str(tmp_path / "ledger")).uploads("openai")
    assert (owner, key, began_at) == ("a", "a", START) and size > 300  # by which the file can be found later
    del upstream.instead["upload_file"]
    assert a.upload(b"x" * 300).status_int == 413
    clock.runs(DAY + 1)
    assert a.upload(b"x" * 300).status_int == 200


@pytest.mark.parametrize("rules,status", [({"max_stored_bytes": "900"}, 413), ({"max_uploads_per_minute": "1"}, 429)])
def test_limits_hold_for_files_that_the_gateway_keeps(rules, status, make_client, tmp_path):
    config = sections(("a", rules), **{"provider:local": {"folder": str(tmp_path / "store")}})
    a = Owner(make_client(config, default_provider="local"), "a")
    file_id = a.upload(b"x" * 500).json["id"]
    answer = a.upload(b"x" * 500)
    assert answer.status_int == status and a.ids() == [file_id]
    if status == 413:
        assert answer.json["error"]["code"] == "quota_exceeded"
        a.delete(f"/files/{file_id}")
        assert a.upload(b"x" * 500).status_int == 200
    else:
        assert 1 <= int(answer.headers["retry-after"]) <= 60


def test_kept_files_and_those_of_a_provider_count_together(make_client, tmp_path, upstream):
    config = sections(("a", {"max_stored_bytes": "1500"}), **{"provider:local": {"folder": str(tmp_path / "store")}})
    a = Owner(make_client(config, default_provider="openai", ledger=str(tmp_path / "ledger")), "a")
    kept = a.post("/files", form(("purpose", "batch"), ("file", "a", "", b"x" * 600)), x_portkey_provider="@local")
    assert kept.status_int == 200
    assert [a.upload(b"x" * 600).status_int, a.upload(b"x" * 600).status_int] == [200, 413]


# The ledger itself.


@pytest.mark.parametrize(
    "operation", ["retrieve_file", "list_files", "upload_file", "create_response", "create_upload"]
)
@pytest.mark.parametrize("damage", ["file in the place of the folder", "no database"])
def test_ledger_that_cannot_be_used_lets_nothing_through(operation, damage, make_owners, upstream, tmp_path):
    folder = tmp_path / "ledger"
    if damage == "no database":
        folder.mkdir()
        (folder / FolderLedger.file).write_bytes(b"this is not a database" * 100)
    else:
        folder.write_bytes(b"")
    a, _ = make_owners("a", "b")
    answer = perform(a, operation, {"file": "file-Ab00000001"})
    assert answer.status_int == 500 and answer.json["error"]["code"] == "store_error"
    assert upstream.calls == [] and str(tmp_path) not in answer.text


def test_ledger_that_is_mended_is_used_without_a_restart(make_owners, upstream, tmp_path):
    (tmp_path / "ledger").write_bytes(b"")
    a, _ = make_owners("a", "b")
    assert a.upload().status_int == 500
    (tmp_path / "ledger").unlink()
    assert a.upload().status_int == 200


def test_ledger_that_fails_on_the_way_lets_nothing_through(owners, upstream, tmp_path, monkeypatch):
    a, b = owners
    file_id = a.file()
    monkeypatch.setattr("filesproxy.gateway.ownership.REMEMBERED_SECONDS", 0.0)
    with sqlite3.connect(tmp_path / "ledger" / FolderLedger.file) as database:
        database.execute("ALTER TABLE objects RENAME TO lost")
    database.close()
    upstream.calls.clear()
    for operation in ("retrieve_file", "delete_file", "list_files", "create_chat_completion"):
        assert perform(b, operation, {"file": file_id}).status_int == 500
    assert upstream.calls == []


def test_ledger_is_its_owners_alone(make_owners, tmp_path):
    folder = tmp_path / "new" / "ledger"
    [a] = make_owners("a", settings={"ledger": str(folder)})
    a.file()
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (folder, folder / FolderLedger.file)]
    assert modes == [0o700, 0o600]


def test_second_application_on_the_same_ledger_knows_the_same(make_owners):
    a, _ = make_owners("a", "b")
    file_id = a.file()
    a, b = make_owners("a", "b")
    assert [each.get(f"/files/{file_id}").status_int for each in (a, b)] == [200, 404]


def test_nothing_is_remembered_of_what_is_missing(make_owners, upstream):
    a, _ = make_owners("a", "b")
    again, _ = make_owners("a", "b")
    soon = f"file-Ab{int(upstream.new_id('file')[-8:]) + 1:08}"
    assert again.get(f"/files/{soon}").status_int == 404
    assert a.file() == soon
    assert again.get(f"/files/{soon}").status_int == 200


def test_adoption_is_seen_once_the_old_owner_is_forgotten(make_owners, tmp_path, monkeypatch):
    a, b = make_owners("a", "b")
    file_id = a.file()
    assert a.get(f"/files/{file_id}").status_int == 200
    FolderLedger(str(tmp_path / "ledger")).give("a", "b", "openai")
    monkeypatch.setattr("filesproxy.gateway.ownership.REMEMBERED_SECONDS", 0.0)
    again, other = make_owners("a", "b")
    assert [each.get(f"/files/{file_id}").status_int for each in (again, other)] == [404, 200]


def test_answer_without_an_id_that_can_be_recorded_is_refused(owners, upstream):
    upstream.instead["create_container"] = lambda call: json_answer({"id": "x" * 300, "object": "container"})
    assert owners[0].post("/containers", {"name": "c"}).status_int == 502


def test_without_isolation_owners_share_everything(make_owners, tmp_path):
    a, b = make_owners("a", "b", settings={"isolation": "no", "ledger": ""})
    file_id = a.file()
    assert b.get(f"/files/{file_id}").status_int == 200 and not (tmp_path / "ledger").exists()


def test_batch_that_is_gone_at_the_provider_is_not_asked_for_again(owners, upstream, monkeypatch):
    a, _ = owners
    batch = a.make("batch")
    del upstream.objects[batch]
    monkeypatch.setattr("filesproxy.gateway.ownership.RESULTS_SECONDS", -1)
    for expected in (1, 0):
        upstream.calls.clear()
        assert a.get("/files/file-that-nobody-has").status_int == 404
        assert upstream.operations.count("retrieve_batch") == expected


# What a review found.


def test_batch_that_was_given_away_brings_its_results_to_its_new_owner(owners, upstream, rows, tmp_path, no_wait):
    a, b = owners
    batch = a.make("batch")
    assert a.get(f"/batches/{batch}").status_int == 200  # this process remembers whose it is
    results = upstream.finish_batch(batch)
    FolderLedger(str(tmp_path / "ledger")).give("a", "b", "openai")
    assert a.get(f"/batches/{batch}").status_int == 404
    assert {rows()[each].owner for each in results} == {"b"}
    assert [each.get(f"/batches/{batch}").status_int for each in owners] == [404, 200]
    assert b.get(f"/files/{results[0]}/content").status_int == 200


def test_uploads_in_parts_that_begin_at_the_same_time_share_one_limit(make_owners, upstream):
    [a] = make_owners(("a", {"max_stored_bytes": "600"}))
    body = {"filename": "a", "purpose": "batch", "mime_type": "text/plain", "bytes": 400}
    second = []

    def begin_another(call):
        del upstream.instead["create_upload"]
        second.append(a.post("/uploads", body).status_int)
        return upstream._answer(call, b"")

    upstream.instead["create_upload"] = begin_another
    assert a.post("/uploads", body).status_int == 200 and second == [413]


@pytest.mark.parametrize("operation", sorted(set(UNDOES) - {"complete_upload"}))
@pytest.mark.parametrize("answer", [{"object": "x"}, {"id": 5}, {"id": None}, {"id": ""}, {"id": "a b"}])
def test_object_without_a_usable_id_is_an_error_and_not_shown(operation, answer, owners, upstream):
    a, _ = owners
    path, body = OPERATIONS[operation].path[len("/v1") :], BODIES[operation]
    if isinstance(body, dict):
        body = json.loads(json.dumps(body).replace("{file}", a.file()))
    upstream.instead[operation] = lambda call: json_answer(answer)
    assert a.post(path, body).status_int == 502


def test_object_that_can_neither_be_recorded_nor_be_removed_is_in_the_log(owners, upstream, monkeypatch, caplog):
    def fail(*args, **more):
        raise StoreError("no")

    monkeypatch.setattr(FolderLedger, "record", fail)
    upstream.instead["delete_vector_store"] = lambda call: json_answer({"error": {"message": "no"}}, 500)
    made = owners[0].post("/vector_stores", {"name": "v"})
    assert made.status_int == 500
    (lost,) = [item_id for item_id in upstream.objects if item_id.startswith("vs_")]
    assert f"{lost} could neither be recorded nor be removed again" in caplog.text


def test_declared_place_that_holds_a_long_text_is_a_missing_object_at_once(owners, upstream):
    for text in ("x" * 300, "\ufdfa" * 20_000, "x" * 100_000 + " "):
        upstream.calls.clear()
        assert owners[0].post("/responses", {**HELLO, "previous_response_id": text}).status_int == 404
        assert upstream.calls == []


def test_request_of_very_many_words_cannot_be_judged(owners, upstream, monkeypatch):
    monkeypatch.setattr("filesproxy.gateway.object_ids.MAX_TEXTS", 50)
    answer = owners[0].post("/embeddings", {"model": "m", "input": [f"w{number}" for number in range(60)]})
    assert (answer.status_int, upstream.calls) == (413, [])


def test_what_the_provider_must_be_asked_has_the_time_that_the_client_gave(owners, upstream):
    a, _ = owners
    a.make("batch")
    upstream.calls.clear()
    a.get("/files", x_portkey_request_timeout="7000")
    assert upstream.calls and all(0 < call.timeout <= 7 for call in upstream.calls)


def test_id_of_another_owner_in_a_form_is_refused_whatever_the_provider_sends_of_it(make_owners, clock):
    upstream = Anthropic(clock)
    claude = {"provider:claude": {"kind": "anthropic", "credential": "sk-ant-saved"}}
    settings = {"default_provider": "claude", "transports": {"https": upstream}}
    a, b = make_owners("a", "b", settings=settings, **claude)
    upstream.calls.clear()
    assert b.upload(purpose=a.upload().json["id"]).status_int == 404


# What an attack found.


def test_name_that_a_client_gave_to_an_item_is_nobodys_elsewhere(owners, upstream, rows):
    a, b = owners
    response = b.make("response")
    words = ["batch", "m", "gpt-4o-mini"]
    upstream.inputs[response] = [{"id": word, "type": "message", "role": "user"} for word in words]
    assert b.get(f"/responses/{response}/input_items").status_int == 200
    upstream.output = [{"id": word, "type": "message"} for word in words]
    b.make("response")
    upstream.output = []
    assert a.upload().status_int == 200 and a.get("/files?purpose=batch").status_int == 200
    assert a.post("/chat/completions", CHAT).status_int == 200
    assert a.post("/containers", {"name": "gpt-4o-mini"}).status_int == 200


def test_items_that_a_host_numbers_anew_for_each_response_are_no_duplicates(owners, upstream):
    a, b = owners
    upstream.output = [{"id": "msg_1", "type": "message"}]
    assert [each.post("/responses", HELLO).status_int for each in owners] == [200, 200]
    asked = {**HELLO, "input": [{"type": "item_reference", "id": "msg_1"}]}
    assert [each.post("/responses", asked).status_int for each in owners] == [200, 404]


@pytest.mark.parametrize("path", ["/vector_stores/{}/files/{}", "/vector_stores/{}/files/{}/content"])
def test_file_in_a_vector_store_of_ones_own_must_be_ones_own_too(path, owners, upstream):
    a, b = owners
    store, foreign = b.make("vector_store"), a.file()
    upstream.calls.clear()
    answers = [b.get(path.format(store, each)) for each in (foreign, "x" * len(foreign))]
    assert [each.status_int for each in answers] == [404] * 2 and upstream.calls == []
    bodies = [each.text.replace(foreign, "ID").replace("x" * len(foreign), "ID") for each in answers]
    assert bodies[0] == bodies[1]
    assert b.get(path.format(store, b.file())).status_int == 200


def test_position_among_the_files_of_a_vector_store_must_be_ones_own_file(owners, upstream):
    a, b = owners
    store, foreign, mine = b.make("vector_store"), a.file(), b.file()
    upstream.calls.clear()
    asked = [f"/vector_stores/{store}/files?after={each}" for each in (foreign, "file-that-is-missing", mine)]
    assert [b.get(each).status_int for each in asked] == [404, 404, 200] and len(upstream.calls) == 1


@pytest.mark.parametrize("status", [["x"], {"a": 1}, 5, None])
def test_status_that_is_no_word_is_one_that_is_not_final(status, owners, upstream):
    a, _ = owners
    file_id = a.file()
    upstream.instead["create_batch"] = lambda call: json_answer(
        {"id": "batch_odd", "object": "batch", "status": status}
    )
    assert a.post("/batches", batch_of(file_id)).status_int == 200


def test_conversation_does_not_end_with_the_responses_in_it(owners, upstream, tmp_path, clock):
    a, _ = owners
    upstream.instead["create_response"] = lambda call: json_answer(
        {"id": "resp_1", "object": "response", "conversation": {"id": "conv_1"}, "output": []}
    )
    assert a.post("/responses", HELLO).status_int == 200
    clock.runs(91 * DAY)
    FolderLedger(str(tmp_path / "ledger")).prune(clock())
    del upstream.instead["create_response"]
    asked = [{**HELLO, "conversation": "conv_1"}, {**HELLO, "previous_response_id": "resp_1"}]
    assert [a.post("/responses", each).status_int for each in asked] == [200, 404]


def test_container_that_only_the_last_event_tells_of_is_its_owners(owners, upstream):
    a, b = owners
    container = upstream.make("container")["id"]
    whole = {"id": "resp_1", "object": "response", "output": []}
    last = {**whole, "output": [{"id": "ci_1", "type": "code_interpreter_call", "container_id": container}]}
    events = [{"type": "response.created", "response": whole}, {"type": "response.completed", "response": last}]
    text = b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in events)
    upstream.instead["create_response"] = lambda call: Answer(
        200, {"content-type": "text/event-stream"}, body=FakeBody([text])
    )
    assert a.post("/responses", {**HELLO, "stream": True}).status_int == 200
    assert [each.get(f"/containers/{container}").status_int for each in owners] == [200, 404]


def test_old_model_that_nobody_owns_opens_for_a_key_that_may(make_owners, upstream):
    old, new = make_owners(("old", {"foreign_ids": "yes"}), "new")
    model = "ft:gpt-4o:acme::old"
    upstream.objects[model] = {"id": model, "object": "model", "created": OLD}
    assert [each.get(f"/models/{model}").status_int for each in (old, new)] == [200, 404]
    assert [each.post("/embeddings", {"model": model, "input": "x"}).status_int for each in (old, new)] == [200, 404]


@pytest.mark.parametrize("part", [
    {"type": "input_file", "file_id": "x"},
    {"type": "image_url", "image_url": "file-0123456789abcdef"},
    {"type": "image_url", "image_url": {"url": " file-0123456789abcdef"}},
    {"type": "document", "source": {"type": "file", "file_id": "x"}},
    {"type": "container_upload", "file_id": "x"},
])  # fmt: skip
def test_key_for_chats_alone_cannot_name_a_file_in_a_way_of_its_own(part, make_client, upstream):
    config = sections("a", ("chat", {"operations": "create_chat_completion"}))
    client = make_client(config, default_provider="openai", transports={"https": upstream})
    answer = Owner(client, "chat").post(
        "/chat/completions", {**CHAT, "messages": [{"role": "user", "content": [part]}]}
    )
    assert (answer.status_int, upstream.calls) == (403, [])


def test_item_with_an_id_that_a_provider_issues_is_refused_wherever_it_stands(owners, upstream):
    a, b = owners
    upstream.output = [{"id": "msg_0123456789abcdef0123", "type": "message"}]
    a.make("response")
    upstream.output = []
    for each in ({"metadata": {"k": "msg_0123456789abcdef0123"}}, {"user": "MSG_0123456789ABCDEF0123"}):
        assert b.post("/responses", {**HELLO, **each}).status_int == 404
        assert a.post("/responses", {**HELLO, **each}).status_int == 200


# What else can be asked.


@pytest.mark.parametrize("failure", [500, 503, 429])
def test_provider_that_cannot_say_how_old_an_object_is_opens_none(failure, make_owners, upstream):
    [old] = make_owners(("old", {"foreign_ids": "yes"}))
    upstream.objects["file-old"] = {"id": "file-old", "object": "file", "created_at": OLD}
    upstream.instead["retrieve_file"] = lambda call: json_answer({"error": {"message": "no"}}, failure)
    assert old.get("/files/file-old/content").status_int == failure
    assert "retrieve_file_content" not in upstream.operations


def test_upload_without_a_length_reserves_the_most_that_its_file_can_have(make_owners, upstream, tmp_path):
    [a] = make_owners(("a", {"max_file_bytes": "700", "max_stored_bytes": "1000"}))
    seen = []

    def while_it_runs(call):
        seen.extend(FolderLedger(str(tmp_path / "ledger")).uploads("openai"))
        return upstream._answer(call, b"hello")

    upstream.instead["upload_file"] = while_it_runs
    body, kind = form(("purpose", "batch"), ("file", "a", "", b"hello")), form_type()
    chunked = {"wsgi.input_terminated": True, "wsgi.input": BytesIO(body), "CONTENT_LENGTH": ""}
    headers = {"x-portkey-api-key": "fp_a", "content-type": kind, "transfer-encoding": "chunked"}
    request = webtest.TestRequest.blank(
        "/v1/files", method="POST", headers=headers, environ={**a.client.extra_environ, **chunked}
    )
    answer = a.client.do_request(request, expect_errors=True)
    assert (answer.status_int, [row[2] for row in seen]) == (200, [700])
    assert FolderLedger(str(tmp_path / "ledger")).uploads("openai") == []


def test_what_is_remembered_is_bounded(owners, monkeypatch):
    monkeypatch.setattr("filesproxy.gateway.ownership.MAX_REMEMBERED", 3)
    a, b = owners
    mine = [a.file() for _ in range(5)]
    for _ in range(2):
        assert [each.get(f"/files/{item_id}").status_int for item_id in mine for each in owners] == [200, 404] * 5
    assert b.get("/files/file-missing").status_int == 404


def test_look_at_results_ends_after_a_while(owners, upstream, monkeypatch):
    a, _ = owners
    for _ in range(3):
        a.make("batch")
    monkeypatch.setattr("filesproxy.gateway.ownership.LOOK_SECONDS", -1)
    monkeypatch.setattr("filesproxy.gateway.ownership.RESULTS_SECONDS", -1)
    upstream.calls.clear()
    assert a.get("/files/file-missing").status_int == 404 and upstream.calls == []


# What a second attack found.


@pytest.mark.parametrize("word", ["gpt-4o-mini-2024-07-18", "text-embedding-3-large", "web_search_2025_08_26"])
def test_name_of_a_model_or_tool_that_a_host_gave_to_an_item_is_nobodys(word, owners, upstream):
    a, b = owners
    upstream.output = [{"id": word, "type": "message"}]
    b.make("response")
    upstream.output = []
    assert a.post("/chat/completions", {**CHAT, "model": word}).status_int == 200
    assert a.post("/responses", {**HELLO, "user": word}).status_int == 200


def test_container_of_a_hosted_shell_is_its_owners(owners, upstream):
    a, b = owners
    container = upstream.make("container")["id"]
    environment = {"type": "container_reference", "container_id": container}
    upstream.output = [{"id": "sh_1", "type": "shell_call", "environment": environment}]
    a.make("response")
    assert [each.get(f"/containers/{container}").status_int for each in owners] == [200, 404]
    again = {**HELLO, "input": [{"type": "shell_call", "environment": environment}]}
    assert [each.post("/responses", again).status_int for each in owners] == [200, 404]


def test_approval_of_what_comes_along_needs_no_record(owners):
    asked = {"type": "mcp_approval_request", "id": "mcpr_1", "name": "x", "arguments": "{}", "server_label": "s"}
    reply = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}
    stateless = {**HELLO, "store": False}
    assert owners[0].post("/responses", {**stateless, "input": [asked, reply]}).status_int == 200
    assert owners[0].post("/responses", {**stateless, "input": [reply]}).status_int == 404


def test_who_comes_while_results_are_looked_at_waits_for_them(owners, upstream):
    a, _ = owners
    batch = a.make("batch")
    result = upstream.finish_batch(batch)[0]
    began, go = threading.Event(), threading.Event()

    def slow(call):
        del upstream.instead["retrieve_batch"]
        began.set()
        assert go.wait(WAIT)
        return json_answer(upstream.objects[batch])

    upstream.instead["retrieve_batch"] = slow
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(a.get, f"/files/{result}")
        assert began.wait(WAIT)
        second = pool.submit(a.get, f"/files/{result}")
        go.set()
        assert [each.result(WAIT).status_int for each in (first, second)] == [200, 200]


def test_expiry_of_an_upload_in_parts_is_refused_where_nobody_would_honour_it(make_owners, upstream):
    azure = {"kind": "azure-openai", "resource": "mine", "credential": "azure-key-1", "api_version": "2024-10-21"}
    settings = {"default_provider": "azure", "transports": {"https": upstream}}
    a, short = make_owners(
        "a", ("short", {"max_expires_after": "3600"}), settings=settings, **{"provider:azure": azure}
    )
    body = BODIES["create_upload"]
    upstream.calls.clear()
    asked = {**body, "expires_after": {"anchor": "created_at", "seconds": 3600}}
    for answer in (a.post("/uploads", asked), short.post("/uploads", body)):
        assert (answer.status_int, answer.json["error"]["code"]) == (400, "no_expiry")
    assert upstream.calls == [] and a.post("/uploads", body).status_int == 200


def test_ledger_that_is_moved_away_is_an_error_and_nothing_is_sent(owners, upstream, tmp_path):
    a, _ = owners
    mine = a.file()
    (tmp_path / "ledger").rename(tmp_path / "elsewhere")
    upstream.calls.clear()
    assert [a.upload().status_int, a.get("/files").status_int, a.delete(f"/files/{mine}").status_int] == [500] * 3
    assert upstream.calls == []
    (tmp_path / "elsewhere").rename(tmp_path / "ledger")
    assert a.upload().status_int == 200
