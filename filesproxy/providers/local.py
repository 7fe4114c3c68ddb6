"""The gateway's own store as a provider: OpenAI's Files contract on the transport `local`, without a network."""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from typing import Any

from ..calls import Call, Provider, Setting, Target
from ..operations import FILE_OPERATIONS, PASSED_THROUGH
from .openai import OPENAI
from .toolkit import own_list, translated


def _folder(text: str) -> str:
    return os.path.abspath(os.path.expanduser(text)) if text else ""


def base_url(target: Target) -> str:
    """The folder, as a URL of the transport `local`."""
    return f"local:{target.settings['folder']}"


def unchanged(call: Call, target: Target) -> Call:
    """The call, unchanged: the store needs no credential, and takes the owner from the target."""
    return call


def describe(settings: Mapping[str, Any]) -> str:
    """Where the files are kept."""
    return f"files in {settings['folder']}"


LOCAL: Provider = {
    **OPENAI,
    "base_url": base_url,
    "authorize": unchanged,
    "operations": {
        **{name: OPENAI["operations"][name] for name in FILE_OPERATIONS},
        "list_files": translated(own_list),
    },
    "unsupported": dict.fromkeys(("create_chat_completion", *PASSED_THROUGH), "The local store keeps files only."),
    "client_headers": (),
    "list_headers": (),
    "settings": (
        Setting("folder", "", _folder, "where `local` keeps its files; empty: there is no `local`", provider=True),
    ),
    "required_settings": ("folder",),
    "describe": describe,
    "is_store": True,
    "state_folder": lambda settings: str(settings["folder"]),
    "file_parts": (),
    "host_file_parts": (),
}
