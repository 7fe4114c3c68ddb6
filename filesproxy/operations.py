"""Which operation a method and a path name: one table, no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from .errors import BadRequest, MethodNotAllowed, NotFound

#: (method, path, operation); `:id` is one path segment, the id of a file, a batch, and so on.
ROUTES = (
    ("POST", "/v1/files", "upload_file"),
    ("GET", "/v1/files", "list_files"),
    ("GET", "/v1/files/:id", "retrieve_file"),
    ("GET", "/v1/files/:id/content", "retrieve_file_content"),
    ("DELETE", "/v1/files/:id", "delete_file"),
    ("POST", "/v1/chat/completions", "create_chat_completion"),
    ("POST", "/v1/responses", "create_response"),
    ("POST", "/v1/responses/input_tokens", "count_response_input_tokens"),
    ("POST", "/v1/responses/compact", "compact_response"),
    ("GET", "/v1/responses/:id", "retrieve_response"),
    ("DELETE", "/v1/responses/:id", "delete_response"),
    ("POST", "/v1/responses/:id/cancel", "cancel_response"),
    ("GET", "/v1/responses/:id/input_items", "list_response_input_items"),
    ("POST", "/v1/uploads", "create_upload"),
    ("POST", "/v1/uploads/:id/parts", "add_upload_part"),
    ("POST", "/v1/uploads/:id/complete", "complete_upload"),
    ("POST", "/v1/uploads/:id/cancel", "cancel_upload"),
    ("POST", "/v1/batches", "create_batch"),
    ("GET", "/v1/batches", "list_batches"),
    ("GET", "/v1/batches/:id", "retrieve_batch"),
    ("POST", "/v1/batches/:id/cancel", "cancel_batch"),
    ("POST", "/v1/fine_tuning/jobs", "create_fine_tuning_job"),
    ("GET", "/v1/fine_tuning/jobs", "list_fine_tuning_jobs"),
    ("GET", "/v1/fine_tuning/jobs/:id", "retrieve_fine_tuning_job"),
    ("POST", "/v1/fine_tuning/jobs/:id/cancel", "cancel_fine_tuning_job"),
    ("POST", "/v1/fine_tuning/jobs/:id/pause", "pause_fine_tuning_job"),
    ("POST", "/v1/fine_tuning/jobs/:id/resume", "resume_fine_tuning_job"),
    ("GET", "/v1/fine_tuning/jobs/:id/events", "list_fine_tuning_events"),
    ("GET", "/v1/fine_tuning/jobs/:id/checkpoints", "list_fine_tuning_checkpoints"),
    ("GET", "/v1/health", "health"),
    ("GET", "/", "health"),
)

# What providers issue, and nothing that could change a URL it is put into ("..", "/", "?", "#", "%").
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Match(NamedTuple):
    """An operation and, where the route has one, the id."""

    operation: str
    id: str = ""


def route(method: str, path: str) -> Match:
    """The operation for a request. HEAD is routed as GET (RFC 9110 §9.3.2).

    Raises NotFound, MethodNotAllowed (with Allow), or BadRequest for an id that no provider could have issued.
    """
    verb = "GET" if method == "HEAD" else method
    allowed: list[str] = []
    for operations, item_id in _found(path or "/"):
        if verb in operations:
            return Match(operations[verb], checked_id(item_id) if item_id else "")
        allowed += operations
    if not allowed:
        raise NotFound(_missing(path))
    raise MethodNotAllowed("This path does not take that method.", headers={"allow": _allow(allowed)})


def is_id(text: str) -> bool:
    """Whether a provider could have issued this id, and it can be put into a URL as it is."""
    return bool(_ID.fullmatch(text)) and text not in (".", "..")


def checked_id(file_id: str, param: str = "id") -> str:
    """The id, if it is 1 to 128 characters of [A-Za-z0-9._-] and no dot segment; else BadRequest."""
    if not is_id(file_id):
        raise BadRequest("An id is 1 to 128 letters, digits, dots, underscores or hyphens.", param=param)
    return file_id


def _found(path: str) -> Iterator[tuple[dict[str, str], str]]:
    """(method → operation, id) of the path that is spelled so, then of those with an id in the place of a segment."""
    if path in _TABLE and ":" not in path:
        yield _TABLE[path], ""
    segments = path.split("/")
    for place in _ID_PLACES:
        item_id = segments[place] if place < len(segments) else ""
        if item_id:
            segments[place] = ":id"
            yield _TABLE.get("/".join(segments), {}), item_id
            segments[place] = item_id


def _allow(verbs: list[str]) -> str:
    return ", ".join(verb + (", HEAD" if verb == "GET" else "") for verb in verbs)


def _missing(path: str) -> str:
    if path.startswith("/files"):
        return "No such route: the base URL of a client ends in /v1."
    return "No such route."


_TABLE: dict[str, dict[str, str]] = {}
for _method, _path, _operation in ROUTES:
    _TABLE.setdefault(_path, {})[_method] = _operation
_ID_PLACES = sorted({_path.split("/").index(":id") for _path in _TABLE if ":id" in _path})
