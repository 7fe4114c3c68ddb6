"""A strict fake of Anthropic's API on a real socket: files, with both shapes of list, and messages, streamed or not.

Built on strict_openai, with its rules: `problems` lists what only a faulty gateway sends; a client's own mistakes (a
wrong key, file id or parameter) are answered as Anthropic does and not recorded.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import secrets
import select
import socket
import threading
import time
from datetime import datetime, timezone
from urllib.parse import parse_qsl, quote, urlsplit

from strict_openai import _MULTIPART, LEAKS, Refusal, StrictOpenAI, _Handler, _part

KEY = "sk-ant-upstream"
VERSION = "2023-06-01"
BETA = "files-api-2025-04-14"
ORGANIZATION = "b7f1c2d0-leaked-organization"
DEFAULT_TEXT = "This document is about strict fakes."

_HEADERS = {
    "host", "user-agent", "accept", "accept-encoding", "connection", "x-api-key", "anthropic-version",
    "anthropic-beta", "range", "if-range", "content-type", "content-length", "transfer-encoding",
    "anthropic-workspace-id", "via",
}  # fmt: skip
_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 409: "conflict_error", 413: "request_too_large", 429: "rate_limit_error",
    500: "api_error", 504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip
_KNOWN_SUFFIXES = (".pdf", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".txt", ".csv", ".json", ".html")
_BAD_IN_NAMES = re.compile(r'[<>:"|?*\\/\x00-\x1f]')
_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")


# Parts of answers


def text(words):
    return {"type": "text", "text": words}


def tool_use(name, arguments, tool_id=None):
    return {"type": "tool_use", "id": tool_id or f"toolu_{secrets.token_hex(8)}", "name": name, "input": arguments}


def thinking(words, signature="EqQBCg=="):
    return {"type": "thinking", "thinking": words, "signature": signature}


def message(*blocks, stop_reason="end_turn", usage=None, **more):
    """A Message. A str among the blocks becomes a text block; `usage` replaces some of the default counts."""
    counted = {"input_tokens": 10, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 20}
    content = [text(block) if isinstance(block, str) else block for block in blocks]
    return {
        "id": f"msg_{secrets.token_hex(8)}", "type": "message", "role": "assistant",
        "model": "claude-sonnet-4-5-20250929", "content": content, "stop_reason": stop_reason, "stop_sequence": None,
        "stop_details": None, "usage": {**counted, **(usage or {})}, **more,
    }  # fmt: skip


def events(answer):
    """The (event, data) pairs of a streamed Message: several deltas for each block, and cumulative usage."""
    usage = answer["usage"]
    begun = {**answer, "content": [], "stop_reason": None, "stop_sequence": None}
    yield "message_start", {"message": {**begun, "usage": {**usage, "output_tokens": 1}}}
    yield "ping", {}
    for index, block in enumerate(answer["content"]):
        empty, deltas = _deltas(block)
        yield "content_block_start", {"index": index, "content_block": empty}
        for delta in deltas:
            yield "content_block_delta", {"index": index, "delta": delta}
        yield "content_block_stop", {"index": index}
    ended = {name: answer[name] for name in ("stop_reason", "stop_sequence", "stop_details")}
    counted = {name: usage[name] for name in ("output_tokens", "output_tokens_details") if name in usage}
    yield "message_delta", {"delta": ended, "usage": counted}
    yield "message_stop", {}


def _deltas(block):
    """(the block as it starts, its deltas)."""
    kind = block["type"]
    if kind == "text":
        return {**block, "text": ""}, [{"type": "text_delta", "text": piece} for piece in _pieces(block["text"])]
    if kind == "tool_use":
        written = json.dumps(block["input"], ensure_ascii=False) if block["input"] else None
        pieces = ["", *_pieces(written)] if written else []
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    if kind == "thinking":
        grown = [{"type": "thinking_delta", "thinking": piece} for piece in _pieces(block["thinking"])]
        signed = {"type": "signature_delta", "signature": block["signature"]}
        return {**block, "thinking": "", "signature": ""}, [*grown, signed]
    return block, []


def _pieces(words):
    """The text in about four pieces."""
    size = -(-len(words) // 4) or 1
    return [words[at : at + size] for at in range(0, len(words), size)]


# Prepared replies other than a plain Message: reply(handler, request)


def failing(status, kind, words, headers=None, **details):
    """An error answer of Anthropic."""
    error = {"type": kind, "message": words, **({"details": details} if details else {})}
    return lambda handler, request: handler.answer(status, {"type": "error", "error": error}, headers)


def html(status, words="error code: 1015"):
    """A web page of an edge proxy, in place of Anthropic's answer."""

    def reply(handler, request):
        body = f"<!DOCTYPE html><html><head><title>{status}</title></head><body>{words}</body></html>".encode()
        handler._head(status, {"content-type": "text/html; charset=UTF-8", "content-length": str(len(body))})
        handler.wfile.write(body)

    return reply


