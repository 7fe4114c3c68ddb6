"""A response as a server sends it: it closes its body, says how it ended, and a cut is seen."""

from __future__ import annotations

import json

import pytest
from fakes import FakeBody

from filesproxy.errors import BadRequest, UpstreamError
from filesproxy.gateway.response import (
    MAX_PIECE_BYTES,
    Response,
    ResponseStream,
    error_response,
    json_response,
    respond,
)


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
