"""What a changed configuration may not do without a restart."""

from __future__ import annotations

from ..errors import ConfigError
from .load import Config


def check_reload(old: Config, new: Config) -> None:
    """ConfigError if the new configuration protects less than the one in use: no slip may open a gateway."""
    if old.keys and not new.keys:
        raise ConfigError("to serve without gateway keys, restart the gateway.")
    if new.settings["open_access"] and not old.settings["open_access"]:
        raise ConfigError("for open_access = yes, restart the gateway.")
