"""The messages of a chat as Anthropic takes them: blank text, ids and arguments of tool calls, cache marks, results."""

from __future__ import annotations

import copy
import re
import time

import pytest

from filesproxy.errors import BadRequest
from filesproxy.providers.anthropic.conversation import Conversation

MARK = {"type": "ephemeral"}
MARKED = {"cache_control": MARK}
HOUR = {"type": "ephemeral", "ttl": "1h"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,YQ=="}}
OUR_IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "YQ=="}}
THOUGHT = {"type": "thinking", "thinking": "t", "signature": "s"}
# What Python and Anthropic call white space; a zero-width space is none.
BLANKS = [" ", "\n", "\t\r\n ", "\u00a0", "\u2003\u3000", "\x0b\x0c", "\u2028"]


def translated(*messages, known=None, runs_code=False):
    """(system, messages, ignored). Must not change what was given."""
    before, ignored = copy.deepcopy(messages), []
    system, made = Conversation(list(messages), known or {}, runs_code, ignored).translated()
    assert messages == before
    return system, made, ignored


def text(value, **more):
    return {"type": "text", "text": value, **more}


def user(content, **more):
    return {"role": "user", "content": content, **more}


def assistant(content=None, **more):
    return {"role": "assistant", "content": content, **more}


def call(call_id, arguments="{}", **more):
    return {"id": call_id, "type": "function", "function": {"name": "f", "arguments": arguments}, **more}


def result(call_id, content="done", **more):
    return {"role": "tool", "tool_call_id": call_id, "content": content, **more}


def said(*messages):
    """The blocks of each message."""
    return [message["content"] for message in translated(*messages)[1]]


# Blank text


@pytest.mark.parametrize("blank", BLANKS)
def test_blank_text_of_any_message_gives_no_block(blank):
    """Anthropic refuses the whole chat for it, and with it every later turn of the conversation."""
    system, messages, ignored = translated(
        {"role": "system", "content": blank},
        {"role": "developer", "content": [text("s"), text(blank)]},
        user(blank),
        user([text(blank), text("hi"), IMAGE]),
        assistant(blank, tool_calls=[call("t1")]),
        result("t1", blank),
        assistant([text(blank), text("a")]),
        assistant(content_blocks=[THOUGHT, text(blank)], tool_calls=[call("t2"), call("t3")]),
        result("t2", [text("r"), text(blank)]),
        result("t3", [text(blank)]),
        assistant([{"type": "refusal", "refusal": blank}], refusal=blank),
        user([text("bye"), text(blank)]),
    )
    assert (system, ignored) == ([text("s")], [])
    assert [[block["type"] for block in message["content"]] for message in messages] == [
        ["text", "image"], ["tool_use"], ["tool_result"], ["text", "thinking", "tool_use", "tool_use"],
        ["tool_result", "tool_result", "text"],
    ]  # fmt: skip
    assert messages[2]["content"] == [{"type": "tool_result", "tool_use_id": "t1"}]
    assert [block.get("content") for block in messages[4]["content"][:2]] == [[text("r")], None]


def test_text_with_anything_else_in_it_is_unchanged():
    for value in (" a ", "\n.\n", "\u200b", "\u0000"):
        assert said(user(value)) == [[text(value)]]


def test_conversation_of_blank_text_only_has_nothing_to_answer():
    with pytest.raises(BadRequest) as refused:
        translated(user(" "), assistant("\n"))
    assert refused.value.param == "messages"


@pytest.mark.parametrize("content", ["so: ", "so:\n\n", [text("so:\t")], [text("so: "), text(" ")]])
def test_last_message_of_an_assistant_loses_its_trailing_white_space(content):
    """Anthropic goes on from such a message, and refuses one that ends in white space."""
    assert said(user("hi"), assistant(content))[-1] == [text("so:")]
    assert said(user("hi"), assistant("a "), assistant(content))[-1] == [text("a "), text("so:")]


def test_other_messages_keep_their_trailing_white_space():
    blocks = said(user("hi "), assistant("a "), user("b\n"))
    assert blocks == [[text("hi ")], [text("a ")], [text("b\n")]]
    assert said(user("hi"), assistant("a ", tool_calls=[call("t")]))[-1][0] == text("a ")


