"""Loads the configuration: the settings of the application, the configured providers, and the gateway keys."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from ..calls import Provider, Setting
from ..errors import ConfigError
from ..providers.table import Scope, check_table, scope_of, settings_of
from ..transports.https import tls
from . import accounts, kept_files
from .credentials import NO_CREDENTIAL, is_saved
from .ini import Source, read
from .settings import is_name, is_written_out, known_settings, parsed

ENVIRONMENT_PREFIX = "FILESPROXY_"
#: the settings into which `default_provider` may be split
DEFAULTS_BY_REQUEST = ("default_files", "default_chat")
# Kubernetes sets these variables for every service, so one called `filesproxy` sets some that are not settings.
_KUBERNETES = re.compile(r"FILESPROXY_(.*_)?(SERVICE_(HOST|PORT)|PORT)(_.*)?")
_PLAIN_HTTP = re.compile(r"(?i)http://(?!(localhost|127[0-9.]+|\[::1\])([:/]|\Z))")

Sections = Mapping[str, Mapping[str, Any]]  # section → key → text or value


@dataclass(frozen=True)
class Key:
    """A gateway key: the SHA-256 hashes by which it is recognised, what it may use, and whose its files are.

    `sees` is `all` if it may list and read what every owner has, else `own`. `foreign_ids` says whether it may use what
    nobody owns. The rest are the rules for its uploads: bytes, seconds and a number, where 0 and () are no rule.
    """

    name: str
    sha256: tuple[str, ...]
    providers: tuple[str, ...]
    operations: tuple[str, ...]
    caller_credentials: bool
    owner: str = ""  # empty: the key's own name
    sees: str = "own"
    max_file_bytes: int = 0
    allowed_purposes: tuple[str, ...] = ()
    allowed_types: tuple[str, ...] = ()
    default_expires_after: int = 0
    max_expires_after: int = 0
    foreign_ids: bool = False
    max_stored_bytes: int = 0
    max_uploads_per_minute: int = 0

    @property
    def whose(self) -> str:
        """The owner of what it makes."""
        return self.owner or self.name

    @property
    def has_limits(self) -> bool:
        """Whether its uploads are counted."""
        return bool(self.max_stored_bytes or self.max_uploads_per_minute)

    def may_use(self, provider: str) -> bool:
        """Whether this key may use the saved provider."""
        return self.providers == ("*",) or provider in self.providers

    def may_do(self, operation: str) -> bool:
        """Whether this key may use the operation."""
        return self.operations == ("*",) or operation in self.operations


@dataclass(frozen=True)
class Config:
    """The settings of the application and of each provider, the gateway keys, and warnings for the operator.

    `scope` names the headers that a client must not send together with a saved provider. `stores` are the providers
    that keep files, `inlined` for each provider those of them whose files may be put into its requests. `shared`
    says where owners are kept apart.
    """

    settings: Mapping[str, Any]
    providers: Mapping[str, Mapping[str, Any]]
    keys: tuple[Key, ...]
    warnings: tuple[str, ...]
    scope: Scope
    stores: tuple[str, ...]
    inlined: Mapping[str, tuple[str, ...]]
    shared: accounts.SharedAccounts = accounts.SharedAccounts()


def load(
    source: str | os.PathLike[str] | Sections | None,
    keywords: Mapping[str, Any],
    table: Mapping[str, Provider],
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Load the configuration. Keywords override the environment, which overrides the file.

    Raises ConfigError, whose message has one line for each thing that is wrong, and says where.
    """
    if source is None:
        source = environ.get(ENVIRONMENT_PREFIX + "CONFIG") or {}
    found = Source(source) if isinstance(source, Mapping) else read(os.fspath(source))
    check_table(table)
    known = known_settings(table)
    problems = list(_section_problems(found))
    settings = _app_settings(found, environ, keywords, known, problems)
    providers = _providers(found, settings, table, known, problems)
    keys = _keys(found, known, problems)
    problems += _problems_together(found, settings, providers, keys, table)
    problems += accounts.problems(found, settings, providers, keys, table)
    if problems:
        raise ConfigError("\n".join(problems))
    stores = tuple(kept_files.stores(providers, table))
    inlined = kept_files.inlined(providers, stores)
    apart = kept_files.warnings(settings["default_files"], settings["default_chat"], providers, inlined, stores)
    shared = accounts.shared_accounts(settings, providers, keys, table)
    warnings = [*_warnings(providers, keys, shared), *_exposed(found, known), *apart]
    return Config(settings, providers, keys, tuple(warnings), scope_of(table), stores, inlined, shared)


def _section_problems(source: Source) -> Iterator[str]:
    for section in source.sections:
        label, _, name = section.partition(":")
        if section != "filesproxy" and not (label in ("provider", "key") and _can_be_named(name)):
            # What is in the brackets may be a secret, so only its line is named.
            yield f"{source.line(section)}sections are [filesproxy], [provider:NAME] and [key:NAME]."


