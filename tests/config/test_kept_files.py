"""Where each provider's files are, and which kept files may be put into its requests."""

from __future__ import annotations

import pytest
from configurations import hashed

from filesproxy.config.load import load
from filesproxy.errors import ConfigError
from filesproxy.providers import PROVIDERS

VLLM = {"kind": "openai", "base_url": "http://127.0.0.1:8000/v1", "credential": "none"}


def config(sections=None, providers=PROVIDERS, **settings):
    return load({"provider:local": {"folder": "/srv/files"}, **(sections or {})}, settings, providers, {})


def refusal(sections):
    with pytest.raises(ConfigError) as caught:
        config(sections)
    return caught.value.message


@pytest.mark.parametrize(
    "section,files,parts",
    [
        ({"kind": "openai"}, "own", ("text", "image", "audio", "pdf")),
        ({"kind": "openai", "base_url": "https://api.openai.com/v1"}, "own", ("text", "image", "audio", "pdf")),
        ({"kind": "openai", "base_url": "https://api.openai.com/v2"}, "own", ("text", "image", "audio", "pdf")),
        ({"kind": "openai", "base_url": "http://10.0.0.5/v1"}, "", ("text", "image")),
        ({"kind": "openai", "base_url": "http://10.0.0.5/v1", "files": "own"}, "own", ("text", "image")),
        ({"kind": "openai", "base_url": "http://10.0.0.5/v1", "files": "none"}, "none", ("text", "image")),
        ({"kind": "openai", "base_url": "http://10.0.0.5/v1", "file_parts": "pdf text"}, "", ("text", "pdf")),
        ({"kind": "openai", "files": "local"}, "local", ("text", "image", "audio", "pdf")),
        ({"kind": "azure-openai", "base_url": "https://azure.internal/openai"}, "own",
         ("text", "image", "audio", "pdf")),
        ({"kind": "anthropic", "base_url": "https://claude.internal/v1"}, "own", ("text", "image", "pdf")),
        ({"kind": "anthropic", "file_parts": "text"}, "own", ("text",)),
        ({"kind": "local", "folder": "/srv/others"}, "", ()),
    ],
)  # fmt: skip
def test_where_files_are_and_which_parts_are_taken_follows_from_kind_and_address(section, files, parts):
    found = config({"provider:x": section}).providers["x"]
    assert (found["files"], found["file_parts"]) == (files, parts)


def test_private_provider_made_from_openai_has_files_of_its_own():
    table = {**PROVIDERS, "private": {**PROVIDERS["openai"], "base_url": "https://models.internal/v1"}}
    assert load({}, {}, table, {}).providers["private"]["files"] == "own"


def test_kept_files_go_where_files_or_inline_to_say_and_nowhere_else():
    """Bytes that are kept on the premises never begin to leave because of an upgrade."""
    found = config({
        "provider:local": {"folder": "/srv/files", "inline_to": "openai claude"},
        "provider:others": {"kind": "local", "folder": "/srv/others"},
        "provider:vllm": {**VLLM, "files": "local"},
        "provider:plain": VLLM,
        "provider:claude": {"kind": "anthropic"},
    })  # fmt: skip
    assert found.stores == ("local", "others")
    assert {name: stores for name, stores in found.inlined.items() if stores} == {
        "openai": ("local",), "claude": ("local",), "vllm": ("local",),
    }  # fmt: skip
    assert not any(config({"provider:vllm": VLLM}).inlined.values())


def test_store_cannot_be_called_own_because_its_files_would_go_to_every_provider_with_files_of_its_own():
    message = refusal({"provider:own": {"kind": "local", "folder": "/srv/own"}})
    assert message == "[provider:own]: a provider that keeps files cannot have the name own."


@pytest.mark.parametrize("files", ["nobody", "vllm", "openai", "loca"])
def test_files_must_be_at_a_provider_that_keeps_files(files):
    message = refusal({"provider:vllm": {**VLLM, "files": files}})
    assert "[provider:vllm]" in message and "files must be own, none or a provider that keeps files (local)" in message


def test_files_at_local_without_a_folder_are_refused():
    with pytest.raises(ConfigError, match="files must be own, none or a provider that keeps files"):
        load({"provider:vllm": {**VLLM, "files": "local"}}, {}, PROVIDERS, {})


@pytest.mark.parametrize("inline_to", ["nobody", "local", "openai nobody"])
def test_inline_to_names_configured_providers_of_models(inline_to):
    message = refusal({"provider:local": {"folder": "/srv/files", "inline_to": inline_to}})
    assert message == "[provider:local]: inline_to must name configured providers that do not keep files themselves."


def test_inline_to_and_files_none_contradict_each_other():
    sections = {
        "provider:local": {"folder": "/srv/files", "inline_to": "vllm"},
        "provider:vllm": {**VLLM, "files": "none"},
    }
    assert "inline_to contains vllm, which has files = none" in refusal(sections)


@pytest.mark.parametrize("name", ["files", "file_parts", "max_inline_bytes"])
def test_store_has_no_settings_of_requests(name):
    text = {"files": "own", "file_parts": "text", "max_inline_bytes": "5"}[name]
    message = refusal({"provider:local": {"folder": "/srv/files", name: text}})
    assert f"a provider of kind local has no setting {name}" in message


def test_provider_of_models_has_no_inline_to():
    assert "has no setting inline_to" in refusal({"provider:openai": {"inline_to": "anthropic"}})


def test_default_provider_may_be_split_by_kind_of_request():
    both = config(default_provider="openai").settings
    assert (both["default_files"], both["default_chat"]) == ("openai", "openai")
    split = config(default_provider="openai", default_files="local").settings
    assert (split["default_files"], split["default_chat"]) == ("local", "openai")
    alone = config(default_files="local", default_chat="anthropic").settings
    assert (alone["default_provider"], alone["default_files"], alone["default_chat"]) == ("none", "local", "anthropic")
    none = config(default_provider="openai", default_chat="none").settings
    assert (none["default_files"], none["default_chat"]) == ("openai", "none")


@pytest.mark.parametrize(
    "vllm,warned", [({}, True), ({"files": "own"}, True), ({"files": "local"}, False), ({"files": "none"}, True)]
)
def test_chats_that_cannot_get_the_files_of_the_default_for_files_are_a_warning(vllm, warned):
    split = {"default_files": "local", "default_chat": "vllm"}
    found = config({"provider:vllm": {**VLLM, **vllm}}, **split).warnings
    assert [line for line in found if "cannot get them" in line] == [
        "By default, files go to local, and chats to vllm, which cannot get them: see `files`."
    ] * warned
    for fine in ({"default_provider": "vllm"}, {"default_files": "local", "default_chat": "none"}):
        assert config({"provider:vllm": {**VLLM, **vllm}}, **fine).warnings == ()


def test_each_unknown_default_is_named():
    with pytest.raises(ConfigError) as caught:
        config(default_provider="nobody", default_files="else")
    first, second = caught.value.message.splitlines()
    assert "default_provider must be none or one of" in first and "default_files must be none or one of" in second


def test_keys_do_not_share_the_files_of_a_provider_whose_files_are_kept_by_owner():
    keys = {f"key:{name}": {"sha256": hashed(f"fp_{name}"), "providers": "*"} for name in ("a", "b")}
    keys["filesproxy"] = {"isolation": "no"}
    own, kept = {**VLLM, "files": "own"}, {**VLLM, "files": "local"}
    assert "share the files of the saved provider vllm" in " ".join(config({"provider:vllm": own, **keys}).warnings)
    assert config({"provider:vllm": kept, **keys}).warnings == ()
