"""The application as a server runs it: the five file operations, their errors, and their log lines."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qsl, urlencode
from wsgiref.util import setup_testing_defaults

import pytest
import webtest
from configurations import MADE, hashed
from fakes import FILE, OPENAI, FakeBody, FakeUpstream, form, form_type

from filesproxy import create_app
from filesproxy.app import Application, make_transports
from filesproxy.calls import Answer
from filesproxy.errors import FINAL_CODES, UpstreamError
from filesproxy.gateway import access_log as access_log_module
from filesproxy.gateway.response import MAX_READ_AHEAD_BYTES
from filesproxy.operations import OPERATIONS
from filesproxy.providers import PROVIDERS
from filesproxy.wire.strict_json import cost

MODERN = {"SERVER_PROTOCOL": "HTTP/1.1"}
UPLOAD = form(("purpose", "batch"), ("file", "a.jsonl", "application/jsonl", b"hello"))


def post(client, body, status=200, **headers):
    return client.post("/v1/files", body, {**OPENAI, "content-type": form_type(), **headers}, status=status)


def test_upload_relays_the_file_and_its_fields(client, upstream):
    upstream.answers(FILE)
    assert post(client, UPLOAD).json == FILE
    (call,) = upstream.calls
    assert (call.method, call.url) == ("POST", "https://api.openai.com/v1/files")
    assert call.headers["authorization"] == "Bearer sk-caller"
    assert (call.upload.filename, call.upload.content_type) == ("a.jsonl", "application/jsonl")
    assert call.upload.fields == {"purpose": "batch"}
    assert upstream.uploads == [b"hello"]


def test_form_fields_may_come_after_the_file(client, upstream):
    upstream.answers(FILE)
    post(client, form(("file", "a", "", b"x"), ("expires_after[anchor]", "created_at"),
                      ("expires_after[seconds]", "3600"), ("purpose", "batch")))  # fmt: skip
    assert upstream.calls[0].upload.fields == {
        "purpose": "batch",
        "expires_after[anchor]": "created_at",
        "expires_after[seconds]": "3600",
    }


def test_unknown_fields_are_named_and_not_sent(client, upstream):
    upstream.answers(FILE)
    answer = post(client, form(("purpose", "batch"), ("shade", "blue"), ("file", "a", "", b"x")))
    assert answer.headers["x-filesproxy-ignored"] == "shade"
    assert upstream.calls[0].upload.fields == {"purpose": "batch"}


BEFORE_THE_FILE = {
    "no_file": (form(("purpose", "batch")), "file"),
    "file_without_name": (form(("file", "text")), "file"),
    "file_under_another_name": (form(("document", "a", "", b"")), "file"),
    "repeated_purpose": (form(("purpose", "batch"), ("purpose", "batch"), ("file", "a", "", b"")), "purpose"),
    "purpose_of_a_megabyte": (form(("purpose", "a" * (1 << 20)), ("file", "a", "", b"")), None),
    "purpose_with_crlf": (form(("purpose", "batch\r\nX-Evil: 1"), ("file", "a", "", b"")), "purpose"),
    "empty_purpose": (form(("purpose", ""), ("file", "a", "", b"")), "purpose"),
    "expiry_of_a_minute": (form(("expires_after[seconds]", "60"), ("file", "a", "", b"")), "expires_after[seconds]"),
    "expiry_from_elsewhere": (form(("expires_after[anchor]", "now"), ("file", "a", "", b"")), "expires_after[anchor]"),
    "field_name_with_crlf": (form(("a\r\nb", "x"), ("file", "a", "", b"")), None),
    "file_name_with_nul": (form(("file", "a\0b", "", b"")), None),
    "file_name_with_newline": (form(("file", "a\r\nX-Evil: 1", "", b"")), None),
    "file_name_with_bare_cr": (form(("file", "a\rb", "", b"")), None),
    "file_name_of_5_kb": (form(("file", "a" * 5000, "", b"")), None),
    "40_fields": (form(*((f"f{n}", "") for n in range(40)), ("file", "a", "", b"")), None),
    "garbage": (b"garbage", None),
    "empty_body": (b"", None),
}


@pytest.mark.parametrize("name", BEFORE_THE_FILE)
def test_fault_before_the_file_is_400_and_nothing_is_sent(name, client, upstream):
    body, param = BEFORE_THE_FILE[name]
    error = post(client, body, 400).json["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert upstream.calls == []


@pytest.mark.parametrize("header", ["Content-Transfer-Encoding: base64", "content-transfer-encoding:Quoted-Printable ",
                                    "Content-Transfer-Encoding: x-gzip64", "Content-Encoding: gzip"])  # fmt: skip
@pytest.mark.parametrize("name", ["file", "purpose"])
def test_part_whose_bytes_are_encoded_is_a_400_that_names_the_header(name, header, client, upstream):
    """What a part's bytes mean is never left to chance: as they are, or refused. The base64 text was the file."""
    body = UPLOAD.replace(f'name="{name}"'.encode(), f'name="{name}"\r\n{header}\r\nX-A: "'.encode())
    error = post(client, body, 400).json["error"]
    assert (error["param"], error["code"]) == (header.partition(":")[0].lower(), "invalid_multipart")
    assert error["param"] in error["message"] and upstream.uploads == []


@pytest.mark.parametrize("word", ["", "identity", "none", "null", "UTF-8", "utf8", "8bit", "binary ", '"identity"'])
@pytest.mark.parametrize("header", ["Content-Encoding", "Content-Transfer-Encoding"])
def test_words_of_a_part_for_not_encoded_are_those_of_an_answer(header, word, client, upstream):
    upstream.answers(FILE)
    post(client, UPLOAD.replace(b"Content-Type: ", f"{header}: {word}\r\nContent-Type: ".encode()))
    assert upstream.uploads == [b"hello"]


NAMES = {
    b"filename=\"=?utf-8?B?w6kudHh0?=\"; filename*=utf-8''%C3%A9.txt": "é.txt",  # .NET
    b'filename="=?utf-8?B?w6kudHh0?="': "é.txt",  # PowerShell, Delphi
    b'filename="=?Windows-1252?Q?=E9_=80.txt?="': "é €.txt",
    b'filename="=?utf8?B?w6kudHh0?="': "é.txt",
    b'filename="=?latin1?Q?=E9.txt?="': "é.txt",
    b'filename="=?Latin-1?Q?=E9.txt?="': "é.txt",
    b'filename="=?iso8859-1?Q?=E9.txt?="': "é.txt",
    b'filename="=?cp1252?Q?=80.txt?="': "€.txt",
    b'filename="=?utf-8?B?w6kudHh0?= "': "é.txt",
    b'filename=" =?utf-8?B?w6kudHh0?=\t"': "é.txt",
    b"filename*=utf8''%C3%A9.txt": "é.txt",
    b"filename*=latin1''%E9.txt": "é.txt",
    b'filename="=?utf-8?Q?a?= =?iso-8859-1?Q?=E9?="': "aé",
    b"filename=\"plain.txt\"; filename*=utf-8''%C3%A9.txt": "plain.txt",
}


@pytest.mark.parametrize("disposition", NAMES)
def test_file_name_is_what_a_person_would_read(disposition, client, upstream):
    """A name of encoded words (RFC 2047) is read from filename*, or decoded; a legible one stays as it is."""
    upstream.answers(FILE)
    post(client, UPLOAD.replace(b'filename="a.jsonl"', disposition))
    assert upstream.calls[0].upload.filename == NAMES[disposition]


def test_boundary_of_80_characters_is_taken(client, upstream):
    """Ruby's SDKs send one; RFC 2046 says 70."""
    upstream.answers(FILE)
    long = "x" * 80
    post(
        client, form(("purpose", "batch"), ("file", "a", "", b"x"), boundary=long), **{"content-type": form_type(long)}
    )
    assert upstream.uploads == [b"x"]


