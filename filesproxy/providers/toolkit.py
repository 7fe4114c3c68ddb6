"""What a provider's author uses: operations made of pure translations, and helpers for lists and file objects.

Imports `wire` and the ground floor. A provider needs only this module, `wire` and the ground floor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..calls import Answer, Call, Operation, Send, Setting, Target
from ..wire.json_fields import need, unusable
from ..wire.listing import by_cursor, completed, listed, listing
from ..wire.lists import Page, deletion, file_object, own_list, page, rest_after, sliced, walked

__all__ = [
    "AUTH",
    "Page",
    "auth_header",
    "by_cursor",
    "completed",
    "deletion",
    "file_object",
    "listed",
    "listing",
    "need",
    "own_list",
    "page",
    "rest_after",
    "sliced",
    "translated",
    "unusable",
    "walked",
]


def translated(
    request: Callable[[Call], Call] | None = None, answer: Callable[[Any, Call], Any] | None = None
) -> Operation:
    """An operation that sends one call and returns its answer, each translated. Most operations are like this.

    `answer` gets the JSON of the upstream's answer (None if it is empty) and the client's call.
    """

    def operation(call: Call, send: Send) -> Answer:
        reply = send(request(call) if request else call)
        return reply._replace(json=answer(reply.json, call)) if answer else reply

    return operation


def _key_or_bearer(text: str) -> str:
    if text not in ("key", "bearer"):
        raise ValueError("key or bearer")
    return text


#: the setting of providers that accept an API key or a token, each in its own header
AUTH = Setting(
    "auth", "key", _key_or_bearer, "what the credential is: `key` (api-key, x-api-key) or `bearer` (Entra, OAuth)",
    app=False, provider=True,
)  # fmt: skip


def auth_header(target: Target, key_header: str) -> dict[str, str]:
    """The one header that authenticates a call, for a provider with the setting `auth`: bearer token or API key.

    Empty for a host that asks for no credential.
    """
    if not target.secret:
        return {}
    if target.settings["auth"] == "bearer":
        return {"authorization": f"Bearer {target.secret}"}
    return {key_header: target.secret}
