"""Puts kept files into the requests that name them, so that a model reads them wherever it runs.

Everything is decided before anything is sent: whether the files are there, the caller may use them, the provider takes
them, and they fit. Only then are they read again and sent, block by block, by the exchange.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import NoReturn

from ..calls import Body, Call, Inlined, Json, KeptFiles, Target, Text
from ..config.kept_files import NONE, OWN
from ..errors import BadRequest, Forbidden, NotFound, StoreError, TooLarge
from ..operations import OPERATIONS, ids_at, is_kept_id
from ..wire.file_types import HEAD_BYTES, Kind, kind_of, media_type_of
from ..wire.inlined_json import NotText, measured, stand_in
from .admission import Admission
from .file_references import PARTS, REFERENCES, Content, Reference
from .record import Record
from .router import Match

MAX_PARTS = 64  # that hold kept files, in one request
MAX_TEXT_BYTES = 10 << 20  # of one file's text in JSON; OpenAI's limit for a text
MAX_NAME = 255  # characters of a file's name in a request
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

#: what helps where a provider does not take a kind of file
_HELP: Mapping[Kind | None, str] = {
    "text": "use a provider that takes text, or add text to its file_parts",
    "image": "use a model that reads images, and add image to the file_parts of its provider",
    "audio": "send a transcript, or use a provider whose file_parts has audio",
    "pdf": "send its text (pdftotext makes it), or its pages as images, or use a provider whose file_parts has pdf",
    "video": "send single images, or use a provider whose file_parts has video",
    None: "convert it to text, PDF, PNG or JPEG",
}


class Inlining:
    """Completes the requests of one application. `kept_files` gives the kept files of a store's target."""

    def __init__(self, kept_files: Callable[[Target], KeptFiles]) -> None:
        self._kept_files = kept_files

    def completed(self, call: Call, match: Match, admission: Admission, target: Target, record: Record) -> Call:
        """The call, with stand-ins where its JSON named kept files, and these files in `inlined`.

        No kept id goes to a provider: NotFound if there is no such file for this caller, BadRequest where it cannot be
        used, Forbidden if it may not be used here, TooLarge if the files do not fit.
        """
        where = target.settings["files"]
        if target.provider.get("is_store") or not (where or admission.may_inline(target)):
            return call  # its own ids, or a host of which nothing is known
        for file_id in filter(is_kept_id, match.ids):
            raise NotFound(f"This provider has no object {file_id}: files with such ids are kept here.", param="id")
        if call.json is None or call.operation not in target.provider["operations"]:
            return call
        if call.operation in REFERENCES:
            found = [each for each in REFERENCES[call.operation](call.json) if _is_ours(each, where)]
            if found:
                call = self._with_files(call, found, admission, target, record)
        if call.operation != "create_chat_completion":  # a chat has ids nowhere else
            _refuse_elsewhere(call, match)
        return call

    def _with_files(
        self, call: Call, found: Sequence[Reference], admission: Admission, target: Target, record: Record
    ) -> Call:
        if target.settings["files"] == NONE:
            message = f"'{found[0].place}' names a file, and this provider has none (files = none)."
            raise BadRequest(message, param=found[0].place, code="unsupported_file")
        if len(found) > MAX_PARTS:
            raise BadRequest(f"A request can hold {MAX_PARTS} kept files, not more.", param=found[MAX_PARTS].place)
        if not admission.may("retrieve_file_content"):
            raise Forbidden("This gateway key does not allow retrieve_file_content, which a kept file here needs.")
        kept = self._found(found, admission, target)
        files = _Files(kept, target)
        for reference in found:
            reference.holder[reference.key] = files.part(call.operation, reference)
        record.inline_files, record.inline_bytes = len(found), files.size
        return call._replace(inlined=files.inlined)

    def _found(
        self, references: Sequence[Reference], admission: Admission, target: Target
    ) -> dict[str, tuple[KeptFiles, Json]]:
        """Id → the store that has the file, and the file object."""
        allowed, others = admission.stores(target)
        ids = [each for each in dict.fromkeys(each.file_id for each in references) if is_kept_id(each)]
        found = _looked_up(ids, map(self._kept_files, allowed))
        missing = next((each for each in references if each.file_id not in found), None)
        if missing is None:
            return found
        if missing.file_id in _looked_up([missing.file_id], map(self._kept_files, others)):
            message = "This file is kept here and may not be sent to this provider (inline_to of its store says where)."
            raise Forbidden(message, param=missing.place)
        raise NotFound(f"No such File object: {missing.file_id}", param=missing.place)


def _is_ours(reference: Reference, where: str) -> bool:
    """Whether the gateway must know the file: always by a kept id, and by every id where the provider has no files."""
    return where not in ("", OWN) or is_kept_id(reference.file_id)


