"""Connections that an upstream spoils while they are kept: every answer is the right one, and nothing is sent twice."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from http.client import HTTPConnection

import pytest
from kept_alive import answered, requests, serving
from scene import CANARY, chat, get, in_parallel, outcome, plain_headers, said, upload
from sockets import WAIT, answer, request


@contextlib.contextmanager
def spoilt(stage, script):
    """This upstream, whose connections end after the block: a gateway may keep them for longer."""
    stage.play(script)
    yield stage
    for peer in stage.peers:
        with contextlib.suppress(OSError):
            peer.sock.shutdown(socket.SHUT_RDWR)


def many(gateway, count=1000, threads=8):
    """(id, status, answer) of so many requests for files, each by an id of its own."""

    def work(number):
        seen, headers = [], plain_headers("patient", connection="keep-alive")
        with contextlib.closing(HTTPConnection("127.0.0.1", gateway.port, timeout=WAIT)) as client:
            for turn in range(count // threads):
                id = f"file-{number}-{turn}"
                client.request("GET", f"/v1/files/{id}", headers=headers)
                with client.getresponse() as response:
                    seen.append((id, response.status, json.loads(response.read())))
        return seen

    return [
        each for seen in in_parallel([lambda number=number: work(number) for number in range(threads)]) for each in seen
    ]


KEPT_BADLY = {
    "is_never_closed": serving(),
    "is_closed_silently": serving(then=lambda peer, count: True),
    "is_closed_some_time_later": serving(then=lambda peer, count: time.sleep(count % 3 / 500) is None),
    "is_closed_upon_the_second_request": serving(instead=lambda peer, count: count == 2),
    "is_reset_upon_the_second_request": serving(instead=lambda peer, count: count == 2 and peer.reset() is None),
    "has_more_bytes_after_the_answer": serving(framed=lambda data: answered(data) + b"\r\n"),
    "has_another_answer_after_the_answer": serving(framed=lambda data: answered(data) * 2),
}


@pytest.mark.parametrize("name", KEPT_BADLY)
def test_each_of_a_thousand_answers_is_the_right_one_where_a_kept_connection(name, gateway, stage):
    with spoilt(stage, KEPT_BADLY[name]):
        seen = many(gateway)
    assert [status for _, status, _ in seen] == [200] * 1000
    assert [value["id"] for _, _, value in seen] == [id for id, _, _ in seen]
    assert len({value["filename"] for _, _, value in seen}) == 1000


def test_bytes_that_come_late_are_an_error_at_worst_and_in_no_answer(gateway, stage):
    def then(peer, count):
        time.sleep(count % 3 / 500)  # real time: the next request is to race with it
        peer.send(b"garbage\r\n\r\n")

    with spoilt(stage, serving(then=then)):
        seen = many(gateway, 400)
    assert {status for _, status, _ in seen} <= {200, 502}
    assert all(value["id"] == id for id, status, value in seen if status == 200)


def test_late_answer_of_one_credential_is_never_anothers(gateway, stage):
    """To another request of the same one it may go: over one connection nothing tells it apart."""

    def twice(peer, count):
        time.sleep(count % 3 / 500)  # real time: the next request is to race with it
        peer.send(answered(b"GET " + bytes(peer.received).rpartition(b"GET ")[2]))

    def work(number):
        key = f"{CANARY}-{number}"
        replies = [get(gateway, provider="patient", authorization=f"Bearer {key}") for _ in range(50)]
        return [(key, reply) for reply in replies]

    with spoilt(stage, serving(then=twice)):
        seen = sum(in_parallel([lambda number=number: work(number) for number in range(8)]), [])
    assert {reply.status for _, reply in seen} <= {200, 502}
    assert all(reply.json["filename"].split(" ")[1] == key[::-1] for key, reply in seen if reply.status == 200)


def test_connection_of_a_half_read_answer_is_not_used_again(gateway, stage):
    def framed(data):
        return answer(b"a" * 1000, content_length="5000") if b"/content " in data else answered(data)

    with spoilt(stage, serving(framed=framed)):
        for number in range(8):
            with gateway.connect() as sock:
                sock.sendall(request("GET", "/v1/files/file-1/content", headers=plain_headers("brief")))
                assert sock.recv(1000)
            reply = get(gateway, f"/v1/files/file-{number}", "brief")
            assert (reply.status, reply.json["id"]) == (200, f"file-{number}")


def test_upload_never_goes_over_a_kept_connection(gateway, stage):
    with spoilt(stage, serving()):
        for _ in range(20):
            assert get(gateway).status == 200
            assert upload(gateway).status == 200
        sent = [bytes(peer.received) for peer in stage.peers]
    assert sum(each.startswith(b"POST /v1/files ") for each in sent) == 20
    assert sum(each.count(b"POST /v1/files ") for each in sent) == 20
    assert requests(stage, b"GET") == 20


@pytest.mark.parametrize("how", ["close", "reset"])
def test_upload_that_nobody_answers_is_sent_once(how, gateway, stage):
    def instead(peer, count):
        is_upload = peer.received.startswith(b"POST ")
        if is_upload and how == "reset":
            peer.reset()
        return is_upload

    with spoilt(stage, serving(instead=instead)):
        for number in range(5):
            assert get(gateway).status == 200
            reply = upload(gateway)
            assert (outcome(reply)[0], reply.headers["x-should-retry"]) == (502, "false")
            assert requests(stage, b"POST") == number + 1


def test_chat_that_nobody_answers_is_sent_once(gateway, stage):
    with spoilt(stage, serving(instead=lambda peer, count: b"\nPOST " in b"\n" + peer.received.rpartition(b"}")[0])):
        for number in range(5):
            assert [get(gateway).status for _ in range(4)] == [200] * 4
            assert outcome(chat(gateway, said(b"1")))[0] == 502
            assert requests(stage, b"POST") == number + 1
