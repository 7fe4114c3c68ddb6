"""The way to a provider's host: TCP, a CONNECT tunnel where one is configured, TLS."""

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

# The first two are not the same class before Python 3.10; the third is how a time limit in the kernel shows.
TIMEOUTS = (TimeoutError, socket.timeout, BlockingIOError)


def way(url: SplitResult, settings: Mapping[str, Any]) -> tuple[Any, ...]:
    """What two requests must share to share a connection: scheme, host, port, and how both are reached."""
    if url.scheme == "http":
        return url.scheme, url.netloc
    return url.scheme, url.netloc, proxy_for(settings["proxy"], str(url.hostname)), tls.configuration(settings)


class Dialer:
    """Makes connected sockets, each within `connect_timeout` in all. Keeps one TLS context for each configuration."""

    def __init__(self) -> None:
        self._contexts: dict[tuple[Any, ...], ssl.SSLContext] = {}
        self._lock = threading.Lock()

    def __call__(self, url: SplitResult, settings: Mapping[str, Any], watch: Watch) -> socket.socket:
        """A socket connected to the URL's host, and watched. Raises UpstreamError or UpstreamTimeout, naming both."""
        connection = self._connection(url, settings)
        connection._create_connection = partial(_reach, watch)  # type: ignore[attr-defined]
        watch.allow(settings["connect_timeout"])
        try:
            connection.connect()
        except (OSError, UnicodeError, http.client.HTTPException) as error:
            connection.close()
            _give_up(watch.upstream)
            raise _failure(TimeoutError() if watch.is_overdue else error, str(url.hostname)) from None
        sock: socket.socket = connection.sock
        if isinstance(sock, ssl.SSLSocket):
            # An end without close_notify is a cut (RFC 8446 §6.1).
            sock.suppress_ragged_eofs = False  # type: ignore[attr-defined]
        return sock

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


def _give_up(sock: socket.socket | None) -> None:
    """Close for good: before Python 3.12 http.client leaves a refused tunnel's answer open, and with it the socket."""
    if sock is not None and sock.fileno() >= 0:
        socket.close(sock.detach())


def _reach(watch: Watch, address: tuple[str, int], timeout: float, source: Any = None) -> socket.socket:
    """A TCP connection to one of the host's addresses, all of them within the time of one."""
    ends, failure = time.monotonic() + timeout, OSError("no address")
    for family, kind, protocol, _, place in socket.getaddrinfo(*address, 0, socket.SOCK_STREAM):
        sock = watch.upstream = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(max(0.001, ends - time.monotonic()))
            sock.connect(place)
            sock.settimeout(timeout)
            return sock
        except OSError as error:
            failure = error
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
        message = f"The TLS handshake with {host} failed; it may want a client_cert, or another one."
        return UpstreamError(message, code="upstream_tls")
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return UpstreamError(f"Cannot resolve {host}.", code="upstream_unreachable")
    return UpstreamError(f"Cannot connect to {host}, or the proxy before it refused.", code="upstream_unreachable")
