"""The types that every room shares: call, answer, upload, target, and the keys of a provider's dict.

Imports only the rest of the ground floor: operations, redaction, errors. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypedDict

from .operations import Expected
from .redaction import Credentials, FixedCredentials, Secret

Json = dict[str, Any]
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Body(Protocol):
    """An iterator of bytes that need not be read to its end. Its holder closes it; closing twice is harmless."""

    def __iter__(self) -> Iterator[bytes]: ...
    def __next__(self) -> bytes: ...
    def close(self) -> None: ...


class Client(Protocol):
    """The client's socket, which shows whether the client is still waiting for the answer."""

    def fileno(self) -> int:
        """Its file descriptor; -1 after it was closed."""


class Upload:
    """An upload on its way to the upstream: file name, media type, form fields, and chunks that can be read once.

    The only mutable type here. `max_size` is what the file has at most, in bytes, if the client said how long its
    request is. `size` (bytes) grows as the chunks are read. Form fields that follow the file are in
    `fields` only after the chunks are exhausted. The same holds for `ignored`, the names of the fields that the
    provider does not know.
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
        self.max_size: int | None = None
        self.filename = filename
        self.content_type = content_type
        self.fields = fields
        self.ignored = ignored
        self.size = 0
        self.is_begun = False  # if so, the upstream may have received some of its bytes
        self.sent_fields: Callable[[dict[str, str]], dict[str, str]] = dict  # which fields the provider gets
        self._on_fields: list[Callable[[dict[str, str]], dict[str, str]]] = []
        self.sha256: str | None = None  # of the file, in hexadecimal, once it has been read and if it is computed
        self._hash: Any = None
        self._chunks = chunks

    def on_fields(self, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
        """Have the fields judged, or changed, before the provider chooses which of them it gets.

        That is when they are sent, because those that follow the file are known only then.
        """
        self._on_fields.append(change)

    def fields_to_send(self) -> dict[str, str]:
        """The fields that are known by now, as the provider gets them."""
        given = dict(self.fields)
        for change in self._on_fields:
            given = change(given)
        return self.sent_fields(given)

    def hash(self) -> None:
        """Compute the SHA-256 while the file is read."""
        self._hash = sha256()

    def __iter__(self) -> Iterator[bytes]:
        self.is_begun = True
        for chunk in self._chunks:
            self.size += len(chunk)
            if self._hash is not None:
                self._hash.update(chunk)
            yield chunk
        if self._hash is not None:
            self.sha256 = self._hash.hexdigest()


class Content(NamedTuple):
    """A request body of raw bytes: its length in bytes, its media type, and chunks that can be read once."""

    length: int
    media_type: str
    chunks: Iterable[bytes]

    def __repr__(self) -> str:
        return f"<Content of {self.length} bytes>"


class Text(NamedTuple):
    """What is known of a file that is text: its bytes inside a JSON string, and a checksum (CRC-32) of the file."""

    size: int
    checksum: int


class Inlined(NamedTuple):
    """A kept file whose content goes into a call's JSON, in place of a stand-in (see `wire.inlined_json`).

    `size` is the file's, in bytes; `text` is None unless the file is text. `open` gives the content, from its start.
    `place` is where the client named it first, and `uses` how often.
    """

    stand_in: str
    size: int
    text: Text | None
    open: Callable[[], Body]
    place: str = ""
    uses: int = 1


class _Opaque:
    """A tuple that holds credentials: its repr, its formatted text and a test runner's diff show no field.

    It compares as a tuple of its type, and cannot be hashed, because it holds mappings.
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
    inlined: Sequence[Inlined] = ()


class Call(_Opaque, _CallFields):
    """One request to an upstream, as data. Its body is one of `json`, `upload` and `content`, or nothing.

    - `path` is relative to the target's base URL and percent-encoded. The exchange sets `url`, which has no query.
    - `query` maps each name to a string or a list of strings.
    - `headers` include the credential after the call is authorised.
    - `file_id` is the id in the path, for transports without paths.
    - `expects` says what the answer must be: `json`; `nothing` (an empty 2xx is fine); `bytes` to relay; `events` to
      relay, or JSON where the upstream does not stream.
    - `timeout` is the client's own limit, if it set one: seconds until the first byte of the answer.
    - `is_generated`: a model makes the answer, which takes longer than fetching one.
    - `is_strict`: the client wants only OpenAI's fields (x-portkey-strict-open-ai-compliance).
    - `watch` is the watchdog's view of the request.
    - `now` is when the request arrived, in seconds since the epoch.
    - `inlined` are the kept files that `json` has stand-ins for. The exchange puts them in.
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
    is_repeat: bool = False


class Answer(_Opaque, _AnswerFields):
    """One answer of an upstream: header names in lower case, and parsed JSON, an open body, or neither.

    `ignored` names the request's fields that the provider does not know and was not sent. `is_repeat`: the request had
    been sent whole before, over a connection that ended without an answer, so the upstream may have acted on it twice.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<Answer {self.status}>"