AFTER_THE_FILE = {
    "no_purpose": form(("file", "a", "", b"x")),
    "second_file": form(("purpose", "batch"), ("file", "a", "", b"x"), ("file", "b", "", b"y")),
    "half_an_expiry": form(("purpose", "batch"), ("file", "a", "", b"x"), ("expires_after[seconds]", "3600")),
    "purpose_again": form(("purpose", "batch"), ("file", "a", "", b"x"), ("purpose", "batch")),
    "too_many_parts": form(("purpose", "batch"), ("file", "a", "", b"x"), *((f"f{n}", "") for n in range(40))),
    "no_closing_boundary": UPLOAD[:-6],
    "long_epilogue": UPLOAD + b"x" * 70000,
}


@pytest.mark.parametrize("name", AFTER_THE_FILE)
def test_fault_after_the_file_is_400_and_the_upload_is_not_completed(name, client, upstream):
    upstream.answers(FILE)
    assert post(client, AFTER_THE_FILE[name], 400).json["error"]["type"] == "invalid_request_error"
    assert upstream.uploads == []


def test_body_shorter_than_its_length_is_400_and_the_upload_is_not_completed(client, upstream):
    answer = post(client, UPLOAD, 400, **{"content-length": str(len(UPLOAD) + 9)})
    assert answer.json["error"]["code"] == "client_aborted"
    assert upstream.uploads == []


def test_body_longer_than_its_length_is_cut_off_there_and_so_400(client, upstream):
    post(client, UPLOAD, 400, **{"content-length": str(len(UPLOAD) - 9)})
    assert upstream.uploads == []


def test_chunked_body_that_the_server_does_not_end_is_411(client, upstream):
    post(client, UPLOAD, 411, **{"transfer-encoding": "chunked"})
    assert upstream.calls == []


def test_upload_over_the_limit_is_413_before_anything_is_sent(make_client, upstream):
    error = post(make_client(max_upload_bytes=100), UPLOAD, 413).json["error"]
    assert error["code"] == "request_too_large"
    assert upstream.calls == []


def test_upload_that_is_not_a_form_is_415(client, upstream):
    answer = client.post("/v1/files", "{}", {**OPENAI, "content-type": "application/json"}, status=415)
    assert answer.json["error"]["param"] == "content-type"


def test_file_in_an_envelope_is_the_file(client, upstream):
    """SiliconFlow's form; the upload was a 502 after the file had been stored."""
    upstream.answers({"code": 20000, "message": "Ok", "status": True, "data": {**FILE, "bytes": None}})
    assert post(client, UPLOAD).json == FILE
    upstream.answers({"code": 20000, "message": "Ok", "status": True, "data": {"object": "list", "data": [FILE]}})
    assert client.get("/v1/files", headers=OPENAI).json["data"] == [FILE]
    upstream.answers({"code": 20000, "message": "Ok", "data": {"id": "file-1", "deleted": True}})
    assert client.delete("/v1/files/file-1", headers=OPENAI).json["deleted"] is True


@pytest.mark.parametrize("name", ["data", "result", "file"])
def test_id_of_the_request_beside_a_file_is_not_the_files(name, client, upstream):
    upstream.answers({"id": "req-1", name: FILE})
    assert post(client, UPLOAD).json == FILE


def test_failure_with_status_200_is_a_502_that_says_why(client, upstream):
    upstream.answers({"code": 20015, "message": "No room for sk-caller.", "data": None})
    answer = post(client, UPLOAD, 502)
    error = answer.json["error"]
    assert (error["code"], answer.headers["x-should-retry"]) == ("upstream_invalid_answer", "false")
    assert "No room for [redacted]." in error["message"]
    client.get("/v1/files", headers=OPENAI, status=502)
    client.delete("/v1/files/file-1", headers=OPENAI, status=502)


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b'{"deleted": true}', b" \n", b'{"object": "file"}'])
@pytest.mark.parametrize("status", [200, 202, 204])
def test_deletion_without_an_id_in_its_answer_has_the_id_of_the_request(body, status, client, upstream):
    upstream.status, upstream.chunks = status, [body]
    answer = client.delete("/v1/files/file-1", headers=OPENAI)
    assert (answer.status_int, answer.json) == (200, {"id": "file-1", "object": "file", "deleted": True})


@pytest.mark.parametrize("body", [b"OK", b"deleted", b'"file-1"', b"1", b"Success!\n", b"file-1 deleted.", b"file-1"])
@pytest.mark.parametrize("media_type", ["text/plain", "application/json", "text/html"])
def test_deletion_answered_with_a_word_is_a_success(body, media_type, client, upstream):
    """The file was gone, and the client got a 502."""
    upstream.headers, upstream.chunks = {"content-type": media_type}, [body]
    assert client.delete("/v1/files/file-1", headers=OPENAI).json == {"id": "file-1", "object": "file", "deleted": True}


@pytest.mark.parametrize("body", [b"<html>deleted</html>", b"file-2 deleted", b"No", b"{deleted", b"\xffok"])
def test_deletion_answered_with_anything_else_is_a_502(body, client, upstream):
    upstream.headers, upstream.chunks = {"content-type": "text/plain"}, [body]
    client.delete("/v1/files/file-1", headers=OPENAI, status=502)


def test_deletion_that_is_passed_through_and_answered_with_a_word_is_a_success_without_content(client, upstream):
    upstream.headers, upstream.chunks = {"content-type": "text/plain"}, [b"OK"]
    assert client.delete("/v1/responses/resp_1", headers=OPENAI).body == b""


def test_list_passes_its_parameters_and_completes_the_envelope(client, upstream):
    upstream.answers({"object": "list", "data": [FILE, {**FILE, "id": "file-2"}]})
    query = "?purpose=batch&limit=2&after=file-0&order=asc&pretty=1"
    answer = client.get(f"/v1/files{query}", headers=OPENAI).json
    assert upstream.calls[0].query == {
        "purpose": "batch",
        "limit": "2",
        "after": "file-0",
        "order": "asc",
        "pretty": "1",
    }
    assert (answer["first_id"], answer["last_id"], answer["has_more"]) == ("file-1", "file-2", False)


# What the vendors' test-suites send, and other values that only the provider can judge.
JUDGED_BY_THE_PROVIDER = ["limit=0", "purpose=purpose", "after=after", "limit=10001", "limit=x", "limit=", "order=up",
                          "after=../x", "purpose=a%0d%0ab", "limit=%D9%A3", "pagination_token=t%3D%3D", "page=0",
                          "include[]=a&include[]=b", "order=order&limit=0&after=after&purpose=purpose"]  # fmt: skip


@pytest.mark.parametrize("query", JUDGED_BY_THE_PROVIDER)
def test_provider_that_makes_its_list_judges_the_parameters(query, client, upstream):
    upstream.answers({"error": {"message": "no such limit", "param": "limit"}}, 400)
    answer = client.get(f"/v1/files?{query}", headers=OPENAI, status=400).json
    assert answer["error"]["message"] == "no such limit"
    assert urlencode(upstream.calls[0].query, doseq=True) == urlencode(parse_qsl(query, keep_blank_values=True))


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "limit=x", "limit=1&limit=2", "order=up", "after=../x",
                                   "purpose=a%0d%0ab", "limit=-1", "limit=1e3", "limit=%D9%A3"])  # fmt: skip
