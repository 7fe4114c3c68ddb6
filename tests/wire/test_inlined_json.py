"""JSON with files in it: every byte in its place, the length known before, whatever blocks a file comes in."""

from __future__ import annotations

import base64
import json
import random
from zlib import crc32

import pytest
from fakes import FakeBody, content_of, sha

from filesproxy.calls import Inlined, Text
from filesproxy.errors import BadRequest, FilesproxyError, StoreError
from filesproxy.wire.inlined_json import NotText, as_base64, base64_of, filled, measured, stand_in
from filesproxy.wire.strict_json import dumps

RANDOM = "0123456789abcdef" * 2
BLOCK = 3 << 16
TEXTS = {
    "plain": b"hello, world\n",
    "empty": b"",
    "quotes": b'say "no"\\ \b\f\n\r\t\x1b\x7f/',
    "umlauts": "Grüße, 世界, 🎉 \u2028\u2029 \ufffd".encode(),
    "byte_order_mark": b"\xef\xbb\xbfhello",
    "only_a_byte_order_mark": b"\xef\xbb\xbf",
    "one_byte": b"x",
    "utf_16_le": b"\xff\xfe" + "Grüße 🎉".encode("utf-16-le"),
    "utf_16_be": b"\xfe\xff" + "Grüße 🎉".encode("utf-16-be"),
    "utf_16_of_nothing": b"\xff\xfe",
    "a_mark_inside": "a\ufeffb".encode(),
    "stand_in_of_another": stand_in("f" * 32, 0).encode(),
    "long": "äöü€🎉\n".encode() * 600,
}


def decoded(content):
    coding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return content.decode(coding)


def cut(content, size):
    return [content[at : at + size] for at in range(0, len(content), size)]


def file(content, number=0, is_text=False, size=None, blocks=BLOCK):
    text = measured(cut(content, blocks), 1 << 30) if is_text else None
    opened = []

    def give():
        opened.append(FakeBody(cut(content, blocks)))
        return opened[-1]

    made = Inlined(stand_in(RANDOM, number), len(content) if size is None else size, text, give)
    return made, opened


def sent(body, files):
    length, blocks = filled(body, files)
    text = b"".join(blocks)
    assert len(text) == length
    return json.loads(text)


SIZES = [0, 1, 2, 3, 4, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK + 2, 2 * BLOCK, 700_001]


@pytest.mark.parametrize(
    "size,blocks",
    [*((size, blocks) for size in SIZES for blocks in (1 << 18, BLOCK, 1000)), *((size, 1) for size in range(9))],
)
def test_bytes_become_base64_whatever_blocks_they_come_in(size, blocks):
    content = content_of(size)
    made, opened = file(content, blocks=blocks)
    found = sent({"url": f"data:image/png;base64,{base64_of(made.stand_in)}", "detail": "low"}, [made])
    head, _, data = found["url"].partition(",")
    assert head == "data:image/png;base64" and sha(base64.b64decode(data, validate=True)) == sha(content)
    assert found["detail"] == "low" and [body.closed for body in opened] == [True]


@pytest.mark.parametrize(
    "name,blocks", [*((name, blocks) for name in TEXTS for blocks in (5, 2, 1)), ("long", 1 << 18), ("long", 4099)]
)
def test_text_becomes_a_json_string_whatever_blocks_it_comes_in(name, blocks):
    content = TEXTS[name]
    made, opened = file(content, is_text=True, blocks=blocks)
    found = sent({"text": f"[file: ä]\n{made.stand_in}\n[end of ä]"}, [made])
    assert found == {"text": f"[file: ä]\n{decoded(content)}\n[end of ä]"}
    assert [body.closed for body in opened] == [True]


@pytest.mark.parametrize(
    "content",
    [b"\xef", b"\xef\xbb", b"\xef\xbb\0", b"\xff", b"a\0b", b"\0", b"\xc3", b"a" * 10 + b"\xe2\x82", b"\xed\xa0\x80",
     b"\xff\xfeh", b"\xff\xfe\0\xd8a\0", b"\xff\xfe\0\0h\0\0\0", "Grüße".encode("latin-1"),
     b"\xf4\x90\x80\x80", b"\xc0\x80"],
)  # fmt: skip
@pytest.mark.parametrize("blocks", [100, 3, 1])
def test_what_is_not_text_is_found_before_anything_is_sent(content, blocks):
    with pytest.raises(NotText):
        measured(cut(content, blocks), 1 << 20)


def test_length_of_a_text_in_json_is_that_of_the_json():
    for text in [*map(chr, range(1, 0x180)), "é€🎉\u2028\ufeff", ""]:
        assert measured([text.encode()], 100).size == len(dumps(text)) - 2


