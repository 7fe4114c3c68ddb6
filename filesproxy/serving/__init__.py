"""How the application is run: the command line, the embedded server, the demo, and settings for gunicorn.

May import everything; nothing imports it.
"""

from __future__ import annotations
