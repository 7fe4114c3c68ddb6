"""OpenAI's chat request as Anthropic's: each field and part, and each 400 with the place it names."""

from __future__ import annotations

import base64
import copy
import json
import time
import tracemalloc

import pytest

from filesproxy.errors import BadRequest
from filesproxy.gateway.json_requests import check_messages
from filesproxy.providers.anthropic.answer import completion
from filesproxy.providers.anthropic.request import BUDGETS, DEFAULT_MAX_TOKENS, file_ids, messages_request

NEW = "claude-opus-4-8"
OLD = "claude-sonnet-4-5-20250929"
HI = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
PDF, TEXT = "application/pdf", "text/plain"
BYTES = base64.b64encode(b"%PDF-1.4 \0\xff").decode()
WORDS = base64.b64encode("Grüße\n".encode()).decode()
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}
OURS = {"name": "f", "description": "d", "input_schema": SCHEMA}
CODE = {"type": "code_execution_20250825", "name": "code_execution"}
LOOP = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}]},
    {"role": "tool", "tool_call_id": "t1", "content": "done"},
]  # fmt: skip


def translated(known=None, **body):
    """The translation of a chat, after the handler's checks. Must not change the chat."""
    body = {"model": NEW, "messages": [{"role": "user", "content": "hi"}], **body}
    before = copy.deepcopy(body)
    check_messages(body)
    request, ignored = messages_request(body, known or {})
    assert body == before
    json.dumps(request)
    return request, ignored


def request(known=None, **body):
    return translated(known, **body)[0]


def conversation(*messages, known=None, **body):
    made = request(known, messages=list(messages), **body)
    return made.get("system"), made["messages"]


def blocks(*parts, known=None, **body):
    """The blocks of one user message."""
    _, (message,) = conversation({"role": "user", "content": list(parts)}, known=known, **body)
    assert message["role"] == "user"
    return message["content"]


def refused(known=None, **body):
    with pytest.raises(BadRequest) as error:
        translated(known, **body)
    assert error.value.status == 400 and error.value.message
    return error.value.param


def text(value, **more):
    return {"type": "text", "text": value, **more}


def user(content):
    return {"role": "user", "content": content}


def file(**fields):
    return {"type": "file", "file": fields}


# Whole requests


def test_smallest_request():
    assert translated() == ({"model": NEW, "max_tokens": DEFAULT_MAX_TOKENS, "messages": HI}, [])
    assert DEFAULT_MAX_TOKENS == 4096


@pytest.mark.parametrize(
    "given,sent",
    [
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_completion_tokens": 7}, {"max_tokens": 7}),
        ({"max_completion_tokens": 7, "max_tokens": 5}, {"max_tokens": 7}),
        ({"max_tokens": None, "max_completion_tokens": None}, {"max_tokens": 4096}),
        ({"max_tokens": 10**9}, {"max_tokens": 10**9}),
        ({"stop": "a"}, {"stop_sequences": ["a"]}),
        ({"stop": ["a", "b"]}, {"stop_sequences": ["a", "b"]}),
        ({"stop": ["", "b"]}, {"stop_sequences": ["b"]}),
        ({"stop": []}, {}),
        ({"stop": ""}, {}),
        ({"stop": None}, {}),
        ({"temperature": 0.5}, {"temperature": 0.5}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"temperature": 1}, {"temperature": 1}),
        ({"temperature": 2}, {"temperature": 1}),
        ({"temperature": 1.7}, {"temperature": 1}),
        ({"temperature": -1}, {"temperature": 0}),
        ({"temperature": None}, {}),
        ({"top_p": 0.9}, {"top_p": 0.9}),
        ({"top_p": 1.5}, {"top_p": 1}),
        ({"top_p": 0}, {"top_p": 0}),
        ({"top_k": 5}, {"top_k": 5}),
        ({"user": "u-1"}, {"metadata": {"user_id": "u-1"}}),
        ({"user": ""}, {}),
        ({"stream": True}, {"stream": True}),
        ({"stream": False}, {}),
        ({"stream": None, "stream_options": None}, {}),
        ({"stream": True, "stream_options": {"include_usage": True}}, {"stream": True}),
        ({"tools": []}, {}),
        ({"tools": None, "tool_choice": None, "parallel_tool_calls": None}, {}),
        ({"tools": [TOOL]}, {"tools": [OURS]}),
        ({"tools": [TOOL], "tool_choice": "auto"}, {"tools": [OURS], "tool_choice": {"type": "auto"}}),
        ({"tools": [TOOL], "tool_choice": "none"}, {"tools": [OURS], "tool_choice": {"type": "none"}}),
        ({"tools": [TOOL], "tool_choice": "required"}, {"tools": [OURS], "tool_choice": {"type": "any"}}),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
            {"tools": [OURS], "tool_choice": {"type": "tool", "name": "f"}},
        ),
        ({"tools": [TOOL], "parallel_tool_calls": True}, {"tools": [OURS]}),
        (
            {"tools": [TOOL], "parallel_tool_calls": False},
            {"tools": [OURS], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        ),
        (
            {"tools": [TOOL], "parallel_tool_calls": False, "tool_choice": "required"},
            {"tools": [OURS], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
        ),
        (
            {
                "tools": [TOOL],
                "parallel_tool_calls": False,
                "tool_choice": {"type": "function", "function": {"name": "f"}},
            },
            {"tools": [OURS], "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True}},
        ),
        (
            {"tools": [TOOL], "parallel_tool_calls": False, "tool_choice": "none"},
            {"tools": [OURS], "tool_choice": {"type": "none"}},
        ),
        ({"tools": [CODE]}, {"tools": [CODE]}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": None}, {}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
                }
            },
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        ),
        (
            {"max_tokens": 3000, "thinking": {"type": "enabled", "budget_tokens": 2000}},
            {"max_tokens": 3000, "thinking": {"type": "enabled", "budget_tokens": 2000}},
        ),
        ({"thinking": None}, {}),
        ({"reasoning_effort": None}, {}),
        ({"reasoning_effort": "none"}, {}),
        ({"n": 1, "logprobs": False, "top_logprobs": 0, "presence_penalty": 0, "frequency_penalty": 0.0}, {}),
        ({"n": None, "logprobs": None, "modalities": ["text"], "functions": None, "audio": None}, {}),
        ({"function_call": "none", "web_search_options": None}, {}),
    ],
)
def test_field_is_translated_and_nothing_is_ignored(given, sent):
    request, ignored = translated(**given)
    assert request == {"model": NEW, "max_tokens": DEFAULT_MAX_TOKENS, "messages": HI, **sent}
    assert ignored == []


@pytest.mark.parametrize(
    "function,sent",
    [
        ({"name": "f"}, {"name": "f", "input_schema": {"type": "object", "properties": {}}}),
        ({"name": "f", "parameters": None}, {"name": "f", "input_schema": {"type": "object", "properties": {}}}),
        ({"name": "f", "parameters": {}}, {"name": "f", "input_schema": {"type": "object", "properties": {}}}),
        (
            {"name": "f", "parameters": {"properties": {"a": {}}}},
            {"name": "f", "input_schema": {"type": "object", "properties": {"a": {}}}},
        ),
        (
            {"name": "f", "parameters": {**SCHEMA, "$defs": {"x": {}}}},
            {"name": "f", "input_schema": {**SCHEMA, "$defs": {"x": {}}}},
        ),
        ({"name": "f", "description": "", "parameters": SCHEMA}, {"name": "f", "input_schema": SCHEMA}),
        ({"name": "f", "strict": True, "parameters": SCHEMA}, {"name": "f", "input_schema": SCHEMA, "strict": True}),
        ({"name": "f", "strict": False, "parameters": SCHEMA}, {"name": "f", "input_schema": SCHEMA}),
        ({"name": "f", "strict": None, "parameters": SCHEMA}, {"name": "f", "input_schema": SCHEMA}),
    ],
)
def test_function_becomes_a_tool(function, sent):
    assert request(tools=[{"type": "function", "function": function}])["tools"] == [sent]