def test_last_text_of_content_blocks_is_stripped_in_a_copy():
    cited = text("a ", citations=[{"type": "x"}])
    assert said(user("hi"), assistant(content_blocks=[THOUGHT, cited]))[-1] == [THOUGHT, {**cited, "text": "a"}]


# Ids of tool calls


VALID = ["t1", "toolu_01", "call-A_9", "0", "-", "x" * 200]
INVALID = ["functions.f:0", "call_a|fc_b", "", " ", "a b", "é", "a.b", "t1\n", "\ud800", "x" * 100 + "!", "a/b"]


def pairs(*ids):
    """(id of the call, id of its result) for each of these ids, used in one turn."""
    calls = assistant(tool_calls=[call(name) for name in ids])
    _, asked, answered = said(user("hi"), calls, *[result(name) for name in ids])
    return [(use["id"], found["tool_use_id"]) for use, found in zip(asked, answered)]


@pytest.mark.parametrize("call_id", VALID)
def test_valid_id_is_unchanged(call_id):
    assert pairs(call_id, *INVALID)[0] == (call_id, call_id)


@pytest.mark.parametrize("call_id", INVALID, ids=ascii)
def test_invalid_id_becomes_one_valid_id_in_call_and_result(call_id):
    """Whatever else the request holds: another id in a later turn would lose the prompt's cache."""
    ((used, found),) = pairs(call_id)
    assert used == found and re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", used)
    assert pairs("t0", call_id)[1] == (used, found)


def test_different_ids_get_different_ones():
    like = ["a.b", "a:b", "a_b", "a b", "a|b", "a.b.", "x" * 100 + ".1", "x" * 100 + ".2", "", " ", "_"]
    made = pairs(*like)
    assert all(used == found for used, found in made) and len({used for used, _ in made}) == len(like)


def test_made_id_is_never_one_that_another_call_has():
    ((made, _),) = pairs("a.b")
    for given in (["a.b", made], [made, "a.b"]):
        both = dict(zip(given, pairs(*given)))
        assert both[made] == (made, made) and both["a.b"][0] == both["a.b"][1] != made


