"""Kept connections: which one a request gets, alone and in a gateway whose upstreams do what spoils them."""

from __future__ import annotations

import contextlib
import gc
import gzip
import itertools
import json
import re
import socket
import threading
import time
from http.client import HTTPConnection

import pytest
from fakes import FILE, form, form_type
from kept_alive import answered, asked, in_chunks, requests, serving
from sockets import (
    COMPAT,
    SOON,
    WAIT,
    Upstream,
    answer,
    ask,
    connect,
    get,
    in_child,
    open_files,
    request,
    reset,
    served,
    until,
)

from filesproxy import create_app
from filesproxy.calls import Call, Target
from filesproxy.transports.https import pool
from filesproxy.transports.https.connection import Connection
from filesproxy.transports.https.pool import (
    IDLE_SECONDS,
    MAX_IDLE,
    MAX_IDLE_TOTAL,
    PROVEN_IDLE_SECONDS,
    PROVEN_QUIET_SECONDS,
    Pool,
)
from filesproxy.transports.https.transport import HttpTransport

LIMITS = {"connect_timeout": WAIT, "send_timeout": WAIT, "answer_timeout": WAIT, "read_timeout": WAIT}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
UPLOAD = form(("purpose", "batch"), ("file", "a.jsonl", "application/jsonl", b"hello"))


@pytest.fixture
def make():
    """Makes connections with this key, and the upstream's end of each; all are closed after the test."""
    with contextlib.ExitStack() as stack:

        def maker(key="a"):
            near, far = socket.socketpair()
            stack.callback(near.close)
            stack.callback(far.close)
            return Connection(near, key), far

        yield maker


@pytest.fixture
def kept():
    """An empty pool, closed after the test."""
    made = Pool()
    yield made
    made.close()


