"""Anthropic's message as a chat completion: each finish reason and count, and a 502 that names a missing field."""

from __future__ import annotations

import copy
import json

import pytest

from filesproxy.errors import UpstreamError
from filesproxy.providers.anthropic.answer import completion, finish_reason, usage

THOUGHT = {"type": "thinking", "thinking": "…", "signature": "s"}
HI = {"type": "text", "text": "Hi"}
TOOL = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}}
USAGE = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 3,
    "cache_read_input_tokens": 2,
    "output_tokens": 20,
    "output_tokens_details": {"thinking_tokens": 5},
}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [THOUGHT, HI, TOOL],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "stop_details": None,
    "usage": USAGE,
}
OURS = {
    "id": "msg_1",
    "object": "chat.completion",
    "created": 1700000000,
    "model": "claude-x",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Hi",
                "refusal": None,
                "tool_calls": [
                    {"id": "toolu_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
                ],
            },
            "logprobs": None,
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {
        "prompt_tokens": 15,
        "completion_tokens": 20,
        "total_tokens": 35,
        "prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 5},
    },
}


def message(content, is_strict=True, **fields):
    """The assistant's message for these blocks."""
    answer = completion({**MESSAGE, "content": content, **fields}, is_strict, 0)
    return answer["choices"][0]["message"]


def refused(obj, is_strict=True):
    with pytest.raises(UpstreamError) as error:
        completion(obj, is_strict, 0)
    assert (error.value.status, error.value.code) == (502, "upstream_invalid_answer")
    return error.value.message


def test_message_becomes_a_completion_and_is_not_changed():
    given = copy.deepcopy(MESSAGE)
    assert completion(given, True, 1700000000.9) == OURS
    assert given == MESSAGE
    assert type(completion(given, True, 1.9)["created"]) is int


def test_client_that_is_not_strict_also_gets_the_blocks_but_the_same_reason():
    answer = completion(MESSAGE, False, 1700000000.9)
    extended = copy.deepcopy(OURS)
    extended["choices"][0]["message"]["content_blocks"] = [THOUGHT, HI]
    assert answer == extended


REASONS = [
    ("end_turn", "stop"),
    ("stop_sequence", "stop"),
    ("pause_turn", "stop"),
    ("max_tokens", "length"),
    ("model_context_window_exceeded", "length"),
    ("tool_use", "tool_calls"),
    ("refusal", "content_filter"),
    ("compaction", "stop"),
    ("something_new", "stop"),
    ("", "stop"),
    (None, "stop"),
]


@pytest.mark.parametrize("reason,openais", REASONS)
@pytest.mark.parametrize("is_strict", [True, False])
def test_finish_reason_is_always_openais(reason, openais, is_strict):
    assert finish_reason(reason) == openais
    answer = completion({**MESSAGE, "stop_reason": reason}, is_strict, 0)
    assert answer["choices"][0]["finish_reason"] == openais


def test_finish_reason_may_be_left_out():
    without = {name: value for name, value in MESSAGE.items() if name != "stop_reason"}
    assert completion(without, True, 0)["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "content,text,calls",
    [
        ([HI], "Hi", 0),
        ([HI, {"type": "text", "text": " there"}], "Hi there", 0),
        ([HI, TOOL, {"type": "text", "text": "!"}], "Hi!", 1),
        ([TOOL, {**TOOL, "id": "toolu_2"}], None, 2),
        ([THOUGHT, TOOL], None, 1),
        ([{"type": "text", "text": ""}, TOOL], "", 1),
        ([THOUGHT, HI, {"type": "redacted_thinking", "data": "x"}], "Hi", 0),
        ([{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}, HI], "Hi", 0),
        ([{"type": "something_new"}, HI, {"type": "web_search_tool_result", "content": 5}], "Hi", 0),
    ],
)
def test_text_is_joined_tools_become_calls_and_other_blocks_are_ignored(content, text, calls):
    found = message(content)
    assert found["content"] == text and len(found.get("tool_calls", [])) == calls
    assert set(found) == {"role", "content", "refusal", *(["tool_calls"] if calls else [])}
    loose = message(content, is_strict=False)
    assert loose["content_blocks"] == [block for block in content if block["type"] != "tool_use"]
    assert {name: value for name, value in loose.items() if name != "content_blocks"} == found


