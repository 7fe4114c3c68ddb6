"""Formats: multipart forms, server-sent events, ranges, headers, JSON, HTTP/1 answers, list pages. No I/O.

Imports only the ground floor (calls, operations, redaction, errors). Input comes from an iterator or a function.
"""

from __future__ import annotations
