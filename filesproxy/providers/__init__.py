"""The provider table: a name, and what is different there from OpenAI."""

from __future__ import annotations

from ..calls import Provider
from .anthropic import ANTHROPIC
from .azure_openai import AZURE_OPENAI
from .local import LOCAL
from .openai import OPENAI

PROVIDERS: dict[str, Provider] = {
    "openai": OPENAI,
    "azure-openai": AZURE_OPENAI,
    "anthropic": ANTHROPIC,
    "local": LOCAL,
}
