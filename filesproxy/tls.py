"""TLS for the way to a provider: verified always; the trust store is the system's, another one, or one more."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Mapping
from typing import Any

from .errors import ConfigError


def context(settings: Mapping[str, Any]) -> ssl.SSLContext:
    """A client context with hostname check and TLS 1.2 or newer.

    Building one parses the whole trust store, about 50 ms: the sender keeps one for each distinct configuration.
    """
    try:
        built = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if settings["ca_file"]:
            built.load_verify_locations(settings["ca_file"])
        else:
            built.load_default_certs()
        if settings["ca_extra"]:
            built.load_verify_locations(settings["ca_extra"])
    except (OSError, ssl.SSLError):
        raise ConfigError("ca_file or ca_extra is no PEM file of certificates.") from None
    built.minimum_version = ssl.TLSVersion.TLSv1_2
    if sys.version_info >= (3, 13):  # as in its default context, which would also write keys to SSLKEYLOGFILE
        built.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    return built


def configuration(settings: Mapping[str, Any]) -> tuple[str, str]:
    """What tells two contexts apart."""
    return settings["ca_file"], settings["ca_extra"]
