"""TLS for the way to a provider: verified always; the trust store is the system's, another one, or one more."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Mapping
from typing import Any

from ...errors import ConfigError

#: the settings that a context is made of
SETTINGS = ("ca_file", "ca_extra", "client_cert", "client_key", "tls_strict")


def context(settings: Mapping[str, Any]) -> ssl.SSLContext:
    """A client context with hostname check and TLS 1.2 or newer; with a certificate of our own where one is set.

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
    if settings["client_cert"]:
        _load_own(built, settings)
    built.minimum_version = ssl.TLSVersion.TLSv1_2
    if sys.version_info >= (3, 13):  # as in its default context, which would also write keys to SSLKEYLOGFILE
        built.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if settings["tls_strict"] and sys.version_info >= (
        3,
        13,
    ):  # older Pythons never were; CAs of one's own often fail it
        built.verify_flags |= ssl.VERIFY_X509_STRICT
    return built


def _load_own(built: ssl.SSLContext, settings: Mapping[str, Any]) -> None:
    def no_password() -> str:  # without it OpenSSL would ask on the terminal
        raise ConfigError("client_key has a password, which nobody could type here.")

    try:
        built.load_cert_chain(settings["client_cert"], settings["client_key"] or None, no_password)
    except (OSError, ssl.SSLError):
        raise ConfigError("client_cert and client_key are no PEM certificate with its key.") from None


def configuration(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells two contexts apart."""
    return tuple(settings[name] for name in SETTINGS)
