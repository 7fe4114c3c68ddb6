"""Two owners on one provider key: fakes that know who made what, and clients that ask for anything at all.

Each client says who it is in `via`, which the gateway passes on with whatever it sends for the request's sake. So the
fakes know whose request they answer and whose an object is that they make, and see when a request carries an id of
somebody else. Every id ends in 16 hexadecimal digits and 8 decimal ones, its stamp, by which it is found in any text.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import itertools
import json
import random
import re
import threading
import time
import unicodedata
from collections import Counter
from typing import NamedTuple
from urllib.parse import quote, unquote, urlencode, urlsplit

import strict_anthropic
import strict_azure
import strict_openai
from fakes import form, form_type
from strict_anthropic import StrictAnthropic, _AnthropicHandler
from strict_openai import Refusal
from strict_openai_routes import (
    StrictAzureRoutes,
    StrictOpenAIRoutes,
    _AzureRoutesHandler,
    _OpenAIRoutesHandler,
)

OWNERS = ("retail", "legal")
OUTSIDE = "outside"  # who changes the provider's files without the gateway
STAMP = re.compile("[0-9a-f]{16}[0-9]{8}")
SECRET = re.compile(r"secret-of-(\w+)-")
MODEL = "gpt-4o"
#: what the gateway itself asks for when it walks a list; the clients ask for less
_WALK_LIMITS = ("100", "1000", "10000")
_TOP_LISTS = ("/files", "/batches", "/fine_tuning/jobs", "/models")
_LATE = 3  # times that a batch is retrieved before it says which file has its output

# What the fakes know


class World:
    """Who made what at the providers, what each client was told, and what went wrong."""

    def __init__(self):
        self.makers = {}  # stamp → owner
        self.things = {}  # account → the objects that clients were told of
        self.faults = []
        self.refusals = {}  # (provider, operation) → how the id was not the caller's → the answers, without the id
        self.counts = Counter()
        self.strangers = {}  # account → the files that were made from outside
        self.lock = threading.Lock()
        self._now = threading.local()

    @property
    def owner(self):
        """Whose request this thread answers."""
        return getattr(self._now, "owner", OUTSIDE)

    @owner.setter
    def owner(self, owner):
        self._now.owner = owner

    def makes(self, text):
        """An object with this stamp is made."""
        self.makers[STAMP.search(text.lower())[0]] = self.owner

    def fault(self, *words):
        with self.lock:
            self.faults.append(" ".join(map(str, words))[:1000])

    def stamps(self, text):
        """stamp → who made the object that has it, None for nobody, of the ids in a text."""
        plain = unicodedata.normalize("NFKC", text).lower()
        return {found: self.makers.get(found) for found in STAMP.findall(plain)}

    def carries(self, text, where):
        """A request of the current owner brings this text to a provider: every id in it must be the owner's own."""
        for stamp, maker in self.stamps(text).items():
            if maker != self.owner:
                self.fault(f"a request of {self.owner} brought {stamp} of {maker}: {where}")

    def is_told(self, thing):
        with self.lock:
            self.things.setdefault(thing.account, []).append(thing)

    def those(self, account, owner, kind, *states):
        with self.lock:
            return [
                each
                for each in self.things.get(account, ())
                if each.owner == owner and each.kind == kind and each.state in states
            ]


class Thing:
    """An object that a client was told of.

    Its state is `live`, `doubtful` once somebody has begun to delete it, or `deleted`.
    """

    def __init__(self, account, owner, kind, item_id, purpose="", lines=None):
        self.account, self.owner, self.kind, self.id = account, owner, kind, item_id
        self.purpose, self.lines, self.state = purpose, lines, "live"


class Lines(NamedTuple):
    """What a client has written into a file, and the id in it: how that is the client's own, "" if there is none."""

    content: bytes
    how: str = ""
    id: str = ""


class _Watched:
    """Of a fake: it tells the world what it makes."""

    def __init__(self, world):
        super().__init__()
        self.world = world
        self.twin = None  # the id of the next files and responses, all the same
        self.on_made = lambda: None  # called before the answer
        self._began = int(time.time()) - 3600
        self._server.RequestHandlerClass = self.handler

    def store(self, *arguments, **options):
        file = super().store(*arguments, **options)
        if self.twin:
            with self.lock:
                self.files[self.twin] = ({**file, "id": self.twin}, *self.files.pop(file["id"])[1:])
            file = {**file, "id": self.twin}
        self.world.makes(file["id"])
        self.on_made()
        return file

    def stamp(self, may_be_twin=True):
        suffix, number = super().stamp()
        if self.twin and may_be_twin:
            suffix = self.twin[-24:]
            self.on_made()
        self.world.makes(suffix)
        return suffix, self._began + number - 1_700_000_000


