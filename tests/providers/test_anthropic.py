"""Anthropic's Files API in OpenAI's contract: names, types, betas, both shapes of list, errors, and lookups."""

from __future__ import annotations

import json
import re

import pytest
import strict_anthropic
from configurations import MADE, hashed
from fakes import BOUNDARY, FakeBody, form, form_type
from strict_anthropic import StrictAnthropic

from filesproxy.app import make_transports
from filesproxy.calls import Answer, Call, Target
from filesproxy.errors import UpstreamError
from filesproxy.providers import PROVIDERS
from filesproxy.providers.anthropic import ANTHROPIC, VERSION, authorize
from filesproxy.providers.anthropic.chat import MAX_LOOKUPS
from filesproxy.providers.anthropic.errors import error as translated_error
from filesproxy.providers.anthropic.files import FILES_BETA, file_object
from filesproxy.redaction import Secret
from filesproxy.wire.lists import MAX_PAGES
from filesproxy.wire.multipart import encode

PLAIN = {"x-portkey-provider": "anthropic", "x-api-key": "sk-ant-caller"}
SAVED = {"filesproxy": {"open_access": "yes"}, "provider:anthropic": {"credential": "sk-ant-saved"}}
BY_SLUG = {"x-portkey-provider": "@anthropic"}
FILE = {
    "id": "file_1",
    "type": "file",
    "filename": "a.pdf",
    "mime_type": "application/pdf",
    "size_bytes": 1024,
    "created_at": "2025-04-15T18:37:24.100435Z",
    "downloadable": False,
}
CREATED = 1744742244
OURS = {
    "id": "file_1",
    "object": "file",
    "bytes": 1024,
    "created_at": CREATED,
    "expires_at": None,
    "filename": "a.pdf",
    "purpose": "assistants",
    "status": "processed",
    "status_details": None,
    "mime_type": "application/pdf",
    "downloadable": False,
}
CALL = Call("retrieve_file", "GET", "/files/file_1", now=CREATED + 10.0)
BASE = "https://api.anthropic.com/v1"


def file(number, **fields):
    return {**FILE, "id": f"file_{number}", **fields}


def upload(client, *parts, headers=PLAIN, status=200):
    parts = parts or (("file", "a.pdf", "application/pdf", b"hello"),)
    return client.post("/v1/files", form(*parts), {**headers, "content-type": form_type()}, status=status)


def sent_parts(upstream):
    """The name, file name and type of each part of the last upload, in order."""
    body = b"".join(encode(upstream.calls[-1].upload, BOUNDARY)).decode()
    return re.findall(r'name="([^"]*)"(?:; filename="([^"]*)")?(?:\r\nContent-Type: (\S+))?', body)


class Pages:
    """An upstream that lists `count` files, newest first, in the beta's shape or the later one."""

    def __init__(self, count=0, beta=True, files=None):
        self.files = files if files is not None else [file(number) for number in range(count, 0, -1)]
        self.beta = beta
        self.queries, self.calls, self.bodies = [], [], []

    def __call__(self, call, target):
        assert len(self.calls) < 500, "walks for ever"
        self.calls.append(call)
        self.queries.append(dict(call.query))
        status, answer = self.page(dict(call.query))
        self.bodies.append(FakeBody([json.dumps(answer).encode()]))
        return Answer(status, {}, body=self.bodies[-1])

    def page(self, query):
        if not self.beta and set(query) & {"after_id", "before_id"}:
            return 400, {"type": "error", "error": {"type": "invalid_request_error", "message": "no after_id here"}}
        limit, start = int(query.get("limit", 20)), int(query.get("page", 0))
        assert 1 <= limit <= 1000
        if "after_id" in query:
            ids = [each["id"] for each in self.files]
            if query["after_id"] not in ids:
                return 404, {"type": "error", "error": {"type": "not_found_error", "message": "no such file"}}
            start = ids.index(query["after_id"]) + 1
        data = self.files[start : start + limit]
        more = start + limit < len(self.files)
        if not self.beta:
            return 200, {"data": data, "next_page": str(start + limit) if more else None}
        ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
        return 200, {"data": data, "has_more": more, **ends}


@pytest.fixture
def listed(make_client):
    """A function that lists with a query at a `Pages` upstream, and returns the answer's JSON."""

    def get(upstream, query="", status=200, headers=PLAIN, config=None):
        client = make_client(config, transports={"https": upstream})
        answer = client.get(f"/v1/files{query}", headers=headers, status=status)
        assert all(body.closed for body in upstream.bodies)
        return answer.json

    return get


def ids(answer):
    return [each["id"] for each in answer["data"]]


# Uploads


def test_upload_needs_no_purpose_and_sends_none(client, upstream):
    upstream.answers(FILE)
    answer = upload(client)
    (call,) = upstream.calls
    assert (call.method, call.url) == ("POST", f"{BASE}/files")
    assert sent_parts(upstream) == [("file", "a.pdf", "application/pdf")]
    assert answer.json == OURS and "x-filesproxy-ignored" not in answer.headers


@pytest.mark.parametrize("purpose", ["assistants", "user_data", "batch", "vision"])
@pytest.mark.parametrize("is_first", [True, False])
def test_answer_to_an_upload_has_the_clients_purpose_which_is_not_sent(purpose, is_first, client, upstream):
    upstream.answers(FILE)
    parts = [("purpose", purpose), ("file", "a.pdf", "application/pdf", b"hello")]
    answer = upload(client, *(parts if is_first else reversed(parts)))
    assert sent_parts(upstream) == [("file", "a.pdf", "application/pdf")]
    assert answer.json == {**OURS, "purpose": purpose}


@pytest.mark.parametrize("is_first", [True, False])
def test_expiry_is_sent_under_another_name_and_without_its_anchor(is_first, make_client):
    bodies = []

    def transport(call, target):
        bodies.append(b"".join(encode(call.upload, BOUNDARY)).decode())
        return Answer(200, {}, body=FakeBody([json.dumps({**FILE, "expires_at": "2125-04-15T18:37:24Z"}).encode()]))

    fields = [("expires_after[anchor]", "created_at"), ("expires_after[seconds]", "3600"), ("purpose", "batch")]
    the_file = ("file", "a.pdf", "application/pdf", b"hello")
    client = make_client(transports={"https": transport})
    answer = upload(client, *([*fields, the_file] if is_first else [the_file, *fields]))
    names = ["expires_in_seconds", "file"]
    assert re.findall(r' name="([^"]*)"', bodies[0]) == (names if is_first else names[::-1])
    assert 'name="expires_in_seconds"\r\n\r\n3600\r\n' in bodies[0]
    assert (answer.json["purpose"], answer.json["status"]) == ("batch", "processed")


