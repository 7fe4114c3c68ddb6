"""Strict JSON: exactly what RFC 8259 allows, within limits that bound memory and time."""

from __future__ import annotations

import json
import time
import tracemalloc

import pytest

from filesproxy.wire.strict_json import MAX_DEPTH, MAX_DIGITS, MAX_VALUES, Unreadable, dumps, loads

VALUES = [
    (b"{}", {}),
    (b" \t\r\n[1] \n", [1]),
    (b'{"a":{"b":[1,2.5,-3,true,false,null,"x"]}}', {"a": {"b": [1, 2.5, -3, True, False, None, "x"]}}),
    ('"é€🎉"'.encode(), "é€🎉"),
    (b'"\\u00e9\\ud83c\\udf89\\n\\/"', "é🎉\n/"),
    (b'"\\ud800"', "\ud800"),
    (b'"a\x7f\xc2\x80"', "a\x7f\x80"),
    (b"1e2", 100.0),
    (b"1E-400", 0.0),
    (b"1.7976931348623157e308", 1.7976931348623157e308),
    (b"9007199254740993", 9007199254740993),
    (b"-0", 0),
    (b'"x"', "x"),
    (b"null", None),
    (bytearray(b"[true]"), [True]),
    (b'{"a":1,"A":2,"":3}', {"a": 1, "A": 2, "": 3}),
    (b'"[[[{{{,,,"', "[[[{{{,,,"),
]

NO_JSON = [
    b"",
    b" ",
    b"{",
    b"}",
    b"[1,]",
    b'{"a":1,}',
    b"{,}",
    b"[1 2]",
    b"{'a':1}",
    b"{a:1}",
    b'{"a"}',
    b'{"a":}',
    b"01",
    b"+1",
    b".5",
    b"1.",
    b"1e",
    b"0x1",
    b"1_0",
    b"nul",
    b"None",
    b"True",
    b'"',
    b'"a',
    b'"\\x41"',
    b'"\\u12"',
    b'"a\nb"',
    b'"a\tb"',
    b'"a\0b"',
    b"{} {}",
    b"{}x",
    b"// a\n{}",
    b"/* */{}",
    b"\xff",
    b'"\xff"',
    b'"\xed\xa0\x80"',
    b'"\xc0\xaf"',
    b"\xef\xbb\xbf\xef\xbb\xbf{}",
    b" \xef\xbb\xbf{}",
    b"{}\xef\xbb\xbf",
    b"\xef\xbb\xbf",
    b"\xef\xbb{}",
    '{"a":1}'.encode("utf-16"),
    '{"a":1}'.encode("utf-16-le"),
    b"\x00{}",
    b"\xc2\xa0{}",
    "[١]".encode(),
    b"undefined",
    b"[1e5.5]",
    b"--1",
    b"{} \x0c",
    b"\x0b[]",
]


@pytest.mark.parametrize("text,value", VALUES)
@pytest.mark.parametrize("unique_keys", [False, True])
def test_valid_json_is_read(text, value, unique_keys):
    found = loads(text, unique_keys)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text,value", VALUES)
@pytest.mark.parametrize("unique_keys", [False, True])
def test_byte_order_mark_is_ignored(text, value, unique_keys):
    """RFC 8259 §8.1: a reader may ignore it, and PowerShell and .NET write it."""
    assert loads(b"\xef\xbb\xbf" + text, unique_keys) == value
    assert loads(bytearray(b"\xef\xbb\xbf" + text), unique_keys) == value


@pytest.mark.parametrize("text", NO_JSON)
@pytest.mark.parametrize("unique_keys", [False, True])
def test_invalid_json_is_unreadable(text, unique_keys):
    with pytest.raises(Unreadable, match="not valid JSON in UTF-8"):
        loads(text, unique_keys)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e309", "-1e309", "1e999999999", "9" * 310 + ".0"])
@pytest.mark.parametrize("form", ["%s", "[%s]", '{"a":%s}', '{"a":[{"b":%s}]}'])
def test_nan_and_numbers_out_of_range_are_unreadable(number, form):
    for unique_keys in (False, True):
        with pytest.raises(Unreadable, match="NaN or a number out of range"):
            loads((form % number).encode(), unique_keys)


def test_whole_number_of_many_digits_is_read_up_to_the_limit():
    assert loads(b"9" * MAX_DIGITS) == int("9" * MAX_DIGITS)
    with pytest.raises(Unreadable, match=f"more than {MAX_DIGITS} digits"):
        loads(b"9" * (MAX_DIGITS + 2))


