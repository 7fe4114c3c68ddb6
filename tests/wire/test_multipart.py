"""The multipart scanner and encoder: a corpus of bodies, cut at every byte; limits; and what is encoded parses back."""

from __future__ import annotations

import random

import pytest
from forms import CORPUS, INVALID, VALID, case, outcome, reader

from filesproxy.calls import Upload
from filesproxy.errors import MultipartError
from filesproxy.wire.multipart import boundary_of, encode, parse_header, parts

BLOCK_SIZES = (1, 2, 3, 7, 16, 61, 4096, 1 << 20)
DISPOSITION = b'Content-Disposition: form-data; name="file"; filename="a"\r\n'


@pytest.mark.parametrize("name", VALID)
def test_valid_body_has_the_expected_parts(name):
    body, boundary, expected = case("valid", name)
    wanted = [(*head, content.encode("latin-1")) for *head, content in expected["parts"]]
    assert outcome(body, boundary) == (wanted, None)


@pytest.mark.parametrize("name", INVALID)
def test_invalid_body_raises_the_expected_error(name):
    body, boundary, expected = case("invalid", name)
    _, message = outcome(body, boundary)
    assert message is not None and expected["error"] in message


def test_corpus_is_large_and_complete():
    assert len(VALID) >= 20 and len(INVALID) >= 25
    names = {path.with_suffix("").relative_to(CORPUS).as_posix() for path in CORPUS.glob("*/*.*")}
    assert names == {f"valid/{name}" for name in VALID} | {f"invalid/{name}" for name in INVALID}


@pytest.mark.parametrize("name", [f"valid/{name}" for name in VALID] + [f"invalid/{name}" for name in INVALID])
def test_every_chunking_of_a_body_gives_the_same_result(name):
    body, boundary, _ = case(*name.split("/"))
    whole = outcome(body, boundary)
    by_line = [len(line) for line in body.splitlines(keepends=True)]
    chunkings = [by_line, [1] * len(body)]
    randomly = random.Random(name)  # a seed of text gives the same numbers on every Python
    chunkings += [[randomly.randint(1, 40) for _ in range(len(body))] for _ in range(2)]  # the fuzz has more
    for sizes in chunkings:
        for block_bytes in BLOCK_SIZES:
            assert outcome(body, boundary, sizes, block_bytes) == whole, (sizes[:20], block_bytes)


@pytest.mark.parametrize("name", [f"valid/{name}" for name in VALID] + [f"invalid/{name}" for name in INVALID])
def test_body_split_at_any_byte_gives_the_same_result(name):
    body, boundary, _ = case(*name.split("/"))
    whole = outcome(body, boundary)
    for at in range(1, len(body)):
        assert outcome(body, boundary, [at]) == whole, at


@pytest.mark.parametrize("name", [name for name in VALID if not name.startswith("epilogue")])
def test_valid_body_cut_before_its_end_is_an_error(name):
    body, boundary, _ = case("valid", name)
    for at in range(body.rindex(b"--" + boundary + b"--") + len(boundary) + 4):
        assert outcome(body[:at], boundary)[1] is not None, at


def test_next_part_skips_the_unread_rest_of_the_one_before():
    body = b"--b\r\n" + DISPOSITION + b"\r\n" + b"x" * 9999 + b"\r\n--b\r\n" + DISPOSITION + b"\r\ny\r\n--b--"
    form = parts(reader(body), b"b", block_bytes=100)
    next(form)
    assert b"".join(next(form).chunks) == b"y"
    assert list(form) == []


def test_part_is_yielded_before_its_content_has_arrived():
    def read(size):
        return head.pop() if head else pytest.fail("read on before the content was asked for")

    head = [b"--b\r\n" + DISPOSITION + b"\r\n"]
    assert next(parts(read, b"b")).filename == "a"


