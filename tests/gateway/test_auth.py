"""Authentication: the headers that SDKs really send, gateway keys, and who may call if no key is needed."""

from __future__ import annotations

import io

import pytest
from configurations import MADE, hashed
from fakes import FILE, form, form_type

from filesproxy.config.load import Key
from filesproxy.errors import BadRequest, Forbidden, Unauthorized
from filesproxy.gateway.auth import Caller, authenticate, permit, require_this_machine
from filesproxy.gateway.request import Request
from filesproxy.operations import ROUTES
from filesproxy.redaction import Secret


def request(client_address="127.0.0.1", **headers):
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/v1/files",
        "wsgi.input": io.BytesIO(),
        "REMOTE_ADDR": client_address,
    }
    return Request({**environ, **{f"HTTP_{name.upper()}": value for name, value in headers.items()}})


TEAM, OLD, PLAIN = "fp_team", "fp_team-before", "a-key-of-our-own"
KEYS = (
    Key("other", (hashed("fp_other"),), ("*",), ("*",), True),
    Key("team", (hashed(OLD), hashed(TEAM), hashed(PLAIN)), ("openai",), ("list_files",), False),
)

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
    # what the vendors' own test-suites send: a token is all the visible text after the scheme
    ({"authorization": "Bearer My API Key"}, "My API Key"),
    ({"authorization": "bearer   My  Admin API Key  "}, "My  Admin API Key"),
    ({"authorization": "Bearer Bearer sk-a"}, "Bearer sk-a"),
    ({"authorization": 'Bearer {"token": "a"} ~!'}, '{"token": "a"} ~!'),
    ({"authorization": "Bearer " + "a " * 2047 + "ab"}, "a " * 2047 + "ab"),
    ({"authorization": "Bearer "}, ""),
    ({"x_portkey_api_key": " My API Key "}, "My API Key"),
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
    ({"authorization": "Bearer Bearer fp_gateway"}, ""),
    ({"authorization": "Bearer sk-a fp_gateway", "x_portkey_api_key": "pk"}, "pk"),
    ({"x_portkey_api_key": "mine: fp_gateway"}, ""),
    ({"api_key": "a", "x_api_key": "b", "cookie": "c", "proxy_authorization": "Bearer d"}, ""),
]


@pytest.mark.parametrize("headers,credential", CREDENTIALS)
def test_credential_is_taken_from_the_header_that_the_caller_meant(headers, credential):
    found = authenticate(request(**headers), ())
    assert found == Caller(None, Secret(credential)) and type(found.credential) is Secret
    assert found.name == ""


@pytest.mark.parametrize(
    "value",
    ["Bearer a,b", "Bearer a, Bearer b", "Bearer a\tb", "Bearer é", "Bearer a\r\nb", "Bearer a\0",
     "Bearer " + "a" * 4097, "Bearer ,", "bearer a,bearer a", "Basic eDp5,Bearer a", "Bearer a,Basic eDp5"],
)  # fmt: skip
@pytest.mark.parametrize("keys", [(), KEYS], ids=["no_keys", "keys"])
def test_repeated_or_malformed_bearer_is_400_and_not_quoted(value, keys):
    with pytest.raises(BadRequest) as refused:
        authenticate(request(authorization=value), keys)
    assert refused.value.param == "authorization"
    assert value[7:] not in refused.value.message.split()


@pytest.mark.parametrize("value", ["a,b", "a, b", "é", "a\r\nb"])
@pytest.mark.parametrize("keys", [(), KEYS], ids=["no_keys", "keys"])
def test_repeated_portkey_key_is_400_even_together_with_a_valid_bearer(value, keys):
    with pytest.raises(BadRequest) as refused:
        authenticate(request(authorization="Bearer sk-a", x_portkey_api_key=value), keys)
    assert refused.value.param == "x-portkey-api-key"


def test_repr_of_a_caller_shows_no_credential():
    assert "sk-a" not in repr(Caller(KEYS[0], Secret("sk-a")))
    assert "sk-a" not in repr(authenticate(request(authorization="Bearer sk-a"), ()))


