"""The provider table: a name, and what is different there from OpenAI."""

from __future__ import annotations

from ..provider import Provider
from .local import LOCAL
from .openai import OPENAI

PROVIDERS: dict[str, Provider] = {"openai": OPENAI, "local": LOCAL}
