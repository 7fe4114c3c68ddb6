"""Who calls, where to, and which headers go along; and that a remembered answer is never another caller's."""

from __future__ import annotations

import contextlib
import io

import pytest
from configurations import hashed

from filesproxy.config.load import load
from filesproxy.errors import BadRequest, FilesproxyError, Unauthorized
from filesproxy.gateway.admission import MAX_CHARACTERS, MAX_REMEMBERED, Admission, Gate
from filesproxy.gateway.request import Head, Request
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


def outcome(gate, request):
    """Who calls, where to, and what goes along; or why not."""
    try:
        admission = gate.admit(request)
        target = admission.target
        secrets = list(target.credentials)
        return (
            admission.caller,
            admission.sharer,
            target._replace(credentials=None),
            secrets,
            admission.headers_to(target),
        )
    except FilesproxyError as error:
        return type(error), error.message, error.code, error.param


@pytest.mark.parametrize("source", [None, KEYED, OPEN], ids=["nothing", "keyed", "open"])
def test_gate_that_has_seen_other_callers_says_what_a_new_one_says(source):
    requests = [({**CALLER, **other}, peer) for other in OTHERS for peer in ("127.0.0.1", "10.0.0.9")]
    experienced = gate(source)
    for _ in range(2):
        for headers, peer in requests:
            assert outcome(experienced, request(headers, peer)) == outcome(gate(source), request(headers, peer)), (
                headers
            )


def test_request_counts_for_its_key_and_without_keys_for_its_clients_address():
    proxies = {"filesproxy": {"trusted_proxies": "127.0.0.1"}}
    forwarded = {**CALLER, "x-forwarded-for": "203.0.113.1, 198.51.100.7"}
    asked = gate({**KEYED, **proxies})
    for name in ("team", "guest"):
        assert asked.admit(request({**forwarded, "authorization": f"Bearer fp_{name}"})).sharer == name
    asked = gate(proxies)
    assert asked.admit(request(forwarded)).sharer == "198.51.100.7"
    assert asked.admit(request(forwarded, "10.0.0.9")).sharer == "10.0.0.9"
    assert asked.admit(request({**CALLER, "x-forwarded-for": "198.51.100.8"})).sharer == "198.51.100.8"
    assert gate(None).admit(request(forwarded, "")).sharer == ""  # a Unix socket is one caller


PER_REQUEST = ["x-amzn-trace-id", "traceparent", "x-request-id", "x-portkey-trace-id", "content-length", "range",
               "idempotency-key", "user-agent", "x-stainless-retry-count"]  # fmt: skip


def test_headers_that_are_not_read_make_no_difference():
    """A load balancer adds an id of its own to each request; that must not make every head a new one."""
    asked = gate(None)
    first = asked.admit(request(CALLER))
    for name in PER_REQUEST:
        for value in ("1", "2", "fp_guest", "a b, c"):
            assert asked.admit(request({**CALLER, name: value})) is first, name
    assert len(remembered(asked)) == 1


class Recorder(dict):
    """Headers that note which of them are asked for by name."""

    def __init__(self, headers, seen):
        super().__init__(headers)
        self._seen = seen

    def get(self, name, default=None):
        self._seen.add(name)
        return super().get(name, default)

    def __getitem__(self, name):
        self._seen.add(name)
        return super().__getitem__(name)

    def __contains__(self, name):
        self._seen.add(name)
        return super().__contains__(name)


PRIVATE = {
    **PROVIDERS,
    "own": {
        **PROVIDERS["openai"],
        "client_headers": ("idempotency-key", "trace-id"),
        "list_headers": ("traceparent",),
        "settings": PROVIDERS["azure-openai"]["settings"],
        "client_settings": {"x-request-id": "api_version"},
        "credential_headers": {"tracestate": {"auth": "key"}},
        "model_header": "x-portkey-model",
    },
}


@pytest.mark.parametrize("source", [None, KEYED, OPEN], ids=["nothing", "keyed", "open"])
@pytest.mark.parametrize("provider", [*PRIVATE, "@openai", ""])
def test_every_header_that_is_read_belongs_to_what_a_head_is_known_by(provider, source):
    loaded = load({**(source or {}), "provider:own": {"kind": "own"}}, {}, PRIVATE, {})
    asked, seen = Gate(loaded, PRIVATE), set()
    for other in OTHERS:
        head = Head(Recorder({**CALLER, **other, "x-portkey-provider": provider}, seen), "127.0.0.1")
        with contextlib.suppress(FilesproxyError):
            admission = Admission(head, loaded, PRIVATE)
            admission.headers_to(admission.target)
    assert {"authorization", "x-portkey-provider"} <= seen
    assert {name for name in seen if name and not name.startswith(loaded.scope.prefixes)} <= set(asked._names)


@pytest.mark.parametrize("header", ["x-portkey-aws-region", "x-portkey-azure-anything", "x-portkey-vertex-project"])
def test_header_that_is_refused_by_the_beginning_of_its_name_is_refused_after_a_call_without_it(header):
    asked = gate(OPEN)
    saved = {**CALLER, "x-portkey-provider": "@openai"}
    assert asked.admit(request(saved)).target.is_saved
    with pytest.raises(BadRequest):
        asked.admit(request({**saved, header: "x"})).target  # noqa: B018


def test_caller_that_is_refused_is_not_remembered():
    asked = gate(KEYED)
    for number in range(3):
        with pytest.raises(Unauthorized):
            asked.admit(request({**CALLER, "authorization": f"Bearer fp_{number}"}))
    assert remembered(asked) == {}


def test_target_that_is_refused_is_refused_each_time():
    asked = gate(None)
    for _ in range(2):
        assert outcome(asked, request({**CALLER, "x-portkey-provider": "nobody"}))[0] is BadRequest


def test_memory_is_bounded_in_number():
    asked = gate(None)
    for number in range(3 * MAX_REMEMBERED):
        asked.admit(request({**CALLER, "authorization": f"Bearer sk-{number}"}))
        assert 0 < len(remembered(asked)) <= MAX_REMEMBERED


def test_head_of_many_characters_is_not_remembered():
    asked = gate(None)
    long = {"authorization": "Bearer " + "a" * (MAX_CHARACTERS - 20)}
    assert asked.admit(request({**CALLER, **long})).target.name == "openai"
    assert remembered(asked) == {}
    asked.admit(request(CALLER))
    assert len(remembered(asked)) == 1


def test_head_with_long_names_of_headers_is_not_remembered():
    """62 MB in a worker: names of refused headers counted as nothing."""
    asked = gate(None)
    asked.admit(request({**CALLER, **{f"x-portkey-azure-{number}" + "a" * 100: "" for number in range(60)}}))
    assert remembered(asked) == {}


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


def test_headers_that_go_along_are_read_only():
    asked = gate(None)
    for _ in range(2):
        admission = asked.admit(request({**CALLER, "openai-organization": "org-a"}))
        headers = admission.headers_to(admission.target)
        assert headers == {"openai-organization": "org-a"}
        with pytest.raises(TypeError):
            headers["openai-organization"] = "org-b"


def test_headers_in_another_order_are_the_same():
    refused = {"openai-organization": "o", "openai-project": "p", "api-key": "k", "x-portkey-azure-foo": "f"}
    headers = {**CALLER, "x-portkey-provider": "@openai", **refused}
    asked = gate(KEYED)
    headers["authorization"] = "Bearer fp_team"
    backwards = dict(reversed(list(headers.items())))
    assert outcome(asked, request(headers)) == outcome(asked, request(backwards))
    assert len(remembered(asked)) == 1
