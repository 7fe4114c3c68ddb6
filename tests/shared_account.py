"""One account at a provider that several owners share, kept in dicts, and the clients of its owners.

What happens at the provider without the gateway is a test editing these dicts.
"""

from __future__ import annotations

import json
import tempfile
from datetime import datetime, timezone
from functools import lru_cache
from itertools import count
from pathlib import Path

from configurations import hashed
from fakes import FakeBody, form, form_type

from filesproxy.calls import Answer
from filesproxy.operations import OPERATIONS
from filesproxy.transports.local.ledger import FolderLedger
from filesproxy.wire import sse
from filesproxy.wire.multipart import encode

BOUNDARY = "a-boundary-of-the-gateway"
LINE = b'{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[]}}\n'
START = 1_800_000_000  # when the account's first object is made
_PREFIXES = {"file": "file-Ab", "upload": "upload_Ab", "batch": "batch_Ab", "job": "ftjob-Ab", "response": "resp_Ab",
             "container": "cntr_Ab", "vector_store": "vs_Ab", "item": "msg_Ab", "part": "part_Ab"}  # fmt: skip
_OBJECTS = {"job": "fine_tuning.job"}
_MISSING = {"error": {"message": "The provider has no such object.", "type": "invalid_request_error", "param": None,
                      "code": None}}  # fmt: skip


def json_answer(value, status=200):
    """A provider's JSON."""
    return Answer(status, {"content-type": "application/json"}, body=FakeBody([json.dumps(value).encode()]))