@pytest.mark.parametrize("provider", ["azure-openai", "anthropic", "local"])
def test_list_that_the_gateway_makes_refuses_what_it_cannot_make(query, provider, tmp_path):
    never = FakeUpstream()
    application = create_app({}, transports={"https": never}, folder=str(tmp_path))
    headers = {"x-portkey-provider": provider, "authorization": "Bearer sk-caller",
               "x-portkey-azure-resource-name": "acme"}  # fmt: skip
    refused = webtest.TestApp(application).get(f"/v1/files?{query}", headers=headers, status=400).json["error"]
    assert (refused["param"] or "") in query
    assert never.calls == []


def test_retrieve_and_delete(client, upstream):
    upstream.answers(FILE)
    assert client.get("/v1/files/file-1", headers=OPENAI).json == FILE
    upstream.answers({"id": "file-1", "object": "file", "deleted": True})
    assert client.delete("/v1/files/file-1", headers=OPENAI).json["deleted"] is True
    assert [(call.method, call.url) for call in upstream.calls] == [
        ("GET", "https://api.openai.com/v1/files/file-1"),
        ("DELETE", "https://api.openai.com/v1/files/file-1"),
    ]


def test_content_keeps_its_bytes_type_length_and_disposition(client, upstream):
    content = bytes(range(256))
    upstream.chunks = [content[:100], content[100:]]
    upstream.headers = {"content-type": "text/csv", "content-length": "256", "set-cookie": "a=b", "server": "secret/1",
                        "content-disposition": 'attachment; filename="a.csv"'}  # fmt: skip
    answer = client.get("/v1/files/file-1/content", headers=OPENAI)
    assert answer.body == content
    assert (answer.content_type, answer.headers["content-length"]) == ("text/csv", "256")
    assert answer.headers["content-disposition"] == 'attachment; filename="a.csv"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not {"set-cookie", "server"} & {name.lower() for name in answer.headers}
    assert upstream.bodies[0].closed


def test_content_that_stops_early_never_ends_cleanly(client, upstream, access_log):
    upstream.chunks = [b"some", UpstreamError("The provider ended its answer early.")]
    with pytest.raises(ConnectionResetError):
        client.get("/v1/files/file-1/content", headers=OPENAI)
    assert upstream.bodies[0].closed
    assert access_log()[-1]["error"] == "upstream_error"


def test_content_that_fails_before_its_first_byte_is_502(client, upstream):
    upstream.chunks = [UpstreamError("The provider broke off its answer.")]
    client.get("/v1/files/file-1/content", headers=OPENAI, status=502)
    assert upstream.bodies[0].closed


def test_head_answers_like_get_without_a_body(client, upstream):
    upstream.answers(FILE)
    for path in ("/v1/files/file-1", "/v1/files/file-1/content", "/v1/health", "/"):
        answer = client.head(path, headers=OPENAI)
        assert (answer.status_int, answer.body) == (200, b"")
    assert all(body.closed for body in upstream.bodies)


@pytest.mark.parametrize(
    "file_id", ["..", "a%3Fb", "a%23b", "a%00", "%C3%A9", "a" * 129, "a%0d%0ab", "a%20b", "%2e%2e", "a%25b"]
)
def test_id_that_could_change_the_url_is_refused(file_id, client, upstream):
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
        client.request(f"/v1/files/{file_id}{path}", method=method, headers=OPENAI, status=[400, 404])
    assert upstream.calls == []


def test_encoded_slash_is_refused_if_the_server_shows_it(client, upstream):
    raw = {"RAW_URI": "/v1/files/a%2Fcontent?x=%2F"}
    client.get("/v1/files/a/content", headers=OPENAI, extra_environ=raw, status=400)
    assert upstream.calls == []


def test_provider_error_keeps_its_status_and_words(client, upstream):
    error = {"message": "No such File object: file-1", "type": "invalid_request_error", "param": "id", "code": None}
    upstream.answers({"error": error}, 404, x_request_id="req_1", retry_after="7", set_cookie="a=b")
    answer = client.get("/v1/files/file-1", headers=OPENAI, status=404)
    assert answer.json == {"error": error}
    assert (answer.headers["x-request-id"], answer.headers["retry-after"]) == ("req_1", "7")
    assert "set-cookie" not in answer.headers


def test_credential_in_an_upstream_error_is_replaced(client, upstream):
    upstream.answers({"error": {"message": "Incorrect API key provided: sk-caller."}}, 401)
    answer = client.get("/v1/files/file-1", headers=OPENAI, status=401)
    assert answer.json["error"]["message"] == "Incorrect API key provided: [redacted]."


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 304])
def test_redirect_is_502_and_not_followed(status, client, upstream):
    upstream.answers({}, status, location="https://evil.example/")
    answer = client.get("/v1/files/file-1", headers=OPENAI, status=502)
    assert answer.json["error"]["code"] == "upstream_redirect"
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("body", [b"<html>", b"", b"[1", b"NaN", b'"x"', b"{}", b'{"id": 5}', b"[" * 100_000])
def test_success_without_a_valid_file_object_is_502(body, client, upstream):
    upstream.chunks = [body]
    client.get("/v1/files/file-1", headers=OPENAI, status=502)
    assert upstream.bodies[0].closed


def test_json_over_the_limit_is_502(make_client, upstream):
    upstream.chunks = [b" " * 600] * 2
    answer = make_client(max_answer_bytes=1000).get("/v1/files/file-1", headers=OPENAI, status=502)
    assert answer.json["error"]["code"] == "upstream_answer_too_large"
    assert upstream.bodies[0].closed


def test_organisation_and_project_are_passed_on(client, upstream):
    upstream.answers(FILE)
    named = {"OpenAI-Organization": "org-1", "x-portkey-openai-project": "proj-1", "x-other": "no"}
    client.get("/v1/files/file-1", headers={**OPENAI, **named})
    assert upstream.calls[0].headers == {
        "authorization": "Bearer sk-caller",
        "openai-organization": "org-1",
        "openai-project": "proj-1",
    }


ALLOWED = [
    ("PUT", "/v1/files", "POST, GET, HEAD"),
    ("POST", "/v1/files/a/content", "GET, HEAD"),
    ("OPTIONS", "/v1/files/a", "GET, HEAD, DELETE"),
    ("POST", "/", "GET, HEAD"),
]


@pytest.mark.parametrize("method,path,allow", ALLOWED)
def test_wrong_method_is_405_with_allow(method, path, allow, client):
    answer = client.request(path, method=method, headers=OPENAI, status=405)
    assert answer.headers["allow"] == allow


@pytest.mark.parametrize("path", ["/v1/files/", "/v1", "/v2/files", "/files", "/v1/files/a/b", "/v1/files/a/content/"])
def test_other_paths_are_404(path, client):
    assert client.get(path, headers=OPENAI, status=404).json["error"]["code"] == "not_found"


def test_health_needs_no_provider_and_no_credential(client):
    for path in ("/", "/v1/health"):
        assert client.get(path).json["status"] == "ok"


NOT_ONE_TARGET = [
    {},
    {"x-portkey-provider": "nobody"},
    {"x-portkey-provider": "local"},
    {"x-portkey-provider": "openai,openai"},
    {"x-portkey-provider": "open ai"},
    {**OPENAI, "x-portkey-custom-host": "https://evil.example"},
    {**OPENAI, "x-portkey-config": "pc-of-portkey"},
    {**OPENAI, "x-portkey-config": '{"provider": "@openai"}'},
    {"x-portkey-provider": "openai", "x-portkey-api-key": "a,b"},
    {"x-portkey-provider": "openai", "authorization": "Bearer a,Bearer b"},
]


@pytest.mark.parametrize("headers", NOT_ONE_TARGET)
def test_headers_that_do_not_name_one_target_are_400(headers, client, upstream):
    client.get("/v1/files", headers=headers, status=400)
    assert upstream.calls == []