@pytest.fixture
def clock(monkeypatch):
    """The time of the pool: `clock.now`."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    made = Clock()
    monkeypatch.setattr(pool, "time", made)
    return made


def is_closed(connection):
    return connection.sock.fileno() == -1


def drained(kept, key="a"):
    """Everything that is kept for a key, in the order in which requests would get it."""
    return list(iter(lambda: kept.take(key), None))


# Which connection it is


def test_connection_used_last_is_taken_first(kept, make):
    connections = [make()[0] for _ in range(3)]
    for connection in connections:
        kept.keep(connection)
    assert drained(kept) == connections[::-1]
    assert kept.take("a") is None


def test_connection_is_taken_once(kept, make):
    connection, _ = make()
    kept.keep(connection)
    assert kept.take("a") is connection and kept.take("a") is None
    kept.keep(connection)
    assert kept.take("a") is connection and connection.answers == 2


def test_keys_never_mix(kept, make):
    keys = ["a", ("a",), (("http", "host:1"), "sk-a"), (("http", "host:1"), "sk-b"), (("http", "host:2"), "sk-a"), ""]
    connections = {key: make(key)[0] for key in keys}
    for connection in connections.values():
        kept.keep(connection)
    assert kept.take("b") is None and kept.take(None) is None
    for key in keys:
        assert drained(kept, key) == [connections[key]], key


STALE = {
    "closed": lambda far: far.close(),
    "half_closed": lambda far: far.shutdown(socket.SHUT_WR),
    "said_something": lambda far: far.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n"),
    "said_a_byte": lambda far: far.send(b"\n"),
    "said_something_and_closed": lambda far: (far.send(b"a"), far.close()),
}


@pytest.mark.parametrize("name", STALE)
def test_connection_of_an_upstream_that_closed_or_spoke_is_closed_and_the_next_one_taken(name, kept, make):
    (good, _), *stale = (make() for _ in range(3))
    for connection in (good, *(connection for connection, _ in stale)):
        kept.keep(connection)
    for _, far in stale:
        STALE[name](far)
    assert kept.take("a") is good
    assert all(is_closed(connection) for connection, _ in stale) and not is_closed(good)
    assert kept.take("a") is None


def test_connection_that_was_reset_is_closed_and_not_taken(kept):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = Connection(socket.create_connection(listener.getsockname()), "a")
        far, _ = listener.accept()
    kept.keep(connection)
    reset(far)
    assert until(lambda: not connection.is_quiet())
    assert kept.take("a") is None and is_closed(connection)


def test_connection_is_idle_for_so_long_and_no_longer(kept, make, clock):
    connection, _ = make()
    kept.keep(connection)
    clock.now += IDLE_SECONDS
    assert kept.take("a") is connection
    kept.keep(connection)
    clock.now += IDLE_SECONDS + 0.01
    assert kept.take("a") is None and is_closed(connection)


def test_key_has_so_many_connections_and_the_oldest_goes_first(kept, make):
    connections = [make()[0] for _ in range(MAX_IDLE + 2)]
    for connection in connections:
        kept.keep(connection)
    assert [is_closed(connection) for connection in connections] == [True] * 2 + [False] * MAX_IDLE
    assert drained(kept) == connections[:1:-1]


def test_all_keys_together_have_so_many_connections(kept, make):
    connections = [make(number)[0] for number in range(MAX_IDLE_TOTAL + 9)]
    for connection in connections:
        kept.keep(connection)
    left = [connection for connection in connections if not is_closed(connection)]
    assert len(left) == MAX_IDLE_TOTAL
    assert all(drained(kept, connection.key) == [connection] for connection in left)
    kept.keep(make("a")[0])
    assert kept.take("a")


def test_full_pool_closes_what_was_idle_for_longest_whatever_its_key(kept, make, clock):
    """It refused the newest, so what filled it stayed, and every other caller had a new connection for each request."""
    connections = [make(number % 16)[0] for number in range(MAX_IDLE_TOTAL)]
    for connection in connections:
        kept.keep(connection)
        clock.now += 0.001
    for number in range(3):
        new, _ = make(f"new {number}")
        kept.keep(new)
        clock.now += 0.001
        assert [is_closed(each) for each in connections] == [True] * (number + 1) + [False] * (127 - number)
        assert kept.take(new.key) is new and not is_closed(new)
        kept.keep(new)


def test_keys_that_nobody_asks_for_any_more_are_swept_out(kept, make, clock):
    old = [make(number)[0] for number in range(5)]
    for connection in old:
        kept.keep(connection)
    clock.now += IDLE_SECONDS - 1
    young, _ = make("young")
    kept.keep(young)
    assert not any(map(is_closed, old))
    clock.now += 2
    last, _ = make("last")
    kept.keep(last)
    assert all(map(is_closed, old)) and not is_closed(young) and not is_closed(last)
    assert kept.take("young") is young and kept.take("last") is last


def test_close_closes_what_is_idle_and_the_pool_goes_on(kept, make):
    (idle, _), (busy, _) = make(), make()
    kept.keep(idle)
    kept.keep(busy)
    assert kept.take("a") is busy
    kept.close()
    assert is_closed(idle) and not is_closed(busy) and kept.take("a") is None
    kept.keep(busy)
    assert kept.take("a") is busy
    kept.close()
    kept.close()


# What cannot be sent twice


def test_connection_with_one_answer_has_proven_itself_by_some_silence(kept, make, clock):
    connection, _ = make()
    kept.keep(connection)
    for passed in (0, PROVEN_QUIET_SECONDS * 0.9):
        clock.now = connection.idle_since + passed
        assert kept.take("a", is_proven=True) is None and not is_closed(connection)
    clock.now = connection.idle_since + PROVEN_QUIET_SECONDS * 1.1
    assert kept.take("a", is_proven=True) is connection


def test_connection_with_two_answers_has_proven_itself(kept, make, clock):
    connection, _ = make()
    kept.keep(connection)
    assert kept.take("a") is connection
    kept.keep(connection)
    assert kept.take("a", is_proven=True) is connection


def test_proof_is_good_for_seconds_only(kept, make, clock):
    connection, _ = make()
    for _ in range(2):
        kept.keep(connection)
        clock.now += PROVEN_IDLE_SECONDS + 0.1
        assert kept.take("a", is_proven=True) is None
        assert kept.take("a") is connection
    kept.keep(connection)
    clock.now += PROVEN_IDLE_SECONDS - 0.1
    assert kept.take("a", is_proven=True) is connection


def test_connection_that_has_not_proven_itself_is_left_for_others(kept, make, clock):
    connection, _ = make()
    kept.keep(connection)
    assert kept.take("a", is_proven=True) is None
    assert kept.take("a") is connection and connection.answers == 1


@pytest.mark.parametrize("name", STALE)
def test_stale_connection_has_proven_nothing(name, kept, make, clock):
    connection, far = make()
    kept.keep(connection)
    clock.now += PROVEN_QUIET_SECONDS * 2
    STALE[name](far)
    assert kept.take("a", is_proven=True) is None and is_closed(connection)


# Forks, garbage, threads


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("is_locked", [False, True])
def test_forked_process_has_no_connection_and_its_parents_go_on(is_locked, kept, make):
    (connection, far), (its, _) = make(), make()
    kept.keep(connection)

    def check():
        is_empty = kept.take("a") is None and is_closed(connection)
        kept.keep(its)
        return is_empty and kept.take("a") is its and kept.take("a") is None

    with kept._lock if is_locked else contextlib.nullcontext():  # as a thread of the parent may
        assert in_child(check)
    assert kept.take("a") is connection
    assert connection.send([b"still here"]) and far.recv(99) == b"still here"
    far.send(b"so am I")
    assert connection.receive(99) == b"so am I"


def test_connection_that_is_put_back_into_a_full_pool_leaves_none_open_and_unowned(kept, make):
    """Another thread keeps one between the look at the newest and its return."""
    others = [make()[0] for _ in range(MAX_IDLE - 1)]
    newest, last = make()[0], make()[0]
    for connection in [*others, newest]:
        kept.keep(connection)
    newest.is_quiet = lambda: kept.keep(last) or True
    assert kept.take("a", is_proven=True) is None
    del newest.is_quiet
    assert sum(not is_closed(each) for each in [*others, newest, last]) == len(drained(kept)) == MAX_IDLE


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("first", ["keep", "close"])
def test_forked_process_may_begin_with_anything(first, kept, make):
    (connection, far), (its, _) = make(), make()
    kept.keep(connection)

    def check():
        kept.keep(its) if first == "keep" else kept.close()
        return is_closed(connection) and kept.take("a") is (its if first == "keep" else None)

    assert in_child(check)
    far.send(b"a")
    assert connection.receive(9) == b"a"
    connection.close()


@pytest.mark.parametrize("is_in_a_cycle", [False, True])
def test_pool_that_is_garbage_closes_its_connections(is_in_a_cycle):
    near, far = socket.socketpair()
    with far:
        thrown_away = Pool()
        thrown_away.keep(Connection(near, "a"))
        del near
        if is_in_a_cycle:
            thrown_away.itself = [thrown_away]
        del thrown_away
        gc.collect()  # a socket that nobody had closed would warn, and warnings are errors
        assert far.recv(1) == b""


def test_sender_that_is_garbage_closes_its_connections():
    with Upstream(serving()) as upstream:
        sender = HttpTransport()
        assert sent(sender, upstream) == 200
        del sender
        gc.collect()
        assert upstream.peer.ended == "fin"


def test_sender_that_is_closed_closes_its_connections_and_goes_on():
    with Upstream(serving()) as upstream:
        sender = HttpTransport()
        for _ in range(2):
            assert sent(sender, upstream) == sent(sender, upstream) == 200
            sender.close()
        assert until(lambda: [peer.ended for peer in upstream.peers] == ["fin"] * 2)


def sent(sender, upstream):
    target = Target("compat", {}, upstream.url, LIMITS)
    found = sender(Call("retrieve_file", "GET", "/files/file-1", url=f"{upstream.url}/files/file-1"), target)
    assert json.loads(b"".join(found.body))["id"] == "file-1"
    found.body.close()
    return found.status


def test_many_threads_never_share_a_connection(kept, make):
    busy, wrong, lock = set(), [], threading.Lock()

    def work(number):
        for turn in range(300):
            key = (number + turn) % 3
            connection = kept.take(key, is_proven=turn % 5 == 0)
            with lock:
                connection = connection or make(key)[0]
                if connection in busy or connection.key != key or is_closed(connection):
                    wrong.append(connection)
                busy.add(connection)
            time.sleep(0)  # lets the next thread run
            with lock:
                busy.discard(connection)
            kept.keep(connection)

    on_threads(8, work)
    assert wrong == []


def on_threads(count, work):
    """Run work(number) on so many threads at once; the first failure is the test's."""
    failures = []

    def run(number):
        try:
            work(number)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for failure in failures:
        raise failure


