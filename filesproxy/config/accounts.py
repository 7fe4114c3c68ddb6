"""Where owners share an account at a provider, and whether a ledger keeps them apart there.

An *account* is one identity at one provider: whatever saved providers lead there share its files, batches and so on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..calls import Provider, Target
from ..errors import FilesproxyError
from ..operations import FILE_OPERATIONS, OWNING
from ..wire import urls
from .credentials import is_saved
from .ini import Source
from .kept_files import OWN

if TYPE_CHECKING:
    from .load import Key

Providers = Mapping[str, Mapping[str, Any]]
Table = Mapping[str, Provider]


class SharedAccounts(NamedTuple):
    """Where owners are kept apart.

    `ledger` is the folder of the ledger, "" if nothing needs one. `accounts` maps the saved providers where owners are
    kept apart to their accounts. `for_chats` maps saved providers to the keys that have only chats there while other
    owners have files, and no ledger says whose those are.
    """

    ledger: str = ""
    accounts: Mapping[str, str] = {}
    for_chats: Mapping[str, frozenset[str]] = {}


class _Account(NamedTuple):
    name: str
    providers: list[str]
    with_objects: list[Key]  # keys that may make objects there or use them
    for_chats: list[Key]  # keys that may not

    @property
    def owners(self) -> list[str]:
        """Whose keys may make objects there or use them."""
        return sorted({key.whose for key in self.with_objects})

    @property
    def is_counted(self) -> bool:
        """Whether what an owner has there counts towards a limit."""
        return any(key.max_stored_bytes for key in self.with_objects)

    @property
    def is_shared(self) -> bool:
        """Whether an owner could reach objects of another."""
        others = {key.whose for key in self.for_chats}
        return len({*self.owners, *others}) > 1 and bool(self.with_objects)


def shared_accounts(
    settings: Mapping[str, Any], providers: Providers, keys: Sequence[Key], table: Table
) -> SharedAccounts:
    """Where owners are kept apart, in a configuration without problems."""
    folder = _folder(settings, providers, table)
    has_limits = any(key.has_limits for key in keys)
    found = _accounts(providers, keys, table) if settings["isolation"] else []
    if not folder:
        for_chats = {
            name: frozenset(key.name for key in account.for_chats)
            for account in found
            if account.is_shared
            for name in account.providers
        }
        return SharedAccounts(for_chats=for_chats)
    kept = [account for account in found if account.is_shared or account.is_counted or settings["ledger"]]
    kept = [account for account in kept if account.with_objects]
    accounts = {name: account.name for account in kept for name in account.providers}
    return SharedAccounts(folder if accounts or has_limits else "", accounts)


def problems(
    source: Source, settings: Mapping[str, Any], providers: Providers, keys: Sequence[Key], table: Table
) -> Iterator[str]:
    """Why owners could not be kept apart; limits that nothing could count."""
    folder = _folder(settings, providers, table)
    for key in keys:
        for name in ("max_stored_bytes", "max_uploads_per_minute"):
            if getattr(key, name) and not folder:
                yield f"{source.place(f'key:{key.name}', name)}: {name} needs `ledger = FOLDER` in [filesproxy]."
    accounts = _accounts(providers, keys, table)
    if not settings["isolation"]:
        for key in keys:
            if key.max_stored_bytes and any(key in account.with_objects for account in accounts):
                place = source.place(f"key:{key.name}", "max_stored_bytes")
                yield f"{place}: with isolation = no, nothing counts the files that the key has at providers."
        return
    apart = [account for account in accounts if len(account.owners) > 1 and not folder]
    if apart:
        names = sorted({name for account in apart for name in account.providers})
        owners = sorted({owner for account in apart for owner in account.owners})
        yield (
            f"{source.place(f'provider:{names[0]}')}: the owners {_all(owners)} may have files and other objects at "
            f"{_all(names)}, and nothing remembers whose they are. One of these lines helps: `ledger = FOLDER` in "
            "[filesproxy], which keeps them apart; `isolation = no` in [filesproxy], if they may share everything; the "
            "same `owner = NAME` in their [key:…] sections, if they are one."
        )
    yield from _same_identity(source, providers, accounts, table)


def _all(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _same_identity(source: Source, providers: Providers, accounts: Sequence[_Account], table: Table) -> Iterator[str]:
    """Accounts with the same address and credential: by the one, an owner could reach what is kept at another."""
    found: dict[Any, dict[str, _Account]] = {}
    for account in accounts:
        for name in account.providers:
            identity = _identity(name, providers[name], table[providers[name]["kind"]])
            found.setdefault(identity, {})[name] = account
    for named in found.values():
        keys = [key for account in named.values() for key in (*account.with_objects, *account.for_chats)]
        is_shared = len({key.whose for key in keys}) > 1
        if is_shared and any(account.with_objects for account in named.values()):
            first, *others = named
            for name in others:
                if named[name] is not named[first]:
                    place = source.place(f"provider:{name}", "account")
                    alike = f"{name} and {first} have the same address and credential"
                    yield f"{place}: {alike}: write `account = {named[first].name}` in [provider:{name}]."


def _identity(name: str, own: Mapping[str, Any], kind: Provider) -> Any:
    """What tells the provider who calls: its address, and the credential or else the certificate."""
    address = kind["base_url"]
    try:
        address = address(Target(name, kind, own["base_url"], own)) if callable(address) else own["base_url"]
        _, host, port = urls.origin(address)
    except FilesproxyError:  # it depends on the client
        return name
    is_usual = port in (80, 443)  # of http and https: the same host answers at both
    return (host or "").rstrip("."), None if is_usual else port, own["credential"] or own["client_cert"]


def _accounts(providers: Providers, keys: Sequence[Key], table: Table) -> list[_Account]:
    """The accounts of all saved providers, by the keys that may use them."""
    named: dict[str, list[str]] = {}
    for name, own in providers.items():
        if is_saved(own) and not table[own["kind"]].get("is_store"):
            named.setdefault(own["account"] or name, []).append(name)
    found = []
    for account, names in named.items():
        has = {name: _with_objects(table[providers[name]["kind"]]["operations"], providers[name]) for name in names}
        users = [key for key in keys if any(map(key.may_use, names))]
        owning = [key for key in users if any(key.may_use(name) and any(map(key.may_do, has[name])) for name in names)]
        found.append(_Account(account, names, owning, [key for key in users if key not in owning]))
    return found


def _with_objects(operations: Collection[str], own: Mapping[str, Any]) -> list[str]:
    """The operations by which a caller has objects at this provider. Its files may be elsewhere."""
    elsewhere = () if own["files"] in ("", OWN) else FILE_OPERATIONS
    return [name for name in OWNING if name in operations and name not in elsewhere]


def _folder(settings: Mapping[str, Any], providers: Providers, table: Table) -> str:
    """The ledger's folder: as it is set, or that of the one provider that keeps its state in a folder."""
    places = [(own, table[own["kind"]].get("state_folder")) for own in providers.values()]
    folders = {folder(own) for own, folder in places if folder}
    return str(settings["ledger"] or (folders.pop() if len(folders) == 1 else ""))
