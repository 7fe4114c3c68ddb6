"""What is known of a file, beside its blob: a line of JSON, from which a lost index is made anew."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from ...calls import Json
from ...operations import KEPT_ID, is_kept_id

SUFFIX = ".json"
MAX_BYTES = 1 << 20  # a name and a purpose are far shorter

_BLOB = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TEXTS = ("id", "owner", "filename", "content_type", "purpose")
_FIELDS = (*_TEXTS, "bytes", "created_at", "expires_at", "sha256")


def encode(row: Json) -> bytes:
    """The sidecar of the file of this row."""
    return json.dumps({name: row.get(name) for name in _FIELDS}).encode("ascii") + b"\n"


def read(path: str) -> Json | None:
    """The row, without its blob, that a sidecar describes. None if there is no sidecar, or it is not whole."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        try:
            found = json.loads(file.read(MAX_BYTES))
        except (OSError, ValueError, RecursionError):
            return None
    return found if isinstance(found, dict) and found.keys() == set(_FIELDS) and is_row(found) else None


def is_blob(name: Any) -> bool:
    """Whether the store can have made a blob of this name."""
    return type(name) is str and bool(_BLOB.fullmatch(name))


def is_row(found: dict[str, Any]) -> bool:
    """Whether this can be what the store wrote of a file. An index of version 0.1.0 has no `sha256`."""
    for name in _TEXTS:
        if type(found.get(name)) is not str:
            return False
    digest, expires_at = found.get("sha256"), found.get("expires_at")
    return (
        is_kept_id(found["id"])
        and _is_count(found.get("bytes"))
        and _is_count(found.get("created_at"))
        and (expires_at is None or _is_count(expires_at))
        and (digest is None or (type(digest) is str and bool(_SHA256.fullmatch(digest))))
    )


def stamp_of(file_id: str) -> int:
    """The stamp in an id that the store made. ValueError for any other id."""
    found = KEPT_ID.fullmatch(file_id)
    if not found:
        raise ValueError(file_id)
    return int(found[1], 16)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62
