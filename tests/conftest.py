"""What every test shares: applications mounted under a prefix, linted as WSGI, in front of an upstream that records."""

from __future__ import annotations

import gc
import logging
from wsgiref.validate import validator

import pytest
import webtest

# Their asserts, too, say what they saw, and hold under `python -O`, as those of test modules do.
pytest.register_assert_rewrite(
    *("audit", "certificates", "configurations", "documents", "fakes", "forms", "kept_alive", "pathological", "scene"),
    *("servers", "sockets", "strict_anthropic", "strict_azure", "strict_openai", "strict_openai_routes"),
)

import audit
from fakes import FakeUpstream, Mounted

from filesproxy import create_app

PREFIX = "/mounted/here"
#: foreign names that a test looks up on purpose: a secret in the place of a proxy's host is asked for like any host
LOOKED_UP = {"test_proxy_of_the_environment_is_not_quoted": ("sk-canary-7f3a9c",)}


def pytest_sessionstart(session):
    """From here on, the interpreter reports every connection."""
    audit.install()


def pytest_collection_finish(session):
    """Keep the garbage collector from looking through thousands of collected tests again and again."""
    gc.collect()
    gc.freeze()


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
    """Every test: nothing of this process leaves this machine. A test that asks for it sees where it went."""
    seen = Connections()
    seen.allow(*LOOKED_UP.get(getattr(request.node, "originalname", ""), ()))
    yield seen
    seen.check()


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    """A developer's FILESPROXY_* must not change what the tests see."""
    import os

    for name in [name for name in os.environ if name.startswith("FILESPROXY_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def loggers_as_they_were():
    """The command line sends the loggers elsewhere; the next test listens to them again."""
    loggers = [logging.getLogger(name) for name in ("filesproxy", "filesproxy.access")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


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
