"""Where a request names objects: every declared place, any text that is an id, and no shape that raises."""

from __future__ import annotations

import json
from itertools import product

import pytest

from filesproxy.gateway.object_ids import MAX_ID, can_be_id, folded, is_tuned, named_in, normal, place_in, texts_in
from filesproxy.operations import OPERATIONS

ODD = [None, True, 0, 1.5, "", "text", [], {}, [[]], [{}], [None], {"a": None}, {"": [{"": ""}]}, [[[["deep"]]]]]
RESPONSES = ("create_response", "count_response_input_tokens", "compact_response")


def put(place, value):
    """A JSON object that has this value at a declared place, and the exact place."""
    exact, outer = place.replace("[]", "[0]"), value
    for step in reversed(place.split(".")):
        outer = {step.removesuffix("[]"): [outer] if step.endswith("[]") else outer}
    return outer, exact


DECLARED = [(name, place) for name, route in OPERATIONS.items() for place in route.request_ids]


@pytest.mark.parametrize("operation,place", DECLARED)
def test_every_declared_place_is_found(operation, place):
    body, exact = put(place, "an-id")
    assert (exact, "an-id") in list(named_in(operation, body))


@pytest.mark.parametrize("operation,place", DECLARED)
def test_declared_place_with_another_shape_names_nothing_and_raises_nothing(operation, place):
    for value in ODD:
        body, exact = put(place, value)
        assert isinstance(value, str) or exact not in dict(named_in(operation, body))


@pytest.mark.parametrize("operation", ["", "list_models", *OPERATIONS])
def test_no_shape_of_a_field_raises(operation):
    fields = ("model", "input", "tools", "prompt", "prompt_cache_options", "messages", "file_ids")
    for field, value in product(fields, ODD):
        for body in ({field: value}, {field: [value]}, {field: {field: value}}, {field: [{field: [value]}]}):
            assert all(isinstance(text, str) for found in named_in(operation, body) for text in found)