def test_unknown_field_is_reported_and_not_sent(client, upstream):
    upstream.answers(FILE)
    answer = upload(client, ("shade", "blue"), ("file", "a.pdf", "", b""))
    assert answer.headers["x-filesproxy-ignored"] == "shade" and len(sent_parts(upstream)) == 1


TYPES = {
    "a.pdf": "application/pdf", "A.PDF": "application/pdf", "b.c.txt": "text/plain", "a.md": "text/markdown",
    "a.csv": "text/csv", "a.json": "application/json", "a.png": "image/png", "a.jpg": "image/jpeg",
    "a.jpeg": "image/jpeg", "a.gif": "image/gif", "a.webp": "image/webp", "a.html": "text/html",
    "a.xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "a": "application/octet-stream", "pdf": "application/pdf", "a.": "application/octet-stream",
    "a.exe": "application/octet-stream", "a.pdf.x": "application/octet-stream",
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in TYPES if name != "pdf"])
@pytest.mark.parametrize("sent", ["application/octet-stream", "Application/Octet-Stream", "", "*/*", "image/*", "jsonl",
                                  "undefined"])  # fmt: skip
def test_type_is_taken_from_the_extension_if_the_client_sends_octet_stream_or_none(name, sent, client, upstream):
    upstream.answers(FILE)
    upload(client, ("file", name, sent, b"x"))
    assert sent_parts(upstream) == [("file", name, TYPES[name])]


def test_charset_of_octets_does_not_make_them_a_type(client, upstream):
    upstream.answers(FILE)
    upload(client, ("file", "a.csv", "application/octet-stream; charset=binary", b"hello"))
    assert upstream.calls[0].upload.content_type == "text/csv"


def test_type_that_the_client_sends_is_kept(client, upstream):
    upstream.answers(FILE)
    upload(client, ("file", "a.pdf", "text/plain", b"x"))
    assert sent_parts(upstream) == [("file", "a.pdf", "text/plain")]


@pytest.mark.parametrize(
    "name", ["a<b", "a>b", "a:b", "a|b", "a?b", "a*b", "a\\\\b", "a/b", "/etc/passwd", "../x", "c:\\\\a", "a" * 256,
             "a%22b", "%22"],
)  # fmt: skip
def test_name_that_anthropic_refuses_is_a_400_that_says_why_and_nothing_is_sent(name, client, upstream):
    error = upload(client, ("file", name, "text/plain", b"x"), status=400).json["error"]
    assert error["param"] == "file" and "255 characters" in error["message"]
    assert upstream.calls == []


@pytest.mark.parametrize("name", ["a" * 255, "é" * 255, "a b.pdf", "🎉.pdf", "a%b", "a;b", "'", ".pdf", "a\u2028b"])
def test_name_that_anthropic_accepts_is_unchanged(name, client, upstream):
    upstream.answers(FILE)
    upload(client, ("file", name, "text/plain", b"x"))
    assert upstream.calls[0].upload.filename == name


def test_upload_over_the_limit_or_malformed_sends_nothing(make_client, upstream):
    upload(make_client(max_upload_bytes=50), status=413)
    upload(make_client(), ("purpose", "assistants"), status=400)
    assert upstream.calls == []


# The other operations


def test_retrieve(client, upstream):
    upstream.answers(FILE, request_id="req_1")
    answer = client.get("/v1/files/file_1", headers=PLAIN)
    assert answer.json == OURS and upstream.calls[0].url == f"{BASE}/files/file_1"
    assert answer.headers["x-request-id"] == "req_1"


def test_content_is_relayed_with_its_type(client, upstream):
    upstream.headers, upstream.chunks = {"content-type": "text/csv", "content-length": "4"}, [b"a,b\n"]
    answer = client.get("/v1/files/file_1/content", headers=PLAIN)
    assert (answer.body, answer.content_type) == (b"a,b\n", "text/csv")
    assert upstream.calls[0].url == f"{BASE}/files/file_1/content"


def test_delete_has_openais_shape_and_nothing_else(client, upstream):
    upstream.answers({"id": "file_1", "type": "file_deleted"})
    assert client.delete("/v1/files/file_1", headers=PLAIN).json == {"id": "file_1", "object": "file", "deleted": True}
    assert (upstream.calls[0].method, upstream.calls[0].url) == ("DELETE", f"{BASE}/files/file_1")


@pytest.mark.parametrize("answer", [{"id": "file_2"}, {"id": 5}, {"id": ["file_1"]}, {"deleted": False}, False, "no"])
def test_deletion_of_something_else_is_502(answer, client, upstream):
    upstream.answers(answer)
    error = client.delete("/v1/files/file_1", headers=PLAIN, status=502).json["error"]
    assert error["code"] == "upstream_invalid_answer"


# Headers


def all_five(client, upstream, headers):
    upstream.answers(FILE)
    upload(client, headers=headers)
    client.get("/v1/files/file_1", headers=headers)
    client.get("/v1/files/file_1/content", headers=headers)
    upstream.answers({"data": [], "has_more": False})
    client.get("/v1/files", headers=headers)
    upstream.answers({"id": "file_1", "type": "file_deleted"})
    client.delete("/v1/files/file_1", headers=headers)
    assert len(upstream.calls) == 5
    return [dict(call.headers) for call in upstream.calls]


def test_every_call_has_version_and_key_and_neither_beta_nor_bearer(client, upstream):
    for headers in all_five(client, upstream, PLAIN):
        assert headers == {"x-api-key": "sk-ant-caller", "anthropic-version": VERSION}
    assert (VERSION, FILES_BETA) == ("2023-06-01", "files-api-2025-04-14")


