"""Which proxy an https host is reached through: none, the configured one, or the one that the environment names."""

from __future__ import annotations

import base64
import re
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from ...errors import UpstreamError
from ...redaction import Secret
from ...wire import urls


def proxy_url(text: str) -> Secret:
    """The setting `proxy`: `none`, `env`, or the http:// URL of a proxy, which may contain a password.

    Raises ValueError for anything else.
    """
    if text in ("none", "env"):
        return Secret(text)
    parts = urls.split(text)
    if not (parts and parts.scheme == "http" and parts.hostname and re.fullmatch(r"[!-~]+", text)):
        raise ValueError("none, env or an http:// URL")
    return Secret(text)


def proxy_for(setting: str, host: str) -> SplitResult | None:
    """The proxy for an https host, None if it is reached directly. urllib reads the variables, including `no_proxy`."""
    url = setting
    if setting == "env":
        url = "none" if proxy_bypass(host) else _from_environment()
    return None if url == "none" else urlsplit(url)


def _from_environment() -> str:
    url = getproxies_environment().get("https", "none")
    try:
        return proxy_url(url if "://" in url or url == "none" else f"http://{url}")
    except ValueError:
        raise UpstreamError("https_proxy must be an http:// URL.", code="upstream_unreachable") from None


def authorization(proxy: SplitResult) -> dict[str, str]:
    """The CONNECT header with the user and password from the proxy's URL (RFC 7617 §2), {} if the URL has none."""
    if not proxy.username:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
