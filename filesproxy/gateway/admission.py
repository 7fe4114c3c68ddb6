"""Who calls, where to, and what goes along: all that a request's headers decide, once for the same headers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from types import MappingProxyType

from ..calls import Provider, Target, read_headers
from ..config.load import Config, Key
from ..wire.headers import single, words
from .auth import authenticate, may_go
from .target import resolve
from .wsgi import Head

MAX_REMEMBERED = 128  # admissions
MAX_CHARACTERS = 4096  # of the headers of one, else it is not remembered
#: headers that differ from call to call, and say neither who calls nor where to: of providers here, at least
PASSING = frozenset(
    {
        "content-length",
        "content-type",
        "idempotency-key",
        "if-range",
        "range",
        "traceparent",
        "tracestate",
        "x-portkey-trace-id",
        "x-request-id",
        "x-stainless-retry-count",
    }
)


class Admission:
    """What a head decides. Raises what `authenticate` does at once, and what the others do when it is asked for them.

    Safe for threads: each answer is the same, whoever makes it first.
    """

    def __init__(self, head: Head, config: Config, providers: Mapping[str, Provider]) -> None:
        self._head = head
        self._config = config
        self._providers = providers
        self.caller = authenticate(head, config.keys)
        self._target: Target | None = None
        self._headers: Mapping[str, str] | None = None

    # No cached_property: before Python 3.12 it holds a lock, one for all, which a fork may leave held.
    @property
    def target(self) -> Target:
        """The target of a request whose headers alone name a provider."""
        if self._target is None:
            self._target = resolve(self._head, self.caller, self._config, self._providers)
        return self._target

    @property
    def headers(self) -> Mapping[str, str]:
        """What goes along to that target."""
        if self._headers is None:
            self._headers = self.headers_to(self.target)
        return self._headers

    def named_target(self, slug: Callable[[], str]) -> Target:
        """The target of a request whose model may name the provider, as `slug` says."""
        return resolve(self._head, self.caller, self._config, self._providers, slug)

    def headers_to(self, target: Target) -> Mapping[str, str]:
        """What goes along to another target. Read-only: other requests get it too."""
        return MappingProxyType(client_headers(self._head, target, self._config.keys))


class Gate:
    """Tells what a request's headers decide; of headers that were there before, at once.

    Clients send the same ones with every call, and to read them anew is a sixth of what a small one costs. It does not
    look at those that pass. Who is no caller is not remembered. Safe for threads.
    """

    def __init__(self, config: Config, providers: Mapping[str, Provider]) -> None:
        self._config = config
        self._providers = providers
        self._passing = PASSING - read_headers(providers)
        self._known: dict[Hashable, Admission] = {}

    def admit(self, request: Head) -> Admission:
        """The admission. Raises what `authenticate` does."""
        names = tuple(sorted(request.headers.keys() - self._passing))
        values = tuple(map(request.headers.__getitem__, names))
        said = (request.client_address, names, values)
        found = self._known.get(said)
        if found is None:
            head = Head(dict(zip(names, values)), request.client_address)
            found = Admission(head, self._config, self._providers)
            if sum(map(len, (*names, *values))) <= MAX_CHARACTERS:
                self._keep(said, found)
        return found

    def _keep(self, said: Hashable, made: Admission) -> None:
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        self._known[said] = made


def client_headers(head: Head, target: Target, keys: Sequence[Key]) -> dict[str, str]:
    """What the provider lets a client say in headers, such as its organisation; Portkey's spelling wins.

    A gateway key among it does not go upstream. BadRequest for a header that is no good.
    """
    names = target.provider.get("client_headers", ())
    said = {name: single(head.headers, f"x-portkey-{name}") or single(head.headers, name) for name in names}
    for name in target.provider.get("list_headers", ()):
        found = words(head.headers, name, f"x-portkey-{name}")
        said[name] = ",".join([word for word in found if may_go(word, keys)])
    return {name: value for name, value in said.items() if value and may_go(value, keys)}
