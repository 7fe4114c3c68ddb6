"""Only the configuration decides where a request goes: no header, path, body or answer sends it elsewhere.

There are two upstreams: A is configured, B is not. Whatever asks for B, B must see no connection, and the interpreter's
own audit (`connections`) must report only the client's connections to the gateway and the gateway's to A.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import threading

import audit
import pytest
from fakes import FILE, form, form_type
from sockets import WAIT, Upstream, answer, answering, ask, request, served

from filesproxy import create_app
from filesproxy.providers import PROVIDERS

COMPAT = {"x-portkey-provider": "compat", "authorization": "Bearer sk-caller"}
UPLOAD = form(("purpose", "batch"), ("file", "a.jsonl", "application/jsonl", b"hello"))
ANSWER = answer({**FILE, "data": [], "has_more": False, "object": "list"})
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy", "no_proxy")


class Two:
    """The gateway between a client and two upstreams. `{b}` in a request is replaced by B's host and port."""

    def __init__(self, gateway, a, b):
        self.port, self.a, self.b = gateway.server_port, a, b

    def filled(self, text):
        return text.replace("{b}", f"127.0.0.1:{self.b.port}").replace("{b_port}", str(self.b.port))

    def ask(self, method="GET", path="/v1/files/file-1", headers=None, body=b"", **more):
        """Send a request. Its headers are added to those of COMPAT, or replace them."""
        headers = {**COMPAT, **(headers or {}), **more}
        if isinstance(body, (dict, list)):
            body, headers = json.dumps(body).encode(), {"content-type": "application/json", **headers}
        filled = {name: value and self.filled(value) for name, value in headers.items()}
        data = request(method, self.filled(path), b"", filled).replace(b"\r\n\r\n", b"", 1)
        body = self.filled(body.decode("latin-1")).encode("latin-1")
        framed = b"\r\ncontent-length: %d" % len(body) if body else b""
        return ask(self.port, data + framed + b"\r\n\r\n" + body)

    def upload(self, headers=None, body=UPLOAD, path="/v1/files"):
        return self.ask("POST", path, {"content-type": form_type(), **(headers or {})}, body)


@pytest.fixture
def between(connections):
    """A function that starts a gateway in front of A. At the end, nothing but A may have been connected to."""
    with contextlib.ExitStack() as stack:
        allowed = set()

        def start(script=None, kind="openai", section=None, scheme="http"):
            b = stack.enter_context(Upstream(answering(ANSWER)))
            a = stack.enter_context(Upstream(script(b) if script else answering(ANSWER)))
            own = {"kind": kind, "base_url": f"{scheme}://127.0.0.1:{a.port}/v1", **(section or {})}
            gateway = stack.enter_context(served(create_app({"provider:compat": own})))
            allowed.update({("127.0.0.1", gateway.server_port), ("127.0.0.1", a.port)})
            two.append(Two(gateway, a, b))
            return two[-1]

        two = []
        yield start
        assert [each.b.connections for each in two] == [0] * len(two)
        assert two and set(connections()) <= allowed
        assert set(connections.looked_up()) <= allowed


# Headers of a client