# what a client with the gateway key KEY sends, and its own credential
WITH_A_KEY = {
    "portkey_header": ({"x_portkey_api_key": "KEY"}, ""),
    "bearer": ({"authorization": "Bearer KEY"}, ""),
    "bearer_in_upper_case": ({"authorization": "BEARER KEY"}, ""),
    "same_key_in_both": ({"x_portkey_api_key": "KEY", "authorization": "Bearer KEY"}, ""),
    "own_credential_as_bearer": ({"x_portkey_api_key": "KEY", "authorization": "Bearer sk-a"}, "sk-a"),
    "openai_sdk_without_a_key": ({"x_portkey_api_key": "KEY", "authorization": "Bearer OPENAI_API_KEY"}, ""),
    "portkey_sdk_without_a_key": ({"x_portkey_api_key": "KEY", "authorization": "Bearer DUMMY-KEY"}, ""),
    "another_gateway_key_as_bearer": ({"x_portkey_api_key": "KEY", "authorization": "Bearer fp_other"}, ""),
    "basic_authorization_too": ({"x_portkey_api_key": "KEY", "authorization": "Basic dXNlcjpwYXNz"}, ""),
    "key_as_bearer_and_an_empty_header": ({"x_portkey_api_key": "", "authorization": "Bearer KEY"}, ""),
}


@pytest.mark.parametrize("presented", [TEAM, OLD, PLAIN])
@pytest.mark.parametrize("name", WITH_A_KEY)
def test_key_is_recognised_by_any_of_its_hashes_and_is_never_a_credential(name, presented):
    headers, credential = WITH_A_KEY[name]
    sent = {header: text.replace("KEY", presented) if text[-4:] in ("KEY", " KEY") else text
            for header, text in headers.items()}  # fmt: skip
    found = authenticate(request(**sent), KEYS)
    assert (found.key, found.name) == (KEYS[1], "team")
    assert found.credential == credential and type(found.credential) is Secret


NO_KEY = [
    {},
    {"x_portkey_api_key": "", "authorization": ""},
    {"x_portkey_api_key": "fp_nobody"},
    {"authorization": "Bearer fp_nobody"},
    {"authorization": "Bearer sk-a"},
    {"authorization": "Bearer OPENAI_API_KEY"},
    {
        "x_portkey_api_key": "fp_nobody",
        "authorization": f"Bearer {TEAM}",
    },  # the header takes precedence over the bearer
    {"x_portkey_api_key": hashed(TEAM)},
    {"x_portkey_api_key": TEAM.upper()},
    {"x_portkey_api_key": TEAM + "x"},
    {"x_portkey_api_key": TEAM[:-1]},
    {"x_portkey_api_key": "team"},
    {"api_key": TEAM},
    {"x_api_key": TEAM},
    {"cookie": f"key={TEAM}"},
    {"proxy_authorization": f"Bearer {TEAM}"},
    {"authorization": TEAM},
    {"authorization": f"Basic {TEAM}"},
]


@pytest.mark.parametrize("headers", NO_KEY)
def test_caller_without_a_known_key_is_401_if_keys_are_configured(headers):
    with pytest.raises(Unauthorized) as refused:
        authenticate(request(**headers), KEYS)
    assert refused.value.code == "invalid_api_key"
    assert not [text for text in headers.values() if text and text in refused.value.message]


def test_hash_of_the_empty_text_admits_nobody():
    with pytest.raises(Unauthorized):
        authenticate(request(), (Key("empty", (hashed(""),), ("*",), ("*",), True),))


@pytest.mark.parametrize("operation", sorted({operation for _, _, operation, *_ in ROUTES}))
def test_key_permits_its_operations_only(operation):
    permit(Caller(KEYS[0]), operation)
    permit(Caller(None), operation)
    if operation == "list_files":
        permit(Caller(KEYS[1]), operation)
    else:
        with pytest.raises(Forbidden):
            permit(Caller(KEYS[1]), operation)


