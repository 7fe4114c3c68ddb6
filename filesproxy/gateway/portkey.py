"""What Portkey's own headers ask for: done where the gateway can, named as ignored where it cannot.

A header, or a field of a config, that would change where a request goes or with which credential is a 400.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ..calls import Provider
from ..errors import BadRequest
from ..providers.table import Scope
from ..wire.headers import safe
from ..wire.strict_json import Unreadable, loads
from .record import Record

PREFIX = "x-portkey-"
CONFIG = "x-portkey-config"
METADATA = "x-portkey-metadata"
FORWARD = "x-portkey-forward-headers"
MAX_METADATA_BYTES = 2048
MAX_NAMED = 20
#: Portkey's headers that the gateway reads, whoever the provider is
READ = frozenset(
    {"x-portkey-api-key", "x-portkey-provider", "x-portkey-virtual-key", CONFIG, METADATA, FORWARD,
     "x-portkey-trace-id", "x-portkey-request-timeout", "x-portkey-strict-open-ai-compliance"}
)  # fmt: skip
#: those that only describe the client or its trace, so that nothing is lost with them
DESCRIPTIVE = frozenset(
    {"x-portkey-package-version", "x-portkey-runtime", "x-portkey-runtime-version", "x-portkey-span-id",
     "x-portkey-span-name", "x-portkey-parent-span-id", "x-portkey-audio-file-duration", "x-portkey-debug"}
)  # fmt: skip

_SILENT = READ | DESCRIPTIVE
# Fields of a config that no header stands for and that would change where a request goes, or as whom.
_REFUSED_FIELDS = frozenset({"targets", "custom_host", "base_url", "api_key", "authorization"})
_FIELD = re.compile(r"[a-z0-9_]{1,64}")
_NAME = re.compile(r"[a-z0-9-]{1,64}")
_SAVED_AT_PORTKEY = "a config that Portkey keeps cannot be looked up here; name the provider in x-portkey-provider"


class Config(NamedTuple):
    """What a config says: the provider as in x-portkey-provider, the time limit, and what the gateway cannot do."""

    provider: str = ""
    timeout: float | None = None  # seconds
    ignored: tuple[str, ...] = ()


NO_CONFIG = Config()


def read_config(headers: Mapping[str, str], scope: Scope) -> Config:
    """The config in the headers. BadRequest if it is not a JSON object, or names more than one provider.

    A field stands for the header `x-portkey-FIELD`, and is refused where that header would be with a saved provider.
    """
    text = headers.get(CONFIG, "").strip(" ")
    if not text:
        return NO_CONFIG
    given = [(_snake(name), value) for name, value in _object(text).items() if value is not None]
    fields = dict(given)
    if len(fields) < len(given):  # as for a name that comes twice: two readers could take different values
        raise _refusal("it has a field in two spellings")
    for name in fields:
        if name in _REFUSED_FIELDS or scope.has(PREFIX + name.replace("_", "-")):
            shown = name if name in _REFUSED_FIELDS else "a field"
            raise _refusal(f"{shown} of a config would change where a request goes, or as whom")
    named = [_text(fields, "provider"), saved(_text(fields, "virtual_key"))]
    provider, *others = dict.fromkeys(filter(None, named)) or [""]
    if others:
        raise _refusal("name one provider")
    known = ("provider", "virtual_key", "request_timeout")
    ignored = [f"{CONFIG}.{name}" for name in fields if name not in known and _FIELD.fullmatch(name)]
    return Config(provider, _timeout(fields.get("request_timeout")), tuple(ignored[:MAX_NAMED]))


def _object(text: str) -> Any:
    if not text.startswith("{"):
        raise _refusal(_SAVED_AT_PORTKEY)
    try:
        return loads(text.encode("latin-1"), unique_keys=True)
    except (Unreadable, UnicodeEncodeError):
        raise _refusal("it is not valid JSON") from None


def _snake(name: str) -> str:
    """The field's name as Portkey's documents spell it; its SDKs also have `virtualKey`, and headers `virtual-key`."""
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower().replace("-", "_")


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str) or not re.fullmatch(r"[\x21-\x2b\x2d-\x7e]{0,128}", value):
        raise _refusal(f"its {name} must be one word")
    return value


def saved(name: str) -> str:
    """A virtual key as the saved provider that it names, `@NAME`; "" for "".

    Portkey's own virtual keys have no @; both spellings are accepted.
    """
    return name and "@" + name.removeprefix("@")


def _timeout(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 999_999_999:
        raise _refusal("its request_timeout must be a number of milliseconds")
    return value / 1000


def _refusal(reason: str) -> BadRequest:
    return BadRequest(f"The header {CONFIG} is not accepted here: {reason}.", param=CONFIG)


class Notes:
    """What an application notes of a request's headers: those that nobody reads, and the metadata for the log."""

    def __init__(self, providers: Mapping[str, Provider], logs_metadata: bool) -> None:
        self._logs_metadata = logs_metadata
        self._lists = frozenset(name for entry in providers.values() for name in entry.get("list_headers", ()))

    def note(self, record: Record, headers: Mapping[str, str], config: Config, provider: Mapping[str, Any]) -> None:
        """Note them in the record. `provider` is the target's entry, {} if there are several targets."""
        record.ignored = [*config.ignored, *unread(headers, provider, self._lists)]
        if METADATA not in headers:
            return
        if self._logs_metadata:
            record.metadata = metadata(headers)
        if record.metadata is None:
            record.ignored.append(METADATA)


