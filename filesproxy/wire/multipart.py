"""Streaming multipart/form-data (RFC 7578, RFC 2046 §5.1): a scanner that pulls its input, and an encoder. No I/O.

The invariant: any bytes, however they are cut into blocks, either parse or raise MultipartError. That takes linear
time, and memory for two blocks and the headers of one part, whatever the size of the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from email.errors import HeaderParseError
from email.header import decode_header
from email.message import Message
from email.parser import HeaderParser
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from ..calls import Upload
from ..errors import MultipartError
from .headers import codings

MAX_HEADER_LINES = 32  # of a part; the contract has two, and `email` takes up to 100 us for each
BLOCK_BYTES = 1 << 20  # of one read; gunicorn 27 receives directly into a buffer of this size

# RFC 2046 §5.1.1, which ends at 70 characters; Ruby's SDKs send 80, and other parsers take 256. No space at the end.
_BOUNDARY = re.compile(r"[0-9a-zA-Z'()+_,\-./:=? ]{0,255}[0-9a-zA-Z'()+_,\-./:=?]")
# A parameter after its semicolons; between two of them there may be none (RFC 9110 §5.6.6). Each alternative starts
# with a different character, so matching is linear.
_PARAMETER = re.compile(r'[ \t]*;[ \t;]*([!#$%&\'*+\-.^_`|~0-9A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^\s";]*)')
_MEDIA_TYPE = re.compile(r"[!#$&\-^_.+0-9A-Za-z]+/[!#$&\-^_.+0-9A-Za-z]+")
_HEADER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:")  # `email` takes any other line for the start of the body
_CHARSET = re.compile(r"[A-Za-z0-9._:\-]{1,40}")
# The charsets that RFC 8187 §3.2.1 names, also as some clients spell them. Only ASCII: by Unicode's rules, `i` would
# match `ı` and `s` match `ſ`, whose charset no codec has.
_EXTENDED = re.compile(r"(?ai:(utf-?8|iso-?8859-1|latin-?1))'[^']*'(.*)", re.DOTALL)
# Encoded words and nothing else (RFC 2047 §2), in a charset for text, by its usual names: Python has codecs for other
# things too.
_WORD = (
    r"=\?(?:utf-?8|(?:us-)?ascii|iso[-_]?8859-[0-9]{1,2}|latin-?1|(?:windows-|cp)125[0-8]|koi8-[ru]|gb2312|gbk|gb18030"
    r"|big5|euc-jp|euc-kr|shift_jis|iso-2022-jp)(?:\*[a-z0-9-]{1,20})?\?(?:q\?[!->@-~]*|b\?[a-z0-9+/]*={0,2})\?="
)
_ENCODED_WORDS = re.compile(rf"(?ai:{_WORD}(?:[ \t]*{_WORD})*)")
_LANGUAGE = re.compile(r"(=\?[^?*]+)\*[^?]*(?=\?)")  # of an encoded word (RFC 2231 §5), which `email` does not read
_ENCODINGS = ("content-transfer-encoding", "content-encoding")  # of a part (RFC 2045 §6.2, RFC 9110 §8.4)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Part(NamedTuple):
    """One part: its field name, its file name (None for a plain field), its media type, and chunks to read once."""

    name: str
    filename: str | None
    content_type: str
    chunks: Iterator[bytes]


def boundary_of(content_type: str) -> bytes:
    """The boundary of a multipart/form-data Content-Type. MultipartError if it is missing or invalid."""
    _, parameters = parse_header(content_type)
    boundary = parameters.get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        raise MultipartError("The Content-Type has no valid boundary of 1 to 256 characters (RFC 2046).")
    return boundary.encode("ascii")


def parts(
    read: Callable[[int], bytes],
    boundary: bytes,
    *,
    block_bytes: int = BLOCK_BYTES,
    max_parts: int = 32,  # the contract has 4
    max_header_bytes: int = 4096,  # the worst 4 KiB take `email` 64 ms, 8 KiB four times that
    max_epilogue_bytes: int = 65536,  # RFC 2046 allows any text there; clients send none
) -> Iterator[Part]:
    """The parts of a body, in order. `read(size)` returns its next bytes, b"" at the end.

    Taking the next part skips what was not read of the one before. The iterator ends only if the closing delimiter and
    the end of the body were found; anything else raises MultipartError.
    """
    scanner = _Scanner(read, b"\r\n--" + boundary, block_bytes)
    scanner.open()
    count = 0
    while scanner.next_part():
        count += 1
        if count > max_parts:
            raise MultipartError(f"More than {max_parts} parts.")
        part = Part(*_described(scanner.header_block(max_header_bytes)), scanner.chunks())
        yield part
        for _ in part.chunks:
            pass
    scanner.finish(max_epilogue_bytes)


class _Scanner:
    """A window on the body: `_buffer` starts at the next unread byte and never holds more than two blocks."""

    def __init__(self, read: Callable[[int], bytes], delimiter: bytes, block_bytes: int) -> None:
        self._read = read
        self._delimiter = delimiter
        self._block_bytes = block_bytes
        self._buffer = b"\r\n"  # no CRLF has to precede the first delimiter (RFC 2046 §5.1.1)

    def open(self) -> None:
        """Skip the first delimiter. A preamble is refused, except for the single CRLF that old clients send."""
        self._fill(len(self._delimiter) + 2)
        at = self._buffer.find(self._delimiter, 0, len(self._delimiter) + 2)
        if at not in (0, 2):
            raise MultipartError("The body does not start with its boundary.")
        self._buffer = self._buffer[at + len(self._delimiter) :]

    def next_part(self) -> bool:
        """Called after a delimiter: True if a part follows, False if the delimiter was the closing one."""
        self._fill(2)
        if self._buffer[:2] == b"--":
            self._buffer = self._buffer[2:]
            return False
        line = self._until(b"\r\n", 256, "A boundary line does not end in CRLF.")
        if line.strip(b" \t"):  # only transport padding may be here (RFC 2046 §5.1.1)
            raise MultipartError("A boundary is followed by other text.")
        return True

    def header_block(self, limit: int) -> bytes:
        """The part's header lines, each with its CRLF, without the empty line after them."""
        self._fill(2)
        if self._buffer[:2] == b"\r\n":
            self._buffer = self._buffer[2:]
            return b""
        return self._until(b"\r\n\r\n", limit, f"The headers of a part do not end within {limit} bytes.") + b"\r\n"

    def chunks(self) -> Iterator[bytes]:
        """The bytes up to the next delimiter, as they arrive."""
        while True:
            at = self._buffer.find(self._delimiter)
            if at >= 0:
                chunk, self._buffer = self._buffer[:at], self._buffer[at + len(self._delimiter) :]
                if chunk:
                    yield chunk
                return
            held = self._start_of_delimiter()
            chunk, self._buffer = self._buffer[:held], self._buffer[held:]
            if chunk:
                yield chunk
            self._more("The body ends inside a part.")

    def finish(self, limit: int) -> None:
        """Read and discard the epilogue. A body cut short is found here, before the upload is completed upstream."""
        seen = len(self._buffer)
        while seen <= limit:
            block = self._read(self._block_bytes)
            if not block:
                return
            seen += len(block)
        raise MultipartError(f"More than {limit} bytes follow the closing boundary.")

    def _start_of_delimiter(self) -> int:
        """Where a delimiter begins that the next block may complete; otherwise the buffer's end.

        A delimiter begins with CR and has no other one, so the last CR of the buffer is the only candidate.
        """
        at = self._buffer.rfind(b"\r", -(len(self._delimiter) - 1))
        return at if at >= 0 and self._delimiter.startswith(self._buffer[at:]) else len(self._buffer)

    def _until(self, end: bytes, limit: int, complaint: str) -> bytes:
        searched = 0
        while True:
            at = self._buffer.find(end, searched, limit + len(end))
            if at >= 0:
                found, self._buffer = self._buffer[:at], self._buffer[at + len(end) :]
                return found
            if len(self._buffer) >= limit + len(end):
                raise MultipartError(complaint)
            searched = max(0, len(self._buffer) - len(end) + 1)
            self._more(complaint)

    def _fill(self, size: int) -> None:
        while len(self._buffer) < size:
            self._more("The body ends before its closing boundary.")

    def _more(self, complaint: str) -> None:
        block = self._read(self._block_bytes)
        if not block:
            raise MultipartError(complaint)
        self._buffer = self._buffer + block if self._buffer else block