def cut(after_events, of=None, clean=False):
    """An answer that breaks off after this many events, or in the middle if it does not stream.

    `clean` ends it correctly for HTTP, so that only the missing message_stop shows that it was cut.
    """

    def reply(handler, request):
        answer = of or message(DEFAULT_TEXT)
        if request.get("stream"):
            handler.stream(list(events(answer))[:after_events], ends=clean)
        else:
            handler.break_off(answer)

    return reply


def error_event(after_events, kind, words, of=None):
    """A stream with an error after this many events."""

    def reply(handler, request):
        error = {"error": {"type": kind, "message": words}, "request_id": handler.request_id}
        handler.stream([*list(events(of or message(DEFAULT_TEXT)))[:after_events], ("error", error)])

    return reply


def waiting(gate, of=None):
    """A stream in which every event waits for `gate`, a semaphore; it ends if the gateway leaves."""

    def reply(handler, request):
        handler.stream(handler.as_released(events(of or message(DEFAULT_TEXT)), gate))

    return reply


# The fake


class StrictAnthropic(StrictOpenAI):
    """The fake; a context manager. With `lenient_client` it accepts the headers of Anthropic's SDK and `?beta=true`.

    `script` holds the answers to the next messages requests, each a Message or a callable; `messages` the requests.
    `instead` is a callable that answers the file routes. `chop` is the number of bytes of a stream in each write (0:
    one event). `sent` has the time of each event, `stream_gone_at` the time when the gateway left in the middle of a
    stream, which also sets `stream_gone`. A call that names the files beta is answered on the older surface, any other
    on the general one, unless `is_older`: then the host has only the older one.
    """

    def __init__(self, keep=True, lenient_client=False):
        super().__init__(keep)
        self._server.RequestHandlerClass = _AnthropicHandler
        self.lenient_client = lenient_client
        self.behave()

    def behave(self):
        """Forget everything prepared and noted, except files and problems."""
        self.script, self.messages, self.sent = [], [], []
        self.instead, self.is_older, self.chop = None, False, 0
        self.early = self.cut = None
        self.stream_gone, self.stream_gone_at = threading.Event(), None

    def seed(self, count, downloadable=False, mime_type="application/pdf"):
        """Store small files without HTTP; their ids, oldest first."""
        return [self.store(f"{n}.bin", mime_type, b"content %d" % n, downloadable)["id"] for n in range(count)]

    def store(self, filename, mime_type, content, downloadable=False, expires_in=None):
        """Store a file and return its object, in the newer shape."""
        with self.lock:
            number = next(self._ids)
            seconds = 1_750_000_000 + number
            obj = {
                "id": f"file_011C{secrets.token_hex(6)}{number:08d}", "type": "file", "filename": filename,
                "mime_type": mime_type, "size_bytes": len(content), "created_at": _time(seconds, number),
                "downloadable": downloadable, "expires_at": _time(seconds + expires_in) if expires_in else None,
            }  # fmt: skip
            digest = hashlib.sha256(content).hexdigest()
            self.files[obj["id"]] = obj, mime_type, bytes(content) if self.keep else None, digest
        return obj

    def asked(self, method, path):
        """The number of requests for this path, with any query."""
        return sum(1 for command, target, _ in self.requests if (command, urlsplit(target).path) == (method, path))


def _time(seconds, number=0):
    """RFC 3339 with microseconds and a Z."""
    moment = datetime.fromtimestamp(seconds, timezone.utc).replace(microsecond=number * 7919 % 1_000_000)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _fault(words):
    """The refusal of something that no gateway may send."""
    return Refusal(400, words, recorded=True)


