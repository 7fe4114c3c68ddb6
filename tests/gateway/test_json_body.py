"""JSON bodies: read within limits, refused for a stated reason, and counted until a request has ended in any way."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import OPENAI, hold_of, left, memory

from filesproxy.errors import (
    ClientAborted,
    ClientTimeout,
    InvalidJson,
    LengthRequired,
    Saturated,
    TooLarge,
    UnsupportedMedia,
    UpstreamError,
)
from filesproxy.gateway.json_body import BLOCK_BYTES, JsonBody, split_slug
from filesproxy.gateway.request import Request
from filesproxy.wire.strict_json import cost

ROOT = Path(__file__).parent.parent.parent
LIMIT = 1000
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
BATCH = {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}


class Endless:
    """An endless input, which counts the bytes read from it."""

    def __init__(self, byte=b" "):
        self._byte = byte
        self.read_bytes = 0

    def read(self, size):
        self.read_bytes += size
        return self._byte * size


class Failing:
    """An input that fails after its first block. A failure of None is a read that returns None."""

    def __init__(self, first, failure):
        self._first, self._failure = first, failure

    def read(self, size):
        first, self._first = self._first, b""
        if first:
            return first
        if self._failure is None:
            return None
        raise self._failure


def request(body, length=True, **environ):
    stream = io.BytesIO(body) if isinstance(body, bytes) else body
    sized = {"CONTENT_LENGTH": str(len(body))} if length else {"HTTP_TRANSFER_ENCODING": "chunked"}
    return Request({"REQUEST_METHOD": "POST", "wsgi.input": stream, "wsgi.input_terminated": True, **sized, **environ})


def json_body(body, budget=None, names=(), max_json_bytes=LIMIT, caller="team", **environ):
    limits = {"max_json_bytes": max_json_bytes}
    return JsonBody(request(body, **environ), limits, hold_of(budget, caller), names)


# Reading


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize(
    "content_type",
    ["", "application/json", "Application/JSON; charset=utf-8", "application/json;x", "application/vnd.a+json"],
)
def test_object_is_read(length, content_type):
    assert json_body(b'{"a": [1]}', length=length, CONTENT_TYPE=content_type).value == {"a": [1]}


def test_object_is_read_once():
    made = json_body(b'{"a": [1]}')
    assert made.value is made.value
    assert made.named_provider() == ""


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "text/json", "application",
     "application/jsonl", "json", "application/json+x", "*/*"],
)  # fmt: skip
def test_other_media_type_is_415_and_nothing_is_read(content_type):
    stream = Endless()
    with pytest.raises(UnsupportedMedia) as refused:
        json_body(stream, length=False, CONTENT_TYPE=content_type).value  # noqa: B018
    assert (refused.value.status, refused.value.param) == (415, "content-type")
    assert stream.read_bytes == 0


INVALID = {
    "empty": b"",
    "space": b"  ",
    "garbage": b"garbage",
    "truncated": b'{"a": [1',
    "two_objects": b"{}{}",
    "list": b"[]",
    "text": b'"a"',
    "number": b"5",
    "null": b"null",
    "nan": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "out_of_range": b'{"a": 1e400}',
    "repeated_key": b'{"model": "a", "model": "b"}',
    "repeated_key_inside": b'{"a": [{"b": 1, "b": 1}]}',
    "repeated_key_escaped": b'{"model": "a", "\\u006dodel": "b"}',
    "not_utf8": b'{"a": "\xff"}',
    "utf16": '{"a": 1}'.encode("utf-16"),
    "two_boms": b"\xef\xbb\xbf\xef\xbb\xbf{}",
    "deep_lists": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep_objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep_and_open": b"[" * 100_000,
    "huge_integer": b'{"a":' + b"7" * 100_000 + b"}",
    "huge_negative_integer": b'{"a":-' + b"7" * 5000 + b"}",
    "million_values": b'{"a":[' + b"1," * 1_000_001 + b"1]}",
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_json_object_is_400_and_not_quoted(name):
    with pytest.raises(InvalidJson) as refused:
        json_body(INVALID[name], max_json_bytes=1 << 24).value  # noqa: B018
    assert (refused.value.status, refused.value.code) == (400, "invalid_json")
    assert "garbage" not in refused.value.message
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


def test_too_large_by_content_length_is_413_and_nothing_is_read():
    stream = Endless()
    made = json_body(stream, length=False, HTTP_TRANSFER_ENCODING="", CONTENT_LENGTH=str(LIMIT + 1))
    with pytest.raises(TooLarge) as refused:
        made.value  # noqa: B018
    assert refused.value.status == 413 and stream.read_bytes == 0


def test_too_large_chunked_body_is_413_after_little_more_than_the_limit():
    stream = Endless()
    with pytest.raises(TooLarge):
        json_body(stream, length=False).value  # noqa: B018
    assert stream.read_bytes <= LIMIT + 2 * BLOCK_BYTES


@pytest.mark.parametrize("length", [True, False])
def test_body_of_exactly_the_limit_is_accepted(length):
    body = b'{"a":"' + b"x" * (LIMIT - 8) + b'"}'
    assert len(body) == LIMIT
    assert json_body(body, length=length).value["a"] == "x" * (LIMIT - 8)
    with pytest.raises(TooLarge):
        json_body(body + b" ", length=length).value  # noqa: B018


def test_chunked_body_that_the_server_does_not_end_is_411():
    with pytest.raises(LengthRequired):
        _ = json_body(b"{}", length=False, **{"wsgi.input_terminated": False}).value


# The budget


def test_memory_counts_until_it_is_released():
    budget = memory(1000)
    made = json_body(b'{"a": "0123456789"}', budget)
    assert left(budget) == 1000
    assert made.value
    assert left(budget) == 1000 - 19 - 2 * 64
    made.release()
    assert left(budget) == 1000
    made.release()
    assert left(budget) == 1000


def test_second_body_is_503_while_the_first_is_held_and_fits_afterwards():
    budget = memory(200)
    first = json_body(b'{"a": "0123456789"}', budget)
    assert first.value
    second = json_body(b'{"b": "0123456789"}', budget, caller="another team")
    with pytest.raises(Saturated):
        second.value  # noqa: B018
    second.release()
    first.release()
    assert json_body(b'{"c": "0123456789"}', budget).value
    assert left(budget) == 200 - 147


FAILURES = {
    "aborted": (Failing(b'{"a"', OSError("gone")), ClientAborted),
    "stalled": (Failing(b'{"a"', TimeoutError()), ClientTimeout),
    "stalled_read_returns_none": (Failing(b'{"a"', None), ClientTimeout),
    "too_large": (Endless(), TooLarge),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_was_held_is_given_back_after_a_failure(name):
    stream, error = FAILURES[name]
    budget = memory(10**7)
    made = json_body(stream, budget, length=False)
    with pytest.raises(error):
        made.value  # noqa: B018
    made.release()
    assert left(budget) == 10**7


@pytest.mark.parametrize("name", INVALID)
def test_what_was_held_is_given_back_after_a_refusal(name):
    budget = memory(10**8)
    made = json_body(INVALID[name], budget, max_json_bytes=1 << 24)
    with pytest.raises(InvalidJson):
        made.value  # noqa: B018
    made.release()
    assert left(budget) == 10**8


def test_half_read_body_that_exceeded_the_budget_is_given_back():
    budget = memory(2 * BLOCK_BYTES)
    budget.take("another team", BLOCK_BYTES - 5)
    made = json_body(b" " * (BLOCK_BYTES + 10), budget, max_json_bytes=10**9)
    with pytest.raises(Saturated):
        made.value  # noqa: B018
    made.release()
    assert left(budget) == BLOCK_BYTES + 5


@pytest.mark.parametrize("body", [b" " * 1001, b'[{"a":1},{"a":1},{"a":1}]', b'{"a":"[[[[[[[[[[[[[[["}'])
def test_body_that_never_fits_is_413_and_not_to_be_tried_again(body):
    budget = memory(500)
    made = json_body(body, budget, max_json_bytes=10**9)
    with pytest.raises(TooLarge) as refused:
        made.value  # noqa: B018
    assert "max_json_in_flight" in refused.value.message
    made.release()
    assert left(budget) == 500


def test_text_and_base64_count_as_what_they_are():
    """Prose and files are most of a large chat, and must not use up a budget that is for values."""
    prose = "Call me Ishmael. Some years ago, never mind how long precisely, I thought I would sail about a little. "
    for text, most in ((prose * 1000, 3), ("QUJDREVGRw==" * 1000, 1.1)):
        budget = memory(10**6)
        made = json_body(json.dumps({"messages": text}).encode(), budget, max_json_bytes=10**6)
        assert made.value
        assert len(text) <= 10**6 - left(budget) <= most * len(text)


# Through the application


def post(client, body, path="/v1/chat/completions", status=200, **headers):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(path, body, {**OPENAI, "content-type": "application/json", **headers}, status=status)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/batches", "/v1/uploads"])
def test_refusals_are_openais_envelope_and_send_nothing(path, make_client, upstream):
    client = make_client(max_json_bytes=100)
    for body, status, code in ((b"[]", 400, "invalid_json"), (b" " * 101, 413, "request_too_large")):
        error = post(client, body, path, status).json["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", code)
    error = post(client, b"{}", path, 415, **{"content-type": "text/plain"}).json["error"]
    assert (error["param"], error["code"]) == ("content-type", "unsupported_media_type")
    assert upstream.calls == []


def test_json_over_the_budget_is_503_with_retry_after_and_may_be_retried(make_client, upstream):
    answers = []

    def another_comes(call, target):
        answers.append(post(client, CHAT, status=503))
        return upstream(call, target)

    client = make_client(max_json_in_flight=1500, transports={"https": another_comes})
    upstream.answers({})
    assert post(client, {**CHAT, "x": "y" * 500}).json == {}
    (answer,) = answers
    assert (answer.json["error"]["code"], answer.json["error"]["type"]) == ("saturated", "server_error")
    assert int(answer.headers["retry-after"]) >= 1 and answer.headers.get("x-should-retry") != "false"
    assert len(upstream.calls) == 1


ENDS = {
    "answer": lambda upstream: upstream.answers({"id": "c", "object": "chat.completion"}),
    "refusal": lambda upstream: upstream.answers({"error": {"message": "no"}}, 400),
    "failure": lambda upstream: upstream.answers({"error": {"message": "no"}}, 500),
    "garbage": lambda upstream: setattr(upstream, "chunks", [b"garbage"]),
    "cut": lambda upstream: setattr(upstream, "chunks", [b"{", UpstreamError("cut")]),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    "body", [CHAT, {**CHAT, "messages": []}, {**CHAT, "model": 5}, b"[]", b"{", b'{"a":1,"a":2}', BATCH],
    ids=["chat", "no_messages", "no_model", "list", "half", "twice", "batch"],
)  # fmt: skip
def test_budget_is_restored_however_a_request_ends(end, body, make_client, upstream):
    client = make_client(max_json_in_flight=cost(json.dumps(BATCH).encode()))
    ENDS[end](upstream)
    for _ in range(3):
        for path in ("/v1/chat/completions", "/v1/batches"):
            assert post(client, body, path, status="*").status_int != 503


def test_budget_is_restored_after_streams_that_break_off(make_client, upstream):
    client = make_client(max_json_in_flight=cost(json.dumps({**CHAT, "stream": True}).encode()))
    upstream.headers, upstream.chunks = {"content-type": "text/event-stream"}, [b"data: a\n\n", UpstreamError("cut")]
    for _ in range(10):
        assert post(client, {**CHAT, "stream": True}).status_int == 200


# The provider in a model's name


NAMES = ("openai", "claude", "a-b")
SLUGS = [
    ("@claude/claude-3", "claude", "claude-3"),
    ("@claude/org/model:1", "claude", "org/model:1"),
    ("@a-b/@openai/x", "a-b", "@openai/x"),
    ("@claude/", "claude", ""),
    ("@claude", "", "@claude"),
    ("claude/claude-3", "", "claude/claude-3"),
    ("@Claude/x", "", "@Claude/x"),
    ("@unknown/x", "", "@unknown/x"),
    ("@@claude/x", "", "@@claude/x"),
    (" @claude/x", "", " @claude/x"),
    ("@/x", "", "@/x"),
    ("@", "", "@"),
    ("", "", ""),
    ("gpt-5", "", "gpt-5"),
]


@pytest.mark.parametrize("model,slug,rest", SLUGS)
def test_model_is_split_at_its_first_slash_if_the_name_is_configured(model, slug, rest):
    body = {"model": model, "x": [1]}
    assert split_slug(body, NAMES) == (slug, {"model": rest, "x": [1]})
    assert body == {"model": model, "x": [1]}
    made = json_body(json.dumps(body).encode(), names=NAMES)
    assert (made.named_provider(), made.value["model"]) == (slug, rest)


@pytest.mark.parametrize("model", [None, 5, True, ["@claude/x"], {"@claude/x": 1}])
def test_model_that_is_not_a_text_names_no_provider(model):
    assert split_slug({"model": model}, NAMES) == ("", {"model": model})
    assert split_slug({}, NAMES) == ("", {})


def test_slug_is_found_when_asserts_are_disabled():
    """Once, an assert read the body: under -O, a chat went to the default provider with its saved credential."""
    program = (
        "import io\n"
        "from filesproxy.budget import Hold, Shared\n"
        "from filesproxy.gateway.json_body import JsonBody\n"
        "from filesproxy.gateway.request import Request\n"
        'body = b\'{"model": "@claude/m"}\'\n'
        "environ = {'REQUEST_METHOD': 'POST', 'wsgi.input': io.BytesIO(body), 'CONTENT_LENGTH': str(len(body))}\n"
        "hold = Hold(Shared('memory', 999), 'team')\n"
        "print(JsonBody(Request(environ), {'max_json_bytes': 99}, hold, ['claude']).named_provider())\n"
    )
    done = subprocess.run([sys.executable, "-O", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "claude\n"


def test_byte_order_mark_before_a_request_and_an_answer_is_ignored(client, upstream):
    upstream.chunks = [b"\xef\xbb\xbf" + b'{"id": "c"}']
    headers = {**OPENAI, "content-type": "application/json"}
    body = b"\xef\xbb\xbf" + json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
    assert client.post("/v1/chat/completions", body, headers).json == {"id": "c"}
    assert upstream.calls[0].json["model"] == "m"
    error = client.post("/v1/chat/completions", b"\xef\xbb\xbf" + body, headers, status=400).json["error"]
    assert error["code"] == "invalid_json"


@pytest.mark.parametrize(
    "text,may",
    [
        (b'{"a": "file-0660d3fd1a774004570ae91458c94f624c975f"}', True),
        (b'{"a": "\\u0066ile-0660d3fd1a774004570ae91458c94f624c975f"}', True),
        (b'{"a": "file\\u002d0660d3fd1a774004570ae91458c94f624c975f"}', True),
        (b'{"a": "f\\u0069le\\u002D0660d3fd1a774004570ae91458c94f624c975f"}', True),
        (b'{"a": "a file - with \\n and \\u2028, file_id"}', False),
        (b'{"a": "well-known"}', False),
        (b"{}", False),
    ],
)
def test_json_is_looked_through_for_kept_ids_only_if_it_may_hold_one(text, may):
    made = json_body(text)
    assert made.may_have_file_ids and made.value is not None and made.may_have_file_ids is may
