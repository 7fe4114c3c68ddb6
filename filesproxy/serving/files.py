"""`filesproxy files`: looks at the files that a local store keeps, and repairs, copies and restores them.

It works on the folder itself, beside a running gateway too.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ..app import Application
from ..config.load import Config
from ..config.settings import is_name
from ..errors import ConfigError, FilesproxyError, StoreError
from ..transports.local import maintenance
from ..transports.local.backup import backup
from ..transports.local.ledger import existing
from ..transports.local.maintenance import Count
from ..transports.local.transport import LocalTransport
from . import accounts, lines


def add_parser(commands: Any) -> None:
    """Add the command `files` with its verbs to a parser's commands."""
    text = "list what `local` keeps, and look after it; without a verb it lists"
    parser = commands.add_parser("files", help=text, allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, text in _HELP.items():
        of_verb = verbs.add_parser(verb, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        of_verb.add_argument("--config", metavar="FILE", help="INI file; default: $FILESPROXY_CONFIG")
        of_verb.add_argument("--provider", metavar="NAME", help="the saved provider whose files are meant")
        if verb == "list":
            of_verb.add_argument("--owner", metavar="NAME", help="only the files of this owner")
            of_verb.add_argument("--json", action="store_true", help="a line of JSON for each file, with its SHA-256")
        if verb == "adopt":
            of_verb.add_argument("--from", dest="old", metavar="NAME", required=True, help='the owner; "" for nobody')
            of_verb.add_argument("--to", dest="new", metavar="NAME", required=True, help="the new owner")
        if verb == "delete":
            of_verb.add_argument("ids", metavar="ID", nargs="+", help="the id of a file")
        if verb == "orphans":
            of_verb.add_argument("--to", metavar="NAME", default="", help="the owner who gets the files that are named")
            of_verb.add_argument("--delete", action="store_true", help="delete the files that are named")
            of_verb.add_argument("ids", metavar="ID", nargs="*", help="the id of a file")
        if verb == "backup":
            of_verb.add_argument("target", metavar="DIR", help="a folder that is not there yet, or is empty")
        if verb == "rebuild":
            of_verb.add_argument("--force", action="store_true", help="replace an index that is usable")


def run(arguments: argparse.Namespace, config: Config) -> int:
    """Run a verb. 0 if all was well, 1 if something is wrong with the files. Raises ConfigError."""
    if arguments.verb == "adopt" and not is_name(arguments.new):
        raise ConfigError("--to must be a name of lower-case letters, digits, - and _.")
    return max([_run_at(name, arguments, config) for name in _places(config, arguments)], default=0)


#: verbs that mean every place where there are files, if no provider is named
_EVERYWHERE = ("list", "adopt", "sweep")


def _places(config: Config, arguments: argparse.Namespace) -> list[str]:
    """The providers that a verb means: those that keep files here, and for each account at a provider one of it.

    ConfigError if it is not clear which one is meant, or the verb does not fit it.
    """
    verb, named = arguments.verb, arguments.provider
    here = list(_folders(config)) if verb in _VERBS else []
    elsewhere = list(accounts.provider_of_account(config).values()) if verb in accounts.VERBS else []
    known = {*here, *(config.shared.accounts if verb in accounts.VERBS else ())}
    if named in known:
        return [named]
    if not known:
        also = ", and there is no ledger of files at providers" if verb in accounts.VERBS else ""
        raise ConfigError(f"no provider keeps files here{also}.")
    if named is None and verb in _EVERYWHERE and len(here) <= 1:
        return [*here, *elsewhere]
    only = here or elsewhere  # ids of files that are kept here are the gateway's own
    if named is None and len(only) == 1:
        return only
    raise ConfigError(f"--provider must be one of {', '.join(sorted(known))}.")


def _run_at(name: str, arguments: argparse.Namespace, config: Config) -> int:
    folder = _folders(config).get(name)
    try:
        if folder is not None:
            return _VERBS[arguments.verb](folder, arguments)
        return accounts.VERBS[arguments.verb](accounts.Account(config, name), arguments)
    except ConfigError:
        raise
    except FilesproxyError as error:
        print(f"filesproxy: {folder or name}: {lines.printable(error.message)}", file=sys.stderr)
        return 1


def unusable(config: Config) -> list[str]:
    """Why folders in which files or the ledger are to be kept cannot be used, each with its path."""
    ledger, folders = config.shared.ledger, _folders(config).values()
    found = [maintenance.unusable_for_ledger(ledger)] if ledger and ledger not in folders else []
    return list(filter(None, [*map(maintenance.unusable, folders), *found]))


def warnings(config: Config) -> list[str]:
    """What stands in the stores that no key reaches: files of owners that have been renamed, or of nobody."""
    found = []
    known = {key.whose for key in config.keys} or {""}
    for folder in _folders(config).values():
        with suppress(StoreError):  # `unusable` says why
            strangers = [name for name in maintenance.owners(folder) if name not in known]
            if named := ", ".join(filter(None, strangers)):
                adopt = "`files adopt` gives them to another owner"
                found.append(f"{folder} has files of {named}, and no gateway key has that owner: {adopt}.")
            if "" in strangers:
                adopt = "`files adopt --from ''` gives them to an owner"
                found.append(f"{folder} has files from a time without gateway keys: {adopt}.")
    with suppress(StoreError):
        ledger = existing(config.shared.ledger)
        for name in [name for name in ledger.known_owners() if name not in known] if ledger else ():
            helps = f"write `owner = {name}` in the section of its key, or `files adopt --from {name} --to NAME`"
            found.append(f"The ledger has objects of {name}, but no gateway key has that owner: {helps}.")
        accounts_of_sections = set(config.shared.accounts.values())
        for name in [name for name in ledger.known_accounts() if name not in accounts_of_sections] if ledger else ():
            helps = f"write `account = {name}` in the section that leads there"
            found.append(f"The ledger has objects at the account {name}, which no section has: {helps}.")
    return found


def prepare(application: Application) -> None:
    """Log what `check` would say of the folders, and begin to sweep the stores: requests may be long in coming.

    Never raises because of a store: the gateway serves everything else.
    """
    logger, config = logging.getLogger("filesproxy"), application.config
    try:
        for problem in unusable(config):
            logger.error(problem)
        for warning in warnings(config):
            logger.warning(warning)
    except Exception as error:
        logger.error("the folders of local were not looked at (%s)", type(error).__name__)
    local = application.transports["local"]
    for folder in _folders(config).values():
        try:
            if isinstance(local, LocalTransport) and os.path.isdir(os.path.join(folder, "blobs")):
                local.store(folder).begin_sweep()
        except StoreError:
            pass  # `unusable` said why
        except Exception as error:
            logger.error("%s cannot be used (%s)", folder, type(error).__name__)


def _folders(config: Config) -> dict[str, str]:
    return {name: str(own["folder"]) for name, own in config.providers.items() if own["kind"] == "local"}


def _list(folder: str, arguments: argparse.Namespace) -> int:
    if arguments.json:
        for row in maintenance.files(folder, arguments.owner):
            print(json.dumps({name: row[name] for name in _EXPORTED}))
        return 0
    count = size = 0
    for row in maintenance.files(folder, arguments.owner):
        print(lines.line(row["id"], row["owner"], row["bytes"], row["created_at"], row["expires_at"], row["filename"]))
        count, size = count + 1, size + row["bytes"]
    print(f"{lines.counted(count, size)} in {folder}")
    _say_lost(maintenance.lost(folder))
    return 0


def _adopt(folder: str, arguments: argparse.Namespace) -> int:
    left: list[str] = []
    count = maintenance.adopt(folder, arguments.old, arguments.new, _both(print, left.append))
    print(f"{lines.counted(*count)} of {lines.printable(arguments.old) or 'nobody'} now belong to {arguments.new}")
    return 1 if left else 0


def _delete(folder: str, arguments: argparse.Namespace) -> int:
    missing: list[str] = []
    print(f"{lines.counted(*maintenance.delete(folder, arguments.ids, _both(print, missing.append)))} deleted")
    return 1 if missing else 0


def _sweep(folder: str, arguments: argparse.Namespace) -> int:
    print(f"{lines.counted(*maintenance.sweep(folder))} had expired, and nothing is left of them")
    _say_lost(maintenance.lost(folder))
    return 0


def _verify(folder: str, arguments: argparse.Namespace) -> int:
    found = maintenance.verify(folder, print)
    print(f"{lines.counted(*found.kept)} in {folder}: {found.problems or 'no'} problem{'s' * (found.problems != 1)}")
    if found.without_sha256:
        print(f"{found.without_sha256} of them have no SHA-256: only their size was compared")
    if found.without_sidecar:
        print(f"{found.without_sidecar} of them have no sidecar: the next sweep of a gateway writes it")
    _say_lost(found.lost)
    _say_unanswered(found.unanswered)
    return 1 if found.problems or found.lost.files > found.unanswered else 0


def _rebuild(folder: str, arguments: argparse.Namespace) -> int:
    left_out: list[str] = []
    count, aside = maintenance.rebuild(folder, _both(print, left_out.append), arguments.force)
    print(f"the new index has {lines.files(count)}" + (f"; the old one is kept as {aside}" if aside else ""))
    return 1 if left_out else 0


def _backup(folder: str, arguments: argparse.Namespace) -> int:
    missing: list[str] = []
    target = os.path.abspath(arguments.target)
    count, is_linked = backup(folder, target, _both(print, missing.append))
    how = ", as hard links: copy the folder to another disk" if is_linked else ""
    print(f"{lines.counted(*count)} copied to {target}{how}")
    return 1 if missing else 0


def _restore(folder: str, arguments: argparse.Namespace) -> int:
    left: list[str] = []
    restored, unanswered = maintenance.restore(folder, _both(print, left.append))
    print(f"{lines.counted(*restored)} restored")
    _say_unanswered(unanswered)
    return 1 if left else 0


def _discard(folder: str, arguments: argparse.Namespace) -> int:
    print(f"{lines.counted(*maintenance.discard(folder))} removed from lost/")
    return 0


_HELP = {
    "list": "list all files of all owners: id, owner, bytes, time, age, expiry, name",
    "adopt": "make another owner the owner of all files of one",
    "delete": "delete files, whoever has them",
    "sweep": "remove what has expired; at providers without an expiry of their own, only this does",
    "orphans": "list, adopt or delete files at a provider that nobody owns, such as those of a crash",
    "verify": "compare the index with the files and their SHA-256; status 1 if something is wrong",
    "rebuild": "make a new index from the files, if the index is damaged or gone",
    "backup": "copy the store to a folder while it is in use",
    "restore": "put what is in lost/ back among the files",
    "discard": "remove what is in lost/ for good",
}
_VERBS: Mapping[str, Callable[[str, argparse.Namespace], int]] = {
    "list": _list,
    "adopt": _adopt,
    "delete": _delete,
    "sweep": _sweep,
    "verify": _verify,
    "rebuild": _rebuild,
    "backup": _backup,
    "restore": _restore,
    "discard": _discard,
}


#: the verbs, and what else can follow `files`
WORDS = (*_HELP, "-h", "--help")
_EXPORTED = ("id", "owner", "bytes", "created_at", "expires_at", "filename", "purpose", "content_type", "sha256")


def _both(*functions: Callable[[str], object]) -> Callable[[str], object]:
    return lambda line: [function(line) for function in functions]


def _say_lost(found: Count) -> None:
    if found.files:
        print(f"{lines.counted(*found)} in lost/: `files restore` puts them back, `files discard` removes them")


def _say_unanswered(count: int) -> None:
    if count:
        print(f"{count} in lost/ never had an id: the upload was killed, and nobody was told of a file")