def unread(headers: Mapping[str, str], provider: Mapping[str, Any], lists: frozenset[str]) -> list[str]:
    """The names of the client's headers that would change what a call means, and that nobody here reads.

    `provider` is the target's entry, {} if there are several targets; `lists` are the headers in which clients name
    betas, of all providers.
    """
    odd = _odd(tuple(headers), lists)
    if not odd:
        return []
    read = _read_by(provider)
    return [name for name in odd if name not in read and headers[name].strip(" ")][:MAX_NAMED]


@lru_cache(maxsize=128)  # clients send the same names with every request
def _odd(names: tuple[str, ...], lists: frozenset[str]) -> tuple[str, ...]:
    """Those of a request's headers that some provider might read, or nobody at all."""
    portkeys = [name for name in names if name.startswith(PREFIX) and name not in _SILENT and _NAME.fullmatch(name)]
    return tuple(sorted({*portkeys, *lists.intersection(names)}))


def _read_by(provider: Mapping[str, Any]) -> set[str]:
    own = (*provider.get("client_headers", ()), *provider.get("list_headers", ()))
    chosen = (*provider.get("client_settings", ()), *provider.get("credential_headers", ()))
    return {*own, *(PREFIX + name for name in own), *chosen, provider.get("model_header", "")}


def forwarded(headers: Mapping[str, str], allowed: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The headers that the client wants passed on and the operator allows; and what is to be named as ignored."""
    asked = [name.strip(" ").lower() for name in headers[FORWARD].split(",")]
    found = {name: headers[name] for name in asked if name in allowed and name in headers}
    sent = {name: text for name, text in found.items() if safe(name, text)}
    is_whole = all(name in sent or name not in headers for name in asked)
    return sent, [] if is_whole else [FORWARD]


def metadata(headers: Mapping[str, str]) -> dict[str, Any] | None:
    """The metadata for the log, a JSON object of strings, numbers and booleans; None if it cannot be logged."""
    text = headers.get(METADATA, "")
    if not text or len(text) > MAX_METADATA_BYTES:
        return None
    try:
        found = loads(text.encode("latin-1"), unique_keys=True)
    except (Unreadable, UnicodeEncodeError):
        return None
    if not isinstance(found, dict) or not all(isinstance(value, (str, int, float)) for value in found.values()):
        return None
    written = json.dumps(found)  # in ASCII, as in the log, whose lines must stay short enough to be written whole
    return found if len(written) <= MAX_METADATA_BYTES else None
