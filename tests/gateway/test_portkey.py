"""Portkey's own headers: configs, metadata, and those that nobody here reads."""

from __future__ import annotations

import json

import pytest
from configurations import hashed
from fakes import FILE, OPENAI, form, form_type

from filesproxy.errors import BadRequest
from filesproxy.gateway.portkey import MAX_METADATA_BYTES, read_config
from filesproxy.providers import PROVIDERS
from filesproxy.providers.table import scope_of

SCOPE = scope_of(PROVIDERS)
SAVED = {
    "filesproxy": {"open_access": "yes"},
    "provider:openai": {"credential": "sk-saved"},
    "provider:vllm": {"kind": "openai", "base_url": "https://vllm.example/v1", "credential": "none"},
}
FILE_1 = "/v1/files/file-1"


def config(**fields):
    return {"x-portkey-config": json.dumps(fields)}


def read(text):
    return read_config({"x-portkey-config": text}, SCOPE)


# A config


TAKEN = {
    "{}": ("", None, ()),
    '{"provider": "@vllm"}': ("@vllm", None, ()),
    '{"provider": "openai"}': ("openai", None, ()),
    '{"virtual_key": "vllm"}': ("@vllm", None, ()),
    '{"virtualKey": "vllm", "provider": "@vllm"}': ("@vllm", None, ()),
    '{"provider": "@vllm", "request_timeout": 1500}': ("@vllm", 1.5, ()),
    '{"requestTimeout": 1}': ("", 0.001, ()),
    '{"provider": null, "retry": null, "targets": null}': ("", None, ()),
    '{"provider": "@vllm", "retry": {"attempts": 3}, "cache": {"mode": "simple"}}': (
        "@vllm", None, ("x-portkey-config.retry", "x-portkey-config.cache")),
    '{"strategy": {"mode": "single"}, "overrideParams": {"model": "x"}, "weight": 1}': (
        "", None, tuple(f"x-portkey-config.{name}" for name in ("strategy", "override_params", "weight"))),
    ' {"forward_headers": ["x-a"], "\\u00e9": 1} ': ("", None, ("x-portkey-config.forward_headers",)),
    '{"virtual-key": "vllm", "retry-on": 1}': ("@vllm", None, ("x-portkey-config.retry_on",)),
    '{"provider": "@vllm", "Provider": null}': ("@vllm", None, ()),
    "": ("", None, ()),
}  # fmt: skip


@pytest.mark.parametrize("text", TAKEN)
def test_config_that_only_names_a_provider_is_taken_and_the_rest_of_it_named(text):
    assert tuple(read(text)) == TAKEN[text]


REFUSED = [
    "pc-a1b2c3", "@vllm", "[]", "[1]", "null", '"{}"', "{", '{"provider": "@vllm"', '{"provider": 1}',
    '{"provider": []}', '{"provider": "a b"}', '{"provider": "@vllm", "provider": "@openai"}',
    '{"provider": "@vllm", "virtual_key": "openai"}', '{"targets": [{"provider": "@vllm"}]}', '{"targets": []}',
    '{"provider": "@vllm", "custom_host": "https://evil.example"}',
    '{"customHost": "https://evil.example"}', '{"base_url": "https://evil.example"}', '{"api_key": "sk-canary"}',
    '{"apiKey": "sk-canary"}', '{"authorization": "Bearer sk-canary"}', '{"azure_resource_name": "evil"}',
    '{"awsSecretAccessKey": "sk-canary"}', '{"aws_region": "evil"}', '{"vertex_project_id": "evil"}',
    '{"openai_organization": "evil"}', '{"openaiProject": "evil"}', '{"x_api_key": "sk-canary"}',
    '{"request_timeout": 0}', '{"request_timeout": "5"}', '{"request_timeout": true}', '{"request_timeout": 1.5}',
    '{"request_timeout": -1}', '{"request_timeout": 1e400}', "[" * 5000, '{"a": ' * 500, '{"provider":"@vllm"},{}',
    "{é}",
]  # fmt: skip


