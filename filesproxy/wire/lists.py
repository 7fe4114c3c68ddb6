"""Lists and file objects in OpenAI's complete shape, whatever the provider's answer lacks. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ..calls import Answer, Call, Json, Operation, Send
from ..errors import BadRequest, InvalidAnswer, UpstreamError
from ..operations import checked_id
from .envelopes import unwrapped
from .json_fields import need, unusable

MAX_LIMIT = 10_000  # OpenAI's: from 1 to 10,000, which is also the default
MAX_PAGES = 100  # of one walk through a provider's list
_LIMIT = re.compile(r"[0-9]{1,5}", re.ASCII)
_PURPOSE = re.compile(r"[A-Za-z0-9_-]{1,64}")


def own_list(call: Call) -> Call:
    """The call of a list that the gateway makes itself, with checked parameters. Raises as `list_query` does."""
    return call._replace(query=list_query(call.query))


def list_query(query: Mapping[str, Any]) -> dict[str, str]:
    """The parameters of a list request that the contract has. BadRequest for an invalid value.

    Only for lists that the gateway makes: a provider that makes its own judges its own parameters.
    """
    known = {name: query[name] for name in ("purpose", "limit", "after", "order") if query.get(name)}
    if "limit" in known and not (_LIMIT.fullmatch(known["limit"]) and 1 <= int(known["limit"]) <= MAX_LIMIT):
        raise BadRequest(f"'limit' must be a whole number from 1 to {MAX_LIMIT}.", param="limit")
    if known.get("order", "asc") not in ("asc", "desc"):
        raise BadRequest("'order' must be asc or desc.", param="order")
    if "after" in known:
        checked_id(known["after"], "after")
    if "purpose" in known:
        checked_purpose(known["purpose"])
    return known


def checked_purpose(purpose: str) -> str:
    """The purpose. BadRequest if it is not a short word; which words are valid is for the provider to decide."""
    if not _PURPOSE.fullmatch(purpose):
        raise BadRequest("'purpose' must be a word such as assistants, batch, fine-tune or user_data.", param="purpose")
    return purpose


def file_object(obj: Any, call: Call) -> Json:
    """A file object with the fields that SDKs need: `id`, `object`, `bytes` and `status`, whatever else it holds.

    OpenAI requires `bytes` and `status`. A host that does not know the size gets that of the bytes just relayed, or 0.
    Compatible hosts leave out the status; their files can be used immediately, which is `processed`.
    """
    obj = unwrapped(obj)
    file_id = need(obj, "id", str)
    size = obj.get("bytes")
    if type(size) is not int or size < 0:
        sizes = (whole(obj.get(name)) for name in _SIZES)
        size = next((size for size in sizes if size is not None), call.upload.size if call.upload else 0)
    known = {"bytes": size, "object": obj.get("object") or "file", "status": obj.get("status") or "processed"}
    return {"id": file_id, "object": "file", **obj, **known}


_SIZES = ("bytes", "size_bytes", "size", "file_size")  # what hosts call it
_DIGITS = re.compile(r"[0-9]{1,19}", re.ASCII)


def whole(value: Any) -> int | None:
    """A whole number that is not negative, from any form in which hosts write one; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def page(data: list[Json], has_more: bool) -> Json:
    """The list envelope. For an empty list, both ids are null."""
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more}


class Page(NamedTuple):
    """Some file objects of a provider's list, newest first, and whether more follow."""

    data: list[Json]
    has_more: bool