def test_tools_keep_their_order_and_a_cache_mark():
    marked = {**TOOL, "cache_control": {"type": "ephemeral"}}
    made = request(tools=[CODE, marked, TOOL])["tools"]
    assert made == [CODE, {**OURS, "cache_control": {"type": "ephemeral"}}, OURS]


@pytest.mark.parametrize(
    "given,ignored",
    [
        (
            {"seed": 5, "store": True, "metadata": {"a": "b"}, "logit_bias": {"1": 2}},
            ["seed", "store", "metadata", "logit_bias"],
        ),
        ({"service_tier": "auto", "prediction": {}, "x": 1}, ["service_tier", "prediction", "x"]),
        ({"seed": None, "store": None}, []),
        ({"temperature": 0.5, "top_p": 0.5}, ["top_p"]),
        ({"a b": 1, "é": 1, "a\r\nb": 1, "": 1, "a" * 65: 1, "ok": 1}, ["ok"]),
    ],
)
def test_field_without_a_meaning_for_anthropic_is_ignored_and_reported(given, ignored):
    request, named = translated(**given)
    assert named == ignored
    assert set(request) <= {"model", "max_tokens", "messages", "temperature"}


def test_number_of_reported_fields_is_limited():
    assert len(translated(**{f"field_{number}": 1 for number in range(1000)})[1]) == 20


BAD_FIELDS = [
    ({"n": 2}, "n"),
    ({"n": 0}, "n"),
    ({"n": True}, "n"),
    ({"n": "1"}, "n"),
    ({"n": [1]}, "n"),
    ({"logprobs": True}, "logprobs"),
    ({"logprobs": 0}, "logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"presence_penalty": 0.1}, "presence_penalty"),
    ({"presence_penalty": False}, "presence_penalty"),
    ({"frequency_penalty": -1}, "frequency_penalty"),
    ({"frequency_penalty": "0"}, "frequency_penalty"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"modalities": "text"}, "modalities"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"function_call": {"name": "f"}}, "function_call"),
    ({"audio": {"voice": "x"}}, "audio"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -5}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": []}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"max_completion_tokens": {}}, "max_completion_tokens"),
    ({"max_completion_tokens": 0, "max_tokens": 5}, "max_completion_tokens"),
    ({"max_completion_tokens": 5, "max_tokens": "x"}, "max_tokens"),
    ({"temperature": "1"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": [1]}, "temperature"),
    ({"top_p": {}}, "top_p"),
    ({"top_k": 1.5}, "top_k"),
    ({"top_k": "1"}, "top_k"),
    ({"top_k": True}, "top_k"),
    ({"stop": 5}, "stop"),
    ({"stop": {}}, "stop"),
    ({"stop": ["a", 5]}, "stop[1]"),
    ({"stop": [None]}, "stop[0]"),
    ({"stop": " "}, "stop"),
    ({"stop": "\n"}, "stop"),
    ({"stop": ["\n"]}, "stop[0]"),
    ({"stop": ["END", "\r\n\t "]}, "stop[1]"),
    ({"stop": ["", "\u00a0"]}, "stop[1]"),
    ({"user": 5}, "user"),
    ({"cache_control": "ephemeral"}, "cache_control"),
    ({"user": {}}, "user"),
    ({"model": 5}, "model"),
    ({"model": None}, "model"),
    ({"stream": "true"}, "stream"),
    ({"stream": 1}, "stream"),
    ({"stream": {}}, "stream"),
    ({"stream": True, "stream_options": True}, "stream_options"),
    ({"stream": True, "stream_options": []}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"tools": {}}, "tools"),
    ({"tools": "f"}, "tools"),
    ({"tools": [5]}, "tools[0]"),
    ({"tools": [TOOL, None]}, "tools[1]"),
    ({"tools": [{}]}, "tools[0].type"),
    ({"tools": [{"type": 5}]}, "tools[0].type"),
    ({"tools": [{"type": "web_search"}]}, "tools[0]"),
    ({"tools": [TOOL, {"type": "custom", "custom": {}}]}, "tools[1]"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "function", "function": "f"}]}, "tools[0].function"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": 5}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools[0].function.parameters"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": "{}"}}]}, "tools[0].function.parameters"),
    ({"tools": [{"type": "function", "function": {"name": "f", "description": 5}}]}, "tools[0].function.description"),
    ({"tools": [{"type": "function", "function": {"name": "f", "strict": "yes"}}]}, "tools[0].function.strict"),
    ({"tools": [{**TOOL, "cache_control": "x"}]}, "tools[0].cache_control"),
    ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": ""}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": 5}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": []}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": "f"}}, "tool_choice.function"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {}}}, "tool_choice.function.name"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": 5}}}, "tool_choice.function.name"),
    ({"tools": [TOOL], "parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ({"tools": [TOOL], "parallel_tool_calls": 0}, "parallel_tool_calls"),
    ({"tool_choice": 5}, "tool_choice"),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),  # also without tools
    ({"response_format": "json"}, "response_format"),
    ({"response_format": []}, "response_format"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"response_format": {"type": "grammar"}}, "response_format"),
    ({"response_format": {"type": 5}}, "response_format.type"),
    ({"response_format": {"x": 5}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": []}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}, "response_format.json_schema.schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": "x"}}},
        "response_format.json_schema.schema",
    ),
    ({"reasoning_effort": "huge"}, "reasoning_effort"),
    ({"reasoning_effort": 5}, "reasoning_effort"),
    ({"reasoning_effort": ""}, "reasoning_effort"),
    ({"thinking": True}, "thinking"),
    ({"thinking": "on"}, "thinking"),
]


@pytest.mark.parametrize(
    "given,param", BAD_FIELDS, ids=[f"{number}-{param}" for number, (_, param) in enumerate(BAD_FIELDS)]
)
def test_field_that_cannot_be_translated_is_a_400_that_names_it(given, param):
    assert refused(**given) == param


# Thinking


@pytest.mark.parametrize("effort", BUDGETS)
@pytest.mark.parametrize(
    "model", [NEW, "claude-opus-4-6", "claude-sonnet-5", "claude-opus-4-10", "claude-sonnet-4-6-20260101"]
)
def test_effort_becomes_adaptive_thinking_on_new_models(effort, model):
    made, ignored = translated(reasoning_effort=effort, model=model)
    assert made["thinking"] == {"type": "adaptive"}
    assert made["output_config"] == {"effort": "low" if effort == "minimal" else effort}
    assert (made["max_tokens"], ignored) == (4096, [])


OLDER = ["claude-3-7-sonnet-20250219", "claude-3-7-sonnet-latest", "claude-opus-4-20250514", "claude-sonnet-4-0",
         "claude-opus-4-1", "claude-opus-4-1-20250805", "claude-sonnet-4-5", OLD, "claude-haiku-4-5-20251001",
         "claude-opus-4-5@20251101", "claude-opus-4"]  # fmt: skip


