"""Connects to an upstream: TCP, a CONNECT tunnel if a proxy is configured, and TLS."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import SplitResult

from ...errors import UpstreamError, UpstreamTimeout
from ...watchdog import Watch
from . import tls
from .proxy import authorization, proxy_for

# The first two are different classes before Python 3.10. The third is raised when a time limit in the kernel expires.
TIMEOUTS = (TimeoutError, socket.timeout, BlockingIOError)


def destination(url: SplitResult, settings: Mapping[str, Any]) -> tuple[Any, ...]:
    """What requests to the same destination have in common: scheme, host, port, proxy and TLS settings."""
    if url.scheme == "http":
        return url.scheme, url.netloc
    return url.scheme, url.netloc, proxy_for(settings["proxy"], str(url.hostname)), tls.configuration(settings)


class Dialer:
    """Opens connections, each within `connect_timeout` in total. Keeps one TLS context for each configuration."""

    def __init__(self) -> None:
        self._contexts: dict[tuple[Any, ...], ssl.SSLContext] = {}
        self._lock = threading.Lock()

    def __call__(self, url: SplitResult, settings: Mapping[str, Any], watch: Watch) -> socket.socket:
        """A watched socket, connected to the URL's host. Raises UpstreamError or UpstreamTimeout, naming the host."""
        connection = self._connection(url, settings)
        connection._create_connection = partial(_connect, watch)  # type: ignore[attr-defined]
        watch.allow(settings["connect_timeout"])
        try:
            connection.connect()
            if watch.is_woken:  # the watchdog wakes a request once, and may have found no socket to shut down
                raise TimeoutError
        except (OSError, UnicodeError, http.client.HTTPException) as error:
            sock = watch.upstream
            watch.release_upstream()
            connection.close()
            _close_fully(sock)
            raise _failure(TimeoutError() if watch.is_overdue else error, str(url.hostname)) from None
        connected: socket.socket = connection.sock
        if isinstance(connected, ssl.SSLSocket):
            # Without close_notify, the end of the stream is a truncation (RFC 8446 §6.1).
            connected.suppress_ragged_eofs = False  # type: ignore[attr-defined]
        return connected

    def _connection(self, url: SplitResult, settings: Mapping[str, Any]) -> http.client.HTTPConnection:
        host, timeout = str(url.hostname), settings["connect_timeout"]
        if url.scheme == "http":
            return http.client.HTTPConnection(host, url.port or 80, timeout=timeout)
        context = self._context(settings)
        proxy = proxy_for(settings["proxy"], host)
        if proxy is None:
            return http.client.HTTPSConnection(host, url.port or 443, timeout=timeout, context=context)
        connection = http.client.HTTPSConnection(
            str(proxy.hostname), proxy.port or 80, timeout=timeout, context=context
        )
        connection.set_tunnel(host, url.port or 443, headers=authorization(proxy))
        return connection

    def _context(self, settings: Mapping[str, Any]) -> ssl.SSLContext:
        key = tls.configuration(settings)
        with self._lock:
            if key not in self._contexts:
                self._contexts[key] = tls.context(settings)
            return self._contexts[key]


def _close_fully(sock: socket.socket | None) -> None:
    """Close the descriptor itself: before Python 3.12, http.client leaves it open after a refused tunnel."""
    if sock is not None and sock.fileno() >= 0:
        socket.close(sock.detach())


def _connect(watch: Watch, address: tuple[str, int], timeout: float, source: Any = None) -> socket.socket:
    """A TCP connection to one of the host's addresses; `timeout` (seconds) covers all attempts together."""
    deadline, failure = time.monotonic() + timeout, OSError("no address")
    for family, kind, protocol, _, place in socket.getaddrinfo(*address, 0, socket.SOCK_STREAM):
        sock = watch.upstream = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            sock.connect(place)
            sock.settimeout(timeout)
            return sock
        except OSError as error:
            failure = error
            watch.release_upstream()
            sock.close()
    raise failure


def _failure(error: Exception, host: str) -> UpstreamError:
    if isinstance(error, TIMEOUTS):
        return UpstreamTimeout(f"Connecting to {host} took too long.")
    if isinstance(error, ssl.SSLCertVerificationError):
        advice = (
            "set tls_strict = no" if "key usage" in str(error.verify_message).lower() else "set ca_file or ca_extra"
        )
        return UpstreamError(f"Cannot verify the certificate of {host}: {advice}.", code="upstream_tls")
    if isinstance(error, ssl.SSLError):
        message = f"The TLS handshake with {host} failed; it may require a client_cert, or a different one."
        return UpstreamError(message, code="upstream_tls")
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return UpstreamError(f"Cannot resolve {host}.", code="upstream_unreachable")
    return UpstreamError(f"Cannot connect to {host}, or the proxy refused the connection.", code="upstream_unreachable")
