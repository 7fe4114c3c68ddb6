"""Fuzzing with a seed: any chat translates or is a 400 that names the part; any answer, a 502 that names the field."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import re

import pytest
from fakes import hold_of, memory

from filesproxy.calls import Call
from filesproxy.errors import BadRequest, ClientError, InvalidJson, UpstreamError
from filesproxy.gateway.json_body import JsonBody
from filesproxy.gateway.json_requests import check_messages
from filesproxy.gateway.request import Request
from filesproxy.providers.anthropic.answer import completion
from filesproxy.providers.anthropic.errors import error as translated_error
from filesproxy.providers.anthropic.files import file_object
from filesproxy.providers.anthropic.request import file_ids, messages_request
from filesproxy.providers.anthropic.stream import chunks
from filesproxy.providers.openai import error_object, without_mime_types
from filesproxy.wire.sse import data, frames, passed_through
from filesproxy.wire.strict_json import Unreadable, cost, dumps, loads

CASES = int(os.environ.get("FUZZ_CASES", "4000"))  # of the chat fuzzer; the others run a share of them
SEED = 20261125
PDF = "JVBERi0="

CHAT = {
    "model": "claude-opus-4-8",
    "max_tokens": 2000,
    "max_completion_tokens": None,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "stop": ["a", "b"],
    "user": "u",
    "n": 1,
    "stream": True,
    "stream_options": {"include_usage": True},
    "seed": 7,
    "metadata": {"a": "b"},
    "reasoning_effort": "high",
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
    "parallel_tool_calls": False,
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "tools": [
        {"type": "function", "function": {"name": "f", "description": "d", "strict": True, "parameters": {"a": {}}}},
        {"type": "code_execution_20250825", "name": "code_execution"},
    ],
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "developer", "content": [{"type": "text", "text": "d", "cache_control": {"type": "ephemeral"}}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "hi"},
                {"type": "image_url", "image_url": {"url": "https://a.example/a.png"}},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PDF}"}},
                {"type": "file", "file": {"file_id": "file_1", "mime_type": "application/pdf", "filename": "a"}},
                {"type": "file", "file": {"file_id": "file_2"}},
                {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PDF}"}},
                {"type": "file", "file": {"file_data": PDF, "mime_type": "text/plain"}},
                {"type": "file", "file": {"file_url": "https://a.example/a.pdf"}},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "refusal", "refusal": "no"}, {"type": "text", "text": "t"}],
            "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":[1]}'}},
                {"id": "t2", "type": "function", "function": {"name": "f", "arguments": ""}},
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "r"},
        {"role": "tool", "tool_call_id": "t2", "content": [{"type": "text", "text": "r"}]},
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "content_blocks": [
                {"type": "thinking", "thinking": "t", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "t"},
            ],
        },
        {"role": "user", "content": "go on"},
    ],
}
KNOWN = {"file_1": "image/png", "file_2": "text/csv"}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [
        {"type": "thinking", "thinking": "t", "signature": "s"},
        {"type": "text", "text": "a", "citations": [{"type": "x"}]},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": {"b": [1]}}},
        {"type": "server_tool_use", "id": "s", "name": "n", "input": {}},
    ],
    "stop_reason": "tool_use",
    "usage": {
        "input_tokens": 1,
        "output_tokens": 2,
        "cache_read_input_tokens": 3,
        "cache_creation_input_tokens": None,
        "output_tokens_details": {"thinking_tokens": 4},
    },
}
EVENTS = [
    {"type": "message_start", "message": {**MESSAGE, "content": []}},
    {"type": "ping"},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "a"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "é\n\n"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta", "citation": {"a": 1}}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "redacted_thinking", "data": "x"}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "thinking_delta", "thinking": "t"}},
    {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}},
    },
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"a":1}'}},
    {"type": "content_block_stop", "index": 2},
    {"type": "something_new"},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use"},
        "usage": {"output_tokens": 5, "input_tokens": None},
    },
    {"type": "message_stop"},
]
FILE = {"id": "f", "type": "file", "filename": "a", "mime_type": "a/b", "size_bytes": 1, "downloadable": True,
        "created_at": "2025-04-15T18:37:24.100435Z", "expires_at": "2125-04-15T18:37:24Z"}  # fmt: skip
FAILURE = {"type": "error", "error": {"type": "api_error", "message": "m", "details": {"error_code": "c"}}}
VALUES = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2**70,
    0.5,
    -1e300,
    "",
    " ",
    "\n\t",
    "functions.f:0",
    "a@b.example",
    "x",
    "a\r\nb",
    "\ud800",
    "user",
    "tool",
    "assistant",
    "text",
    "file",
    "function",
    "https://a/",
    "data:image/png;base64,YQ==",
    "data:",
    "../x",
    [],
    [[]],
    {},
    {"type": "text"},
    [None],
    [{}],
    {"a": {"a": []}},
    "{",
    '{"a":NaN}',
    "9" * 50,
    "é" * 300,
)


def places(value, parent=None, key=None):
    """(container, key) of each value in a JSON value."""
    if parent is not None:
        yield parent, key
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield from places(inner, value, name)


def nested(value, rng):
    for _ in range(rng.choice((2, 90, 130))):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def mutate(value, rng):
    """A copy with a few changes: a part is dropped, retyped, doubled, moved, wrapped, or renamed."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        found = list(places(value))
        if not found:
            return value
        parent, key = rng.choice(found)
        kind = rng.randrange(7)
        if kind == 0:
            del parent[key]
        elif kind in (1, 2):
            parent[key] = copy.deepcopy(rng.choice(VALUES))
        elif kind == 3:
            other, name = rng.choice(found)
            parent[key] = copy.deepcopy(other[name])
        elif kind == 4 and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        elif kind == 5:
            parent[key] = [parent[key]]
            if rng.random() < 0.1:
                parent[key] = nested(parent[key], rng)
                return value  # deep enough: our own walk is no better than others
        elif isinstance(parent, dict):
            names = ("type", "file_id", "content", "role", "function", "tool_calls", "index", "text", "x", "", "\ud800",
                     "cache_control", "prompt_cache_breakpoint", "additionalProperties", "allOf")  # fmt: skip
            parent[rng.choice(names)] = copy.deepcopy(rng.choice((*VALUES, parent[key])))
    return value


