"""Who calls, where to, and what goes along; and that a remembered answer is never another caller's."""

from __future__ import annotations

import io

import pytest
from configurations import hashed

from filesproxy.config.load import load
from filesproxy.errors import BadRequest, FilesproxyError, Unauthorized
from filesproxy.gateway.admission import MAX_CHARACTERS, MAX_REMEMBERED, PASSING, Gate
from filesproxy.gateway.wsgi import Head, Request
from filesproxy.providers import PROVIDERS

KEYED = {
    "provider:openai": {"credential": "sk-saved"},
    "provider:vllm": {"kind": "openai", "base_url": "http://10.0.0.5:8000/v1"},
    "key:team": {"sha256": hashed("fp_team"), "caller_credentials": "yes"},
    "key:guest": {"sha256": hashed("fp_guest"), "providers": "vllm"},
}
OPEN = {"filesproxy": {"open_access": "yes"}, "provider:openai": {"credential": "sk-saved"}}

CALLER = {"authorization": "Bearer sk-a", "x-portkey-provider": "openai", "host": "localhost"}
# Each is CALLER with something else: every header that is read anywhere on the way, and some that are not.
OTHERS = [
    {}, {"authorization": "Bearer sk-b"}, {"authorization": "Bearer sk-a", "x-portkey-api-key": "fp_team"},
    {"authorization": "Bearer fp_team"}, {"authorization": "Bearer fp_guest"}, {"authorization": "Basic eDp5"},
    {"authorization": "sk-a"}, {"authorization": ""}, {"x-portkey-api-key": "sk-a"}, {"x-portkey-api-key": "fp_guest"},
    {"x-portkey-provider": "@openai"}, {"x-portkey-provider": "vllm"}, {"x-portkey-provider": "anthropic"},
    {"x-portkey-provider": "azure-openai"}, {"x-portkey-provider": "nobody"}, {"x-portkey-provider": ""},
    {"x-portkey-virtual-key": "openai"}, {"x-portkey-virtual-key": "vllm"}, {"x-portkey-config": "pc-1"},
    {"x-portkey-custom-host": "https://evil.example"}, {"openai-organization": "org-a"},
    {"openai-organization": "org-b"}, {"x-portkey-openai-organization": "org-a"}, {"openai-project": "p"},
    {"openai-project": "fp_team"}, {"x-portkey-provider": "anthropic", "anthropic-beta": "a,b"},
    {"x-portkey-provider": "anthropic", "anthropic-beta": "a", "x-portkey-anthropic-beta": "c"},
    {"x-portkey-provider": "anthropic", "x-api-key": "sk-ant"}, {"api-key": "k"}, {"x-api-key": "k"},
    {"x-portkey-provider": "azure-openai", "x-portkey-azure-resource-name": "one"},
    {"x-portkey-provider": "azure-openai", "x-portkey-azure-resource-name": "two"},
    {"x-portkey-azure-api-version": "v1"}, {"x-portkey-aws-region": "eu"}, {"host": "evil.example"},
    {"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {"x-forwarded-for": "10.0.0.1"},
    {"forwarded": "for=10.0.0.1"}, {"x-real-ip": "10.0.0.1"}, {"via": "1.1 a"}, {"user-agent": "other"},
]  # fmt: skip


def request(headers, client_address="127.0.0.1"):
    environ = {"REQUEST_METHOD": "GET", "wsgi.input": io.BytesIO(), "REMOTE_ADDR": client_address}
    return Request({**environ, **{"HTTP_" + name.upper().replace("-", "_"): text for name, text in headers.items()}})


def gate(source):
    return Gate(load(source, {}, PROVIDERS, {}), PROVIDERS)


def said(asked, made):
    """Who calls and where to, or why not."""
    try:
        admitted = asked.admit(made)
        return admitted.caller, admitted.target, admitted.headers
    except FilesproxyError as error:
        return type(error), error.message, error.code, error.param


@pytest.mark.parametrize("source", [None, KEYED, OPEN], ids=["nothing", "keyed", "open"])
def test_gate_that_has_seen_other_callers_says_what_a_new_one_says(source):
    requests = [({**CALLER, **other}, peer) for other in OTHERS for peer in ("127.0.0.1", "10.0.0.9")]
    experienced = gate(source)
    for _ in range(2):
        for headers, peer in requests:
            assert said(experienced, request(headers, peer)) == said(gate(source), request(headers, peer)), headers


def test_callers_that_differ_in_a_passing_header_are_one():
    asked = gate(None)
    first = asked.admit(request(CALLER))
    for name in PASSING:
        assert asked.admit(request({**CALLER, name: "5"})) is first


@pytest.mark.parametrize("source", [None, KEYED, OPEN], ids=["nothing", "keyed", "open"])
@pytest.mark.parametrize("name", sorted(PASSING))
def test_passing_header_changes_nothing_of_what_a_new_gate_says(name, source):
    for other in OTHERS:
        for value in ("", "fp_guest", "@vllm", "a b, c"):
            odd = request({**CALLER, **other, name: value})
            assert said(gate(source), odd) == said(gate(source), request({**CALLER, **other})), other


@pytest.mark.parametrize("kind", [
    {"client_headers": ("idempotency-key",)}, {"list_headers": ("traceparent",)}, {"client_headers": ("trace-id",)},
    {"client_settings": {"x-request-id": "api_version"}}, {"credential_headers": {"tracestate": "key"}},
    {"model_header": "x-portkey-trace-id"},
])  # fmt: skip
def test_passing_header_that_a_provider_of_ones_own_reads_does_not_pass(kind):
    providers = {**PROVIDERS, "own": {**PROVIDERS["openai"], **kind}}
    source = {**OPEN, "provider:own": {"kind": "own"}}
    asked = Gate(load(source, {}, providers, {}), providers)
    for whose in ("own", "@openai"):
        for name in [*PASSING, "x-portkey-trace-id"]:
            for value in ("1", "2", ""):
                made = request({**CALLER, "x-portkey-provider": whose, name: value})
                assert said(asked, made) == said(Gate(load(source, {}, providers, {}), providers), made), name


def test_caller_that_is_refused_is_not_remembered():
    asked = gate(KEYED)
    for number in range(3):
        with pytest.raises(Unauthorized):
            asked.admit(request({**CALLER, "authorization": f"Bearer fp_{number}"}))
    assert remembered(asked) == {}


def test_target_that_is_refused_is_refused_each_time():
    asked = gate(None)
    for _ in range(2):
        assert said(asked, request({**CALLER, "x-portkey-provider": "nobody"}))[0] is BadRequest


def test_memory_is_bounded_in_number():
    asked = gate(None)
    for number in range(3 * MAX_REMEMBERED):
        asked.admit(request({**CALLER, "authorization": f"Bearer sk-{number}"}))
        assert 0 < len(remembered(asked)) <= MAX_REMEMBERED


def test_headers_of_many_characters_are_not_remembered():
    asked = gate(None)
    for headers in ({"user-agent": "a" * MAX_CHARACTERS}, {"x-" + "a" * MAX_CHARACTERS: ""}):
        assert asked.admit(request({**CALLER, **headers})).target.name == "openai"
    assert remembered(asked) == {}
    asked.admit(request(CALLER))
    assert len(remembered(asked)) == 1


def test_what_is_remembered_holds_no_environ():
    asked = gate(None)
    asked.admit(request({**CALLER, "range": "bytes=0-1"}))
    (kept,) = remembered(asked).values()
    assert type(kept._head) is Head and kept._head.headers == CALLER


def remembered(asked):
    return asked._known


def test_no_credential_is_in_a_repr_of_who_and_where():
    asked = gate(None)
    admitted = asked.admit(request(CALLER))
    assert "sk-a" not in repr((admitted, admitted.caller, admitted.target))


def test_what_goes_along_is_nobodys_to_change():
    for _ in range(2):
        headers = gate(None).admit(request({**CALLER, "openai-organization": "org-a"})).headers
        assert headers == {"openai-organization": "org-a"}
        with pytest.raises(TypeError):
            headers["openai-organization"] = "org-b"


def test_headers_in_another_order_are_the_same():
    refused = {"openai-organization": "o", "openai-project": "p", "api-key": "k", "x-portkey-azure-foo": "f"}
    headers = {**CALLER, "x-portkey-provider": "@openai", **refused}
    asked = gate(KEYED)
    headers["authorization"] = "Bearer fp_team"
    backwards = dict(reversed(list(headers.items())))
    assert said(asked, request(headers)) == said(asked, request(backwards))
    assert len(remembered(asked)) == 1
