"""The target of a request: the provider that its headers name, with that provider's settings, and the credential."""

from __future__ import annotations

import io

import pytest
from configurations import hashed
from fakes import FILE

from filesproxy.config.load import Key, load
from filesproxy.errors import BadRequest, Forbidden, Unauthorized
from filesproxy.gateway.auth import Caller
from filesproxy.gateway.request import Request
from filesproxy.gateway.target import resolve
from filesproxy.providers import PROVIDERS
from filesproxy.redaction import Secret

COMPATIBLE = {"provider:vllm": {"kind": "openai", "base_url": "http://10.0.0.5:8000/v1/", "read_timeout": "5"}}
TEAM = Key("team", (hashed("fp_team"),), ("*",), ("*",), True)
CALLER = Caller(TEAM, Secret("sk-a"))
NOBODY = Caller(None, Secret("sk-a"))
SAVED = {"filesproxy": {"open_access": "yes"}, "provider:openai": {"credential": "sk-saved", "read_timeout": "5"}}


def credential_of(found):
    """The first secret of a target, "" if it has none."""
    return next(iter(found.credentials), Secret())


def target(headers, config=None, caller=CALLER, providers=PROVIDERS, client_address="127.0.0.1", **settings):
    environ = {
        "REQUEST_METHOD": "GET",
        "wsgi.input": io.BytesIO(),
        "REMOTE_ADDR": client_address,
        "HTTP_HOST": "localhost",
    }
    named = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in headers.items()}
    return resolve(Request({**environ, **named}), caller, load(config, settings, providers, {}), providers)


@pytest.mark.parametrize(
    "headers",
    [{"x-portkey-provider": "openai"}, {"x-portkey-provider": " openai "}],
)  # fmt: skip
def test_provider_is_the_one_that_a_header_names(headers):
    found = target(headers)
    assert (found.name, found.base_url, credential_of(found), found.owner) == (
        "openai",
        "https://api.openai.com/v1",
        "sk-a",
        "team",
    )
    assert found.provider is PROVIDERS["openai"]


def test_default_provider_without_a_credential_tells_a_key_what_its_operator_can_do():
    team = Caller(Key("team", (), ("*",), ("*",), False))
    with pytest.raises(Forbidden, match="`credential = none` for a host that asks for none"):
        target({}, COMPATIBLE, team, default_provider="vllm")
    with pytest.raises(Forbidden, match="name one as @NAME"):
        target({"x-portkey-provider": "vllm"}, COMPATIBLE, team)


def test_request_that_names_no_provider_goes_to_the_default_one():
    assert target({}, default_provider="openai").name == "openai"
    assert target({"x-portkey-provider": "vllm"}, COMPATIBLE, default_provider="openai").name == "vllm"


def test_configured_provider_has_its_own_url_and_settings():
    found = target({"x-portkey-provider": "vllm"}, COMPATIBLE, connect_timeout="3")
    assert (found.base_url, found.provider) == ("http://10.0.0.5:8000/v1", PROVIDERS["openai"])
    assert (found.settings["read_timeout"], found.settings["connect_timeout"], found.settings["send_timeout"]) == (
        5.0,
        3.0,
        60.0,
    )
    assert target({"x-portkey-provider": "openai"}, COMPATIBLE).base_url == "https://api.openai.com/v1"


def test_base_url_of_a_provider_may_be_a_function_of_the_target():
    providers = {"azure": {**PROVIDERS["openai"], "base_url": lambda target: f"https://{target.name}.example/v1"}}
    assert target({"x-portkey-provider": "azure"}, providers=providers).base_url == "https://azure.example/v1"
    config = {"provider:own": {"kind": "azure-openai", "base_url": "https://other.example/openai", "api_version": "v1"}}
    assert target({"x-portkey-provider": "own"}, config).base_url == "https://other.example/openai/v1"


@pytest.mark.parametrize("name", ["", "none", "@none"])
def test_request_without_a_provider_is_400_and_names_the_missing_header(name):
    with pytest.raises(BadRequest, match="x-portkey-provider") as refused:
        target({"x-portkey-provider": name})
    assert (refused.value.code, refused.value.param) == ("unknown_provider", "x-portkey-provider")