NO_CREDENTIAL = [
    {},
    {"authorization": "Bearer OPENAI_API_KEY"},
    {"authorization": "Bearer DUMMY-KEY"},
    {"authorization": "Basic abc"},
    {"x-portkey-api-key": "fp_gateway"},
]


@pytest.mark.parametrize("headers", NO_CREDENTIAL)
def test_missing_credential_for_a_provider_that_needs_one_is_401(headers, client, upstream):
    answer = client.get("/v1/files", headers={"x-portkey-provider": "openai", **headers}, status=401)
    assert answer.json["error"]["code"] == "invalid_api_key"
    assert upstream.calls == []


def test_every_answer_has_a_request_id_and_a_trace_id(client, upstream):
    upstream.answers(FILE)
    answer = client.get("/v1/files/file-1", headers={**OPENAI, "x-portkey-trace-id": "trace-7"})
    assert answer.headers["x-portkey-trace-id"] == "trace-7"
    assert answer.headers["x-request-id"].startswith("fpr-")
    assert answer.headers["x-portkey-provider"] == "openai"
    refused = client.get("/nowhere", headers={"x-portkey-trace-id": "bad id"}, status=404)
    assert refused.headers["x-portkey-trace-id"].startswith("fpr-")


def test_access_log_has_one_line_per_request_and_no_secret(client, upstream, access_log, caplog):
    upstream.answers(FILE)
    post(client, UPLOAD)
    (line,) = access_log()
    assert line.pop("time").endswith("Z") and line.pop("ms") >= 0 and line.pop("request_id").startswith("fpr-")
    assert line == {
        "key": None,
        "owner": None,
        "operation": "upload_file",
        "provider": "openai",
        "file_id": "file-1",
        "purpose": "batch",
        "bytes_in": len(UPLOAD),
        "bytes_out": line["bytes_out"],
        "status": 200,
        "error": None,
    }
    assert "sk-caller" not in caplog.text


def test_our_own_bug_is_500_and_its_text_is_not_logged(make_client, caplog):
    def broken(call, target):
        raise ValueError("sk-caller in an exception's text")

    client = make_client(transports={"https": broken})
    answer = client.get("/v1/files/file-1", headers=OPENAI, status=500)
    assert (answer.json["error"]["type"], answer.json["error"]["code"]) == ("server_error", "internal_error")
    assert "ValueError" in caplog.text and "sk-caller" not in caplog.text + answer.text


def test_two_applications_share_nothing(make_client, tmp_path):
    one = make_client(transports=None, folder=str(tmp_path / "one"), default_provider="local")
    two = make_client(transports=None, folder=str(tmp_path / "two"), default_provider="local")
    one.post("/v1/files", UPLOAD, {"content-type": form_type()})
    assert len(one.get("/v1/files").json["data"]) == 1
    assert two.get("/v1/files").json["data"] == []


def test_local_store_answers_this_machine_only(make_client, tmp_path):
    client = make_client(transports=None, folder=str(tmp_path), default_provider="local")
    client.get("/v1/files", status=200)
    client.get("/v1/files", headers={"host": "[::1]:8787", "origin": "http://[::1]:8787"}, status=200)
    for headers in (
        {"host": "evil.example"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"host": "127.0.0.1.evil"},
    ):
        client.get("/v1/files", headers=headers, status=403)
    client.get("/v1/files", extra_environ={"REMOTE_ADDR": "192.0.2.1"}, status=403)


def test_given_transports_replace_only_those_of_the_same_scheme(make_client, upstream, tmp_path):
    client = make_client(transports={"https": upstream}, folder=str(tmp_path), default_provider="local")
    file = client.post("/v1/files", UPLOAD, {"content-type": form_type()}).json["id"]
    assert client.get(f"/v1/files/{file}/content").body == b"hello"
    assert upstream.calls == []
    upstream.answers(FILE)
    assert client.get("/v1/files/file-1", headers=OPENAI).json == FILE
    plain = {"provider:compat": {"kind": "openai", "base_url": "http://127.0.0.1:1/v1"}}
    compat = {**OPENAI, "x-portkey-provider": "compat"}
    answer = make_client(plain, transports={"https": upstream}).get("/v1/files/file-1", headers=compat, status=502)
    assert answer.json["error"]["code"] == "upstream_unreachable"  # so the built-in transport for http was used


@pytest.mark.parametrize("config", [{}, {"filesproxy": {"max_upload_bytes": "8"}}])
def test_given_configuration_replaces_filesproxy_config_even_if_it_is_empty(config, monkeypatch, tmp_path):
    path = tmp_path / "filesproxy.ini"
    path.write_text(f"[filesproxy]\nread_timeout = 7\n[key:a]\nsha256 = {hashed('fp_a')}\n")
    for named in (path, tmp_path / "missing.ini"):
        monkeypatch.setenv("FILESPROXY_CONFIG", str(named))
        found = create_app(config).config
        assert (found.keys, found.settings["read_timeout"]) == ((), 60.0)


@pytest.mark.parametrize("count,status", [(10_000, 200), (10_001, 502)])
def test_list_that_is_longer_than_any_page_is_502(count, status, client, upstream):
    upstream.answers({"object": "list", "data": [{"id": "f"}] * count})
    answer = client.get("/v1/files", headers=OPENAI, status=status).json
    assert answer["error"]["code"] == "upstream_invalid_answer" if status == 502 else len(answer["data"]) == count


SAVED_AND_KEYED = {
    "provider:openai": {"credential": "sk-saved"},
    "key:a": {"sha256": hashed("fp_a"), "providers": "*", "caller_credentials": "yes"},
}
REFUSED_401 = {
    "no_key": (SAVED_AND_KEYED, {}),
    "wrong_key": (SAVED_AND_KEYED, {"x-portkey-api-key": "fp_wrong", "x-portkey-provider": "@openai"}),
    "key_without_a_credential": (SAVED_AND_KEYED, {"x-portkey-api-key": "fp_a", "x-portkey-provider": "openai"}),
    "no_credential": (None, {"x-portkey-provider": "openai"}),
    "placeholder": (None, {"x-portkey-provider": "openai", "authorization": "Bearer DUMMY-KEY"}),
    "refused_by_the_provider": (None, OPENAI),
}


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
@pytest.mark.parametrize("name", REFUSED_401)
def test_every_401_tells_how_to_authenticate(name, method, make_client, upstream):
    upstream.answers({"error": {"message": "No."}}, 401, www_authenticate="Basic realm=provider")
    config, headers = REFUSED_401[name]
    answer = make_client(config).request("/v1/files/file-1", method=method, headers=headers, status=401)
    assert answer.headers.getall("www-authenticate") == ['Bearer realm="filesproxy"']


@pytest.mark.parametrize("code", sorted(FINAL_CODES))
def test_final_failure_is_marked_as_not_worth_a_retry(code, make_client):
    def failing(call, target):
        raise UpstreamError("What happened.", code=code)

    for headers in (OPENAI, {**OPENAI, "x-portkey-trace-id": "t"}):
        answer = make_client(transports={"https": failing}).get("/v1/files/file-1", headers=headers, status=502)
        assert (answer.json["error"]["code"], answer.headers["x-should-retry"]) == (code, "false")


FINAL = {
    "upstream_redirect": (None, OPENAI, 302, {}),
    "upstream_credential_rejected": (SAVED_AND_KEYED, {"x-portkey-api-key": "fp_a", "x-portkey-provider": "@openai"},
                                     401, {"error": {"message": "No."}}),
    "upstream_answer_too_large": ({"filesproxy": {"max_answer_bytes": "9"}}, OPENAI, 200, FILE),
}  # fmt: skip


