"""Who calls: the headers that SDKs really send, and who may ask where nobody needs a key."""

from __future__ import annotations

import io

import pytest

from filesproxy.auth import Caller, authenticate, require_this_machine
from filesproxy.errors import BadRequest, Forbidden
from filesproxy.wsgi import Request


def request(client_address="127.0.0.1", **headers):
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/v1/files",
        "wsgi.input": io.BytesIO(),
        "REMOTE_ADDR": client_address,
    }
    return Request({**environ, **{f"HTTP_{name.upper()}": value for name, value in headers.items()}})


CREDENTIALS = [
    ({}, ""),
    ({"authorization": "Bearer sk-a"}, "sk-a"),
    ({"authorization": "bearer sk-a"}, "sk-a"),
    ({"authorization": "BEARER   sk-a  "}, "sk-a"),
    ({"authorization": "Bearer " + "a" * 4096}, "a" * 4096),
    ({"x_portkey_api_key": "pk"}, "pk"),
    ({"authorization": "Bearer sk-a", "x_portkey_api_key": "pk"}, "sk-a"),
    ({"authorization": "Bearer OPENAI_API_KEY", "x_portkey_api_key": "pk"}, "pk"),
    ({"authorization": "Bearer DUMMY-KEY"}, ""),
    ({"authorization": "Bearer dummy-key"}, "dummy-key"),
    ({"authorization": "Basic dXNlcjpwYXNz", "x_portkey_api_key": "pk"}, "pk"),
    ({"authorization": "Basic dXNlcjpwYXNz"}, ""),
    ({"authorization": "Bearersk-a"}, ""),
    ({"authorization": "sk-a"}, ""),
    ({"authorization": "Digest a=b, c=d"}, ""),
    ({"authorization": ""}, ""),
    ({"authorization": "Bearer fp_gateway"}, ""),
    ({"x_portkey_api_key": "fp_gateway"}, ""),
    ({"authorization": "Bearer sk-a", "x_portkey_api_key": "fp_gateway"}, "sk-a"),
    ({"authorization": "Bearer fp_gateway", "x_portkey_api_key": "pk"}, "pk"),
    ({"authorization": "Bearer fp_one", "x_portkey_api_key": "fp_two"}, ""),
    ({"api_key": "a", "x_api_key": "b", "cookie": "c", "proxy_authorization": "Bearer d"}, ""),
]


@pytest.mark.parametrize("headers,credential", CREDENTIALS)
def test_credential_is_the_one_that_the_caller_meant(headers, credential):
    assert authenticate(request(**headers)) == Caller("", credential)


@pytest.mark.parametrize(
    "value",
    ["Bearer a,b", "Bearer a, Bearer b", "Bearer a b", "Bearer a\tb", "Bearer é", "Bearer a\r\nb", "Bearer a\0",
     "Bearer " + "a" * 4097, "Bearer ,", "bearer a,bearer a"],
)  # fmt: skip
def test_bearer_that_repeats_or_holds_odd_characters_is_400_and_not_repeated(value):
    with pytest.raises(BadRequest) as refused:
        authenticate(request(authorization=value))
    assert refused.value.param == "authorization"
    assert value[7:] not in refused.value.message.split()


@pytest.mark.parametrize("value", ["a,b", "a b", "é", "a\r\nb"])
def test_portkey_key_that_repeats_is_400_even_beside_a_good_bearer(value):
    with pytest.raises(BadRequest) as refused:
        authenticate(request(authorization="Bearer sk-a", x_portkey_api_key=value))
    assert refused.value.param == "x-portkey-api-key"


def test_repr_of_a_caller_shows_no_credential():
    assert "sk-a" not in repr(Caller("team", "sk-a"))


LOCAL_HOSTS = [
    "localhost",
    "localhost:8787",
    "LOCALHOST",
    "127.0.0.1",
    "127.0.0.1:80",
    "127.9.9.9:8787",
    "[::1]",
    "[::1]:8787",
    "localhost:",
]
OTHER_HOSTS = ["", "evil.example", "evil.example:8787", "127.0.0.1.evil.example", "localhost.evil.example",
               "localhost:80@evil.example", "192.0.2.1", "0.0.0.0", "[::]", "10.0.0.1:8787", "127.1", "2130706433",
               "0x7f000001", "evil.example:localhost", "localhost,evil.example", "[::ffff:192.0.2.1]",
               "169.254.169.254", "127.0.0.1/..", " localhost"]  # fmt: skip


@pytest.mark.parametrize("host", LOCAL_HOSTS)
@pytest.mark.parametrize("client_address", ["127.0.0.1", "127.1.2.3", "::1", "", None])
def test_this_machine_under_a_loopback_host_is_let_in(host, client_address):
    require_this_machine(request(client_address, host=host))
    require_this_machine(request(client_address, host=host, origin=f"http://{host}"))


@pytest.mark.parametrize("host", OTHER_HOSTS)
def test_any_other_host_is_403(host):
    with pytest.raises(Forbidden):
        require_this_machine(request(host=host))


def test_no_host_at_all_is_403():
    with pytest.raises(Forbidden):
        require_this_machine(request())


@pytest.mark.parametrize(
    "client_address",
    ["192.0.2.1", "10.0.0.1", "0.0.0.0", "::", "fe80::1", "::ffff:192.0.2.1", "unix", "evil.example", "127.0.0.1:5"],
)  # fmt: skip
def test_any_other_machine_is_403_whatever_it_says(client_address):
    with pytest.raises(Forbidden):
        require_this_machine(request(client_address, host="localhost", x_forwarded_for="127.0.0.1",
                                     x_real_ip="127.0.0.1",
                                     forwarded="for=127.0.0.1", x_forwarded_host="localhost"))  # fmt: skip


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "", "http://localhost", "http://localhost:8788",
     "http://localhost:8787.evil.example", "http://127.0.0.1:8787", "localhost:8787",
     "http://evil.example://localhost:8787", "http://localhost:8787/", "file://"],
)  # fmt: skip
def test_page_of_another_origin_is_403(origin):
    with pytest.raises(Forbidden):
        require_this_machine(request(host="localhost:8787", origin=origin))
