"""The table of operations: the name of each, its method and path, its body, and where its ids are. No I/O.

The router, the handlers, the keys' `operations`, the providers and the docs all read this table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from .errors import BadRequest

Expected = Literal["json", "nothing", "bytes", "events"]
BodyKind = Literal["none", "form", "part", "json", "part or json"]
#: what an object at a provider can be, and where it is below /v1; the last three have no paths of their own here
_KINDS = {"files": "file", "uploads": "upload", "batches": "batch", "jobs": "job", "responses": "response",
          "containers": "container", "vector_stores": "vector_store"}  # fmt: skip
KINDS = (*_KINDS.values(), "model", "conversation", "item")


class Route(NamedTuple):
    """One row of the table: a method and a path, and what the gateway knows about the operation that they name.

    - `path`: `:id` matches one segment, which is the id of a file, a batch, and so on. `:model` matches all that is
      left, since the names of models may contain slashes, and may begin with a provider's, as in `@NAME/model`.
    - `body`: the request's body: `none`, an upload's `form`, one `part` (a form whose file needs no purpose), a `json`
      object, or whichever of the last two its media type says.
    - `answer`: what the upstream must answer (`Call.expects`); `events` instead if the request asks for a stream.
    - `is_generated`: a model makes the answer.
    - `is_passed_through`: path, query, JSON and status pass unchanged.
    - `request_ids`, `answer_ids`: where the JSON has ids, in the notation of `ids_at`. Those of a request are ids of
      objects that the caller must own, where owners are kept apart.
    - `makes_another`: the answer is about something that was made below the id in the path, and has an id of its own.
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
    makes_another: bool = False

    @property
    def kind(self) -> str:
        """Of the object that the first id in the path names, or of those that the path lists or makes; "" if none."""
        return next((_KINDS[segment] for segment in self.path.split("/") if segment in _KINDS), "")

    @property
    def is_top_list(self) -> bool:
        """Whether it lists the objects of an account, not what is inside one of them."""
        return self.method == "GET" and ":id" not in self.path and bool(self.kind)

    @property
    def repeats_id(self) -> bool:
        """Whether the answer's `id`, if it has one, is the last id in the path."""
        return ":id" in self.path and "id" in self.answer_ids and not self.makes_another

    @property
    def names_model(self) -> bool:
        """Whether the path ends in the name of a model."""
        return self.path.endswith("/:model")


def _passed(method: str, path: str, operation: str, **columns: Any) -> Route:
    """The row of an operation that is passed through."""
    return Route(method, path, operation, is_passed_through=True, **columns)


def _each(places: tuple[str, ...]) -> tuple[str, ...]:
    """The same places in each item of a list's `data`."""
    return tuple(f"data[].{place}" for place in places)


