"""Azure OpenAI: OpenAI's contract with a resource for a host, an api-version on each call, and seven statuses.

Two surfaces. Dated (2024-10-21): `…/openai/files?api-version=…`, a list without pages. v1: `…/openai/v1/files`, nearly
OpenAI's own. https://learn.microsoft.com/azure/ai-foundry/openai/reference
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..calls import Call, Json, Provider, Target, exchange, need, replace
from ..errors import BadRequest
from ..operations import checked_id
from ..wire.lists import file_list, file_object, sliced
from .openai import OPENAI, error_object

# Azure's seven, of which OpenAI has three (FileState in its specification).
_STATUS = {"pending": "uploaded", "running": "uploaded", "deleting": "error", "deleted": "error"}


def base_url(target: Target) -> str:
    """The resource's URL. BadRequest if neither the configuration nor the client named a resource."""
    resource = target.settings["resource"]
    if not (resource or target.settings["base_url"]):
        raise BadRequest("Name the Azure resource.", param="x-portkey-azure-resource-name", code="missing_resource")
    root: str = target.settings["base_url"] or f"https://{resource}.openai.azure.com/openai"
    return root if root.endswith("/v1") or not _is_v1(target) else f"{root}/v1"


def authorize(call: Call, target: Target) -> Call:
    """`api-key`, or an Entra token as bearer, never both; and on the dated surface the api-version, with every call."""
    bearer = target.settings["auth"] == "bearer"
    own = {"authorization": f"Bearer {target.credential}"} if bearer else {"api-key": target.credential}
    return replace(call, headers={**call.headers, **own}, query=_query(call, target))


def _query(call: Call, target: Target) -> Mapping[str, Any]:
    if _is_v1(target):
        return call.query
    known = {name: text for name, text in call.query.items() if call.operation != "list_files" or name == "purpose"}
    return {**known, "api-version": target.settings["api_version"]}


def path(call: Call, target: Target) -> str:
    """The call's path; on the dated surface a chat completion is below its deployment, which the model names."""
    if call.operation != "create_chat_completion" or _is_v1(target):
        return call.path
    assert call.json is not None
    return f"/deployments/{checked_id(call.json['model'], 'model')}{call.path}"


def azure_file(obj: Any, call: Call) -> Json:
    """A file object in OpenAI's three statuses; `bytes`, which Azure may leave out, is what was just relayed."""
    file = file_object(obj, call)
    status, size = str(file["status"]), file.get("bytes")
    if not isinstance(size, int):
        size = call.upload.size if call.upload else 0  # 0: unknown, and the contract requires a number
    details = {"status_details": status} if status in ("deleting", "deleted") else {}
    return {**file, "bytes": size, "status": _STATUS.get(status, status), **details}


def azure_list(obj: Any, call: Call) -> Json:
    """A list: a page where Azure made one (v1), else cut from the one answer that the dated surface gives."""
    data = [azure_file(item, call) for item in need(obj, "data", list)]
    return file_list({**obj, "data": data}, call) if "has_more" in obj else sliced(data, call.query)


def azure_error(body: Any) -> Json:
    """Azure's errors have no `type`, or the word "error" for one; what OpenAI calls `param` may be `target`."""
    error = error_object(body)
    inner = body.get("error") if isinstance(body, dict) else None
    target = inner.get("target") if isinstance(inner, dict) else None
    param = error["param"] or (target if isinstance(target, str) else None)
    return {**error, "type": None if error["type"] == "error" else error["type"], "param": param}


def fields(target: Target) -> tuple[str, ...]:
    """Form fields: the dated surface has no `expires_after`."""
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
        "upload_file": exchange(answer=azure_file),
        "list_files": exchange(answer=azure_list),
        "retrieve_file": exchange(answer=azure_file),
    },
    "fields": fields,
    "settings": ("resource", "api_version", "auth"),
    "client_headers": (),
    "model_header": "x-portkey-azure-deployment-id",
    "client_settings": {
        "x-portkey-azure-resource-name": "resource",
        "x-portkey-azure-api-version": "api_version",
    },
    "credential_headers": {"x-portkey-azure-ad-token": "bearer", "api-key": "key"},
}
