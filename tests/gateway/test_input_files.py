"""The inputs of batches and jobs: read once before the provider may begin, and judged line by line."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace

import pytest
from fakes import FakeBody
from shared_account import LINE, START, Account, Owner, batch_of, json_answer, ready_ledger, sections

from filesproxy.calls import Answer
from filesproxy.errors import TooLarge, UpstreamError
from filesproxy.gateway.input_files import lines

EXAMPLE = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def upstream():
    return Account()


@pytest.fixture
def make_owners(make_client, tmp_path):
    """A function that makes the clients of these keys, in their order, on one application with a ledger."""

    def make(*keys, **settings):
        config = sections(*keys)
        client = make_client(config, ledger=ready_ledger(tmp_path / "ledger"), default_provider="openai", **settings)
        return [Owner(client, section[len("key:") :]) for section in config if section.startswith("key:")]

    return make


@pytest.fixture
def owners(make_owners):
    return make_owners("a", "b")


def line(body, url="/v1/chat/completions", **more):
    """A line of a batch's input."""
    return json.dumps({"custom_id": "1", "method": "POST", "url": url, "body": body, **more}).encode() + b"\n"


def chat(*parts, **more):
    return {"model": "m", "messages": [{"role": "user", "content": list(parts)}], **more}


# Lines.

TEXT = b'\xef\xbb\xbf{"a":1}\n\n{"b":2}\r\n  \r\n{"c":3}\r{"d":4}'
WHOLE = [b'\xef\xbb\xbf{"a":1}', b'{"b":2}', b'{"c":3}', b'{"d":4}']


@pytest.mark.parametrize("size", range(1, len(TEXT) + 1))
def test_lines_are_the_same_however_they_are_cut(size):
    chunks = [TEXT[start : start + size] for start in range(0, len(TEXT), size)]
    assert list(lines(iter(chunks), "file")) == WHOLE


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r", b"\n\n", b"\r\n\r\n", b"\n\r"])
@pytest.mark.parametrize("last", [True, False])
def test_lines_are_the_same_whatever_ends_them(end, last):
    text = end.join(WHOLE) + end * last
    for place in range(len(text) + 1):
        assert list(lines(iter([text[:place], b"", text[place:]]), "file")) == WHOLE


