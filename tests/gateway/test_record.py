"""What is logged of a request: no credential, and all of what the client did, whatever it calls a credential."""

from __future__ import annotations

import json

import pytest
from fakes import FILE, FakeUpstream, form, form_type

from filesproxy.calls import Upload
from filesproxy.gateway.record import Record
from filesproxy.redaction import Secret

SAVED = "sk-saved-by-us"
CONFIG = {
    "filesproxy": {"open_access": "yes"},
    "provider:openai": {"credential": SAVED},
    "provider:second": {"kind": "openai", "credential": "sk-saved-for-the-second"},
}
KEPT_ID = "file-abcdef0123456789"
CALLERS = "sk-of-a-caller-0123456789"


@pytest.fixture
def saved(make_client):
    return make_client(CONFIG)


def asked(client, access_log, method, path, authorization, **headers):
    """The line of the log about a request with this header."""
    given = {"x-portkey-provider": "@openai", "authorization": authorization, **headers}
    body = form(("purpose", "assistants"), ("file", "a", "", b"x")) if method == "POST" else b""
    typed = {"content-type": form_type()} if body else {}
    client.request(path, method=method, body=body, headers={**typed, **given}, status="*")
    return access_log()[-1]


ERASERS = [KEPT_ID, "i", "file", "abcdef0123456789", "retrieve_file", "delete_file", "upload_file", "assistants",
           "DELETE", "@openai", "openai", "upstream_invalid_answer", "200", "fpr-", "2026-"]  # fmt: skip


@pytest.mark.parametrize("scheme", ["Bearer", "Basic", "bearer"])
@pytest.mark.parametrize("token", ERASERS)
def test_client_cannot_erase_what_it_did_from_the_log(token, scheme, saved, upstream, access_log):
    """`Authorization: Bearer FILE_ID` made the file's id [redacted], and `Basic i` every i."""
    for method, path, operation in (("GET", f"/v1/files/{KEPT_ID}", "retrieve_file"),
                                    ("DELETE", f"/v1/files/{KEPT_ID}", "delete_file"),
                                    ("POST", "/v1/files", "upload_file")):  # fmt: skip
        upstream.answers({**FILE, "id": KEPT_ID})
        line = asked(saved, access_log, method, path, f"{scheme} {token}")
        assert "[redacted]" not in json.dumps(line)
        assert (line["operation"], line["provider"], line["status"]) == (operation, "@openai", 200)
        assert line["request_id"].startswith("fpr-")
        if method == "POST":
            assert line["purpose"] == "assistants"
        else:
            assert line["file_id"] == KEPT_ID


LONG_ID = "file-0662f1a0c3d9e4" + "7b" * 12


@pytest.mark.parametrize("token", [LONG_ID[:8], LONG_ID[:19], "file-066", LONG_ID[-19:]])
def test_client_cannot_erase_the_id_of_its_upload_by_how_ids_begin(token, saved, upstream, access_log):
    """`Authorization: Bearer file-066` left the log of an upload without an id."""
    upstream.answers({**FILE, "id": LONG_ID})
    assert asked(saved, access_log, "POST", "/v1/files", f"Bearer {token}")["file_id"] == LONG_ID


def test_token_under_eight_characters_does_not_hide_the_id_of_an_upload(saved, upstream, access_log):
    upstream.answers({**FILE, "id": "file-7"})
    assert asked(saved, access_log, "POST", "/v1/files", "Bearer file-7")["file_id"] == "file-7"


@pytest.mark.parametrize("file_id", ["sk-short-1", f"file-{CALLERS}", f"{CALLERS}x", CALLERS, SAVED, f"file-{SAVED}"])
def test_credential_that_a_provider_answers_as_an_id_is_not_logged(file_id, saved, upstream, access_log):
    upstream.answers({**FILE, "id": file_id})
    token = CALLERS if CALLERS in file_id else "sk-short-1"
    line = asked(saved, access_log, "POST", "/v1/files", f"Bearer {token}")
    assert line["file_id"] is None and file_id not in json.dumps(line)


