"""Transports perform calls: one folder for each way to an upstream.

All connections to upstreams and all stored files are handled here. A transport may import the watchdog, `wire` and the
ground floor (calls, operations, redaction, errors), but no provider and no other transport.
"""

from __future__ import annotations
