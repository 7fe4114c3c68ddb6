"""The handlers of JSON requests: chat completions, and what is passed through where it is as OpenAI has it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ..calls import Call, Json, Target, replace
from ..errors import BadRequest
from ..operations import ROUTES, is_id
from ..providers.openai import PASSED_THROUGH
from ..wire.headers import single
from ..wire.json_fields import at, objects, optional, required
from .files import part_upload
from .json_body import Document
from .wsgi import Request

#: operations whose request is a JSON object; other POSTs have none
JSON_OPERATIONS = frozenset(
    {
        "create_chat_completion",
        "create_response",
        "count_response_input_tokens",
        "compact_response",
        "create_upload",
        "complete_upload",
        "create_batch",
        "create_fine_tuning_job",
    }
)
#: operations whose answer a model makes, as events if the request asks for a stream
GENERATED = frozenset({"create_chat_completion", "create_response", "retrieve_response", "compact_response"})
#: where the bytes of a file part may come from
FILE_SOURCES = ("file_id", "file_data", "file_url")
# `include[]`, `metadata[team 1]`: what stands in brackets is a client's own word.
_PARAMETER = re.compile(r"[A-Za-z_]{1,64}(\[[^\[\]\x00-\x1f\x7f]{0,64}\])?")

Handler = Callable[[Request, str, Target, Document], Call]


def create_chat_completion(request: Request, item_id: str, target: Target, document: Document) -> Call:
    """POST /v1/chat/completions, with what any provider would refuse refused here, by its place."""
    call = _chat(request, item_id, target, document)
    body = _named_model(document.value, request.headers, target)
    if not required(body, "model", str):
        raise BadRequest("'model' is empty.", param="model")
    check_messages(body)
    return replace(call, json=body)


def pass_through(operation: str) -> Handler:
    """The handler of an operation whose path, query and JSON are the provider's own."""
    method = next(method for method, _, named in ROUTES if named == operation)

    def handler(request: Request, item_id: str, target: Target, document: Document) -> Call:
        body = document.value if operation in JSON_OPERATIONS else None
        query = _query(request)
        wants_events = optional(body, "stream", bool) if body else query.get("stream") == "true"
        made = Call(operation, method, request.path[len("/v1") :], query=query, json=body)
        if operation not in GENERATED:
            return made
        strict = request.headers.get("x-portkey-strict-open-ai-compliance", "true").lower() != "false"
        return replace(made, stream=bool(wants_events), is_generated=True, is_strict=strict)

    return handler


_chat = pass_through("create_chat_completion")


def add_upload_part(request: Request, item_id: str, target: Target, document: Document) -> Call:
    """POST /v1/uploads/:id/parts: the bytes of a part are relayed as a file's are."""
    upload = part_upload(request, target)
    return Call("add_upload_part", "POST", f"/uploads/{item_id}/parts", upload=upload)


HANDLERS: dict[str, Handler] = {
    **{operation: pass_through(operation) for operation in PASSED_THROUGH},
    "create_chat_completion": create_chat_completion,
    "add_upload_part": add_upload_part,
}


def _query(request: Request) -> dict[str, Any]:
    """The query as the client has it: texts, and lists of them under names that end in []."""
    query: dict[str, Any] = {}
    for name, text in request.query_pairs():
        if not _PARAMETER.fullmatch(name):
            raise BadRequest("A query parameter has a name that no provider knows.")
        if name.endswith("[]"):
            query.setdefault(name, []).append(text)
        elif name in query:
            raise BadRequest("A query parameter comes more than once.")
        else:
            query[name] = text
    return query


def _named_model(body: Json, headers: Mapping[str, str], target: Target) -> Json:
    """The body with the model that a header names, where the provider has such a header."""
    header = target.provider.get("model_header", "")
    model = single(headers, header) if header else ""
    return {**body, "model": model} if model else body


def check_messages(body: Json) -> None:
    """BadRequest for messages that are no messages, and for a file part that names no file or more than one."""
    messages = required(body, "messages", list)
    if not messages:
        raise BadRequest("'messages' is empty.", param="messages")
    for place, message in objects(messages, "messages"):
        required(message, "role", str, place)
        content = optional(message, "content", (str, list), place)
        if isinstance(content, list):
            for part_place, part in objects(content, at(place, "content")):
                if required(part, "type", str, part_place) == "file":
                    _check_file(required(part, "file", dict, part_place), at(part_place, "file"))


def _check_file(file: Json, place: str) -> None:
    given = [source for source in FILE_SOURCES if optional(file, source, str, place)]
    if len(given) != 1:
        raise BadRequest("A file part has one of file_id, file_data and file_url.", param=place)
    if given == ["file_id"] and not is_id(file["file_id"]):
        raise BadRequest(
            "A file id is 1 to 128 letters, digits, dots, underscores or hyphens.", param=at(place, "file_id")
        )
    optional(file, "mime_type", str, place)
    optional(file, "filename", str, place)