class Account:
    """A transport that behaves like OpenAI.

    - `objects` and `contents`: id → an object's JSON, and a file's bytes; `checkpoints`: a job's id → its checkpoints;
      `inputs`: a response's id → the items of its input.
    - `calls` are all calls, `forms` all uploads as they arrived whole.
    - `instead`: operation → a function of the call that answers in its place.
    - `output`: more items of every response's output. `page` is how many objects a page has at most.
    """

    def __init__(self, clock=lambda: START, page=10_000):
        self.objects, self.contents, self.checkpoints, self.inputs = {}, {}, {}, {}
        self.calls, self.forms, self.output = [], [], []
        self.instead = {}
        self.page = page
        self._clock = clock
        self._numbers = count(1)

    def __call__(self, call, target):
        self.calls.append(call)
        content = b""
        if call.upload:
            self.forms.append(b"".join(encode(call.upload, BOUNDARY)))  # an exception here: nothing whole has left
            content = _file_in(self.forms[-1])
        if call.operation in self.instead:
            return self.instead[call.operation](call)
        return self._answer(call, content)

    @property
    def operations(self):
        """The names of all calls so far."""
        return [call.operation for call in self.calls]

    def new_id(self, kind):
        """An id that nothing has yet. Those of a kind have the same length."""
        return f"{_PREFIXES[kind]}{next(self._numbers):08}"

    def make(self, kind, **fields):
        """Make an object as if somebody had made it without the gateway; returns its JSON."""
        made = {"id": self.new_id(kind), "object": _OBJECTS.get(kind, kind), "created_at": int(self._clock()), **fields}
        self.objects[made["id"]] = made
        return made

    def file(self, content=b"hello", filename="a.jsonl", purpose="batch", **fields):
        """Make a file; returns its JSON."""
        named = {"filename": filename, "purpose": purpose, "bytes": len(content), "status": "processed"}
        made = self.make("file", **named, **fields)
        self.contents[made["id"]] = content
        return made

    def finish_batch(self, batch_id, has_errors=True):
        """A batch is done: now it has files with its results; returns their ids."""
        found = [self.file(b"results", "out.jsonl", "batch_output")["id"] for _ in range(1 + has_errors)]
        self.objects[batch_id].update(status="completed", output_file_id=found[0])
        if has_errors:
            self.objects[batch_id]["error_file_id"] = found[1]
        return found

    def finish_job(self, job_id):
        """A job is done: now it has a file with its results, a model and a checkpoint; returns their ids."""
        result = self.file(b"step,loss\n", "step_metrics.csv", "fine-tune-results")["id"]
        model, step = f"ft:gpt-4o-mini:acme::{job_id[-8:]}", f"ft:gpt-4o-mini:acme::{job_id[-8:]}:ckpt-step-80"
        self.objects[job_id].update(status="succeeded", result_files=[result], fine_tuned_model=model)
        self.checkpoints[job_id] = [{"id": f"ftckpt_{job_id[-8:]}", "object": "fine_tuning.job.checkpoint",
                                     "created_at": START, "fine_tuned_model_checkpoint": step}]  # fmt: skip
        for name in (model, step):
            self.objects[name] = {"id": name, "object": "model", "created": int(self._clock()), "owned_by": "acme"}
        return [result, model, step]

    def _answer(self, call, content):
        route, operation = OPERATIONS[call.operation], call.operation
        steps, body = call.path.split("/"), call.json or {}
        if operation == "upload_file":
            fields = {"purpose": call.upload.fields.get("purpose")}
            seconds = call.upload.fields.get("expires_after[seconds]")
            if seconds and b"expires_after[seconds]" in self.forms[-1]:
                fields["expires_at"] = int(self._clock()) + int(seconds)
            return json_answer(self.file(content, call.upload.filename, **fields))
        if operation in ("create_chat_completion", "create_embedding", "count_response_input_tokens"):
            return json_answer({"id": "chatcmpl-1", "object": "chat.completion", "choices": []})
        if operation in ("create_response", "compact_response"):
            return self._response(call, body)
        if operation == "list_models":
            found = [each for each in self.objects.values() if each["object"] == "model"]
            return json_answer({"object": "list", "data": [{"id": "gpt-4o-mini", "object": "model"}, *found]})
        if route.is_top_list:
            return json_answer(self._page(_OBJECTS.get(route.kind, route.kind), call.query))
        item_id = call.path[len("/models/") :] if route.names_model else _first_id(route, steps)
        if item_id is not None and item_id not in self.objects:
            return json_answer(_MISSING, 404)
        if item_id is None:
            return self._created(route.kind, body)
        return self._about(call, self.objects[item_id], steps)

    def _created(self, kind, body):
        more = {name: body[name] for name in ("input_file_id", "training_file", "name", "model") if name in body}
        if kind in ("batch", "job"):
            more["status"] = "in_progress" if kind == "batch" else "running"
        return json_answer(self.make(kind, **more))

    def _about(self, call, found, steps):
        operation = call.operation
        if operation == "delete_file" or operation in (
            "delete_response", "delete_container", "delete_vector_store", "delete_model",
        ):  # fmt: skip
            del self.objects[found["id"]]
            return json_answer({"id": found["id"], "object": found["object"], "deleted": True})
        if call.expects == "bytes" or operation == "retrieve_batch_output":
            if operation == "retrieve_batch_output" and not call.path.endswith("/content"):
                return json_answer(found)
            return Answer(200, {"content-type": "text/plain"}, body=FakeBody([self.contents.get(found["id"], b"")]))
        if operation == "complete_upload":
            found.update(status="completed", file=self.file())
        elif operation.startswith("cancel_") and "status" in found:
            found["status"] = "cancelled"
        elif operation == "list_fine_tuning_checkpoints":
            return json_answer({"object": "list", "data": self.checkpoints.get(found["id"], []), "has_more": False})
        elif operation == "list_response_input_items":
            return json_answer({"object": "list", "data": self.inputs[found["id"]], "has_more": False})
        elif operation.startswith(("list_", "search_")):
            return json_answer({"object": "list", "data": [], "has_more": False})
        elif OPERATIONS[operation].makes_another or OPERATIONS[operation].path.count(":id") == 2:
            inner = steps[4] if len(steps) > 4 else "inside"
            return json_answer({"id": inner, "object": "part", "status": "completed", **_around(found)})
        if operation == "retrieve_response" and call.query.get("stream") == "true":
            return self._events(found)
        return json_answer(found)

    def _response(self, call, body):
        more = {"conversation": {"id": body["conversation"]}} if isinstance(body.get("conversation"), str) else {}
        output = [{"id": self.new_id("item"), "type": "message", "role": "assistant", "content": []}, *self.output]
        made = self.make("response", status="completed", output=output, **more)
        self.inputs[made["id"]] = [{"id": self.new_id("item"), "type": "message", "role": "user"}]
        if body.get("store") is False:
            del self.objects[made["id"]]
        return self._events(made) if body.get("stream") else json_answer(made)

    def _events(self, made):
        begun = {**made, "status": "in_progress", "output": []}
        events = [{"type": "response.created", "response": begun}]
        events += [{"type": "response.output_item.added", "item": item} for item in made["output"]]
        events += [{"type": "response.completed", "response": made}]
        return Answer(200, {"content-type": "text/event-stream"}, body=FakeBody(map(sse.event, events)))

    def _page(self, kind, query):
        found = [each for each in self.objects.values() if each["object"] == kind]
        found = found if query.get("order") == "asc" else found[::-1]
        if after := query.get("after"):
            ids = [each["id"] for each in found]
            found = found[ids.index(after) + 1 :] if after in ids else []
        limit = min(self.page, int(query.get("limit", 20)))
        return {"object": "list", "data": found[:limit], "has_more": len(found) > limit}


