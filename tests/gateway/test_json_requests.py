"""JSON requests through the application: where they go, what is passed on, and how an event stream ends."""

from __future__ import annotations

import io
import json
from wsgiref.util import setup_testing_defaults

import pytest
import webtest
from configurations import hashed
from fakes import NOT_ENCODED, OPENAI, FakeBody, FakeUpstream, form, form_type

from filesproxy import create_app
from filesproxy.calls import Answer, Call, Target
from filesproxy.errors import ClientAborted, FilesproxyError, UpstreamError, UpstreamTimeout
from filesproxy.exchange.run import run
from filesproxy.operations import OPERATIONS, ROUTES
from filesproxy.providers import PROVIDERS

CHAT = {"model": "gpt-5", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"id": "c", "object": "chat.completion", "choices": [], "x": [1]}
FILE_PART = {"type": "file", "file": {"file_id": "file-1", "mime_type": "application/pdf"}}
EVENTS = [b'data: {"a":1}\n\n', b'data: {"a":2}\n\ndata: [DONE]\n\n']
SSE = {"content-type": "text/event-stream; charset=utf-8"}
SAVED = {
    "filesproxy": {"open_access": "yes"},
    "provider:openai": {"credential": "sk-saved-openai"},
    "provider:claude": {"kind": "anthropic", "credential": "sk-saved-claude"},
    "provider:other": {"kind": "openai", "base_url": "https://other.example/v1", "credential": "sk-saved-other"},
    "provider:azure-dated": {"kind": "azure-openai", "resource": "res", "credential": "sk-saved-azure"},
    "provider:azure-v1": {"kind": "azure-openai", "resource": "res", "api_version": "v1", "credential": "sk-saved-v1"},
}
MESSAGE = {"id": "msg_1", "model": "claude", "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn",
           "usage": {"input_tokens": 1, "output_tokens": 2}}  # fmt: skip


def post(client, body=CHAT, headers=OPENAI, path="/v1/chat/completions", status=200):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(path, body, {**headers, "content-type": "application/json"}, status=status)


def user(*parts):
    return {**CHAT, "messages": [{"role": "user", "content": list(parts)}]}


def refused(client, body, headers=OPENAI, path="/v1/chat/completions", status=400):
    return post(client, body, headers, path, status).json["error"]


def streaming(upstream, chunks=EVENTS, **headers):
    upstream.headers, upstream.chunks = {**SSE, **headers}, list(chunks)


def events(answer):
    return [json.loads(line[6:]) for line in answer.text.split("\n") if line.startswith("data: {")]


# Where a request goes


@pytest.mark.parametrize(
    "model,url,credential,sent",
    [
        ("@openai/gpt-5", "https://api.openai.com/v1/chat/completions", "Bearer sk-saved-openai", "gpt-5"),
        ("@other/org/m:1", "https://other.example/v1/chat/completions", "Bearer sk-saved-other", "org/m:1"),
        ("@other/@openai/x", "https://other.example/v1/chat/completions", "Bearer sk-saved-other", "@openai/x"),
    ],
)
def test_model_alone_chooses_the_saved_provider_and_loses_its_prefix(
    model, url, credential, sent, make_client, upstream
):
    upstream.answers(COMPLETION)
    answer = post(make_client(SAVED), {**CHAT, "model": model}, {})
    (call,) = upstream.calls
    assert (call.url, call.headers["authorization"], call.json["model"]) == (url, credential, sent)
    assert answer.headers["x-portkey-provider"] == "@" + model[1:].partition("/")[0]
    assert answer.json == COMPLETION


def test_model_alone_reaches_anthropic(make_client, upstream):
    upstream.answers(MESSAGE)
    answer = post(make_client(SAVED), {**CHAT, "model": "@claude/claude-opus-4-8"}, {})
    (call,) = upstream.calls
    assert call.url == "https://api.anthropic.com/v1/messages"
    assert (call.headers["x-api-key"], call.json["model"]) == ("sk-saved-claude", "claude-opus-4-8")
    assert answer.json["choices"][0]["message"]["content"] == "Hi"


@pytest.mark.parametrize(
    "headers",
    [{"x-portkey-provider": "@other"}, {"x-portkey-virtual-key": "other"}, {"x-portkey-virtual-key": "@other"},
     {"x-portkey-provider": "@other", "x-portkey-virtual-key": "other"}],
)  # fmt: skip
@pytest.mark.parametrize("model", ["gpt-5", "@other/gpt-5"])
def test_header_names_the_provider_of_a_model_that_names_none_or_the_same(headers, model, make_client, upstream):
    upstream.answers(COMPLETION)
    post(make_client(SAVED), {**CHAT, "model": model}, headers)
    (call,) = upstream.calls
    assert (call.url, call.json["model"]) == ("https://other.example/v1/chat/completions", "gpt-5")
    assert call.headers["authorization"] == "Bearer sk-saved-other"


@pytest.mark.parametrize("named", ["@local", "@openai", "openai", "local"])
def test_model_wins_over_the_header_of_a_client_that_also_has_files(named, make_client, upstream, tmp_path):
    """One client, whose header says where its files are, was told that this provider keeps files only."""
    upstream.answers(COMPLETION)
    headers = {"x-portkey-provider": named, "authorization": "Bearer sk-caller"}
    client = make_client({**SAVED, "provider:local": {"folder": str(tmp_path)}})
    answer = post(client, {**CHAT, "model": "@other/gpt-5"}, headers)
    (call,) = upstream.calls
    assert (call.url, call.json["model"]) == ("https://other.example/v1/chat/completions", "gpt-5")
    assert call.headers["authorization"] == "Bearer sk-saved-other"
    assert answer.headers["x-portkey-provider"] == "@other"


def test_header_that_is_wrong_is_refused_beside_any_model(make_client, upstream):
    error = refused(make_client(SAVED), {**CHAT, "model": "@other/gpt-5"}, {"x-portkey-provider": "@nowhere"})
    assert (error["code"], error["param"]) == ("unknown_provider", "x-portkey-provider") and upstream.calls == []


def test_plain_provider_in_the_header_gets_the_callers_credential_and_never_the_saved_one(make_client, upstream):
    upstream.answers(COMPLETION)
    post(make_client(SAVED), {**CHAT, "model": "@openai/gpt-5"}, OPENAI)
    (call,) = upstream.calls
    assert (call.headers["authorization"], call.json["model"]) == ("Bearer sk-caller", "gpt-5")


def test_prefix_that_names_no_provider_is_part_of_the_model(client, upstream):
    upstream.answers(COMPLETION)
    post(client, {**CHAT, "model": "@cf/meta/llama"})
    assert upstream.calls[0].json["model"] == "@cf/meta/llama"


