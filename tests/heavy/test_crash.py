"""The local store under gunicorn while workers are killed: what was acknowledged is there, nothing is half there."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from fakes import form, form_type
from sockets import children, until

from filesproxy.transports.local.transport import Store

pytest.importorskip("gunicorn")

ROOT = Path(__file__).resolve().parent.parent.parent
UPLOADS, CLIENTS = 200, 8
KILL_SECONDS, MAX_KILLS = 0.15, 150
SECONDS = 20.0  # that a worker may take to start, or a sweep to come


class Gunicorn:
    """A real gunicorn with two workers, and its processes."""

    def __init__(self, folder, log):
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "--workers", "2", "--threads", "8"]
        self._master = subprocess.Popen(
            [*command, "-b", f"127.0.0.1:{self.port}"],
            cwd=ROOT,
            env={
                **os.environ,
                "FILESPROXY_FOLDER": str(folder),
                "FILESPROXY_DEFAULT_PROVIDER": "local",
                "FILESPROXY_MAX_CALLER_REQUESTS": "8",
            },
            stdout=log,
            stderr=log,
        )

    def workers(self):
        return children(self._master.pid)

    def kill(self, worker):
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)

    def call(self, method, path, body=None, headers=()):
        """One request over a connection of its own: status and body. OSError or HTTPException if it breaks."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read()

    def upload(self, name, content, pauses=()):
        """Upload, in one piece more than there are pauses. The file object."""
        body = form(("purpose", "batch"), ("file", name, "application/octet-stream", content))
        headers = {"content-type": form_type(), "content-length": str(len(body))}
        status, answer = self.call("POST", "/v1/files", pieces(body, pauses), headers)
        assert status == 200, answer
        return json.loads(answer)

    def files(self):
        status, answer = self.call("GET", "/v1/files?order=asc")
        assert status == 200, answer
        listed = json.loads(answer)
        assert listed["has_more"] is False
        return listed["data"]

    def content(self, file_id):
        status, content = self.call("GET", f"/v1/files/{file_id}/content")
        assert status == 200, content
        return content

    def is_up(self):
        with suppress(OSError, http.client.HTTPException):
            return self.call("GET", "/v1/health")[0] == 200
        return False

    def stop(self):
        workers = self.workers() if self._master.poll() is None else []
        self._master.terminate()
        try:
            self._master.wait(10)
        except subprocess.TimeoutExpired:
            self._master.kill()
            self._master.wait()
            for worker in workers:
                self.kill(worker)


def pieces(body, pauses):
    size = len(body) // (len(pauses) + 1) + 1
    for at, pause in enumerate([0.0, *pauses]):
        time.sleep(pause)  # real time: the upload is to be under way when somebody is killed
        yield body[at * size : (at + 1) * size]


@contextmanager
def gunicorn(folder, tmp_path):
    with open(tmp_path / "gunicorn.log", "wb") as log:
        server = Gunicorn(folder, log)
        try:
            assert until(lambda: server.is_up() and len(server.workers()) == 2, SECONDS)
            yield server
        finally:
            server.stop()


def check_folder(folder):
    """With no server running: a sweep leaves the rows' blobs, whole, and nothing else. How many."""
    store = Store(str(folder))
    store.sweep()
    assert os.listdir(folder / "incoming") == []
    with closing(sqlite3.connect(folder / "index.sqlite3")) as database:
        rows = dict(database.execute("SELECT blob, bytes FROM files"))
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    kept = {path.name: path.stat().st_size for path in (folder / "blobs").iterdir()}
    assert all(kept.pop(f"{name}.json") for name in rows)
    assert kept == rows
    return len(rows)


class Clients:
    """Threads that make the uploads, each once; what was sent and what was acknowledged."""

    def __init__(self, server):
        self._server = server
        self._numbers = iter(range(UPLOADS))
        self._lock = threading.Lock()
        self.sent, self.acknowledged, self.broken = {}, {}, []
        self.threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]

    def _run(self):
        while True:
            with self._lock:
                number = next(self._numbers, None)
            if number is None:
                return
            draw = random.Random(number)
            content = draw.randbytes(int(1024 * 2 ** draw.uniform(0, 11)))
            # Without the pauses all would be over before a second worker is killed.
            self._upload(f"{number}.bin", content, [draw.uniform(0, 0.08) for _ in range(4)])

    def _upload(self, name, content, pauses):
        self.sent[name] = (hashlib.sha256(content).hexdigest(), len(content))
        try:
            file = self._server.upload(name, content, pauses)
        except (OSError, http.client.HTTPException):
            self.broken.append(name)
        else:
            self.acknowledged[file["id"]] = name


