"""Where a request goes: the provider that it names, that provider's settings, and whose credential.

A *saved provider* (`@NAME`) has its credential in the configuration. That credential goes only to the saved origin, in
the saved scope, so a client header that would change either is a 400. With a *plain name* the caller brings its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..calls import Provider, Setting, Target
from ..config.load import Config, Key
from ..errors import BadRequest, Forbidden, Unauthorized
from ..providers.table import Scope
from ..redaction import Secret, single_credential
from ..wire.headers import single, words
from .auth import Caller, may_go, own, refuse_gateway_keys, require_this_machine
from .wsgi import Head

# Headers of Portkey's that would change where a request goes: the operator decides that, not a client.
_REFUSED = {
    "x-portkey-custom-host": "set base_url in the configuration of a provider",
    "x-portkey-config": "name the provider in x-portkey-provider",
}


def resolve(
    head: Head,
    caller: Caller,
    config: Config,
    providers: Mapping[str, Provider],
    slug: Callable[[], str] = lambda: "",
) -> Target:
    """The target. BadRequest for a provider that is not named or not known; Unauthorized, Forbidden.

    If no header names a provider, `slug` is asked for the saved provider that the model names.
    """
    name, is_slug = _name(head.headers)
    param = "x-portkey-provider"
    # Without keys only this machine may use what is saved, so no other client's body is read for a name.
    if not name and (caller.key or _is_this_machine(head)) and (named := slug()):
        name, is_slug, param = named, True, "model"
    settings = config.providers.get(name or config.settings["default_provider"])
    if settings is None:
        raise BadRequest(_UNKNOWN if name else _UNNAMED, param=param, code="unknown_provider")
    name, is_named = name or config.settings["default_provider"], bool(name)
    target = Target(name, providers[settings["kind"]], "", settings, owner=caller.name)
    shaping = (*target.provider.get("client_settings", ()), target.provider.get("model_header", ""))
    refuse_gateway_keys(head.headers, shaping, config.keys)
    if target.provider.get("keyless"):
        _admit(target, head, caller)
    elif settings["credential"] and (is_slug or not is_named):
        target = _saved(target, head, caller, config.scope)
    elif is_slug:
        raise BadRequest(_NOT_SAVED, param=param, code="unknown_provider")
    else:
        target = _plain(target, head, caller, config.keys)
    return target._replace(base_url=_base_url(target))


def _is_this_machine(head: Head) -> bool:
    try:
        require_this_machine(head)
    except Forbidden:
        return False
    return True


_UNNAMED = "Name a provider in the header x-portkey-provider, or in the model, as @NAME/model."
_UNKNOWN = "This provider is not known here; see x-portkey-provider."
_NOT_SAVED = "No credential is saved for this provider; name it without @ to bring one."


def _name(headers: Mapping[str, str]) -> tuple[str, bool]:
    """The name, and whether it is meant as a saved provider."""
    for header, instead in _REFUSED.items():
        if header in headers:
            raise BadRequest(f"The header {header} is not taken here: {instead}.", param=header)
    named, virtual = single(headers, "x-portkey-provider"), single(headers, "x-portkey-virtual-key")
    saved = virtual and "@" + virtual.removeprefix("@")
    if named == "@" or (named and saved and named != saved):
        raise BadRequest("Name one provider, in x-portkey-provider.", param="x-portkey-provider")
    named = named or saved
    return named.removeprefix("@"), named.startswith("@")


def _admit(target: Target, head: Head, caller: Caller) -> None:
    """Let a caller use what the gateway has saved: by its key, or, where there are none, from this machine."""
    if caller.key is None:
        require_this_machine(head)
    elif not caller.key.may_use(target.name):
        raise Forbidden("This gateway key is not for this provider.")


def _saved(target: Target, head: Head, caller: Caller, scope: Scope) -> Target:
    _admit(target, head, caller)
    for header in head.headers:
        if scope.has(header):
            raise BadRequest(f"Beside a saved provider the header {header} is not taken.", param=header)
    return target._replace(credentials=single_credential(target.settings["credential"]), is_saved=True)


def _plain(target: Target, head: Head, caller: Caller, keys: Sequence[Key]) -> Target:
    if caller.key and not caller.key.caller_credentials:
        raise Forbidden("This gateway key is for saved providers only: name one as @NAME.")
    credential, auth = _header_credential(target, head.headers, keys)
    credential = credential or caller.credential
    if not credential:
        raise Unauthorized("This provider needs a credential: Authorization: Bearer …, or x-portkey-api-key.")
    # A certificate of the gateway's own is a credential too: it goes with the saved one.
    own_certificate = dict.fromkeys(filter(target.settings.get, ("client_cert", "client_key")), "")
    changed = {**own_certificate, **_client_settings(target, head.headers), **auth}
    settings = {**target.settings, **changed} if changed else target.settings
    return target._replace(settings=settings, credentials=single_credential(credential))


def _client_settings(target: Target, headers: Mapping[str, str]) -> dict[str, Any]:
    """Settings that the provider lets a client with a credential of its own choose, such as an Azure resource."""
    own = {setting.name: setting for setting in target.provider.get("settings", ())}
    chosen = target.provider.get("client_settings", {})
    said = {header: text for header in chosen if (text := single(headers, header))}
    return {chosen[header]: _parsed(own[chosen[header]], text, header) for header, text in said.items()}


def _parsed(setting: Setting, text: str, header: str) -> Any:
    try:
        return setting.parse(text)
    except ValueError as problem:
        raise BadRequest(f"The header {header} must be {problem.args[0]}.", param=header) from None


def _header_credential(
    target: Target, headers: Mapping[str, str], keys: Sequence[Key]
) -> tuple[Secret, Mapping[str, str]]:
    """The credential in a header of the provider's own, and the settings that go with that header."""
    kinds = target.provider.get("credential_headers", {})
    found = {header: text for header in kinds if (text := own(single(headers, header), keys))}
    if len(found) > 1:
        raise BadRequest(f"Only one of {' and '.join(found)} can authenticate.", param=max(found))
    for header, text in found.items():
        return text, kinds[header]
    return Secret(), {}


def _base_url(target: Target) -> str:
    url = target.provider["base_url"]
    return url(target) if callable(url) else str(target.settings["base_url"])


def client_headers(head: Head, target: Target, keys: Sequence[Key]) -> dict[str, str]:
    """What the provider lets a client say in headers, such as its organisation. Portkey's spelling wins.

    A gateway key among them does not go upstream. BadRequest for a header with an invalid value.
    """
    names = target.provider.get("client_headers", ())
    said = {name: single(head.headers, f"x-portkey-{name}") or single(head.headers, name) for name in names}
    for name in target.provider.get("list_headers", ()):
        found = words(head.headers, name, f"x-portkey-{name}")
        said[name] = ",".join([word for word in found if may_go(word, keys)])
    return {name: value for name, value in said.items() if value and may_go(value, keys)}
