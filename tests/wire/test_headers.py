"""Headers: single values, safe values, which headers are relayed, and header blocks that `email` misreads."""

from __future__ import annotations

from email.parser import HeaderParser
from email.policy import compat32

import pytest
from fakes import NOT_ENCODED

from filesproxy.errors import BadRequest
from filesproxy.wire.headers import codings, misread, relayed, safe, single


@pytest.mark.parametrize(
    "value,read",
    [("openai", "openai"), ("", ""), ("  sk-a  ", "sk-a"), ("   ", ""), ("a" * 4096, "a" * 4096),
     ("!~a;b=c", "!~a;b=c")],
)  # fmt: skip
def test_single_value_is_read_without_the_blanks_around_it(value, read):
    assert single({"x-key": value}, "x-key") == read


def test_absent_header_is_empty():
    assert single({}, "x-key") == ""


@pytest.mark.parametrize(
    "value", ["a,b", ",", "a b", "a\tb", "\ta", "a\r\nb", "a\n", "a\0", "\x7f", "é", "日本", "a" * 4097]
)
def test_value_that_repeats_or_has_invalid_characters_is_400_and_is_not_quoted(value):
    with pytest.raises(BadRequest) as refused:
        single({"x-key": value}, "x-key")
    assert refused.value.param == "x-key" and value not in refused.value.message.replace("x-key", "").split()


SAFE = [("etag", '"a"'), ("x-a", ""), ("x-a", "é"), ("a!#$%&'*+-.^_`|~0", " x ")]
UNSAFE = [("", "a"), ("a b", "c"), ("a:", "b"), ("é", "a"), ("a\r\n", "b"), ("a", "b\r\nc: d"), ("a", "\n"),
          ("a", "\r"), ("a", "\0"), ("a", "\t"), ("a", "\x7f"), ("a", "日本"), ("a", "\x1b[31m"), ("(a)", "b"),
          ("a", "\ud800")]  # fmt: skip


@pytest.mark.parametrize("name,value", SAFE)
def test_header_that_any_server_sends_is_safe(name, value):
    assert safe(name, value)


@pytest.mark.parametrize("name,value", UNSAFE)
def test_header_that_could_split_a_message_is_not_safe(name, value):
    assert not safe(name, value)


@pytest.mark.parametrize("value", ["a\r\nset-cookie: b", "a\n", "\t", "\0", "日本"])
def test_listed_header_that_is_not_safe_is_not_relayed(value):
    headers = {"etag": value, "x-ratelimit-limit": value, "request-id": value, "retry-after": "1"}
    assert relayed(headers, content=True) == {"retry-after": "1"}


UPSTREAM = {
    "content-type": "application/json",
    "content-length": "5",
    "content-disposition": 'attachment; filename="a"',
    "content-encoding": "gzip",
    "etag": '"1"',
    "last-modified": "Mon, 01 Jan 2024 00:00:00 GMT",
    "retry-after": "7",
    "retry-after-ms": "7000",
    "x-should-retry": "false",
    "x-request-id": "req_1",
    "openai-processing-ms": "12",
    "openai-version": "2020-10-01",
    "x-ratelimit-remaining-requests": "9",
    "anthropic-ratelimit-requests-limit": "50",
    "set-cookie": "a=b",
    "server": "cloudflare",
    "connection": "close",
    "transfer-encoding": "chunked",
    "cf-ray": "1",
    "location": "https://evil.example/",
    "www-authenticate": "Bearer",
    "alt-svc": "h3",
    "openai-organization": "org-secret",
    "x-ratelimit": "1",
    "content-security-policy": "x",
    "access-control-allow-origin": "*",
    "strict-transport-security": "max-age=1",
}


def test_only_listed_headers_are_relayed():
    common = {"retry-after", "retry-after-ms", "x-should-retry", "x-request-id", "x-ratelimit-remaining-requests"}
    assert set(relayed(UPSTREAM)) == common
    assert set(relayed(UPSTREAM, ("openai-version",), ("anthropic-ratelimit-",))) == common | {
        "openai-version", "anthropic-ratelimit-requests-limit"}  # fmt: skip


def test_headers_that_describe_content_are_relayed_with_content():
    assert set(relayed(UPSTREAM, content=True)) - set(relayed(UPSTREAM)) == {
        "content-type", "content-length", "content-disposition", "content-encoding", "etag", "last-modified",
    }  # fmt: skip


@pytest.mark.parametrize("spelling", NOT_ENCODED)
def test_body_that_is_not_encoded_is_so_in_every_spelling_and_the_word_is_not_relayed(spelling):
    """RFC 9110 §8.4.1: `identity` should not be sent at all, and a client may not know `none`."""
    headers = {"content-encoding": spelling, "etag": '"1"'}
    assert codings(headers) == codings({}) == []
    assert relayed(headers, content=True) == {"etag": '"1"'}


@pytest.mark.parametrize(
    "value,found",
    [("gzip", ["gzip"]), (" GZip ", ["gzip"]), ("gzip, identity", ["gzip"]), ("br,gzip", ["br", "gzip"]),
     ("identity;q=1", ["identity;q=1"]), ("deflate", ["deflate"]), ("x-gzip", ["x-gzip"])],
)  # fmt: skip
def test_codings_are_those_that_change_bytes_in_their_order(value, found):
    assert codings({"content-encoding": value}) == found
    assert relayed({"content-encoding": value}, content=True) == {"content-encoding": value}


@pytest.mark.parametrize(
    "given,id_",
    [({"request-id": "a"}, "a"), ({"apim-request-id": "b"}, "b"), ({"x-request-id": "x", "request-id": "a"}, "x"),
     ({"apim-request-id": "b", "request-id": "a"}, "a"), ({"request-id": "a\r\nb", "apim-request-id": "b"}, "b")],
)  # fmt: skip
def test_request_ids_of_other_names_become_x_request_id(given, id_):
    assert relayed(given, request_ids=("request-id", "apim-request-id")) == {"x-request-id": id_}


@pytest.mark.parametrize("block", ["A: b\r\n", "A: b\r\nC: d\r\n", "", "A:\r\n"])
def test_block_of_headers_is_not_misread(block):
    assert not misread(HeaderParser(policy=compat32).parsestr(block))


@pytest.mark.parametrize(
    "block",
    ["A: b\r\nno header\r\nC: d\r\n", " A: b\r\n", ": b\r\n", "A: b\r\nFrom me\r\nC: d\r\n", "A : b\r\n", "é: b\r\n",
     "\x00: b\r\n"],
)  # fmt: skip
def test_line_that_is_not_a_header_is_noticed(block):
    assert misread(HeaderParser(policy=compat32).parsestr(block))


def test_body_that_is_never_read_is_not_a_defect():
    block = "Content-Type: multipart/mixed\r\nContent-Transfer-Encoding: base64\r\n"
    assert not misread(HeaderParser(policy=compat32).parsestr(block))
