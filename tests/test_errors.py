"""The error classes: their status, type and code, and OpenAI's envelope with all four keys."""

from __future__ import annotations

import json

import pytest

from filesproxy import errors
from filesproxy.errors import BadRequest, FilesproxyError, UpstreamAnswered

FACES = {
    "FilesproxyError": (500, "server_error", None),
    "ClientError": (400, "invalid_request_error", None),
    "BadRequest": (400, "invalid_request_error", None),
    "MultipartError": (400, "invalid_request_error", "invalid_multipart"),
    "ClientAborted": (400, "invalid_request_error", "client_aborted"),
    "Unauthorized": (401, "invalid_request_error", "invalid_api_key"),
    "Forbidden": (403, "permission_error", "forbidden"),
    "NotFound": (404, "invalid_request_error", "not_found"),
    "MethodNotAllowed": (405, "invalid_request_error", "method_not_allowed"),
    "ClientTimeout": (408, "timeout_error", "client_timeout"),
    "InvalidJson": (400, "invalid_request_error", "invalid_json"),
    "LengthRequired": (411, "invalid_request_error", "length_required"),
    "TooLarge": (413, "invalid_request_error", "request_too_large"),
    "UnsupportedMedia": (415, "invalid_request_error", "unsupported_media_type"),
    "RangeNotSatisfiable": (416, "invalid_request_error", "range_not_satisfiable"),
    "TooMany": (429, "rate_limit_error", "too_many_uploads"),
    "CallerBusy": (429, "rate_limit_error", "caller_busy"),
    "UpstreamError": (502, "server_error", "upstream_error"),
    "InvalidAnswer": (502, "server_error", "upstream_invalid_answer"),
    "DuplicateId": (502, "server_error", "duplicate_id"),
    "UpstreamTimeout": (504, "server_error", "upstream_timeout"),
    "RequestTimeout": (408, "timeout_error", "request_timeout"),
    "Saturated": (503, "server_error", "saturated"),
    "NeedsHttp11": (505, "server_error", "http_version_not_supported"),
    "LoopDetected": (508, "server_error", "loop_detected"),
    "StoreError": (500, "server_error", "store_error"),
    "StoreFull": (507, "server_error", "store_full"),
    "ConfigError": (500, "server_error", "config_error"),
}
CLASSES = {
    name: value for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)
}


def test_every_error_is_in_this_table_and_in_the_tree_of_the_docstring():
    assert set(CLASSES) == {*FACES, "UpstreamAnswered"}
    assert all(f" {name} " in f" {errors.__doc__} ".replace("\n", " ") for name in CLASSES)


@pytest.mark.parametrize("name", FACES)
def test_error_has_its_status_type_and_code(name):
    error = CLASSES[name]("What happened.")
    assert (error.status, error.type, error.code) == FACES[name]
    assert isinstance(error, FilesproxyError) and str(error) == error.message == "What happened."


@pytest.mark.parametrize("name", FACES)
def test_envelope_has_all_four_keys(name):
    error = CLASSES[name]("What happened.", param="x", code="its_own", headers={"allow": "GET"})
    wanted = {"message": "What happened.", "type": FACES[name][1], "param": "x", "code": "its_own"}
    assert error.envelope() == {"error": wanted}
    assert error.headers == {"allow": "GET"}
    assert json.dumps(CLASSES[name]("m").envelope())


def test_errors_share_no_headers():
    one, two = BadRequest("a"), BadRequest("b")
    one.headers["allow"] = "GET"
    assert two.headers == {}
    given = {"a": "b"}
    BadRequest("c", headers=given).headers["c"] = "d"
    assert given == {"a": "b"}


def test_code_of_one_error_does_not_change_its_class():
    BadRequest("a", code="special")
    assert BadRequest("b").code is None


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503, 529])
def test_error_of_an_upstream_keeps_its_status_and_text(status):
    words = {"message": "No.", "type": "rate_limit", "param": "p", "code": None}
    error = UpstreamAnswered(status, words, {"retry-after": "7"})
    assert (error.status, error.headers, error.envelope()) == (status, {"retry-after": "7"}, {"error": words})


def test_request_timeout_is_an_upstream_timeout():
    assert issubclass(CLASSES["RequestTimeout"], CLASSES["UpstreamTimeout"])


def test_refused_saved_credential_is_a_server_error():
    error = CLASSES["UpstreamError"]("Refused.", code="upstream_credential_rejected")
    assert (error.status, error.type, error.code) == (502, "server_error", "upstream_credential_rejected")
