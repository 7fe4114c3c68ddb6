"""What the operator says: settings, the INI file, and the configuration that they make together.

Imports the exchange, transports and providers (for what they say of their own settings) and what is below them. Knows
nothing of requests.
"""

from __future__ import annotations
