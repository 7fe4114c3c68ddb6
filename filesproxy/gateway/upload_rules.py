"""What a gateway key allows its uploads: size, purposes, types and expiry. What breaks a rule is refused unsent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from mimetypes import guess_type

from ..calls import Json
from ..config.load import Key
from ..errors import BadRequest, Forbidden, TooLarge
from ..wire.file_types import HEAD_BYTES, magic_type
from ..wire.json_fields import optional, required
from .expiry import ANCHOR, SECONDS

MAX_FORM_BYTES = 1 << 20  # of a form beside its file, generously: a longer request cannot hold a file within the limit


class UploadRules:
    """The rules of one key for one request. `set_expiry` is the expiry that they gave its file, in seconds, or 0.

    Sizes are in bytes, times in seconds.
    """

    def __init__(self, key: Key | None = None) -> None:
        self._key = key
        self.set_expiry = 0

    def check_length(self, length: int | None) -> None:
        """TooLarge for a request of this many bytes that cannot hold a file within the limit."""
        if length is not None and self._key and self._key.max_file_bytes:
            self._check_size(length - MAX_FORM_BYTES)

    def check_purpose(self, purpose: str) -> None:
        """Forbidden for a purpose that the key does not allow."""
        if self._key and self._key.allowed_purposes and purpose not in self._key.allowed_purposes:
            message = f"This gateway key allows uploads for {' '.join(self._key.allowed_purposes)} only."
            raise Forbidden(message, param="purpose", code="purpose_not_allowed")

    def check_type(self, media_type: str, name: str = "", param: str = "file") -> None:
        """Forbidden for a media type that the key does not allow. If it says nothing, the file's name does."""
        allowed = self._key.allowed_types if self._key else ()
        bare = media_type.partition(";")[0].strip().lower()
        if allowed and bare in ("", "application/octet-stream"):
            bare = guess_type(name)[0] or bare
        if allowed and {bare, f"{bare.partition('/')[0]}/*"}.isdisjoint(allowed):
            message = f"This gateway key allows files of the types {' '.join(allowed)} only."
            raise Forbidden(message, param=param, code="type_not_allowed")

    def checked(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The chunks of a file. TooLarge once they exceed the limit, Forbidden if they begin like a refused type."""
        if not self._key or not (self._key.max_file_bytes or self._key.allowed_types):
            yield from chunks
            return
        size, head, held = 0, b"", list[bytes]()
        is_judged = not self._key.allowed_types
        for chunk in chunks:
            size += len(chunk)
            self._check_size(size)
            if is_judged:
                yield chunk
                continue
            held, head = [*held, chunk], head + chunk[:HEAD_BYTES]
            if len(head) >= HEAD_BYTES:
                self._judge(head)
                is_judged = True
                yield from held
        if not is_judged:
            self._judge(head)
            yield from held

    def shortened(self, fields: dict[str, str]) -> dict[str, str]:
        """Fields of a form, with an expiry within the limit."""
        limit = self._key.max_expires_after if self._key else 0
        if not limit or SECONDS not in fields or int(fields[SECONDS]) <= limit:
            return fields
        self.set_expiry = limit
        return {**fields, SECONDS: str(limit)}

    def check_expiry(self, known: Sequence[str]) -> None:
        """BadRequest if the key's files must expire, and the provider, whose form has these fields, has no expiry."""
        if self._default() and SECONDS not in known:
            message = "The files of this gateway key must expire, and files of this provider do not."
            raise BadRequest(message, code="no_expiry")

    def missing_expiry(self) -> dict[str, str]:
        """The fields about expiry that a form without any gets."""
        self.set_expiry = self._default()
        return {ANCHOR: "created_at", SECONDS: str(self.set_expiry)} if self.set_expiry else {}

    def json(self, body: Json) -> Json:
        """The JSON that begins an upload in parts, by the same rules. Raises what they raise."""
        if self._key is None:
            return body
        self._check_size(optional(body, "bytes", int) or 0)
        self.check_purpose(optional(body, "purpose", str) or "")
        self.check_type(optional(body, "mime_type", str) or "", optional(body, "filename", str) or "", "mime_type")
        given = optional(body, "expires_after", dict)
        asked = required(given, "seconds", int, "expires_after") if given else 0
        limit = self._key.max_expires_after
        seconds = min(asked, limit or asked) if asked else self._default()
        if seconds == asked:
            return body
        self.set_expiry = seconds
        return {**body, "expires_after": {**(given or {}), "anchor": "created_at", "seconds": seconds}}

    def _default(self) -> int:
        if not self._key:
            return 0
        default, limit = self._key.default_expires_after, self._key.max_expires_after
        return min(default, limit) if default and limit else default or limit

    def _check_size(self, size: int) -> None:
        limit = self._key.max_file_bytes if self._key else 0
        if limit and size > limit:
            raise TooLarge(f"This gateway key allows files of {limit} bytes at most.", param="file")

    def _judge(self, head: bytes) -> None:
        if found := magic_type(head):
            self.check_type(found)
