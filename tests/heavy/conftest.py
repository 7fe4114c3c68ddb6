"""What the heavy tests share: a strict upstream, and gateways under real servers in front of it."""

from __future__ import annotations

import contextlib
import itertools

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