class _AnthropicHandler(_Handler):
    def _answer(self):
        self.request_id = f"req_011C{secrets.token_hex(10)}"
        super()._answer()

    # Answers

    def answer(self, status, value, headers=None):
        """Answer JSON with this status. An error gets the request's id."""
        if value.get("type") == "error":
            value = {**value, "request_id": self.request_id}
        body = json.dumps(value).encode()
        own = {"content-type": "application/json", "content-length": str(len(body))}
        self._head(status, {**own, **(headers or {})})
        self.wfile.write(body)

    def _json(self, status, value):
        if "error" in value:
            words, code = value["error"]["message"], value["error"]["code"]
            error = {"type": _TYPES[status], "message": words, **({"details": {"error_code": code}} if code else {})}
            value = {"type": "error", "error": error}
        self.answer(status, value)

    def _head(self, status, headers):
        own = {"request-id": self.request_id, "anthropic-organization-id": ORGANIZATION,
               "anthropic-ratelimit-requests-limit": "500", "anthropic-ratelimit-requests-remaining": "499",
               "anthropic-ratelimit-requests-reset": "2026-10-21T12:00:00Z", **headers}  # fmt: skip
        self.send_response(status)
        for name, value in [*own.items(), *((n, v) for n, v in LEAKS.items() if n != "server")]:
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()

    # Streams

    def stream(self, pairs, ends=True):
        """Send events, and note if the gateway leaves in the middle. Without `ends`, the last chunk is not sent."""
        framing = {"transfer-encoding": "chunked", "cache-control": "no-cache"}
        self._head(200, {"content-type": "text/event-stream; charset=utf-8", **framing})
        try:
            for name, value in pairs:
                self._send_event(name, value)
        except OSError:
            self.fake.stream_gone_at = time.monotonic()
            self.fake.stream_gone.set()
            ends = False
        if ends:
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True

    def _send_event(self, name, value):
        written = json.dumps({"type": name, **value}, ensure_ascii=False)
        data = f"event: {name}\ndata: {written}\n\n".encode()
        size = self.fake.chop or len(data)
        self.fake.sent.append(time.monotonic())
        for at in range(0, len(data), size):
            block = data[at : at + size]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))

    def as_released(self, pairs, gate):
        """The same events, each after the gate lets one pass. ConnectionAbortedError if the gateway leaves."""
        for pair in pairs:
            while not gate.acquire(timeout=0.01):
                if self._is_gone():
                    raise ConnectionAbortedError
            yield pair

    def _is_gone(self):
        readable = select.select([self.connection], [], [], 0)[0]
        return bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""

    def break_off(self, value):
        """Answer the first half of this JSON."""
        body = json.dumps(value).encode()
        self.close_connection = True
        self._head(200, {"content-type": "application/json", "content-length": str(len(body))})
        self.wfile.write(body[: len(body) // 2])

    # Required headers

    def _check_headers(self):
        names = [name.lower() for name in self.headers]
        self._check_framing("content-length" in names, "transfer-encoding" in names)
        if self.fake.lenient_client:
            keys = (self.headers.get("x-api-key"), self.headers.get("authorization", "").partition(" ")[2])
            self._check_key(KEY if KEY in keys else None)
            return
        for name in names:
            if name not in _HEADERS or names.count(name) > 1:
                raise _fault(f"header {name} repeats or is unexpected")
        if self.headers["host"] != f"127.0.0.1:{self.fake.port}":
            raise _fault(f"host is {self.headers['host']!r}")
        if self.headers["anthropic-version"] != VERSION:
            raise _fault(f"anthropic-version: {self.headers['anthropic-version']}")
        self._check_betas()
        if "x-api-key" not in names:
            raise Refusal(401, "x-api-key header is required", recorded=True)
        self._check_key(self.headers["x-api-key"])

    def _check_key(self, key):
        if key != KEY:
            raise Refusal(401, "invalid x-api-key")

    def _check_betas(self):
        betas = self._betas()
        if len(set(betas)) < len(betas) or not all(re.fullmatch(r"[a-z0-9.-]+", beta) for beta in betas):
            raise _fault(f"anthropic-beta: {self.headers['anthropic-beta']!r}")

    def _betas(self):
        given = self.headers.get("anthropic-beta")
        return [] if given is None else [beta.strip(" ") for beta in given.split(",")]

    @property
    def is_general(self):
        """Whether this call is on the general surface: it does not name the beta."""
        return BETA not in self._betas() and not self.fake.is_older

    # Operations

    def _operation(self):
        url = urlsplit(self.path)
        query = self._query(url, is_list=(self.command, url.path) == ("GET", "/v1/files"))
        if (self.command, url.path) == ("POST", "/v1/messages"):
            return self._messages()
        found = re.fullmatch(r"/v1/files(?:/([A-Za-z0-9._-]+)(/content)?)?", url.path)
        methods = ("GET",) if found and found[2] else ("GET", "DELETE") if found and found[1] else ("GET", "POST")
        if not found or self.command not in methods:
            raise Refusal(404, f"Not Found ({self.command} {url.path})", recorded=True)
        if self.fake.instead:
            self.close_connection = True  # its body may be unread
            return self.fake.instead(self, {})
        if found[1]:
            return self._one(found[1], bool(found[2]))
        return self._list(query) if self.command == "GET" else self._upload()

    def _query(self, url, is_list):
        pairs = parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query))
        query = dict(pairs)
        if self.fake.lenient_client:
            query.pop("beta", None)
        known = {"limit", "after_id", "before_id", "page"} if is_list else set()
        if len(dict(pairs)) < len(pairs) or set(query) - known:
            raise _fault(f"unknown or repeated query parameters: {url.query}")
        return query

    # Files

    def _shown(self, obj):
        return obj if self.is_general else {name: value for name, value in obj.items() if name != "expires_at"}

    def _one(self, file_id, content):
        with self.fake.lock:
            stored = self.fake.files.get(file_id)
            if stored is None:
                raise Refusal(404, f"File not found: {file_id}")
            if self.command == "DELETE":
                del self.fake.files[file_id]
                return {"id": file_id, "type": "file_deleted"}
        return self._content(*stored[:3]) if content else self._shown(stored[0])

    def _content(self, obj, media_type, content):
        if not obj["downloadable"]:
            words = f"File {obj['id']} is not downloadable: only files made by a tool are."
            raise Refusal(400, words, code="file_not_downloadable")
        saved_as = f"attachment; filename*=UTF-8''{quote(obj['filename'], safe='')}"
        framing = {"content-type": media_type, "content-length": str(len(content))}
        self._head(200, {**framing, "content-disposition": saved_as})
        end = len(content) if self.fake.cut is None else self.fake.cut
        self.wfile.write(content[:end])
        self.close_connection = self.close_connection or end < len(content)

    def _list(self, query):
        limit = query.get("limit", "20")
        if not re.fullmatch(r"[0-9]{1,4}", limit) or not 1 <= int(limit) <= 1000:
            raise _fault(f"limit: {limit}")
        with self.fake.lock:
            objects = [self._shown(stored[0]) for stored in reversed(list(self.fake.files.values()))]
        return (self._newer_list if self.is_general else self._older_list)(query, objects, int(limit))

    def _newer_list(self, query, objects, limit):
        if "after_id" in query or "before_id" in query:
            raise Refusal(400, "after_id and before_id are not supported; use page")
        start = 0
        if "page" in query:
            start = self._place(objects, query["page"][len("page_") :], "page") + 1
        page = objects[start : start + limit]
        is_last = start + limit >= len(objects)
        return {"data": page, "next_page": None if is_last else f"page_{page[-1]['id']}"}

    def _older_list(self, query, objects, limit):
        if "page" in query or {"after_id", "before_id"} <= set(query):
            raise _fault(f"these parameters do not go together here: {sorted(query)}")
        if "before_id" in query:
            objects = objects[: self._place(objects, query["before_id"], "before_id")]
            page = objects[-limit:]
        else:
            if "after_id" in query:
                objects = objects[self._place(objects, query["after_id"], "after_id") + 1 :]
            page = objects[:limit]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
        return {"data": page, "has_more": len(page) < len(objects), **ends}

    def _place(self, objects, file_id, parameter):
        place = next((n for n, obj in enumerate(objects) if obj["id"] == file_id), None)
        if place is None:
            raise Refusal(404, f"{parameter}: not found: {file_id}")
        return place

    def _upload(self):
        if self.fake.early:
            raise Refusal(self.fake.early, "Request exceeds the maximum allowed number of bytes.")
        found = _MULTIPART.fullmatch(self.headers.get("content-type", ""))
        if not found:
            raise _fault(f"not multipart/form-data: {self.headers['content-type']}")
        chunked = "transfer-encoding" in self.headers
        body = self._chunks() if chunked else self._exactly(int(self.headers["content-length"]))
        filename, media_type, content, expires_in = _uploaded(body, found[1].encode(), self.is_general)
        if expires_in and not self.is_general:
            raise _fault("the beta has no expires_in_seconds")
        mime_type = media_type.partition(";")[0]
        return self._shown(self.fake.store(filename, mime_type, content, expires_in=expires_in))

    # Messages

    def _messages(self):
        request = self._request_json()
        self.fake.messages.append(request)
        _Checks(self.fake.files).check(request)
        with self.fake.lock:
            reply = self.fake.script.pop(0) if self.fake.script else message(DEFAULT_TEXT)
        if callable(reply):
            return reply(self, request)
        return self.stream(events(reply)) if request.get("stream") else reply

    def _request_json(self):
        kind = self.headers.get("content-type", "")
        if "content-length" not in self.headers or kind.split(";")[0] != "application/json":
            raise _fault(f"not JSON with a Content-Length: {kind!r}")
        try:
            request = json.loads(self._exactly(int(self.headers["content-length"])).decode("utf-8"))
        except ValueError:
            raise _fault("the body is not valid JSON in UTF-8") from None
        if not isinstance(request, dict):
            raise _fault("the body is not an object")
        return request