@pytest.mark.parametrize(
    "name",
    ["nobody", "OpenAI", "@@openai", "openai@", "local", "../openai", "openai/gpt", "https://evil.example",
     "provider:openai", "none@"],
)  # fmt: skip
def test_unknown_provider_is_400_and_not_quoted(name):
    with pytest.raises(BadRequest) as refused:
        target({"x-portkey-provider": name})
    assert refused.value.code == "unknown_provider" and (
        name in ("local", "provider:openai") or name not in refused.value.message
    )


@pytest.mark.parametrize("name", ["x-portkey-provider", "x-portkey-virtual-key"])
@pytest.mark.parametrize("value", ["openai,openai", "openai, vllm", "open ai", "openaï"])
def test_repeated_or_malformed_provider_header_is_400(name, value):
    with pytest.raises(BadRequest) as refused:
        target({name: value})
    assert refused.value.param == name


@pytest.mark.parametrize("name", ["x-portkey-custom-host"])
@pytest.mark.parametrize("value", ["https://evil.example", "{}", ""])
def test_header_that_would_change_the_host_is_400_whatever_its_value(name, value):
    with pytest.raises(BadRequest) as refused:
        target({"x-portkey-provider": "openai", name: value})
    assert refused.value.param == name and "evil" not in refused.value.message


def test_other_headers_do_not_change_the_host():
    headers = {"x-portkey-provider": "openai", "host": "evil.example", "x-forwarded-host": "evil.example",
               "api-base": "https://evil.example",
               "base-url": "https://evil.example", "x-portkey-base-url": "https://evil.example"}  # fmt: skip
    assert target(headers).base_url == "https://api.openai.com/v1"


def test_missing_credential_is_401():
    with pytest.raises(Unauthorized) as refused:
        target({"x-portkey-provider": "openai"}, caller=Caller(TEAM))
    assert refused.value.code == "invalid_api_key"


def test_unknown_provider_is_reported_before_a_missing_credential():
    with pytest.raises(BadRequest):
        target({"x-portkey-provider": "nobody"}, caller=Caller())


def test_local_store_needs_a_folder_and_never_gets_a_credential(tmp_path):
    found = target({"x-portkey-provider": "local"}, folder=str(tmp_path))
    assert (found.base_url, credential_of(found), found.owner) == (f"local:{tmp_path}", "", "team")


def test_local_store_answers_this_machine_only(tmp_path):
    for elsewhere in (
        {"client_address": "192.0.2.1"},
        {"headers": {"host": "evil.example"}},
        {"headers": {"origin": "null"}},
    ):
        headers = {"x-portkey-provider": "local", **elsewhere.pop("headers", {})}
        with pytest.raises(Forbidden):
            target(headers, folder=str(tmp_path), caller=NOBODY, **elsewhere)
        assert target(headers, folder=str(tmp_path), **elsewhere).owner == "team"


def test_two_local_stores_have_two_folders(tmp_path):
    config = {"provider:other": {"kind": "local", "folder": str(tmp_path / "b")}}
    folders = [
        target({"x-portkey-provider": name}, config, folder=str(tmp_path / "a")).settings["folder"]
        for name in ("local", "other")
    ]
    assert folders == [str(tmp_path / "a"), str(tmp_path / "b")]


# headers that name the provider, and whether they ask for the saved credential
NAMED = [
    ({"x-portkey-provider": "@openai"}, True),
    ({"x-portkey-virtual-key": "openai"}, True),
    ({"x-portkey-virtual-key": "@openai"}, True),
    ({"x-portkey-provider": "@openai", "x-portkey-virtual-key": "openai"}, True),
    ({"x-portkey-provider": "openai"}, False),
    ({"x-portkey-provider": " openai "}, False),
    ({}, True),
]


@pytest.mark.parametrize("headers,saved", NAMED)
@pytest.mark.parametrize("caller", [CALLER, NOBODY], ids=["key", "no_key"])
def test_only_a_saved_provider_uses_the_saved_credential(headers, saved, caller):
    found = target(headers, SAVED, caller, default_provider="openai")
    assert (found.name, found.is_saved) == ("openai", saved)
    assert credential_of(found) == ("sk-saved" if saved else "sk-a") and type(credential_of(found)) is Secret
    assert found.settings["read_timeout"] == 5.0  # the section's settings apply in both cases
    assert found.owner == caller.name


