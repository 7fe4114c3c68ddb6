"""What kind of file a request to a model would hold: by its first bytes, its declared types and its name."""

from __future__ import annotations

import re
from typing import Literal

Kind = Literal["text", "image", "audio", "pdf", "video"]
KINDS: tuple[Kind, ...] = ("text", "image", "audio", "pdf", "video")
HEAD_BYTES = 64  # of a file, which show what it is

# Media type by the bytes at the beginning of a file; https://mimesniff.spec.whatwg.org has the rules for most of them.
_MAGIC: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(start, re.DOTALL), media_type)
    for start, media_type in (
        (rb"\x89PNG\r\n\x1a\n", "image/png"),
        (rb"\xff\xd8\xff", "image/jpeg"),
        (rb"GIF8[79]a", "image/gif"),
        (rb"RIFF.{4}WEBP", "image/webp"),
        (rb"RIFF.{4}WAVE", "audio/wav"),
        (rb"%PDF-", "application/pdf"),
        # The frame header says layer III (ISO/IEC 11172-3 §2.4.1.3). A byte order mark of UTF-16 does not.
        (rb"ID3[\x02-\x04]|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]", "audio/mpeg"),
        (rb".{4}ftyp(isom|iso[2-9]|mp4[12]|avc1|dash|M4V )", "video/mp4"),
        (rb"\x1a\x45\xdf\xa3.{0,52}webm", "video/webm"),
        (rb"PK\x03\x04|PK\x05\x06", "application/zip"),  # Office documents too
    )
)
_KIND_OF: dict[str, Kind] = {
    "image/png": "image", "image/jpeg": "image", "image/gif": "image", "image/webp": "image",
    "audio/wav": "audio", "audio/mpeg": "audio",
    "application/pdf": "pdf",
    "video/mp4": "video", "video/webm": "video",
}  # fmt: skip

_TEXT_TYPES = re.compile(
    r"text/.+|.+\+(json|xml|yaml)"
    r"|application/(x-)?(json|json5|jsonl|jsonlines|json-lines|ndjson|xml|yaml|toml|csv|sql|graphql|javascript"
    r"|ecmascript|typescript|sh|shellscript|csh|perl|python|python-code|ruby|php|httpd-php|tex|latex|subrip"
    r"|markdown|tcl|lua|patch|diff)"
)
# Endings of names whose media type, as operating systems and HTTP libraries have it, is not that of a text: Excel's for
# .csv on Windows, MPEG-2's for .ts, and so on.
_TEXT_ENDINGS = re.compile(
    r"\.(csv|tsv|tsx?|mts|cts|rs|scala|pl|pm|m|tex|sql|jsonl|ndjson|md|log|ipynb|srt|proto)", re.I
)
_SAYS_NOTHING = ("", "application/octet-stream", "binary/octet-stream", "application/x-unknown", "unknown/unknown")


def media_type_of(head: bytes, given: str, uploaded: str, name: str) -> str:
    """The media type of a file; "text/plain" for every kind of text, and for what nothing is known of.

    `head` are its first bytes (HEAD_BYTES, or all if it is shorter). They decide if they can, otherwise the type that
    the request gives. Without that, the type of the upload decides, unless the end of the name is that of a text.
    Whether a text is one, only all of its bytes show.
    """
    if found := magic_type(head):
        return found
    given, uploaded = _bare(given), _bare(uploaded)
    declared = given or uploaded
    is_text = not declared or _TEXT_TYPES.fullmatch(declared) or (not given and _has_text_ending(name))
    return "text/plain" if is_text else declared


def magic_type(head: bytes) -> str:
    """The media type that the first bytes of a file show; "" if they show none."""
    return next((media_type for pattern, media_type in _MAGIC if pattern.match(head)), "")


def kind_of(media_type: str, head: bytes) -> Kind | None:
    """The kind of a file of this type, None if no request can hold it. Only bytes make an image, a sound or a PDF."""
    if media_type == "text/plain":
        return "text"
    return _KIND_OF.get(media_type) if magic_type(head) == media_type else None


def _bare(media_type: str) -> str:
    """The type without parameters, in lower case; "" if it says nothing."""
    bare = media_type.partition(";")[0].strip().lower()
    return "" if bare in _SAYS_NOTHING else bare


def _has_text_ending(name: str) -> bool:
    return bool(_TEXT_ENDINGS.fullmatch(name[name.rfind(".") :] if "." in name else ""))