IN_TOOLS = [
    ({"type": "code_interpreter", "container": "x"}, "container"),
    ({"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["x"]}}, "container.file_ids[0]"),
    ({"type": "shell", "environment": {"container_id": "x"}}, "environment.container_id"),
    ({"type": "shell", "environment": {"file_ids": ["x"]}}, "environment.file_ids[0]"),
    ({"type": "image_generation", "input_image_mask": {"file_id": "x"}}, "input_image_mask.file_id"),
    ({"type": "file_search", "vector_store_ids": ["x"]}, "vector_store_ids[0]"),
]


@pytest.mark.parametrize("operation", RESPONSES)
@pytest.mark.parametrize("tool,place", IN_TOOLS)
@pytest.mark.parametrize("before", [0, 2])
def test_tools_name_objects_at_the_top_in_an_item_and_in_a_namespace(operation, tool, place, before):
    tools = [{"type": "web_search"}] * before + [tool]
    found = [
        list(named_in(operation, {"tools": tools})),
        list(named_in(operation, {"input": [{"type": "additional_tools", "tools": tools}]})),
        list(named_in(operation, {"tools": [{"type": "namespace", "tools": tools}]})),
    ]
    at = f"tools[{before}].{place}"
    assert found == [[(at, "x")], [(f"input[0].{at}", "x")], [(f"tools[0].{at}", "x")]]


def test_container_that_the_provider_is_to_make_is_no_id():
    assert list(named_in("create_response", {"tools": [{"type": "code_interpreter", "container": "auto"}]})) == []


@pytest.mark.parametrize("item", [{"type": "item_reference", "id": "x"}, {"id": "x"}, {"type": "message", "id": "x"}])
def test_item_that_is_only_a_reference_names_an_item(item):
    assert list(named_in("create_response", {"input": ["text", {"role": "user"}, item]})) == [("input[2].id", "x")]


def test_item_that_has_more_than_a_reference_need_not_be_anybodys():
    item = {"type": "reasoning", "id": "rs_1", "summary": []}
    assert list(named_in("create_response", {"input": [item]})) == []


def test_item_reference_with_more_fields_is_a_reference_still():
    item = {"type": "item_reference", "id": "x", "status": "completed"}
    assert list(named_in("create_response", {"input": [item]})) == [("input[0].id", "x")]


def test_variables_of_a_prompt_name_files():
    variables = {"a": {"type": "input_file", "file_id": "x"}, "b": {"type": "input_image", "file_id": "y"}, "c": "text"}
    body = {"prompt": {"id": "pmpt_1", "variables": variables}}
    assert list(named_in("create_response", body)) == [
        ("prompt.variables.a.file_id", "x"),
        ("prompt.variables.b.file_id", "y"),
    ]


def test_long_name_of_a_variable_is_cut_in_the_place():
    [(place, _)] = named_in("create_response", {"prompt": {"variables": {"n" * 999: {"file_id": "x"}}}})
    assert len(place) < 200


def test_comparison_response_is_named():
    body = {"prompt_cache_options": {"comparison_response_id": "resp_1"}}
    assert list(named_in("create_response", body)) == [("prompt_cache_options.comparison_response_id", "resp_1")]


def test_screenshot_of_a_computer_names_a_file():
    item = {"type": "computer_call_output", "output": {"type": "computer_screenshot", "file_id": "x"}}
    assert list(named_in("create_response", {"input": [item]})) == [("input[0].output.file_id", "x")]


@pytest.mark.parametrize("operation", ["create_chat_completion", "create_response", "create_embedding", "", "unknown"])
def test_fine_tuned_model_is_named_by_any_operation(operation):
    assert list(named_in(operation, {"model": "ft:gpt-4o:acme::a1"})) == [("model", "ft:gpt-4o:acme::a1")]
    assert list(named_in(operation, {"model": "gpt-4o"})) == []


@pytest.mark.parametrize("model", ["ft:a", "FT:a", "Ft:a", " ft:a", "ft:a\n", "ｆｔ:a", "ft：a", "\u00a0ft:a"])
def test_fine_tuned_model_is_known_however_it_is_spelled(model):
    assert is_tuned(model)


@pytest.mark.parametrize("model", ["", "gpt-4o", "left:a", "ft", "f t:a", "draft:a", "фt:a"])
def test_other_models_are_not_fine_tuned(model):
    assert not is_tuned(model)


@pytest.mark.parametrize(
    "text,same",
    [
        ("file-1", "file-1"),
        (" file-1 ", "file-1"),
        ("\tfile-1\r\n", "file-1"),
        ("ｆｉｌｅ－１", "file-1"),
        ("𝐟𝐢𝐥𝐞-𝟏", "file-1"),
        ("ﬁle-1", "file-1"),
        ("\u3000file-1\u00a0", "file-1"),
        ("file-①", "file-1"),
        ("fıle-1", "fıle-1"),
        ("", ""),
    ],
)
def test_texts_are_compared_without_spaces_around_and_as_compatible_forms(text, same):
    assert normal(text) == same


@pytest.mark.parametrize("text,same", [("File-A", "file-a"), ("ÄB", "Äb"), ("İI", "İi"), ("ſK", "ſk"), ("", "")])
def test_only_ascii_letters_are_folded_as_the_ledger_does(text, same):
    assert folded(text) == same


@pytest.mark.parametrize("text", ["\ud800", "file-\udfff", "\ud83d"])
def test_what_is_not_unicode_is_no_id(text):
    assert texts_in({"role": text}) == set()


SOMEWHERE = [
    {"a": "X"},
    {"a": [{"b": {"c": ["X"]}}]},
    {"X": 1},
    {"a": {"X": []}},
    [["X"]],
    {"a": ["some prose before it", "X"]},
    {"a": " X\n"},
    {"a": "Ｘ"},
    {"metadata": {"k": "X"}},
]


@pytest.mark.parametrize("value", SOMEWHERE, ids=json.dumps)
def test_text_is_found_wherever_it_stands(value):
    assert "file-1" in texts_in(json.loads(json.dumps(value).replace("\\uff38", "ｆｉｌｅ-1").replace("X", "file-1")))


def test_place_of_a_text_is_known():
    value = {"a": [{"b": " file-1"}, {"c": {"d": ["x", "ｆｉｌｅ-2"]}}], "file-3": 1}
    places = [place_in(value, text) for text in ("file-1", "file-2", "file-3", "file-4")]
    assert places == ["a[0].b", "a[1].c.d[1]", "file-3", ""]


@pytest.mark.parametrize(
    "text", ["two words", "a\tb", "", "   ", "line\nline", "x" * (MAX_ID + 1), "user", "input_text"]
)
def test_prose_and_words_of_the_contract_are_no_ids(text):
    assert texts_in({"role": text}) == set()


def test_longest_id_is_found():
    assert texts_in({"role": "x" * MAX_ID}) == {"x" * MAX_ID}


@pytest.mark.parametrize("padding", [1, MAX_ID, 4 * MAX_ID])
def test_spaces_around_an_id_do_not_hide_it_however_many_they_are(padding):
    assert "file-1" in texts_in({"a": " " * padding + "file-1"})


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_no_json_value_raises(value):
    for around in ({"a": value}, [value], {"a": {"b": [value]}}):
        assert texts_in(around) <= {"a", "b", "text", "deep"}
        assert place_in(around, "nowhere") == ""


def test_deep_json_needs_no_recursion():
    value = "file-1"
    for _ in range(5000):
        value = [value]
    assert texts_in(value) == {"file-1"}


@pytest.mark.parametrize(
    "text", ["file-\x1b[2J", "file-1\nfake line of a log", "file-\0", "file-\u202e1", "file-\ud800"]
)
def test_what_cannot_be_printed_is_no_id(text):
    assert not can_be_id(text) and can_be_id("file-é1")
