"""Processes that upload, delete, let expire and sweep in one store are killed at any moment; then its index is lost."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from stores import Clock, ask, content_of, ids, kept_bytes, open_store, prove

from filesproxy.errors import NotFound
from filesproxy.transports.local import maintenance

ROOT = Path(__file__).resolve().parent.parent.parent
KILLS, AT_ONCE = 120, 3
START = 1_700_000_000.0
STEP = 600  # seconds that the clock goes on with each process
OWNER = "team-a"

CHILD = """
import hashlib, json, os, random, sys
from filesproxy.calls import Call, Upload
from filesproxy.errors import NotFound
from filesproxy.transports.local import sweep
from filesproxy.transports.local.transport import Store
sweep.SWEEP_SECONDS = float("inf")
folder, seed, wall, ticks = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
draw = random.Random(seed)
store = Store(folder, lambda: wall, lambda: ticks)
def tell(*words):
    os.write(1, (json.dumps(words) + "\\n").encode())
while True:
    what = draw.random()
    if what < 0.5:
        content = draw.randbytes(draw.choice([0, 10, 5000, 400_000]))
        fields = {"purpose": "batch"}
        if draw.random() < 0.3:
            fields["expires_after[seconds]"] = "3600"
        chunks = iter([content[:3000], content[3000:]])
        call = Call("upload_file", "POST", "/files", upload=Upload("a", "text/plain", fields, chunks))
        file = store(call, "team-a").json
        tell("uploaded", file["id"], hashlib.sha256(content).hexdigest(), file["expires_at"])
    elif what < 0.85:
        files = store(Call("list_files", "GET", "/files", query={"limit": "50"}), "team-a").json["data"]
        if files:
            file_id = draw.choice(files)["id"]
            tell("deletes", file_id)
            try:
                store(Call("delete_file", "DELETE", "/files", file_id=file_id), "team-a")
            except NotFound:
                continue
            tell("deleted", file_id)
    else:
        store.sweep()
"""


class Told:
    """What the processes said they had done."""

    def __init__(self):
        self.uploaded, self.deletes, self.deleted = {}, set(), set()

    def reads(self, stream):
        for line in stream:
            if not line.endswith("\n"):
                return
            what, file_id, *more = json.loads(line)
            if what == "uploaded":
                self.uploaded[file_id] = more
            else:
                getattr(self, what).add(file_id)


class Process:
    def __init__(self, folder, number, told):
        offset = number * STEP
        words = [str(folder), str(number), str(START + offset), str(1000 + offset)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self._reader = threading.Thread(target=told.reads, args=(self.process.stdout,))
        self._reader.start()

    def is_killed(self):
        assert self.process.poll() is None, self.process.stderr.read()
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()
        assert self.process.stderr.read() == ""
        self.process.stderr.close()


@pytest.fixture(scope="module")
def survived(tmp_path_factory):
    """A store after the kills, and what was told of it."""
    folder = tmp_path_factory.mktemp("crashes") / "store"
    clock = Clock(START - 6 * 3600)
    clock.ticks -= 6 * 3600
    prove(open_store(folder, clock), clock)
    gc.collect()
    told, draw = Told(), random.Random(15)
    running = [Process(folder, number, told) for number in range(AT_ONCE)]
    for number in range(AT_ONCE, KILLS):
        time.sleep(draw.uniform(0.1, 0.3))  # any moment of real time is the subject
        running.pop(draw.randrange(len(running))).is_killed()
        running.append(Process(folder, number, told))
    time.sleep(0.5)
    for process in running:
        process.is_killed()
    assert len(told.uploaded) > 100 and len(told.deleted) > 50  # it was a test at all
    clock.now, clock.ticks = START + KILLS * STEP, 1000.0 + KILLS * STEP
    return folder, told, clock


def check(store, told, clock):
    listed = set(ids(store, owner=OWNER))
    living = {
        file_id: digest
        for file_id, (digest, expires_at) in told.uploaded.items()
        if file_id not in told.deletes and (expires_at is None or expires_at > clock.now)
    }
    assert living.keys() <= listed, "an acknowledged file is lost"
    assert not listed & told.deleted, "a deleted file is back"
    for file_id in listed:
        try:
            content = content_of(store, file_id, OWNER)
        except NotFound:  # it is listed until a sweep ends the deletion that a kill broke off
            assert file_id in told.deletes
            continue
        digest = living.get(file_id)
        assert digest is None or hashlib.sha256(content).hexdigest() == digest
    return listed


def test_nothing_acknowledged_is_lost_and_nothing_deleted_comes_back(survived):
    folder, told, clock = survived
    store = open_store(folder, clock)
    check(store, told, clock)
    store.sweep()
    listed = check(store, told, clock)
    assert kept_bytes(folder, "trash") == kept_bytes(folder, "incoming") == []
    expired = {file_id for file_id, (_, at) in told.uploaded.items() if at is not None and at <= clock.now}
    assert expired and len(kept_bytes(folder, "blobs")) == len(listed)  # what has expired is gone from the disk
    said = []
    found = maintenance.verify(str(folder), said.append)
    assert (found.problems, found.without_sidecar, said) == (0, 0, [])
    # What was never acknowledged may be in lost/: its upload was killed between the rename and the commit.
    assert not {maintenance.sidecars.read(str(path))["id"] for path in (folder / "lost").glob("*.json")
                if path.stat().st_size} & (told.uploaded.keys() | told.deleted)  # fmt: skip


def test_the_same_holds_after_the_index_was_lost_and_made_anew(survived):
    folder, told, clock = survived
    gc.collect()
    for path in folder.glob("index.sqlite3*"):
        path.unlink()
    said = []
    maintenance.rebuild(str(folder), said.append)
    assert said == []
    store = open_store(folder, clock)
    listed = check(store, told, clock)
    store.sweep()
    assert check(store, told, clock) == listed
    assert ask(store, "list_files", owner="").json["data"] == []