def test_content_is_yielded_as_it_arrives_except_for_the_start_of_a_delimiter():
    blocks = [b"--b\r\n" + DISPOSITION + b"\r\nab", b"cd\r\n-", b"-x", b"\r\n--b--"]
    part = next(parts(lambda size: blocks.pop(0) if blocks else b"", b"b"))
    assert list(part.chunks) == [b"ab", b"cd", b"\r\n--x"]


def test_no_read_is_larger_than_the_block_size():
    asked = []
    body = reader(b"--b\r\n" + DISPOSITION + b"\r\n" + b"x" * 1000 + b"\r\n--b--")
    for part in parts(lambda size: asked.append(size) or body(size), b"b", block_bytes=64):
        assert all(len(chunk) <= 2 * 64 for chunk in part.chunks)
    assert set(asked) == {64}


EPILOGUE = {0: None, 65536: None, 65537: "follow the closing boundary"}


@pytest.mark.parametrize("size", EPILOGUE)
@pytest.mark.parametrize("block_bytes", [1000, 65536, 1 << 20])
def test_epilogue_is_discarded_up_to_its_limit(size, block_bytes):
    _, message = outcome(b"--b--" + b"\n" * size, b"b", (), block_bytes)
    assert message is None if EPILOGUE[size] is None else EPILOGUE[size] in message


@pytest.mark.parametrize(
    "limit,good",
    [({"max_parts": 2}, True), ({"max_parts": 1}, False), ({"max_header_bytes": len(DISPOSITION) - 2}, True),
     ({"max_header_bytes": len(DISPOSITION) - 3}, False), ({"max_epilogue_bytes": 2}, True),
     ({"max_epilogue_bytes": 1}, False)],
)  # fmt: skip
def test_limits_are_keywords_and_exact(limit, good):
    part = b"--b\r\n" + DISPOSITION + b"\r\nx\r\n"
    assert (outcome(part * 2 + b"--b--\r\n", b"b", **limit)[1] is None) == good


def test_endless_preamble_epilogue_headers_or_boundary_line_is_refused_early():
    for start in (b"", b"--b", b"--b\r\n", b"--b\r\nX: ", b"--b--"):
        asked = []
        body = reader(start + b"x" * 1_000_000)
        with pytest.raises(MultipartError):
            list(parts(lambda size, asked=asked, body=body: asked.append(size) or body(size), b"b", block_bytes=1024))
        assert sum(asked) < 80_000


BOUNDARIES = {
    "multipart/form-data; boundary=abc": b"abc",
    'multipart/form-data; charset=utf-8; Boundary="a b"': b"a b",
    "multipart/form-data;boundary=" + "x" * 256: b"x" * 256,
    "multipart/form-data;;boundary=b": b"b",
    "multipart/form-data; ; boundary=b; ": b"b",
    "multipart/form-data ;\t;charset=utf-8 ;;boundary=b ;": b"b",
    'multipart/form-data; boundary="\'()+_,-./:=?"': b"'()+_,-./:=?",
    "multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW;": b"----WebKitFormBoundary7MA4YWxkTrZu0gW",
}


@pytest.mark.parametrize("content_type", BOUNDARIES)
def test_boundary_of_a_content_type(content_type):
    assert boundary_of(content_type) == BOUNDARIES[content_type]


@pytest.mark.parametrize(
    "parameters",
    ["", "; boundary=", '; boundary=""', "; boundary=" + "x" * 257, '; boundary="a "', "; boundary=a; boundary=b",
     "; boundary=a; BOUNDARY=a", '; boundary="a', "; boundary=a b", '; boundary="a\\"b"', "; boundary=é",
     '; boundary="é"', "; boundary=a*b", '; boundary="a\r\nb"', "; boundary=a\0", "; boundary*=utf-8''a",
     ",boundary=a", "; boundary=a, b"],
)  # fmt: skip
def test_content_type_without_one_valid_boundary_is_an_error(parameters):
    with pytest.raises(MultipartError):
        boundary_of("multipart/form-data" + parameters)


