"""The input of a batch or a job: read once from the provider, and judged line by line before the batch is created.

A line is a request that the provider performs later, when the gateway cannot look at it any more.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing

from ..budget import Hold
from ..calls import Call, Json, Ledger
from ..errors import BadRequest, InvalidAnswer, NotFound, RequestTimeout, TooLarge
from ..operations import ROUTES
from ..wire.json_fields import optional
from ..wire.strict_json import Unreadable, cost, loads
from .known_fields import check_fields
from .ownership import Access, Judge, SideCall, another

MAX_BYTES = 200 << 20  # of an input file, OpenAI's limit for batches
MAX_LINES = 100_000  # Azure's limit for batches, twice OpenAI's
MAX_LINE_BYTES = 8 << 20
#: operation → the fields that name its input files
INPUTS = {"create_batch": ("input_file_id",), "create_fine_tuning_job": ("training_file", "validation_file")}
_JOB = "create_chat_completion"  # what a line of a job's input is like
MAX_PLACE = 200  # characters of a place in a message
_URL = re.compile(r"(/[a-z0-9_]+)+/?")
_BY_PATH = {
    path: route.operation
    for route in ROUTES
    if route.method == "POST"
    for path in (route.path, route.path[len("/v1") :])
}


class InputFiles:
    """Judges input files. A verdict is remembered: what has been uploaded never changes. Thread-safe."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float] = time.time) -> None:
        self._ledger = ledger
        self._clock = clock

    def check(
        self, call: Call, access: Access, side: SideCall, judge: Judge, hold: Hold, allowed: Sequence[str]
    ) -> None:
        """NotFound if a line of an input file names an object of another owner; BadRequest if one cannot be judged.

        TooLarge for a file or a line that is too long. The line that is being judged is counted in `hold`; `allowed`
        are the unknown fields and types of tools that the operator lets through.
        """
        body, started = call.json or {}, time.monotonic()
        for field in INPUTS.get(call.operation, ()):
            file_id = optional(body, field, str)
            if not file_id:
                continue
            meant = _JOB if call.operation != "create_batch" else _operation_at(_endpoint(body))
            which = (access.account, access.owner, f"{call.operation} {meant}", file_id)
            if self._ledger.is_judged(*which):
                continue
            with closing(_lines_at(another("retrieve_file_content", call, file_id), side, field)) as found:
                for number, line in enumerate(found, 1):
                    if call.timeout and time.monotonic() > started + call.timeout:
                        message = "Reading the input file took longer than x-portkey-request-timeout allows."
                        raise RequestTimeout(message)
                    hold.take(cost(line))
                    try:
                        _judge(line, call.operation == "create_batch", meant, judge, allowed)
                    except (BadRequest, NotFound, TooLarge) as error:
                        place = f", {error.param[:MAX_PLACE]}" if error.param else ""
                        error.message = f"Line {number} of the file in '{field}'{place}: {error.message}"
                        error.args, error.param = (error.message,), field
                        raise
                    finally:
                        hold.release()
            self._ledger.note_judged(*which, self._clock())


def _lines_at(call: Call, side: SideCall, field: str) -> Generator[bytes, None, None]:
    """The lines of a file at the provider. The transfer lasts as long as one may. TooLarge for too many of them."""
    body = side(call).body
    if body is None:
        raise InvalidAnswer("The provider gave a file without its content.")
    counted = _Counted(body)
    if call.watch:
        call.watch.transfer(lambda: counted.size)
    with closing(body):
        for number, line in enumerate(lines(counted, field), 1):
            if number > MAX_LINES:
                raise TooLarge(f"The file in '{field}' has more than {MAX_LINES} lines.", param=field)
            yield line


def _judge(line: bytes, is_of_batch: bool, meant: str, judge: Judge, allowed: Sequence[str]) -> None:
    """Judge a line like the request that it is: of the operation that it names, or else of the one that is `meant`."""
    value = _object_in(line)
    if not is_of_batch:
        judge.texts(value, meant)
        return
    url, body = value.get("url"), value.get("body")
    if not isinstance(body, dict):
        raise BadRequest("'body' must be an object.", param="body", code="invalid_input_file")
    if not isinstance(url, str) or not _URL.fullmatch(url):  # a spelling that the provider may know, and we do not
        raise BadRequest("'url' must be a path such as /v1/chat/completions.", param="url", code="invalid_input_file")
    for operation in dict.fromkeys((_operation_at(url) or meant, meant)):
        check_fields(operation, body, allowed)
        judge.texts(body, operation)
    judge.texts({**{name: each for name, each in value.items() if name != "body"}, "url": url.split("/")}, "")


def _endpoint(body: Json) -> str:
    """Where a batch's requests go. BadRequest for a spelling that the provider may know, and we do not."""
    endpoint = optional(body, "endpoint", str) or ""
    if endpoint and not _URL.fullmatch(endpoint):
        raise BadRequest("'endpoint' must be a path such as /v1/chat/completions.", param="endpoint")
    return endpoint


def _operation_at(path: str) -> str:
    """The operation at a path, with or without the version, as Azure has it; "" if it is none that is served here."""
    return _BY_PATH.get(path.rstrip("/"), "")


def _object_in(line: bytes) -> Json:
    try:
        value = loads(line, unique_keys=True)
    except Unreadable as problem:
        raise BadRequest(f"It cannot be used: {problem}.", code="invalid_input_file") from None
    if not isinstance(value, dict):
        raise BadRequest("It is not a JSON object.", code="invalid_input_file")
    return value


class _Counted:
    """Chunks, and how many bytes of them were read."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.size += len(chunk)
            yield chunk


def lines(chunks: Iterable[bytes], field: str) -> Iterator[bytes]:
    """The lines of a file that have anything in them, whatever ends them: LF, CR LF or CR.

    TooLarge for more than MAX_BYTES, or a line of more than MAX_LINE_BYTES.
    """
    held, size = bytearray(), 0
    for chunk in chunks:
        size += len(chunk)
        if size > MAX_BYTES:
            raise TooLarge(f"The file in '{field}' has more than {MAX_BYTES} bytes.", param=field)
        held += chunk
        if b"\n" in chunk or b"\r" in chunk:
            *whole, rest = bytes(held).replace(b"\r", b"\n").split(b"\n")
            held = bytearray(rest)
            yield from _checked((line for line in whole if line.strip()), field)
        _check_line(held, field)
    yield from _checked((bytes(line) for line in (held,) if line.strip()), field)


def _checked(found: Iterable[bytes], field: str) -> Iterator[bytes]:
    for line in found:
        _check_line(line, field)
        yield line


def _check_line(line: bytes | bytearray, field: str) -> None:
    if len(line) > MAX_LINE_BYTES:
        raise TooLarge(f"The file in '{field}' has a line of more than {MAX_LINE_BYTES} bytes.", param=field)