_CHAT_IDS = ("messages[].content[].file.file_id", "messages[].content[].image_url.file_id")
_RESPONSE_IDS = (
    "previous_response_id",
    "conversation",
    "conversation.id",
    "input[].content.file_id",
    "input[].content[].file_id",
    "input[].output.file_id",
    "input[].output[].file_id",
)
_JOB_IDS = ("id", "training_file", "validation_file", "result_files[]")
_BATCH_IDS = ("id", "input_file_id", "output_file_id", "error_file_id")
_CONTAINER_FILE_IDS = ("id", "container_id")
_STORED_FILE_IDS = ("id", "vector_store_id")


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
    _passed("POST", "/v1/uploads/:id/parts", "add_upload_part", body="part", answer_ids=("id", "upload_id"),
            makes_another=True),
    _passed("POST", "/v1/uploads/:id/complete", "complete_upload", body="json", answer_ids=("id", "file.id")),
    _passed("POST", "/v1/uploads/:id/cancel", "cancel_upload", answer="nothing", answer_ids=("id",)),
    _passed("POST", "/v1/batches", "create_batch", body="json", request_ids=("input_file_id",), answer_ids=_BATCH_IDS),
    _passed("GET", "/v1/batches", "list_batches", answer_ids=_each(_BATCH_IDS)),
    _passed("GET", "/v1/batches/:id", "retrieve_batch", answer_ids=_BATCH_IDS),
    _passed("GET", "/v1/batches/:id/output", "retrieve_batch_output", answer="bytes"),
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
    _passed("GET", "/v1/models", "list_models"),
    _passed("GET", "/v1/models/:model", "retrieve_model"),
    _passed("DELETE", "/v1/models/:model", "delete_model", answer="nothing"),
    _passed("POST", "/v1/embeddings", "create_embedding", body="json", is_generated=True),
    _passed("POST", "/v1/containers", "create_container", body="json", request_ids=("file_ids[]",),
            answer_ids=("id",)),
    _passed("GET", "/v1/containers", "list_containers", answer_ids=_each(("id",))),
    _passed("GET", "/v1/containers/:id", "retrieve_container", answer_ids=("id",)),
    _passed("DELETE", "/v1/containers/:id", "delete_container", answer="nothing", answer_ids=("id",)),
    _passed("POST", "/v1/containers/:id/files", "create_container_file", body="part or json",
            request_ids=("file_id",), answer_ids=_CONTAINER_FILE_IDS, makes_another=True),
    _passed("GET", "/v1/containers/:id/files", "list_container_files", answer_ids=_each(_CONTAINER_FILE_IDS)),
    _passed("GET", "/v1/containers/:id/files/:id", "retrieve_container_file", answer_ids=_CONTAINER_FILE_IDS),
    _passed("DELETE", "/v1/containers/:id/files/:id", "delete_container_file", answer="nothing", answer_ids=("id",)),
    _passed("GET", "/v1/containers/:id/files/:id/content", "retrieve_container_file_content", answer="bytes"),
    _passed("POST", "/v1/vector_stores", "create_vector_store", body="json", request_ids=("file_ids[]",),
            answer_ids=("id",)),
    _passed("GET", "/v1/vector_stores", "list_vector_stores", answer_ids=_each(("id",))),
    _passed("GET", "/v1/vector_stores/:id", "retrieve_vector_store", answer_ids=("id",)),
    _passed("POST", "/v1/vector_stores/:id", "update_vector_store", body="json", answer_ids=("id",)),
    _passed("DELETE", "/v1/vector_stores/:id", "delete_vector_store", answer="nothing", answer_ids=("id",)),
    _passed("POST", "/v1/vector_stores/:id/search", "search_vector_store", body="json",
            answer_ids=_each(("file_id",))),
    _passed("POST", "/v1/vector_stores/:id/files", "create_vector_store_file", body="json", request_ids=("file_id",),
            answer_ids=_STORED_FILE_IDS, makes_another=True),
    _passed("GET", "/v1/vector_stores/:id/files", "list_vector_store_files", answer_ids=_each(_STORED_FILE_IDS)),
    _passed("GET", "/v1/vector_stores/:id/files/:id", "retrieve_vector_store_file", answer_ids=_STORED_FILE_IDS),
    _passed("POST", "/v1/vector_stores/:id/files/:id", "update_vector_store_file", body="json",
            answer_ids=_STORED_FILE_IDS),
    _passed("DELETE", "/v1/vector_stores/:id/files/:id", "delete_vector_store_file", answer="nothing",
            answer_ids=("id",)),
    _passed("GET", "/v1/vector_stores/:id/files/:id/content", "retrieve_vector_store_file_content"),
    _passed("POST", "/v1/vector_stores/:id/file_batches", "create_vector_store_file_batch", body="json",
            request_ids=("file_ids[]", "files[].file_id"), answer_ids=_STORED_FILE_IDS, makes_another=True),
    _passed("GET", "/v1/vector_stores/:id/file_batches/:id", "retrieve_vector_store_file_batch",
            answer_ids=_STORED_FILE_IDS),
    _passed("POST", "/v1/vector_stores/:id/file_batches/:id/cancel", "cancel_vector_store_file_batch",
            answer="nothing", answer_ids=_STORED_FILE_IDS),
    _passed("GET", "/v1/vector_stores/:id/file_batches/:id/files", "list_vector_store_file_batch_files",
            answer_ids=_each(_STORED_FILE_IDS)),
    Route("GET", "/v1/health", "health"),
    Route("GET", "/", "health"),
)  # fmt: skip

#: operation → its row, for the operations that a provider performs
OPERATIONS: dict[str, Route] = {route.operation: route for route in ROUTES if route.operation != "health"}
FILE_OPERATIONS = tuple(name for name, route in OPERATIONS.items() if route.path.startswith("/v1/files"))
#: the operations that only providers with OpenAI's own contract have, unless one has them in its own way
PASSED_THROUGH = tuple(name for name, route in OPERATIONS.items() if route.is_passed_through)

_Made = tuple[tuple[str, str], ...]
#: what an item of a response's output tells of: (place in the item, kind)
MADE_BY_ITEM: _Made = (("id", "item"), ("container_id", "container"), ("environment.container_id", "container"))
_BY_RESPONSE: _Made = (("id", "response"), ("conversation.id", "conversation"),
                       *((f"output[].{place}", kind) for place, kind in MADE_BY_ITEM))  # fmt: skip