KEYED = {
    "filesproxy": {"isolation": "no"},
    "provider:openai": {"credential": "sk-saved"},
    "provider:second": {"kind": "openai", "base_url": "https://second.example/v1", "credential": "sk-second"},
    "key:team": {"sha256": f"{hashed(OLD)} {hashed(TEAM)}", "providers": "openai"},
    "key:reader": {"sha256": hashed("fp_reader"), "providers": "*", "operations": "list_files retrieve_file"},
    "key:own": {"sha256": hashed("fp_own-key"), "caller_credentials": "yes"},
    "key:plain": {"sha256": hashed(PLAIN), "caller_credentials": "yes"},
}
UPLOAD = form(("purpose", "batch"), ("file", "a.jsonl", "", b"hello"))
OPERATIONS = {
    "upload_file": ("POST", "/v1/files"),
    "list_files": ("GET", "/v1/files"),
    "retrieve_file": ("GET", "/v1/files/file-1"),
    "retrieve_file_content": ("GET", "/v1/files/file-1/content"),
    "delete_file": ("DELETE", "/v1/files/file-1"),
}
ANSWERS = {
    "list_files": {"object": "list", "data": []},
    "delete_file": {"id": "file-1", "object": "file", "deleted": True},
}


def perform(client, operation, headers, status=200):
    method, path = OPERATIONS[operation]
    body = UPLOAD if method == "POST" else b""
    typed = {"content-type": form_type()} if body else {}
    return client.request(path, method=method, body=body, headers={**typed, **headers}, status=status)


def everything_sent(upstream):
    """All URLs, queries and headers that were sent, as one text. (A repr would hide a Secret.)"""
    texts = [[call.url, *call.query.values(), *call.headers.values()] for call in upstream.calls]
    return "\n".join("\n".join(map(str, part)) for part in texts)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    "config", [KEYED, {**KEYED, "filesproxy": {"isolation": "no", "open_access": "yes"}}], ids=["keys", "open_access"]
)
def test_every_operation_needs_a_key_if_keys_are_configured(operation, config, make_client, upstream):
    client = make_client(config)
    for provider in ("openai", "@openai", "nobody", ""):
        for presented in ({}, {"authorization": "Bearer sk-a"}, {"x-portkey-api-key": "fp_nobody"}):
            answer = perform(client, operation, {"x-portkey-provider": provider, **presented}, 401)
            assert answer.json["error"]["code"] == "invalid_api_key"
    assert upstream.calls == []


@pytest.mark.parametrize("presented", [{}, {"x-portkey-api-key": "fp_nobody"}, {"authorization": "Bearer a,b"}])
def test_health_needs_no_key(presented, make_client):
    for path in ("/", "/v1/health"):
        assert make_client(KEYED).get(path, headers=presented).json["status"] == "ok"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_key_uses_the_saved_credential_and_its_name_is_logged(operation, make_client, upstream, access_log):
    upstream.answers(ANSWERS.get(operation, FILE))
    for presented in (TEAM, OLD):
        perform(make_client(KEYED), operation, {"x-portkey-provider": "@openai", "x-portkey-api-key": presented})
    assert [call.headers["authorization"] for call in upstream.calls] == ["Bearer sk-saved"] * 2
    assert [(line["key"], line["provider"]) for line in access_log()] == [("team", "@openai")] * 2


# key, provider, operation: what this key does not allow
FORBIDDEN = [
    (TEAM, "@second", "list_files"),
    (TEAM, "openai", "list_files"),
    (TEAM, "azure-openai", "list_files"),
    ("fp_reader", "@openai", "upload_file"),
    ("fp_reader", "@openai", "retrieve_file_content"),
    ("fp_reader", "@second", "delete_file"),
    ("fp_own-key", "@openai", "list_files"),
    ("fp_own-key", "@second", "upload_file"),
]


@pytest.mark.parametrize("key,provider,operation", FORBIDDEN)
def test_key_without_permission_is_403_and_nothing_is_sent(key, provider, operation, make_client, upstream):
    headers = {"x-portkey-provider": provider, "x-portkey-api-key": key, "authorization": "Bearer sk-a"}
    error = perform(make_client(KEYED), operation, headers, 403).json["error"]
    assert (error["type"], error["code"]) == ("permission_error", "forbidden")
    assert key not in error["message"] and upstream.calls == []


