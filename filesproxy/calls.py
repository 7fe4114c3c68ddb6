"""The types that everything speaks: a call, an answer, an upload, a target, and what a provider's dict may hold.

Imports the rest of the ground floor only: operations, redaction, errors. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypedDict

from .operations import Expected
from .redaction import Credentials, FixedCredentials, Secret

Json = dict[str, Any]
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Body(Protocol):
    """An iterator of bytes that may be partly read. Its holder closes it; closing twice is harmless."""

    def __iter__(self) -> Iterator[bytes]: ...
    def __next__(self) -> bytes: ...
    def close(self) -> None: ...


class Client(Protocol):
    """The client's socket, which shows whether the client still waits for the answer."""

    def fileno(self) -> int:
        """Its file descriptor, -1 once it is closed."""


class Watch(Protocol):
    """What a transport tells the watchdog of the request that it works for."""

    def transfer(self, moved: Callable[[], int] = ...) -> None:
        """Begin a phase of the length of a transfer, which lasts longer as bytes move."""


class Upload:
    """A file on its way: a name, a media type, form fields, and chunks that can be read once.

    The only mutable type here. `size` (bytes) grows while it is read. Fields that come after the file are in `fields`
    only once the chunks are exhausted; so are the names of `ignored` fields, which the provider does not know.
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
        self.is_begun = False  # from then on the upstream may have received bytes of it
        self.sent_fields: Callable[[dict[str, str]], dict[str, str]] = dict  # which fields the provider gets
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        self.is_begun = True
        for chunk in self._chunks:
            self.size += len(chunk)
            yield chunk


class Content(NamedTuple):
    """A request body of raw bytes: how many, what they are, and the chunks, which can be read once."""

    length: int
    media_type: str
    chunks: Iterable[bytes]

    def __repr__(self) -> str:
        return f"<Content of {self.length} bytes>"


class _Discreet:
    """Values that hold credentials: no repr, no format and no comparison of a test runner shows a field.

    They are equal as tuples are, and cannot be hashed: they hold mappings.
    """

    __slots__ = ()

    def __hash__(self) -> int:
        raise TypeError(f"unhashable type: {type(self).__name__}")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and tuple.__eq__(self, other)  # type: ignore[operator]

    def __ne__(self, other: object) -> bool:
        return not self == other


class _CallFields(NamedTuple):
    operation: str
    method: str
    path: str
    query: Mapping[str, Any] = _NOTHING
    headers: Mapping[str, str] = _NOTHING
    json: Json | None = None
    upload: Upload | None = None
    content: Content | None = None
    expects: Expected = "json"
    file_id: str = ""
    timeout: float | None = None
    is_generated: bool = False
    is_strict: bool = True
    watch: Any = None
    url: str = ""
    now: float = 0.0


class Call(_Discreet, _CallFields):
    """One request to an upstream, as data. Its body is one of `json`, `upload` and `content`, or nothing.

    - `path` is relative to the target's base URL and quoted; `query` holds texts and lists of texts. The exchange makes
      `url` (without the query) of it.
    - `headers` hold the credential once the call is authorised.
    - `file_id` is the id that the path names, for transports without paths.
    - `expects` says what the answer must be: `json`; `nothing` (an empty 2xx is fine); `bytes` to relay; `events` to
      relay, or JSON where the upstream does not stream.
    - `timeout` is in seconds to the answer's first byte, if the client set a limit.
    - `is_generated`: a model makes the answer, which takes longer than fetching one.
    - `is_strict`: the client wants OpenAI's fields only (x-portkey-strict-open-ai-compliance).
    - `watch` is the watchdog's view of the request; `now` is when the request came, in seconds since the epoch.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<Call {self.operation} {self.method}>"


class _AnswerFields(NamedTuple):
    status: int
    headers: Mapping[str, str] = _NOTHING
    json: Any = None
    body: Body | None = None
    ignored: Sequence[str] = ()


class Answer(_Discreet, _AnswerFields):
    """One answer of an upstream: header names in lower case, and either parsed JSON, an open body, or neither.

    `ignored` names fields of the request that the provider does not know and did not get.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<Answer {self.status}>"


class _TargetFields(NamedTuple):
    name: str
    provider: Provider
    base_url: str
    settings: Mapping[str, Any] = _NOTHING
    credentials: Credentials = FixedCredentials()
    is_saved: bool = False
    owner: str = ""
    secrets: Mapping[str, Secret] = _NOTHING


class Target(_Discreet, _TargetFields):
    """Where one request goes: provider, base URL, settings, credentials, and for which owner.

    - `is_saved`: the credentials are the gateway's, not the caller's.
    - `owner` owns the kept files that the request may see: the name of the gateway key.
    - `secrets` are the credentials of this moment. The exchange sets them before it calls `authorize`.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<Target {self.name}>"

    @property
    def secret(self) -> Secret:
        """The secret of a provider that needs one only."""
        return self.secrets.get("credential", _NO_SECRET)


