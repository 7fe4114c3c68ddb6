"""A whole provider table: whether it is valid, and which settings and headers its providers have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..calls import Provider, Setting
from ..errors import ConfigError
from ..operations import OPERATIONS
from ..wire.file_types import KINDS

#: headers in which clients present a credential for some provider, whether or not it is in the table
FOREIGN_CREDENTIALS = frozenset({"api-key", "x-api-key"})
#: headers that choose an account or a region at some provider, whether or not it is in the table
FOREIGN_SCOPE = FOREIGN_CREDENTIALS | {"anthropic-workspace-id"}
#: beginnings of Portkey's headers that choose an account, whichever providers are in the table
FOREIGN_SCOPE_PREFIXES = (
    "x-portkey-aws-",
    "x-portkey-amz-",
    "x-portkey-azure-",
    "x-portkey-openai-",
    "x-portkey-vertex-",
)

_KEYS = frozenset(Provider.__annotations__)
_REQUIRED = sorted(Provider.__required_keys__)


def check_table(table: Mapping[str, Provider]) -> None:
    """ConfigError for an entry that lacks a required key, has an unknown key, or names an unknown operation."""
    for name, entry in table.items():
        keys: Mapping[str, Any] = entry  # may be anything: its author need not use mypy
        if not isinstance(entry, Mapping):
            raise ConfigError(f"provider table: '{name}' is not a mapping.")
        for key in _REQUIRED:
            if key not in keys:
                raise ConfigError(f"provider table: '{name}' has no '{key}'.")
        for key in keys:
            if key not in _KEYS:
                raise ConfigError(f"provider table: '{name}' has an unknown key '{key}'.")
            if not _is_of_kind(key, keys[key]):
                raise ConfigError(f"provider table: '{name}' has a '{key}' of the wrong type.")
        for operation in (*keys["operations"], *keys.get("unsupported", {})):
            if operation not in OPERATIONS:
                raise ConfigError(f"provider table: '{name}' has an unknown operation '{operation}'.")
    _check_settings(table)


_MAPPINGS = {"unsupported": str, "client_settings": str, "credential_headers": Mapping}  # key → what its values are
_NAMES = frozenset({"hosts", "required_form_fields", "client_headers", "list_headers", "required_settings",
                    "scope_prefixes", "answer_headers", "answer_header_prefixes", "request_id_headers"})  # fmt: skip
_FLAGS = frozenset({"is_store", "text_is_file"})
_FUNCTIONS = frozenset({"authorize", "error", "path", "check_settings", "describe", "state_folder"})


def _is_of_kind(key: str, value: Any) -> bool:
    """Whether a value can be what `calls.Provider` says of its key."""
    if key in _FUNCTIONS:
        return callable(value)
    if key in ("file_parts", "host_file_parts"):
        return isinstance(value, tuple) and set(value) <= set(KINDS)
    if key in _NAMES or (key == "form_fields" and not callable(value)):
        return isinstance(value, tuple) and all(isinstance(name, str) and name for name in value)
    if key == "settings":
        return isinstance(value, tuple) and all(isinstance(setting, Setting) for setting in value)
    if key == "operations":
        return isinstance(value, Mapping) and all(map(callable, value.values()))
    if key in _MAPPINGS:
        return isinstance(value, Mapping) and all(isinstance(item, _MAPPINGS[key]) for item in value.values())
    return isinstance(value, bool) if key in _FLAGS else isinstance(value, str) or callable(value)


def _check_settings(table: Mapping[str, Provider]) -> None:
    found: dict[str, Setting] = {}
    for name, entry in table.items():
        for setting in entry.get("settings", ()):
            if found.setdefault(setting.name, setting) != setting:
                raise ConfigError(f"provider table: '{name}' defines the setting '{setting.name}' in its own way.")
        chosen = {*entry.get("client_settings", {}).values(), *entry.get("required_settings", ())}
        own = {setting.name for setting in entry.get("settings", ())}
        if chosen - own:
            raise ConfigError(f"provider table: '{name}' has no setting '{min(chosen - own)}'.")


def settings_of(table: Mapping[str, Provider]) -> Iterator[Setting]:
    """The settings of the providers in this table, each once."""
    yield from dict.fromkeys(setting for entry in table.values() for setting in entry.get("settings", ()))


def credential_headers(table: Mapping[str, Provider]) -> frozenset[str]:
    """The headers other than `authorization` in which a client presents a provider's credential."""
    return FOREIGN_CREDENTIALS.union(*(entry.get("credential_headers", ()) for entry in table.values()))


def read_headers(table: Mapping[str, Provider]) -> frozenset[str]:
    """Every header of a client that these providers read, in both spellings, except those under a scope prefix."""
    lists = {name for entry in table.values() for name in entry.get("list_headers", ())}
    scope = scope_of(table)
    return scope.headers | scope.without_effect | lists | {f"x-portkey-{name}" for name in lists}


class Scope(NamedTuple):
    """The headers by which a client changes the address, scope or authentication of a request."""

    headers: frozenset[str]
    prefixes: tuple[str, ...]
    without_effect: frozenset[str]  # they begin like the others, but name a model or betas, not an account

    def has(self, header: str) -> bool:
        """Whether this header is one of them."""
        return header in self.headers or (header.startswith(self.prefixes) and header not in self.without_effect)


def scope_of(table: Mapping[str, Provider]) -> Scope:
    """The scope headers of this table's providers, each also in Portkey's spelling."""
    own = {
        name
        for entry in table.values()
        for name in (*entry.get("client_headers", ()), *entry.get("client_settings", ()))
    }
    named = FOREIGN_SCOPE | own | credential_headers(table)
    portkey = {f"x-portkey-{name}" for name in named if not name.startswith("x-portkey-")}
    own_prefixes = [prefix for entry in table.values() for prefix in entry.get("scope_prefixes", ())]
    return Scope(
        (named | portkey) - {"x-portkey-api-key"},
        (*FOREIGN_SCOPE_PREFIXES, *dict.fromkeys(own_prefixes)),
        frozenset(entry["model_header"] for entry in table.values() if "model_header" in entry)
        | {f"x-portkey-{name}" for entry in table.values() for name in entry.get("list_headers", ())},
    )
