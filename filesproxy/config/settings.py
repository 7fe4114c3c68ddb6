"""One table of settings. Keywords, environment, INI file, command-line flags and the docs are made from it."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from ..calls import Provider, Setting
from ..errors import ConfigError
from ..operations import OPERATIONS
from ..providers.table import settings_of
from ..redaction import Secret
from ..transports.https.proxy import proxy_url
from ..wire import urls
from ..wire.file_types import KINDS
from .credentials import credential, is_literal

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
MIN_EXPIRY, MAX_EXPIRY = 3600, 2_592_000  # of a file, in seconds: an hour to thirty days, as OpenAI's contract has it


def is_name(text: str) -> bool:
    """Whether this can name a provider or a key: lower-case letters, digits, - and _."""
    return bool(_NAME.fullmatch(text))


def _integer(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ValueError("a whole number")
    return int(text)


def _positive(text: str) -> int:
    if _integer(text) < 1:
        raise ValueError("a whole number above 0")
    return int(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", text) or float(text) <= 0:
        raise ValueError("a number of seconds above 0")
    return float(text)


def _readable(text: str) -> str:
    if text and not os.access(text, os.R_OK):
        raise ValueError("a file that this process can read")
    return text


def _word(text: str) -> str:
    if not is_name(text):
        raise ValueError("a name of lower-case letters, digits, - and _")
    return text


def _words(text: str) -> tuple[str, ...]:
    words = tuple(text.split())
    if words != ("*",) and not all(map(is_name, words)):
        raise ValueError("names with spaces between them, or *")
    return words


def _names(text: str) -> tuple[str, ...]:
    if not all(map(is_name, text.split())):
        raise ValueError("names of providers with spaces between them")
    return tuple(text.split())


def _operations(text: str) -> tuple[str, ...]:
    if not set(_words(text)) <= OPERATIONS.keys() | {"*"}:
        raise ValueError("names of operations (docs/api.md) with spaces between them, or *")
    return _words(text)


def _kinds(text: str) -> tuple[str, ...]:
    words = text.split()
    if not words or not set(words) <= set(KINDS):
        raise ValueError(f"some of {' '.join(KINDS)}, with spaces between them")
    return tuple(kind for kind in KINDS if kind in words)


# Headers that frame a request, name its host or carry a credential, and those that the gateway reads itself.
_NOT_FORWARDED = re.compile(
    r"(connection|host|content-.*|transfer-encoding|te|trailer|upgrade|keep-alive|expect|proxy-.*|authorization|cookie"
    r"|.*api-key|range|if-range|via|accept-encoding|user-agent|accept|x-portkey-.*)"
)


def _header_names(text: str) -> tuple[str, ...]:
    names = tuple(text.split())
    if not all(re.fullmatch(r"[a-z0-9-]{1,64}", name) and not _NOT_FORWARDED.fullmatch(name) for name in names):
        raise ValueError("names of headers in lower case, none that frames a request or carries a credential")
    return names


def _hashes(text: str) -> tuple[str, ...]:
    if not text.split() or not all(re.fullmatch(r"[0-9a-f]{64}", word) for word in text.split()):
        raise ValueError("one or more SHA-256 hashes of 64 lower-case hexadecimal digits")
    return tuple(text.split())


def _proxies(text: str) -> tuple[str | IPv4Network | IPv6Network, ...]:
    try:
        return tuple([word if word == "unix:" else ip_network(word) for word in text.split()])
    except ValueError:
        raise ValueError("IP addresses, networks such as 192.0.2.0/24, or unix:, with spaces between them") from None


def _via_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{0,64}", text):
        raise ValueError("letters, digits, - and _")
    return text


def _sees(text: str) -> str:
    if text not in ("own", "all"):
        raise ValueError("own or all")
    return text


def _expiry(text: str) -> int:
    if _integer(text) and not MIN_EXPIRY <= int(text) <= MAX_EXPIRY:
        raise ValueError(f"0, or a whole number of seconds from {MIN_EXPIRY} to {MAX_EXPIRY}")
    return int(text)


def _purposes(text: str) -> tuple[str, ...]:
    if not all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", word) for word in text.split()):
        raise ValueError("purposes with spaces between them")
    return tuple(text.split())


def _media_types(text: str) -> tuple[str, ...]:
    if not all(re.fullmatch(r"[a-z0-9.+-]{1,64}/([a-z0-9.+-]{1,64}|\*)", word) for word in text.split()):
        raise ValueError("media types such as text/csv or image/*, in lower case, with spaces between them")
    return tuple(text.split())


def _folder(text: str) -> str:
    return os.path.abspath(os.path.expanduser(text)) if text else ""


def _fields(text: str) -> tuple[str, ...]:
    if not all(re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", word) for word in text.split()):
        raise ValueError("names of fields and types of tools with spaces between them")
    return tuple(text.split())


def _yes(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError("yes or no")
    return text == "yes"


def is_written_out(setting: Setting, text: str) -> bool:
    """Whether this text of a setting is itself a secret: a literal credential, or a proxy's URL with a password."""
    if setting.parse is credential:
        return is_literal(text)
    return setting.parse is proxy_url and "@" in text


