"""Server-sent events: the same in every chunking, only complete events, and an error for a stream that is cut."""

from __future__ import annotations

import random
import time
import tracemalloc

import pytest
from fakes import FakeBody

from filesproxy.calls import Answer
from filesproxy.errors import BadRequest, ClientAborted, UpstreamError
from filesproxy.providers.anthropic.stream import chunks
from filesproxy.wire.sse import (
    DONE,
    RESPONSE_ENDS,
    data,
    error_event,
    event,
    frames,
    is_stream,
    passed_through,
    recognised,
)

CHAT = (
    b'data: {"id":"c","choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    b': ping\n\n'
    b'data: {"id":"c","choices":[{"delta":{"content":"h\\u00e9 \xc3\xa9"}}]}\n\n'
    b"event: x\nid: 7\nretry: 5\ndata: two\ndata:lines\ndata\n\n"
    b"\n\n\n"
    b"data: [DONE]\n\n"
)  # fmt: skip
CHAT_FRAMES = [
    b'data: {"id":"c","choices":[{"delta":{"role":"assistant","content":""}}]}',
    b": ping",
    b'data: {"id":"c","choices":[{"delta":{"content":"h\\u00e9 \xc3\xa9"}}]}',
    b"event: x\nid: 7\nretry: 5\ndata: two\ndata:lines\ndata",
    b"data: [DONE]",
]
LINE_ENDS = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}


def flat(blocks, **limits):
    return [frame for whole in frames(iter(blocks), **limits) for frame in whole]


def cut(text, *sizes):
    """The text in blocks of these sizes, repeatedly."""
    blocks, at, turn = [], 0, 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        blocks.append(text[at : at + size])
        at, turn = at + size, turn + 1
    return blocks


@pytest.fixture(params=LINE_ENDS, ids=list(LINE_ENDS))
def stream(request):
    return CHAT.replace(b"\n", LINE_ENDS[request.param])


# Events from blocks


def test_one_block_gives_all_its_events(stream):
    assert flat([stream]) == CHAT_FRAMES


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 16, 64])
def test_events_are_the_same_in_blocks_of_any_size(stream, size):
    assert flat(cut(stream, size)) == CHAT_FRAMES


def test_events_are_the_same_line_by_line(stream):
    assert flat(stream.splitlines(keepends=True)) == CHAT_FRAMES


def test_events_are_the_same_cut_at_every_offset(stream):
    for at in range(len(stream) + 1):
        assert flat([stream[:at], stream[at:]]) == CHAT_FRAMES, at


def test_events_are_the_same_cut_at_every_two_offsets_around_line_ends():
    text = b"data: a\r\n\r\ndata: b\r\rdata: c\n\ndata: d\r\n\r\n"
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            assert flat([text[:first], text[first:second], text[second:]]) == [
                b"data: a", b"data: b", b"data: c", b"data: d"]  # fmt: skip


def test_events_are_the_same_cut_at_random(stream):
    rng = random.Random(4)
    for _ in range(300):
        sizes = [rng.choice((1, 1, 2, 3, rng.randint(1, 80))) for _ in range(20)]
        assert flat(cut(stream, *sizes)) == CHAT_FRAMES, sizes


def test_empty_blocks_change_nothing(stream):
    assert flat([b"", *(part for byte in cut(stream, 1) for part in (byte, b""))]) == CHAT_FRAMES


def test_event_is_yielded_with_the_block_that_completes_it():
    for blocks in ([b"data: 1\n", b"\n", b"data: 2\n\n"], [b"data: 1\r\n\r\n", b"data: 2\r\n\r\n"]):
        source = iter(blocks)
        found = frames(source)
        assert next(found) == [b"data: 1"]
        assert next(found) == [b"data: 2"]
        assert next(found, None) is None


