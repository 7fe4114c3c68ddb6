"""The WSGI edge: a request is read correctly on any server, and a response closes its body."""

from __future__ import annotations

import io
import json
import socket
import sys

import pytest
from fakes import FakeBody

from filesproxy.errors import BadRequest, ClientAborted, ClientTimeout, LengthRequired, TooLarge, UpstreamError
from filesproxy.gateway.wsgi import (
    MAX_PIECE_BYTES,
    Request,
    Response,
    ResponseStream,
    error_response,
    json_response,
    respond,
)

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


class Server:
    """Records what a WSGI server and a log see of one response, in order."""

    def __init__(self, failure=None):
        self.events, self.failure = [], failure

    def start_response(self, status, headers, exc_info=None):
        self.events.append(("start", status, dict(headers)))
        if self.failure:
            raise self.failure

    def done(self, sent, error):
        self.events.append(("done", sent, error))

    def cut(self):
        self.events.append(("cut",))

    def send(self, response, method="GET"):
        return respond(response, method, self.start_response, self.done, self.cut)


class Body(FakeBody):
    """A body that records what happens to it among a server's events."""

    def __init__(self, chunks, server):
        super().__init__(chunks)
        self._server = server

    def __next__(self):
        chunk = super().__next__()
        self._server.events.append(("chunk", chunk))
        return chunk

    def close(self):
        super().close()
        self._server.events.append(("close",))


def test_bytes_are_sent_in_one_piece():
    server = Server()
    assert server.send(Response(200, {"a": "b"}, b"12345")) == [b"12345"]
    assert server.events == [("start", "200 OK", {"a": "b"}), ("done", 5, "")]


def test_head_of_bytes_has_their_headers_and_no_body():
    server = Server()
    assert b"".join(server.send(json_response(200, {}, {}), "HEAD")) == b""
    assert server.events == [
        ("start", "200 OK", {"content-type": "application/json", "content-length": "2"}),
        ("done", 0, ""),
    ]


def test_head_of_a_stream_closes_it_unread():
    server = Server()
    body = Body([b"a"], server)
    assert list(server.send(Response(200, {"content-length": "1"}, body), "HEAD")) == []
    assert server.events == [("close",), ("start", "200 OK", {"content-length": "1"}), ("done", 0, "")]


@pytest.mark.parametrize(
    "status,line",
    [(200, "200 OK"), (206, "206 Partial Content"), (529, "529 Status"), (404, "404 Not Found"), (999, "999 Status"),
     (507, "507 Insufficient Storage")],
)  # fmt: skip
def test_any_status_has_a_reason_phrase(status, line):
    server = Server()
    server.send(Response(status, {}, b""))
    assert server.events[0][1] == line


@pytest.mark.parametrize("size,pieces", [(MAX_PIECE_BYTES, 1), (MAX_PIECE_BYTES + 1, 2), (10 * MAX_PIECE_BYTES, 10)])
def test_large_answer_is_over_when_its_client_has_taken_it(size, pieces):
    """A client that does not read what no buffer can hold keeps its thread; the request was said to be over."""
    server = Server()
    whole = b"0123456789" * (size // 10) + b"x" * (size % 10)
    stream = server.send(Response(200, {"content-length": str(size)}, whole))
    assert (("done", size, "") in server.events) == (pieces == 1)
    taken = list(stream)
    assert b"".join(taken) == whole and len(taken) == pieces
    if pieces > 1:
        stream.close()
    assert [event for event in server.events if event[0] == "done"] == [("done", size, "")]


def test_first_chunk_is_read_before_start_response():
    server = Server()
    stream = server.send(Response(200, {}, Body([b"ab", b"c"], server)))
    assert [event[0] for event in server.events] == ["chunk", "start"]
    assert list(stream) == [b"ab", b"c"]
    stream.close()
    assert [event[0] for event in server.events] == ["chunk", "start", "chunk", "close", "done"]
    assert server.events[-1] == ("done", 3, "")


@pytest.mark.parametrize("failure", [UpstreamError("cut"), OSError("x"), ValueError("x")])
def test_failure_before_the_first_byte_closes_the_body_and_starts_no_response(failure):
    server = Server()
    with pytest.raises(type(failure)):
        server.send(Response(200, {}, Body([failure], server)))
    assert server.events == [("close",)]


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), GeneratorExit()])
def test_end_of_the_process_before_the_first_byte_closes_the_body_too(failure):
    class Ending(Body):
        def __next__(self):
            raise failure

    server = Server()
    with pytest.raises(type(failure)):
        server.send(Response(200, {}, Ending([], server)))
    assert server.events == [("close",)]


