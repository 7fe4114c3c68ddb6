"""Anthropic's events as OpenAI's chunks: each event, every chunking, and an error for a stream that is cut."""

from __future__ import annotations

import json
import random
import tracemalloc

import pytest

from filesproxy.errors import UpstreamAnswered, UpstreamError
from filesproxy.providers.anthropic.answer import COUNTS
from filesproxy.providers.anthropic.stream import MAX_TOOL_CALLS, _Stream, chunks

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [],
    "stop_reason": None,
    "usage": {"input_tokens": 10, "cache_read_input_tokens": 2, "output_tokens": 1},
}
START = {"type": "message_start", "message": MESSAGE}
STOP = {"type": "message_stop"}
PING = {"type": "ping"}
DONE = "[DONE]"


def delta(reason="end_turn", **usage):
    return {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}


def begin(index, **block):
    return {"type": "content_block_start", "index": index, "content_block": block}


def text(index, value):
    return {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": value}}


def partial(index, value):
    return {"type": "content_block_delta", "index": index, "delta": {"type": "input_json_delta", "partial_json": value}}


def more(index, kind, **fields):
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def end(index):
    return {"type": "content_block_stop", "index": index}


def failure(kind="overloaded_error", message="Busy", **fields):
    return {"type": "error", "error": {"type": kind, "message": message, **fields}}


def tool(index, name="f"):
    return begin(index, type="tool_use", id=f"toolu_{index}", name=name, input={})


def wire(*events):
    """The events as Anthropic sends them."""
    return b"".join(f"event: {event.get('type')}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def blocks(*events):
    return [wire(event) for event in events]


def run(source, is_strict=True, with_usage=False):
    """(the chunks, with `[DONE]` and comments as text; the error that ended the stream, if any)."""
    out = []
    try:
        for block in chunks(iter(source), is_strict, with_usage, 1700000000.9):
            assert not block or block.endswith(b"\n\n")  # nothing: an event without a translation
            for frame in block.decode().split("\n\n")[:-1]:
                is_json = frame.startswith("data: {")
                out.append(json.loads(frame[6:]) if is_json else frame[6:] if frame == "data: [DONE]" else frame)
    except UpstreamError as error:
        return out, error
    return out, None


def good(*events, **options):
    out, error = run(blocks(*events), **options)
    assert error is None, error.message
    return out


def deltas(out):
    return [chunk["choices"][0]["delta"] for chunk in out if isinstance(chunk, dict) and chunk.get("choices")]


def reasons(out):
    found = [chunk["choices"][0]["finish_reason"] for chunk in out if isinstance(chunk, dict) and chunk.get("choices")]
    return [reason for reason in found if reason is not None]


def joined(out):
    return "".join(each.get("content") or "" for each in deltas(out))


def accumulated(out):
    """The tool calls, assembled by index as an SDK does; each must begin before it continues."""
    tools = []
    for each in deltas(out):
        for call in each.get("tool_calls", []):
            if "id" in call:
                assert call["index"] == len(tools) and call["type"] == "function"
                tools.append({"id": call["id"], "name": call["function"]["name"], "arguments": ""})
            tools[call["index"]]["arguments"] += call["function"]["arguments"]
    return [(each["id"], each["name"], each["arguments"]) for each in tools]


WHOLE = (
    START,
    begin(0, type="thinking", thinking="", signature=""),
    more(0, "thinking_delta", thinking="Hm"),
    PING,
    more(0, "signature_delta", signature="sig"),
    end(0),
    begin(1, type="text", text=""),
    text(1, "Grü"),
    text(1, "ße 🎉"),
    more(1, "citations_delta", citation={"cited_text": "x"}),
    end(1),
    tool(2),
    partial(2, ""),
    partial(2, '{"a"'),
    partial(2, ":1}"),
    end(2),
    tool(3, "g"),
    end(3),
    {"type": "something_new", "x": 1},
    delta("tool_use", output_tokens=9),
    STOP,
)


# The events, one by one


def test_message_start_becomes_the_chunk_with_the_role():
    out = good(START, delta(), STOP)
    assert out[0] == {
        "id": "msg_1",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "claude-x",
        "choices": [
            {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        ],
    }


def test_every_chunk_has_the_same_id_and_model():
    out = good(*WHOLE, with_usage=True)
    heads = [
        tuple(chunk[name] for name in ("id", "object", "created", "model")) for chunk in out if isinstance(chunk, dict)
    ]
    assert set(heads) == {("msg_1", "chat.completion.chunk", 1700000000, "claude-x")} and len(heads) > 8
    assert all(chunk["choices"][0]["index"] == 0 for chunk in out if isinstance(chunk, dict) and chunk["choices"])


EVENTS = [
    (begin(0, type="text", text=""), []),
    (begin(0, type="text"), []),
    (begin(0, type="text", text="early"), [{"content": "early"}]),
    (begin(0, type="thinking", thinking=""), []),
    (begin(0, type="redacted_thinking", data="x"), []),
    (begin(0, type="server_tool_use", id="s", name="n", input={}), []),
    (begin(0, type="something_new"), []),
    (text(0, "a"), [{"content": "a"}]),
    (text(0, "\n\ndata: x\n\n"), [{"content": "\n\ndata: x\n\n"}]),
    (text(0, ""), [{"content": ""}]),
    (more(0, "thinking_delta", thinking="t"), []),
    (more(0, "signature_delta", signature="s"), []),
    (more(0, "citations_delta", citation={}), []),
    (more(0, "something_new", x=1), []),
    (partial(7, "{}"), []),  # a tool that the provider runs itself
    (end(0), []),
    (PING, []),
    ({"type": "something_new", "index": "x"}, []),
    ({"type": "message_start_2"}, []),
]


@pytest.mark.parametrize("event,made", EVENTS)
def test_event_becomes_its_chunks(event, made):
    assert deltas(good(START, event, delta(), STOP)) == [{"role": "assistant", "content": ""}, *made, {}]


LOOSE = [
    (text(3, "a"), {"content": "a", "content_blocks": [{"index": 3, "delta": {"text": "a"}}]}),
    (more(3, "thinking_delta", thinking="t"), {"content_blocks": [{"index": 3, "delta": {"thinking": "t"}}]}),
    (more(3, "signature_delta", signature="s"), {"content_blocks": [{"index": 3, "delta": {"signature": "s"}}]}),
    (
        more(3, "citations_delta", citation={"a": 1}),
        {"content_blocks": [{"index": 3, "delta": {"citation": {"a": 1}}}]},
    ),
    (begin(3, type="redacted_thinking", data="x"), {"content_blocks": [{"index": 3, "delta": {"data": "x"}}]}),
]


@pytest.mark.parametrize("event,made", LOOSE)
def test_client_that_is_not_strict_gets_more_and_a_strict_one_does_not(event, made):
    assert deltas(good(START, event, delta(), STOP, is_strict=False))[1:-1] == [made]
    assert "content_blocks" not in json.dumps(good(START, event, delta(), STOP))


def test_ping_is_a_comment():
    assert good(PING, START, PING, delta(), PING, STOP).count(": ping") == 3


@pytest.mark.parametrize("is_strict", [True, False])
@pytest.mark.parametrize(
    "reason,openais",
    [("end_turn", "stop"), ("stop_sequence", "stop"), ("pause_turn", "stop"), ("max_tokens", "length"),
     ("model_context_window_exceeded", "length"), ("tool_use", "tool_calls"), ("refusal", "content_filter"),
     ("something_new", "stop")],
)  # fmt: skip
def test_finish_reason_is_always_openais(reason, openais, is_strict):
    out = good(START, text(0, "a"), delta(reason), STOP, is_strict=is_strict)
    assert reasons(out) == [openais]
    assert out[-2]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": openais}
    assert out[-1] == DONE


@pytest.mark.parametrize("deltas_", [[delta(None)], [delta(None), delta(None, output_tokens=2)]])
def test_stream_whose_reason_is_null_finishes_with_stop(deltas_):
    assert reasons(good(START, text(0, "a"), *deltas_, STOP)) == ["stop"]


def test_several_message_deltas_have_one_finish():
    out = good(START, delta(None, output_tokens=3), delta("max_tokens", output_tokens=9), STOP, with_usage=True)
    assert reasons(out) == ["length"] and out[-2]["usage"]["completion_tokens"] == 9


# Tools


def test_tool_calls_are_numbered_from_zero_without_the_blocks_between_them():
    out = good(*WHOLE)
    assert accumulated(out) == [("toolu_2", "f", '{"a":1}'), ("toolu_3", "g", "{}")]
    assert joined(out) == "Grüße 🎉" and reasons(out) == ["tool_calls"]


def test_tools_may_be_interleaved():
    out = good(START, tool(5), tool(9), partial(9, '{"b":'), partial(5, '{"a":'), partial(9, "2}"), partial(5, "1}"),
               end(9), end(5), delta("tool_use"), STOP)  # fmt: skip
    assert accumulated(out) == [("toolu_5", "f", '{"a":1}'), ("toolu_9", "f", '{"b":2}')]


@pytest.mark.parametrize("between", [[], [partial(0, "")], [partial(0, ""), PING, partial(0, "")]])
def test_tool_without_arguments_has_an_empty_object(between):
    out = good(START, tool(0), *between, end(0), delta("tool_use"), STOP)
    assert accumulated(out) == [("toolu_0", "f", "{}")]


def test_tool_that_begins_with_its_arguments_keeps_them():
    whole = begin(0, type="tool_use", id="t", name="f", input={"a": "é"})
    out = good(START, whole, end(0), delta("tool_use"), STOP)
    assert [(each[0], json.loads(each[2])) for each in accumulated(out)] == [("t", {"a": "é"})]


def test_tool_of_the_provider_is_not_a_tool_call():
    out = good(START, begin(0, type="server_tool_use", id="s", name="web_search", input={}), partial(0, '{"q":"x"}'),
               end(0), tool(1), partial(1, "{}"), end(1), delta("tool_use"), STOP)  # fmt: skip
    assert accumulated(out) == [("toolu_1", "f", "{}")]


# Usage


def test_usage_is_a_separate_last_chunk_and_null_before():
    out = good(*WHOLE, with_usage=True)
    assert out[-1] == DONE
    assert out[-2]["choices"] == [] and out[-2]["usage"] == {
        "prompt_tokens": 12,
        "completion_tokens": 9,
        "total_tokens": 21,
        "prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    earlier = [chunk for chunk in out[:-2] if isinstance(chunk, dict)]
    assert all(chunk["usage"] is None for chunk in earlier)


def test_usage_is_not_sent_unless_requested():
    assert not any("usage" in chunk for chunk in good(*WHOLE) if isinstance(chunk, dict))


@pytest.mark.parametrize(
    "last,prompt,answer",
    [
        (delta(output_tokens=5), 12, 5),
        (delta(output_tokens=5, input_tokens=None, cache_read_input_tokens=None), 12, 5),
        (delta(output_tokens=5, input_tokens=100), 102, 5),
        (delta(output_tokens=5, input_tokens=100, cache_read_input_tokens=0, cache_creation_input_tokens=1), 101, 5),
        (delta(), 12, 1),
        ({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, 12, 1),
        ({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": None}, 12, 1),
    ],
)
def test_usage_is_cumulative_and_null_changes_nothing(last, prompt, answer):
    found = good(START, last, STOP, with_usage=True)[-2]["usage"]
    assert (found["prompt_tokens"], found["completion_tokens"]) == (prompt, answer)


# Chunking


@pytest.mark.parametrize("end_of_line", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("is_strict", [True, False])
def test_chunks_are_the_same_in_every_chunking(end_of_line, is_strict):
    whole = wire(*WHOLE).replace(b"\n", end_of_line)
    expected, error = run([whole], is_strict, True)
    assert error is None and expected[-1] == DONE
    assert run([bytes([byte]) for byte in whole], is_strict, True)[0] == expected
    assert run(whole.splitlines(keepends=True), is_strict, True)[0] == expected
    rng = random.Random(9)
    for _ in range(100):
        cuts = sorted(rng.sample(range(len(whole)), 15))
        parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)])]
        assert run(parts, is_strict, True)[0] == expected, cuts


def test_chunks_are_the_same_cut_at_every_offset():
    whole = wire(*WHOLE)
    expected, _ = run([whole])
    for at in range(len(whole) + 1):
        assert run([whole[:at], whole[at:]])[0] == expected, at


def test_each_event_is_yielded_with_the_block_that_completes_it():
    source = iter(blocks(START, text(0, "a"), delta(), STOP))
    stream = chunks(source, True, False, 0)
    assert b'"role":"assistant"' in next(stream)
    assert b'"content":"a"' in next(stream)
    assert len(list(source)) == 2  # nothing was read ahead


def test_events_need_no_name_and_may_have_any():
    plain = [f"data: {json.dumps(event)}\n\n".encode() for event in (START, text(0, "a"), delta(), STOP)]
    odd = [b"event: odd\n" + block for block in plain]
    assert run(plain) == run(odd) == run(blocks(START, text(0, "a"), delta(), STOP))


def test_event_without_data_is_skipped():
    out, error = run([b"event: ping\n\n", b": hi\n\n", *blocks(START), b"id: 5\n\n", *blocks(delta(), STOP)])
    assert error is None and out[-1] == DONE


@pytest.mark.parametrize("later", [PING, text(0, "more"), START, failure(), delta("max_tokens"), {"type": 5}])
@pytest.mark.parametrize("is_one_block", [True, False])
def test_events_after_message_stop_are_ignored(later, is_one_block):
    events = (START, text(0, "a"), delta(), STOP, later)
    out, error = run([wire(*events)] if is_one_block else blocks(*events))
    assert error is None and out[-1] == DONE and out == good(*events[:-1])


def test_nothing_is_read_after_message_stop():
    source = iter([wire(START, delta(), STOP), b"more"])
    list(chunks(source, True, False, 0))
    assert next(source) == b"more"


# Failures


STATUSES = [
    ("overloaded_error", 529),
    ("rate_limit_error", 429),
    ("api_error", 500),
    ("timeout_error", 504),
    ("invalid_request_error", 400),
    ("authentication_error", 401),
    ("permission_error", 403),
    ("billing_error", 402),
    ("not_found_error", 404),
    ("request_too_large", 413),
    ("something_new", 500),
]


@pytest.mark.parametrize("kind,status", STATUSES)
def test_error_as_first_event_has_its_status(kind, status):
    out, error = run(blocks(failure(kind)))
    assert out == [] and isinstance(error, UpstreamAnswered)
    assert (error.status, error.message) == (status, "Busy")
    assert set(error.envelope()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "kind,openais",
    [
        ("overloaded_error", "server_error"),
        ("rate_limit_error", "rate_limit_error"),
        ("invalid_request_error", "invalid_request_error"),
        ("new", "server_error"),
    ],
)
def test_error_in_the_middle_ends_the_stream_after_the_chunks_before_it(kind, openais):
    out, error = run(blocks(START, text(0, "a"), failure(kind), text(0, "never"), STOP))
    assert joined(out) == "a" and DONE not in out
    assert (error.message, error.type) == ("Busy", openais)


def test_text_before_an_error_in_the_same_block_is_not_lost():
    out, error = run([wire(START), wire(text(0, "a"), text(0, "b"), failure(), text(0, "c"))])
    assert joined(out) == "ab" and error.message == "Busy"


@pytest.mark.parametrize("bad", [b"data: {\n\n", b'data: {"type":5}\n\n', b"data: 5\n\n"])
def test_text_before_invalid_data_in_the_same_block_is_not_lost(bad):
    out, error = run([wire(START), wire(text(0, "a")) + bad])
    assert joined(out) == "a" and error.code == "upstream_invalid_answer"


@pytest.mark.parametrize(
    "event",
    [
        {"type": "error"},
        {"type": "error", "error": None},
        {"type": "error", "error": "x"},
        {"type": "error", "error": {}},
        {"type": "error", "error": {"type": 5, "message": []}},
        {"type": "error", "error": {"type": ["a"]}},
    ],
)
def test_error_of_any_shape_is_an_error(event):
    _, error = run(blocks(event))
    assert error.status == 500 and error.message and error.type == "server_error"


def test_stream_cut_anywhere_raises_and_has_no_end():
    events = [event for event in WHOLE if event is not STOP]
    for count in range(len(events) + 1):
        out, error = run(blocks(*events[:count]))
        assert isinstance(error, UpstreamError) and error.message == "The provider ended its stream early.", count
        assert DONE not in out
    whole = wire(*WHOLE)
    for at in range(0, len(whole), 7):
        out, error = run([whole[:at]])
        assert error is not None and DONE not in out, at


def test_failure_of_the_transport_is_raised():
    def source():
        yield wire(START)
        raise UpstreamError("The provider broke off.")

    out, error = run(source())
    assert len(out) == 1 and error.message == "The provider broke off."


INVALID = [
    ([START, {}], "type"),
    ([START, {"type": 5}], "type"),
    ([START, {"type": None}], "type"),
    ([{"type": "message_start"}], "message"),
    ([{"type": "message_start", "message": []}], "message"),
    *(([{**START, "message": {**MESSAGE, name: None}}], name) for name in ("id", "model", "usage")),
    ([START, {"type": "content_block_start"}], "index"),
    ([START, {"type": "content_block_start", "index": "0"}], "index"),
    ([START, {"type": "content_block_start", "index": True, "content_block": {"type": "text"}}], "index"),
    ([START, {"type": "content_block_start", "index": 0}], "content_block"),
    ([START, begin(0)], "type"),
    ([START, begin(0, type="text", text=5)], "text"),
    ([START, begin(0, type="tool_use", name="f")], "id"),
    ([START, begin(0, type="tool_use", id="t")], "name"),
    ([START, begin(0, type="tool_use", id="t", name="f", input="x")], "input"),
    ([START, {"type": "content_block_delta", "index": 0}], "delta"),
    ([START, {"type": "content_block_delta", "delta": {}}], "index"),
    ([START, {"type": "content_block_delta", "index": 0, "delta": {}}], "type"),
    ([START, text(0, None)], "text"),
    ([START, text(0, 5)], "text"),
    ([START, tool(0), partial(0, None)], "partial_json"),
    ([START, tool(0), partial(0, {})], "partial_json"),
    ([START, {"type": "content_block_stop"}], "index"),
    ([START, {"type": "content_block_stop", "index": None}], "index"),
    ([START, {"type": "message_delta"}], "delta"),
    ([START, {"type": "message_delta", "delta": 5}], "delta"),
]


@pytest.mark.parametrize("events,name", INVALID, ids=[f"{number}-{name}" for number, (_, name) in enumerate(INVALID)])
def test_event_with_a_missing_or_wrong_field_is_an_error_that_names_it(events, name):
    for is_strict in (True, False):
        out, error = run(blocks(*events, delta(), STOP), is_strict)
        assert f"'{name}'" in error.message and error.code == "upstream_invalid_answer"
        assert DONE not in out


@pytest.mark.parametrize("counts", [{}, {"output_tokens": "x"}, {"output_tokens": 1.5}, {"output_tokens": True}])
def test_invalid_usage_is_an_error_if_usage_was_requested(counts):
    start = {**START, "message": {**MESSAGE, "usage": {"input_tokens": 1}}}
    out, error = run(blocks(start, delta("end_turn", **counts), STOP), with_usage=True)
    assert "'output_tokens'" in error.message and DONE not in out


@pytest.mark.parametrize("event", [begin(0, type="text"), text(0, "a"), end(0), delta(), STOP])
def test_stream_without_message_start_is_an_error(event):
    out, error = run(blocks(event, START, delta(), STOP))
    assert out == [] and error.code == "upstream_invalid_answer"


@pytest.mark.parametrize(
    "garbage", [b"{", b"x", b"[]", b"5", b"null", b'"a"', b'{"type":NaN}', b'{"type":"ping"', b"\xff", b"[" * 100_000,
                b'{"type":"ping","x":' + b"9" * 10_000 + b"}", b"[DONE]"],
)  # fmt: skip
def test_data_that_is_not_an_event_is_an_error(garbage):
    out, error = run([wire(START), b"data: " + garbage + b"\n\n", wire(delta(), STOP)])
    assert error.code == "upstream_invalid_answer" and DONE not in out


@pytest.mark.fuzz
def test_memory_does_not_grow_with_the_number_of_events():
    def source():
        yield wire(START)
        for _ in range(20_000 // 50):
            yield wire(text(0, "abc")) * 50
        yield wire(delta(), STOP)

    tracemalloc.start()
    try:
        total = sum(block.count(b'"content":"abc"') for block in chunks(source(), True, True, 0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 20_000 and peak < 500_000


def test_usage_with_ever_new_names_is_not_remembered():
    """1.9 GiB, and growing: each message_delta named other numbers, and all were kept."""
    stream = _Stream(True, True, 0)
    stream.start(START_EVENT)
    for number in range(1000):
        stream.message_delta(
            {"type": "message_delta", "delta": {}, "usage": {f"x{number}": number, "output_tokens": number}}
        )
    assert set(stream._usage) <= set(COUNTS) and stream._usage["output_tokens"] == 999


def test_tool_calls_without_end_are_an_error():
    """580 MiB of ever new block indexes."""
    stream = _Stream(True, False, 0)
    stream.start(START_EVENT)
    block = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    with pytest.raises(UpstreamError) as refused:
        for index in range(MAX_TOOL_CALLS + 1):
            stream.block_start({"type": "content_block_start", "index": index, "content_block": block})
            stream.block_stop({"type": "content_block_stop", "index": index})
    assert refused.value.code == "upstream_answer_too_large"


@pytest.mark.parametrize("name", ["id", "model"])
def test_what_every_chunk_repeats_must_be_short(name):
    """500 small events after an id of 4 MiB became 3.7 GiB."""
    for length, is_refused in ((256, False), (257, True)):
        out, error = run(blocks({**START, "message": {**MESSAGE, name: "m" * length}}, STOP))
        assert bool(error) is is_refused and bool(out) is not is_refused


@pytest.mark.parametrize("block", [{"type": "text", "text": ""}, {"type": "thinking"}, {"type": "server_tool_use"}])
def test_ever_new_blocks_without_tool_calls_leave_no_trace(block):
    stream = _Stream(False, True, 0)
    stream.start(START)
    tracemalloc.start()
    try:
        for index in range(2000):
            stream.block_start(begin(10**6 + index, **block))
            stream.block_delta(more(10**6 + index, "signature_delta", signature="s"))
            stream.block_stop(end(10**6 + index))
        assert tracemalloc.get_traced_memory()[0] < 5000
    finally:
        tracemalloc.stop()


START_EVENT = {"type": "message_start", "message": {"id": "m", "model": "claude", "usage": {"input_tokens": 1,
               "output_tokens": 0, "x-unknown": 5}}}  # fmt: skip
