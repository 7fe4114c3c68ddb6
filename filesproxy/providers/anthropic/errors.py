"""Translates Anthropic's errors into OpenAI's. https://platform.claude.com/docs/en/api/errors"""

from __future__ import annotations

import re
from typing import Any

from ...calls import Json
from ..openai import error_object

# error.type → OpenAI's type and code
_ERRORS = {
    "invalid_request_error": ("invalid_request_error", None),
    "authentication_error": ("invalid_request_error", "invalid_api_key"),
    "billing_error": ("insufficient_quota", "insufficient_quota"),
    "permission_error": ("permission_error", None),
    "not_found_error": ("invalid_request_error", "not_found"),
    "conflict_error": ("conflict", None),
    "request_too_large": ("invalid_request_error", "request_too_large"),
    "rate_limit_error": ("rate_limit_error", "rate_limit_exceeded"),
    "api_error": ("server_error", None),
    "timeout_error": ("server_error", None),
    "overloaded_error": ("server_error", "overloaded"),
}
#: error.type → the HTTP status that goes with it, for errors in a stream, which have none
STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_NOT_DOWNLOADABLE = re.compile(r"not downloadable|(can ?not|can't) be downloaded", re.IGNORECASE)


def error(body: Any) -> Json:
    """OpenAI's error object from Anthropic's. Its code is `details.error_code`, if there is one."""
    found = error_object(body)
    inner = body.get("error") if isinstance(body, dict) else None
    details = inner.get("details") if isinstance(inner, dict) else None
    detail = details.get("error_code") if isinstance(details, dict) else None
    kind, code = _ERRORS.get(str(found["type"]), (None, None))
    if detail is None and _NOT_DOWNLOADABLE.search(found["message"]):
        code = "file_not_downloadable"  # older versions send no details
    return {**found, "type": kind, "code": detail if isinstance(detail, str) else code}
