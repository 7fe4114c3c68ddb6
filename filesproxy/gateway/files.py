"""The handlers of the file operations, which turn a request into a call or refuse it with nothing sent.

A handler gets the request, its row of the table with the id, the target, and the body's JSON if it has any.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Optional

from ..calls import Call, Json, Target, Upload
from ..errors import BadRequest, UnsupportedMedia
from ..operations import OPERATIONS
from ..wire.headers import media_type
from ..wire.lists import checked_purpose
from ..wire.multipart import Part, boundary_of, parts
from ..wire.ranges import conditions
from .expiry import ANCHOR, SECONDS, in_brackets, is_about_expiry
from .request import FormCheck, Request
from .router import Match
from .upload_rules import UploadRules
from .uploads import form_fields

MAX_FIELD_BYTES = 65536  # of one form field; the contract's longest one is a purpose
Handler = Callable[[Request, Match, Target, Optional[Json]], Call]

NO_RULES = UploadRules()
_FIELD_NAME = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")


def call_of(match: Match, **more: Any) -> Call:
    """A call of the matched operation. Its path is the route's, without the version and with the ids."""
    route = match.route
    return Call(route.operation, route.method, match.path, expects=route.answer, file_id=match.id, **more)


def upload_file(request: Request, match: Match, target: Target, body: Json | None) -> Call:
    """POST /v1/files. Reads up to the first byte of the file; the rest is read while the call is sent."""
    known = form_fields(target)
    required = target.provider.get("required_form_fields", ())
    request.upload_rules.check_expiry(known)
    form = Form(form_parts(request, target), request.check_form, known, required, rules=request.upload_rules)
    upload = form.upload()
    upload.max_size = request.body.length
    return call_of(match, upload=upload)


def add_upload_part(request: Request, match: Match, target: Target, body: Json | None) -> Call:
    """POST /v1/uploads/:id/parts. The form has one part, `data`, without fields; OpenAI's example has no file name."""
    form = Form(form_parts(request, target), request.check_form, name="data", is_named=False)
    return call_of(match, upload=form.upload())


def form_parts(request: Request, target: Target) -> Iterator[Part]:
    """The parts of an upload's form. UnsupportedMedia if it is not one, TooLarge if it is over max_upload_bytes."""
    if media_type(request.headers) != "multipart/form-data":
        raise UnsupportedMedia("An upload must be multipart/form-data.", param="content-type")
    request.upload_rules.check_length(request.body.length)
    request.body.limit(target.settings["max_upload_bytes"])
    return parts(request.body.read, boundary_of(request.headers["content-type"]))


def list_files(request: Request, match: Match, target: Target, body: Json | None) -> Call:
    """GET /v1/files. Who makes the list judges its parameters: the provider, or the operation that cuts its pages."""
    return call_of(match, query=request.parameters())


def retrieve_or_delete_file(request: Request, match: Match, target: Target, body: Json | None) -> Call:
    """GET and DELETE /v1/files/:id."""
    return call_of(match)


def retrieve_file_content(request: Request, match: Match, target: Target, body: Json | None) -> Call:
    """GET /v1/files/:id/content, and everything else that answers bytes."""
    asked = conditions(request.headers) if request.method == "GET" else {}  # RFC 9110 §14.2: only for GET
    return call_of(match, headers=asked)


HANDLERS: dict[str, Handler] = {
    "upload_file": upload_file,
    "list_files": list_files,
    "retrieve_file": retrieve_or_delete_file,
    **{name: retrieve_file_content for name, route in OPERATIONS.items() if route.answer == "bytes"},
    "delete_file": retrieve_or_delete_file,
    "add_upload_part": add_upload_part,
}


