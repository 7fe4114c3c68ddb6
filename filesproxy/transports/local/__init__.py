"""The transport for kept files in a folder: an sqlite index, and the files' bytes as blobs.

May import what any transport may (see `transports`), but no other transport.
"""

from __future__ import annotations
