"""`filesproxy files` for files at providers: what the ledger knows of them, and what it should.

It works on the ledger itself, beside a running gateway, and calls the provider with the saved credential.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from ..app import make_transports
from ..calls import Answer, Call, Json, Made, Owned
from ..config.load import Config
from ..config.settings import is_name
from ..errors import ConfigError, FilesproxyError, UpstreamAnswered, UpstreamError
from ..exchange.run import run as exchange
from ..gateway.owned_lists import walked
from ..gateway.ownership import Owners, another
from ..gateway.recording import Recorder, described, text, whole
from ..gateway.target import saved_target
from ..operations import is_id
from ..providers import PROVIDERS
from ..transports.local.ledger import DAY, existing
from . import lines

_NEAR_SECONDS = 3600  # between the begin of an upload and the file that came of it, at most
_EXPORTED = ("id", "account", "owner", "key", "bytes", "created_at", "recorded_at", "expires_at", "deleted_at",
             "filename", "purpose", "sha256")  # fmt: skip


class Account:
    """An account at a provider, by a saved provider that leads there. Raises ConfigError, StoreError, UpstreamError."""

    def __init__(self, config: Config, provider: str) -> None:
        self.name = config.shared.accounts[provider]
        found = existing(config.shared.ledger)
        if found is None:
            raise ConfigError(f"there is no ledger in {config.shared.ledger}; the gateway makes it when it needs it.")
        self.ledger = found
        self.owners = {key.whose for key in config.keys}
        self._recorder = Recorder(self.ledger, Owners(self.ledger), config.settings["response_days"] * DAY)
        self._target = saved_target(provider, config, PROVIDERS)
        self._transports = make_transports()
        self._now = time.time()

    def send(self, call: Call) -> Answer:
        """Perform a call with the saved credential."""
        return exchange(call, self._target, self._transports)

    def files(self, owner: str | None = None) -> Iterator[Owned]:
        """What the ledger knows of files, deleted ones included."""
        return (row for row in self.ledger.every(self.name, owner) if row.kind == "file")

    def record_results(self) -> None:
        """Record what has come of all owners' batches and jobs, which may not have asked for it yet."""
        for row in self.ledger.every(self.name):
            if row.is_open and row.kind in ("batch", "job"):
                with suppress(FilesproxyError):  # it stays as it is; its files are shown, with their purpose
                    self._recorder.record_results(row, Call("list_files", "GET", "/files", now=self._now), self.send)

    def at_provider(self) -> dict[str, Json]:
        """Id → file object of every file that the provider lists. UpstreamError if there are too many."""
        walk = walked(Call("list_files", "GET", "/files", now=self._now), "file", {}, self.send, self._now)
        if not walk.is_whole:
            raise UpstreamError("The provider's list is too long to walk.", code="upstream_answer_too_large")
        return {file_id: json.loads(listed) for file_id, listed in walk.objects.items()}

    def delete(self, file_id: str) -> bool:
        """Delete a file at the provider and in the ledger. False if the provider does not have it."""
        call = Call("list_files", "GET", "/files", now=self._now)
        try:
            self.send(another("delete_file", call, file_id))
        except UpstreamAnswered as error:
            if error.status != 404:
                raise
            self.ledger.delete(self.name, file_id, time.time())
            return False
        self.ledger.delete(self.name, file_id, time.time())
        return True


def provider_of_account(config: Config) -> dict[str, str]:
    """Account → a saved provider that leads there."""
    return {account: provider for provider, account in reversed(list(config.shared.accounts.items()))}


def list_files(account: Account, arguments: argparse.Namespace) -> int:
    """Print the files of an account; as JSON also those that were deleted lately."""
    count = size = 0
    for row in account.files(arguments.owner):
        if arguments.json:
            print(json.dumps({name: getattr(row, name) for name in _EXPORTED}))
        elif row.deleted_at is None:
            print(lines.line(row.id, row.owner, row.bytes, row.created_at, row.expires_at, row.filename))
            count, size = count + 1, size + (row.bytes or 0)
    if not arguments.json:
        print(f"{lines.counted(count, size)} at {account.name}")
    return 0


