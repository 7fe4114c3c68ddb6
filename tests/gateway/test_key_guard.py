"""A gateway key where none belongs is a 400: it is not quoted, not logged, and nothing is sent upstream."""

from __future__ import annotations

import io
import json
from urllib.parse import quote

import pytest
from configurations import MADE, hashed
from fakes import FILE, form, form_type

from filesproxy.config.load import Key
from filesproxy.errors import BadRequest
from filesproxy.gateway.key_guard import MAX_WORDS, KeyGuard, check_json
from filesproxy.gateway.request import Request

OWN = "a-key/of+our=own"  # no key that `filesproxy key` makes, and with characters that separate words
OTHER = "another-teams-key"
TEAM = {"sha256": hashed(OWN), "providers": "openai", "caller_credentials": "yes"}
CONFIG = {
    "filesproxy": {"isolation": "no"},
    "provider:openai": {"credential": "sk-saved-1"},
    "key:team": TEAM,
    "key:other": {"sha256": hashed(OTHER), "providers": "openai"},
}
CALLER = {"x-portkey-provider": "@openai", "x-portkey-api-key": OWN}
KEYS = {"made": MADE, "own": OWN, "others": OTHER}


@pytest.fixture
def keyed(make_client, upstream):
    upstream.answers(FILE)
    return make_client(CONFIG)


def refused(answer, key, upstream, access_log, param=None):
    """Assert that this is the 400, and that the key is nowhere."""
    assert (answer.status_int, answer.json["error"]["code"]) == (400, "misplaced_gateway_key")
    assert answer.json["error"]["param"] == param
    seen = f"{answer.headers!r} {answer.text} {access_log()!r}"
    assert key not in seen and json.dumps(key)[1:-1] not in seen
    assert upstream.calls == [] and access_log()[-1]["error"] == "misplaced_gateway_key"


HEADERS = ["x-portkey-trace-id", "cookie", "user-agent", "referer", "proxy-authorization", "x-portkey-metadata", "via",
           "openai-organization", "api-key", "x-api-key", "x-portkey-provider", "x-portkey-virtual-key", "if-range",
           "x-portkey-request-timeout", "anthropic-beta", "content-type", "x-some-header"]  # fmt: skip


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("header", HEADERS)
def test_gateway_key_in_a_header_where_none_belongs_is_400(header, key, keyed, upstream, access_log):
    answer = keyed.get("/v1/files/file-1", headers={**CALLER, header: key}, status=400)
    refused(answer, key, upstream, access_log, header)


INSIDE = ["session={}; theme=dark", "Bearer {}", "a, {}", "1.1 a, 1.0 {}"]


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("text", INSIDE)
def test_gateway_key_as_a_word_of_a_header_is_400(text, key, keyed, upstream, access_log):
    answer = keyed.get("/v1/files/file-1", headers={**CALLER, "cookie": text.format(key)}, status=400)
    refused(answer, key, upstream, access_log, "cookie")


@pytest.mark.parametrize("key", [MADE, OWN])
@pytest.mark.parametrize("text", ["https://a.example/?k={}&x", '{{"key":"{}"}}', "trace-{}-1", "curl/8({})", "_{}"])
def test_made_or_presented_key_inside_a_word_is_400(text, key, keyed, upstream, access_log):
    answer = keyed.get("/v1/files/file-1", headers={**CALLER, "referer": text.format(key)}, status=400)
    refused(answer, key, upstream, access_log, "referer")


GLUE = ["{}.txt", '"{}"', "a:{}", "{{{}}}", "a[{}]", "x-{}", "{}-1", "x-{}-1", "a_{}", "({})", '{{"key":"{}"}}', "<{}>",
        "key={},", "\x00{}", "é{}"]  # fmt: skip


CANNOT_HOLD = {"trace_id": "\x00é", "via": "\x00é", "tracestate": "\x00é", "query": "", "file": '"\x00'}
PLACES = [(where, glue) for where, not_held in CANNOT_HOLD.items() for glue in GLUE if not set(not_held) & set(glue)]


