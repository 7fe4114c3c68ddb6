"""The fake of Anthropic's API says what Anthropic's own SDK understands: files in both shapes, messages, streams."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import subprocess
import threading
from datetime import datetime
from pathlib import Path

import pytest
from strict_anthropic import (
    BETA,
    DEFAULT_TEXT,
    KEY,
    StrictAnthropic,
    cut,
    error_event,
    failing,
    html,
    message,
    text,
    thinking,
    tool_use,
    waiting,
)

anthropic = pytest.importorskip("anthropic", reason="needs the anthropic package")

from anthropic.pagination import SyncPage  # noqa: E402
from anthropic.types import FileMetadata  # noqa: E402

MODEL = "claude-of-the-fake"
HELLO = [{"role": "user", "content": "Hello"}]
TOOLS = [
    {"name": name, "input_schema": {"type": "object", "properties": {}}} for name in ("get_weather", "get_time", "now")
]
TWO_TOOLS = (
    "I shall look: ünï 日本語.",
    tool_use("get_weather", {"city": "Zürich", "days": 3}),
    tool_use("get_time", {"zone": {"name": "Europe/Zurich"}}),
    tool_use("now", {}),
)


@pytest.fixture(scope="module")
def fake():
    """The fake, which knows that Anthropic's SDK has headers of its own."""
    with StrictAnthropic(lenient_client=True) as upstream:
        yield upstream
    assert upstream.problems == []


@pytest.fixture(autouse=True)
def behaved(fake):
    fake.behave()
    fake.files.clear()


@pytest.fixture
def client(fake):
    with sdk(fake) as made:
        yield made


def sdk(fake, key=KEY):
    """Anthropic's SDK, which never tries again."""
    return anthropic.Anthropic(api_key=key, base_url=fake.base_url[: -len("/v1")], max_retries=0, timeout=20)


def ask(client, **more):
    return client.messages.create(model=MODEL, max_tokens=100, messages=HELLO, **more)


def streamed(client, **more):
    """What the SDK's own accumulator makes of a stream."""
    with client.messages.stream(model=MODEL, max_tokens=100, messages=HELLO, **more) as stream:
        return stream.get_final_message()


# Files


@pytest.mark.parametrize("namespace", ["files", "beta.files"])
def test_sdk_uploads_reads_and_deletes_a_file(namespace, client, fake):
    files, more = (client.files, {}) if namespace == "files" else (client.beta.files, {"betas": [BETA]})
    made = files.upload(file=("document.pdf", b"%PDF-1.7", "application/pdf"), **more)
    assert (made.type, made.filename, made.mime_type) == ("file", "document.pdf", "application/pdf")
    assert (made.size_bytes, made.downloadable, made.id[:9]) == (8, False, "file_011C")
    assert files.retrieve_metadata(made.id, **more).created_at == made.created_at
    assert made.created_at.tzinfo is not None
    assert ("expires_at" in made.model_fields_set) is (namespace == "files")
    assert files.delete(made.id, **more).type == "file_deleted"
    with pytest.raises(anthropic.NotFoundError) as caught:
        files.retrieve_metadata(made.id, **more)
    assert caught.value.body["error"] == {"type": "not_found_error", "message": f"File not found: {made.id}"}
    assert caught.value.request_id == caught.value.body["request_id"]


def test_sdk_sets_an_expiry(client, fake):
    made = client.files.upload(file=("a.txt", b"x", "text/plain"), expires_in_seconds=7200)
    assert (made.expires_at - made.created_at).total_seconds() == pytest.approx(7200, abs=1)


def test_sdk_downloads_only_what_is_downloadable(client, fake):
    (closed,) = fake.seed(1)
    (open_,) = fake.seed(1, downloadable=True, mime_type="text/csv")
    assert client.files.download(open_).read() == b"content 0"
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.files.download(closed)
    assert caught.value.body["error"]["details"] == {"error_code": "file_not_downloadable"}


