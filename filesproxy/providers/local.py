"""The local store as a provider: OpenAI's contract over the `local` transport, for hosts without a net."""

from __future__ import annotations

from ..calls import Call, Provider, Target, replace
from .openai import FILE_OPERATIONS, OPENAI, PASSED_THROUGH


def as_owner(call: Call, target: Target) -> Call:
    """The store's only credential: whose files these are. It is the gateway's word, never the client's."""
    return replace(call, headers={**call.headers, "x-filesproxy-owner": target.owner})


LOCAL: Provider = {
    **OPENAI,
    "base_url": "local:",
    "authorize": as_owner,
    "operations": {name: OPENAI["operations"][name] for name in FILE_OPERATIONS},
    "unsupported": dict.fromkeys(("create_chat_completion", *PASSED_THROUGH), "The local store keeps files only."),
    "client_headers": (),
    "settings": ("folder",),
    "keyless": True,
}
