"""What a provider's answer to a list request says, and whether its list goes on: no file is lost in silence.

Compatible hosts page by cursors, numbers or not at all, and a client that is told `has_more: false` never asks again.
So a list ends only where the host says so in a way that cannot be misread, or has nothing after its last file: a field
that is not known here is never an end. Pure functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from ..calls import Answer, Call, Json, Operation, Send
from ..errors import InvalidAnswer, UpstreamAnswered
from .envelopes import unwrapped
from .json_fields import need, unusable
from .lists import MAX_LIMIT, Page, file_object, page, rest_after, walked, whole

# What hosts call the cursor of the next page, also by names that may mean this page's where one of the first is given;
# and what says without one that more follow.
_NEXT = (
    "next_page_token", "nextPageToken", "next_token", "nextToken", "next_cursor", "nextCursor", "next_page", "nextPage",
    "next_url", "nextLink", "@odata.nextLink", "next",
)  # fmt: skip
_CURSORS = ("pagination_token", "continuation_token", "continuationToken", "page_token", "cursor")
_FLAGS = ("hasMore", "has_next", "hasNext", "has_next_page", "hasNextPage", "is_truncated", "truncated")
_TOTALS = ("total", "total_count", "totalCount", "total_items", "total_files")
_PAGES = ("total_pages", "totalPages", "last_page")
_INSIDE = ("pagination", "paging", "page_info", "pageInfo", "meta", "links", "_links")  # objects that hold these


class Listing(NamedTuple):
    """A provider's list: its items, and whether it says that more follow (None if it does not say).

    `fields` are those of the list, `marks` also those of the envelope and of objects such as `pagination`.
    """

    items: list[Any]
    has_more: bool | None
    fields: Json
    marks: Json


def listing(answer: Any, call: Call, followed: str = "") -> Listing:
    """What a provider's answer to a list request says.

    It ends at `has_more: false`, at a cursor that is null, empty or false, and where `total` is no more than the files
    of a first page. InvalidAnswer if it goes on by a cursor other than `followed`: the rest would be lost.
    """
    inner = unwrapped(answer)
    if not isinstance(inner, dict):
        raise unusable("data")
    marks = _marks(answer, inner)
    items = _items(inner, marks)
    after = call.query.get("after")
    is_first = after is None or _has(items[1:], after)  # a host that ignores `after` starts anew
    return Listing(items, _goes_on(marks, len(items), is_first, followed), inner, marks)


def _marks(*objects: Json) -> Json:
    """The fields that may say whether more follow, from an answer and from what is in its envelope."""
    found: Json = {}
    for obj in objects:
        for name in _INSIDE:
            found.update(obj[name] if isinstance(obj.get(name), dict) else {})
    for obj in objects:
        found.update(obj)
    return found


def _items(obj: Json, marks: Json) -> list[Any]:
    """The items. An empty list is null or absent in Go, `{}` in Lua; absent, only if the answer says it is a list."""
    is_list = "data" in obj or obj.get("object") == "list" or marks.get("has_more") is False
    if is_list and obj.get("data") in (None, {}):
        return []
    if len(need(obj, "data", list)) > MAX_LIMIT:
        raise InvalidAnswer("The provider's list is longer than any page.")
    return list(obj["data"])


def _has(items: list[Any], file_id: Any) -> bool:
    return any(isinstance(item, dict) and item.get("id") == file_id for item in items)


def _goes_on(marks: Json, count: int, is_first: bool, followed: str) -> bool | None:
    has_more = marks.get("has_more")
    if isinstance(has_more, bool):
        return has_more
    kinds = ([name for name in names if name in marks] for names in ((followed,), _NEXT, _CURSORS))
    given = next(filter(None, kinds), [])
    cursor = next((name for name in given if marks[name]), None)
    if given and cursor is None:
        return False
    total, pages = (_most(marks, names) if is_first else None for names in (_TOTALS, _PAGES))
    if total is not None and total <= count:
        return False
    if cursor not in (None, followed):
        raise InvalidAnswer(f"The provider's list goes on by '{cursor}', which is not known for this provider.")
    flags = [has_more in (1, "true"), *(marks.get(name) is True for name in _FLAGS)]
    return True if cursor is not None or total is not None or any(flags) or (pages or 0) > 1 else None


def _most(marks: Json, names: Sequence[str]) -> int | None:
    numbers = [whole(marks.get(name)) for name in names]
    return max((number for number in numbers if number is not None), default=None)


def listed(item: Callable[[Any, Call], Json] = file_object) -> Operation:
    """The list operation of a provider whose pages are OpenAI's. `item` makes a file object of each item.

    The answer has OpenAI's complete envelope: without a boolean `has_more`, openai-python never stops asking and
    openai-node stops after the first page. A host that does not say where its list ends, or says in another way than
    OpenAI's that more follow, is asked once whether it goes on after its last file.
    """

    def operation(call: Call, send: Send) -> Answer:
        return completed(send(call), call, send, item)

    return operation


def completed(reply: Answer, call: Call, send: Send, item: Callable[[Any, Call], Json] = file_object) -> Answer:
    """The provider's answer to a list request, completed as `listed` says."""
    found = listing(reply.json, call)
    files = [item(each, call) for each in found.items]
    has_more = found.has_more
    if has_more is not False and not isinstance(found.marks.get("has_more"), bool):
        has_more = _goes_on_after(files, call, send, bool(has_more))
    ids = [file["id"] for file in files]
    if call.query.get("after") in ids:  # the host ignores it, or counts from it
        files = files[ids.index(call.query["after"]) + 1 :]
    return reply._replace(json={**found.fields, **page(files, bool(has_more))})


def _goes_on_after(files: list[Json], call: Call, send: Send, is_said: bool) -> bool:
    """Whether the list goes on after these files. InvalidAnswer if `is_said`, and the host only repeats itself."""
    if not files and is_said:
        raise unusable("data")
    if not files:
        return False
    try:  # of two files, the first may be `after` itself
        answer = send(call._replace(query={**call.query, "after": files[-1]["id"], "limit": "2"})).json
    except UpstreamAnswered:
        return True  # a client that asks for more gets the provider's own reason
    items = listing(answer, call._replace(query={"after": ""})).items
    if any(not _has(files, each.get("id")) for each in items if isinstance(each, dict)):
        return True
    if items and is_said:
        raise InvalidAnswer("The provider says that its list goes on, but repeats it whatever 'after' is.")
    return False


def by_cursor(field: str, parameter: str, item: Callable[[Any, Call], Json] = file_object) -> Operation:
    """The list operation of a provider whose answers hold the next page's cursor, which goes into that parameter.

    Its list is walked, because a client's `after` is a file.
    """

    def cursors(call: Call, send: Send) -> Iterator[Page]:
        asked = {name: text for name, text in call.query.items() if name == "purpose"}
        cursor: Json = {}
        while True:
            before = {"after": ""} if cursor else {}
            found = listing(send(call._replace(query={**asked, **cursor})).json, call._replace(query=before), field)
            yield Page([item(each, call) for each in found.items], bool(found.has_more))
            if not found.has_more:
                return
            following = {parameter: str(need(found.marks, field, (str, int)))}
            if following == cursor:
                raise InvalidAnswer("The provider's list repeats a page.")
            cursor = following

    def pages(call: Call, send: Send) -> Iterator[Page]:
        after = call.query.get("after")
        return rest_after(cursors(call, send), after) if after else cursors(call, send)

    return walked(pages)