@lru_cache(maxsize=64)  # clients send the same headers each time, and `email` takes 50 us for them
def _described(block: bytes) -> tuple[str, str | None, str]:
    """(field name, file name, media type) of a part with these headers."""
    headers = _part_headers(block)
    disposition, parameters = parse_header(_only(headers, "content-disposition"))
    if disposition != "form-data" or "name" not in parameters:
        raise MultipartError("A part has no Content-Disposition: form-data with a name (RFC 7578 §4.2).")
    for name in _ENCODINGS:
        if codings({"content-encoding": _only(headers, name)}):
            message = f"A part has a {name} that says its bytes are encoded; send them as they are."
            raise MultipartError(message, param=name)
    return parameters["name"], _filename(parameters), _media_type(_only(headers, "content-type"))


def _part_headers(block: bytes) -> Message:
    lines = block.split(b"\r\n")
    if len(lines) > MAX_HEADER_LINES + 1:
        raise MultipartError(f"A part has more than {MAX_HEADER_LINES} header lines.")
    if any(b"\r" in line or b"\n" in line or b"\0" in line for line in lines):
        raise MultipartError("The headers of a part contain a bare CR, a bare LF or a NUL.")
    if not all(_HEADER_LINE.match(line) for line in lines if line):  # a folded line does not match either
        raise MultipartError("The headers of a part contain a line that is not a header.")
    try:
        text = block.decode("utf-8")  # what clients send (RFC 7578 §5.1.2)
    except UnicodeDecodeError:
        text = block.decode("latin-1")
    return HeaderParser().parsestr(text)