@pytest.mark.parametrize("headers,saved", NAMED)
def test_without_a_saved_credential_a_plain_name_works_and_a_saved_provider_is_400(headers, saved):
    if headers and saved:
        with pytest.raises(BadRequest, match="without @") as refused:
            target(headers, default_provider="openai")
        assert refused.value.code == "unknown_provider"
    else:
        found = target(headers, default_provider="openai")
        assert (found.name, found.is_saved, credential_of(found)) == ("openai", False, "sk-a")


def test_plain_name_without_the_callers_credential_is_401_even_if_one_is_saved():
    for caller in (Caller(TEAM), Caller()):
        with pytest.raises(Unauthorized):
            target({"x-portkey-provider": "openai"}, SAVED, caller)


def test_saved_credential_is_used_for_its_own_provider_only():
    config = {**SAVED, "provider:second": {"kind": "openai", "base_url": "https://second.example/v1"}}
    for caller in (CALLER, NOBODY, Caller(TEAM)):
        with pytest.raises(BadRequest) as refused:
            target({"x-portkey-provider": "@second"}, config, caller)
        assert refused.value.code == "unknown_provider"
    with pytest.raises(Unauthorized):
        target({"x-portkey-provider": "second"}, config, Caller(TEAM))
    assert credential_of(target({"x-portkey-provider": "second"}, config)) == "sk-a"


@pytest.mark.parametrize(
    "headers",
    [{"x-portkey-provider": "openai", "x-portkey-virtual-key": "openai"},
     {"x-portkey-provider": "@openai", "x-portkey-virtual-key": "nobody"}, {"x-portkey-provider": "@"}],
)  # fmt: skip
def test_headers_that_name_different_providers_are_400(headers):
    with pytest.raises(BadRequest) as refused:
        target(headers, SAVED)
    assert refused.value.param == "x-portkey-provider"


def test_saved_azure_goes_to_its_resource_and_version():
    config = {
        "provider:prod": {"kind": "azure-openai", "resource": "mine", "credential": "sk-saved", "api_version": "v1"}
    }
    found = target({"x-portkey-provider": "@prod"}, config, open_access=True)
    assert (found.base_url, credential_of(found)) == ("https://mine.openai.azure.com/openai/v1", "sk-saved")


SCOPE_HEADERS = [
    "api-key",
    "x-api-key",
    "openai-organization",
    "openai-project",
    "anthropic-workspace-id",
    "x-portkey-anthropic-workspace-id",
    "x-portkey-x-api-key",
    "x-portkey-openai-organization",
    "x-portkey-openai-project",
    "x-portkey-azure-resource-name",
    "x-portkey-azure-api-version",
    "x-portkey-azure-ad-token",
    "x-portkey-azure-auth-mode",
    "x-portkey-azure-entra-tenant-id",
    "x-portkey-azure-model-name",
    "x-portkey-azure-anything",
    "x-portkey-aws-access-key-id",
    "x-portkey-aws-secret-access-key",
    "x-portkey-aws-session-token",
    "x-portkey-aws-region",
    "x-portkey-aws-s3-bucket",
    "x-portkey-aws-role-arn",
    "x-portkey-amz-server-side-encryption",
    "x-portkey-vertex-project-id",
    "x-portkey-vertex-region",
    "x-portkey-vertex-storage-bucket-name",
    "x-portkey-custom-host",
]
SEVERAL = {
    "filesproxy": {"default_provider": "openai"},
    "provider:openai": {"credential": "sk-saved"},
    "provider:azure": {"kind": "azure-openai", "resource": "mine", "credential": "sk-azure"},
}
WITH_KEY = {**SEVERAL, "key:team": {"sha256": hashed("fp_team"), "providers": "*", "caller_credentials": "yes"}}
WITHOUT = {**SEVERAL, "filesproxy": {"default_provider": "openai", "open_access": "yes"}}
NAMES = [{"x-portkey-provider": "@openai"}, {"x-portkey-virtual-key": "azure"}, {"x-portkey-provider": "@azure"}, {}]