# Uploads


def _uploaded(body, boundary, is_general):
    """(file name, media type, bytes, seconds to live) of a form; anything odd is a recorded 400."""
    fields, file = {}, None
    for head, content in _parts(body, boundary):
        name, filename, media_type = _part(head.decode("utf-8"))
        if filename is None and name == "expires_in_seconds" and name not in fields:
            fields[name] = content.decode("utf-8")
        elif filename is not None and name == "file" and file is None:
            file = filename, media_type, content
            is_typed = b"\r\ncontent-type:" in b"\r\n" + head.lower()
            if not (is_typed or is_general):
                raise _fault("the part `file` has no Content-Type")
            _check_file(filename, media_type if is_typed else "")
        else:
            raise _fault(f"unknown or repeated part {name!r}")
    if file is None:
        raise _fault("there is no part `file`")
    expires_in = fields.get("expires_in_seconds")
    if expires_in is not None and not (expires_in.isdigit() and 3600 <= int(expires_in) <= 7_776_000):
        raise Refusal(400, "expires_in_seconds: must be between 3600 and 7776000")
    return (*file, int(expires_in) if expires_in else None)


def _parts(body, boundary):
    """(header block, content) of each part. The content may be large, so it is copied only once."""
    delimiter, at = b"\r\n--" + boundary, len(boundary) + 2
    if not body.startswith(b"--" + boundary + b"\r\n") or not body.endswith(delimiter + b"--\r\n"):
        raise _fault("the body does not start and end with its boundary")
    while body[at : at + 2] == b"\r\n":
        head_end = body.find(b"\r\n\r\n", at)
        end = body.find(delimiter, head_end + 2)
        if head_end < 0 or end < 0:
            raise _fault("a part has no header block, or no end")
        yield bytes(body[at + 2 : head_end]), body[head_end + 4 : end]
        at = end + len(delimiter)
    if body[at:] != b"--\r\n":
        raise _fault("there is text after a boundary")