# In a gateway


@contextlib.contextmanager
def gateway(script, **settings):
    """(port of a gateway, its upstream), whose connections end after the block."""
    section = {"kind": "openai", **settings}
    with Upstream(script) as upstream:
        section["base_url"] = upstream.url
        with served(create_app({"provider:compat": section})) as server:
            yield server.server_port, upstream


def metadata(port, id="file-1", key="sk-caller", method="GET"):
    return get(port, f"/v1/files/{id}", {**COMPAT, "authorization": f"Bearer {key}"}, method)


def content(port, id="file-1"):
    return get(port, f"/v1/files/{id}/content")


def chat(port):
    return ask(port, request("POST", "/v1/chat/completions", json.dumps(CHAT).encode(),
                             {**COMPAT, "content-type": "application/json"}))  # fmt: skip


def upload(port):
    return ask(port, request("POST", "/v1/files", UPLOAD, {**COMPAT, "content-type": form_type()}))


def is_right(reply, id, key="sk-caller"):
    """Whether this is the answer to what was asked, and to nothing else."""
    return reply.status == 200 and reply.json["id"] == id and reply.json["filename"].startswith(f"{id} {key[::-1]} ")


@pytest.mark.parametrize("call", [metadata, content])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_kept_connection_is_used_again(framing, call):
    script = serving(framed=lambda data: in_chunks(answered(data)) if framing == "chunks" else answered(data))
    with gateway(script) as (port, upstream):
        for number in range(20):
            assert is_right(call(port, f"file-{number}"), f"file-{number}")
        assert (upstream.connections, requests(upstream)) == (1, 20)


