"""JSON request bodies: read within limits, parsed once, and counted while they are in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..budget import Hold
from ..calls import Json
from ..errors import InvalidJson, TooLarge, UnsupportedMedia
from ..wire.headers import media_type
from ..wire.strict_json import Unreadable, cost, loads
from .key_guard import check_json
from .request import Request

BLOCK_BYTES = 1 << 18  # of one read
JSON = "application/json"


class JsonBody:
    """A request's JSON object, which is read when it is first needed. Call `release` when it has been sent on.

    `hold` counts the memory that it takes once it is parsed. `names` are the configured providers. If the model begins
    with one (`@NAME/model`), that prefix is removed. `presented` are the gateway keys in the request's head,
    which must not be in the body too. `keeps_files` says whether there is a store, whose ids may be in it.
    """

    def __init__(
        self,
        request: Request,
        settings: Mapping[str, Any],
        hold: Hold,
        names: Collection[str],
        presented: Sequence[str] = (),
        keeps_files: bool = True,
    ) -> None:
        self._request = request
        self._presented = presented
        self._names = names
        self._max_bytes = settings["max_json_bytes"]
        self._hold = hold
        self._value: Json | None = None
        self.may_have_file_ids = keeps_files  # of kept files; known once the body was read
        self._slug = ""

    @property
    def value(self) -> Json:
        """The object. Raises InvalidJson, UnsupportedMedia, or what taking memory and reading the body raise."""
        if self._value is None:
            self._slug, self._value = split_slug(self._read(), self._names)
        return self._value

    def named_provider(self) -> str:
        """The provider that the model names, as in `@NAME/model`, otherwise "". Raises what `value` raises."""
        _ = self.value  # reading the body is what finds the slug
        return self._slug

    def release(self) -> None:
        """Stop counting its memory. Calling it twice is harmless."""
        self._hold.release()

    def _read(self) -> Json:
        declared = media_type(self._request.headers) or JSON
        if declared != JSON and not declared.endswith("+json"):
            raise UnsupportedMedia("This request must be application/json.", param="content-type")
        text = self._text()
        try:
            value = loads(text, unique_keys=True)
        except Unreadable as problem:
            raise InvalidJson(f"The request body cannot be used: {problem}.") from None
        if not isinstance(value, dict):
            raise InvalidJson("The request body must be a JSON object.")
        check_json(text, value, self._presented)
        self.may_have_file_ids = self.may_have_file_ids and _may_hold_kept_id(text)
        return value

    def _text(self) -> bytearray:
        text = bytearray()
        self._request.body.limit(self._max_bytes)
        while block := self._request.body.read(BLOCK_BYTES):
            size = cost(block)
            if not self._hold.fits(size):  # a 503 would promise that it fits later
                raise TooLarge("The request body would take more memory than max_json_in_flight.")
            self._hold.take(size)
            text += block
        return text


def _may_hold_kept_id(text: bytes | bytearray) -> bool:
    """Whether the id of a kept file may be in a JSON text, as it is or escaped. Most texts need not be looked through.

    A single byte is looked for first: that is memchr, thirty times as fast as the search for a word.
    """
    return (b"-" in text and b"file-" in text) or (b"\\" in text and b"\\u00" in text)


def split_slug(body: Json, names: Collection[str]) -> tuple[str, Json]:
    """The provider in a model `@NAME/model`, and the body without that prefix.

    ("", body) if NAME is not one of `names`: some hosts have models with such names.
    """
    model = body.get("model")
    name, rest = split_model(model, names) if isinstance(model, str) else ("", "")
    return (name, {**body, "model": rest}) if name else ("", body)


def split_model(model: str, names: Collection[str]) -> tuple[str, str]:
    """The provider in `@NAME/model`, and the model without it; ("", model) if NAME is not one of `names`."""
    if not model.startswith("@"):
        return "", model
    name, slash, rest = model[1:].partition("/")
    return (name, rest) if slash and name in names else ("", model)
