"""Owners on one provider key, under gunicorn, with kills: nobody sees, changes or names what is another's."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
import traceback

import pytest
from fakes import form, form_type
from servers import running
from sockets import until
from two_owners import (
    ACCOUNT_OF,
    OUTSIDE,
    OWNERS,
    STAMP,
    Client,
    Fakes,
    Gate,
    World,
    change_from_outside,
    key_of,
    key_sections,
)

from filesproxy.transports.local.ledger import FolderLedger

openai = pytest.importorskip("openai", reason="needs the openai package")
pytest.importorskip("gunicorn", reason="needs gunicorn")

REQUESTS, WORKERS, CLIENTS_OF_EACH = 10_000, "4", 3
KILL_EVERY = 400  # requests
A, B = OWNERS
RESULTS = ("batch_output", "fine-tune-results")  # purposes of files that nobody has until somebody asks


def written(folder, fakes):
    """The configuration of a gateway in front of these fakes."""
    path = folder / "filesproxy.ini"
    path.write_text(f"[filesproxy]\nledger = {folder}/ledger\n{fakes.sections()}{key_sections()}", "utf-8")
    return path


@contextlib.contextmanager
def served(folder, name, config):
    """A gateway with four workers. Whatever outlives its master is killed at the end."""
    with running("gunicorn", folder / name, "--workers", WORKERS, FILESPROXY_CONFIG=config) as gateway:
        yield gateway
    with contextlib.suppress(ProcessLookupError):
        os.killpg(gateway.process.pid, signal.SIGKILL)  # a session of its own: nobody else is in it


class Run:
    """10,000 requests of two owners, while workers and masters are killed."""

    def __init__(self, folder, fakes):
        self.folder, self.fakes, self.world = folder, fakes, fakes.world
        self.config, self.gate, self.draw = written(folder, fakes), Gate(REQUESTS), random.Random(18)
        self.kills = {"worker": 0, "master": 0, "restart": 0}
        self._number = 0

    def starts(self, stack):
        """A new gateway takes the place of the last one."""
        self._number += 1
        self.gate.gateway = stack.enter_context(served(self.folder, f"run-{self._number}", self.config))
        self.gate.up.set()

    def goes(self):
        """Make all requests."""
        threads = [threading.Thread(target=self._client, args=(owner, number))
                   for owner in OWNERS for number in range(CLIENTS_OF_EACH)]  # fmt: skip
        threads.append(threading.Thread(target=self._outside))
        with contextlib.ExitStack() as stack:
            self.starts(stack)
            for thread in threads:
                thread.start()
            try:
                self._disturb(stack)
            finally:
                self.gate.over.set()
                for thread in threads:
                    thread.join()

    def _client(self, owner, number):
        client = Client(self.world, self.gate, owner, number)
        while not self.gate.over.is_set():
            try:
                client.act()
            except Exception:
                self.world.fault(f"a client of {owner} failed: {traceback.format_exc()}")
        client.hang_up()

    def _outside(self):
        draw = random.Random(19)
        while not self.gate.over.wait(0.1):
            try:
                change_from_outside(self.fakes, draw)
            except Exception:
                self.world.fault(f"the outside failed: {traceback.format_exc()}")

    def _disturb(self, stack):
        """Kill a worker again and again; at a third of the way the master, at two thirds restart in good order."""
        next_kill, left = KILL_EVERY, ["master", "restart"]
        while not self.gate.over.wait(0.02):
            gateway, sent = self.gate.gateway, self.gate.sent
            if left and sent > REQUESTS * (3 - len(left)) / 3:
                what = left.pop(0)
                self.kills[what] += 1
                if what == "master":
                    os.kill(gateway.process.pid, signal.SIGKILL)
                    gateway.process.wait()
                else:
                    self.gate.up.clear()
                    gateway.stop()
                self.starts(stack)
            elif sent > next_kill:
                next_kill = sent + KILL_EVERY
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.draw.choice(gateway.workers()), signal.SIGKILL)
                    self.kills["worker"] += 1


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What is left of the world after all that, and a gateway that was started after it."""
    folder = tmp_path_factory.mktemp("isolation")
    with Fakes() as fakes:
        made = Run(folder, fakes)
        made.goes()
        with served(folder, "after", made.config) as gateway:
            made.after = gateway
            yield made