def test_crlf_event_does_not_wait_for_the_next_block():
    """The second CR may be a whole line end or half of one; the event is complete in both cases."""
    seen = []

    def blocks():
        yield b"data: 1\r\n\r\n"
        seen.append("asked")
        yield b"data: 2\r\n\r\n"

    assert next(frames(blocks())) == [b"data: 1"] and seen == []


def test_one_block_gives_its_events_together():
    assert next(frames(iter([CHAT]))) == CHAT_FRAMES


def test_incomplete_event_is_dropped():
    for rest in (b"data: x", b"data: x\n", b": comment", b"data: x\r", b"event: y\r\n", b'data: {"error"'):
        assert flat([b"data: a\n\n" + rest]) == [b"data: a"]
        assert flat(cut(b"data: a\n\n" + rest, 1)) == [b"data: a"]


@pytest.mark.parametrize("last", [b'data: {"a":1}', b'event: x\ndata:{"a":\ndata: {}}', b"data:[DONE]"])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\r"])
def test_last_event_needs_no_empty_line_if_its_data_is_whole(last, end):
    """HTTP has said that nothing is missing, so it is the provider who forgot the line."""
    for size in (1, 5, 100):
        assert flat(cut(b"data: a\n\n" + last + end, size)) == [b"data: a", last]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\r"])
def test_done_needs_no_empty_line_after_it(end):
    for blocks in ([b"data: a\n\ndata: [DONE]" + end], cut(b"data: a\n\ndata: [DONE]" + end, 1)):
        assert flat(blocks) == [b"data: a", b"data: [DONE]"]


@pytest.mark.parametrize("blocks", [[], [b""], [b"\n"], [b"\n\n\n\n"], [b"\r\n\r\n"], [b"\r", b"\n", b"\r", b"\n"]])
def test_empty_stream_has_no_events(blocks):
    assert flat(blocks) == []


def test_event_over_the_limit_is_an_immediate_error_after_the_events_before_it():
    found = frames(iter([b"data: a\n\ndata: " + b"x" * 90, b"x" * 20, b"never read"]), max_bytes=100)
    assert next(found) == [b"data: a"]
    with pytest.raises(UpstreamError) as refused:
        next(found)
    assert refused.value.code == "upstream_answer_too_large"


@pytest.mark.parametrize("size", [1, 7, 30])
@pytest.mark.parametrize("line", [b"x", b"x\n", b": \n", b"data: y\r\n"])
def test_event_over_the_limit_is_an_error_in_any_chunking(size, line):
    with pytest.raises(UpstreamError):
        flat(cut(b"data: " + line * 200, size), max_bytes=100)
    with pytest.raises(UpstreamError):
        flat(cut(b"data: " + line * 200 + b"\n\n", size), max_bytes=100)


def test_event_at_the_limit_passes():
    assert flat(cut(b"data: " + b"x" * 94 + b"\n\n", 10), max_bytes=100) == [b"data: " + b"x" * 94]


def test_limit_is_for_one_event_and_not_for_many():
    assert len(flat([b"data: abc\n\n" * 1000], max_bytes=100)) == 1000
    assert len(flat(cut(b"data: abc\n\n" * 1000, 99), max_bytes=100)) == 1000


@pytest.mark.fuzz
def test_large_event_that_drips_in_costs_linear_time():
    def seconds(size):
        started = time.process_time()
        assert len(flat(cut(b"data: " + b"x" * size + b"\n\n", 64))) == 1
        return time.process_time() - started

    seconds(1 << 16)
    assert seconds(4 << 20) < max(16 * seconds(1 << 19), 1)


@pytest.mark.fuzz
def test_many_small_events_in_one_block_cost_linear_time():
    started = time.process_time()
    assert len(flat([b"data: x\n\n" * 200_000])) == 200_000
    assert time.process_time() - started < 2


# Data


