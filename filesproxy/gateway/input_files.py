"""The input of a batch or a job: read once from the provider, and judged line by line before the batch is created.

A line is a request that the provider performs later, when the gateway cannot look at it any more.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing

from ..budget import Hold
from ..calls import Call, Json, Ledger
from ..errors import BadRequest, InvalidAnswer, NotFound, TooLarge
from ..operations import ROUTES, is_id
from ..wire.strict_json import Unreadable, cost, loads
from .known_fields import check_fields
from .ownership import Access, Judge, SideCall, another

MAX_BYTES = 200 << 20  # of an input file, OpenAI's limit for batches
MAX_LINE_BYTES = 8 << 20
#: operation → the fields that name its input files
INPUTS = {"create_batch": ("input_file_id",), "create_fine_tuning_job": ("training_file", "validation_file")}
_URL = re.compile(r"(/[a-z0-9_]+)+/?")
# Azure's lines have paths without the version.
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
        for field in INPUTS.get(call.operation, ()):
            file_id = (call.json or {}).get(field)
            if not isinstance(file_id, str) or not is_id(file_id):
                continue
            which = (access.account, access.owner, call.operation, file_id)
            if not self._ledger.is_judged(*which):
                for number, line in enumerate(
                    _lines_at(another("retrieve_file_content", call, file_id), side, field), 1
                ):
                    _judge(line, f"Line {number} of the file in '{field}'", field, call.operation, judge, hold, allowed)
                self._ledger.note_judged(*which, self._clock())


def _lines_at(call: Call, side: SideCall, field: str) -> Iterator[bytes]:
    """The lines of a file at the provider. The transfer lasts as long as one may."""
    body = side(call).body
    if body is None:
        raise InvalidAnswer("The provider gave a file without its content.")
    counted = _Counted(body)
    if call.watch:
        call.watch.transfer(lambda: counted.size)
    with closing(body):
        yield from lines(counted, field)


def _judge(
    line: bytes, where: str, field: str, operation: str, judge: Judge, hold: Hold, allowed: Sequence[str]
) -> None:
    """Judge a line like the request that it is. Errors say where it is."""
    hold.take(cost(line))
    try:
        value = _object_in(line)
        if operation == "create_batch":
            named, body = _request_in(value)
            judge.texts({name: each for name, each in value.items() if name != "body"}, "")
        else:
            named, body = "create_chat_completion", value
        check_fields(named, body, allowed)
        judge.texts(body, named)
    except (BadRequest, NotFound, TooLarge) as error:
        error.message = f"{where}{f', {error.param[:200]}' if error.param else ''}: {error.message}"
        error.args, error.param = (error.message,), field
        raise
    finally:
        hold.release()


def _object_in(line: bytes) -> Json:
    try:
        value = loads(line, unique_keys=True)
    except Unreadable as problem:
        raise BadRequest(f"It cannot be used: {problem}.", code="invalid_input_file") from None
    if not isinstance(value, dict):
        raise BadRequest("It is not a JSON object.", code="invalid_input_file")
    return value


def _request_in(line: Json) -> tuple[str, Json]:
    """The operation that a line of a batch names, "" for one that is not served here, and its body."""
    url, body = line.get("url"), line.get("body")
    if not isinstance(body, dict):
        raise BadRequest("It has no object 'body'.", param="body", code="invalid_input_file")
    if not isinstance(url, str) or not _URL.fullmatch(url):  # a spelling that the provider may know, and we do not
        raise BadRequest("'url' must be a path such as /v1/chat/completions.", param="url", code="invalid_input_file")
    return _BY_PATH.get(url.rstrip("/"), ""), body


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
