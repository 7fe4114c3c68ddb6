"""What the head of a request decides: who calls, where the call goes, and with which of the client's headers.

Clients send the same head again and again, so the decision is remembered by the headers that are read. The other
headers may differ from call to call.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType

from ..calls import Provider, Target
from ..config.kept_files import store_of
from ..config.load import Config
from ..errors import BadRequest
from ..providers.table import read_headers
from . import portkey
from .address import client_site
from .auth import AUTH_HEADERS, authenticate, require_this_machine
from .request import Head
from .target import (
    OWNER,
    TARGET_HEADERS,
    chat_targets,
    check_store,
    client_headers,
    may_name_in_model,
    may_use_store,
    name_in_headers,
    resolve,
    store_target,
)

MAX_REMEMBERED = 128  # heads
MAX_CHARACTERS = 4096  # of the headers that are read, else the head is not remembered


class Admission:
    """What one head decides: the caller now; the target and its headers when they are first needed.

    `sharer` is whom the request counts for where callers share something: its gateway key, else its client's address.
    Raises what `authenticate`, `resolve` and `client_headers` raise. Thread-safe: every thread gets the same result.
    """

    def __init__(self, head: Head, config: Config, providers: Mapping[str, Provider]) -> None:
        self._head = head
        self._config = config
        self._providers = providers
        self.caller = authenticate(head, config.keys)
        proxies, forwarded_for = config.settings["trusted_proxies"], head.headers.get("x-forwarded-for", "")
        self.sharer = self.caller.name or client_site(head.client_address, forwarded_for, proxies)
        self._targets: dict[str, Target] = {}  # the setting that has the default → the target that the headers name
        self._files_target: Target | None = None
        self._headers: dict[str, Mapping[str, str]] = {}  # a target's name → the client's headers for it
        self._portkey_config: portkey.Config | None = None

    # Not a cached_property: before Python 3.12 it has a lock, which may be held when the process forks.
    @property
    def target(self) -> Target:
        """The target of a request whose headers alone name a provider."""
        return self._named("default_chat")

    @property
    def files_target(self) -> Target:
        """The target of a file operation: the provider that the headers name, or the store that keeps its files."""
        if self._files_target is None:
            named = self._named("default_files")
            if store := store_of(named.settings):
                check_store(store, named, self._head, self.caller)
                named = store_target(store, self._head, self.caller, self._config, self._providers)
            if OWNER in self._head.headers and not (named.account or named.provider.get("is_store")):
                message = f"The header {OWNER} is for files that have owners here; those of this provider have none."
                raise BadRequest(message, param=OWNER)
            self._files_target = named
        return self._files_target

    def _named(self, default: str) -> Target:
        found = self._targets.get(default)
        if found is None:
            found = resolve(self._head, self.caller, self._config, self._providers, default=default)
            self._targets[default] = found
        return found

    def target_by_model(self, slug: Callable[[], str]) -> Target:
        """The target of a request with a model; `slug` reads the saved provider that it names, or "".

        That one wins over a header, because it says what is meant for this request, while a header may stand for all of
        a client's. A header that names the same provider decides about the credential: a plain name, the caller's own.
        """
        in_header = name_in_headers(self._head, self._config.scope)
        if in_header:
            _ = self.target  # what is wrong with it is said before the body is read
        of_model = slug() if may_name_in_model(self._head, self.caller) else ""
        if of_model in ("", in_header):
            return self.target
        return resolve(self._head, self.caller, self._config, self._providers, of_model)

    def stores(self, target: Target) -> tuple[list[Target], list[Target]]:
        """The stores that this caller may use: those whose files may go to this target, and the others.

        Forbidden without a gateway key, unless the request comes from this machine.
        """
        if self._config.stores and self.caller.key is None:
            require_this_machine(self._head)
        usable = [name for name in self._config.stores if may_use_store(name, target, self.caller)]
        allowed = () if self._is_elsewhere(target) else self._config.inlined[target.name]
        targets = [store_target(name, self._head, self.caller, self._config, self._providers) for name in usable]
        return [each for each in targets if each.name in allowed], [
            each for each in targets if each.name not in allowed
        ]

    def _is_elsewhere(self, target: Target) -> bool:
        """Whether the client has chosen another address by header than the one that the store allows."""
        chosen = target.provider.get("client_settings", {}).values()
        return any(target.settings[name] != self._config.providers[target.name][name] for name in chosen)

    def may_inline(self, target: Target) -> bool:
        """Whether any store's files may be put into requests to this target."""
        return bool(self._config.inlined[target.name])

    def may(self, operation: str) -> bool:
        """Whether this caller's key allows an operation."""
        return self.caller.key is None or self.caller.key.may_do(operation)

    @property
    def portkey_config(self) -> portkey.Config:
        """What the header x-portkey-config says. Raises as `read_config` does."""
        if self._portkey_config is None:
            self._portkey_config = portkey.read_config(self._head.headers, self._config.scope)
        return self._portkey_config

    def chat_targets(self) -> list[Target]:
        """The saved providers that a caller who names none may use for chats; empty if a header names one."""
        if name_in_headers(self._head, self._config.scope):
            return []
        return chat_targets(self._head, self.caller, self._config, self._providers)

    def headers_to(self, target: Target) -> Mapping[str, str]:
        """The client's headers for this target. Read-only, because other requests share them."""
        found = self._headers.get(target.name)
        if found is None:
            found = self._headers[target.name] = MappingProxyType(client_headers(self._head, target))
        return found


class Gate:
    """Admits requests, and remembers up to MAX_REMEMBERED heads. A refused request is not remembered."""

    def __init__(self, config: Config, providers: Mapping[str, Provider]) -> None:
        self._config = config
        self._providers = providers
        self._names = tuple(sorted(AUTH_HEADERS | TARGET_HEADERS | read_headers(providers)))
        self._known: dict[Hashable, Admission] = {}

    def admit(self, head: Head) -> Admission:
        """The admission of a request with this head. Raises what `authenticate` raises."""
        prefixes = self._config.scope.prefixes
        scoped = tuple([name for name in head.headers if name.startswith(prefixes)])
        values = tuple(map(head.headers.get, self._names + scoped))
        key = (head.client_address, scoped, values)
        found = self._known.get(key)
        if found is None:
            read = {name: value for name, value in zip(self._names + scoped, values) if value is not None}
            found = Admission(Head(read, head.client_address), self._config, self._providers)
            if sum(map(len, (*read, *read.values()))) <= MAX_CHARACTERS:
                self._remember(key, found)
        return found

    def _remember(self, key: Hashable, admission: Admission) -> None:
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        self._known[key] = admission
