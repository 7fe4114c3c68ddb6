"""The health check: whether the process answers at all. It needs no key and looks at nothing else."""

from __future__ import annotations

from .. import __version__
from .record import Record
from .response import Response, json_response


def health(record: Record) -> Response:
    """GET / and GET /v1/health."""
    return json_response(200, {"status": "ok", "service": "filesproxy", "version": __version__}, record.headers())
