"""Where each provider's files are, and which kept files may be put into its requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..calls import Provider
from ..wire import urls
from .ini import Source

OWN, NONE = "own", "none"
#: settings that a store does not have, and those that only a store has
OF_MODELS, OF_STORES = ("files", "file_parts", "max_inline_bytes"), ("inline_to",)

Providers = Mapping[str, Mapping[str, Any]]
Table = Mapping[str, Provider]


def resolved(own: Mapping[str, Any], kind: Provider) -> dict[str, Any]:
    """The settings `files` and `file_parts` of a provider of this kind, with their defaults.

    `files` stays empty for a host of which nothing is known: ids go there as they are.
    """
    is_other_host = _is_other_host(own["base_url"], kind)
    parts = kind.get("host_file_parts" if is_other_host else "file_parts", ())
    by_default = "" if is_other_host or kind.get("is_store") else OWN
    return {"files": own["files"] or by_default, "file_parts": own["file_parts"] or parts}


def store_of(settings: Mapping[str, Any]) -> str:
    """The store that keeps a provider's files; "" if none does."""
    return "" if settings["files"] in ("", OWN, NONE) else str(settings["files"])


def _is_other_host(base_url: str, kind: Provider) -> bool:
    its_own = kind["base_url"]
    if not kind.get("host_file_parts") or not base_url or not isinstance(its_own, str):
        return False
    return urls.origin(base_url) != urls.origin(its_own)


def stores(providers: Providers, table: Table) -> list[str]:
    """The names of the providers that keep files."""
    return [name for name, own in providers.items() if table[own["kind"]].get("is_store")]


def inlined(providers: Providers, kept: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Provider → the stores whose files may be put into its requests: where its own files are, and by `inline_to`."""
    return {
        name: tuple(store for store in kept if own["files"] == store or name in providers[store]["inline_to"])
        for name, own in providers.items()
    }


def warnings(
    for_files: str, for_chat: str, providers: Providers, taken: Mapping[str, Sequence[str]], kept: Sequence[str]
) -> Iterator[str]:
    """What is wrong with default providers for files and for chats if a chat cannot get the files.

    `taken` are, for each provider, the stores whose files may be put into its requests, `kept` all stores.
    """
    if for_files == for_chat or not {for_files, for_chat} <= providers.keys() or for_chat in kept:
        return
    store = for_files if for_files in kept else store_of(providers[for_files])
    if store and store not in taken[for_chat]:
        yield f"By default, files go to {store}, and chats to {for_chat}, which cannot get them: see `files`."


def problems(source: Source, providers: Providers, table: Table) -> Iterator[str]:
    """Names that `files` and `inline_to` cannot have."""
    kept = stores(providers, table)
    for name, own in providers.items():
        if name == OWN and name in kept:  # as a value of `files` it would mean each provider itself
            yield f"{source.place(f'provider:{name}')}: a provider that keeps files cannot have the name own."
        if store_of(own) not in ("", *kept):
            place, named = source.place(f"provider:{name}", "files"), ", ".join(kept)
            yield f"{place}: files must be own, none or a provider that keeps files{named and f' ({named})'}."
    for store in kept:
        place = source.place(f"provider:{store}", "inline_to")
        for name in providers[store]["inline_to"]:
            if name not in providers or name in kept:
                yield f"{place}: inline_to must name configured providers that do not keep files themselves."
            elif providers[name]["files"] == NONE:
                yield f"{place}: inline_to contains {name}, which has files = none."
