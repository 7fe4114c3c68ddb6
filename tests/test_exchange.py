"""The exchange: it closes every body in every outcome, never leaves the provider's address, and reads any error."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc

import pytest
import sockets
from fakes import FILE, NOT_ENCODED, FakeBody, hold_of, left, memory
from sockets import COMPAT, Upstream, chunked, request, served

from filesproxy import create_app
from filesproxy.calls import Answer, Call, Content, Inlined, Target
from filesproxy.errors import (
    FINAL_CODES,
    BadRequest,
    CallerBusy,
    Saturated,
    UpstreamAnswered,
    UpstreamError,
    UpstreamTimeout,
)
from filesproxy.exchange.answers import BYTES_PER_FILE, MAX_ERROR_BYTES, MAX_MEMBERS, UNCOUNTED_FILES, read
from filesproxy.exchange.events import EventStream, Source
from filesproxy.exchange.run import address, run
from filesproxy.providers.openai import OPENAI, error_object
from filesproxy.providers.toolkit import translated
from filesproxy.redaction import Secret, single_credential
from filesproxy.watchdog import Watch
from filesproxy.wire import sse
from filesproxy.wire.inlined_json import base64_of, measured, stand_in
from filesproxy.wire.strict_json import cost

LIMIT = 1000
CALL = Call("retrieve_file", "GET", "/files/file-1")
CONTENT = Call("retrieve_file_content", "GET", "/files/file-1/content", expects="bytes")


class Body(FakeBody):
    """A body that counts how often it was closed and how many bytes were read."""

    def __init__(self, chunks):
        super().__init__(chunks)
        self.closings = self.read = 0

    def __next__(self):
        chunk = super().__next__()
        self.read += len(chunk)
        return chunk

    def close(self):
        super().close()
        self.closings += 1


class Transport:
    """A transport that gives prepared answers in order, and records the calls and the bodies."""

    def __init__(self, *answers):
        self._answers = list(answers)
        self.calls, self.bodies = [], []

    def __call__(self, call, target):
        self.calls.append(call)
        answer = self._answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        status, chunks, headers = (*answer, {})[:3]
        self.bodies.append(Body([chunks] if isinstance(chunks, bytes) else chunks))
        return Answer(status, headers, body=self.bodies[-1])


def target(base_url="https://api.openai.com/v1", **provider):
    settings = {"max_answer_bytes": LIMIT, "answer_timeout": 5.0, "generation_timeout": 60.0}
    return Target("openai", {**OPENAI, **provider}, base_url, settings, single_credential(Secret("sk-secret")))


def perform(transport, call=CALL, where=None):
    return run(call, where or target(), {"https": transport, "http": transport})


def refusal(*answers, call=CALL, where=None, error=UpstreamError):
    """The error that an exchange raises. Every opened body must have been closed."""
    transport = Transport(*answers)
    with pytest.raises(error) as refused:
        perform(transport, call, where)
    assert all(body.closings == 1 for body in transport.bodies)
    assert "sk-secret" not in str(refused.value)
    return refused.value


def test_json_answer_is_read_translated_and_closed():
    transport = Transport((200, [b'{"id": "fi', b'le-1"}'], {"x-request-id": "r"}))
    answer = perform(transport)
    assert answer == Answer(
        200, {"x-request-id": "r"}, {"id": "file-1", "object": "file", "bytes": 0, "status": "processed"}
    )
    assert transport.bodies[0].closings == 1
    assert transport.calls[0].url == "https://api.openai.com/v1/files/file-1"
    assert transport.calls[0].headers == {"authorization": "Bearer sk-secret"}


def test_stream_is_returned_open_and_unread():
    transport = Transport((206, [b"a", b"b"], {"content-type": "text/csv"}))
    answer = perform(transport, CONTENT)
    assert answer.body is transport.bodies[0] and (answer.body.closings, answer.body.read) == (0, 0)
    assert (answer.status, list(answer.body)) == (206, [b"a", b"b"])


def test_answer_without_a_body_is_returned_unchanged():
    answer = run(CALL, target(), {"https": lambda call, target: Answer(200, json=FILE)})
    assert answer.json == FILE


FAILURES = {
    "garbage": (200, b"<html>"),
    "empty": (200, b""),
    "truncated": (200, b'{"id": "a"'),
    "not_a_file": (200, b"[]"),
    "constant": (200, b'{"id": "a", "bytes": NaN}'),
    "infinity": (200, b'{"id": "a", "bytes": -Infinity}'),
    "number_too_large_for_a_float": (200, b'{"id": "a", "bytes": 1e999}'),
    "deep": (200, b"[" * 900),
    "not_utf8": (200, b'{"id": "\xff"}'),
    "over_the_limit_in_one_piece": (200, b" " * (LIMIT + 1)),
    "over_the_limit_in_pieces": (200, [b" " * 100] * 20),
    "breaks_off": (200, [b'{"id"', UpstreamError("cut")]),
    "times_out": (200, [b'{"id"', UpstreamTimeout("slow")]),
    "broken_gzip": (200, b"no gzip", {"content-encoding": "gzip"}),
    "truncated_gzip": (200, gzip.compress(b'{"id": "a"}')[:-4], {"content-encoding": "gzip"}),
    "gzip_of_nothing": (200, b"", {"content-encoding": "gzip"}),
    "gzip_with_a_wrong_checksum": (200, gzip.compress(b'{"id": "a"}')[:-8] + b"\0" * 8, {"content-encoding": "gzip"}),
    "gzip_bomb": (200, gzip.compress(b" " * 10_000_000)[: LIMIT - 1], {"content-encoding": "gzip"}),
    "small_gzip_bomb": (200, gzip.compress(b" " * 100_000 + b'{"id": "a"}'), {"content-encoding": "gzip"}),
    "gzip_twice": (200, gzip.compress(gzip.compress(b'{"id": "a"}')), {"content-encoding": "gzip, gzip"}),
    "bytes_after_gzip": (200, gzip.compress(b'{"id": "a"}') + b"x", {"content-encoding": "gzip"}),
    "brotli": (200, b"\x0b\x02\x80{}\x03", {"content-encoding": "br"}),
}


@pytest.mark.parametrize("name", FAILURES)
def test_success_that_cannot_be_used_is_502_or_504_and_closed(name):
    error = refusal(FAILURES[name])
    assert error.status == (504 if name == "times_out" else 502) and not isinstance(error, UpstreamAnswered)


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), SystemExit(), ValueError("sk"), GeneratorExit()])
def test_body_is_closed_whatever_else_happens(failure):
    class Breaking(Body):
        def __next__(self):
            raise failure

    body = Breaking([])
    with pytest.raises(type(failure)):
        run(CALL, target(), {"https": lambda call, target: Answer(200, body=body)})
    assert body.closings == 1


@pytest.mark.parametrize("failure", [UpstreamTimeout("slow"), OSError("sk"), BadRequest("second file")])
def test_failure_of_the_transport_is_passed_on(failure):
    assert refusal(failure, error=type(failure)) is failure


def test_answer_over_the_limit_is_not_read_to_its_end():
    transport = Transport((200, [b" " * 600] * 50))
    with pytest.raises(UpstreamError) as refused:
        perform(transport)
    assert refused.value.code == "upstream_answer_too_large"
    assert transport.bodies[0].read <= LIMIT + 600


@pytest.mark.parametrize("excess", [1, 100_000])
def test_gzip_of_more_than_the_limit_is_too_large_and_not_undecodable(excess):
    plain = b'{"id": "a"}'.ljust(LIMIT + excess)
    error = refusal((200, gzip.compress(plain), {"content-encoding": "gzip"}))
    assert (error.status, error.code) == (502, "upstream_answer_too_large")


def test_answer_of_exactly_the_limit_is_read():
    plain = json.dumps({"id": "a"}).encode().ljust(LIMIT)
    assert perform(Transport((200, plain))).json["id"] == "a"


GZIPPED = {
    "small": b'{"id": "a"}',
    "at_the_limit": b'{"id": "a"}'.ljust(LIMIT),
    "below_it": b'{"id": "a"}'.ljust(LIMIT - 1),
}


@pytest.mark.parametrize("name", GZIPPED)
@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", "gzip, identity", " gzip"])
def test_unrequested_gzip_is_decoded(name, encoding):
    transport = Transport((200, gzip.compress(GZIPPED[name]), {"content-encoding": encoding}))
    assert perform(transport).json["id"] == "a"


@pytest.mark.parametrize("encoding", NOT_ENCODED)
def test_identity_encoding_is_accepted_in_any_spelling(encoding):
    assert perform(Transport((200, b'{"id": "a"}', {"content-encoding": encoding}))).json["id"] == "a"


def test_gzip_bomb_is_not_inflated():
    bomb = gzip.compress(bytes(50_000_000))
    tracemalloc.start()
    try:
        error = refusal((200, bomb[: LIMIT - 1], {"content-encoding": "gzip"}))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert error.code == "upstream_answer_too_large" and peak < 2_000_000


def test_gzip_that_has_no_room_is_not_inflated():
    """120 answers of a few KB that inflate to 8 MB each took 1.4 GB before the first byte of them was counted."""
    plain = b'{"id": "a", "x": "' + b"z" * 8_000_000 + b'"}'
    where = target()._replace(settings={**target().settings, "max_answer_bytes": 1 << 23})
    answer = (200, gzip.compress(plain), {"content-encoding": "gzip"})
    used_up = memory(10_000_000)
    used_up.take("another team", 9_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(Saturated):
            run(CALL, where, {"https": Transport(answer)}, hold=hold_of(used_up))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000
    hold = hold_of(memory(10_000_000))
    run(CALL, where, {"https": Transport(answer)}, hold=hold)
    assert hold.size == cost(plain)


def test_gzip_of_very_many_members_is_502_at_once():
    """400,000 empty members, in 8 MB, took 3 seconds of CPU."""
    where = target()._replace(settings={**target().settings, "max_answer_bytes": 1 << 23})
    empty, plain = gzip.compress(b""), gzip.compress(b'{"id": "a"}')
    headers = {"content-encoding": "gzip"}
    started = time.process_time()
    error = refusal((200, empty * 400_000 + plain, headers), where=where)
    assert "members" in error.message and time.process_time() - started < 0.5
    assert perform(Transport((200, empty * (MAX_MEMBERS - 1) + plain, headers)), where=where).json["id"] == "a"


@pytest.mark.parametrize("pieces", [1, 2, 3, 8])
def test_gzip_of_several_members_is_all_of_them(pieces):
    """RFC 1952 §2.2: what some servers write when they flush or append."""
    plain = b'{"id": "a"}'
    step = -(-len(plain) // pieces)
    members = b"".join(gzip.compress(plain[start : start + step]) for start in range(0, len(plain), step))
    assert perform(Transport((200, members, {"content-encoding": "gzip"}))).json["id"] == "a"


@pytest.mark.parametrize("rest", [b"x", b"<html>", gzip.compress(b" ")[:-1], gzip.compress(b"}")])
def test_gzip_with_something_else_after_it_is_502(rest):
    refusal((200, gzip.compress(b'{"id": "a"}') + rest, {"content-encoding": "gzip"}))


@pytest.mark.parametrize("status", [100, 300, 301, 302, 303, 304, 307, 308, 399])
def test_redirect_is_502_and_closed(status):
    error = refusal((status, [], {"location": "https://api.openai.com/v1/elsewhere", "set-cookie": "a=b"}))
    assert (error.status, error.code, error.headers) == (502, "upstream_redirect", {})
    assert refusal((status, []), call=CONTENT).code == "upstream_redirect"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 429, 451, 499])
def test_providers_error_keeps_its_status_text_and_headers(status):
    body = json.dumps({"error": {"message": "No.", "type": "t", "param": "p", "code": "c"}}).encode()
    for call in (CALL, CONTENT):
        error = refusal((status, body, {"retry-after": "7", "request-id": "r", "set-cookie": "x"}), call=call)
        assert (error.status, error.headers) == (status, {"retry-after": "7", "x-request-id": "r"})
        assert error.envelope()["error"] == {"message": "No.", "type": "t", "param": "p", "code": "c"}


@pytest.mark.parametrize("status,kind", [(404, "invalid_request_error"), (500, "server_error"), (529, "server_error")])
def test_error_without_a_type_gets_one_from_its_status(status, kind):
    assert refusal((status, b'{"error": {"message": "No."}}')).type == kind


@pytest.mark.parametrize(
    "status,becomes",
    [(403, 502), (404, 502), (503, 502), (520, 502), (411, 411), (413, 413), (414, 414), (429, 429), (431, 431)],
)
@pytest.mark.parametrize(
    "body",
    [b"\n<!DOCTYPE html><title>edge</title>", b"<HTML>sk-secret</HTML>", b"\xef\xbb\xbf<html>edge</html>"],
)
def test_web_page_of_an_edge_is_502_unless_the_status_is_one_to_act_on(body, status, becomes):
    error = refusal((status, body, {"retry-after": "1"}))
    assert (error.status, error.headers["retry-after"]) == (becomes, "1")
    assert "edge" not in error.message


@pytest.mark.parametrize(
    "body",
    [b"<Error/>", b"", [b"x" * 4096] * 40, [b"{", UpstreamError("cut")], b"\xff", [UpstreamTimeout("slow")],
     b"[" * 60_000],
)  # fmt: skip
def test_unreadable_error_keeps_its_status(body):
    error = refusal((503, body, {"retry-after": "1"}))
    assert (error.status, error.headers) == (503, {"retry-after": "1"})
    assert error.message == "The provider answered 503 without a readable reason."


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"<html><h1>413</h1></html>", b"<Error/>", b"\xff", [UpstreamError("cut")],
     b"{}", b"null", b"[]", b'{"error": null}', b'{"error": {"code": 413, "message": ""}}'],
)  # fmt: skip
@pytest.mark.parametrize(
    "status,word", [(411, "chunked"), (413, "client_max_body_size"), (414, "request line"), (431, "headers")]
)
@pytest.mark.parametrize("headers", [{}, {"content-type": "text/html"}, {"content-type": "application/json"}])
def test_refusal_of_a_request_without_words_says_what_it_means_and_what_helps(status, word, body, headers):
    """A model host answers these itself, empty or with a page, before any code of its own has run."""
    error = refusal((status, body, headers))
    assert (error.status, error.type) == (status, "invalid_request_error")
    assert f"answered {status}" in error.message and word in error.message and "<" not in error.message


@pytest.mark.parametrize("status", [400, 404, 413, 422, 500, 503])
@pytest.mark.parametrize("kind", ["text/plain", "Text/Plain; charset=utf-8"])
def test_reason_in_plain_text_is_passed_on_without_a_credential(status, kind):
    text = b"length limit exceeded by sk-secret \n" + b" " * 400 + "é".encode() * 1000
    error = refusal((status, text, {"content-type": kind}))
    assert error.status == status and "length limit exceeded by [redacted]" in error.message
    assert len(error.message) < 800
    assert "length limit" not in refusal((status, text, {"content-type": "application/octet-stream"})).message
    assert "without a readable" in refusal((500, b"\xff", {"content-type": kind})).message


def test_long_error_is_not_read_to_its_end():
    transport = Transport((500, [b"x" * 4096] * 1000))
    with pytest.raises(UpstreamAnswered):
        perform(transport)
    assert transport.bodies[0].read <= MAX_ERROR_BYTES + 4096


def test_credential_in_an_errors_message_is_redacted():
    error = {"message": "Bad key sk-secret!", "type": "t", "param": "p", "code": "c"}
    refused = refusal((401, json.dumps({"error": error}).encode()))
    assert refused.message == "Bad key [redacted]!"
    failed = refusal((200, b'{"code": 50001, "message": "Bad key sk-secret!", "data": null}'))
    assert "Bad key [redacted]!" in failed.message
    gzipped = gzip.compress(json.dumps({"error": {"message": "sk-secret"}}).encode())
    assert refusal((401, gzipped, {"content-encoding": "gzip"})).message == "[redacted]"


@pytest.mark.parametrize("field", ["type", "param", "code"])
def test_credential_in_another_field_of_an_error_is_not_passed_on(field):
    refused = refusal((401, json.dumps({"error": {"message": "No.", field: "key sk-secret"}}).encode()))
    assert "sk-secret" not in json.dumps(refused.envelope())


def test_unsupported_operation_is_400_with_its_reason_and_sends_nothing():
    where = target(operations={}, unsupported={"retrieve_file": "There is no retrieval here."})
    transport = Transport()
    with pytest.raises(BadRequest, match="There is no retrieval here.") as refused:
        perform(transport, CALL, where)
    assert (refused.value.code, refused.value.headers) == ("unsupported_operation", {"x-should-retry": "false"})
    with pytest.raises(BadRequest, match="does not have this operation"):
        perform(transport, CONTENT, where)
    assert transport.calls == []


def paged(call, send):
    """An operation that sends one call for each page and returns the pages' contents."""
    pages = [send(Call(call.operation, "GET", f"/files?page={n}")).json for n in range(3)]
    return Answer(200, json=pages)