def test_every_call_of_a_saved_provider_has_only_the_saved_key(make_client, upstream):
    headers = {**BY_SLUG, "authorization": "Bearer OPENAI_API_KEY"}
    for sent in all_five(make_client(SAVED), upstream, headers):
        assert sent["x-api-key"] == "sk-ant-saved" and "authorization" not in sent


def test_oauth_token_is_sent_as_bearer_and_not_as_a_key(make_client, upstream):
    config = {**SAVED, "provider:anthropic": {"credential": "a-token-1", "auth": "bearer"}}
    for sent in all_five(make_client(config), upstream, BY_SLUG):
        assert sent["authorization"] == "Bearer a-token-1" and "x-api-key" not in sent


@pytest.mark.parametrize(
    "headers", [{"authorization": "Bearer sk-mine"}, {"x-portkey-api-key": "sk-mine"}, {"x-api-key": "sk-mine"},
                {"x-api-key": "sk-mine", "authorization": "Bearer OPENAI_API_KEY"}],
)  # fmt: skip
def test_callers_credential_may_come_in_any_of_its_headers(headers, client, upstream):
    upstream.answers(FILE)
    client.get("/v1/files/file_1", headers={"x-portkey-provider": "anthropic", **headers})
    assert upstream.calls[0].headers["x-api-key"] == "sk-mine" and "authorization" not in upstream.calls[0].headers


def test_authorize_replaces_headers_that_the_call_already_has():
    call = Call("list_files", "GET", "/files", headers={"anthropic-version": "x", "x-api-key": "y"})
    target = Target("anthropic", ANTHROPIC, BASE, {"auth": "key"}, secrets={"credential": Secret("z")})
    assert authorize(call, target).headers == {"anthropic-version": VERSION, "x-api-key": "z"}


def test_client_does_not_choose_the_version(client, upstream):
    upstream.answers(FILE)
    versions = {"anthropic-version": "2026-10-21", "x-portkey-anthropic-version": "2026-10-21"}
    client.get("/v1/files/file_1", headers={**PLAIN, **versions})
    assert upstream.calls[0].headers["anthropic-version"] == VERSION


BETAS = [
    ({}, None),
    ({"anthropic-beta": FILES_BETA}, FILES_BETA),
    ({"x-portkey-anthropic-beta": FILES_BETA}, FILES_BETA),
    ({"anthropic-beta": FILES_BETA, "x-portkey-anthropic-beta": FILES_BETA}, FILES_BETA),
    ({"anthropic-beta": "a-1"}, "a-1"),
    ({"anthropic-beta": "a-1, b-2 ,a-1"}, "a-1,b-2"),
    ({"anthropic-beta": f"a-1,{FILES_BETA},b-2"}, f"a-1,{FILES_BETA},b-2"),
    ({"anthropic-beta": "a-1,b-2", "x-portkey-anthropic-beta": "b-2,c-3"}, "a-1,b-2,c-3"),
    ({"anthropic-beta": ""}, None),
    ({"anthropic-beta": ",,"}, None),
]


@pytest.mark.parametrize("headers,sent", BETAS)
def test_betas_are_merged_each_once(headers, sent, client, upstream, make_client):
    for each in all_five(client, upstream, {**PLAIN, **headers}):
        assert each.get("anthropic-beta") == sent
    upstream.answers(FILE)
    make_client(SAVED).get("/v1/files/file_1", headers={**BY_SLUG, **headers})
    assert upstream.calls[-1].headers.get("anthropic-beta") == sent


@pytest.mark.parametrize("value", ["a b", "a;b", "é", "-a", "a" * 101, ",".join(f"b{n}" for n in range(40)), '"a"'])
@pytest.mark.parametrize("header", ["anthropic-beta", "x-portkey-anthropic-beta"])
def test_beta_that_is_not_a_list_of_words_is_400(value, header, client, upstream):
    answer = client.get("/v1/files/file_1", headers={**PLAIN, header: value.encode().decode("latin-1")}, status=400)
    assert answer.json["error"]["param"] == "anthropic-beta" and upstream.calls == []


@pytest.mark.parametrize("header", ["anthropic-workspace-id", "x-portkey-anthropic-workspace-id"])
def test_workspace_is_sent_with_the_callers_own_credential(header, client, upstream):
    upstream.answers(FILE)
    client.get("/v1/files/file_1", headers={**PLAIN, header: "wrkspc_1"})
    assert upstream.calls[0].headers["anthropic-workspace-id"] == "wrkspc_1"


@pytest.mark.parametrize(
    "header",
    ["anthropic-workspace-id", "x-portkey-anthropic-workspace-id", "x-api-key", "x-portkey-x-api-key", "api-key"],
)
def test_client_cannot_change_the_scope_of_a_saved_provider(header, make_client, upstream):
    answer = make_client(SAVED).get("/v1/files/file_1", headers={**BY_SLUG, header: "other"}, status=400)
    assert answer.json["error"]["param"] == header and upstream.calls == []


def test_other_headers_of_a_client_are_not_sent(client, upstream):
    upstream.answers(FILE)
    client.get("/v1/files/file_1", headers={**PLAIN, "openai-organization": "o", "x-other": "x", "cookie": "a=b"})
    assert set(upstream.calls[0].headers) == {"x-api-key", "anthropic-version"}


@pytest.mark.parametrize("key", [MADE, "team-key"])
def test_gateway_key_among_the_betas_is_400_and_nothing_is_sent(key, make_client, upstream):
    client = make_client({"key:team": {"sha256": hashed("team-key"), "caller_credentials": "yes"}})
    headers = {**PLAIN, "x-portkey-api-key": "team-key", "anthropic-beta": f"a-1,{key}"}
    assert client.get("/v1/files/file_1", headers=headers, status=400).json["error"]["param"] == "anthropic-beta"
    assert upstream.calls == []


# File objects