@pytest.mark.parametrize("host", ["localhost", "gateway.example:443"])
def test_key_works_from_any_machine_under_any_host(host, make_client, upstream):
    upstream.answers(ANSWERS["list_files"])
    headers = {"x-portkey-provider": "@openai", "x-portkey-api-key": TEAM, "host": host, "origin": "https://x.example"}
    make_client(KEYED).get("/v1/files", headers=headers, extra_environ={"REMOTE_ADDR": "192.0.2.1"})
    assert [call.headers["authorization"] for call in upstream.calls] == ["Bearer sk-saved"]


def test_caller_may_use_its_own_credential_if_its_key_allows_that(make_client, upstream, access_log):
    upstream.answers(ANSWERS["list_files"])
    headers = {"x-portkey-provider": "openai", "x-portkey-api-key": "fp_own-key", "authorization": "Bearer sk-a"}
    make_client(KEYED).get("/v1/files", headers=headers)
    assert upstream.calls[0].headers == {"authorization": "Bearer sk-a"}
    assert (access_log()[0]["key"], access_log()[0]["provider"]) == ("own", "openai")


# headers sent together with {"x-portkey-provider": "@openai"}: how SDKs present the same key
PRESENTATIONS = [
    {"authorization": f"Bearer {TEAM}"},
    {"x-portkey-api-key": TEAM, "authorization": f"Bearer {TEAM}"},
    {"x-portkey-api-key": TEAM, "authorization": "Bearer OPENAI_API_KEY"},
    {"x-portkey-api-key": TEAM, "authorization": "Bearer DUMMY-KEY"},
    {"x-portkey-api-key": TEAM, "authorization": "Bearer sk-of-somebody"},
    {"x-portkey-api-key": TEAM, "authorization": "Bearer fp_reader"},
    {"x-portkey-api-key": TEAM, "authorization": "Basic dXNlcjpwYXNz"},
    {"x-portkey-api-key": TEAM, "cookie": "sk-a", "proxy-authorization": "sk-a", "x-portkey-metadata": "sk-a"},
]


@pytest.mark.parametrize("headers", PRESENTATIONS)
def test_other_credentials_sent_with_a_saved_provider_are_ignored_and_not_sent_on(headers, make_client, upstream):
    upstream.answers(ANSWERS["list_files"])
    make_client(KEYED).get("/v1/files", headers={"x-portkey-provider": "@openai", **headers})
    (call,) = upstream.calls
    assert (dict(call.headers), dict(call.query)) == ({"authorization": "Bearer sk-saved"}, {})