def cases(seed, source, count):
    """Mutants of the source, each with the generator that made it, that could have come as JSON."""
    for number in range(count):
        rng = random.Random(seed * 1_000_003 + number)
        mutant = mutate(source, rng)
        try:
            yield loads(dumps(mutant)), rng
        except Unreadable:  # too deep
            continue


PLACE = re.compile(r"[a-z_]+(\[\d+\])?((\.[A-Za-z_$*]+)(\[\d+\])?)*")


def exists(body, place):
    """Whether a place points into a chat: but for its last step, which may be what is missing."""
    steps = re.findall(r"[A-Za-z_$*]+|\d+", place)[:-1]
    for step in steps:
        try:
            body = body[int(step) if step.isdigit() else step]
        except (KeyError, IndexError, TypeError):
            return False
    return isinstance(body, (dict, list))


@pytest.mark.fuzz
def test_any_chat_translates_or_is_a_400_that_names_the_part():
    good = 0
    for body, _ in cases(SEED, CHAT, CASES):
        if not isinstance(body, dict):
            continue
        before = copy.deepcopy(body)
        try:
            check_messages(body)
            list(file_ids(body))
            plain = without_mime_types(body)
            request, ignored = messages_request(body, KNOWN)
        except BadRequest as error:
            assert error.status == 400 and error.param and PLACE.fullmatch(error.param), (body, error.param)
            assert exists(body, error.param), (body, error.param)
            assert error.param.split("[")[0].split(".")[0] in {*CHAT, *before, "messages"}
            continue
        finally:
            assert body == before
        good += 1
        dumps(plain)
        assert loads(dumps(request)) == request or "\ud800" in str(request)
        check_request(request)
        assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name) for name in ignored) and len(ignored) <= 20
    assert CASES // 20 < good < CASES * 19 // 20  # a fuzzer that only breaks, or never does, tests nothing


def check_request(request):
    """What Anthropic demands of any request, whatever the client said."""
    assert isinstance(request["model"], str) and request["max_tokens"] >= 1 and request["messages"]
    roles = [message["role"] for message in request["messages"]]
    assert set(roles) <= {"user", "assistant"} and all(one != other for one, other in zip(roles, roles[1:]))
    for message in request["messages"]:
        kinds = [block["type"] for block in message["content"]]
        assert kinds and all(block["text"].strip() for block in message["content"] if block["type"] == "text")
        if message["role"] == "user":
            assert set(kinds) <= {"text", "image", "document", "container_upload", "tool_result"}
            assert kinds == sorted(kinds, key=lambda kind: kind != "tool_result")
    blocks = [block for message in request["messages"] for block in message["content"]]
    used = [block["id"] for block in blocks if block["type"] == "tool_use"]
    found = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
    assert len(set(used)) == len(used) and all(re.fullmatch("[a-zA-Z0-9_-]+", name) for name in used + found)
    last = request["messages"][-1]
    assert last["role"] == "user" or not last["content"][-1].get("text", "x")[-1].isspace()
    assert all(stop.strip() for stop in request.get("stop_sequences", ()))
    assert 0 <= request.get("temperature", 0) <= 1 and 0 <= request.get("top_p", 0) <= 1
    assert not {"temperature", "top_p"} <= set(request)


