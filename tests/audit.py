"""What this process connects to and looks up, as the interpreter itself tells it (PEP 578), whatever code asks.

A hook cannot be taken away again, so there is one for each process, and it takes notes while somebody asks for them.
"""

from __future__ import annotations

import ipaddress
import sys
from typing import NamedTuple

#: events of names that somebody resolves, host first
LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyname")
_WATCHED = frozenset({"socket.connect", *LOOKUPS})
#: names without an address anywhere else than here, or none at all (RFC 6761 §6.3, §6.4)
LOCAL_NAMES = ("localhost", "")
NO_NAMES = ".invalid"


class Contact(NamedTuple):
    """One look-up or one connection; the port of a look-up without one is 0, of what is no IP socket -1."""

    event: str
    host: str
    port: int

    @property
    def is_connection(self):
        return self.event == "socket.connect"

    @property
    def is_local(self):
        """Whether no packet leaves this machine for it."""
        return self.port == -1 or self.host.lower() in LOCAL_NAMES or self.host.endswith(NO_NAMES) or loops(self.host)


def loops(host):
    """Whether this is an address of the loopback interface."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


class _Notes:
    """The contacts of the process while they are wanted: `taken` is None else."""

    taken = None
    is_installed = False


def install():
    """Take notes from now on."""
    _Notes.taken = []
    if not _Notes.is_installed:
        _Notes.is_installed = True
        sys.addaudithook(_hook)


def stop():
    """Take none."""
    _Notes.taken = None


def contacts():
    """All contacts since the last `forget`."""
    return list(_Notes.taken or ())


def forget():
    """Start with an empty sheet; the contacts that were on it. One that comes meanwhile is on one of the two."""
    taken, _Notes.taken = _Notes.taken, []
    return taken or []


def _hook(event, arguments):
    if event in _WATCHED and _Notes.taken is not None:  # there are thousands of other events a second
        if event in LOOKUPS:
            _Notes.taken.append(Contact(event, _text(arguments[0]), _number(arguments[1:])))
        else:
            _Notes.taken.append(_connection(arguments[1]))


def _connection(address):
    """A Unix socket, and what else has no host, counts as local: port -1."""
    if isinstance(address, tuple) and len(address) >= 2 and isinstance(address[0], (str, bytes)):
        return Contact("socket.connect", _text(address[0]), _number(address[1:]))
    return Contact("socket.connect", "", -1)


def _text(host):
    if isinstance(host, (bytes, bytearray)):
        return bytes(host).decode("latin-1")
    return host if isinstance(host, str) else ""


def _number(rest):
    """The port, which a look-up may not have, or have as text."""
    port = rest[0] if rest else 0
    return port if isinstance(port, int) else int(port) if isinstance(port, str) and port.isdecimal() else 0
