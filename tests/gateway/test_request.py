"""A request as the gateway reads it: correctly on any server, and never past its end."""

from __future__ import annotations

import io
import socket
import sys

import pytest

from filesproxy.errors import BadRequest, ClientAborted, ClientTimeout, LengthRequired, TooLarge
from filesproxy.gateway.request import Request

LENGTHS = ["-3", "+5", "3, 5", "5,5", "9" * 20, "٣", "１", "0x5", "5.0", "5 5", "5\xa0", "5\x0b", "5\n", "1_0",
           "five", "--", "5;"]  # fmt: skip


def request(body=b"", reader=None, **environ):
    base = {"REQUEST_METHOD": "POST", "PATH_INFO": "/v1/files", "wsgi.input": reader or io.BytesIO(body)}
    return Request({**base, **environ})


class Raising:
    """A wsgi.input that returns some bytes and then fails as a server's own reader does."""

    def __init__(self, failure, first=b""):
        self._failure, self._first = failure, first

    def read(self, size):
        block, self._first = self._first[:size], self._first[size:]
        if block:
            return block
        raise self._failure


class Short:
    """A wsgi.input that returns one byte at a time and records every size that it was asked for."""

    def __init__(self, body):
        self._body, self.asked = io.BytesIO(body), []

    def read(self, size):
        self.asked.append(size)
        return self._body.read(min(size, 1))


def test_headers_are_http_and_content_type_only_in_lower_case():
    environ = {"HTTP_X_PORTKEY_PROVIDER": "openai", "CONTENT_TYPE": "text/csv", "HTTP_HOST": "a",
               "OPENAI_API_KEY": "sk-secret",
               "HTTPS": "on", "HTTP": "x", "PATH": "/bin", "wsgi.url_scheme": "http", "SCRIPT_NAME": "/x"}  # fmt: skip
    assert request(**environ).headers == {"x-portkey-provider": "openai", "content-type": "text/csv", "host": "a"}


def test_empty_content_type_is_ignored():
    assert "content-type" not in request(CONTENT_TYPE="").headers


def test_missing_optional_keys_have_defaults():
    bare = Request({"REQUEST_METHOD": "GET", "wsgi.input": io.BytesIO()})
    assert (bare.path, bare.parameters(), bare.client_address, bare.headers) == ("", {}, "", {})


@pytest.mark.parametrize("raw", ["/v1/files/a%2Fb", "/v1/files/a%2fb?x=1", "http://h/v1/files/%2F"])
@pytest.mark.parametrize("name", ["RAW_URI", "REQUEST_URI"])
def test_encoded_slash_in_the_path_is_400_if_the_server_shows_it(name, raw):
    with pytest.raises(BadRequest):
        request(**{name: raw}).refuse_encoded_slash()


@pytest.mark.parametrize(
    "environ", [{}, {"RAW_URI": "/v1/files?x=%2F"}, {"REQUEST_URI": "/v1/files/a%20b"}, {"RAW_URI": ""}]
)
def test_encoded_slash_elsewhere_is_accepted(environ):
    request(**environ).refuse_encoded_slash()


QUERIES = {
    "": {},
    "a=1&b=2": {"a": "1", "b": "2"},
    "a=": {"a": ""},
    "a": {"a": ""},
    "a=%C3%A9+b": {"a": "é b"},
    "&&a=1&": {"a": "1"},
    "a=1;b=2": {"a": "1;b=2"},
    "a=%ff": {"a": "\ufffd"},
    "a[]=1": {"a[]": ["1"]},
    "api-version=1&page.size=2&_3=4": {"api-version": "1", "page.size": "2", "_3": "4"},
}


@pytest.mark.parametrize("text", QUERIES)
def test_query_is_decoded_like_a_form(text):
    assert request(QUERY_STRING=text).parameters() == QUERIES[text]


@pytest.mark.parametrize(
    "text", ["a=1&a=2", "a=1&%61=1", "a&a", "&".join(f"a{n}=" for n in range(33)), "&".join("a=1" for _ in range(40))]
)
def test_query_that_repeats_or_has_too_many_parameters_is_400(text):
    with pytest.raises(BadRequest):
        request(QUERY_STRING=text).parameters()


@pytest.mark.parametrize("length", LENGTHS)
def test_invalid_content_length_is_400_before_anything_is_read(length):
    reader = Raising(AssertionError("read"))
    with pytest.raises(BadRequest) as refused:
        _ = request(reader=reader, CONTENT_LENGTH=length).body
    assert refused.value.status == 400


@pytest.mark.parametrize("length,size", [("5", 5), ("005", 5), ("0", 0), ("", 0), (None, 0), ("9" * 19, 9), ("5 ", 5),
                                         (" \t5\t", 5)])  # fmt: skip
def test_body_ends_at_its_content_length_and_never_reads_past_it(length, size):
    reader = Short(b"123456789")
    body = request(reader=reader, **({} if length is None else {"CONTENT_LENGTH": length})).body
    read = b"".join(iter(lambda: body.read(4) if body.size < 9 else b"", b""))
    assert (read, body.size) == (b"123456789"[:size], size)
    if length not in ("9" * 19,):
        assert body.read(4) == b"" and all(0 < asked <= 4 for asked in reader.asked)


def test_no_read_asks_for_more_than_is_left():
    reader = Short(b"12345 and the next request")
    body = request(reader=reader, CONTENT_LENGTH="5").body
    while body.read(1 << 20):
        pass
    assert reader.asked == [5, 4, 3, 2, 1]


def test_read_of_zero_bytes_returns_nothing():
    assert request(b"12345", CONTENT_LENGTH="5").body.read(0) == b""


