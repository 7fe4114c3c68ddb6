"""The table of operations: the name of each, its method and path, its body, and where its ids are. No I/O.

The router, the handlers, the keys' `operations`, the providers and the docs all read this table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from .errors import BadRequest

Expected = Literal["json", "nothing", "bytes", "events"]
BodyKind = Literal["none", "form", "part", "json"]


class Route(NamedTuple):
    """One row of the table: a method and a path, and what the gateway knows about the operation that they name.

    - `path`: `:id` matches one segment, which is the id of a file, a batch, and so on.
    - `body`: the request's body: `none`, an upload's `form`, one `part` of a multi-part upload, or a `json` object.
    - `answer`: what the upstream must answer (`Call.expects`); `events` instead if the request asks for a stream.
    - `is_generated`: a model makes the answer.
    - `is_passed_through`: path, query, JSON and status pass unchanged.
    - `request_ids`, `answer_ids`: where the JSON has ids, in the notation of `ids_at`.
    """

    method: str
    path: str
    operation: str
    body: BodyKind = "none"
    answer: Expected = "json"
    is_generated: bool = False
    is_passed_through: bool = False
    request_ids: tuple[str, ...] = ()
    answer_ids: tuple[str, ...] = ()

    @property
    def repeats_id(self) -> bool:
        """Whether the answer's `id`, if it has one, is the id in the path; the answer to a part has the part's own."""
        return ":id" in self.path and "id" in self.answer_ids and self.body != "part"


def _passed(method: str, path: str, operation: str, **columns: Any) -> Route:
    """The row of an operation that is passed through."""
    return Route(method, path, operation, is_passed_through=True, **columns)


_CHAT_IDS = ("messages[].content[].file.file_id", "messages[].content[].image_url.file_id")
_RESPONSE_IDS = (
    "previous_response_id",
    "input[].content[].file_id",
    "input[].output[].file_id",
    "tools[].container.file_ids[]",
)
_JOB_IDS = ("id", "training_file", "validation_file", "result_files[]")
_BATCH_IDS = ("id", "input_file_id", "output_file_id", "error_file_id")


def _each(places: tuple[str, ...]) -> tuple[str, ...]:
    """The same places in each item of a list's `data`."""
    return tuple(f"data[].{place}" for place in places)


ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/files", "upload_file", body="form", answer_ids=("id",)),
    Route("GET", "/v1/files", "list_files", answer_ids=_each(("id",))),
    Route("GET", "/v1/files/:id", "retrieve_file", answer_ids=("id",)),
    Route("GET", "/v1/files/:id/content", "retrieve_file_content", answer="bytes"),
    Route("DELETE", "/v1/files/:id", "delete_file", answer="nothing", answer_ids=("id",)),
    Route("POST", "/v1/chat/completions", "create_chat_completion", body="json", is_generated=True,
          request_ids=_CHAT_IDS),
    _passed("POST", "/v1/responses", "create_response", body="json", is_generated=True, request_ids=_RESPONSE_IDS,
            answer_ids=("id", "previous_response_id")),
    _passed("POST", "/v1/responses/input_tokens", "count_response_input_tokens", body="json",
            request_ids=_RESPONSE_IDS),
    _passed("POST", "/v1/responses/compact", "compact_response", body="json", is_generated=True,
            request_ids=_RESPONSE_IDS, answer_ids=("id",)),
    _passed("GET", "/v1/responses/:id", "retrieve_response", is_generated=True, answer_ids=("id",)),
    _passed("DELETE", "/v1/responses/:id", "delete_response", answer="nothing", answer_ids=("id",)),
    _passed("POST", "/v1/responses/:id/cancel", "cancel_response", answer="nothing", answer_ids=("id",)),
    _passed("GET", "/v1/responses/:id/input_items", "list_response_input_items",
            answer_ids=_each(("id", "content[].file_id"))),
    _passed("POST", "/v1/uploads", "create_upload", body="json", answer_ids=("id",)),
    _passed("POST", "/v1/uploads/:id/parts", "add_upload_part", body="part", answer_ids=("id", "upload_id")),
    _passed("POST", "/v1/uploads/:id/complete", "complete_upload", body="json", request_ids=("part_ids[]",),
            answer_ids=("id", "file.id")),
    _passed("POST", "/v1/uploads/:id/cancel", "cancel_upload", answer="nothing", answer_ids=("id",)),
    _passed("POST", "/v1/batches", "create_batch", body="json", request_ids=("input_file_id",), answer_ids=_BATCH_IDS),
    _passed("GET", "/v1/batches", "list_batches", answer_ids=_each(_BATCH_IDS)),
    _passed("GET", "/v1/batches/:id", "retrieve_batch", answer_ids=_BATCH_IDS),
    _passed("POST", "/v1/batches/:id/cancel", "cancel_batch", answer="nothing", answer_ids=_BATCH_IDS),
    _passed("POST", "/v1/fine_tuning/jobs", "create_fine_tuning_job", body="json",
            request_ids=("training_file", "validation_file"), answer_ids=_JOB_IDS),
    _passed("GET", "/v1/fine_tuning/jobs", "list_fine_tuning_jobs", answer_ids=_each(_JOB_IDS)),
    _passed("GET", "/v1/fine_tuning/jobs/:id", "retrieve_fine_tuning_job", answer_ids=_JOB_IDS),
    _passed("POST", "/v1/fine_tuning/jobs/:id/cancel", "cancel_fine_tuning_job", answer="nothing", answer_ids=_JOB_IDS),
    _passed("POST", "/v1/fine_tuning/jobs/:id/pause", "pause_fine_tuning_job", answer="nothing", answer_ids=_JOB_IDS),
    _passed("POST", "/v1/fine_tuning/jobs/:id/resume", "resume_fine_tuning_job", answer="nothing", answer_ids=_JOB_IDS),
    _passed("GET", "/v1/fine_tuning/jobs/:id/events", "list_fine_tuning_events"),
    _passed("GET", "/v1/fine_tuning/jobs/:id/checkpoints", "list_fine_tuning_checkpoints", answer_ids=_each(("id",))),
    Route("GET", "/v1/health", "health"),
    Route("GET", "/", "health"),
)  # fmt: skip

