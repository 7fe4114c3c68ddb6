"""Strict fakes of what passes through beside the files: chat, uploads, batches, fine-tuning jobs, responses; and Azure.

On the machinery of strict_openai and strict_azure, and with their rules: `problems` holds what a gateway must never
send, a client's own mistakes are answered as OpenAI does. `bodies` holds the JSON that came, as (path, value).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
import select
import socket
import threading
from urllib.parse import parse_qsl, urlsplit

from strict_azure import VERSION, StrictAzure, _AzureHandler
from strict_openai import _MULTIPART, PURPOSES, Refusal, StrictOpenAI, _Handler, _part

MAX_PART_BYTES = 64 << 20
_ID = "([A-Za-z0-9._-]+)"
#: method, path below the base URL, the handler's method, its query parameters
_ROUTES = (
    ("POST", "/chat/completions", "chat", ()),
    ("POST", f"/deployments/{_ID}/chat/completions", "chat", ()),
    ("POST", "/uploads", "create_upload", ()),
    ("POST", f"/uploads/{_ID}/parts", "add_part", ()),
    ("POST", f"/uploads/{_ID}/complete", "complete_upload", ()),
    ("POST", f"/uploads/{_ID}/cancel", "cancel_upload", ()),
    ("POST", "/batches", "create_batch", ()),
    ("GET", "/batches", "list_batches", ("limit", "after")),
    ("GET", f"/batches/{_ID}", "batch", ()),
    ("POST", f"/batches/{_ID}/cancel", "cancel_batch", ()),
    ("POST", "/fine_tuning/jobs", "create_job", ()),
    ("GET", "/fine_tuning/jobs", "list_jobs", ("limit", "after", "metadata")),
    ("GET", f"/fine_tuning/jobs/{_ID}", "job", ()),
    ("POST", f"/fine_tuning/jobs/{_ID}/(cancel|pause|resume)", "change_job", ()),
    ("GET", f"/fine_tuning/jobs/{_ID}/events", "job_events", ("limit", "after")),
    ("GET", f"/fine_tuning/jobs/{_ID}/checkpoints", "job_checkpoints", ("limit", "after")),
    ("POST", "/responses", "create_response", ()),
    ("POST", "/responses/input_tokens", "count_tokens", ()),
    ("POST", "/responses/compact", "compact", ()),
    ("GET", f"/responses/{_ID}", "response", ("include[]", "include_obfuscation", "starting_after", "stream")),
    ("DELETE", f"/responses/{_ID}", "delete_response", ()),
    ("POST", f"/responses/{_ID}/cancel", "cancel_response", ()),
    ("GET", f"/responses/{_ID}/input_items", "input_items", ("after", "include[]", "limit", "order")),
)
#: what a POST to these carries: JSON, one part of a form, or nothing at all
_FORM, _BODYLESS = {"add_part"}, {"cancel_upload", "cancel_batch", "change_job", "cancel_response"}
_RESPONSES = {"create_response", "count_tokens", "compact", "response", "delete_response", "cancel_response",
              "input_items"}  # fmt: skip
_INCLUDES = {
    "file_search_call.results", "web_search_call.results", "web_search_call.action.sources",
    "message.input_image.image_url", "computer_call_output.output.image_url", "code_interpreter_call.outputs",
    "reasoning.encrypted_content", "message.output_text.logprobs",
}  # fmt: skip
_ENDPOINTS = {"/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/completions"}
_NEXT_OF_BATCH = {"validating": "in_progress", "in_progress": "completed", "cancelling": "cancelled"}
_NEXT_OF_JOB = {"cancel": "cancelled", "pause": "paused", "resume": "running"}
_DONE = b"data: [DONE]\n\n"


class _More:
    """What the fakes have beside files; the first half of a fake's bases.

    To make it misbehave: `chat_refusal` ((status, error, headers), what chat answers), `ignore_stream` (JSON although a
    stream was asked for), `stream_cut` (events after which a stream breaks off), `stream_quiet_end` (events after which
    it ends as HTTP does, without its last event), `answer_gate` and `stream_gate` (threading.Events, which a generated
    answer waits for, and a stream before its 2nd event). `stream_gone` is set when the peer left while we had to say
    something still.
    """

    def __init__(self, keep=True):
        super().__init__(keep)
        self._server.RequestHandlerClass = self.handler
        self.bodies = []
        self.uploads, self.parts, self.batches, self.jobs, self.responses = {}, {}, {}, {}, {}
        self.behave()

    def behave(self):
        """Misbehave no more, and wait for nothing."""
        self.chat_refusal = self.stream_cut = self.stream_quiet_end = self.answer_gate = self.stream_gate = None
        self.ignore_stream = False
        self.stream_gone = threading.Event()

    def stamp(self):
        """What the next object is numbered and dated with: (suffix of its id, created_at)."""
        with self.lock:
            number = next(self._ids)
        return f"{secrets.token_hex(8)}{number:08d}", 1_700_000_000 + number


class _MoreHandler:
    """The operations; the first half of a handler's bases."""

    disable_nagle_algorithm = True  # each event leaves at once

    def _operation(self):
        url = urlsplit(self.path)
        for method, pattern, name, parameters in _ROUTES:
            found = re.fullmatch(self._base(url.path) + pattern, url.path)
            if found and method == self.command:
                return self._pass(name, found.groups(), url.query, parameters)
        return super()._operation()

    def _base(self, path):
        return "/v1"

    def _pass(self, name, groups, query, parameters):
        """Read the whole request, then do it."""
        self.query = self._pairs(query, parameters)
        self.body = self._read_body(name) if self.command == "POST" else None
        self._check_surface(name)
        return getattr(self, f"do_{name}")(*groups)

    def _check_surface(self, name):
        """Refuse what this surface of the API has not."""

    def _pairs(self, text, parameters):
        """Parameter → value, or a list of values where the name ends in `[]`."""
        query = {}
        for name, value in parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text)):
            if re.sub(r"(?<=^metadata)\[[^\]]+\]$", "", name) not in parameters:
                raise Refusal(400, f"unknown query parameter {name}", name, recorded=True)
            if name.endswith("[]"):
                query.setdefault(name, []).append(value)
            elif query.setdefault(name, value) is not value:
                raise Refusal(400, f"query parameter {name} repeats", name, recorded=True)
        if not set(query.get("include[]", ())) <= _INCLUDES:
            raise Refusal(400, f"Invalid value: {query['include[]']}.", "include")
        return query

    def _check_headers(self):
        try:
            super()._check_headers()
        except Refusal:
            with contextlib.suppress(ValueError):  # what is not read would reset the connection under the answer
                self._exactly(min(int(self.headers.get("content-length", "0")), 1 << 20))
            raise

    def _read_body(self, name):
        if name in _FORM:
            return self._read_form()
        if "content-length" not in self.headers:
            raise Refusal(411, "a body that is no form has a Content-Length", recorded=True)
        raw = bytes(self._exactly(int(self.headers["content-length"])))
        if name in _BODYLESS:
            if raw:
                raise Refusal(400, f"{self.path} takes no body, {len(raw)} bytes came", recorded=True)
            return None
        if self.headers.get("content-type") != "application/json":
            raise Refusal(400, f"the body is {self.headers['content-type']}", recorded=True)
        return self._read_json(raw)

    def _read_json(self, raw):
        try:
            value = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
        except ValueError as problem:
            raise Refusal(400, f"the body is no JSON: {problem}", recorded=True) from None
        if not isinstance(value, dict):
            raise Refusal(400, "the body is no JSON object", recorded=True)
        self.fake.bodies.append((urlsplit(self.path).path, value))
        return value

    def _read_form(self):
        """The bytes of the one part, whose name is `data`."""
        found = _MULTIPART.fullmatch(self.headers.get("content-type", ""))
        if not found:
            raise Refusal(400, f"no multipart/form-data: {self.headers['content-type']}", recorded=True)
        is_chunked = "transfer-encoding" in self.headers
        body = self._chunks() if is_chunked else self._exactly(int(self.headers["content-length"]))
        return _only_part(bytes(body), found[1].encode())

    def _field(self, name, kind, needed=True):
        value = self.body.get(name)
        if value is None and not needed:
            return None
        if not isinstance(value, kind) or isinstance(value, bool):
            raise Refusal(400, f"Missing or invalid parameter: '{name}'.", name)
        return value

    def _model(self):
        model = self._field("model", str)
        if model.startswith("@"):
            raise Refusal(400, f"the model {model} names the gateway's provider", "model", recorded=True)
        return model

    def _stored(self, objects, kind, key):
        if key not in objects:
            raise Refusal(404, f"No such {kind} object: {key}", "id")
        return objects[key]

    def _file_of(self, name, purpose):
        """The file that a field of the body names."""
        file = self.fake.files.get(self._field(name, str))
        if not file or file[0]["purpose"] != purpose:
            raise Refusal(400, f"Invalid {name}: no file of the purpose {purpose}.", name)
        return file

    def _page(self, objects, order="desc"):
        """A page of these objects, which are oldest first."""
        limit = self.query.get("limit", "20")
        if not (re.fullmatch("[0-9]{1,3}", limit) and 1 <= int(limit) <= 100):
            raise Refusal(400, f"Invalid 'limit': {limit}", "limit")
        objects = list(objects)[:: 1 if order == "asc" else -1]
        ids = [obj["id"] for obj in objects]
        if self.query.get("after") is not None:
            if self.query["after"] not in ids:
                raise Refusal(404, f"No such object: {self.query['after']}", "after")
            objects = objects[ids.index(self.query["after"]) + 1 :]
        page = objects[: int(limit)]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
        return {"object": "list", "data": page, **ends, "has_more": len(page) < len(objects)}

    # answers that take their time

    def _wait(self, gate):
        """Wait for the gate, and notice a peer that leaves meanwhile."""
        while gate and not gate.wait(0.02):
            self._notice_leaving()

    def _notice_leaving(self):
        if not select.select([self.connection], [], [], 0)[0]:
            return
        with contextlib.suppress(OSError):  # a reset
            if self.connection.recv(1, socket.MSG_PEEK):
                return
        self.fake.stream_gone.set()
        raise ConnectionResetError

    def _stream(self, events):
        """Answer with server-sent events, each in a chunk of its own."""
        self._head(200, {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache",
                         "transfer-encoding": "chunked"})  # fmt: skip
        for number, event in enumerate(events):
            if number == self.fake.stream_cut:
                self.close_connection = True
                return
            if number == self.fake.stream_quiet_end:
                break
            self._wait(self.fake.stream_gate if number == 1 else None)
            self._send_event(event)
        self.wfile.write(b"0\r\n\r\n")

    def _send_event(self, event):
        self._notice_leaving()
        try:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
        except OSError:
            self.fake.stream_gone.set()
            raise

    def _refuse_as_told(self, status, error, headers):
        body = json.dumps({"error": error}).encode()
        self._head(status, {"content-type": "application/json", "content-length": str(len(body)), **headers})
        self.wfile.write(body)

    # chat completions

    def do_chat(self, *path):
        model = self._model()
        messages = self._field("messages", list)
        if not messages:
            raise Refusal(400, "Invalid 'messages': empty array.", "messages", "empty_array")
        for place, part in _parts_of(messages, "messages", "content"):
            self._check_file_part(place, part)
        self._wait(self.fake.answer_gate)
        if self.fake.chat_refusal:
            return self._refuse_as_told(*self.fake.chat_refusal)
        completion = _completion(model, _last_text(messages), self.fake.stamp())
        if not self.body.get("stream") or self.fake.ignore_stream:
            return completion
        with_usage = bool((self.body.get("stream_options") or {}).get("include_usage"))
        return self._stream(_chat_events(completion, with_usage))

    def _check_file_part(self, place, part):
        if part.get("type") != "file":
            return
        file = part.get("file")
        if not isinstance(file, dict) or set(file) - {"file_id", "file_data", "filename"}:
            raise Refusal(400, f"{place}.file is {file!r:.200}", f"{place}.file", recorded=True)
        if ("file_id" in file) == ("file_data" in file):
            raise Refusal(400, f"{place}.file has not one source", f"{place}.file", recorded=True)
        self._check_file_id(file, f"{place}.file")

    def _check_file_id(self, file, place):
        if "file_id" in file and file["file_id"] not in self.fake.files:
            raise Refusal(400, f"Invalid file_id: {file['file_id']}. No such file.", f"{place}.file_id")

    # uploads

    def do_create_upload(self):
        filename, purpose, size = self._field("filename", str), self._field("purpose", str), self._field("bytes", int)
        media_type, expiry = self._field("mime_type", str), self._field("expires_after", dict, needed=False)
        if purpose not in PURPOSES:
            raise Refusal(400, f"'{purpose}' is not one of {list(PURPOSES)} - 'purpose'", "purpose")
        suffix, now = self.fake.stamp()
        upload = {
            "id": f"upload_{suffix}", "object": "upload", "bytes": size, "created_at": now, "expires_at": now + 3600,
            "filename": filename, "purpose": purpose, "status": "pending",
        }  # fmt: skip
        self.fake.uploads[upload["id"]] = upload
        self.fake.parts[upload["id"]] = {}, media_type, expiry and expiry.get("seconds")
        return upload

    def do_add_part(self, upload_id):
        upload = self._pending(upload_id)
        if len(self.body) > MAX_PART_BYTES:
            raise Refusal(413, "Part is too large.")
        suffix, now = self.fake.stamp()
        part = {"id": f"part_{suffix}", "object": "upload.part", "created_at": now, "upload_id": upload["id"]}
        self.fake.parts[upload_id][0][part["id"]] = self.body
        return part

    def do_complete_upload(self, upload_id):
        upload, ids = self._pending(upload_id), self._field("part_ids", list)
        parts, media_type, seconds = self.fake.parts[upload_id]
        if not set(ids) <= set(parts) or len(set(ids)) < len(ids):
            raise Refusal(400, "Unknown or repeated parts.", "part_ids")
        content = b"".join(parts[part_id] for part_id in ids)
        if len(content) != upload["bytes"]:
            raise Refusal(400, f"The parts have {len(content)} bytes, the upload {upload['bytes']}.", "part_ids")
        if self.body.get("md5") not in (None, hashlib.md5(content).hexdigest()):
            raise Refusal(400, "The MD5 is another one.", "md5")
        file = self.fake.store(upload["filename"], media_type, content, upload["purpose"], seconds)
        upload.update(status="completed", file=file)
        return upload

    def do_cancel_upload(self, upload_id):
        upload = self._pending(upload_id)
        upload["status"] = "cancelled"
        return upload

    def _pending(self, upload_id):
        upload = self._stored(self.fake.uploads, "Upload", upload_id)
        if upload["status"] != "pending":
            raise Refusal(400, f"The upload is {upload['status']}.", "upload_id")
        return upload

    # batches

    def do_create_batch(self):
        self._file_of("input_file_id", "batch")
        if self._field("endpoint", str) not in self._endpoints():
            raise Refusal(400, f"Invalid value: '{self.body['endpoint']}'.", "endpoint", "invalid_value")
        if self._field("completion_window", str) != "24h":
            raise Refusal(400, "Invalid value: the window is 24h.", "completion_window", "invalid_value")
        suffix, now = self.fake.stamp()
        batch = {
            "id": f"batch_{suffix}", "object": "batch", "endpoint": self.body["endpoint"], "errors": None,
            "input_file_id": self.body["input_file_id"], "completion_window": "24h", "status": "validating",
            "output_file_id": None, "error_file_id": None, "created_at": now, "expires_at": now + 86400,
            "request_counts": {"total": 0, "completed": 0, "failed": 0}, "metadata": self.body.get("metadata"),
        }  # fmt: skip
        self.fake.batches[batch["id"]] = batch
        return batch

    def _endpoints(self):
        return _ENDPOINTS

    def do_list_batches(self):
        return self._page(self.fake.batches.values())

    def do_batch(self, batch_id):
        """The batch, a step further with each look at it."""
        batch = self._stored(self.fake.batches, "Batch", batch_id)
        batch["status"] = _NEXT_OF_BATCH.get(batch["status"], batch["status"])
        if batch["status"] == "completed" and not batch["output_file_id"]:
            self._finish(batch)
        return batch

    def _finish(self, batch):
        lines = [json.loads(line) for line in self.fake.files[batch["input_file_id"]][2].splitlines() if line.strip()]
        output = b"".join(json.dumps(self._result(line)).encode() + b"\n" for line in lines)
        file = self.fake.store(f"{batch['id']}_output.jsonl", "application/octet-stream", output, "batch_output")
        counts = {"total": len(lines), "completed": len(lines), "failed": 0}
        batch.update(output_file_id=file["id"], completed_at=batch["created_at"] + 60, request_counts=counts)

    def _result(self, line):
        suffix, now = self.fake.stamp()
        completion = _completion(line["body"]["model"], _last_text(line["body"]["messages"]), (suffix, now))
        response = {"status_code": 200, "request_id": f"req_{suffix}", "body": completion}
        return {"id": f"batch_req_{suffix}", "custom_id": line["custom_id"], "response": response, "error": None}

    def do_cancel_batch(self, batch_id):
        batch = self._stored(self.fake.batches, "Batch", batch_id)
        if batch["status"] not in ("validating", "in_progress"):
            raise Refusal(400, f"Cannot cancel a batch with status '{batch['status']}'.")
        batch.update(status="cancelling", cancelling_at=batch["created_at"] + 30)
        return batch

    # fine-tuning jobs

    def do_create_job(self):
        model = self._model()
        self._file_of("training_file", "fine-tune")
        if self.body.get("validation_file") is not None:
            self._file_of("validation_file", "fine-tune")
        suffix, now = self.fake.stamp()
        job = {
            "id": f"ftjob-{suffix}", "object": "fine_tuning.job", "created_at": now, "error": None,
            "fine_tuned_model": None, "finished_at": None, "model": model, "organization_id": "org-1",
            "hyperparameters": {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"},
            "result_files": [], "seed": self.body.get("seed", 7), "status": "validating_files",
            "trained_tokens": None, "training_file": self.body["training_file"],
            "validation_file": self.body.get("validation_file"), "method": self.body.get("method"),
            "metadata": self.body.get("metadata"), "user_provided_suffix": self.body.get("suffix"),
        }  # fmt: skip
        self.fake.jobs[job["id"]] = job
        return job

    def do_list_jobs(self):
        page = self._page(self.fake.jobs.values())
        return {name: page[name] for name in ("object", "data", "has_more")}

    def do_job(self, job_id):
        return self._stored(self.fake.jobs, "fine-tuning job", job_id)

    def do_change_job(self, job_id, verb):
        job = self._stored(self.fake.jobs, "fine-tuning job", job_id)
        if job["status"] in ("cancelled", "succeeded", "failed"):
            raise Refusal(400, f"Job has already completed: {job['status']}.", code="invalid_status")
        job["status"] = _NEXT_OF_JOB[verb]
        return job

    def do_job_events(self, job_id):
        job = self.do_job(job_id)
        words = ("Created fine-tuning job", "Validating training file", "Files validated", "Fine-tuning job started")
        return self._page(
            {
                "id": f"ftevent-{n}", "object": "fine_tuning.job.event", "created_at": job["created_at"] + n,
                "level": "info", "message": message, "data": {}, "type": "message",
            }
            for n, message in enumerate(words)
        )  # fmt: skip

    def do_job_checkpoints(self, job_id):
        job = self.do_job(job_id)
        return self._page(
            {
                "id": f"ftckpt_{step}", "object": "fine_tuning.job.checkpoint", "created_at": job["created_at"] + step,
                "fine_tuned_model_checkpoint": f"ft:{job['model']}:org::ckpt-step-{step}", "step_number": step,
                "fine_tuning_job_id": job["id"], "metrics": {"step": step, "train_loss": 1 / step},
            }
            for step in (100, 200, 300)
        )  # fmt: skip

    # responses

    def do_create_response(self):
        items = self._input()
        self._wait(self.fake.answer_gate)
        suffix, now = self.fake.stamp()
        text = _last_text(items)
        response = _response(f"resp_{suffix}", now, self.body, text)
        self.fake.responses[response["id"]] = response, items
        if self.body.get("stream") and not self.fake.ignore_stream:
            return self._stream(_response_events(response))
        return {**response, "status": "queued", "output": []} if response["background"] else response

    def _input(self):
        """The items of the input, each with an id."""
        self._model()
        given = self._field("input", (str, list))
        items = [{"role": "user", "content": given}] if isinstance(given, str) else given
        for place, part in _parts_of(items, "input", "content"):
            if part.get("type") == "input_file":
                self._check_file_id(part, place)
        return [{"type": "message", "id": f"msg_{n}", **item, "content": _as_parts(item.get("content"))}
                for n, item in enumerate(items)]  # fmt: skip

    def do_count_tokens(self):
        return {"object": "response.input_tokens", "input_tokens": len(_last_text(self._input()).split()) + 7}

    def do_compact(self):
        items = self._input()
        suffix, now = self.fake.stamp()
        output = [*items, {"id": f"cmp_{suffix}", "type": "compaction", "encrypted_content": "gAAA"}]
        usage = _response("", 0, self.body, "")["usage"]
        return {"id": f"resp_{suffix}", "object": "response.compaction", "created_at": now, "output": output,
                "usage": usage}  # fmt: skip

    def do_response(self, response_id):
        response, _ = self._stored(self.fake.responses, "Response", response_id)
        if self.query.get("stream") == "true":
            return self._stream(_response_events(response, int(self.query.get("starting_after", "-1"))))
        return response

    def do_delete_response(self, response_id):
        self._stored(self.fake.responses, "Response", response_id)
        del self.fake.responses[response_id]
        return {"id": response_id, "object": "response", "deleted": True}

    def do_cancel_response(self, response_id):
        response, _ = self._stored(self.fake.responses, "Response", response_id)
        if not response["background"]:
            raise Refusal(400, "Cannot cancel a synchronous response.")
        response.update(status="cancelled", output=[])
        return response

    def do_input_items(self, response_id):
        _, items = self._stored(self.fake.responses, "Response", response_id)
        return self._page(items, self.query.get("order", "desc"))


def _refuse_constant(text):
    raise ValueError(f"{text} is no JSON")


def _only_part(body, boundary):
    """The bytes of a form's one part, which is named `data`; anything else is a recorded 400."""
    opening, closing = b"--" + boundary + b"\r\n", b"\r\n--" + boundary + b"--\r\n"
    if not body.startswith(opening) or not body.endswith(closing):
        raise Refusal(400, "the body does not start and end with its boundary", recorded=True)
    head, separator, content = body[len(opening) : -len(closing)].partition(b"\r\n\r\n")
    if not separator or b"\r\n--" + boundary in content:
        raise Refusal(400, "the form has no header block, or more parts than one", recorded=True)
    name, _, _ = _part(head.decode("utf-8"))
    if name != "data":
        raise Refusal(400, f"the part is named {name!r}", recorded=True)
    return content


def _parts_of(messages, place, field):
    """(place, part) of each content part that is an object."""
    for n, message in enumerate(messages):
        if not isinstance(message, dict):
            raise Refusal(400, f"Invalid type for '{place}[{n}]'.", f"{place}[{n}]", "invalid_type")
        content = message.get(field)
        for m, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, dict):
                yield f"{place}[{n}].{field}[{m}]", part