TIMES = [
    ("2025-04-15T18:37:24Z", CREATED),
    ("2025-04-15T18:37:24.1Z", CREATED),
    ("2025-04-15T18:37:24.100435Z", CREATED),
    ("2025-04-15T18:37:24.999999999Z", CREATED),
    ("2025-04-15t18:37:24.5z", CREATED),
    ("2025-04-15 18:37:24Z", CREATED),
    ("2025-04-15T18:37:24+00:00", CREATED),
    ("2025-04-15T18:37:24-00:00", CREATED),
    ("2025-04-15T20:37:24+02:00", CREATED),
    ("2025-04-15T13:07:24.123456789-05:30", CREATED),
    ("2025-04-16T00:22:24+05:45", CREATED),
    ("1970-01-01T00:00:00Z", 0),
    ("2024-02-29T00:00:00Z", 1709164800),
]
NO_TIMES = [
    "",
    "x",
    "2025-04-15",
    "2025-04-15T18:37:24",
    "2025-04-15T18:37Z",
    "2025-13-15T18:37:24Z",
    "2025-02-29T00:00:00Z",
    "2025-04-15T25:37:24Z",
    "2025-04-15T18:37:24+25:00",
    "1744742244",
    " 2025-04-15T18:37:24Z",
    "2025-04-15T18:37:24Z\n",
    "٢٠٢٥-04-15T18:37:24Z",
    "2025-04-15T18:37:24.Z",
    "0000-01-01T00:00:00Z",
]


@pytest.mark.parametrize("text,seconds", TIMES)
def test_times_are_whole_seconds(text, seconds):
    found = file_object({**FILE, "created_at": text, "expires_at": text}, CALL)
    assert (found["created_at"], found["expires_at"]) == (seconds, seconds)
    assert type(found["created_at"]) is int


@pytest.mark.parametrize("text", NO_TIMES)
@pytest.mark.parametrize("name", ["created_at", "expires_at"])
def test_invalid_time_is_a_502_that_names_the_field(text, name):
    with pytest.raises(UpstreamError, match=f"'{name}'") as refused:
        file_object({**FILE, name: text}, CALL)
    assert (refused.value.status, refused.value.code) == (502, "upstream_invalid_answer")


@pytest.mark.parametrize("name", ["id", "filename", "mime_type", "size_bytes", "created_at"])
@pytest.mark.parametrize("value", ["absent", None, [], {}, True, 1.5])
def test_missing_or_wrong_field_is_a_502_that_names_it(name, value):
    obj = {**FILE, name: value}
    if value == "absent":
        del obj[name]
    with pytest.raises(UpstreamError, match=f"'{name}'") as refused:
        file_object(obj, CALL)
    assert refused.value.code == "upstream_invalid_answer"


@pytest.mark.parametrize("value", [5, True, [], {}])
def test_expiry_of_another_type_is_a_502_that_names_it(value):
    with pytest.raises(UpstreamError, match="'expires_at'"):
        file_object({**FILE, "expires_at": value}, CALL)


@pytest.mark.parametrize("obj", [None, [], "file_1", 5, True, {}])
def test_answer_that_is_not_a_file_is_502(obj):
    with pytest.raises(UpstreamError):
        file_object(obj, CALL)


def test_file_object_in_the_later_shape():
    found = file_object({**FILE, "expires_at": None, "scope": {"x": 1}}, CALL)
    assert found == OURS


def test_status_of_an_expired_file_is_error():
    for second, status, details in ((9, "error", "expired"), (10, "error", "expired"), (11, "processed", None)):
        found = file_object({**FILE, "expires_at": f"2025-04-15T18:37:{24 + second:02d}Z"}, CALL)
        assert (found["status"], found["status_details"]) == (status, details)
        assert found["expires_at"] == CREATED + second


@pytest.mark.parametrize("downloadable,purpose", [(True, "assistants_output"), (False, "assistants")])
def test_purpose_tells_who_made_the_file(downloadable, purpose):
    found = file_object({**FILE, "downloadable": downloadable}, CALL)
    assert (found["purpose"], found["downloadable"]) == (purpose, downloadable)


# Lists


SHAPES = pytest.mark.parametrize("beta", [True, False], ids=["beta", "later"])


