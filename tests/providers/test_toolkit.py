"""What a provider's author uses: operations made of translations, and required fields of an answer."""

from __future__ import annotations

import pytest

from filesproxy.calls import Answer, Call
from filesproxy.errors import UpstreamError
from filesproxy.providers.toolkit import AUTH, need, translated

CALL = Call("list_files", "GET", "/files")


@pytest.mark.parametrize(
    "value,kind",
    [("a", str), ("", str), (5, int), (0, int), ([], list), ({}, dict), (True, bool), (1.5, float),
     (None, (str, type(None))), (5, (int, float))],
)  # fmt: skip
def test_field_of_the_right_type_is_returned(value, kind):
    assert need({"x": value}, "x", kind) is value


@pytest.mark.parametrize(
    "obj,kind",
    [({}, str), (None, str), ([], str), ("x", str), ({"x": None}, str), ({"x": 5}, str), ({"x": "5"}, int),
     ({"x": True}, int), ({"x": False}, int), ({"x": 1.0}, int), ({"x": {}}, list), ({"x": 1}, bool), (5, int),
     ({"x": True}, (int, float))],
)  # fmt: skip
def test_missing_or_wrong_field_is_a_502_that_names_it(obj, kind):
    with pytest.raises(UpstreamError, match="'x'") as refused:
        need(obj, "x", kind)
    assert (refused.value.status, refused.value.code) == (502, "upstream_invalid_answer")


def test_value_of_a_wrong_field_is_not_quoted():
    with pytest.raises(UpstreamError) as refused:
        need({"x": "sk-secret"}, "x", int)
    assert "sk-secret" not in str(refused.value)


def test_operation_without_translations_sends_the_call_and_returns_the_answer_unchanged():
    sent, answer = [], Answer(200, {"a": "b"}, {"id": 1})
    assert translated()(CALL, lambda call: sent.append(call) or answer) is answer
    assert sent == [CALL]


def test_operation_translates_the_call_and_the_answer():
    sent = []

    def send(call):
        sent.append(call)
        return Answer(200, {"a": "b"}, {"id": 1})

    operation = translated(lambda call: Call(call.operation, "POST", "/x"), lambda json, call: [json, call])
    # `answer` gets the client's call
    assert operation(CALL, send) == Answer(200, {"a": "b"}, [{"id": 1}, CALL])
    assert sent == [Call("list_files", "POST", "/x")]


def test_operation_translates_one_side_alone():
    sent = []
    translated(request=lambda call: None)(CALL, lambda call: sent.append(call) or Answer(200))
    assert sent == [None]
    answer = translated(answer=lambda json, call: 5)(CALL, lambda call: Answer(204, {"a": "b"}))
    assert answer == Answer(204, {"a": "b"}, 5)


def test_setting_auth_is_key_or_bearer():
    assert (AUTH.parse("key"), AUTH.parse("bearer")) == ("key", "bearer")
    with pytest.raises(ValueError, match="key or bearer"):
        AUTH.parse("basic")
