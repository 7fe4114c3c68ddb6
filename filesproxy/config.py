"""One table of settings, and from it: keywords, environment, INI file, command-line flags and the README's table."""

from __future__ import annotations

import configparser
import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from .errors import ConfigError
from .provider import Provider

ENVIRONMENT_PREFIX = "FILESPROXY_"
# What Kubernetes sets for every service: one called `filesproxy` must not stop the start.
_KUBERNETES = re.compile(r"FILESPROXY_(.*_)?(SERVICE_(HOST|PORT)|PORT)(_.*)?")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

Source = Mapping[str, Mapping[str, Any]]  # section → key → text or value


class Setting(NamedTuple):
    """A setting: its name everywhere, how text becomes its value, and who may set it."""

    name: str
    default: Any
    parse: Callable[[str], Any]
    doc: str
    app: bool = True  # in [filesproxy], the environment, keywords, flags
    provider: bool = False  # in [provider:NAME], where it wins over the application's


def _integer(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ValueError("a whole number")
    return int(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", text) or float(text) <= 0:
        raise ValueError("a number of seconds above 0")
    return float(text)


def _readable(text: str) -> str:
    if text and not os.access(text, os.R_OK):
        raise ValueError("a file that this process can read")
    return text


def _folder(text: str) -> str:
    return os.path.abspath(os.path.expanduser(text)) if text else ""


def _word(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("a name of small letters, digits, - and _")
    return text


def _listen(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (colon and re.fullmatch(r"[0-9]{1,5}", port) and int(port) < 65536):
        raise ValueError("HOST:PORT")
    return host.strip("[]"), int(port)


def base_url(text: str) -> str:
    """An http or https URL with a host, without user, query or fragment; the end slash goes."""
    parts = _split(text)
    if not (parts and parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc):
        raise ValueError("an http or https URL with a host and no user")
    if "?" in text or "#" in text or not re.fullmatch(r"[!-~]+", text):
        raise ValueError("a URL without query, fragment, spaces or non-ASCII characters")
    return text.rstrip("/")


def _proxy(text: str) -> str:
    if text in ("none", "env"):
        return text
    parts = _split(text)
    if not (parts and parts.scheme == "http" and parts.hostname and re.fullmatch(r"[!-~]+", text)):
        raise ValueError("none, env or an http:// URL")
    return text


def _split(text: str) -> SplitResult | None:
    try:
        parts = urlsplit(text)
        return parts if parts.port is None or parts.port else None
    except ValueError:
        return None


_BOTH = (True, True)  # [filesproxy] and [provider:NAME]
SETTINGS: tuple[Setting, ...] = (
    Setting("listen", ("127.0.0.1", 8787), _listen, "HOST:PORT of the embedded server; gunicorn has its own `bind`"),
    Setting("default_provider", "none", _word, "provider of a request that names none; `none`: that is a 400"),
    Setting("max_upload_bytes", 512 << 20, _integer, "largest request body of an upload, in bytes; more is a 413"),
    Setting(
        "max_answer_bytes", 16 << 20, _integer, "largest JSON answer of a provider, in bytes; more is a 502", *_BOTH
    ),
    Setting("folder", "", _folder, "where `local` keeps its files; empty: there is no `local`", *_BOTH),
    Setting("proxy", "none", _proxy, "CONNECT proxy to https providers: `none`, `env` (https_proxy), http://…", *_BOTH),
    Setting("ca_file", "", _readable, "PEM file of the only CAs trusted for https; empty: the system's", *_BOTH),
    Setting("ca_extra", "", _readable, "PEM file of CAs trusted beside the others", *_BOTH),
    Setting("connect_timeout", 10.0, _seconds, "seconds to reach a provider, TLS included; then 504", *_BOTH),
    Setting("send_timeout", 60.0, _seconds, "seconds a provider may stop reading an upload; then 504", *_BOTH),
    Setting("answer_timeout", 120.0, _seconds, "seconds to the first byte of a provider's answer; then 504", *_BOTH),
    Setting("read_timeout", 60.0, _seconds, "seconds between two reads of an answer; then it is cut", *_BOTH),
    Setting("kind", "", _word, "which built-in provider this is, where the section's name is none", False, True),
    Setting("base_url", "", base_url, "URL of an OpenAI-compatible host, with its version path", False, True),
)
_BY_NAME = {setting.name: setting for setting in SETTINGS}


@dataclass(frozen=True)
class Config:
    """Settings resolved once: the application's, and one complete mapping for each provider that can be named."""

    settings: Mapping[str, Any]
    providers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def load(
    source: str | os.PathLike[str] | Source | None,
    keywords: Mapping[str, Any],
    providers: Mapping[str, Provider],
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """The configuration; keywords win over the environment, that over the file. ConfigError names what is wrong."""
    source = source or environ.get(ENVIRONMENT_PREFIX + "CONFIG") or {}
    sections, origin = (source, "") if isinstance(source, Mapping) else (_read(os.fspath(source)), f"{source}: ")
    settings = {setting.name: setting.default for setting in SETTINGS if setting.app}
    settings.update(_values(sections.get("filesproxy", {}), f"{origin}[filesproxy]", "app"))
    settings.update(_values(_from_environment(environ), "the environment", "app"))
    settings.update(_values(keywords, "the arguments", "app"))
    named = _providers(sections, origin, settings, providers)
    if settings["default_provider"] not in ("none", *named):
        raise ConfigError(f"{origin}default_provider names no provider that is configured.")
    return Config(settings, named)


def _providers(
    sections: Source, origin: str, settings: Mapping[str, Any], table: Mapping[str, Provider]
) -> dict[str, Mapping[str, Any]]:
    inherited = {setting.name: settings.get(setting.name, setting.default) for setting in SETTINGS}
    named = {name: _provider(name, name, inherited, table) for name in table}
    for section, values in sections.items():
        label, _, name = section.partition(":")
        where = f"{origin}[{section}]"
        if label == "provider" and _NAME.fullmatch(name) and name != "none":
            named[name] = _provider(where, name, {**inherited, **_values(values, where, "provider")}, table)
        elif section != "filesproxy":
            raise ConfigError(f"{where} is no section: there are [filesproxy] and [provider:NAME].")
    return {name: values for name, values in named.items() if values["folder"] or not _is_keyless(values, table)}


def _is_keyless(values: Mapping[str, Any], table: Mapping[str, Provider]) -> bool:
    return table[values["kind"]].get("keyless", False)


def _provider(where: str, name: str, values: Mapping[str, Any], table: Mapping[str, Provider]) -> dict[str, Any]:
    kind = values["kind"] or name
    if kind not in table:
        raise ConfigError(f"{where} needs kind = one of {', '.join(sorted(table))}.")
    if values["base_url"] and table[kind].get("keyless"):
        raise ConfigError(f"{where}: this kind has no base_url.")
    own_url = table[kind]["base_url"]
    return {**values, "kind": kind, "base_url": values["base_url"] or (own_url if isinstance(own_url, str) else "")}


def _values(given: Mapping[str, Any], where: str, scope: str) -> dict[str, Any]:
    return {name: _value(name, value, where, scope) for name, value in given.items()}


def _value(name: str, value: Any, where: str, scope: str) -> Any:
    setting = _BY_NAME.get(name)
    if setting is None or not getattr(setting, scope):
        raise ConfigError(f"{where}: {_unknown(name, scope)}")
    if isinstance(value, str) and ("\n" in value or re.search(r"\s[#;]", value)):
        raise ConfigError(f"{where}: the value of {name} goes on one line, and a comment on its own.")
    try:
        return setting.parse(_text(value))
    except ValueError as problem:
        raise ConfigError(f"{where}: {name} must be {problem.args[0]}.") from None


def _text(value: Any) -> str:
    """The text of a keyword, which may be a number or a path; ValueError for what has no one text."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float, os.PathLike)):
        raise ValueError("text or a number")
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


def _unknown(name: str, scope: str) -> str:
    """What to say of a setting that there is not. Its name may be a secret on the wrong side of a `=`."""
    near = difflib.get_close_matches(name, [setting.name for setting in SETTINGS if getattr(setting, scope)], 1)
    if near and re.fullmatch(r"[A-Za-z_-]{1,40}", name):
        return f"there is no setting '{name}'. Did you mean {near[0]}?"
    return "there is a key that is no setting."


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    found = {key: value for key, value in environ.items() if key.startswith(ENVIRONMENT_PREFIX)}
    found.pop(ENVIRONMENT_PREFIX + "CONFIG", None)
    return {
        key[len(ENVIRONMENT_PREFIX) :].lower(): value for key, value in found.items() if not _KUBERNETES.fullmatch(key)
    }


def _read(path: str) -> Source:
    parser = configparser.ConfigParser(
        interpolation=None,
        delimiters=("=",),
        comment_prefixes=("#", ";"),
        empty_lines_in_values=False,
        default_section="",
    )
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        with open(path, encoding="utf-8-sig") as lines:
            parser.read_file(lines)
    except OSError:
        raise ConfigError(f"{path}: cannot be read.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text.") from None
    except configparser.Error as problem:  # its text repeats the line, which may hold a secret
        raise ConfigError(f"{path}, line {_line(problem)}: {_PROBLEMS.get(type(problem), 'does not parse')}.") from None
    return {name: dict(parser[name]) for name in parser.sections()}


_PROBLEMS: dict[type, str] = {
    configparser.DuplicateSectionError: "this section stands twice",
    configparser.DuplicateOptionError: "this key stands twice in its section",
    configparser.MissingSectionHeaderError: "a key stands before the first [section]",
}


def _line(problem: configparser.Error) -> Any:
    errors = getattr(problem, "errors", None)
    return errors[0][0] if errors else getattr(problem, "lineno", "?")