class _WatchedHandler:
    """Of a fake's handler: it shows the world what each request carries."""

    def _answer(self):
        world, via = self.fake.world, self.headers.get("via", "")
        world.owner = (via.split(",")[0].split() or ["nobody"])[-1]
        url = urlsplit(self.path)
        is_list = self.command == "GET" and url.path.endswith(_TOP_LISTS)
        is_walk = is_list and ("limit=" not in url.query or re.search(r"limit=(\d+)", url.query)[1] in _WALK_LIMITS)
        world.carries(url.path if is_walk else self.path, f"{self.command} {self.path}")
        super()._answer()

    def carried(self, value):
        self.fake.world.carries(json.dumps(value, ensure_ascii=False), f"{self.command} {self.path} {value}")
        return value


class _WatchedRoutes(_WatchedHandler):
    """The operations that reveal their results late, and the models that jobs make."""

    def _operation(self):
        path = urlsplit(self.path).path
        found = re.fullmatch(f"{self._base(path)}/models(/ft:{MODEL}:org::[0-9a-z-]+)?", path)
        if found and self.command in ("GET", "DELETE"):
            return self._models(found[1] and found[1][1:])
        return super()._operation()

    def _models(self, name):
        models = self.fake.models
        if name is None:
            return {"object": "list", "data": list(models.values())}
        if name not in models:
            raise Refusal(404, f"The model '{name}' does not exist.", "model")
        if self.command == "DELETE":
            del models[name]
            return {"id": name, "object": "model", "deleted": True}
        return models[name]

    def _read_json(self, raw):
        return self.carried(super()._read_json(raw))

    def _input(self):
        items = super()._input()
        suffix, _ = self.fake.stamp(may_be_twin=False)
        given = self.body["input"]
        for number, item in enumerate(items):
            if isinstance(given, str) or "id" not in given[number]:
                item["id"] = f"msg_{number}_{suffix}"
        return items

    def do_create_batch(self):
        batch = super().do_create_batch()
        self._judge_input(batch["input_file_id"])
        return batch

    def do_create_job(self):
        job = super().do_create_job()
        self._judge_input(job["training_file"])
        return job

    def _judge_input(self, file_id):
        content = self.fake.files[file_id][2].decode()
        self.fake.world.carries(content, f"{self.path} with the lines {content}")

    def do_batch(self, batch_id):
        batch = super().do_batch(batch_id)
        return self._as_late(batch)

    def do_list_batches(self):
        page = super().do_list_batches()
        return {**page, "data": [self._as_late(batch, 0) for batch in page["data"]]}

    def _as_late(self, batch, step=1):
        """A batch that is completed, but does not say yet which file has its output."""
        if not batch["output_file_id"]:
            return batch
        looks = self.fake.looks[batch["id"]] = self.fake.looks.get(batch["id"], 0) + step
        return batch if looks > _LATE else {**batch, "output_file_id": None}

    def _finish(self, batch):
        self.fake.finish_batch(batch, super()._finish)

    def do_response(self, response_id):
        stored = self.fake.responses.get(response_id)
        if stored and self.query.get("stream") == "true" and not stored[0]["output"]:
            raise Refusal(400, "A cancelled response has no events.")
        return super().do_response(response_id)

    def do_job(self, job_id):
        job = super().do_job(job_id)
        if job["status"] == "validating_files":
            job["status"] = "running"
        elif job["status"] == "running":
            self.fake.finish_job(job)
        return job

    def do_job_checkpoints(self, job_id):
        page = super().do_job_checkpoints(job_id)
        stamp = STAMP.search(job_id)[0]
        for checkpoint in page["data"]:
            checkpoint["id"] += f"_{stamp}"
            checkpoint["fine_tuned_model_checkpoint"] = f"ft:{MODEL}:org::{stamp}-ckpt-{checkpoint['step_number']}"
        return page


class _WatchedWithRoutes(_Watched):
    def __init__(self, world):
        self.models, self.looks = {MODEL: {"id": MODEL, "object": "model", "created": 1, "owned_by": "openai"}}, {}
        super().__init__(world)

    def finish_batch(self, batch, finish):
        """Its output belongs to who made the batch, whoever makes it go on."""
        before, self.world.owner = self.world.owner, self.world.makers[STAMP.search(batch["id"])[0]]
        with contextlib.suppress(KeyError):  # its input was deleted
            finish(batch)
        self.world.owner = before

    def finish_job(self, job):
        before, self.world.owner = self.world.owner, self.world.makers[STAMP.search(job["id"])[0]]
        suffix, now = self.stamp()
        name = f"ft:{MODEL}:org::{suffix}"
        self.models[name] = {"id": name, "object": "model", "created": now, "owned_by": "org"}
        result = self.store("result.csv", "text/csv", b"step,loss\n", "fine-tune-results")
        job.update(status="succeeded", fine_tuned_model=name, result_files=[result["id"]], finished_at=now)
        self.world.owner = before


