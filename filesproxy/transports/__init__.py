"""What performs a call: one folder for each way to an upstream. All sockets and files of the gateway are here.

A transport imports the watchdog, `wire` and the ground floor (calls, operations, redaction, errors). It knows no
provider and no other transport.
"""

from __future__ import annotations
