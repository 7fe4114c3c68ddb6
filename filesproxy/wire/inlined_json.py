"""JSON with the contents of files in it, with no more than a block of them in memory. No I/O of its own.

A *stand-in* is a random text that stands for a file's content while the JSON is made: a provider's translation treats
it as it would treat the content itself. When the JSON is sent, the content goes where the stand-in is: as text where
the text is, as base64 where the base64 of the text is. Both lengths are known in advance, so the total is too.
"""

from __future__ import annotations

import codecs
from base64 import b64encode
from binascii import b2a_base64
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple, Union
from zlib import crc32

from ..calls import Inlined, Json, Text
from ..errors import BadRequest, FilesproxyError, StoreError
from .strict_json import dumps

STAND_IN_CHARACTERS = 36  # a multiple of three, so that the base64 of it has no padding
_COMMON_CHARACTERS = 33  # the "k" and the random part; a multiple of three too, so that the base64 begins alike
_BASE64_CHARACTERS = STAND_IN_CHARACTERS // 3 * 4
_SHORT_ESCAPES = b'"\\\b\f\n\r\t'  # two bytes each in JSON; the other controls take six
_NOT_ESCAPED = bytes(sorted({*range(0x20, 0x100)} - {*_SHORT_ESCAPES}))
_CUT_MARKS = (codecs.BOM_UTF8[:1], codecs.BOM_UTF8[:2])
BLOCK_BYTES = 1 << 18


class NotText(ValueError):
    """The bytes are not text in UTF-8, or in UTF-16 with a byte order mark; or they have a NUL."""


def stand_in(random: str, number: int) -> str:
    """The stand-in of a request's file with this number (0 to 999). `random` is 32 characters that nobody can guess."""
    return f"k{random[:32]}{number:03}"


def base64_of(text: str) -> str:
    """The base64 of a stand-in; the file's own base64 takes its place."""
    return b64encode(text.encode("ascii")).decode("ascii")


def measured(blocks: Iterable[bytes], limit: int) -> Text:
    """How long a text will be in JSON, and its checksum. Reading stops once it exceeds `limit` bytes there.

    NotText if it is not text.
    """
    size = checksum = 0
    decode = _Decoder()
    for block in blocks:
        checksum = crc32(block, checksum)
        size += _escaped_size(decode(block))
        if size > limit:
            return Text(size, checksum)
    return Text(size + _escaped_size(decode(b"", True)), checksum)


def filled(body: Json, files: Sequence[Inlined]) -> tuple[int, Generator[bytes, None, None]]:
    """The length of the JSON with the files in it, in bytes, and the JSON itself, in blocks.

    The files are opened one after the other, each when its turn comes; closing the generator closes the open one.
    BadRequest if the translation has left out a stand-in, or repeated one: no file may be left out in silence.
    """
    pieces = list(_pieces(dumps(body), files))
    found = Counter(piece.file.stand_in for piece in pieces if isinstance(piece, _Place))
    for file in files:
        if found[file.stand_in] != file.uses:
            message = f"'{file.place}' names a kept file for which a request to this provider has no place."
            raise BadRequest(message, param=file.place, code="unsupported_file")
    return sum(map(_length, pieces)), _blocks(pieces)


class _Place(NamedTuple):
    """Where a file goes, and whether as text or as base64."""

    file: Inlined
    is_text: bool


_Piece = Union[memoryview, _Place]


def _length(piece: _Piece) -> int:
    if not isinstance(piece, _Place):
        return len(piece)
    return piece.file.text.size if piece.is_text and piece.file.text else (piece.file.size + 2) // 3 * 4


