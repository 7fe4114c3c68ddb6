"""Every failure, and the HTTP answer that it becomes. No message is taken from `str(exc)` of another exception.

FilesproxyError
├── ClientError              the caller's fault; no complete request was sent upstream
│   ├── BadRequest           400
│   │   ├── MultipartError   400, the framing of an upload
│   │   ├── InvalidJson      400, a JSON body
│   │   └── ClientAborted    400, the body ended early, or the client is gone
│   ├── Unauthorized         401
│   ├── Forbidden            403
│   ├── NotFound             404
│   ├── MethodNotAllowed     405 + Allow
│   ├── ClientTimeout        408
│   ├── LengthRequired       411
│   ├── TooLarge             413
│   ├── UnsupportedMedia     415
│   ├── RangeNotSatisfiable  416 + Content-Range
│   ├── TooMany              429 + Retry-After, a limit of the key
│   └── CallerBusy           429 + Retry-After, the caller has its share in use
├── UpstreamError            502, the upstream is unreachable or broken
│   ├── InvalidAnswer        502, its answer cannot be used
│   ├── DuplicateId          502, it gave an id of another owner
│   ├── UpstreamTimeout      504
│   │   └── RequestTimeout   408, the client's own limit
│   └── UpstreamAnswered     the upstream's own status and text
├── Saturated                503 + Retry-After, the gateway is at a limit
├── NeedsHttp11              505, an HTTP/1.0 client could take a cut download for a complete one
├── LoopDetected             508, a provider leads back to the gateway
├── StoreError               500, the local store's disk
│   └── StoreFull            507
└── ConfigError              the gateway does not start; never an answer
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

# Codes of 5xx answers to which a retry gets the same answer; OpenAI's SDKs retry every other 5xx.
FINAL_CODES = frozenset({
    "duplicate_id", "http_version_not_supported", "loop_detected", "media_not_supported", "store_full",
    "upstream_address", "upstream_answer_too_large", "upstream_credential_rejected", "upstream_redirect",
    "upstream_tls",
})  # fmt: skip

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class FilesproxyError(Exception):
    """A failure that a client may see: `status`, OpenAI's `type`, `param` and `code`, and extra response `headers`.

    `detail` is for the operator's log only: a path, and what the system said.
    """

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
        detail: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.param = param
        self.code = code or self.code
        self.headers = dict(headers)

    def envelope(self) -> dict[str, Any]:
        """OpenAI's error envelope. Its specification requires all four keys."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}


class ClientError(FilesproxyError):
    """The caller's request is at fault."""

    status = 400
    type = "invalid_request_error"


class BadRequest(ClientError):
    """400: the request is malformed, or asks for something unsupported."""


class MultipartError(BadRequest):
    """400: the body is not multipart/form-data that the gateway accepts (RFC 7578)."""

    code = "invalid_multipart"


class ClientAborted(BadRequest):
    """400, if the client is still there to read it: the body ended early, or the client hung up."""

    code = "client_aborted"


class Unauthorized(ClientError):
    """401: no usable credential."""

    status = 401
    code = "invalid_api_key"


class Forbidden(ClientError):
    """403: this caller may not do this."""

    status = 403
    type = "permission_error"
    code = "forbidden"


class NotFound(ClientError):
    """404: no such route or file."""

    status = 404
    code = "not_found"


class MethodNotAllowed(ClientError):
    """405: the path does not have this method. Needs an Allow header (RFC 9110 §15.5.6)."""

    status = 405
    code = "method_not_allowed"


class ClientTimeout(ClientError):
    """408: the client stopped sending its body, or sent it too slowly."""

    status = 408
    type = "timeout_error"
    code = "client_timeout"


class InvalidJson(BadRequest):
    """400: the body is not a JSON object that the gateway accepts."""

    code = "invalid_json"


class LengthRequired(ClientError):
    """411: the body has no Content-Length, and the WSGI server does not decode chunked bodies."""

    status = 411
    code = "length_required"


class TooLarge(ClientError):
    """413: the body exceeds a size limit."""

    status = 413
    code = "request_too_large"


class UnsupportedMedia(ClientError):
    """415: the Content-Type is not multipart/form-data for an upload, or not JSON for a JSON request."""

    status = 415
    code = "unsupported_media_type"


class RangeNotSatisfiable(ClientError):
    """416: the file has no such range. Content-Range gives the file's length (RFC 9110 §15.5.17)."""

    status = 416
    code = "range_not_satisfiable"


class TooMany(ClientError):
    """429: a limit of the gateway key. Needs a Retry-After header."""

    status = 429
    type = "rate_limit_error"
    code = "too_many_uploads"


class CallerBusy(ClientError):
    """429: other requests of the same caller use its whole share. The same request can be sent again later."""

    status = 429
    type = "rate_limit_error"
    code = "caller_busy"


class UpstreamError(FilesproxyError):
    """502: the upstream is unreachable or broke the protocol. The message names the phase."""

    status = 502
    code = "upstream_error"


class InvalidAnswer(UpstreamError):
    """502: the upstream's answer cannot be used."""

    code = "upstream_invalid_answer"


class DuplicateId(UpstreamError):
    """502: the upstream gave a new object an id that the ledger has for another owner."""

    code = "duplicate_id"


class UpstreamTimeout(UpstreamError):
    """504: the upstream was silent for too long."""

    status = 504
    code = "upstream_timeout"


class RequestTimeout(UpstreamTimeout):
    """408: the time in x-portkey-request-timeout is over. Status and type are Portkey's."""

    status = 408
    type = "timeout_error"
    code = "request_timeout"


class UpstreamAnswered(UpstreamError):
    """The upstream answered with an error: its own status, and its own text in OpenAI's envelope."""

    def __init__(self, status: int, error: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        super().__init__(str(error["message"]), param=error["param"], headers=headers)
        self.status = status
        self.type = str(error["type"])
        self.code = error["code"]


class Saturated(FilesproxyError):
    """503: the gateway is at a limit. The same request can be sent again later."""

    status = 503
    code = "saturated"


class NeedsHttp11(FilesproxyError):
    """505: the client speaks HTTP/1.0, and could take a cut download for a complete one (RFC 9110 §15.6.6)."""

    status = 505
    code = "http_version_not_supported"


class LoopDetected(FilesproxyError):
    """508: the request has passed this gateway before: a provider leads back to it."""

    status = 508
    code = "loop_detected"


class StoreError(FilesproxyError):
    """500: the local store cannot read or write its folder."""

    code = "store_error"


class StoreFull(StoreError):
    """507: the disk is full, and nothing was stored."""

    status = 507
    code = "store_full"


class ConfigError(FilesproxyError):
    """The configuration cannot be used. The message says where, and never quotes a value that may be a secret."""

    code = "config_error"