@pytest.mark.fuzz
def test_any_message_is_a_completion_or_a_502_that_names_the_field():
    good = 0
    for message, rng in cases(SEED + 1, MESSAGE, CASES):
        try:
            answer = completion(message, rng.random() < 0.5, 1.5)
        except UpstreamError as error:
            assert error.code == "upstream_invalid_answer" and re.search(r"'[a-z_]+'", error.message), message
            continue
        good += 1
        (choice,) = answer["choices"]
        assert choice["finish_reason"] in ("stop", "length", "tool_calls", "content_filter")
        assert isinstance(choice["message"]["content"], (str, type(None)))
        assert all(
            isinstance(answer["usage"][name], int) for name in ("prompt_tokens", "completion_tokens", "total_tokens")
        )
        for call in choice["message"].get("tool_calls", []):
            assert isinstance(json.loads(call["function"]["arguments"]), dict)
        json.dumps(answer).encode("ascii")
    assert CASES // 20 < good < CASES * 19 // 20


@pytest.mark.fuzz
def test_any_file_object_is_openais_or_a_502_that_names_the_field():
    good = 0
    for found, _ in cases(SEED + 2, FILE, CASES // 4):
        try:
            answer = file_object(found, Call("retrieve_file", "GET", "/files/f", now=5.0))
        except UpstreamError as error:
            assert re.search(r"'[a-z_]+'", error.message), found
            continue
        good += 1
        assert (
            type(answer["created_at"]) is int and type(answer["bytes"]) is int and isinstance(answer["filename"], str)
        )
    assert good


@pytest.mark.fuzz
def test_any_error_is_openais():
    for found, _ in cases(SEED + 3, FAILURE, CASES // 4):
        for translate in (translated_error, error_object):
            answer = translate(found)
            assert set(answer) == {"message", "type", "param", "code"} and isinstance(answer["message"], str)
            assert all(value is None or isinstance(value, str) for value in answer.values()), found


def chunked(text, rng):
    """The text in blocks of any sizes."""
    blocks, at, most = [], 0, rng.choice((1, 3, 40, 500))
    while at < len(text):
        size = rng.randint(0 if at else 1, most)
        blocks.append(text[at : at + size])
        at += size
    return blocks


def wire(events, rng):
    """Events as bytes, with any line ends, some of them broken."""
    text = b""
    for event in events:
        name = event.get("type") if isinstance(event, dict) else event
        text += f"event: {name}\n".encode("utf-8", "replace").replace(b"\r", b"") if rng.random() < 0.8 else b": c\n"
        text += b"data: " + dumps(event) + b"\n\n"
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        at = rng.randint(0, len(text))
        kind = rng.randrange(4)
        if kind == 0:
            text = text[:at] + text[at + rng.choice((1, 5, 50)) :]
        elif kind == 1:
            text = (
                text[:at] + rng.choice((b"\n", b"\r", b"\n\n", b"\xff", b"data: ", b"[DONE]", b"{", b"\0")) + text[at:]
            )
        elif kind == 2:
            text = text[:at]
        else:
            text = text[:at] + text[at // 2 :]
    return text.replace(b"\n", rng.choice((b"\n", b"\n", b"\r\n", b"\r")))


def outcome(blocks, is_strict):
    """The bytes that come out of the translator, and the message of the error after them."""
    out = []
    try:
        for block in chunks(iter(blocks), is_strict, True, 0):
            out.append(block)
    except UpstreamError as error:
        assert error.message and 400 <= error.status < 600
        return b"".join(out), error.message
    return b"".join(out), None


def check_chunks(out, ended):
    tools = 0
    for frame in out.split(b"\n\n")[:-1]:
        if frame in (b": ping", b"data: [DONE]"):
            continue
        assert frame.startswith(b"data: {") and b"\n" not in frame
        chunk = json.loads(frame[6:])
        assert chunk["object"] == "chat.completion.chunk" and isinstance(chunk["id"], str)
        for choice in chunk["choices"]:
            for call in choice["delta"].get("tool_calls", []):
                tools = max(tools, call["index"] + 1) if "id" in call else tools
                assert 0 <= call["index"] < tools, "a tool that has not begun"
    assert out.endswith(b"data: [DONE]\n\n") is ended


@pytest.mark.fuzz
def test_any_events_in_any_chunking_are_chunks_or_an_upstream_error():
    good = 0
    for number in range(CASES // 10):
        rng = random.Random((SEED + 4) * 1_000_003 + number)
        events = mutate(EVENTS, rng) if rng.random() < 0.8 else EVENTS
        text, is_strict = wire(events, rng), rng.random() < 0.5
        out, error = outcome(chunked(text, rng), is_strict)
        check_chunks(out, error is None)
        good += error is None
        one_by_one = outcome([text[at : at + 1] for at in range(len(text))], is_strict)
        assert outcome(chunked(text, rng), is_strict)[1] == one_by_one[1] == error, text
        if error is None:
            assert out == one_by_one[0], text
    assert CASES // 200 < good < CASES // 10


@pytest.mark.fuzz
def test_what_is_delivered_before_an_error_does_not_depend_on_the_chunking():
    start = [b"data: " + dumps(EVENTS[0]) + b"\n\n"]
    for number in range(CASES // 16):
        rng = random.Random((SEED + 5) * 1_000_003 + number)
        text = wire(mutate(EVENTS[1:], rng), rng)
        pieces = outcome(start + chunked(text, rng), True)
        assert outcome([*start, text], True) == pieces, text


@pytest.mark.fuzz
def test_any_bytes_in_any_chunking_are_events_or_an_upstream_error():
    alphabet = (
        b"\r",
        b"\n",
        b"\r\n",
        b"\n\n",
        b"data:",
        b"data: ",
        b"event: x",
        b":",
        b" ",
        b"\0",
        b"\xff",
        b"[DONE]",
        b'{"type":"response.completed"}',
        b"{}",
        b"[1",
        b"\xef\xbb\xbf",
        b"id",
        b"x" * 30,
        b'{"error":1}',
    )
    for number in range(CASES // 4):
        rng = random.Random((SEED + 6) * 1_000_003 + number)
        text = b"".join(rng.choice(alphabet) for _ in range(rng.randint(0, 40)))
        found = [frame for whole in frames(iter([text])) for frame in whole]
        for _ in range(3):
            assert [frame for whole in frames(iter(chunked(text, rng))) for frame in whole] == found, text
        assert all(frame and b"\r" not in frame and b"\n\n" not in frame for frame in found)
        try:
            out = b"".join(passed_through(iter(chunked(text, rng))))
        except UpstreamError:
            continue
        done = next((place for place, frame in enumerate(found) if data(frame).strip() == b"[DONE]"), len(found))
        assert out == b"\n\n".join(found[: done + 1]) + b"\n\n" and found


@pytest.mark.fuzz
def test_any_bytes_are_a_json_object_or_an_invalid_json():
    text = json.dumps(CHAT).encode()
    inserts = (
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b'"',
        b"\\",
        b"NaN",
        b"1e999",
        b"\xff",
        b"\0",
        b"null",
        b'"a":1,',
        b"-",
        b"\n",
    )
    good = 0
    for number in range(CASES):
        rng = random.Random((SEED + 7) * 1_000_003 + number)
        body = text
        for _ in range(rng.choice((1, 1, 2, 5))):
            at, kind = rng.randint(0, len(body)), rng.randrange(5)
            size = rng.choice((1, 1, 4, 40))
            if kind == 0:
                body = body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :]
            elif kind == 1:
                body = body[:at] + body[at + size :]
            elif kind == 2:
                body = body[:at] + rng.choice(inserts) + body[at:]
            elif kind == 3:
                body = body[: at + size] + body[at:]
            elif rng.random() < 0.1:
                body = body[:at] + rng.choice((b"[", b'{"a":')) * 200 + body[at:]
        environ = {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
        budget = memory(cost(body))
        document = JsonBody(Request(environ), {"max_json_bytes": 1 << 20}, hold_of(budget), ("claude",))
        try:
            value = document.value
        except ClientError as error:
            assert isinstance(error, InvalidJson) and error.code == "invalid_json"
        else:
            assert isinstance(value, dict) and value == json.loads(body)
            good += 1
        document.release()
        budget.take("team", cost(body))  # all of it is there again
    assert CASES // 50 < good < CASES


@pytest.mark.fuzz
@pytest.mark.parametrize("name", CHAT)
def test_each_field_alone_may_be_anything(name):
    for value in VALUES:
        body = {**CHAT, name: value}
        try:
            check_messages(body)
            check_request(messages_request(body, {"file_2": "text/plain"})[0])
        except BadRequest as error:
            assert error.param.partition("[")[0].partition(".")[0] == name, value
        except Exception as error:
            raise AssertionError(f"{name}: {value!r}") from error