def test_owners_met_nothing_of_each_other_and_all_of_their_own(run):
    assert run.world.faults == []


def test_no_fake_has_anything_to_complain_of(run):
    assert [fake.problems for fake in run.fakes.by_account.values()] == [[], [], []]


def test_it_was_a_test_at_all(run):
    counts = run.world.counts
    assert run.gate.sent >= REQUESTS
    assert run.kills["worker"] >= REQUESTS / KILL_EVERY / 2 and run.kills["master"] == run.kills["restart"] == 1
    for account in ACCOUNT_OF.values():
        for operation in ("upload_file", "retrieve_file", "delete_file", "list_file", "list_file_after"):
            assert counts[operation, account] >= 10, (operation, account)
        assert counts["listings", account] >= 10
    for account in ("openai", "azure"):
        assert counts["results", account] >= 5
        for operation in (
            *("create_batch", "retrieve_batch", "cancel_batch", "list_batch", "batch_output", "complete_upload"),
            *("create_job", "retrieve_job", "cancel_job", "list_job", "content", "chat_part", "respond nothing"),
            *("respond file part", "respond previous_response_id", "response ?stream=true", "delete_response"),
            *("response input_items?limit=7", "retrieve_model"),
        ):
            assert counts[operation, account] >= 1, (operation, account)
    assert min(counts[how, False] for how in ("other's", "made up", "outside", "changed")) > 100
    assert counts["own", True] > REQUESTS / 3


def test_an_id_of_another_gets_the_very_answer_of_one_that_nobody_has(run):
    several = {place: seen for place, seen in run.world.refusals.items() if len(seen) > 1}
    assert several == {}
    both = [
        place for place, seen in run.world.refusals.items() if {"other's", "made up"} <= set().union(*seen.values())
    ]
    assert len(both) > 40


def test_every_acknowledged_upload_is_still_its_owners_and_nobody_elses(run):
    gate, world = Gate(10**9), World()
    world.makers = run.world.makers
    gate.gateway = run.after
    gate.up.set()
    clients = {owner: Client(world, gate, owner, 99) for owner in OWNERS}
    checked = 0
    for provider in ("openai", "azure-v1", "anthropic"):
        for thing in run.world.things[ACCOUNT_OF[provider]]:
            if thing.kind != "file" or thing.state != "live":
                continue
            own, other = (clients[owner].ask("GET", f"/files/{thing.id}", provider=provider)
                          for owner in (thing.owner, clients[thing.owner].other))  # fmt: skip
            assert (own.status, other.status) == (200, 404), thing.id
            checked += 1
    for client in clients.values():
        client.hang_up()
    assert world.faults == []
    assert checked > 100


def test_the_ledger_says_what_is_true(run):
    ledger, wrong, known = FolderLedger(str(run.folder / "ledger")), [], set()
    for row in ledger.every():
        maker = run.world.makers[STAMP.search(row.id.lower())[0]]
        known.add(row.id)
        if maker != row.owner:
            wrong.append((row, maker))
    assert wrong == []
    told = {thing.id for things in run.world.things.values() for thing in things}
    assert told <= known


def test_every_upload_that_a_kill_broke_off_has_an_intent_in_the_ledger(run):
    ledger = FolderLedger(str(run.folder / "ledger"))
    for account, fake in run.fakes.by_account.items():
        known = {row.id for row in ledger.every(account)}
        in_parts = {upload["file"]["id"] for upload in getattr(fake, "uploads", {}).values() if "file" in upload}
        lost = [
            file_id
            for file_id, (file, *_) in fake.files.items()
            if file_id not in known | in_parts
            and run.world.makers[STAMP.search(file_id.lower())[0]] != OUTSIDE
            and file.get("purpose") not in RESULTS
        ]
        assert len(lost) <= len(ledger.uploads(account))