_NO_SECRET = Secret()


class _TargetFields(NamedTuple):
    name: str
    provider: Provider
    base_url: str
    settings: Mapping[str, Any] = _NOTHING
    credentials: Credentials = FixedCredentials()
    is_saved: bool = False
    owner: str = ""
    secrets: Mapping[str, Secret] = _NOTHING
    view: str | None = ""
    account: str = ""


class Target(_Opaque, _TargetFields):
    """Where one request goes: provider, base URL, settings, credentials, and for which owner.

    - `is_saved`: the credentials are the gateway's, not the caller's. There are none if the host asks for none.
    - `owner`: whose files the request makes, deletes and puts into requests.
    - `view`: whose files it lists and reads; None for those of every owner.
    - `account`: the account where owners are kept apart by a ledger; "" where they are not.
    - `secrets`: the current credentials. The exchange sets them before it calls `authorize`.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<Target {self.name}>"

    @property
    def secret(self) -> Secret:
        """The credential of a provider that uses a single secret, or an empty secret if the target has none."""
        return self.secrets.get("credential", _NO_SECRET)


Transport = Callable[[Call, Target], Answer]  # performs a call; raises UpstreamError or StoreError


class KeptFiles(Protocol):
    """The kept files of one owner, in the gateway's own store. Raises StoreError."""

    def find(self, file_ids: Sequence[str]) -> Mapping[str, Json]:
        """id → file object, for the files that exist and have not expired. One lookup for all ids."""

    def open(self, file_id: str) -> Answer:
        """The file's content: an answer with an open body and a `content-length`. Raises NotFound."""

    def stored_bytes(self) -> int:
        """The bytes of all files that have not expired."""


class Made(NamedTuple):
    """An object at a provider, as the ledger is to remember it.

    - `kind` is one of `operations.KINDS`. Times are in seconds since the epoch, by the provider's clock.
    - `is_open`: a batch or job whose results are still to come.
    - `ends_after` is how many seconds the ledger remembers it, None for as long as it exists.
    - The rest is known of files only: name, purpose, size in bytes, SHA-256, and when they expire.
    """

    id: str
    kind: str
    created_at: int
    is_open: bool = False
    ends_after: int | None = None
    filename: str = ""
    purpose: str = ""
    bytes: int | None = None
    sha256: str | None = None
    expires_at: int | None = None


class Owned(NamedTuple):
    """What the ledger knows of an object: the fields of `Made`, whose it is, and through which key it came.

    `number` ascends in the order in which objects were recorded. `deleted_at` is set once it was deleted here.
    """

    account: str
    id: str
    owner: str
    key: str
    kind: str
    created_at: int
    number: int
    recorded_at: int
    is_open: bool = False
    expires_at: int | None = None
    deleted_at: int | None = None
    filename: str = ""
    purpose: str = ""
    bytes: int | None = None
    sha256: str | None = None

    def is_gone(self, now: float) -> bool:
        """Whether it was deleted here, or has expired."""
        return self.deleted_at is not None or (self.expires_at is not None and self.expires_at <= now)


class Allowance(NamedTuple):
    """The limits of an upload: the bytes that its owner may keep, and its key's uploads a minute. 0 means no limit.

    `kept` gives the bytes that the owner has in stores, of which the ledger knows nothing. It is asked while no other
    upload can begin, so that one which is just being stored is counted here or there.
    """

    max_stored_bytes: int = 0
    max_uploads_per_minute: int = 0
    kept: Callable[[], int] = lambda: 0


class Ledger(Protocol):
    """Remembers which owner made which object at which account. Safe for threads and processes. Raises StoreError.

    An account is one identity at one provider, whatever saved providers lead there. Ids are compared without regard to
    the case of ASCII letters.
    """

    def owners(self, account: str, ids: Sequence[str]) -> list[Owned]:
        """What is known of these ids, in any order. One look-up for all of them."""

    def begin_upload(self, account: str, owner: str, key: str, size: int, allowance: Allowance, now: float) -> int:
        """Note an upload that begins, and reserve its bytes; returns a number for it. TooLarge, or TooMany (429)."""

    def end_upload(self, number: int) -> None:
        """Nothing came of an upload, or the store has recorded it itself: give its reservation back."""

    def record(
        self, account: str, owner: str, key: str, made: Sequence[Made], now: float, upload: int = 0, parent: str = ""
    ) -> str:
        """Record objects, all or none; known ones of the same owner stay. Returns whose they are.

        `upload` is the number of the upload that has ended so. `parent` is the id of an object that they came of, such
        as a batch: they belong to whose it is by now. DuplicateId if one of them has exactly the id of another owner's.
        """

    def delete(self, account: str, item_id: str, now: float) -> None:
        """An object has been deleted."""

    def unfinished(self, account: str, owner: str, limit: int) -> list[Owned]:
        """An owner's batches and jobs that are not finished, the newest first."""

    def of_kind(self, account: str, owner: str, kind: str) -> list[Owned]:
        """An owner's objects of one kind that were not deleted here, in the order in which they were recorded."""

    def owners_of(self, account: str, kind: str) -> list[str]:
        """Who has objects of one kind, by name."""

    def since(self, account: str, now: float) -> int:
        """When the account came to this ledger."""

    def is_judged(self, account: str, owner: str, operation: str, file_id: str) -> bool:
        """Whether a file was found to name no object of others. `operation` is the one whose input it is."""

    def note_judged(self, account: str, owner: str, operation: str, file_id: str, now: float) -> None:
        """Remember that it was."""