@pytest.mark.parametrize("model", ["gpt-5", "@nowhere/gpt-5", "@other", "other/gpt-5", "@/gpt-5"])
def test_request_that_names_no_known_provider_is_400(model, make_client, upstream):
    error = refused(make_client(SAVED), {**CHAT, "model": model}, {})
    assert error["code"] == "unknown_provider" and upstream.calls == []


@pytest.mark.parametrize("headers,param", [({}, "model"), ({"x-portkey-provider": "@openai"}, "x-portkey-provider")])
def test_slug_of_a_provider_without_a_saved_credential_is_400(headers, param, client, upstream):
    error = refused(client, {**CHAT, "model": "@openai/gpt-5"}, {"authorization": "Bearer sk-caller", **headers})
    assert (error["code"], error["param"]) == ("unknown_provider", param)
    assert upstream.calls == []


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/input_tokens", "/v1/fine_tuning/jobs"])
def test_model_chooses_the_provider_of_every_json_request_that_has_one(path, make_client, upstream):
    upstream.answers({"id": "r"})
    post(make_client(SAVED), {"model": "@other/m", "input": "x"}, {}, path)
    assert upstream.calls[0].url == "https://other.example" + path
    assert upstream.calls[0].json == {"model": "m", "input": "x"}


def test_request_that_names_no_provider_goes_to_the_default_one(make_client, upstream):
    upstream.answers(COMPLETION)
    config = {**SAVED, "filesproxy": {"open_access": "yes", "default_provider": "other"}}
    post(make_client(config), {**CHAT, "model": "@nowhere/gpt-5"}, {})
    assert upstream.calls[0].url.startswith("https://other.example/")
    assert upstream.calls[0].json["model"] == "@nowhere/gpt-5"


KEYED = {
    **{name: section for name, section in SAVED.items() if name.startswith("provider:")},
    "key:chats": {"sha256": hashed("key-chats"), "providers": "openai", "operations": "create_chat_completion"},
    "key:files": {"sha256": hashed("key-files"), "providers": "*", "operations": "upload_file list_files"},
}


@pytest.mark.parametrize(
    "key,path,model,status",
    [
        ("key-chats", "/v1/chat/completions", "@openai/m", 200),
        ("key-chats", "/v1/chat/completions", "@claude/m", 403),
        ("key-chats", "/v1/responses", "@openai/m", 403),
        ("key-chats", "/v1/batches", "@openai/m", 403),
        ("key-files", "/v1/chat/completions", "@openai/m", 403),
        ("key-none", "/v1/chat/completions", "@openai/m", 401),
        ("", "/v1/chat/completions", "@openai/m", 401),
    ],
)
def test_gateway_key_allows_only_its_operations_and_providers(key, path, model, status, make_client, upstream):
    upstream.answers(COMPLETION)
    post(make_client(KEYED), {**CHAT, "model": model}, {"x-portkey-api-key": key}, path, status)
    assert len(upstream.calls) == (status == 200)


def test_key_without_the_operation_is_refused_before_the_body_is_read(make_client, access_log):
    post(make_client(KEYED), b"[" * 1000, {"x-portkey-api-key": "key-files"}, status=403)
    assert access_log()[-1]["bytes_in"] == 0


@pytest.mark.parametrize(
    "header", ["openai-organization", "x-portkey-openai-project", "x-api-key", "anthropic-workspace-id"]
)
def test_scope_header_with_a_provider_that_the_model_names_is_400(header, make_client, upstream):
    error = refused(make_client(SAVED), {**CHAT, "model": "@openai/m"}, {header: "org-1"})
    assert error["param"] == header and upstream.calls == []


# Passed through


def test_body_and_answer_are_passed_through_unchanged(client, upstream):
    upstream.answers(COMPLETION, 201, x_request_id="req-1", openai_processing_ms="5", set_cookie="a=b")
    body = {**CHAT, "seed": 5, "n": 3, "metadata": {"a": "é\ud83c"}, "unknown": [None, 1.5], "stream": False}
    answer = post(client, body)
    (call,) = upstream.calls
    assert (call.method, call.url, call.query) == ("POST", "https://api.openai.com/v1/chat/completions", {})
    assert call.json == body and call.expects == "json"
    assert (answer.status_int, answer.json, answer.headers["x-request-id"]) == (200, COMPLETION, "req-1")
    assert answer.content_type == "application/json" and "set-cookie" not in answer.headers
    assert upstream.bodies[0].closed


def test_mime_type_of_a_file_part_is_not_sent_to_openai_and_nothing_else_is_lost(client, upstream):
    upstream.answers(COMPLETION)
    text = {"type": "text", "text": "a", "mime_type": "kept"}
    data = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:,x", "x": 1}, "y": {"mime_type": "kept"}}
    messages = [{"role": "user", "content": [text, FILE_PART, data]}, {"role": "assistant", "content": None, "z": 1}]
    post(client, {**CHAT, "messages": messages, "mime_type": "kept"})
    plain = {"type": "file", "file": {"file_id": "file-1"}}
    assert upstream.calls[0].json["messages"] == [
        {"role": "user", "content": [text, plain, data]}, {"role": "assistant", "content": None, "z": 1}]  # fmt: skip
    assert upstream.calls[0].json["mime_type"] == "kept"


def test_query_is_passed_through_with_repeated_list_items(client, upstream):
    upstream.answers({"id": "resp_1"})
    query = "include[]=a&include[]=b%26c&starting_after=5&limit=&metadata[a]=x"
    client.get(f"/v1/responses/resp_1?{query}", headers=OPENAI)
    assert upstream.calls[0].query == {
        "include[]": ["a", "b&c"], "starting_after": "5", "limit": "", "metadata[a]": "x"}  # fmt: skip


@pytest.mark.parametrize("query", ["a=1&a=2", "a%0d%0ab=1", "a%20b=1", "=x", "a]=1", "é=1", "x" * 70 + "=1",
                                   "&".join(f"a[]={n}" for n in range(40))])  # fmt: skip
def test_malformed_query_is_400(query, client, upstream):
    client.get(f"/v1/responses/resp_1?{query}", headers=OPENAI, status=400)
    assert upstream.calls == []


BODYLESS = [
    path.replace(":id", "id_1")
    for method, path, _, *_ in ROUTES
    if method == "POST" and path.endswith(("/cancel", "/pause", "/resume"))
]


@pytest.mark.parametrize("path", BODYLESS)
@pytest.mark.parametrize("body", [b"", b"{}", b"garbage"])
def test_post_of_an_operation_without_a_body_sends_none(path, body, client, upstream):
    upstream.answers({"id": "id_1", "status": "cancelled"})
    assert client.post(path, body, OPENAI).json["status"] == "cancelled"
    (call,) = upstream.calls
    assert (call.method, call.json, call.url) == ("POST", None, "https://api.openai.com" + path)


