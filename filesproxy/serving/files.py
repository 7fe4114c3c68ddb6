"""`filesproxy files`: looks at the files that a local store keeps, and repairs, copies and restores them."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ..app import Application
from ..config.load import Config
from ..errors import ConfigError, StoreError
from ..transports.local import maintenance
from ..transports.local.maintenance import Count
from ..transports.local.transport import LocalTransport


def add_parser(commands: Any) -> None:
    """Add the command `files` with its verbs to a parser's commands."""
    text = "list, verify, rebuild, back up and restore what `local` keeps"
    parser = commands.add_parser("files", help=text, allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, text in _HELP.items():
        of_verb = verbs.add_parser(verb, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        of_verb.add_argument("--config", metavar="FILE", help="INI file; default: $FILESPROXY_CONFIG")
        of_verb.add_argument("--provider", metavar="NAME", help="the saved provider, if several keep files")
        if verb == "backup":
            of_verb.add_argument("target", metavar="DIR", help="a folder that is not there yet, or is empty")
        if verb == "rebuild":
            of_verb.add_argument("--force", action="store_true", help="replace an index that is usable")


def run(arguments: argparse.Namespace, config: Config) -> int:
    """Run a verb. 0 if all was well, 1 if something is wrong with the files. Raises ConfigError."""
    folder = _folder(config, arguments.provider)
    try:
        return _VERBS[arguments.verb](folder, arguments)
    except StoreError as error:
        print(f"filesproxy: {folder}: {error.message}", file=sys.stderr)
        return 1


def _folder(config: Config, name: str | None) -> str:
    folders = _folders(config)
    if name is None and len(folders) == 1:
        return next(iter(folders.values()))
    if name in folders:
        return folders[name]
    if not folders:
        raise ConfigError("no provider keeps files here: there is no `folder` in the configuration.")
    raise ConfigError(f"--provider must be one of {', '.join(sorted(folders))}.")


def unusable(config: Config) -> list[str]:
    """Why folders in which files are to be kept cannot be used, each with its path."""
    return list(filter(None, map(maintenance.unusable, _folders(config).values())))


def warnings(config: Config) -> list[str]:
    """What stands in the stores that no key reaches: files of owners that have been renamed, or of nobody."""
    found = []
    known = {key.name for key in config.keys} or {""}
    for folder in _folders(config).values():
        with suppress(StoreError):  # `unusable` says why
            strangers = [name for name in maintenance.owners(folder) if name not in known]
            if named := ", ".join(filter(None, strangers)):
                found.append(f"{folder} has files of {named}, and no gateway key has that name: nobody can read them.")
            if "" in strangers:
                found.append(f"{folder} has files from a time without gateway keys: no key can read them.")
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
    count = size = 0
    for row in maintenance.files(folder):
        expiry = f"expires {_time(row['expires_at'])}" if row["expires_at"] else "stays"
        owner = _printable(row["owner"]) or "-"
        print(
            f"{row['id']}  {owner}  {row['bytes']}  {_time(row['created_at'])}  {expiry}  {_printable(row['filename'])}"
        )
        count, size = count + 1, size + row["bytes"]
    print(f"{_count(Count(count, size))} in {folder}")
    _say_lost(maintenance.lost(folder))
    return 0


def _verify(folder: str, arguments: argparse.Namespace) -> int:
    found = maintenance.verify(folder, print)
    print(f"{_count(found.kept)} in {folder}: {found.problems or 'no'} problem{'s' * (found.problems != 1)}")
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
    print(f"the new index has {_files(count)}" + (f"; the old one is kept as {aside}" if aside else ""))
    return 1 if left_out else 0


def _backup(folder: str, arguments: argparse.Namespace) -> int:
    missing: list[str] = []
    target = os.path.abspath(arguments.target)
    count, is_linked = maintenance.backup(folder, target, _both(print, missing.append))
    how = ", as hard links: copy the folder to another disk" if is_linked else ""
    print(f"{_count(count)} copied to {target}{how}")
    return 1 if missing else 0


def _restore(folder: str, arguments: argparse.Namespace) -> int:
    left: list[str] = []
    restored, unanswered = maintenance.restore(folder, _both(print, left.append))
    print(f"{_count(restored)} restored")
    _say_unanswered(unanswered)
    return 1 if left else 0


def _discard(folder: str, arguments: argparse.Namespace) -> int:
    print(f"{_count(maintenance.discard(folder))} removed from lost/")
    return 0


_HELP = {
    "list": "list all files of all owners",
    "verify": "compare the index with the files and their SHA-256; status 1 if something is wrong",
    "rebuild": "make a new index from the files, if the index is damaged or gone",
    "backup": "copy the store to a folder while it is in use",
    "restore": "put what is in lost/ back among the files",
    "discard": "remove what is in lost/ for good",
}
_VERBS: Mapping[str, Callable[[str, argparse.Namespace], int]] = {
    "list": _list,
    "verify": _verify,
    "rebuild": _rebuild,
    "backup": _backup,
    "restore": _restore,
    "discard": _discard,
}


def _both(*functions: Callable[[str], object]) -> Callable[[str], object]:
    return lambda line: [function(line) for function in functions]


def _say_lost(found: Count) -> None:
    if found.files:
        print(f"{_count(found)} in lost/: `files restore` puts them back, `files discard` removes them")


def _say_unanswered(count: int) -> None:
    if count:
        print(f"{count} in lost/ never had an id: the upload was killed, and nobody was told of a file")


def _count(found: Count) -> str:
    return f"{_files(found.files)} ({found.bytes} bytes)"


def _files(count: int) -> str:
    return f"{count} file{'s' * (count != 1)}"


def _time(seconds: int) -> str:
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (OverflowError, OSError, ValueError):  # further away than the system can count
        return f"@{seconds}"


def _printable(text: str) -> str:
    """Text for a terminal, which control characters could steer."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