def walked(pages: Callable[[Call, Send], Iterator[Page]]) -> Operation:
    """The list operation of a provider whose pages are not OpenAI's.

    `pages(call, send)` yields its files of every purpose, from `after` on, newest first. Order `asc` needs all pages.
    """

    def operation(call: Call, send: Send) -> Answer:
        call = own_list(call)
        limit, purpose = int(call.query.get("limit", MAX_LIMIT)), call.query.get("purpose")
        if call.query.get("order") == "asc":
            every = bounded(pages(call._replace(query={}), send))
            return Answer(200, json=_cut([file for each in every for file in each.data][::-1], call.query))
        taken: list[Json] = []
        for each in bounded(pages(call, send)):
            taken += _with_purpose(each.data, purpose)
            if len(taken) > limit or (len(taken) == limit and each.has_more and not purpose):
                return Answer(200, json=page(taken[:limit], True))
        return Answer(200, json=page(taken, False))

    return operation


def rest_after(pages: Iterator[Page], after: str) -> Iterator[Page]:
    """The files that follow the file `after` in these pages. BadRequest if no page has it."""
    pages = bounded(pages)
    for each in pages:
        ids = [file["id"] for file in each.data]
        if after in ids:
            yield Page(each.data[ids.index(after) + 1 :], each.has_more)
            yield from pages
            return
    raise BadRequest(_NO_AFTER, param="after")


def bounded(pages: Iterator[Page]) -> Iterator[Page]:
    """The same pages. UpstreamError if there are more than MAX_PAGES: a list may have no end."""
    for number, each in enumerate(pages):
        if number == MAX_PAGES:
            raise UpstreamError("The provider's list is too long to walk.", code="upstream_answer_too_large")
        yield each


def _with_purpose(data: list[Json], purpose: str | None) -> list[Json]:
    return [file for file in data if purpose in (None, file.get("purpose"))]


_NO_AFTER = "The list has no file with the id in 'after'."


def sliced(data: list[Json], query: Mapping[str, Any]) -> Json:
    """The requested page of a provider's complete list. BadRequest for a parameter that is invalid or not in it."""
    query = list_query(query)
    newest_first = query.get("order", "desc") == "desc"
    return _cut(sorted(data, key=lambda file: need(file, "created_at", int), reverse=newest_first), query)


def _cut(files: list[Json], query: Mapping[str, Any]) -> Json:
    ids = [file["id"] for file in files]
    if "after" in query and query["after"] not in ids:
        raise BadRequest(_NO_AFTER, param="after")
    rest = files[ids.index(query["after"]) + 1 if "after" in query else 0 :]
    rest, limit = _with_purpose(rest, query.get("purpose")), int(query.get("limit", MAX_LIMIT))
    return page(rest[:limit], limit < len(rest))


def deletion(obj: Any, call: Call) -> Json:
    """OpenAI's answer to a deletion, whatever the provider's is: its status is a success, and the call knows the id.

    InvalidAnswer if the answer says that the file was not deleted.
    """
    obj = unwrapped(obj)
    if obj is None or obj in ("", []) or (isinstance(obj, (str, int)) and says_done(str(obj), call.file_id)):
        obj = {}
    if not isinstance(obj, dict):
        raise unusable("deleted")
    if obj.get("deleted") is not None and obj["deleted"] in (False, "false"):
        raise InvalidAnswer("The provider did not delete the file.")
    given = obj.get("id")
    file_id = call.file_id if given in (None, "") else str(need(obj, "id", (str, int)))
    return {"id": file_id, "object": "file", "deleted": True}


# A sentence of these alone, with one of the first at least, denies nothing.
_DONE = frozenset({"1", "true", "ok", "done", "success", "successful", "successfully", "deleted", "removed"})
_BESIDE = frozenset({"the", "file", "with", "id", "has", "have", "been", "was", "is"})
_WORDS = re.compile(r"[^\s\"'.,:;!]+")
_MAX_SENTENCE = 300


def says_done(text: str, file_id: str) -> bool:
    """Whether a text or number says, in place of an object, that what was asked for is done: `OK`, `1`, or the id."""
    words = {"deleted" if word == file_id else word.lower() for word in _WORDS.findall(text[: _MAX_SENTENCE + 1])}
    return len(text) <= _MAX_SENTENCE and bool(words & _DONE) and words <= _DONE | _BESIDE
