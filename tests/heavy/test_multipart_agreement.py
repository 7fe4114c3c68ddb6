"""Agreement with the PyPI package `multipart` (2.x, PushMultipartParser, strict) wherever both accept; linear time.

Bytes, field names, media types and the number of parts agree always. DIFFERENCES lists, each with its reason and a test
of its own, how a name or a file name may be read otherwise; a case that none of them explains fails.
"""

from __future__ import annotations

import os
import random
import re
import time

import pytest
from forms import bodies, outcome, reader

from filesproxy.errors import MultipartError
from filesproxy.wire.multipart import boundary_of, parse_header, parts

multipart = pytest.importorskip("multipart", "2")

CASES = int(os.environ.get("DIFFERENTIAL_CASES", "200000"))
SEED = 20240918
OCTETS = "application/octet-stream"

# What a Content-Disposition holds where we read it otherwise: (pattern, reason)
DIFFERENCES = {
    "percent": (r"%(22|0D|0A)",
                "they undo the three escapes of WHATWG forms; we send the name on as it came"),
    "backslash": (r"\\", "they unescape only beside an escaped quote, and cut a Windows path to its last part"),
    "extended": (r"(?i)filename\*=",
                 "they ignore filename*; we read it where it stands alone (RFC 7578 §4.2 forbids it)"),
    "unquoted": (r"=(?![\"!#$%&'*+\-.^_`|~0-9A-Za-z])|=[^\";\s]*[^\"!#$%&'*+\-.^_`|~0-9A-Za-z;\s]",
                 "they end an unquoted value at what is no token character; we, at a blank or semicolon"),
    "parameter": (r";[ \t]*[\w-]*[!#$%&'*+.^`|~][^;=]*=",
                  "they know - and _ alone as signs in the name of a parameter, and read on inside its value"),
    "encoded_word": (r"=\?", "they leave encoded words (RFC 2047) as they are; we read a name of nothing else"),
    "tab": (r";[ \t]*\t", "they take blanks only after a semicolon; we take tabs too (RFC 9110 §5.6.3)"),
}  # fmt: skip
# Reason → Content-Disposition, what we make of it, what they do (None: refused), where one of the two refuses.
ONE_SIDED = {
    "two parameters of a name: we refuse, they take the last": (b'form-data; name="a"; name="b"', None, [("b", None)]),
    "text between parameters: we refuse, they skip it": (b'form-data; name="a"x; filename="b"', None, [("a", "b")]),
    "blanks round the sign: we refuse, they take them": (b'form-data; name = "a"', None, [("a", None)]),
    "two Content-Dispositions: we refuse, they take the last": (
        b'form-data; name="a"\r\nContent-Disposition: form-data; name="b"', None, [("b", None)]),
    "blank before the colon: we refuse, they take it": (b'form-data; name="a"\r\nX-Other : b', None, [("a", None)]),
    "bare LF in a header: we refuse, they take it": (b'form-data; name="a\nb"', None, [("a\nb", None)]),
    "NUL in a header: we refuse, they take it": (b'form-data; name="a\0b"', None, [("a\0b", None)]),
    "control characters in a file name: we refuse, they take them": (
        b'form-data; name="a"; filename="\x1b"', None, [("a", "\x1b")]),
    "bytes in base64: we refuse, they store the text": (
        b'form-data; name="a"\r\nContent-Transfer-Encoding: base64', None, [("a", None)]),
    "Latin-1: we read it, they refuse": (b'form-data; name="a"; filename="\xe9"', [("a", "\xe9")], None),
    "empty name without quotes: we take it, they refuse": (b"form-data; name=", [("", None)], None),
    "wrong Content-Length of a part: we ignore it, they refuse": (
        b'form-data; name="a"\r\nContent-Length: 9', [("a", None)], None),
}  # fmt: skip


def theirs(body, boundary):
    """What their parser makes of the body, in one piece: each part's headers and bytes; None if it refuses."""
    seen = []
    try:
        with multipart.PushMultipartParser(
            boundary, strict=True, max_header_count=2000, max_segment_count=32
        ) as parser:
            for event in parser.parse(body):
                if isinstance(event, multipart.MultipartSegment):
                    seen.append((event, []))
                elif event is not None:
                    seen[-1][1].append(event)
    except multipart.MultipartError:
        return None
    return [(segment, b"".join(content)) for segment, content in seen]


def explained(segment):
    """Which of the listed differences this part's Content-Disposition may show."""
    raw = dict(segment.headerlist)["Content-Disposition"]
    return {name for name, (pattern, _) in DIFFERENCES.items() if re.search(pattern, raw)}