def test_text_is_measured_no_further_than_the_limit():
    def endless():
        while True:
            yield b"x" * 1000

    assert 5000 < measured(endless(), 5000).size <= 6000


def test_many_files_go_where_their_stand_ins_are_and_as_often():
    contents = [content_of(size, seed) for seed, size in enumerate((10, 0, 100_000, 5))]
    files = [file(content, number)[0] for number, content in enumerate(contents)]
    text, _ = file(b'"quoted"', 4, is_text=True)
    order = [3, 0, 2, 2, 1, 0]
    used = [*(one._replace(uses=order.count(number)) for number, one in enumerate(files)), text._replace(uses=2)]
    marks = [base64_of(files[number].stand_in) for number in order]
    found = sent({"list": marks, text.stand_in: text.stand_in}, used)
    assert [base64.b64decode(data) for data in found["list"]] == [contents[number] for number in order]
    assert found['"quoted"'] == '"quoted"'


def test_one_file_is_open_at_a_time_and_each_is_closed():
    first, first_opened = file(content_of(10), 0)
    second, second_opened = file(content_of(10), 1)
    _, blocks = filled([base64_of(first.stand_in), base64_of(second.stand_in)], [first, second])
    assert (first_opened, second_opened) == ([], [])
    for _ in blocks:
        assert sum(not body.closed for body in first_opened + second_opened) <= 1
    assert [body.closed for body in first_opened + second_opened] == [True, True]


def test_file_is_closed_where_sending_ends_early():
    made, opened = file(content_of(1 << 20))
    _, blocks = filled({"data": base64_of(made.stand_in)}, [made])
    next(blocks)
    next(blocks)
    assert not opened[0].closed
    blocks.close()
    assert opened[0].closed


@pytest.mark.parametrize("uses", [1, 3])
def test_stand_in_that_a_translation_lost_or_repeated_is_a_400_and_nothing_is_opened(uses):
    made, opened = file(b"hello")
    made = made._replace(uses=uses, place="messages[0].content[1].file.file_id")
    data = base64_of(made.stand_in)
    with pytest.raises(BadRequest, match=r"messages\[0\].* has no place") as caught:
        filled({"text": "nothing", "data": [data, data]}, [made])
    assert (caught.value.param, caught.value.code, opened) == (made.place, "unsupported_file", [])


def test_bytes_never_go_where_a_text_should_nor_a_text_as_base64_that_nobody_has_measured():
    for made, mark in ((file(b"\x89PNG")[0], str), (file(b"hello", is_text=True)[0], base64_of)):
        with pytest.raises(FilesproxyError, match="as base64, or another file as text"):
            filled({"text": mark(made.stand_in)}, [made])


@pytest.mark.parametrize("later", [b"hallo", b"hell", b"hello!", b"", b"h\0llo"])
def test_text_that_changed_since_it_was_measured_is_cut_before_its_last_block(later):
    made = Inlined(stand_in(RANDOM, 0), 5, measured([b"hello"], 100), lambda: FakeBody([later] if later else []))
    length, blocks = filled({"text": made.stand_in}, [made])
    received = b""
    with pytest.raises(StoreError, match="changed"):
        for block in blocks:
            received += block
    assert received == b'{"text":"' and length > len(received)


def test_rest_of_the_json_is_sent_as_it_is_also_around_text_that_resembles_a_stand_in():
    made, _ = file(b"hello", is_text=True)
    near = [stand_in("f" * 32, 0), made.stand_in[:20], made.stand_in[1:], RANDOM]
    assert sent({"near": near, "text": made.stand_in, "odd": "\ud800"}, [made]) == {
        "near": near, "text": "hello", "odd": "\ud800",
    }  # fmt: skip


def test_large_rest_leaves_in_blocks():
    made, _ = file(b"hello", is_text=True)
    rest = "".join(random.Random(1).choices("abc", k=1 << 20))
    length, blocks = filled({"rest": rest, "text": made.stand_in}, [made])
    blocks = list(blocks)
    assert max(map(len, blocks)) <= 1 << 18 and json.loads(b"".join(blocks)) == {"rest": rest, "text": "hello"}
    assert length == sum(map(len, blocks))


def test_base64_of_no_blocks_is_nothing():
    assert b"".join(as_base64([])) == b""


def test_what_is_known_of_a_text_does_not_depend_on_its_blocks():
    assert measured([b'a"', b"b"], 100) == measured([b'a"b'], 100) == Text(4, crc32(b'a"b'))
