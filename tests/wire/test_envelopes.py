"""Answers in an envelope: what is inside, and failures that come with a good status."""

from __future__ import annotations

import pytest

from filesproxy.errors import InvalidAnswer
from filesproxy.wire.envelopes import MAX_REASON, unwrapped

FILE = {"id": "file-1", "object": "file", "bytes": 5}
LIST = {"object": "list", "data": [FILE]}

WRAPPED = {
    "siliconflow": {"code": 20000, "message": "Ok", "status": True, "data": FILE},
    "code_as_text": {"code": "20000", "message": "", "data": FILE},
    "code_0": {"code": 0, "msg": "success", "data": FILE},
    "code_200": {"code": 200, "message": "OK", "data": FILE},
    "unknown_code_of_a_success": {"code": 10000, "message": "Success", "data": FILE},
    "success": {"success": True, "error": None, "data": FILE},
    "result": {"status": "success", "result": FILE},
    "file": {"file": FILE},
    "data_alone": {"data": FILE},
    "with_an_id_of_its_own": {"id": "req-1", "code": 20000, "data": FILE},
    "with_the_requests_id": {"id": "req-1", "data": FILE},
    "with_the_requests_id_and_time": {"id": "req-1", "object": "response", "created_at": 1, "result": FILE},
    "with_the_requests_id_beside_a_file": {"id": "req-1", "ok": True, "file": FILE},
    "twice": {"code": 20000, "data": {"file": FILE}},
    "list": {"code": 20000, "data": LIST},
}
BARE = [FILE, LIST, {**FILE, "status": "error"}, {**FILE, "error": "x"}, {**FILE, "data": {"id": "x"}}, {}, None, [],
        {"id": "file-1"}, {"id": "file-1", "filename": "a", "status": "failed"}, {"id": "file-1", "deleted": True},
        "x", {"data": []}, {"data": {}}, {"object": "list", "data": None}, {"code": 20000, "data": [FILE]}]  # fmt: skip
FAILED = {
    "siliconflow": ({"code": 20012, "message": "No such file.", "data": None}, "No such file., code 20012"),
    "code_and_empty_text": ({"code": 50000, "message": "", "data": ""}, "code 50000"),
    "code_as_text": ({"code": "InvalidPurpose", "message": "No such purpose."}, "No such purpose."),
    "negative_code": ({"code": -1, "msg": "Busy."}, "Busy."),
    "error_code": ({"error_code": 17, "error_msg": "Daily limit reached."}, "Daily limit reached., code 17"),
    "code_beside_a_file": ({"code": 50001, "message": "Not stored.", "data": FILE}, "Not stored."),
    "success": ({"success": False, "message": "Not stored."}, "Not stored."),
    "status": ({"status": False, "message": "Not stored."}, "Not stored."),
    "success_in_words": ({"success": "false", "message": "Not stored."}, "Not stored."),
    "success_as_a_number": ({"success": 0, "message": "Not stored."}, "Not stored."),
    "ok": ({"ok": False, "message": "Not stored."}, "Not stored."),
    "status_in_capitals": ({"status": "ERROR", "message": "Not stored."}, "Not stored."),
    "failure_with_the_requests_id": ({"id": "req-1", "success": False, "message": "Not stored."}, "Not stored."),
    "error_with_the_requests_id": ({"id": "req-1", "error": {"message": "Not stored."}}, "Not stored."),
    "jsend": ({"status": "fail", "message": "Not stored.", "data": None}, "Not stored."),
    "openai": ({"error": {"message": "Not stored.", "code": None}}, "Not stored."),
    "text": ({"error": "Not stored."}, "Not stored."),
    "inside": ({"code": 20000, "data": {"error": {"message": "Not stored."}}}, "Not stored."),
    "without_a_reason": ({"error": True}, "no reason"),
    "long": ({"error": "x" * 9999}, "x" * MAX_REASON),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_object_in_an_envelope_is_taken_out(name):
    assert unwrapped(WRAPPED[name]) == (LIST if name == "list" else FILE)


@pytest.mark.parametrize("obj", BARE)
def test_object_without_an_envelope_is_unchanged(obj):
    assert unwrapped(obj) is obj


@pytest.mark.parametrize("name", FAILED)
def test_failure_with_a_good_status_is_a_502_with_the_hosts_own_reason(name):
    obj, reason = FAILED[name]
    with pytest.raises(InvalidAnswer) as failed:
        unwrapped(obj)
    assert reason in failed.value.message and len(failed.value.message) < MAX_REASON + 100