def _listen(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (colon and re.fullmatch(r"[0-9]{1,5}", port) and int(port) < 65536):
        raise ValueError("HOST:PORT")
    return host.strip("[]"), int(port)


def base_url(text: str) -> str:
    """An http or https URL with a host, without user, query or fragment. A slash at its end is removed."""
    parts = urls.split(text)
    if not (parts and parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc):
        raise ValueError("an http or https URL with a host and no user")
    if "?" in text or "#" in text or not re.fullmatch(r"[!-~]+", text):
        raise ValueError("a URL without query, fragment, spaces or non-ASCII characters")
    return text.rstrip("/")


# Where a setting may be set, if not only in [filesproxy]: the last fields of a `Setting`.
_BOTH = (True, True)  # in [filesproxy] and [provider:NAME]
_PROVIDER = (False, True)
_KEY = (False, False, True)
SETTINGS: tuple[Setting, ...] = (
    Setting("listen", ("127.0.0.1", 8787), _listen, "HOST:PORT of the embedded server; gunicorn has its own `bind`"),
    Setting("default_provider", "none", _word, "provider of a request that names none; `none`: that is a 400"),
    Setting("default_files", "", _word, "provider of file operations that name none; empty: `default_provider`"),
    Setting("default_chat", "", _word, "provider of all other requests that name none; empty: `default_provider`"),
    Setting("max_upload_bytes", 512 << 20, _integer, "largest request body of an upload, in bytes; more is a 413"),
    Setting(
        "max_answer_bytes", 8 << 20, _integer, "bytes of JSON from a provider for one request; more is a 502", *_BOTH
    ),
    Setting("proxy", "none", proxy_url, "CONNECT proxy for https: `none`, `env` (https_proxy) or http://...", *_BOTH),
    Setting("ca_file", "", _readable, "PEM file of the only CAs trusted for https; empty: the system's", *_BOTH),
    Setting("ca_extra", "", _readable, "PEM file of more CAs to trust", *_BOTH),
    Setting("client_cert", "", _readable, "PEM file of the certificate to show to https providers (mTLS)", *_BOTH),
    Setting("client_key", "", _readable, "PEM file of its key; empty: the key is in `client_cert`", *_BOTH),
    Setting("tls_strict", True, _yes, "`no`: also accept CAs that lack what RFC 5280 requires (keyUsage)", *_BOTH),
    Setting("connect_timeout", 10.0, _seconds, "seconds to reach a provider, TLS included; then 504", *_BOTH),
    Setting("send_timeout", 60.0, _seconds, "seconds a provider may stop reading an upload; then 504", *_BOTH),
    Setting("answer_timeout", 120.0, _seconds, "seconds to the head of a provider's answer; then 504", *_BOTH),
    Setting("read_timeout", 60.0, _seconds, "seconds between two reads of an answer; then it is cut off", *_BOTH),
    Setting("total_timeout", 60.0, _seconds, "seconds per transfer, extended by `min_rate`; then 408 or 504", *_BOTH),
    Setting("min_rate", 16384, _positive, "bytes per second that a transfer must reach, after `total_timeout`", *_BOTH),
    Setting("generation_timeout", 600.0, _seconds, "seconds a model may be silent, before or in its answer", *_BOTH),
    Setting("generation_total", 3600.0, _seconds, "seconds for the whole answer of a model", *_BOTH),
    Setting("max_json_bytes", 32 << 20, _integer, "largest JSON request, in bytes; more is a 413"),
    Setting(
        "max_inline_bytes",
        32 << 20,
        _integer,
        "bytes of kept files in a request, as they are sent; more is a 413",
        *_BOTH,
    ),
    Setting(
        "max_json_in_flight",
        128 << 20,
        _integer,
        "memory for JSON requests in progress, and as much for answers; else 503",
    ),
    Setting(
        "max_caller_requests", 0, _integer, "requests of one caller at a time in a worker; 0: half of what is free"
    ),
    Setting(
        "file_sha256",
        True,
        _yes,
        "compute the SHA-256 of uploads to `local`, or noted in the ledger: `yes`, `no`",
        *_BOTH,
    ),
    Setting("body_timeout", 15.0, _seconds, "seconds a body may keep us waiting; 1 KiB gives one back; then 408"),
    Setting("trusted_proxies", (), _proxies, "proxies whose X-Forwarded-For counts: addresses, networks, `unix:`"),
    Setting("via_name", "", _via_name, "name in `Via` by which this deployment detects loops; generated if empty"),
    Setting("log_metadata", False, _yes, "does the access log have the clients' x-portkey-metadata: `yes`, `no`"),
    Setting("open_access", False, _yes, "saved providers without a gateway key, for this machine only: `yes` or `no`"),
    Setting(
        "ledger", "", _folder, "folder of the ledger, which remembers who owns what at providers; empty: `local`'s"
    ),
    Setting("isolation", True, _yes, "are owners kept apart at the saved providers that they share: `yes`, `no`"),
    Setting("response_days", 90, _positive, "days for which the ledger remembers whose a response is"),
    Setting("allow_fields", (), _fields, "unknown fields and tool types that isolation lets through", *_BOTH),
    Setting("account", "", _word, "name of the account that the credential leads to; empty: the section's", *_PROVIDER),
    Setting("kind", "", _word, "which built-in provider this is, if the section's name does not say so", *_PROVIDER),
    Setting("base_url", "", base_url, "URL of an OpenAI-compatible host, with its version path", *_PROVIDER),
    Setting(
        "credential",
        Secret(),
        credential,
        "saved credential: `env:NAME`, `file:/path`, a literal, or `none`",
        *_PROVIDER,
    ),
    Setting(
        "files",
        "",
        _word,
        "where its files are: `own`, `none`, or the name of the provider that keeps them",
        *_PROVIDER,
    ),
    Setting("inline_to", (), _names, "of a store: more providers whose requests may hold its files", *_PROVIDER),
    Setting("file_parts", (), _kinds, f"kinds of kept files that it takes in a request: {' '.join(KINDS)}", *_PROVIDER),
    Setting(
        "forward_headers", (), _header_names, "client headers that x-portkey-forward-headers may pass on", *_PROVIDER
    ),
    Setting("sha256", (), _hashes, "SHA-256 of the gateway key; several while the key changes", *_KEY),
    Setting("providers", (), _words, "saved providers this key may use, or `*`", *_KEY),
    Setting("operations", ("*",), _operations, "operations this key may use, or `*`", *_KEY),
    Setting("owner", "", _word, "whose the key's files are, so that keys can share them; empty: the key's name", *_KEY),
    Setting("sees", "own", _sees, "what it may list and read: `own`, or `all` for what every owner has", *_KEY),
    Setting(
        "foreign_ids",
        False,
        _yes,
        "may it use objects that nobody owns and that are older than the ledger: `yes`, `no`",
        *_KEY,
    ),
    Setting(
        "max_file_bytes", 0, _integer, "largest file that it may upload, in bytes; more is a 413; 0: no rule", *_KEY
    ),
    Setting("max_stored_bytes", 0, _integer, "bytes that the files of its owner may have together; 0: no rule", *_KEY),
    Setting(
        "max_uploads_per_minute", 0, _integer, "uploads that it may begin in a minute; more is a 429; 0: no rule", *_KEY
    ),
    Setting("allowed_purposes", (), _purposes, "purposes of its uploads; others are a 403; empty: all", *_KEY),
    Setting("allowed_types", (), _media_types, "media types of its uploads, such as `text/*`; empty: all", *_KEY),
    Setting(
        "default_expires_after", 0, _expiry, "seconds after which its files expire if the upload says nothing", *_KEY
    ),
    Setting("max_expires_after", 0, _expiry, "seconds after which its files expire at the latest; 0: no rule", *_KEY),
    Setting("caller_credentials", False, _yes, "may its clients bring their own credentials: `yes`, `no`", *_KEY),
)


def known_settings(providers: Mapping[str, Provider]) -> dict[str, Setting]:
    """Every setting by its name: the gateway's own, and those of the providers of this table.

    ConfigError for a provider's setting with the name of one of the gateway's own.
    """
    twice = {setting.name for setting in SETTINGS} & {setting.name for setting in settings_of(providers)}
    if twice:
        raise ConfigError(f"provider table: the setting '{min(twice)}' is one of the gateway's own.")
    return {setting.name: setting for setting in (*SETTINGS, *settings_of(providers))}


def parsed(
    given: Mapping[str, Any],
    scope: str,
    place: Callable[[str], str],
    known: Mapping[str, Setting],
    problems: list[str],
) -> dict[str, Any]:
    """The settings of one section that can be parsed; the others are added to the problems.

    A problem says `place(key)` and what is allowed, never the value. `scope` is `app`, `provider` or `key`.
    """
    found = {}
    for name in given:
        try:
            found[name] = _value(name, given[name], scope, known)
        except ConfigError as error:
            problems.append(f"{place(name)}: {error.message}")
    return found


def _value(name: str, value: Any, scope: str, known: Mapping[str, Setting]) -> Any:
    setting = known.get(name)
    if setting is None or not getattr(setting, scope):
        raise ConfigError(_unknown(name, scope, known))
    if isinstance(value, str) and ("\n" in value or re.search(r"\s[#;]", value)):
        raise ConfigError(f"the value of {name} must be on one line, and a comment on a line of its own.")
    try:
        return setting.parse(_text(value, setting))
    except ValueError as problem:
        raise ConfigError(f"{name} must be {problem.args[0]}.") from None


def _text(value: Any, setting: Setting) -> str:
    """The text of a keyword, which may be a number, a path or a boolean. ValueError for anything else."""
    if isinstance(value, bool) and setting.parse is _yes:
        return "yes" if value else "no"
    if isinstance(value, bool) or not isinstance(value, (str, int, float, os.PathLike)):
        raise ValueError("text or a number")
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


def _unknown(name: str, scope: str, known: Mapping[str, Setting]) -> str:
    """What is wrong with this name. It is quoted only if it looks like a setting: it may be a misplaced secret."""
    near = difflib.get_close_matches(name, [other.name for other in known.values() if getattr(other, scope)], 1)
    if name in known:
        return f"the setting '{name}' does not belong here."
    if near and re.fullmatch(r"[A-Za-z_-]{1,40}", name):
        return f"there is no setting '{name}'. Did you mean {near[0]}?"
    return "this key is not a setting."