def test_start_response_that_refuses_the_headers_leaves_no_body_open():
    server = Server(ValueError("a server that does not like a header"))
    body = Body([b"a"], server)
    with pytest.raises(ValueError):
        server.send(Response(200, {}, body))
    assert body.closed


def test_empty_stream_ends_cleanly():
    server = Server()
    stream = server.send(Response(200, {}, Body([], server)))
    assert list(stream) == []
    stream.close()
    assert server.events[-1] == ("done", 0, "")


def test_done_is_called_once_however_often_close_is():
    server = Server()
    stream = server.send(Response(200, {}, Body([b"a"], server)))
    list(stream)
    for _ in range(3):
        stream.close()
    assert [event for event in server.events if event[0] == "done"] == [("done", 1, "")]


def test_body_whose_close_raises_is_reported_all_the_same():
    class Failing(Body):
        def close(self):
            super().close()
            raise OSError("bad descriptor")

    server = Server()
    stream = server.send(Response(200, {}, Failing([b"a"], server)))
    assert list(stream) == [b"a"]
    with pytest.raises(OSError, match="bad descriptor"):
        stream.close()
    assert server.events[-2:] == [("close",), ("done", 1, "")]


@pytest.mark.parametrize("taken,sent", [(0, 0), (1, 2), (2, 3)])
def test_stream_that_is_not_read_to_its_end_is_closed_and_logged_as_an_abort(taken, sent):
    server = Server()
    stream = server.send(Response(200, {}, Body([b"ab", b"c"], server)))
    for _ in range(taken):
        next(stream)
    stream.close()
    assert server.events[-2:] == [("close",), ("done", sent, "client_aborted")]


def test_stream_that_was_never_started_is_closed_too():
    server = Server()
    stream = ResponseStream(Body([b"a"], server), server.done, server.cut)
    stream.close()
    assert ("close",) in server.events


@pytest.mark.parametrize("code,logged", [(None, "upstream_error"), ("upstream_cut", "upstream_cut")])
def test_stream_that_breaks_off_ends_with_a_reset_and_is_logged_by_its_code(code, logged):
    server = Server()
    stream = server.send(Response(200, {}, Body([b"ab", UpstreamError("cut", code=code)], server)))
    assert next(stream) == b"ab"
    with pytest.raises(ConnectionResetError):  # with this exception, no server ends the answer cleanly
        next(stream)
    stream.close()
    assert server.events[-3:] == [("cut",), ("close",), ("done", 2, logged)]


def test_reset_does_not_quote_the_upstream():
    server = Server()
    stream = server.send(Response(200, {}, Body([b"a", UpstreamError("sk-secret")], server)))
    next(stream)
    with pytest.raises(ConnectionResetError) as cut:
        next(stream)
    assert "sk-secret" not in str(cut.value)


def test_stream_that_breaks_off_with_our_bug_is_not_logged_as_an_abort():
    server = Server()
    stream = server.send(Response(200, {}, Body([b"a", OSError("disk")], server)))
    next(stream)
    with pytest.raises(OSError):
        next(stream)
    stream.close()
    assert server.events[-1][2] not in ("", "client_aborted")


def test_empty_chunks_are_passed_on_and_do_not_end_a_stream():
    server = Server()
    assert list(server.send(Response(200, {}, Body([b"", b"a", b"", b"b"], server)))) == [b"", b"a", b"", b"b"]


def test_json_is_ascii_and_has_its_length():
    response = json_response(200, {"a": "é\ud800\r\n"}, {"x": "y", "content-length": "9"})
    assert response.body == b'{"a":"\\u00e9\\ud800\\r\\n"}'
    assert response.headers == {"x": "y", "content-type": "application/json", "content-length": str(len(response.body))}


def test_error_response_is_the_envelope_and_the_errors_headers_take_precedence():
    error = BadRequest("No.", param="x", headers={"allow": "GET", "x-request-id": "its"})
    response = error_response(error, {"x-request-id": "ours", "x-portkey-trace-id": "t"})
    assert response.status == 400
    assert json.loads(response.body) == error.envelope()
    assert (response.headers["allow"], response.headers["x-request-id"], response.headers["x-portkey-trace-id"]) == (
        "GET",
        "its",
        "t",
    )
