"""The types everything else speaks: a call, an answer, an upload, a target, and what a provider's dict may hold.

A provider is a plain dict: its differences from OpenAI. It does no I/O: its operations translate, and get `send`.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from types import MappingProxyType
from typing import Any, Protocol, TypedDict, TypeVar
from urllib.parse import quote

from .errors import UpstreamError

Json = dict[str, Any]
_PLAIN = re.compile(r"[A-Za-z0-9._~-]+")


Data = TypeVar("Data")


def at_once(kind: type[Data]) -> type[Data]:
    """The frozen dataclass with a constructor that sets all fields in one step; what a factory makes, all share.

    Its own sets field by field through object.__setattr__: of a Call alone that is a twentieth of a small request.
    """
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    defaults = {name: item.default for name, item in known.items() if item.default is not MISSING}
    made_once = {name: item.default_factory() for name, item in known.items() if item.default_factory is not MISSING}
    defaults.update(made_once)

    def __init__(self: Data, *values: Any, **named: Any) -> None:
        given = {**dict(zip(known, values)), **named}
        made = {**defaults, **given}
        if made.keys() != known.keys() or len(given) != len(values) + len(named):
            raise TypeError(f"{kind.__name__} takes {', '.join(known)}")
        object.__setattr__(self, "__dict__", made)

    kind.__init__ = __init__  # type: ignore[method-assign, assignment]
    return kind


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


def replace(item: Data, **changes: Any) -> Data:
    """The frozen dataclass with other values for some fields.

    That of dataclasses calls __init__, which sets field by field: a tenth of what a small request costs.
    """
    values = item.__dict__ | changes
    assert len(values) == len(item.__dict__), changes.keys()
    made = object.__new__(type(item))
    object.__setattr__(made, "__dict__", values)
    return made


class Secret(str):
    """Text that a repr does not show: of a mapping or a dataclass that holds it neither."""

    def __repr__(self) -> str:
        return "'[secret]'"

    @cached_property
    def forms(self) -> tuple[str, ...]:
        """Itself as it is, in JSON, in a URL with either case of digits, and in base64 behind any other text."""
        return _forms(str(self))

    @cached_property
    def shortest(self) -> int:
        """Characters of the shortest form: a shorter text holds none."""
        return min(map(len, self.forms))


def _forms(secret: str) -> tuple[str, ...]:
    if _PLAIN.fullmatch(secret):  # which neither JSON nor a URL writes otherwise
        return tuple(dict.fromkeys([secret, *_base64_forms(secret.encode())]))
    encoded = quote(secret, safe="")
    lower = re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), encoded)
    return tuple(dict.fromkeys([secret, json.dumps(secret)[1:-1], encoded, lower, *_base64_forms(secret.encode())]))


def _base64_forms(secret: bytes) -> Iterator[str]:
    """Base64 of it, and the digits that it alone decides behind 0, 1 or 2 other bytes, in both alphabets."""
    yield b64encode(secret).decode()
    for ahead in range(3):
        first, last = -(-ahead * 4 // 3), (ahead + len(secret)) * 4 // 3
        digits = b64encode(bytes(ahead) + secret).decode()[first:last]
        if len(digits) >= 8:  # shorter ones stand in innocent text
            yield from (digits, digits.replace("+", "-").replace("/", "_"))


class Body(Protocol):
    """An iterable of bytes that may be partly read. Whoever holds one closes it; closing twice is harmless."""

    def __iter__(self) -> Iterator[bytes]: ...
    def __next__(self) -> bytes: ...
    def close(self) -> None: ...


class Client(Protocol):
    """The client's socket, to see by it whether somebody still waits for the answer."""

    def fileno(self) -> int:
        """Its file descriptor, -1 once it is closed."""


class Upload:
    """A file on its way: a name, a media type, form fields, and chunks that can be read once.

    The only mutable thing here: `size` (bytes) grows while it is read, and `fields` that come behind the file are in
    the mapping only when it is exhausted; so are the names of the fields `ignored`, which the provider does not know.
    """

    def __init__(
        self,
        filename: str,
        content_type: str,
        fields: dict[str, str],
        chunks: Iterator[bytes],
        ignored: Sequence[str] = (),
        part: str = "file",
    ) -> None:
        self.part = part
        self.filename = filename
        self.content_type = content_type
        self.fields = fields
        self.ignored = ignored
        self.size = 0
        self.is_begun = False  # once it is, bytes of it may have arrived somewhere
        self.sent_fields: Callable[[dict[str, str]], dict[str, str]] = dict  # what the provider gets of the fields
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        self.is_begun = True
        for chunk in self._chunks:
            self.size += len(chunk)
            yield chunk


@at_once
@dataclass(frozen=True)
class Call:
    """One request to an upstream, as data.

    `path` is relative to the target's base URL and already quoted, `query` holds texts and lists of texts. The exchange
    makes `url` of the path, without the query.
    """

    operation: str
    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=_nothing)
    headers: Mapping[str, str] = field(default_factory=_nothing, repr=False)  # holds the credential once authorised
    upload: Upload | None = None
    json: Json | None = field(default=None, repr=False)  # a body to be sent as JSON
    file_id: str = ""  # what the path names, for a transport that has no paths
    stream: bool = False  # the answer is bytes to relay, not JSON to read
    timeout: float | None = None  # seconds to the answer's first byte, if the client set a limit
    is_generated: bool = False  # a model makes the answer, which takes longer than to fetch one
    is_strict: bool = True  # the client wants OpenAI's fields only (x-portkey-strict-open-ai-compliance)
    watch: Any = field(default=None, repr=False)  # the watchdog's, of the request that this call is for
    url: str = ""
    now: float = 0.0  # the clock: seconds since the epoch when the request came


