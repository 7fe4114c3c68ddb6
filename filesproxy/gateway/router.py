"""Which operation a method and a path name. A hand-written router over the table of operations; no I/O."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..errors import MethodNotAllowed, NotFound
from ..operations import ROUTES, Route, checked_id


class Match(NamedTuple):
    """A row of the table and, where its path has one, the id."""

    route: Route
    id: str = ""


def route(method: str, path: str) -> Match:
    """The operation of a request. HEAD is routed as GET (RFC 9110 §9.3.2).

    Raises NotFound, MethodNotAllowed (with Allow), or BadRequest for an id that no provider could have issued.
    """
    verb = "GET" if method == "HEAD" else method
    allowed: list[str] = []
    for routes, item_id in _found(path or "/"):
        if verb in routes:
            return Match(routes[verb], checked_id(item_id) if item_id else "")
        allowed += routes
    if not allowed:
        raise NotFound(_missing(path))
    raise MethodNotAllowed("This path does not take that method.", headers={"allow": _allow(allowed)})


def _found(path: str) -> Iterator[tuple[dict[str, Route], str]]:
    """(method → route, id): of the path as it is spelled, then of the paths with an id in place of a segment."""
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


_TABLE: dict[str, dict[str, Route]] = {}
for _route in ROUTES:
    _TABLE.setdefault(_route.path, {})[_route.method] = _route
_ID_PLACES = sorted({_path.split("/").index(":id") for _path in _TABLE if ":id" in _path})