def _check_file(filename, media_type):
    if media_type == "application/octet-stream" and filename.lower().endswith(_KNOWN_SUFFIXES):
        raise _fault(f"{filename!r} was sent as {media_type}")
    if media_type.partition(";")[0] == "image/jpg":
        raise _fault(f"{filename!r} was sent as {media_type}, which no block can use")
    if not 1 <= len(filename) <= 255 or _BAD_IN_NAMES.search(filename):
        raise _fault(f"the file name {filename!r} is not allowed")


# Requests to /v1/messages

_NUMBER = (int, float)
#: field → its type, or types
_FIELDS = {
    "model": str, "messages": list, "max_tokens": int, "system": (str, list), "stop_sequences": list, "stream": bool,
    "temperature": _NUMBER, "top_p": _NUMBER, "top_k": int, "tools": list, "tool_choice": dict, "metadata": dict,
    "thinking": dict, "output_config": dict, "service_tier": str, "container": str, "cache_control": dict,
}  # fmt: skip
#: block → its required fields, its optional fields
_BLOCKS = {
    "text": ("text", "cache_control citations"),
    "image": ("source", "cache_control"),
    "document": ("source", "cache_control citations context title"),
    "container_upload": ("file_id", "cache_control"),
    "tool_use": ("id name input", "cache_control"),
    "tool_result": ("tool_use_id", "cache_control content is_error"),
    "thinking": ("thinking signature", ""),
    "redacted_thinking": ("data", ""),
}
_BLOCKS_OF = {
    "user": ("text", "image", "document", "container_upload", "tool_result"),
    "assistant": ("text", "tool_use", "thinking", "redacted_thinking"),
    "tool_result": ("text", "image", "document"),
    "system": ("text",),
}
_SOURCES = {
    "base64": "media_type data", "text": "media_type data", "url": "url", "file": "file_id", "content": "content",
}  # fmt: skip
_SOURCES_OF = {"image": ("base64", "url", "file"), "document": ("base64", "text", "url", "file", "content")}
#: media type of a file → the block it belongs in
_BLOCK_OF = {"application/pdf": "document", "text/plain": "document", **dict.fromkeys(_IMAGES, "image")}
_EFFORTS = ("low", "medium", "high", "xhigh", "max")