# where a client could put a gateway key (KEY), and a provider that would be sent this value
POSITIONS = {
    "bearer": ("openai", {"authorization": "Bearer KEY"}),
    "portkey_header": ("openai", {"x-portkey-api-key": "KEY"}),
    "both_headers": ("openai", {"authorization": "Bearer KEY", "x-portkey-api-key": "KEY"}),
    "organisation": ("openai", {"authorization": "Bearer sk-a", "openai-organization": "KEY"}),
    "portkey_project": ("openai", {"authorization": "Bearer sk-a", "x-portkey-openai-project": "KEY"}),
    "azure_bearer": ("azure-openai", {"authorization": "Bearer KEY"}),
    "azure_api_key": ("azure-openai", {"api-key": "KEY"}),
    "azure_token": ("azure-openai", {"x-portkey-azure-ad-token": "KEY"}),
    "x_api_key": ("openai", {"authorization": "Bearer sk-a", "x-api-key": "KEY"}),
    "range": ("openai", {"authorization": "Bearer sk-a", "range": "KEY", "if-range": "KEY"}),
    "if_range": ("openai", {"authorization": "Bearer sk-a", "range": "bytes=0-1", "if-range": "KEY"}),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_value_with_the_form_of_gateway_keys_never_goes_upstream(name, make_client, upstream):
    upstream.answers(FILE)
    provider, headers = POSITIONS[name]
    named = {"x-portkey-provider": provider, "x-portkey-azure-resource-name": "mine"}
    sent = {header: text.replace("KEY", MADE) for header, text in headers.items()}
    for path in ("/v1/files/file-1", "/v1/files/file-1/content"):
        make_client().get(path, headers={**named, **sent}, status="*")
    assert "fp_" not in everything_sent(upstream)


@pytest.mark.parametrize("presented", ["fp_own-key", PLAIN])
@pytest.mark.parametrize("name", POSITIONS)
@pytest.mark.parametrize("where", ["x-portkey-api-key", "authorization"])
def test_presented_gateway_key_never_goes_upstream(where, name, presented, make_client, upstream):
    upstream.answers(FILE)
    provider, headers = POSITIONS[name]
    named = {"x-portkey-provider": provider, "x-portkey-azure-resource-name": "mine"}
    key = {where: presented if where == "x-portkey-api-key" else f"Bearer {presented}"}
    sent = {header: text.replace("KEY", presented) for header, text in headers.items()}
    for path in ("/v1/files/file-1", "/v1/files/file-1/content"):
        make_client(KEYED).get(path, headers={**named, **sent, **key}, status="*")
    assert presented not in everything_sent(upstream)


def test_each_key_sees_its_own_local_files_only(make_client, tmp_path, access_log):
    config = {
        "filesproxy": {"folder": str(tmp_path), "default_provider": "local"},
        "key:a": {"sha256": f"{hashed('fp_a')} {hashed('fp_a-new')}", "providers": "local"},
        "key:b": {"sha256": hashed("fp_b"), "providers": "*"},
        "key:c": {"sha256": hashed("fp_c"), "providers": "openai", "caller_credentials": "yes"},
    }
    client = make_client(config, transports=None)
    a, new_a, b, c = ({"x-portkey-api-key": f"fp_{name}"} for name in ("a", "a-new", "b", "c"))
    file = perform(client, "upload_file", a).json["id"]
    other = perform(client, "upload_file", {"authorization": "Bearer fp_b"}).json["id"]

    def seen(headers):
        return [listed["id"] for listed in client.get("/v1/files", headers=headers).json["data"]]

    assert (seen(a), seen(new_a), seen(b)) == ([file], [file], [other])
    for path in ("", "/content"):
        assert client.get(f"/v1/files/{file}{path}", headers=b, status=404).json["error"]["code"] == "not_found"
    client.delete(f"/v1/files/{file}", headers=b, status=404)
    assert {listed["id"] for listed in client.get(f"/v1/files?after={file}", headers=b).json["data"]} <= {other}
    client.get("/v1/files", headers={**b, "x-filesproxy-owner": "a"}, status=403)
    perform(client, "list_files", c, 403)
    perform(client, "list_files", {}, 401)
    assert client.get(f"/v1/files/{file}/content", headers=new_a).body == b"hello"
    assert client.delete(f"/v1/files/{file}", headers=new_a).json["deleted"] is True
    assert {line["key"] for line in access_log()} == {"a", "b", "c", None}


def test_keys_of_one_owner_share_its_files_and_outlive_each_other(make_client, tmp_path, access_log):
    def client(*names):
        keys = {f"key:{name}": {"sha256": hashed(f"fp_{name}"), "providers": "*", "owner": "retail"} for name in names}
        return make_client({"filesproxy": {"folder": str(tmp_path), "default_provider": "local"}, **keys})

    both = client("old", "new")
    file = perform(both, "upload_file", {"x-portkey-api-key": "fp_old"}).json["id"]
    for after in (both, client("new")):
        listed = after.get("/v1/files", headers={"x-portkey-api-key": "fp_new"}).json["data"]
        assert [each["id"] for each in listed] == [file]
    assert {(line["key"], line["owner"]) for line in access_log()} == {("old", "retail"), ("new", "retail")}


def test_key_that_sees_all_lists_and_reads_every_owners_files_and_does_nothing_else_with_them(make_client, tmp_path):
    vllm = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "credential": "none", "files": "local"}
    keys = {name: {"sha256": hashed(f"fp_{name}"), "providers": "*"} for name in ("a", "b", "auditor")}
    keys["auditor"]["sees"] = "all"
    config = {"filesproxy": {"folder": str(tmp_path), "default_provider": "local"}, "provider:vllm": vllm}
    client = make_client({**config, **{f"key:{name}": key for name, key in keys.items()}})
    a, b, auditor = ({"x-portkey-api-key": f"fp_{name}"} for name in keys)
    hers, his = (perform(client, "upload_file", {"authorization": f"Bearer fp_{name}"}).json["id"] for name in "ab")

    def seen(**headers):
        return [each["id"] for each in client.get("/v1/files", headers={**auditor, **headers}).json["data"]]

    assert seen() == [hers, his]
    assert (seen(**{"x-filesproxy-owner": "b"}), seen(**{"x-filesproxy-owner": "nobody"})) == ([his], [])
    assert seen(**{"x-portkey-provider": "@vllm"}) == [hers, his]
    for path in ("", "/content"):
        client.get(f"/v1/files/{hers}{path}", headers=auditor)
        client.get(f"/v1/files/{hers}{path}", headers={**auditor, "x-filesproxy-owner": "b"}, status=404)
    client.delete(f"/v1/files/{hers}", headers=auditor, status=404)
    chat = {
        "model": "@vllm/m",
        "messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": hers}}]}],
    }
    client.post_json("/v1/chat/completions", chat, headers=auditor, status=404)
    refused = client.get("/v1/files", headers={**auditor, "x-portkey-provider": "@openai"}, status=400).json["error"]
    assert refused["code"] == "unknown_provider"
    client.get(f"/v1/files/{hers}", headers=b, status=404)


