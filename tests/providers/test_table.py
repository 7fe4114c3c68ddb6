"""A provider table: the required and optional keys of an entry, and what the gateway reads from the whole table."""

from __future__ import annotations

import pytest

from filesproxy import create_app
from filesproxy.calls import Provider, Setting, Target
from filesproxy.errors import ConfigError
from filesproxy.operations import OPERATIONS
from filesproxy.providers import PROVIDERS
from filesproxy.providers.openai import OPENAI
from filesproxy.providers.table import check_table, scope_of, settings_of

WRONG = {
    **{f"without {name}": ({key: value for key, value in OPENAI.items() if key != name}, f"'mine' has no '{name}'")
       for name in ("base_url", "authorize", "error", "operations")},
    "unknown key": ({**OPENAI, "pathh": None}, "'mine' has an unknown key 'pathh'"),
    "unknown operation": ({**OPENAI, "operations": {"list_file": print}}, "unknown operation 'list_file'"),
    "unknown unsupported": ({**OPENAI, "unsupported": {"x": "No."}}, "unknown operation 'x'"),
    "setting chosen but missing": ({**OPENAI, "client_settings": {"x-mine": "region"}}, "no setting 'region'"),
    "setting required but missing": ({**OPENAI, "required_settings": ("region",)}, "no setting 'region'"),
    "setting of another meaning": (
        {**OPENAI, "settings": (Setting("folder", "", str, "another one"),)}, "defines the setting 'folder'"),
}  # fmt: skip


WRONG.update({
    f"{key} of the wrong type: {value!r}": ({**OPENAI, key: value}, f"has a '{key}' of the wrong type")
    for key, value in [
        ("operations", None), ("operations", []), ("operations", {"list_files": 3}), ("unsupported", None),
        ("settings", ("folder",)), ("client_settings", ("a",)), ("credential_headers", {"x-tok": "key"}),
        ("client_headers", "team"), ("scope_prefixes", ("",)), ("authorize", None), ("base_url", 5),
        ("is_store", "yes"), ("text_is_file", 1), ("file_parts", ("text", "docx")), ("host_file_parts", "text"),
    ]
})  # fmt: skip
WRONG["entry that is not a mapping"] = (None, "'mine' is not a mapping")
WRONG["setting with the name of the gateway's own"] = (
    {**OPENAI, "settings": (Setting("credential", "", str, "mine"),)},
    "the setting 'credential' is one of",
)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_entry_is_refused_by_name_and_key(name):
    entry, message = WRONG[name]
    with pytest.raises(ConfigError) as refused:
        create_app({}, providers={**PROVIDERS, "mine": entry})
    assert message in refused.value.message


def test_private_provider_is_one_entry():
    mine = {**PROVIDERS["openai"], "base_url": "https://mine.example/v1"}
    found = create_app({}, providers={**PROVIDERS, "mine": mine}).config
    assert found.providers["mine"]["base_url"] == "https://mine.example/v1"


def test_built_in_table_is_valid():
    check_table(PROVIDERS)
    assert set(Provider.__required_keys__) == {"base_url", "authorize", "error", "operations"}


@pytest.mark.parametrize("name", PROVIDERS)
def test_every_provider_has_each_operation_or_says_why_not(name):
    provider = PROVIDERS[name]
    assert {*provider["operations"], *provider.get("unsupported", {})} == OPERATIONS.keys()
    assert not set(provider["operations"]) & set(provider.get("unsupported", {}))
    for settings in ({"api_version": "v1"}, {"api_version": "2024-10-21"}):
        fields = provider.get("form_fields", ())
        known = fields(Target(name, provider, "", settings)) if callable(fields) else fields
        assert set(provider.get("required_form_fields", ())) <= set(known) <= set(OPENAI["form_fields"])


@pytest.mark.parametrize("name", PROVIDERS)
def test_client_headers_are_lower_case_names_in_only_one_group(name):
    provider = PROVIDERS[name]
    groups = [set(provider.get(key, ())) for key in ("client_headers", "client_settings", "credential_headers")]
    assert all(header == header.lower() for group in groups for header in group)
    assert sum(map(len, groups)) == len(set().union(*groups))


def test_clients_cannot_choose_an_address_or_a_credential():
    for provider in PROVIDERS.values():
        chosen = set(provider.get("client_settings", {}).values())
        assert not chosen & {"base_url", "credential", "folder", "proxy", "ca_file", "ca_extra", "kind", "auth"}
        for settings in provider.get("credential_headers", {}).values():
            assert settings in ({"auth": "key"}, {"auth": "bearer"})


def test_settings_of_a_table_come_once_each():
    assert [setting.name for setting in settings_of(PROVIDERS)] == ["resource", "api_version", "auth", "folder"]


def test_scope_has_every_header_that_could_change_account_or_address():
    scope = scope_of(PROVIDERS)
    for header in ("openai-project", "x-portkey-openai-organization", "x-portkey-azure-resource-name", "api-key",
                   "x-portkey-azure-anything", "x-portkey-aws-region", "x-portkey-vertex-project-id"):  # fmt: skip
        assert scope.has(header), header
    for header in (
        "x-portkey-azure-deployment-id",
        "x-portkey-openai-beta",
        "x-portkey-api-key",
        "x-portkey-provider",
        "authorization",
    ):
        assert not scope.has(header), header