PASSED = [
    (method, path, operation)
    for method, path, operation, *_ in ROUTES
    if not path.startswith(("/v1/files", "/v1/health", "/v1/chat")) and path != "/"
]
AT_ANTHROPIC = ("list_models", "retrieve_model")  # which has them in its own way


def sent(client, method, path, headers, status=200):
    """Send a request to this route, with a body if it needs one."""
    path = path.replace(":id", "id_1").replace(":model", "a-lab/a-model:8b")
    if path.endswith("/parts"):
        body, content_type = form(("data", "blob", "", b"x")), form_type()
    else:
        body, content_type = (b'{"a": 1}' if method == "POST" else b""), "application/json"
    headers = {**headers, "content-type": content_type}
    return client.request(path, method=method, body=body, headers=headers, status=status)


@pytest.mark.parametrize("method,path,operation", [row for row in PASSED if OPERATIONS[row[2]].answer != "bytes"])
def test_every_other_route_is_passed_through_to_an_openai_compatible_host(
    method, path, operation, make_client, upstream, access_log
):
    upstream.answers({"id": "id_1", "object": "thing", "data": [1]})
    answer = sent(make_client(SAVED), method, path, {"x-portkey-provider": "@other"})
    (call,) = upstream.calls
    assert (call.method, call.operation) == (method, operation)
    assert call.url == "https://other.example" + path.replace(":id", "id_1").replace(":model", "a-lab/a-model:8b")
    assert call.headers["authorization"] == "Bearer sk-saved-other"
    assert answer.json == {"id": "id_1", "object": "thing", "data": [1]}
    assert access_log()[-1]["operation"] == operation


@pytest.mark.parametrize("method,path,operation", PASSED)
@pytest.mark.parametrize("provider", ["local", "@claude"])
def test_every_other_route_is_400_if_the_provider_does_not_have_it(
    method, path, operation, provider, make_client, upstream, tmp_path
):
    if provider == "@claude" and operation in AT_ANTHROPIC:
        return
    client = make_client({**SAVED, "provider:local": {"folder": str(tmp_path)}})
    answer = sent(client, method, path, {"x-portkey-provider": provider}, 400)
    assert answer.json["error"]["code"] == "unsupported_operation"
    assert answer.headers["x-should-retry"] == "false"
    assert upstream.calls == []


def test_chat_with_the_local_store_is_400_with_the_reason(make_client, tmp_path):
    client = make_client({"provider:local": {"folder": str(tmp_path)}})
    answer = post(client, CHAT, {"x-portkey-provider": "local"}, status=400)
    assert answer.json["error"]["code"] == "unsupported_operation"
    assert "files only" in answer.json["error"]["message"] and answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    "path", ["/v1/batches/..", "/v1/responses/a%20b", "/v1/uploads/a%2fb/cancel", "/v1/batches/a;b/cancel"]
)
def test_id_that_no_provider_would_issue_is_refused(path, client, upstream):
    method = client.post if path.endswith("cancel") else client.get
    method(path, headers=OPENAI, status=[400, 404])
    assert upstream.calls == []


def test_error_of_the_provider_is_passed_on_in_openais_envelope(client, upstream):
    error = {"message": "bad model", "type": "invalid_request_error", "param": "model", "code": "model_not_found"}
    upstream.answers({"error": error}, 404, x_request_id="req-9")
    answer = post(client, status=404)
    assert answer.json == {"error": error} and answer.headers["x-request-id"] == "req-9"
    assert upstream.bodies[0].closed


# Azure

AZURE = "https://res.openai.azure.com/openai"


@pytest.mark.parametrize(
    "headers,model", [({}, "gpt-5"), ({"x-portkey-azure-deployment-id": "my-deployment"}, "my-deployment")]
)
def test_dated_azure_has_the_deployment_in_the_path(headers, model, make_client, upstream):
    upstream.answers(COMPLETION)
    post(make_client(SAVED), user(FILE_PART), {"x-portkey-provider": "@azure-dated", **headers})
    (call,) = upstream.calls
    assert call.url == f"{AZURE}/deployments/{model}/chat/completions"
    assert (call.query, call.headers["api-key"]) == ({"api-version": "2024-10-21"}, "sk-saved-azure")
    assert call.json["messages"][0]["content"][0] == {"type": "file", "file": {"file_id": "file-1"}}


@pytest.mark.parametrize(
    "headers,model", [({}, "gpt-5"), ({"x-portkey-azure-deployment-id": "my-deployment"}, "my-deployment")]
)
def test_azure_v1_has_the_deployment_as_its_model(headers, model, make_client, upstream):
    upstream.answers(COMPLETION)
    post(make_client(SAVED), CHAT, {"x-portkey-provider": "@azure-v1", **headers})
    (call,) = upstream.calls
    assert (call.url, call.query, call.json["model"]) == (f"{AZURE}/v1/chat/completions", {}, model)


def test_azure_deployment_header_may_replace_a_missing_model(make_client, upstream):
    upstream.answers(COMPLETION)
    headers = {"x-portkey-provider": "@azure-dated", "x-portkey-azure-deployment-id": "d1"}
    post(make_client(SAVED), {"messages": CHAT["messages"]}, headers)
    assert upstream.calls[0].url == f"{AZURE}/deployments/d1/chat/completions"


@pytest.mark.parametrize("model", ["../../files", "a/b", "a?b", "a b", "", "..", "é", "a" * 200, "a%2fb", "a#b"])
def test_azure_deployment_that_could_change_the_url_is_400(model, make_client, upstream):
    client = make_client(SAVED)
    assert refused(client, {**CHAT, "model": model}, {"x-portkey-provider": "@azure-dated"})["param"] == "model"
    if model and model.isascii():
        headers = {"x-portkey-provider": "@azure-dated", "x-portkey-azure-deployment-id": model}
        refused(client, CHAT, headers)
    assert upstream.calls == []


def test_deployment_header_is_ignored_for_other_providers(client, upstream):
    upstream.answers(COMPLETION)
    post(client, CHAT, {**OPENAI, "x-portkey-azure-deployment-id": "d1"})
    assert upstream.calls[0].json["model"] == "gpt-5"


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/batches", "/v1/uploads"])
def test_other_routes_of_dated_azure_have_no_deployment(path, make_client, upstream):
    upstream.answers({"id": "x"})
    post(make_client(SAVED), {"model": "@azure-dated/m", "a": 1}, {}, path)
    (call,) = upstream.calls
    assert (call.url, call.query) == (AZURE + path[3:], {"api-version": "2024-10-21"})


