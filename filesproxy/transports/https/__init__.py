"""The transport for http and https: `urllib.request` with its own connections, pool, TLS and proxies.

May import what any transport may (see `transports`), but no other transport.
"""

from __future__ import annotations