@pytest.mark.parametrize("call_id", ["call_0", "", "functions.f:0"])
def test_id_that_several_turns_use_is_another_one_in_each(call_id):
    """Some hosts number the calls of each turn anew, or give no id: Anthropic wants each id once."""
    turn = [assistant(tool_calls=[call(call_id)]), result(call_id)]
    blocks = [block for one in said(user("hi"), *turn, *turn, *turn) for block in one]
    used = [block["id"] for block in blocks if block["type"] == "tool_use"]
    assert used == [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
    assert len(set(used)) == 3 and all(re.fullmatch("[a-zA-Z0-9_-]+", name) for name in used)
    assert [use["id"] for use in said(user("hi"), *turn)[1]] == used[:1]
    assert call_id != "call_0" or used[0] == "call_0"


def test_results_of_calls_with_the_same_id_are_taken_in_the_order_of_the_calls():
    made = pairs("", "", "")
    assert all(used == found for used, found in made) and len({used for used, _ in made}) == 3


def paired(*messages):
    """For each result, which of the calls it is of."""
    blocks = [block for one in said(user("hi"), *messages) for block in one]
    used = [block["id"] for block in blocks if block["type"] == "tool_use"]
    return [used.index(block["tool_use_id"]) for block in blocks if block["type"] == "tool_result"]


@pytest.mark.parametrize("call_id", ["call_0", "", "functions.f:0"])
def test_result_is_that_of_the_newest_call_with_its_id_that_has_none(call_id):
    """A call that was cut off kept its place, and each later result went to the call before its own."""
    turn, cut, done = assistant(tool_calls=[call(call_id)]), user("go on"), result(call_id)
    assert paired(turn, cut, turn, done) == [1]
    assert paired(turn, done, turn, cut, turn, done, turn, done) == [0, 2, 3]
    assert paired(turn, cut, turn, done, done) == [1, 0]
    assert paired(turn, cut, turn, done, done, done) == [1, 0, 1]


def test_results_of_one_turn_are_in_the_order_of_its_calls_even_in_several_messages():
    turn, done = assistant(tool_calls=[call("c")]), result("c")
    both = assistant(tool_calls=[call("c"), call("c")])
    assert paired(turn, turn, done, done) == [0, 1]
    assert paired(turn, user("go on"), both, done, done) == [1, 2]
    assert paired(both, done, user("go on"), both, done, done) == [0, 2, 3]


def test_result_without_a_call_keeps_its_id_or_gets_a_valid_one():
    assert said(result("t9"))[0][0]["tool_use_id"] == "t9"
    assert re.fullmatch("[a-zA-Z0-9_-]+", said(result("t.9"))[0][0]["tool_use_id"])
    twice = said(user("a"), assistant(tool_calls=[call("t.1")]), result("t.1"), result("t.1"))[2]
    assert twice[0]["tool_use_id"] == twice[1]["tool_use_id"]


# Arguments


@pytest.mark.parametrize(
    "arguments", ["null", " null\n", "", " ", "\n\t", None, "{}", " {} ", "[]", " [ ] ", "\ufeff{}"], ids=ascii
)
def test_call_without_arguments_has_an_empty_input(arguments):
    """Models write it in each of these ways, and clients send it back."""
    (_, (use,)) = said(user("hi"), assistant(tool_calls=[call("t", arguments)]))
    assert use["input"] == {}


def test_call_whose_function_has_no_arguments_at_all_has_an_empty_input():
    (_, (use,)) = said(user("hi"), assistant(tool_calls=[{"id": "t", "function": {"name": "f"}}]))
    assert use == {"type": "tool_use", "id": "t", "name": "f", "input": {}}


# Cache marks


@pytest.mark.parametrize(
    "name,value,mark",
    [
        ("cache_control", MARK, MARK),
        ("cache_control", HOUR, HOUR),
        ("prompt_cache_breakpoint", {"mode": "explicit"}, MARK),
        ("prompt_cache_breakpoint", {}, MARK),
        ("prompt_cache_breakpoint", True, MARK),
    ],
)
def test_mark_of_a_message_is_on_its_last_block(name, value, mark):
    """Portkey's and OpenAI's clients set it beside the content. It was dropped, and not even named."""
    marked = {name: value}
    system, messages, ignored = translated(
        {"role": "system", "content": "s", **marked},
        {"role": "developer", "content": [text("d"), text("e")], **marked},
        user("a", **marked),
        user([text("b"), IMAGE], **marked),
        user([text("c"), text(" ")], **marked),
        assistant("x", tool_calls=[call("t")], **marked),
        result("t", [text("r")], **marked),
    )
    assert system == [text("s", cache_control=mark), text("d"), text("e", cache_control=mark)]
    assert messages[0]["content"] == [
        text("a", cache_control=mark),
        text("b"),
        {**OUR_IMAGE, "cache_control": mark},
        text("c", cache_control=mark),
    ]
    assert [block.get("cache_control") for block in messages[1]["content"]] == [None, mark]
    (found,) = messages[2]["content"]
    assert found["cache_control"] == mark and found["content"] == [text("r")] and ignored == []


@pytest.mark.parametrize("point", [{"cache_control": MARK}, {"prompt_cache_breakpoint": {"mode": "explicit"}}])
def test_mark_of_a_part_is_on_its_block(point):
    document = {"type": "file", "file": {"file_id": "f", "mime_type": "application/pdf"}}
    _, messages, ignored = translated(
        user([text("a", **point), {**IMAGE, **point}, {**document, **point}]),
        assistant([text("b", **point)], tool_calls=[call("t", **point)]),
        result("t", [text("r", **point)]),
    )
    blocks = [block for message in messages for block in message["content"]]
    assert all(block["cache_control"] == MARK for block in [*blocks[:5], *blocks[5]["content"]]) and ignored == []


def test_mark_of_a_blank_text_goes_to_the_block_before_it():
    blocks = said(user([text("a"), text(" ", cache_control=HOUR), text("b")]))
    assert blocks == [[text("a", cache_control=HOUR), text("b")]]


LOST = {
    "empty_message": [user("", cache_control=MARK), user("a")],
    "blank_part_at_the_start": [user([text(" ", cache_control=MARK), text("a")])],
    "blank_system": [{"role": "system", "content": " ", "prompt_cache_breakpoint": {"mode": "explicit"}}, user("a")],
    "thoughts_only": [user("a"), assistant(content_blocks=[THOUGHT], cache_control=MARK)],
    "another_mark_there": [user([text("a", cache_control=HOUR)], cache_control=MARK)],
    "blank_result": [user("a"), assistant(tool_calls=[call("t")]), result("t", [text(" ", cache_control=MARK)])],
}


@pytest.mark.parametrize("name", LOST)
def test_mark_that_has_no_block_of_its_own_is_reported(name):
    _, made, ignored = translated(*LOST[name])
    assert ignored == ["messages.cache_control"]
    assert MARK not in [block.get("cache_control") for message in made for block in message["content"]]


KEPT = {
    "content_beside_blocks": assistant([text("a", **MARKED)], content_blocks=[THOUGHT, text("a")]),
    "text_of_blocks": assistant("a", content_blocks=[THOUGHT, text("a", **MARKED)]),
    "thought_of_blocks": assistant("a", content_blocks=[{**THOUGHT, **MARKED}, text("a")]),
    "call_of_blocks": assistant("a", content_blocks=[THOUGHT, text("a"), {"type": "tool_use", "id": "t", **MARKED}]),
    "openais_in_blocks": assistant("a", content_blocks=[THOUGHT, text("a", prompt_cache_breakpoint={})]),
}


@pytest.mark.parametrize("name", KEPT)
def test_mark_in_or_beside_content_blocks_is_kept(name):
    _, messages, ignored = translated(user("q"), KEPT[name], user("r"))
    assert messages[1]["content"] == [THOUGHT, text("a", **MARKED)] and ignored == []


def test_mark_of_a_block_that_tool_calls_replace_is_on_the_last_call():
    use = {"type": "tool_use", "id": "t", "name": "f", "input": {}, **MARKED}
    _, messages, ignored = translated(
        user("q"), assistant(content_blocks=[THOUGHT, use], tool_calls=[call("t")]), result("t")
    )
    assert messages[1]["content"] == [THOUGHT, use] and ignored == []


def test_mark_inside_the_function_of_a_call_is_on_the_call():
    marked = {"id": "t", "function": {"name": "f", "arguments": "{}", **MARKED}}
    (_, (used,)) = said(user("q"), assistant(tool_calls=[marked]))
    assert used["cache_control"] == MARK


@pytest.mark.parametrize("nothing", [{"cache_control": None}, {"cache_control": {}}, {"prompt_cache_breakpoint": None},
                                     {"prompt_cache_breakpoint": False}])  # fmt: skip
def test_mark_that_says_nothing_is_none(nothing):
    assert translated(user("a", **nothing)) == ([], [user([text("a")])], [])


# Results of tools


def test_result_of_a_tool_may_have_images_and_documents():
    """OpenAI's clients send screenshots there; Anthropic takes text, images and documents in a result."""
    pdf = {"type": "file", "file": {"file_data": "data:application/pdf;base64,YQ==", "filename": "a.pdf"}}
    stored = {"type": "file", "file": {"file_id": "f1"}}
    remote = {"type": "image_url", "image_url": {"url": "https://a.example/a.png"}}
    loop = [user("hi"), assistant(tool_calls=[call("t")]), result("t", [text("see"), IMAGE, pdf, stored, remote])]
    _, messages, _ = translated(*loop, known={"f1": "image/jpg"})
    (found,) = messages[2]["content"]
    assert [block["type"] for block in found["content"]] == ["text", "image", "document", "image", "image"]
    assert found["content"][1] == OUR_IMAGE and found["content"][2]["title"] == "a.pdf"


def test_result_of_a_tool_has_no_files_for_the_code_execution_tool():
    loop = [user("hi"), assistant(tool_calls=[call("t")]), result("t", [{"type": "file", "file": {"file_id": "f1"}}])]
    with pytest.raises(BadRequest) as refused:
        translated(*loop, known={"f1": "text/csv"}, runs_code=True)
    assert refused.value.param == "messages[2].content[0].file"


@pytest.mark.fuzz
def test_many_blank_texts_with_marks_cost_linear_time():
    parts = [text("a", **MARKED) for _ in range(100_000)] + [text(" ", **MARKED) for _ in range(100_000)]
    thoughts = assistant(content_blocks=[THOUGHT] * 100_000 + [text(" ", **MARKED)] * 100_000)
    started = time.process_time()
    Conversation([user(parts), thoughts], {}, False, []).translated()
    assert time.process_time() - started < 4