@pytest.mark.parametrize("content", [[], [THOUGHT]])
def test_answer_without_text_or_tools_has_empty_content(content):
    assert message(content)["content"] in ("", None) and "tool_calls" not in message(content)


@pytest.mark.parametrize("given", [{}, {"a": 1}, {"é": ["🎉", None, 1.5]}, {"a": "\ud800"}, {"a": {"b": {}}}])
def test_arguments_are_json_that_reads_back(given):
    (call,) = message([{**TOOL, "input": given}])["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == given and isinstance(call["function"]["arguments"], str)


@pytest.mark.parametrize(
    "counts,prompt,answer,total",
    [
        ({"input_tokens": 1, "output_tokens": 2}, 1, 2, 3),
        ({"input_tokens": 0, "output_tokens": 0}, 0, 0, 0),
        (
            {
                "input_tokens": 1,
                "output_tokens": 2,
                "cache_read_input_tokens": None,
                "cache_creation_input_tokens": None,
            },
            1,
            2,
            3,
        ),
        (
            {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 2},
            15,
            5,
            20,
        ),
        ({"input_tokens": 1, "output_tokens": 2, "output_tokens_details": None}, 1, 2, 3),
        ({"input_tokens": 1, "output_tokens": 2, "output_tokens_details": {"thinking_tokens": None}}, 1, 2, 3),
        ({"input_tokens": 1, "output_tokens": 2, "server_tool_use": {"x": 1}, "service_tier": "standard"}, 1, 2, 3),
    ],
)
def test_cache_tokens_are_counted_as_prompt_tokens(counts, prompt, answer, total):
    found = usage(counts)
    assert (found["prompt_tokens"], found["completion_tokens"], found["total_tokens"]) == (prompt, answer, total)
    assert found["prompt_tokens_details"]["cached_tokens"] == (counts.get("cache_read_input_tokens") or 0)


@pytest.mark.parametrize("name", ["id", "model", "content", "usage"])
@pytest.mark.parametrize("value", ["absent", None, 5, True, 1.5])
def test_missing_or_wrong_field_is_a_502_that_names_it(name, value):
    obj = {**MESSAGE, name: value}
    if value == "absent":
        del obj[name]
    assert f"'{name}'" in refused(obj)


@pytest.mark.parametrize("value", ["absent", None, "5", 1.5, True, []])
@pytest.mark.parametrize("name", ["input_tokens", "output_tokens"])
def test_missing_or_wrong_count_is_a_502_that_names_it(name, value):
    counts = {**USAGE, name: value}
    if value == "absent":
        del counts[name]
    assert f"'{name}'" in refused({**MESSAGE, "usage": counts})


@pytest.mark.parametrize("value", ["5", 1.5, True, []])
@pytest.mark.parametrize("name", ["cache_read_input_tokens", "cache_creation_input_tokens"])
def test_wrong_count_of_cache_tokens_is_a_502_that_names_it(name, value):
    assert f"'{name}'" in refused({**MESSAGE, "usage": {**USAGE, name: value}})


@pytest.mark.parametrize("value", ["5", 1.5, True, []])
def test_wrong_count_of_thinking_tokens_is_a_502_that_names_it(value):
    counts = {**USAGE, "output_tokens_details": {"thinking_tokens": value}}
    assert "'thinking_tokens'" in refused({**MESSAGE, "usage": counts})


@pytest.mark.parametrize(
    "block,name",
    [
        (None, "content"), ("Hi", "content"), (5, "content"), ([HI], "content"), ({}, "type"), ({"type": 5}, "type"),
        ({"type": None}, "type"), ({"type": "text"}, "text"), ({"type": "text", "text": 5}, "text"),
        ({"type": "text", "text": None}, "text"), ({**TOOL, "id": None}, "id"), ({**TOOL, "name": 5}, "name"),
        ({**TOOL, "input": "{}"}, "input"), ({**TOOL, "input": None}, "input"), ({**TOOL, "input": []}, "input"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_strict", [True, False])
def test_malformed_block_is_a_502_that_names_the_field(block, name, is_strict):
    assert f"'{name}'" in refused({**MESSAGE, "content": [HI, block]}, is_strict)


@pytest.mark.parametrize("obj", [None, [], "x", 5, True, {}, [MESSAGE]])
def test_answer_that_is_not_a_message_is_502(obj):
    assert refused(obj)
