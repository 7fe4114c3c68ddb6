"""Where a request goes: the provider that it names, that provider's settings, and whose credential.

A *saved provider* (`@NAME`) has its credential in the configuration. That credential goes only to the saved origin, in
the saved scope, so a client header that would change either is a 400. With a *plain name* the caller brings its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..calls import Provider, Setting, Target
from ..config.credentials import is_saved
from ..config.load import Config, Key
from ..errors import BadRequest, Forbidden, Unauthorized
from ..providers.table import Scope
from ..redaction import Secret, single_credential
from ..wire.headers import single, words
from . import portkey
from .auth import Caller, own_credential, presented_in, require_this_machine
from .request import Head

# Portkey's headers that would change where a request goes, which is the operator's decision, not a client's.
_REFUSED = {"x-portkey-custom-host": "set base_url in the configuration of a provider"}
#: the header that names the owner whose kept files are listed, for keys that see all
OWNER = "x-filesproxy-owner"
#: the headers that this module reads, in addition to those of the providers
TARGET_HEADERS = frozenset({"x-portkey-provider", "x-portkey-virtual-key", portkey.CONFIG, OWNER, *_REFUSED})


def resolve(
    head: Head,
    caller: Caller,
    config: Config,
    providers: Mapping[str, Provider],
    slug: str = "",
    default: str = "default_provider",
) -> Target:
    """The target. BadRequest if the provider is not named or not known, or a header is refused.

    Unauthorized without a credential, Forbidden if this caller may not use it. `slug` is the saved provider that the
    model names, and wins over a header. `default` is the setting that says where a request without either goes.
    """
    named, is_slug = (slug, True) if slug else _name(head.headers, config.scope)
    param = "model" if slug else "x-portkey-provider"
    name = named or config.settings[default]
    settings = config.providers.get(name)
    if settings is None:
        raise BadRequest(_UNKNOWN if named else _UNNAMED, param=param, code="unknown_provider")
    provider = providers[settings["kind"]]
    secret, uses_saved = Secret(), False
    if provider.get("is_store"):
        _check_caller(name, head, caller)
        return store_target(name, head, caller, config, providers)
    if is_saved(settings) and (is_slug or not named):
        _check_caller(name, head, caller)
        _check_scope(head, config.scope)
        secret, uses_saved = settings["credential"], True
    elif is_slug:
        raise BadRequest(_NOT_SAVED, param=param, code="unknown_provider")
    else:
        if not named and caller.key and not caller.key.caller_credentials:
            raise Forbidden(_NO_DEFAULT_CREDENTIAL)
        secret, settings = _callers_own(provider, settings, head, caller, config.keys)
    account = config.shared.accounts.get(name, "") if uses_saved else ""
    view = _view(head, caller) if account else ""
    found = Target(name, provider, settings["base_url"], settings, is_saved=uses_saved, owner=caller.owner)
    return _with_secret(secret, found._replace(view=view, account=account))


def store_target(name: str, head: Head, caller: Caller, config: Config, providers: Mapping[str, Provider]) -> Target:
    """The provider that keeps files as a target. Whether the caller may use it is for `may_use_store` to say.

    Forbidden if a header names another owner and the key does not see all.
    """
    settings = config.providers[name]
    provider, url = providers[settings["kind"]], settings["base_url"]
    return _addressed(Target(name, provider, url, settings, owner=caller.owner, view=_view(head, caller)))


def _view(head: Head, caller: Caller) -> str | None:
    """Whose objects the caller lists and reads; None: every owner's. Forbidden if it may not see those."""
    sees_all = bool(caller.key and caller.key.sees == "all")
    view = single(head.headers, OWNER) or (None if sees_all else caller.owner)
    if view != caller.owner and not sees_all:
        raise Forbidden("Only a gateway key with `sees = all` sees the files of another owner.", param=OWNER)
    return view


def saved_target(name: str, config: Config, providers: Mapping[str, Provider]) -> Target:
    """A saved provider as a target, for the operator's own commands."""
    settings, account = config.providers[name], config.shared.accounts.get(name, "")
    provider, url = providers[settings["kind"]], settings["base_url"]
    return _with_secret(settings["credential"], Target(name, provider, url, settings, is_saved=True, account=account))


def _with_secret(secret: Secret, target: Target) -> Target:
    """The target with this credential, and with its address."""
    credentials = single_credential(secret)
    return _addressed(target._replace(credentials=credentials, secrets=credentials.now()))


def _addressed(target: Target) -> Target:
    """The target with the address that its provider makes for it."""
    base_url = target.provider["base_url"]
    return target._replace(base_url=base_url(target)) if callable(base_url) else target


def check_store(name: str, through: Target, head: Head, caller: Caller) -> None:
    """Forbidden unless the caller may use a store through this provider."""
    if not (caller.key and may_use_store(name, through, caller)):
        _check_caller(name, head, caller)


def may_use_store(name: str, through: Target, caller: Caller) -> bool:
    """Whether this caller's key opens a store, or the provider whose files it keeps. Without keys, all are open."""
    if caller.key is None:
        return True
    is_its_own = through.settings["files"] == name
    return caller.key.may_use(name) or (is_its_own and caller.key.may_use(through.name))