@pytest.mark.parametrize("code", FINAL)
def test_final_answer_of_a_provider_is_marked_as_not_worth_a_retry(code, make_client, upstream):
    config, headers, status, value = FINAL[code]
    upstream.answers(value, status, x_should_retry="true")
    answer = make_client(config).get("/v1/files/file-1", headers=headers, status=502)
    assert (answer.json["error"]["code"], answer.headers["x-should-retry"]) == (code, "false")


def test_temporary_failure_is_not_marked(make_client):
    def failing(call, target):
        raise UpstreamError("Cannot connect.", code="upstream_unreachable")

    answer = make_client(transports={"https": failing}).get("/v1/files/file-1", headers=OPENAI, status=502)
    assert "x-should-retry" not in answer.headers


def test_content_is_never_shown_as_a_page_of_this_origin(make_client, upstream, tmp_path):
    upstream.chunks = [b"<script>"]
    upstream.headers = {"content-type": "text/html", "content-security-policy": "default-src *",
                        "x-content-type-options": "sniff"}  # fmt: skip
    client = make_client(transports={"https": upstream}, folder=str(tmp_path), default_provider="local")
    file = client.post("/v1/files", UPLOAD, {"content-type": form_type()}).json["id"]
    for path, headers in (("/v1/files/file-1/content", OPENAI), (f"/v1/files/{file}/content", {})):
        for more in ({}, {"range": "bytes=1-2"}):
            for method in ("GET", "HEAD"):
                answer = client.request(path, method=method, headers={**headers, **more})
                assert answer.headers.getall("content-security-policy") == ["sandbox"]
                assert answer.headers.getall("x-content-type-options") == ["nosniff"]


class Counting(io.BytesIO):
    """A request body that counts the reads."""

    reads = 0

    def read(self, size=-1):
        self.reads += 1
        return super().read(size)


MALFORMED_HEADERS = [
    ("x-portkey-request-timeout", "soon"),
    ("x-portkey-request-timeout", "0"),
    ("x-portkey-request-timeout", "1,2"),
    ("openai-project", "a b"),
    ("openai-project", "a,b"),
    ("openai-organization", "a\tb"),
    ("x-portkey-openai-project", "a,b"),
    ("x-portkey-openai-organization", "\xe9"),
]


@pytest.mark.parametrize("name,value", MALFORMED_HEADERS)
def test_malformed_header_is_refused_before_a_byte_of_the_upload_is_read(name, value):
    upstream, body, statuses = FakeUpstream(), Counting(UPLOAD), []
    headers = {**OPENAI, name: value}
    environ = {"HTTP_" + header.upper().replace("-", "_"): text for header, text in headers.items()}
    environ.update(REQUEST_METHOD="POST", PATH_INFO="/v1/files", CONTENT_TYPE=form_type(),
                   CONTENT_LENGTH=str(len(UPLOAD)))  # fmt: skip
    environ["wsgi.input"] = body
    setup_testing_defaults(environ)
    answered = create_app(transports={"https": upstream})(
        environ, lambda status, sent, exc_info=None: statuses.append(status)
    )
    assert (statuses, name.encode() in b"".join(answered)) == (["400 Bad Request"], True)
    assert (body.reads, upstream.calls) == (0, [])


def test_line_for_standard_output_also_reaches_a_handler_of_the_host(make_client, access_log, tmp_path, monkeypatch):
    with open(tmp_path / "out", "wb") as out:
        monkeypatch.setattr(access_log_module, "_outputs", [access_log_module.Output(out.fileno())])
        make_client().get("/v1/health")
    written = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert written == access_log() and [line["operation"] for line in written] == ["health"]


def test_log_that_cannot_be_written_fails_no_request(make_client, monkeypatch):
    with open("/dev/full", "wb", buffering=0) as full:
        output = access_log_module.Output(full.fileno())
        monkeypatch.setattr(access_log_module, "_outputs", [output])
        make_client().get("/v1/health", status=200)
        assert output._dropped == 1


def test_every_observer_is_told_of_each_request_once(upstream):
    class Watcher:
        def __init__(self):
            self.seen = []

        def finished(self, record):
            self.seen.append((record.operation, record.provider, record.status, record.bytes_out, record.error))

    first, second = Watcher(), Watcher()
    made = create_app(transports={"https": upstream})
    application = Application(made.config, PROVIDERS, made.transports, observers=(first, second))
    client = webtest.TestApp(application, extra_environ=MODERN)
    upstream.answers(FILE)
    size = len(client.get("/v1/files/file-1", headers=OPENAI).body)
    client.get("/v1/files/a%20b", headers=OPENAI, status=400)
    upstream.headers, upstream.chunks = {}, [b"abc", UpstreamError("cut")]
    with pytest.raises(ConnectionResetError):
        client.get("/v1/files/file-1/content", headers=OPENAI)
    assert (
        first.seen
        == second.seen
        == [
            ("retrieve_file", "openai", 200, size, ""),
            (None, None, 400, first.seen[1][3], ""),
            ("retrieve_file_content", "openai", 200, 3, "upstream_error"),
        ]
    )


def test_transports_outlive_an_application(upstream):
    """To replace a configuration, another application takes over the same connections and stores."""
    first = create_app({}, max_json_bytes=5, transports={"https": upstream})
    second = Application(create_app({}, max_json_bytes=100).config, PROVIDERS, first.transports)
    assert second.transports["local"] is first.transports["local"]
    upstream.answers(FILE)
    assert webtest.TestApp(second).get("/v1/files/file-1", headers=OPENAI).json == FILE
    assert len(upstream.calls) == 1


def test_empty_answer_to_a_deletion_is_a_success(client, upstream):
    """A provider may answer 204, or 200 without a body. The call knows the id of the deleted file."""
    for status in (204, 200):
        upstream.status, upstream.headers, upstream.chunks = status, {}, []
        answer = client.delete("/v1/files/file-1", headers=OPENAI)
        assert answer.json == {"id": "file-1", "object": "file", "deleted": True}


@pytest.mark.parametrize("path", ["/vector_stores/vs_1", "/embeddings", "/responses", "/containers"])
def test_passed_through_post_that_is_answered_204_is_a_204(path, client, upstream):
    upstream.status, upstream.headers, upstream.chunks = 204, {}, []
    answer = client.post_json(f"/v1{path}", {"model": "m", "name": "n"}, headers=OPENAI, status=204)
    assert answer.body == b"" and "content-type" not in answer.headers
    upstream.status = 200  # which promises content
    client.post_json(f"/v1{path}", {"model": "m", "name": "n"}, headers=OPENAI, status=502)


@pytest.mark.parametrize("operation", [*OPERATIONS])
def test_answer_204_is_an_answer_or_a_502_whatever_was_asked_for(operation, client, upstream):
    route, body = OPERATIONS[operation], {"model": "m", "messages": [{"role": "user", "content": "a"}], "file_id": "f"}
    if route.body in ("form", "part"):
        return
    upstream.status, upstream.headers, upstream.chunks = 204, {}, []
    path = route.path.replace(":id", "id-1").replace(":model", "m")
    answer = client.request(path, method=route.method, headers={**OPENAI, "content-type": "application/json"},
                            body=json.dumps(body).encode() if route.body != "none" else b"", status="*")  # fmt: skip
    assert answer.status_int in ((200,) if operation == "delete_file" else (204, 502))


@pytest.mark.parametrize("status", [200, 202, 204])
def test_empty_answer_of_a_passed_through_route_keeps_its_status(status, client, upstream):
    upstream.status, upstream.headers, upstream.chunks = status, {}, []
    answer = client.delete("/v1/responses/resp_1", headers=OPENAI, status=status)
    assert answer.body == b""
    assert answer.headers.get("content-length") == (None if status == 204 else "0")


