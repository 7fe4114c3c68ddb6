"""`python3 -m filesproxy demo`: makes the five calls over HTTP against a local store, checks them, and cleans up."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ..app import create_app
from ..calls import Upload
from ..wire.multipart import encode
from .embedded import Server

FILE_BYTES = 3 << 20  # more than one block of a transfer
_BOUNDARY = "filesproxy-demo"


class UnexpectedResult(Exception):
    """A call did not have the result that it should have."""


def demo(say: Callable[[str], Any]) -> int:
    """Serve, make all five calls and check their results. Returns 0 if all are right, otherwise 1."""
    with tempfile.TemporaryDirectory(prefix="filesproxy-demo-") as folder:
        server = Server(("127.0.0.1", 0), create_app({}, folder=folder, default_provider="local"))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            _five_calls(server.server_port, say)
        except (UnexpectedResult, OSError, http.client.HTTPException, ValueError) as problem:
            say(f"FAILED: {problem}")
            return 1
        finally:
            server.shutdown()
            thread.join()
            server.drain(5)
    say("All five calls did what they should; the temporary folder is gone.")
    return 0


def _five_calls(port: int, say: Callable[[str], Any]) -> None:
    content = os.urandom(FILE_BYTES)
    digest = hashlib.sha256(content).hexdigest()
    say(f"Sending a file of {FILE_BYTES} random bytes, SHA-256 {digest[:16]}..., to http://127.0.0.1:{port}/v1\n")
    file = json.loads(_call(port, "POST", "/v1/files", say, content))
    path = f"/v1/files/{file['id']}"
    _expect(file["bytes"] == FILE_BYTES, "the upload's answer has the wrong size")
    listed = json.loads(_call(port, "GET", "/v1/files?purpose=assistants&limit=10", say))
    _expect([item["id"] for item in listed["data"]] == [file["id"]], "the list does not consist of this one file")
    _expect(json.loads(_call(port, "GET", path, say)) == file, "the metadata differs from the upload's answer")
    got = hashlib.sha256(_call(port, "GET", f"{path}/content", say)).hexdigest()
    _expect(got == digest, "the content has a different SHA-256")
    say(f"      SHA-256 {got[:16]}...: identical")
    _expect(json.loads(_call(port, "DELETE", path, say))["deleted"] is True, "the file was not deleted")
    _call(port, "GET", path, say, expected=404)


def _call(
    port: int, method: str, path: str, say: Callable[[str], Any], content: bytes | None = None, expected: int = 200
) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"} if content else {}
        connection.request(method, path, _form(content) if content else None, headers, encode_chunked=True)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    say(f"{method} {path}{' (purpose=assistants, file=demo.bin)' if content else ''}")
    shown = body.decode() if response.headers.get_content_type() == "application/json" else f"{len(body)} bytes"
    say(f"  {response.status} {shown}")
    _expect(response.status == expected, f"{method} {path} answered {response.status}, not {expected}")
    return body


def _form(content: bytes) -> Iterator[bytes]:
    blocks = (content[at : at + 65536] for at in range(0, len(content), 65536))
    return encode(Upload("demo.bin", "application/octet-stream", {"purpose": "assistants"}, blocks), _BOUNDARY)


def _expect(condition: bool, problem: str) -> None:
    if not condition:
        raise UnexpectedResult(problem)
