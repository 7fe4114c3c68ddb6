"""SIGHUP to a running gateway: what is right is taken over, what is wrong changes nothing, and nobody waits."""

from __future__ import annotations

import os
import signal

import pytest
from configurations import hashed
from servers import running
from sockets import until

KEY, NEW_KEY = "fp_" + "old" * 15, "fp_" + "new" * 15
KINDS = ("gunicorn", "embedded")


def section(key, name="team"):
    return f"[key:{name}]\nsha256 = {hashed(key)}\nproviders = *\n"


def text_with(*sections, folder, settings=""):
    return "\n".join([f"[filesproxy]\ndefault_provider = local\nfolder = {folder}\n{settings}", *sections])


@pytest.fixture(params=KINDS)
def gateway(request, tmp_path):
    """A gateway with one key. `ini` is its file."""
    if request.param == "gunicorn":
        pytest.importorskip("gunicorn", reason="needs gunicorn")
    path = tmp_path / "filesproxy.ini"
    path.write_text(text_with(section(KEY), folder=tmp_path / "files"))
    with running(request.param, tmp_path / "run", FILESPROXY_CONFIG=path) as served:
        served.ini, served.files = path, tmp_path / "files"
        yield served


def status(gateway, key):
    return gateway.request("GET", "/v1/files", headers={"x-portkey-api-key": key})[0].status


def hang_up(gateway):
    gateway.process.send_signal(signal.SIGHUP)


def is_reloaded(gateway, old_workers):
    """Whether every request meets the new configuration."""
    return gateway.kind == "embedded" or not set(gateway.workers()) & old_workers


def test_changed_configuration_is_used_and_files_are_still_there(gateway):
    body = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\nContent-Disposition: '
    body += b'form-data; name="file"; filename="a"\r\n\r\nhello\r\n--b--\r\n'
    headers = {"x-portkey-api-key": KEY, "content-type": "multipart/form-data; boundary=b"}
    assert gateway.request("POST", "/v1/files", body, headers)[0].status == 200
    workers = set(gateway.workers())
    gateway.ini.write_text(text_with(section(KEY), section(NEW_KEY, "other"), folder=gateway.files))
    hang_up(gateway)
    assert until(lambda: is_reloaded(gateway, workers) and status(gateway, NEW_KEY) == 200, 20)
    response, listed = gateway.request("GET", "/v1/files", headers={"x-portkey-api-key": KEY})
    assert response.status == 200 and b'"bytes":5' in listed.replace(b" ", b"")


WRONG = {
    "what_cannot_be_parsed": (lambda folder: "[filesproxy\n", "line 1: "),
    "two_mistakes": (lambda folder: "[filesproxy]\nread_timeout = soon\nbogus = 1\n", "line 3: "),
    "no_file": (None, "cannot be read"),
    "no_keys_any_more": (lambda folder: text_with(folder=folder), "restart the gateway"),
    "open_access": (
        lambda folder: text_with(section(KEY), folder=folder, settings="open_access = yes\n"),
        "restart the gateway",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_configuration_that_cannot_be_used_replaces_nothing_and_is_logged(name, gateway):
    """Under gunicorn, it used to end the service; the embedded server ended at any SIGHUP."""
    text, said = WRONG[name]
    workers = set(gateway.workers())
    gateway.ini.unlink() if text is None else gateway.ini.write_text(text(gateway.files))
    hang_up(gateway)
    assert until(lambda: said in gateway.err() and is_reloaded(gateway, workers), 20)
    assert "reloaded: " in gateway.err()
    assert status(gateway, KEY) == 200 and status(gateway, NEW_KEY) == 401
    gateway.ini.write_text(text_with(section(KEY), section(NEW_KEY, "other"), folder=gateway.files))
    workers = set(gateway.workers())
    hang_up(gateway)
    assert until(lambda: is_reloaded(gateway, workers) and status(gateway, NEW_KEY) == 200, 20)


def test_worker_in_place_of_a_crashed_one_does_not_meet_a_broken_file(gateway):
    if gateway.kind == "embedded":
        pytest.skip("the embedded server is one process")
    workers = gateway.workers()
    gateway.ini.write_text("[filesproxy\n")
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    assert until(lambda: len(set(gateway.workers()) - set(workers)) == len(workers) and gateway.is_ready(), 20)
    assert status(gateway, KEY) == 200
    assert gateway.process.poll() is None