def _app_settings(
    source: Source,
    environ: Mapping[str, str],
    keywords: Mapping[str, Any],
    known: Mapping[str, Setting],
    problems: list[str],
) -> dict[str, Any]:
    settings = {setting.name: setting.default for setting in known.values() if setting.app}
    before = len(problems)
    settings.update(_section(source, "filesproxy", "app", known, problems))
    from_environment = _from_environment(environ)
    settings.update(parsed(from_environment, "app", lambda key: ENVIRONMENT_PREFIX + key.upper(), known, problems))
    settings.update(parsed(keywords, "app", lambda key: "the arguments", known, problems))
    settings["via_name"] = settings["via_name"] or _via_name(source.path)
    for name in DEFAULTS_BY_REQUEST:
        settings[name] = settings[name] or settings["default_provider"]
    if len(problems) == before:
        problems += _trust_problems(source, "filesproxy", settings)
    return settings


def _section(
    source: Source, section: str, scope: str, known: Mapping[str, Setting], problems: list[str]
) -> dict[str, Any]:
    given = source.sections.get(section, {})
    return parsed(given, scope, lambda key: source.place(section, key), known, problems)


def _named(source: Source, label: str) -> dict[str, str]:
    """Name → section, of all sections with this label and a name."""
    found = {section.partition(":")[2]: section for section in source.sections if section.startswith(f"{label}:")}
    return {name: section for name, section in found.items() if _can_be_named(name)}


def _can_be_named(name: str) -> bool:
    return is_name(name) and name != "none"  # `default_provider = none` means no default


def _providers(
    source: Source,
    settings: Mapping[str, Any],
    table: Mapping[str, Provider],
    known: Mapping[str, Setting],
    problems: list[str],
) -> dict[str, Mapping[str, Any]]:
    inherited = {setting.name: settings.get(setting.name, setting.default) for setting in known.values()}
    found = {name: _provider(name, inherited, table) for name in table}
    for name, section in _named(source, "provider").items():
        before = len(problems)
        given = _section(source, section, "provider", known, problems)
        if (given.get("kind") or name) in table:
            found[name] = _provider(name, {**inherited, **given}, table)
            if len(problems) == before:
                problems += _provider_problems(source, section, given, found[name], table)
        elif len(problems) == before:
            place = source.place(section, "kind" if "kind" in given else "")
            problems.append(f"{place} needs kind = one of {', '.join(sorted(table))}.")
    return {name: own for name, own in found.items() if not _missing(own, table)}


def _missing(own: Mapping[str, Any], table: Mapping[str, Provider]) -> list[str]:
    """The settings that a provider of this kind needs and does not have."""
    return [name for name in table[own["kind"]].get("required_settings", ()) if not own[name]]


def _provider(name: str, own: Mapping[str, Any], table: Mapping[str, Provider]) -> dict[str, Any]:
    kind = own["kind"] or name
    url = table[kind]["base_url"]
    address = own["base_url"] or (url if isinstance(url, str) else "")
    return {**own, **kept_files.resolved(own, table[kind]), "kind": kind, "base_url": address}


def _provider_problems(
    source: Source, section: str, given: Mapping[str, Any], own: Mapping[str, Any], table: Mapping[str, Provider]
) -> Iterator[str]:
    """Why a section cannot work; settings that this kind of provider does not have are problems too."""
    kind = table[own["kind"]]
    foreign = {setting.name for setting in settings_of(table)} - {each.name for each in kind.get("settings", ())}
    if kind.get("is_store"):
        foreign |= {"base_url", "credential", "account", "allow_fields", *kept_files.OF_MODELS}
    else:
        foreign |= {*kept_files.OF_STORES}
    for name in sorted(foreign & set(given)):
        yield f"{source.place(section, name)}: a provider of kind {own['kind']} has no setting {name}."
    for name in _missing(own, table):
        yield f"{source.place(section)} needs the setting {name}."
    if given.get("credential") is NO_CREDENTIAL and "base_url" not in given:
        place = source.place(section, "credential")
        yield f"{place}: credential = none needs the base_url of a host that asks for none."
    elif problem := kind.get("check_settings", _address_problem)(own):
        yield f"{source.place(section)}: {problem}"
    if not set(given).isdisjoint(tls.SETTINGS):
        yield from _trust_problems(source, section, own)


def _address_problem(own: Mapping[str, Any]) -> str:
    needs_address = own["credential"] and not own["base_url"]
    return "a provider with a saved credential needs a base_url." if needs_address else ""


def _via_name(path: str) -> str:
    """The same name for all processes of a deployment. It does not reveal the name of the host."""
    return "filesproxy-" + sha256(f"{socket.gethostname()}\0{os.path.abspath(path)}".encode()).hexdigest()[:12]


