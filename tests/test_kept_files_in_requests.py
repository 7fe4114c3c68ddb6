"""Kept files on their way to a model host, over real sockets: hosts that refuse, stall or read slowly, lost files."""

from __future__ import annotations

import base64
import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from fakes import content_of, form, form_type
from processes import open_files
from sockets import Upstream, answer, ask, connect, receive, request, served, until

from filesproxy import create_app

PNG = b"\x89PNG\r\n\x1a\n"
MIB = 1 << 20
CHAT = {"id": "chatcmpl-1", "object": "chat.completion", "choices": []}


@contextmanager
def gateway(folder, script, **settings):
    """(port of the gateway, its upstream): a store, and a host without files beside it."""
    with Upstream(script) as upstream:
        config = {
            "provider:local": {"folder": str(folder)},
            "provider:host": {"kind": "openai", "base_url": upstream.url, "credential": "none", "files": "local"},
        }
        settings = {"default_provider": "host", "max_inline_bytes": 1 << 30, **settings}
        with served(create_app(config, **settings)) as server:
            yield server.server_port, upstream


def upload(port, content, name="a.bin"):
    body = form(("purpose", "assistants"), ("file", name, "", content))
    return ask(port, request("POST", "/v1/files", body, {"content-type": form_type()})).json["id"]


def chat_of(*file_ids, **more):
    parts = [{"type": "file", "file": {"file_id": file_id}} for file_id in file_ids]
    body = {"model": "m", "messages": [{"role": "user", "content": parts}], **more}
    return request("POST", "/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})


def length_of(peer):
    [length] = [line.split(b":")[1] for line in peer.head.split(b"\r\n") if line.startswith(b"content-length")]
    return int(length)


def body_of(peer):
    return bytes(peer.received).partition(b"\r\n\r\n")[2]


def read_whole(peer):
    """Read a request of announced length."""
    peer.read_head()
    while len(body_of(peer)) < length_of(peer) and peer.read():
        pass


def answers(peer):
    read_whole(peer)
    peer.send(answer(CHAT))


def is_whole(peer):
    return len(body_of(peer)) == length_of(peer)


def blobs(folder):
    """The files' blobs, oldest first."""
    found = [path for path in (folder / "blobs").iterdir() if path.suffix != ".json"]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns)


def open_blobs(folder):
    """The blobs that this process has open."""
    return [path for path in open_files(folder) if "blobs" in path]


@pytest.mark.parametrize("size", [1, 300_000, 5 * MIB])
def test_host_gets_every_byte_and_the_length_before(size, tmp_path):
    content = PNG + content_of(size)
    with gateway(tmp_path, answers) as (port, upstream):
        kept = upload(port, content)
        assert ask(port, chat_of(kept)).json == CHAT
        peer = upstream.peer
        assert b"transfer-encoding" not in peer.head and is_whole(peer)
        [part] = json.loads(body_of(peer))["messages"][0]["content"]
        assert base64.b64decode(part["image_url"]["url"].partition(",")[2]) == content
        assert until(lambda: not open_blobs(tmp_path))


def test_second_request_with_a_file_takes_a_connection_of_its_own(tmp_path):
    """On a kept one that the host has just closed, half a file would be lost with no way to send it again."""

    def goes_on(peer):
        answers(peer)
        peer.read_to_end()

    with gateway(tmp_path, goes_on) as (port, upstream):
        kept = upload(port, PNG)
        for _ in range(2):
            assert ask(port, chat_of(kept)).status == 200
        assert upstream.connections == 2


def test_host_that_reads_slowly_is_not_cut_by_the_time_of_a_transfer(tmp_path):
    """In real time: a transfer that takes longer than `total_timeout` is the subject."""
    total = 0.3

    def slow(peer):
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        peer.read_head()
        began = time.monotonic()
        while len(body_of(peer)) < length_of(peer):
            peer.read()
            if time.monotonic() - began < 5 * total:
                time.sleep(0.02)  # the pace of a slow host
        peer.send(answer(CHAT))

    with gateway(tmp_path, slow, total_timeout=total) as (port, upstream):
        kept = upload(port, PNG + content_of(20 * MIB))
        began = time.monotonic()
        assert ask(port, chat_of(kept)).json == CHAT
        assert time.monotonic() - began > 4 * total and is_whole(upstream.peer)


