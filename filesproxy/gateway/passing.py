"""The headers of a request that go on to the upstream, whoever the provider is, and the loops that they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import BadRequest, LoopDetected
from ..wire.headers import safe
from .portkey import FORWARD, forwarded
from .request import traced

MAX_VIA = 16  # gateways that a request may have been through


def check_via(headers: Mapping[str, str], name: str) -> None:
    """Check the client's Via (RFC 9110 §7.6.3), which is passed on. `name` is this deployment's.

    LoopDetected if the request has been through this deployment, or through more than MAX_VIA gateways. BadRequest if
    the header cannot be passed on.
    """
    via = headers.get("via")
    if via is None:
        return
    entries = via.split(",")
    if any(name in entry.split()[1:2] for entry in entries):
        raise LoopDetected("This request has been through this gateway before: a provider leads back to it.")
    if len(entries) > MAX_VIA:
        raise LoopDetected(f"This request has been through more than {MAX_VIA} gateways.")
    if not safe("via", via):
        raise BadRequest("The header via contains what cannot be passed on.", param="via")


def passed_on(
    headers: Mapping[str, str], own: Mapping[str, str], asked: Mapping[str, str], allowed: Sequence[str]
) -> tuple[Mapping[str, str], list[str]]:
    """The headers of a call, and the names of those that are ignored.

    `own` are those that the provider accepts, `asked` those of the operation. Both win over what the client wants
    passed on, of which only `allowed` is.
    """
    more = {"via": headers["via"]} if headers.get("via") else {}
    if "traceparent" in headers:
        more = {**more, **traced(headers)}
    if asked:
        more = {**more, **{name: text for name, text in asked.items() if text}}
    found, ignored = forwarded(headers, allowed) if FORWARD in headers else ({}, [])
    return ({**found, **own, **more} if found or more else own), ignored
