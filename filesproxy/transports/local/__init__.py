"""The transport for kept files in a folder: an index in sqlite, and blobs.

Imports what every transport may; the other transports do not know it.
"""

from __future__ import annotations
