"""How the application is run: the command line, the embedded server, the demo, and the settings for gunicorn.

May import every other room; no other room imports it.
"""

from __future__ import annotations