@at_once
@dataclass(frozen=True)
class Answer:
    """One answer of an upstream: header names in lower case, and either parsed JSON or an open body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=_nothing)
    json: Any = None
    body: Body | None = None
    ignored: Sequence[str] = ()  # fields of the request that the provider does not know and did not get
    parsed: tuple[Any, bytes] = field(default=(None, b""), repr=False, compare=False)  # JSON, and a text of it

    @property
    def text(self) -> bytes:
        """The upstream's own text of `json`, b"" if there is none that says this and nothing else."""
        value, text = self.parsed
        return text if self.json is value else b""


Send = Callable[[Call], Answer]
Operation = Callable[[Call, Send], Answer]  # may send once, or page by page; no I/O of its own


@at_once
@dataclass(frozen=True)
class Target:
    """Where one request goes: provider, base URL, credential and settings, and on whose behalf (`owner`)."""

    name: str
    provider: Provider
    base_url: str
    settings: Mapping[str, Any] = field(default_factory=_nothing, repr=False)
    credential: Secret = field(default=Secret(), repr=False)
    is_saved: bool = False  # the credential is the gateway's, not the caller's
    owner: str = ""  # the gateway key's name: whose files these are in the local store


Transport = Callable[[Call, Target], Answer]  # performs a call; raises UpstreamError or StoreError


class Provider(TypedDict, total=False):
    """The keys of a provider's dict; the first four it must have."""

    base_url: str | Callable[[Target], str]
    operations: dict[str, Operation]
    #: the path of a call below the base URL, where it depends on the target
    path: Callable[[Call, Target], str]
    #: adds what authenticates us upstream: headers or query
    authorize: Callable[[Call, Target], Call]
    #: the provider's error JSON → the object inside OpenAI's envelope
    error: Callable[[Any], Json]
    #: operation → the sentence that says why this provider has none
    unsupported: dict[str, str]
    #: other origins that calls may go to, always without a credential
    hosts: tuple[str, ...]
    #: form fields of an upload that are passed on, and those without which it is a 400
    fields: tuple[str, ...] | Callable[[Target], tuple[str, ...]]
    required_fields: tuple[str, ...]
    #: client headers that are passed on, also read with an `x-portkey-` prefix
    client_headers: tuple[str, ...]
    #: client headers that hold lists of words, such as betas; passed on, both spellings merged
    list_headers: tuple[str, ...]
    #: the client header that names the model, where the model is a part of the address
    model_header: str
    #: settings that only this kind of provider has
    settings: tuple[str, ...]
    #: client headers that choose a setting, for a caller with a credential of its own: header → setting
    client_settings: dict[str, str]
    #: client headers that are a credential: header → what `auth` then is
    credential_headers: dict[str, str]
    #: no credential upstream: files belong to gateway keys, and without keys only this machine may ask
    keyless: bool


#: of providers that are none here, and so in nobody's dict
SCOPE_HEADERS = frozenset({"api-key", "x-api-key", "anthropic-workspace-id"})


def scope_headers(table: Mapping[str, Provider]) -> frozenset[str]:
    """Every header by which a client says something about address, scope or authentication, in both spellings."""
    kinds = table.values()
    said = {name for kind in kinds for name in (*kind.get("client_headers", ()), *kind.get("client_settings", ()))}
    named = SCOPE_HEADERS | said | credential_headers(table)
    return _both_spellings(named) - {"x-portkey-api-key"}


def credential_headers(table: Mapping[str, Provider]) -> frozenset[str]:
    """Every header of a provider's own in which a client presents a credential."""
    return frozenset(name for kind in table.values() for name in kind.get("credential_headers", ()))


def read_headers(table: Mapping[str, Provider]) -> frozenset[str]:
    """Every header of a client's that these providers read, in both spellings."""
    kinds = table.values()
    lists = {name for kind in kinds for name in (*kind.get("list_headers", ()), kind.get("model_header", ""))}
    return scope_headers(table) | _both_spellings(frozenset(lists))


def _both_spellings(names: frozenset[str]) -> frozenset[str]:
    return names | {f"x-portkey-{name}" for name in names if not name.startswith("x-portkey-")}


def exchange(
    request: Callable[[Call], Call] | None = None, answer: Callable[[Any, Call], Any] | None = None
) -> Operation:
    """An operation of one call and one answer, each translated: nearly every operation of nearly every provider."""

    def operation(call: Call, send: Send) -> Answer:
        reply = send(request(call) if request else call)
        made = answer(reply.json, call) if answer else reply.json
        return reply if made is reply.json else replace(reply, json=made)

    return operation


def need(obj: Any, name: str, kind: type | tuple[type, ...]) -> Any:
    """The field of an upstream's object, or the 502 that names it: nothing is invented."""
    value = obj.get(name) if isinstance(obj, dict) else None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise unusable(name)
    return value


def unusable(name: str) -> UpstreamError:
    """The 502 for a field of an upstream's answer that is missing or of another type."""
    return UpstreamError(f"The provider's answer has no usable field '{name}'.", code="upstream_invalid_answer")
