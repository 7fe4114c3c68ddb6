"""TLS to an upstream. Certificates are always verified: against the system's trust store, another one, or one more."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Mapping
from typing import Any

from ...errors import ConfigError

#: the settings that decide what a context is
SETTINGS = ("ca_file", "ca_extra", "client_cert", "client_key", "tls_strict")


def context(settings: Mapping[str, Any]) -> ssl.SSLContext:
    """A client context: TLS 1.2 or newer, checks the host name, presents our own certificate if one is configured.

    Building one parses the whole trust store, so the dialer keeps one for each configuration. Raises ConfigError, whose
    `param` is the setting that is wrong.
    """
    built = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not settings["ca_file"]:
        built.load_default_certs()
    for name in ("ca_file", "ca_extra"):
        try:
            if settings[name]:
                built.load_verify_locations(settings[name])
        except OSError:  # ssl.SSLError is one
            raise ConfigError(f"{name} is not a PEM file of certificates.", param=name) from None
    if settings["client_cert"]:
        _load_own(built, settings)
    built.minimum_version = ssl.TLSVersion.TLSv1_2
    if sys.version_info >= (3, 13):
        # The flags of ssl.create_default_context, which is not used: it would also write keys to SSLKEYLOGFILE.
        built.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if settings["tls_strict"]:  # private CAs often fail it; before 3.13 it was not Python's default
            built.verify_flags |= ssl.VERIFY_X509_STRICT
    return built


def _load_own(built: ssl.SSLContext, settings: Mapping[str, Any]) -> None:
    def no_password() -> str:  # without this callback OpenSSL would ask on the terminal
        name = "client_key" if settings["client_key"] else "client_cert"
        raise ConfigError(f"the key in {name} is encrypted with a password; use a key without one.", param=name)

    try:
        built.load_cert_chain(settings["client_cert"], settings["client_key"] or None, no_password)
    except OSError:
        message = "client_cert and client_key must be a PEM certificate and its private key."
        raise ConfigError(message, param="client_cert") from None


def configuration(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    """The values that a context is built from: equal values, equal contexts."""
    return tuple(settings[name] for name in SETTINGS)