def _pieces(text: bytes, files: Sequence[Inlined]) -> Iterator[_Piece]:
    by_mark: dict[bytes, _Place] = {}
    for file in files:
        by_mark[base64_of(file.stand_in).encode("ascii")] = _Place(file, is_text=False)
        by_mark[file.stand_in.encode("ascii")] = _Place(file, is_text=True)
    view, done = memoryview(text), 0
    for at, mark in sorted((at, mark) for start in _starts(files) for at, mark in _found(text, *start)):
        place = by_mark[mark]
        if place.is_text != (place.file.text is not None):
            raise FilesproxyError("A text would be sent as base64, or another file as text.", code="internal_error")
        yield view[done:at]
        yield place
        done = at + len(mark)
    yield view[done:]


def _starts(files: Sequence[Inlined]) -> set[tuple[bytes, int]]:
    """How the stand-ins begin, which is the same for all, and how long each is; so for their base64."""
    texts = {(file.stand_in[:_COMMON_CHARACTERS].encode("ascii"), STAND_IN_CHARACTERS) for file in files}
    return texts | {(b64encode(start), _BASE64_CHARACTERS) for start, _ in texts}


def _found(text: bytes, start: bytes, length: int) -> Iterator[tuple[int, bytes]]:
    at = text.find(start)
    while at >= 0:
        yield at, text[at : at + length]
        at = text.find(start, at + length)


def _blocks(pieces: Sequence[_Piece]) -> Generator[bytes, None, None]:
    for piece in pieces:
        if not isinstance(piece, _Place):
            for start in range(0, len(piece), BLOCK_BYTES):
                yield bytes(piece[start : start + BLOCK_BYTES])
            continue
        with closing(piece.file.open()) as body:
            yield from _as_text(body, piece.file.text) if piece.is_text and piece.file.text else as_base64(body)


def as_base64(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The base64 (RFC 4648 §4) of all blocks together: padding is only at the end."""
    left = b""
    for block in blocks:
        block = left + block if left else block
        whole = len(block) - len(block) % 3
        left = block[whole:]
        yield b2a_base64(memoryview(block)[:whole], newline=False)
    yield b2a_base64(left, newline=False)


def _as_text(blocks: Iterable[bytes], known: Text) -> Iterator[bytes]:
    """The text as it is inside a JSON string. StoreError, before its last block, if it is not what was measured."""
    checksum, decode, held = 0, _Decoder(), b""
    try:
        for block in blocks:
            checksum = crc32(block, checksum)
            yield held
            held = _escaped(decode(block))
        held += _escaped(decode(b"", True))
    except NotText:
        raise _changed() from None
    if checksum != known.checksum:
        raise _changed()
    yield held


def _changed() -> StoreError:
    return StoreError("A kept file changed while it was being sent.")


class _Decoder:
    """Decodes a text block by block: UTF-8, or UTF-16 if it begins with that byte order mark. The mark is left out."""

    def __init__(self) -> None:
        self._decoder: codecs.IncrementalDecoder | None = None
        self._start = b""  # as many bytes as a byte order mark has

    def __call__(self, block: bytes, is_last: bool = False) -> str:
        if self._decoder is None:
            block = self._start = self._start + block
            if len(block) < len(codecs.BOM_UTF8) and not is_last:
                return ""
            if block in _CUT_MARKS:  # which the decoder would take for no text at all
                raise NotText
            coding = "utf-16" if block[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
            self._decoder = codecs.getincrementaldecoder(coding)()
        try:
            text = self._decoder.decode(block, is_last)
        except UnicodeDecodeError:
            raise NotText from None
        if "\0" in text:
            raise NotText
        return text


def _escaped(text: str) -> bytes:
    """The text as it is between the quotation marks of a JSON string."""
    return dumps(text)[1:-1] if text else b""


def _escaped_size(text: str) -> int:
    """The length of `_escaped(text)`, which counting finds in a fraction of the time."""
    encoded = text.encode("utf-8")
    escaped = encoded.translate(None, _NOT_ESCAPED)
    return len(encoded) + len(escaped) + 4 * len(escaped.translate(None, _SHORT_ESCAPES))