def test_large_download_leaves_its_connection_for_the_next():
    data = bytes(range(256)) * 8000
    with gateway(serving(framed=lambda asked: answer(data, content_type="a/b"))) as (port, upstream):
        for _ in range(5):
            assert content(port).body == data
        assert upstream.connections == 1


def test_connection_is_not_shared_between_two_credentials():
    with gateway(serving()) as (port, upstream):
        for number in range(10):
            key = f"sk-{number % 2}"
            assert is_right(metadata(port, "file-1", key), "file-1", key)
        assert upstream.connections == 2
        for peer in upstream.peers:
            assert len(set(re.findall(rb"authorization: Bearer (\S+)", bytes(peer.received)))) == 1


def test_calls_of_every_kind_share_a_connection_and_an_upload_has_a_fresh_one():
    with gateway(serving()) as (port, upstream):
        assert metadata(port).status == metadata(port).status == chat(port).status == 200
        assert metadata(port, method="DELETE").status == 200
        assert (upstream.connections, requests(upstream)) == (1, 4)
        assert upload(port).status == 200
        assert (upstream.connections, requests(upstream)) == (2, 5)
        assert upstream.peers[1].received.startswith(b"POST /v1/files ")
        assert metadata(port).status == 200
        assert upstream.connections == 2
        assert bytes(upstream.peers[1].received).count(b"\r\nGET /v1/files/file-1 ") == 1
        for number in range(2, 5):
            assert upload(port).status == 200
            assert upstream.connections == number + 1


