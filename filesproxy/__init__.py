"""filesproxy: the LLM Files API in front of your providers, or of a folder, as one WSGI application."""

from __future__ import annotations

import logging

__version__ = "0.1.0"

from .app import create_app

__all__ = ["__version__", "create_app"]

logging.getLogger(__name__).addHandler(logging.NullHandler())
