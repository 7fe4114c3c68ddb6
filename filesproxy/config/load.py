"""Loads the configuration: the settings of the application, the configured providers, and the gateway keys."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from ..calls import Provider, Setting
from ..errors import ConfigError
from ..providers.table import Scope, check_table, scope_of, settings_of
from ..transports.https import tls
from .ini import Source, read
from .settings import is_name, known_settings, parsed

ENVIRONMENT_PREFIX = "FILESPROXY_"
# Kubernetes sets these variables for every service, so one called `filesproxy` sets some that are not settings.
_KUBERNETES = re.compile(r"FILESPROXY_(.*_)?(SERVICE_(HOST|PORT)|PORT)(_.*)?")
_PLAIN_HTTP = re.compile(r"(?i)http://(?!(localhost|127[0-9.]+|\[::1\])([:/]|\Z))")

Sections = Mapping[str, Mapping[str, Any]]  # section → key → text or value


@dataclass(frozen=True)
class Key:
    """A gateway key: the SHA-256 hashes by which it is recognised, and what it may use."""

    name: str
    sha256: tuple[str, ...]
    providers: tuple[str, ...]
    operations: tuple[str, ...]
    caller_credentials: bool

    def may_use(self, provider: str) -> bool:
        """Whether this key may use the saved provider."""
        return self.providers == ("*",) or provider in self.providers

    def may_do(self, operation: str) -> bool:
        """Whether this key may use the operation."""
        return self.operations == ("*",) or operation in self.operations


@dataclass(frozen=True)
class Config:
    """The settings of the application and of each provider, the gateway keys, and warnings for the operator.

    `scope` names the headers that a client must not send together with a saved provider.
    """

    settings: Mapping[str, Any]
    providers: Mapping[str, Mapping[str, Any]]
    keys: tuple[Key, ...]
    warnings: tuple[str, ...]
    scope: Scope


def load(
    source: str | os.PathLike[str] | Sections | None,
    keywords: Mapping[str, Any],
    table: Mapping[str, Provider],
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Load the configuration. Keywords override the environment, which overrides the file.

    Raises ConfigError, which names what is wrong and where.
    """
    if source is None:
        source = environ.get(ENVIRONMENT_PREFIX + "CONFIG") or {}
    found = Source(source) if isinstance(source, Mapping) else read(os.fspath(source))
    check_table(table)
    _check_sections(found)
    known = known_settings(table)
    settings = {setting.name: setting.default for setting in known.values() if setting.app}
    settings.update(_section(found, "filesproxy", "app", known))
    settings.update(
        parsed(_from_environment(environ), "app", lambda name: f"{ENVIRONMENT_PREFIX}{name.upper()}", known)
    )
    settings.update(parsed(keywords, "app", lambda name: "the arguments", known))
    settings["via_name"] = settings["via_name"] or _via_name(found.path)
    _check_trust(found.place("filesproxy"), settings)
    providers, keys = _providers(found, settings, table, known), _keys(found, known)
    _check(found, settings, providers, keys, table)
    return Config(settings, providers, keys, tuple(_warnings(providers, keys)), scope_of(table))


def _section(source: Source, section: str, scope: str, known: Mapping[str, Setting]) -> dict[str, Any]:
    return parsed(source.sections.get(section, {}), scope, lambda key: source.place(section, key), known)


def _check_sections(source: Source) -> None:
    for section in source.sections:
        label, _, name = section.partition(":")
        if section != "filesproxy" and not (label in ("provider", "key") and is_name(name) and name != "none"):
            # What is in the brackets may be a secret, so only its line is named.
            raise ConfigError(f"{source.line(section)}sections are [filesproxy], [provider:NAME] and [key:NAME].")


def _named(source: Source, label: str) -> dict[str, str]:
    """Name → section, of all sections with this label."""
    return {section.partition(":")[2]: section for section in source.sections if section.startswith(f"{label}:")}


def _providers(
    source: Source, settings: Mapping[str, Any], table: Mapping[str, Provider], known: Mapping[str, Setting]
) -> dict[str, Mapping[str, Any]]:
    inherited = {setting.name: settings.get(setting.name, setting.default) for setting in known.values()}
    found = {name: _provider(name, name, inherited, table) for name in table}
    for name, section in _named(source, "provider").items():
        given = _section(source, section, "provider", known)
        found[name] = _provider(source.place(section), name, {**inherited, **given}, table)
        _check_provider(source.place(section), given, found[name], table)
    return {name: own for name, own in found.items() if not _missing(own, table)}


def _missing(own: Mapping[str, Any], table: Mapping[str, Provider]) -> list[str]:
    """The settings that a provider of this kind needs and does not have."""
    return [name for name in table[own["kind"]].get("required_settings", ()) if not own[name]]


def _provider(place: str, name: str, own: Mapping[str, Any], table: Mapping[str, Provider]) -> dict[str, Any]:
    kind = own["kind"] or name
    if kind not in table:
        raise ConfigError(f"{place} needs kind = one of {', '.join(sorted(table))}.")
    url = table[kind]["base_url"]
    return {**own, "kind": kind, "base_url": own["base_url"] or (url if isinstance(url, str) else "")}