def test_operation_may_send_several_calls():
    transport = Transport((200, b"1"), (200, b"2"), (200, b"3"))
    assert perform(transport, CALL, target(operations={"retrieve_file": paged})).json == [1, 2, 3]
    assert [call.url[-6:] for call in transport.calls] == ["page=0", "page=1", "page=2"]
    assert all(call.headers["authorization"] == "Bearer sk-secret" for call in transport.calls)
    assert [body.closings for body in transport.bodies] == [1, 1, 1]


def test_operation_that_fails_between_its_calls_leaves_nothing_open():
    def metadata_first(call, send):
        streams = [send(CONTENT), send(CONTENT)]
        send(CALL)
        return streams[0]

    refusal((200, b"a"), (200, b"b"), (500, b""), where=target(operations={"retrieve_file": metadata_first}))


def test_of_several_streams_only_the_returned_one_stays_open():
    def second(call, send):
        return [send(CONTENT), send(CONTENT), send(CONTENT)][1]

    transport = Transport((200, b"a"), (200, b"b"), (200, b"c"))
    answer = perform(transport, CALL, target(operations={"retrieve_file": second}))
    assert [body.closings for body in transport.bodies] == [1, 0, 1]
    assert answer.body is transport.bodies[1]


def test_operation_that_returns_a_stream_as_json_leaves_none_open():
    transport = Transport((200, b"a"))
    operation = translated(answer=lambda json, call: 5)
    perform(
        transport,
        CONTENT,
        target(operations={"retrieve_file_content": lambda call, send: Answer(200, json=[send(call)])}),
    )
    assert transport.bodies[0].closings == 1
    assert perform(Transport((200, b"{}")), CALL, target(operations={"retrieve_file": operation})).json == 5


