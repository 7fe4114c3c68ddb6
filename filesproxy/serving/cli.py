"""The command line: `serve` (the default), `demo`, `check`, `key` and `files`."""

from __future__ import annotations

import argparse
import io
import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from typing import Any, cast

from .. import __version__
from ..app import Application, create_app
from ..calls import Setting, Transport
from ..config import kept_files
from ..config.credentials import is_saved
from ..config.load import DEFAULTS_BY_REQUEST, ENVIRONMENT_PREFIX, Config, Key, load
from ..config.reload import check_reload
from ..config.settings import is_name, known_settings
from ..errors import ConfigError
from ..gateway.access_log import to_stdout
from ..gateway.auth import GATEWAY_KEY_PREFIX, is_loopback
from ..providers import PROVIDERS
from . import files
from .demo import demo
from .embedded import MAX_CONNECTIONS, Server
from .limits import raise_descriptor_limit

GRACE_SECONDS = 30.0  # for running transfers, after the server was told to stop


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 if it failed, 2 if the arguments or configuration are wrong."""
    _make_everything_printable()
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in _ALL_WORDS:
        words = ["serve", *words]
    if words[0] == "files" and (len(words) == 1 or words[1] not in files.WORDS):
        words = ["files", "list", *words[1:]]
    arguments = _parser().parse_args(words)
    commands = {
        "demo": lambda: demo(print),
        "check": lambda: _written(lambda: check(arguments.config)),
        "key": lambda: _written(lambda: key(arguments.name), may_be_cut=False),
        "files": lambda: _written(
            lambda: files.run(arguments, load(*_configured({"config": arguments.config}), PROVIDERS))
        ),
    }
    try:
        return commands.get(arguments.command, lambda: serve(vars(arguments)))()
    except ConfigError as error:
        for problem in error.message.splitlines():
            print(f"filesproxy: {problem}", file=sys.stderr)
        return 2


def _make_everything_printable() -> None:
    """A path that the terminal's encoding does not have must not end a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _written(command: Callable[[], int], may_be_cut: bool = True) -> int:
    """The status of a command whose result is what it prints: 1 if that cannot be written, with the reason.

    If it may be cut, a reader that has seen enough, such as `head`, is none.
    """
    try:
        status = command()
        for stream in (sys.stdout, sys.stderr):
            if stream:
                stream.flush()
        return status
    except OSError as error:
        if is_failure := not (may_be_cut and isinstance(error, BrokenPipeError)):
            with suppress(OSError):
                print(f"filesproxy: the output cannot be written: {error.strerror or error}", file=sys.stderr)
        nowhere = os.open(os.devnull, os.O_WRONLY)  # for what is still in a buffer, when the process ends
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
        return int(is_failure)


_ALL_WORDS = ("serve", "demo", "check", "key", "files", "-h", "--help", "--version")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="filesproxy", description="A gateway for the LLM Files API.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"filesproxy {__version__}")
    commands = parser.add_subparsers(dest="command")
    # An abbreviation could become another option in a later version.
    add_parser = partial(commands.add_parser, allow_abbrev=False)
    serve_parser = add_parser("serve", help="serve the gateway (the default)")
    serve_parser.add_argument("--config", metavar="FILE", help="INI file with the configuration")
    for setting in _app_settings():
        flag = "--" + setting.name.replace("_", "-")
        serve_parser.add_argument(flag, metavar="VALUE", help=setting.doc.replace("%", "%%"))
    add_parser("demo", help="serve from a temporary folder, make all five calls, check the results, clean up")
    check_parser = add_parser("check", help="show what a configuration means, or what is wrong with it")
    check_parser.add_argument("--config", metavar="FILE", help="INI file; default: $FILESPROXY_CONFIG")
    key_parser = add_parser("key", help="make a gateway key: print it, and the lines that configure it")
    key_parser.add_argument("--name", required=True, help="name of the key's user, such as team-a")
    files.add_parser(commands)
    return parser


def _app_settings() -> list[Setting]:
    return [setting for setting in known_settings(PROVIDERS).values() if setting.app]


