"""What the heavy tests share: a strict upstream, and gateways under real servers in front of it."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess

import pytest
from fakes import FILE
from servers import KINDS, running, write_config
from sockets import answer, answering
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
    upstream.chunked, upstream.block, upstream.aborted = False, 65536, 0
    upstream.goes_on.set()
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
def scene(tmp_path_factory):
    """The upstreams, the proxy and the certificates of the gateways below."""
    pytest.importorskip("cryptography", reason="needs cryptography")
    from scene import opened

    with opened(tmp_path_factory.mktemp("scene")) as made:
        yield made


@pytest.fixture(scope="session", params=KINDS)
def gateway(request, scene):
    """A gateway without keys, under each server in turn: providers that differ in their limits and in their way."""
    from scene import gateway_of, main_sections

    with gateway_of(request.param, scene, main_sections(scene)) as running_one:
        yield running_one


@pytest.fixture(scope="session")
def keyed(gateway, scene):
    """A gateway under the same server with a key and a saved credential."""
    from scene import gateway_of, keyed_sections

    with gateway_of(gateway.kind, scene, keyed_sections(scene)) as running_one:
        yield running_one


@pytest.fixture
def stage(scene):
    """The upstream of most providers, with no connections yet. After the test it ends what its script still holds."""
    yield scene.plain.play(answering(answer(FILE)))
    scene.plain.play(answering(answer(FILE)))


@pytest.fixture
def no_proxy_from_outside(monkeypatch):
    """The environment names no proxy."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory):
    """A folder with the Node SDKs: scripts in it may import those of OpenAI, Portkey and Anthropic."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("needs node and npm")
    folder = tmp_path_factory.mktemp("node")
    words = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder)]
    names = ["openai", "portkey-ai", "@anthropic-ai/sdk"]
    done = subprocess.run([*words, *names], capture_output=True, timeout=120, cwd=folder)
    if done.returncode:
        pytest.skip("npm cannot install the SDKs here")
    return folder


def pytest_terminal_summary(terminalreporter):
    """The cells of test_clients_by_provider as a table, also when all is well."""
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