_NO_SECRET = Secret()

Transport = Callable[[Call, Target], Answer]  # performs a call; raises UpstreamError or StoreError


class KeptFiles(Protocol):
    """The kept files of one owner, in the gateway's own store. Raises StoreError."""

    def find(self, file_ids: Sequence[str]) -> Mapping[str, Json]:
        """Id → file object, of those that exist and have not expired. One look for all of them."""

    def open(self, file_id: str) -> Answer:
        """The content as an answer with an open body and its `content-length`. NotFound if there is none."""


class Send(Protocol):
    """What an operation reaches the outside with. Every body that it opens belongs to the exchange, which closes it."""

    kept: KeptFiles

    def __call__(self, call: Call) -> Answer:
        """Send a call to the target. UpstreamAnswered for any status but 2xx, UpstreamError for a broken answer."""


Operation = Callable[[Call, Send], Answer]  # sends once, page by page, or part by part; has no I/O of its own


class Setting(NamedTuple):
    """A setting: its name everywhere, its default, how text becomes its value, its help, and who may set it.

    `parse` raises ValueError with a phrase that completes "NAME must be ...".
    """

    name: str
    default: Any
    parse: Callable[[str], Any]
    doc: str
    app: bool = True  # in [filesproxy], the environment, keywords, flags
    provider: bool = False  # in [provider:NAME], where it wins over the application's
    key: bool = False  # in [key:NAME]


class _Required(TypedDict):
    """The keys that every provider's dict has."""

    #: the URL that paths are relative to, or a function of the target that makes it
    base_url: str | Callable[[Target], str]
    #: adds what authenticates the call upstream: headers, query, or a signature over the final call
    authorize: Callable[[Call, Target], Call]
    #: the provider's error JSON → the object inside OpenAI's envelope
    error: Callable[[Any], Json]
    #: operation → the function that performs it
    operations: dict[str, Operation]


class Provider(_Required, total=False):
    """What a provider's dict may hold: its differences from OpenAI."""

    #: the path of a call below the base URL, where it depends on the target
    path: Callable[[Call, Target], str]
    #: operation → the sentence that says why this provider does not have it
    unsupported: dict[str, str]
    #: other origins that calls may go to, always without a credential
    hosts: tuple[str, ...]
    #: form fields of an upload that are passed on, and those that an upload must have
    form_fields: tuple[str, ...] | Callable[[Target], tuple[str, ...]]
    required_form_fields: tuple[str, ...]
    #: headers of the client that are passed on, also read with an `x-portkey-` prefix
    client_headers: tuple[str, ...]
    #: headers of the client that hold lists of words, such as betas; both spellings are merged and passed on
    list_headers: tuple[str, ...]
    #: the client header that names the model, where the model is part of the address
    model_header: str
    #: settings that only this kind of provider has
    settings: tuple[Setting, ...]
    #: settings without which this kind of provider cannot be used
    required_settings: tuple[str, ...]
    #: the sentence that says what is wrong with a saved provider's settings, "" if nothing is
    check_settings: Callable[[Mapping[str, Any]], str]
    #: where a provider with these settings sends requests, for people
    describe: Callable[[Mapping[str, Any]], str]
    #: client headers that choose a setting, for callers with a credential of their own: header → setting
    client_settings: dict[str, str]
    #: client headers that are a credential: header → the settings that say so
    credential_headers: dict[str, dict[str, str]]
    #: beginnings of Portkey's headers that change the scope of a request; refused beside a saved provider, but for the
    #: `model_header`
    scope_prefixes: tuple[str, ...]
    #: headers of an answer that the client gets, and beginnings of the names of others
    answer_headers: tuple[str, ...]
    answer_header_prefixes: tuple[str, ...]
    #: headers of an answer that hold the provider's id of the request
    request_id_headers: tuple[str, ...]
    #: no credential upstream: files belong to gateway keys, and without keys only this machine may ask
    keyless: bool
