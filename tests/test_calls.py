"""The types everything speaks: need(), exchange(), Upload, and what a repr must not show."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from filesproxy.calls import Answer, Call, Secret, Target, Upload, exchange, need, replace
from filesproxy.errors import UpstreamError
from filesproxy.operations import ROUTES
from filesproxy.providers import PROVIDERS

CALL = Call("list_files", "GET", "/files")


@pytest.mark.parametrize(
    "value,kind",
    [("a", str), ("", str), (5, int), (0, int), ([], list), ({}, dict), (True, bool), (1.5, float),
     (None, (str, type(None))), (5, (int, float))],
)  # fmt: skip
def test_field_of_the_right_type_is_given_back(value, kind):
    assert need({"x": value}, "x", kind) is value


@pytest.mark.parametrize(
    "obj,kind",
    [({}, str), (None, str), ([], str), ("x", str), ({"x": None}, str), ({"x": 5}, str), ({"x": "5"}, int),
     ({"x": True}, int), ({"x": False}, int), ({"x": 1.0}, int), ({"x": {}}, list), ({"x": 1}, bool), (5, int)],
)  # fmt: skip
def test_missing_or_wrong_field_is_a_502_that_names_it(obj, kind):
    with pytest.raises(UpstreamError, match="'x'") as refused:
        need(obj, "x", kind)
    assert (refused.value.status, refused.value.code) == (502, "upstream_invalid_answer")


def test_boolean_is_no_number_among_several_kinds_either():
    with pytest.raises(UpstreamError):
        need({"x": True}, "x", (int, float))


def test_value_of_a_wrong_field_is_not_repeated():
    with pytest.raises(UpstreamError) as refused:
        need({"x": "sk-secret"}, "x", int)
    assert "sk-secret" not in str(refused.value)


def test_exchange_sends_the_call_as_it_is_and_gives_back_the_answer_as_it_is():
    sent, answer = [], Answer(200, {"a": "b"}, {"id": 1})
    assert exchange()(CALL, lambda call: sent.append(call) or answer) is answer
    assert sent == [CALL]


def test_exchange_translates_the_call_and_the_answer():
    sent = []

    def send(call):
        sent.append(call)
        return Answer(200, {"a": "b"}, {"id": 1})

    operation = exchange(lambda call: Call(call.operation, "POST", "/x"), lambda json, call: [json, call])
    assert operation(CALL, send) == Answer(
        200, {"a": "b"}, [{"id": 1}, CALL]
    )  # the answer's side sees the client's call
    assert sent == [Call("list_files", "POST", "/x")]


def test_exchange_translates_one_side_alone():
    sent = []
    exchange(request=lambda call: None)(CALL, lambda call: sent.append(call) or Answer(200))
    assert sent == [None]
    assert exchange(answer=lambda json, call: 5)(CALL, lambda call: Answer(204, {"a": "b"})) == Answer(
        204, {"a": "b"}, 5
    )


def test_upload_counts_what_is_read_and_is_read_once():
    upload = Upload("a", "text/csv", {}, iter([b"abc", b"", b"de"]))
    assert upload.size == 0
    chunks = iter(upload)
    assert (next(chunks), upload.size) == (b"abc", 3)
    assert list(chunks) == [b"", b"de"]
    assert (upload.size, list(upload), upload.size) == (5, [], 5)


def test_upload_shows_late_fields_in_the_mapping_that_it_was_given():
    def chunks():
        yield b"x"
        fields["late"] = "1"

    fields, ignored = {"early": "1"}, []
    upload = Upload("a", "text/csv", fields, chunks(), ignored)
    ignored.append("shade")
    assert upload.fields == {"early": "1"}
    list(upload)
    assert upload.fields == {"early": "1", "late": "1"}
    assert upload.ignored == ["shade"]


def test_upload_keeps_its_count_when_it_breaks_off():
    def chunks():
        yield b"abc"
        raise UpstreamError("cut")

    upload = Upload("a", "text/csv", {}, chunks())
    with pytest.raises(UpstreamError):
        list(upload)
    assert upload.size == 3


def test_no_repr_shows_a_credential():
    call = Call("x", "GET", "/", headers={"authorization": "Bearer sk-secret"})
    target = Target("a", PROVIDERS["openai"], "https://a.example", {"credential": "sk-secret"}, Secret("sk-secret"))
    assert "sk-secret" not in repr(call) + repr(target)


def test_secret_is_its_text_everywhere_but_in_a_repr():
    secret = Secret("sk-secret")
    assert (secret, f"Bearer {secret}", secret[:3], len(secret), bool(Secret())) == (
        "sk-secret", "Bearer sk-secret", "sk-", 9, False)  # fmt: skip
    assert "sk-secret" not in f"{secret!r} {[secret]!r} { {'a': secret}!r} {(secret,)}"
    assert hash(secret) == hash("sk-secret")


def test_calls_and_answers_do_not_change():
    with pytest.raises(FrozenInstanceError):
        CALL.path = "/evil"
    with pytest.raises(FrozenInstanceError):
        Answer(200).status = 500


@pytest.mark.parametrize("name", PROVIDERS)
def test_every_provider_has_or_explains_each_operation(name):
    provider = PROVIDERS[name]
    operations = {operation for _, _, operation in ROUTES} - {"health"}
    assert operations <= {*provider["operations"], *provider.get("unsupported", {})}
    assert not set(provider["operations"]) & set(provider.get("unsupported", {}))
    for settings in ({"api_version": "v1"}, {"api_version": "2024-10-21"}):
        fields = provider.get("fields", ())
        known = fields(Target(name, provider, "", settings)) if callable(fields) else fields
        assert set(provider.get("required_fields", ())) <= set(known) <= set(PROVIDERS["openai"]["fields"])


@pytest.mark.parametrize("name", PROVIDERS)
def test_client_headers_and_credential_headers_are_lower_case_names_that_meet_nowhere(name):
    provider = PROVIDERS[name]
    groups = [set(provider.get(key, ())) for key in ("client_headers", "client_settings", "credential_headers")]
    assert all(header == header.lower() for group in groups for header in group)
    assert sum(map(len, groups)) == len(set().union(*groups))


def test_call_without_a_path_or_with_an_unknown_field_is_a_type_error():
    with pytest.raises(TypeError):
        Call("list_files", "GET")
    with pytest.raises(TypeError):
        Call("list_files", "GET", "/files", shade="blue")
    with pytest.raises(TypeError):
        Call("list_files", "GET", shade="blue")
    with pytest.raises(TypeError):
        Answer(*range(20))
    with pytest.raises(TypeError):
        Call("list_files", "GET", "/files", path="/other")


@pytest.mark.parametrize("read_default", [
    lambda: Call("a", "GET", "/b").query, lambda: Call("a", "GET", "/b").headers, lambda: Answer(200).headers,
    lambda: Target("a", {}, "").settings,
])  # fmt: skip
def test_default_of_one_is_anothers_too_and_nobodys_to_change(read_default):
    with pytest.raises(TypeError):
        read_default()["key"] = "secret"
    assert read_default() == {}


def test_call_by_position_and_by_name_is_the_same():
    assert Call("a", "GET", "/b", {"limit": "1"}) == Call(operation="a", method="GET", path="/b", query={"limit": "1"})
    assert Call("a", "GET", "/b") != Call("a", "GET", "/c")
    assert Call("a", "GET", "/b").headers == {}


def test_text_of_an_answer_is_that_of_its_json_only():
    value = {"id": "file-1"}
    answer = Answer(200, json=value, parsed=(value, b'{"id":"file-1"}'))
    assert answer.text == b'{"id":"file-1"}'
    assert replace(answer, json={"id": "file-2"}).text == b""
    assert Answer(200).text == b""