@pytest.mark.parametrize("effort", BUDGETS)
@pytest.mark.parametrize("model", OLDER)
def test_effort_becomes_a_budget_on_older_models(effort, model):
    made, ignored = translated(reasoning_effort=effort, model=model)
    assert made["thinking"] == {"type": "enabled", "budget_tokens": BUDGETS[effort]}
    assert made["max_tokens"] == 4096 + BUDGETS[effort] and "output_config" not in made and ignored == []


@pytest.mark.parametrize("limit", [1025, 1500, 2000, 4096, 10_000, 100_000])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("effort", BUDGETS)
def test_budget_is_within_anthropics_bounds_and_the_clients_limit(effort, name, limit):
    made = request(reasoning_effort=effort, model=OLD, **{name: limit})
    assert made["max_tokens"] == limit
    assert 1024 <= made["thinking"]["budget_tokens"] < limit


@pytest.mark.parametrize("limit", [1, 1000, 1024])
def test_limit_too_small_for_a_budget_has_no_thinking(limit):
    made, ignored = translated(reasoning_effort="high", model=OLD, max_tokens=limit)
    assert "thinking" not in made and made["max_tokens"] == limit and ignored == ["reasoning_effort"]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
def test_forced_tool_has_no_budget(choice):
    made, ignored = translated(reasoning_effort="low", model=OLD, tools=[TOOL], tool_choice=choice)
    assert "thinking" not in made and ignored == ["reasoning_effort"] and made["max_tokens"] == 4096
    assert "thinking" in request(reasoning_effort="low", model=OLD, tools=[TOOL], tool_choice="auto")


def test_tool_loop_without_thinking_has_no_budget():
    made, ignored = translated(reasoning_effort="low", model=OLD, messages=LOOP, tools=[TOOL])
    assert "thinking" not in made and ignored == ["reasoning_effort"]
    thoughts = {**LOOP[1], "content_blocks": [{"type": "thinking", "thinking": "t", "signature": "s"}]}
    assert "thinking" in request(reasoning_effort="low", model=OLD, messages=[LOOP[0], thoughts, LOOP[2]], tools=[TOOL])
    over = [*LOOP, {"role": "assistant", "content": "ok"}, user("more")]
    assert "thinking" in request(reasoning_effort="low", model=OLD, messages=over, tools=[TOOL])


@pytest.mark.parametrize("model", [NEW, OLD])
def test_sampling_fields_are_dropped_with_thinking(model):
    made, ignored = translated(reasoning_effort="low", model=model, temperature=0.5, top_p=0.5, top_k=3)
    assert not {"temperature", "top_p", "top_k"} & set(made)
    assert sorted(ignored) == ["temperature", "top_k", "top_p"]


def test_effort_and_a_schema_share_the_output_config():
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    made = request(reasoning_effort="high", response_format=schema)
    assert made["output_config"] == {"effort": "high", "format": {"type": "json_schema", "schema": SCHEMA}}
    assert "format" in request(reasoning_effort="high", response_format=schema, model=OLD)["output_config"]


def test_thinking_of_the_client_takes_precedence_over_effort():
    given = {"type": "enabled", "budget_tokens": 3000}
    made = request(thinking=given, reasoning_effort="low", max_tokens=5000)
    assert made["thinking"] == given and made["max_tokens"] == 5000


# The conversation


def test_system_and_developer_messages_become_system_blocks_in_order():
    system, messages = conversation(
        {"role": "system", "content": "a"},
        user("hi"),
        {"role": "developer", "content": [text("b"), text("c", cache_control={"type": "ephemeral"})]},
        {"role": "system", "content": ""},
        {"role": "system", "content": None},
    )
    assert system == [text("a"), text("b"), text("c", cache_control={"type": "ephemeral"})]
    assert messages == HI


def test_no_system_is_sent_without_a_system_message():
    assert "system" not in request(messages=[{"role": "system", "content": ""}, user("hi")])


def test_consecutive_messages_of_one_role_are_merged():
    _, messages = conversation(
        user("a"), user([text("b")]), {"role": "system", "content": "s"}, user("c"),
        {"role": "assistant", "content": "d"}, {"role": "assistant", "content": [text("e")]}, user("f"),
    )  # fmt: skip
    assert messages == [
        user([text("a"), text("b"), text("c")]),
        {"role": "assistant", "content": [text("d"), text("e")]},
        user([text("f")]),
    ]


@pytest.mark.parametrize("content", ["", None, [], [text("")]])
def test_empty_message_is_not_sent(content):
    assert conversation(user(content), user("hi"))[1] == HI
    assert conversation({"role": "assistant", "content": content}, user("hi"))[1] == HI


def test_tool_calls_and_results():
    _, messages = conversation(*LOOP)
    assert messages == [
        user([text("hi")]),
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}]},
        user([{"type": "tool_result", "tool_use_id": "t1", "content": "done"}]),
    ]


def test_consecutive_results_are_merged_and_precede_text():
    two = {
        **LOOP[1],
        "content": "I call.",
        "tool_calls": [{**LOOP[1]["tool_calls"][0], "id": name} for name in ("t1", "t2")],
    }
    results = [{"role": "tool", "tool_call_id": name, "content": name} for name in ("t1", "t2")]
    blocks = [{"type": "tool_result", "tool_use_id": name, "content": name} for name in ("t1", "t2")]
    _, messages = conversation(user("hi"), two, *results, user("and?"))
    assert [block["type"] for block in messages[1]["content"]] == ["text", "tool_use", "tool_use"]
    assert messages[2] == user([*blocks, text("and?")])
    _, messages = conversation(user("hi"), two, results[0], user("and?"), results[1])
    assert messages[2] == user([*blocks, text("and?")])


@pytest.mark.parametrize(
    "content,sent",
    [("done", "done"), ([text("a"), text("b")], [text("a"), text("b")]), ([text("a"), text("")], [text("a")])],
)
def test_tool_result_is_text_or_text_blocks(content, sent):
    _, messages = conversation(*LOOP[:2], {**LOOP[2], "content": content})
    assert messages[2]["content"] == [{"type": "tool_result", "tool_use_id": "t1", "content": sent}]


@pytest.mark.parametrize("content", ["", None, [], [text("")]])
def test_empty_result_has_no_content(content):
    _, messages = conversation(*LOOP[:2], {**LOOP[2], "content": content})
    assert messages[2]["content"] == [{"type": "tool_result", "tool_use_id": "t1"}]


@pytest.mark.parametrize(
    "arguments,sent", [("", {}), ("  ", {}), ("{}", {}), ('{"é":[1,null,1e2]}', {"é": [1, None, 100.0]})]
)
def test_arguments_are_parsed(arguments, sent):
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": arguments}}
    _, messages = conversation(user("hi"), {"role": "assistant", "tool_calls": [call]})
    assert messages[1]["content"] == [{"type": "tool_use", "id": "t", "name": "f", "input": sent}]


def test_refusal_of_an_assistant_becomes_text():
    _, messages = conversation(user("hi"), {"role": "assistant", "content": None, "refusal": "No."}, user("why?"))
    assert messages[1]["content"] == [text("No.")]
    parts = [{"type": "refusal", "refusal": "No."}, text("Sorry.")]
    _, messages = conversation(user("hi"), {"role": "assistant", "content": parts}, user("why?"))
    assert messages[1]["content"] == [text("No."), text("Sorry.")]