@SHAPES
@pytest.mark.parametrize("count", [0, 1, 19, 1000, 1001, 2500])
def test_list_without_a_limit_is_walked_to_its_end(beta, count, listed):
    upstream = Pages(count, beta)
    answer = listed(upstream)
    assert ids(answer) == [f"file_{number}" for number in range(count, 0, -1)]
    assert answer["object"] == "list" and answer["has_more"] is False
    assert (answer["first_id"], answer["last_id"]) == ((f"file_{count}", "file_1") if count else (None, None))
    assert len(upstream.calls) == max(1, -(-count // 1000))
    assert answer["data"][:1] == [{**OURS, "id": f"file_{count}"}][:count]
    for call in upstream.calls:
        assert call.url == f"{BASE}/files" and "anthropic-beta" not in call.headers


@SHAPES
@pytest.mark.parametrize(
    "limit,count,more", [(1, 5, True), (5, 5, False), (6, 5, False), (1000, 1000, False), (1000, 1001, True),
                         (1500, 2500, True), (2500, 2500, False), (10000, 2500, False), (2000, 2001, True)],
)  # fmt: skip
def test_limit_is_kept_for_any_size_of_page(beta, limit, count, more, listed):
    answer = listed(Pages(count, beta), f"?limit={limit}")
    assert ids(answer) == [f"file_{number}" for number in range(count, 0, -1)][:limit]
    assert answer["has_more"] is more


def test_small_limit_asks_for_no_more_than_it_needs(listed):
    upstream = Pages(2500)
    listed(upstream, "?limit=7")
    assert upstream.queries == [{"limit": "7"}]


@pytest.mark.parametrize("limit,beta", [(100, True), (1000, True), (100, False), (999, False)])
def test_paging_through_2500_files_gives_each_exactly_once(beta, limit, listed):
    upstream, found, query = Pages(2500, beta), [], f"?limit={limit}"
    for _ in range(2500 // limit + 2):
        upstream.calls.clear()
        answer = listed(upstream, query)
        found += ids(answer)
        if not answer["has_more"]:
            break
        query = f"?limit={limit}&after={answer['last_id']}"
    assert found == [f"file_{number}" for number in range(2500, 0, -1)]


@SHAPES
def test_list_continues_after_the_given_file(beta, listed):
    assert ids(listed(Pages(10, beta), "?after=file_4")) == ["file_3", "file_2", "file_1"]
    assert ids(listed(Pages(10, beta), "?after=file_4&limit=2")) == ["file_3", "file_2"]
    answer = listed(Pages(10, beta), "?after=file_1")
    assert (answer["data"], answer["has_more"], answer["first_id"]) == ([], False, None)


@SHAPES
@pytest.mark.parametrize("query", ["?after=file_99", "?after=file_99&limit=2", "?after=file_99&order=asc"])
def test_after_that_is_in_no_page_is_a_400_and_not_an_empty_list(beta, query, listed):
    error = listed(Pages(10, beta), query, 400)["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", "after")


@SHAPES
@pytest.mark.parametrize(
    "query,expected,more",
    [
        ("?order=asc", range(1, 2501), False),
        ("?order=asc&limit=3", range(1, 4), True),
        ("?order=asc&after=file_3", range(4, 2501), False),
        ("?order=asc&after=file_2000&limit=4", range(2001, 2005), True),
        ("?order=asc&after=file_2500", [], False),
        ("?order=desc&after=file_3", [2, 1], False),
    ],
)
def test_oldest_first_is_the_whole_list_reversed(beta, query, expected, more, listed):
    answer = listed(Pages(2500, beta), query)
    assert ids(answer) == [f"file_{number}" for number in expected]
    assert answer["has_more"] is more


def mixed(count, every):
    """Files, one in `every` of which is an output."""
    return [file(number, downloadable=number % every == 0) for number in range(count, 0, -1)]


@SHAPES
@pytest.mark.parametrize("order", ["", "&order=desc", "&order=asc"])
def test_purpose_is_filtered_by_the_gateway(beta, order, listed):
    answer = listed(Pages(beta=beta, files=mixed(30, 10)), f"?purpose=assistants_output{order}")
    assert sorted(ids(answer)) == ["file_10", "file_20", "file_30"]
    assert {each["purpose"] for each in answer["data"]} == {"assistants_output"}
    assert len(ids(listed(Pages(beta=beta, files=mixed(30, 10)), f"?purpose=assistants{order}"))) == 27
    empty = listed(Pages(beta=beta, files=mixed(30, 10)), f"?purpose=batch{order}")
    assert (empty["data"], empty["has_more"]) == ([], False)


@SHAPES
@pytest.mark.parametrize("query", ["", "&after=file_2400"])
def test_rare_purpose_is_found_at_the_end_of_a_long_list(beta, query, listed):
    upstream = Pages(beta=beta, files=mixed(2500, 2500 if not query else 2399))
    if not query:
        upstream.files.reverse()  # the only output is now the last file
    answer = listed(upstream, "?purpose=assistants_output&limit=1" + query)
    assert len(ids(answer)) == 1 and answer["has_more"] is False
    assert len(upstream.calls) <= 8


@SHAPES
def test_has_more_of_a_filtered_list_is_about_files_of_that_purpose(beta, listed):
    files = mixed(30, 10)
    first = listed(Pages(beta=beta, files=files), "?purpose=assistants_output&limit=2")
    assert (ids(first), first["has_more"]) == (["file_30", "file_20"], True)
    rest = listed(Pages(beta=beta, files=files), "?purpose=assistants_output&limit=2&after=file_20")
    assert (ids(rest), rest["has_more"]) == (["file_10"], False)
    exact = listed(Pages(beta=beta, files=files), "?purpose=assistants_output&limit=3")
    assert (len(ids(exact)), exact["has_more"]) == (3, False)


class Both(Pages):
    """A list with the keys of both shapes, as some betas have it, that takes only the general surface's cursor."""

    def __init__(self, count):
        super().__init__(count, beta=False)

    def page(self, query):
        status, answer = super().page(query)
        more = {"has_more": bool(answer["next_page"]), "first_id": "x", "last_id": "y"} if status == 200 else {}
        return status, {**answer, **more}


def test_list_with_the_keys_of_both_shapes_is_walked_by_page(listed):
    assert len(ids(listed(Both(1500)))) == 1500
    assert ids(listed(Both(1500), "?after=file_3")) == ["file_2", "file_1"]


@pytest.mark.parametrize(
    "end",
    [{"next_page": None}, {"next_page": ""}, {"has_more": False}, {}, {"has_more": False, "next_page": "p2"},
     {"has_more": None, "next_page": None}],
)  # fmt: skip
def test_list_ends_where_the_answer_says_so_or_where_its_page_is_not_full(end, client, upstream):
    upstream.answers({"data": [FILE, {**FILE, "id": "file_2"}], **end})
    answer = client.get("/v1/files", headers=PLAIN).json
    assert (len(answer["data"]), answer["has_more"], len(upstream.calls)) == (2, False, 1)


def test_full_page_that_does_not_say_whether_it_is_the_last_is_502_and_no_end(client, upstream):
    upstream.answers({"data": [FILE, {**FILE, "id": "file_2"}]})
    error = client.get("/v1/files?limit=2", headers=PLAIN, status=502).json["error"]
    assert "'next_page'" in error["message"]


def test_id_is_a_cursor_only_under_the_beta(listed):
    upstream = Pages(5000, beta=True)
    assert len(ids(listed(upstream, "?after=file_1001&limit=7", headers={**PLAIN, "anthropic-beta": FILES_BETA}))) == 7
    assert upstream.queries == [{"limit": "7", "after_id": "file_1001"}]
    upstream = Pages(5000, beta=False)
    assert len(ids(listed(upstream, "?after=file_1001&limit=7"))) == 7
    assert upstream.queries[0] == {"limit": "1000"} and not [q for q in upstream.queries if "after_id" in q]


class Endless(Pages):
    """An endless list: every page has new files and a new cursor."""

    def page(self, query):
        if not self.beta and "after_id" in query:
            return super().page(query)
        number = len(self.calls)
        data = [file(f"{number}_{place}") for place in range(2)]
        return 200, {"data": data, **({"has_more": True} if self.beta else {"next_page": f"p{number}"})}


class Circle(Endless):
    """A list whose cursor repeats after some pages."""

    def __init__(self, size, beta):
        super().__init__(beta=beta)
        self.size = size

    def page(self, query):
        if not self.beta and "after_id" in query:
            return super().page(query)
        number = len(self.calls) % self.size
        return 200, {"data": [file(number)], **({"has_more": True} if self.beta else {"next_page": f"p{number}"})}


@SHAPES
@pytest.mark.parametrize("query", ["", "?order=asc", "?purpose=batch", "?purpose=batch&limit=1", "?after=file_x"])
def test_list_without_an_end_is_an_error(beta, query, listed):
    upstream = Endless(beta=beta)
    error = listed(upstream, query, 502)["error"]
    assert error["code"] == "upstream_answer_too_large"
    assert len(upstream.calls) <= MAX_PAGES + 3


@SHAPES
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("query", ["", "?order=asc", "?after=file_x"])
def test_list_that_repeats_a_page_is_an_error(beta, size, query, listed):
    upstream = Circle(size, beta)
    assert listed(upstream, query, 502)["error"]["type"] == "server_error"
    assert len(upstream.calls) <= MAX_PAGES + 3


BAD_LISTS = [
    (None, "data"), ([], "data"), ({}, "data"), ({"data": None}, "data"), ({"data": {}}, "data"),
    ({"data": [None], "has_more": False}, "id"), ({"data": [{}], "has_more": False}, "id"),
    ({"data": [{**FILE, "size_bytes": "5"}], "has_more": False}, "size_bytes"),
    ({"data": [FILE], "next_page": 5}, "next_page"), ({"data": [FILE], "next_page": ["x"]}, "next_page"),
]  # fmt: skip


@pytest.mark.parametrize("answer,name", BAD_LISTS)
@pytest.mark.parametrize("query", ["", "?order=asc"])
def test_list_with_a_missing_or_wrong_field_is_a_502_that_names_it(answer, name, query, client, upstream):
    upstream.answers(answer)
    error = client.get(f"/v1/files{query}", headers=PLAIN, status=502).json["error"]
    assert f"'{name}'" in error["message"] and error["code"] == "upstream_invalid_answer"
    assert upstream.bodies[-1].closed


@pytest.mark.parametrize("query", ["", "?order=asc", "?purpose=batch", "?limit=5"])
@pytest.mark.parametrize("last_id", [None, "file_1"])
def test_empty_page_before_others_is_an_error(last_id, query, client, upstream):
    upstream.answers({"data": [], "has_more": True, "first_id": None, "last_id": last_id})
    client.get(f"/v1/files{query}", headers=PLAIN, status=502)
    assert len(upstream.calls) <= MAX_PAGES + 1


@pytest.mark.parametrize("status", [401, 403, 429, 500, 529])
def test_error_of_a_list_with_after_is_the_providers_own(status, client, upstream):
    upstream.answers({"type": "error", "error": {"type": "x", "message": "no"}}, status)
    client.get("/v1/files?after=file_1", headers=PLAIN, status=status)
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "after=../x", "order=up", "purpose=a%20b"])
def test_invalid_query_is_400_here_too(query, client, upstream):
    client.get(f"/v1/files?{query}", headers=PLAIN, status=400)
    assert upstream.calls == []


# Errors


ERRORS = [
    (400, "invalid_request_error", "invalid_request_error", None),
    (401, "authentication_error", "invalid_request_error", "invalid_api_key"),
    (402, "billing_error", "insufficient_quota", "insufficient_quota"),
    (403, "permission_error", "permission_error", None),
    (404, "not_found_error", "invalid_request_error", "not_found"),
    (409, "conflict_error", "conflict", None),
    (413, "request_too_large", "invalid_request_error", "request_too_large"),
    (429, "rate_limit_error", "rate_limit_error", "rate_limit_exceeded"),
    (500, "api_error", "server_error", None),
    (504, "timeout_error", "server_error", None),
    (529, "overloaded_error", "server_error", "overloaded"),
    (418, "new_error", "invalid_request_error", None),
    (599, "new_error", "server_error", None),
]


def anthropic_error(kind, message="Reason.", **more):
    return {"type": "error", "error": {"type": kind, "message": message, **more}, "request_id": "req_1"}


@pytest.mark.parametrize("status,kind,openais,code", ERRORS)
def test_error_has_openais_envelope_and_the_providers_status_and_request_id(
    status, kind, openais, code, client, upstream
):
    upstream.answers(anthropic_error(kind), status, request_id="req_1", retry_after="7", server="cf")
    answer = client.get("/v1/files/file_1", headers=PLAIN, status=status)
    assert answer.json == {"error": {"message": "Reason.", "type": openais, "param": None, "code": code}}
    assert (answer.headers["x-request-id"], answer.headers["retry-after"]) == ("req_1", "7")
    assert "server" not in answer.headers and upstream.bodies[0].closed


@pytest.mark.parametrize("code", ["file_not_downloadable", "storage_quota_exceeded", "file_expired"])
def test_error_code_in_the_details_is_the_code(code, client, upstream):
    upstream.answers(anthropic_error("invalid_request_error", details={"error_code": code}), 400)
    answer = client.get("/v1/files/file_1/content", headers=PLAIN, status=400)
    assert answer.json["error"]["code"] == code and answer.json["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "message", ["File file_1 is not downloadable.", "This file cannot be downloaded", "can't be downloaded"]
)
def test_file_that_is_not_downloadable_is_recognised_by_the_message_of_older_versions(message, client, upstream):
    upstream.answers(anthropic_error("invalid_request_error", message), 400)
    error = client.get("/v1/files/file_1/content", headers=PLAIN, status=400).json["error"]
    assert (error["code"], error["message"]) == ("file_not_downloadable", message)


@pytest.mark.parametrize(
    "details", [None, [], "x", {"error_code": 5}, {"error_code": None}, {"error_code": ["a"]}, {}, {"error_code": {}}]
)
def test_details_of_another_type_give_no_code(details):
    assert translated_error(anthropic_error("not_found_error", details=details))["code"] == "not_found"


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "x",
        5,
        {},
        {"error": None},
        {"error": "text"},
        {"error": []},
        {"error": {"type": 5, "message": []}},
        {"type": "error"},
        {"error": {"type": ["a"]}},
        {"error": {"message": {"a": 1}}},
    ],
)
def test_error_of_any_shape_becomes_openais(body):
    found = translated_error(body)
    assert set(found) == {"message", "type", "param", "code"}
    assert isinstance(found["message"], str) and found["message"]
    assert all(value is None or isinstance(value, str) for value in found.values())