def compare(body, boundary):
    """The differences seen, [] for full agreement, None where one of the two refuses. AssertionError if unlisted."""
    ours, message = outcome(body, boundary)
    others = theirs(body, boundary)
    if message or others is None:
        return None
    assert len(ours) == len(others)
    seen = []
    for (name, filename, content_type, content), (segment, their_content) in zip(ours, others):
        assert content == their_content
        media_type, _, charset = content_type.partition("; charset=")
        given = dict(segment.headerlist).get("Content-Type", OCTETS).partition(";")[0].strip(" \t")
        is_type = re.fullmatch(r"[!#$&\-^_.+0-9A-Za-z]+/[!#$&\-^_.+0-9A-Za-z]+", given)
        assert media_type == (segment.content_type if is_type and segment.content_type else OCTETS)
        assert charset in ("", segment.charset) or "\t" in dict(segment.headerlist)["Content-Type"]  # see "tab"
        if (name, filename) != (segment.name, segment.filename):
            assert explained(segment), (name, filename, segment.name, segment.filename, segment.headerlist)
            seen += explained(segment)
    return seen


def test_wherever_both_accept_they_agree_but_for_the_listed_differences():
    agreed = both = 0
    listed = set()
    for number, (body, boundary, _) in enumerate(bodies(SEED, CASES)):
        try:
            seen = compare(body, boundary)
        except AssertionError as difference:
            raise AssertionError(f"case {number}: {body!r} with boundary {boundary!r}: {difference}") from None
        both += seen is not None
        agreed += seen == []
        listed.update(seen or ())
    assert agreed > CASES // 8 and agreed > both // 2  # else the sentence above says nothing
    assert listed <= set(DIFFERENCES)


def form(disposition):
    return b"--b\r\nContent-Disposition: " + disposition + b"\r\n\r\nx\r\n--b--\r\n"


