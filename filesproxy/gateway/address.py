"""The address of a client: of the peer, or what a trusted proxy says of its own peer."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Union

UNIX = "unix:"  # names the peer on a Unix socket among trusted proxies
SITE_BITS = 64  # of an IPv6 address: any of the others are the client's to choose (RFC 4291 §2.5.1)

Proxies = tuple[Union[str, IPv4Network, IPv6Network], ...]
_Address = Union[IPv4Address, IPv6Address]


def client_site(peer: str, forwarded_for: str, proxies: Proxies) -> str:
    """Whom a request without a gateway key counts for: an IPv4 address, or the first 64 bits of an IPv6 address.

    `peer` is the other end of the connection, "" on a Unix socket. A proxy appends its own peer to X-Forwarded-For, so
    the last entry that is not itself a trusted proxy is the client; all before it is the client's own invention, and so
    is the whole header if the peer is not a trusted proxy.
    """
    found = peer
    if _is_trusted(peer, proxies):
        for entry in reversed(forwarded_for.split(",")):
            if parsed(entry) is None:
                break
            found = entry
            if not _is_trusted(entry, proxies):
                break
    return _site(found)


def parsed(text: str) -> _Address | None:
    """The address in an entry, which may have a port (`192.0.2.1:80`, `[2001:db8::1]:80`); None if it is not one."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])  # an interface is not a part of the address
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_trusted(text: str, proxies: Iterable[str | IPv4Network | IPv6Network]) -> bool:
    address = parsed(text)
    if address is None:
        return not text and UNIX in proxies
    return any(not isinstance(proxy, str) and address in proxy for proxy in proxies)


def _site(text: str) -> str:
    address = parsed(text)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, SITE_BITS), strict=False))
    return str(address or text)