class Send(Protocol):
    """How an operation reaches the target. The exchange owns and closes every body it opens."""

    def __call__(self, call: Call) -> Answer:
        """Send a call to the target. UpstreamAnswered for any status but 2xx, UpstreamError for a broken answer."""


Operation = Callable[[Call, Send], Answer]  # sends once, page by page, or part by part; has no I/O of its own


class Setting(NamedTuple):
    """A setting: its name, its default, the function that parses its text, its help, and where it may be set.

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

    #: the URL that paths are relative to, or a function that makes it from the target
    base_url: str | Callable[[Target], str]
    #: adds what authenticates the call upstream: headers, query parameters, or a signature over the final call
    authorize: Callable[[Call, Target], Call]
    #: the provider's error JSON → the object inside OpenAI's envelope
    error: Callable[[Any], Json]
    #: operation → the function that performs it
    operations: dict[str, Operation]


class Provider(_Required, total=False):
    """What a provider's dict may hold: its differences from OpenAI."""

    #: the path of a call below the base URL, if it depends on the target
    path: Callable[[Call, Target], str]
    #: operation → a sentence that says why this provider does not have it
    unsupported: dict[str, str]
    #: other origins that calls may go to, always without a credential
    hosts: tuple[str, ...]
    #: the form fields of an upload that are passed on, and those that an upload must have
    form_fields: tuple[str, ...] | Callable[[Target], tuple[str, ...]]
    required_form_fields: tuple[str, ...]
    #: client headers that are passed on; also read with an `x-portkey-` prefix
    client_headers: tuple[str, ...]
    #: client headers that hold a list of words, such as betas; both spellings are merged and passed on, also with a
    #: saved provider
    list_headers: tuple[str, ...]
    #: the client header that names the model, if the model is part of the URL
    model_header: str
    #: the settings that this kind of provider adds
    settings: tuple[Setting, ...]
    #: settings without which this kind of provider cannot be used
    required_settings: tuple[str, ...]
    #: returns a sentence that says what is wrong with a saved provider's settings, or "" if nothing is
    check_settings: Callable[[Mapping[str, Any]], str]
    #: returns where a provider with these settings sends requests, for people to read
    describe: Callable[[Mapping[str, Any]], str]
    #: client headers that choose a setting, if the caller brings the credential: header → setting
    client_settings: dict[str, str]
    #: client headers that carry a credential: header → the settings that such a credential needs
    credential_headers: dict[str, dict[str, str]]
    #: prefixes of Portkey's headers that change the scope of a request; with a saved provider they are refused, except
    #: for `model_header`
    scope_prefixes: tuple[str, ...]
    #: answer headers that are relayed to the client, and prefixes of the names of others
    answer_headers: tuple[str, ...]
    answer_header_prefixes: tuple[str, ...]
    #: answer headers that hold the provider's request id
    request_id_headers: tuple[str, ...]
    #: keeps files itself, each for its owner, and needs no credential; without keys, only this machine may use it. Its
    #: transport has `kept_files(target)`, which gives the `KeptFiles` of the target's owner
    is_store: bool
    #: the folder of this machine in which a provider with these settings keeps its state; the ledger may live there too
    state_folder: Callable[[Mapping[str, Any]], str]
    #: the kinds of files that a request may hold (`wire.file_types.KINDS`), for chats and Responses
    file_parts: tuple[str, ...]
    #: the same for other hosts that speak this contract: those whose origin is not that of `base_url`. Nothing is known
    #: of their Files API. Empty: every host counts as the provider's own
    host_file_parts: tuple[str, ...]
    #: a text in a chat is a `file` part with `file_data`, not a `text` part; the provider's translation must make text
    #: of it again, because `max_inline_bytes` counts it as text
    text_is_file: bool