PAGE = b"<!DOCTYPE html><html><title>cloudflare</title></html>"


@pytest.mark.parametrize("status,expected", [(400, 502), (502, 502), (520, 502), (503, 502), (413, 413), (429, 429)])
def test_web_page_of_an_edge_is_a_502_or_keeps_a_status_that_only_an_edge_sends(status, expected, client, upstream):
    upstream.status, upstream.headers, upstream.chunks = status, {"content-type": "text/html; charset=UTF-8"}, [PAGE]
    answer = client.get("/v1/files/file_1", headers=PLAIN, status=expected)
    assert set(answer.json["error"]) == {"message", "type", "param", "code"}
    assert "<" not in answer.text and "cloudflare" not in answer.text


@pytest.mark.parametrize("status", [401, 403])
def test_refused_saved_credential_is_a_502_and_not_the_callers_fault(status, make_client, upstream):
    upstream.answers(anthropic_error("authentication_error", "invalid x-api-key sk-ant-saved"), status)
    answer = make_client(SAVED).get("/v1/files/file_1", headers=BY_SLUG, status=502)
    assert answer.json["error"]["code"] == "upstream_credential_rejected" and "sk-ant" not in answer.text


def test_credential_that_an_error_repeats_is_redacted(client, upstream):
    details = {"error_code": "sk-ant-caller"}
    upstream.answers(anthropic_error("authentication_error", "bad sk-ant-caller", details=details), 401)
    assert "sk-ant-caller" not in client.get("/v1/files/file_1", headers=PLAIN, status=401).text