def _fields(obj, place, required, optional=""):
    """Check that an object has these fields, no others, and no nulls."""
    if not isinstance(obj, dict):
        raise _fault(f"{place}: not an object")
    required, known = set(required.split()), {*required.split(), *optional.split()}
    if not required <= set(obj) or set(obj) - known:
        raise _fault(f"{place}: has {sorted(obj)}, needs {sorted(required)}, may have {sorted(known)}")
    if any(value is None for value in obj.values()):
        raise _fault(f"{place}: a field is null")


def _words(value, place):
    """Check that a value is text and not empty."""
    if not isinstance(value, str) or not value:
        raise _fault(f"{place}: must be text and not empty")


class _Checks:
    """Checks a Messages request; `files` are those that it may refer to."""

    def __init__(self, files):
        self.files = files
        self.references = []

    def check(self, request):
        """The file ids in the request. Raises Refusal."""
        _fields(request, "request", "model messages max_tokens", " ".join(_FIELDS))
        for name, value in request.items():
            kind = _FIELDS[name]
            if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
                raise _fault(f"{name}: has the wrong type")
        _check_sampling(request)
        _check_tools(request)
        _check_thinking(request)
        _check_output(request.get("output_config", {}))
        self._check_system(request.get("system", "-"))
        self._check_messages(request["messages"])
        if not request["model"].startswith("claude-"):
            raise Refusal(404, f"model: {request['model']}")
        return self.references

    def _check_system(self, system):
        if isinstance(system, str):
            _words(system, "system")
        else:
            self._check_blocks(system, "system", "system")

    def _check_messages(self, messages):
        if not messages:
            raise Refusal(400, "messages: at least one message is required")
        for n, one in enumerate(messages):
            place = f"messages.{n}"
            _fields(one, place, "role content")
            if one["role"] not in ("user", "assistant"):
                raise _fault(f"{place}.role: {one['role']!r}")
            if isinstance(one["content"], str):
                _words(one["content"], place)
            else:
                self._check_blocks(one["content"], place, one["role"])
        _check_results(messages)
        _check_prefill(messages[-1])
        if messages[0]["role"] != "user":
            raise Refusal(400, "messages: first message must use the user role")

    def _check_blocks(self, blocks, place, owner):
        if not isinstance(blocks, list) or not blocks:
            raise _fault(f"{place}: no blocks")
        for n, block in enumerate(blocks):
            self._check_block(block, f"{place}.{n}", owner)

    def _check_block(self, block, place, owner):
        kind = block.get("type") if isinstance(block, dict) else None
        if kind not in _BLOCKS_OF[owner]:
            raise _fault(f"{place}: no {kind!r} in {owner}")
        required, optional = _BLOCKS[kind]
        _fields(block, place, f"type {required}", optional)
        _check_caching(block, place)
        for name in ("text", "signature", "data", "id", "name", "tool_use_id", "title", "context", "file_id"):
            if name in block:
                _words(block[name], f"{place}.{name}")
        if kind == "text" and not block["text"].strip():
            raise _fault(f"{place}: text content blocks must contain non-whitespace text")
        if kind in ("image", "document"):
            self._check_source(block["source"], f"{place}.source", kind)
        elif kind == "container_upload":
            self._check_reference(block["file_id"], place, kind)
        elif kind == "tool_use":
            _check_tool_use(block, place)
        elif kind == "tool_result":
            self._check_tool_result(block, place)

    def _check_tool_result(self, block, place):
        content = block.get("content", "")
        if not isinstance(content, str):
            self._check_blocks(content, place, "tool_result")
        if not isinstance(block.get("is_error", False), bool):
            raise _fault(f"{place}.is_error: must be true or false")

    def _check_source(self, source, place, block):
        kind = source.get("type") if isinstance(source, dict) else None
        if kind not in _SOURCES_OF[block]:
            raise _fault(f"{place}: no source {kind!r} in {block}")
        _fields(source, place, f"type {_SOURCES[kind]}")
        if kind == "file":
            self._check_reference(source["file_id"], place, block)
        elif kind == "content":
            self._check_blocks(source["content"], place, "tool_result")
        else:
            _check_given(source, place, block)

    def _check_reference(self, file_id, place, block):
        _words(file_id, place)
        if file_id not in self.files:
            raise Refusal(404, f"File not found: {file_id}")
        self.references.append(file_id)
        mime_type = self.files[file_id][0]["mime_type"]
        if block != _BLOCK_OF.get(mime_type, "container_upload"):
            raise _fault(f"{place}: a file of type {mime_type} in a block {block}")