BASES = {
    "https://api.openai.com/v1": "https://api.openai.com/v1/files",
    "http://127.0.0.1:8000/v1": "http://127.0.0.1:8000/v1/files",
    "http://[::1]:8000": "http://[::1]:8000/files",
    "local:": "local:/files",
}


@pytest.mark.parametrize("base", BASES)
def test_address_is_the_base_url_and_the_path(base):
    assert address(Call("x", "GET", "/files"), target(base)) == BASES[base]


def test_address_may_be_an_absolute_url_of_the_targets_origin():
    for url in ("https://api.openai.com/v2/x", "https://API.openai.com/v1/x", "https://api.openai.com"):
        assert address(Call("x", "GET", url), target()) == url


FOREIGN = ["https://evil.example/", "http://api.openai.com/v1", "https://api.openai.com:8443/v1",
           "https://api.openai.com.evil.example/", "https://api.openai.com@evil.example/",
           "https://api.openai.com:443@evil.example/", "file:///etc/passwd", "ftp://api.openai.com/",
           "https://api.openai.com\\@evil.example/", "https:///v1", "//evil.example://x",
           "https://169.254.169.254/latest", "local:///v1", "HTTPS://evil.example/?://api.openai.com",
           "https://evil.example#://api.openai.com/", "https://files.example:8443/",
           "http://files.example/"]  # fmt: skip