# Chat: the types of files are looked up


class Chat(Pages):
    """An upstream that knows the types of files and answers messages."""

    def __init__(self, **types):
        super().__init__()
        self.types = types

    def __call__(self, call, target):
        self.calls.append(call)
        if call.operation == "create_chat_completion":
            answer = {"id": "msg_1", "model": "m", "content": [], "usage": {"input_tokens": 1, "output_tokens": 1}}
            status = 200
        else:
            file_id = call.path.rpartition("/")[2]
            found = self.types.get(file_id)
            status = found if isinstance(found, int) else 200 if found else 404
            answer = anthropic_error("not_found_error") if status != 200 else {"id": file_id, **found}
        self.bodies.append(FakeBody([json.dumps(answer).encode()]))
        return Answer(status, {}, body=self.bodies[-1])


def pdf(mime_type="application/pdf", **fields):
    """A file without its id, which `Chat` adds."""
    return {**{name: value for name, value in FILE.items() if name != "id"}, "mime_type": mime_type, **fields}


def chat(make_client, upstream, *files, headers=PLAIN, status=200, **body):
    """Send a chat with a file part for each of these ids or objects."""
    parts = [{"type": "file", "file": each if isinstance(each, dict) else {"file_id": each}} for each in files]
    parts.append({"type": "text", "text": "hi"})
    body = {"model": "m", "messages": [{"role": "user", "content": parts}], **body}
    client = make_client(transports={"https": upstream})
    answer = client.post_json("/v1/chat/completions", body, headers=headers, status=status)
    assert all(each.closed for each in upstream.bodies)
    return answer.json


def test_file_without_a_type_is_looked_up_and_gets_the_block_of_its_type(make_client):
    upstream = Chat(file_a=pdf(), file_b=pdf("image/png"), file_c=pdf("text/plain; charset=utf-8"))
    chat(make_client, upstream, "file_a", "file_b", "file_c")
    assert sorted(call.url for call in upstream.calls[:3]) == [f"{BASE}/files/file_{name}" for name in "abc"]
    assert [call.url for call in upstream.calls[3:]] == [f"{BASE}/messages"]
    assert [block["type"] for block in upstream.calls[-1].json["messages"][0]["content"]] == [
        "document", "image", "document", "text"]  # fmt: skip
    for call in upstream.calls:
        assert "anthropic-beta" not in call.headers and call.headers["x-api-key"] == "sk-ant-caller"
    assert [call.method for call in upstream.calls] == ["GET", "GET", "GET", "POST"]


def test_file_with_a_type_is_not_looked_up(make_client):
    upstream = Chat()
    chat(make_client, upstream, {"file_id": "file_a", "mime_type": "application/pdf"})
    assert [call.url for call in upstream.calls] == [f"{BASE}/messages"]
    assert "anthropic-beta" not in upstream.calls[0].headers


def test_each_file_is_looked_up_once(make_client):
    upstream = Chat(file_a=pdf(), file_b=pdf())
    chat(make_client, upstream, "file_a", "file_b", "file_a", {"file_id": "file_b", "filename": "x"}, "file_a")
    assert len(upstream.calls) == 3


def test_lookups_are_bounded(make_client):
    names = [f"file_{number}" for number in range(MAX_LOOKUPS)]
    upstream = Chat(**{name: pdf() for name in names})
    chat(make_client, upstream, *names)
    assert len(upstream.calls) == MAX_LOOKUPS + 1
    upstream.calls.clear()
    error = chat(make_client, upstream, *names, "file_more", status=400)["error"]
    assert error["param"] == "messages" and upstream.calls == []


def test_missing_file_is_named_by_its_place(make_client):
    upstream = Chat(file_a=pdf())
    error = chat(make_client, upstream, "file_a", "file_x", "file_x", status=404)["error"]
    assert (error["param"], error["code"]) == ("messages[0].content[1].file.file_id", "not_found")


def test_answer_to_a_lookup_without_a_type_is_502(make_client):
    error = chat(make_client, Chat(file_a={"id": "file_a"}), "file_a", status=502)["error"]
    assert "'mime_type'" in error["message"]


def test_lookup_that_is_answered_about_another_file_is_502(make_client):
    """An upstream that is off by one would name the type of another file."""
    upstream = Chat(file_a=pdf(id="file_b"))
    assert chat(make_client, upstream, "file_a", status=502)["error"]["code"] == "upstream_invalid_answer"
    assert [call.operation for call in upstream.calls] == ["retrieve_file"]


