"""The handlers of chat completions and of everything that is passed through, and the table of all handlers."""

from __future__ import annotations

from collections.abc import Mapping

from ..calls import Call, Json, Target
from ..errors import BadRequest
from ..operations import OPERATIONS, checked_id
from ..wire.headers import single
from ..wire.json_fields import at, objects, optional, required
from .files import HANDLERS as FILE_HANDLERS
from .files import Form, Handler, call_of, form_parts
from .request import Request
from .router import Match

#: where the bytes of a file part may come from
FILE_SOURCES = ("file_id", "file_data", "file_url")


def create_chat_completion(request: Request, match: Match, target: Target, body: Json | None) -> Call:
    """POST /v1/chat/completions. What every provider would refuse is refused here, with its place."""
    call = passed_through(request, match, target, body)
    named = _with_named_model(body or {}, request.headers, target)
    if not required(named, "model", str):
        raise BadRequest("'model' is empty.", param="model")
    check_messages(named)
    return call._replace(json=named)


def passed_through(request: Request, match: Match, target: Target, body: Json | None) -> Call:
    """Any operation whose path, query and JSON are the provider's own."""
    query = request.parameters()
    wants_events = optional(body, "stream", bool) if body else query.get("stream") == "true"
    call = call_of(match, query=query, json=body)
    if not match.route.is_generated:
        return call
    is_strict = request.headers.get("x-portkey-strict-open-ai-compliance", "true").lower() != "false"
    return call._replace(expects="events" if wants_events else "json", is_generated=True, is_strict=is_strict)


def create_upload(request: Request, match: Match, target: Target, body: Json | None) -> Call:
    """POST /v1/uploads, by the rules of the caller's key."""
    return passed_through(request, match, target, request.upload_rules.json(body or {}))


def create_embedding(request: Request, match: Match, target: Target, body: Json | None) -> Call:
    """POST /v1/embeddings."""
    call = passed_through(request, match, target, body)
    return call._replace(json=_with_named_model(body or {}, request.headers, target))


def create_container_file(request: Request, match: Match, target: Target, body: Json | None) -> Call:
    """POST /v1/containers/:id/files: a form with the file or, in either notation, the id of an uploaded one."""
    if match.route.body == "json":
        return passed_through(request, match, target, body)
    form = Form(form_parts(request, target), request.check_form, known=("file_id",), rules=request.upload_rules)
    try:
        return call_of(match, upload=form.upload())
    except BadRequest as error:
        if error.code != "missing_file" or "file_id" not in form.fields:
            raise
    return call_of(match, json={"file_id": checked_id(form.fields["file_id"], "file_id")})


HANDLERS: dict[str, Handler] = {
    **{name: passed_through for name, route in OPERATIONS.items() if route.body in ("none", "json")},
    "create_chat_completion": create_chat_completion,
    "create_embedding": create_embedding,
    "create_upload": create_upload,
    "create_container_file": create_container_file,
    **FILE_HANDLERS,
}


def _with_named_model(body: Json, headers: Mapping[str, str], target: Target) -> Json:
    """The body, with the model that a header names if the provider has such a header."""
    header = target.provider.get("model_header", "")
    model = single(headers, header) if header else ""
    return {**body, "model": model} if model else body


def check_messages(body: Json) -> None:
    """BadRequest for malformed messages, and for a file part that names no file or more than one."""
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
        raise BadRequest("A file part must have exactly one of file_id, file_data and file_url.", param=place)
    if given == ["file_id"]:
        checked_id(file["file_id"], at(place, "file_id"))
    optional(file, "mime_type", str, place)
    optional(file, "filename", str, place)
