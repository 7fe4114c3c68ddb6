"""The reader of HTTP/1 answers: the result does not depend on how the bytes are cut into pieces."""

from __future__ import annotations

import random
import time
from typing import NamedTuple

import pytest
from sockets import answer, chunked

from filesproxy.errors import UpstreamError
from filesproxy.wire.http1 import (
    BLOCK_BYTES,
    HEAD_BYTES,
    MAX_CHUNK_LINE_BYTES,
    MAX_HEADERS,
    MAX_INFORMATIONAL,
    AnswerReader,
    Chunks,
    Unanswered,
)

GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\nlink: </b>\r\n\r\n"
EMPTY = b"content-length: 0\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"


def framed(fields=EMPTY, body=b"", line=b"HTTP/1.1 200 OK"):
    return line + b"\r\n" + fields + b"\r\n" + body


def receiving(*blocks):
    """A connection's `receive(size)` that returns these blocks one by one, and then its end."""
    left = [block for block in blocks if block]

    def receive(size):
        assert size > 0
        if not left:
            return b""
        block, rest = left[0][:size], left[0][size:]
        left[:1] = [rest] if rest else []
        return block

    return receive


class Read(NamedTuple):
    """What a reader found in an answer."""

    status: int
    headers: dict
    body: bytes
    is_reusable: bool


def read(*blocks):
    response = AnswerReader(receiving(*blocks))
    response.begin()
    body = b"".join(iter(response.read, b""))
    assert response.is_complete and response.read() == b""
    return Read(response.status, response.headers, body, response.is_reusable)


def outcome(*blocks):
    """What was read, without the fields that depend on the chunking; or the error's class and message."""
    try:
        return read(*blocks)[:3]
    except UpstreamError as error:
        return type(error), error.message


def chunkings(raw):
    """The bytes whole, in any two pieces, and one by one."""
    yield (raw,)
    yield from ((raw[:at], raw[at:]) for at in range(1, len(raw)))
    yield tuple(raw[at : at + 1] for at in range(len(raw)))


def refuses(raw):
    """Whether this answer is an error in every chunking, and never counts as unanswered."""
    kinds = {outcome(*blocks)[0] for blocks in chunkings(raw)}
    return kinds == {UpstreamError}