@pytest.mark.parametrize("limit", [7, 1000])
def test_sdk_pages_through_both_shapes_of_the_list_newest_first(limit, client, fake):
    newest_first = fake.seed(50)[::-1]
    beta = {"params": {"limit": limit}, "headers": {"anthropic-beta": BETA}}
    older = client.get_api_list("/v1/files", page=SyncPage[FileMetadata], model=FileMetadata, options=beta)
    assert [file.id for file in older] == newest_first
    assert [file.id for file in client.files.list(limit=limit)] == newest_first
    # the SDK reads the beta's list, but no longer walks it
    assert [file.id for file in client.beta.files.list(limit=limit, betas=[BETA])] == newest_first[:limit]


@pytest.mark.parametrize("beta", ["", BETA], ids=["general", "beta"])
def test_sdk_for_node_understands_both_surfaces(beta, node_folder, fake):
    older = fake.seed(30)
    script = shutil.copy(Path(__file__).parent / "clients" / "anthropic.mjs", node_folder)
    words = ["node", script, fake.base_url[: -len("/v1")], KEY, *filter(None, [beta])]
    done = subprocess.run(words, capture_output=True, timeout=60, cwd=node_folder)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    made = found["made"]
    assert (made["filename"], made["size_bytes"], made["downloadable"]) == ("document.pdf", 8, False)
    # the SDK reads the beta's list, but no longer walks it
    assert found["read"] == made and found["listed"] == [made["id"], *older[::-1]][: 7 if beta else None]
    if not beta:
        lives = datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(made["created_at"])
        assert lives.total_seconds() == pytest.approx(7200, abs=1)
    assert ("expires_at" in made) is (not beta)
    assert (found["text"], found["deleted"]["type"]) == (DEFAULT_TEXT, "file_deleted")
    assert found["error"] == "NotFoundError 404"


@pytest.mark.parametrize("namespace", ["messages", "beta.messages"])
def test_sdk_asks_about_a_file_by_its_id(namespace, client, fake):
    (file_id,) = fake.seed(1)
    document = {"type": "document", "source": {"type": "file", "file_id": file_id}}
    turn = [{"role": "user", "content": [document, {"type": "text", "text": "What is it about?"}]}]
    messages, more = (client.messages, {}) if namespace == "messages" else (client.beta.messages, {"betas": [BETA]})
    found = messages.create(model=MODEL, max_tokens=100, messages=turn, **more)
    assert found.content[0].text == DEFAULT_TEXT


def test_sdk_pages_backwards(client, fake):
    oldest, *_, newest = fake.seed(30)
    page = client.get_api_list(
        "/v1/files?limit=10&before_id=" + oldest, page=SyncPage[FileMetadata], model=FileMetadata,
        options={"headers": {"anthropic-beta": BETA}},
    )  # fmt: skip
    assert len(page.data) == 10
    assert newest not in [file.id for file in page.data]
    assert page.has_more


def test_list_is_quick_with_2500_files(client, fake):
    ids = fake.seed(2500)
    assert [file.id for file in client.files.list(limit=100)] == ids[::-1]


# Messages


def test_sdk_reads_a_message(client, fake):
    fake.script = [
        message(thinking("Hm."), "Hi", stop_reason="stop_sequence", stop_sequence="X", usage={"output_tokens": 9})
    ]
    answer = ask(client)
    assert [block.type for block in answer.content] == ["thinking", "text"]
    assert (answer.stop_reason, answer.stop_sequence, answer.usage.output_tokens) == ("stop_sequence", "X", 9)
    assert ask(client).content[0].text == DEFAULT_TEXT
    assert [asked["messages"] for asked in fake.messages] == [HELLO, HELLO]


def test_sdk_refers_to_files_by_the_blocks_that_suit_them(client, fake):
    (pdf,), (image,), (table,) = fake.seed(1), fake.seed(1, mime_type="image/png"), fake.seed(1, mime_type="text/csv")
    content = [
        {"type": "document", "source": {"type": "file", "file_id": pdf}},
        {"type": "image", "source": {"type": "file", "file_id": image}},
        {"type": "container_upload", "file_id": table},
        text("What is this?"),
    ]
    client.messages.create(model=MODEL, max_tokens=10, messages=[{"role": "user", "content": content}])
    assert fake.messages[0]["messages"][0]["content"] == content