@pytest.mark.parametrize("where,glue", PLACES)
def test_another_teams_key_glued_to_other_text_is_400(glue, where, keyed, upstream, access_log):
    text = glue.format(OTHER)
    if where == "query":
        answer = keyed.get(f"/v1/files?{quote(text)}=1", headers=CALLER, status=400)
        return refused(answer, OTHER, upstream, access_log)
    if where == "file":
        body = form(("purpose", "batch"), ("file", text, "", b"x"))
        typed = {**CALLER, "content-type": form_type()}
        answer = keyed.request("/v1/files", method="POST", body=body, headers=typed, status=400)
        return refused(answer, OTHER, upstream, access_log)
    name = {"trace_id": "x-portkey-trace-id"}.get(where, where)
    answer = keyed.get("/v1/files/file-1", headers={**CALLER, name: text}, status=400)
    return refused(answer, OTHER, upstream, access_log, name)


def test_another_teams_key_after_many_words_of_a_tracestate_is_400(keyed, upstream, access_log):
    text = ",".join([*["a=b"] * 100, f"c={OTHER}"])
    answer = keyed.get("/v1/files/file-1", headers={**CALLER, "tracestate": text}, status=400)
    refused(answer, OTHER, upstream, access_log, "tracestate")


URLS = ["/v1/files/{}", "/v1/files/{}/content", "/v1/{}", "/v1/files?after={}", "/v1/files?{}=1", "/v1/files?{}",
        "/v1/batches?after=a&limit={}", "/v1/health?key={}"]  # fmt: skip


@pytest.mark.parametrize("key", [MADE, OTHER])
@pytest.mark.parametrize("url", URLS)
def test_gateway_key_in_the_url_is_400(url, key, keyed, upstream, access_log):
    for written in (key, f"%{ord(key[0]):02x}{key[1:]}"):
        refused(keyed.get(url.format(written), headers=CALLER, status=400), key, upstream, access_log)


def test_key_with_separators_in_a_query_is_400(make_client, upstream, access_log):
    client = make_client({**CONFIG, "key:other": {"sha256": hashed("a/b=c d-e"), "providers": "openai"}})
    answer = client.get("/v1/files?after=a%2fb%3dc+d-e", headers=CALLER, status=400)
    refused(answer, "a/b=c d-e", upstream, access_log)


def test_key_is_refused_before_anything_else_is_found_wrong(make_client, upstream, access_log):
    """Else the 401, 404, 405 or 411 would be logged with the key in its trace id."""
    client = make_client(CONFIG)
    wrong = {
        "slash": ("GET", "/v1/files/a%2fb", {}),
        "method": ("PUT", "/v1/files", {}),
        "path": ("GET", "/nothing", {}),
        "length": ("POST", "/v1/files", {"CONTENT_LENGTH": "9" * 20}),
        "key": ("GET", "/v1/files", {}),
    }
    for method, path, extra in wrong.values():
        answer = client.request(path, method=method, headers={"x-portkey-trace-id": OTHER}, status="*",
                                environ={"RAW_URI": path, **extra})  # fmt: skip
        refused(answer, OTHER, upstream, access_log, "x-portkey-trace-id")
        assert access_log()[-1]["request_id"].startswith("fpr-")


FORMS = {
    "purpose": ([("purpose", "{}"), ("file", "a.jsonl", "", b"x")], "purpose"),
    "name_of_a_file": ([("purpose", "batch"), ("file", "{}", "", b"x")], None),
    "part_of_the_name_of_a_file": ([("purpose", "batch"), ("file", "notes on {} .txt", "", b"x")], None),
    "field_that_is_ignored": ([("purpose", "batch"), ("note", "{}"), ("file", "a", "", b"x")], "note"),
    "name_of_a_field": ([("purpose", "batch"), ("{}", "x"), ("file", "a", "", b"x")], None),
    "media_type": ([("purpose", "batch"), ("file", "a", "text/{}", b"x")], None),
    "field_after_the_file": ([("file", "a", "", b"x"), ("purpose", "{}")], "purpose"),
}


@pytest.mark.parametrize("key", [MADE, OTHER])
@pytest.mark.parametrize("name", FORMS)
def test_gateway_key_in_a_form_is_400(name, key, keyed, upstream, access_log):
    given, param = FORMS[name]
    body = form(*[tuple(text.replace("{}", key) if isinstance(text, str) else text for text in part) for part in given])
    answer = keyed.request("/v1/files", method="POST", body=body, headers={**CALLER, "content-type": form_type()},
                           status=400)  # fmt: skip
    if name == "field_after_the_file":  # the upload has begun by then
        upstream.calls.clear()
    refused(answer, key, upstream, access_log, param)


