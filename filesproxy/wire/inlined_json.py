"""JSON with the contents of files in it, of which no more than a block is in memory. No I/O of its own.

A *stand-in* is a random text that stands for a file's content while the JSON is made: provider's translations treat it
as they would treat the content itself. When the JSON is sent, the content goes where the stand-in is: as text where the
text is, as base64 where the base64 of the text is. Both lengths are known before, so the length of the whole is.
"""

from __future__ import annotations

import codecs
from base64 import b64encode
from binascii import b2a_base64
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple, Union
from zlib import crc32

from ..calls import Inlined, Json, Text
from ..errors import FilesproxyError, StoreError
from .strict_json import dumps

STAND_IN_CHARACTERS = 36  # a multiple of three, so that the base64 of it has no padding
BLOCK_BYTES = 1 << 18
_RANDOM_CHARACTERS = 33
_BASE64_CHARACTERS = 48


class NotText(ValueError):
    """The bytes are not text in UTF-8, or in UTF-16 with a byte order mark; or they have a NUL."""


def stand_in(random: str, number: int) -> str:
    """The stand-in of a request's file with this number (0 to 999). `random` is 32 characters that nobody can guess."""
    return f"k{random[:32]}{number:03}"


def base64_of(text: str) -> str:
    """The base64 of a stand-in, which stands for the base64 of the file."""
    return b64encode(text.encode("ascii")).decode("ascii")


def measured(blocks: Iterable[bytes], limit: int) -> Text:
    """How long a text will be in JSON, and its checksum. It is read until it is over `limit` bytes there, no further.

    NotText if it is not text.
    """
    size = checksum = 0
    decode = _Decoder()
    for block in blocks:
        checksum = crc32(block, checksum)
        size += len(_escaped(decode(block)))
        if size > limit:
            return Text(size, checksum)
    return Text(size + len(_escaped(decode(b"", True))), checksum)


def filled(body: Json, files: Sequence[Inlined]) -> tuple[int, Generator[bytes, None, None]]:
    """The length of the JSON with the files in it, in bytes, and the JSON itself, in blocks.

    The files are opened one after the other, each when its turn comes; closing the generator closes the open one.
    FilesproxyError if a stand-in is not there: a file must never be left out in silence.
    """
    pieces = list(_pieces(dumps(body), files))
    missing = {file.stand_in for file in files} - {piece.file.stand_in for piece in pieces if isinstance(piece, _Place)}
    if missing:
        raise FilesproxyError("A kept file was lost in the translation of the request.", code="internal_error")
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
        if place.is_text and place.file.text is None:
            raise FilesproxyError("A file that is not text would be sent as text.", code="internal_error")
        yield view[done:at]
        yield place
        done = at + len(mark)
    yield view[done:]


def _starts(files: Sequence[Inlined]) -> set[tuple[bytes, int]]:
    """How the stand-ins begin, which is the same for all, and how long each is; so for their base64."""
    texts = {(file.stand_in[:_RANDOM_CHARACTERS].encode("ascii"), STAND_IN_CHARACTERS) for file in files}
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
    for block in blocks:
        checksum = crc32(block, checksum)
        yield held
        held = _escaped(decode(block))
    if checksum != known.checksum:
        raise StoreError("A kept file changed while it was being sent.")
    yield held + _escaped(decode(b"", True))


class _Decoder:
    """Decodes a text block by block: UTF-8, or UTF-16 if it begins with that byte order mark. The mark is left out."""

    def __init__(self) -> None:
        self._decoder: codecs.IncrementalDecoder | None = None
        self._start = b""  # less than a byte order mark has

    def __call__(self, block: bytes, is_last: bool = False) -> str:
        if self._decoder is None:
            block = self._start = self._start + block
            if len(block) < 2 and not is_last:
                return ""
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
