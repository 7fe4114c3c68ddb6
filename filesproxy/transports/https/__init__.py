"""The transport for http and https: `urllib.request` with its own connections, pool, TLS and proxies.

Imports what every transport may; the other transports do not know it.
"""

from __future__ import annotations