OTHER_FORMS = {
    "file_of_a_container": ("/v1/containers/cntr_1/files", [("file", "{}", "", b"x")], None),
    "id_of_a_file_of_a_container": ("/v1/containers/cntr_1/files", [("file_id", "{}")], "file_id"),
    "field_of_a_container": ("/v1/containers/cntr_1/files", [("note", "{}"), ("file", "a", "", b"x")], "note"),
    "part_of_an_upload": ("/v1/uploads/up_1/parts", [("data", "{}", "", b"x")], None),
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("name", OTHER_FORMS)
def test_gateway_key_in_a_form_of_another_operation_is_400(name, key, keyed, upstream, access_log):
    """The form of a container's file was not looked through, so the key went upstream."""
    path, given, param = OTHER_FORMS[name]
    body = form(*[tuple(text.replace("{}", key) if isinstance(text, str) else text for text in part) for part in given])
    answer = keyed.request(path, method="POST", body=body, headers={**CALLER, "content-type": form_type()}, status=400)
    refused(answer, key, upstream, access_log, param)


def test_bytes_of_a_file_are_not_looked_through(keyed, upstream):
    content = f"{MADE} {OWN} {OTHER}".encode()
    body = form(("purpose", "batch"), ("file", "keys.txt", "", content))
    keyed.request("/v1/files", method="POST", body=body, headers={**CALLER, "content-type": form_type()})
    assert len(upstream.calls) == 1


CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def escaped(key):
    """The key in JSON, each character written as an escape."""
    return "".join(f"\\u{ord(letter):04x}" for letter in key)


JSON = {
    "value": ("user", "KEY"),
    "name": ("KEY", 1),
    "in_a_list": ("stop", ["a", "KEY"]),
    "deep": ("metadata", {"a": {"b": [{"KEY": 1}]}}),
    "model": ("model", "KEY"),
}


@pytest.mark.parametrize("write", [lambda key: json.dumps(key)[1:-1], escaped, lambda key: key.replace("/", "\\/")],
                         ids=["plain", "escaped", "slash"])  # fmt: skip
@pytest.mark.parametrize("name", JSON)
def test_presented_key_as_a_whole_string_of_json_is_400(name, write, keyed, upstream, access_log):
    field, value = JSON[name]
    body = json.dumps({**CHAT, field: value}).replace("KEY", write(OWN)).encode()
    headers = {**CALLER, "content-type": "application/json"}
    answer = keyed.request("/v1/chat/completions", method="POST", body=body, headers=headers, status=400)
    refused(answer, OWN, upstream, access_log)


@pytest.mark.parametrize("text", [MADE, OTHER, f"my key is {OWN}", f"{OWN}x", OWN.upper(), "caf\u00e9 \u0041"])
def test_prose_and_other_keys_in_json_are_sent_on(text, keyed, upstream):
    body = json.dumps({**CHAT, "user": text}).encode()
    headers = {**CALLER, "content-type": "application/json"}
    keyed.request("/v1/chat/completions", method="POST", body=body, headers=headers, status="*")
    assert upstream.calls[0].json["user"] == text


HARMLESS = ["fp_", "fp_short", MADE[:-1], "wfp_annual_report_of_the_year_2024_final_version_for_print", "7" + MADE,
            OWN[:-1], f"{OTHER}x", OTHER.upper(), hashed(OWN), "a b c", ""]  # fmt: skip


@pytest.mark.parametrize("text", HARMLESS)
def test_text_that_is_no_key_is_let_through(text, keyed, upstream):
    keyed.get("/v1/files/file-1", headers={**CALLER, "cookie": text}, status=200)
    assert len(upstream.calls) == 1


def test_key_in_both_headers_where_it_belongs_is_no_mistake(keyed):
    keyed.get("/v1/files/file-1", headers={**CALLER, "authorization": f"Bearer {OWN}"}, status=200)
    keyed.get("/v1/files/file-1", headers={**CALLER, "authorization": f"Bearer {MADE}"}, status=200)


def test_caller_without_keys_may_not_misplace_one_either(client, upstream, access_log):
    headers = {"x-portkey-provider": "openai", "authorization": "Bearer sk-caller", "x-portkey-trace-id": MADE}
    answer = client.get("/v1/files/file-1", headers=headers, status=400)
    refused(answer, MADE, upstream, access_log, "x-portkey-trace-id")


GLUED = ['"{}"', "token={}", "x:{}", "sk-1/{}", "key;{}", "{}.x", "({})", "sk-caller {}", "{} sk-caller"]


@pytest.mark.parametrize("key", [MADE, OWN])
@pytest.mark.parametrize("text", GLUED)
def test_gateway_key_glued_to_other_text_in_authorization_is_400(text, key, make_client, upstream, access_log):
    """It was taken for the caller's own credential, and went upstream."""
    if key == MADE and text[0] == "{":  # what begins like a key is judged as one
        text = "sk-" + text
    headers = {"x-portkey-provider": "openai", "x-portkey-api-key": OWN, "authorization": f"Bearer {text.format(key)}"}
    answer = make_client(CONFIG).get("/v1/files/file-1", headers=headers, status=400)
    refused(answer, key, upstream, access_log, "authorization")


def test_generated_key_glued_in_a_header_of_a_gateway_without_keys_is_400(client, upstream, access_log):
    for name, text in (("x-portkey-api-key", f'"{MADE}"'), ("authorization", f"Bearer key={MADE}")):
        answer = client.get("/v1/files/file-1", headers={"x-portkey-provider": "openai", name: text}, status=400)
        refused(answer, MADE, upstream, access_log, name)


def test_key_of_several_words_is_presented_whole_in_either_header():
    found = guard("a key of several words")
    for headers in (
        {"authorization": "Bearer a key of several words"},
        {"x_portkey_api_key": "a key of several words"},
    ):
        assert found.check_head(head(**headers)) == ("a key of several words",)
    with pytest.raises(BadRequest):
        found.check_head(
            head(x_portkey_api_key="a key of several words", authorization="Bearer a key of several words x")
        )


def guard(*keys):
    return KeyGuard([Key("team", tuple(map(hashed, keys)), ("*",), ("*",), True)])


def head(**headers):
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/v1/files", "wsgi.input": io.BytesIO()}
    return Request({**environ, **{f"HTTP_{name.upper()}": value for name, value in headers.items()}})


def test_hash_of_the_empty_text_makes_no_head_a_key():
    assert guard("").check_head(head(cookie="", user_agent="a, b")) == ()


def test_key_under_eight_characters_is_a_word_like_others():
    """As in redaction: a team whose key is `team` could not name the provider @team, or call /v1/files with `files`."""
    assert guard("team", "files").check_head(head(x_portkey_api_key="team", cookie="a=team; files")) == ()


def test_words_of_a_long_header_cost_little(monkeypatch):
    hashes = []
    monkeypatch.setattr("filesproxy.gateway.key_guard.token_hash", lambda word: hashes.append(word) or "")
    guard("team").check_head(head(cookie=",".join(f"word-{number:05d}" for number in range(10_000))))
    assert MAX_WORDS <= len(hashes) <= 2 * MAX_WORDS + 10


def test_parts_of_a_long_word_cost_little(monkeypatch):
    hashes = []
    monkeypatch.setattr("filesproxy.gateway.key_guard.token_hash", lambda word: hashes.append(word) or "")
    guard("team").check_head(head(cookie="some.part-" * 5_000))
    assert MAX_WORDS <= len(hashes) <= MAX_WORDS + 10


def test_heads_that_are_remembered_are_few_and_short():
    found = guard("team")
    for number in range(600):
        found.check_head(head(cookie=f"{number}"))
        found.check_head(head(cookie=f"{number}" + "x" * 5000))
        found.check_head(head(x_portkey_trace_id=f"{number}"))
    assert 0 < found._judged.cache_info().currsize <= 256


def test_trace_id_of_each_call_makes_no_new_head():
    found = guard("team")
    for number in range(10):
        found.check_head(head(user_agent="x", x_portkey_trace_id=f"{number}"))
    assert found._judged.cache_info().misses == 1


def test_json_without_the_key_is_not_walked(monkeypatch):
    monkeypatch.setattr("filesproxy.gateway.key_guard._strings", lambda value: pytest.fail("walked"))
    for text in (b'{"a": "b\\n\\"c\\" \\u4e2d"}', b"{}"):
        check_json(text, json.loads(text), [MADE])
