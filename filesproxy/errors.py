"""Every failure with its HTTP face; an answer's message comes from here, never from `str(exc)`.

FilesproxyError
├── ClientError              whose fault: the caller's; nothing complete has gone upstream
│   ├── BadRequest           400
│   │   ├── MultipartError   400, the upload's framing
│   │   ├── InvalidJson      400, a JSON body
│   │   └── ClientAborted    400, the body ended early, or nobody waits for the answer
│   ├── Unauthorized         401
│   ├── Forbidden            403
│   ├── NotFound             404
│   ├── MethodNotAllowed     405 + Allow
│   ├── ClientTimeout        408
│   ├── LengthRequired       411
│   ├── TooLarge             413
│   ├── UnsupportedMedia     415
│   └── RangeNotSatisfiable  416 + Content-Range
├── UpstreamError            502, the upstream is unreachable or broken
│   ├── UpstreamTimeout      504
│   │   └── RequestTimeout   408, the limit was the client's own
│   └── UpstreamAnswered     the upstream's own status and text
├── Saturated                503 + Retry-After, the gateway holds all it may
├── LoopDetected             508, the request has been here before
├── StoreError               500, the local store's disk
│   └── StoreFull            507
└── ConfigError              stops the start; never becomes an answer
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

# Failures of a server that the same request would meet again; OpenAI's SDKs repeat every other 5xx.
FINAL_CODES = frozenset(
    {
        "loop_detected",
        "upstream_address",
        "upstream_answer_too_large",
        "upstream_credential_rejected",
        "upstream_redirect",
        "upstream_tls",
        "store_full",
    }
)

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class FilesproxyError(Exception):
    """A failure that can be shown: `status`, OpenAI's `type`, `param`, `code`, and extra response `headers`."""

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.code
        self.headers = dict(headers)

    def envelope(self) -> dict[str, Any]:
        """OpenAI's error object; all four keys are required by its specification."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}


class ClientError(FilesproxyError):
    """The caller's request is at fault."""

    status = 400
    type = "invalid_request_error"


class BadRequest(ClientError):
    """400: malformed, or over a limit of form."""


class MultipartError(BadRequest):
    """400: the bytes are no multipart/form-data that we accept (RFC 7578)."""

    code = "invalid_multipart"


class ClientAborted(BadRequest):
    """400, if anybody is left to read it: the body stopped before its end, or the client hung up."""

    code = "client_aborted"


class Unauthorized(ClientError):
    """401: no usable credential."""

    status = 401
    code = "invalid_api_key"


class Forbidden(ClientError):
    """403: this caller may not do that here."""

    status = 403
    type = "permission_error"
    code = "forbidden"


class NotFound(ClientError):
    """404: no such route or file."""

    status = 404
    code = "not_found"


class MethodNotAllowed(ClientError):
    """405: RFC 9110 §15.5.6 demands an Allow header."""

    status = 405
    code = "method_not_allowed"


class ClientTimeout(ClientError):
    """408: the client stopped sending."""

    status = 408
    type = "timeout_error"
    code = "client_timeout"


class InvalidJson(BadRequest):
    """400: the body is not a JSON object as we take it."""

    code = "invalid_json"


class LengthRequired(ClientError):
    """411: the server hands us a body whose end we cannot see."""

    status = 411
    code = "length_required"


class TooLarge(ClientError):
    """413: the body is over a limit of size."""

    status = 413
    code = "request_too_large"


class UnsupportedMedia(ClientError):
    """415: an upload that is not multipart/form-data, or a JSON request that is not JSON."""

    status = 415
    code = "unsupported_media_type"


class RangeNotSatisfiable(ClientError):
    """416: RFC 9110 §15.5.17; Content-Range says how long the file is."""

    status = 416
    code = "range_not_satisfiable"


class UpstreamError(FilesproxyError):
    """502: the upstream is unreachable, or broke the protocol; the message names the phase."""

    status = 502
    code = "upstream_error"


class UpstreamTimeout(UpstreamError):
    """504: the upstream was silent for too long."""

    status = 504
    code = "upstream_timeout"


class RequestTimeout(UpstreamTimeout):
    """408: the time in x-portkey-request-timeout has passed; status and type are Portkey's."""

    status = 408
    type = "timeout_error"
    code = "request_timeout"


class UpstreamAnswered(UpstreamError):
    """The upstream refused: its own status, and its text in our envelope."""

    def __init__(self, status: int, error: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        super().__init__(str(error["message"]), param=error["param"], headers=headers)
        self.status = status
        self.type = str(error["type"])
        self.code = error["code"]


class Saturated(FilesproxyError):
    """503: the gateway holds all that it may at once; the same request can be tried again."""

    status = 503
    code = "saturated"


class LoopDetected(FilesproxyError):
    """508: a provider of ours is, by some way, this gateway."""

    status = 508
    code = "loop_detected"


class StoreError(FilesproxyError):
    """500: the local store cannot read or write its folder."""

    code = "store_error"


class StoreFull(StoreError):
    """507: no space left; nothing was stored."""

    status = 507
    code = "store_full"


class ConfigError(FilesproxyError):
    """The configuration cannot be used; it says where, and never repeats a value that may be a secret."""

    code = "config_error"