@pytest.mark.parametrize(
    "frame,value",
    [
        (b"data: x", b"x"), (b"data:x", b"x"), (b"data:  x", b" x"), (b"data: x ", b"x "), (b"data:", b""),
        (b"data: a\ndata: b", b"a\nb"), (b"event: e\ndata: a\nid: 1", b"a"), (b": data: a", b""), (b": ping", b""),
        (b"event: ping", b""), (b"DATA: a", b""), (b" data: a", b""), (b"data : a", b""), (b"dataset: a", b""),
        (b": c\ndata: a", b"a"), (b"data: a: b", b"a: b"),
    ],
)  # fmt: skip
def test_data_of_an_event(frame, value):
    assert data(frame) == value


def test_event_is_always_one_frame():
    made = event({"a": "x\n\ndata: y\r\r\u2028é"})
    assert len(flat([made])) == 1 and made.startswith(b"data: {") and made.endswith(b"}\n\n")


def test_error_event_is_openais_envelope():
    assert error_event(BadRequest("No\n\n.", param="p", code="c")) == (
        b'data: {"error":{"message":"No\\n\\n.","type":"invalid_request_error","param":"p","code":"c"}}\n\n'
    )


@pytest.mark.parametrize(
    "content_type,expected",
    [
        ("text/event-stream", True), ("text/event-stream; charset=utf-8", True), ("Text/Event-Stream ;x=y", True),
        ("application/json", False), ("text/plain", False), ("text/event-stream-x", False), ("", False),
    ],
)  # fmt: skip
def test_stream_is_recognised_by_its_media_type(content_type, expected):
    assert is_stream(Answer(200, {"content-type": content_type}, body=FakeBody([]))) is expected


def test_answer_without_a_body_is_not_a_stream():
    assert not is_stream(Answer(200, {"content-type": "text/event-stream"}))
    assert not is_stream(Answer(200, {}, body=FakeBody([])))


# Passing through


@pytest.mark.parametrize("size", [1, 2, 3, 50, 10_000])
def test_complete_events_with_lf_are_passed_through(stream, size):
    out = list(passed_through(iter(cut(stream, size))))
    assert b"".join(out) == b"\n\n".join(CHAT_FRAMES) + b"\n\n"
    assert all(block.endswith(b"\n\n") for block in out)


LASTS = {
    "done": b"data: [DONE]\n\n",
    "done_without_a_space": b"data:[DONE]\n\n",
    "done_without_an_end": b"data: [DONE]",
    "done_under_a_comment": b": bye\ndata: [DONE]\n\n",
    "done_with_a_name": b"event: done\ndata: [DONE]\n\n",
    "completed": b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"r"}}\n\n',
    "incomplete": b'event: response.incomplete\ndata: {"type": "response.incomplete","response":{}}\n\n',
    "failed": b'data: {"sequence_number":3,"type":"response.failed","response":{}}\n\n',
    "error": b'event: error\ndata: {"type":"error","code":"x","message":"m","param":null}\n\n',
    "completed_then_a_comment": b'data: {"type":"response.completed"}\n\n: bye\n\n',
    "completed_then_more": b'data: {"type":"response.completed"}\n\ndata: {"type":"rate_limits.updated"}\n\n',
    "completed_without_an_end": b'data: {"type":"response.completed","response":{}}',
    "completed_over_two_lines": b'data: {"type":\ndata: "response.completed"}\n\n',
}


@pytest.mark.parametrize("name", LASTS)
def test_stream_with_a_last_event_ends_normally(name):
    out = b"".join(passed_through(iter([b'data: {"a":1}\n\n', LASTS[name]]), RESPONSE_ENDS))
    assert out.startswith(b'data: {"a":1}\n\n') and LASTS[name].strip() in out


CHOICE = b'{"index":%d,"delta":{"content":"a"},"finish_reason":%s}'
CHUNK = b'data: {"choices":[%s],"error":null}\n\n'


def chunk(*choices):
    """A chunk with these (index, finish_reason) as its choices."""
    return CHUNK % b",".join(CHOICE % choice for choice in choices)