def test_content_blocks_take_precedence_over_content_and_keep_thinking():
    thought = {"type": "thinking", "thinking": "t", "signature": "s"}
    hidden = {"type": "redacted_thinking", "data": "x"}
    given = {
        **LOOP[1],
        "content": "said",
        "content_blocks": [
            thought,
            hidden,
            text("said"),
            text(""),
            {"type": "tool_use", "id": "t1", "name": "f", "input": {}},
        ],
    }
    _, messages = conversation(LOOP[0], given, LOOP[2])
    assert messages[1]["content"] == [
        thought, hidden, text("said"), {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}]  # fmt: skip
    _, messages = conversation(user("hi"), {"role": "assistant", "content": "said", "content_blocks": []})
    assert messages[1]["content"] == [text("said")]


NATIVE = [
    {"type": "thinking", "thinking": "t", "signature": "s"},
    {"type": "text", "text": "a", "citations": [{"type": "char_location", "cited_text": "x"}]},
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "code_execution", "input": {"code": "1"}},
    {"type": "code_execution_tool_result", "tool_use_id": "srvtoolu_1", "content": {"type": "x", "stdout": "1"}},
    {"type": "text", "text": "b"},
    {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}},
]


@pytest.mark.parametrize("is_strict", [True, False])
@pytest.mark.parametrize("content", [NATIVE[:1] + NATIVE[4:], NATIVE], ids=["thoughts", "code"])
def test_message_of_an_answer_can_be_sent_back_as_it_is(is_strict, content):
    usage = {"input_tokens": 1, "output_tokens": 1}
    answer = completion({"id": "m", "model": "m", "content": content, "usage": usage}, is_strict, 0)
    message = answer["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": "toolu_1", "content": "x"}
    _, messages = conversation(user("hi"), message, result)
    assert [block for block in messages[1]["content"] if block["type"] == "tool_use"] == [NATIVE[-1]]
    assert "".join(block.get("text", "") for block in messages[1]["content"]) in ("ab", "b")
    if not is_strict:
        assert messages[1]["content"][0] == NATIVE[0]


