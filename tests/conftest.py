"""What every test shares: applications mounted under a prefix, linted as WSGI, in front of an upstream that records."""

from __future__ import annotations

import gc
import logging
import os
from contextlib import contextmanager
from wsgiref.validate import validator

import pytest
import webtest

# Their asserts, too, say what they saw, and hold under `python -O`, as those of test modules do.
pytest.register_assert_rewrite(
    *("audit", "certificates", "configurations", "documents", "fakes", "forms", "kept_alive", "pathological"),
    *("processes", "scene", "servers", "sockets", "stores"),
    *("strict_anthropic", "strict_azure", "strict_openai", "strict_openai_routes"),
)

import audit
from fakes import FakeUpstream, Mounted
from stores import Clock, open_store

from filesproxy import create_app

PREFIX = "/mounted/here"
#: foreign names that a test looks up on purpose: a secret in the place of a proxy's host is asked for like any host
LOOKED_UP = {"test_proxy_of_the_environment_is_not_quoted": ("sk-canary-7f3a9c",)}


def pytest_sessionstart(session):
    """From here on, the interpreter reports every connection, and a developer's FILESPROXY_* change nothing."""
    audit.install()
    for name in [name for name in os.environ if name.startswith("FILESPROXY_")]:
        del os.environ[name]
    gc.disable()  # a collection leaves no garbage to speak of


def pytest_collection_finish(session):
    gc.enable()
    freeze()


def freeze():
    """Keep the garbage collector from looking through thousands of tests and their reports again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def reports_are_frozen():
    """Each module leaves thousands of reports behind, and every later `gc.collect` of a test would visit them."""
    yield
    freeze()


def pytest_sessionfinish(session):
    audit.stop()


class Connections:
    """What the process has connected to since the test began; `allow` lets it leave this machine for these hosts."""

    def __init__(self):
        self.allowed = set()

    def allow(self, *hosts):
        self.allowed.update(hosts)

    def __call__(self):
        """(host, port) of each connection, in order."""
        return [(seen.host, seen.port) for seen in audit.contacts() if seen.is_connection]

    def looked_up(self):
        """(host, port) of each name that was resolved, in order; addresses count as names."""
        return [(seen.host, seen.port) for seen in audit.contacts() if not seen.is_connection]

    def check(self):
        """Fail if anything went elsewhere than to this machine, or to where the test allows."""
        strangers = [seen for seen in audit.forget() if not seen.is_local and seen.host not in self.allowed]
        if strangers:
            pytest.fail(f"this process went to a foreign host: {strangers}", pytrace=False)


@pytest.fixture(autouse=True)
def connections(request):
    """Every test: nothing of this process leaves this machine. A test that asks for it sees where it went.

    It also ends `loggers_as_they_were`: ten thousand tests pay for every fixture that all of them have.
    """
    seen = Connections()
    seen.allow(*LOOKED_UP.get(getattr(request.node, "originalname", ""), ()))
    with loggers_as_they_were():
        yield seen
    seen.check()


LOGGERS = [logging.getLogger(name) for name in ("filesproxy", "filesproxy.access")]


@contextmanager
def loggers_as_they_were():
    """The command line sends the loggers elsewhere; the next test listens to them again."""
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in LOGGERS]
    try:
        yield
    finally:
        for logger, (handlers, level, propagate) in zip(LOGGERS, before):
            logger.handlers[:], logger.propagate = handlers, propagate
            if logger.level != level:
                logger.setLevel(level)  # which empties the caches of all loggers


@pytest.fixture
def upstream():
    """The upstream of `client`: set its `answer`, read its `calls`."""
    return FakeUpstream()


@pytest.fixture
def make_client(upstream):
    """A webtest client of an application with these settings, mounted under a prefix and validated (PEP 3333)."""

    def make(config=None, **settings):
        settings.setdefault("transports", {"http": upstream, "https": upstream})
        application = Mounted(PREFIX, validator(create_app(config, **settings)))
        modern = {"HTTP_HOST": "localhost", "REMOTE_ADDR": "127.0.0.1", "SERVER_PROTOCOL": "HTTP/1.1"}
        return webtest.TestApp(application, lint=False, extra_environ=modern)

    return make


@pytest.fixture
def client(make_client):
    """A client of an application without configuration, whose upstream is `upstream`."""
    return make_client()


@pytest.fixture
def access_log(caplog):
    """The access log's lines so far, parsed."""
    import json

    caplog.set_level(logging.INFO, logger="filesproxy.access")
    return lambda: [json.loads(record.message) for record in caplog.records if record.name == "filesproxy.access"]


@pytest.fixture
def folder(tmp_path):
    """Where a local store is to be; it is not there yet."""
    return tmp_path / "store"


@pytest.fixture
def store(folder):
    """A local store, whose clock stands still."""
    return open_store(folder, Clock(1_700_000_000.0))


@pytest.fixture
def said():
    """What an operator is told: `said.append` takes the lines."""
    return []


@pytest.fixture
def no_sweep_by_itself(monkeypatch):
    """A sweep in a thread of its own would meet what a test breaks on purpose."""
    monkeypatch.setattr("filesproxy.transports.local.sweep.SWEEP_SECONDS", float("inf"))
