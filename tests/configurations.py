"""What the tests of settings, of the INI file and of the configuration share: a secret, a file, a refusal."""

from __future__ import annotations

from hashlib import sha256

import pytest

from filesproxy.config.load import load
from filesproxy.errors import ConfigError
from filesproxy.providers import PROVIDERS

SECRET = "sk-canary-0123"
#: a gateway key as `filesproxy key` makes it, which no configuration knows
MADE = "fp_Zm9yZWlnbi1rZXktb2YtYW5vdGhlci1nYXRld2F5LS0"


def hashed(key):
    """What the configuration holds of a gateway key."""
    return sha256(key.encode()).hexdigest()


def written(folder, text):
    """The path of an INI file with this text, which only its owner can read."""
    path = folder / "filesproxy.ini"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    path.chmod(0o600)
    return str(path)


def config(source=None, environ=None, **keywords):
    return load(source, keywords, PROVIDERS, environ or {})


def refusal(source=None, environ=None, secret=SECRET, **keywords):
    """The message of a ConfigError, which must not hold the secret."""
    try:
        config(source, environ, **keywords)
    except ConfigError as error:
        refused = error
    else:
        pytest.fail(f"this was taken: {source or environ or keywords}")
    assert secret not in refused.message
    assert refused.__cause__ is None and refused.__suppress_context__ or refused.__context__ is None
    return refused.message