def test_failure_of_a_lookup_is_the_providers_own(make_client):
    error = chat(make_client, Chat(file_a=529), "file_a", status=529)["error"]
    assert error["message"] == anthropic_error("not_found_error")["error"]["message"]


@pytest.mark.parametrize("betas", ["a-1", f"{FILES_BETA}", f"a-1,{FILES_BETA},b-2"])
@pytest.mark.parametrize("files", [(), ("file_a",), ({"file_url": "https://a.example/a.pdf"},)])
def test_chat_has_the_clients_betas_and_no_others(files, betas, make_client):
    upstream = Chat(file_a=pdf())
    chat(make_client, upstream, *files)
    assert not [call for call in upstream.calls if "anthropic-beta" in call.headers]
    upstream.calls.clear()
    chat(make_client, upstream, *files, headers={**PLAIN, "anthropic-beta": betas})
    assert {call.headers["anthropic-beta"] for call in upstream.calls} == {betas}


def test_ignored_fields_are_reported(make_client, upstream):
    upstream.answers({"id": "m", "model": "m", "content": [], "usage": {"input_tokens": 1, "output_tokens": 1}})
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "seed": 5, "store": True, "logit_bias": None}
    answer = make_client().post_json("/v1/chat/completions", body, headers=PLAIN)
    assert answer.headers["x-filesproxy-ignored"] == "seed, store"


@pytest.mark.parametrize("stream", [True, False])
def test_json_in_place_of_a_stream_is_502(stream, make_client, upstream):
    upstream.answers({"id": "m", "model": "m", "content": [], "usage": {"input_tokens": 1, "output_tokens": 1}})
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    make_client().post_json("/v1/chat/completions", body, headers=PLAIN, status=502 if stream else 200)
    assert (
        upstream.calls[0].expects == ("events" if stream else "json")
        and upstream.calls[0].json.get("stream", False) is stream
    )
    assert upstream.bodies[0].closed


def test_query_of_a_chat_is_not_sent(make_client, upstream):
    upstream.answers({"id": "m", "model": "m", "content": [], "usage": {"input_tokens": 1, "output_tokens": 1}})
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    make_client().post_json("/v1/chat/completions?beta=x", body, headers=PLAIN)
    assert upstream.calls[0].query == {}


def test_table_has_a_complete_entry_for_anthropic():
    assert PROVIDERS["anthropic"] is ANTHROPIC
    assert {"base_url", "authorize", "error", "operations"} <= set(ANTHROPIC)


@pytest.mark.parametrize("sent", ["image/jpg", "IMAGE/JPG", "image/jpg; q=1", "image/pjpeg"])
def test_upload_has_the_registered_name_of_its_media_type(sent, client, upstream):
    """A file that was stored as image/jpg could not be used in any chat."""
    upstream.answers(FILE)
    upload(client, ("file", "a.jpg", sent, b"x"))
    assert sent_parts(upstream) == [("file", "a.jpg", "image/jpeg")]


# Expiry


HOUR = [("expires_after[anchor]", "created_at"), ("expires_after[seconds]", "3600")]
CALLERS_BETAS = {
    "none": ({}, None),
    "files": ({"anthropic-beta": FILES_BETA}, None),
    "portkeys_files": ({"x-portkey-anthropic-beta": FILES_BETA}, None),
    "files_and_others": ({"anthropic-beta": f"a-1,{FILES_BETA},b-2"}, "a-1,b-2"),
    "others": ({"anthropic-beta": "a-1"}, "a-1"),
}


@pytest.mark.parametrize("name", CALLERS_BETAS)
def test_expiry_before_the_file_takes_the_place_of_the_files_beta(name, make_client):
    headers, sent = CALLERS_BETAS[name]
    with StrictAnthropic() as fake:
        made = uploaded_to(make_client, fake, [*HOUR, ("file", "a.pdf", "application/pdf", b"%PDF")], headers)
        assert made["expires_at"] == made["created_at"] + 3600
        assert dict(fake.requests[-1][2]).get("anthropic-beta") == sent
        assert asked_of(make_client, fake, made["id"])["expires_at"] == made["expires_at"] and not fake.problems


@pytest.mark.parametrize("headers", [{}, {"anthropic-beta": "a-1"}])
def test_expiry_after_the_file_is_kept_too(headers, make_client):
    with StrictAnthropic() as fake:
        made = uploaded_to(make_client, fake, [("file", "a.pdf", "application/pdf", b"%PDF"), *HOUR], headers)
        assert made["expires_at"] == made["created_at"] + 3600 and not fake.problems


def test_expiry_after_the_file_under_the_clients_own_files_beta_is_400_and_no_file_without_an_end(make_client):
    with StrictAnthropic() as fake:
        headers = {"anthropic-beta": f"{FILES_BETA},a-1"}
        error = uploaded_to(make_client, fake, [("file", "a.pdf", "application/pdf", b"%PDF"), *HOUR], headers, 400)[
            "error"
        ]
        assert error["param"] == "expires_after[seconds]" and FILES_BETA in error["message"]
        assert not fake.files


@pytest.mark.parametrize("headers", [{"anthropic-beta": FILES_BETA}, {"x-portkey-anthropic-beta": f"a-1,{FILES_BETA}"}])
def test_files_beta_of_a_client_that_asks_for_no_expiry_is_passed_on(headers, make_client):
    with StrictAnthropic() as fake:
        uploaded_to(make_client, fake, [("file", "a.pdf", "application/pdf", b"%PDF")], headers)
        assert dict(fake.requests[-1][2])["anthropic-beta"] == next(iter(headers.values()))


def uploaded_to(make_client, fake, parts, headers, status=200):
    """What the client gets for an upload through a gateway to this fake."""
    return (
        gateway_to(make_client, fake)
        .post("/v1/files", form(*parts), {**headers, "content-type": form_type()}, status=status)
        .json
    )


def asked_of(make_client, fake, file_id):
    return gateway_to(make_client, fake).get(f"/v1/files/{file_id}").json


def gateway_to(make_client, fake):
    section = {"base_url": fake.base_url, "credential": strict_anthropic.KEY}
    sections = {"filesproxy": {"open_access": "yes", "default_provider": "anthropic"}, "provider:anthropic": section}
    return make_client(sections, transports=make_transports())
