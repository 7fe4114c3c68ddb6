"""Upstreams that keep their connections: they answer one request after another, each with what was asked for."""

from __future__ import annotations

import itertools
import re

from fakes import FILE
from sockets import answer, chunked

COMPLETION = {"id": "c", "object": "chat.completion", "choices": []}
SERIALS = itertools.count(1)


def asked(peer):
    """The next request on a connection, with its body, as far as it came."""
    start = len(peer.received)

    def body():
        head, _, rest = bytes(peer.received[start:]).partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
        is_chunked = b"\r\ntransfer-encoding: chunked" in head
        return len(rest) >= int(length[1]) if length else not is_chunked or rest.endswith(b"\r\n0\r\n\r\n")

    while (b"\r\n\r\n" not in peer.received[start:] or not body()) and peer.read():
        pass
    return bytes(peer.received[start:])


def answered(data, **headers):
    """What an upstream answers: the id that was asked for, the credential, and a serial number of this answer's own.

    The credential is written backwards, as the gateway hides it.
    """
    found = re.match(rb"[A-Z]+ /v1/files/([^/ ?]+)", data)
    key = re.search(rb"\r\nauthorization: Bearer (\S+)|$", data)[1]
    id, key = found[1].decode() if found else "none", key.decode() if key else "nobody"
    value = {**COMPLETION, "id": id} if b"/chat/completions " in data else {**FILE, "id": id}
    return answer({**value, "filename": f"{id} {key[::-1]} {next(SERIALS)}"}, **headers)


def in_chunks(framed):
    """The same answer with its body in chunks."""
    head, _, body = framed.partition(b"\r\n\r\n")
    return re.sub(rb"content-length: [0-9]+", b"transfer-encoding: chunked", head) + b"\r\n\r\n" + chunked(body, 40)


def serving(then=lambda peer, count: None, instead=None, framed=answered):
    """A script: answer one request after another. `then(peer, count)` is called after each answer.

    `instead(peer, count)` is called before each answer. If either returns a true value, the connection ends.
    """

    def script(peer):
        for count in itertools.count(1):
            data = asked(peer)
            if not data or (instead and instead(peer, count)):
                return
            peer.send(framed(data))
            if then(peer, count):
                return

    return script


def requests(upstream, method=rb"(?:GET|POST|DELETE)"):
    """How many requests of a method have come, over all connections."""
    return sum(len(re.findall(method + rb" /v1/\S+ HTTP/1\.1\r\n", bytes(peer.received)))
               for peer in upstream.peers)  # fmt: skip