@pytest.mark.parametrize("chop", [0, 7, 1])
def test_stream_with_tools_accumulates_to_the_message_that_was_prepared(chop, client, fake):
    prepared = message(thinking("Let me see."), *TWO_TOOLS, stop_reason="tool_use", usage={"output_tokens": 77})
    fake.script, fake.chop = [prepared], chop
    answer = streamed(client, tools=TOOLS)
    seen = [block.model_dump(exclude_none=True, exclude_unset=True) for block in answer.content]
    assert seen == prepared["content"]
    assert (answer.id, answer.stop_reason) == (prepared["id"], "tool_use")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (10, 77)


def test_text_of_a_stream_comes_in_several_deltas(client, fake):
    with client.messages.stream(model=MODEL, max_tokens=100, messages=HELLO) as stream:
        pieces = list(stream.text_stream)
    assert len(pieces) > 2
    assert "".join(pieces) == DEFAULT_TEXT


def test_tool_loop_is_taken_when_the_results_come_first_in_one_message(client, fake):
    first, second = tool_use("get_weather", {"city": "Bern"}), tool_use("get_time", {})
    results = [{"type": "tool_result", "tool_use_id": one["id"], "content": "fine"} for one in (first, second)]
    conversation = [
        *HELLO,
        {"role": "assistant", "content": [text("Let me look."), first, second]},
        {"role": "user", "content": [*results, text("And?")]},
    ]
    answer = client.messages.create(model=MODEL, max_tokens=10, messages=conversation, tools=TOOLS)
    assert answer.stop_reason == "end_turn" and fake.problems == []


def test_stream_waits_for_its_gate(client, fake):
    gate = threading.Semaphore(3)
    fake.script = [waiting(gate)]
    with client.messages.stream(model=MODEL, max_tokens=100, messages=HELLO) as stream:
        assert next(iter(stream)).type == "message_start"
        assert fake.wait_for(lambda: len(fake.sent) == 3)
    assert fake.stream_gone.wait(5)
    assert len(fake.sent) == 3


# Errors

CLASSES = {
    400: "BadRequestError", 401: "AuthenticationError", 403: "PermissionDeniedError", 404: "NotFoundError",
    413: "ContentTooLargeError", 429: "RateLimitError", 500: "InternalServerError", 529: "OverloadedError",
}  # fmt: skip


@pytest.mark.parametrize("status", CLASSES)
def test_sdk_raises_the_class_of_the_status(status, client, fake):
    fake.script = [failing(status, "some_error", "No.", {"retry-after": "7"}, error_code="because")]
    with pytest.raises(anthropic.APIStatusError) as caught:
        ask(client)
    names = {base.__name__ for base in type(caught.value).__mro__}
    assert CLASSES[status] in names
    assert caught.value.body["error"] == {
        "type": "some_error", "message": "No.", "details": {"error_code": "because"},
    }  # fmt: skip
    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.request_id.startswith("req_011C")


def test_wrong_key_is_an_authentication_error(fake):
    with sdk(fake, "sk-ant-wrong") as client, pytest.raises(anthropic.AuthenticationError) as caught:
        client.files.list()
    assert caught.value.body["error"] == {"type": "authentication_error", "message": "invalid x-api-key"}


def test_error_in_the_middle_of_a_stream_is_raised(client, fake):
    fake.script = [error_event(5, "overloaded_error", "Overloaded")]
    with pytest.raises(anthropic.APIStatusError) as caught:
        streamed(client)
    assert caught.value.body["error"] == {"type": "overloaded_error", "message": "Overloaded"}


def test_answer_that_breaks_off_is_noticed(client, fake):
    fake.script = [cut(5), cut(0)]
    with pytest.raises(Exception, match="(?i)incomplete|closed|connection"):
        streamed(client)
    with pytest.raises(anthropic.APIConnectionError):
        ask(client)


def test_page_of_an_edge_proxy_is_html(client, fake):
    fake.script = [html(503)]
    with pytest.raises(anthropic.InternalServerError) as caught:
        ask(client)
    assert caught.value.response.headers["content-type"].startswith("text/html")


# What a gateway must never send is recorded; what a client may get wrong is not