def test_client_cannot_erase_what_the_operator_needs_to_know_of_a_failure():
    """A folder's path as the bearer token took it out of `detail`."""
    record = Record({"HTTP_AUTHORIZATION": "Bearer /srv/folder"}, BOTH, [Secret(SAVED)])
    record.note_failure("storage_unavailable", f"/srv/folder: Permission denied {SAVED}")
    assert record.detail == "/srv/folder: Permission denied [redacted]"


@pytest.mark.parametrize("token", ["upstream_invalid_answer", "invalid_answer"])
def test_client_cannot_erase_why_its_request_failed(token, saved, upstream, access_log):
    upstream.chunks = [b"no json"]
    line = asked(saved, access_log, "GET", f"/v1/files/{KEPT_ID}", f"Bearer {token}")
    assert line["error"] == "upstream_invalid_answer"


def test_requests_with_one_trace_id_have_ids_of_their_own(saved, upstream, access_log):
    """The trace id took the place of the request's id, so two requests shared one."""
    upstream.answers(FILE)
    for _ in range(3):
        asked(saved, access_log, "GET", "/v1/files/file-1", "", **{"x-portkey-trace-id": "trace-0001"})
    lines = access_log()
    assert len({line["request_id"] for line in lines}) == 3
    assert [line["trace_id"] for line in lines] == ["trace-0001"] * 3


@pytest.mark.parametrize("given", ["a b", "a" * 129, "", "é", "a/b", '"a"', "a,b"])
def test_trace_id_that_cannot_be_one_is_not_noted(given, saved, upstream, access_log):
    upstream.answers(FILE)
    line = asked(saved, access_log, "GET", "/v1/files/file-1", "", **{"x-portkey-trace-id": given})
    assert "trace_id" not in line and line["request_id"].startswith("fpr-")


def test_trace_id_that_a_client_calls_its_credential_is_not_noted(saved, upstream, access_log):
    upstream.answers(FILE)
    line = asked(
        saved, access_log, "GET", "/v1/files/file-1", "Bearer trace-0001", **{"x-portkey-trace-id": "trace-0001"}
    )
    assert "trace_id" not in line and line["request_id"].startswith("fpr-")


PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize("provider", ["@openai", "openai"])
@pytest.mark.parametrize("state", [None, "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "", "é"])
def test_distributed_trace_goes_on_upstream_and_is_logged(state, provider, saved, upstream, access_log):
    upstream.answers(FILE)
    headers = {
        "traceparent": PARENT,
        "x-portkey-provider": provider,
        **({} if state is None else {"tracestate": state}),
    }
    line = asked(saved, access_log, "GET", "/v1/files/file-1", "Bearer sk-of-a-caller", **headers)
    sent = upstream.calls[0].headers
    assert sent["traceparent"] == line["traceparent"] == PARENT
    assert sent.get("tracestate") == (state if state and state.isascii() else None)


NO_PARENTS = ["", "00", PARENT.upper(), PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
              "ff" + PARENT[2:], PARENT[:-1], PARENT + "-" + "a" * 65, PARENT + "x",
              PARENT.replace("00f067aa0ba902b7", "0" * 16)]  # fmt: skip


@pytest.mark.parametrize("parent", NO_PARENTS)
def test_trace_that_is_not_valid_ends_here(parent, saved, upstream, access_log):
    upstream.answers(FILE)
    line = asked(saved, access_log, "GET", "/v1/files/file-1", "", traceparent=parent, tracestate="a=b")
    assert "traceparent" not in line and not {"traceparent", "tracestate"} & set(upstream.calls[0].headers)


@pytest.mark.parametrize("path", [f"/v1/files/{SAVED}", f"/v1/files/x-{SAVED}-y"])
@pytest.mark.parametrize("provider", ["@openai", "@second", "openai", "nobody"])
def test_saved_credential_in_the_path_is_never_logged_whatever_the_provider(provider, path, make_client, access_log):
    """The id in the path is what a client did, but a secret of the configuration is one everywhere."""
    upstream = FakeUpstream()
    upstream.answers({"error": {"message": "no"}}, 404)
    client = make_client(CONFIG, transports={"https": upstream})
    line = asked(client, access_log, "GET", path, "Bearer sk-of-a-caller",
                 **{"x-portkey-provider": provider, "x-portkey-trace-id": SAVED})  # fmt: skip
    assert SAVED not in json.dumps(line) and "[redacted]" in line["file_id"]


TOKENS = ["My API Key", "sk-caller-1", "a b", "user:pass word"]


@pytest.mark.parametrize("token", TOKENS)
def test_everything_after_the_scheme_is_one_token_and_hidden_whole(token, saved, make_client, upstream, access_log):
    """An upstream that repeats it as its error's code."""
    upstream.answers({"error": {"message": "no", "code": f"bad key ({token})"}}, 400)
    for presented in (token, f"Token {token}"):
        line = asked(make_client(), access_log, "GET", "/v1/files/file-1", "Bearer sk-caller",
                     **{"x-portkey-provider": "openai", "x-api-key": presented})  # fmt: skip
        assert (token in line["error"]) == (len(token) < 8)
    line = asked(saved, access_log, "GET", "/v1/files/file-1", f"Basic {token}")
    assert (token in line["error"]) == (len(token) < 8)


def test_each_token_of_a_repeated_header_is_hidden(saved, upstream, access_log):
    upstream.answers({"error": {"message": "no", "code": "bad: sk-first-one sk-second-one"}}, 400)
    line = asked(saved, access_log, "GET", "/v1/files/file-1", "Digest sk-first-one, Basic sk-second-one")
    assert line["error"] == "bad: [redacted] [redacted]"


def test_purpose_that_is_a_credential_is_hidden(saved, upstream, access_log):
    upstream.answers(FILE)
    headers = {"x-portkey-provider": "@openai", "authorization": "Bearer sk-by-mistake", "content-type": form_type()}
    body = form(("purpose", "sk-by-mistake"), ("file", "a", "", b"x"))
    saved.request("/v1/files", method="POST", body=body, headers=headers)
    assert access_log()[-1]["purpose"] == "[redacted]"


BOTH = frozenset({"HTTP_AUTHORIZATION", "HTTP_X_PORTKEY_API_KEY"})


def of_two_presented_ones(shorter, longer):
    return Record({"HTTP_AUTHORIZATION": f"Bearer {shorter}", "HTTP_X_PORTKEY_API_KEY": longer}, BOTH)


def of_a_presented_and_a_saved_one(shorter, longer):
    return Record({"HTTP_AUTHORIZATION": f"Bearer {shorter}"}, BOTH, [Secret(longer)])


def of_a_saved_and_a_presented_one(shorter, longer):
    return Record({"HTTP_AUTHORIZATION": f"Bearer {longer}"}, BOTH, [Secret(shorter)])


def of_two_saved_ones(shorter, longer):
    return Record({}, BOTH, [Secret(shorter), Secret(longer)])


MAKERS = [of_two_presented_ones, of_a_presented_and_a_saved_one, of_a_saved_and_a_presented_one, of_two_saved_ones]


@pytest.mark.parametrize("make", MAKERS)
def test_credential_that_begins_like_another_one_leaves_no_tail(make):
    """The shorter one was replaced first, and the rest of the longer one stayed."""
    record = make("sk-begins", "sk-begins-tail")
    record.note_failure("No: sk-begins-tail")
    record.upload = Upload("a", "", {"purpose": "sk-begins-tail"}, iter(()))
    assert (record.error, record.purpose) == ("No: [redacted]", "[redacted]")


def test_error_without_a_code_has_the_field_at_fault_in_the_log_but_never_a_credential(make_client, access_log):
    client, token = make_client(), "sk-of-a-caller"
    headers = {"x-portkey-provider": "openai", "authorization": f"Bearer {token}", "content-type": form_type()}
    for field, shown in (("purpose", "purpose"), (token, "[redacted]")):
        body = form((field, "batch"), (field, "batch"), ("file", "a", "", b"x"))
        client.post("/v1/files", body, headers=headers, status=400)
        assert access_log()[-1]["detail"] == shown
