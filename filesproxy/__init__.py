"""filesproxy: the LLM Files API in front of your providers, or of a folder, as one WSGI application."""

from __future__ import annotations

import logging
import sys

if sys.version_info < (3, 9):  # noqa: UP036 - a copied package meets any Python
    # With `name`, `python3 -m filesproxy` says this in one line, without a traceback.
    raise ImportError("filesproxy needs Python 3.9 or newer", name=__name__)

__version__ = "0.1.0"

from .app import create_app

__all__ = ["__version__", "create_app"]

logging.getLogger(__name__).addHandler(logging.NullHandler())