CALL = LOOP[1]["tool_calls"][0]
A = {"role": "assistant"}
BAD_MESSAGES = [
    ([], "messages"),
    ([{"role": "system", "content": "a"}], "messages"),
    ([user("")], "messages"),
    ([user(None)], "messages"),
    ([user("a"), {"role": "function", "name": "f", "content": "x"}], "messages[1].role"),
    ([{"role": "", "content": "x"}], "messages[0].role"),
    ([{"role": "User", "content": "x"}], "messages[0].role"),
    (
        [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": "https://a/"}}]}, user("a")],
        "messages[0].content[0]",
    ),
    ([{"role": "system", "content": [text("a"), {"type": "text"}]}, user("a")], "messages[0].content[1].text"),
    ([user([{"type": "text"}])], "messages[0].content[0].text"),
    ([user([text(5)])], "messages[0].content[0].text"),
    ([user([text("a", cache_control=5)])], "messages[0].content[0].cache_control"),
    ([user([text("a"), {"type": "input_audio", "input_audio": {}}])], "messages[0].content[1]"),
    ([user([{"type": "video_url"}])], "messages[0].content[0]"),
    ([user([{"type": ""}])], "messages[0].content[0]"),
    ([user("a"), {**A, "content": [file(file_id="f")]}], "messages[1].content[0]"),
    ([user("a"), {**A, "content": [{"type": "image_url"}]}], "messages[1].content[0]"),
    ([user("a"), {**A, "content": [{"type": "refusal"}]}], "messages[1].content[0].refusal"),
    (
        [user("a"), {**A, "content": None, "function_call": {"name": "f", "arguments": "{}"}}],
        "messages[1].function_call",
    ),
    ([user("a"), {**A, "audio": {"id": "x"}}], "messages[1].audio"),
    ([user("a"), {**A, "refusal": 5}], "messages[1].refusal"),
    ([user("a"), {**A, "tool_calls": {}}], "messages[1].tool_calls"),
    ([user("a"), {**A, "tool_calls": "x"}], "messages[1].tool_calls"),
    ([user("a"), {**A, "tool_calls": [5]}], "messages[1].tool_calls[0]"),
    ([user("a"), {**A, "tool_calls": [CALL, {**CALL, "type": "custom"}]}], "messages[1].tool_calls[1]"),
    ([user("a"), {**A, "tool_calls": [{"id": "t"}]}], "messages[1].tool_calls[0].function"),
    ([user("a"), {**A, "tool_calls": [{**CALL, "function": "f"}]}], "messages[1].tool_calls[0].function"),
    ([user("a"), {**A, "tool_calls": [{**CALL, "id": None}]}], "messages[1].tool_calls[0].id"),
    ([user("a"), {**A, "tool_calls": [{**CALL, "id": 5}]}], "messages[1].tool_calls[0].id"),
    (
        [user("a"), {**A, "tool_calls": [{**CALL, "function": {"arguments": "{}"}}]}],
        "messages[1].tool_calls[0].function.name",
    ),
    *(
        (
            [user("a"), {**A, "tool_calls": [{**CALL, "function": {"name": "f", "arguments": arguments}}]}],
            "messages[1].tool_calls[0].function.arguments",
        )
        for arguments in (
            "{",
            "x",
            "[1]",
            "[[]]",
            "5",
            "null null",
            '"a"',
            '"null"',
            "false",
            "NaN",
            '{"a":NaN}',
            '{"a":1e999}',
            "{'a':1}",
            "{}{}",
            '{"a":' + "[" * 100_000,
            '{"a":' + "9" * 5000 + "}",
            '{"a":"\ud800"}',
            {},
            [],
            5,
            True,
        )
    ),
    ([user("a"), {**A, "content_blocks": "x"}], "messages[1].content_blocks"),
    ([user("a"), {**A, "content_blocks": ["x"]}], "messages[1].content_blocks[0]"),
    ([user("a"), {**A, "content_blocks": [{}]}], "messages[1].content_blocks[0].type"),
    ([user("a"), {**A, "content_blocks": [text("a"), {"type": "document"}]}], "messages[1].content_blocks[1]"),
    ([user("a"), {**A, "content_blocks": [{"type": "image"}]}], "messages[1].content_blocks[0]"),
    ([user("a"), {"role": "tool", "content": "x"}], "messages[1].tool_call_id"),
    ([user("a"), {"role": "tool", "tool_call_id": 5, "content": "x"}], "messages[1].tool_call_id"),
    ([*LOOP[:2], {**LOOP[2], "content": [file(file_id="f")]}], "messages[2].content[0].file"),
    ([*LOOP[:2], {**LOOP[2], "content": [{"type": "input_audio"}]}], "messages[2].content[0]"),
    ([{**user("a"), "cache_control": 5}], "messages[0].cache_control"),
    ([{**user("a"), "prompt_cache_breakpoint": "explicit"}], "messages[0].prompt_cache_breakpoint"),
    ([user([text("a", prompt_cache_breakpoint=5)])], "messages[0].content[0].prompt_cache_breakpoint"),
    ([*LOOP[:2], {**LOOP[2], "content": [{"type": "text"}]}], "messages[2].content[0].text"),
    ([*LOOP[:2], {**LOOP[2], "cache_control": 5}], "messages[2].cache_control"),
]


@pytest.mark.parametrize(
    "messages,param", BAD_MESSAGES, ids=[f"{number}-{param}" for number, (_, param) in enumerate(BAD_MESSAGES)]
)
def test_message_that_cannot_be_translated_is_a_400_that_names_its_place(messages, param):
    assert refused(messages=messages) == param


# Content parts


FILE_SOURCE = {"type": "file", "file_id": "file_1"}
CACHE = {"cache_control": {"type": "ephemeral"}}
PARTS = [
    (text("a"), text("a")),
    (text("a", **CACHE), text("a", **CACHE)),
    *(
        (file(file_id="file_1", mime_type=kind), {"type": "document", "source": FILE_SOURCE})
        for kind in (PDF, TEXT, "Application/PDF", "text/plain; charset=utf-8", " application/pdf ")
    ),
    *(
        (file(file_id="file_1", mime_type=kind), {"type": "image", "source": FILE_SOURCE})
        for kind in ("image/jpeg", "image/png", "image/gif", "image/webp", "IMAGE/PNG")
    ),
    (
        file(file_id="file_1", mime_type=PDF, filename="a.pdf"),
        {"type": "document", "source": FILE_SOURCE, "title": "a.pdf"},
    ),
    (file(file_id="file_1", mime_type="image/png", filename="a.png"), {"type": "image", "source": FILE_SOURCE}),
    ({**file(file_id="file_1", mime_type=PDF), **CACHE}, {"type": "document", "source": FILE_SOURCE, **CACHE}),
    (
        file(file_data=f"data:application/pdf;base64,{BYTES}"),
        {"type": "document", "source": {"type": "base64", "media_type": PDF, "data": BYTES}},
    ),
    (
        file(file_data=f"DATA:Application/PDF;name=a.pdf;BASE64,{BYTES}", filename="x.pdf"),
        {"type": "document", "source": {"type": "base64", "media_type": PDF, "data": BYTES}, "title": "x.pdf"},
    ),
    (file(file_data=BYTES), {"type": "document", "source": {"type": "base64", "media_type": PDF, "data": BYTES}}),
    (
        file(file_data=BYTES, mime_type=PDF),
        {"type": "document", "source": {"type": "base64", "media_type": PDF, "data": BYTES}},
    ),
    (
        file(file_data=WORDS, mime_type=TEXT),
        {"type": "document", "source": {"type": "text", "media_type": TEXT, "data": "Grüße\n"}},
    ),
    (
        file(file_data=f"data:text/plain;charset=utf-8;base64,{WORDS}"),
        {"type": "document", "source": {"type": "text", "media_type": TEXT, "data": "Grüße\n"}},
    ),
    (
        file(file_data=f"data:text/csv;base64,{WORDS}"),
        {"type": "document", "source": {"type": "text", "media_type": TEXT, "data": "Grüße\n"}},
    ),
    (
        file(file_data=WORDS, filename="a.txt"),
        {"type": "document", "source": {"type": "text", "media_type": TEXT, "data": "Grüße\n"}, "title": "a.txt"},
    ),
    (
        file(file_data=f"data:application/json;base64,{WORDS}"),
        {"type": "document", "source": {"type": "text", "media_type": TEXT, "data": "Grüße\n"}},
    ),
    (
        file(file_data=f"data:image/png;base64,{BYTES}"),
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": BYTES}},
    ),
    (
        file(file_data=BYTES, filename="a.JPG"),
        {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": BYTES}},
    ),
    (
        file(file_url="https://a.example/a.pdf"),
        {"type": "document", "source": {"type": "url", "url": "https://a.example/a.pdf"}},
    ),
    (
        file(file_url="HTTPS://a.example/", filename="a.PDF"),
        {"type": "document", "source": {"type": "url", "url": "HTTPS://a.example/"}, "title": "a.PDF"},
    ),
    (
        file(file_url="https://a.example/a", mime_type="image/png"),
        {"type": "image", "source": {"type": "url", "url": "https://a.example/a"}},
    ),
    (
        file(file_id="", file_data=BYTES),
        {"type": "document", "source": {"type": "base64", "media_type": PDF, "data": BYTES}},
    ),
    (
        file(file_id=None, file_url="https://a/x.pdf"),
        {"type": "document", "source": {"type": "url", "url": "https://a/x.pdf"}},
    ),
    (
        {"type": "image_url", "image_url": {"url": "https://a.example/a.png", "detail": "high"}},
        {"type": "image", "source": {"type": "url", "url": "https://a.example/a.png"}},
    ),
    (
        {"type": "image_url", "image_url": {"url": f"data:image/webp;base64,{BYTES}"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/webp", "data": BYTES}},
    ),
    (
        {"type": "image_url", "image_url": {"url": f"data:application/pdf;base64,{BYTES}"}, **CACHE},
        {"type": "document", "source": {"type": "base64", "media_type": PDF, "data": BYTES}, **CACHE},
    ),
]


@pytest.mark.parametrize("part,block", PARTS, ids=range(len(PARTS)))
def test_part_becomes_a_block(part, block):
    assert blocks(part) == [block]


@pytest.mark.parametrize(
    "kind,block", [(PDF, "document"), (TEXT, "document"), ("image/gif", "image"), ("text/plain;x=y", "document")]
)
def test_file_without_a_type_has_the_type_that_was_looked_up(kind, block):
    assert blocks(file(file_id="file_1"), known={"file_1": kind}) == [{"type": block, "source": FILE_SOURCE}]
    own = file(file_id="file_1", mime_type="image/png")
    assert blocks(own, known={"file_1": kind}) == [{"type": "image", "source": FILE_SOURCE}]


@pytest.mark.parametrize(
    "kind", ["text/csv", "application/json", "application/vnd.ms-excel", "image/tiff", "x", "text/markdown"]
)
@pytest.mark.parametrize("is_known", [True, False])
def test_file_of_another_type_goes_to_the_code_execution_tool_or_is_a_400(kind, is_known):
    part = file(file_id="file_1", **({} if is_known else {"mime_type": kind}))
    known = {"file_1": kind} if is_known else {}
    assert blocks(part, known=known, tools=[CODE]) == [{"type": "container_upload", "file_id": "file_1"}]
    assert refused(known, messages=[user([part])]) == "messages[0].content[0].file"
    assert refused(known, messages=[user([part])], tools=[TOOL]) == "messages[0].content[0].file"


@pytest.mark.parametrize(
    "fields",
    [
        {"file_data": BYTES, "mime_type": "application/octet-stream"},
        {"file_data": f"data:application/octet-stream;base64,{BYTES}"},
        {"file_data": f"data:;base64,{BYTES}"},
    ],
    ids=["mime_type", "in_the_url", "nothing"],
)
@pytest.mark.parametrize("name,kind", [("a.pdf", PDF), ("a.PNG", "image/png")])
def test_type_of_an_octet_stream_is_taken_from_the_extension(fields, name, kind):
    (block,) = blocks(file(**fields, filename=name))
    assert block["source"] == {"type": "base64", "media_type": kind, "data": BYTES}


PDF_URLS = ["https://a/b/x.pdf", "https://a/x.PDF?sig=a.txt", "https://a/x%2Epdf#p", "https://a/a.b/c.d.pdf"]


@pytest.mark.parametrize("fields,kind", [
    *(({"file_url": url}, "document") for url in PDF_URLS),
    ({"file_url": "https://a/f?x=1", "mime_type": "application/x-pdf"}, "document"),
    ({"file_url": "https://a/f", "filename": "a.pdf"}, "document"),
    ({"file_url": "https://a/f.pdf", "filename": "Report 1.2"}, "document"),
    ({"file_url": "https://a/f.pdf", "mime_type": "application/octet-stream"}, "document"),
    ({"file_url": "https://a/f.png"}, "image"),
    ({"file_url": "https://a/f.pdf", "filename": "a.jpg"}, "image"),
    ({"file_url": "https://a/f.pdf", "mime_type": "image/webp"}, "image"),
])  # fmt: skip
def test_file_by_url_is_a_block_of_the_type_that_is_named(fields, kind):
    """https://x/a.png without a mime_type was a document, which Anthropic cannot read."""
    (block,) = blocks(file(**fields))
    assert (block["type"], block["source"]) == (kind, {"type": "url", "url": fields["file_url"]})


@pytest.mark.parametrize("fields", [
    {"file_url": "https://a/f"},
    {"file_url": "https://a.pdf"},
    {"file_url": "https://a/?f=x.pdf"},
    {"file_url": "https://a/f.docx"},
    {"file_url": "https://a/f.txt"},
    {"file_url": "https://a/f.pdf", "mime_type": "text/plain"},
    {"file_url": "https://a/f.pdf", "mime_type": "application/msword"},
    {"file_url": "https://a/f.pdf", "filename": "a.csv"},
])  # fmt: skip
def test_file_by_url_that_anthropic_cannot_fetch_is_a_400_that_says_what_helps(fields):
    with pytest.raises(BadRequest, match="set mime_type; otherwise send it as file_data") as error:
        blocks(file(**fields))
    assert error.value.param == f"{PLACE}.file.file_url"


def test_pdf_by_url_is_a_document_in_an_image_part_too():
    for url in PDF_URLS:
        (block,) = blocks({"type": "image_url", "image_url": {"url": url}})
        assert block == {"type": "document", "source": {"type": "url", "url": url}}


def test_text_and_files_keep_their_order():
    parts = [
        file(file_id="file_1", mime_type=PDF),
        text("a"),
        text(""),
        {"type": "image_url", "image_url": {"url": "https://a/"}},
    ]
    assert [block["type"] for block in blocks(*parts)] == ["document", "text", "image"]


PLACE = "messages[0].content[0]"
BAD_PARTS = [
    ({"type": "image_url"}, f"{PLACE}.image_url"),
    ({"type": "image_url", "image_url": "https://a/"}, f"{PLACE}.image_url"),
    ({"type": "image_url", "image_url": {}}, f"{PLACE}.image_url.url"),
    ({"type": "image_url", "image_url": {"url": 5}}, f"{PLACE}.image_url.url"),
    *(
        ({"type": "image_url", "image_url": {"url": url}}, f"{PLACE}.image_url.url")
        for url in (
            "",
            "x",
            "http://a.example/",
            "ftp://a/",
            "file:///etc/passwd",
            "https://",
            "https:///a",
            "//a/b",
            "https:a",
            "javascript:x",
            "data:",
            "data:image/png,x",
            "data:image/png;base64",
            "data:image/png;base64,",
            f"data:image/tiff;base64,{BYTES}",
            f"data:;base64,{BYTES}",
            f"data:text/plain;base64,{BYTES}",
            "data:image/png;base64,a",
            "data:image/png;base64,a===",
            "data:image/png;base64,YQ=",
            "data:image/png;base64, \n",
            "data:image/png;base64,Y\u00a0Q==",
            "data:image/png;base64,YQ==YQ==",
            "data:image/png;base64,-_==",
            f"data:image/png;base64;x,{BYTES}",
            "data:image/png;base64,éééé",
        )
    ),
    *(
        (file(file_url=url), f"{PLACE}.file.file_url")
        for url in ("x", "http://a.example/a.pdf", "data:application/pdf;base64,YQ==", "https://")
    ),
    *(
        (file(file_data=data), f"{PLACE}.file.file_data")
        for data in (
            "x",
            "a===",
            "not base64!",
            "data:application/pdf,x",
            "data:application/pdf;base64,",
            "Y\u2028Q==",
            " \n ",
            "====",
            "YQ",
            f"data:application/zip;base64,{BYTES}",
            f"data:audio/mp3;base64,{BYTES}",
            f"data:text/plain;base64,{BYTES}",
            "data:application/pdf;base64,Y-_=",
        )
    ),
    (file(file_data=BYTES, mime_type="application/zip"), f"{PLACE}.file.file_data"),
    (file(file_data=BYTES, mime_type=TEXT), f"{PLACE}.file.file_data"),
    ({**file(file_id="a", mime_type=PDF), "cache_control": []}, f"{PLACE}.cache_control"),
    ({**file(file_data=BYTES), "cache_control": "x"}, f"{PLACE}.cache_control"),
    ({"type": "image_url", "image_url": {"url": "https://a/"}, "cache_control": 5}, f"{PLACE}.cache_control"),
    (
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{BYTES}"}, "cache_control": 5},
        f"{PLACE}.cache_control",
    ),
    (file(), f"{PLACE}.file"),
    (file(file_id="a", file_url="https://a/"), f"{PLACE}.file"),
]


@pytest.mark.parametrize(
    "part,param", BAD_PARTS, ids=[f"{number}-{param}" for number, (_, param) in enumerate(BAD_PARTS)]
)
def test_part_that_cannot_be_translated_is_a_400_that_names_it(part, param):
    assert refused(messages=[user([part])]) == param


@pytest.mark.fuzz
def test_large_inline_file_costs_little_memory_and_time():
    """Inline files may have 20 MB; translating one must not take many times its size."""
    data = BYTES[:4] * 5_000_000
    size = len(data)
    tracemalloc.start()
    started = time.process_time()
    try:
        (block,) = blocks(file(file_data=f"data:application/pdf;base64,{data}"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert hash(block["source"]["data"]) == hash(data)
    assert peak < 6 * size
    assert time.process_time() - started < 2


@pytest.mark.fuzz
@pytest.mark.parametrize(
    "data",
    ["A" * 5_000_001, "A" * 5_000_000 + "!", "=" * 5_000_000, "data:" + ";" * 5_000_000, "data:" + "a" * 5_000_000],
)
def test_large_invalid_base64_is_refused_in_linear_time(data):
    started = time.process_time()
    assert refused(messages=[user([file(file_data=data)])]) == f"{PLACE}.file.file_data"
    assert time.process_time() - started < 2


# References to files


def test_file_ids_come_with_their_places():
    body = {"messages": [
        user("a"),
        user([text("a"), file(file_id="f1"), file(file_data="x"), file(file_id="f2", mime_type=PDF)]),
        {"role": "assistant", "content": None},
        user([file(file_id="f1", filename="x")]),
    ]}  # fmt: skip
    assert [(place, found["file_id"]) for place, found in file_ids(body)] == [
        ("messages[1].content[1].file.file_id", "f1"),
        ("messages[1].content[3].file.file_id", "f2"),
        ("messages[3].content[0].file.file_id", "f1"),
    ]


def test_tool_choice_without_tools_is_ignored_and_reported():
    made, ignored = translated(parallel_tool_calls=False, tool_choice="auto")
    assert ("tool_choice" in made, ignored) == (False, ["tool_choice", "parallel_tool_calls"])


def test_budget_of_the_client_is_added_to_the_default_limit():
    made, _ = translated(thinking={"type": "enabled", "budget_tokens": 10_000})
    assert made["max_tokens"] == DEFAULT_MAX_TOKENS + 10_000


def test_effort_with_thinking_or_on_models_without_it_is_reported():
    for more in ({"thinking": {"type": "disabled"}}, {"model": "claude-3-5-haiku-20241022"}):
        made, ignored = translated(reasoning_effort="high", **more)
        assert ignored == ["reasoning_effort"] and made.get("thinking", {}).get("type") != "adaptive"


def test_values_in_all_arguments_together_are_limited():
    """When each could have a million, 30 of them took 13 s."""
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": '{"a":[' + "[]," * 200_000 + "[]]}"}}
    calls = [{**call, "id": f"t{number}"} for number in range(6)]
    asked = [user("a"), {"role": "assistant", "content": None, "tool_calls": calls}]
    assert refused(messages=asked) == "messages"


def test_key_twice_in_arguments_is_refused():
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": '{"a":1,"a":2}'}}
    asked = [user("a"), {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert refused(messages=asked) == "messages[1].tool_calls[0].function.arguments"


def test_content_is_kept_with_content_blocks_that_have_no_text():
    thought = {"type": "thinking", "thinking": "t", "signature": "s"}
    _, messages = conversation(
        user("a"), {"role": "assistant", "content": "said", "content_blocks": [thought]}, user("b")
    )
    assert [block["type"] for block in messages[1]["content"]] == ["thinking", "text"]


def test_name_of_a_message_is_ignored_and_reported():
    assert translated(messages=[{**user("a"), "name": "ann"}])[1] == ["messages.name"]


def test_text_of_a_data_url_in_another_charset_is_refused():
    assert refused(messages=[user([file(file_data="data:text/plain;charset=utf-16;base64,YQBiAA==")])]) == (
        "messages[0].content[0].file.file_data"
    )


# Media types and base64 as they are written


SPELLINGS = {
    "image/jpeg": ["image/jpg", "IMAGE/JPG", " image/jpg ", "image/jpg; q=1", "image/pjpeg", "image/jfif"],
    "image/png": ["image/x-png"],
    "application/pdf": ["application/x-pdf", "text/pdf"],
}
EACH_SPELLING = [(spelling, kind) for kind, spellings in SPELLINGS.items() for spelling in spellings]


@pytest.mark.parametrize("spelling,kind", EACH_SPELLING)
def test_media_type_has_its_registered_name_wherever_it_is_named(spelling, kind):
    """image/jpg is what half of the world writes, and Anthropic refuses it."""
    block = "image" if kind.startswith("image") else "document"
    inline = {"type": block, "source": {"type": "base64", "media_type": kind, "data": BYTES}}
    url = f"data:{spelling.partition(';')[0]};base64,{BYTES}"
    assert blocks({"type": "image_url", "image_url": {"url": url}}) == [inline]
    assert blocks(file(file_data=url)) == blocks(file(file_data=BYTES, mime_type=spelling)) == [inline]
    stored = [{"type": block, "source": FILE_SOURCE}]
    assert blocks(file(file_id="file_1", mime_type=spelling)) == stored
    assert blocks(file(file_id="file_1"), known={"file_1": spelling}) == stored
    (remote,) = blocks(file(file_url="https://a.example/a", mime_type=spelling))
    assert remote["type"] == block


WRAPPED = ["YWJj\nZGVm", "YWJj\r\nZGVm\r\n", " YWJjZGVm", "YWJjZGVm\n", "Y W J j\tZGVm", "\n\nYWJj\n\n\nZGVm\n",
           "YWJj\x0b\x0cZGVm"]  # fmt: skip


@pytest.mark.parametrize("data", WRAPPED)
def test_white_space_in_base64_is_removed(data):
    """Encoders break lines (RFC 2045 §6.8), and Anthropic refuses them."""
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "YWJjZGVm"}}
    for url in (f"data:image/png;base64,{data}", f"data:image/png; base64,{data}", f" data:image/png;base64 ,{data}"):
        assert blocks({"type": "image_url", "image_url": {"url": url}}) == [image]
        assert blocks(file(file_data=url)) == [image]
    assert blocks(file(file_data=data, mime_type="image/png")) == [image]
    (document,) = blocks(file(file_data=data, mime_type=TEXT))
    assert document["source"]["data"] == "abcdef"


def test_percent_encoding_of_a_data_url_is_decoded():
    (image,) = blocks({"type": "image_url", "image_url": {"url": "data:image/png;base64,YQ%3D%3D%0A"}})
    assert image["source"]["data"] == "YQ=="


@pytest.mark.fuzz
def test_white_space_in_a_large_file_is_removed_in_linear_time():
    data = (BYTES[:4] * 19 + "\r\n") * 250_000
    started = time.process_time()
    (block,) = blocks(file(file_data=data))
    assert len(block["source"]["data"]) == 19_000_000
    assert time.process_time() - started < 3


# Users


PERSONS = ["ann@example.com", "Ann <ann@example.com>", "tenant|ann@example.com", "ann@localhost", "+49 30 1234567",
           "x" * 257, "+15551234567", "(555) 123-4567", "555-123-4567", "15551234567", " 555.123.4567 "]  # fmt: skip
OPAQUE = ["u-1", "user_5f1c", "0b9b5c2e-3d4a-4f0e-9a51-2f5d7d1a0c11", "x" * 256, "12345", "@", "a@", "t/7", "2024-11"]


@pytest.mark.parametrize("user_id", PERSONS)
def test_user_that_anthropic_would_refuse_is_not_sent_and_reported(user_id):
    """An e-mail address there is a 400 for the whole chat; the field changes no answer."""
    made, ignored = translated(user=user_id)
    assert "metadata" not in made and ignored == ["user"]


@pytest.mark.parametrize("user_id", OPAQUE)
def test_opaque_user_is_sent(user_id):
    made, ignored = translated(user=user_id)
    assert made["metadata"] == {"user_id": user_id} and ignored == []


# Allowed tools


G = {"type": "function", "function": {"name": "g"}}
OUR_G = {"name": "g", "input_schema": {"type": "object", "properties": {}}}


def allowing(*tools, mode="auto"):
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list(tools)}}


def named(name):
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize(
    "choice,tools,kind",
    [
        (allowing(named("f")), [OURS], "auto"),
        (allowing(named("g"), mode="required"), [OUR_G], "any"),
        (allowing(named("g"), named("f")), [OURS, OUR_G], "auto"),
        (allowing(named("f"), named("f")), [OURS], "auto"),
        (allowing({"type": CODE["type"]}, named("g")), [CODE, OUR_G], "auto"),
    ],
)
def test_only_allowed_tools_are_sent(choice, tools, kind):
    made, ignored = translated(tools=[CODE, TOOL, G], tool_choice=choice)
    assert (made["tools"], made["tool_choice"], ignored) == (tools, {"type": kind}, [])
    made = request(tools=[CODE, TOOL, G], tool_choice=choice, parallel_tool_calls=False)
    assert made["tool_choice"] == {"type": kind, "disable_parallel_tool_use": True}


@pytest.mark.parametrize(
    "choice,param",
    [
        ({"type": "allowed_tools"}, "tool_choice.allowed_tools"),
        ({"type": "allowed_tools", "allowed_tools": []}, "tool_choice.allowed_tools"),
        ({"type": "allowed_tools", "allowed_tools": {"tools": [named("f")]}}, "tool_choice.allowed_tools.mode"),
        (allowing(named("f"), mode="none"), "tool_choice.allowed_tools.mode"),
        (allowing(), "tool_choice.allowed_tools.tools"),
        (allowing(named("f"), "g"), "tool_choice.allowed_tools.tools[1]"),
        (allowing({"type": "function", "name": "f"}), "tool_choice.allowed_tools.tools[0].function"),
        (allowing({"type": "function", "function": {}}), "tool_choice.allowed_tools.tools[0].function.name"),
        (allowing(named("f"), named("h")), "tool_choice.allowed_tools.tools[1]"),
        (allowing({"type": "web_search_20250305"}), "tool_choice.allowed_tools.tools[0]"),
    ],
)
def test_choice_of_allowed_tools_that_cannot_be_met_is_a_400_that_names_its_place(choice, param):
    assert refused(tools=[TOOL, G], tool_choice=choice) == param


def test_allowed_tools_without_tools_are_ignored_and_reported():
    made, ignored = translated(tool_choice=allowing(named("f")))
    assert "tools" not in made and ignored == ["tool_choice"]


@pytest.mark.parametrize("tools", [[{**G, **CACHE}, TOOL], [TOOL, {**G, **CACHE}], [{**G, **CACHE}, {**TOOL, **CACHE}]])
def test_cache_mark_of_a_tool_that_is_not_allowed_goes_to_the_last_one_that_is_sent(tools):
    made, ignored = translated(tools=tools, tool_choice=allowing(named("f")))
    assert (made["tools"], ignored) == ([{**OURS, **CACHE}], [])


def test_cache_mark_of_a_tool_that_is_not_allowed_is_reported_where_another_one_is():
    hour = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    made, ignored = translated(tools=[{**G, **CACHE}, {**TOOL, **hour}], tool_choice=allowing(named("f")))
    assert (made["tools"], ignored) == ([{**OURS, **hour}], ["tools.cache_control"])
    made, ignored = translated(tools=[{**TOOL, **hour, "function": {**TOOL["function"], **CACHE}}])
    assert (made["tools"], ignored) == ([{**OURS, **hour}], ["tools.cache_control"])


def test_cache_mark_of_anthropics_own_tool_may_be_openais():
    assert request(tools=[{**CODE, "prompt_cache_breakpoint": {}}])["tools"] == [{**CODE, **CACHE}]


def test_file_for_a_tool_that_is_not_allowed_is_refused():
    part = file(file_id="file_1", mime_type="text/csv")
    choice = allowing(named("f"))
    assert refused(messages=[user([part])], tools=[CODE, TOOL], tool_choice=choice) == "messages[0].content[0].file"


# Nothing is dropped in silence


HIGH = {"type": "image_url", "image_url": {"url": "https://a/", "detail": "high"}}
DESCRIBED = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "description": "d"}}
USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}
INNER = [
    ({"messages": [{**user("a"), "weight": 0}]}, "messages.weight"),
    ({"messages": [user("a"), {**A, "content": "b", "reasoning_content": "r"}]}, "messages.reasoning_content"),
    ({"messages": [{**user("a"), "tool_calls": [CALL]}]}, "messages.tool_calls"),
    ({"messages": [{**user("a"), "content_blocks": [text("b")]}]}, "messages.content_blocks"),
    (
        {"messages": [user("a"), {**A, "tool_calls": [{**CALL, "extra_content": {"google": {}}}]}]},
        "messages.tool_calls.extra_content",
    ),
    (
        {"messages": [user("a"), {**A, "tool_calls": [{**CALL, "function": {**CALL["function"], "thought": "x"}}]}]},
        "messages.tool_calls.function.thought",
    ),
    ({"messages": [user("a"), {**A, "content_blocks": [text("b"), USE]}]}, "messages.content_blocks"),
    (
        {"messages": [user("a"), {**A, "content_blocks": [{**USE, "id": []}], "tool_calls": [CALL]}]},
        "messages.content_blocks",
    ),
    ({"messages": [user([text("a", x=1)])]}, "messages.content.x"),
    ({"messages": [user([HIGH])]}, "messages.content.image_url.detail"),
    ({"messages": [user([file(file_id="f", mime_type=PDF, detail="low")])]}, "messages.content.file.detail"),
    ({"tools": [{**TOOL, "defer_loading": True}]}, "tools.defer_loading"),
    ({"tools": [{**G, "function": {"name": "g", "input_examples": [1]}}]}, "tools.function.input_examples"),
    ({"response_format": DESCRIBED}, "response_format.json_schema.description"),
]