def _as_parts(content):
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else content


def _last_text(messages):
    """The text of the last message of a user, "" where there is none."""
    contents = [message.get("content") for message in messages if message.get("role") == "user"]
    last = contents[-1] if contents else ""
    return last if isinstance(last, str) else "".join(part.get("text", "") for part in last or ())


def _completion(model, text, stamp):
    suffix, now = stamp
    message = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    words = len(text.split())
    usage = {"prompt_tokens": words + 7, "completion_tokens": words, "total_tokens": 2 * words + 7,
             "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0}}  # fmt: skip
    return {
        "id": f"chatcmpl-{suffix}", "object": "chat.completion", "created": now, "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": usage, "service_tier": "default", "system_fingerprint": "fp_44709d6fcb",
    }  # fmt: skip


def _pieces(text):
    """The text in the pieces that a model makes of it; one "" of none."""
    return re.findall(r"\s*\S+|\s+$", text) or [""]


def _chat_events(completion, with_usage):
    """The events that a completion comes in: role, deltas, the finish, the usage if it was asked for, `[DONE]`."""
    head = {name: completion[name] for name in ("id", "created", "model", "service_tier", "system_fingerprint")}
    head = {**head, "object": "chat.completion.chunk", **({"usage": None} if with_usage else {})}
    choice = {"index": 0, "logprobs": None, "finish_reason": None}
    deltas = [{"role": "assistant", "content": "", "refusal": None}]
    deltas += [{"content": piece} for piece in _pieces(completion["choices"][0]["message"]["content"])]
    chunks = [{**head, "choices": [{**choice, "delta": delta}]} for delta in deltas]
    chunks.append({**head, "choices": [{**choice, "delta": {}, "finish_reason": "stop"}]})
    if with_usage:
        chunks.append({**head, "choices": [], "usage": completion["usage"]})
    return [*(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks), _DONE]


def _response(response_id, now, body, text):
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    output = [{"id": f"msg_{response_id}", "type": "message", "status": "completed", "role": "assistant",
               "content": content}]  # fmt: skip
    words = len(text.split())
    usage = {"input_tokens": words + 7, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": words,
             "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 2 * words + 7}  # fmt: skip
    return {
        "id": response_id, "object": "response", "created_at": now, "status": "completed",
        "background": bool(body.get("background")), "error": None, "incomplete_details": None,
        "instructions": body.get("instructions"), "max_output_tokens": None, "metadata": body.get("metadata") or {},
        "model": body["model"], "output": output, "parallel_tool_calls": True, "previous_response_id": None,
        "store": True, "temperature": 1.0, "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [],
        "top_p": 1.0, "truncation": "disabled", "usage": usage,
    }  # fmt: skip


def _response_events(response, after=-1):
    """The events that a response comes in, those after a sequence number."""
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    (item,) = response["output"]
    (content,) = item["content"]
    where = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    empty = {**item, "status": "in_progress", "content": []}
    deltas = [("output_text.delta", {**where, "delta": piece, "logprobs": []}) for piece in _pieces(content["text"])]
    events = [
        ("created", {"response": begun}),
        ("in_progress", {"response": begun}),
        ("output_item.added", {"output_index": 0, "item": empty}),
        ("content_part.added", {**where, "part": {**content, "text": ""}}),
        *deltas,
        ("output_text.done", {**where, "text": content["text"], "logprobs": []}),
        ("content_part.done", {**where, "part": content}),
        ("output_item.done", {"output_index": 0, "item": item}),
        ("completed", {"response": response}),
    ]
    for number, (kind, data) in enumerate(events):
        if number > after:
            text = json.dumps({"type": f"response.{kind}", "sequence_number": number, **data})
            yield f"event: response.{kind}\ndata: {text}\n\n".encode()


class _OpenAIMoreHandler(_MoreHandler, _Handler):
    pass


class StrictOpenAIMore(_More, StrictOpenAI):
    """OpenAI with all that passes through, a context manager."""

    handler = _OpenAIMoreHandler


class _AzureMoreHandler(_MoreHandler, _AzureHandler):
    def _answer(self):
        self.is_inference = False
        super()._answer()

    def _base(self, path):
        return "/openai/v1" if self.is_v1 else "/openai"

    def _operation(self):
        self.deployment = None
        return super()._operation()

    def _pass(self, name, groups, query, parameters):
        by_deployment = "/deployments/" in self.path
        if name == "chat" and by_deployment == self.is_v1:
            raise Refusal(404, f"Resource not found ({self.path})", recorded=True)
        self.is_inference = name == "chat" or name in _RESPONSES
        self.is_created = self.is_created and name == "create_job"
        self.location = f"{self.fake.dated_url}/fine_tuning/jobs?api-version={VERSION}"
        self.deployment = groups[0] if by_deployment else None
        return super()._pass(name, groups, query, parameters)

    def _check_surface(self, name):
        is_new = name in _RESPONSES or "/pause" in self.path or "/resume" in self.path
        if is_new and not self.is_v1:  # the api-version of that day
            raise Refusal(404, "Resource not found")

    def _pairs(self, text, parameters):
        """The query without the api-version that the surface wants."""
        pairs = [pair for pair in text.split("&") if pair]
        versions = [pair.partition("=")[2] for pair in pairs if pair.startswith("api-version=")]
        if versions not in (([], ["v1"], ["preview"]) if self.is_v1 else ([VERSION],)):
            raise Refusal(404, f"Resource not found: api-version {versions}", recorded=True)
        rest = "&".join(pair for pair in pairs if not pair.startswith("api-version="))
        return super()._pairs(rest, parameters)

    def _model(self):
        """The deployment, which v1 takes from the body, and the dated surface from the path."""
        if self.deployment is not None and self.body.get("model", self.deployment) != self.deployment:
            raise Refusal(400, f"the deployment is {self.deployment}, the model {self.body['model']}", recorded=True)
        if self.deployment is not None:
            self.body["model"] = self.deployment
        model = super()._model()
        if self.is_inference and model not in self.fake.deployments:
            words = "The API deployment for this resource does not exist."
            raise Refusal(404, words, code="DeploymentNotFound")
        return self.fake.deployments.get(model, model)

    def _endpoints(self):
        return _ENDPOINTS | {endpoint[3:] for endpoint in _ENDPOINTS}

    def _result(self, line):
        line["body"]["model"] = self.fake.deployments.get(line["body"]["model"], line["body"]["model"])
        return super()._result(line)

    def _json(self, status, value):
        """Of what a model answers, errors look as OpenAI's do; an object may have a field `error`, which is null."""
        if status < 400:
            return _Handler._json(self, 201 if self.is_created else status, value)
        if status != 401 and self.is_inference:
            return _Handler._json(self, status, value)
        return super()._json(status, value)

    def _stream(self, events):
        """Azure says first what its filter thought of the prompt."""
        if not self.path.partition("?")[0].endswith("/chat/completions"):
            return super()._stream(events)
        filtered = {"hate": {"filtered": False, "severity": "safe"}}
        first = {"id": "", "object": "", "created": 0, "model": "", "choices": [],
                 "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": filtered}]}  # fmt: skip
        return super()._stream([b"data: " + json.dumps(first).encode() + b"\n\n", *events])


class StrictAzureMore(_More, StrictAzure):
    """Azure OpenAI with all that passes through, a context manager. `deployments` maps a deployment to its model."""

    handler = _AzureMoreHandler

    def __init__(self, keep=True):
        super().__init__(keep)
        self.deployments = {"my-gpt": "gpt-4o-2024-08-06", "gpt-4o": "gpt-4o-2024-08-06"}