def _check_caching(obj, place):
    control = obj.get("cache_control", {"type": "ephemeral"})
    _fields(control, f"{place}.cache_control", "type", "ttl")
    if control["type"] != "ephemeral" or control.get("ttl", "5m") not in ("5m", "1h"):
        raise _fault(f"{place}.cache_control: {control}")


def _check_given(source, place, block):
    """Check a source with its own content or a URL."""
    if source["type"] == "url":
        if not re.fullmatch(r"https://[^\s/]+\S*", str(source["url"])):
            raise _fault(f"{place}.url: {source['url']!r}")
        return
    types = ("text/plain",) if source["type"] == "text" else _IMAGES if block == "image" else ("application/pdf",)
    if source["media_type"] not in types:
        raise _fault(f"{place}.media_type: {source['media_type']!r}")
    _words(source["data"], f"{place}.data")
    if source["type"] == "base64":
        try:
            base64.b64decode(source["data"], validate=True)
        except (binascii.Error, ValueError):
            raise _fault(f"{place}.data: not base64") from None


def _check_tool_use(block, place):
    if not isinstance(block["input"], dict):
        raise _fault(f"{place}.input: must be an object")


def _ids(one, kind, field):
    return [block[field] for block in one["content"] if isinstance(block, dict) and block["type"] == kind]


def _check_prefill(last):
    """Anthropic goes on from an assistant's last message."""
    block = last["content"][-1] if isinstance(last["content"], list) else {"type": "text", "text": last["content"]}
    if last["role"] == "assistant" and block["type"] == "text" and block["text"] != block["text"].rstrip():
        raise _fault("messages: final assistant content cannot end with trailing whitespace")


def _check_results(messages):
    """Each tool_use must have its result at the start of the next message. A missing result is the client's fault."""
    asked = [name for one in messages for name in _ids(one, "tool_use", "id")]
    answered = {name for one in messages for name in _ids(one, "tool_result", "tool_use_id")}
    if len(set(asked)) < len(asked):
        raise _fault("messages: `tool_use` ids must be unique")
    if not all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in [*asked, *answered]):
        raise _fault("messages: String should match pattern '^[a-zA-Z0-9_-]+$'")
    due = []
    for n, one in enumerate([*messages, {"role": "user", "content": []}]):
        given = _ids(one, "tool_result", "tool_use_id")
        if sorted(given) != sorted(due):
            words = f"messages.{n}: `tool_use` ids {due} were found without `tool_result` blocks, there are {given}"
            raise Refusal(400, words, recorded=set(asked) == answered and len(set(given)) == len(given))
        if any(block["type"] != "tool_result" for block in one["content"][: len(given)]):
            raise _fault(f"messages.{n}: tool_result blocks must come first")
        due = _ids(one, "tool_use", "id")


def _check_sampling(request):
    if request["max_tokens"] < 1:
        raise Refusal(400, "max_tokens: must be greater than 0")
    if not request["model"] or request["model"].startswith("@"):
        raise _fault(f"model: {request['model']!r}")
    given = [name for name in ("temperature", "top_p") if name in request]
    if len(given) == 2:
        raise _fault("temperature and top_p cannot both be specified")
    for name in given:
        if not 0 <= request[name] <= 1:
            raise _fault(f"{name}: {request[name]} is not in 0..1")
    for stop in request.get("stop_sequences", ()):
        _words(stop, "stop_sequences")
        if stop.isspace():
            raise _fault("stop_sequences: each stop sequence must contain non-whitespace")
    _fields(request.get("metadata", {}), "metadata", "", "user_id")
    user_id = request.get("metadata", {}).get("user_id", "-")
    _words(user_id, "metadata.user_id")
    if len(user_id) > 256 or re.search(r"\S@\S", user_id):
        raise _fault("metadata.user_id: is too long, or appears to contain an email address")
    if request.get("service_tier", "auto") not in ("auto", "standard_only"):
        raise _fault(f"service_tier: {request['service_tier']!r}")
    _check_caching(request, "request")


