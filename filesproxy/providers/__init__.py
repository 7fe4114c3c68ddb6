"""The provider table: for each name, how that provider differs from OpenAI. One module or folder per provider.

Providers import the toolkit, `wire` and the ground floor (calls, operations, redaction, errors), and do no I/O.
Everything special about a provider is in its own module.
"""

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
