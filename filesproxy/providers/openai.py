"""OpenAI, the identity that every other provider is a difference from. https://platform.openai.com/docs/api-reference/files"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..listing import deletion, file_list, file_object
from ..provider import Call, Json, Provider, Target, exchange


def bearer(call: Call, target: Target) -> Call:
    """The credential as a bearer token (RFC 6750 §2.1)."""
    return replace(call, headers={**call.headers, "authorization": f"Bearer {target.credential}"})


def error_object(body: Any) -> Json:
    """The object inside OpenAI's envelope, from the shapes that OpenAI-compatible hosts answer with.

    `{"error": {…}}`, `{"error": "text"}` (xAI), `{"detail": "text" | [{"loc", "msg"}]}` (FastAPI), `{"message": …}`.
    """
    error = body.get("error") if isinstance(body, dict) else None
    flat = error if isinstance(error, dict) else body if isinstance(body, dict) else {}
    text = error if isinstance(error, str) else flat.get("message") or _detail(flat.get("detail"))
    code = flat.get("code")
    return {
        "message": str(text or "The provider gave no reason."),
        "type": flat.get("type") if isinstance(flat.get("type"), str) else None,
        "param": flat.get("param") if isinstance(flat.get("param"), str) else None,
        "code": str(code) if isinstance(code, (str, int)) and not isinstance(code, bool) else None,
    }


def _detail(detail: Any) -> str:
    return "; ".join(_problems(detail)) if isinstance(detail, list) else str(detail or "")


def _problems(detail: list[Any]) -> Iterator[str]:
    for item in detail:
        if isinstance(item, dict):
            steps = item.get("loc")
            where = ".".join(map(str, steps)) if isinstance(steps, list) else ""
            yield f"{where}: {item.get('msg')}" if where else str(item.get("msg"))


OPENAI: Provider = {
    "base_url": "https://api.openai.com/v1",
    "authorize": bearer,
    "error": error_object,
    "operations": {
        "upload_file": exchange(answer=file_object),
        "list_files": exchange(answer=file_list),
        "retrieve_file": exchange(answer=file_object),
        "retrieve_file_content": exchange(),
        "delete_file": exchange(answer=deletion),
    },
    "fields": ("purpose", "expires_after[anchor]", "expires_after[seconds]"),
    "required_fields": ("purpose",),
    "client_headers": ("openai-organization", "openai-project"),
}
