"""Certificates of upstreams, and the one that the gateway shows them, under real servers."""

from __future__ import annotations

import re
import ssl
import sys

import pathological as bad
import pytest
from fakes import FILE
from scene import HELLO, by_key, get, in_parallel, outcome, upload
from sockets import answer, answering


def test_certificate_that_cannot_be_verified_is_502(gateway, scene):
    issue = scene.authority.issue
    wrong = {
        "stranger": bad.server_context(issue("fine")),
        "secure": bad.server_context(issue("other-name", "elsewhere.test")),
        "lax": bad.server_context(issue("of-another-ca")),
    }
    for provider, context in wrong.items():
        is_refused_for_its_certificate(gateway, scene, provider, context)
    is_refused_for_its_certificate(gateway, scene, "secure", bad.server_context(issue("expired", days=-1)))


def is_refused_for_its_certificate(gateway, scene, provider, context):
    scene.secure.play(answering(answer(FILE)), context)
    reply = get(gateway, provider=provider)
    assert outcome(reply) == (502, "upstream_tls")
    assert "127.0.0.1" in reply.error["message"] and "ca_file" in reply.error["message"]
    assert not re.search("elsewhere.test|private-ca|expired|stranger|other-name", reply.error["message"])
    assert scene.secure.peers == []  # no handshake, so no credential


def test_old_tls_is_502(gateway, scene):
    scene.secure.play(answering(answer(FILE)), bad.old_server_context(scene.authority.issue("old")))
    assert outcome(get(gateway, provider="secure")) == (502, "upstream_tls")
    assert scene.secure.peers == []


def test_ca_without_key_usage_is_taken_where_the_setting_says_so(gateway, scene):
    scene.secure.play(answering(answer(FILE)), bad.server_context(scene.unmarked.issue("unmarked")))
    assert get(gateway, provider="lax").status == 200
    strict = outcome(get(gateway, provider="strict"))
    assert strict == ((502, "upstream_tls") if sys.version_info >= (3, 13) else (200, None))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1_2", "1_3"])
def test_certificate_of_our_own_goes_with_the_saved_credential(version, gateway, keyed, scene):
    context = bad.server_context(scene.authority.issue("mutual"), client_ca=scene.authority.ca)
    context.maximum_version = version
    scene.secure.play(answering(answer(FILE)), context)
    assert by_key(keyed, provider="@mutual").status == 200
    assert len(scene.secure.peers) == 1
    calls = [lambda p=p: get(gateway, provider=p) for p in ("secure", "mutual")] + [
        lambda: upload(gateway, HELLO, "secure")
    ]
    assert [outcome(reply)[0] for reply in in_parallel(calls)] == [502] * 3
