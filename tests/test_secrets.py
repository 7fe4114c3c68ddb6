"""A canary credential in every position: no log record, answer, exception, traceback or repr shows it."""

from __future__ import annotations

import contextlib
import json
import logging
import traceback
from base64 import b64encode
from urllib.parse import quote

import pytest
from configurations import config, hashed, written
from fakes import FILE, FakeUpstream, form, form_type
from sockets import Upstream, answering

from filesproxy import create_app
from filesproxy.calls import Answer, Call, Target
from filesproxy.errors import FilesproxyError, UpstreamError
from filesproxy.gateway.auth import Caller, authenticate
from filesproxy.gateway.request import Request
from filesproxy.gateway.target import resolve
from filesproxy.providers import PROVIDERS
from filesproxy.redaction import Secret, single_credential
from filesproxy.transports.https.transport import HttpTransport

CANARY = "sk-canary-7f3a9c"
GATEWAY_KEY = "fp_canary-7f3a9c"
UPLOAD = form(("purpose", "batch"), ("file", "a.jsonl", "", b"hello"))
OPEN = {"filesproxy": {"open_access": "yes"}}
SAVED = {**OPEN, "provider:openai": {"credential": CANARY}}
KEYED = {
    "provider:openai": {"credential": CANARY},
    "key:team": {"sha256": hashed(GATEWAY_KEY), "providers": "openai", "caller_credentials": "yes"},
}
REQUESTS = [("POST", "/v1/files"), ("GET", "/v1/files"), ("GET", "/v1/files/file-1"),
            ("GET", "/v1/files/file-1/content"), ("DELETE", "/v1/files/file-1")]  # fmt: skip


def hidden(text, what):
    """Assert that the canary is not in the text, even if the text was shortened within the prefix."""
    assert "canary-7f3a9c" not in text, what