def test_lines_of_random_files_are_those_that_python_splits():
    random_ = random.Random(7)
    for _ in range(300):
        text = bytes(random_.choices(b"ab \r\n\x0b\x85", k=random_.randrange(40)))
        cuts = sorted(random_.choices(range(len(text) + 1), k=4))
        chunks = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)])]
        expected = [each for each in text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n") if each.strip()]
        assert list(lines(iter(chunks), "file")) == expected


@pytest.mark.parametrize("text", [b"", b"\n", b"\r\n\r\n", b"   \n\t\r"])
def test_file_without_anything_has_no_lines(text):
    assert list(lines(iter([text]), "file")) == []


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_line_has_a_length_at_most(size, end, monkeypatch):
    monkeypatch.setattr("filesproxy.gateway.input_files.MAX_LINE_BYTES", 10)

    def cut(text):
        return iter([text[start : start + size] for start in range(0, len(text), size)])

    assert list(lines(cut(b"x" * 10 + b"\n" + b"y" * 10 + end), "file")) == [b"x" * 10, b"y" * 10]
    with pytest.raises(TooLarge, match="a line of more than 10 bytes"):
        list(lines(cut(b"x" * 10 + b"\n" + b"y" * 11 + end), "file"))


def test_line_without_end_is_refused_before_it_has_come_whole(monkeypatch):
    monkeypatch.setattr("filesproxy.gateway.input_files.MAX_LINE_BYTES", 10)
    read = []
    chunks = (read.append(number) or b"xxxx" for number in range(1000))
    with pytest.raises(TooLarge):
        list(lines(chunks, "file"))
    assert len(read) == 3


def test_file_has_a_size_at_most(monkeypatch):
    monkeypatch.setattr("filesproxy.gateway.input_files.MAX_BYTES", 20)
    assert len(list(lines(iter([b"x\n"] * 10), "file"))) == 10
    with pytest.raises(TooLarge, match="more than 20 bytes") as caught:
        list(lines(iter([b"x\n"] * 11), "input_file_id"))
    assert caught.value.param == "input_file_id"


# Batches.


def test_batch_is_created_once_its_input_was_read(owners, upstream):
    a, _ = owners
    file_id = a.file(LINE * 3)
    upstream.calls.clear()
    assert a.post("/batches", batch_of(file_id)).status_int == 200
    assert upstream.operations == ["retrieve_file_content", "create_batch"]
    assert [call.file_id for call in upstream.calls] == [file_id, ""]


def test_input_is_judged_once_for_each_owner(make_owners, upstream):
    one, two, other = make_owners(("one", {"owner": "shop"}), ("two", {"owner": "shop"}), ("other", {}))
    file_id = one.file()
    upstream.calls.clear()
    assert [owner.post("/batches", batch_of(file_id)).status_int for owner in (one, one, two)] == [200] * 3
    assert upstream.operations.count("retrieve_file_content") == 1
    assert other.post("/batches", batch_of(file_id)).status_int == 404
    upstream.calls.clear()
    assert one.post("/fine_tuning/jobs", {"model": "m", "training_file": file_id}).status_int == 200
    assert upstream.operations[0] == "retrieve_file_content"  # other lines are fit for a job


def test_verdict_of_one_owner_is_not_that_of_another(make_owners, upstream):
    a, b = make_owners(("a", {"foreign_ids": "yes"}), ("b", {"foreign_ids": "yes"}))
    mine = a.file()
    old = upstream.file(line(chat({"type": "file", "file": {"file_id": mine}})), created_at=START - 10**7)["id"]
    assert [owner.post("/batches", batch_of(old)).status_int for owner in (a, b, a)] == [200, 404, 200]


def test_verdict_outlives_the_application(make_owners, upstream):
    [a, _] = make_owners("a", "b")
    file_id = a.file()
    assert a.post("/batches", batch_of(file_id)).status_int == 200
    [again, _] = make_owners("a", "b")
    upstream.calls.clear()
    assert again.post("/batches", batch_of(file_id)).status_int == 200 and upstream.operations == ["create_batch"]


@pytest.mark.parametrize("is_deleted", [True, False])
def test_verdict_is_not_that_of_a_new_file_to_which_the_host_gives_the_same_id(is_deleted, owners, upstream):
    a, b = owners
    foreign = b.file()
    upstream.new_id = {"file": "file-by-name", "batch": "batch_1"}.get
    assert a.post("/batches", batch_of(a.file())).status_int == 200
    if is_deleted:
        assert a.delete("/files/file-by-name").status_int == 200
    file_id = a.file(line(chat(user=foreign)))
    upstream.calls.clear()
    assert a.post("/batches", batch_of(file_id)).status_int == 404 and "create_batch" not in upstream.operations


def test_refusal_is_no_verdict(owners, upstream):
    a, b = owners
    foreign = b.file()
    file_id = a.file(line(chat({"type": "file", "file": {"file_id": foreign}})))
    for _ in range(2):
        upstream.calls.clear()
        assert a.post("/batches", batch_of(file_id)).status_int == 404
        assert upstream.operations == ["retrieve_file_content"]


NAMING = {
    "chat": lambda item_id: line(chat({"type": "file", "file": {"file_id": item_id}})),
    "chat on Azure": lambda item_id: line(
        chat({"type": "file", "file": {"file_id": item_id}}), url="/chat/completions"
    ),
    "address with a slash at its end": lambda item_id: line(
        chat({"type": "file", "file": {"file_id": item_id}}), url="/v1/chat/completions/"
    ),
    "response": lambda item_id: line(
        {"model": "m", "input": [{"content": [{"type": "input_file", "file_id": item_id}]}]}, url="/v1/responses"
    ),
    "mask": lambda item_id: line(
        {"model": "m", "tools": [{"type": "image_generation", "input_image_mask": {"file_id": item_id}}]},
        url="/v1/responses",
    ),
}


def escaped(text):
    """A text of JSON in which every character is escaped."""
    return "".join(f"\\u{ord(each):04x}" for each in text)


ANYWHERE = {
    "operation that is not served here": lambda item_id: line({"anything": item_id}, url="/v1/images/edits"),
    "metadata": lambda item_id: line(chat(metadata={"k": item_id})),
    "custom id": lambda item_id: line(chat(), custom_id=item_id),
    "field beside the body": lambda item_id: line(chat(), extra={"deep": [item_id]}),
    "other spelling": lambda item_id: line(chat(user=item_id.upper())),
    "fullwidth letters": lambda item_id: line(chat(user="".join(chr(ord(each) + 0xFEE0) for each in item_id))),
    "escaped": lambda item_id: LINE.replace(b'"m"', f'"{escaped(item_id)}"'.encode()),
    "after a byte order mark": lambda item_id: b"\xef\xbb\xbf" + line(chat(user=item_id)),
}  # fmt: skip


@pytest.mark.parametrize("place", [0, 1, 5])
@pytest.mark.parametrize("how", [*NAMING, *ANYWHERE])
def test_line_that_names_what_is_anothers_is_refused_before_the_batch_is_made(how, place, owners, upstream):
    a, b = owners
    foreign = b.file()
    named = {**NAMING, **ANYWHERE}[how](foreign)
    content = [LINE] * 5
    content.insert(place, named)
    answer = a.post("/batches", batch_of(a.file(b"".join(content))))
    error = answer.json["error"]
    assert (answer.status_int, error["code"], error["param"]) == (404, "not_found", "input_file_id")
    assert f"Line {place + 1} of the file" in error["message"]
    assert "create_batch" not in upstream.operations


@pytest.mark.parametrize("how", NAMING)
def test_line_that_names_what_nobody_has_gets_the_same_refusal(how, owners, upstream):
    a, b = owners
    foreign, missing, own = b.file(), upstream.new_id("file"), a.file()
    answers = [a.post("/batches", batch_of(a.file(NAMING[how](each)))) for each in (foreign, missing, own)]
    assert [answer.status_int for answer in answers] == [404, 404, 200]
    assert answers[0].text.replace(foreign, missing) == answers[1].text


def test_line_for_a_fine_tuned_model_of_another_is_refused(owners, upstream):
    a, b = owners
    job = b.make("job")
    _, model, _ = upstream.finish_job(job)
    b.get(f"/fine_tuning/jobs/{job}")
    for name in (model, "ft:nobody's"):
        for url in ("/v1/chat/completions", "/v1/embeddings", "/v1/completions"):
            content = line({"model": name, "input": "hello"}, url=url)
            assert a.post("/batches", batch_of(a.file(content))).status_int == 404, url
    assert b.post("/batches", batch_of(b.file(line(chat(model=model))))).status_int == 200


UNREADABLE = {
    "no JSON": b"hello\n",
    "half a line": LINE[:30],
    "list": b"[]\n",
    "text": b'"file-1"\n',
    "key that comes twice": b'{"custom_id":"1","body":{"a":1},"body":{"b":2}}\n',
    "key that comes twice inside": b'{"custom_id":"1","body":{"a":1,"a":2}}\n',
    "no body": b'{"custom_id":"1","url":"/v1/chat/completions"}\n',
    "no address": b'{"custom_id":"1","body":{"a":1}}\n',
    "address in capitals": b'{"url":"/V1/responses","body":{"a":1}}\n',
    "address with an empty segment": b'{"url":"/v1//responses","body":{"a":1}}\n',
    "address with a query": b'{"url":"/v1/responses?a=1","body":{"a":1}}\n',
    "address elsewhere": b'{"url":"https://a.example/v1/responses","body":{"a":1}}\n',
    "body that is no object": b'{"custom_id":"1","url":"/v1/chat/completions","body":"x"}\n',
    "not UTF-8": b'{"body":{"a":"\xff"}}\n',
    "another encoding": '{"body":{}}\n'.encode("utf-16"),
    "compressed": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "two values": b'{"body":{}}{"body":{}}\n',
}


@pytest.mark.parametrize("how", UNREADABLE)
def test_line_that_cannot_be_judged_is_refused(how, owners, upstream):
    a, _ = owners
    answer = a.post("/batches", batch_of(a.file(LINE + UNREADABLE[how])))
    error = answer.json["error"]
    assert (answer.status_int, error["code"], error["param"]) == (400, "invalid_input_file", "input_file_id")
    assert "Line 2 of the file" in error["message"] and "create_batch" not in upstream.operations


def test_field_of_a_line_that_is_not_known_is_refused_unless_it_is_open(make_owners, upstream):
    content = line({"model": "m", "attachments": []}, url="/v1/responses")
    a, _ = make_owners("a", "b")
    answer = a.post("/batches", batch_of(a.file(content)))
    assert (answer.status_int, answer.json["error"]["code"]) == (400, "unknown_field")
    assert "attachments" in answer.json["error"]["message"] and "create_batch" not in upstream.operations
    a, _ = make_owners("a", "b", allow_fields="attachments")
    assert a.post("/batches", batch_of(a.file(content))).status_int == 200


@pytest.mark.parametrize("name,content", [("MAX_BYTES", LINE * 3), ("MAX_LINE_BYTES", b"[" + b" " * 300 + b"]")])
def test_input_that_is_too_long_to_judge_is_refused(name, content, owners, upstream, monkeypatch):
    a, _ = owners
    monkeypatch.setattr(f"filesproxy.gateway.input_files.{name}", 200)
    answer = a.post("/batches", batch_of(a.file(content)))
    assert (answer.status_int, answer.json["error"]["param"]) == (413, "input_file_id")
    assert "create_batch" not in upstream.operations


def test_empty_input_is_for_the_provider_to_judge(owners):
    a, _ = owners
    assert a.post("/batches", batch_of(a.file(b""))).status_int == 200


@pytest.mark.parametrize("status", [403, 404, 500])
def test_input_that_the_provider_does_not_give_makes_no_batch(status, owners, upstream):
    a, _ = owners
    file_id = a.file()
    upstream.instead["retrieve_file_content"] = lambda call: json_answer({"error": {"message": "no"}}, status)
    answer = a.post("/batches", batch_of(file_id))
    assert answer.status_int == (502 if status == 403 else status) and "create_batch" not in upstream.operations
    del upstream.instead["retrieve_file_content"]
    assert a.post("/batches", batch_of(file_id)).status_int == 200


def test_input_that_ends_early_is_not_judged_by_its_beginning(owners, upstream):
    a, _ = owners
    file_id = a.file()
    body = FakeBody([LINE, UpstreamError("The provider's answer ended early.")])
    upstream.instead["retrieve_file_content"] = lambda call: Answer(200, {}, body=body)
    assert a.post("/batches", batch_of(file_id)).status_int == 502
    assert body.closed and "create_batch" not in upstream.operations


def test_content_is_closed_when_a_line_is_refused(owners, upstream):
    a, _ = owners
    file_id = a.file()
    body = FakeBody([b"hello\n", LINE])
    upstream.instead["retrieve_file_content"] = lambda call: Answer(200, {}, body=body)
    assert a.post("/batches", batch_of(file_id)).status_int == 400 and body.closed


def test_lines_take_memory_one_at_a_time(make_owners, upstream):
    a, _ = make_owners("a", "b", max_json_in_flight="20000")
    assert a.post("/batches", batch_of(a.file(LINE * 500))).status_int == 200
    wide = json.dumps({"body": {"a": [0] * 5000}}).encode()
    answer = a.post("/batches", batch_of(a.file(LINE + wide)))
    assert answer.status_int in (413, 503) and upstream.operations.count("create_batch") == 1


@pytest.mark.parametrize("value", [None, 1, [], {}, "", "../files", "a b"])
def test_name_of_an_input_that_can_be_none_is_not_asked_for(value, owners, upstream):
    a, _ = owners
    upstream.calls.clear()
    a.post("/batches", {"input_file_id": value})
    assert "retrieve_file_content" not in upstream.operations


# Fine-tuning.


@pytest.mark.parametrize("field", ["training_file", "validation_file"])
def test_both_inputs_of_a_job_are_judged(field, owners, upstream):
    a, b = owners
    foreign = b.file()
    good = a.file(json.dumps(EXAMPLE).encode())
    image = {"type": "image_url", "image_url": {"file_id": foreign}}
    bad = a.file(json.dumps({"messages": [{"role": "user", "content": [image]}]}).encode())
    body = {"model": "m", "training_file": good, "validation_file": good}
    assert a.post("/fine_tuning/jobs", body).status_int == 200
    upstream.calls.clear()
    answer = a.post("/fine_tuning/jobs", {**body, field: bad})
    assert (answer.status_int, answer.json["error"]["param"]) == (404, field)
    assert "create_fine_tuning_job" not in upstream.operations


def test_example_of_a_job_needs_no_body(owners):
    a, _ = owners
    for example in (EXAMPLE, {"prompt": "p", "completion": "c"}, {"input": {"messages": []}, "preferred_output": []}):
        training = a.file(json.dumps(example).encode() + b"\n")
        assert a.post("/fine_tuning/jobs", {"model": "m", "training_file": training}).status_int == 200


def test_example_of_a_job_must_not_name_what_is_anothers_anywhere(owners, upstream):
    a, b = owners
    training = a.file(json.dumps({**EXAMPLE, "extra": {"k": [b.file()]}}).encode())
    assert a.post("/fine_tuning/jobs", {"model": "m", "training_file": training}).status_int == 404
    assert "create_fine_tuning_job" not in upstream.operations


def test_verdict_is_of_the_endpoint_that_it_was_made_for(owners, upstream):
    a, _ = owners
    file_id = a.file(line({**chat(), "new_field": 1}))
    answers = [
        a.post("/batches", batch_of(file_id, endpoint=each)) for each in ("/v1/chat/completions", "/v1/responses")
    ]
    assert [each.status_int for each in answers] == [200, 400]


@pytest.mark.parametrize("endpoint", ["responses", "/V1/responses", ["/v1/responses"], "/v1/responses?a=1"])
def test_endpoint_in_an_unusual_spelling_is_refused(endpoint, owners, upstream):
    answer = owners[0].post("/batches", batch_of(owners[0].file(), endpoint=endpoint))
    assert (answer.status_int, answer.json["error"]["param"]) == (400, "endpoint")


def test_input_has_so_many_lines_at_most(owners, upstream, monkeypatch):
    monkeypatch.setattr("filesproxy.gateway.input_files.MAX_LINES", 3)
    a, _ = owners
    assert a.post("/batches", batch_of(a.file(LINE * 3))).status_int == 200
    assert a.post("/batches", batch_of(a.file(LINE * 4))).status_int == 413


def test_id_of_another_owner_in_the_path_of_a_line_is_refused(owners, upstream):
    a, b = owners
    upstream.new_id = lambda kind: f"{kind}_abcdef012345" if kind == "vector_store" else f"{kind}-1"
    foreign = b.make("vector_store")
    named = LINE.replace(b"/v1/chat/completions", f"/v1/vector_stores/{foreign}/search".encode())
    assert a.post("/batches", batch_of(a.file(named))).status_int == 404


@pytest.mark.parametrize("content", [LINE + b"not JSON" + LINE * 3, LINE * 3])
def test_input_file_is_closed_however_its_judging_ends(content, owners, upstream):
    bodies = []

    def answered(call):
        bodies.append(FakeBody([content]))
        return Answer(200, {"content-type": "text/plain"}, body=bodies[-1])

    upstream.instead["retrieve_file_content"] = answered
    owners[0].post("/batches", batch_of(owners[0].file()))
    assert [body.closed for body in bodies] == [True]


def test_judging_ends_when_the_time_of_the_client_is_over(owners, upstream, monkeypatch):
    now = iter(range(0, 10**6, 5))
    monkeypatch.setattr("filesproxy.gateway.input_files.time", SimpleNamespace(monotonic=lambda: next(now)))
    a, _ = owners
    answer = a.post("/batches", batch_of(a.file(LINE * 3)), x_portkey_request_timeout="8000")
    assert answer.status_int == 408 and "create_batch" not in upstream.operations