def test_body_shorter_than_its_content_length_is_an_abort():
    body = request(b"1234", CONTENT_LENGTH="5").body
    assert body.read(100) == b"1234"
    with pytest.raises(ClientAborted):
        body.read(100)


@pytest.mark.parametrize(
    "environ", [{"CONTENT_LENGTH": "5"}, {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}]
)
@pytest.mark.parametrize("failure", [TimeoutError("sk"), socket.timeout("timed out"), BlockingIOError(11, "again")])
def test_stall_is_408(failure, environ):
    body = request(reader=Raising(failure, b"12"), **environ).body
    assert body.read(5) == b"12"
    with pytest.raises(ClientTimeout) as refused:
        body.read(5)
    assert refused.value.status == 408 and "sk" not in refused.value.message
    assert refused.value.__suppress_context__


@pytest.mark.parametrize(
    "environ", [{"CONTENT_LENGTH": "5"}, {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}]
)
def test_reader_that_returns_none_is_a_stall_too(environ):
    class Waiting:
        def read(self, size):
            return None  # in io: no bytes yet, but not the end. A kernel's time limit on a socket has this effect

    with pytest.raises(ClientTimeout):
        request(reader=Waiting(), **environ).body.read(5)


class InvalidChunkSize(Exception):
    """An exception of a server: they have no common class."""


@pytest.mark.parametrize(
    "failure",
    [InvalidChunkSize("sk-secret"), OSError(5, "sk-secret"), ConnectionResetError(), ValueError("sk-secret"),
     EOFError(), KeyError("x"), RuntimeError(), StopIteration()],
)  # fmt: skip
def test_any_exception_of_the_servers_reader_is_an_abort_and_not_quoted(failure):
    body = request(reader=Raising(failure, b"12"), CONTENT_LENGTH="5").body
    assert body.read(5) == b"12"
    with pytest.raises(ClientAborted) as refused:
        body.read(5)
    assert "sk-secret" not in str(refused.value) and refused.value.__suppress_context__
    assert body.size == 2


@pytest.mark.parametrize("failure", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_end_of_the_process_is_not_reported_as_an_abort(failure):
    with pytest.raises(failure):
        request(reader=Raising(failure()), CONTENT_LENGTH="5").body.read(5)


def test_limit_is_checked_against_content_length_before_a_read():
    body = request(reader=Raising(AssertionError("read")), CONTENT_LENGTH="6").body
    with pytest.raises(TooLarge, match="5 bytes"):
        body.limit(5)
    request(b"12345", CONTENT_LENGTH="5").body.limit(5)


CHUNKED = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}


def test_limit_is_checked_while_a_chunked_body_is_read():
    body = request(reader=Short(b"123456"), **CHUNKED).body
    body.limit(5)
    for _ in range(5):
        assert len(body.read(100)) == 1
    with pytest.raises(TooLarge):
        body.read(100)


def test_chunked_body_of_exactly_the_limit_is_read_to_its_end():
    body = request(b"12345", **CHUNKED).body
    body.limit(5)
    assert (body.read(100), body.read(100)) == (b"12345", b"")


def test_chunked_body_is_read_to_the_end_that_the_server_announces():
    body = request(b"12345", **CHUNKED, CONTENT_LENGTH="2").body
    assert (body.read(3), body.read(3), body.read(3)) == (b"123", b"45", b"")


@pytest.mark.parametrize("encoding", ["chunked", "Chunked", "gzip, chunked", "identity", " "])
def test_transfer_encoding_that_the_server_does_not_end_is_411(encoding):
    for more in ({}, {"CONTENT_LENGTH": "5"}, {"wsgi.input_terminated": False}):
        with pytest.raises(LengthRequired) as refused:
            _ = request(b"12345", HTTP_TRANSFER_ENCODING=encoding, **more).body
        assert refused.value.status == 411


class Uwsgi:
    """The module `uwsgi`: gives the chunks of a body one by one, whole."""

    def __init__(self, *chunks):
        self._chunks = list(chunks)

    def chunked_read(self):
        chunk = self._chunks.pop(0) if self._chunks else b""
        if isinstance(chunk, Exception):
            raise chunk
        return chunk


UNDER_UWSGI = {"HTTP_TRANSFER_ENCODING": "chunked", "uwsgi.version": b"2.0.31"}


def test_chunked_body_under_uwsgi_is_read_chunk_by_chunk(monkeypatch):
    """Its `wsgi.input` has none of it; the upload was a 411."""
    monkeypatch.setitem(sys.modules, "uwsgi", Uwsgi(b"12345", b"67"))
    body = request(reader=Raising(AssertionError("read")), **UNDER_UWSGI).body
    assert [body.read(3) for _ in range(4)] == [b"123", b"45", b"67", b""]
    assert body.size == 7


def test_chunked_body_that_breaks_off_under_uwsgi_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "uwsgi", Uwsgi(b"12345", OSError("unable to receive chunked part")))
    body = request(**UNDER_UWSGI).body
    assert body.read(5) == b"12345"
    with pytest.raises(ClientAborted):
        body.read(5)


@pytest.mark.parametrize("more", [{"HTTP_TRANSFER_ENCODING": "gzip, chunked"}, {"HTTP_TRANSFER_ENCODING": "identity"},
                                  {"HTTP_TRANSFER_ENCODING": "chunked, chunked"}, {"CONTENT_LENGTH": "5"},
                                  {"CONTENT_LENGTH": "0"}])  # fmt: skip
def test_framing_that_uwsgi_leaves_unchecked_is_400(more, monkeypatch):
    monkeypatch.setitem(sys.modules, "uwsgi", Uwsgi(b"12345"))
    with pytest.raises(BadRequest):
        _ = request(**{**UNDER_UWSGI, **more}).body