HEADERS = {
    "host": {"host": "{b}"},
    "host_with_user": {"host": "127.0.0.1@{b}"},
    "forwarded_host": {"x-forwarded-host": "{b}", "x-forwarded-proto": "http", "x-forwarded-port": "{b_port}"},
    "forwarded": {"forwarded": "for=127.0.0.1;host={b};proto=http"},
    "forwarded_server": {"x-forwarded-server": "{b}", "x-host": "{b}", "x-http-host-override": "{b}"},
    "original_url": {"x-original-url": "http://{b}/v1/files", "x-rewrite-url": "http://{b}/v1/files"},
    "custom_host": {"x-portkey-custom-host": "http://{b}/v1"},
    "custom_host_without_scheme": {"x-portkey-custom-host": "{b}"},
    "config_inline": {"x-portkey-config": '{"provider":"openai","custom_host":"http://{b}/v1"}'},
    "config_with_targets": {"x-portkey-config": '{"strategy":{"mode":"fallback"},"targets":[{"base_url":"http://{b}"}]}'},
    "base_url_headers": {"x-portkey-base-url": "http://{b}/v1", "x-portkey-api-base": "http://{b}", "base-url": "{b}"},
    "provider_as_url": {"x-portkey-provider": "http://{b}/v1"},
    "provider_as_host": {"x-portkey-provider": "{b}"},
    "saved_provider_as_url": {"x-portkey-provider": "@http://{b}/v1"},
    "provider_with_a_host_after_it": {"x-portkey-provider": "compat@{b}"},
    "virtual_key_as_url": {"x-portkey-virtual-key": "http://{b}"},
    "proxy": {"proxy": "http://{b}", "proxy-connection": "keep-alive", "http-proxy": "http://{b}"},
    "organization": {"openai-organization": "evil@{b}/", "openai-project": "http://{b}#"},
    "portkey_organization": {"x-portkey-openai-organization": "@{b}", "x-portkey-openai-project": "//{b}/"},
    "azure_resource": {"x-portkey-azure-resource-name": "{b}#"},
    "aws_and_vertex": {"x-portkey-aws-region": "{b}/", "x-portkey-vertex-region": "{b}#"},
    "referer_and_origin": {"referer": "http://{b}/", "origin": "http://{b}", "from": "@{b}"},
    "via": {"via": "1.1 {b}"},
    "upgrade": {"connection": "upgrade", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQAAP__"},
    "destination": {"destination": "http://{b}/", "link": "<http://{b}/>; rel=next", "alt-svc": 'h3="{b}"'},
    "credential_with_a_host": {"authorization": "Bearer sk@{b}"},
    "credential_as_basic": {"authorization": "Basic " + base64.b64encode(b"user:@127.0.0.1").decode()},
    "range": {"range": "bytes=0-1", "if-range": "http://{b}/"},
    "trace": {"x-portkey-trace-id": "http://{b}/", "x-portkey-metadata": '{"url":"http://{b}/"}'},
    "cache": {"x-portkey-cache-namespace": "http://{b}/", "x-portkey-forward-headers": "host,x-forwarded-host"},
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_no_header_sends_a_request_elsewhere(name, between):
    two = between()
    two.ask(headers=HEADERS[name])
    two.upload(HEADERS[name])
    two.ask("POST", "/v1/batches", HEADERS[name], {"input_file_id": "file-1"})
    for peer in two.a.peers:  # A sees its own name, whatever Host the client sent
        assert f"\r\nhost: 127.0.0.1:{two.a.port}\r\n".encode() in peer.head


def test_plain_requests_reach_a(between):
    """Without this, the other tests would prove nothing."""
    two = between()
    assert two.ask().status == two.upload().status == 200
    assert two.ask("POST", "/v1/batches", body={"input_file_id": "file-1"}).status == 200
    assert two.a.connections == 3


# Request lines of a client

TARGETS = (
    "http://{b}/v1/files/file-1",
    "HTTP://{b}/v1/files/file-1",
    "https://{b}/v1/files/file-1",
    "http://user@{b}/v1/files/file-1",
    "http://127.0.0.1@{b}/v1/files/file-1",
    "http:{b}/v1/files/file-1",
    "ftp://{b}/v1/files/file-1",
    "file:///etc/hostname",
    "//{b}/v1/files/file-1",
    "/\\{b}/v1/files/file-1",
    "@{b}/v1/files/file-1",
    "/v1/files/file-1@{b}",
    "{b}",
    "*",
)
IDS = (
    "@{b}",
    "x@{b}",
    ":80@{b}",
    "//{b}",
    "//{b}/x",
    "http://{b}",
    "http:%2f%2f{b}",
    "%2f%2f{b}%2fx",
    "%2F..%2F..%2F@{b}",
    "%40{b}",
    "..",
    "../@{b}",
    "..%2f..%2f@{b}",
    "%2e%2e/@{b}",
    "#@{b}",
    "%23@{b}",
    "?@{b}",
    "x?host={b}",
    "%3f@{b}",
    "\\@{b}",
    "%5c%5c{b}",
    "%00@{b}",
    "%0d%0aHost:{b}",
    "%0d%0a%0d%0aGET%20http://{b}/",
    "%E2%80%AE@{b}",
    ";@{b}",
    ".{b}",
    "{b}",
)
PATHS = (
    ("GET", "/v1/files/{id}"),
    ("GET", "/v1/files/{id}/content"),
    ("DELETE", "/v1/files/{id}"),
    ("GET", "/v1/batches/{id}"),
    ("POST", "/v1/batches/{id}/cancel"),
    ("POST", "/v1/uploads/{id}/complete"),
    ("GET", "/v1/responses/{id}"),
    ("GET", "/v1/fine_tuning/jobs/{id}/events"),
)


@pytest.mark.parametrize("target", TARGETS)
def test_no_request_target_sends_a_request_elsewhere(target, between):
    two = between()
    for method in ("GET", "POST", "DELETE", "HEAD", "CONNECT", "OPTIONS", "PATCH"):
        two.ask(method, target)
    for peer in two.a.peers:
        assert peer.head.split(b" ")[1] in (b"/v1/files/file-1", b"/v1/files")


@pytest.mark.parametrize("item_id", IDS)
def test_no_id_sends_a_request_elsewhere(item_id, between):
    two = between()
    for method, path in PATHS:
        two.ask(method, path.format(id=item_id), body={"part_ids": []} if method == "POST" else b"")
        if path == PATHS[0][1]:
            two.ask(method, "/mounted/../v1/files/" + item_id)
    two.upload(path=f"/v1/uploads/{item_id}/parts", body=form(("data", "a", "", b"x")))
    for peer in two.a.peers:  # if anything was sent, then to a path below A's base URL
        assert peer.head.split(b" ")[1].startswith(b"/v1/") and b".." not in peer.head and b"@" not in peer.head


QUERIES = ("after=@{b}", "after=http://{b}/", "after=x%23@{b}", "after=%0d%0aHost:%20{b}", "limit=1&url=http://{b}/",
           "base_url=http://{b}/v1", "api-version=@{b}", "purpose=//{b}", "@{b}", "#@{b}", "?#@{b}",
           "include[]=//{b}/")  # fmt: skip


@pytest.mark.parametrize("query", QUERIES)
def test_no_query_sends_a_request_elsewhere(query, between):
    two = between()
    for path in ("/v1/files", "/v1/batches", "/v1/fine_tuning/jobs", "/v1/responses/resp_1"):
        two.ask("GET", f"{path}?{query}")


# Bodies of a client


def pdf(**file):
    part = {"type": "file", "file": {"mime_type": "application/pdf", **file}}
    return [{"role": "user", "content": [{"type": "text", "text": "http://{b}/"}, part]}]


def image(url):
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


CHATS = {
    "file_url": {"messages": pdf(file_url="http://{b}/a.pdf")},
    "file_url_of_https": {"messages": pdf(file_url="https://{b}/a.pdf")},
    "file_url_of_a_file": {"messages": pdf(file_url="file://{b}/etc/hostname")},
    "file_data_as_url": {"messages": pdf(file_data="http://{b}/a.pdf")},
    "file_data_as_data_url": {"messages": pdf(file_data="data:application/pdf;base64,JVBERi0=", filename="//{b}/a")},
    "file_id_as_url": {"messages": pdf(file_id="http://{b}/a.pdf")},
    "file_id_with_user": {"messages": pdf(file_id="@{b}", mime_type=None)},
    "file_id_with_steps": {"messages": pdf(file_id="../../@{b}", mime_type=None)},
    "image_url": {"messages": image("http://{b}/a.png")},
    "image_of_https": {"messages": image("https://{b}/a.png")},
    "model_as_url": {"model": "http://{b}/gpt", "messages": pdf(file_id="file-1")},
    "model_with_steps": {"model": "../../../@{b}/x", "messages": pdf(file_id="file-1")},
    "model_with_slashes": {"model": "//{b}/gpt", "messages": pdf(file_id="file-1")},
    "model_with_a_fragment": {"model": "gpt#@{b}", "messages": pdf(file_id="file-1")},
    "model_that_names_an_unknown_provider": {"model": "@http://{b}/gpt", "messages": pdf(file_id="file-1")},
    "model_that_names_the_provider_and_more": {"model": "@compat/@{b}/gpt", "messages": pdf(file_id="file-1")},
    "fields_of_portkeys": {"messages": pdf(file_id="file-1"), "custom_host": "http://{b}", "base_url": "http://{b}/v1"},
    "tools_with_a_server": {"messages": pdf(file_id="file-1"), "tools": [
        {"type": "mcp", "server_url": "http://{b}/", "server_label": "x"}]},
    "web_search": {"messages": pdf(file_id="file-1"), "web_search_options": {"url": "http://{b}/"}},
    "citations": {"messages": [{"role": "assistant", "content": "a", "audio": {"url": "http://{b}/"}},
                               {"role": "user", "content": "http://{b}/"}]},
}  # fmt: skip
KINDS = {
    "openai": {},
    "anthropic": {},
    "azure-openai": {"api_version": "2024-10-21"},
    "azure-openai v1": {"api_version": "v1"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CHATS)
def test_no_chat_makes_the_gateway_fetch_or_go_elsewhere(name, kind, between):
    two = between(kind=kind.partition(" ")[0], section=KINDS[kind])
    body = {"model": "gpt-4o", "max_tokens": 5, **CHATS[name]}
    two.ask("POST", "/v1/chat/completions", body=body)
    two.ask("POST", "/v1/chat/completions", body={**body, "stream": True})
    for peer in two.a.peers:
        assert f"\r\nhost: 127.0.0.1:{two.a.port}\r\n".encode() in peer.head
        assert b".." not in peer.head and b"@" not in peer.head.partition(b"\r\n")[0]


def test_file_url_of_a_chat_is_passed_to_the_provider_and_not_fetched(between):
    for kind in ("openai", "anthropic"):
        two = between(kind=kind)
        body = {"model": "m", "max_tokens": 5, "messages": pdf(file_url="https://{b}/a.pdf")}
        two.ask("POST", "/v1/chat/completions", body=body)
        assert two.a.connections == 1
        assert f"https://127.0.0.1:{two.b.port}/a.pdf".encode() in bytes(two.a.peers[0].received)


BODIES = {
    "batch": ("/v1/batches", {"input_file_id": "http://{b}/", "endpoint": "http://{b}/v1/chat/completions",
                              "completion_window": "24h", "callback_url": "http://{b}/"}),
    "batch_with_steps": ("/v1/batches", {"input_file_id": "../@{b}", "endpoint": "//{b}", "completion_window": "@{b}"}),
    "upload": ("/v1/uploads", {"filename": "http://{b}/a", "purpose": "@{b}", "bytes": 1, "mime_type": "//{b}"}),
    "complete": ("/v1/uploads/upload_1/complete", {"part_ids": ["http://{b}/", "../@{b}"], "md5": "//{b}"}),
    "response": ("/v1/responses", {"model": "//{b}/x", "input": [{"role": "user", "content": [
        {"type": "input_file", "file_url": "http://{b}/a.pdf"}, {"type": "input_image", "image_url": "http://{b}/"}]}]}),
    "response_tools": ("/v1/responses", {"model": "m", "input": "x", "tools": [
        {"type": "mcp", "server_url": "http://{b}/sse", "server_label": "x"}], "previous_response_id": "../@{b}"}),
    "compact": ("/v1/responses/compact", {"model": "m", "previous_response_id": "http://{b}/"}),
    "fine_tuning": ("/v1/fine_tuning/jobs", {"model": "@{b}/m", "training_file": "http://{b}/a.jsonl", "integrations": [
        {"type": "wandb", "wandb": {"project": "http://{b}/", "host": "{b}"}}]}),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_no_json_makes_the_gateway_fetch_or_go_elsewhere(name, between):
    two = between()
    path, body = BODIES[name]
    two.ask("POST", path, body=body)
    assert two.a.connections == 1


FORMS = {
    "file_name_as_url": form(("purpose", "batch"), ("file", "http://{b}/a", "", b"x")),
    "file_as_url": form(("purpose", "http://{b}/"), ("file", "a", "message/external-body; url=//{b}", b"http://{b}/")),
    "field_url": form(("purpose", "batch"), ("url", "http://{b}/"), ("file_url", "//{b}"), ("file", "a", "", b"x")),
    "external": form(("purpose", "batch"), ("file", "a", "", b"<!DOCTYPE a SYSTEM 'http://{b}/'>")),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_no_form_makes_the_gateway_fetch_or_go_elsewhere(name, kind, between):
    between(kind=kind).upload(body=FORMS[name])


# Answers: A's answer names B

STATUSES = (
    "301 A",
    "302 B",
    "303 C",
    "305 Use Proxy",
    "307 D",
    "308 E",
    "300 F",
    "201 Created",
    "401 No",
    "511 Portal",
)
LOCATIONS = ("http://{b}/v1/files", "//{b}/", "http://localhost:{b_port}/", "https://{b}/", "http://{b}")


@pytest.mark.parametrize("status", STATUSES)
def test_no_redirect_is_followed(status, between):
    for place in LOCATIONS:

        def script(b, place=place):
            there = place.replace("{b}", f"127.0.0.1:{b.port}").replace("{b_port}", str(b.port))
            headers = {
                "location": there,
                "content_location": there,
                "refresh": f"0; url={there}",
                "link": f"<{there}>; rel=next",
                "alt_svc": f'http/1.1="127.0.0.1:{b.port}"; ma=9',
                "www_authenticate": f'Bearer realm="{there}", authorization_uri="{there}"',
                "proxy": there,
            }
            return answering(answer({**FILE, "url": there}, status, **headers))

        two = between(script)
        replies = [two.ask(), two.ask("GET", "/v1/files/file-1/content"), two.ask("DELETE"), two.upload(),
                   two.ask("POST", "/v1/batches", body={"input_file_id": "f"}), two.ask(path="/v1/files")]  # fmt: skip
        assert two.a.connections == len(replies)
        for reply in replies:
            assert "location" not in reply.headers and "link" not in reply.headers and "refresh" not in reply.headers
            assert reply.status == 502 or not status.startswith("3")


@pytest.mark.parametrize("kind", ["openai", "anthropic", "azure-openai"])
def test_no_list_sends_a_request_elsewhere(kind, between):
    """All pages are requested from A, whatever cursor or address it gives for the next one."""
    first = {"object": "file", "bytes": 1, "size_bytes": 1, "created_at": 5, "filename": "a", "purpose": "batch",
             "status": "processed", "mime_type": "a/b"}  # fmt: skip
    created = {"created_at": "2025-04-15T18:37:24Z"} if kind == "anthropic" else {}

    def script(b):
        there = f"http://127.0.0.1:{b.port}/v1/files"

        def page(peer):
            head = peer.read_head()
            last = b"after" in head or b"page=" in head
            cursors = {"next": there, "next_page": None if last else f"@127.0.0.1:{b.port}/", "url": there,
                       "first_id": "@" + there, "last_id": "@" + there, "@odata.nextLink": there}  # fmt: skip
            has_more = {} if "next_page" in peer.kinds else {"has_more": not last}
            peer.send(answer({"data": [{**first, **created, "id": f"@127.0.0.1:{b.port}/x"}], **cursors, **has_more}))

        def run(peer):
            peer.kinds = ("next_page",) if kind == "anthropic" else ()
            page(peer)

        return run

    two = between(script, kind=kind)
    two.ask("GET", "/v1/files?limit=2")
    two.ask("GET", "/v1/files?purpose=assistants")
    assert two.a.connections >= 2


def test_no_file_object_sends_a_request_elsewhere(between):
    """Anthropic's file types are looked up by the client's ids, never by anything in an answer."""

    def script(b):
        there = f"http://127.0.0.1:{b.port}/"
        return answering(answer({**FILE, "id": there, "mime_type": there, "url": there, "download_url": there}))

    two = between(script, kind="anthropic")
    two.ask("POST", "/v1/chat/completions", body={"model": "m", "messages": pdf(file_id="file_1", mime_type=None)})
    two.ask("GET", "/v1/files/file_1/content")
    assert {peer.head.split(b" ")[1] for peer in two.a.peers} <= {b"/v1/files/file_1", b"/v1/files/file_1/content"}


# Azure: a client names a resource, a version or a deployment

RESOURCES = ("evil#", "{b}#", "{b}/", "{b}?", "@{b}", "x@{b}#", "127.0.0.1:{b_port}\\", "evil/..", "..", "", " ", "a.b",
             "2130706433:{b_port}/", "[::1]:{b_port}/", "0x7f.1", "%40{b}%23", "x\u00e9", "a" * 65,
             "evil.example/")  # fmt: skip


@pytest.mark.parametrize("resource", RESOURCES)
def test_no_azure_resource_changes_the_host(resource, between):
    two = between()
    own = {"x-portkey-provider": "azure-openai", "x-portkey-azure-resource-name": resource}
    replies = [two.ask(headers=own), two.upload(own)]
    replies += [two.ask("POST", "/v1/chat/completions", own, {"model": "m", "messages": []})]
    assert [reply.status for reply in replies] == [400, 400, 400]
    two = between(kind="azure-openai")  # with a configured address
    assert two.ask(headers={**own, "x-portkey-provider": "compat"}).status == (400 if resource.strip() else 200)


DEPLOYMENTS = ("//{b}/x", "../../../@{b}", "x/../../y", "@{b}", "x#@{b}", "x?@{b}", "%2f%2f{b}", "{b}", "\\\\{b}", "http://{b}",
               ".", "..", "x\r\nhost: {b}", "x y", "é", "m" * 200)  # fmt: skip


@pytest.mark.parametrize("version", ["2024-10-21", "v1"])
@pytest.mark.parametrize("deployment", DEPLOYMENTS)
def test_no_azure_deployment_changes_the_destination(deployment, version, between):
    two = between(kind="azure-openai", section={"api_version": version})
    messages = [{"role": "user", "content": "a"}]
    two.ask("POST", "/v1/chat/completions", body={"model": deployment, "messages": messages})
    named = {"x-portkey-azure-deployment-id": deployment.replace("\r\n", "")}
    if named["x-portkey-azure-deployment-id"].isascii():
        two.ask("POST", "/v1/chat/completions", named, {"model": "m", "messages": messages})
    for peer in two.a.peers:
        target = peer.head.split(b" ")[1].partition(b"?")[0]
        assert target == b"/v1/chat/completions" or (version == "2024-10-21" and target.endswith(b"/chat/completions"))
        assert target.count(b"/") in (3, 5) and b".." not in target and b"@" not in target


@pytest.mark.parametrize("version", ["@{b}", "v1/../..", "2024-10-21#@{b}", "2024-10-21&host={b}", "//{b}", "V1"])
def test_no_azure_version_changes_the_destination(version, between):
    two = between(kind="azure-openai")
    assert two.ask(headers={"x-portkey-azure-api-version": version}).status == 400
    assert two.a.connections == 0


# The environment


@pytest.mark.parametrize("proxy", ["none", "env"])
def test_no_environment_variable_changes_the_destination(proxy, between, monkeypatch):
    two = between(section={"proxy": proxy})
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("http_proxy", "all_proxy", "ftp_proxy", "OPENAI_BASE_URL", "OPENAI_API_BASE", "HOST", "SERVER_NAME"):
        for form_of in (name, name.upper()):
            monkeypatch.setenv(form_of, f"http://127.0.0.1:{two.b.port}/v1")
    monkeypatch.setenv("REQUEST_METHOD", "GET")
    assert two.ask().status == two.upload().status == 200
    assert two.ask(headers={"proxy": "http://{b}"}).status == 200


def test_https_ignores_the_environment_if_proxy_is_none(between, monkeypatch):
    two = between(lambda b: lambda peer: peer.read(), section={"proxy": "none"}, scheme="https")
    for name in (*PROXY_VARIABLES[:3], *map(str.upper, PROXY_VARIABLES[:3])):
        monkeypatch.setenv(name, f"http://127.0.0.1:{two.b.port}")
    assert two.ask().status == 502  # A does not speak TLS here
    assert two.a.connections == 1


# The audit itself


def test_every_host_of_the_table_is_reached_by_https():
    """Built-in addresses are https; other hosts of a provider must be declared, and are https too."""
    addresses = {name: provider["base_url"] for name, provider in PROVIDERS.items()}
    assert {name for name, base_url in addresses.items() if callable(base_url)} == {"azure-openai", "local"}
    fixed = [base_url for base_url in addresses.values() if not callable(base_url)]
    others = [host for provider in PROVIDERS.values() for host in provider.get("hosts", ())]
    for url in [*fixed, *others]:
        assert re.fullmatch(r"https://[a-z0-9.-]+(/[a-z0-9/]+)?", url), url


def refused(address, family=socket.AF_INET):
    with contextlib.closing(socket.socket(family)) as sock, contextlib.suppress(OSError):
        sock.setblocking(False)
        sock.connect(address)


@pytest.mark.parametrize(
    "address,family",
    [(("192.0.2.1", 9), socket.AF_INET), (("2001:db8::1", 9), socket.AF_INET6), (("203.0.113.7", 1), socket.AF_INET)],
)
def test_audit_fails_a_test_that_connects_to_a_foreign_host(address, family, connections):
    refused(address, family)  # documentation addresses (RFC 5737, RFC 3849); not waited for
    assert connections() == [address]
    with pytest.raises(pytest.fail.Exception, match=address[0].split(":")[0]):
        connections.check()
    refused(address, family)
    connections.allow(address[0])
    connections.check()


def test_audit_fails_a_test_that_looks_up_a_foreign_name(connections):
    with contextlib.suppress(OSError):
        socket.getaddrinfo("nosuch.invalid", 80)
    connections.check()
    for name, local in (("localhost", True), ("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True),
                        ("", True), ("api.openai.com", False), ("192.0.2.1", False), ("localhost.example", False),
                        ("127.0.0.1.example", False), ("::ffff:192.0.2.1", False)):  # fmt: skip
        assert audit.Contact("socket.getaddrinfo", name, 80).is_local is local, name


def test_audit_sees_the_connections_of_every_thread(connections):
    """A gateway connects in the threads of its server, where a test that asks its own thread would see nothing."""
    threads = [threading.Thread(target=refused, args=(("192.0.2.1", port),)) for port in (9, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert sorted(connections()) == [("192.0.2.1", 9), ("192.0.2.1", 10)]
    with pytest.raises(pytest.fail.Exception, match="192.0.2.1"):
        connections.check()


def test_audit_ignores_unix_sockets(connections, tmp_path):
    refused(str(tmp_path / "none"), socket.AF_UNIX)
    refused(bytes(tmp_path / "none"), socket.AF_UNIX)
    connections.check()