@pytest.mark.parametrize("given,name", INNER, ids=[name for _, name in INNER])
def test_field_inside_another_one_without_a_translation_is_reported(given, name):
    assert translated(**given)[1] == [name]


@pytest.mark.parametrize(
    "given",
    [
        {"messages": [user("a"), {**A, "content": "b", "annotations": [], "audio": None, "refusal": None}]},
        {"messages": [user([{"type": "image_url", "image_url": {"url": "https://a/", "detail": "auto"}}])]},
        {"messages": [user("a"), {**A, "content_blocks": [USE], "tool_calls": [CALL]}]},
        {"tools": [CODE]},
    ],
)
def test_field_that_says_nothing_is_not_reported(given):
    assert translated(**given)[1] == []


def test_cache_mark_of_the_whole_request_is_sent():
    assert request(cache_control={"type": "ephemeral"})["cache_control"] == {"type": "ephemeral"}


def test_cache_mark_inside_a_function_is_that_of_its_tool():
    function = {**TOOL["function"], **CACHE}
    assert request(tools=[{"type": "function", "function": function}])["tools"] == [{**OURS, **CACHE}]


@pytest.mark.parametrize("number", [4, 5, 9])
@pytest.mark.parametrize("point", [CACHE, {"prompt_cache_breakpoint": {"mode": "explicit"}}], ids=["own", "openai"])
@pytest.mark.parametrize("whole", [{}, CACHE], ids=["", "whole"])
def test_only_the_last_four_cache_marks_are_sent_and_the_others_reported(number, point, whole):
    """OpenAI takes any number, and Anthropic answers 400 to a fifth."""
    tools = [{**TOOL, **point}, {**G, **point}]
    parts = [text(str(n), **point) for n in range(number - 3)]
    made, ignored = translated(
        messages=[{"role": "system", "content": "s", **point}, user(parts)], tools=tools, **whole
    )
    marks = ["cache_control" in block for block in [*made["tools"], *made["system"], *made["messages"][0]["content"]]]
    kept = 4 - len(whole)
    assert marks == [False] * (number - kept) + [True] * kept
    assert ignored == (["cache_control"] if number > kept else [])


def test_cache_marks_inside_a_result_count_too():
    marked = [text(str(n), **CACHE) for n in range(4)]
    made, ignored = translated(messages=[*LOOP[:2], {**LOOP[2], **CACHE, "content": marked}])
    (result,) = made["messages"][2]["content"]
    assert ["cache_control" in block for block in result["content"]] == [False, True, True, True]
    assert "cache_control" in result and ignored == ["cache_control"]
