"""Azure OpenAI: both surfaces, both ways to authenticate, the client's resource, file statuses, error shapes."""

from __future__ import annotations

import pytest
from configurations import MADE, hashed
from fakes import FILE, form, form_type

from filesproxy.calls import Answer, Call, Target, Upload
from filesproxy.errors import BadRequest, UpstreamError
from filesproxy.providers import PROVIDERS
from filesproxy.providers.azure_openai import (
    AZURE_OPENAI,
    authorize,
    azure_error,
    azure_file,
    base_url,
    form_fields,
    list_files,
)
from filesproxy.redaction import Secret

PLAIN = {"x-portkey-provider": "azure-openai", "x-portkey-azure-resource-name": "my-res", "api-key": "caller-key"}
V1 = {**PLAIN, "x-portkey-azure-api-version": "v1"}
DATED_URL = "https://my-res.openai.azure.com/openai/files"
V1_URL = "https://my-res.openai.azure.com/openai/v1/files"
UPLOAD = form(("purpose", "batch"), ("file", "a.jsonl", "application/jsonl", b"hello"))
EXPIRING = form(("purpose", "batch"), ("expires_after[anchor]", "created_at"), ("expires_after[seconds]", "3600"),
                ("file", "a", "", b"hello"))  # fmt: skip
SAVED = {"kind": "azure-openai", "resource": "saved-res", "credential": "saved-key"}


def target(**settings):
    chosen = {"base_url": "", "resource": "my-res", "api_version": "2024-10-21", "auth": "key", **settings}
    return Target("azure-openai", AZURE_OPENAI, "", chosen, secrets={"credential": Secret("the-key")})


def file(number, **fields):
    return {**FILE, "id": f"file-{number}", "created_at": 1_700_000_000 + number, **fields}


def post(client, body=UPLOAD, headers=PLAIN, status=200):
    return client.post("/v1/files", body, {**headers, "content-type": form_type()}, status=status)


def all_five(client, upstream, headers):
    """Perform each operation once; the calls that were sent upstream."""
    upstream.answers(FILE, 201)
    post(client, headers=headers)
    upstream.answers({"object": "list", "data": [FILE]})
    client.get("/v1/files?purpose=batch&limit=5&order=asc", headers=headers)
    upstream.answers(FILE)
    client.get("/v1/files/file-1", headers=headers)
    client.get("/v1/files/file-1/content", headers=headers)
    upstream.answers({"object": "file", "deleted": True, "id": "file-1"})
    client.delete("/v1/files/file-1", headers=headers)
    return upstream.calls


# The two surfaces

PATHS = ["", "", "/file-1", "/file-1/content", "/file-1"]


def test_dated_surface_has_its_api_version_on_all_five_calls(client, upstream):
    calls = all_five(client, upstream, PLAIN)
    assert [call.url for call in calls] == [DATED_URL + path for path in PATHS]
    version = {"api-version": "2024-10-21"}
    assert [call.query for call in calls] == [version, {"purpose": "batch", **version}, version, version, version]


def test_client_with_its_own_key_chooses_a_dated_version(client, upstream):
    headers = {**PLAIN, "x-portkey-azure-api-version": "2025-03-01-preview"}
    calls = all_five(client, upstream, headers)
    assert {call.query["api-version"] for call in calls} == {"2025-03-01-preview"}


def test_v1_surface_has_no_api_version_and_gets_the_whole_query(client, upstream):
    calls = all_five(client, upstream, V1)
    assert [call.url for call in calls] == [V1_URL + path for path in PATHS]
    assert [call.query for call in calls] == [{}, {"purpose": "batch", "limit": "5", "order": "asc"}, {}, {}, {}]


def test_v1_list_is_the_page_that_azure_made(client, upstream):
    upstream.answers({"object": "list", "data": [file(2), file(1)], "has_more": True})
    answer = client.get("/v1/files?limit=1&after=file-9", headers=V1).json
    assert [call.query for call in upstream.calls] == [{"limit": "1", "after": "file-9"}]
    assert [item["id"] for item in answer["data"]] == ["file-2", "file-1"]
    assert (answer["first_id"], answer["last_id"], answer["has_more"]) == ("file-2", "file-1", True)


