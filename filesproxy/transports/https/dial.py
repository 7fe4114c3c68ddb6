"""Connects to an upstream: TCP, a CONNECT tunnel if a proxy is configured, and TLS."""

from __future__ import annotations

import errno
import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple
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
            way = _Way(url, has_proxy=bool(connection._tunnel_host), is_connected=sock is not None)  # type: ignore[attr-defined]
            raise _failure(TimeoutError() if watch.is_overdue else error, way) from None
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


class _Way(NamedTuple):
    """Where a connection was going, and how far it had come."""

    url: SplitResult
    has_proxy: bool
    is_connected: bool  # by TCP, to the host or to its proxy

    @property
    def end(self) -> str:
        """The host and port of the provider."""
        host = f"[{self.url.hostname}]" if ":" in str(self.url.hostname) else self.url.hostname
        return f"{host}:{self.url.port or (443 if self.url.scheme == 'https' else 80)}"

    @property
    def peer(self) -> str:
        """Whom TCP connects to. A proxy is never named: its URL may contain a secret, also in the wrong place."""
        return f"the proxy before {self.end}" if self.has_proxy else self.end


def _failure(error: Exception, way: _Way) -> UpstreamError:
    """What a client reads: the phase, the host, its port, and the cause as far as it is known."""
    if isinstance(error, TIMEOUTS):
        message = f"Connecting to {way.peer if not way.is_connected else way.end} took too long."
        return UpstreamTimeout(message, detail=message)
    if isinstance(error, ssl.SSLError):
        message = _tls_failure(error, way.end)
        return UpstreamError(message, code="upstream_tls", detail=message)
    if isinstance(error, (socket.gaierror, UnicodeError)):
        message = f"Cannot resolve {way.peer}{_cause(error)}."
    elif not way.is_connected:
        message = f"Cannot connect to {way.peer}{_cause(error)}."
    elif way.has_proxy:
        message = f"The proxy opened no connection to {way.end}{_cause(error)}."
    else:
        message = f"The connection to {way.end} ended during the TLS handshake{_cause(error)}."
    return UpstreamError(message, code="upstream_unreachable", detail=message)


_REFUSED_TUNNEL = re.compile(r"Tunnel connection failed: ([0-9]{3})\b")  # http.client's words


def _cause(error: Exception) -> str:
    """(ECONNREFUSED), (EAI_NONAME) or (status 407); nothing for an error that has no such name."""
    number = getattr(error, "errno", None) or 0
    if isinstance(error, socket.gaierror):
        names = [name for name in dir(socket) if name.startswith("EAI_") and getattr(socket, name) == number]
        name = names[0] if names else ""
    else:
        refused = _REFUSED_TUNNEL.match(str(error))
        name = f"status {refused[1]}" if refused else errno.errorcode.get(number, "")
    return f" ({name})" if name else ""


# What OpenSSL calls an answer that is not TLS; the names depend on its version.
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"})


def _tls_failure(error: ssl.SSLError, end: str) -> str:
    """Only causes that can be are named: a client certificate is asked for by an alert about certificates."""
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        is_strict = "key usage" in str(error.verify_message).lower()
        advice = "set tls_strict = no" if is_strict else "set ca_file or ca_extra"
        return f"Cannot verify the certificate of {end}: {advice}."
    if reason in _NOT_TLS:
        return f"{end} does not answer in TLS: its URL may have to begin with http://, or its port is another one."
    if "PROTOCOL" in reason:
        return f"{end} has no version of TLS in common with the gateway, which needs 1.2 or newer."
    if "ALERT" in reason and ("CERT" in reason or "HANDSHAKE" in reason or "UNKNOWN_CA" in reason):
        return f"{end} refused the TLS handshake; it may require a client_cert, or a different one."
    return f"The TLS handshake with {end} failed."
