"""Where a request goes: never where a client, a redirect or the environment says, and not back to us."""

from __future__ import annotations

import json
import re
import socket

import pathological as bad
import pytest
from fakes import FILE
from scene import CANARY, KEY, LATE, by_key, content, get, in_parallel, outcome, upload, within
from sockets import answer, answering


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_502_and_the_key_goes_nowhere(status, gateway, stage, scene):
    port = scene.elsewhere.port
    origins = ("http://127.0.0.1", "http://localhost", "//127.0.0.1", "https://127.0.0.1", "ftp://127.0.0.1")
    for location in (*(f"{origin}:{port}/" for origin in origins), "file:///etc/hostname"):
        stage.play(bad.redirecting(status, location))
        calls = [lambda call=call: call(gateway) for call in (get, content, upload)]
        assert [outcome(reply) for reply in in_parallel(calls)] == [(502, "upstream_redirect")] * 3
        assert stage.calls() == 3
    assert scene.elsewhere.calls() == 0


def off_the_table(scene):
    """What would send a request elsewhere, if anybody believed it: a query, headers, the provider."""
    there = f"127.0.0.1:{scene.elsewhere.port}"
    for name in ("x-portkey-custom-host", "x-portkey-base-url", "api-base", "base-url", "x-forwarded-host",
                 "x-host", "x-original-url", "x-portkey-forward-headers", "proxy"):  # fmt: skip
        yield "", {name: f"http://{there}/"}, "compat"
    yield "", {"host": there}, "compat"
    yield f"?api_base=http://{there}&base_url=http://{there}&custom_host={there}", {}, "compat"
    yield "", {"x-portkey-config": json.dumps({"custom_host": f"http://{there}"})}, "compat"
    for resource in (f"{there}#", f"{there}/..", f"a@{there}", "[::1]", "2130706433", "evil#", "evil/..", "evil%23"):
        yield "", {"x-portkey-azure-resource-name": resource, "api-key": KEY, "authorization": None}, "azure-openai"
    for provider in (there, f"http://{there}", f"@{there}", "127.0.0.1", "compat@evil", "compat#evil", "../compat"):
        yield "", {}, provider


def test_client_cannot_choose_where_a_request_goes(gateway, stage, scene):
    for query, headers, provider in off_the_table(scene):
        if headers.get("x-portkey-azure-resource-name") == "2130706433":
            continue  # a name like any other: of RESOURCE.openai.azure.com
        stage.play(stage.script)
        headers = {name.replace("-", "_"): value for name, value in headers.items()}
        reply = get(gateway, f"/v1/files/file-1{query}", provider, **headers)
        assert reply.status in (200, 400), (headers, provider)
        assert stage.calls() == (reply.status == 200)
        if reply.status == 200:
            assert stage.peer.head.startswith(b"GET /v1/files/file-1 HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n" % stage.port)
    assert scene.elsewhere.calls() == 0


def test_proxy_for_http_is_never_believed(gateway, stage, scene):
    """Its environment names `elsewhere` in http_proxy, HTTP_PROXY and all_proxy."""
    assert get(gateway, proxy=f"http://127.0.0.1:{scene.elsewhere.port}").status == 200
    assert stage.calls() == 1
    assert b"\r\nproxy" not in stage.peer.head.lower()
    assert scene.elsewhere.calls() == 0


@pytest.mark.parametrize("provider,calls", [("secure", 0), ("tunnelled", 1), ("direct", 0)])
def test_proxy_for_https_is_used_under_its_setting_and_by_connect(provider, calls, gateway, scene):
    scene.secure.play(answering(answer(FILE)), bad.server_context(scene.authority.issue("again")))
    scene.proxy.play(bad.tunnelling)
    assert get(gateway, provider=provider).status == 200
    assert scene.proxy.calls() == calls
    if calls:
        (peer,) = scene.proxy.peers  # whose tunnel is kept
        assert peer.head.startswith(b"CONNECT 127.0.0.1:%d " % scene.secure.port)
        assert CANARY.encode() not in peer.received


def test_provider_that_leads_back_to_us_is_508_on_the_second_hop(gateway, stage):
    stage.play(bad.relaying_to(gateway.port))
    with within(LATE):
        assert outcome(get(gateway)) == (508, "loop_detected")
        assert outcome(upload(gateway)) == (508, "loop_detected")
    assert stage.calls() == 2  # one for each


def test_gateway_without_a_name_makes_one(keyed, stage):
    stage.play(bad.relaying_to(keyed.port))
    assert outcome(by_key(keyed)) == (508, "loop_detected")
    assert stage.calls() == 1


def test_another_gateway_may_forward_to_us(keyed, stage):
    """To one with keys: without any, a gateway on a loopback address is for no proxy."""
    assert by_key(keyed, via="1.1 of-a-department, 1.0 fred (a comment)").status == 200
    name = re.search(rb"\r\nvia: 1\.1 ([^\r]+)\r", stage.peer.head)[1].decode()
    assert socket.gethostname() not in name
    assert by_key(keyed, via=f"1.1 {name}-2, 1.0 fred (a comment)").status == 200
    assert outcome(by_key(keyed, via=f"1.1 of-a-department, HTTP/1.1 {name}")) == (508, "loop_detected")
    assert stage.calls() == 2
