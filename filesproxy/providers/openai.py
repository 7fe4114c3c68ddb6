"""OpenAI: the contract itself, from which other providers differ.

https://platform.openai.com/docs/api-reference/files
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from ..calls import Answer, Call, Json, Provider, Send, Target
from ..errors import InvalidAnswer, NotFound
from ..operations import PASSED_THROUGH, is_about, is_id
from ..wire import sse
from .toolkit import deletion, file_object, listed, need, translated, unusable

# What llama.cpp and Ollama answer, with a 500, to an image that the model has no projector for.
_UNREADABLE_MEDIA = re.compile(
    r"(image|audio|video) input is not supported|missing data required for image input|provide the mmproj",
    re.IGNORECASE,
)
_PROJECTOR = " The model host needs a projector for this model (llama.cpp: --mmproj), or take a model that reads it."


def bearer(call: Call, target: Target) -> Call:
    """The call with the credential as a bearer token (RFC 6750 §2.1); unchanged for a host without credentials."""
    if not target.secret:
        return call
    return call._replace(headers={**call.headers, "authorization": f"Bearer {target.secret}"})


def error_object(body: Any) -> Json:
    """The object inside OpenAI's envelope, from each form in which OpenAI-compatible hosts report errors.

    `{"error": {…}}`, `{"error": "text"}` (xAI), `{"detail": "text" | [{"loc", "msg"}]}` (FastAPI), `{"message": …}`.
    """
    error = body.get("error") if isinstance(body, dict) else None
    flat = error if isinstance(error, dict) else body if isinstance(body, dict) else {}
    said = next((text for text in (body, error) if isinstance(text, str)), None) or flat.get("message")
    code, message = flat.get("code"), _words(said) or _detail(flat.get("detail")) or "The provider gave no reason."
    if _UNREADABLE_MEDIA.search(message):
        message, code = message.rstrip(" .") + "." + _PROJECTOR, "media_not_supported"
    return {
        "message": message,
        "type": flat.get("type") if isinstance(flat.get("type"), str) else None,
        "param": flat.get("param") if isinstance(flat.get("param"), str) else None,
        "code": str(code) if isinstance(code, (str, int)) and not isinstance(code, bool) else None,
    }


def _detail(detail: Any) -> str:
    return "; ".join(filter(None, _problems(detail))) if isinstance(detail, list) else _words(detail)


def _words(said: Any) -> str:
    """Text as it is; of an object its own message, or else all of it, as JSON."""
    if isinstance(said, dict):
        said = next((said[name] for name in ("message", "msg") if isinstance(said.get(name), str)), said)
    return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False) if said else ""


def _problems(detail: list[Any]) -> Iterator[str]:
    for item in detail:
        if isinstance(item, dict):
            steps = item.get("loc")
            where = ".".join(map(str, steps)) if isinstance(steps, list) else ""
            yield ": ".join(filter(None, (where, _words(item.get("msg")))))


def passed_through(call: Call, send: Send) -> Answer:
    """The call and the answer, both unchanged; a stream is relayed in complete events."""
    reply = send(call)
    if reply.body is None or not sse.is_stream(reply):
        return reply
    ends = sse.RESPONSE_ENDS if call.path.startswith("/responses") else ()
    return reply._replace(body=sse.passed_through(reply.body, ends, _asks_for_several(call.json or {})))


def _asks_for_several(body: Json) -> bool:
    """Whether the answer may have more than one choice: `n`, or several prompts of a legacy completion."""
    return body.get("n") not in (None, 1) or isinstance(body.get("prompt"), list)


def retrieve_batch_output(call: Call, send: Send) -> Answer:
    """The content of the file with a batch's results. NotFound if the batch has none, or none yet."""
    others = {name: text for name, text in call.headers.items() if name not in ("range", "if-range")}
    batch = send(call._replace(path=f"/batches/{call.file_id}", headers=others, expects="json")).json
    if not is_about(need(batch, "id", str), call.file_id):
        raise InvalidAnswer("The provider answered about another id.")
    if batch.get("output_file_id") is None:
        status = batch.get("status")
        stands = f"its status is {status}" if isinstance(status, str) else "the provider does not say how it stands"
        raise NotFound(f"This batch has no output: {stands}.", param="id")
    file_id = need(batch, "output_file_id", str)
    if not is_id(file_id):
        raise unusable("output_file_id")
    return send(call._replace(path=f"/files/{file_id}/content"))


def create_chat_completion(call: Call, send: Send) -> Answer:
    """A chat completion. `mime_type` is removed from file parts, because only other providers know it."""
    return passed_through(call._replace(json=without_mime_types(call.json or {})), send)


def without_mime_types(body: Json) -> Json:
    """The body of a chat completion, without the `mime_type` that Portkey adds to OpenAI's file parts."""
    return {**body, "messages": [_plain_message(message) for message in body["messages"]]}


def _plain_message(message: Json) -> Json:
    content = message.get("content")
    return {**message, "content": list(map(_plain_part, content))} if isinstance(content, list) else message


def _plain_part(part: Json) -> Json:
    if part["type"] != "file":
        return part
    return {**part, "file": {name: value for name, value in part["file"].items() if name != "mime_type"}}


OPENAI: Provider = {
    "base_url": "https://api.openai.com/v1",
    "authorize": bearer,
    "error": error_object,
    "operations": {
        "upload_file": translated(answer=file_object),
        "list_files": listed(),
        "retrieve_file": translated(answer=file_object),
        "retrieve_file_content": translated(),
        "delete_file": translated(answer=deletion),
        "create_chat_completion": create_chat_completion,
        **dict.fromkeys(PASSED_THROUGH, passed_through),
        "retrieve_container_file_content": translated(),
        "retrieve_batch_output": retrieve_batch_output,
    },
    # A chat takes PDF only as a file, and text only as a text part: https://developers.openai.com/api/docs/guides/file-inputs
    "file_parts": ("text", "image", "audio", "pdf"),
    "host_file_parts": ("text", "image"),
    "form_fields": ("purpose", "expires_after[anchor]", "expires_after[seconds]"),
    "required_form_fields": ("purpose",),
    "client_headers": ("openai-organization", "openai-project"),
    "list_headers": ("openai-beta",),
    "scope_prefixes": ("x-portkey-openai-",),
    "answer_headers": ("openai-processing-ms", "openai-version"),
    # A compatible host may be a gateway, which passes on the headers of the provider that it calls.
    "answer_header_prefixes": ("anthropic-ratelimit-",),
    "request_id_headers": ("request-id", "apim-request-id"),
}
