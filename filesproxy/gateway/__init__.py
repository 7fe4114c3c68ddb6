"""The client's side: WSGI, routes, authentication, where a request goes, and the handlers that make a call of it.

Imports the configuration and what is below it, but no transport: the application builds those and hands them in.
"""

from __future__ import annotations
