"""`python3 -m filesproxy demo`: makes the five calls and a chat about a file over HTTP, checks the results, cleans up.

The files are in a store in a temporary folder. The chat goes to a small server that stands in for a model host without
files, such as vLLM or llama.cpp. It is no model: it says what it got.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..app import create_app
from ..calls import Upload
from ..wire.multipart import encode
from .embedded import Server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

FILE_BYTES = 3 << 20  # more than one block of a transfer
NOTES = b"Notes of the kitchen.\nThe secret word is marmalade.\n"
_BOUNDARY = "filesproxy-demo"
Say = Callable[[str], Any]


class UnexpectedResult(Exception):
    """A call did not have the result that it should have."""


def demo(say: Say) -> int:
    """Serve, make the calls and check their results. Returns 0 if all are right, otherwise 1."""
    got: list[Any] = []
    with tempfile.TemporaryDirectory(prefix="filesproxy-demo-") as folder, _served(_model_host(got)) as host:
        llm = {"kind": "openai", "base_url": f"http://127.0.0.1:{host}/v1", "credential": "none", "files": "local"}
        gateway = create_app({"provider:llm": llm}, folder=folder, default_files="local", default_chat="llm")
        try:
            with _served(gateway) as port:
                _five_calls(port, say)
                _chat_about_a_file(port, say, got)
        except (UnexpectedResult, OSError, http.client.HTTPException, ValueError) as problem:
            say(f"FAILED: {problem}")
            return 1
    say("All calls did what they should; the temporary folder is gone.")
    return 0


@contextmanager
def _served(application: WSGIApplication) -> Iterator[int]:
    """Serve an application on a port of its own, which is yielded."""
    server = Server(("127.0.0.1", 0), application)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.drain(5)


def _five_calls(port: int, say: Say) -> None:
    content = os.urandom(FILE_BYTES)
    digest = hashlib.sha256(content).hexdigest()
    say(f"Sending a file of {FILE_BYTES} random bytes, SHA-256 {digest[:16]}..., to http://127.0.0.1:{port}/v1\n")
    file = json.loads(_upload(port, say, "demo.bin", content))
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


def _chat_about_a_file(port: int, say: Say, got: list[Any]) -> None:
    say("\nA chat about a kept file, with a model host that has no files of its own\n")
    file_id = json.loads(_upload(port, say, "notes.txt", NOTES))["id"]
    parts = [{"type": "file", "file": {"file_id": file_id}}, {"type": "text", "text": "What is the secret word?"}]
    body = json.dumps({"model": "demo", "messages": [{"role": "user", "content": parts}]}).encode()
    _call(port, "POST", "/v1/chat/completions", say, [body], {"content-type": "application/json"}, shown=body.decode())
    say(f"The model host got: {json.dumps(got)}")
    expected = f"[file: notes.txt]\n{NOTES.decode()}\n[end of notes.txt]"
    _expect(got[0]["messages"][0]["content"][0]["text"] == expected, "the model host did not get the file's text")


def _model_host(got: list[Any]) -> WSGIApplication:
    """An application that answers chats, and appends to `got` what it was sent."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"]
        got.append(json.loads(b"".join(iter(lambda: body.read(65536), b""))))
        message = {"role": "assistant", "content": "I am not a model. What I received is printed below."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {"id": "chatcmpl-demo", "object": "chat.completion", "created": 0, "model": "demo"}
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps({**answer, "choices": [choice]}).encode()]

    return application


def _upload(port: int, say: Say, name: str, content: bytes) -> bytes:
    blocks = (content[at : at + 65536] for at in range(0, len(content), 65536))
    form = encode(Upload(name, "application/octet-stream", {"purpose": "assistants"}, blocks), _BOUNDARY)
    headers = {"content-type": f"multipart/form-data; boundary={_BOUNDARY}"}
    return _call(port, "POST", "/v1/files", say, form, headers, shown=f"(purpose=assistants, file={name})")


def _call(
    port: int,
    method: str,
    path: str,
    say: Say,
    body: Iterable[bytes] | None = None,
    headers: dict[str, str] | None = None,
    shown: str = "",
    expected: int = 200,
) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers or {}, encode_chunked=True)
        response = connection.getresponse()
        received = response.read()
    finally:
        connection.close()
    say(f"{method} {path}{shown and f' {shown}'}")
    is_json = response.headers.get_content_type() == "application/json"
    say(f"  {response.status} {received.decode() if is_json else f'{len(received)} bytes'}")
    _expect(response.status == expected, f"{method} {path} answered {response.status}, not {expected}")
    return received


def _expect(condition: bool, problem: str) -> None:
    if not condition:
        raise UnexpectedResult(problem)
