"""OpenAI, the identity that every other provider is a difference from. https://platform.openai.com/docs/api-reference/files"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..calls import Answer, Call, Json, Provider, Send, Target, exchange, replace
from ..operations import ROUTES
from ..wire import sse
from ..wire.lists import deletion, file_list, file_object


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


def passed_through(call: Call, send: Send) -> Answer:
    """The provider's own call and answer, of a stream its whole events: what OpenAI has is passed as it is."""
    reply = send(call)
    if reply.body is None or not sse.is_stream(reply):
        return reply
    ends = () if call.operation == "create_chat_completion" else sse.RESPONSE_ENDS
    return replace(reply, body=sse.passed_through(reply.body, ends))


def create_chat_completion(call: Call, send: Send) -> Answer:
    """A chat completion, whose file parts go without the `mime_type` that only other providers know."""
    assert call.json is not None
    return passed_through(replace(call, json=without_mime_types(call.json)), send)


def without_mime_types(body: Json) -> Json:
    """The body of a chat completion without what Portkey adds to OpenAI's file parts."""
    return {**body, "messages": [_plain_message(message) for message in body["messages"]]}


def _plain_message(message: Json) -> Json:
    content = message.get("content")
    return {**message, "content": list(map(_plain_part, content))} if isinstance(content, list) else message


def _plain_part(part: Json) -> Json:
    if part["type"] != "file":
        return part
    return {**part, "file": {name: value for name, value in part["file"].items() if name != "mime_type"}}


FILE_OPERATIONS = tuple(operation for _, path, operation in ROUTES if path.startswith("/v1/files"))
#: operations that every provider with OpenAI's own contract has, and others have not
PASSED_THROUGH = tuple(
    operation
    for _, path, operation in ROUTES
    if path.startswith(("/v1/responses", "/v1/uploads", "/v1/batches", "/v1/fine_tuning"))
)

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
        "create_chat_completion": create_chat_completion,
        **dict.fromkeys(PASSED_THROUGH, passed_through),
    },
    "fields": ("purpose", "expires_after[anchor]", "expires_after[seconds]"),
    "required_fields": ("purpose",),
    "client_headers": ("openai-organization", "openai-project"),
}
