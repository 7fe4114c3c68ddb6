"""Raw content with a known length: framed by it, streamed from an iterable, never more or less than announced."""

from __future__ import annotations

import pytest
from fakes import FILE
from sockets import Upstream, answer

from filesproxy.calls import Call, Content, Target
from filesproxy.config.load import load
from filesproxy.errors import FilesproxyError, StoreError
from filesproxy.providers import PROVIDERS
from filesproxy.transports.https.transport import HttpTransport

LIMITS = {**load({}, {}, PROVIDERS, {}).providers["openai"], "send_timeout": 2.0, "answer_timeout": 2.0}


def send(upstream, length, chunks, method="PUT"):
    call = Call("upload_file", method, "/blob", content=Content(length, "text/csv", chunks), url=f"{upstream.url}/blob")
    return HttpTransport()(call, Target("compat", {}, upstream.url, LIMITS))


def reading(length):
    """A script that answers once a body of this length has come."""

    def script(peer):
        peer.read_head()
        while len(body_of(peer)) < length and peer.read():
            pass
        peer.send(answer(FILE))

    return script


def body_of(peer):
    return bytes(peer.received)[len(peer.head) :]


@pytest.mark.parametrize("chunks", [[b"hello"], [b"he", b"", b"l", b"lo"], iter([b"hello"]), (b"h" for _ in "12345")])
def test_content_is_sent_with_its_length_and_type(chunks):
    with Upstream(reading(5)) as upstream:
        send(upstream, 5, chunks).body.close()
        head, body = upstream.peer.head.decode(), body_of(upstream.peer)
    assert "\r\ncontent-length: 5\r\n" in head and "\r\ncontent-type: text/csv\r\n" in head
    assert "transfer-encoding" not in head and len(body) == 5


def test_content_of_nothing_has_a_length_of_0():
    with Upstream(reading(0)) as upstream:
        send(upstream, 0, []).body.close()
        assert b"\r\ncontent-length: 0\r\n" in upstream.peer.head and body_of(upstream.peer) == b""


@pytest.mark.parametrize("chunks", [[], [b"four"], [b"six bytes"], [b"hello", b"!"]])
def test_content_of_another_length_never_completes_a_request(chunks):
    with Upstream(lambda peer: peer.read_to_end()) as upstream:
        with pytest.raises(FilesproxyError) as refused:
            send(upstream, 5, chunks)
        assert refused.value.code == "internal_error"
        assert upstream.peer.over.wait(5)
        assert len(upstream.peer.received) - len(upstream.peer.head) <= 5


def test_failure_of_the_content_passes_and_ends_the_connection():
    def chunks():
        yield b"he"
        raise StoreError("The stored file ended early.")

    with Upstream(lambda peer: peer.read_to_end()) as upstream:
        with pytest.raises(StoreError):
            send(upstream, 5, chunks())
        assert upstream.peer.over.wait(5)