def chat_targets(head: Head, caller: Caller, config: Config, providers: Mapping[str, Provider]) -> list[Target]:
    """The saved providers that a caller may use for chats and that can list their models, in their order.

    None without a gateway key, except on this machine. Raises as `resolve` does for a header that none of them accepts.
    """
    if caller.key is None and not _is_this_machine(head):
        return []
    if caller.key and not caller.key.may_do("create_chat_completion"):
        return []
    needed = {"create_chat_completion", "list_models"}
    names = [
        name
        for name, own in config.providers.items()
        if is_saved(own)
        and needed <= providers[own["kind"]]["operations"].keys()
        and (caller.key is None or caller.key.may_use(name))
    ]
    return [resolve(head, caller, config, providers, name) for name in names]


def name_in_headers(head: Head, scope: Scope) -> str:
    """The provider that a header names, saved or plain; "" if none does. Raises BadRequest as `resolve` does."""
    return _name(head.headers, scope)[0]


def may_name_in_model(head: Head, caller: Caller) -> bool:
    """Whether the model may name a saved provider. Without keys, only this machine may use one."""
    return caller.key is not None or _is_this_machine(head)


def _is_this_machine(head: Head) -> bool:
    try:
        require_this_machine(head)
    except Forbidden:
        return False
    return True


_UNNAMED = "Name a provider in the header x-portkey-provider, or in the model, as @NAME/model."
_UNKNOWN = "This provider is not known here; see x-portkey-provider."
_NO_DEFAULT_CREDENTIAL = (
    "The default provider has no saved credential, and this gateway key may not bring its own: the operator can set "
    "`credential` there, or `credential = none` for a host that asks for none."
)
_NOT_SAVED = "No credential is saved for this provider; name it without @ to bring one."


def _name(headers: Mapping[str, str], scope: Scope) -> tuple[str, bool]:
    """The name, and whether it is meant as a saved provider."""
    for header, instead in _REFUSED.items():
        if header in headers:
            raise BadRequest(f"The header {header} is not accepted here: {instead}.", param=header)
    named, virtual = single(headers, "x-portkey-provider"), single(headers, "x-portkey-virtual-key")
    of_config = portkey.read_config(headers, scope).provider
    named, *others = dict.fromkeys(filter(None, (named, portkey.saved(virtual), of_config))) or [""]
    if named == "@" or others:
        raise BadRequest("Name one provider, in x-portkey-provider.", param="x-portkey-provider")
    return named.removeprefix("@"), named.startswith("@")


def _check_caller(name: str, head: Head, caller: Caller) -> None:
    """Forbidden unless the caller may use a saved provider: by its key or, without keys, because of its machine."""
    if caller.key is None:
        require_this_machine(head)
    elif not caller.key.may_use(name):
        raise Forbidden("This gateway key is not for this provider.")


def _check_scope(head: Head, scope: Scope) -> None:
    """BadRequest for a header that would change where a saved credential goes, or in which scope."""
    for header in head.headers:
        if scope.has(header):
            raise BadRequest(f"The header {header} is not accepted with a saved provider.", param=header)


def _callers_own(
    provider: Provider, settings: Mapping[str, Any], head: Head, caller: Caller, keys: Sequence[Key]
) -> tuple[Secret, Mapping[str, Any]]:
    """The caller's own credential for a provider, and the settings that go with it. Unauthorized if there is none."""
    if caller.key and not caller.key.caller_credentials:
        raise Forbidden("This gateway key is for saved providers only: name one as @NAME.")
    credential, auth = _header_credential(provider, head.headers, keys)
    credential = credential or caller.credential
    if not credential:
        raise Unauthorized("This provider needs a credential: Authorization: Bearer …, or x-portkey-api-key.")
    # The gateway's own certificate is a credential too, so it is used only with the saved one.
    own_certificate = dict.fromkeys(filter(settings.get, ("client_cert", "client_key")), "")
    changed = {**own_certificate, **_client_settings(provider, head.headers), **auth}
    return credential, {**settings, **changed} if changed else settings


def _client_settings(provider: Provider, headers: Mapping[str, str]) -> dict[str, Any]:
    """The settings that callers with their own credential may choose by header, such as an Azure resource."""
    chosen = provider.get("client_settings", {})
    own = {setting.name: setting for setting in provider.get("settings", ())} if chosen else {}
    given = {header: text for header in chosen if (text := single(headers, header))}
    return {chosen[header]: _parsed(own[chosen[header]], text, header) for header, text in given.items()}


def _parsed(setting: Setting, text: str, header: str) -> Any:
    try:
        return setting.parse(text)
    except ValueError as problem:
        raise BadRequest(f"The header {header} must be {problem.args[0]}.", param=header) from None


def _header_credential(
    provider: Provider, headers: Mapping[str, str], keys: Sequence[Key]
) -> tuple[Secret, Mapping[str, str]]:
    """The credential in one of the provider's own headers, and the settings that go with that header."""
    kinds = provider.get("credential_headers", {})
    found = {header: text for header in kinds if (text := own_credential(presented_in(headers, header), keys))}
    if len(found) > 1:
        raise BadRequest(f"Only one of {' and '.join(found)} can authenticate.", param=max(found))
    for header, text in found.items():
        return text, kinds[header]
    return Secret(), {}


def client_headers(head: Head, target: Target) -> dict[str, str]:
    """The client's headers that the provider accepts, such as its organisation. Portkey's spelling wins.

    BadRequest for a header with an invalid value.
    """
    names = target.provider.get("client_headers", ())
    given = {name: single(head.headers, f"x-portkey-{name}") or single(head.headers, name) for name in names}
    for name in target.provider.get("list_headers", ()):
        given[name] = ",".join(words(head.headers, name, f"x-portkey-{name}"))
    return {name: value for name, value in given.items() if value}
