"""OpenAI's models on Anthropic's Models API. Pure functions. https://platform.claude.com/docs/en/api/models-list"""

from __future__ import annotations

from typing import Any

from ...calls import Answer, Call, Json, Send
from ...wire.lists import bounded
from ..toolkit import need
from .files import MAX_PAGE, all_pages, seconds


def list_models(call: Call, send: Send) -> Answer:
    """All models: OpenAI's list has no pages."""
    pages = bounded(all_pages(call, send, MAX_PAGE, model_object))
    return Answer(200, json={"object": "list", "data": [model for page in pages for model in page.data]})


def without_query(call: Call) -> Call:
    """The call without the client's query."""
    return call._replace(query={})


def model_object(obj: Any, call: Call) -> Json:
    """OpenAI's model object, with Anthropic's name for people."""
    made = {
        "id": need(obj, "id", str),
        "object": "model",
        "created": seconds(obj, "created_at"),
        "owned_by": "anthropic",
    }
    name = obj.get("display_name")
    return {**made, "display_name": name} if isinstance(name, str) else made