def chain(error):
    """The exception and all its causes and contexts, including suppressed ones, which a debugger shows."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def hidden_in_exception(error):
    for link in chain(error):
        hidden(f"{link} {link!r} {link.args!r} {vars(link)!r}", f"{type(link).__name__} in the chain")
    hidden("".join(traceback.format_exception(type(error), error, error.__traceback__)), "traceback")


@pytest.fixture
def no_log_shows_it(caplog):
    """Check all log records of the test, from DEBUG up, once it is over."""
    caplog.set_level(logging.DEBUG)
    for name in ("filesproxy", "filesproxy.access"):
        caplog.set_level(logging.DEBUG, logger=name)
    yield
    for record in caplog.get_records("call"):
        hidden(f"{record.getMessage()} {record.__dict__!r}", f"a record of {record.name}")
        if record.exc_info and record.exc_info[1]:
            hidden_in_exception(record.exc_info[1])


pytestmark = pytest.mark.usefixtures("no_log_shows_it")


def ask(client, method, path, headers, upstream=None):
    """Send a request. Nothing in the answer may show the canary."""
    body = UPLOAD if method == "POST" else b""
    typed = {"content-type": form_type()} if body else {}
    answer = client.request(path, method=method, body=body, headers={**typed, **headers}, status="*")
    hidden(f"{answer.status} {answer.headers!r} {answer.text}", f"answer to {method}")
    for seen in (*upstream.calls, *upstream.targets) if upstream else ():
        hidden(repr(seen), type(seen).__name__)
    return answer


# the ways to configure a secret; a file and a variable contain it too
WRITTEN = {
    "literal": {**OPEN, "provider:openai": {"credential": CANARY}},
    "variable": {**OPEN, "provider:openai": {"credential": "env:A_CREDENTIAL"}},
    "file": {**OPEN, "provider:openai": {"credential": "file:{folder}/credential"}},
    "with_keys": KEYED,
    "proxy_password": {
        "filesproxy": {"open_access": "yes", "proxy": f"http://user:{CANARY}@127.0.0.1:1"},
        "provider:openai": {"credential": "sk-other"},
    },
    "proxy_password_of_a_provider": {
        **OPEN,
        "provider:openai": {"credential": "sk-other", "proxy": f"http://{CANARY}:x@127.0.0.1:1"},
    },
}


@pytest.fixture
def sections(tmp_path, monkeypatch):
    """A function: a name in WRITTEN → its mapping, and the path of an INI file with the same content."""
    monkeypatch.setenv("A_CREDENTIAL", CANARY)
    (tmp_path / "credential").write_text(CANARY + "\n")

    def make(name):
        filled = json.loads(json.dumps(WRITTEN[name]).replace("{folder}", str(tmp_path)))
        text = "".join(
            f"[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())
            for section, keys in filled.items()
        )
        return filled, written(tmp_path, text)

    return make


@pytest.mark.parametrize("name", WRITTEN)
def test_configured_secret_is_in_no_repr_log_or_answer(name, sections, make_client, upstream):
    upstream.answers(FILE)
    for source in sections(name):
        application = create_app(source)
        for value in (application, application.config, application.config.providers, application.config.settings,
                      application.config.keys, vars(application)):  # fmt: skip
            hidden(f"{value!r} {value}", type(value).__name__)
        client = make_client(source)
        for method, path in REQUESTS:
            answer = ask(
                client, method, path, {"x-portkey-provider": "@openai", "x-portkey-api-key": GATEWAY_KEY}, upstream
            )
    assert upstream.calls, answer


# configuration, and a client's headers
PRESENTED = {
    "bearer": (None, {"x-portkey-provider": "openai", "authorization": f"Bearer {CANARY}"}),
    "portkey_header": (None, {"x-portkey-provider": "openai", "x-portkey-api-key": CANARY}),
    "api_key": (None, {"x-portkey-provider": "azure-openai", "x-portkey-azure-resource-name": "a", "api-key": CANARY}),
    "azure_token": (None, {"x-portkey-provider": "azure-openai", "x-portkey-azure-resource-name": "a",
                           "x-portkey-azure-ad-token": CANARY}),
    "two_for_azure": (None, {"x-portkey-provider": "azure-openai", "x-portkey-azure-resource-name": "a",
                             "x-portkey-azure-ad-token": CANARY, "api-key": CANARY}),
    "gateway_key": (KEYED, {"x-portkey-provider": "@openai", "x-portkey-api-key": GATEWAY_KEY}),
    "gateway_key_as_bearer": (KEYED, {"x-portkey-provider": "@openai", "authorization": f"Bearer {GATEWAY_KEY}"}),
    "gateway_key_and_own_credential": (KEYED, {"x-portkey-provider": "openai", "x-portkey-api-key": GATEWAY_KEY,
                                               "authorization": f"Bearer {CANARY}"}),
    "wrong_gateway_key": (KEYED, {"x-portkey-provider": "@openai", "x-portkey-api-key": GATEWAY_KEY + "x"}),
    "gateway_key_without_keys": (None, {"x-portkey-provider": "openai", "x-portkey-api-key": GATEWAY_KEY}),
    "key_for_a_provider": (KEYED, {"x-portkey-provider": "azure-openai", "x-portkey-api-key": GATEWAY_KEY}),
    "bearer_with_a_saved_provider": (SAVED, {"x-portkey-provider": "@openai", "authorization": f"Bearer {CANARY}x"}),
    "basic": (None, {"x-portkey-provider": "openai", "authorization": f"Basic {CANARY}"}),
    "bearer_twice": (None, {"x-portkey-provider": "openai", "authorization": f"Bearer {CANARY},Bearer {CANARY}"}),
    "bearer_with_a_space": (None, {"x-portkey-provider": "openai", "authorization": f"Bearer {CANARY} {CANARY}"}),
    "portkey_header_twice": (None, {"x-portkey-provider": "openai", "x-portkey-api-key": f"{CANARY},{CANARY}"}),
    "as_provider": (None, {"x-portkey-provider": CANARY, "authorization": f"Bearer {CANARY}"}),
    "as_saved_provider": (SAVED, {"x-portkey-provider": f"@{CANARY}"}),
    "as_virtual_key": (SAVED, {"x-portkey-virtual-key": CANARY}),
    "as_resource": (None, {"x-portkey-provider": "azure-openai", "x-portkey-azure-resource-name": CANARY + "."}),
    "as_api_version": (None, {"x-portkey-provider": "azure-openai", "x-portkey-azure-api-version": CANARY}),
    "in_custom_host": (None, {"x-portkey-provider": "openai", "x-portkey-custom-host": f"https://u:{CANARY}@a.example"}),
    "in_config": (SAVED, {"x-portkey-provider": "@openai", "x-portkey-config": json.dumps({"api_key": CANARY})}),
    "api_key_refused": (SAVED, {"x-portkey-provider": "@openai", "api-key": CANARY}),
    "x_api_key_refused": (SAVED, {"x-portkey-provider": "@openai", "x-api-key": CANARY}),
    "azure_token_refused": (SAVED, {"x-portkey-provider": "@openai", "x-portkey-azure-ad-token": CANARY}),
    "aws_secret_refused": (SAVED, {"x-portkey-provider": "@openai", "x-portkey-aws-secret-access-key": CANARY}),
    "organisation_twice": (None, {"x-portkey-provider": "openai", "authorization": "Bearer sk-a",
                                  "openai-organization": f"{CANARY},{CANARY}"}),
    "as_time_limit": (None, {"x-portkey-provider": "openai", "authorization": "Bearer sk-a",
                             "x-portkey-request-timeout": CANARY}),
    "as_trace_id_with_a_space": (None, {"x-portkey-trace-id": f"{CANARY} {CANARY}", "x-portkey-provider": "openai",
                                        "authorization": f"Bearer {CANARY}"}),
    "cookie": (None, {"cookie": CANARY, "proxy-authorization": CANARY, "referer": f"https://a.example/?k={CANARY}"}),
}  # fmt: skip


@pytest.mark.parametrize("name", PRESENTED)
def test_secret_from_a_client_is_in_no_answer_log_or_repr(name, make_client, upstream):
    upstream.answers(FILE)
    source, headers = PRESENTED[name]
    for method, path in REQUESTS:
        ask(make_client(source), method, path, headers, upstream)


@pytest.mark.parametrize("name", PRESENTED)
def test_secret_from_a_client_is_in_no_exception_and_no_repr_of_caller_and_target(name):
    source, headers = PRESENTED[name]
    environ = {"REQUEST_METHOD": "GET", "wsgi.input": None, "HTTP_HOST": "localhost", "REMOTE_ADDR": "127.0.0.1"}
    named = {"HTTP_" + header.upper().replace("-", "_"): value for header, value in headers.items()}
    found = config(source)
    try:
        caller = authenticate(Request({**environ, **named}), found.keys)
        target = resolve(Request({**environ, **named}), caller, found, PROVIDERS)
        hidden(f"{caller!r} {target!r} {Request({**environ, **named})!r}", "who and where")
        call = target.provider["authorize"](Call("list_files", "GET", "/files"), target)
        hidden(f"{call!r}", "the authorised call")
    except FilesproxyError as error:
        hidden_in_exception(error)


URLS = [
    f"/v1/{CANARY}",
    f"/{CANARY}/v1/files",
    f"/v1/files/{CANARY}%20x",
    f"/v1/files/{CANARY}/{CANARY}",
    f"/v1/files?api_key={CANARY}",
    f"/v1/files?{CANARY}",
    f"/v1/files?{CANARY}=1&{CANARY}=2",
    f"/v1/files?limit={CANARY}",
    f"/v1/files?order={CANARY}",
    f"/v1/files?after=../{CANARY}",
    f"/v1/files?purpose=a%0d{CANARY}",
    f"/v1/files/file-1?key={CANARY}",
    f"/v1/files/file-1/content?sig={CANARY}",
    f"/v1/health?key={CANARY}",
    f"/?key={CANARY}",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "OPTIONS"])
def test_url_and_query_of_a_request_are_never_quoted(url, method, make_client, upstream):
    upstream.answers({"object": "list", "data": []})
    ask(make_client(), method, url, {"x-portkey-provider": "openai", "authorization": "Bearer sk-a"}, upstream)
    assert not [call for call in upstream.calls if CANARY in call.url]
    assert not [call for call in upstream.calls if CANARY in str(dict(call.query)) and call.operation != "list_files"]


def error_with(**fields):
    return {"error": {"message": "No.", "type": "t", "param": "p", "code": "c", **fields}}


# errors of an upstream that contain the credential, as JSON or bytes
ERRORS = {
    "message": error_with(message=f"Incorrect API key provided: {CANARY}."),
    "message_twice": error_with(message=f"{CANARY}{CANARY} and {CANARY}"),
    "type": error_with(type=CANARY),
    "param": error_with(param=f"header {CANARY}"),
    "code": error_with(code=CANARY),
    "all": error_with(message=CANARY, type=CANARY, param=CANARY, code=CANARY),
    "more_keys": error_with(innererror={"key": CANARY}, headers={"authorization": CANARY}),
    "azure_target": error_with(param=None, target=CANARY),
    "text": {"error": f"bad key {CANARY}"},
    "detail": {"detail": f"bad key {CANARY}"},
    "details": {"detail": [{"loc": ["header", CANARY], "msg": CANARY, "input": CANARY}]},
    "flat": {"message": CANARY, "code": CANARY},
    "message_is_an_object": error_with(message={"text": CANARY}),
    "message_is_a_list": error_with(message=[CANARY]),
    "other_types": error_with(param=[CANARY], code={"a": CANARY}, type={"b": CANARY}),
    "page": f"<html>{CANARY}</html>".encode(),
    "truncated_json": f'{{"error": {{"message": "{CANARY}'.encode(),
    "not_utf8": b"\xff" + CANARY.encode(),
    "too_long": b" " * 70_000 + CANARY.encode(),
}
CREDENTIALS = {
    "saved": (SAVED, {"x-portkey-provider": "@openai"}),
    "own": (None, {"x-portkey-provider": "openai", "authorization": f"Bearer {CANARY}"}),
    "azure": (None, {"x-portkey-provider": "azure-openai", "x-portkey-azure-resource-name": "a", "api-key": CANARY}),
}


@pytest.mark.parametrize("whose", CREDENTIALS)
@pytest.mark.parametrize("name", ERRORS)
def test_credential_in_an_upstreams_error_is_redacted(name, whose, make_client, upstream):
    source, headers = CREDENTIALS[whose]
    client = make_client(source)
    for status in (301, 400, 401, 403, 404, 429, 500, 503):
        error = ERRORS[name]
        upstream.status, upstream.headers = status, {"location": f"https://a.example/?key={CANARY}",
                                                     "www-authenticate": CANARY, "set-cookie": CANARY}  # fmt: skip
        upstream.chunks = [error if isinstance(error, bytes) else json.dumps(error).encode()]
        for method, path in REQUESTS[2:4]:
            answer = ask(client, method, path, headers, upstream)
            assert answer.status_int >= 400 and set(answer.json["error"]) == {"message", "type", "param", "code"}


# A credential that JSON, URLs and base64 encode differently. It still contains what hidden() looks for.
ODD = 'sk/canary-7f3a9c+"=%'
FORMS = {
    "plain": ODD,
    "percent_encoded": quote(ODD, safe=""),
    "base64": b64encode(ODD.encode()).decode(),
    "bearer": f"Bearer {ODD}",
}
QUOTED = {**FORMS, "json": json.dumps(ODD)[1:-1]}
ODD_CREDENTIALS = {
    "saved": ({**OPEN, "provider:openai": {"credential": ODD}}, {"x-portkey-provider": "@openai"}),
    "own": (None, {"x-portkey-provider": "openai", "authorization": f"Bearer {ODD}"}),
}


def shows_it_in_no_form(answer, access_log):
    """Neither the answer nor the log contains the odd credential, in any encoding."""
    seen = f"{answer.status} {answer.headers!r} {answer.text} {access_log()!r}"
    hidden(seen, "answer or access log")
    for name, text in QUOTED.items():
        assert text not in seen, name


@pytest.mark.parametrize("whose", ODD_CREDENTIALS)
@pytest.mark.parametrize("name", FORMS)
def test_credential_in_a_providers_success_is_redacted(name, whose, make_client, upstream, access_log):
    source, headers = ODD_CREDENTIALS[whose]
    repeated = {"filename": FORMS[name], "note": {"a": [f"x{FORMS[name]}y"]}, FORMS[name]: 1}
    headers_sent = {"x-request-id": f"req-{FORMS[name]}", "request-id": FORMS[name], "openai-version": FORMS[name],
                    "x-ratelimit-limit-requests": FORMS[name], "anthropic-ratelimit-tokens": FORMS[name]}  # fmt: skip
    shapes = {"/v1/files/file-1": {**FILE, **repeated}, "/v1/files": {"data": [{**FILE, **repeated}], **repeated}}
    for path, value in shapes.items():
        upstream.answers(value)
        upstream.headers = headers_sent
        answer = make_client(source).get(path, headers=headers)
        assert "[redacted]" in answer.text and "[redacted]" in answer.headers["x-request-id"]
        shows_it_in_no_form(answer, access_log)


@pytest.mark.parametrize("whose", ODD_CREDENTIALS)
@pytest.mark.parametrize("name", FORMS)
def test_credential_in_the_headers_of_content_is_redacted(name, whose, make_client, upstream, access_log):
    source, headers = ODD_CREDENTIALS[whose]
    upstream.chunks = [b"hello"]
    upstream.headers = {"x-request-id": FORMS[name], "etag": f'"{FORMS[name]}"', "x-ratelimit-a": FORMS[name],
                        "content-disposition": f"attachment; filename*=UTF-8''{FORMS[name]}"}  # fmt: skip
    answer = make_client(source).get("/v1/files/file-1/content", headers=headers)
    assert answer.body == b"hello"
    shows_it_in_no_form(answer, access_log)


@pytest.mark.parametrize("whose", ODD_CREDENTIALS)
@pytest.mark.parametrize("name", QUOTED)
def test_encoded_credential_in_an_upstreams_error_is_redacted(name, whose, make_client, upstream, access_log):
    source, headers = ODD_CREDENTIALS[whose]
    text = QUOTED[name]
    for status in (400, 429, 500):
        upstream.answers(error_with(message=f"No: ({text})", type=text, param=text, code=text), status)
        upstream.headers = {"x-request-id": text, "x-ratelimit-reset": f"a{text}", "retry-after": text}
        answer = make_client(source).get("/v1/files/file-1", headers=headers, status=status)
        assert answer.json["error"]["message"] == f"No: ({'Bearer ' if name == 'bearer' else ''}[redacted])"
        shows_it_in_no_form(answer, access_log)


@pytest.mark.parametrize("whose", CREDENTIALS)
def test_credential_as_an_id_is_neither_answered_nor_logged(whose, make_client, upstream, access_log):
    source, headers = CREDENTIALS[whose]
    upstream.answers({**FILE, "id": CANARY, "deleted": True})
    for method, path in REQUESTS[:3] + REQUESTS[4:]:
        ask(make_client(source), method, path, headers, upstream)
    hidden(repr(access_log()), "the access log")


INVALID_IDS = ["file 1", "file-1\n", 'file-1", "status": "999', "../file", "..", "", "é", "file/1", "a" * 129,
               "\ud800", "x" * 7_000_000]  # fmt: skip


@pytest.mark.parametrize("file_id", INVALID_IDS, ids=range(len(INVALID_IDS)))
def test_invalid_id_from_a_provider_is_not_logged(file_id, make_client, upstream, access_log):
    upstream.answers({**FILE, "id": file_id})
    source, headers = CREDENTIALS["own"]
    typed = {"content-type": form_type(), **headers}
    make_client(source).request("/v1/files", method="POST", body=UPLOAD, headers=typed, status="*")
    (line,) = access_log()
    assert (line["file_id"], line["operation"]) == (None, "upload_file")


SUCCESS = [b"", CANARY.encode(), b'"' + CANARY.encode() + b'"', f'{{"{CANARY}": 1'.encode(), f'["{CANARY}"]'.encode(),
           json.dumps({"id": 5, "key": CANARY}).encode(), json.dumps({**FILE, "id": [CANARY]}).encode(),
           json.dumps({"data": CANARY}).encode(), json.dumps({"data": [CANARY]}).encode()]  # fmt: skip


@pytest.mark.parametrize("body", SUCCESS)
def test_invalid_success_is_not_quoted(body, make_client, upstream):
    upstream.chunks = [body]
    for method, path in (REQUESTS[1], REQUESTS[2], REQUESTS[4]):
        for source, headers in CREDENTIALS.values():
            answer = ask(make_client(source), method, path, headers, upstream)
            if method == "DELETE" and (not body or b'"data"' in body):  # its status is a success, and nothing denies it
                assert answer.json == {"id": path.rpartition("/")[2], "object": "file", "deleted": True}
                continue
            assert answer.json["error"]["code"] == "upstream_invalid_answer"


FAILURES = [ValueError(CANARY), KeyError(CANARY), OSError(5, CANARY), RuntimeError({"key": CANARY}),
            AssertionError(CANARY), UnicodeEncodeError("ascii", CANARY, 0, 1, CANARY), RecursionError(CANARY),
            ConnectionResetError(CANARY), UpstreamError("The provider broke off its answer.")]  # fmt: skip


def failing(error):
    """Raise the error while another one with the canary is being handled."""
    try:
        raise LookupError(CANARY)
    except LookupError:
        raise type(error)(*error.args) from None


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("whose", CREDENTIALS)
def test_failure_of_a_transport_is_reported_by_its_class(error, whose, make_client):
    def transport(call, target):
        failing(error)

    source, headers = CREDENTIALS[whose]
    client = make_client(source, transports={"https": transport})
    for method, path in REQUESTS:
        assert ask(client, method, path, headers).status_int >= 500


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_failure_in_the_middle_of_content_reaches_the_server_without_its_text(error, make_client, upstream):
    """A server logs the traceback of any exception that an application raises."""
    source, headers = CREDENTIALS["saved"]
    upstream.chunks = [b"some", type(error)(*error.args)]
    with pytest.raises(Exception) as broken:
        make_client(source).get("/v1/files/file-1/content", headers=headers)
    assert upstream.bodies[0].closed
    hidden_in_exception(broken.value)


def test_proxy_that_answers_with_its_password_is_not_quoted(make_client):
    """http.client quotes the reason phrase of a CONNECT proxy in its exception."""
    refusing = answering(f"HTTP/1.1 407 {CANARY}\r\nx-said: {CANARY}\r\ncontent-length: 0\r\n\r\n".encode())
    with Upstream(refusing) as proxy:
        source = {**OPEN, "provider:openai": {"credential": CANARY,
                                              "proxy": f"http://user:{CANARY}@127.0.0.1:{proxy.port}"}}  # fmt: skip
        client = make_client(source, transports={"https": HttpTransport()})
        answer = ask(client, "GET", "/v1/files/file-1", {"x-portkey-provider": "@openai"})
        assert answer.json["error"]["code"] == "upstream_unreachable"
        assert b"CONNECT api.openai.com:443" in proxy.peer.received


@pytest.mark.parametrize("url", ["http://user:{}@127.0.0.1:1", "http://user:pw@127.0.0.1:{}", "http://{}@[::1", "{}"])
def test_proxy_of_the_environment_is_not_quoted(url, make_client, monkeypatch):
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, url.format(CANARY))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    source = {"filesproxy": {"open_access": "yes", "proxy": "env"}, "provider:openai": {"credential": CANARY,
              "base_url": "https://127.0.0.2:1/v1"}}  # fmt: skip
    client = make_client(source, transports={"https": HttpTransport()})
    assert ask(client, "GET", "/v1/files/file-1", {"x-portkey-provider": "@openai"}).status_int >= 500


@pytest.mark.parametrize("value", ["{}\r\nx-evil: 1", "{}\0", "{}é€"])
def test_header_that_cannot_be_sent_is_not_quoted(value):
    target = Target(
        "a",
        PROVIDERS["openai"],
        "http://127.0.0.1:1/v1",
        dict(config().providers["openai"]),
        secrets={"credential": Secret(CANARY)},
    )
    with Upstream(lambda peer: peer.read_to_end()) as upstream:
        call = Call("x", "GET", "/files", url=upstream.url, headers={"authorization": value.format(CANARY)})
        with pytest.raises(Exception) as refused:
            HttpTransport()(call, target)
    hidden_in_exception(refused.value)


# configurations that stop the start; {} stands for the canary
BROKEN = {
    "no_section": "credential = {}\n",
    "bad_section": "[provider openai]\ncredential = {}\n",
    "unknown_section": "[secrets:openai]\ncredential = {}\n",
    "section_without_closing_bracket": "[provider:openai\ncredential = {}\n",
    "default_section": "[DEFAULT]\ncredential = {}\n",
    "no_equals_sign": "[provider:openai]\ncredential {}\n",
    "alone_on_its_line": "[provider:openai]\n{}\n",
    "colon_instead_of_an_equals_sign": "[provider:openai]\ncredential: {}\n",
    "colon_and_an_equals_sign_in_the_value": "[provider:openai]\ncredential: {}==\n",
    "no_name": "[provider:openai]\n= {}\n",
    "wrong_name": "[provider:openai]\ncredentials = {}\n",
    "unknown_name": "[provider:openai]\npassword = {}\n",
    "name_and_value_exchanged": "[provider:openai]\n{} = credential\n",
    "no_equals_sign_between_name_and_value": "[provider:openai]\ncredential {} = x\n",
    "repeated_key": "[provider:openai]\ncredential = {}\ncredential = {}\n",
    "repeated_section": "[provider:openai]\ncredential = {}\n[provider:openai]\ncredential = {}\n",
    "no_key_and_no_open_access": "[provider:openai]\ncredential = {}\n",
    "of_an_unknown_kind": "[provider:mine]\ncredential = {}\n",
    "as_kind": "[provider:mine]\nkind = {}\n",
    "as_kind_with_a_space": "[provider:mine]\nkind = {} {}\n",
    "wrong_type": "[filesproxy]\nread_timeout = {}\n",
    "wrong_section": "[filesproxy]\ncredential = {}\n",
    "of_a_key": "[key:a]\ncredential = {}\n",
    "key_instead_of_its_hash": "[key:a]\nsha256 = {}\n",
    "as_provider_of_a_key": "[key:a]\nsha256 = " + "0" * 64 + "\nproviders = {}\n",
    "as_operation": "[key:a]\noperations = {}\n",
    "as_default_provider": "[filesproxy]\ndefault_provider = {}\n",
    "credential_with_a_space": "[provider:openai]\ncredential = Bearer {}\n",
    "comment_after_the_value": "[provider:openai]\ncredential = {} # {}\n",
    "second_line": "[provider:openai]\ncredential = {}\n  {}\n",
    "not_ascii": "[provider:openai]\ncredential = {}é\n",
    "in_quotes_with_a_space": "[provider:openai]\ncredential = '{} '\n",
    "variable_that_is_not_set": "[provider:openai]\ncredential = env:{}\n",
    "file_that_does_not_exist": "[provider:openai]\ncredential = file:/nonexistent/{}\n",
    "of_the_local_store": "[filesproxy]\nopen_access = yes\n[provider:local]\nfolder = /nonexistent\ncredential = {}\n",
    "base_url_with_a_user": "[provider:openai]\nbase_url = https://user:{}@a.example/v1\n",
    "base_url_with_a_user_alone": "[provider:openai]\nbase_url = https://{}@a.example/v1\n",
    "base_url_with_a_query": "[provider:openai]\nbase_url = https://a.example/v1?key={}\n",
    "base_url_with_a_fragment": "[provider:openai]\nbase_url = https://a.example/v1#{}\n",
    "base_url_with_a_bad_port": "[provider:openai]\nbase_url = https://a.example:{}/v1\n",
    "base_url_with_a_bad_host": "[provider:openai]\nbase_url = https://[{}/v1\n",
    "proxy_of_https": "[filesproxy]\nproxy = https://user:{}@a.example\n",
    "proxy_with_a_bad_port": "[filesproxy]\nproxy = http://user:pw@a.example:{}\n",
    "ca_file": "[filesproxy]\nca_file = /nonexistent/{}\n",
    "resource": "[provider:azure-openai]\nresource = {}.\n",
    "api_version": "[provider:azure-openai]\napi_version = {}\n",
    "auth": "[provider:azure-openai]\nauth = {}\n",
    "is_a_gateway_key": "[provider:openai]\ncredential = {}\n[key:a]\nsha256 = " + hashed(CANARY) + "\n",
    "not_utf8": b"[provider:openai]\ncredential = " + CANARY.encode() + b"\xff\n",
    "utf16": ("[provider:openai]\ncredential = " + CANARY).encode("utf-16"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_configuration_is_refused_without_quoting_it(name, tmp_path):
    text = BROKEN[name]
    path = written(tmp_path, text.replace("{}", CANARY) if isinstance(text, str) else text)
    with pytest.raises(FilesproxyError) as refused:
        create_app(path)
    assert refused.value.message.startswith(path) or name in ("of_an_unknown_kind", "as_kind")
    hidden_in_exception(refused.value)


@pytest.mark.parametrize(
    "name", ["max_upload_bytes", "listen", "proxy", "open_access", "ca_file", "bogus", "credential"]
)
def test_bad_keyword_and_variable_are_refused_without_quoting_them(name, monkeypatch):
    with pytest.raises(FilesproxyError) as refused:
        create_app(**{name: CANARY})
    hidden_in_exception(refused.value)
    monkeypatch.setenv(f"FILESPROXY_{name.upper()}", CANARY)
    with pytest.raises(FilesproxyError) as refused:
        create_app()
    hidden_in_exception(refused.value)


def test_reprs_of_objects_with_a_credential_do_not_show_it():
    secret = Secret(CANARY)
    carriers = [
        secret,
        Caller(config(KEYED).keys[0], secret),
        Target("openai", PROVIDERS["openai"], "https://a.example", {"proxy": secret}, single_credential(secret)),
        Call("x", "GET", "/files", headers={"authorization": f"Bearer {CANARY}", "api-key": CANARY}),
        Answer(200, {"a": "b"}, {"id": "file-1"}),
        config(KEYED),
        create_app(KEYED),
        HttpTransport(),
        FakeUpstream(),
    ]
    for carrier in carriers:
        hidden(f"{carrier!r} {[carrier]!r} {(carrier,)!s} {{'x': {carrier!r}}}", type(carrier).__name__)


def test_checks_of_this_file_find_the_canary(caplog):
    with pytest.raises(AssertionError):
        hidden(f"Bearer {CANARY}", "itself")
    with pytest.raises(AssertionError):
        hidden(f"Bearer {GATEWAY_KEY}", "itself")
    try:
        failing(UpstreamError("harmless"))
    except UpstreamError as error:
        with pytest.raises(AssertionError), contextlib.suppress(KeyError):
            hidden_in_exception(error)