def test_host_that_stops_reading_is_a_504_and_has_no_whole_request(tmp_path):
    def stops(peer):
        peer.read_head()
        peer.stall()

    with gateway(tmp_path, stops, send_timeout=0.3) as (port, upstream):
        kept = upload(port, PNG + content_of(20 * MIB))
        reply = ask(port, chat_of(kept))
        assert (reply.status, reply.error["code"]) == (504, "upstream_timeout")
        assert until(lambda: not open_blobs(tmp_path))
        assert not is_whole(upstream.peers[0])


@pytest.mark.parametrize("body", [b"", {"error": {"message": "Too much for me.", "code": "large"}}])
def test_early_413_reaches_the_client_and_says_which_setting_helps(body, tmp_path):
    def refuses(peer):
        peer.read_head()
        peer.send(answer(body, "413 Content Too Large"))

    with gateway(tmp_path, refuses) as (port, upstream):
        kept = upload(port, PNG + content_of(50 * MIB))
        reply = ask(port, chat_of(kept))
        assert reply.status == 413 and "max_inline_bytes" in reply.error["message"]
        assert not is_whole(upstream.peer)


def test_file_deleted_while_another_is_sent_cuts_the_request(tmp_path):
    def waits(peer):
        peer.read_head()
        peer.fill_up()  # with the first file
        deleted.append(ask(ports[0], request("DELETE", f"/v1/files/{ids[1]}")).status)
        peer.read_to_end()

    ids, ports, deleted = [], [], []
    with gateway(tmp_path, waits) as (port, upstream):
        ids += [upload(port, PNG + content_of(20 * MIB)), upload(port, PNG + b"second")]
        ports.append(port)
        reply = ask(port, chat_of(*ids))
        assert (reply.status, reply.error["code"]) == (404, "not_found")
        assert reply.error["param"] == "messages[0].content[1].file.file_id"
        peer = upstream.peer
        assert deleted == [200] and MIB < len(body_of(peer)) < length_of(peer)


def test_file_cut_short_on_disk_while_it_is_sent_cuts_the_request(tmp_path):
    def waits(peer):
        peer.read_head()
        peer.fill_up()
        os.truncate(blobs(tmp_path)[0], 15 * MIB)
        peer.read_to_end()

    with gateway(tmp_path, waits) as (port, upstream):
        reply = ask(port, chat_of(upload(port, PNG + content_of(20 * MIB))))
        assert (reply.status, reply.error["code"]) == (500, "store_error")
        peer = upstream.peer
        assert MIB < len(body_of(peer)) < length_of(peer)


def test_text_that_changes_between_its_two_passes_cuts_the_request(tmp_path):
    def waits(peer):
        peer.read_head()
        peer.fill_up()
        with blobs(tmp_path)[1].open("r+b") as blob:
            blob.write(b"B")
        peer.read_to_end()

    with gateway(tmp_path, waits) as (port, upstream):
        ids = [upload(port, PNG + content_of(20 * MIB)), upload(port, b"a" * 1000)]
        reply = ask(port, chat_of(*ids))
        assert (reply.status, reply.error["code"]) == (500, "store_error")
        assert len(body_of(upstream.peer)) < length_of(upstream.peer)


def test_client_that_hangs_up_ends_the_request(tmp_path):
    def waits(peer):
        peer.read_head()
        peer.fill_up()
        client.close()
        assert until(lambda: not open_blobs(tmp_path))  # what is read on before could end the request, too
        peer.read_to_end()

    with gateway(tmp_path, waits) as (port, upstream):
        kept = upload(port, PNG + content_of(50 * MIB))
        client = connect(port)
        client.sendall(chat_of(kept))
        peer = upstream.peer
        assert len(body_of(peer)) < length_of(peer)
        assert until(lambda: not open_blobs(tmp_path))


def test_stream_of_events_comes_back_as_for_any_chat(tmp_path):
    events = b'data: {"choices":[]}\n\ndata: [DONE]\n\n'

    def streams(peer):
        read_whole(peer)
        peer.send(answer(events, content_type="text/event-stream"))

    with gateway(tmp_path, streams) as (port, upstream):
        kept = upload(port, b"hello")
        with connect(port) as client:
            client.sendall(chat_of(kept, stream=True))
            reply = receive(client)
        assert reply.status == 200 and events.strip() in reply.body
        assert json.loads(body_of(upstream.peer))["stream"] is True


def test_parallel_requests_with_the_same_file_get_it_each(tmp_path):
    content = PNG + content_of(MIB)
    with gateway(tmp_path, answers) as (port, upstream):
        kept = upload(port, content)
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda _: ask(port, chat_of(kept)).status, range(8)))
        assert replies == [200] * 8
        assert all(base64.b64encode(content) in peer.received for peer in upstream.peers)
