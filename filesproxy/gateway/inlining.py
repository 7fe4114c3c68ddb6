"""Puts kept files into the requests that name them, so that a model reads them wherever it runs.

Everything is decided before anything is sent: whether the files are there, the caller may use them, the provider takes
them, and they fit. Only then does the exchange read them again and send them, block by block.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any, NoReturn

from ..calls import Body, Call, Inlined, Json, KeptFiles, Target, Text
from ..config.kept_files import NONE, OWN, store_of
from ..errors import BadRequest, Forbidden, NotFound, StoreError, TooLarge
from ..operations import is_id, is_kept_id
from ..wire.file_types import HEAD_BYTES, Kind, kind_of, media_type_of
from ..wire.inlined_json import NotText, measured, stand_in
from .admission import Admission
from .file_references import PARTS, REFERENCES, Content, Reference, kept_id_in, whole
from .record import Record
from .router import Match

MAX_PARTS = 64  # that hold kept files, in one request
MAX_TEXT_BYTES = 10 << 20  # of one file's text, as it is in JSON; the contract's limit for a text
MAX_NAMED = 20  # fields that a part had in vain
MAX_NAME = 255  # characters of a file's name in a request
_NAMEABLE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_ASK = "use another provider, or ask the operator to add {} to its setting file_parts"
#: what helps where a provider does not take a kind of file
_HELP: Mapping[Kind, str] = {
    "text": _ASK.format("text"),
    "image": f"a model that reads images; {_ASK.format('image')}",
    "audio": f"send a transcript; {_ASK.format('audio')}",
    "pdf": f"send its text (pdftotext makes it) or its pages as images; {_ASK.format('pdf, if the host takes it,')}",
    "video": f"send single images; {_ASK.format('video')}",
}
#: types that people know by other names
_TITLES = {"application/zip": "a zip archive (as .docx, .xlsx and .odt are)"}
_NOT_IMAGE = "name it in a part of type file, in Responses input_file"


class Inlining:
    """Completes the requests of one application. `kept_files` gives the kept files of a store's target."""

    def __init__(self, kept_files: Callable[[Target], KeptFiles]) -> None:
        self._kept_files = kept_files

    def completed(
        self, call: Call, match: Match, admission: Admission, target: Target, record: Record, may_have_ids: bool = True
    ) -> Call:
        """The call, with stand-ins where its JSON (changed in place) names kept files, and these files in `inlined`.

        No kept id goes to a provider: NotFound if this caller has no such file, BadRequest where it cannot be
        used, Forbidden if it may not be used here, TooLarge if the files do not fit. `may_have_ids` is false if the
        JSON cannot hold a kept id, so that it need not be looked through.
        """
        where = target.settings["files"]
        if target.provider.get("is_store") or not (where or admission.may_inline(target)):
            return call  # its own ids, or a host of which nothing is known
        for file_id in filter(is_kept_id, (*match.ids, match.model)):
            message = f"{file_id} is the id of a kept file, and this provider has no such object: name the provider"
            raise NotFound(f"{message} that keeps it in x-portkey-provider.", param="id")
        if call.operation not in target.provider["operations"]:
            return call
        if call.json is not None and call.operation in REFERENCES:
            named = (each for each in REFERENCES[call.operation](call.json) if _is_ours(each, where))
            if found := list(islice(named, MAX_PARTS + 1)):
                call = self._with_files(call, found, admission, target, record)
        _refuse_elsewhere(call, store_of(target.settings), may_have_ids)
        return call

    def _with_files(
        self, call: Call, found: Sequence[Reference], admission: Admission, target: Target, record: Record
    ) -> Call:
        if target.settings["files"] == NONE:
            why = "names a file, and this provider takes no file ids (files = none)"
            _refuse(found[0], why, "send its content; the operator can set files to a store")
        if len(found) > MAX_PARTS:
            raise TooLarge(f"A request can name {MAX_PARTS} kept files at most.", param=found[MAX_PARTS].place)
        if not admission.may("retrieve_file_content"):
            raise Forbidden("This gateway key does not allow retrieve_file_content, which a kept file here needs.")
        kept = self._found(found, admission, target)
        files = _Files(kept, target)
        for reference in found:
            reference.holder[reference.key] = files.part(call.operation, reference)
        record.ignored += files.ignored
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
            message = "The store of this file does not let it go to this provider; the operator can add the provider"
            raise Forbidden(f"{message} to the store's inline_to.", param=missing.place)
        shown = missing.file_id if is_id(missing.file_id) else "no file can have this id."
        raise NotFound(f"No such File object: {shown}", param=missing.place)


def _is_ours(reference: Reference, where: str) -> bool:
    """Whether the gateway must have the file: a kept id always, any other only where the provider has no files."""
    return where not in ("", OWN) or is_kept_id(reference.file_id)


def _looked_up(ids: Sequence[str], stores: Iterator[KeptFiles]) -> dict[str, tuple[KeptFiles, Json]]:
    found: dict[str, tuple[KeptFiles, Json]] = {}
    for store in stores:
        left = [each for each in ids if each not in found]
        found.update({file_id: (store, file) for file_id, file in (store.find(left) if left else {}).items()})
    return found