def _check_provider(
    place: str, given: Mapping[str, Any], own: Mapping[str, Any], table: Mapping[str, Provider]
) -> None:
    """Refuse a section that cannot work, or that has a setting which this kind of provider does not have."""
    kind = table[own["kind"]]
    foreign = {setting.name for setting in settings_of(table)} - {each.name for each in kind.get("settings", ())}
    if kind.get("keyless"):
        foreign |= {"base_url", "credential"}
    if foreign & set(given):
        raise ConfigError(f"{place}: a provider of kind {own['kind']} has no setting {min(foreign & set(given))}.")
    if missing := _missing(own, table):
        raise ConfigError(f"{place} needs the setting {missing[0]}.")
    if problem := kind.get("check_settings", _check_address)(own):
        raise ConfigError(f"{place}: {problem}")
    _check_trust(place, own)


def _check_address(own: Mapping[str, Any]) -> str:
    needs_address = own["credential"] and not own["base_url"]
    return "a provider with a saved credential needs a base_url." if needs_address else ""


def _via_name(path: str) -> str:
    """The same name for all processes of a deployment. It does not reveal the name of the host."""
    return "filesproxy-" + sha256(f"{socket.gethostname()}\0{os.path.abspath(path)}".encode()).hexdigest()[:12]


def _check_trust(place: str, own: Mapping[str, Any]) -> None:
    if own["client_key"] and not own["client_cert"]:
        raise ConfigError(f"{place}: client_key needs client_cert.")
    if not any(own[name] for name in ("ca_file", "ca_extra", "client_cert")):
        return  # there is nothing to check, and loading the system's trust store is slow
    try:
        tls.context(own)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.message}") from None


def _keys(source: Source, known: Mapping[str, Setting]) -> tuple[Key, ...]:
    defaults = {setting.name: setting.default for setting in known.values() if setting.key}
    sections = _named(source, "key").items()
    return tuple(Key(name, **{**defaults, **_section(source, section, "key", known)}) for name, section in sections)


def _check(
    source: Source,
    settings: Mapping[str, Any],
    providers: Mapping[str, Mapping[str, Any]],
    keys: tuple[Key, ...],
    table: Mapping[str, Provider],
) -> None:
    """Refuse names of unknown providers, credentials that anybody could use, and hashes that occur twice."""
    if settings["default_provider"] not in ("none", *providers):
        place, named = source.place("filesproxy", "default_provider"), ", ".join(sorted(providers))
        absent = [(name, entry.get("required_settings", ())) for name, entry in table.items() if name not in providers]
        needs = "".join(f"; {name} needs {' and '.join(required)}" for name, required in absent)
        raise ConfigError(f"{place}: default_provider must be none or one of {named}{needs}.")
    saved = {name: own["credential"] for name, own in providers.items() if own["credential"]}
    if saved and not keys and not settings["open_access"]:
        raise ConfigError(
            f"{source.place('provider:' + min(saved))}: a saved credential needs a [key:NAME], or open_access = yes."
        )
    for key in keys:
        _check_key(source, key, providers, saved)
    hashes = [known for key in keys for known in key.sha256]
    if len(set(hashes)) < len(hashes):
        raise ConfigError(f"{source.place('key:' + keys[-1].name)}: the same hash occurs twice among the keys.")


def _check_key(source: Source, key: Key, providers: Mapping[str, Any], saved: Mapping[str, str]) -> None:
    section = f"key:{key.name}"
    if not key.sha256:
        raise ConfigError(f"{source.place(section)} needs sha256; `python3 -m filesproxy key` makes one.")
    if not set(key.providers) <= {"*", *providers}:
        raise ConfigError(f"{source.place(section, 'providers')}: providers contains one that is not configured.")
    for name, credential in saved.items():
        if sha256(credential.encode()).hexdigest() in key.sha256:  # another gateway's key is allowed
            raise ConfigError(f"{source.place('provider:' + name, 'credential')}: the credential is a gateway key.")


def _warnings(providers: Mapping[str, Mapping[str, Any]], keys: tuple[Key, ...]) -> list[str]:
    found = []
    for name, own in providers.items():
        users = [key.name for key in keys if key.may_use(name)]
        if own["credential"] and len(users) > 1:
            found.append(f"The keys {', '.join(users)} share the files of the saved provider {name}.")
        if own["credential"] and _PLAIN_HTTP.match(own["base_url"]):
            found.append(f"The saved provider {name} sends its credential over plain http.")
    return found


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    found = {key: value for key, value in environ.items() if key.startswith(ENVIRONMENT_PREFIX)}
    found.pop(ENVIRONMENT_PREFIX + "CONFIG", None)
    return {
        key[len(ENVIRONMENT_PREFIX) :].lower(): value for key, value in found.items() if not _KUBERNETES.fullmatch(key)
    }