@pytest.mark.parametrize("value", ["evil.example", "", " "])
@pytest.mark.parametrize("header", SCOPE_HEADERS)
def test_header_that_changes_address_or_scope_of_a_saved_provider_is_400(header, value, make_client, upstream):
    for config in (WITH_KEY, WITHOUT):
        client = make_client(config)
        for named in NAMES:
            for method, path in (("GET", "/v1/files"), ("GET", "/v1/files/file-1/content"), ("DELETE", "/v1/files/a")):
                headers = {**named, "x-portkey-api-key": "fp_team", header: value}
                answer = client.request(path, method=method, headers=headers, status=400)
                assert answer.json["error"]["param"] == header and "evil" not in answer.text
    assert upstream.calls == []


@pytest.mark.parametrize("header", ["x-portkey-azure-deployment-id", "x-portkey-metadata", "x-portkey-trace-id",
                                    "x-portkey-retry", "user-agent", "x-stainless-lang", "anthropic-beta"])  # fmt: skip
def test_header_that_changes_neither_is_accepted_and_not_sent_on(header, make_client, upstream):
    upstream.answers(FILE)
    headers = {"x-portkey-provider": "@openai", "x-portkey-api-key": "fp_team", header: "value-1"}
    make_client(WITH_KEY).get("/v1/files/file-1", headers=headers)
    assert upstream.calls[0].headers == {"authorization": "Bearer sk-saved"}


ELSEWHERE = [
    ({"host": "gateway.example"}, "127.0.0.1"),
    ({"host": "127.0.0.1.evil.example"}, "127.0.0.1"),
    ({"origin": "http://evil.example"}, "127.0.0.1"),
    ({"origin": "null"}, "127.0.0.1"),
    ({"origin": "http://localhost:1"}, "127.0.0.1"),
    ({}, "192.0.2.1"),
    ({"x-forwarded-for": "127.0.0.1"}, "192.0.2.1"),
    ({"authorization": "Bearer sk-a"}, "192.0.2.1"),
    ({"x-portkey-api-key": "fp_team"}, "192.0.2.1"),
]


@pytest.mark.parametrize("headers,address", ELSEWHERE)
def test_open_access_is_for_this_machine_only(headers, address, make_client, upstream):
    client = make_client(WITHOUT)
    for named in NAMES:
        client.get("/v1/files", headers={**named, **headers}, extra_environ={"REMOTE_ADDR": address}, status=403)
    assert upstream.calls == []


@pytest.mark.parametrize("headers", [{}, {"origin": "http://localhost"}, {"host": "[::1]:8787"}, {"host": "127.0.0.1"},
                                     {"authorization": "Bearer OPENAI_API_KEY"}, {"authorization": "Bearer sk-a"},
                                     {"x-portkey-api-key": "fp_anything"}])  # fmt: skip
def test_open_access_lets_this_machine_use_the_saved_credential(headers, make_client, upstream):
    upstream.answers(FILE)
    make_client(WITHOUT).get("/v1/files/file-1", headers={"x-portkey-provider": "@openai", **headers})
    assert upstream.calls[0].headers == {"authorization": "Bearer sk-saved"}


@pytest.mark.parametrize("status", [401, 403])
def test_saved_credential_that_the_provider_refuses_is_502_and_the_callers_own_keeps_its_status(
    status, make_client, upstream, access_log
):
    words = {
        "message": "Incorrect API key provided: sk-saved.",
        "type": "auth",
        "param": None,
        "code": "invalid_api_key",
    }
    upstream.answers({"error": words}, status, x_request_id="req_1")
    client = make_client(WITH_KEY)
    key = {"x-portkey-api-key": "fp_team"}
    answer = client.get("/v1/files/file-1", headers={**key, "x-portkey-provider": "@openai"}, status=502)
    assert answer.json["error"]["code"] == "upstream_credential_rejected" and "sk-saved" not in answer.text
    own = {**key, "x-portkey-provider": "openai", "authorization": "Bearer sk-a"}
    answer = client.get("/v1/files/file-1", headers=own, status=status)
    assert answer.json["error"]["message"] == words["message"] and answer.json["error"]["code"] == "invalid_api_key"
    assert [line["status"] for line in access_log()] == [502, status]
    assert all(body.closed for body in upstream.bodies)


