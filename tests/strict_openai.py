"""A strict fake of OpenAI's Files API on a real socket: what a gateway must never send is answered 4xx and recorded.

It shares no code with filesproxy: it parses HTTP and multipart itself. Tests assert that `problems` is empty. Mistakes
that a client may make (a wrong key, an unknown file, a bad purpose) are answered as OpenAI does and not recorded.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import secrets
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, quote, unquote_to_bytes, urlsplit

from sockets import WAIT, until

KEY = "sk-upstream"
#: headers of the fake that a gateway must not relay
LEAKS = {"server": "cloudflare-secret", "set-cookie": "__cf_bm=leaked-cookie; path=/", "x-internal-host": "pod-17"}

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
NOT_DOWNLOADABLE = ("assistants", "vision", "user_data")
_EXPECTED_HEADERS = {
    "host", "user-agent", "accept", "accept-encoding", "connection", "authorization", "content-type",
    "content-length", "transfer-encoding", "openai-organization", "openai-project", "via", "range", "if-range",
}  # fmt: skip
_LIST_PARAMETERS = {"limit", "after", "order", "purpose"}
_FIELDS = {"purpose", "expires_after[anchor]", "expires_after[seconds]"}
_QUOTED = r'"((?:[^"\\\r\n]|\\["\\])*)"'
_DISPOSITION = re.compile(rf"form-data; name={_QUOTED}(?:; filename={_QUOTED})?")
_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(; charset=[\w.:-]+)?", re.ASCII)
_MULTIPART = re.compile(r'multipart/form-data; boundary="?([0-9A-Za-z\'()+_,./:=?-]{1,70})"?')
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")


class Refusal(Exception):
    """An error answer; `recorded` if only a faulty gateway can cause it."""

    def __init__(self, status, message, param=None, code=None, recorded=False):
        super().__init__(message)
        self.status, self.recorded = status, recorded
        self.error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}


class Aborted(Exception):
    """The request body stopped before its end."""


class StrictOpenAI:
    """The fake; a context manager. With `keep=False` it stores a file's length and SHA-256 but not its bytes.

    To make it misbehave, set `early` (a status to answer uploads with before their body is read), `cut` (bytes after
    which a download breaks off), `chunked` (downloads without a length) or `goes_on` (an event that a download waits
    for after each block).
    """

    def __init__(self, keep=True):
        self.keep = keep
        self.problems, self.requests = [], []
        self.files = {}  # id → (object, media type, bytes or None, SHA-256), oldest first
        self.aborted = 0  # uploads that stopped before their final chunk
        self.early = self.cut = None
        self.chunked, self.block, self.goes_on = False, 65536, threading.Event()
        self.goes_on.set()
        self.lock = threading.Lock()
        self.connections = set()  # including idle ones
        self.uploading = set()  # connections in the middle of an upload
        self._ids = itertools.count(1)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.fake = self
        self.port = self._server.server_port
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._server.shutdown()
        self._thread.join()
        with self.lock:
            for connection in self.connections:  # a pool may keep them open
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()

    def seed(self, count, purpose="batch"):
        """Store small files without HTTP; their ids, oldest first."""
        return [self.store(f"{n}.jsonl", "text/plain", b"%d" % n, purpose)["id"] for n in range(count)]

    def store(self, filename, media_type, content, purpose, expires_after=None):
        """Store a file and return its object."""
        with self.lock:
            number = next(self._ids)
            now = 1_700_000_000 + number
            obj = {
                "id": f"file-{secrets.token_hex(8)}{number:08d}", "object": "file", "bytes": len(content),
                "created_at": now, "expires_at": now + expires_after if expires_after else None,
                "filename": filename, "purpose": purpose, "status": "processed", "status_details": None,
            }  # fmt: skip
            digest = hashlib.sha256(content).hexdigest()
            self.files[obj["id"]] = obj, media_type, bytes(content) if self.keep else None, digest
        return obj

    def wait_for(self, condition, seconds=WAIT):
        """Whether `condition()` became true in time; for what the fake notes after the gateway has answered."""
        return until(condition, seconds)


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close() waits for them
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = LEAKS["server"], ""
    timeout = 20
    disable_nagle_algorithm = True  # head and body are two writes; the second would wait 40 ms for a delayed ACK

    def setup(self):
        super().setup()
        self.fake = self.server.fake
        with self.fake.lock:
            self.fake.connections.add(self.connection)

    def finish(self):
        with self.fake.lock:
            self.fake.connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def handle(self):
        try:
            super().handle()
        except OSError:
            self.close_connection = True

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        self._answer()

    def do_POST(self):
        self._answer()

    def do_DELETE(self):
        self._answer()

    def do_HEAD(self):
        self._answer()

    def _answer(self):
        self.fake.requests.append((self.command, self.path, self.headers.items()))
        try:
            self._check_headers()
            if "transfer-encoding" in self.headers:
                self.fake.uploading.add(self.connection)
            answer = self._operation()
        except Refusal as refusal:
            if refusal.recorded:
                self.fake.problems.append(f"{self.command} {self.path}: {refusal}")
            self.close_connection = True
            self._json(refusal.status, {"error": refusal.error})
        except Aborted:
            self.fake.aborted += 1
            self.close_connection = True
        else:
            if answer is not None:
                self._json(200, answer)
        finally:
            self.fake.uploading.discard(self.connection)

    def _json(self, status, value):
        body = json.dumps(value, indent=2).encode()
        self._head(status, {"content-type": "application/json", "content-length": str(len(body))})
        self.wfile.write(body)

    def _head(self, status, headers):
        self.send_response(status)
        own = {"x-request-id": f"req_{secrets.token_hex(8)}", "openai-processing-ms": "12",
               "openai-version": "2020-10-01", **headers}  # fmt: skip
        for name, value in [*own.items(), *((n, v) for n, v in LEAKS.items() if n != "server")]:
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()

    def _check_headers(self):
        names = [name.lower() for name in self.headers]
        for name in names:
            if name not in _EXPECTED_HEADERS:
                raise Refusal(400, f"header {name} is unexpected", recorded=True)
            if names.count(name) > 1:
                raise Refusal(400, f"header {name} repeats", recorded=True)
        if self.headers["host"] != f"127.0.0.1:{self.fake.port}":
            raise Refusal(400, f"host is {self.headers['host']!r}", recorded=True)
        self._check_framing("content-length" in names, "transfer-encoding" in names)
        given = self.headers["authorization"] or ""
        if not re.fullmatch(r"Bearer [!-~]([ -~]*[!-~])?", given):
            raise Refusal(401, "You didn't provide an API key.", recorded=True)
        if given != f"Bearer {KEY}":
            key = given.partition(" ")[2]
            raise Refusal(401, f"Incorrect API key provided: {key}. You can find your API key at https://platform."
                          "openai.com/account/api-keys.", code="invalid_api_key")  # fmt: skip

    def _check_framing(self, has_length, has_coding):
        if self.command == "POST":
            if has_length == has_coding:
                raise Refusal(400, "a body needs exactly one of Content-Length and Transfer-Encoding", recorded=True)
        elif has_coding or self.headers.get("content-length", "0") != "0":
            raise Refusal(400, f"{self.command} has a body", recorded=True)
        if has_coding and self.headers["transfer-encoding"] != "chunked":
            raise Refusal(400, "the transfer coding is not chunked", recorded=True)
        if has_length and not re.fullmatch(r"[0-9]{1,15}", self.headers["content-length"]):
            raise Refusal(400, "the Content-Length is not a number", recorded=True)

    def _operation(self):
        url = urlsplit(self.path)
        query = parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query))
        listing = (self.command, url.path) == ("GET", "/v1/files")
        if len(dict(query)) < len(query) or set(dict(query)) - (_LIST_PARAMETERS if listing else set()):
            raise Refusal(400, f"unknown or repeated query parameters: {url.query}", recorded=True)
        if listing:
            return self._list(dict(query))
        if (self.command, url.path) == ("POST", "/v1/files"):
            return self._upload()
        found = re.fullmatch(r"/v1/files/([A-Za-z0-9._-]+)(/content)?", url.path)
        if not found or self.command not in (("GET",) if found[2] else ("GET", "DELETE")):
            raise Refusal(404, f"Invalid URL ({self.command} {url.path})", recorded=True)
        return self._one(found[1], bool(found[2]))

    def _one(self, file_id, content):
        with self.fake.lock:
            stored = self.fake.files.get(file_id)
            if stored is None:
                raise Refusal(404, f"No such File object: {file_id}", "id")
            if self.command == "DELETE":
                del self.fake.files[file_id]
                return {"object": "file", "deleted": True, "id": file_id}
        return self._content(*stored[:3]) if content else stored[0]

    def _list(self, query):
        limit = query.get("limit", "10000")
        if not (re.fullmatch(r"[0-9]{1,5}", limit) and 1 <= int(limit) <= 10_000):
            raise Refusal(400, f"Invalid 'limit': {limit}", "limit")
        with self.fake.lock:
            objects = [stored[0] for stored in self.fake.files.values()]
        if query.get("order", "desc") == "desc":
            objects.reverse()
        objects = [obj for obj in objects if query.get("purpose", obj["purpose"]) == obj["purpose"]]
        if "after" in query:
            ids = [obj["id"] for obj in objects]
            if query["after"] not in ids:
                raise Refusal(404, f"No such File object: {query['after']}", "after")
            objects = objects[ids.index(query["after"]) + 1 :]
        page = objects[: int(limit)]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
        return {"object": "list", "data": page, **ends, "has_more": len(page) < len(objects)}

    def _content(self, obj, media_type, content):
        if obj["purpose"] in NOT_DOWNLOADABLE:
            raise Refusal(400, f"Not allowed to download files of purpose: {obj['purpose']}")
        saved_as = f"attachment; filename*=UTF-8''{quote(obj['filename'], safe='')}"
        headers = {"content-type": media_type, "content-disposition": saved_as}
        framing = {"transfer-encoding": "chunked"} if self.fake.chunked else {"content-length": str(len(content))}
        cut = len(content) if self.fake.cut is None else self.fake.cut
        self._head(200, {**headers, **framing})
        for at in range(0, cut, self.fake.block):
            block = content[at : min(at + self.fake.block, cut)]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block) if self.fake.chunked else block)
            self.fake.goes_on.wait(WAIT)
        if self.fake.cut is not None:
            self.close_connection = True
        elif self.fake.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _upload(self):
        if self.fake.early:
            reasons = {401: f"Incorrect API key provided: {KEY}.", 413: "File is too large."}
            raise Refusal(self.fake.early, reasons[self.fake.early])
        found = _MULTIPART.fullmatch(self.headers.get("content-type", ""))
        if not found:
            raise Refusal(400, f"not multipart/form-data: {self.headers['content-type']}", recorded=True)
        body = (
            self._chunks()
            if "transfer-encoding" in self.headers
            else self._exactly(int(self.headers["content-length"]))
        )
        fields, (filename, media_type, content) = _form(body, found[1].encode())
        if fields.get("purpose") not in PURPOSES:
            raise Refusal(400, f"'{fields.get('purpose')}' is not one of {list(PURPOSES)} - 'purpose'", "purpose")
        return self.fake.store(filename, media_type, content, fields["purpose"], _expiry(fields))

    def _exactly(self, size):
        body = bytearray()
        while len(body) < size:
            block = self._read(min(size - len(body), 1 << 20))
            if not block:
                raise Aborted
            body += block
        return body

    def _read(self, size):
        try:
            return self.rfile.read(size)
        except OSError:  # a reset or a timeout
            return b""

    def _size_line(self):
        try:
            return self.rfile.readline(32)
        except OSError:
            return b""

    def _chunks(self):
        body = bytearray()
        while True:
            line = self._size_line()
            if not line.endswith(b"\n"):
                raise Aborted
            found = _CHUNK_SIZE.fullmatch(line)
            if not found:
                raise Refusal(400, f"not a chunk size: {line!r}", recorded=True)
            size = int(found[1], 16)
            if size:
                body += self._exactly(size)
            end = self._exactly(2)
            if end != b"\r\n":
                raise Refusal(400, "a chunk, or the body, does not end in CRLF", recorded=True)
            if not size:
                return body


def _expiry(fields):
    if ("expires_after[anchor]" in fields) != ("expires_after[seconds]" in fields):
        raise Refusal(400, "Missing required parameter of 'expires_after'.", "expires_after")
    if "expires_after[seconds]" not in fields:
        return None
    seconds = fields["expires_after[seconds]"]
    if fields["expires_after[anchor]"] != "created_at" or not seconds.isdigit() or not 3600 <= int(seconds) <= 2592000:
        raise Refusal(400, "Invalid 'expires_after'.", "expires_after")
    return int(seconds)


def _form(body, boundary):
    """The fields, and (file name, media type, bytes) of the one file; anything else is a recorded 400."""
    opening, delimiter, closing = b"--" + boundary, b"\r\n--" + boundary, b"\r\n--" + boundary + b"--\r\n"
    if not body.startswith(opening + b"\r\n") or not body.endswith(closing):
        raise Refusal(400, "the body does not start and end with its boundary", recorded=True)
    fields, files = {}, []
    for part in bytes(b"\r\n" + body[: -len(closing)]).split(delimiter)[1:]:
        head, separator, content = part.partition(b"\r\n\r\n")
        if not separator or not head.startswith(b"\r\n"):
            raise Refusal(400, "a part has no header block", recorded=True)
        name, filename, media_type = _part(head[2:].decode("utf-8"))
        if filename is not None:
            files.append((name, filename, media_type, content))
        elif name not in _FIELDS or name in fields:
            raise Refusal(400, f"unknown or repeated part {name!r}", name, recorded=True)
        else:
            fields[name] = content.decode("utf-8")
    if [file[0] for file in files] != ["file"] or "purpose" not in fields:
        raise Refusal(400, f"files {[file[0] for file in files]}, fields {sorted(fields)}", recorded=True)
    return fields, files[0][1:]


def _part(head):
    """A part's name, file name and media type; anything odd in its header block is a recorded 400."""
    headers = {}
    for line in head.split("\r\n"):
        name, separator, value = line.partition(": ")
        if not separator or name.lower() in headers or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
            raise Refusal(400, f"a part has the header line {line!r}", recorded=True)
        headers[name.lower()] = value
    found = _DISPOSITION.fullmatch(headers.pop("content-disposition", ""))
    media_type = headers.pop("content-type", "application/octet-stream")
    if not found or headers or not _MEDIA_TYPE.fullmatch(media_type):
        raise Refusal(400, f"a part has the headers {head!r}", recorded=True)
    return found[1], None if found[2] is None else _unescaped(found[2]), media_type


def _unescaped(name):
    r"""The decoded name: `%22`, `%0D` and `%0A` are WHATWG's escapes, `\"` and `\\` those of RFC 9110."""
    name = re.sub(r'\\(["\\])', r"\1", name)
    return re.sub("%(22|0D|0A)", lambda found: unquote_to_bytes(found[0]).decode(), name)