# Many files at the provider, of which few are the caller's

MANY, OWN, SIZES = 10_000, 50, (7, 20, 50, 10_000)
NODE = r"""
import OpenAI from "openai";
const [baseURL, key, ...sizes] = process.argv.slice(2);
const client = new OpenAI({ apiKey: key, baseURL, defaultHeaders: { "x-portkey-provider": "@openai" } });
const found = {};
for (const size of sizes) {
  const ids = [];
  for await (const file of client.files.list({ limit: Number(size) })) ids.push(file.id);
  found[size] = ids;
}
const ids = [];
for await (const file of client.files.list()) ids.push(file.id);
found.none = ids;
console.log(JSON.stringify(found));
"""


def upload(gateway, owner, name="a.jsonl", content=b"x", provider="openai"):
    """(status, JSON) of an upload."""
    headers = {"x-portkey-api-key": key_of(owner), "x-portkey-provider": f"@{provider}", "via": f"1.1 {owner}",
               "content-type": form_type()}  # fmt: skip
    body = form(("purpose", "batch"), ("file", name, "text/plain", content))
    response, answer = gateway.request("POST", "/v1/files", body, headers)
    return response.status, json.loads(answer)


def get(gateway, owner, path, provider="openai"):
    """(status, JSON) of a GET."""
    headers = {"x-portkey-api-key": key_of(owner), "x-portkey-provider": f"@{provider}", "via": f"1.1 {owner}"}
    response, answer = gateway.request("GET", f"/v1{path}", headers=headers)
    return response.status, json.loads(answer)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """(gateway, fakes, the ledger's folder) of one gateway for what follows."""
    folder = tmp_path_factory.mktemp("shared")
    with Fakes() as fakes, served(folder, "run", written(folder, fakes)) as gateway:
        yield gateway, fakes, folder / "ledger"


