"""What passed-through JSON may have where several owners share an account: the fields and tool types known here.

A field that is new at the provider could name an object of another owner, and the gateway would not see it. So what is
not known is refused, unless the operator opens it with `allow_fields`. The names are those of OpenAI's contract and of
Azure's v1, as their SDKs and OpenAPI documents have them. What other hosts add is not here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType

from ..calls import Json
from ..errors import BadRequest
from ..wire.json_fields import at, objects, optional, required

MAX_QUOTED = 64  # characters of a client's name that a message repeats
_QUOTABLE = re.compile(r"[A-Za-z0-9_.-]+")
_OPENS = "because it could name another owner's object. The operator can let it through with `allow_fields`."

_RESPONSE = frozenset({
    "access_programs", "background", "background_options", "context_management", "conversation", "image", "include",
    "input", "instructions", "max_output_tokens", "max_tool_calls", "metadata", "model", "moderation",
    "parallel_tool_calls", "previous_response_id", "prompt", "prompt_cache_key", "prompt_cache_options",
    "prompt_cache_retention", "reasoning", "safety_identifier", "service_tier", "store", "stream", "stream_options",
    "temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p", "truncation", "user",
    "multi_agent",  # of the beta
    "client_metadata",  # not documented; OpenAI's own Codex sends it, with texts about the client
    "verbosity",  # is in `text` now; SDKs of August 2025 send it here
})  # fmt: skip
_COUNTED = frozenset({
    "conversation", "input", "instructions", "model", "parallel_tool_calls", "personality", "previous_response_id",
    "reasoning", "text", "tool_choice", "tools", "truncation",
})  # fmt: skip
_COMPACTED = frozenset({
    "image", "input", "instructions", "model", "previous_response_id", "prompt_cache_key", "prompt_cache_options",
    "prompt_cache_retention", "service_tier",
    "parallel_tool_calls", "reasoning", "text", "tools",  # not documented; OpenAI's own Codex sends them
})  # fmt: skip
_JOB = frozenset({
    "hyperparameters", "integrations", "metadata", "method", "model", "seed", "suffix", "training_file",
    "validation_file",
    "trainingType",  # Azure's: standard, globalStandard, developer
})  # fmt: skip

#: operation → every field that its JSON may have, for the passed-through operations whose requests have JSON
FIELDS: Mapping[str, frozenset[str]] = MappingProxyType({
    "create_response": _RESPONSE,
    "count_response_input_tokens": _COUNTED,
    "compact_response": _COMPACTED,
    "create_upload": frozenset({"bytes", "expires_after", "filename", "mime_type", "purpose"}),
    "complete_upload": frozenset({"md5", "part_ids"}),
    "create_batch": frozenset({
        "completion_window", "endpoint", "input_file_id", "metadata", "output_expires_after",
    }),
    "create_fine_tuning_job": _JOB,
    "create_embedding": frozenset({"dimensions", "encoding_format", "input", "model", "user"}),
    "create_container": frozenset({
        "expires_after", "file_ids", "memory_limit", "name", "network_policy", "skills",
    }),
    "create_container_file": frozenset({"file", "file_id"}),
    "create_vector_store": frozenset({
        "chunking_strategy", "description", "expires_after", "file_ids", "metadata", "name",
    }),
    "update_vector_store": frozenset({"expires_after", "metadata", "name"}),
    "search_vector_store": frozenset({"filters", "max_num_results", "query", "ranking_options", "rewrite_query"}),
    "create_vector_store_file": frozenset({"attributes", "chunking_strategy", "file_id"}),
    # Without the SDKs' vector_store_id, which goes into the path: in a body it could name another owner's.
    "update_vector_store_file": frozenset({"attributes"}),
    "create_vector_store_file_batch": frozenset({"attributes", "chunking_strategy", "file_ids", "files"}),
})  # fmt: skip

#: every type that a tool of Responses may have, with the dated and preview spellings
TOOL_TYPES: frozenset[str] = frozenset({
    "apply_patch", "code_interpreter", "computer", "computer-preview", "computer_use_preview", "custom", "file_search",
    "function", "image_generation", "local_shell", "mcp", "namespace", "programmatic_tool_calling", "shell",
    "tool_search", "web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11",
})  # fmt: skip


def check_fields(operation: str, body: Json, allowed: Collection[str]) -> None:
    """BadRequest if a request has a field or a type of tool that is neither known nor `allowed`.

    `allowed` are the operator's `allow_fields`: names of fields and types of tools. An operation that is not in FIELDS
    is not checked. Malformed tools are refused too, because what is not understood may name anything.
    """
    known = FIELDS.get(operation)
    if known is None:
        return
    for name in body:
        if name not in known and name not in allowed:
            raise _unknown_field(name)
    if "tools" in known:
        _check_tools(body, "", allowed)


def _check_tools(holder: Json, place: str, allowed: Collection[str]) -> None:
    """Check the tools of a request, or those in a tool, as namespaces have them."""
    for tool_place, tool in objects(optional(holder, "tools", list, place) or [], at(place, "tools")):
        kind = required(tool, "type", str, tool_place)
        if kind in TOOL_TYPES:
            _check_tools(tool, tool_place, allowed)
        elif kind not in allowed:  # what is inside a type that the operator opened is not known here
            raise _unknown_tool(kind, at(tool_place, "type"))


def _unknown_field(name: str) -> BadRequest:
    quoted = _quotable(name)
    what = f"the field '{quoted}'" if quoted else "a field"
    message = f"The gateway does not know {what} of this request and refuses it, {_OPENS}"
    return BadRequest(message, param=quoted, code="unknown_field")


def _unknown_tool(kind: str, place: str) -> BadRequest:
    quoted = _quotable(kind)
    what = f"'{quoted}' in '{place}'" if quoted else f"in '{place}'"
    message = f"The gateway does not know the type of tool {what} and refuses it, {_OPENS}"
    return BadRequest(message, param=place, code="unknown_tool")


def _quotable(name: str) -> str | None:
    """The beginning of a client's name; None if anything in it could do harm where the message is shown."""
    return name[:MAX_QUOTED] if _QUOTABLE.fullmatch(name) else None