class _OpenAIHandler(_WatchedRoutes, _OpenAIRoutesHandler):
    pass


class _AzureHandler(_WatchedRoutes, _AzureRoutesHandler):
    def _operation(self):
        self.is_inference, self.location = False, ""
        return super()._operation()


class _ClaudesHandler(_WatchedHandler, _AnthropicHandler):
    def _request_json(self):
        return self.carried(super()._request_json())

    def _operation(self):
        if (self.command, urlsplit(self.path).path) == ("GET", "/v1/models"):
            model = {"id": "claude-sonnet-4-5", "type": "model", "created_at": "2026-01-01T00:00:00Z"}
            return {"data": [{**model, "display_name": "Claude"}], "has_more": False}
        return super()._operation()


class OpenAI(_WatchedWithRoutes, StrictOpenAIRoutes):
    handler = _OpenAIHandler


class Azure(_WatchedWithRoutes, StrictAzureRoutes):
    handler = _AzureHandler


class Anthropic(_Watched, StrictAnthropic):
    handler = _ClaudesHandler


class Fakes:
    """The three providers; a context manager. `by_account` maps accounts to them."""

    def __init__(self):
        self.world = World()
        self.openai, self.azure, self.anthropic = OpenAI(self.world), Azure(self.world), Anthropic(self.world)
        self.by_account = {"openai": self.openai, "azure": self.azure, "claude": self.anthropic}
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        for fake in self.by_account.values():
            self._stack.enter_context(fake)
        return self

    def __exit__(self, *exc_info):
        self._stack.close()

    def sections(self):
        """The INI sections of the saved providers. Two lead to the same account."""
        return f"""
[provider:openai]
base_url = {self.openai.base_url}
credential = {strict_openai.KEY}
[provider:azure-v1]
kind = azure-openai
base_url = {self.azure.v1_url}
api_version = v1
auth = bearer
credential = {strict_azure.TOKEN}
account = azure
[provider:azure-dated]
kind = azure-openai
base_url = {self.azure.dated_url}
api_version = {strict_azure.VERSION}
credential = {strict_azure.KEY}
account = azure
[provider:anthropic]
base_url = {self.anthropic.base_url}
credential = {strict_anthropic.KEY}
account = claude
"""


def key_of(owner, number=1):
    return f"fp_{owner}-{number}-0123456789abcdef"


def key_sections():
    """Two keys of the one owner, one of the other, which is named as its key."""
    names = {"retail-1": key_of("retail"), "retail-2": key_of("retail", 2), "legal": key_of("legal")}
    return "".join(
        f"[key:{name}]\nsha256 = {hashlib.sha256(key.encode()).hexdigest()}\nproviders = *\n"
        + (f"owner = {OWNERS[0]}\n" if name.startswith(OWNERS[0]) else "")
        for name, key in names.items()
    )


# What the clients do

ACCOUNT_OF = {"openai": "openai", "azure-v1": "azure", "azure-dated": "azure", "anthropic": "claude"}
PATHS = {"file": "/files", "upload": "/uploads", "batch": "/batches", "job": "/fine_tuning/jobs",
         "response": "/responses", "model": "/models", "item": "/responses"}  # fmt: skip
PREFIXES = {"file": "file-", "upload": "upload_", "batch": "batch_", "job": "ftjob-", "response": "resp_",
            "model": f"ft:{MODEL}:org::", "item": "msg_0_"}  # fmt: skip
#: how an id is not the caller's → the statuses that refuse it
REFUSED = {"other's": (404,), "made up": (404,), "outside": (404,), "changed": (400, 404)}
LISTED = ("file", "batch", "job")
_VARYING = ("connection", "content-length", "date", "x-portkey-trace-id", "x-request-id")


class Reply:
    def __init__(self, status, headers, body, is_whole=True):
        self.status, self.headers, self.body, self.is_whole = status, headers, body, is_whole
        self.text = body.decode("utf-8", "replace")

    @property
    def json(self):
        return json.loads(self.body)


class Gate:
    """The gateway that is up now, and how many requests are still to be made."""

    def __init__(self, count):
        self.gateway, self.up, self.over = None, threading.Event(), threading.Event()
        self.sent, self._count, self._lock = 0, count, threading.Lock()

    def takes_one(self):
        with self._lock:
            self.sent += 1
            if self.sent >= self._count:
                self.over.set()
        return self.up.wait(30)