@pytest.mark.parametrize("status", [201, 202])
def test_status_of_a_passed_through_route_is_kept_and_a_file_call_answers_200(status, client, upstream):
    upstream.answers({"id": "batch_1"}, status)
    body, headers = b'{"input_file_id": "file-1"}', {**OPENAI, "content-type": "application/json"}
    assert client.post("/v1/batches", body, headers, status=status).json == {"id": "batch_1"}
    upstream.answers(FILE, status)
    assert client.get("/v1/files/file-1", headers=OPENAI, status=200).json == FILE


@pytest.mark.parametrize("path", ["/v1/files", "/v1/files/file-1", "/v1/batches"])
def test_empty_answer_where_json_is_expected_is_502(path, client, upstream):
    upstream.status, upstream.headers, upstream.chunks = 200, {}, []
    assert client.get(path, headers=OPENAI, status=502).json["error"]["code"] == "upstream_invalid_answer"


def test_answer_that_lacks_a_field_is_completed(client, upstream):
    upstream.chunks = [b'{"id": "file-1",  "bytes": 5}']
    assert client.get("/v1/files/file-1", headers=OPENAI).json == {
        "id": "file-1", "object": "file", "bytes": 5, "status": "processed"}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "sk-caller",
        "sk-\\u0063aller",
        "\\u0073\\u006b-caller",
        "sk\\u002Dcaller",
        "\u00e9 sk-caller",
        "\u00e9 sk-\\u0063aller",
    ],
)
def test_credential_written_with_escapes_is_redacted_from_an_answer(name, client, upstream):
    upstream.chunks = [f'{{"id": "file-1", "object": "file", "status": "processed", "filename": "{name}"}}'.encode()]
    answer = client.get("/v1/files/file-1", headers=OPENAI)
    assert answer.json["filename"].endswith("[redacted]")
    assert "sk-caller" not in json.dumps(answer.json)


def test_answer_in_another_alphabet_is_relayed_unchanged(client, upstream):
    file = {**FILE, "filename": "\u0441\u0447\u0451\u0442.pdf"}
    upstream.chunks = [json.dumps(file, ensure_ascii=False).encode()]
    assert client.get("/v1/files/file-1", headers=OPENAI).json == file


def test_credential_at_the_end_of_a_long_code_is_not_logged(make_client, upstream, access_log):
    code = "a" * 60 + "sk-caller-and-more"
    headers = {**OPENAI, "authorization": "Bearer sk-caller-and-more"}
    upstream.answers({"error": {"message": "no", "code": code}}, 400)
    make_client().get("/v1/files/file-1", headers=headers, status=400)
    assert access_log()[-1]["error"] == ("a" * 60 + "[redacted]")[:64]


def test_credential_as_trace_id_of_a_refused_request_is_neither_answered_nor_logged(client, access_log):
    traced = {**OPENAI, "x-portkey-trace-id": "sk-caller"}
    for bad in ({"openai-organization": "a b"}, {"x-portkey-provider": "nobody"}, {"x-portkey-request-timeout": "x"}):
        answer = client.get("/v1/files/file-1", headers={**traced, **bad}, status=400)
        assert answer.headers["x-request-id"] == access_log()[-1]["request_id"]
        assert access_log()[-1]["request_id"].startswith("fpr-")


def test_answer_with_a_repeated_key_is_relayed_with_the_value_that_was_checked(client, upstream):
    upstream.chunks = [b'{"id": 5, "id": "file-1", "object": "file", "status": "processed"}']
    answer = client.get("/v1/files/file-1", headers=OPENAI)
    assert answer.text.count('"id"') == 1
    assert answer.json["id"] == "file-1"


@pytest.mark.parametrize("header", [
    "authorization", "x-portkey-api-key", "x-api-key", "api-key", "x-portkey-azure-ad-token",
])  # fmt: skip
@pytest.mark.parametrize("provider", ["openai", "anthropic", "azure-openai", "nobody", "@openai", ""])
@pytest.mark.parametrize("keyed", [False, True])
def test_credential_in_a_trace_id_or_in_an_answers_id_is_never_logged(
    header, provider, keyed, make_client, upstream, access_log
):
    upstream.answers({**FILE, "id": "sk-canary-7f"})
    config = {"provider:openai": {"credential": "sk-saved"}, "key:a": {"sha256": hashed("fp_a")}} if keyed else None
    sent = {"x-portkey-provider": provider, "x-portkey-trace-id": "a-sk-canary-7f-b"}
    sent = {**sent, header: "Bearer sk-canary-7f" if header == "authorization" else "sk-canary-7f"}
    answer = make_client(config).request("/v1/files", method="POST", body=form(), headers={
        **sent, "content-type": form_type()}, status="*")  # fmt: skip
    assert "sk-canary-7f" not in json.dumps(access_log())
    assert answer.headers["x-request-id"] == access_log()[-1]["request_id"]
    assert access_log()[-1]["request_id"].startswith("fpr-") and access_log()[-1]["file_id"] is None


def test_credential_with_trailing_spaces_is_not_logged(make_client, access_log):
    client = make_client({"provider:openai": {"credential": "sk-saved"}, "key:a": {"sha256": hashed("fp_a")}})
    sent = {**OPENAI, "authorization": "Bearer sk-canary-7f  ", "x-portkey-trace-id": "sk-canary-7f"}
    client.get("/v1/files/file-1", headers=sent, status=401)
    assert "sk-canary-7f" not in json.dumps(access_log())


def test_credential_in_a_private_providers_header_is_not_logged(make_client, access_log):
    own = {**PROVIDERS["openai"], "credential_headers": {"x-own-key": {}}}
    sent = {"x-own-key": "sk-canary-7f", "x-portkey-trace-id": "sk-canary-7f", "openai-organization": "a b"}
    for provider in ("own", "nobody"):
        named = {**sent, "x-portkey-provider": provider}
        make_client(providers={**PROVIDERS, "own": own}).get("/v1/files/file-1", headers=named, status=400)
    assert "sk-canary-7f" not in json.dumps(access_log())


@pytest.mark.parametrize("kind", ["answer", "download"])
@pytest.mark.parametrize("failure", [ValueError("a server that does not like a header"), KeyboardInterrupt()])
def test_start_response_that_raises_leaves_no_watch_behind_and_a_line_in_the_log(failure, kind, upstream, access_log):
    """The watchdog's thread went on for ever, with a socket that was long closed, and nothing told of the request."""

    def start_response(status, headers, exc_info=None):
        raise failure

    upstream.answers(FILE)
    application = create_app(transports={"https": upstream})
    environ = {"PATH_INFO": "/v1/files/file-1" + ("/content" if kind == "download" else ""), **MODERN}
    setup_testing_defaults(environ)
    environ.update({f"HTTP_{name.upper().replace('-', '_')}": text for name, text in OPENAI.items()})
    with pytest.raises(type(failure)):
        application(environ, start_response)
    assert not application._watchdog._watches and upstream.bodies[0].closed
    (line,) = access_log()
    assert (line["status"], line["error"], line["bytes_out"]) == (500, type(failure).__name__, 0)


def test_log_says_where_a_failure_was_that_the_client_learns_less_about(make_client, access_log, tmp_path):
    """The path of a disk that cannot be used was in no log."""
    (tmp_path / "store").write_text("a file")
    client = make_client({"provider:local": {"folder": str(tmp_path / "store")}}, transports=make_transports())
    answer = client.get("/v1/files", headers={"x-portkey-provider": "local"}, status=500)
    assert str(tmp_path) not in answer.text and answer.json["error"]["code"] == "store_error"
    assert access_log()[-1]["detail"].startswith(f"{tmp_path}/store")