def _trust_problems(source: Source, section: str, own: Mapping[str, Any]) -> Iterator[str]:
    if own["client_key"] and not own["client_cert"]:
        yield f"{source.place(section, 'client_key')}: client_key needs client_cert."
    elif any(own[name] for name in ("ca_file", "ca_extra", "client_cert")):  # loading the system's trust store is slow
        try:
            tls.context(own)
        except ConfigError as error:
            yield f"{source.place(section, error.param or '')}: {error.message}"


def _keys(source: Source, known: Mapping[str, Setting], problems: list[str]) -> tuple[Key, ...]:
    """The keys whose sections can be used."""
    defaults = {setting.name: setting.default for setting in known.values() if setting.key}
    found = []
    for name, section in _named(source, "key").items():
        before = len(problems)
        key = Key(name, **{**defaults, **_section(source, section, "key", known, problems)})
        if not key.sha256 and len(problems) == before:
            problems.append(f"{source.place(section)} needs sha256; `python3 -m filesproxy key` makes one.")
        found.append(key)
    return tuple(found)


def _problems_together(
    source: Source,
    settings: Mapping[str, Any],
    providers: Mapping[str, Mapping[str, Any]],
    keys: tuple[Key, ...],
    table: Mapping[str, Provider],
) -> Iterator[str]:
    """Names of unknown providers, credentials that anybody could use, and hashes that occur twice."""
    names = {*providers, *_named(source, "provider")}
    for setting in ("default_provider", *DEFAULTS_BY_REQUEST):
        is_repeated = setting in DEFAULTS_BY_REQUEST and settings[setting] == settings["default_provider"]
        if settings[setting] not in ("none", *names) and not is_repeated:
            place, named = source.place("filesproxy", setting), ", ".join(sorted(names))
            absent = [(name, entry.get("required_settings", ())) for name, entry in table.items() if name not in names]
            needs = "".join(f"; {name} needs {' and '.join(required)}" for name, required in absent)
            yield f"{place}: {setting} must be none or one of {named}{needs}."
    yield from kept_files.problems(source, providers, table)
    saved = {name: own["credential"] for name, own in providers.items() if own["credential"]}
    # A client certificate is a credential too, which a saved provider shows for its callers.
    certified = [name for name, own in providers.items() if is_saved(own) and own["client_cert"]]
    if not keys and not settings["open_access"]:
        for name in sorted({*saved, *certified}):
            place = source.place(f"provider:{name}", "credential")
            yield f"{place}: a saved credential needs a [key:NAME], or open_access = yes."
    seen: set[str] = set()
    for key in keys:
        section = f"key:{key.name}"
        if not set(key.providers) <= {"*", *names}:
            yield f"{source.place(section, 'providers')}: providers contains one that is not configured."
        if len({*seen, *key.sha256}) < len(seen) + len(key.sha256):
            yield f"{source.place(section, 'sha256')}: the same hash occurs twice among the keys."
        seen.update(key.sha256)
    for name, credential in saved.items():
        if sha256(credential.encode()).hexdigest() in seen:  # another gateway's key is allowed
            yield f"{source.place('provider:' + name, 'credential')}: the credential is a gateway key."


def _warnings(
    providers: Mapping[str, Mapping[str, Any]], keys: tuple[Key, ...], shared: accounts.SharedAccounts
) -> list[str]:
    found = []
    for name, own in providers.items():
        users = [key.name for key in keys if key.may_use(name)]
        owners = {key.whose for key in keys if key.may_use(name)}
        is_shared = name not in shared.accounts and name not in shared.for_chats
        if is_saved(own) and len(owners) > 1 and own["files"] in ("", kept_files.OWN) and is_shared:
            found.append(f"The keys {', '.join(users)} share the files of the saved provider {name}.")
        if own["credential"] and _PLAIN_HTTP.match(own["base_url"]):
            found.append(f"The saved provider {name} sends its credential over plain http.")
    return found


def _exposed(source: Source, known: Mapping[str, Setting]) -> list[str]:
    """A warning for each secret that is written out in a file that others than its owner can read."""
    if not source.is_exposed:
        return []
    return [
        f"{source.place(section, name)}: others than the owner of this file can read the secret in {name}. "
        "Make its mode 600; a credential can also be env:NAME or file:/path."
        for section, given in source.sections.items()
        for name, text in given.items()
        if is_written_out(known[name], text)
    ]


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    found = {key: value for key, value in environ.items() if key.startswith(ENVIRONMENT_PREFIX)}
    found.pop(ENVIRONMENT_PREFIX + "CONFIG", None)
    return {
        key[len(ENVIRONMENT_PREFIX) :].lower(): value for key, value in found.items() if not _KUBERNETES.fullmatch(key)
    }