class Client:
    """One client of an owner: what it asks for comes from a seed, as far as the others let it."""

    def __init__(self, world, gate, owner, number):
        self.world, self.gate, self.owner = world, gate, owner
        self.other = next(each for each in OWNERS if each != owner)
        self.draw = random.Random(f"{owner} {number}")
        self.key = key_of(owner, 1 + number % 2 if owner == OWNERS[0] else 1)
        self.provider = self.account = ""
        self._connection = None
        self._numbers = itertools.count(number * 1_000_000)

    # Calls

    def ask(self, method, path, value=None, body=None, kind="application/json", provider=None, own=b""):
        """The answer to a request, checked for what is not the owner's; None if it was lost, or not even sent.

        `own` is what the client itself has written before, which the answer may repeat.
        """
        if not self.gate.takes_one():
            return None
        headers = {"x-portkey-api-key": self.key, "via": f"1.1 {self.owner}"}
        if provider != "":
            headers["x-portkey-provider"] = f"@{provider or self.provider}"
        if value is not None:
            body = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()
        if body is not None:
            headers["content-type"] = kind
        elif method == "POST":
            headers["content-length"] = "0"
        try:
            reply = self._exchange(method, path, body, headers)
        except (OSError, http.client.HTTPException):
            self.hang_up()
            self.world.counts["lost"] += 1
            time.sleep(0.02)  # the gateway's place is taken, or it comes back
            return None
        asked = unquote(path) + ((body or b"") + own).decode("utf-8", "replace")
        self._check_contents(reply, asked, f"{method} {path} {(body or b'')[:300]}")
        return reply

    def _exchange(self, method, path, body, headers):
        if self._connection is None or self.draw.random() < 0.1:  # which may lead to another worker
            self.hang_up()
            self._connection = http.client.HTTPConnection("127.0.0.1", self.gate.gateway.port, timeout=40)
        self._connection.request(method, f"/v1{path}", body, headers)
        response = self._connection.getresponse()
        try:
            content, is_whole = response.read(), True
        except http.client.IncompleteRead as cut:
            content, is_whole = cut.partial, False
            self.hang_up()
        return Reply(response.status, dict(response.getheaders()), content, is_whole)

    def hang_up(self):
        """Close the connection."""
        if self._connection:
            self._connection.close()
        self._connection = None

    def _check_contents(self, reply, asked, what):
        """Nothing of others may be in an answer, unless the client has said it itself."""
        answer = f"{reply.status} {reply.text[:300]}"
        if reply.status >= 500:
            self.world.fault(f"{self.owner}: {what} was answered {answer}")
        said = self.world.stamps(asked)
        for stamp, maker in self.world.stamps(reply.text + str(reply.headers)).items():
            if maker not in (None, self.owner) and stamp not in said:
                self.world.fault(f"{self.owner} was shown {stamp} of {maker}: {what} was answered {answer}")
        for owner in SECRET.findall(reply.text):
            if owner != self.owner:
                self.world.fault(f"{self.owner} was shown a secret of {owner}: {what} was answered {answer}")

    # Ids

    def target(self, kind, in_path=True):
        """(an id for the place of such an object, how it is the caller's or not, the object if it is known)."""
        how = self.draw.choices(["own", "other's", "made up", "outside", "deleted", "changed"],
                                [55, 20, 8, 6, 5, 6])[0]  # fmt: skip
        if how == "outside" and kind == "file" and (names := self.world.strangers.get(self.account)):
            return self.draw.choice(names), how, None
        who, states = {
            "own": (self.owner, ("live",)),
            "deleted": (self.owner, ("deleted",)),
        }.get(how, (self.other, ("live", "doubtful", "deleted")))
        found = self.world.those(self.account, who, kind, *states)
        if how == "made up" or (not found and how != "own"):
            return self.made_up(kind), "made up", None
        if not found:
            return None, "", None
        thing = self.draw.choice(found[-60:])
        if how == "changed":
            return self.changed(thing.id, in_path), how, None
        return thing.id, "other's" if how == "outside" else how, thing

    def made_up(self, kind):
        name = f"{self.draw.getrandbits(64):016x}{self.draw.randrange(10**8):08d}"
        return PREFIXES[kind] + name if self.account != "claude" else f"file_011C{name[4:]}"

    def changed(self, item_id, in_path):
        """An id of another, not quite as it is."""
        steps = [lambda text: f"x/../{text}", lambda text: f"./{text}"] if in_path else []
        return self.draw.choice([
            lambda text: text.upper(),
            lambda text: text[:5].upper() + text[5:],
            lambda text: f" {text} ",
            lambda text: f"{text}\n",
            lambda text: "".join(chr(ord(each) + 0xFEE0) for each in text),  # full-width letters
            *steps,
        ])(item_id)  # fmt: skip

    def judge(self, reply, operation, how, thing=None, item_id="", is_declared=True):
        """Whether the request was honoured. A fault if an id that is not the caller's was, or one that is was not."""
        if reply is None or not reply.is_whole:
            return False
        self.world.counts[how, reply.status < 400] += 1
        self.world.counts[operation, self.account] += reply.status < 400
        if how in REFUSED:
            if reply.status not in REFUSED[how]:
                self.world.fault(
                    f"{self.owner}: {operation} with {how} id {item_id}: {reply.status} {reply.text[:300]}"
                )
            elif how in ("other's", "made up", "outside") and is_declared:
                self._note_refusal(reply, operation, how, item_id)
        elif reply.status == 404 and thing and thing.state == "live":
            self.world.fault(f"{self.owner}: {operation} with its own {thing.id} was answered {reply.text[:300]}")
        return reply.status < 400

    def _note_refusal(self, reply, operation, how, item_id):
        own = {name: text for name, text in reply.headers.items() if name.lower() not in _VARYING}
        seen = f"{reply.status} {own} {reply.text}".replace(item_id, "ID")
        with self.world.lock:
            self.world.refusals.setdefault((self.provider, operation), {}).setdefault(seen, set()).add(how)

    def learns(self, kind, item_id, **more):
        self.world.is_told(Thing(self.account, self.owner, kind, item_id, **more))

    # Operations

    def act(self):
        """Make one request of any kind, or a few that belong together."""
        self.provider = self.draw.choices(list(ACCOUNT_OF), [40, 25, 18, 17])[0]
        self.account = ACCOUNT_OF[self.provider]
        actions = dict(FILES)
        if self.account != "claude":
            actions.update(OTHERS)
        if self.provider in ("openai", "azure-v1"):
            actions.update(RESPONSES)
        self.draw.choices(list(actions), list(actions.values()))[0](self)

    def content(self, purpose):
        """The lines of a new file."""
        text, item_id, how = f"secret-of-{self.owner}-{next(self._numbers)}", "", ""
        messages = [{"role": "user", "content": text}]
        if purpose == "batch" and self.draw.random() < 0.4:
            item_id, how, _ = self.target("file", in_path=False)
            if item_id:
                parts = [{"type": "text", "text": text}, {"type": "file", "file": {"file_id": item_id}}]
                messages = [{"role": "user", "content": parts}]
        body = {"model": MODEL, "messages": messages}
        line = {"custom_id": text, "method": "POST", "url": "/v1/chat/completions", "body": body}
        lines = [line if purpose == "batch" else {"messages": messages}] * self.draw.randint(1, 3)
        return Lines(b"".join(json.dumps(each).encode() + b"\n" for each in lines), item_id and how, item_id)

    def upload(self):
        purpose = self.draw.choice(["batch", "batch", "fine-tune", "assistants"])
        lines = self.content(purpose)
        name = f"secret-of-{self.owner}-{next(self._numbers)}.{'txt' if self.account == 'claude' else 'jsonl'}"
        reply = self.ask("POST", "/files", body=form(("purpose", purpose), ("file", name, "text/plain", lines.content)),
                         kind=form_type())  # fmt: skip
        if self.judge(reply, "upload_file", "own"):
            self.learns("file", reply.json["id"], purpose=purpose, lines=lines)

    def retrieve(self, kind="file"):
        item_id, how, thing = self.target(kind)
        if item_id:
            reply = self.ask("GET", f"{PATHS[kind]}/{quote(item_id, safe=':')}")
            if self.judge(reply, f"retrieve_{kind}", how, thing, item_id):
                self.sees_results(kind, reply)

    def sees_results(self, kind, reply):
        """The files and models that a batch or job names are the owner's, too, once it has seen them."""
        value = reply.json
        found = [("file", value.get("output_file_id"))] if kind == "batch" else []
        if kind == "job":
            found = [*(("file", name) for name in value["result_files"]), ("model", value["fine_tuned_model"])]
        known = {each.id for each in self.world.things.get(self.account, ())}
        for what, name in found:
            if name and name not in known:
                self.world.counts["results", self.account] += 1
                self.learns(what, name, purpose="results")

    def read(self):
        item_id, how, thing = self.target("file")
        if item_id:
            lines = thing.lines if thing and how == "own" else None
            reply = self.ask("GET", f"/files/{quote(item_id)}/content", own=lines.content if lines else b"")
            if self.judge(reply, "content", how, thing, item_id) and lines and reply.body != lines.content:
                self.world.fault(f"{self.owner} got other content for {thing.id}")

    def read_output(self):
        item_id, how, thing = self.target("batch")
        if item_id:
            reply = self.ask("GET", f"/batches/{quote(item_id)}/output")
            self.judge(reply, "batch_output", how, None, item_id)  # a 404 also if there is none yet

    def delete(self, kind="file"):
        item_id, how, thing = self.target(kind)
        if not item_id or (how == "own" and self.draw.random() < 0.4):
            return
        if how == "own":
            with self.world.lock:
                if thing.state != "live":
                    return
                thing.state = "doubtful"
        reply = self.ask("DELETE", f"{PATHS[kind]}/{quote(item_id, safe=':')}")
        if self.judge(reply, f"delete_{kind}", how, thing, item_id) and how == "own":
            thing.state = "deleted"

    def list(self, kind=None):
        """Page through a list: each own object once, whatever happens meanwhile to others."""
        kind = kind or self.draw.choice(LISTED if self.account != "claude" else ("file",))
        purpose = self.draw.choice(["batch", "fine-tune"]) if kind == "file" and self.draw.random() < 0.2 else None
        if self.account == "claude":
            purpose = None
        query = {"limit": self.draw.randint(10, 60), "order": self.draw.choice(["asc", "desc"]), "purpose": purpose}
        query = {name: value for name, value in query.items() if value and (kind == "file" or name == "limit")}
        must = self.world.those(self.account, self.owner, kind, "live")
        gone = {each.id for each in self.world.those(self.account, self.owner, kind, "deleted")}
        seen = []
        for _ in range(12):
            reply = self.ask("GET", f"{PATHS[kind]}?{urlencode(query)}")
            if not self.judge(reply, f"list_{kind}", "own"):
                return
            page = reply.json
            seen += [each["id"] for each in page["data"]]
            if not page["has_more"]:
                break
            query["after"] = page["data"][-1]["id"]
        else:
            return
        must = [each.id for each in must if each.state == "live" and purpose in (None, each.purpose)]
        if len(seen) > len(set(seen)) or not set(must) <= set(seen) or gone & set(seen):
            missing, twice = set(must) - set(seen), [each for each, count in Counter(seen).items() if count > 1]
            wrong = f"lacks {missing}, repeats {twice}, has deleted {gone & set(seen)}"
            self.world.fault(f"{self.owner}: the list of {self.account} {kind} {query} {wrong}")
        self.world.counts["listings", self.account] += 1

    def list_after(self):
        """A list from a position that may be anybody's."""
        kind = self.draw.choice(LISTED if self.account != "claude" else ("file",))
        item_id, how, thing = self.target(kind)
        if item_id:
            how = "own, deleted" if how == "deleted" else how
            reply = self.ask("GET", f"{PATHS[kind]}?{urlencode({'limit': 5, 'after': item_id})}")
            if not self.judge(reply, f"list_{kind}_after", how, thing, item_id) and how == "own, deleted" and reply:
                self.world.fault(f"{self.owner}: the list after its deleted {item_id}: {reply.status} {reply.text}")

    def upload_in_parts(self):
        lines = self.content("batch")
        content = lines.content
        described = {"filename": f"secret-of-{self.owner}-{next(self._numbers)}.jsonl", "purpose": "batch",
                     "bytes": len(content), "mime_type": "text/plain"}  # fmt: skip
        reply = self.ask("POST", "/uploads", described)
        if not self.judge(reply, "create_upload", "own"):
            return
        upload, parts = reply.json["id"], []
        self.learns("upload", upload)
        if self.draw.random() < 0.5:  # others may try
            return
        for piece in (content[:50], content[50:]):
            reply = self.ask("POST", f"/uploads/{upload}/parts", body=form(("data", "a", "text/plain", piece)),
                             kind=form_type())  # fmt: skip
            if not self.judge(reply, "add_part", "own"):
                return
            parts.append(reply.json["id"])
        reply = self.ask("POST", f"/uploads/{upload}/complete", {"part_ids": parts})
        if self.judge(reply, "complete_upload", "own"):
            self.learns("file", reply.json["file"]["id"], purpose="batch", lines=lines)

    def use_upload(self):
        """Add a part to an upload, complete or cancel it: one that may be anybody's."""
        item_id, how, thing = self.target("upload")
        if not item_id:
            return
        verb = self.draw.choice(["parts", "complete", "cancel"])
        path = f"/uploads/{quote(item_id)}/{verb}"
        if verb == "parts":
            reply = self.ask("POST", path, body=form(("data", "a", "text/plain", b"x")), kind=form_type())
        else:
            reply = self.ask("POST", path, {"part_ids": []} if verb == "complete" else None)
        self.judge(reply, f"upload_{verb}", how, thing, item_id)

    def create_batch(self, kind="batch"):
        """A batch or job of a file that may be anybody's, and whose lines may name anything."""
        item_id, how, thing = self.target("file")
        needed = "batch" if kind == "batch" else "fine-tune"
        if how == "own":
            files = self.world.those(self.account, self.owner, "file", "live")
            files = [each for each in files if each.purpose == needed]
            thing = self.draw.choice(files[-20:]) if files else None
            item_id = thing and thing.id
        if not item_id:
            return
        more = {"endpoint": "/v1/chat/completions", "completion_window": "24h"} if kind == "batch" else {"model": MODEL}
        field = "input_file_id" if kind == "batch" else "training_file"
        lines = thing.lines if how == "own" else Lines(b"")
        reply = self.ask("POST", PATHS[kind], {field: item_id, **more}, own=lines.content)
        if lines.how in REFUSED:
            self.judge(reply, f"create_{kind} by lines", lines.how, None, lines.id)
        elif self.judge(reply, f"create_{kind}", how, None if lines.how else thing, item_id):
            made = reply.json["id"]
            self.learns(kind, made)
            if self.draw.random() < 0.2:
                self.judge(self.ask("POST", f"{PATHS[kind]}/{made}/cancel"), f"cancel_{kind}", "own")

    def change(self, kind):
        item_id, how, thing = self.target(kind)
        verbs = ["cancel"] if kind != "job" or self.provider == "azure-dated" else ["cancel", "pause", "resume"]
        if item_id and (how != "own" or self.draw.random() < 0.5):
            verb = self.draw.choice(verbs)
            reply = self.ask("POST", f"{PATHS[kind]}/{quote(item_id)}/{verb}")
            self.judge(reply, f"{verb}_{kind}", how, thing, item_id)

    def look_inside(self):
        """What is inside a job."""
        item_id, how, thing = self.target("job")
        if item_id:
            what = self.draw.choice(["events", "checkpoints"])
            self.judge(
                self.ask("GET", f"/fine_tuning/jobs/{quote(item_id)}/{what}"), f"job_{what}", how, thing, item_id
            )

    def list_models(self):
        reply = self.ask("GET", "/models", provider=self.draw.choice([None, ""]))
        self.judge(reply, "list_models", "own")

    # Texts for models, which name things in many places

    def chat(self):
        item_id, how, thing = self.target("file", in_path=False)
        if item_id is None or (self.account == "claude" and thing and thing.purpose == "results"):
            return
        model = MODEL if self.account != "claude" else "claude-sonnet-4-5"
        body = {"model": model, "messages": [{"role": "user", "content": [{"type": "text", "text": "Say it."}]}]}
        if self.draw.random() < 0.3:
            body["stream"] = True
        place = self.draw.choice(["part", "part", "metadata", "name", "text", "user", "model"])
        if place in ("metadata", "name", "text", "user") and how in ("made up", "outside", "deleted"):
            place = "part"  # elsewhere, what nobody has may be anything
        if place == "model":
            item_id, how, thing = self.target("model", in_path=False) if self.account == "openai" else (None, "", None)
            if item_id is None:
                return
        content = body["messages"][0]["content"]
        if place == "part":
            content.append({"type": "file", "file": {"file_id": item_id}})
        elif place == "model":
            body["model"] = item_id
        elif place == "text":
            content.append({"type": "text", "text": item_id})
        elif place == "user":
            body["user"] = item_id
        else:
            body["metadata"] = {"a": item_id} if place == "metadata" else {item_id: "a"}
        reply = self.ask("POST", "/chat/completions", body)
        self.judge(reply, f"chat_{place}", how, thing if place == "part" else None, item_id, place in ("part", "model"))

    def respond(self):
        body = {"model": MODEL, "input": [{"role": "user", "content": [{"type": "input_text", "text": "Say it."}]}],
                "metadata": {"note": f"secret-of-{self.owner}-0"}}  # fmt: skip
        body.update(self.draw.choice([{}, {"stream": True}, {"background": True}, {"stream": True}]))
        weights = [4 if place in ("file part", "previous_response_id") else 1 for _, place in PLACES]
        kind, place = self.draw.choices(list(PLACES), weights)[0]
        item_id, how, thing = self.target(kind, in_path=False)
        if item_id is None or self.draw.random() < 0.25:
            item_id, how, thing, place = "", "own", None, "nothing"
        elif how in ("made up", "outside", "deleted") and place not in DECLARED:
            return
        if item_id:
            PLACES[kind, place](body, item_id)
        path = self.draw.choice(["/responses"] * 6 + ["/responses/input_tokens", "/responses/compact"])
        if path != "/responses":
            body = {name: value for name, value in body.items() if name in ("model", "input", "previous_response_id")}
            if item_id and item_id not in json.dumps(body, ensure_ascii=False):
                return
        raw = None
        if item_id and place == "file part" and self.draw.random() < 0.1:  # the same field twice
            text = json.dumps(body)
            raw = text.replace('"file_id": ', f'"file_id": "{self.made_up("file")}", "file_id": ').encode()
            how = "changed"
        reply = self.ask("POST", path, raw or body)
        checked = thing if place == "file part" else None
        is_made = self.judge(reply, f"respond{path[10:]} {place}", how, checked, item_id, place in DECLARED)
        if reply and (is_made or not reply.is_whole) and path == "/responses":
            for found in re.findall('"(resp_[0-9a-f]+)"', reply.text)[:1]:
                self.learns("response", found)
            for found in re.findall('"(msg_resp_[0-9a-f]+)"', reply.text)[:1]:
                self.learns("item", found)

    def use_response(self):
        item_id, how, thing = self.target("response")
        if item_id:
            what = self.draw.choice(["input_items?limit=7", "?stream=true", "", "cancel"])
            path = f"/responses/{quote(item_id)}" + (f"/{what}" if what[:1] not in ("", "?") else what)
            reply = self.ask("POST" if what == "cancel" else "GET", path)
            self.judge(reply, f"response {what}", how, thing, item_id)