@pytest.mark.parametrize("url", FOREIGN)
def test_address_outside_the_target_is_refused_and_nothing_is_sent(url):
    where = target(hosts=("https://files.example",))
    error = refusal(call=Call("retrieve_file", "GET", url), where=where)
    assert error.code == "upstream_address" and "evil" not in error.message


@pytest.mark.parametrize("path", ["@evil.example/", ".evil.example/", ":8443/", ":1@evil.example"])
def test_path_cannot_extend_the_host_of_a_base_url_without_a_path(path):
    with pytest.raises(UpstreamError):
        address(Call("x", "GET", path), target("https://a.example"))


@pytest.mark.parametrize(
    "url", ["https://api.openai.com:x/", "https://api.openai.com:99999/", "https://[::1/", "https://[x]/"]
)
def test_invalid_url_is_refused_like_a_foreign_one(url):
    with pytest.raises(UpstreamError) as refused:
        address(Call("x", "GET", url), target())
    assert refused.value.code == "upstream_address"


def test_declared_host_is_called_without_the_credential():
    def redirected(call, send):
        send(call)
        return send(Call("x", "GET", "https://files.example:8443/signed?sig=1", headers={"accept": "*/*"}))

    transport = Transport((200, b"{}"), (200, b"{}"))
    perform(transport, CALL, target(operations={"retrieve_file": redirected}, hosts=("https://files.example:8443",)))
    assert transport.calls[0].headers == {"authorization": "Bearer sk-secret"}
    assert transport.calls[1].headers == {"accept": "*/*"}
    assert "sk-secret" not in str(transport.calls[1]._asdict())


def test_provider_authorises_after_the_address_is_known():
    def signed(call, target):
        return Call(call.operation, call.method, call.path, url=call.url, query={"signature": str(len(call.url))})

    transport = Transport((200, b'{"id": "a"}'))
    perform(transport, CALL, target(authorize=signed))
    assert transport.calls[0].query == {"signature": str(len("https://api.openai.com/v1/files/file-1"))}


NO_REASON = "The provider gave no reason."
SHAPES = [
    ({"error": {"message": "m", "type": "t", "param": "p", "code": "c"}}, "m", "t", "p", "c"),
    ({"error": {"message": "m", "code": 404}}, "m", None, None, "404"),
    ({"error": "Incorrect API key", "code": "Some code"}, "Incorrect API key", None, None, "Some code"),
    ({"detail": "Not Found"}, "Not Found", None, None, None),
    ({"detail": [{"loc": ["body", "file", 0], "msg": "Field required", "type": "missing"}, {"msg": "Bad"}]},
     "body.file.0: Field required; Bad", None, None, None),
    ({"message": "flat", "type": "t"}, "flat", "t", None, None),
    ({"object": "error", "message": "m", "type": "BadRequestError", "param": None, "code": 400}, "m",
     "BadRequestError", None, "400"),
    ({}, NO_REASON, None, None, None),
    ({"error": {}}, NO_REASON, None, None, None),
    ({"error": ""}, NO_REASON, None, None, None),
    ({"error": None, "message": None}, NO_REASON, None, None, None),
    ({"error": {"message": "", "detail": ""}}, NO_REASON, None, None, None),
    ({"error": {"message": "m", "type": 5, "param": ["p"], "code": True}}, "m", None, None, None),
    ({"error": {"message": "m", "type": None, "param": {}, "code": {"a": 1}}}, "m", None, None, None),
    ({"error": {"message": "m", "code": 1.5}}, "m", None, None, None),
    ({"detail": []}, NO_REASON, None, None, None),
    ({"detail": ["text", None, 5, {"loc": None, "msg": "m"}]}, "m", None, None, None),
    ({"error": ["a"], "message": "m"}, "m", None, None, None),
    (None, NO_REASON, None, None, None),
    ([], NO_REASON, None, None, None),
    ([{"error": "x"}], NO_REASON, None, None, None),
    ("text", "text", None, None, None),
    ({"error": {"message": {"message": "m", "code": 1}}}, "m", None, None, None),
    ({"error": {"message": {"en": "ö", "n": [True]}}}, '{"en": "ö", "n": [true]}', None, None, None),
    ({"message": {"msg": "m"}}, "m", None, None, None),
    ({"detail": {"msg": "m"}}, "m", None, None, None),
    ({"detail": {"a": None}}, '{"a": null}', None, None, None),
    ({"detail": [{"loc": ["a"], "msg": {"b": True}}]}, 'a: {"b": true}', None, None, None),
    ({"message": True}, "true", None, None, None),
    (5, NO_REASON, None, None, None),
]  # fmt: skip