REFUSED += [  # in two spellings, the last one won; and one with hyphens was nobody's
    '{"provider": "@vllm", "Provider": "@openai"}', '{"virtual_key": "vllm", "virtualKey": "openai"}',
    '{"virtual_key": "vllm", "virtualKey": "vllm"}', '{"request_timeout": 1, "requestTimeout": 2}',
    '{"custom-host": "https://evil.example"}', '{"Custom-Host": "https://evil.example"}', '{"api-key": "sk-canary"}',
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_config_that_would_change_where_a_request_goes_or_cannot_be_read_is_400_and_not_quoted(text):
    with pytest.raises(BadRequest) as refused:
        read(text)
    assert refused.value.param == "x-portkey-config"
    assert "evil" not in refused.value.message and "canary" not in refused.value.message


def test_provider_of_a_config_is_the_one_that_is_asked(make_client, upstream):
    upstream.answers(FILE)
    answer = make_client(SAVED).get(
        FILE_1, headers=config(provider="@vllm", retry={"attempts": 3}, request_timeout=9000)
    )
    assert answer.headers["x-portkey-provider"] == "@vllm"
    assert answer.headers["x-filesproxy-ignored"] == "x-portkey-config.retry"
    assert (upstream.targets[0].name, upstream.calls[0].timeout) == ("vllm", 9.0)


def test_config_is_read_again_for_the_next_request_with_another_one(make_client, upstream):
    upstream.answers(FILE)
    client = make_client(SAVED)
    for provider in ("@vllm", "@openai", "@vllm"):
        client.get(FILE_1, headers=config(provider=provider))
    assert [target.name for target in upstream.targets] == ["vllm", "openai", "vllm"]


def test_headers_and_config_name_one_provider_together(make_client, upstream):
    upstream.answers(FILE)
    client = make_client(SAVED)
    client.get(FILE_1, headers={**config(provider="@vllm"), "x-portkey-provider": "@vllm"})
    client.get(FILE_1, headers={**config(retry={"attempts": 1}), "x-portkey-provider": "@vllm"})
    client.get(FILE_1, headers={**config(provider="@vllm"), "x-portkey-provider": "@openai"}, status=400)
    client.get(FILE_1, headers={**config(virtual_key="vllm"), "x-portkey-virtual-key": "openai"}, status=400)
    assert len(upstream.calls) == 2


def test_time_limit_in_a_header_wins_over_the_configs(make_client, upstream):
    upstream.answers(FILE)
    headers = {**config(provider="@vllm", request_timeout=9000), "x-portkey-request-timeout": "2000"}
    make_client(SAVED).get(FILE_1, headers=headers)
    assert upstream.calls[0].timeout == 2.0


def test_provider_of_a_config_is_checked_like_any_other(make_client, upstream):
    keyed = {**SAVED, "key:team": {"sha256": hashed("fp_team"), "providers": "vllm"}}
    client = make_client(keyed)
    client.get(FILE_1, headers={"x-portkey-api-key": "fp_team", **config(provider="@openai")}, status=403)
    client.get(FILE_1, headers={"x-portkey-api-key": "fp_team", **config(provider="@nobody")}, status=400)
    client.get(FILE_1, headers=config(provider="@vllm"), status=401)
    assert upstream.calls == []


def test_model_may_name_the_provider_beside_a_config_that_names_none(make_client, upstream):
    upstream.answers({"choices": []})
    body = {"model": "@vllm/llama", "messages": [{"role": "user", "content": "hi"}]}
    make_client(SAVED).post_json("/v1/chat/completions", body, headers=config(cache={"mode": "simple"}))
    assert upstream.targets[0].name == "vllm"


# Headers that nobody reads


UNREAD = {
    "forward_headers": ({"x-portkey-forward-headers": "x-a,x-b", "x-a": "1"}, "x-portkey-forward-headers"),
    "forward_headers_that_are_not_there": ({"x-portkey-forward-headers": "x-a"}, None),
    "file_name": ({"x-portkey-provider-file-name": "a.txt"}, "x-portkey-provider-file-name"),
    "cache": ({"x-portkey-cache": "simple", "x-portkey-cache-force-refresh": "true"},
              "x-portkey-cache, x-portkey-cache-force-refresh"),
    "guardrails": ({"x-portkey-input-guardrails": "[]"}, "x-portkey-input-guardrails"),
    "of_another_provider": ({"x-portkey-azure-deployment-id": "d", "anthropic-beta": "a-1"},
                            "anthropic-beta, x-portkey-azure-deployment-id"),
    "of_the_future": ({"x-portkey-teleport": "yes"}, "x-portkey-teleport"),
    "descriptive": ({"x-portkey-package-version": "portkey-1", "x-portkey-runtime": "CPython",
                     "x-portkey-runtime-version": "3.9", "x-portkey-span-id": "1", "x-portkey-debug": "false"}, None),
    "read": ({"x-portkey-strict-open-ai-compliance": "false", "x-portkey-trace-id": "t", "x-portkey-openai-beta": "a=1",
              "x-portkey-request-timeout": "60000"}, None),
    "empty": ({"x-portkey-cache": "", "x-portkey-forward-headers": " "}, None),
    "not_portkeys": ({"x-a": "1", "user-agent": "x"}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREAD)
def test_header_that_would_change_a_calls_meaning_and_that_nobody_reads_is_named(name, client, upstream):
    headers, expected = UNREAD[name]
    upstream.answers(FILE)
    answer = client.get(FILE_1, headers={**OPENAI, **headers})
    assert answer.headers.get("x-filesproxy-ignored") == expected
    assert not {"x-a", "x-portkey-cache", "anthropic-beta"} & set(upstream.calls[0].headers)


def test_betas_of_one_provider_are_named_at_another(client, upstream):
    upstream.chunks = [b"x"]
    headers = {"x-portkey-provider": "anthropic", "x-api-key": "sk-a", "openai-beta": "assistants=v2"}
    answer = client.get("/v1/files/file_1/content", headers=headers)
    assert answer.headers["x-filesproxy-ignored"] == "openai-beta" and "openai-beta" not in upstream.calls[0].headers


def test_all_that_is_ignored_is_named_together(client, upstream):
    upstream.answers(FILE)
    body = form(("purpose", "batch"), ("shade", "blue"), ("file", "a", "", b"x"))
    headers = {**OPENAI, "content-type": form_type(), "x-portkey-cache": "simple", **config(retry={"attempts": 2})}
    answer = client.post("/v1/files", body, headers)
    assert answer.headers["x-filesproxy-ignored"] == "shade, x-portkey-config.retry, x-portkey-cache"


FORWARDS = {
    "asked_and_allowed": ("x-a, X-B", {"x-a": "1", "x-b": "2"}, None),
    "allowed_but_not_asked": ("x-a", {"x-a": "1"}, None),
    "asked_but_not_allowed": ("x-a,x-c", {"x-a": "1"}, "x-portkey-forward-headers"),
    "credentials": ("authorization,x-portkey-api-key,cookie", {}, "x-portkey-forward-headers"),
    "not_sendable": ("x-odd", {}, "x-portkey-forward-headers"),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_header_is_forwarded_where_the_client_asks_and_the_operator_allows(name, make_client, upstream):
    asked, sent, ignored = FORWARDS[name]
    upstream.answers(FILE)
    allowed = {**SAVED["provider:vllm"], "forward_headers": "x-a x-b x-key x-odd"}
    headers = {"x-a": "1", "x-b": "2", "x-c": "3", "cookie": "a=b", "x-odd": "a\tb"}
    named = {"x-portkey-provider": "@vllm", "x-portkey-forward-headers": asked, "authorization": "Bearer sk-caller"}
    answer = make_client({**SAVED, "provider:vllm": allowed}).get(FILE_1, headers={**headers, **named})
    assert upstream.calls[0].headers == sent and answer.headers.get("x-filesproxy-ignored") == ignored


def test_forwarded_header_never_replaces_one_of_the_gateways(make_client, upstream):
    upstream.answers(FILE)
    own = {"base_url": "https://a.example/v1", "credential": "sk-ant-saved", "forward_headers": "anthropic-version"}
    headers = {"x-portkey-provider": "@anthropic", "x-portkey-forward-headers": "anthropic-version",
               "anthropic-version": "2026-10-21"}  # fmt: skip
    make_client({"filesproxy": SAVED["filesproxy"], "provider:anthropic": own}).get(
        FILE_1 + "/content", headers=headers
    )
    assert upstream.calls[0].headers["anthropic-version"] == "2023-06-01"


# Metadata


LOGGED = [
    ({"_user": "u-1", "team": "red"}, {"_user": "u-1", "team": "red"}),
    ({"n": 1, "x": 1.5, "yes": True}, {"n": 1, "x": 1.5, "yes": True}),
    ({}, {}),
    ({"é": "日本語"}, {"é": "日本語"}),
    ({"token": "sk-caller is mine"}, {"token": "[redacted] is mine"}),
]
NOT_LOGGED = ["pc", "[]", "null", "{", '{"a": {"b": 1}}', '{"a": [1]}', '{"a": null}', '{"a": 1, "a": 2}',
              '{"a": "' + "x" * MAX_METADATA_BYTES + '"}',
              json.dumps({"a": "é" * 500})]  # fmt: skip


@pytest.mark.parametrize("given,logged", LOGGED)
def test_metadata_is_in_the_log_if_the_operator_wants_it(given, logged, make_client, upstream, access_log):
    upstream.answers(FILE)
    headers = {**OPENAI, "x-portkey-metadata": json.dumps(given, ensure_ascii=False).encode().decode("latin-1")}
    answer = make_client(log_metadata=True).get(FILE_1, headers=headers)
    assert access_log()[0]["metadata"] == logged and "x-filesproxy-ignored" not in answer.headers
    assert "x-portkey-metadata" not in upstream.calls[0].headers


@pytest.mark.parametrize("text", NOT_LOGGED)
def test_metadata_that_cannot_be_logged_is_named_and_does_not_stop_the_request(text, make_client, upstream, access_log):
    upstream.answers(FILE)
    answer = make_client(log_metadata=True).get(FILE_1, headers={**OPENAI, "x-portkey-metadata": text})
    assert answer.headers["x-filesproxy-ignored"] == "x-portkey-metadata" and "metadata" not in access_log()[0]


def test_metadata_is_in_no_log_by_default_and_named(client, upstream, access_log):
    upstream.answers(FILE)
    answer = client.get(FILE_1, headers={**OPENAI, "x-portkey-metadata": '{"_user": "u-1"}'})
    assert answer.headers["x-filesproxy-ignored"] == "x-portkey-metadata"
    assert "metadata" not in access_log()[0] and "u-1" not in json.dumps(access_log())


def test_line_of_the_log_with_metadata_is_written_whole(make_client, upstream, access_log):
    upstream.answers(FILE)
    headers = {**OPENAI, "x-portkey-metadata": json.dumps({"a": "x" * (MAX_METADATA_BYTES - 20)})}
    make_client(log_metadata=True).get(FILE_1, headers=headers)
    assert 2000 < len(json.dumps(access_log()[0])) < 4096  # PIPE_BUF
