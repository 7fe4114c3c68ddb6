"""What every test shares: applications mounted under a prefix, linted as WSGI, in front of an upstream that records."""

from __future__ import annotations

import logging
from wsgiref.validate import validator

import pytest
import webtest
from fakes import FakeUpstream, Mounted

from filesproxy import create_app

PREFIX = "/mounted/here"


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
        return webtest.TestApp(
            application, lint=False, extra_environ={"HTTP_HOST": "localhost", "REMOTE_ADDR": "127.0.0.1"}
        )

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