def test_kill_9_at_any_moment_loses_nothing_acknowledged_and_shows_nothing_partial(tmp_path):
    folder = tmp_path / "store"
    with gunicorn(folder, tmp_path) as server:
        clients = Clients(server)
        draw, kills = random.Random(9), 0
        for thread in clients.threads:
            thread.start()
        while any(thread.is_alive() for thread in clients.threads):
            time.sleep(KILL_SECONDS * draw.uniform(0.5, 1.5))  # any moment of real time is the subject
            workers = server.workers()
            if workers and kills < MAX_KILLS:
                server.kill(draw.choice(workers))
                kills += 1
        for thread in clients.threads:
            thread.join()
        assert until(server.is_up, SECONDS)
        assert len(clients.sent) == UPLOADS == len(clients.acknowledged) + len(clients.broken)
        assert kills > 10 and len(clients.broken) > 10 and len(clients.acknowledged) > 20  # it was a test at all
        files = server.files()
        for file in files:
            digest, size = clients.sent[file["filename"]]
            assert file["bytes"] == size
            assert hashlib.sha256(server.content(file["id"])).hexdigest() == digest
        listed = {file["id"]: file["filename"] for file in files}
        assert len(listed) == len(files) == len(set(listed.values()))
        assert clients.acknowledged.items() <= listed.items()
    assert check_folder(folder) == len(files)


class SlowUpload:
    """An upload of 4 MiB of which the last part is held back."""

    def __init__(self, server, number):
        self.name, self.content = f"slow-{number}.bin", random.Random(number).randbytes(4 << 20)
        body = form(("purpose", "batch"), ("file", self.name, "application/octet-stream", self.content))
        self._rest = body[3 << 20 :]
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        self._connection.putrequest("POST", "/v1/files")
        self._connection.putheader("content-type", form_type())
        self._connection.putheader("content-length", str(len(body)))
        self._connection.endheaders()
        self._connection.send(body[: 3 << 20])

    def ends(self):
        """Send the rest: the file object, None if its worker is dead."""
        try:
            self._connection.send(self._rest)
            answer = self._connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            return None
        assert answer.status == 200, text
        return json.loads(text)

    def close(self):
        self._connection.close()


def held_by(worker, folder):
    """The names of incoming files that a process has open."""
    links = set()
    with suppress(OSError):
        for handle in Path(f"/proc/{worker}/fd").iterdir():
            with suppress(OSError):
                links.add(os.readlink(handle))
    return {os.path.basename(link) for link in links if link.startswith(f"{folder}/incoming/")}


def test_sweep_of_a_restarted_worker_spares_the_slow_uploads_of_the_others(tmp_path):
    folder = tmp_path / "store"
    slow = []
    with gunicorn(folder, tmp_path) as server:
        workers = server.workers()
        try:
            slow += [SlowUpload(server, number) for number in range(6)]  # two threads stay free on any worker
            assert until(lambda: sum(len(held_by(worker, folder)) for worker in workers) == len(slow), SECONDS)
            victim, survivor = sorted(workers, key=lambda worker: len(held_by(worker, folder)))
            dying, living = held_by(victim, folder), held_by(survivor, folder)
            assert len(living) >= 3
            server.kill(victim)
            assert until(lambda: len(server.workers()) == 2 and victim not in server.workers(), SECONDS)
            abandoned = folder / "incoming" / ("0" * 32)
            abandoned.write_bytes(b"half")
            # The survivor swept long ago: what takes this one away is the new worker's sweep.
            assert until(lambda: server.files() is not None and not abandoned.exists(), SECONDS)
            assert until(lambda: not dying & set(os.listdir(folder / "incoming")), SECONDS)
            assert set(os.listdir(folder / "incoming")) == living == held_by(survivor, folder)
            finished = [(upload, upload.ends()) for upload in slow]
        finally:
            for upload in slow:
                upload.close()
        whole = {file["id"]: upload for upload, file in finished if file}
        assert len(whole) == len(living)
        assert {file["id"] for file in server.files()} == set(whole)
        for file_id, upload in whole.items():
            assert server.content(file_id) == upload.content
    assert check_folder(folder) == len(living)