def _only(headers: Message, name: str) -> str:
    values = headers.get_all(name, [])
    if len(values) > 1:
        raise MultipartError(f"A part has more than one {name} header.")
    return str(values[0]) if values else ""


def _media_type(value: str) -> str:
    """The part's type, with its charset. RFC 7578 §4.4: it is optional, so one that is not a type counts as none."""
    media_type, _, _ = value.partition(";")
    media_type = media_type.strip(" \t")
    if not _MEDIA_TYPE.fullmatch(media_type):
        return "application/octet-stream"
    try:
        charset = parse_header(value)[1].get("charset", "")
    except MultipartError:
        charset = ""
    return f"{media_type.lower()}; charset={charset}" if _CHARSET.fullmatch(charset) else media_type.lower()


def _filename(parameters: dict[str, str]) -> str | None:
    """The file name. `filename*`, which RFC 7578 §4.2 forbids, is read if there is no other legible name.

    .NET sends it beside a `filename` of encoded words (RFC 2047); other clients send those alone.
    """
    name, extended = parameters.get("filename"), parameters.get("filename*")
    if name is not None and _ENCODED_WORDS.fullmatch(name.strip(" \t")):
        found = _EXTENDED.fullmatch(extended or "")
        name = _extended(found[0]) if found else _decoded_words(name)
    elif name is None and extended is not None:
        name = _extended(extended)
    if name and _CONTROL.search(name):
        raise MultipartError("A file name contains control characters.")
    return name


def _decoded_words(name: str) -> str:
    """The text of encoded words; the same text if they do not decode."""
    try:
        return "".join(text.decode(charset) for text, charset in decode_header(_LANGUAGE.sub(r"\1", name.strip(" \t"))))
    except (HeaderParseError, UnicodeError, LookupError):
        return name


def _extended(value: str) -> str:
    found = _EXTENDED.fullmatch(value)
    if not found:
        raise MultipartError("A filename* is not UTF-8 or ISO-8859-1 text in the form of RFC 8187.")
    try:
        return unquote_to_bytes(found[2]).decode(found[1])
    except UnicodeDecodeError:
        raise MultipartError("A filename* is not valid in its own charset.") from None


def parse_header(value: str) -> tuple[str, dict[str, str]]:
    """A header's value in lower case, and its parameters (RFC 9110 §5.6.6). MultipartError if they are malformed.

    In a quoted string only `\\"` and `\\\\` are escapes, because browsers send `C:\\x` unescaped (WHATWG form-data).
    """
    head, semicolon, _ = value.partition(";")
    parameters: dict[str, str] = {}
    rest = value.rstrip(" \t;")
    at = len(head)
    while semicolon and at < len(rest):
        found = _PARAMETER.match(rest, at)
        if not found or found[1].lower() in parameters:
            raise MultipartError("A header has malformed parameters, or has one of them twice.")
        parameters[found[1].lower()] = _unquoted(found[2])
        at = found.end()
    return head.strip(" \t").lower(), parameters


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    return re.sub(r'\\(["\\])', r"\1", text[1:-1])


def encode(upload: Upload, boundary: str) -> Iterator[bytes]:
    """The upload, encoded anew as multipart/form-data: the fields known so far, the file, the fields that followed it.

    Only parsed values are sent, so the upstream's parser cannot see other parts than the gateway did. `boundary` must
    be random, from 16 bytes or more. The closing delimiter is sent only after the whole upload was read.
    """
    early = upload.fields_to_send()
    yield _encoded_fields(early, boundary) + _file_headers(upload, boundary)
    yield from upload
    late = {field: value for field, value in upload.fields_to_send().items() if field not in early}
    yield b"\r\n" + _encoded_fields(late, boundary) + f"--{boundary}--\r\n".encode("ascii")


def _encoded_fields(fields: dict[str, str], boundary: str) -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    return "".join(head % (_quoted(name), value) for name, value in fields.items()).encode()


def _file_headers(upload: Upload, boundary: str) -> bytes:
    disposition = f'form-data; name="{upload.part}"; filename="{_quoted(upload.filename)}"'
    return (
        f"--{boundary}\r\nContent-Disposition: {disposition}\r\nContent-Type: {upload.content_type}\r\n\r\n"
    ).encode()


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', "%22")