ANSWERS = {
    "by_length": framed(b"Content-Length: 11\r\nx-a:  b \r\n", b"hello\r\n\r\nyo"),
    "in_chunks": framed(CHUNKED, chunked(b"hello\r\n\r\nyo", 4)),
    "in_chunks_with_a_trailer": framed(CHUNKED, chunked(b"hello", 2, b";a=b", b"x-md5: a\r\n")),
    "to_the_end": framed(b"x-a: b\r\n", b"hello\r\n\r\nyo"),
    "empty": framed(),
    "without_content": framed(b"x-a: b\r\n", line=b"HTTP/1.1 204 No Content"),
    "after_informational": GO_ON + HINTS + framed(b"content-length: 2\r\n", b"ab"),
    "with_lf_only": b"HTTP/1.1 200 OK\nx-a: b\ncontent-length: 2\n\nab",
    "folded": framed(b"x-a: 1\r\n\tcontent-length: 5\r\ncontent-length: 2\r\n", b"ab"),
    "by_length_with_blanks": framed(b"Content-Length: \t 2 \t\r\n", b"ab"),
    "in_chunks_with_blanks": framed(b"transfer-encoding:\tChunked \t\r\n", chunked(b"hello\r\n\r\nyo", 4)),
    "closing_with_blanks": framed(b"connection: close \r\ncontent-length:2 \r\n", b"ab"),
    "without_a_reason": framed(b"content-length: 2\r\n", b"ab", b"HTTP/1.1 200"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answer_is_the_same_in_every_chunking(name):
    first, *others = (outcome(*blocks) for blocks in chunkings(ANSWERS[name]))
    assert first[0] in (200, 204)
    assert all(other == first for other in others)


@pytest.mark.parametrize("name", ANSWERS)
def test_answer_cut_at_any_byte_is_an_error_and_never_a_shorter_answer(name):
    raw = ANSWERS[name]
    whole = read(raw)
    head = raw.index(b"x-a: b\r\n\r\n") + 10 if name == "to_the_end" else len(raw)
    end = raw.index(b"\r\n0") + 5 if name.startswith("in_chunks") else head  # the body is complete without its trailer
    for at in range(end):
        with pytest.raises(UpstreamError) as caught:
            read(raw[:at])
        assert isinstance(caught.value, Unanswered) == (at == 0), raw[:at]
    assert read(raw[:end]).body == (b"" if name == "to_the_end" else whole.body)


def test_body_is_what_was_sent():
    for name in ("by_length", "in_chunks", "to_the_end", "in_chunks_with_blanks"):
        assert read(ANSWERS[name]).body == b"hello\r\n\r\nyo", name
    for name in ("after_informational", "with_lf_only", "folded", "without_a_reason", "by_length_with_blanks",
                 "closing_with_blanks"):  # fmt: skip
        assert read(ANSWERS[name]).body == b"ab", name


# Heads


def test_header_names_become_lower_case_and_values_lose_the_white_space_round_them():
    """RFC 9110 §5.5: it is not part of the value."""
    raw = framed(b"X-Request-ID: Req-1\r\nx-b:\t a:b \r\nx-c:\r\nX-D: \xe9\r\n" + EMPTY)
    assert read(raw).headers == {"x-request-id": "Req-1", "x-b": "a:b", "x-c": "", "x-d": "\xe9",
                                 "content-length": "0"}  # fmt: skip


def test_folded_value_is_one_header_and_never_two():
    found = read(framed(b"x-a: 1\r\n\tset-cookie: a=b\r\n  connection: close\r\n" + EMPTY))
    assert found.headers == {"x-a": "1\r\n\tset-cookie: a=b\r\n  connection: close", "content-length": "0"}
    assert found.is_reusable


@pytest.mark.parametrize("line", [b"HTTP/1.1 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.1  200\tVery OK"])
def test_reason_may_be_anything(line):
    assert read(framed(line=line)).status == 200


def test_informational_answers_are_skipped_up_to_a_limit():
    final = framed(b"content-length: 2\r\n", b"ab")
    assert read(HINTS * (MAX_INFORMATIONAL - 1) + final)[0] == 200
    assert read(*[HINTS] * (MAX_INFORMATIONAL - 1), final).headers == {"content-length": "2"}
    with pytest.raises(UpstreamError, match="informational"):
        read(HINTS * MAX_INFORMATIONAL + final)


def test_end_after_an_informational_answer_is_not_unanswered():
    assert refuses(GO_ON) and refuses(HINTS * 2)


BAD_HEADS = {
    "101": framed(b"connection: upgrade\r\nupgrade: x\r\n", line=b"HTTP/1.1 101 Switching Protocols"),
    "101_after_100": GO_ON + framed(b"upgrade: x\r\n", line=b"HTTP/1.1 101 Switching Protocols"),
    "bare_cr_in_a_value": framed(b"x-a: 1\rset-cookie: a=b\r\n" + EMPTY),
    "bare_cr_in_a_name": framed(b"x-\ra: 1\r\n" + EMPTY),
    "bare_cr_in_the_status_line": framed(line=b"HTTP/1.1 200 OK\rx-a: b"),
    "bare_cr_in_a_folded_value": framed(b"x-a: 1\r\n 2\r3\r\n" + EMPTY),
    "two_crs_at_a_line_end": framed(b"x-a: 1\r\r\n" + EMPTY),
    "line_without_colon": framed(b"no colon here\r\n" + EMPTY),
    "last_line_without_colon": framed(EMPTY + b"nocolon\r\n"),
    "space_before_colon": framed(b"content-length : 0\r\n"),
    "tab_before_colon": framed(b"content-length\t: 0\r\n"),
    "space_in_a_name": framed(b"x a: 1\r\n" + EMPTY),
    "empty_name": framed(b": 1\r\n" + EMPTY),
    "name_that_is_not_ascii": framed(b"x-\xe9: 1\r\n" + EMPTY),
    "control_character_in_a_name": framed(b"x-\0: 1\r\n" + EMPTY),
    "first_line_folded": framed(b" folded\r\n" + EMPTY),
    "bad_line_in_an_informational_answer": b"HTTP/1.1 103 Hints\r\nno colon\r\n\r\n" + framed(),
    "status_of_two_digits": framed(line=b"HTTP/1.1 20 OK"),
    "status_of_four_digits": framed(line=b"HTTP/1.1 2000 OK"),
    "status_that_is_a_word": framed(line=b"HTTP/1.1 OK"),
    "status_of_other_digits": framed(line="HTTP/1.1 ٢٠٠ OK".encode()),
    "no_status": framed(line=b"HTTP/1.1"),
    "no_blank_before_the_status": framed(line=b"HTTP/1.1200 OK"),
    "http_2": framed(line=b"HTTP/2.0 200 OK"),
    "http_0_9": framed(line=b"HTTP/0.9 200 OK"),
    "version_in_lower_case": framed(line=b"http/1.1 200 OK"),
    "version_with_two_digits": framed(line=b"HTTP/1.11 200 OK"),
    "another_protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "empty_lines": b"\r\n\r\n" + framed(),
    "body_alone": b'{"id": "file-1"}\n\n',
}


@pytest.mark.parametrize("name", BAD_HEADS)
def test_head_that_two_readers_could_read_differently_is_an_error(name):
    assert refuses(BAD_HEADS[name])


def padded(size):
    """An answer whose head has this size in bytes."""
    return framed(b"x-a: " + b"a" * (size - len(framed(b"x-a: \r\n" + EMPTY))) + b"\r\n" + EMPTY)


def in_blocks(raw, size):
    return [raw[at : at + size] for at in range(0, len(raw), size)]


@pytest.mark.parametrize("size", [7, 1000, HEAD_BYTES - 1, HEAD_BYTES, 2 * HEAD_BYTES])
def test_head_may_have_the_limit_and_not_a_byte_more(size):
    raw = padded(HEAD_BYTES)
    assert len(raw) == HEAD_BYTES
    assert read(*in_blocks(raw, size)).is_reusable
    for larger in (padded(HEAD_BYTES + 1), padded(HEAD_BYTES + 2), padded(2 * HEAD_BYTES)):
        assert outcome(*in_blocks(larger, size))[0] is UpstreamError


def test_head_without_an_end_is_read_up_to_the_limit():
    received = []

    def receive(size):
        received.append(size)
        return b"x" * size

    with pytest.raises(UpstreamError):
        AnswerReader(receive).begin()
    assert sum(received) <= 2 * HEAD_BYTES


def test_head_may_have_the_limit_of_headers_and_not_one_more():
    lines = b"x-a: 1\r\n" * (MAX_HEADERS - 1)
    assert read(framed(lines + EMPTY)).headers == {"x-a": "1", "content-length": "0"}
    with pytest.raises(UpstreamError, match=f"{MAX_HEADERS} headers"):
        read(framed(lines + EMPTY + b"x-b: 1\r\n"))


def test_connection_that_ends_without_a_byte_is_unanswered():
    response = AnswerReader(receiving())
    with pytest.raises(Unanswered):
        response.begin()
    assert not response.has_begun


@pytest.mark.parametrize("begins", [b"", b"H"])
def test_failure_of_the_connection_is_raised_and_has_begun_says_whether_a_byte_had_come(begins):
    blocks = iter([begins] if begins else [])

    def receive(size):
        for block in blocks:
            return block
        raise ConnectionResetError

    response = AnswerReader(receive)
    with pytest.raises(ConnectionResetError):
        response.begin()
    assert response.has_begun == bool(begins)


# Framing

BAD_FRAMING = {
    "length_and_chunks": b"content-length: 5\r\n" + CHUNKED,
    "chunks_and_length": CHUNKED + b"content-length: 5\r\n",
    "two_lengths": b"content-length: 5\r\ncontent-length: 6\r\n",
    "same_length_twice": b"content-length: 5\r\nx-a: b\r\nContent-Length: 5\r\n",
    "list_of_lengths": b"content-length: 5, 5\r\n",
    "length_with_plus": b"content-length: +5\r\n",
    "length_with_minus": b"content-length: -5\r\n",
    "length_with_underscore": b"content-length: 1_0\r\n",
    "length_of_unicode_digits": "content-length: ٥\r\n".encode(),
    "length_of_a_superscript": b"content-length: \xb2\r\n",
    "length_in_hex": b"content-length: 0x5\r\n",
    "length_with_a_fraction": b"content-length: 5.0\r\n",
    "length_in_two_words": b"content-length: 5 5\r\n",
    "length_of_20_digits": b"content-length: 00000000000000000005\r\n",
    "length_that_is_folded": b"content-length: 5\r\n 5\r\n",
    "length_after_a_fold": b"content-length:\r\n 5\r\n",
    "no_length": b"content-length:\r\n",
    "length_that_is_a_word": b"content-length: five\r\n",
    "gzip": b"transfer-encoding: gzip\r\n",
    "gzip_and_chunked": b"transfer-encoding: gzip, chunked\r\n",
    "chunked_twice": CHUNKED * 2,
    "chunked_in_a_list": b"transfer-encoding: chunked, chunked\r\n",
    "identity": b"transfer-encoding: identity\r\n",
    "no_coding": b"transfer-encoding:\r\n",
    "chunked_that_is_folded": b"transfer-encoding:\r\n chunked\r\n",
    "chunked_with_a_vertical_tab": b"transfer-encoding: \x0bchunked\r\n",
}


@pytest.mark.parametrize("name", BAD_FRAMING)
def test_framing_that_two_readers_could_read_differently_is_an_error(name):
    assert refuses(framed(BAD_FRAMING[name], chunked(b"hello") * 2))


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
@pytest.mark.parametrize("fields", [b"", EMPTY, b"content-length: 5\r\n", CHUNKED])
def test_answer_without_content_ends_with_its_head(fields, status):
    line = b"HTTP/1.1 " + status
    for blocks in chunkings(framed(fields, line=line)):
        found = read(*blocks)
        assert (found.status, found.body, found.is_reusable) == (int(status[:3]), b"", True)
    assert not read(framed(fields, b"hello", line)).is_reusable


def test_answer_of_http_1_0_is_read_by_its_length_or_to_the_end():
    line = b"HTTP/1.0 200 OK"
    assert read(framed(b"content-length: 2\r\n", b"ab", line)).body == b"ab"
    assert read(framed(b"", b"abc", line)).body == b"abc"
    assert refuses(framed(b"content-length: 2\r\n", b"a", line))


def test_length_of_19_digits_is_waited_for():
    with pytest.raises(UpstreamError, match="early"):
        read(framed(b"content-length: 9999999999999999999\r\n", b"abc"))


def test_bytes_of_the_body_are_returned_as_they_arrive():
    response = AnswerReader(receiving(framed(b"content-length: 6\r\n", b"a"), b"bc", b"def"))
    response.begin()
    assert [response.read() for _ in range(4)] == [b"a", b"bc", b"def", b""]


@pytest.mark.parametrize("raw", [framed(b"content-length: 2\r\n", b"ab"), framed(CHUNKED, chunked(b"ab")), framed()])
def test_nothing_is_received_after_the_end_of_the_body(raw):
    receive = receiving(raw)
    response = AnswerReader(lambda size: receive(size) or pytest.fail("this would wait"))
    response.begin()
    assert b"".join(iter(response.read, b"")) in (b"ab", b"")
    assert response.is_reusable


# Whether the connection can be reused

AB = b"content-length: 2\r\n"
REUSABLE = {
    "length": (framed(AB, b"ab"), True),
    "length_of_nothing": (framed(), True),
    "error": (framed(AB, b"ab", b"HTTP/1.1 404 Not Found"), True),
    "after_informational": (GO_ON + HINTS + framed(AB, b"ab"), True),
    "with_lf_only": (b"HTTP/1.1 200 OK\ncontent-length: 2\n\nab", True),
    "keep_alive": (framed(b"connection: keep-alive\r\n" + AB, b"ab"), True),
    "another_option": (framed(b"connection: x-close, closed, not-close\r\n" + AB, b"ab"), True),
    "closing_informational_answer": (
        framed(b"connection: close\r\n", line=b"HTTP/1.1 103 X") + framed(AB, b"ab"),
        True,
    ),
    "a_byte_after": (framed(AB, b"abc"), False),
    "line_end_after": (framed(AB, b"ab\r\n"), False),
    "an_answer_after": (framed(AB, b"ab") * 2, False),
    "a_byte_after_nothing": (framed(body=b"a"), False),
    "http_1_0": (framed(AB, b"ab", b"HTTP/1.0 200 OK"), False),
    "http_1_0_that_would_keep_it": (framed(b"connection: keep-alive\r\n" + AB, b"ab", b"HTTP/1.0 200 OK"), False),
    "close": (framed(b"connection: close\r\n" + AB, b"ab"), False),
    "close_in_capitals": (framed(b"CONNECTION: CLOSE\r\n" + AB, b"ab"), False),
    "close_in_a_list": (framed(b"connection: x, Close\r\n" + AB, b"ab"), False),
    "close_first_in_a_list": (framed(b"connection: close ,keep-alive\r\n" + AB, b"ab"), False),
    "close_between_tabs": (framed(b"connection: keep-alive,\tclose\t\r\n" + AB, b"ab"), False),
    "close_of_what_has_no_content": (framed(b"connection: close\r\n", line=b"HTTP/1.1 204 No Content"), False),
    "close_in_chunks": (framed(b"connection: close\r\n" + CHUNKED, chunked(b"ab")), False),
    "chunks": (framed(CHUNKED, chunked(b"ab")), True),
    "no_chunks": (framed(CHUNKED, chunked(b"")), True),
    "chunks_with_a_trailer": (framed(CHUNKED, chunked(b"ab", trailer=b"x-md5: a\r\nx-b: c\r\n")), True),
    "chunks_with_half_a_trailer": (framed(CHUNKED, chunked(b"ab", trailer=b"x-md5: a\r\n")[:-2]), False),
    "chunks_without_a_trailer": (framed(CHUNKED, chunked(b"ab")[:-2]), False),
    "chunks_with_half_a_line_end": (framed(CHUNKED, chunked(b"ab")[:-1]), False),
    "a_byte_after_chunks": (framed(CHUNKED, chunked(b"ab") + b"a"), False),
    "an_answer_after_chunks": (framed(CHUNKED, chunked(b"ab")) + framed(), False),
    "to_the_end": (framed(b"", b"ab"), False),
    "to_the_end_at_once": (framed(b""), False),
}


@pytest.mark.parametrize("name", REUSABLE)
def test_connection_is_reusable_only_after_a_complete_and_clean_answer(name):
    raw, is_reusable = REUSABLE[name]
    assert read(raw).is_reusable == is_reusable


@pytest.mark.parametrize("name", [name for name in REUSABLE if not REUSABLE[name][1] and "after" not in name])
def test_connection_that_is_not_reusable_is_not_in_any_chunking(name):
    raw = REUSABLE[name][0]
    assert not any(read(*blocks).is_reusable for blocks in chunkings(raw))


@pytest.mark.parametrize("raw", [framed(AB, b"ab"), framed(CHUNKED, chunked(b"ab"))], ids=["length", "chunks"])
def test_connection_is_not_reusable_before_the_body_has_been_read(raw):
    response = AnswerReader(receiving(raw[:-8], raw[-8:]))
    assert not response.is_reusable
    response.begin()
    assert not response.is_complete and not response.is_reusable
    while response.read():
        pass
    assert response.is_complete


FAILED = [framed(AB, b"a"), framed(CHUNKED, b"2\r\nab\r\nzz\r\n"), framed(CHUNKED, b"2\r\na"), b"HTTP/1.1 200"]


@pytest.mark.parametrize("raw", FAILED, ids=["length", "bad_chunk", "half_a_chunk", "half_a_head"])
def test_connection_of_an_answer_that_failed_is_not_reusable(raw):
    response = AnswerReader(receiving(raw))
    with pytest.raises(UpstreamError):
        response.begin()
        while response.read():
            pass
    assert not response.is_reusable


# Chunks


def fed(*blocks):
    """The decoded bytes of these pieces, and the decoder."""
    chunks = Chunks()
    return b"".join(map(chunks.feed, blocks)), chunks


GOOD_CHUNKS = {
    "one": b"5\r\nhello\r\n0\r\n\r\n",
    "several": b"1\r\nh\r\n3\r\nell\r\n1\r\no\r\n0\r\n\r\n",
    "extensions": b'5;a=b;c="d e"\r\nhello\r\n0;last\r\n\r\n',
    "empty_extension": b"5;\r\nhello\r\n0;\r\n\r\n",
    "padding_zeros": b"000000000000005\r\nhello\r\n000\r\n\r\n",
    "blanks_around_the_size": b" \t5 \t\r\nhello\r\n0 \r\n\r\n",
    "blanks_before_the_extension": b"5 ; a\r\nhello\r\n0\r\n\r\n",
    "lf_after_the_size": b"5\nhello\r\n0\n\r\n",
    "trailer": b"5\r\nhello\r\n0\r\nx-a: b\r\nx-c: d\r\n\r\n",
}
BAD_CHUNKS = {
    "no_size": b"\r\nhello\r\n",
    "no_hex": b"zz\r\nhello\r\n",
    "plus": b"+5\r\nhello\r\n",
    "minus": b"-5\r\nhello\r\n",
    "underscore": b"0_5\r\nhello\r\n",
    "prefix": b"0x5\r\nhello\r\n",
    "unicode_digits": "٥\r\nhello\r\n".encode(),
    "extension_without_a_semicolon": b"5 a=b\r\nhello\r\n",
    "size_of_16_digits": b"0000000000000005\r\nhello\r\n",
    "bare_cr_in_an_extension": b"5;a\rb\r\nhello\r\n",
    "bare_cr_after_the_size": b"5\rhello\r\n0\r\n\r\n",
    "nothing_after_a_chunk": b"5\r\nhello0\r\n\r\n",
    "lf_after_a_chunk": b"5\r\nhello\n0\r\n\r\n",
    "longer_chunk": b"4\r\nhello\r\n0\r\n\r\n",
    "shorter_chunk": b"6\r\nhello\r\n0\r\n\r\n",
    "two_line_ends_after_a_chunk": b"5\r\nhello\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", GOOD_CHUNKS)
def test_chunks_are_decoded_in_every_chunking(name):
    for blocks in chunkings(GOOD_CHUNKS[name]):
        body, chunks = fed(*blocks)
        assert (body, chunks.is_over) == (b"hello", True), blocks


@pytest.mark.parametrize("name", BAD_CHUNKS)
def test_chunk_that_two_readers_could_read_differently_is_an_error(name):
    assert refuses(framed(CHUNKED, BAD_CHUNKS[name] + b"0\r\n\r\n"))


def test_bytes_before_a_bad_chunk_are_never_a_whole_body():
    for blocks in chunkings(b"5\r\nhello\r\nzz\r\n\r\n"):
        chunks = Chunks()
        with pytest.raises(UpstreamError):
            for block in blocks:
                chunks.feed(block)
        assert not chunks.is_over and not chunks.is_clean


def test_bytes_after_the_last_chunk_are_kept_apart():
    body, chunks = fed(b"1\r\na\r\n0\r\nx-a: b\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert (body, chunks.is_clean, chunks.rest) == (b"a", True, b"HTTP/1.1 200 OK\r\n")
    body, chunks = fed(b"1\r\na\r\n0\r\nx-a: b\r\n")
    assert (body, chunks.is_over, chunks.is_clean) == (b"a", True, False)


@pytest.mark.parametrize("size", [7, 100, 1 << 16])
def test_chunk_line_may_be_long_but_must_end(size):
    fits = b"1;" + b"a" * (MAX_CHUNK_LINE_BYTES - 4) + b"\r\n" + b"a\r\n0\r\n\r\n"
    assert fed(*in_blocks(fits, size))[0] == b"a"
    for endless in (b"0" * (1 << 16), b"1;" + b"a" * (1 << 16), b" " * (1 << 16), b"1\r\na\r\n1;" + b"a" * (1 << 16)):
        with pytest.raises(UpstreamError):
            fed(*in_blocks(endless, size))


def test_largest_chunk_is_not_waited_for_in_memory():
    chunks = Chunks()
    assert chunks.feed(b"f" * 15 + b"\r\nabc") == b"abc"
    assert [chunks.feed(b"x" * BLOCK_BYTES) for _ in range(3)] == [b"x" * BLOCK_BYTES] * 3
    assert not chunks.is_over


def test_random_pieces_of_random_chunks_are_the_body():
    rng = random.Random(3)
    for _ in range(200):
        body = rng.randbytes(rng.randint(0, 3000))
        raw, at = chunked(body, rng.randint(1, 700)), 0
        blocks = []
        while at < len(raw):
            blocks.append(raw[at : at + rng.choice((1, 2, 3, 50, 1000))])
            at += len(blocks[-1])
        assert read(framed(CHUNKED), *blocks).body == body


def seconds(*blocks):
    started = time.process_time()
    body = read(framed(CHUNKED), *blocks).body
    assert body == b"a" * len(body)
    return time.process_time() - started


@pytest.mark.fuzz
def test_many_tiny_chunks_cost_linear_time():
    tiny = b"1\r\na\r\n"
    seconds(tiny * 1000 + b"0\r\n\r\n")
    small, large = ([tiny * count + b"0\r\n\r\n"] for count in (25_000, 200_000))
    assert seconds(*large) < max(24 * seconds(*small), 3)
    assert seconds(*in_blocks(tiny * 50_000 + b"0\r\n\r\n", 7)) < 3


@pytest.mark.fuzz
def test_head_that_drips_in_costs_linear_time():
    raw = framed(b"x-a: " + b"a" * 60_000 + b"\r\n" + EMPTY)
    started = time.process_time()
    assert read(*in_blocks(raw, 1)).status == 200
    assert time.process_time() - started < 2


STRANGE = {
    "lines": b"x-a: b\r\n" * 8000,
    "folds": b"x-a: b\r\n" + b" c\r\n" * 15_000,
    "empty_folds": b"x: " + b"\r\n " * 20_000,
    "a_name": b"a" * 60_000 + b"\r\n",
}


@pytest.mark.fuzz
@pytest.mark.parametrize("name", STRANGE)
def test_odd_head_costs_linear_time(name):
    started = time.process_time()
    outcome(framed(STRANGE[name] + b"\r\n"))
    outcome(framed(STRANGE[name] + b"nocolon\r\n"))
    assert time.process_time() - started < 1


def test_helper_of_other_tests_makes_answers_that_are_reusable():
    assert read(answer({"id": "file-1"})).is_reusable


@pytest.mark.parametrize("lines", [b"connection: close\r\nconnection: keep-alive\r\n", b"connection: x,\r\n close\r\n"],
                         ids=["two_lines", "folded"])  # fmt: skip
def test_close_is_found_in_every_line_of_connection(lines):
    assert not read(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n" + lines + b"\r\n").is_reusable


def test_length_of_a_header_name_is_limited():
    assert read(framed(b"x" * 256 + b": 1\r\n" + EMPTY)).headers["x" * 256] == "1"
    with pytest.raises(UpstreamError, match="framing"):
        read(framed(b"x" * 257 + b": 1\r\n" + EMPTY))


@pytest.mark.parametrize("status", ["000", "099", "600", "999"])
def test_status_that_http_does_not_have_is_an_error(status):
    """RFC 9110 §15: a status is a number from 100 to 599; some servers refuse to pass others on."""
    with pytest.raises(UpstreamError):
        read(f"HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n".encode())
