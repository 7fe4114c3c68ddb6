"""The gateway's dealings with an upstream: runs an operation, reads its answers, relays its events.

Imports the watchdog, the budget, `wire` and the ground floor (calls, operations, redaction, errors); the transports are
handed in.
"""

from __future__ import annotations
