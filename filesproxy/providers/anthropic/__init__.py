"""Anthropic: OpenAI's contract on Anthropic's Files API and Messages API.

`files` and `chat` have the operations. `request` translates a chat, with `conversation` (its messages), `content`
(their parts) and `tools`; `answer` and `stream` translate what comes back, and `errors` errors. Pure functions, as in
every provider.
"""

from __future__ import annotations

from ...calls import Call, Provider, Target
from ...operations import PASSED_THROUGH
from ..openai import OPENAI
from ..toolkit import AUTH, auth_header, translated, walked
from .chat import create_chat_completion
from .errors import error
from .files import deleted, file_object, pages, prepared_upload
from .models import list_models, model_object, without_query

VERSION = "2023-06-01"  # 2026-10-21 refuses `temperature`, which OpenAI's clients send


def authorize(call: Call, target: Target) -> Call:
    """The call with `x-api-key` or an OAuth token as bearer, and with the version of the API translated here."""
    headers = {**call.headers, **auth_header(target, "x-api-key"), "anthropic-version": VERSION}
    return call._replace(headers=headers)


ANTHROPIC: Provider = {
    **OPENAI,
    "base_url": "https://api.anthropic.com/v1",
    "authorize": authorize,
    "error": error,
    "operations": {
        "upload_file": translated(prepared_upload, file_object),
        "list_files": walked(pages),
        "retrieve_file": translated(answer=file_object),
        "retrieve_file_content": translated(),
        "delete_file": translated(answer=deleted),
        "create_chat_completion": create_chat_completion,
        "list_models": list_models,
        "retrieve_model": translated(without_query, model_object),
    },
    "unsupported": {
        name: "This operation is not available for Anthropic."
        for name in PASSED_THROUGH
        if name not in ("list_models", "retrieve_model")
    },
    "file_parts": ("text", "image", "pdf"),
    "host_file_parts": (),
    "text_is_file": True,  # a document with a title
    "required_form_fields": (),
    "client_headers": ("anthropic-workspace-id",),
    "list_headers": ("anthropic-beta",),
    "settings": (AUTH,),
    "scope_prefixes": (),
    "credential_headers": {"x-api-key": {"auth": "key"}},
}