def _looked_up(ids: Sequence[str], stores: Iterator[KeptFiles]) -> dict[str, tuple[KeptFiles, Json]]:
    found: dict[str, tuple[KeptFiles, Json]] = {}
    for store in stores:
        left = [each for each in ids if each not in found]
        found.update({file_id: (store, file) for file_id, file in (store.find(left) if left else {}).items()})
    return found


def _refuse_elsewhere(call: Call, match: Match) -> None:
    """BadRequest for a kept id where no file can be put in."""
    for place_of_ids in OPERATIONS[match.route.operation].request_ids:
        for place, file_id in ids_at(call.json, place_of_ids):
            if is_kept_id(file_id):
                message = (
                    f"'{place}' names a file that is kept here. Kept files can be used in chats and in the input of "
                    "Responses; for this, upload the file to the provider."
                )
                raise BadRequest(message, param=place, code="kept_file_here")


class _Files:
    """The files that a request will hold, each looked at once. `size` is what they take in it, in bytes."""

    def __init__(self, kept: Mapping[str, tuple[KeptFiles, Json]], target: Target) -> None:
        self._kept = kept
        self._target = target
        self._random = secrets.token_hex(16)
        self._looks: dict[str, tuple[bytes, str]] = {}  # id → its first bytes, and the type that it was uploaded with
        self._by_id: dict[str, Inlined] = {}
        self.size = 0

    @property
    def inlined(self) -> list[Inlined]:
        """The files, each once."""
        return list(self._by_id.values())

    def part(self, operation: str, reference: Reference) -> Json:
        """The part that holds the file. BadRequest if the provider does not take it, TooLarge if it does not fit."""
        file, given = self._kept[reference.file_id][1], reference.given
        name = _CONTROLS.sub("", _text(given, "filename") or file["filename"])[:MAX_NAME]
        head, uploaded = self._look(reference)
        media_type = media_type_of(head, _text(given, "mime_type"), uploaded, file["filename"])
        kind, described = kind_of(media_type, head), f"names the file '{name}', which is {media_type}"
        if kind is None or kind not in self._target.settings["file_parts"]:
            _refuse(reference, f"{described}, and this provider does not take that here", kind)
        if reference.is_image and kind != "image":
            _refuse(reference, f"{described} and not an image", kind)
        made = self._inlined(reference, kind, name)
        self.size += made.text.size if made.text else (made.size + 2) // 3 * 4
        if self.size > self._target.settings["max_inline_bytes"]:
            message = "would make the request's files larger than max_inline_bytes"
            raise TooLarge(f"'{reference.place}' {message}.", param=reference.place)
        content = Content(kind, media_type, name, made.stand_in)
        part = PARTS[operation](reference, content, self._target.provider.get("text_is_file", False))
        if part is None:
            _refuse(reference, f"{described}, and Responses have no part for that", kind)
        return part

    def _inlined(self, reference: Reference, kind: Kind, name: str) -> Inlined:
        file_id, file = reference.file_id, self._kept[reference.file_id][1]
        if file_id not in self._by_id:
            text = self._measured(reference, name) if kind == "text" else None
            mark = stand_in(self._random, len(self._by_id))
            self._by_id[file_id] = Inlined(mark, file["bytes"], text, lambda: self._open(reference)[0])
        return self._by_id[file_id]

    def _look(self, reference: Reference) -> tuple[bytes, str]:
        if reference.file_id not in self._looks:
            body, uploaded = self._open(reference)
            with closing(body):
                head = b""
                while len(head) < HEAD_BYTES and (block := next(body, b"")):
                    head += block[:HEAD_BYTES]
            self._looks[reference.file_id] = head[:HEAD_BYTES], uploaded
        return self._looks[reference.file_id]

    def _measured(self, reference: Reference, name: str) -> Text:
        body, _ = self._open(reference)
        with closing(body):
            try:
                text = measured(body, MAX_TEXT_BYTES)
            except NotText:
                message = f"names the file '{name}', which is neither text in UTF-8 nor of another kind known here"
                _refuse(reference, message, None)
        if text.size > MAX_TEXT_BYTES:
            message = f"'{reference.place}' names a text of more than {MAX_TEXT_BYTES} bytes."
            raise TooLarge(message, param=reference.place)
        return text

    def _open(self, reference: Reference) -> tuple[Body, str]:
        """The file's content, and the type that it was uploaded with. NotFound names the place of the id."""
        try:
            answer = self._kept[reference.file_id][0].open(reference.file_id)
        except NotFound as error:  # it was deleted after it was looked up
            error.param = reference.place
            raise
        if answer.body is None:
            raise StoreError("The store gave a file without its content.")
        return answer.body, answer.headers.get("content-type", "")


def _refuse(reference: Reference, why: str, kind: Kind | None) -> NoReturn:
    """Raise BadRequest for a part that cannot be sent; `kind` decides what helps."""
    message = f"'{reference.place}' {why}. What helps: {_HELP[kind]}."
    raise BadRequest(message, param=reference.place, code="unsupported_file")


def _text(given: Json, name: str) -> str:
    value = given.get(name)
    return value if isinstance(value, str) else ""
