"""Bytes and shapes: multipart forms, events, ranges, headers, JSON, HTTP/1 answers, list pages. No I/O.

Imports the ground floor (calls, operations, redaction, errors) only. The bytes come from an iterator or a function.
"""

from __future__ import annotations
