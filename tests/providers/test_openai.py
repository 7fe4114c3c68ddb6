"""OpenAI, from which other providers differ: its functions, alone and through the application."""

from __future__ import annotations

import pytest
from fakes import FILE, OPENAI, form, form_type

from filesproxy.calls import Answer, Call, Target
from filesproxy.providers import PROVIDERS
from filesproxy.providers.openai import bearer, error_object
from filesproxy.redaction import Secret

OPENAI_DICT = PROVIDERS["openai"]
URL = "https://api.openai.com/v1/files"


def performed(operation, reply, **call):
    """The answer of this operation to this JSON of the provider."""
    asked = Call(operation, "GET", "/files", **call)
    return OPENAI_DICT["operations"][operation](asked, lambda sent: Answer(200, json=reply)).json


def test_credential_is_added_as_a_bearer_token():
    call = Call("retrieve_file", "GET", "/files/file-1", headers={"openai-project": "p"})
    target = Target("openai", OPENAI_DICT, "", {}, secrets={"credential": Secret("sk-1")})
    assert bearer(call, target).headers == {"openai-project": "p", "authorization": "Bearer sk-1"}
    assert call.headers == {"openai-project": "p"}
    assert "sk-1" not in repr(bearer(call, target))


def test_five_operations_have_five_paths(client, upstream):
    upload = form(("purpose", "batch"), ("file", "a.jsonl", "application/jsonl", b"hello"))
    upstream.answers(FILE)
    client.post("/v1/files", upload, {**OPENAI, "content-type": form_type()})
    upstream.answers({"object": "list", "data": []})
    client.get("/v1/files?limit=3&purpose=batch", headers=OPENAI)
    upstream.answers(FILE)
    client.get("/v1/files/file-1", headers=OPENAI)
    client.get("/v1/files/file-1/content", headers=OPENAI)
    upstream.answers({"id": "file-1"})
    client.delete("/v1/files/file-1", headers=OPENAI)
    assert [(call.method, call.url, dict(call.query)) for call in upstream.calls] == [
        ("POST", URL, {}),
        ("GET", URL, {"limit": "3", "purpose": "batch"}),
        ("GET", f"{URL}/file-1", {}),
        ("GET", f"{URL}/file-1/content", {}),
        ("DELETE", f"{URL}/file-1", {}),
    ]
    assert all(call.headers == {"authorization": "Bearer sk-caller"} for call in upstream.calls)


def test_answer_of_openai_is_unchanged():
    whole = {**FILE, "expires_at": 1680202602, "status_details": None, "news": {"a": [1]}}
    assert performed("retrieve_file", whole) == performed("upload_file", whole) == whole
    page = {"object": "list", "data": [whole], "first_id": FILE["id"], "last_id": FILE["id"], "has_more": True}
    assert performed("list_files", page) == page


def test_compatible_host_may_leave_out_what_the_gateway_knows():
    bare = {name: FILE[name] for name in FILE if name not in ("object", "status")}
    assert performed("retrieve_file", bare) == FILE
    assert performed("list_files", {"data": [bare]}) == {
        "object": "list", "data": [FILE], "first_id": FILE["id"], "last_id": FILE["id"], "has_more": False,
    }  # fmt: skip
    assert performed("delete_file", {"id": "file-1"}) == {"id": "file-1", "object": "file", "deleted": True}


def test_content_is_unchanged():
    answer = Answer(200, {"content-type": "text/csv"}, body=None)
    call = Call("retrieve_file_content", "GET", "/files/file-1/content", expects="bytes")
    assert OPENAI_DICT["operations"]["retrieve_file_content"](call, lambda sent: answer) is answer


