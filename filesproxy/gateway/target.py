"""Where a request goes: the provider its headers name, its settings, and whose credential.

A *saved provider* (`@NAME`) has its credential in the configuration; that goes only to the saved origin, in the saved
scope, so whatever a client says about either is a 400. With a *plain name* the caller brings the credential.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..calls import Provider, Secret, Target, replace
from ..config.load import Config, Key
from ..config.settings import BY_NAME
from ..errors import BadRequest, Forbidden, Unauthorized
from ..wire.headers import single
from .auth import Caller, own, refuse_gateway_keys, require_this_machine
from .wsgi import Head

# Headers of Portkey's that would change where a request goes: the operator decides that, not a client.
_REFUSED = {
    "x-portkey-custom-host": "set base_url in the configuration of a provider",
    "x-portkey-config": "name the provider in x-portkey-provider",
}
# What would change host, resource, version, region, bucket, organisation, project, workspace or authentication,
# beside what the providers here read.
_SCOPE_PREFIXES = ("x-portkey-azure-", "x-portkey-openai-", "x-portkey-aws-", "x-portkey-amz-", "x-portkey-vertex-")
_NO_SCOPE = "x-portkey-azure-deployment-id"  # which model, not which account


def resolve(
    head: Head,
    caller: Caller,
    config: Config,
    providers: Mapping[str, Provider],
    slug: Callable[[], str] = lambda: "",
) -> Target:
    """The target. BadRequest for a provider that is not named or not known, Unauthorized and Forbidden as they are.

    `slug` is asked, where no header names a provider, for the saved one that the model names.
    """
    name, is_slug = _name(head.headers)
    param = "x-portkey-provider"
    # Without keys only this machine may use what is saved, so for others no body is read to see what it names.
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
        target = _saved(target, head, caller, config.scope_headers)
    elif is_slug:
        raise BadRequest(_NOT_SAVED, param=param, code="unknown_provider")
    else:
        target = _plain(target, head, caller, config.keys)
    return replace(target, base_url=_base_url(target))


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


def _saved(target: Target, head: Head, caller: Caller, scope: frozenset[str]) -> Target:
    _admit(target, head, caller)
    for header in head.headers:
        if header in scope or (header.startswith(_SCOPE_PREFIXES) and header != _NO_SCOPE):
            raise BadRequest(f"Beside a saved provider the header {header} is not taken.", param=header)
    return replace(target, credential=target.settings["credential"], is_saved=True)


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
    return replace(target, settings=settings, credential=credential)


def _client_settings(target: Target, headers: Mapping[str, str]) -> dict[str, Any]:
    """Settings that the provider lets a client with a credential of its own choose, such as an Azure resource."""
    found = {}
    for header, name in target.provider.get("client_settings", {}).items():
        text = single(headers, header)
        if text and name == "resource" and target.settings["base_url"]:
            raise BadRequest(
                f"The header {header} is not taken: this provider has an address of its own.", param=header
            )
        if text:
            found[name] = _parsed(name, text, header)
    return found


def _parsed(name: str, text: str, header: str) -> Any:
    try:
        return BY_NAME[name].parse(text)
    except ValueError as problem:
        raise BadRequest(f"The header {header} must be {problem.args[0]}.", param=header) from None


def _header_credential(
    target: Target, headers: Mapping[str, str], keys: Sequence[Key]
) -> tuple[Secret, dict[str, str]]:
    """A credential from a header of the provider's own, and the setting that says how it authenticates."""
    kinds = target.provider.get("credential_headers", {})
    found = {header: text for header in kinds if (text := own(single(headers, header), keys))}
    if len(found) > 1:
        raise BadRequest(f"Only one of {' and '.join(found)} can authenticate.", param=max(found))
    for header, text in found.items():
        return text, {"auth": kinds[header]}
    return Secret(), {}


def _base_url(target: Target) -> str:
    url = target.provider["base_url"]
    return url(target) if callable(url) else str(target.settings["base_url"])