def test_owner_in_a_header_means_nothing_to_a_provider_with_files_of_its_own(make_client, upstream):
    key = {"sha256": hashed("fp_a"), "providers": "*", "sees": "all"}
    client = make_client({"provider:openai": {"credential": "sk-saved"}, "key:a": key})
    sent = {"x-portkey-api-key": "fp_a", "x-portkey-provider": "@openai", "x-filesproxy-owner": "b"}
    assert client.get("/v1/files", headers=sent, status=400).json["error"]["param"] == "x-filesproxy-owner"
    assert upstream.calls == []


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
def test_this_machine_with_a_loopback_host_is_admitted(host, client_address):
    require_this_machine(request(client_address, host=host))
    require_this_machine(request(client_address, host=host, origin=f"http://{host}"))


@pytest.mark.parametrize("host", OTHER_HOSTS)
def test_any_other_host_is_403(host):
    with pytest.raises(Forbidden):
        require_this_machine(request(host=host))


def test_missing_host_is_403():
    with pytest.raises(Forbidden):
        require_this_machine(request())


@pytest.mark.parametrize(
    "client_address",
    ["192.0.2.1", "10.0.0.1", "0.0.0.0", "::", "fe80::1", "::ffff:192.0.2.1", "unix", "evil.example", "127.0.0.1:5"],
)  # fmt: skip
def test_any_other_machine_is_403_whatever_its_headers_claim(client_address):
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


@pytest.mark.parametrize("name", POSITIONS)
@pytest.mark.parametrize("other", ["fp_reader", PLAIN, OLD])
def test_another_teams_gateway_key_never_goes_upstream(other, name, make_client, upstream):
    upstream.answers(FILE)
    provider, headers = POSITIONS[name]
    sent = {header: text.replace("KEY", other) for header, text in headers.items()}
    for named in (provider, "@openai"):
        for path in ("/v1/files/file-1", "/v1/files/file-1/content"):
            own = {"x-portkey-provider": named, "x-portkey-api-key": "fp_own-key"}
            if provider == "azure-openai" and named == provider:
                own["x-portkey-azure-resource-name"] = "mine"
            make_client(KEYED).get(path, headers={**sent, **own}, status="*")
    assert other not in everything_sent(upstream)


def test_another_teams_gateway_key_is_not_accepted_as_a_credential(make_client, upstream):
    for other in ("fp_reader", PLAIN, OLD, TEAM):
        headers = {
            "x-portkey-provider": "openai",
            "x-portkey-api-key": "fp_own-key",
            "authorization": f"Bearer {other}",
        }
        error = make_client(KEYED).get("/v1/files/file-1", headers=headers, status=401).json["error"]
        assert error["code"] == "invalid_api_key" and other not in error["message"]
    assert upstream.calls == []