@pytest.mark.parametrize("body,message,kind,param,code", SHAPES)
def test_error_object_reads_every_shape_of_compatible_hosts(body, message, kind, param, code):
    assert error_object(body) == {"message": message, "type": kind, "param": param, "code": code}


@pytest.mark.parametrize(
    "text",
    ["image input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
     "audio input is not supported", "this model is missing data required for image input"],
)  # fmt: skip
@pytest.mark.parametrize(
    "shape", [lambda text: {"error": {"code": 500, "message": text}}, lambda text: {"error": text}]
)
def test_image_without_a_projector_keeps_its_status_says_what_helps_and_is_final(text, shape):
    error = refusal((500, json.dumps(shape(text)).encode()))
    assert (error.status, error.code) == (500, "media_not_supported") and error.code in FINAL_CODES
    assert error.message.startswith(text) and "--mmproj" in error.message


VALUES = (
    None,
    True,
    0,
    5,
    1.5,
    "",
    "text",
    [],
    ["a"],
    [[]],
    {},
    {"a": "b"},
    [{"loc": 5}],
    [{"loc": "ab", "msg": {}}],
    [{"loc": {"a": 1}}],
)


@pytest.mark.parametrize("field", ["error", "detail", "message", "type", "param", "code"])
def test_error_object_with_unexpected_types_contains_only_texts_or_none(field):
    for value in VALUES:
        for body in ({field: value}, {"error": {field: value}}, {"detail": "d", field: value}):
            error = error_object(body)
            assert isinstance(error["message"], str) and error["message"], body
            assert all(error[name] is None or isinstance(error[name], str) for name in ("type", "param", "code")), body
            json.dumps(error)


@pytest.mark.fuzz
def test_answer_in_tiny_blocks_needs_little_memory():
    text = b'{"id": "file-1", "note": "' + b"a" * 400_000 + b'"}'
    blocks = (text[at : at + 2] for at in range(0, len(text), 2))
    tracemalloc.start()
    try:
        assert read(FakeBody(blocks), {}, len(text), hold_of()) == text
        assert tracemalloc.get_traced_memory()[1] < 4 * len(text)
    finally:
        tracemalloc.stop()


# Expectations


@pytest.mark.parametrize("expects,status,chunks,headers,outcome", [
    ("json", 200, b"", {}, UpstreamError),
    ("json", 204, b"", {}, UpstreamError),
    ("nothing", 204, b"", {}, None),
    ("nothing", 200, b" \r\n", {}, None),
    ("nothing", 202, b'{"id": "a"}', {}, {"id": "a"}),
    ("nothing", 200, b"<html>", {}, UpstreamError),
    ("bytes", 204, b"", {}, UpstreamError),
    ("events", 200, b'{"id": "a"}', {"content-type": "application/json"}, {"id": "a"}),
    ("events", 200, b"", {}, UpstreamError),
])  # fmt: skip
def test_answer_must_be_what_the_call_expects(expects, status, chunks, headers, outcome):
    call = CALL._replace(expects=expects, is_generated=expects == "events")
    where = target(operations={"retrieve_file": translated()})
    if outcome is UpstreamError:
        refusal((status, chunks, headers), call=call, where=where)
        return
    transport = Transport((status, chunks, headers))
    answer = perform(transport, call, where)
    assert (answer.status, answer.json, answer.body) == (status, outcome, None)
    assert transport.bodies[0].closings == 1


# Credentials


class Renewable:
    """Credentials with a new token each time. Old tokens may still occur in a text."""

    def __init__(self):
        self.given = []

    def now(self):
        self.given.append(Secret(f"token-number-{len(self.given) + 1}"))
        return {"access_key_id": Secret("the-key-id"), "token": self.given[-1]}

    def __iter__(self):
        yield Secret("the-key-id")
        yield from self.given


def signed(call, target):
    secrets = target.secrets
    return call._replace(headers={"signature": f"{secrets['access_key_id']} {secrets['token']}"})


def test_renewable_credentials_are_fetched_before_each_call_and_never_by_the_provider():
    credentials = Renewable()
    where = target(authorize=signed, operations={"retrieve_file": lambda call, send: [send(call), send(call)][1]})
    transport = Transport((200, b"{}"), (200, b"{}"))
    perform(transport, where=where._replace(credentials=credentials))
    assert [call.headers["signature"] for call in transport.calls] == [
        "the-key-id token-number-1", "the-key-id token-number-2"]  # fmt: skip


