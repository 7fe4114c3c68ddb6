"""Azure OpenAI: OpenAI's contract with a resource as host, an api-version in each call, and seven statuses of files.

It has two surfaces. Dated (2024-10-21): `…/openai/files?api-version=…`, a list without pages. v1: `…/openai/v1/files`,
nearly OpenAI's own. https://learn.microsoft.com/azure/ai-foundry/openai/reference
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..calls import Call, Json, Provider, Setting, Target
from ..errors import BadRequest
from ..operations import checked_id
from .openai import OPENAI, error_object
from .toolkit import AUTH, file_list, file_object, need, sliced, translated

# Azure's statuses that OpenAI does not have (FileState in Azure's specification).
_STATUS = {"pending": "uploaded", "running": "uploaded", "deleting": "error", "deleted": "error"}
_RESOURCE_HEADER = "x-portkey-azure-resource-name"


def resource(text: str) -> str:
    """The name of an Azure resource, which becomes part of a host name. ValueError if it cannot."""
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
    """What is wrong with a saved provider of this kind; "" if nothing is."""
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
    """The URL of the resource, or of the provider's own address. BadRequest for no resource, or for both."""
    named, own = target.settings["resource"], target.settings["base_url"]
    if named and own:  # check_settings has refused both in the configuration, so the client named a resource
        raise BadRequest(
            f"The header {_RESOURCE_HEADER} is not taken: this provider has an address of its own.",
            param=_RESOURCE_HEADER,
        )
    if not (named or own):
        raise BadRequest("Name the Azure resource.", param=_RESOURCE_HEADER, code="missing_resource")
    root: str = own or f"https://{named}.openai.azure.com/openai"
    return root if root.endswith("/v1") or not _is_v1(target) else f"{root}/v1"


def authorize(call: Call, target: Target) -> Call:
    """The call with `api-key`, or an Entra token as bearer, never both; on the dated surface also the api-version."""
    bearer = target.settings["auth"] == "bearer"
    own = {"authorization": f"Bearer {target.secret}"} if bearer else {"api-key": target.secret}
    return call._replace(headers={**call.headers, **own}, query=_query(call, target))


def _query(call: Call, target: Target) -> Mapping[str, Any]:
    if _is_v1(target):
        return call.query
    known = {name: text for name, text in call.query.items() if call.operation != "list_files" or name == "purpose"}
    return {**known, "api-version": target.settings["api_version"]}


def path(call: Call, target: Target) -> str:
    """The call's path. On the dated surface a chat completion is below its deployment, which the model names."""
    if call.operation != "create_chat_completion" or call.json is None or _is_v1(target):
        return call.path
    return f"/deployments/{checked_id(call.json['model'], 'model')}{call.path}"


def azure_file(obj: Any, call: Call) -> Json:
    """A file object in OpenAI's three statuses. Azure may leave out `bytes`: then it is what was just relayed."""
    file = file_object(obj, call)
    status, size = str(file["status"]), file.get("bytes")
    if not isinstance(size, int):
        size = call.upload.size if call.upload else 0  # 0: unknown, and the contract requires a number
    details = {"status_details": status} if status in ("deleting", "deleted") else {}
    return {**file, "bytes": size, "status": _STATUS.get(status, status), **details}


def azure_list(obj: Any, call: Call) -> Json:
    """A list: Azure's own page (v1), or one cut out of the single answer that the dated surface gives."""
    data = [azure_file(item, call) for item in need(obj, "data", list)]
    return file_list({**obj, "data": data}, call) if "has_more" in obj else sliced(data, call.query)


def azure_error(body: Any) -> Json:
    """OpenAI's error object. Azure's has no `type`, or "error"; OpenAI's `param` may be called `target`."""
    error = error_object(body)
    inner = body.get("error") if isinstance(body, dict) else None
    target = inner.get("target") if isinstance(inner, dict) else None
    param = error["param"] or (target if isinstance(target, str) else None)
    return {**error, "type": None if error["type"] == "error" else error["type"], "param": param}


def form_fields(target: Target) -> tuple[str, ...]:
    """The form fields of an upload: the dated surface has no `expires_after`."""
    return ("purpose", "expires_after[anchor]", "expires_after[seconds]") if _is_v1(target) else ("purpose",)


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
        "list_files": translated(answer=azure_list),
        "retrieve_file": translated(answer=azure_file),
    },
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