def _part(body, item_id):
    body["input"][0]["content"].append({"type": "input_file", "file_id": item_id})


def _image(body, item_id):
    body["input"][0]["content"].append({"type": "input_image", "file_id": item_id, "detail": "low"})


def _field(name):
    return lambda body, item_id: body.update({name: item_id})


def _metadata(body, item_id):
    body["metadata"]["a"] = item_id


def _name(body, item_id):
    body["metadata"][item_id] = "a"


def _text(body, item_id):
    body["input"][0]["content"].append({"type": "input_text", "text": item_id})


def _container(body, item_id):
    body["tools"] = [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": [item_id]}}]


def _mask(body, item_id):
    body["tools"] = [{"type": "image_generation", "input_image_mask": {"file_id": item_id}}]


def _stores(body, item_id):
    body["tools"] = [{"type": "file_search", "vector_store_ids": [item_id]}]


def _screen(body, item_id):
    output = {"type": "computer_screenshot", "file_id": item_id}
    body["input"].append({"type": "computer_call_output", "call_id": "c", "output": output})


def _reference(body, item_id):
    body["input"].append({"type": "item_reference", "id": item_id})


def _variables(body, item_id):
    body["prompt"] = {"id": "pmpt_1", "variables": {"a": {"type": "input_file", "file_id": item_id}}}


def _schema(body, item_id):
    schema = {"type": "object", "properties": {"a": {"enum": [item_id]}}}
    body["text"] = {"format": {"type": "json_schema", "name": "a", "schema": schema}}


#: (kind of id, place) → puts it there
PLACES = {
    ("file", "file part"): _part,
    ("file", "image part"): _image,
    ("file", "metadata"): _metadata,
    ("file", "name of metadata"): _name,
    ("file", "text"): _text,
    ("file", "instructions"): _field("instructions"),
    ("file", "user"): _field("user"),
    ("file", "container"): _container,
    ("file", "mask"): _mask,
    ("file", "vector_store_ids"): _stores,
    ("file", "screen"): _screen,
    ("file", "variables"): _variables,
    ("file", "schema"): _schema,
    ("response", "previous_response_id"): _field("previous_response_id"),
    ("response", "conversation"): _field("conversation"),
    ("response", "metadata"): _metadata,
    ("item", "reference"): _reference,
    ("item", "metadata"): _metadata,
    ("model", "model"): _field("model"),
    ("batch", "metadata"): _metadata,
    ("job", "metadata"): _metadata,
    ("upload", "metadata"): _metadata,
}
DECLARED = ("file part", "image part", "container", "mask", "vector_store_ids", "screen", "variables",
            "previous_response_id", "conversation", "reference", "model")  # fmt: skip
#: action → how often
FILES = {Client.upload: 12, Client.retrieve: 14, Client.read: 10, Client.delete: 8, Client.list: 3,
         Client.list_after: 7, Client.chat: 9, Client.list_models: 1}  # fmt: skip
OTHERS = {
    Client.upload_in_parts: 3,
    Client.use_upload: 5,
    Client.create_batch: 7,
    Client.read_output: 4,
    (lambda client: client.create_batch("job")): 4,
    (lambda client: client.retrieve("batch")): 12,
    (lambda client: client.retrieve("job")): 8,
    (lambda client: client.retrieve("model")): 3,
    (lambda client: client.delete("model")): 3,
    (lambda client: client.change("batch")): 5,
    (lambda client: client.change("job")): 5,
    Client.look_inside: 4,
}
RESPONSES = {
    Client.respond: 20,
    Client.use_response: 10,
    (lambda client: client.retrieve("response")): 4,
    (lambda client: client.delete("response")): 3,
}


def change_from_outside(fakes, draw):
    """Change one thing at a provider without the gateway."""
    world = fakes.world
    account = draw.choice(list(fakes.by_account))
    fake, what = fakes.by_account[account], draw.random()
    world.owner = OUTSIDE
    if what < 0.5:
        if account == "claude":
            made = fake.store("secret-of-outside-1.txt", "text/plain", b"secret-of-outside-1", downloadable=True)
        else:
            made = fake.store("secret-of-outside-1.jsonl", "text/plain", b"secret-of-outside-1", "batch")
        world.strangers.setdefault(account, []).append(made["id"])
    elif what < 0.7:
        files = [each for each in world.things.get(account, ()) if each.kind == "file" and each.state == "live"]
        if files:
            thing = draw.choice(files)
            thing.state = "doubtful"
            with fake.lock:
                fake.files.pop(thing.id, None)
    elif account != "claude":
        for job in [each for each in list(fake.jobs.values()) if each["status"] == "running"][:3]:
            fake.finish_job(job)
