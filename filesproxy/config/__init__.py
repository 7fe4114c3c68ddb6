"""The operator's side: settings, the INI file, and the configuration that they make together.

Imports transports and providers, for their own settings, and what is below them. Knows nothing of requests.
"""

from __future__ import annotations
