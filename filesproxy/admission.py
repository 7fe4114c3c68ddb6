"""Who calls, where to, and what goes along: all that a request's headers decide, once for the same headers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from .auth import authenticate, may_go
from .config import Config, Key
from .headers import single, words
from .provider import Provider, Target, read_headers
from .target import resolve
from .wsgi import Request

MAX_REMEMBERED = 128  # results
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

Result = TypeVar("Result")


class Resolver:
    """Tells from a request's headers who calls, where to, and what goes along; from headers seen before, at once.

    Raises what `authenticate`, `resolve` and `client_headers` raise.
    """

    def __init__(self, config: Config, providers: Mapping[str, Provider]) -> None:
        self._config = config
        self._providers = providers
        passing = PASSING - read_headers(providers)
        self.caller = caller = remembered(lambda request: authenticate(request, config.keys), passing)
        #: the target and the client's headers, of a request whose headers alone name a provider
        self.target = target = remembered(lambda request: resolve(request, caller(request), config, providers), passing)
        self.headers = remembered(lambda request: client_headers(request, target(request), config.keys), passing)

    def named_target(self, request: Request, slug: Callable[[], str]) -> Target:
        """The target of a request whose model may name the provider, as `slug` says."""
        return resolve(request, self.caller(request), self._config, self._providers, slug)


def client_headers(request: Request, target: Target, keys: Sequence[Key]) -> dict[str, str]:
    """What the provider lets a client say in headers, such as its organisation; Portkey's spelling wins.

    A gateway key among it does not go upstream. BadRequest for a header that is no good.
    """
    names = target.provider.get("client_headers", ())
    said = {name: single(request.headers, f"x-portkey-{name}") or single(request.headers, name) for name in names}
    for name in target.provider.get("list_headers", ()):
        found = words(request.headers, name, f"x-portkey-{name}")
        said[name] = ",".join([word for word in found if may_go(word, keys)])
    return {name: value for name, value in said.items() if value and may_go(value, keys)}


def remembered(function: Callable[[Request], Result], passing: frozenset[str]) -> Callable[[Request], Result]:
    """The pure function of a request's peer and headers, of which it looks at none that pass, with its last results.

    Clients send the same headers with every call, and to read them anew is a sixth of what a small one costs. Failures
    are not kept. Safe for threads.
    """
    known: dict[Hashable, Result] = {}

    def known_or_made(request: Request) -> Result:
        marks = request.marks(passing)
        found = known.get(marks)
        if found is not None:
            return found
        made = function(request)
        if sum(map(len, marks)) <= MAX_CHARACTERS:
            if len(known) >= MAX_REMEMBERED:
                known.clear()
            known[marks] = made
        return made

    return known_or_made