def adopt(account: Account, arguments: argparse.Namespace) -> int:
    """Give all objects of one owner at an account to another."""
    _check_owner(account, arguments.new)
    count = account.ledger.give(arguments.old, arguments.new, account.name)
    given = f"{count} object{'s' * (count != 1)} of {lines.printable(arguments.old) or 'nobody'} at {account.name}"
    print(f"{given} given to {arguments.new}; running gateways know it within a minute")
    return 0


def delete(account: Account, arguments: argparse.Namespace) -> int:
    """Delete files at the provider, whoever has them."""
    return _deleted(account, arguments.ids)


def sweep(account: Account, arguments: argparse.Namespace) -> int:
    """Delete at the provider what has expired by the ledger, and forget what has ended."""
    now = time.time()
    status = _deleted(account, [row.id for row in account.ledger.expired(account.name, now)], " after expiry")
    account.ledger.prune(now)
    return status


def orphans(account: Account, arguments: argparse.Namespace) -> int:
    """Print the files at the provider that nobody owns; adopt or delete those of them that are named."""
    if arguments.ids and not (arguments.to or arguments.delete):
        raise ConfigError("say --to NAME or --delete for the files that are named.")
    unowned = _unowned(account)
    if not (arguments.to or arguments.delete):
        for file_id, file in unowned.items():
            created_at = whole(file.get("created_at")) or 0
            shown = lines.line(file_id, "", whole(file.get("bytes")), created_at, None, text(file.get("filename")))
            purpose = lines.printable(text(file.get("purpose")))
            print(f"{shown}  {purpose}{_maybe(account, created_at)}")
        print(f"{lines.files(len(unowned))} at {account.name} that nobody owns")
        return 0
    if not arguments.ids:
        raise ConfigError("name the ids of the files to adopt or delete.")
    missing = [file_id for file_id in arguments.ids if file_id not in unowned]
    for file_id in missing:
        print(f"{lines.printable(file_id)}: no file that nobody owns")
    found = [file_id for file_id in arguments.ids if file_id in unowned]
    if arguments.delete:
        return _deleted(account, found) or bool(missing)
    if not is_name(arguments.to):
        raise ConfigError("--to must be a name of lower-case letters, digits, - and _.")
    _check_owner(account, arguments.to)
    now = time.time()
    made = [
        described(Made(file_id, "file", whole(unowned[file_id].get("created_at")) or int(now)), unowned[file_id])
        for file_id in found
    ]
    account.ledger.record(account.name, arguments.to, "", made, now)
    print(f"{lines.files(len(found))} given to {arguments.to}")
    return bool(missing)


def _check_owner(account: Account, name: str) -> None:
    """Say that nobody will see what is given to an owner that no key has: it may be misspelt."""
    if name not in account.owners:
        print(f"no gateway key has the owner {name}: nobody sees its objects until one has", file=sys.stderr)


def _unowned(account: Account) -> dict[str, Json]:
    account.record_results()
    found = account.at_provider()
    owned = {row.id for row in account.ledger.owners(account.name, list(found))}
    return {file_id: file for file_id, file in found.items() if file_id not in owned}


def _maybe(account: Account, created_at: int) -> str:
    """Whose the file may be: who had begun an upload shortly before it was there, and never heard of its end."""
    near = [
        f"{owner} (key {key})"
        for owner, key, _, began_at in account.ledger.uploads(account.name)
        if began_at - 60 <= created_at <= began_at + _NEAR_SECONDS
    ]
    return f"  perhaps of {', '.join(dict.fromkeys(near))}" if near else ""


def _deleted(account: Account, ids: list[str], when: str = "") -> int:
    """Delete files; 1 if one could not be."""
    count = failed = 0
    for file_id in ids:
        try:
            if not is_id(file_id):
                raise ConfigError(f"{lines.printable(file_id)[:128]} cannot be the id of a file.")
            if account.delete(file_id):
                count += 1
            else:
                print(f"{lines.printable(file_id)}: the provider does not have it")
                failed += 1
        except FilesproxyError as error:
            print(lines.printable(f"{file_id}: {error.message}"), file=sys.stderr)
            failed += 1
    print(f"{lines.files(count)} deleted at {account.name}{when}")
    return 1 if failed else 0


#: the verbs of `files` that work on files at providers
VERBS: Mapping[str, Callable[[Account, argparse.Namespace], int]] = {
    "list": list_files,
    "adopt": adopt,
    "delete": delete,
    "sweep": sweep,
    "orphans": orphans,
}
