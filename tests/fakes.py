"""Stand-ins without a mocking library: an upstream that records, a mount point, files and forms as bytes."""

from __future__ import annotations

import hashlib
import json
import random
from wsgiref.util import shift_path_info

from filesproxy.budget import Hold, Shared
from filesproxy.calls import Answer
from filesproxy.errors import Saturated

BOUNDARY = "a-boundary"
#: spellings of a Content-Encoding that mean that the body is not encoded
NOT_ENCODED = ["identity", "Identity", "IDENTITY", "identity ", " identity", "", " ", ",", "none", "None",
               "identity, identity", "utf-8", "UTF-8", "binary", "8bit", '"identity"', "null"]  # fmt: skip
OPENAI = {"x-portkey-provider": "openai", "authorization": "Bearer sk-caller"}
FILE = {
    "id": "file-1",
    "object": "file",
    "bytes": 5,
    "created_at": 1677610602,
    "filename": "a.jsonl",
    "purpose": "batch",
    "status": "processed",
}


class FakeBody:
    """An open body that notes when it was closed, and fails where it is told to."""

    def __init__(self, chunks):
        self._chunks = iter(chunks)
        self.closed = False

    def __iter__(self):
        return self

    def __next__(self):
        chunk = next(self._chunks)
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    def close(self):
        self.closed = True


class FakeUpstream:
    """A transport that records calls, reads uploads whole, and answers `status`, `headers` and `chunks`."""

    def __init__(self, status=200, headers=None, chunks=()):
        self.status, self.headers, self.chunks = status, dict(headers or {}), list(chunks)
        self.calls, self.uploads, self.bodies, self.targets = [], [], [], []

    def answers(self, value, status=200, **headers):
        """Answer JSON from now on."""
        self.status, self.chunks = status, [json.dumps(value).encode()]
        self.headers = {name.replace("_", "-"): text for name, text in headers.items()}

    def __call__(self, call, target):
        self.calls.append(call)
        self.targets.append(target)
        if call.upload:
            self.uploads.append(b"".join(call.upload))  # an exception here: no complete request has left
        self.bodies.append(FakeBody(self.chunks))
        return Answer(self.status, self.headers, body=self.bodies[-1])


class Mounted:
    """Puts an application under a prefix, as DispatcherMiddleware and its like do."""

    def __init__(self, prefix, application):
        self._prefix, self._application = prefix, application

    def __call__(self, environ, start_response):
        environ["PATH_INFO"] = self._prefix + environ["PATH_INFO"]
        for _ in self._prefix.strip("/").split("/"):
            shift_path_info(environ)
        return self._application(environ, start_response)


def form(*parts, boundary=BOUNDARY):
    """A multipart body of (name, value) fields and (name, filename, type, bytes) files, in this order."""
    body = b""
    for part in parts:
        if len(part) == 2:
            head, value = f'form-data; name="{part[0]}"', part[1]
            extra = ""
        else:
            head, value = f'form-data; name="{part[0]}"; filename="{part[1]}"', part[3]
            extra = f"Content-Type: {part[2]}\r\n" if part[2] else ""
        value = value if isinstance(value, bytes) else value.encode()
        body += f"--{boundary}\r\nContent-Disposition: {head}\r\n{extra}\r\n".encode() + value + b"\r\n"
    return body + f"--{boundary}--\r\n".encode()


def form_type(boundary=BOUNDARY):
    """The Content-Type of such a body."""
    return f"multipart/form-data; boundary={boundary}"


def content_of(size, seed=1):
    """A file's content of this many bytes, the same for the same seed."""
    return random.Random(seed).randbytes(size)


def sha(content):
    """A digest to compare large contents by, so that a failure does not print them."""
    return hashlib.sha256(content).hexdigest()


def memory(size=float("inf")):
    """So many bytes that callers share."""
    return Shared("memory", size)


def hold_of(shared=None, caller="team"):
    """What a caller's request holds of it, nothing yet."""
    return Hold(memory() if shared is None else shared, caller)


def left(budget):
    """How many bytes the budget has left, found by trying."""
    low, high = 0, 1 << 40
    while low < high:
        middle = (low + high + 1) // 2
        try:
            budget.take("looker", middle)
        except Saturated:
            high = middle - 1
        else:
            budget.give_back("looker", middle)
            low = middle
    return low
