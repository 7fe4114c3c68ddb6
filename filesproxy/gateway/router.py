"""Which operation a method and a path name. A hand-written router over the table of operations; no I/O."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..errors import MethodNotAllowed, NotFound
from ..operations import ROUTES, Route, checked_id, checked_model


class Match(NamedTuple):
    """A row of the table, and the ids in its path or the name of a model."""

    route: Route
    ids: tuple[str, ...] = ()
    model: str = ""

    @property
    def id(self) -> str:
        """The last id in the path, "" if there is none."""
        return self.ids[-1] if self.ids else ""

    @property
    def path(self) -> str:
        """The path with its ids or its model, without the version: what a call's path is."""
        path = self.route.path[len("/v1") :].replace(":model", self.model)
        for each in self.ids:
            path = path.replace(":id", each, 1)
        return path


def route(method: str, path: str) -> Match:
    """The operation of a request. HEAD is routed as GET (RFC 9110 §9.3.2).

    Raises NotFound, MethodNotAllowed (with Allow), or BadRequest for an id or a model that no provider could have.
    """
    verb = "GET" if method == "HEAD" else method
    allowed: list[str] = []
    for routes, ids in _found(path or "/"):
        if verb in routes:
            return Match(routes[verb], tuple(map(checked_id, ids)))
        allowed += routes
    prefix = named_model(path)
    if prefix:
        routes = _BY_MODEL[prefix]
        if verb in routes:
            return Match(routes[verb], model=checked_model(path[len(prefix) :]))
        allowed += routes
    if not allowed:
        raise NotFound(_missing(path))
    raise MethodNotAllowed("This path does not take that method.", headers={"allow": _allow(allowed)})


def named_model(path: str) -> str:
    """The beginning of a path that ends in the name of a model, "" for any other path."""
    if not path.startswith(_MODEL_PREFIXES):
        return ""
    return next((prefix for prefix in _MODEL_PREFIXES if path.startswith(prefix) and path != prefix), "")


def _found(path: str) -> Iterator[tuple[dict[str, Route], list[str]]]:
    """(method → route, ids): of the path as it is spelled, then of the paths with ids in place of segments."""
    if (path, ()) in _TABLE:
        yield _TABLE[path, ()], []
    segments = path.split("/")
    for places in _ID_PLACES:
        ids = [segments[place] for place in places if place < len(segments)]
        if len(ids) == len(places) and "" not in ids:
            for place in places:
                segments[place] = ":id"
            yield _TABLE.get(("/".join(segments), places), {}), ids
            for place, each in zip(places, ids):
                segments[place] = each


def _allow(verbs: list[str]) -> str:
    return ", ".join(verb + (", HEAD" if verb == "GET" else "") for verb in verbs)


def _missing(path: str) -> str:
    if ("/v1" + path).startswith(_BEGINNINGS):
        return "No such route: the base URL of a client ends in /v1."
    return "No such route."


_Places = tuple[int, ...]  # of the ids among the segments of a path
_TABLE: dict[tuple[str, _Places], dict[str, Route]] = {}
_BY_MODEL: dict[str, dict[str, Route]] = {}
for _route in ROUTES:
    if _route.names_model:
        _BY_MODEL.setdefault(_route.path[: -len(":model")], {})[_route.method] = _route
        continue
    _places = tuple(place for place, segment in enumerate(_route.path.split("/")) if segment == ":id")
    _TABLE.setdefault((_route.path, _places), {})[_route.method] = _route
_ID_PLACES = sorted({_places for _, _places in _TABLE if _places})
_MODEL_PREFIXES = tuple(_BY_MODEL)
_BEGINNINGS = tuple({"/".join(_route.path.split("/")[:3]) for _route in ROUTES if _route.path != "/"})