def test_log_has_the_line_that_the_client_reads_about_an_unreachable_host(make_client, access_log):
    client = make_client(
        {"provider:far": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1"}}, transports=make_transports()
    )
    headers = {**OPENAI, "x-portkey-provider": "far"}
    message = client.get("/v1/files", headers=headers, status=502).json["error"]["message"]
    assert message == access_log()[-1]["detail"] == "Cannot connect to 127.0.0.1:9 (ECONNREFUSED)."


def test_download_whose_body_fails_to_close_is_logged_and_not_watched_any_longer(make_client, access_log):
    class Failing(FakeBody):
        def close(self):
            raise OSError("a descriptor that something else has closed")

    application = create_app(transports={"https": lambda call, target: Answer(200, {}, body=Failing([b"abc"]))})
    with pytest.raises(OSError, match="something else"):
        webtest.TestApp(application, extra_environ=MODERN).get("/v1/files/file-1/content", headers=OPENAI)
    assert [(line["status"], line["bytes_out"]) for line in access_log()] == [(200, 3)]
    assert not application._watchdog._watches


def via(client, upstream, given, status=200):
    upstream.answers({**FILE, "id": "file-1"})
    return client.get("/v1/files/file-1", headers={**OPENAI, "via": given}, status=status)


def test_via_is_sent_on_so_that_a_loop_of_two_gateways_ends(client, upstream):
    """A → B → A: B made Via anew, so A did not see its own name."""
    via(client, upstream, "1.1 of-a-department, 1.0 fred (a comment)")
    assert upstream.calls[0].headers["via"] == "1.1 of-a-department, 1.0 fred (a comment)"


def test_request_that_has_been_through_too_many_gateways_is_508(client, upstream):
    via(client, upstream, ", ".join(f"1.1 gateway-{number}" for number in range(16)))
    error = via(client, upstream, ", ".join(f"1.1 gateway-{number}" for number in range(17)), 508)
    assert error.json["error"]["code"] == "loop_detected" and len(upstream.calls) == 1


def test_answers_to_authenticated_callers_are_not_for_a_cache(client, upstream):
    upstream.answers(FILE)
    assert client.get("/v1/files/file-1", headers=OPENAI).headers["cache-control"] == "no-store"
    upstream.answers({"error": {"message": "no"}}, 404)
    assert client.get("/v1/files/file-1", headers=OPENAI, status=404).headers["cache-control"] == "no-store"
    assert "cache-control" not in client.get("/v1/health").headers


@pytest.mark.parametrize("status", [203, 205, 206, 207, 299])
def test_other_success_of_a_passed_through_route_is_200(status, client, upstream):
    """205 has no content and 206 is a range; neither is what the client gets."""
    upstream.answers({"id": "batch_1"}, status)
    assert client.get("/v1/batches/batch_1", headers=OPENAI, status=200).json == {"id": "batch_1"}


def test_empty_answer_to_a_deletion_may_claim_an_encoding(client, upstream):
    upstream.status, upstream.headers, upstream.chunks = 200, {"content-encoding": "gzip"}, []
    assert client.delete("/v1/files/file-1", headers=OPENAI).json["deleted"] is True


@pytest.mark.parametrize("given", [f"1.1 {MADE}", f"1.1 a, 1.0 b {MADE}", "1.1 team-key", "1.1 a, 1.0 team-key"])
def test_gateway_key_in_via_is_400_and_goes_nowhere(given, make_client, upstream):
    client = make_client({"key:team": {"sha256": hashed("team-key"), "caller_credentials": "yes"}})
    headers = {**OPENAI, "x-portkey-api-key": "team-key", "via": given}
    answer = client.get("/v1/files/file-1", headers=headers, status=400)
    assert answer.json["error"]["param"] == "via" and upstream.calls == []


# Shares


class Held:
    """A transport that keeps requests waiting until they may go on."""

    def __init__(self, upstream):
        self.upstream, self.go, self.waiting = upstream, threading.Event(), threading.Semaphore(0)

    def __call__(self, call, target):
        self.waiting.release()
        self.go.wait(10)
        return self.upstream(call, target)


@pytest.fixture
def shared():
    """A gateway with two keys, four threads, and a provider that lets nobody go."""
    upstream = FakeUpstream()
    upstream.answers(FILE)
    held = Held(upstream)
    keys = {f"key:{name}": {"sha256": hashed(f"fp_{name}"), "providers": "openai"} for name in ("a", "b")}
    config = {"provider:openai": {"credential": "sk-saved"}, **keys}
    application = create_app(config, transports={"https": held}, default_provider="openai", isolation=False)
    application.share_threads(4)
    with ThreadPoolExecutor(8) as pool:
        yield webtest.TestApp(application, extra_environ=MODERN), held, pool
        held.go.set()


def by_key(client, name, path="/v1/files/file-1"):
    return client.get(path, headers={"x-portkey-api-key": f"fp_{name}"}, status="*")


def test_caller_over_its_share_is_429_at_once_and_others_are_served(shared, access_log):
    client, held, pool = shared
    running = [pool.submit(by_key, client, "a") for _ in range(2)]
    for _ in running:
        assert held.waiting.acquire(timeout=5)
    refused = by_key(client, "a")
    assert (refused.status_int, refused.json["error"]["code"]) == (429, "caller_busy")
    assert refused.headers["retry-after"] == "1" and "x-should-retry" not in refused.headers
    assert client.get("/v1/health").status_int == 200
    running.append(pool.submit(by_key, client, "b"))
    assert held.waiting.acquire(timeout=5)
    held.go.set()
    assert [job.result().status_int for job in running] == [200] * 3
    assert by_key(client, "a").status_int == 200
    lines = access_log()
    assert [(line["key"], line["error"]) for line in lines if line["status"] == 429] == [("a", "caller_busy")]


SHARE_ENDS = {
    "answer": lambda upstream: upstream.answers(FILE),
    "refusal": lambda upstream: upstream.answers({"error": {"message": "no"}}, 400),
    "failure": lambda upstream: setattr(upstream, "chunks", [UpstreamError("cut")]),
    "garbage": lambda upstream: setattr(upstream, "chunks", [b"garbage"]),
}


@pytest.mark.parametrize("path", ["/v1/files/file-1", "/v1/files/file-1/content", "/v1/files?limit=0"])
@pytest.mark.parametrize("end", SHARE_ENDS)
def test_thread_is_given_back_however_a_request_ends(end, path, shared):
    client, held, _ = shared
    held.go.set()
    SHARE_ENDS[end](held.upstream)
    for _ in range(6):
        with contextlib.suppress(ConnectionError):  # a download that is cut
            assert by_key(client, "a", path).status_int != 429
    assert client.app._threads._held == {}


def test_large_answer_counts_until_its_client_has_taken_it(shared):
    """A client that does not read it holds its thread, and the answer was said to be over."""
    client, held, _ = shared
    held.go.set()
    held.upstream.answers({**FILE, "more": "x" * 200_000})
    environ = {"HTTP_X_PORTKEY_API_KEY": "fp_a", "PATH_INFO": "/v1/files/file-1"}
    setup_testing_defaults(environ)
    answer = client.app(environ, lambda *started: None)
    assert client.app._threads._held == {"a": 1}
    assert len(b"".join(answer)) > 200_000
    answer.close()
    assert client.app._threads._held == {}


def test_forged_header_changes_nothing():
    """Without keys the address counts; a client that says another one each time is still one caller."""
    upstream = FakeUpstream()
    upstream.answers(FILE)
    held = Held(upstream)
    application = create_app({}, transports={"https": held})
    application.share_threads(4)
    client = webtest.TestApp(application, extra_environ={"REMOTE_ADDR": "192.0.2.1"})

    def forging(number):
        headers = {**OPENAI, "x-forwarded-for": f"203.0.113.{number}"}
        return client.get("/v1/files/file-1", headers=headers, status="*").status_int

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(forging, number) for number in range(2)]
        for _ in running:
            assert held.waiting.acquire(timeout=5)
        assert forging(3) == 429
        held.go.set()
        assert [job.result() for job in running] == [200, 200]