# Uploads in parts


def test_part_of_an_upload_is_relayed_as_data(client, upstream):
    upstream.answers({"id": "part_1", "object": "upload.part"})
    headers = {**OPENAI, "content-type": form_type()}
    answer = client.post("/v1/uploads/upload_1/parts", form(("data", "blob", "", b"\0bytes\r\n")), headers)
    (call,) = upstream.calls
    assert call.url == "https://api.openai.com/v1/uploads/upload_1/parts"
    assert (call.upload.part, call.upload.filename, call.upload.fields) == ("data", "blob", {})
    assert upstream.uploads == [b"\0bytes\r\n"] and answer.json["id"] == "part_1"


@pytest.mark.parametrize(
    "body,param",
    [(form(("file", "a", "", b"x")), "data"), (form(), "data"), (b"garbage", None),
     (form(("a", "x")), "data")],
)  # fmt: skip
def test_form_without_a_data_part_is_400(body, param, client, upstream):
    headers = {**OPENAI, "content-type": form_type()}
    error = client.post("/v1/uploads/upload_1/parts", body, headers, status=400).json["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert upstream.calls == []


def test_data_part_needs_no_file_name(client, upstream):
    upstream.answers({"id": "part_1", "object": "upload.part"})
    client.post("/v1/uploads/upload_1/parts", form(("data", "text")), {**OPENAI, "content-type": form_type()})
    assert upstream.uploads == [b"text"] and upstream.calls[0].upload.part == "data"


def test_second_data_part_is_400_and_the_upload_is_not_completed(client, upstream):
    headers = {**OPENAI, "content-type": form_type()}
    body = form(("data", "a", "", b"x"), ("data", "b", "", b"y"))
    error = client.post("/v1/uploads/upload_1/parts", body, headers, status=400).json["error"]
    assert error["param"] == "data" and upstream.uploads == []


def test_part_that_is_not_a_form_is_415_and_a_large_one_is_413(make_client, upstream):
    client = make_client(max_upload_bytes=50)
    assert refused(client, {}, path="/v1/uploads/u/parts", status=415)["param"] == "content-type"
    headers = {**OPENAI, "content-type": form_type()}
    client.post("/v1/uploads/u/parts", form(("data", "a", "", b"x" * 100)), headers, status=413)
    assert upstream.calls == []


# Messages that any provider would refuse

BAD_CHATS = {
    "no_model": ({"messages": CHAT["messages"]}, "model"),
    "null_model": ({**CHAT, "model": None}, "model"),
    "model_of_a_number": ({**CHAT, "model": 5}, "model"),
    "no_messages": ({"model": "m"}, "messages"),
    "messages_of_text": ({**CHAT, "messages": "hi"}, "messages"),
    "empty_messages": ({**CHAT, "messages": []}, "messages"),
    "message_of_text": ({**CHAT, "messages": [CHAT["messages"][0], "hi"]}, "messages[1]"),
    "no_role": ({**CHAT, "messages": [{"content": "a"}]}, "messages[0].role"),
    "role_of_a_list": ({**CHAT, "messages": [{"role": ["user"], "content": "a"}]}, "messages[0].role"),
    "content_of_a_number": ({**CHAT, "messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    "content_of_an_object": ({**CHAT, "messages": [{"role": "user", "content": {}}]}, "messages[0].content"),
    "stream_of_text": ({**CHAT, "stream": "yes"}, "stream"),
    "stream_of_a_number": ({**CHAT, "stream": 1}, "stream"),
    "part_of_text": (user({"type": "text", "text": "a"}, "b"), "messages[0].content[1]"),
    "part_without_a_type": (user({"text": "a"}), "messages[0].content[0].type"),
    "part_of_another_type": (user({"type": 5}), "messages[0].content[0].type"),
    "file_part_without_a_file": (user({"type": "file"}), "messages[0].content[0].file"),
    "file_of_text": (user({"type": "file", "file": "file-1"}), "messages[0].content[0].file"),
    "file_without_a_source": (user({"type": "file", "file": {}}), "messages[0].content[0].file"),
    "file_with_an_empty_source": (user({"type": "file", "file": {"file_id": ""}}), "messages[0].content[0].file"),
    "file_with_a_name_only": (user({"type": "file", "file": {"filename": "a"}}), "messages[0].content[0].file"),
    "two_sources": (user({"type": "file", "file": {"file_id": "a", "file_data": "b"}}), "messages[0].content[0].file"),
    "other_two_sources": (
        user({"type": "file", "file": {"file_url": "a", "file_data": "b"}}),
        "messages[0].content[0].file",
    ),
    "three_sources": (
        user({"type": "file", "file": {"file_id": "a", "file_url": "c", "file_data": "b"}}),
        "messages[0].content[0].file",
    ),
    "id_of_a_number": (user({"type": "file", "file": {"file_id": 5}}), "messages[0].content[0].file.file_id"),
    "id_with_a_path": (user({"type": "file", "file": {"file_id": "../x"}}), "messages[0].content[0].file.file_id"),
    "id_of_dots": (user({"type": "file", "file": {"file_id": ".."}}), "messages[0].content[0].file.file_id"),
    "id_with_a_newline": (user({"type": "file", "file": {"file_id": "a\n"}}), "messages[0].content[0].file.file_id"),
    "long_id": (user({"type": "file", "file": {"file_id": "a" * 129}}), "messages[0].content[0].file.file_id"),
    "data_of_a_list": (user({"type": "file", "file": {"file_data": []}}), "messages[0].content[0].file.file_data"),
    "url_of_an_object": (user({"type": "file", "file": {"file_url": {}}}), "messages[0].content[0].file.file_url"),
    "type_of_a_number": (
        user({"type": "file", "file": {"file_id": "a", "mime_type": 5}}),
        "messages[0].content[0].file.mime_type",
    ),
    "name_of_a_number": (
        user({"type": "file", "file": {"file_id": "a", "filename": 5}}),
        "messages[0].content[0].file.filename",
    ),
}


@pytest.mark.parametrize("name", BAD_CHATS)
def test_chat_that_any_provider_would_refuse_is_400_and_names_the_field(name, client, upstream):
    body, param = BAD_CHATS[name]
    error = refused(client, body)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert upstream.calls == []


# Streams


def test_stream_is_passed_on_event_by_event(client, upstream, access_log):
    streaming(upstream, x_request_id="r", **{"content-length": "5", "etag": "x"})
    answer = post(client, {**CHAT, "stream": True})
    assert upstream.calls[0].expects == "events" and upstream.calls[0].is_generated
    assert answer.body == b"".join(EVENTS)
    assert answer.headers["content-type"] == SSE["content-type"]
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-store", "no")
    assert answer.headers["content-length"] != "5"  # the test client counts by itself
    assert "content-security-policy" not in answer.headers
    assert upstream.bodies[0].closed
    assert access_log()[-1]["error"] is None and access_log()[-1]["bytes_out"] == len(answer.body)


def test_stream_that_comes_byte_by_byte_is_the_same_stream(client, upstream):
    streaming(upstream, [bytes([byte]) for byte in b"".join(EVENTS)])
    assert post(client, {**CHAT, "stream": True}).body == b"".join(EVENTS)


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/compact"])
def test_response_streams_too(path, client, upstream):
    last = b'event: response.completed\ndata: {"type":"response.completed"}\n\n'
    streaming(upstream, [b'event: a\ndata: {"type":"response.created"}\n\n', last])
    answer = post(client, {"model": "m", "input": "x", "stream": True}, path=path)
    assert answer.body.endswith(last) and answer.headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize("query,stream", [("?stream=true", True), ("", False), ("?stream=false", False)])
def test_retrieved_response_streams_if_the_query_asks_for_it(query, stream, client, upstream):
    if stream:
        streaming(upstream, [b'data: {"type":"response.completed"}\n\n'])
    else:
        upstream.answers({"id": "resp_1"})
    answer = client.get(f"/v1/responses/resp_1{query}", headers=OPENAI)
    assert upstream.calls[0].expects == ("events" if stream else "json")
    assert answer.content_type == ("text/event-stream" if stream else "application/json")


def test_json_answer_to_a_streaming_request_is_passed_through(client, upstream):
    upstream.answers(COMPLETION, content_type="application/json")
    answer = post(client, {**CHAT, "stream": True})
    assert answer.content_type == "application/json" and answer.json == COMPLETION


@pytest.mark.parametrize("status", [400, 401, 429, 500, 529])
def test_refusal_of_a_stream_is_json_with_its_status(status, client, upstream):
    upstream.answers({"error": {"message": "no"}}, status)
    answer = post(client, {**CHAT, "stream": True}, status=status)
    assert answer.content_type == "application/json" and answer.json["error"]["message"] == "no"
    assert upstream.bodies[0].closed


CUTS = {
    "broken": ([EVENTS[0], UpstreamError("The provider broke off.")], "The provider broke off.", "upstream_error"),
    "timed_out": ([EVENTS[0], UpstreamTimeout("Too slow.")], "Too slow.", "upstream_timeout"),
    "ended": ([EVENTS[0]], "The provider ended its stream early.", "upstream_error"),
    "ended_within_an_event": ([EVENTS[0], b'data: {"a'], "The provider ended its stream early.", "upstream_error"),
    "abandoned": ([EVENTS[0], ClientAborted("Nobody waits.")], "Nobody waits.", "client_aborted"),
    "grew_too_large": (
        [EVENTS[0], b"data: " + b"x" * (9 << 20)],
        "An event of the provider is over",
        "upstream_answer_too_large",
    ),
}


@pytest.mark.parametrize("name", CUTS)
def test_stream_that_breaks_off_ends_in_an_error_event(name, client, upstream, access_log):
    chunks, message, code = CUTS[name]
    streaming(upstream, chunks)
    answer = post(client, {**CHAT, "stream": True})
    assert answer.body.startswith(EVENTS[0]) and answer.body.endswith(b"}\n\n")
    first, last = events(answer)
    assert first == {"a": 1} and set(last) == {"error"} and set(last["error"]) == {"message", "type", "param", "code"}
    assert last["error"]["message"].startswith(message) and last["error"]["code"] == code
    assert b"[DONE]" not in answer.body
    assert access_log()[-1]["error"] == code and access_log()[-1]["status"] == 200
    assert all(body.closed for body in upstream.bodies)


@pytest.mark.parametrize(
    "chunks,status",
    [([], 502), ([b""], 502), ([b"data: {"], 502), ([UpstreamError("cut")], 502), ([UpstreamTimeout("slow")], 504)],
)
def test_stream_that_breaks_off_before_its_first_event_is_an_error_with_a_status(chunks, status, client, upstream):
    streaming(upstream, chunks)
    answer = post(client, {**CHAT, "stream": True}, status=status)
    assert answer.content_type == "application/json" and answer.json["error"]["type"] == "server_error"
    assert upstream.bodies[0].closed


def test_stream_with_an_encoding_is_502_and_closed(client, upstream):
    streaming(upstream, **{"content-encoding": "gzip"})
    error = refused(client, {**CHAT, "stream": True}, status=502)
    assert error["code"] == "upstream_invalid_answer" and upstream.bodies[0].closed


@pytest.mark.parametrize("spelling", NOT_ENCODED)
def test_stream_that_is_not_encoded_passes_in_every_spelling_of_that(spelling, client, upstream):
    streaming(upstream, **{"content-encoding": spelling})
    answer = post(client, {**CHAT, "stream": True})
    assert answer.body == b"".join(EVENTS) and "content-encoding" not in answer.headers


def test_stream_that_the_client_leaves_is_closed_and_logged(upstream, access_log):
    streaming(upstream, [EVENTS[0]] * 5)
    text = json.dumps({**CHAT, "stream": True}).encode()
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/v1/chat/completions", "CONTENT_LENGTH": str(len(text)),
               "CONTENT_TYPE": "application/json", "HTTP_X_PORTKEY_PROVIDER": "openai",
               "HTTP_AUTHORIZATION": "Bearer sk-caller", "wsgi.input": io.BytesIO(text)}  # fmt: skip
    setup_testing_defaults(environ)
    answer = create_app(transports={"https": upstream})(environ, lambda *_: None)
    assert next(iter(answer)) == EVENTS[0] and not upstream.bodies[0].closed
    answer.close()
    assert upstream.bodies[0].closed and access_log()[-1]["error"] == "client_aborted"


@pytest.mark.parametrize("head", [b"data: {}\n\n", b""])
def test_bug_in_the_middle_of_a_stream_is_never_a_clean_end(head, client, upstream):
    streaming(upstream, [head, RuntimeError("sk-caller")] if head else [RuntimeError("sk-caller")])
    if head:
        with pytest.raises(ConnectionResetError) as cut:
            post(client, {**CHAT, "stream": True})
        assert "sk-caller" not in str(cut.value)
    else:
        assert refused(client, {**CHAT, "stream": True}, status=500)["code"] == "internal_error"
    assert upstream.bodies[0].closed


def test_content_of_a_file_of_events_is_passed_byte_by_byte(client, upstream, access_log):
    odd = b"data: a\r\n\r\n\r\nno event, no end"
    streaming(upstream, [odd], **{"content-length": str(len(odd))})
    answer = client.get("/v1/files/file-1/content", headers=OPENAI)
    assert answer.body == odd and answer.headers["content-length"] == str(len(odd))
    assert answer.headers["content-security-policy"] == "sandbox" and "x-accel-buffering" not in answer.headers
    assert access_log()[-1]["error"] is None


@pytest.mark.parametrize(
    "form_of", [lambda key: key, lambda key: key.replace("/", "%2F"), lambda key: json.dumps(key)[1:-1]]
)
def test_credential_in_an_event_is_redacted(form_of, client, upstream):
    key = "sk-call/er"
    shown = form_of(key)
    streaming(upstream, [f'data: {{"a":"key {shown} is bad"}}\n\n'.encode(), b"data: [DONE]\n\n"])
    answer = post(client, {**CHAT, "stream": True}, {**OPENAI, "authorization": f"Bearer {key}"})
    assert shown not in answer.text and events(answer) == [{"a": "key [redacted] is bad"}]


def test_credential_in_an_event_that_arrives_in_pieces_is_redacted(client, upstream):
    streaming(upstream, [b'data: {"a":"sk-ca', b'ller"}\n\n', b"data: [DONE]\n\n"])
    assert b"sk-caller" not in post(client, {**CHAT, "stream": True}).body


@pytest.mark.parametrize("begun", [True, False])
def test_credential_in_the_failure_of_a_stream_is_redacted_everywhere(begun, client, upstream, access_log):
    failure = FilesproxyError("bad sk-caller", param="sk-caller", code="code-sk-caller")
    streaming(upstream, [EVENTS[0], failure] if begun else [failure])
    answer = post(client, {**CHAT, "stream": True}, status=200 if begun else 500)
    assert "sk-caller" not in answer.text and "[redacted]" in answer.text
    assert "sk-caller" not in json.dumps(access_log())


def test_events_that_are_not_ascii_pass_unchanged(client, upstream):
    block = 'data: {"a":"é🎉\u2028"}\n\n'.encode() + b"data: \xff\xfe\n\ndata: [DONE]\n\n"
    streaming(upstream, [block])
    assert post(client, {**CHAT, "stream": True}).body == block


def test_one_failed_body_does_not_keep_the_others_open(make_client):
    """A chat with Anthropic may open several bodies: the metadata of files, then the events."""

    class Several(FakeUpstream):
        def __call__(self, call, target):
            self.calls.append(call)
            if call.operation == "retrieve_file":
                self.bodies.append(FakeBody([b'{"mime_type":"application/pdf"}']))
                return Answer(200, {}, body=self.bodies[-1])
            self.bodies.append(FakeBody([b'event: x\ndata: {"type":"ping"}\n\n', UpstreamError("cut")]))
            return Answer(200, SSE, body=self.bodies[-1])

    upstream = Several()
    client = make_client(SAVED, transports={"https": upstream})
    body = {**user({"type": "file", "file": {"file_id": "file_1"}}), "model": "@claude/m", "stream": True}
    answer = post(client, body, {})
    assert [call.operation for call in upstream.calls] == ["retrieve_file", "create_chat_completion"]
    assert events(answer)[-1]["error"]["message"] == "cut"
    assert [body.closed for body in upstream.bodies] == [True, True]


# What a client requests in headers


@pytest.mark.parametrize("value,strict", [("false", False), ("False", False), ("true", True), ("", True), (None, True)])
def test_client_chooses_strict_compliance(value, strict, client, upstream):
    upstream.answers(COMPLETION)
    headers = {} if value is None else {"x-portkey-strict-open-ai-compliance": value}
    post(client, CHAT, {**OPENAI, **headers})
    assert upstream.calls[0].is_strict is strict


def test_clients_time_limit_is_part_of_the_call(client, upstream):
    upstream.answers(COMPLETION)
    post(client, CHAT, {**OPENAI, "x-portkey-request-timeout": "1500"})
    assert upstream.calls[0].timeout == 1.5
    assert refused(client, CHAT, {**OPENAI, "x-portkey-request-timeout": "x"})["param"] == "x-portkey-request-timeout"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_405(method, client):
    answer = client.request("/v1/chat/completions", method=method, headers=OPENAI, status=405)
    assert answer.headers["allow"] == "POST"


# Regressions


@pytest.mark.parametrize("headers", [{"content-type": "application/json"}, {"content-type": "text/plain"}, {}])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_json_answer_to_a_streaming_request_is_redacted_whatever_its_type(headers, path, make_client, upstream):
    """Once, it was relayed like a file: with the credential, without a limit, and its truncation went unnoticed."""
    upstream.headers, upstream.chunks = headers, [b'{"debug":{"authorization":"Bearer sk-saved-openai"}}']
    answer = post(make_client(SAVED), {**CHAT, "stream": True}, {"x-portkey-provider": "@openai"}, path)
    assert answer.json == {"debug": {"authorization": "Bearer [redacted]"}}
    assert upstream.bodies[0].closed


OTHER_TYPES = [{}] + [
    {"content-type": kind}
    for kind in ("text/plain", "text/html; charset=utf-8", "application/json", "application/x-ndjson", "x", "")
]


@pytest.mark.parametrize("headers", OTHER_TYPES)
@pytest.mark.parametrize("chunks", [EVENTS, [bytes([byte]) for byte in b"".join(EVENTS)]], ids=["events", "bytes"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_events_under_another_media_type_are_relayed_as_events(headers, chunks, path, client, upstream):
    """Once they were read whole, and then a 502: some hosts send events as text/plain or text/html, or say nothing."""
    upstream.headers, upstream.chunks = {**headers, "content-length": "5"}, list(chunks)
    answer = post(client, {**CHAT, "stream": True}, path=path)
    assert answer.body == b"".join(EVENTS) and answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["x-accel-buffering"] == "no" and upstream.bodies[0].closed


def test_events_under_another_media_type_are_relayed_as_they_come(upstream):
    upstream.headers, upstream.chunks = {"content-type": "text/plain"}, [b": hello\n\n", *EVENTS, UpstreamError("cut")]
    call = Call("create_chat_completion", "POST", "/chat/completions", json=CHAT, expects="events", is_generated=True)
    settings = {"max_answer_bytes": 10, "generation_timeout": 60.0}
    target = Target("openai", PROVIDERS["openai"], "https://api.openai.com/v1", settings)
    stream = run(call, target, {"https": upstream}).body
    assert next(stream) == EVENTS[0] and not upstream.bodies[0].closed
    stream.close()
    assert upstream.bodies[0].closed


@pytest.mark.parametrize("headers", OTHER_TYPES)
def test_events_that_were_not_asked_for_are_not_looked_for(headers, client, upstream):
    upstream.headers, upstream.chunks = headers, list(EVENTS)
    assert refused(client, CHAT, status=502)["code"] == "upstream_invalid_answer"


@pytest.mark.parametrize(
    "body", [b"<!doctype html>data: x\n\n", b"hello\ndata: x\n\n", b" data: x\n\n", b"data: [DONE]"]
)
def test_stream_that_is_neither_events_nor_json_is_502_and_closed(body, client, upstream):
    upstream.headers, upstream.chunks = {}, [body]
    assert refused(client, {**CHAT, "stream": True}, status=502)["code"] == "upstream_invalid_answer"
    assert upstream.bodies[0].closed


def test_failure_while_the_first_line_is_awaited_has_a_status_and_closes(client, upstream):
    upstream.headers, upstream.chunks = {}, [b"data:", UpstreamTimeout("Too slow.")]
    assert refused(client, {**CHAT, "stream": True}, status=504)["message"] == "Too slow."
    assert upstream.bodies[0].closed


def test_untyped_events_of_anthropic_are_translated(make_client, upstream):
    start = {"type": "message_start", "message": {**MESSAGE, "content": []}}
    made = b"".join(
        b"event: x\ndata: " + json.dumps(each).encode() + b"\n\n" for each in (start, {"type": "message_stop"})
    )
    upstream.headers, upstream.chunks = {"content-type": "text/plain"}, [made]
    answer = post(make_client(SAVED), {**CHAT, "model": "@claude/m", "stream": True}, {})
    assert answer.body.endswith(b"data: [DONE]\n\n") and answer.content_type == "text/event-stream"


# The end of a stream


FINISHED = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'


def test_chat_that_ends_without_done_after_its_finish_reason_is_whole(client, upstream, access_log):
    """ik_llama.cpp and Perplexity send none. It ended in an error event, so agents tried again and paid twice."""
    streaming(upstream, [EVENTS[0], FINISHED])
    answer = post(client, {**CHAT, "stream": True})
    assert answer.body == EVENTS[0] + FINISHED + b"data: [DONE]\n\n" and access_log()[-1]["error"] is None


def test_chat_that_http_says_is_cut_is_not_whole_though_it_has_a_finish_reason(client, upstream):
    streaming(upstream, [FINISHED, UpstreamError("The provider ended its answer early.")])
    answer = post(client, {**CHAT, "stream": True})
    assert events(answer)[-1]["error"]["message"] == "The provider ended its answer early."
    assert b"[DONE]" not in answer.body


@pytest.mark.parametrize(
    "after", [[EVENTS[0]], [UpstreamError("cut")], [UpstreamTimeout("slow")], [b": bye\n\n", b"data: {"]]
)
def test_nothing_is_relayed_after_done_not_even_a_failure(after, client, upstream, access_log):
    streaming(upstream, [*EVENTS, *after])
    assert post(client, {**CHAT, "stream": True}).body == b"".join(EVENTS)
    assert access_log()[-1]["error"] is None and upstream.bodies[0].closed


@pytest.mark.parametrize("n,whole", [(1, True), (None, True), (2, False)])
def test_every_choice_that_was_asked_for_and_began_must_have_finished(n, whole, client, upstream):
    second = b'data: {"choices":[{"index":1,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
    streaming(upstream, [second, FINISHED])
    answer = post(client, {**CHAT, "n": n, "stream": True})
    assert answer.body.endswith(b"data: [DONE]\n\n") is whole


def test_response_that_ends_by_its_last_event_gets_no_done(client, upstream):
    last = b'event: response.incomplete\ndata: {"type":"response.incomplete","response":{"error":null}}\n\n'
    streaming(upstream, [EVENTS[0], last])
    answer = post(client, {"model": "m", "input": "x", "stream": True}, path="/v1/responses")
    assert answer.body == EVENTS[0] + last


@pytest.mark.parametrize("last", [b'{"type":"error","message":"x"}', b'{"type":"response.completed"}'])
def test_chat_stream_is_not_ended_by_the_events_that_end_a_response(last, client, upstream):
    streaming(upstream, [b'data: {"a":1}\n\n', b"data: " + last + b"\n\n"])
    assert "error" in events(post(client, {**CHAT, "stream": True}))[-1]


def test_caller_from_elsewhere_is_refused_before_its_body_is_read(make_client, upstream):
    """Without keys, only this machine may use saved providers. Once, the body was read before that was checked."""
    elsewhere = {"REMOTE_ADDR": "203.0.113.9", "HTTP_HOST": "gw.example", "wsgi.input": None}
    body = json.dumps({**CHAT, "model": "@openai/gpt-5"})
    answer = make_client(SAVED).post("/v1/chat/completions", body, {}, extra_environ=elsewhere, status="*")
    assert answer.json["error"]["code"] == "unknown_provider" and upstream.calls == []


def test_gateways_certificate_is_not_used_with_a_callers_own_credential(upstream):
    gateway = create_app(SAVED, transports={"https": upstream})
    gateway.config.providers["openai"].update(client_cert="/cert", client_key="/key")
    upstream.answers({"id": "file-1"})
    client = webtest.TestApp(gateway, extra_environ={"HTTP_HOST": "localhost", "REMOTE_ADDR": "127.0.0.1"})
    client.get("/v1/files/file-1", headers=OPENAI)
    client.get("/v1/files/file-1", headers={"x-portkey-provider": "@openai"})
    assert [target.settings["client_cert"] for target in upstream.targets] == ["", "/cert"]


# Batches' output, containers, embeddings


BATCH = {"id": "batch_1", "object": "batch", "status": "completed", "output_file_id": "file-out"}


class Results(FakeUpstream):
    """An upstream with one batch, which answers its files' contents."""

    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def __call__(self, call, target):
        if call.path.endswith("/content"):
            self.headers, self.chunks = {"content-type": "application/jsonl", "content-length": "6"}, [b"abc", b"def"]
        else:
            self.answers(self.batch)
        return super().__call__(call, target)


def results(make_client, batch, headers=OPENAI, status=200):
    upstream = Results(batch)
    client = make_client(transports={"https": upstream})
    answer = client.get("/v1/batches/batch_1/output", headers=headers, status=status)
    assert all(body.closed for body in upstream.bodies)
    return answer, upstream


def test_output_of_a_batch_is_the_content_of_the_file_that_it_names(make_client):
    answer, upstream = results(make_client, BATCH)
    assert (answer.body, answer.content_type) == (b"abcdef", "application/jsonl")
    assert [call.path for call in upstream.calls] == ["/batches/batch_1", "/files/file-out/content"]


def test_range_is_of_the_output_and_not_of_the_batch(make_client):
    answer, upstream = results(make_client, BATCH, {**OPENAI, "range": "bytes=1-2"}, 206)
    assert answer.body == b"bc"
    assert ["range" in call.headers for call in upstream.calls] == [False, True]


@pytest.mark.parametrize("field", [{"output_file_id": None}, {}])
@pytest.mark.parametrize("status", ["in_progress", "failed", "expired"])
def test_batch_without_an_output_is_404_that_says_how_it_stands(status, field, make_client):
    batch = {name: text for name, text in BATCH.items() if name != "output_file_id"}
    error = results(make_client, {**batch, **field, "status": status}, status=404)[0].json["error"]
    assert status in error["message"]


@pytest.mark.parametrize("field", [{}, {"status": None}, {"status": 3}])
def test_batch_without_an_output_and_without_a_status_is_404_too(field, make_client):
    error = results(make_client, {"id": "batch_1", "object": "batch", **field}, status=404)[0].json["error"]
    assert "no output" in error["message"] and error["param"] == "id"


@pytest.mark.parametrize(
    "changes", [{"id": "batch_2"}, {"output_file_id": "../x"}, {"output_file_id": 5}, {"id": None}]
)
def test_batch_that_cannot_be_used_is_502_and_no_content_is_asked_for(changes, make_client):
    answer, upstream = results(make_client, {**BATCH, **changes}, status=502)
    assert answer.json["error"]["code"] == "upstream_invalid_answer" and len(upstream.calls) == 1


def test_content_of_a_containers_file_is_relayed_in_blocks_even_if_it_looks_like_events(client, upstream):
    upstream.headers, upstream.chunks = (
        {"content-type": "text/event-stream", "etag": '"1"'},
        [b"data: a\n\n", b"\0\xff"],
    )
    answer = client.get("/v1/containers/cntr_1/files/cfile_1/content", headers=OPENAI)
    assert answer.body == b"data: a\n\n\0\xff" and answer.headers["etag"] == '"1"'
    assert answer.headers["content-security-policy"] == "sandbox"
    assert upstream.calls[0].url == "https://api.openai.com/v1/containers/cntr_1/files/cfile_1/content"


CONTAINER_FILES = "/v1/containers/cntr_1/files"
CONTAINER_FILE = {"id": "cfile_1", "object": "container.file", "container_id": "cntr_1"}


def test_file_is_uploaded_to_a_container_without_a_purpose(client, upstream):
    upstream.answers(CONTAINER_FILE)
    body = form(("file", "a.csv", "text/csv", b"a,b"), ("shade", "blue"))
    answer = client.post(CONTAINER_FILES, body, {**OPENAI, "content-type": form_type()})
    assert answer.json == CONTAINER_FILE and answer.headers["x-filesproxy-ignored"] == "shade"
    (call,) = upstream.calls
    assert (call.upload.filename, call.upload.part, upstream.uploads) == ("a.csv", "file", [b"a,b"])


@pytest.mark.parametrize("kind", ["json", "form"])
def test_file_of_a_container_may_be_one_that_was_uploaded_before(kind, client, upstream):
    upstream.answers(CONTAINER_FILE)
    body = b'{"file_id": "file-1"}' if kind == "json" else form(("file_id", "file-1"))
    media_type = "application/json" if kind == "json" else form_type()
    assert client.post(CONTAINER_FILES, body, {**OPENAI, "content-type": media_type}).json == CONTAINER_FILE
    assert upstream.calls[0].json == {"file_id": "file-1"} and upstream.calls[0].upload is None


@pytest.mark.parametrize(
    "body,param", [(form(), "file"), (form(("a", "b")), "file"), (form(("file_id", "../x")), "file_id")]
)
def test_form_for_a_container_without_file_and_id_is_400(body, param, client, upstream):
    answer = client.post(CONTAINER_FILES, body, {**OPENAI, "content-type": form_type()}, status=400)
    assert answer.json["error"]["param"] == param and upstream.calls == []


@pytest.mark.parametrize("provider,url", [
    ("@openai", "https://api.openai.com/v1/embeddings"),
    ("@azure-v1", "https://res.openai.azure.com/openai/v1/embeddings"),
    ("@azure-dated", "https://res.openai.azure.com/openai/deployments/an-embedder/embeddings"),
])  # fmt: skip
def test_embeddings_go_where_chats_go(provider, url, make_client, upstream):
    upstream.answers({"object": "list", "data": [{"embedding": [0.5, -1e-7], "index": 0}], "model": "an-embedder"})
    body = {"model": f"{provider}/an-embedder", "input": ["hi"], "encoding_format": "float", "user": "u"}
    answer = make_client(SAVED).post_json("/v1/embeddings", body)
    assert answer.json["data"][0]["embedding"] == [0.5, -1e-7]
    (call,) = upstream.calls
    assert (call.url, call.json["input"], call.json["user"], call.is_generated) == (url, ["hi"], "u", True)


def test_deployment_of_an_embedding_may_come_in_azures_header(make_client, upstream):
    upstream.answers({"data": []})
    headers = {"x-portkey-provider": "@azure-dated", "x-portkey-azure-deployment-id": "an-embedder"}
    make_client(SAVED).post_json("/v1/embeddings", {"input": "hi"}, headers=headers)
    assert upstream.calls[0].path == "/embeddings" and "/deployments/an-embedder/" in upstream.calls[0].url
    error = make_client(SAVED).post_json(
        "/v1/embeddings", {"input": "hi"}, headers={"x-portkey-provider": "@azure-dated"}, status=400
    )
    assert error.json["error"]["param"] == "model"


@pytest.mark.parametrize(
    "operation",
    [
        "retrieve_vector_store_file",
        "update_vector_store_file",
        "delete_container_file",
        "cancel_vector_store_file_batch",
    ],
)
def test_answer_about_another_thing_than_the_last_id_of_the_path_is_502(operation, client, upstream):
    route = OPERATIONS[operation]
    upstream.answers({"id": "other_1"})
    answer = sent(client, route.method, route.path, OPENAI, 502)
    assert answer.json["error"]["code"] == "upstream_invalid_answer"


@pytest.mark.parametrize(
    "operation", ["create_vector_store_file", "create_vector_store_file_batch", "create_container_file"]
)
def test_answer_about_something_new_below_the_id_has_an_id_of_its_own(operation, client, upstream):
    route = OPERATIONS[operation]
    upstream.answers({"id": "other_1"})
    assert sent(client, route.method, route.path, OPENAI).json["id"] == "other_1"