HEADERS = {
    "": ("", {}),
    "Form-Data": ("form-data", {}),
    " text/plain ; A=b": ("text/plain", {"a": "b"}),
    'x; a="b;c"; d=e': ("x", {"a": "b;c", "d": "e"}),
    'x; a="\\"\\\\\\c"': ("x", {"a": '"\\\\c'}),
    'x; a=""; b=': ("x", {"a": "", "b": ""}),
    "x; a=1;;; \t": ("x", {"a": "1"}),
    "x;; a=1; ;\t;b=2": ("x", {"a": "1", "b": "2"}),
    "x ;": ("x", {}),
    ";a=b": ("", {"a": "b"}),
    "x; a=b=c": ("x", {"a": "b=c"}),
    "x; a*=b'c'd": ("x", {"a*": "b'c'd"}),
}


@pytest.mark.parametrize("value", HEADERS)
def test_header_and_its_parameters(value):
    assert parse_header(value) == HEADERS[value]


@pytest.mark.parametrize(
    "value",
    ["x; a", "x; =b", "x; a=b c", 'x; a="b', 'x; a="b"c', "x; a=b; a=c", "x; a=b; A=b", 'x; a=b"c"', "x; a =b",
     "x; a= b", "x; é=b", "x;, a=b", "x,; a", 'x; a="b\nc"\\'],
)  # fmt: skip
def test_malformed_header_is_an_error(value):
    with pytest.raises(MultipartError):
        parse_header(value)


NAMES = ["a.txt", "日本語 é.pdf", "C:\\x\\y", "\\\\server\\", "a;b='c'", "%22%0D", "../../etc/passwd", " ", "",
         "\u2028\x85", "a\\", "🎉"]  # fmt: skip


@pytest.mark.parametrize("filename", NAMES)
def test_encoded_upload_parses_back(filename):
    content = bytes(range(256)) * 3 + b"\r\n--edg\r\n--"
    fields = {"purpose": "batch", "expires_after[seconds]": "3600", "note": "é\r\n\r\n\0"}
    upload = Upload(filename, "text/plain; charset=utf-8", fields, iter([content[:400], b"", content[400:]]))
    body = b"".join(encode(upload, "edge"))
    plain = [(name, None, "application/octet-stream", value.encode()) for name, value in fields.items()]
    assert outcome(body, b"edge") == ([*plain, ("file", filename, "text/plain; charset=utf-8", content)], None)
    assert upload.size == len(content)


def test_quote_in_a_file_name_is_encoded_as_browsers_do():
    upload = Upload('a"b\\"c', "text/plain", {}, iter([]))
    assert b'filename="a%22b\\\\%22c"\r\n' in b"".join(encode(upload, "edge"))


def test_field_after_the_file_is_encoded_after_it():
    fields = {"early": "1"}

    def chunks():
        yield b"content"
        fields["late"] = "2"

    names = [part[0] for part in outcome(b"".join(encode(Upload("a", "text/csv", fields, chunks()), "e")), b"e")[0]]
    assert names == ["early", "file", "late"]


def test_name_of_the_file_part_can_be_chosen():
    body = b"".join(encode(Upload("a", "text/csv", {}, iter([b"x"]), part="document"), "e"))
    assert outcome(body, b"e") == ([("document", "a", "text/csv", b"x")], None)


def test_upload_that_fails_never_gets_its_closing_delimiter():
    def chunks():
        yield b"some"
        raise MultipartError("cut")

    sent = []
    with pytest.raises(MultipartError):
        for block in encode(Upload("a", "text/csv", {}, chunks()), "edge"):
            sent.append(block)
    assert b"".join(sent).endswith(b"\r\n\r\nsome")


def test_encoder_reads_nothing_ahead():
    def chunks():
        for n in range(3):
            asked.append(n)
            yield b"x"

    asked = []
    encoder = encode(Upload("a", "text/csv", {}, chunks()), "edge")
    next(encoder)
    assert asked == []
    next(encoder)
    assert asked == [0]