ERRORS = {
    "openai": ({"error": {"message": "No such File object: f", "type": "invalid_request_error", "param": "id",
                          "code": None}}, ("No such File object: f", "invalid_request_error", "id", None)),
    "code_that_is_a_number": ({"error": {"message": "m", "code": 404}}, ("m", None, None, "404")),
    "code_that_is_true": ({"error": {"message": "m", "code": True}}, ("m", None, None, None)),
    "text": ({"code": "Client specified an invalid argument", "error": "text"},
             ("text", None, None, "Client specified an invalid argument")),
    "detail_text": ({"detail": "Unauthorized"}, ("Unauthorized", None, None, None)),
    "detail_list": ({"detail": [{"loc": ["body", "purpose"], "msg": "needed", "type": "x"}, {"msg": "bad"}, 5]},
                    ("body.purpose: needed; bad", None, None, None)),
    "flat": ({"object": "error", "message": "m", "type": "t", "param": "p", "code": "c"}, ("m", "t", "p", "c")),
    "empty": ({}, ("The provider gave no reason.", None, None, None)),
    "null": (None, ("The provider gave no reason.", None, None, None)),
    "list": ([1], ("The provider gave no reason.", None, None, None)),
    "kinds_of_another_type": ({"error": {"message": ["m"], "type": 5, "param": {}, "code": []}},
                              ('["m"]', None, None, None)),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_error_is_the_object_inside_openais_envelope(name):
    body, (message, kind, param, code) = ERRORS[name]
    assert error_object(body) == {"message": message, "type": kind, "param": param, "code": code}


@pytest.mark.parametrize("status,kind", [(400, "invalid_request_error"), (429, "invalid_request_error"),
                                         (500, "server_error"), (529, "server_error")])  # fmt: skip
def test_error_without_a_type_gets_one_by_its_status(status, kind, client, upstream):
    upstream.answers({"error": "text"}, status)
    error = client.get("/v1/files", headers=OPENAI, status=status).json["error"]
    assert error == {"message": "text", "type": kind, "param": None, "code": None}


@pytest.mark.parametrize("header", ["openai-organization", "openai-project"])
def test_scope_headers_have_two_spellings_and_portkeys_takes_precedence(header, client, upstream):
    upstream.answers(FILE)
    for sent, wanted in (({header: "a"}, "a"), ({f"x-portkey-{header}": "b"}, "b"),
                         ({header: "a", f"x-portkey-{header}": "b"}, "b")):  # fmt: skip
        client.get("/v1/files/file-1", headers={**OPENAI, **sent})
        assert upstream.calls[-1].headers == {"authorization": "Bearer sk-caller", header: wanted}


def test_headers_of_azure_are_ignored(client, upstream):
    upstream.answers(FILE)
    azure = {"x-portkey-azure-resource-name": "evil#", "api-key": "k", "x-portkey-azure-ad-token": "t"}
    client.get("/v1/files/file-1", headers={**OPENAI, **azure})
    (call,) = upstream.calls
    assert (call.url, call.headers) == (f"{URL}/file-1", {"authorization": "Bearer sk-caller"})


BETAS = {
    "own_spelling": ({"openai-beta": "assistants=v2"}, "assistants=v2"),
    "portkeys_spelling": ({"x-portkey-openai-beta": "assistants=v2"}, "assistants=v2"),
    "both_merged": (
        {"openai-beta": "assistants=v2, realtime=v1", "x-portkey-openai-beta": "responses_multi_agent=v1,realtime=v1"},
        "assistants=v2,realtime=v1,responses_multi_agent=v1",
    ),
    "empty": ({"openai-beta": " , "}, None),
}
CALLERS = {
    "plain": {"x-portkey-provider": "openai", "authorization": "Bearer sk-caller"},
    "saved": {"x-portkey-provider": "@saved"},
    "azure_plain": {"x-portkey-provider": "azure-openai", "api-key": "a-key", "x-portkey-azure-resource-name": "acme"},
    "azure_saved": {"x-portkey-provider": "@azure"},
}
SAVED_BETAS = {
    "filesproxy": {"open_access": "yes"},
    "provider:saved": {"kind": "openai", "credential": "sk-saved"},
    "provider:azure": {"kind": "azure-openai", "credential": "sk-azure", "resource": "acme"},
}


@pytest.mark.parametrize("who", CALLERS)
@pytest.mark.parametrize("name", BETAS)
@pytest.mark.parametrize("path", ["/v1/files/file-1", "/v1/batches/batch_1", "/v1/files/file-1/content"])
def test_betas_are_passed_on_whoever_pays(path, name, who, make_client, upstream):
    headers, expected = BETAS[name]
    upstream.answers({"id": path.split("/")[3], "bytes": 1})
    make_client(SAVED_BETAS).get(path, headers={**CALLERS[who], **headers})
    assert upstream.calls[0].headers.get("openai-beta") == expected


@pytest.mark.parametrize("value", ["assistants v2", "a=é", "a;b", ",".join(f"b{n}=v1" for n in range(40))])
def test_beta_that_is_not_a_list_of_words_is_400(value, client, upstream):
    refused = client.get("/v1/files", headers={**OPENAI, "openai-beta": value}, status=400).json["error"]
    assert refused["param"] == "openai-beta" and upstream.calls == []