def _check_tools(request):
    tools = request.get("tools", [])
    for n, tool in enumerate(tools):
        _check_tool(tool, f"tools.{n}")
    names = [tool["name"] for tool in tools]
    if len(set(names)) < len(names):
        raise Refusal(400, "tools: Tool names must be unique.")
    if "tool_choice" not in request:
        return
    choice = request["tool_choice"]
    kind = choice.get("type")
    if kind not in ("auto", "any", "tool", "none") or not tools:
        raise _fault(f"tool_choice: {choice} with {len(tools)} tools")
    optional = "" if kind == "none" else "disable_parallel_tool_use"
    _fields(choice, "tool_choice", "type name" if kind == "tool" else "type", optional)
    if not isinstance(choice.get("disable_parallel_tool_use", False), bool):
        raise _fault("tool_choice.disable_parallel_tool_use: must be true or false")
    if kind == "tool" and choice["name"] not in names:
        raise Refusal(400, f"tool_choice: Tool '{choice['name']}' not found in provided tools")


def _check_tool(tool, place):
    if isinstance(tool, dict) and re.fullmatch(r"[a-z_]+_20[0-9]{6}", str(tool.get("type"))):
        _words(tool.get("name"), f"{place}.name")  # a tool of Anthropic
        return
    _fields(tool, place, "name input_schema", "description strict cache_control")
    _words(tool["name"], f"{place}.name")
    _check_caching(tool, place)
    schema = tool["input_schema"]
    if not isinstance(schema, dict) or "type" not in schema:
        raise _fault(f"{place}.input_schema: must be a schema with its type")
    if schema["type"] != "object":
        raise Refusal(400, f"{place}.input_schema.type: Input should be 'object'")
    if tool.get("strict"):
        _check_closed(schema, f"{place}.input_schema")
    if not isinstance(tool.get("description", ""), str) or not isinstance(tool.get("strict", False), bool):
        raise _fault(f"{place}: description or strict has the wrong type")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", tool["name"]):
        raise Refusal(400, f"{place}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")


def _check_thinking(request):
    if "thinking" not in request:
        return
    config = request["thinking"]
    kind = config.get("type")
    if kind not in ("enabled", "disabled", "adaptive"):
        raise _fault(f"thinking.type: {kind!r}")
    required = "type budget_tokens" if kind == "enabled" else "type"
    _fields(config, "thinking", required, "" if kind == "disabled" else "display")
    if kind == "enabled":
        budget = config["budget_tokens"]
        if isinstance(budget, bool) or not isinstance(budget, int) or not 1024 <= budget < request["max_tokens"]:
            raise _fault(f"thinking.budget_tokens: {budget} with max_tokens {request['max_tokens']}")
    if kind != "disabled" and request.get("temperature", 1) != 1:
        raise Refusal(400, "`temperature` may only be set to 1 when thinking is enabled")


def _check_output(config):
    _fields(config, "output_config", "", "effort format")
    if config.get("effort", "low") not in _EFFORTS:
        raise _fault(f"output_config.effort: {config['effort']!r}")
    if "format" in config:
        _fields(config["format"], "output_config.format", "type schema")
        if config["format"]["type"] != "json_schema" or not isinstance(config["format"]["schema"], dict):
            raise _fault(f"output_config.format: {config['format']}")
        _check_closed(config["format"]["schema"], "output_config.format.schema")


def _check_closed(schema, place):
    """Every object must say that it has no other properties. Looks where the test's schemas have others."""
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        raise _fault(f"{place}: For 'object' type, 'additionalProperties' must be explicitly set to false")
    for name, inner in {
        **schema.get("properties", {}),
        **schema.get("$defs", {}),
        "items": schema.get("items"),
    }.items():
        if isinstance(inner, dict):
            _check_closed(inner, f"{place}.{name}")
