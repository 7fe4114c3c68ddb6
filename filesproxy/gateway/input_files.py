"""The input of a batch or a job: read once from the provider, and judged line by line before the batch is created.

A line is a request that the provider performs later, when the gateway cannot look at it any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any

from ..budget import Hold
from ..calls import Call, Json, Ledger, Owned
from ..errors import BadRequest, FilesproxyError, NotFound, TooLarge
from ..operations import ROUTES, is_id
from ..wire.json_fields import at
from ..wire.strict_json import Unreadable, cost, loads
from .known_fields import check_fields
from .ownership import Access, Guard, SideCalls, another

MAX_BYTES = 200 << 20  # of an input file, OpenAI's limit for batches
MAX_LINE_BYTES = 8 << 20
#: operation → the fields that name its input files
INPUTS = {"create_batch": ("input_file_id",), "create_fine_tuning_job": ("training_file", "validation_file")}
# Azure's lines have paths without the version.
_BY_PATH = {
    path: route.operation
    for route in ROUTES
    if route.method == "POST"
    for path in (route.path, route.path[len("/v1") :])
}


class InputFiles:
    """Judges input files. A verdict is remembered: what has been uploaded never changes. Thread-safe."""

    def __init__(self, ledger: Ledger, guard: Guard) -> None:
        self._ledger = ledger
        self._guard = guard

    def check(
        self, call: Call, access: Access, side: SideCalls, results: Callable[[Owned], None], hold: Hold,
        allowed: Iterable[str],
    ) -> None:  # fmt: skip
        """NotFound if a line of an input file names an object of another owner; BadRequest if one cannot be judged.

        TooLarge for a file or a line that is too long. The line that is being judged is counted in `hold`.
        """
        for field in INPUTS.get(call.operation, ()):
            file_id = (call.json or {}).get(field)
            if not isinstance(file_id, str) or not is_id(file_id):
                continue
            if not self._ledger.is_judged(access.account, access.owner, call.operation, file_id):
                self._judge(call, field, file_id, access, side, results, hold, tuple(allowed))
                self._ledger.note_judged(access.account, access.owner, call.operation, file_id)

    def _judge(
        self, call: Call, field: str, file_id: str, access: Access, side: SideCalls,
        results: Callable[[Owned], None], hold: Hold, allowed: tuple[str, ...],
    ) -> None:  # fmt: skip
        answer = side(another("retrieve_file_content", call, file_id))
        if answer.body is None:
            raise FilesproxyError("The provider gave a file without its content.", code="internal_error")
        counted = _Counted(answer.body)
        if call.watch:
            call.watch.transfer(lambda: counted.size)
        with closing(answer.body):
            for number, line in enumerate(lines(counted, field), 1):
                hold.take(cost(line))
                try:
                    self._judge_line(line, call.operation, access, results, allowed)
                except (BadRequest, NotFound) as error:
                    where = at(f"line {number} of the file in {field}", error.param or "")
                    error.message = f"{error.message.rstrip('.')} ({where[:200]})."
                    error.args, error.param = (error.message,), field
                    raise
                finally:
                    hold.release()

    def _judge_line(
        self, line: bytes, operation: str, access: Access, results: Callable[[Owned], None], allowed: tuple[str, ...]
    ) -> None:
        try:
            value: Any = loads(line, unique_keys=True)
        except Unreadable as problem:
            raise BadRequest(
                f"A line of the input file cannot be used: {problem}.", code="invalid_input_file"
            ) from None
        if not isinstance(value, dict):
            raise BadRequest("A line of the input file is not a JSON object.", code="invalid_input_file")
        named, body = _request_in(value) if operation == "create_batch" else ("create_chat_completion", value)
        check_fields(named, body, allowed)
        self._guard.check_texts(body, named, access, results)
        if body is not value:
            self._guard.check_texts({name: each for name, each in value.items() if name != "body"}, "", access, results)


def _request_in(line: Json) -> tuple[str, Json]:
    """The operation that a line of a batch names, "" for one that is not served here, and its body."""
    url, body = line.get("url"), line.get("body")
    if not isinstance(body, dict):
        raise BadRequest("A line of the input file has no object 'body'.", param="body", code="invalid_input_file")
    return _BY_PATH.get(url.rstrip("/"), "") if isinstance(url, str) else "", body


class _Counted:
    """Chunks, and how many bytes of them were read."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.size += len(chunk)
            yield chunk


def lines(chunks: Iterable[bytes], field: str = "file") -> Iterator[bytes]:
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
    yield from _checked(bytes(line) for line in (held,) if line.strip())


def _checked(found: Iterable[bytes], field: str = "file") -> Iterator[bytes]:
    for line in found:
        _check_line(line, field)
        yield line


def _check_line(line: bytes | bytearray, field: str) -> None:
    if len(line) > MAX_LINE_BYTES:
        raise TooLarge(f"The file in '{field}' has a line of more than {MAX_LINE_BYTES} bytes.", param=field)