HEADERS = {"x-api-key": KEY, "anthropic-version": "2023-06-01", "anthropic-beta": BETA}
ANSWERED = [
    *HELLO,
    {"role": "assistant", "content": [tool_use("f", {}, "toolu_1"), tool_use("f", {}, "toolu_2")]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": f"toolu_{n}", "content": "x"} for n in (1, 2)]},
]


def with_content(*blocks):
    return {"messages": [{"role": "user", "content": list(blocks)}]}


def split_results():
    *asked, results = ANSWERED
    return {"messages": [*asked, *({"role": "user", "content": [block]} for block in results["content"])]}


def results_after_text():
    *asked, results = ANSWERED
    return {"messages": [*asked, {"role": "user", "content": [text("And?"), *results["content"]]}]}


def image(source):
    return {"type": "image", "source": source}


FAULTS = {
    "an unknown field": {"n": 1},
    "a null": {"system": None},
    "no max_tokens": {"max_tokens": None},
    "a model with its provider": {"model": "@anthropic/claude-x"},
    "a role system": {"messages": [{"role": "system", "content": "x"}, *HELLO]},
    "an empty text": with_content(text("")),
    "an unknown block": with_content({"type": "file", "file": {"file_id": "x"}}),
    "an unknown field of a block": with_content({**text("x"), "detail": "high"}),
    "a document that is none": with_content(image({"type": "base64", "media_type": "application/pdf", "data": "eA=="})),
    "no base64": with_content(image({"type": "base64", "media_type": "image/png", "data": "data:image/png,eA=="})),
    "a plain link": with_content(image({"type": "url", "url": "http://example.com/a.png"})),
    "results in two messages": split_results(),
    "results after text": results_after_text(),
    "a temperature over 1": {"temperature": 1.5},
    "temperature and top_p": {"temperature": 1, "top_p": 1},
    "a stop that is no list": {"stop_sequences": "x"},
    "metadata of the client's": {"metadata": {"user_id": "x", "trace": "y"}},
    "tools as OpenAI has them": {"tools": [{"type": "function", "function": {"name": "f"}}]},
    "a schema without its type": {"tools": [{"name": "f", "input_schema": {}}]},
    "a choice without tools": {"tool_choice": {"type": "auto"}},
    "a choice as OpenAI has it": {"tools": TOOLS, "tool_choice": {"type": "required"}},
    "a budget over the limit": {"thinking": {"type": "enabled", "budget_tokens": 2000}},
    "an effort that is none": {"output_config": {"effort": "minimal"}},
    "a format as OpenAI has it": {"output_config": {"format": {"type": "json_schema", "json_schema": {}}}},
}
MISTAKES = {
    "an unknown file": (with_content(image({"type": "file", "file_id": "file_none"})), 404),
    "a tool that nobody answered": ({"messages": ANSWERED[:2]}, 400),
    "an unknown model": ({"model": "gpt-4o"}, 404),
}


@pytest.fixture(scope="module")
def strict():
    with StrictAnthropic() as upstream:
        yield upstream


@pytest.fixture
def call(strict):
    """call(method, path, body, headers): (status, error type, what was recorded by it)."""

    def made(method, path, body=None, headers=HEADERS):
        before = len(strict.problems)
        connection = http.client.HTTPConnection("127.0.0.1", strict.port, timeout=20)
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("content-length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            value = json.loads(answer.read())
        return answer.status, value.get("error", {}).get("type"), strict.problems[before:]

    return made


def asked(call, changes):
    request = {"model": MODEL, "max_tokens": 100, "messages": HELLO, **changes}
    if request["max_tokens"] is None:
        del request["max_tokens"]
    return call("POST", "/v1/messages", json.dumps(request).encode(), {**HEADERS, "content-type": "application/json"})


@pytest.mark.parametrize("name", FAULTS)
def test_fault_of_a_gateway_is_recorded(name, call):
    status, kind, problems = asked(call, FAULTS[name])
    assert (status, kind, len(problems)) == (400, "invalid_request_error", 1)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_of_a_client_is_answered_and_not_recorded(name, call):
    changes, status = MISTAKES[name]
    assert (asked(call, changes)[0], asked(call, changes)[2]) == (status, [])


def test_requests_that_are_right_are_answered(call):
    assert asked(call, {}) == (200, None, [])
    assert asked(call, {"messages": ANSWERED}) == (200, None, [])
    assert asked(call, {"system": [text("Be brief.")], "tools": TOOLS, "tool_choice": {"type": "any"}})[0] == 200


def test_file_in_the_wrong_block_is_recorded(call, strict):
    (file_id,) = strict.seed(1)
    status, _, problems = asked(call, with_content(image({"type": "file", "file_id": file_id})))
    assert (status, len(problems)) == (400, 1)


WRONG_HEADERS = {
    "no version": {"anthropic-version": "2026-10-21"},
    "a beta twice": {"anthropic-beta": f"{BETA}, {BETA}"},
    "a bearer": {"authorization": f"Bearer {KEY}"},
    "a header of Portkey's": {"x-portkey-provider": "@anthropic"},
}


@pytest.mark.parametrize("name", WRONG_HEADERS)
def test_header_that_no_gateway_may_send_is_recorded(name, call):
    status, _, problems = call("GET", "/v1/files", headers={**HEADERS, **WRONG_HEADERS[name]})
    assert (status, len(problems)) == (400, 1)


@pytest.mark.parametrize("betas", [None, BETA, "code-execution-2025-08-25", f"{BETA},code-execution-2025-08-25"])
def test_any_beta_or_none_is_accepted(betas, call):
    others = {name: text for name, text in HEADERS.items() if name != "anthropic-beta"}
    assert call("GET", "/v1/files", headers={**others, **({"anthropic-beta": betas} if betas else {})})[0] == 200


def test_keys_are_a_clients_business_but_there_must_be_one(call):
    wrong = call("GET", "/v1/files", headers={**HEADERS, "x-api-key": "sk-ant-wrong"})
    assert wrong == (401, "authentication_error", [])
    status, _, problems = call("GET", "/v1/files", headers={**HEADERS, "x-api-key": ""})
    assert (status, problems) == (401, [])
    assert len(call("GET", "/v1/files", headers={name: HEADERS[name] for name in list(HEADERS)[1:]})[2]) == 1


QUERIES = {
    "limit=1001": 1,
    "purpose=assistants": 1,
    "after=file_x": 1,
    "page=page_x": 1,
    "after_id=file_x": 0,
    "limit=1": 0,
}


@pytest.mark.parametrize("query", QUERIES)
def test_parameters_of_the_list_are_anthropics(query, call):
    assert len(call("GET", f"/v1/files?{query}")[2]) == QUERIES[query]


def uploaded(call, name="a.pdf", head="Content-Type: application/pdf\r\n", more="", given=None):
    part = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n{head}\r\nhello\r\n'
    headers = {**(given or HEADERS), "content-type": "multipart/form-data; boundary=b"}
    status, _, problems = call("POST", "/v1/files", f"{more}{part}--b--\r\n".encode(), headers)
    return status, len(problems)


def test_form_has_a_typed_file_with_a_name_that_is_allowed_and_no_purpose(call, strict):
    assert uploaded(call) == (200, 0)
    assert list(strict.files.values())[-1][2] == b"hello"
    assert uploaded(call, head="") == (400, 1)
    assert uploaded(call, head="Content-Type: application/octet-stream\r\n") == (400, 1)
    assert uploaded(call, name="what?.pdf") == (400, 1)
    assert uploaded(call, name="x" * 256) == (400, 1)
    purpose = '--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nassistants\r\n'
    assert uploaded(call, more=purpose) == (400, 1)
    expiry = purpose.replace("purpose", "expires_in_seconds").replace("assistants", "3600")
    general = {name: text for name, text in HEADERS.items() if name != "anthropic-beta"}
    assert uploaded(call, more=expiry, given=general) == (200, 0)
    assert uploaded(call, more=expiry.replace("3600", "1"), given=general) == (400, 0)
    assert uploaded(call, head="", given=general) == (200, 0)  # which finds out the type itself
    assert uploaded(call, more=expiry) == (400, 1)  # the beta has none