class Form:
    """The fields and the one file of an upload's form, in any order.

    `name` is the part that is the file. If `is_named` is false, it needs no file name. `check(texts, field)` raises
    BadRequest for a text that must not be in a request; it gets every text but the bytes of the file. `rules` are those
    of the caller's key.
    """

    def __init__(
        self,
        form_parts: Iterator[Part],
        check: FormCheck,
        known: Sequence[str] = (),
        required: Sequence[str] = (),
        name: str = "file",
        is_named: bool = True,
        rules: UploadRules = NO_RULES,
    ) -> None:
        self._rules = rules
        self._parts = form_parts
        self._is_named = is_named
        self._known = known
        self._required = required
        self._name = name
        self._check = check
        self._fields: dict[str, str] = {}
        self._ignored: list[str] = []

    @property
    def fields(self) -> Mapping[str, str]:
        """The fields that have been read so far."""
        return self._fields

    def upload(self) -> Upload:
        """The file, once its part has begun. BadRequest if there is none, or for an invalid field before it."""
        for part in self._parts:
            if self._is_file(part):
                name = part.filename or "upload"  # as SDKs call bytes without a name
                self._rules.check_type(part.content_type, name)
                chunks = self._rules.checked(self._chunks(part))
                return Upload(name, part.content_type, self._fields, chunks, self._ignored, self._name)
        raise BadRequest(
            f"The form has no part '{self._name}' with a file name.", param=self._name, code="missing_file"
        )

    def _chunks(self, file: Part) -> Iterator[bytes]:
        yield from file.chunks
        for part in self._parts:
            if self._is_file(part):
                raise BadRequest("The form has more than one file.", param=self._name)
        self._check_complete()

    def _is_file(self, part: Part) -> bool:
        """True for the file; a field is read and kept."""
        self._check([part.name, part.filename or "", part.content_type], None)
        if part.name == self._name and (part.filename is not None or not self._is_named):
            return True
        is_field = part.filename is None or is_about_expiry(part.name)  # a browser's JSON part has a file name
        if part.name == self._name or not is_field:
            message = f"The form's only file must be a part '{self._name}' with a file name."
            raise BadRequest(message, param=self._name)
        self._keep(part.name, _text(part))
        return False

    def _keep(self, name: str, value: str) -> None:
        if not _FIELD_NAME.fullmatch(name):
            param = "expires_after" if is_about_expiry(name) else None
            raise BadRequest("The name of a form field may contain only letters, digits and ._-[].", param=param)
        self._check([value], name)
        for field, text in self._rules.shortened(self._known_as(name, value)).items():
            if field == "purpose":
                self._rules.check_purpose(text)
            if field in self._fields or field in self._ignored:
                raise BadRequest(f"The form has more than one field '{name}'.", param=name)
            if field in self._known:
                self._fields[field] = text
            else:
                self._ignored.append(field)

    def _known_as(self, name: str, value: str) -> dict[str, str]:
        """The field, by the names that providers have for it. BadRequest for an expiry that would not be honoured."""
        is_providers_own = name in self._known and name not in (ANCHOR, SECONDS)
        if is_providers_own or not is_about_expiry(name):
            return {name: checked_purpose(value) if name == "purpose" and is_providers_own else value}
        fields = in_brackets(name, value)
        if not fields.keys() <= set(self._known):
            raise BadRequest(f"Files do not expire here: this provider has no '{name}'.", param=name)
        return fields

    def _check_complete(self) -> None:
        for name in self._required:
            if name not in self._fields:
                raise BadRequest(f"The form has no field '{name}'.", param=name, code=f"missing_{name}")
        if (ANCHOR in self._fields) != (SECONDS in self._fields):
            raise BadRequest("expires_after needs both [anchor] and [seconds].", param="expires_after")
        if SECONDS in self._known and SECONDS not in self._fields:
            self._fields.update(self._rules.missing_expiry())


def _text(part: Part) -> str:
    value = bytearray()
    for chunk in part.chunks:
        value += chunk
        if len(value) > MAX_FIELD_BYTES:
            raise BadRequest(f"A form field is over {MAX_FIELD_BYTES} bytes.")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("A form field is not UTF-8.") from None