def check(config: str | None) -> int:
    """Print what the configuration means. 1 if a folder for files cannot be used.

    Raises ConfigError, which names the places, if something is wrong with the configuration.
    """
    found = create_app(config).config
    named = config or os.environ.get(ENVIRONMENT_PREFIX + "CONFIG")
    print("The configuration is valid." if named else "There is no configuration file; these are the defaults.")
    for name, own in found.providers.items():
        default = _default(name, found.settings)
        print(f"  provider {name}: {_address(own)}{_credential(own)}{default}")
        print(f"    {_files_of(name, found)}")
    for known in found.keys:
        uses = f"providers {' '.join(known.providers) or 'none'}, operations {' '.join(known.operations)}"
        print(f"  key {known.name}: {uses}{_rules_of(known)}")
    for said in _isolation(found):
        print(f"  {said}")
    for warning in (*found.warnings, *files.warnings(found)):
        print(f"  warning: {warning}")
    for problem in (problems := files.unusable(found)):
        print(f"filesproxy: {problem}", file=sys.stderr)
    return 1 if problems else 0


def key(name: str) -> int:
    """Make a gateway key of 256 random bits. It is stored nowhere.

    The key goes to standard error, and the section that configures it to standard output, for `>> filesproxy.ini`.
    """
    if not is_name(name):
        raise ConfigError("the name of a key must consist of lower-case letters, digits, - and _.")
    if not (sys.stdout and sys.stderr):  # print would write to the other one, or nowhere
        if sys.stderr:
            print("filesproxy: the section of a key goes to standard output, which is closed", file=sys.stderr)
        return 1
    made = GATEWAY_KEY_PREFIX + secrets.token_urlsafe(32)
    print(
        f"# The key, for the client's API key (Bearer) or x-portkey-api-key. It is shown only once:\n{made}",
        file=sys.stderr,
    )
    print(f"\n[key:{name}]\nsha256 = {sha256(made.encode()).hexdigest()}\nproviders = *")
    return 0


def serve(arguments: Mapping[str, Any]) -> int:
    """Serve until SIGTERM or Ctrl-C, then let transfers end. 1 if it cannot listen. Raises ConfigError."""
    _open_standard_streams()
    raise_descriptor_limit()
    to_stdout()
    logger = logging.getLogger("filesproxy")
    logger.addHandler(logging.StreamHandler())
    logger.setLevel(logging.INFO)
    logger.propagate = False
    application = _application(arguments)
    host, port = application.config.settings["listen"]
    try:
        server = Server((host, port), application)
    except OSError as error:
        reason = error.strerror or error
        print(f"filesproxy: cannot listen on {host}:{port} ({reason}); try --listen {host}:0", file=sys.stderr)
        return 1
    files.prepare(application)
    _stop_on_signals(server)
    signal.signal(signal.SIGHUP, lambda signum, frame: _reload(server, arguments))
    print(_banner(server, application), file=sys.stderr, flush=True)
    server.serve_forever(poll_interval=0.1)
    server.drain(GRACE_SECONDS)
    return 0


def _reload(server: Server, arguments: Mapping[str, Any]) -> None:
    """Serve the next requests with the configuration as it is now; connections and stores are kept.

    One that cannot be used replaces nothing, and neither does one that protects less: that takes a restart.
    """
    logger, running = logging.getLogger("filesproxy"), cast(Application, server.get_app())
    try:
        application = _application(arguments, running.transports)
        check_reload(running.config, application.config)
    except ConfigError as error:
        for problem in error.message.splitlines():
            logger.error("not reloaded: %s", problem)
    else:
        server.set_app(application)
        logger.info("reloaded")


def _application(arguments: Mapping[str, Any], transports: Mapping[str, Transport] | None = None) -> Application:
    config, settings = _configured(arguments)
    application = create_app(config, transports=transports, **settings)
    host, _ = application.config.settings["listen"]
    application.this_machine_only = not application.config.keys and is_loopback(host)
    application.share_threads(MAX_CONNECTIONS)  # also after a reload
    return application