#: operation → its row, for the operations that a provider performs
OPERATIONS: dict[str, Route] = {route.operation: route for route in ROUTES if route.operation != "health"}
FILE_OPERATIONS = tuple(name for name, route in OPERATIONS.items() if route.path.startswith("/v1/files"))
#: the operations that only providers with OpenAI's own contract have
PASSED_THROUGH = tuple(name for name, route in OPERATIONS.items() if route.is_passed_through)

# The ids that providers issue. Nothing in them can change the URL that they are put into ("..", "/", "?", "#", "%").
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def is_id(text: str) -> bool:
    """Whether a provider could have issued this id, and it can be put into a URL unchanged."""
    return bool(_ID.fullmatch(text)) and text not in (".", "..")


def checked_id(item_id: str, param: str = "id") -> str:
    """The id. BadRequest if it is not 1 to 128 characters of [A-Za-z0-9._-], or is a dot segment."""
    if not is_id(item_id):
        raise BadRequest("An id is 1 to 128 letters, digits, dots, underscores or hyphens.", param=param)
    return item_id


def ids_at(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """(exact place, id) of each id at a place of a JSON value; a value of another shape has none.

    A place is a path of field names joined by dots; `[]` after a name means each item of that list:
    `messages[].content[].file.file_id` finds `messages[0].content[2].file.file_id`.
    """
    return _ids_at(value, place.split("."), "")


def _ids_at(value: Any, steps: list[str], found: str) -> Iterator[tuple[str, str]]:
    if not steps:
        if isinstance(value, str):
            yield found, value
        return
    name = steps[0].removesuffix("[]")
    inner = value.get(name) if isinstance(value, dict) else None
    here = f"{found}.{name}" if found else name
    if not steps[0].endswith("[]"):
        yield from _ids_at(inner, steps[1:], here)
    elif isinstance(inner, list):
        for index, item in enumerate(inner):
            yield from _ids_at(item, steps[1:], f"{here}[{index}]")