@pytest.mark.fuzz
@pytest.mark.parametrize("digits", [5000, 1_000_000])
def test_huge_whole_number_is_refused_quickly(digits):
    started = time.process_time()
    with pytest.raises(Unreadable):
        loads(b'{"a":' + b"9" * digits + b"}", True)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    "text", [b'{"a":1,"a":1}', b'[{"b":[{"a":1,"c":2,"a":3}]}]', b'{"a":1,"\\u0061":2}', b'{"":1,"":2}']
)
def test_key_twice_is_unreadable_if_keys_must_be_unique(text):
    with pytest.raises(Unreadable, match="a key twice"):
        loads(text, unique_keys=True)
    assert loads(text) is not None


NESTINGS = [(b"[", b"]"), (b'{"a":', b"}")]


def nested(opening, closing, levels):
    return opening * levels + (b"1" if b":" in opening else b"") + closing * levels


@pytest.mark.parametrize("opening,closing", NESTINGS)
def test_depth_is_limited_exactly(opening, closing):
    assert loads(nested(opening, closing, MAX_DEPTH)) is not None
    with pytest.raises(Unreadable, match=f"more than {MAX_DEPTH} levels deep"):
        loads(nested(opening, closing, MAX_DEPTH + 1))


@pytest.mark.parametrize("opening,closing", NESTINGS)
@pytest.mark.parametrize("levels", [MAX_DEPTH * 2, 900, 5000, 100_000])
@pytest.mark.parametrize("is_closed", [True, False])
def test_depth_beyond_any_stack_is_unreadable_and_does_not_crash(opening, closing, levels, is_closed):
    text = nested(opening, closing, levels) if is_closed else opening * levels
    for unique_keys in (False, True):
        with pytest.raises(Unreadable):
            loads(text, unique_keys)


def test_depth_is_counted_at_the_deepest_place_and_not_by_brackets():
    assert len(loads(b"[" + b",".join([b"[[]]"] * 5000) + b"]")) == 5000
    deep = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    with pytest.raises(Unreadable, match="levels deep"):
        loads(b"[1," + deep + b"]")
    with pytest.raises(Unreadable, match="levels deep"):
        loads(b"[[]," * 60 + b'{"a":' * 60 + b"1" + b"}" * 60 + b"]" * 60)


def test_number_of_values_is_limited_exactly():
    assert len(loads(b"[" + b"1," * (MAX_VALUES - 2) + b"1]")) == MAX_VALUES - 1
    with pytest.raises(Unreadable, match=f"more than {MAX_VALUES} values"):
        loads(b"[" + b"1," * MAX_VALUES + b"1]")
    with pytest.raises(Unreadable, match=f"more than {MAX_VALUES} values"):
        loads(b"[" + b"[]," * (MAX_VALUES // 2) + b"{}," * (MAX_VALUES // 2) + b"1]")


@pytest.mark.parametrize(
    "filling",
    [b",", b"[{", b'\\",', b"\\\\\\\\,,", b'\\\\\\",,'],
    ids=["comma", "brackets", "quote", "slashes", "both"],
)
def test_commas_and_brackets_inside_strings_are_not_counted(filling):
    text = b'{"a":"' + filling * (MAX_VALUES + 5) + b'","b":["c"]}'
    assert loads(text)["b"] == ["c"]


def test_message_quotes_nothing_of_the_text():
    for text in (b'{"sk-canary": NaN}', b"sk-canary", b'{"sk-canary":1,"sk-canary":2}', b'["sk-canary"', b"9" * 500):
        with pytest.raises(Unreadable) as refused:
            loads(text, unique_keys=True)
        assert "canary" not in str(refused.value) and "999" not in str(refused.value)
        assert refused.value.__cause__ is None and (refused.value.__suppress_context__ or not refused.value.__context__)


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True, "é🎉\u2028"]}, [], "x", {"a": "\n\0\x7f"}, 10**300])
def test_dumps_is_compact_utf8_that_reads_back(value):
    text = dumps(value)
    assert loads(text) == value and json.loads(text) == value
    assert b": " not in text and b", " not in text


def test_dumps_keeps_utf8_and_escapes_lone_surrogates():
    assert dumps({"a": "é"}) == '{"a":"é"}'.encode()
    assert dumps({"a": "é\ud800"}) == b'{"a":"\\u00e9\\ud800"}'
    assert loads(dumps(["\udfff\ud800"])) == ["\udfff\ud800"]


def test_dumps_never_splits_an_event_or_a_header():
    assert not set(dumps({"a": "\r\n\r\ndata: x\n"})) & set(b"\r\n")


@pytest.mark.fuzz
def test_refusing_too_many_values_costs_no_more_memory_than_the_text():
    """Splitting the whole text at each quote took a gigabyte for 32 MiB."""
    text = bytearray(b'["ab",c' * (1 << 20))
    tracemalloc.start()
    with pytest.raises(Unreadable):
        loads(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * len(text)


def test_commas_in_a_string_that_spans_slices_are_not_counted():
    assert loads(b'["' + b",a" * (MAX_VALUES + (1 << 20)) + b'",1]')[1] == 1