def test_v1_list_translates_the_status_of_each_file(client, upstream):
    upstream.answers({"object": "list", "data": [file(1, status="running", bytes=None)], "has_more": False})
    (item,) = client.get("/v1/files", headers=V1).json["data"]
    assert (item["status"], item["bytes"]) == ("uploaded", 0)


PAGES = {
    "": ([3, 2, 1], False),
    "?order=asc": ([1, 2, 3], False),
    "?order=desc": ([3, 2, 1], False),
    "?limit=3": ([3, 2, 1], False),
    "?limit=2": ([3, 2], True),
    "?limit=1&order=asc": ([1], True),
    "?after=file-2": ([1], False),
    "?after=file-3&limit=1": ([2], True),
    "?after=file-1": ([], False),
    "?after=file-2&order=asc": ([3], False),
    "?after=file-1&order=asc&limit=1": ([2], True),
}


@pytest.mark.parametrize("query", PAGES)
def test_dated_list_is_cut_into_pages_by_the_gateway(query, client, upstream):
    numbers, has_more = PAGES[query]
    upstream.answers({"object": "list", "data": [file(2), file(3), file(1)]})  # unordered
    answer = client.get(f"/v1/files{query}", headers=PLAIN).json
    ids = [f"file-{number}" for number in numbers]
    assert [item["id"] for item in answer["data"]] == ids
    assert set(answer) == {"object", "data", "first_id", "last_id", "has_more"}
    assert (answer["object"], answer["has_more"]) == ("list", has_more)
    assert (answer["first_id"], answer["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
    assert upstream.calls[0].query == {"api-version": "2024-10-21"}


def test_pages_of_a_dated_list_have_no_gap_and_no_duplicate(client, upstream):
    upstream.answers({"object": "list", "data": [file(number // 3, id=f"file-{number}") for number in range(20)]})
    for order in ("asc", "desc"):
        whole = [item["id"] for item in client.get(f"/v1/files?order={order}", headers=PLAIN).json["data"]]
        seen, after, has_more = [], "", True
        while has_more:
            page = client.get(f"/v1/files?order={order}&limit=7{after}", headers=PLAIN).json
            seen += [item["id"] for item in page["data"]]
            after, has_more = f"&after={page['last_id']}", page["has_more"]
        assert seen == whole
        assert len(set(seen)) == 20


def test_unknown_after_of_a_dated_list_is_400(client, upstream):
    upstream.answers({"object": "list", "data": [file(1)]})
    error = client.get("/v1/files?after=file-7", headers=PLAIN, status=400).json["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", "after")
    assert upstream.bodies[0].closed


@pytest.mark.parametrize("marks", [{"next_page": "x"}, {"total": 5}, {"pagination": {"next_cursor": "x"}}])
def test_dated_list_that_is_not_complete_after_all_is_502(marks, client, upstream):
    upstream.answers({"object": "list", "data": [file(1)], **marks})
    client.get("/v1/files", headers=PLAIN, status=502)


@pytest.mark.parametrize("answer", [{"object": "list", "data": None}, {"object": "list"}])
@pytest.mark.parametrize("headers", [PLAIN, V1], ids=["dated", "v1"])
def test_empty_list_may_be_null(answer, headers, client, upstream):
    upstream.answers(answer)
    assert client.get("/v1/files", headers=headers).json["data"] == []


def test_empty_dated_list_has_a_complete_envelope(client, upstream):
    upstream.answers({"object": "list", "data": []})
    assert client.get("/v1/files", headers=PLAIN).json == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False,
    }  # fmt: skip


@pytest.mark.parametrize("answer", [{}, {"data": 5}, {"data": [{"id": 5}]}, {"data": [{"id": "file-1"}]}, []])
def test_dated_list_with_a_missing_or_wrong_field_is_502(answer, client, upstream):
    upstream.answers(answer)
    assert client.get("/v1/files", headers=PLAIN, status=502).json["error"]["code"] == "upstream_invalid_answer"


# Authentication


@pytest.mark.parametrize("headers", [PLAIN, V1], ids=["dated", "v1"])
def test_key_is_sent_as_api_key_alone(headers, client, upstream):
    for call in all_five(client, upstream, headers):
        assert call.headers == {"api-key": "caller-key"}


@pytest.mark.parametrize("headers", [PLAIN, V1], ids=["dated", "v1"])
def test_entra_token_is_sent_as_bearer_alone(headers, client, upstream):
    headers = {**headers, "x-portkey-azure-ad-token": "entra.token"}
    del headers["api-key"]
    for call in all_five(client, upstream, headers):
        assert call.headers == {"authorization": "Bearer entra.token"}


def test_bearer_token_of_an_openai_client_is_sent_as_api_key(client, upstream):
    upstream.answers(FILE)
    headers = {**PLAIN, "authorization": "Bearer caller-key"}
    del headers["api-key"]
    client.get("/v1/files/file-1", headers=headers)
    assert upstream.calls[0].headers == {"api-key": "caller-key"}


def test_key_and_entra_token_together_are_400(client, upstream):
    error = client.get("/v1/files", headers={**PLAIN, "x-portkey-azure-ad-token": "t"}, status=400).json["error"]
    assert error["param"] in ("api-key", "x-portkey-azure-ad-token")
    assert upstream.calls == []


def test_neither_key_nor_token_is_401(client, upstream):
    headers = {**PLAIN}
    del headers["api-key"]
    assert client.get("/v1/files", headers=headers, status=401).json["error"]["code"] == "invalid_api_key"
    assert upstream.calls == []


@pytest.mark.parametrize("header", ["api-key", "x-portkey-azure-ad-token"])
@pytest.mark.parametrize("value", ["a, b", "a,b", "a\tb", "clé", "x" * 4097])
def test_credential_with_invalid_characters_is_400(header, value, client, upstream):
    headers = {**PLAIN}
    del headers["api-key"]
    client.get("/v1/files", headers={**headers, header: value}, status=400)
    assert upstream.calls == []


def test_authorize_adds_one_header_and_keeps_the_others():
    query = {"purpose": "batch", "limit": "1"}
    call = Call("list_files", "GET", "/files", query=query, headers={"range": "bytes=0-1"})
    version = {"api-version": "2024-10-21"}
    dated, v1 = authorize(call, target()), authorize(call, target(api_version="v1", auth="bearer"))
    assert (dated.headers, dated.query) == (
        {"range": "bytes=0-1", "api-key": "the-key"}, {"purpose": "batch", **version},
    )  # fmt: skip
    assert (v1.headers, v1.query) == ({"range": "bytes=0-1", "authorization": "Bearer the-key"}, call.query)
    assert "the-key" not in repr(dated) + repr(v1)


# Where calls go


@pytest.mark.parametrize("resource", ["a", "My-Res-2", "x" * 64, "0-"])
def test_resource_becomes_the_host(resource, client, upstream):
    upstream.answers(FILE)
    client.get("/v1/files/file-1", headers={**PLAIN, "x-portkey-azure-resource-name": resource})
    assert upstream.calls[0].url == f"https://{resource}.openai.azure.com/openai/files/file-1"


NO_RESOURCE = ["evil#", "evil/..", "evil@x", "a.b", "evil?", "evil:443", "[::1]", "::1", "127.0.0.1", "x" * 65, "a_b",
               "a%23", "a\\b", "a b", "a,b", "é", "a\tb", "..", "/", "evil.example/#"]  # fmt: skip


@pytest.mark.parametrize("resource", NO_RESOURCE)
@pytest.mark.parametrize("surface", ["2024-10-21", "v1"])
def test_resource_that_could_be_another_host_is_400_and_nothing_is_sent(resource, surface, client, upstream):
    headers = {**PLAIN, "x-portkey-azure-resource-name": resource, "x-portkey-azure-api-version": surface}
    error = client.get("/v1/files/file-1", headers=headers, status=400).json["error"]
    assert error["param"] == "x-portkey-azure-resource-name"
    assert post(client, headers=headers, status=400).json["error"]["type"] == "invalid_request_error"
    assert upstream.calls == []


@pytest.mark.parametrize("resource", [None, "", " "])
def test_missing_resource_is_400_and_nothing_is_sent(resource, client, upstream):
    headers = {**PLAIN, "x-portkey-azure-resource-name": resource}
    error = client.get("/v1/files", headers={k: v for k, v in headers.items() if v is not None}, status=400)
    assert error.json["error"]["code"] == "missing_resource"
    assert upstream.calls == []


@pytest.mark.parametrize("version", ["v2", "V1", "2024", "2024-10-21&x=y", "2024-10-21-beta", "latest", "v1#", "../v1"])
def test_invalid_api_version_is_400_and_nothing_is_sent(version, client, upstream):
    headers = {**PLAIN, "x-portkey-azure-api-version": version}
    error = client.get("/v1/files", headers=headers, status=400).json["error"]
    assert error["param"] == "x-portkey-azure-api-version"
    assert upstream.calls == []


def test_deployment_changes_nothing(client, upstream):
    upstream.answers(FILE)
    client.get("/v1/files/file-1", headers={**PLAIN, "x-portkey-azure-deployment-id": "gpt-4o"})
    (call,) = upstream.calls
    assert (call.url, call.headers) == (f"{DATED_URL}/file-1", {"api-key": "caller-key"})


def test_deployment_header_of_any_form_matters_to_chats_only(client, upstream):
    for value in ("my dep", "a,b"):
        upstream.answers(FILE)
        client.get("/v1/files/file-1", headers={**PLAIN, "x-portkey-azure-deployment-id": value}, status=200)
        assert "deployments" not in upstream.calls[-1].url


KEY_HEADERS = ["x-portkey-azure-resource-name", "x-portkey-azure-api-version", "x-portkey-azure-deployment-id"]


@pytest.mark.parametrize("key", [MADE, "team-key"])
@pytest.mark.parametrize("header", KEY_HEADERS)
def test_gateway_key_in_an_azure_header_is_400_and_nothing_is_sent(header, key, make_client, upstream):
    """A key as resource name would become part of a host name, and one as deployment part of a URL."""
    client = make_client({"key:team": {"sha256": hashed("team-key"), "caller_credentials": "yes"}})
    headers = {**PLAIN, "x-portkey-api-key": "team-key", "authorization": "Bearer caller-key", header: key}
    for method, path in (("GET", "/v1/files"), ("POST", "/v1/chat/completions")):
        body = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}' if method == "POST" else b""
        answer = client.request(path, method=method, headers=headers, body=body, status=400)
        assert answer.json["error"]["param"] == header and key not in answer.text
    assert upstream.calls == []


def test_provider_with_a_base_url_refuses_a_resource(make_client, upstream):
    own = {"kind": "azure-openai", "base_url": "https://azure.internal/openai"}
    client = make_client({"provider:house": own})
    upstream.answers(FILE)
    headers = {**PLAIN, "x-portkey-provider": "house"}
    error = client.get("/v1/files/file-1", headers=headers, status=400).json["error"]
    assert error["param"] == "x-portkey-azure-resource-name"
    assert upstream.calls == []
    del headers["x-portkey-azure-resource-name"]
    client.get("/v1/files/file-1", headers=headers)
    assert upstream.calls[0].url == "https://azure.internal/openai/files/file-1"
    assert upstream.calls[0].query == {"api-version": "2024-10-21"}


def test_base_url_is_made_from_the_resource():
    assert base_url(target()) == "https://my-res.openai.azure.com/openai"
    assert base_url(target(api_version="v1")) == "https://my-res.openai.azure.com/openai/v1"
    with pytest.raises(BadRequest):
        base_url(target(resource=""))


SURFACES = {
    "dated_key": ({}, "openai", {"api-version": "2024-10-21"}, {"api-key": "saved-key"}),
    "dated_bearer": ({"auth": "bearer"}, "openai", {"api-version": "2024-10-21"},
                     {"authorization": "Bearer saved-key"}),
    "another_date": ({"api_version": "2024-06-01"}, "openai", {"api-version": "2024-06-01"}, {"api-key": "saved-key"}),
    "v1": ({"api_version": "v1"}, "openai/v1", {}, {"api-key": "saved-key"}),
}  # fmt: skip


@pytest.mark.parametrize("name", SURFACES)
def test_saved_provider_goes_where_its_section_says(name, make_client, upstream):
    own, path, query, headers = SURFACES[name]
    client = make_client({"provider:azure": {**SAVED, **own}}, open_access=True)
    for call in all_five(client, upstream, {"x-portkey-provider": "@azure", "authorization": "Bearer sk-other"}):
        assert call.url.startswith(f"https://saved-res.openai.azure.com/{path}/files")
        assert {k: v for k, v in call.query.items() if k == "api-version"} == query
        assert call.headers == headers


@pytest.mark.parametrize("header", ["x-portkey-azure-resource-name", "x-portkey-azure-api-version", "api-key",
                                    "x-portkey-azure-ad-token"])  # fmt: skip
def test_saved_provider_refuses_azure_headers_of_a_client(header, make_client, upstream):
    client = make_client({"provider:azure": SAVED}, open_access=True)
    headers = {"x-portkey-provider": "@azure", header: "v1"}
    assert client.get("/v1/files", headers=headers, status=400).json["error"]["param"] == header
    assert upstream.calls == []


def test_refused_saved_key_is_not_the_clients_fault(make_client, upstream):
    client = make_client({"provider:azure": SAVED}, open_access=True)
    upstream.answers({"error": {"code": "401", "message": "Access denied for saved-key."}}, 401)
    answer = client.get("/v1/files", headers={"x-portkey-provider": "@azure"}, status=502)
    assert answer.json["error"]["code"] == "upstream_credential_rejected"
    assert "saved-key" not in answer.text


# Uploads


def test_created_becomes_ok_and_its_location_is_not_relayed(client, upstream):
    upstream.answers(FILE, 201, location=f"{DATED_URL}/file-1?api-version=2024-10-21")
    answer = post(client)
    assert (answer.status_int, answer.json) == (200, FILE)
    assert "location" not in answer.headers


@pytest.mark.parametrize("version", ["2024-10-21", "2024-12-01-preview", "2025-02-01-preview"])
def test_expiry_is_a_400_for_a_version_that_has_none(version, client, upstream):
    """The file was stored for ever, and only a header told."""
    headers = {**PLAIN, "x-portkey-azure-api-version": version}
    error = post(client, EXPIRING, headers, 400).json["error"]
    assert (error["param"], error["type"]) == ("expires_after[anchor]", "invalid_request_error")
    assert "expire" in error["message"] and upstream.calls == []
    post(client, form(("file", "a", "", b"x"), ("purpose", "batch"), ("expires_after.seconds", "3600")), headers, 400)
    assert upstream.uploads == []


@pytest.mark.parametrize("version", ["v1", "2025-03-01-preview", "2025-04-01-preview", "2026-01-01"])
def test_expiry_is_sent_to_a_version_that_has_it(version, client, upstream):
    """Microsoft's own examples send it with 2025-03-01-preview."""
    upstream.answers(FILE)
    answer = post(client, EXPIRING, {**PLAIN, "x-portkey-azure-api-version": version})
    assert "x-filesproxy-ignored" not in answer.headers
    assert upstream.calls[0].upload.fields == {
        "purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600",
    }  # fmt: skip


def test_form_fields_depend_on_the_surface():
    assert form_fields(target()) == form_fields(target(api_version="2025-02-28")) == ("purpose",)
    assert form_fields(target(api_version="v1")) == ("purpose", "expires_after[anchor]", "expires_after[seconds]")


def test_upload_without_purpose_is_400_and_is_not_completed(client, upstream):
    upstream.answers(FILE, 201)
    error = post(client, form(("file", "a", "", b"x")), status=400).json["error"]
    assert (error["param"], error["code"]) == ("purpose", "missing_purpose")
    assert upstream.uploads == []


# File objects

STATUSES = {
    "uploaded": ("uploaded", None),
    "pending": ("uploaded", None),
    "running": ("uploaded", None),
    "processed": ("processed", None),
    "error": ("error", None),
    "deleting": ("error", "deleting"),
    "deleted": ("error", "deleted"),
}


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("headers", [PLAIN, V1], ids=["dated", "v1"])
def test_seven_statuses_become_openais_three(status, headers, client, upstream):
    folded, details = STATUSES[status]
    upstream.answers({**FILE, "status": status})
    found = client.get("/v1/files/file-1", headers=headers).json
    assert (found["status"], found.get("status_details")) == (folded, details)
    upstream.answers({**FILE, "status": status}, 201)
    assert post(client, headers=headers).json["status"] == folded
    upstream.answers({"object": "list", "data": [{**FILE, "status": status}]})
    assert client.get("/v1/files", headers=headers).json["data"][0]["status"] == folded


def test_details_that_azure_gives_are_kept():
    call = Call("retrieve_file", "GET", "/files/file-1")
    assert azure_file({**FILE, "status": "error", "status_details": "Line 3."}, call)["status_details"] == "Line 3."


WITHOUT_BYTES = {"absent": {k: v for k, v in FILE.items() if k != "bytes"}, "null": {**FILE, "bytes": None}}


@pytest.mark.parametrize("name", WITHOUT_BYTES)
def test_missing_size_is_the_number_of_bytes_just_uploaded(name, client, upstream):
    upstream.answers(WITHOUT_BYTES[name], 201)
    assert post(client).json["bytes"] == len(b"hello")


@pytest.mark.parametrize("name", WITHOUT_BYTES)
def test_unknown_size_is_0(name, client, upstream):
    upstream.answers(WITHOUT_BYTES[name])
    assert client.get("/v1/files/file-1", headers=PLAIN).json["bytes"] == 0
    upstream.answers({"object": "list", "data": [WITHOUT_BYTES[name]]})
    assert client.get("/v1/files", headers=PLAIN).json["data"][0]["bytes"] == 0


def test_size_that_azure_gives_is_kept(client, upstream):
    upstream.answers({**FILE, "bytes": 140}, 201)
    assert post(client).json["bytes"] == 140
    upload = Upload("a", "text/plain", {}, iter([b"abc"]))
    assert list(upload) == [b"abc"]
    assert azure_file({**FILE, "bytes": 0}, Call("upload_file", "POST", "/files", upload=upload))["bytes"] == 0


@pytest.mark.parametrize("answer", [{}, [], None, "x", {"id": 5}])
def test_answer_that_is_not_a_file_is_an_upstream_error(answer):
    call = Call("list_files", "GET", "/files")
    with pytest.raises(UpstreamError):
        azure_file(answer, call)
    with pytest.raises(UpstreamError):
        list_files(call, lambda again: Answer(200, json={"data": [answer]}))


def test_deletion_has_openais_shape(client, upstream):
    upstream.answers({"object": "file", "deleted": True, "id": "file-1"})
    assert client.delete("/v1/files/file-1", headers=PLAIN).json == {"object": "file", "deleted": True, "id": "file-1"}


@pytest.mark.parametrize("media_type", ["application/octet-stream", "application/json"])
def test_content_is_relayed_as_bytes_whatever_its_type(media_type, client, upstream):
    upstream.headers = {"content-type": media_type, "content-length": "9"}
    upstream.chunks = [b'{"a": 1}\n']
    answer = client.get("/v1/files/file-1/content", headers=PLAIN)
    assert (answer.body, answer.content_type) == (b'{"a": 1}\n', media_type)


# Errors

INVALID = "invalid_request_error"
ERRORS = {
    "dated": (404, {"error": {"code": "notFound", "message": "No such file.", "target": None, "details": [],
                              "innererror": {"code": "x", "innererror": {}}}},
              ("No such file.", INVALID, None, "notFound")),
    "dated_with_target": (400, {"error": {"code": "invalidPayload", "message": "Bad.", "target": "purpose"}},
                          ("Bad.", INVALID, "purpose", "invalidPayload")),
    "target_that_is_no_text": (400, {"error": {"code": "invalidPayload", "message": "Bad.", "target": {"a": 1}}},
                               ("Bad.", INVALID, None, "invalidPayload")),
    "quota": (429, {"error": {"code": "tooManyRequests", "message": "Slow."}},
              ("Slow.", INVALID, None, "tooManyRequests")),
    "dated_500": (503, {"error": {"code": "serviceUnavailable", "message": "Later."}},
                  ("Later.", "server_error", None, "serviceUnavailable")),
    "v1": (400, {"error": {"code": "invalid_purpose", "message": "Bad.", "param": "purpose", "type": "error",
                           "inner_error": {"code": "x"}}}, ("Bad.", INVALID, "purpose", "invalid_purpose")),
    "v1_500": (500, {"error": {"code": None, "message": "Oops.", "param": None, "type": "error"}},
               ("Oops.", "server_error", None, None)),
    "v1_like_openai": (400, {"error": {"message": "Bad.", "type": INVALID, "param": "file", "code": None}},
                       ("Bad.", INVALID, "file", None)),
    "apim": (401, {"error": {"code": "401", "message": "Access denied due to invalid subscription key."}},
             ("Access denied due to invalid subscription key.", INVALID, None, "401")),
    "apim_flat": (401, {"statusCode": 401, "message": "Access denied."}, ("Access denied.", INVALID, None, None)),
    "apim_flat_429": (429, {"statusCode": 429, "message": "Rate limit is exceeded."},
                      ("Rate limit is exceeded.", INVALID, None, None)),
    "numeric_code": (404, {"error": {"code": 404, "message": "Resource not found"}},
                     ("Resource not found", INVALID, None, "404")),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_error_of_azure_has_openais_envelope(name, client, upstream):
    status, body, (message, kind, param, code) = ERRORS[name]
    upstream.answers(body, status)
    answer = client.get("/v1/files/file-1", headers=PLAIN, status=status)
    assert answer.json == {"error": {"message": message, "type": kind, "param": param, "code": code}}
    assert upstream.bodies[0].closed


@pytest.mark.parametrize("body", [None, [], "text", 5, {}, {"error": None}, {"error": []}, {"error": {"message": 5}},
                                  {"error": {"target": 5, "type": {}}}, {"innererror": {}}])  # fmt: skip
def test_error_of_unknown_shape_still_has_openais_envelope(body):
    error = azure_error(body)
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and error["message"]


def test_key_in_an_error_is_redacted(client, upstream):
    upstream.answers({"error": {"code": "401", "message": "Key caller-key is wrong.", "target": "caller-key"}}, 401)
    assert "caller-key" not in client.get("/v1/files", headers=PLAIN, status=401).text


def test_apim_request_id_is_the_request_id(client, upstream):
    upstream.answers(FILE, apim_request_id="apim-1", x_ms_region="Sweden Central")
    answer = client.get("/v1/files/file-1", headers=PLAIN)
    assert answer.headers["x-request-id"] == "apim-1"
    assert answer.headers["x-portkey-trace-id"].startswith("fpr-")
    assert not {"apim-request-id", "x-ms-region"} & {name.lower() for name in answer.headers}
    upstream.answers({"error": {"code": "notFound", "message": "No."}}, 404, apim_request_id="apim-2")
    assert client.get("/v1/files/file-1", headers=PLAIN, status=404).headers["x-request-id"] == "apim-2"
    upstream.answers(FILE, x_request_id="own", apim_request_id="apim-3")
    assert client.get("/v1/files/file-1", headers=PLAIN).headers["x-request-id"] == "own"


def test_entry_does_not_change_openais_entry():
    assert PROVIDERS["azure-openai"] is AZURE_OPENAI
    assert PROVIDERS["openai"]["operations"]["list_files"] is not AZURE_OPENAI["operations"]["list_files"]
    assert PROVIDERS["openai"]["client_headers"] and not AZURE_OPENAI["client_headers"]


def test_openais_organisation_is_not_sent_to_azure(client, upstream):
    upstream.answers(FILE)
    client.get("/v1/files/file-1", headers={**PLAIN, "openai-organization": "org-1"})
    assert upstream.calls[0].headers == {"api-key": "caller-key"}