SHOWN = {
    "percent": [
        (b'form-data; name="a"; filename="b%22c"', "b%22c", 'b"c'),
        (b"form-data; name=a; filename=b%0Dc", "b%0Dc", "b\rc"),
    ],
    "backslash": [
        (b'form-data; name="a"; filename="C:\\x\\y"', "C:\\x\\y", "y"),
        (b'form-data; name="a"; filename="b\\\\c"', "b\\c", "b\\\\c"),
    ],
    "extended": [(b"form-data; name=\"a\"; filename*=utf-8''b", "b", None)],
    "unquoted": [(b"form-data; name=a; filename=b/c", "b/c", "b"), (b"form-data; name=a; filename=", "", None)],
    "parameter": [(b'form-data; name="a"; b.c="d; filename=e"', None, "e")],
    "encoded_word": [(b'form-data; name="a"; filename="=?utf-8?Q?b?="', "b", "=?utf-8?Q?b?=")],
    "tab": [(b'form-data; name="a";\tfilename="b"', "b", None)],
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_listed_difference_is_there(name):
    for disposition, ours, others in SHOWN[name]:
        assert [part[1] for part in outcome(form(disposition), b"b")[0]] == [ours]
        ((segment, _),) = theirs(form(disposition), b"b")
        assert segment.filename == others
        assert name in explained(segment) and name in compare(form(disposition), b"b")


@pytest.mark.parametrize("reason", ONE_SIDED)
def test_listed_refusal_of_one_side_is_there(reason):
    disposition, ours, others = ONE_SIDED[reason]
    seen, message = outcome(form(disposition), b"b")
    assert (None if message else [part[:2] for part in seen]) == ours
    found = theirs(form(disposition), b"b")
    assert (None if found is None else [(segment.name, segment.filename) for segment, _ in found]) == others


FRAMING = {
    "padding after a boundary: we take it (RFC 2046 §5.1.1), they refuse": (b"--b \r\n", b"\r\n--b--", True, False),
    "preamble of a line: we refuse, they take it": (b"preamble\r\n--b\r\n", b"\r\n--b--", False, True),
    "CRLF before the first boundary: both take it": (b"\r\n--b\r\n", b"\r\n--b--", True, True),
    "text after a boundary: both refuse": (b"--b\r\n", b"\r\n--bc\r\n", False, False),
    "no end: both refuse": (b"--b\r\n", b"\r\n--b", False, False),
    "epilogue in the last block: both take it": (b"--b\r\n", b"\r\n--b--\r\nepilogue", True, True),
    "LF for CRLF: both refuse": (b"--b\n", b"\n--b--\n", False, False),
}


@pytest.mark.parametrize("what", FRAMING)
def test_framing_is_taken_or_refused_as_listed(what):
    start, end, we_take, they_take = FRAMING[what]
    body = start + b'Content-Disposition: form-data; name="a"\r\n\r\nx' + end
    assert (outcome(body, b"b")[1] is None, theirs(body, b"b") is not None) == (we_take, they_take)


SIZE = 1 << 20
DASHES = b"-" * 70
HEAD = b'Content-Disposition: form-data; name="file"; filename="'


def content(filler, boundary=b"b"):
    """A body of one file of a mebibyte of this filler."""
    start = b"--" + boundary + b"\r\n" + HEAD + b'a"\r\n\r\n'
    return start + (filler * (SIZE // len(filler) + 1))[:SIZE] + b"\r\n--" + boundary + b"--\r\n", boundary


def headers(filler, end=b""):
    """A body of 32 parts, each with a block of headers as long as may be."""
    block = b"--b\r\n" + HEAD + b'a"' + filler * ((4000 - len(end)) // len(filler)) + end + b"\r\n\r\n\r\n"
    return block * 32 + b"--b--\r\n", b"b"


ADVERSARIAL = {
    "cr": content(b"\r"),
    "lf": content(b"\n"),
    "crlf": content(b"\r\n"),
    "crlf_dash": content(b"\r\n-"),
    "crlf_dashes": content(b"\r\n--"),
    "near_miss": content(b"\r\n--" + b"b" * 69 + b"c", b"b" * 70),
    "near_miss_at_its_start": content(b"\r\n--c" + b"b" * 69, b"b" * 70),
    "dashes": content(b"-", DASHES),
    "dashes_after_crlf": content(b"\r\n" + b"-" * 71, DASHES[:-1] + b"x"),
    "boundary_without_crlf": content(b"--b"),
    "every_byte": content(bytes(range(256))),
    "zeros": content(b"\0"),
    "short_headers": headers(b"\r\na:"),
    "headers_without_name": headers(b"\r\n:"),
    "long_header": headers(b"x", b'"'),
    "parameters": headers(b";a=b"),
    "semicolons": headers(b";"),
    "escapes": headers(b"\\\\", b'"'),
    "open_quote": headers(b'"'),
    "blanks": headers(b" "),
    "tabs": headers(b"\t;"),
    "folds": headers(b"\r\n x"),
    "percent": headers(b"%41", b"; filename*=utf-8''"),
    "many_parts": (b"--b\r\n" + HEAD + b'a"\r\n\r\n\r\n') * (SIZE // 70),
    "epilogue": b"--b--" + b"\r\n--b" * (SIZE // 5),
    "preamble": b"x" * SIZE,
    "padding": b"--b" + b" " * SIZE,
    "endless_header": b"--b\r\nX: " + b"x" * SIZE,
}


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize("block_bytes", [8192, 65536, 1 << 20])
def test_adversarial_mebibyte_takes_well_under_100_ms_per_64_kib(name, block_bytes):
    given = ADVERSARIAL[name]
    body, boundary = given if isinstance(given, tuple) else (given, b"b")
    started = time.process_time()
    try:
        for part in parts(reader(body), boundary, block_bytes=block_bytes):
            for _ in part.chunks:
                pass
    except MultipartError:
        pass
    assert time.process_time() - started < 0.075 * max(1, len(body) / 65536)


def test_time_grows_with_the_size_and_no_faster():
    def seconds(size):
        body = b"--b\r\n" + HEAD + b'a"\r\n\r\n' + b"\r\n--" * (size // 4) + b"\r\n--b--"
        best = 9.0
        for _ in range(3):
            started = time.process_time()
            assert outcome(body, b"b", (), 65536)[1] is None
            best = min(best, time.process_time() - started)
        return best

    assert seconds(16 << 20) < 40 * max(seconds(1 << 20), 0.0005)


@pytest.mark.parametrize(
    "value",
    [";" * 65536, "; a" * 20000, ' ;a="' + "\\" * 65535, 'a; b="' + "\\x" * 32768, "a;" + " " * 65536,
     "a" + "; x=y" * 13000, 'a; b="' + '"' * 65536, "a" + " \t" * 32768 + ";", "a; b=" + "'" * 65536],
)  # fmt: skip
def test_long_header_is_parsed_or_refused_in_linear_time(value):
    started = time.process_time()
    for parse in (parse_header, boundary_of):
        try:
            parse(value)
        except MultipartError:
            continue
    assert time.process_time() - started < 0.1


def test_random_chunking_of_large_content_loses_nothing():
    rng = random.Random(SEED)
    pieces = (b"\r", b"\n", b"\r\n", b"\r\n-", b"\r\n--", b"\r\n--edg", b"--edge", b"x" * 50, b"\0")
    for _ in range(20):
        content = b"".join(rng.choice(pieces) for _ in range(20_000)).replace(b"\r\n--edge", b"\r\n--EDGE")
        body = b"--edge\r\n" + HEAD + b'a"\r\n\r\n' + content + b"\r\n--edge--\r\n"
        sizes = [rng.randint(1, 3000) for _ in range(len(body) // 500)]
        seen, message = outcome(body, b"edge", sizes, rng.choice((7, 4096, 65536)))
        assert message is None and seen[0][3] == content
