"""Which operation a method and a path name: one table, no I/O."""

from __future__ import annotations

import re
from typing import NamedTuple

from .errors import BadRequest, MethodNotAllowed, NotFound

#: (method, path, operation); `:id` is one path segment, the id of a file.
ROUTES = (
    ("POST", "/v1/files", "upload_file"),
    ("GET", "/v1/files", "list_files"),
    ("GET", "/v1/files/:id", "retrieve_file"),
    ("GET", "/v1/files/:id/content", "retrieve_file_content"),
    ("DELETE", "/v1/files/:id", "delete_file"),
    ("GET", "/v1/health", "health"),
    ("GET", "/", "health"),
)

# What providers issue, and nothing that could change a URL it is put into ("..", "/", "?", "#", "%").
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Match(NamedTuple):
    """An operation and, where the route has one, the file id."""

    operation: str
    id: str = ""


def route(method: str, path: str) -> Match:
    """The operation for a request. HEAD is routed as GET (RFC 9110 §9.3.2).

    Raises NotFound, MethodNotAllowed (with Allow), or BadRequest for an id that no provider could have issued.
    """
    segments = (path or "/").split("/")
    found = [(verb, match) for verb, pattern, operation in _TABLE if (match := _match(pattern, segments, operation))]
    if not found:
        raise NotFound(_missing(path))
    for verb, match in found:
        if verb == method or (verb, method) == ("GET", "HEAD"):
            return match._replace(id=checked_id(match.id)) if match.id else match
    raise MethodNotAllowed(
        "This path does not take that method.", headers={"allow": _allow([verb for verb, _ in found])}
    )


def is_id(text: str) -> bool:
    """Whether a provider could have issued this id, and it can be put into a URL as it is."""
    return bool(_ID.fullmatch(text)) and text not in (".", "..")


def checked_id(file_id: str, param: str = "id") -> str:
    """The id, if it is 1 to 128 characters of [A-Za-z0-9._-] and no dot segment; else BadRequest."""
    if not is_id(file_id):
        raise BadRequest("A file id is 1 to 128 letters, digits, dots, underscores or hyphens.", param=param)
    return file_id


def _match(pattern: list[str], segments: list[str], operation: str) -> Match | None:
    if len(pattern) != len(segments):
        return None
    file_id = ""
    for want, got in zip(pattern, segments):
        if want == ":id" and got:
            file_id = got
        elif want != got:
            return None
    return Match(operation, file_id)


def _allow(verbs: list[str]) -> str:
    return ", ".join(verb + (", HEAD" if verb == "GET" else "") for verb in verbs)


def _missing(path: str) -> str:
    if path.startswith("/files"):
        return "No such route: the base URL of a client ends in /v1."
    return "No such route."


_TABLE = [(method, path.split("/"), operation) for method, path, operation in ROUTES]