def test_error_answer_keeps_the_connection():
    def refused(data):
        return answer({"error": {"message": "No such file.", "type": "invalid_request_error"}}, "404 Not Found")

    with gateway(serving(framed=refused)) as (port, upstream):
        assert [metadata(port).status, content(port).status, chat(port).status, metadata(port).status] == [404] * 4
        assert upstream.connections == 1


UNUSABLE = {
    "not_json": lambda data: answer(b"<html>"),
    "not_a_file": lambda data: answer([]),
    "another_id": lambda data: answer({**FILE, "id": "file-0"}),
    "undecodable": lambda data: answer(b"not gzip", content_encoding="gzip"),
    "of_several_gzip_members": lambda data: answer(2 * gzip.compress(b"{}"), content_encoding="gzip"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_answer_that_cannot_be_used_closes_its_connection(name):
    """What comes next over it was taken for the next answer."""
    framings = iter([answered, UNUSABLE[name], answered])
    with gateway(serving(framed=lambda data: next(framings)(data))) as (port, upstream):
        assert is_right(metadata(port), "file-1")
        reply = metadata(port, "file-2")
        assert (reply.status, reply.error["code"]) == (502, "upstream_invalid_answer")
        assert until(lambda: upstream.peers[0].ended == "fin")
        assert is_right(metadata(port, "file-3"), "file-3")
        assert (upstream.connections, requests(upstream)) == (2, 3)


def test_content_that_is_answered_with_nothing_closes_its_connection():
    framings = iter([answer(b"", "204 No Content", content_length=None), answer(b"abc")])
    with gateway(serving(framed=lambda data: next(framings))) as (port, upstream):
        assert content(port).error["code"] == "upstream_invalid_answer"
        assert until(lambda: upstream.peers[0].ended == "fin")
        assert content(port).body == b"abc"
        assert upstream.connections == 2


ENDING = {
    "close": lambda data: answered(data, connection="close"),
    "close_in_a_list": lambda data: answered(data, connection="x, Close"),
    "http_1_0": lambda data: answered(data, connection="keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "bytes_after_it": lambda data: answered(data) + b"x",
    "an_answer_after_it": lambda data: answered(data) + answered(data),
    "trailer_missing": lambda data: in_chunks(answered(data))[:-2],
}


@pytest.mark.parametrize("name", ENDING)
def test_answer_after_which_nothing_may_follow_closes_the_connection(name):
    with gateway(serving(framed=ENDING[name])) as (port, upstream):
        for number in range(3):
            assert is_right(metadata(port, f"file-{number}"), f"file-{number}")
            assert until(lambda number=number: upstream.peers[number].ended), number
        assert (upstream.connections, requests(upstream)) == (3, 3)


def test_answer_to_the_end_of_the_stream_closes_the_connection():
    script = serving(framed=lambda data: answered(data, content_length=None), then=lambda peer, count: True)
    with gateway(script) as (port, upstream):
        for number in range(3):
            assert is_right(metadata(port, f"file-{number}"), f"file-{number}")
        assert (upstream.connections, requests(upstream)) == (3, 3)


@pytest.mark.parametrize("leave", [socket.socket.close, reset], ids=["close", "reset"])
def test_download_that_its_client_leaves_half_read_closes_the_connection(leave):
    def framed(data):
        return answer(b"a" * 1000, content_length="5000") if b"/content " in data else answered(data)

    with gateway(serving(framed=framed)) as (port, upstream):
        assert is_right(metadata(port), "file-1")
        with connect(port) as client:
            client.sendall(request("GET", "/v1/files/file-1/content", headers=COMPAT))
            assert client.recv(100)
            leave(client)
        assert until(lambda: upstream.peers[0].ended)
        assert is_right(metadata(port, "file-2"), "file-2")
        assert (upstream.connections, requests(upstream)) == (2, 3)


def test_download_of_which_a_range_was_wanted_closes_the_connection():
    data = bytes(range(100))
    with gateway(serving(framed=lambda asked: answer(data, content_length=str(1 << 40)))) as (port, upstream):
        for number in range(2):
            assert get(port, "/v1/files/file-1/content", {**COMPAT, "range": "bytes=10-19"}).body == data[10:20]
            assert until(lambda number=number: upstream.peers[number].ended)


# Kept connections that end


def ends_unanswered(peer, count):
    return count == 2


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_request_without_a_body_is_sent_again_where_a_kept_connection_ends_unanswered(how, method):
    def instead(peer, count):
        if count == 2 and how == "reset":
            peer.reset()
        return count == 2

    with gateway(serving(instead=instead)) as (port, upstream):
        for number in range(6):
            reply = metadata(port, f"file-{number}", method=method)
            if method == "DELETE":
                assert reply.json == {"id": f"file-{number}", "object": "file", "deleted": True}
            else:
                assert is_right(reply, f"file-{number}")
        assert (upstream.connections, requests(upstream)) == (6, 11)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_request_is_sent_again_once_only(method):
    with gateway(serving(instead=lambda peer, count: next(turns) > 1)) as (port, upstream):
        turns = itertools.count(1)
        assert is_right(metadata(port), "file-1")
        reply = metadata(port, method=method)
        assert reply.status == 502
        assert (upstream.connections, requests(upstream)) == (2, 3)


class Store:
    """An upstream with files: what is deleted is gone, and a `lost` deletion gets no answer."""

    def __init__(self, how="reset"):
        self.files = {f"file-{number}" for number in range(10)}
        self.lost, self.how = set(), how

    def __call__(self, peer):
        while data := asked(peer):
            method, path, _ = data.split(b"\r\n")[0].decode().split(" ")
            file_id = path.split("/")[3]
            status = "200 OK" if file_id in self.files else "404 Not Found"
            if method == "DELETE":
                self.files.discard(file_id)
            if method == "DELETE" and file_id in self.lost:
                self.lost.discard(file_id)
                if self.how == "reset":
                    peer.reset()
                return
            found = {**FILE, "id": file_id, "deleted": True} if status == "200 OK" else {"error": {"message": "None."}}
            peer.send(answer(found, status))


@pytest.mark.parametrize("how", ["close", "reset"])
def test_deletion_that_was_done_but_not_answered_is_a_success_and_no_404(how):
    """It is sent again over a new connection, where the file is gone."""
    store = Store(how)
    with gateway(store) as (port, upstream):
        for number in range(3):
            store.lost.add(f"file-{number}")
            assert metadata(port, "file-9").status == 200  # a connection is kept
            reply = metadata(port, f"file-{number}", method="DELETE")
            assert (reply.status, reply.json) == (200, {"id": f"file-{number}", "object": "file", "deleted": True})
        assert requests(upstream, b"DELETE") == 6 and store.files == {f"file-{number}" for number in range(3, 10)}


def test_deletion_that_is_sent_once_keeps_its_404():
    with gateway(Store()) as (port, upstream):
        assert metadata(port, "file-1").status == 200
        for _ in range(2):  # over a kept connection, and after an answer
            assert metadata(port, "file-of-nobody", method="DELETE").status == 404
        assert (upstream.connections, requests(upstream, b"DELETE")) == (1, 2)


def test_other_request_that_is_sent_again_keeps_its_404():
    none = answer({"error": {"message": "None."}}, "404 Not Found")

    def is_first():
        return upstream.connections == 1

    script = serving(
        instead=lambda peer, count: count == 2 and is_first(),
        framed=lambda data: answered(data) if is_first() else none,
    )
    with gateway(script) as (port, upstream):
        assert [metadata(port).status, metadata(port).status] == [200, 404]
        assert (upstream.connections, requests(upstream)) == (2, 3)


def test_request_is_not_sent_again_where_a_fresh_connection_ends_unanswered():
    with gateway(serving(instead=lambda peer, count: True)) as (port, upstream):
        assert metadata(port).status == 502
        assert (upstream.connections, requests(upstream)) == (1, 1)


def test_chat_is_never_sent_twice():
    with gateway(serving(instead=lambda peer, count: count == 3)) as (port, upstream):
        assert is_right(metadata(port), "file-1") and is_right(metadata(port), "file-1")
        assert chat(port).status == 502
        assert (upstream.connections, requests(upstream), requests(upstream, b"POST")) == (1, 3, 1)
        assert chat(port).status == 200
        assert (upstream.connections, requests(upstream, b"POST")) == (2, 2)


def test_chat_has_a_fresh_connection_where_the_kept_one_has_not_proven_itself(monkeypatch):
    monkeypatch.setattr(pool, "PROVEN_QUIET_SECONDS", WAIT)
    with gateway(serving(instead=ends_unanswered)) as (port, upstream):
        assert is_right(metadata(port), "file-1")
        assert chat(port).status == 200
        assert (upstream.connections, requests(upstream, b"POST")) == (2, 1)


def test_upload_is_never_sent_twice_nor_over_a_kept_connection():
    def instead(peer, count):
        return peer.received.startswith(b"POST ")

    with gateway(serving(instead=instead)) as (port, upstream):
        assert is_right(metadata(port), "file-1") and is_right(metadata(port), "file-1")
        reply = upload(port)
        assert (reply.status, reply.headers["x-should-retry"]) == (502, "false")
        assert (upstream.connections, requests(upstream, b"POST")) == (2, 1)


def test_upload_that_is_refused_before_its_end_leaves_no_connection_behind():
    """The upstream reads what comes next as the upload's rest."""

    def script(peer):
        peer.read_head()
        if peer.head.startswith(b"GET "):
            peer.send(answered(peer.head))
            return
        peer.send(answer({"error": {"message": "Too large."}}, "413 Payload Too Large"))
        peer.read_to_end()

    with gateway(script) as (port, upstream):
        body = form(("purpose", "batch"), ("file", "a.bin", "", bytes(8 << 20)))
        assert ask(port, request("POST", "/v1/files", body, {**COMPAT, "content-type": form_type()})).status == 413
        assert is_right(metadata(port), "file-1")
        assert upstream.connections == 2


PARTS = {
    "a_byte": (b"H", 502),
    "half_a_head": (b"HTTP/1.1 200 OK\r\ncontent-le", 502),
    "informational_only": (b"HTTP/1.1 100 Continue\r\n\r\n", 502),
    "half_a_body": (answer(FILE)[:-9], 502),
    "not_http": (b"garbage\r\n\r\n", 502),
}


@pytest.mark.parametrize("name", PARTS)
def test_answer_in_part_on_a_kept_connection_is_not_asked_for_again(name):
    part, status = PARTS[name]

    def instead(peer, count):
        if count == 2:
            peer.send(part)
        return count == 2

    with gateway(serving(instead=instead)) as (port, upstream):
        assert is_right(metadata(port), "file-1")
        assert metadata(port).status == status
        assert (upstream.connections, requests(upstream)) == (1, 2)
        assert is_right(metadata(port), "file-1")


def silent_the_second_time(peer, count):
    if count == 2:
        peer.read_to_end()
    return count == 2


def test_time_limit_on_a_kept_connection_is_504_and_not_a_second_request():
    with gateway(serving(instead=silent_the_second_time), answer_timeout=0.1) as (port, upstream):
        assert is_right(metadata(port), "file-1")
        assert metadata(port).status == 504
        assert (upstream.connections, requests(upstream)) == (1, 2)
        assert until(lambda: upstream.peers[0].ended)
        assert is_right(metadata(port), "file-1")


def test_client_that_leaves_while_a_kept_connection_is_silent_ends_it_and_sends_nothing_again():
    with gateway(serving(instead=silent_the_second_time)) as (port, upstream):
        assert is_right(metadata(port), "file-1")
        with connect(port) as client:
            client.sendall(request("GET", "/v1/files/file-1/content", headers=COMPAT))
            assert until(lambda: requests(upstream) == 2)
        assert until(lambda: upstream.peers[0].ended, SOON)
    assert (upstream.connections, requests(upstream)) == (1, 2)


# Many requests at once


class Client:
    """Asks over a connection that it keeps: (status, the answer's bytes)."""

    def __init__(self, port):
        self._connection = HTTPConnection("127.0.0.1", port, timeout=WAIT)

    def __call__(self, path, key):
        self._connection.request("GET", path, headers={**COMPAT, "authorization": f"Bearer {key}"})
        with self._connection.getresponse() as response:
            return response.status, response.read()

    def close(self):
        self._connection.close()


def asked_together(port, count, threads=8, keys=("sk-0", "sk-1")):
    """(id, credential, status, answer) of so many requests; each thread has a credential, of which there are a few."""
    seen = []

    def work(number):
        key = keys[number % len(keys)]
        with contextlib.closing(Client(port)) as client:
            for turn in range(count // threads):
                id = f"file-{number}-{turn}"
                status, body = client(f"/v1/files/{id}{'/content' if turn % 3 == 0 else ''}", key)
                seen.append((id, key, status, json.loads(body)))

    on_threads(threads, work)
    assert len(seen) == count
    return seen


def are_right(seen):
    """Whether each answer is the one to its own request, and none was given twice."""
    words = [value["filename"].split(" ") for _, _, _, value in seen]
    assert [word[:2] for word in words] == [[id, key[::-1]] for id, key, _, _ in seen]
    return len({word[2] for word in words}) == len(seen)


def pauses():
    """Nothing to five milliseconds, a third of the times nothing: what races are made of, so in real time."""
    return itertools.cycle([0, 0.001, 0.003, 0, 0.0002, 0.005])


PAUSES = pauses()
SPOILING = {
    "closes_after_each_answer": serving(then=lambda peer, count: True),
    "closes_some_time_after_it": serving(then=lambda peer, count: time.sleep(next(PAUSES)) is None),
    "closes_upon_the_second_request": serving(instead=ends_unanswered),
    "resets_upon_the_second_request": serving(instead=lambda peer, count: count == 2 and peer.reset() is None),
    "sends_more_with_it": serving(framed=lambda data: answered(data) + b"\r\n"),
    "sends_another_answer_with_it": serving(framed=lambda data: answered(data) + answered(data)),
}


@pytest.mark.parametrize("name", SPOILING)
def test_many_requests_have_their_own_answers_where_the_upstream(name):
    with gateway(SPOILING[name]) as (port, _):
        seen = asked_together(port, 80)  # tests/heavy asks a thousand times
        assert [status for _, _, status, _ in seen] == [200] * len(seen)
        assert are_right(seen)


def test_many_requests_share_a_few_connections():
    before = open_files()
    with gateway(serving()) as (port, upstream):
        seen = asked_together(port, 160)
        assert {status for _, _, status, _ in seen} == {200} and are_right(seen)
        assert upstream.connections <= 16
    assert until(lambda: gc.collect() >= 0 and open_files() <= before)


LATE = {
    "line_end": b"\r\n",
    "garbage": b"garbage\r\n\r\n",
    "half_a_408": b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n",
}


@pytest.mark.parametrize("name", LATE)
def test_bytes_that_come_late_make_errors_at_worst(name):
    def then(peer, count):
        time.sleep(next(PAUSES))
        peer.send(LATE[name])

    with gateway(serving(then=then)) as (port, _):
        seen = asked_together(port, 80)
    assert {status for _, _, status, _ in seen} <= {200, 502}
    assert are_right([each for each in seen if each[2] == 200])


def test_answer_that_comes_late_and_unasked_never_crosses_to_another_credential():
    """To another request of the same one it may: over one connection nothing tells it apart."""

    def script(peer):
        while data := asked(peer):
            peer.send(answered(data))
            time.sleep(next(PAUSES))
            peer.send(answered(re.sub(rb"/v1/files/[^/ ]+", b"/v1/files/other", data)))

    with gateway(script) as (port, _):
        seen = asked_together(port, 160, keys=("sk-0", "sk-1", "sk-2", "sk-3"))
    assert {status for _, _, status, _ in seen} <= {200, 502}
    for _, key, status, value in seen:
        assert status == 502 or value["filename"].split(" ")[1] == key[::-1]
