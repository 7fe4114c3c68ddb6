"""No answer crosses: an upstream edge that answers twice, late, or one behind never shows a caller another's answer."""

from __future__ import annotations

import itertools
import json
import re
import select
import threading

import pytest
from configurations import hashed
from fakes import FILE
from sockets import Upstream, answer, ask, request, served, until

from filesproxy import create_app
from filesproxy.calls import Call, Target
from filesproxy.config.load import load
from filesproxy.providers import PROVIDERS
from filesproxy.redaction import Secret, single_credential
from filesproxy.transports.https.transport import HttpTransport

LIMITS = {**load({}, {}, PROVIDERS, {}).providers["openai"], "send_timeout": 2.0, "answer_timeout": 2.0}
TEAMS = ("retail", "treasury")
CALLS = 60  # of each kind, in each of four threads
KEYS = {f"key:{team}": {"sha256": hashed(f"fp_{team}"), "providers": "shared twin"} for team in TEAMS}


def requests_of(peer):
    """Each request that comes over a connection: its path."""
    seen = 0
    while True:
        while b"\r\n\r\n" not in peer.received[seen:]:
            if not peer.read():
                return
        head = bytes(peer.received[seen:]).partition(b"\r\n\r\n")[0]
        seen += len(head) + 4
        yield head.split(b" ")[1].decode()


def about(path):
    """The right answer to a path: a file's metadata, or a content that says whose it is."""
    file_id = re.search(r"/files/([^/?]+)", path)[1]
    if path.endswith("/content"):
        return answer(f"content of {file_id}".encode(), content_type="text/plain")
    return answer({**FILE, "id": file_id})


def identity(**changes):
    """A target for one caller, which differs from the others as said."""
    said = {"name": "shared", "credential": "sk-shared", "is_saved": True, "owner": "retail", **changes}
    credentials = single_credential(Secret(said["credential"]))
    return lambda url: Target(said["name"], {}, url, LIMITS, credentials, said["is_saved"], said["owner"],
                              credentials.now())  # fmt: skip


def performed(transport, upstream, target):
    call = Call("retrieve_file", "GET", "/files/file-1", url=f"{upstream.url}/files/file-1")
    body = transport(call, target(upstream.url)).body
    list(body)
    body.close()


def good(peer):
    for path in requests_of(peer):
        peer.send(about(path))


@pytest.mark.parametrize("changes", [{"owner": "treasury"}, {"credential": "sk-other"}, {"name": "twin"},
                                     {"is_saved": False}], ids=str)  # fmt: skip
def test_connection_is_used_again_for_the_same_caller_only(changes):
    with Upstream(good) as upstream:
        transport = HttpTransport()
        for _ in range(2):
            performed(transport, upstream, identity())
        assert upstream.connections == 1
        performed(transport, upstream, identity(**changes))
        assert upstream.connections == 2
        transport.close()


def one_behind(peer):
    """An edge that has lost count: each answer is that to the request before."""
    last = about("/files/file-of-somebody")
    for path in requests_of(peer):
        peer.send(last)
        last = about(path)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_answer_about_another_id_is_502_and_its_connection_is_not_used_again(method):
    with Upstream(one_behind) as upstream:
        with served(create_app({"provider:compat": {"kind": "openai", "base_url": upstream.url}})) as server:
            for number in range(3):
                headers = {"x-portkey-provider": "compat", "authorization": "Bearer sk-caller"}
                reply = ask(server.server_port, request(method, f"/v1/files/file-{number}", headers=headers))
                assert (reply.status, reply.error["code"]) == (502, "upstream_invalid_answer")
                assert "file-of-somebody" not in reply.body.decode()
        assert upstream.connections == 3


def doubling(sent):
    """An edge that sends one answer in five twice, the second one whenever it is told to."""
    count = itertools.count(1)

    def script(peer):
        for path in requests_of(peer):
            peer.send(about(path))
            if next(count) % 5 == 0:
                threading.Timer(0.03, late, [peer, about(path)]).start()

    def late(peer, double):
        sent.append(double)
        try:
            peer.send(double)
        except OSError:  # the connection was dropped meanwhile, as it should be
            return

    return script


def test_answers_that_come_twice_and_late_reach_no_other_team():
    """176 wrong answers of 3,900, 43 of them another team's: with one pool for a credential, whoever called."""
    doubles, wrong, statuses = [], [], []
    with Upstream(doubling(doubles)) as upstream:
        saved = {"kind": "openai", "credential": "sk-shared", "base_url": upstream.url}
        with served(create_app({**KEYS, "provider:shared": saved, "provider:twin": saved}, isolation=False)) as server:
            arguments = [(server.server_port, team, wrong, statuses) for team in TEAMS * 2]
            threads = [threading.Thread(target=calls, args=each) for each in arguments]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()  # each call of theirs has a time limit
    assert len(doubles) > 20
    assert wrong == []
    assert len(statuses) == len(threads) * CALLS * 2 and set(statuses) <= {200, 502}
    assert statuses.count(200) > len(statuses) / 2


def calls(port, team, wrong, statuses):
    for number in range(CALLS):
        provider = ("@shared", "@twin")[number % 2]
        headers = {"x-portkey-provider": provider, "x-portkey-api-key": f"fp_{team}"}
        mine = f"{team}-{number}"
        metadata = ask(port, request("GET", f"/v1/files/{mine}", headers=headers))
        if metadata.status == 200 and json.loads(metadata.body)["id"] != mine:
            wrong.append((mine, metadata.body))
        content = ask(port, request("GET", f"/v1/files/{mine}/content", headers=headers))
        statuses += [metadata.status, content.status]
        # A late double of one's own cannot be told from a content, which names no id; another team's never comes.
        if any(other.encode() in content.body for other in TEAMS if other != team):
            wrong.append((mine, content.body))


def test_double_that_comes_after_the_pool_has_looked_is_not_the_answer_to_the_next_request(monkeypatch):
    """It comes while the head of the next request is made; nothing has been sent yet, so a new connection serves."""
    import filesproxy.transports.https.transport as transport_module

    make_head, doubles = transport_module._head, iter([about("/files/file-1")])

    def interrupted(made, boundary):
        if made.url.path.endswith("file-2") and (double := next(doubles, None)):
            upstream.peers[0].send(double)
            select.select([made.watch.upstream], [], [], 5)
        return make_head(made, boundary)

    monkeypatch.setattr(transport_module, "_head", interrupted)
    with Upstream(good) as upstream:
        transport = HttpTransport()
        performed(transport, upstream, identity())
        call = Call("retrieve_file", "GET", "/files/file-2", url=f"{upstream.url}/files/file-2")
        body = transport(call, identity()(upstream.url)).body
        assert json.loads(b"".join(body))["id"] == "file-2"
        body.close()
        transport.close()
        assert until(lambda: upstream.connections == 2)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_mock_server_that_answers_each_call_with_the_example_of_the_specification_can_be_used(method):
    def script(peer):
        for _ in requests_of(peer):
            peer.send(answer({**FILE, "id": "string", "deleted": True}))

    with Upstream(script) as upstream:
        config = {"provider:compat": {"kind": "openai", "base_url": upstream.url}}
        with served(create_app(config)) as server:
            headers = {"x-portkey-provider": "compat", "authorization": "Bearer My API Key"}
            for _ in range(3):
                reply = ask(server.server_port, request(method, "/v1/files/file_id", headers=headers))
                assert (reply.status, json.loads(reply.body)["id"]) == (200, "string")