def test_this_machine_only_is_never_met_by_a_header():
    application = create_app({}, transports={"https": FakeUpstream()}, trusted_proxies="192.0.2.1 127.0.0.1")
    application.this_machine_only = True
    for peer, header in (("192.0.2.1", "127.0.0.1"), ("192.0.2.1", ""), ("127.0.0.1", "127.0.0.1")):
        client = webtest.TestApp(application, extra_environ={"REMOTE_ADDR": peer, "HTTP_HOST": "localhost"})
        forwarded = {"x-forwarded-for": header} if header else {}
        assert client.get("/v1/files/file-1", headers={**OPENAI, **forwarded}, status="*").status_int == 403


# HTTP/1.0

LONG = b"x" * MAX_READ_AHEAD_BYTES


@pytest.fixture
def old_client(upstream):
    """Asks for content: old_client(socket, **environ), over HTTP/1.0 behind a server that shows this socket."""
    application = create_app({}, transports={"https": upstream})

    def ask(sock=None, path="/v1/files/file-1/content", **environ):
        shown = {"gunicorn.socket": sock} if sock else {}
        status, headers, body = called(application, path, **{"SERVER_PROTOCOL": "HTTP/1.0", **shown, **environ})
        return status, headers, body

    return ask


@pytest.fixture
def unix_socket():
    """As gunicorn shows one that is bound to a path."""
    near, far = socket.socketpair()
    with near, far:
        yield near


def test_short_download_gets_a_length_where_a_cut_would_not_show(old_client, upstream, unix_socket):
    for chunks in ([b"hello", b" you"], [], [LONG]):
        for sock in (None, unix_socket):
            upstream.chunks, upstream.headers = list(chunks), {"content-type": "text/csv"}
            status, headers, body = old_client(sock)
            assert (status, headers["content-length"]) == (200, str(sum(map(len, chunks))))
            assert headers["content-type"] == "text/csv" and b"".join(body) == b"".join(chunks)
            body.close()
            assert upstream.bodies[-1].closed


def test_long_download_without_a_length_is_505_where_a_cut_would_not_show(old_client, upstream, unix_socket):
    """It ended normally when it was cut, and an HTTP/1.0 client, nginx by default, took it for complete."""
    for sock in (None, unix_socket):
        upstream.chunks = [LONG, b"x", AssertionError("read on")]
        status, headers, (body,) = old_client(sock)
        assert (status, headers["x-should-retry"]) == (505, "false")
        error = json.loads(body)["error"]
        assert error["code"] == "http_version_not_supported" and "proxy_http_version 1.1" in error["message"]
        assert upstream.bodies[-1].closed


def test_download_that_is_cut_while_it_is_read_ahead_is_502(old_client, upstream):
    upstream.chunks = [b"some", UpstreamError("The provider ended its answer early.")]
    status, _, (body,) = old_client()
    assert (status, json.loads(body)["error"]["code"]) == (502, "upstream_error")
    assert upstream.bodies[-1].closed


def test_download_is_streamed_where_a_cut_shows(old_client, upstream):
    """By its length, by chunks, or by a reset of a TCP connection."""
    chunks = [LONG, LONG]
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as sock:
        for given, environ, shown in (
            ({"content-length": str(2 * len(LONG))}, {}, None),
            ({}, {"SERVER_PROTOCOL": "HTTP/1.1"}, None),
            ({}, {}, sock),
        ):
            upstream.chunks, upstream.headers = list(chunks), given
            status, headers, body = old_client(shown, **environ)
            assert status == 200 and ("content-length" in headers) is bool(given)
            assert len(b"".join(body)) == 2 * len(LONG)
            body.close()


def test_head_of_a_download_reads_nothing_ahead(old_client, upstream):
    upstream.chunks = [AssertionError("read")]
    status, _, body = old_client(REQUEST_METHOD="HEAD")
    assert (status, list(body)) == (200, [])


def test_events_are_never_refused_to_http_1_0(old_client, upstream):
    """Their last one says that they are complete."""
    chat = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
    sent = {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(len(chat)), "CONTENT_TYPE": "application/json"}
    upstream.headers = {"content-type": "text/event-stream"}
    upstream.chunks = [b"data: " + LONG + b"\n\n"] * 3 + [b"data: [DONE]\n\n"]
    status, headers, body = old_client(path="/v1/chat/completions", **sent, **{"wsgi.input": io.BytesIO(chat)})
    assert status == 200 and "content-length" not in headers
    assert b"".join(body).endswith(b"data: [DONE]\n\n")
    body.close()


# Large answers


def called(application, path="/v1/files", **environ):
    """(the status, the headers, the iterable) of a GET."""
    started = []
    environ = {
        "PATH_INFO": path,
        "HTTP_X_PORTKEY_PROVIDER": "openai",
        "HTTP_AUTHORIZATION": "Bearer sk-caller",
        **environ,
    }
    setup_testing_defaults(environ)
    body = application(environ, lambda status, headers: started.append((int(status[:3]), dict(headers))))
    return (*started[0], body)


LIST = {"data": [{**FILE, "id": f"file-{number}", "note": "n" * 300} for number in range(500)], "has_more": False}


@pytest.mark.parametrize("end", ["read", "left", "reset"])
def test_large_answer_counts_until_its_client_has_it_or_has_gone(end, upstream):
    """A slow client keeps the bytes of an answer in memory for as long as it reads."""
    upstream.answers(LIST)
    limit = cost(upstream.chunks[0]) + 1000
    application = create_app({}, max_json_in_flight=limit, transports={"https": upstream})
    for _ in range(3):
        status, headers, body = called(application)
        assert (status, called(application)[0]) == (200, 503)  # another one does not fit in the meantime
        if end == "read":
            pieces = list(body)
            assert max(map(len, pieces)) <= 1 << 16 < len(b"".join(pieces)) == int(headers["content-length"])
            assert len(json.loads(b"".join(pieces))["data"]) == 500
        elif end == "left":
            next(body)
        body.close()


@pytest.mark.parametrize("name", ["cut", "garbage", "refused", "no_list", "head"])
def test_budget_for_answers_is_restored_however_a_request_ends(name, upstream):
    upstream.answers(LIST)
    text = upstream.chunks[0]
    application = create_app({}, max_json_in_flight=cost(text) + 1000, transports={"https": upstream})
    environ = {}
    if name == "cut":
        upstream.chunks = [text[:-100], UpstreamError("cut")]
    elif name == "garbage":
        upstream.chunks = [text[:-100]]
    elif name == "refused":
        upstream.status = 400
    elif name == "no_list":
        upstream.answers({"object": LIST})
    elif name == "head":
        environ, path = {"REQUEST_METHOD": "HEAD"}, "/v1/files/file-1/content"
    for _ in range(3):
        status, _, body = called(application, path if name == "head" else "/v1/files", **environ)
        assert status != 503
        list(body)
        getattr(body, "close", lambda: None)()
    upstream.answers(LIST)
    status, _, body = called(application)
    assert status == 200
    body.close()


def test_slow_reader_of_a_large_answer_is_ended_by_its_total(upstream):
    upstream.answers(LIST)
    application = create_app({}, total_timeout=5, transports={"https": upstream})
    _, _, body = called(application)
    (watch,) = application._watchdog._watches
    assert watch.is_answering
    watch.check(time.monotonic() + 4)
    assert not watch.is_overdue
    next(body)
    watch.check(time.monotonic() + 60)
    assert watch.is_overdue
    body.close()