def test_every_secret_of_a_target_is_redacted_including_replaced_ones():
    text = "no: the-key-id, token-number-1, token-number-2"
    operations = {"retrieve_file": lambda call, send: [send(call), send(call)][1]}
    where = target(authorize=signed, operations=operations)._replace(credentials=Renewable())
    transport = Transport((200, b"{}"), (400, json.dumps({"error": {"message": text}}).encode()))
    with pytest.raises(UpstreamAnswered) as refused:
        perform(transport, where=where)
    assert refused.value.message == "no: [redacted], [redacted], [redacted]"


# Kept files


def with_file(*answers):
    """(the answer of a chat with a kept file, what was sent, the file's body); also if it is an error."""
    body, sent = Body([b"hel", b"lo"]), []
    mark = stand_in("0123456789abcdef" * 2, 0)
    call = Call("create_response", "POST", "/responses", json={"input": mark}, inlined=[
        Inlined(mark, 5, measured([b"hello"], 100), lambda: body)
    ])  # fmt: skip

    class Reading(Transport):
        def __call__(self, call, target):
            sent.append(next(iter(call.content.chunks)) if refuses else b"".join(call.content.chunks))
            return super().__call__(call, target)

    refuses = answers[0][0] == 413
    where = target(operations={"create_response": lambda call, send: send(call)})
    try:
        return run(call, where, {"https": Reading(*answers)}), sent
    finally:
        assert body.closings == (0 if refuses else 1)


def test_kept_file_is_in_the_call_that_the_transport_gets():
    answer, sent = with_file((200, b'{"id": "a"}'))
    assert (answer.json, sent) == ({"id": "a"}, [b'{"input":"hello"}'])


def test_refusal_for_its_size_says_which_setting_keeps_files_from_being_sent_in_vain():
    with pytest.raises(UpstreamAnswered, match="max_inline_bytes") as refused:
        with_file((413, b""))
    assert refused.value.status == 413


def test_kept_file_that_is_being_sent_is_closed_when_the_sending_ends():
    body = Body([b"hel", b"lo"])
    mark = stand_in("0123456789abcdef" * 2, 0)
    call = CALL._replace(method="POST", json=[base64_of(mark)], inlined=[Inlined(mark, 5, None, lambda: body)])

    def breaks(call, target):
        blocks = iter(call.content.chunks)
        assert [next(blocks), next(blocks)] == [b'["', b"aGVs"]
        raise UpstreamError("The connection broke.")

    with pytest.raises(UpstreamError, match="broke"):
        run(call, target(operations={"retrieve_file": lambda call, send: send(call)}), {"https": breaks})
    assert body.closings == 1


# Events that hide a secret


def stream_of(events, *secrets, patience=60.0):
    """These events as an EventStream, whose source they are."""
    hold = hold_of()
    source = Source(FakeBody(events), hold, Watch(), patience)
    return EventStream(source, [source], secrets, source, hold)


@pytest.mark.parametrize("written", ["sk/and+more", "sk\\/and+more", "sk/and\\u002Bmore", "\\u0073k/and\\u002bmore",
                                     "\\u0073\\u006B\\u002F\\u0061nd\\u002bmore"])  # fmt: skip
@pytest.mark.parametrize("around", ['{"a": "%s"}', '{"a": {"b": ["x %s y"]}}', '{"%s": 1}'])
def test_secret_that_json_escapes_hide_in_an_event_is_redacted(written, around):
    """A provider that repeats the saved credential with an escape was read in clear by SDKs."""
    event = f"event: x\ndata: {around % written}\nid: 5\n\n".encode()
    stream = stream_of([event + event], Secret("sk/and+more"))
    (block,) = list(stream)
    assert block.count(b"[redacted]") == 2 and block.count(b"event: x\n") == block.count(b"id: 5") == 2
    assert b"more" not in block and block.endswith(b"\n\n")
    for each in block.split(b"\n\n")[:-1]:
        assert "[redacted]" in json.dumps(json.loads(sse.data(each)))


REFUSED_JSON = ['{"a": NaN, "b": "%s"}', '{"a": 1e999, "b": "%s"}', '{"a": ' + "9" * 500 + ', "b": "%s"}',
                "[" * 150 + '"%s"' + "]" * 150, '{"b": "%s", "b": ""}', '{"a": "\ud800%s", "b": 0x1}', '"%s" and so on',
                "{'b': '%s'}"]  # fmt: skip


@pytest.mark.parametrize("written", ["sk\\/and+more", "sk/and\\u002Bmore", "\\u0073k/and\\u002bmore"])
@pytest.mark.parametrize("around", REFUSED_JSON)
def test_secret_that_escapes_hide_in_json_that_is_refused_here_is_not_relayed(around, written):
    """Events with NaN, 1e999 or 500 digits, or too deep, went out as they were, and SDKs read the credential."""
    event = f"event: x\ndata: {around % written}\n\n".encode("utf-8", "replace")
    (block,) = list(stream_of([event], Secret("sk/and+more")))
    assert block.startswith(b"event: x\n") and block.endswith(b"\n\n") and b"more" not in block


@pytest.mark.parametrize("event", [b'data: {"a": "b\\n\\u00e9"}\n\n', b"data: [DONE]\n\n", b": ping \\ \n\n",
                                   b"data: not \\ json\n\n", b'data: {"a":\ndata: "\\/"}\n\n',
                                   b'data: {"a": NaN, "b": "\\u002b \\\\ \\ud83d"}\n\n'])  # fmt: skip
def test_event_without_a_secret_is_relayed_as_it_is(event):
    assert list(stream_of([event], Secret("sk/and+more"))) == [event]


