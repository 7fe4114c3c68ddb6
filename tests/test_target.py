"""Where a request goes: the provider its headers name, with that provider's settings and the caller's credential."""

from __future__ import annotations

import io

import pytest

from filesproxy.auth import Caller
from filesproxy.config import load
from filesproxy.errors import BadRequest, Forbidden, Unauthorized
from filesproxy.providers import PROVIDERS
from filesproxy.target import resolve
from filesproxy.wsgi import Request

COMPATIBLE = {"provider:vllm": {"kind": "openai", "base_url": "http://10.0.0.5:8000/v1/", "read_timeout": "5"}}
CALLER = Caller("team", "sk-a")


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
    [{"x-portkey-provider": "openai"}, {"x-portkey-provider": "@openai"}, {"x-portkey-virtual-key": "openai"},
     {"x-portkey-provider": " openai "}, {"x-portkey-provider": "openai", "x-portkey-virtual-key": "nobody"}],
)  # fmt: skip
def test_provider_is_the_one_that_a_header_names(headers):
    found = target(headers)
    assert (found.name, found.base_url, found.credential, found.owner) == (
        "openai",
        "https://api.openai.com/v1",
        "sk-a",
        "team",
    )
    assert found.provider is PROVIDERS["openai"]


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
    set_one = {"provider:azure": {"base_url": "https://other.example"}}
    assert target({"x-portkey-provider": "azure"}, set_one, providers=providers).base_url == "https://other.example"


@pytest.mark.parametrize("name", ["", "none", "@none"])
def test_request_that_names_nobody_is_400_and_says_which_header_is_missing(name):
    with pytest.raises(BadRequest, match="x-portkey-provider") as refused:
        target({"x-portkey-provider": name})
    assert (refused.value.code, refused.value.param) == ("unknown_provider", "x-portkey-provider")


@pytest.mark.parametrize(
    "name",
    ["nobody", "OpenAI", "@@openai", "openai@", "local", "../openai", "openai/gpt", "https://evil.example",
     "provider:openai", "none@"],
)  # fmt: skip
def test_unknown_provider_is_400_and_not_repeated(name):
    with pytest.raises(BadRequest) as refused:
        target({"x-portkey-provider": name})
    assert refused.value.code == "unknown_provider" and (
        name in ("local", "provider:openai") or name not in refused.value.message
    )


@pytest.mark.parametrize("name", ["x-portkey-provider", "x-portkey-virtual-key"])
@pytest.mark.parametrize("value", ["openai,openai", "openai, vllm", "open ai", "openaï"])
def test_provider_that_is_named_twice_or_oddly_is_400(name, value):
    with pytest.raises(BadRequest) as refused:
        target({name: value})
    assert refused.value.param == name


@pytest.mark.parametrize("name", ["x-portkey-custom-host", "x-portkey-config"])
@pytest.mark.parametrize("value", ["https://evil.example", "{}", ""])
def test_header_that_would_change_where_a_request_goes_is_400_whatever_it_says(name, value):
    with pytest.raises(BadRequest) as refused:
        target({"x-portkey-provider": "openai", name: value})
    assert refused.value.param == name and "evil" not in refused.value.message


def test_other_headers_change_no_host():
    headers = {"x-portkey-provider": "openai", "host": "evil.example", "x-forwarded-host": "evil.example",
               "api-base": "https://evil.example",
               "base-url": "https://evil.example", "x-portkey-base-url": "https://evil.example"}  # fmt: skip
    assert target(headers).base_url == "https://api.openai.com/v1"


def test_missing_credential_is_401():
    with pytest.raises(Unauthorized) as refused:
        target({"x-portkey-provider": "openai"}, caller=Caller("team"))
    assert refused.value.code == "invalid_api_key"


def test_unknown_provider_is_told_before_a_missing_credential():
    with pytest.raises(BadRequest):
        target({"x-portkey-provider": "nobody"}, caller=Caller())


def test_local_store_exists_with_a_folder_only_and_never_gets_a_credential(tmp_path):
    found = target({"x-portkey-provider": "local"}, folder=str(tmp_path))
    assert (found.base_url, found.credential, found.owner) == ("local:", "", "team")
    assert found.settings["folder"] == str(tmp_path)


def test_local_store_answers_this_machine_only(tmp_path):
    for elsewhere in (
        {"client_address": "192.0.2.1"},
        {"headers": {"host": "evil.example"}},
        {"headers": {"origin": "null"}},
    ):
        headers = {"x-portkey-provider": "local", **elsewhere.pop("headers", {})}
        with pytest.raises(Forbidden):
            target(headers, folder=str(tmp_path), **elsewhere)


def test_two_local_stores_have_two_folders(tmp_path):
    config = {"provider:other": {"kind": "local", "folder": str(tmp_path / "b")}}
    folders = [
        target({"x-portkey-provider": name}, config, folder=str(tmp_path / "a")).settings["folder"]
        for name in ("local", "other")
    ]
    assert folders == [str(tmp_path / "a"), str(tmp_path / "b")]
