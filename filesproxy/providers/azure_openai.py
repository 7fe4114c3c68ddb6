"""Azure OpenAI: OpenAI's contract at a host named after a resource, with an api-version and seven file statuses.

It has two API surfaces. The dated one (2024-10-21) is `…/openai/files?api-version=…`; its list has no pages. v1 is
`…/openai/v1/files`, and is nearly OpenAI's own. https://learn.microsoft.com/azure/ai-foundry/openai/reference
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..calls import Answer, Call, Json, Provider, Send, Setting, Target
from ..errors import BadRequest, InvalidAnswer
from ..operations import checked_id
from ..wire.json_fields import required
from .openai import OPENAI, error_object
from .toolkit import AUTH, auth_header, completed, file_object, listing, own_list, sliced, translated

# Azure's file statuses that OpenAI does not have (FileState in Azure's specification).
_STATUS = {"pending": "uploaded", "running": "uploaded", "deleting": "error", "deleted": "error"}
_DEPLOYED = ("create_chat_completion", "create_embedding")
_RESOURCE_HEADER = "x-portkey-azure-resource-name"


def resource(text: str) -> str:
    """The name of an Azure resource, which becomes part of a host name. ValueError if it is not valid there."""
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", text):
        raise ValueError("1 to 64 letters, digits and hyphens")
    return text


def _api_version(text: str) -> str:
    if not re.fullmatch(r"v1|[0-9]{4}-[0-9]{2}-[0-9]{2}(-preview)?", text):
        raise ValueError("v1 or a date such as 2024-10-21")
    return text


SETTINGS = (
    Setting("resource", "", resource, "Azure: the resource, RESOURCE.openai.azure.com", app=False, provider=True),
    Setting(
        "api_version", "2024-10-21", _api_version, "Azure: the api-version, a date or `v1`", app=False, provider=True
    ),
    AUTH,
)


def check_settings(settings: Mapping[str, Any]) -> str:
    """A sentence that says what is wrong with a saved provider's settings; "" if nothing is."""
    if settings["base_url"] and settings["resource"]:
        return "set base_url or resource, not both."
    if settings["credential"] and not (settings["base_url"] or settings["resource"]):
        return "a saved credential needs a resource or a base_url to go to."
    return ""


def describe(settings: Mapping[str, Any]) -> str:
    """Where requests go."""
    named = settings["resource"] and f"{settings['resource']} on Azure"
    return str(settings["base_url"] or named or "resource per client")


def base_url(target: Target) -> str:
    """The URL of the resource, or the configured one. BadRequest if there is neither, or both."""
    named, own = target.settings["resource"], target.settings["base_url"]
    if named and own:  # check_settings refuses both in the configuration, so the resource is from the client
        raise BadRequest(
            f"The header {_RESOURCE_HEADER} is not accepted: this provider has a configured base_url.",
            param=_RESOURCE_HEADER,
        )
    if not (named or own):
        raise BadRequest("Name the Azure resource.", param=_RESOURCE_HEADER, code="missing_resource")
    root: str = own or f"https://{named}.openai.azure.com/openai"
    return root if root.endswith("/v1") or not _is_v1(target) else f"{root}/v1"


def authorize(call: Call, target: Target) -> Call:
    """The call with `api-key` or an Entra token as bearer; on the dated surface also with api-version."""
    return call._replace(headers={**call.headers, **auth_header(target, "api-key")}, query=_query(call, target))


def _query(call: Call, target: Target) -> Mapping[str, Any]:
    known: Mapping[str, Any] = {name: text for name, text in call.query.items() if name != "api-version"}
    if _is_v1(target):
        return known
    if call.operation == "list_files":  # its pages are cut here, so what cannot be cut is refused before the call
        known = {name: text for name, text in own_list(call).query.items() if name == "purpose"}
    return {**known, "api-version": target.settings["api_version"]}


def path(call: Call, target: Target) -> str:
    """The call's path. On the dated surface, what a model does is under its deployment, which is the model's name."""
    if call.operation not in _DEPLOYED or call.json is None or _is_v1(target):
        return call.path
    return f"/deployments/{checked_id(required(call.json, 'model', str), 'model')}{call.path}"


def azure_file(obj: Any, call: Call) -> Json:
    """A file object with one of OpenAI's three statuses."""
    file = file_object(obj, call)
    status = str(file["status"])
    details = {"status_details": status} if status in ("deleting", "deleted") else {}
    return {**file, "status": _STATUS.get(status, status), **details}


def list_files(call: Call, send: Send) -> Answer:
    """A list: Azure's own page (v1), or a page cut out of the dated surface's complete list."""
    reply = send(call)
    if isinstance(reply.json, dict) and "has_more" in reply.json:
        return completed(reply, call, send, azure_file)
    found = listing(reply.json, call._replace(query={}))
    if found.has_more:
        raise InvalidAnswer("The provider's list should be complete, but says that it goes on.")
    return reply._replace(json=sliced([azure_file(item, call) for item in found.items], call.query))


def azure_error(body: Any) -> Json:
    """OpenAI's error object. Azure's `type` is missing or "error", and its `param` may be called `target`."""
    error = error_object(body)
    inner = body.get("error") if isinstance(body, dict) else None
    target = inner.get("target") if isinstance(inner, dict) else None
    param = error["param"] or (target if isinstance(target, str) else None)
    return {**error, "type": None if error["type"] == "error" else error["type"], "param": param}


def form_fields(target: Target) -> tuple[str, ...]:
    """The form fields of an upload: dated API versions have `expires_after` since 2025-03-01-preview."""
    has_expiry = _is_v1(target) or target.settings["api_version"][:10] >= "2025-03-01"
    return ("purpose", "expires_after[anchor]", "expires_after[seconds]") if has_expiry else ("purpose",)


def _is_v1(target: Target) -> bool:
    return bool(target.settings["api_version"] == "v1")


AZURE_OPENAI: Provider = {
    **OPENAI,
    "base_url": base_url,
    "path": path,
    "authorize": authorize,
    "error": azure_error,
    "operations": {
        **OPENAI["operations"],
        "upload_file": translated(answer=azure_file),
        "list_files": list_files,
        "retrieve_file": translated(answer=azure_file),
    },
    "host_file_parts": (),
    "form_fields": form_fields,
    "settings": SETTINGS,
    "check_settings": check_settings,
    "describe": describe,
    "client_headers": (),
    "model_header": "x-portkey-azure-deployment-id",
    "client_settings": {_RESOURCE_HEADER: "resource", "x-portkey-azure-api-version": "api_version"},
    "credential_headers": {"x-portkey-azure-ad-token": {"auth": "bearer"}, "api-key": {"auth": "key"}},
    "scope_prefixes": ("x-portkey-azure-",),
}
