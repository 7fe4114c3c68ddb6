"""What some hosts wrap around an answer: `{"code": 20000, "message": "Ok", "data": {…}}`. Pure functions."""

from __future__ import annotations

from typing import Any

from ..calls import Json
from ..errors import InvalidAnswer

_INSIDE = ("data", "result", "file")
_CODES = ("code", "error_code", "errcode", "status_code")
_MESSAGES = ("message", "msg", "error_msg", "errmsg", "status_msg")
_GOOD_CODES = frozenset({"0", "200", "201", "202", "204", "20000", "ok", "success"})
_GOOD_WORDS = frozenset({"ok", "success", "successful", "succeeded"})
_BAD_STATUSES = frozenset({"error", "fail", "failed", "failure", "false"})
_NO = frozenset({"false", "0", "no"})
_OF_A_FILE = ("bytes", "filename", "purpose", "deleted")
MAX_REASON = 1000  # characters


def unwrapped(obj: Any) -> Any:
    """The object in its envelope; the same object if it has none.

    InvalidAnswer, with the host's own reason, if the envelope reports a failure: it came with a 2xx.
    """
    if not isinstance(obj, dict) or _is_file(obj):
        return obj
    if _has_failed(obj):
        raise InvalidAnswer(f"The provider reports an error in an answer with a good status: {_reason(obj)}")
    for name in _INSIDE:
        if isinstance(obj.get(name), dict) and obj[name]:
            return unwrapped(obj[name])
    return obj


def _is_file(obj: Json) -> bool:
    """Whether this is a file itself, whose `status` and `error` are its own. An id alone may be the request's."""
    has_id = isinstance(obj.get("id"), str) and "code" not in obj
    return has_id and (obj.get("object") == "file" or any(name in obj for name in _OF_A_FILE))


def _has_failed(obj: Json) -> bool:
    if obj.get("error") or any(str(obj.get(name)).lower() in _NO for name in ("success", "ok")):
        return True
    if str(obj.get("status")).lower() in _BAD_STATUSES:
        return True
    codes = [obj[name] for name in _CODES if obj.get(name) is not None]
    is_good = all(str(code).lower() in _GOOD_CODES for code in codes)
    return not is_good and _message(obj).lower() not in _GOOD_WORDS


def _message(obj: Json) -> str:
    return next((obj[name] for name in _MESSAGES if isinstance(obj.get(name), str) and obj[name]), "")


def _reason(obj: Json) -> str:
    error = obj.get("error")
    text = _message(error) if isinstance(error, dict) else error if isinstance(error, str) else ""
    codes = [f"code {obj[name]}" for name in _CODES if isinstance(obj.get(name), (str, int))]
    return ", ".join([text or _message(obj) or "it gives no reason", *codes])[:MAX_REASON]