_BY_BATCH: _Made = (("id", "batch"), ("output_file_id", "file"), ("error_file_id", "file"))
_BY_JOB: _Made = (("id", "job"), ("result_files[]", "file"), ("fine_tuned_model", "model"))
#: operation → (place in its answer, kind) of the objects that its answer tells of, perhaps for the first time
MADE_BY: dict[str, _Made] = {
    "upload_file": (("id", "file"),),
    "create_upload": (("id", "upload"),),
    "complete_upload": (("id", "upload"), ("file.id", "file")),
    "cancel_upload": (("id", "upload"),),
    "create_container": (("id", "container"),),
    "create_vector_store": (("id", "vector_store"),),
    "list_batches": tuple((f"data[].{place}", kind) for place, kind in _BY_BATCH),
    "list_fine_tuning_jobs": tuple((f"data[].{place}", kind) for place, kind in _BY_JOB),
    "list_fine_tuning_checkpoints": (("data[].fine_tuned_model_checkpoint", "model"),),
    **dict.fromkeys(("create_response", "compact_response", "retrieve_response", "cancel_response"), _BY_RESPONSE),
    **dict.fromkeys(("create_batch", "retrieve_batch", "cancel_batch"), _BY_BATCH),
    **{name: _BY_JOB for name in OPERATIONS if name.endswith("_fine_tuning_job")},
}
#: the operations that make objects which have owners, or take the ids of such; chats are not among them
OWNING = tuple(name for name, route in OPERATIONS.items() if route.kind or name == "delete_model")

# The ids that providers issue. Nothing in them can change the URL that they are put into ("..", "/", "?", "#", "%").
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
#: the id of a file that the gateway keeps itself, in whichever store: a stamp and 96 random bits. No provider's ids
#: have this form, so these are never sent to one.
KEPT_ID = re.compile(r"file-([0-9a-f]{14})[0-9a-f]{24}")
# A segment of a model's name, as providers have them: ft:gpt-4o:acme::a1, @cf/meta/llama-3, llama3:8b.
_MODEL_SEGMENT = re.compile(r"[A-Za-z0-9._:@+~=-]{1,128}")
MAX_MODEL_SEGMENTS = 8
# What mock servers that are made from an OpenAPI document answer for every text. No upstream issues it as an id, so no
# crossed answer has it, and the vendors' own test suites, which run against such servers, pass through the gateway.
_EXAMPLE = "string"


def is_about(found: Any, asked: str) -> bool:
    """Whether an answer with the id `found` can be about the id that was asked for."""
    return found in (asked, _EXAMPLE)


def is_id(text: str) -> bool:
    """Whether a provider could have issued this id, and it can be put into a URL unchanged."""
    return bool(_ID.fullmatch(text)) and text not in (".", "..")


def is_kept_id(text: str) -> bool:
    """Whether this can be the id of a file that the gateway keeps, now or before it was deleted."""
    return bool(KEPT_ID.fullmatch(text))


def checked_id(item_id: str, param: str = "id") -> str:
    """The id. BadRequest if it is not 1 to 128 characters of [A-Za-z0-9._-], or is a dot segment."""
    if not is_id(item_id):
        raise BadRequest("An id is 1 to 128 letters, digits, dots, underscores or hyphens.", param=param)
    return item_id


def checked_model(name: str) -> str:
    """The name of a model as it can stand in a URL. BadRequest if a segment of it could change the URL."""
    segments = name.split("/")
    fit = all(_MODEL_SEGMENT.fullmatch(segment) and segment not in (".", "..") for segment in segments)
    if not fit or len(segments) > MAX_MODEL_SEGMENTS:
        message = f"A model's name is up to {MAX_MODEL_SEGMENTS} segments of letters, digits and ._:@+~=-."
        raise BadRequest(message, param="model")
    return name


def ids_at(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """(exact place, id) of each id at a place of a JSON value; a value of another shape has none.

    A place is a path of field names joined by dots; `[]` after a name means each item of that list:
    `messages[].content[].file.file_id` finds `messages[0].content[2].file.file_id`.
    """
    return _ids_at(value, _steps(place), 0, ())


@lru_cache(maxsize=256)
def _steps(place: str) -> tuple[tuple[str, bool], ...]:
    """(name, whether it is that of a list) of each step."""
    return tuple((step.removesuffix("[]"), step.endswith("[]")) for step in place.split("."))


def _ids_at(
    value: Any, steps: tuple[tuple[str, bool], ...], depth: int, path: tuple[tuple[str, int | None], ...]
) -> Iterator[tuple[str, str]]:
    name, is_list = steps[depth]
    inner = value.get(name) if isinstance(value, dict) else None
    if inner is None:
        return
    depth += 1
    items = enumerate(inner) if is_list and isinstance(inner, list) else () if is_list else ((None, inner),)
    for index, item in items:
        if depth < len(steps):
            if isinstance(item, dict) and steps[depth][0] in item:
                yield from _ids_at(item, steps, depth, (*path, (name, index)))
        elif isinstance(item, str):
            yield ".".join(step if at is None else f"{step}[{at}]" for step, at in (*path, (name, index))), item