def _refuse_elsewhere(call: Call, store: str, may_be_in_json: bool) -> None:
    """BadRequest for a kept id where no file can be put in. `store` is where the provider's own files are kept."""
    if call.upload:
        call.upload.on_fields(lambda given: _without_kept_id(given, store))
    place = next((name for name, value in call.query.items() if _is_or_has_kept_id(value)), None)
    if call.json and not place:
        is_model = _is_or_has_kept_id(call.json.get("model"))  # which a header may have named
        place = "model" if is_model else kept_id_in(call.json) if may_be_in_json else None
    if place:
        raise _kept_here(place, store)


def _is_or_has_kept_id(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return any(isinstance(text, str) and is_kept_id(text.strip()) for text in texts)


def _without_kept_id(fields: dict[str, str], store: str) -> dict[str, str]:
    """The fields of a form. BadRequest if one of them is a kept id."""
    if place := kept_id_in(fields):
        raise _kept_here(place, store)
    return fields


def _kept_here(place: str, store: str) -> BadRequest:
    message = (
        f"'{place}' names a kept file, which can only be put in as a part: of a chat, as "
        '{"type": "file", "file": {"file_id": …}}, or of the input of Responses, as {"type": "input_file", "file_id": '
        "…}. "
    )
    helps = f"Its files are kept here (files = {store}), so that the provider cannot have this one."
    message += helps if store else "For anything else the provider itself must have the file."
    return BadRequest(message, param=place, code="kept_file_here")


class _Files:
    """The files that a request will hold, each looked at once. `size`: the bytes that they take in it, with repeats."""

    def __init__(self, kept: Mapping[str, tuple[KeptFiles, Json]], target: Target) -> None:
        self._kept = kept
        self._target = target
        self._random = secrets.token_hex(16)
        self._looks: dict[str, tuple[bytes, str]] = {}  # id → its first bytes, and the type that it was uploaded with
        self._by_id: dict[str, Inlined] = {}
        self._uses = Counter[str]()
        self.ignored: list[str] = []  # names of what the client's parts had and the new ones have no place for
        self.size = 0

    @property
    def inlined(self) -> list[Inlined]:
        """The files, each once."""
        return [file._replace(uses=self._uses[file_id]) for file_id, file in self._by_id.items()]

    def part(self, operation: str, reference: Reference) -> Json:
        """The part that holds the file. BadRequest if the provider does not take it, TooLarge if it does not fit."""
        file, given = self._kept[reference.file_id][1], reference.given
        name = _CONTROLS.sub("", _string_at(given, "filename") or file["filename"])[:MAX_NAME]
        head, uploaded = self._look(reference)
        media_type = media_type_of(head, _string_at(given, "mime_type"), uploaded, file["filename"])
        kind = kind_of(media_type, head)
        described = f"names the file '{name}', which is {_TITLES.get(media_type, media_type[:100])}"
        taken = self._target.settings["file_parts"]
        if kind is None or kind not in taken:
            helps = _HELP[kind] if kind else f"convert it to a kind that the provider takes: {' '.join(taken)}"
            if kind is None and _string_at(given, "mime_type"):
                helps = "leave mime_type out, or correct it: the file's bytes do not bear it out"
            _refuse(reference, f"{described}, and this provider does not take that", helps)
        if reference.is_image and kind != "image":
            _refuse(reference, f"{described}, and this part can only hold an image", _NOT_IMAGE)
        made = self._inlined(reference, kind, name)
        self.size += made.text.size if made.text else (made.size + 2) // 3 * 4
        if self.size > self._target.settings["max_inline_bytes"]:
            taken_by_all = f"with this file, the kept files take {self.size} bytes in the request"
            limit = f"max_inline_bytes is {self._target.settings['max_inline_bytes']}"
            raise TooLarge(f"'{reference.place}': {taken_by_all}; {limit}.", param=reference.place)
        content = Content(kind, media_type, name, made.stand_in)
        part = PARTS[operation](reference, content, self._target.provider.get("text_is_file", False))
        if part is None:
            helps = "name it in a chat, or send a transcript or single images"
            _refuse(reference, f"{described}, and Responses have no part for that", helps)
        self._uses[reference.file_id] += 1
        part, ignored = whole(reference, part)
        named = [name for name in ignored if _NAMEABLE.fullmatch(name) and name not in self.ignored]
        self.ignored = [*self.ignored, *named][:MAX_NAMED]
        return part

    def _inlined(self, reference: Reference, kind: Kind, name: str) -> Inlined:
        file_id, file = reference.file_id, self._kept[reference.file_id][1]
        if file_id not in self._by_id:
            text = self._measured(reference, name) if kind == "text" else None
            mark = stand_in(self._random, len(self._by_id))
            self._by_id[file_id] = Inlined(mark, file["bytes"], text, lambda: self._open(reference)[0], reference.place)
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
                _refuse(reference, message, "save it as UTF-8 if it is text; convert it if it is not")
        if text.size > MAX_TEXT_BYTES:
            message = f"'{reference.place}' names a text that takes more than {MAX_TEXT_BYTES} bytes in JSON, which is "
            message += "more than any provider takes. What helps: split the file."
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


def _refuse(reference: Reference, why: str, helps: str) -> NoReturn:
    """Raise BadRequest for a part that cannot be sent."""
    message = f"'{reference.place}' {why}. What helps: {helps}."
    raise BadRequest(message, param=reference.place, code="unsupported_file")


def _string_at(given: Json, name: str) -> str:
    value = given.get(name)
    return value if isinstance(value, str) else ""