def test_answers_of_one_operation_share_one_limit():
    """A walk through 100 pages of 8 MiB each took 3.7 GiB."""
    page = b" " * (LIMIT // 3) + b"{}"
    transport = Transport(*[(200, page)] * 9)
    with pytest.raises(UpstreamError) as refused:
        perform(
            transport, where=target(operations={"retrieve_file": lambda call, send: [send(call) for _ in range(9)]})
        )
    assert refused.value.code == "upstream_answer_too_large"
    assert len(transport.bodies) == 3 and all(body.closings for body in transport.bodies)


def test_failure_after_raw_content_is_not_to_be_retried():
    """The content may have arrived: sending it twice is for the caller to decide."""

    def operation(call, send):
        return send(Call("upload_file", "PUT", "/blob", content=Content(1, "text/csv", [b"a"])))

    error = refusal(
        UpstreamError("The connection to the provider broke."), where=target(operations={"retrieve_file": operation})
    )
    assert error.headers["x-should-retry"] == "false"


# The budget for answers


BIG = b'{"id": "file-1", "x": [' + b'{"a":1},' * 5000 + b"{}]}"  # 40 kB, which parsed take a megabyte


def ask(hold, *answers, call=CALL, where=None):
    return run(call, where or big_target(), {"https": Transport(*answers)}, hold=hold)


def big_target(**provider):
    where = target(**provider)
    return where._replace(settings={**where.settings, "max_answer_bytes": 1 << 20})


def test_answer_counts_with_what_it_takes_once_it_is_parsed():
    """48 answers of 4 MB of `{"a":1}` took 3.4 GiB."""
    budget = memory(1_500_000)
    first, second = hold_of(budget), hold_of(budget, "another team")
    ask(first, (200, [BIG[:30_000], BIG[30_000:]]))
    assert first.size == cost(BIG) > 20 * len(BIG)
    transport = Transport((200, BIG))
    with pytest.raises(Saturated) as refused:
        run(CALL, big_target(), {"https": transport}, hold=second)
    assert (refused.value.status, refused.value.headers["retry-after"]) == (503, "1")
    assert transport.bodies[0].closings == 1
    first.release()
    second.release()
    assert left(budget) == 1_500_000
    ask(second, (200, gzip.compress(BIG), {"content-encoding": "gzip"}))
    assert second.size == cost(BIG)


def test_answers_of_one_caller_leave_room_for_those_of_others():
    budget = memory(3 * cost(BIG))
    own, more, others = hold_of(budget), hold_of(budget), hold_of(budget, "another team")
    ask(own, (200, BIG))
    with pytest.raises(CallerBusy):
        ask(more, (200, BIG))
    ask(others, (200, BIG))


def test_list_that_a_transport_makes_itself_counts_too():
    """100 lists of 10,000 kept files took 1.9 GB, which no budget knew of."""

    def run_list(hold, count):
        answer = Answer(200, json={"id": "file-1", "data": [{"id": "file-1"}] * count})
        return run(CALL, target(), {"https": lambda call, target: answer}, hold=hold)

    hold = hold_of(memory(3_000_000))
    run_list(hold, 1000)
    assert hold.size == 1000 * BYTES_PER_FILE
    with pytest.raises(CallerBusy):
        run_list(hold_of(hold._shared), 400)
    run_list(hold_of(memory(0)), UNCOUNTED_FILES)
    with pytest.raises(UpstreamError) as refused:
        run_list(hold_of(memory(3_000_000)), 2000)
    assert refused.value.code == "upstream_answer_too_large"


def test_small_answer_needs_no_budget():
    """An upload's answer is never lost because other answers are large."""
    hold = hold_of(memory(0))
    assert ask(hold, (200, b'{"id": "file-1", "x": [' + b"1, " * 4000 + b"1]}")).json["id"] == "file-1"
    assert hold.size == 0


def test_answer_that_never_fits_is_502_and_not_to_be_tried_again():
    with pytest.raises(UpstreamError) as refused:
        ask(hold_of(memory(500_000)), (200, BIG))
    assert (refused.value.status, refused.value.code) == (502, "upstream_answer_too_large")
    assert "max_json_in_flight" in refused.value.message


def test_all_pages_of_a_walk_count_together():
    hold = hold_of(memory(2 * cost(BIG)))
    with pytest.raises(UpstreamError):
        ask(hold, *[(200, BIG)] * 3, where=big_target(operations={"retrieve_file": paged}))


def test_refusal_that_has_no_room_keeps_its_status():
    used_up = memory(10**7)
    used_up.take("another team", 10**7)
    for hold in (hold_of(memory(0)), hold_of(used_up)):
        with pytest.raises(UpstreamAnswered) as refused:
            ask(hold, (429, b'{"error": {"message": "' + b"[" * 60_000 + b'"}}'))
        assert refused.value.status == 429 and "readable reason" in refused.value.message


CHAT_EVENTS = Call("create_chat_completion", "POST", "/chat/completions", json={"messages": []}, expects="events")
EVENTS = {"content-type": "text/event-stream"}


def events_of(hold, *blocks):
    return ask(hold, (200, list(blocks), EVENTS), call=CHAT_EVENTS).body


def test_event_that_needs_more_than_one_block_counts_until_it_has_left():
    """96 streams, each with the first 7 MiB of an event, held all of it."""
    budget = memory(100_000)
    hold = hold_of(budget)
    big = [b"data: ", b"x" * 30_000, b"x" * 30_000, b"\n\n"]
    stream = events_of(hold, b"data: 1\n\n", *big, b": wait\n\n", *big, *big[:2], b"y" * 60_000)
    assert next(stream) == b"data: 1\n\n" and hold.size == 0
    assert len(next(stream)) == 60_008
    assert hold.size == 60_002  # the client may be slow to take it
    assert next(stream) == b": wait\n\n" and hold.size == 0
    assert len(next(stream)) == 60_008
    hold.release()
    budget.take("another team", 20_000)
    (last,) = stream
    assert b'"code":"saturated"' in last and stream.error == "saturated"
    stream.close()
    assert left(budget) == 80_000


def test_empty_lines_count_as_no_memory():
    hold = hold_of(memory(100_000))
    stream = events_of(hold, *[b"\n" * 30_000] * 100, *[b"\r\n" * 15_000] * 100, b"data: [DONE]\n\n")
    assert list(stream) == [b"data: [DONE]\n\n"]


# Silence


WAIT_EVENTS = {
    "comments": b": keep-alive\n\n",
    "empty_comments": b":\n\n",
    "comments_with_crlf": b":\r\n\r\n",
    "events_without_data": b"event: ping\nid: 5\ndata:\n\n",
}


def test_has_data_is_what_is_dispatched():
    for events in (b"data: 1\n\n", b": a\n\ndata:1\n\n", b"event: a\ndata: 1\n\n", b"id: 1\ndata:  \n\n"):
        assert sse.has_data(events), events
    for events in (*WAIT_EVENTS.values(), b"data\n\n", b"data: \n\n", b": data: 1\n\n", b"retry: 5\n\n", b""):
        assert not sse.has_data(events), events


PING = b'event: ping\ndata: {"type": "ping"}\n\n'
STARTED = (
    b'event: message_start\ndata: {"type": "message_start", "message": {"id": "m", "model": "m", "usage": {}}}\n\n'
)
THINKING = (
    b'event: content_block_delta\ndata: {"type": "content_block_delta", "index": 0, '
    b'"delta": {"type": "thinking_delta", "thinking": "Hm."}}\n\n'
)
KEPT_ALIVE = {  # provider, the first event, what drips after it
    "comments": ("compat", b"data: {}\n\n", b": wait\n\n"),
    "events_without_data": ("compat", b"data: {}\n\n", WAIT_EVENTS["events_without_data"]),
    "empty_lines": ("compat", b"data: {}\n\n", b"\r\n"),
    "a_comment_that_never_ends": ("compat", b"data: {}\n\n", b":"),
    "nothing": ("compat", b"data: {}\n\n", b""),
    "pings_of_anthropic": ("claude", STARTED, PING),
}
SILENCE = 0.25  # seconds


def dripped(provider, first, drop, last=b"", count=400):
    """(what a client got of a stream, seconds) that begins, drips, and ends with these bytes."""

    def script(peer):
        peer.read_request()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        peer.send(head, chunked(first)[:-5])
        for _ in range(count):
            time.sleep(0.02)  # real time: its passing is the subject
            peer.send(b"%x\r\n%b\r\n" % (len(drop), drop) if drop else b"")
        peer.send(chunked(last))

    with Upstream(script) as upstream:
        config = {
            "provider:compat": {"kind": "openai", "base_url": upstream.url},
            "provider:claude": {"kind": "anthropic", "base_url": upstream.url},
        }
        with served(create_app(config, generation_timeout=SILENCE)) as server:
            headers = {**COMPAT, "x-portkey-provider": provider, "content-type": "application/json"}
            body = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "Hi"}]}'
            began = time.monotonic()
            reply = sockets.ask(server.server_port, request("POST", "/v1/chat/completions", body, headers))
            return reply, time.monotonic() - began