def _configured(arguments: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The configuration file and the settings beside it. Without a file, files are kept in the user's data folder."""
    names = [setting.name for setting in _app_settings()]
    settings = {name: arguments[name] for name in names if arguments.get(name) is not None}
    config = arguments.get("config") or os.environ.get(ENVIRONMENT_PREFIX + "CONFIG")
    if not config:
        defaults = {"folder": _data_folder(), "default_provider": "local"}
        given = {name: os.environ.get(ENVIRONMENT_PREFIX + name.upper()) or defaults[name] for name in defaults}
        settings = {**given, **settings}
    return config, settings


def _data_folder() -> str:
    """The folder for the user's files, according to the XDG Base Directory Specification."""
    base = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(base, "filesproxy")


def _banner(server: Server, application: Application) -> str:
    host = f"[{server.server_name}]" if ":" in server.server_name else server.server_name
    url = f"http://{host}:{server.server_port}"
    lines = [f"filesproxy {__version__} listens on {url} (Ctrl-C stops it)"]
    for name, settings in application.config.providers.items():
        lines.append(f"  provider {name}: {_address(settings)}{_default(name, application.config.settings)}")
    lines.append(f"try: curl -F purpose=assistants -F file=@README.md {url}/v1/files")
    return "\n".join(lines)


def _address(settings: Mapping[str, Any]) -> str:
    describe = PROVIDERS[settings["kind"]].get("describe")
    return describe(settings) if describe else str(settings["base_url"])


def _default(name: str, settings: Mapping[str, Any]) -> str:
    """Which of the requests that name no provider go to this one."""
    for_files, for_chat = [settings[setting] == name for setting in DEFAULTS_BY_REQUEST]
    if for_files and for_chat:
        return ", the default"
    return ", the default for files" if for_files else ", the default for chats" if for_chat else ""


_LIMITS = ("max_file_bytes", "max_stored_bytes", "max_uploads_per_minute", "default_expires_after",
           "max_expires_after")  # fmt: skip


def _rules_of(key: Key) -> str:
    """What a key has beside its providers and operations."""
    rules = {
        "owner": key.owner,
        "sees": "all" if key.sees == "all" else "",
        "foreign_ids": "yes" if key.foreign_ids else "",
        **{name: getattr(key, name) for name in _LIMITS},
        **{name: " ".join(getattr(key, name)) for name in ("allowed_purposes", "allowed_types")},
    }
    return "".join(f", {name} {rule}" for name, rule in rules.items() if rule)


def _isolation(config: Config) -> list[str]:
    """Where owners are kept apart, and by what."""
    kept = config.shared
    if not kept.ledger:
        return []
    apart = f"keeps owners apart at the accounts {', '.join(sorted(set(kept.accounts.values())))}"
    return [f"ledger in {kept.ledger}: {apart if kept.accounts else 'counts uploads'}"]


def _credential(own: Mapping[str, Any]) -> str:
    """Whose credential requests have; "" for a provider that needs none."""
    if PROVIDERS[own["kind"]].get("is_store"):
        return ""
    if own["credential"]:
        return ", saved credential"
    return ", saved without a credential" if is_saved(own) else ", callers' own credentials only"


def _files_of(name: str, config: Config) -> str:
    """Where a provider's files are, and which kept files its requests may hold; of a store, whose requests may."""
    own, stores = config.providers[name], config.inlined[name]
    if name in config.stores:
        takers = [other for other, kept in config.inlined.items() if name in kept]
        return f"its files may go into requests to {' '.join(takers) or 'no provider'}"
    unknown = "files unknown: ids go there as they are (set files = own, none or a provider that keeps files)"
    where = {
        kept_files.OWN: "files of its own",
        kept_files.NONE: "takes no file ids; its file operations are passed on",
        "": "other ids go there as they are" if stores else unknown,
    }.get(own["files"], f"files of {own['files']}")
    if not stores:
        return where
    limit = f"{own['max_inline_bytes'] / (1 << 20):.4g} MiB"
    return f"{where}; takes kept files of {' '.join(stores)}: {' '.join(own['file_parts'])}, up to {limit} in a request"


def _open_standard_streams() -> None:
    """Let no file or socket get the number of a standard stream that was closed before the start."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)


def _stop_on_signals(server: Server) -> None:
    def stop(signum: int, frame: Any) -> None:
        signal.signal(signum, signal.SIG_DFL)  # a second signal stops the process immediately
        threading.Thread(target=server.shutdown, daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