@pytest.mark.parametrize("status", [400, 404, 429, 500])
def test_other_errors_with_a_saved_credential_keep_their_status(status, make_client, upstream):
    upstream.answers({"error": {"message": "No."}}, status)
    headers = {"x-portkey-provider": "@openai", "x-portkey-api-key": "fp_team"}
    assert (
        make_client(WITH_KEY).get("/v1/files/file-1", headers=headers, status=status).json["error"]["message"] == "No."
    )


# Hosts that ask for no credential, such as vLLM and Ollama: `credential = none`.
WITHOUT_CREDENTIAL = {
    "openai": ({"kind": "openai", "base_url": "https://vllm.example/v1"}, {}),
    "azure-openai": ({"kind": "azure-openai", "base_url": "https://vllm.example/openai"}, {}),
    "azure_bearer": ({"kind": "azure-openai", "base_url": "https://vllm.example/openai", "auth": "bearer"}, {}),
    "anthropic": (
        {"kind": "anthropic", "base_url": "https://vllm.example/v1"},
        {"anthropic-version": "2023-06-01"},
    ),
}


@pytest.mark.parametrize("kind", WITHOUT_CREDENTIAL)
def test_host_without_a_credential_gets_none_not_even_the_callers(kind, make_client, upstream, access_log):
    section, headers = WITHOUT_CREDENTIAL[kind]
    config = {
        "key:team": {"sha256": hashed("fp_team"), "providers": "*"},
        "provider:vllm": {**section, "credential": "none"},
    }
    upstream.chunks = [b"none of the content is redacted"]
    sent = {"x-portkey-api-key": "fp_team", "x-portkey-provider": "@vllm", "authorization": "Bearer sk-caller"}
    answer = make_client(config).get("/v1/files/file-1/content", headers=sent)
    assert answer.text == "none of the content is redacted"
    assert {name: text for name, text in upstream.calls[0].headers.items() if name != "anthropic-beta"} == headers
    assert not list(upstream.targets[0].credentials) and access_log()[0]["provider"] == "@vllm"


NONE = {"provider:vllm": {"kind": "openai", "base_url": "http://127.0.0.1:8000/v1", "credential": "none"}}


def test_host_without_a_credential_is_named_by_slug_model_and_default_but_by_no_plain_name(make_client, upstream):
    upstream.answers({"choices": []})
    client, chat = make_client(NONE), {"model": "@vllm/llama", "messages": [{"role": "user", "content": "hi"}]}
    client.post_json("/v1/chat/completions", chat)
    client.post_json("/v1/chat/completions", {**chat, "model": "llama"}, headers={"x-portkey-virtual-key": "vllm"})
    make_client({**NONE, "filesproxy": {"default_provider": "vllm"}}).get("/v1/batches/batch_1")
    assert [target.name for target in upstream.targets] == ["vllm"] * 3
    assert [call.headers for call in upstream.calls] == [{}] * 3
    client.get("/v1/batches/batch_1", headers={"x-portkey-provider": "vllm"}, status=401)


@pytest.mark.parametrize(
    "odd", [{"origin": "http://evil.example"}, {"x-forwarded-for": "1.2.3.4"}, {"host": "a.example"}]
)
def test_host_without_a_credential_is_for_this_machine_only_where_there_are_no_keys(odd, make_client, upstream):
    make_client(NONE).get("/v1/files", headers={"x-portkey-provider": "@vllm", **odd}, status=403)
    assert upstream.calls == []


def test_host_without_a_credential_is_only_for_keys_that_list_it(make_client, upstream):
    config = {**NONE, "key:team": {"sha256": hashed("fp_team"), "providers": "openai"}}
    headers = {"x-portkey-provider": "@vllm", "x-portkey-api-key": "fp_team"}
    make_client(config).get("/v1/files", headers=headers, status=403)
    assert upstream.calls == []


def test_host_that_asks_for_a_credential_after_all_is_502_with_the_cause(make_client, upstream):
    upstream.answers({"error": "no"}, 401)
    answer = make_client(NONE).get("/v1/files", headers={"x-portkey-provider": "@vllm"}, status=502).json["error"]
    assert answer["message"] == "The provider asks for a credential, and none is saved."