@pytest.mark.parametrize("name", KEPT_ALIVE)
def test_stream_of_keep_alives_is_ended_like_a_silent_one(name):
    """A stream of `:` and empty lines went on for an hour, generation_total."""
    reply, seconds = dripped(*KEPT_ALIVE[name])
    assert reply.status == 200 and reply.body.endswith(b"}\n\n")
    assert b'"code":"upstream_timeout"' in reply.body.split(b"\n\n")[-2]
    assert SILENCE <= seconds < SILENCE + 1


@pytest.mark.parametrize(
    "provider,first,drop,last",
    [
        ("compat", b"", b"data: {}\n\n", b"data: [DONE]\n\n"),
        ("compat", b"", b": wait\n\ndata: {}\n\n: wait\n\n", b"data: [DONE]\n\n"),
        ("claude", STARTED, THINKING + PING, b'data: {"type": "message_stop"}\n\n'),  # which a strict client never sees
    ],
)
def test_stream_with_events_between_the_keep_alives_goes_on(provider, first, drop, last):
    reply, seconds = dripped(provider, first, drop, last, count=20)
    assert seconds > SILENCE and reply.body.endswith(b"data: [DONE]\n\n") and b"error" not in reply.body


def test_silence_counts_before_the_first_event_too_where_the_type_does_not_say_that_there_are_events():
    watch, seen = Watch(), []

    def comments():
        for _ in range(3):
            seen.append(watch.silent_by)
            yield b": wait\n"
        yield b"data: [DONE]\n\n"

    call = CHAT_EVENTS._replace(watch=watch)
    stream = ask(hold_of(), (200, comments(), {"content-type": "text/plain"}), call=call).body
    assert watch.silent_by == float("inf") and time.monotonic() < seen[0] < time.monotonic() + 61
    assert list(stream) == [b"data: [DONE]\n\n"]


def test_slow_client_is_no_silence_of_the_upstream():
    watch = Watch()
    hold = hold_of()
    source = Source(FakeBody([b"data: 1\n\n", b"data: 2\n\n"]), hold, watch, 0.01)
    stream = EventStream(source, [source], [], source, hold)
    for _ in range(2):
        next(stream)
        assert watch.silent_by == float("inf")
        time.sleep(0.02)  # the client takes its time


NO_PATHS = ["https://api.example", "https://api.example:8443"]


@pytest.mark.parametrize(
    "body,kind",
    [
        (b'{"detail": "Not Found"}', "application/json"),
        (b"", ""),
        (b"404 page not found", "text/plain"),
        (b"<html>404</html>", "text/html"),
    ],
)
@pytest.mark.parametrize("base_url", [*NO_PATHS, "https://api.example/v1"])
def test_404_under_a_base_url_without_a_path_says_what_it_most_likely_needs(base_url, body, kind):
    """A base_url without /v1 was a bare 404."""
    where = target()._replace(base_url=base_url)
    call = Call("list_files", "GET", "/files")
    error = refusal((404, body, {"content-type": kind}), call=call, where=where)
    assert error.message.endswith("most hosts need /v1 there.") == (base_url in NO_PATHS)
    named = CALL._replace(file_id="file-1")
    assert "base_url" not in refusal((404, body, {"content-type": kind}), call=named, where=where).message
