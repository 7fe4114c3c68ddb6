"""Where a request goes: the provider its headers name, with that provider's settings and the caller's credential."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .auth import Caller, require_this_machine
from .config import Config
from .errors import BadRequest, Unauthorized
from .headers import single
from .provider import Provider, Target
from .wsgi import Request

# Headers of Portkey's that would change where a request goes: the operator decides that, not a client.
_REFUSED = {
    "x-portkey-custom-host": "set base_url in the configuration of a provider",
    "x-portkey-config": "name the provider in x-portkey-provider",
}


def resolve(request: Request, caller: Caller, config: Config, providers: Mapping[str, Provider]) -> Target:
    """The target. BadRequest for an unknown or unnamed provider, Unauthorized where a credential is missing."""
    name = _name(request.headers) or config.settings["default_provider"]
    settings = config.providers.get(name)
    if settings is None:
        raise BadRequest(_UNNAMED if name == "none" else _UNKNOWN, param="x-portkey-provider", code="unknown_provider")
    provider = providers[settings["kind"]]
    target = Target(name, provider, "", settings, owner=caller.name)
    target = replace(target, base_url=settings["base_url"] or _base_url(target))
    return _open(target, request) if provider.get("keyless") else _with_credential(target, caller)


_UNNAMED = "Name a provider in the header x-portkey-provider."
_UNKNOWN = "This provider is not known here; see x-portkey-provider."


def _name(headers: Mapping[str, str]) -> str:
    for header, instead in _REFUSED.items():
        if header in headers:
            raise BadRequest(f"The header {header} is not taken here: {instead}.", param=header)
    named = single(headers, "x-portkey-provider") or single(headers, "x-portkey-virtual-key")
    return named.removeprefix("@")


def _base_url(target: Target) -> str:
    url = target.provider["base_url"]
    return url(target) if callable(url) else url


def _open(target: Target, request: Request) -> Target:
    require_this_machine(request)
    return target


def _with_credential(target: Target, caller: Caller) -> Target:
    if not caller.credential:
        raise Unauthorized("This provider needs a credential: Authorization: Bearer …, or x-portkey-api-key.")
    return replace(target, credential=caller.credential)