# headers that are refused if the caller has permission
BAD_HEADERS = [
    {"x-portkey-azure-resource-name": "theirs"},
    {"x-portkey-anthropic-workspace-id": "w"},
    {"openai-project": "a b"},
    {"openai-project": "proj-1"},
    {"x-portkey-request-timeout": "soon"},
    {"x-portkey-azure-api-version": "?"},
    {"api-key": "a,b"},
]


@pytest.mark.parametrize("headers", BAD_HEADERS)
@pytest.mark.parametrize("key,provider,operation", FORBIDDEN)
def test_missing_permission_is_reported_before_a_bad_header(key, provider, operation, headers, make_client, upstream):
    named = {"x-portkey-provider": provider, "x-portkey-api-key": key, "authorization": "Bearer sk-a"}
    error = perform(make_client(KEYED), operation, {**named, **headers}, 403).json["error"]
    assert error["code"] == "forbidden" and upstream.calls == []


@pytest.mark.parametrize("client_address", ["::ffff:127.0.0.1", "::ffff:127.9.9.9", "::FFFF:7F00:1"])
def test_ipv4_loopback_mapped_to_ipv6_is_this_machine(client_address):
    require_this_machine(request(client_address, host="localhost:8787"))
    require_this_machine(request(client_address, host="[::1]:8787", origin="http://[::1]:8787"))


@pytest.mark.parametrize("header", ["forwarded", "x_forwarded_for", "x_real_ip", "via"])
@pytest.mark.parametrize("value", ["127.0.0.1", "for=127.0.0.1", "192.0.2.1", "1.1 proxy", ""])
def test_request_through_a_proxy_is_not_from_this_machine(header, value):
    with pytest.raises(Forbidden):
        require_this_machine(request(host="localhost", **{header: value}))


@pytest.mark.parametrize("site", ["cross-site", "same-site", "Cross-Site", "", "anything"])
def test_page_of_another_site_is_403_even_without_an_origin(site):
    with pytest.raises(Forbidden):
        require_this_machine(request(host="localhost", sec_fetch_site=site))


@pytest.mark.parametrize("site", ["none", "same-origin"])
def test_browser_on_this_machine_is_admitted(site):
    require_this_machine(request(host="localhost:8787", sec_fetch_site=site, origin="http://localhost:8787"))


@pytest.mark.parametrize(
    "provider,headers,sent",
    [
        ("openai", {"authorization": "Bearer My API Key"}, {"authorization": "Bearer My API Key"}),
        ("openai", {"x-portkey-api-key": "My API Key"}, {"authorization": "Bearer My API Key"}),
        ("azure-openai", {"api-key": "example API key"}, {"api-key": "example API key"}),
        ("azure-openai", {"x-portkey-azure-ad-token": "an AD token"}, {"authorization": "Bearer an AD token"}),
        ("anthropic", {"x-api-key": "my anthropic key"}, {"x-api-key": "my anthropic key"}),
        ("anthropic", {"authorization": "Bearer my anthropic key"}, {"x-api-key": "my anthropic key"}),
    ],
)
def test_credential_with_inner_spaces_goes_upstream_unchanged_from_whichever_header(
    provider, headers, sent, client, upstream
):
    upstream.answers({**FILE, "size_bytes": 1, "mime_type": "a/b", "created_at": "2026-01-01T00:00:00Z"})
    named = {"x-portkey-provider": provider, "x-portkey-azure-resource-name": "acme", **headers}
    client.get("/v1/files/file-1/content", headers=named)
    got = {name: text for name, text in upstream.calls[0].headers.items() if name in CREDENTIAL_HEADERS}
    assert got == sent


CREDENTIAL_HEADERS = ("authorization", "api-key", "x-api-key")


def test_gateway_key_of_several_words_is_a_key_and_no_credential():
    keys = (Key("words", (hashed("My API Key"),), ("*",), ("*",), True),)
    assert authenticate(request(authorization="Bearer My API Key"), keys) == Caller(keys[0])
    alone = authenticate(request(x_portkey_api_key="My API Key", authorization="Bearer of My API Key"), keys)
    assert alone.credential == "of My API Key"  # the words of a key in other text are not the key
