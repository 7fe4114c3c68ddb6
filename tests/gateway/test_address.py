"""The address of a client: what a proxy says counts if the proxy is trusted, and what a client says never does."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from filesproxy.gateway.address import UNIX, client_site

LOCAL = (ip_network("127.0.0.1"), ip_network("10.0.0.0/24"), ip_network("2001:db8:f::/48"))

SITES = [
    # peer, X-Forwarded-For, trusted proxies, whom it counts for
    ("192.0.2.1", "", (), "192.0.2.1"),
    ("192.0.2.1", "198.51.100.7", (), "192.0.2.1"),
    ("192.0.2.1", "198.51.100.7", LOCAL, "192.0.2.1"),
    ("127.0.0.1", "", LOCAL, "127.0.0.1"),
    ("127.0.0.1", "198.51.100.7", LOCAL, "198.51.100.7"),
    ("127.0.0.1", "203.0.113.9, 198.51.100.7", LOCAL, "198.51.100.7"),  # the first one is the client's own
    ("127.0.0.1", "203.0.113.9,198.51.100.7, 10.0.0.3", LOCAL, "198.51.100.7"),
    ("127.0.0.1", "10.0.0.4, 10.0.0.3", LOCAL, "10.0.0.4"),
    ("127.0.0.1", "junk, 198.51.100.7", LOCAL, "198.51.100.7"),
    ("127.0.0.1", "198.51.100.7, junk", LOCAL, "127.0.0.1"),
    ("127.0.0.1", "198.51.100.7, unknown, 10.0.0.3", LOCAL, "10.0.0.3"),
    ("127.0.0.1", "198.51.100.7,", LOCAL, "127.0.0.1"),
    ("127.0.0.1", "198.51.100.7:5555", LOCAL, "198.51.100.7"),
    ("127.0.0.1", "[2001:db8::1]:5555", LOCAL, "2001:db8::/64"),
    ("127.0.0.1", "2001:db8::1", LOCAL, "2001:db8::/64"),
    ("::ffff:127.0.0.1", "198.51.100.7", LOCAL, "198.51.100.7"),
    ("::ffff:192.0.2.1", "", (), "192.0.2.1"),
    ("2001:db8:f::1", "198.51.100.7", LOCAL, "198.51.100.7"),
    ("2001:db8::1", "198.51.100.7", LOCAL, "2001:db8::/64"),
    ("fe80::1%eth0", "", (), "fe80::/64"),
    ("", "198.51.100.7", LOCAL, ""),
    ("", "198.51.100.7", (UNIX,), "198.51.100.7"),
    ("", "", (UNIX,), ""),
    ("192.0.2.1", "198.51.100.7", (UNIX,), "192.0.2.1"),
    ("localhost", "198.51.100.7", (UNIX, *LOCAL), "localhost"),
]


@pytest.mark.parametrize("peer,forwarded_for,proxies,site", SITES)
def test_client_is_the_last_that_is_no_trusted_proxy(peer, forwarded_for, proxies, site):
    assert client_site(peer, forwarded_for, proxies) == site


def test_address_of_an_own_network_is_no_new_caller_each_time():
    sites = {client_site(f"2001:db8:0:1:{number:x}::{number:x}", "", ()) for number in range(1000)}
    assert sites == {"2001:db8:0:1::/64"}


@pytest.mark.parametrize("proxies", [(), LOCAL, (UNIX, *LOCAL)])
def test_forged_header_changes_nothing(proxies):
    """Of a client that comes directly, and of one behind a proxy that appends its address."""
    forged = [f"203.0.113.{number}, 10.0.0.{number}" for number in range(200)]
    assert {client_site("192.0.2.1", text, proxies) for text in forged} == {"192.0.2.1"}
    behind = {client_site("10.0.0.1", f"{text}, 192.0.2.1", proxies) for text in forged}
    assert behind == {"192.0.2.1" if proxies else "10.0.0.1"}
