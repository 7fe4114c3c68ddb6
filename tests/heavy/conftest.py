"""What the heavy tests share: a strict upstream, and gateways under real servers in front of it."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess

import pytest
from servers import running, write_config
from strict_openai import StrictOpenAI


@pytest.fixture(scope="module")
def fake():
    """The strict upstream of a module's gateways; nothing a gateway sent may have been wrong."""
    with StrictOpenAI() as upstream:
        yield upstream
    assert upstream.problems == []


@pytest.fixture(autouse=True)
def behaves_and_is_content(request):
    """The fake starts each test well-behaved, and has nothing to complain of at its end."""
    if "fake" not in request.fixturenames:
        yield
        return
    upstream = request.getfixturevalue("fake")
    upstream.early = upstream.cut = None
    upstream.chunked, upstream.pause, upstream.block, upstream.aborted = False, 0.0, 65536, 0
    yield
    assert upstream.problems == []


@pytest.fixture(scope="module")
def start(fake, tmp_path_factory):
    """Starts a gateway: start(kind, *arguments, conf=…, **settings of [filesproxy]). Stopped when the module ends."""
    with contextlib.ExitStack() as stack:
        numbers = itertools.count()

        def starter(kind="gunicorn", *arguments, conf="gunicorn.conf.py", **settings):
            folder = tmp_path_factory.mktemp(f"{kind}{next(numbers)}")
            config = write_config(folder / "filesproxy.ini", fake, folder / "store", **settings)
            served = running(kind, folder / "run", *arguments, conf=conf, FILESPROXY_CONFIG=config)
            return stack.enter_context(served)

        yield starter


@pytest.fixture(scope="module")
def gunicorn(start):
    """A gateway under gunicorn as shipped, for a module's tests."""
    return start("gunicorn")


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory):
    """A folder with the Node SDKs: scripts in it may import openai and portkey-ai."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("needs node and npm")
    folder = tmp_path_factory.mktemp("node")
    words = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder)]
    done = subprocess.run([*words, "openai", "portkey-ai"], capture_output=True, timeout=120, cwd=folder)
    if done.returncode:
        pytest.skip("npm cannot install openai and portkey-ai here")
    return folder


def pytest_terminal_summary(terminalreporter):
    """The matrix of test_matrix as a table, also when all is well."""
    reports = [report for group in terminalreporter.stats.values() for report in group]
    notes = [note for report in reports for name, note in getattr(report, "user_properties", ()) if name == "matrix"]
    cells = {tuple(note[:3]): note[3] for note in notes}
    if not cells:
        return
    clients, providers, rows = (list(dict.fromkeys(place[n] for place in cells)) for n in range(3))
    terminalreporter.section("clients x providers x operations")
    for client in clients:
        lines = [[client, *providers]]
        lines += [[row, *(cells.get((client, provider, row), "-") for provider in providers)] for row in rows]
        for line in lines:
            terminalreporter.write_line("  ".join(f"{text:<17}" for text in line).rstrip())
        terminalreporter.write_line("")
    terminalreporter.write_line("client bug: content() of Portkey's SDK for Node returns no bytes, with any server")