class Anthropic(Account):
    """The same files in Anthropic's words."""

    def __call__(self, call, target):
        answer = super().__call__(call, target)
        if answer.headers["content-type"] != "application/json" or answer.status != 200:
            return answer
        value = json.loads(b"".join(answer.body))
        if "data" in value:
            return json_answer({"data": [self._in_its_words(each) for each in value["data"]], "next_page": None})
        return json_answer(
            {"id": value["id"], "type": "file_deleted"} if "deleted" in value else self._in_its_words(value)
        )

    def _in_its_words(self, file):
        made = datetime.fromtimestamp(file["created_at"], timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"type": "file", "id": file["id"], "size_bytes": file["bytes"], "created_at": made,
                "filename": file["filename"], "mime_type": "text/plain", "downloadable": False}  # fmt: skip


def _file_in(whole):
    """The file in a form that the gateway has sent."""
    part = next(part for part in whole.split(f"--{BOUNDARY}".encode()) if b"filename=" in part)
    return part.partition(b"\r\n\r\n")[2][:-2]


def _first_id(route, steps):
    places = route.path.split("/")
    return steps[places.index(":id") - 1] if ":id" in places else None


def _around(found):
    names = {"container": "container_id", "vector_store": "vector_store_id", "upload": "upload_id"}
    return {names[found["object"]]: found["id"]}


class Owner:
    """A client with a gateway key. Every answer comes back, whatever its status."""

    def __init__(self, client, key):
        self.client, self.key = client, key

    def __call__(self, method, path, body=None, **headers):
        """Ask for a path below /v1; `body` is JSON, or a form as bytes."""
        sent = {
            "x-portkey-api-key": f"fp_{self.key}",
            **{name.replace("_", "-"): text for name, text in headers.items()},
        }
        if body is not None and not isinstance(body, bytes):
            body, kind = json.dumps(body).encode(), "application/json"
        else:
            kind = form_type()
        if body is not None:
            sent.setdefault("content-type", kind)
        return self.client.request(f"/v1{path}", method=method, body=body or b"", headers=sent, status="*")

    def get(self, path, **headers):
        return self("GET", path, **headers)

    def post(self, path, body=None, **headers):
        return self("POST", path, {} if body is None else body, **headers)

    def delete(self, path):
        return self("DELETE", path)

    def upload(self, content=b"hello", name="a.jsonl", purpose="batch", **fields):
        """Upload a file; the whole answer. `fields` stand before the file."""
        parts = [("purpose", purpose), *fields.items(), ("file", name, "", content)]
        return self.post("/files", form(*parts))

    def file(self, content=LINE, **more):
        """The id of a new file."""
        return self.upload(content, **more).json["id"]

    def ids(self, path="/files", **headers):
        """The ids in a list."""
        return [each["id"] for each in self.get(path, **headers).json["data"]]

    def make(self, kind):
        """The id of a new object of this kind."""
        bodies = {"upload": {"filename": "a", "purpose": "batch", "bytes": 5, "mime_type": "text/plain"},
                  "response": {"model": "m", "input": "hello"}, "container": {"name": "c"},
                  "vector_store": {"name": "v"}}  # fmt: skip
        paths = {"upload": "/uploads", "response": "/responses", "container": "/containers",
                 "vector_store": "/vector_stores"}  # fmt: skip
        if kind == "file":
            return self.file()
        if kind == "batch":
            made = self.post("/batches", batch_of(self.file()))
        elif kind == "job":
            made = self.post("/fine_tuning/jobs", {"model": "m", "training_file": self.file(b'{"messages":[]}\n')})
        else:
            made = self.post(paths[kind], bodies[kind])
        return made.json["id"]


@lru_cache(maxsize=1)
def _empty_ledger():
    with tempfile.TemporaryDirectory() as folder:
        FolderLedger(folder).close()
        return Path(folder, FolderLedger.file).read_bytes()


def ready_ledger(folder):
    """A folder with an empty ledger, unless something is there: sqlite syncs the disk for each table that it makes."""
    if not folder.exists():
        folder.mkdir(mode=0o700)
        (folder / FolderLedger.file).write_bytes(_empty_ledger())
    return str(folder)


def batch_of(file_id, **more):
    """The JSON of a request for a batch."""
    return {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h", **more}


def sections(*keys, **more):
    """A configuration with one saved provider, `openai`, and these keys: names, or a name with its settings."""
    named = dict((key, {}) if isinstance(key, str) else key for key in keys)
    return {
        "provider:openai": {"credential": "sk-saved-openai"},
        **{f"key:{name}": {"sha256": hashed(f"fp_{name}"), "providers": "*", **rules} for name, rules in named.items()},
        **more,
    }


def seen_of(answer):
    """All that a client sees of an answer but the ids of the request."""
    headers = {name.lower(): text for name, text in answer.headers.items()}
    for name in ("x-request-id", "x-portkey-trace-id"):
        headers.pop(name, None)
    return answer.status_int, headers, answer.body