ENDS = {
    "stop": [chunk((0, b'"stop"'))],
    "length": [chunk((0, b"null")), chunk((0, b'"length"'))],
    "own_reason_of_a_host": [chunk((0, b'"eos_token"'))],
    "usage_after_it": [chunk((0, b'"stop"')), b'data: {"choices":[],"usage":{"total_tokens":5}}\n\n'],
    "filter_results_after_it": [chunk((0, b'"stop"')), chunk((0, b"null"))],
    "comment_after_it": [chunk((0, b'"stop"')), b": bye\n\n"],
    "spaces": [b'data: {"choices": [{"index": 0, "finish_reason" : "stop"}]}\n\n'],
    "without_an_index": [b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'],
    "legacy": [b'data: {"object":"text_completion","choices":[{"text":"a","index":0,"finish_reason":"stop"}]}\n\n'],
    "without_an_empty_line": [chunk((0, b'"stop"')).strip()],
    "after_events_that_are_no_chunks": [b"data: hello\n\ndata: [1]\n\n", chunk((0, b'"stop"'))],
}


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("has_several", [False, True])
def test_chat_is_whole_after_a_finish_reason_and_a_missing_done_is_added(name, size, has_several):
    text = b"".join(ENDS[name])
    out = b"".join(passed_through(iter(cut(text, size)), has_several=has_several))
    assert out == text.strip() + b"\n\ndata: [DONE]\n\n"


@pytest.mark.parametrize("last", [chunk((1, b'"stop"')), chunk((1, b'"stop"'), (0, b"null"))])
def test_several_choices_are_whole_when_each_has_finished(last):
    began = [chunk((0, b"null"), (1, b"null")), chunk((0, b'"stop"'))]
    assert b"".join(passed_through(iter([*began, last]), has_several=True)).endswith(DONE)
    with pytest.raises(UpstreamError, match="ended its stream early"):
        list(passed_through(iter(began), has_several=True))


def test_host_that_ignores_n_is_whole_with_its_one_choice():
    assert list(passed_through(iter([chunk((0, b'"stop"'))]), has_several=True))[-1] == DONE


@pytest.mark.parametrize("error", [b'{"error":{"message":"m"}}', b'{"error":"m"}', b'{"error": true}'])
@pytest.mark.parametrize("after", [b"", b": bye\n\n", b'data: {"choices":[],"usage":{}}\n\n', DONE])
def test_stream_that_ends_in_an_error_of_the_provider_gets_neither_another_one_nor_a_done(error, after):
    text = chunk((0, b"null")) + b"data: " + error + b"\n\n" + after
    assert b"".join(passed_through(iter([text]))) == text


AFTER_THE_END = [
    b": bye\n\n",
    chunk((0, b"null")),
    b"data: [DONE]\n\n",
    b"data: {",
    b'data: {"error":{"message":"x"}}\n\n',
]


@pytest.mark.parametrize("after", AFTER_THE_END)
@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("ends", [(), RESPONSE_ENDS])
def test_nothing_after_done_is_relayed(after, size, ends):
    assert b"".join(passed_through(iter(cut(DONE + after, size)), ends)) == DONE


@pytest.mark.parametrize("failure", [UpstreamError("cut"), ClientAborted("gone")])
def test_failure_after_done_is_none(failure):
    body = FakeBody([DONE, b": bye\n\n", failure])
    assert list(passed_through(body)) == [DONE]


def test_little_is_read_after_done():
    """It is read at all so that the connection can be used again; a host that goes on for ever loses the connection."""
    body = FakeBody([DONE, *[b": bye\n\n"] * 1000])
    assert list(passed_through(body)) == [DONE] and len(list(body)) > 900


# Recognising events


RECOGNISED = [
    b"data: x\n", b"data:x\r", b"event: x\r\n", b"id: 5\n", b"retry: 5\n", b"\xef\xbb\xbfdata: x\n",
    b"\r\n\n\rdata: x\n",
    b": hello\n\ndata: x\n", b":\n:\r:\r\ndata: x\n", b"data:\n", b"data: " + b"x" * 4090 + b"\n",
    b"\xef\xbb\xbf\n: c\n\nevent: a\n", b"data: <html>\n", b": " + b"x" * 4000 + b"\ndata: x\n",
    b"\n" * 4200 + b"data: x\n", b": c\n" * 1100 + b"data: x\n",
]  # fmt: skip
NOT_RECOGNISED = [
    b"", b"\n", b"{}\n", b"[1]\n", b"<html>\ndata: x\n", b" data: x\n", b"DATA: x\n", b"data x\n", b"data\n",
    b"hello\n",
    b"{\ndata: x\n}\n", b"data: x", b"data: " + b"x" * 4091 + b"\n", b"data: " + b"x" * 9000, b": c", b": c\n",
    b": " + b"x" * 4100 + b"\ndata: x\n", b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n", b"\xef\xbb", b"\ndata\n\n", b"idx: 5\n",
    b"\x1f\x8b\x08data: x\n",
]  # fmt: skip


@pytest.mark.parametrize("text", RECOGNISED + NOT_RECOGNISED, ids=lambda text: repr(text[:24]))
def test_events_are_recognised_by_their_first_line_in_any_chunking(text):
    rest = b'{"more": 1}\n\n'
    begins = text.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n") if b": c" not in text and text[:1] != b":" else b""
    for size in (len(text) // 400 + 1, len(text) // 400 + 3, 4096, 100_000):  # byte by byte, if it is short
        body = FakeBody([*cut(text, size), *([rest] if text in RECOGNISED else [])])
        found, again = recognised(body)
        assert found is (text in RECOGNISED), size
        out = b"".join(again)
        assert out.startswith(begins), size
        assert out.endswith(rest) if found else out == begins or text.startswith(b":"), size


def test_stream_is_recognised_before_its_second_line():
    body = FakeBody([b"data: 1\n", AssertionError("read too far")])
    found, again = recognised(body)
    assert found and next(again) == b"data: 1\n"


@pytest.mark.fuzz
@pytest.mark.parametrize("text", [b":\n" * 500_000, b"\n\r" * 500_000, b": x" * 300_000, b"data:" * 200_000])
def test_beginning_without_end_is_read_in_linear_time(text):
    started = time.process_time()
    assert recognised(FakeBody(cut(text, 1 << 18)))[0] is False
    assert time.process_time() - started < 2


CUTS = {
    "nothing": b"",
    "no_finish_reason_yet": b'data: {"choices":[{"index":0,"finish_reason":null}]}\n\n',
    "empty_finish_reason": b'data: {"choices":[{"index":0,"finish_reason":""}]}\n\n',
    "finish_reason_null_in_quotes": b'data: {"choices":[{"index":0,"finish_reason":"null"}]}\n\n',
    "finish_reason_in_a_text": b'data: {"choices":[{"delta":{"content":"\\"finish_reason\\":\\"stop\\""}}]}\n\n',
    "finish_reason_elsewhere": b'data: {"finish_reason":"stop","choices":[{"delta":{"finish_reason":"stop"}}]}\n\n',
    "choices_of_another_kind": b'data: {"choices":{"finish_reason":"stop"}}\n\ndata: {"choices":["finish_reason"]}\n\n',
    "half_a_finish_reason": b'data: {"choices":[{"index":0,"finish_reason":"stop"}]',
    "empty_error": b'data: {"error":""}\n\ndata: {"error":{}}\n\ndata: {"error":null}\n\n',
    "only_a_comment": b": hello\n\n",
    "a_chunk": b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n',
    "half_a_chunk": b'data: {"choices":[{"del',
    "half_of_done": b"data: [DON",
    "done_in_a_text": b'data: {"choices":[{"delta":{"content":"data: [DONE]"}}]}\n\n',
    "true": b"data: true\n\n",
    "done_in_quotes": b'data: "[DONE]"\n\n',
    "done_in_a_comment": b": data: [DONE]\n\n",
    "last_event_without_an_end": b'data: {"type":"response.completed","response":{}}\n',
    "event_before_the_last": b'data: {"type":"response.output_text.done","text":"a"}\n\n',
    "completed_in_a_text": b'data: {"type":"response.x","delta":"\\"type\\":\\"response.completed\\""}\n\n',
    "completed_in_a_name_only": b'event: response.completed\ndata: {"type":"response.created"}\n\n',
    "error_inside_an_item": b'data: {"type":"response.output_item.done","item":{"type":"error"}}\n\n',
    "error_in_the_metadata": b'data: {"type":"response.created","response":{"metadata":{"type":"error"}}}\n\n',
    "completed_inside_an_item": b'data: {"type":"response.created","response":{"a":{"type":"response.completed"}}}\n\n',
}


@pytest.mark.parametrize("name", CUTS)
def test_stream_without_a_last_event_raises_after_its_events(name):
    for size in (1, 10_000):
        out = []
        with pytest.raises(UpstreamError, match="ended its stream early"):
            for block in passed_through(iter(cut(b'data: {"type":"response.created"}\n\n' + CUTS[name], size))):
                out.append(block)
        assert out[0].startswith(b'data: {"type":"response.created"}\n\n')


def test_failure_of_the_upstream_is_raised():
    stream = passed_through(FakeBody([b"data: a\n\n", UpstreamError("The provider broke off.")]))
    assert next(stream) == b"data: a\n\n"
    with pytest.raises(UpstreamError, match="broke off"):
        next(stream)


@pytest.mark.fuzz
def test_last_event_of_eight_megabytes_costs_linear_time():
    big = b'data: {"type":"response.output_text.done","x":"' + b'\\"type\\":\\"e' * 600_000 + b'"}\n\n'
    started = time.process_time()
    with pytest.raises(UpstreamError):
        list(passed_through(iter([big])))
    assert time.process_time() - started < 3
    lines = b"data: \n" * 500_000 + b"\n"
    with pytest.raises(UpstreamError):
        list(passed_through(iter([lines])))
    assert time.process_time() - started < 5


@pytest.mark.fuzz
def test_stream_is_not_held_in_memory():
    import tracemalloc

    def blocks():
        for _ in range(20_000):
            yield b'data: {"choices":[{"delta":{"content":"abc"}}]}\n\n'
        yield DONE

    tracemalloc.start()
    try:
        assert sum(1 for _ in passed_through(blocks())) == 20_001
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def anthropic(blocks):
    return chunks(blocks, is_strict=False, with_usage=False, now=0)


TEXT = b'data: {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "%b"}}\n\n'


@pytest.mark.parametrize("read,large", [(passed_through, b"data: %b\n\n"), (anthropic, TEXT)])
def test_large_event_is_not_kept_while_the_next_one_is_waited_for(read, large):
    """One that had left long ago stayed in memory as long as the upstream was silent, or sent keep-alives."""
    kept = []

    def blocks():
        yield b'data: {"type": "message_start", "message": {"id": "m", "model": "m", "usage": {}}}\n\n'
        start, end = large.split(b"%b")
        yield start
        for _ in range(64):
            yield b"x" * (1 << 16)
        yield end
        kept.append(tracemalloc.get_traced_memory()[0])
        yield b'data: {"type": "ping"}\n\n'

    tracemalloc.start()
    try:
        events = read(blocks())
        sizes = []
        with pytest.raises(UpstreamError):  # it ends early
            for event in events:
                sizes.append(len(event))
                del event
    finally:
        tracemalloc.stop()
    assert max(sizes) > 4 << 20 and kept[0] < 1 << 20