@pytest.fixture(scope="module")
def many(shared):
    """The caller's 50 files among 10,000, oldest first."""
    gateway, fakes, _ = shared
    own = []
    for number in range(OWN):
        fakes.openai.seed(MANY // OWN - 2)
        own.append(upload(gateway, A, f"{number}.jsonl")[1]["id"])
        upload(gateway, B, f"{number}.jsonl")
    assert len(fakes.openai.files) == MANY
    return own


@pytest.mark.parametrize("size", [*SIZES, None])
def test_openai_lists_50_of_10_000_files_once_each(size, shared, many):
    gateway, _, _ = shared
    headers = {"x-portkey-provider": "@openai", "via": f"1.1 {A}"}
    with openai.OpenAI(api_key=key_of(A), base_url=gateway.url, default_headers=headers, timeout=60) as client:
        limit = {} if size is None else {"limit": size}
        assert [file.id for file in client.files.list(**limit)] == many[::-1]
        assert [file.id for file in client.files.list(order="asc", **limit)] == many
        page = client.files.list(**limit)
        assert page.has_more == (len(page.data) < OWN)


def test_openais_node_sdk_lists_50_of_10_000_files_once_each(shared, many, node_folder):
    gateway, _, _ = shared
    (node_folder / "owned.mjs").write_text(NODE, "utf-8")
    words = ["node", "owned.mjs", gateway.url, key_of(A), *map(str, SIZES)]
    done = subprocess.run(words, cwd=node_folder, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout) == dict.fromkeys([*map(str, SIZES), "none"], many[::-1])


# Moments that only a fake can make


def respond(gateway, owner):
    """(status, JSON or the text of the events) of a streamed response."""
    headers = {"x-portkey-api-key": key_of(owner), "x-portkey-provider": "@openai", "via": f"1.1 {owner}",
               "content-type": "application/json"}  # fmt: skip
    body = json.dumps({"model": "gpt-4o", "input": "Hi", "stream": True})
    response, answer = gateway.request("POST", "/v1/responses", body, headers)
    return response.status, json.loads(answer) if response.status >= 400 else answer.decode()


@pytest.mark.parametrize("made", [upload, respond], ids=["files", "streamed responses"])
def test_of_two_owners_that_get_the_same_id_at_the_same_moment_one_gets_a_502_and_nothing_is_deleted(made, shared):
    gateway, fakes, _ = shared
    fake, both, answers = fakes.openai, threading.Barrier(2, timeout=10), {}
    prefix, path = ("file-", "/files") if made is upload else ("resp_", "/responses")
    already = gateway.err().count("another owner")
    for number in range(5):
        fake.twin = twin = f"{prefix}{len(prefix) + number:016x}99000000"
        fake.on_made = both.wait
        threads = [threading.Thread(target=lambda who=who: answers.update({who: made(gateway, who)})) for who in OWNERS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        fake.twin, fake.on_made = None, lambda: None
        winner, loser = sorted(OWNERS, key=lambda who: answers[who][0])
        assert (answers[winner][0], answers[loser][0]) == (200, 502)
        assert twin in str(answers[winner][1])
        assert answers[loser][1]["error"]["code"] == "duplicate_id"
        assert twin not in str(answers[loser][1])
        fakes.world.makers[twin[-24:]] = winner
        assert (get(gateway, winner, f"{path}/{twin}")[0], get(gateway, loser, f"{path}/{twin}")[0]) == (200, 404)
    assert not [request for request in fake.requests if request[0] == "DELETE" or request[1].endswith("/cancel")]
    assert gateway.err().count("another owner") == already + 5


def test_a_file_whose_worker_is_killed_before_the_commit_is_nobodys_and_its_upload_is_in_the_ledger(shared):
    gateway, fakes, folder = shared
    fake, ledger, locked = fakes.openai, FolderLedger(str(folder)), []

    def lock():
        """The worker that gets the answer waits for this."""
        database = sqlite3.connect(folder / "ledger.sqlite3", isolation_level=None, check_same_thread=False)
        database.execute("BEGIN IMMEDIATE")
        locked.append(database)

    def call():
        with contextlib.suppress(OSError):
            answered.append(upload(gateway, A, "broken-off.jsonl"))

    before, known, answered = len(ledger.uploads("openai")), set(fake.files), []
    fake.on_made = lock
    thread = threading.Thread(target=call)
    thread.start()
    assert until(lambda: not fake.uploading and locked)
    time.sleep(0.3)  # for the worker to get the answer; it cannot commit
    fake.on_made = lambda: None
    workers = gateway.workers()
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    thread.join()
    locked[0].execute("ROLLBACK")
    locked[0].close()
    assert answered == []
    (lost,) = set(fake.files) - known
    assert until(lambda: gateway.is_ready() and not set(workers) & set(gateway.workers()))
    for owner in OWNERS:
        assert get(gateway, owner, f"/files/{lost}")[0] == 404
        assert lost not in [file["id"] for file in get(gateway, owner, "/files")[1]["data"]]
    assert ledger.owners("openai", [lost]) == []
    intents = ledger.uploads("openai")
    assert len(intents) == before + 1
    assert intents[-1][:2] == (A, "retail-1")
    assert abs(intents[-1][3] - time.time()) < 60


def test_what_follows_a_kill_is_as_before(shared):
    gateway, _, _ = shared
    status, made = upload(gateway, A)
    assert status == 200
    assert (get(gateway, A, f"/files/{made['id']}")[0], get(gateway, B, f"/files/{made['id']}")[0]) == (200, 404)


def test_the_fakes_of_these_moments_have_nothing_to_complain_of(shared):
    _, fakes, _ = shared
    assert [fake.problems for fake in fakes.by_account.values()] == [[], [], []]
    assert fakes.world.faults == []
