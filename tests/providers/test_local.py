"""The local store as a provider: OpenAI's contract, files that belong to gateway keys, no credentials."""

from __future__ import annotations

from hashlib import sha256

import pytest
from fakes import FILE, form, form_type

from filesproxy.transports.local.transport import LocalTransport

CONTENT = bytes(range(256))
UPLOAD = form(("purpose", "batch"), ("file", "naïve.jsonl", "application/jsonl", CONTENT))
ALICE, BOB = ({"authorization": f"Bearer fp_{name}"} for name in ("alice", "bob"))


@pytest.fixture
def local(make_client, tmp_path):
    """A client of a gateway without keys, with the store as default provider."""
    return make_client(transports={"local": LocalTransport()}, folder=str(tmp_path), default_provider="local")


@pytest.fixture
def keyed(make_client, tmp_path):
    """The same with two gateway keys that may use the store, and a third that may not."""
    keys = {
        f"key:{name}": {"sha256": sha256(f"fp_{name}".encode()).hexdigest(), "providers": providers}
        for name, providers in (("alice", "local"), ("bob", "*"), ("carol", ""))
    }
    config = {"filesproxy": {"folder": str(tmp_path), "default_provider": "local"}, **keys}
    return make_client(config, transports={"local": LocalTransport()})


def post(client, headers=None, body=UPLOAD):
    return client.post("/v1/files", body, {**(headers or {}), "content-type": form_type()}).json


def test_all_five_operations(local):
    stored = post(local)
    assert {name: stored[name] for name in ("object", "bytes", "filename", "purpose", "status", "expires_at")} == {
        "object": "file", "bytes": 256, "filename": "naïve.jsonl", "purpose": "batch", "status": "processed",
        "expires_at": None,
    }  # fmt: skip
    assert set(FILE) <= set(stored)
    path = f"/v1/files/{stored['id']}"
    assert local.get(path).json == stored
    assert local.get("/v1/files").json == {
        "object": "list", "data": [stored], "first_id": stored["id"], "last_id": stored["id"], "has_more": False,
    }  # fmt: skip
    content = local.get(f"{path}/content")
    assert (content.body, content.content_type) == (CONTENT, "application/jsonl")
    assert (content.headers["accept-ranges"], content.headers["x-content-type-options"]) == ("bytes", "nosniff")
    assert local.delete(path).json == {"id": stored["id"], "object": "file", "deleted": True}
    for method, where in (("GET", path), ("GET", f"{path}/content"), ("DELETE", path)):
        error = local.request(where, method=method, status=404).json["error"]
        assert (error["type"], error["param"]) == ("invalid_request_error", "id")


def test_expiry_is_kept(local):
    body = form(("file", "a", "", b""), ("purpose", "batch"), ("expires_after[anchor]", "created_at"),
                ("expires_after[seconds]", "3600"))  # fmt: skip
    stored = post(local, body=body)
    assert (stored["bytes"], stored["expires_at"] - stored["created_at"]) == (0, 3600)


def test_files_belong_to_the_gateway_key_that_uploaded_them(keyed):
    hers, his = post(keyed, ALICE), post(keyed, BOB)
    assert [file["id"] for file in keyed.get("/v1/files", headers=ALICE).json["data"]] == [hers["id"]]
    assert [file["id"] for file in keyed.get("/v1/files", headers=BOB).json["data"]] == [his["id"]]
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        keyed.request(f"/v1/files/{hers['id']}{path}", method=method, headers=BOB, status=404)
    assert keyed.get(f"/v1/files/{hers['id']}", headers=ALICE).json == hers


@pytest.mark.parametrize("owner", ["alice", "*", "nobody"])
def test_client_cannot_name_another_owner(owner, keyed):
    hers = post(keyed, ALICE)
    sent = {**BOB, "x-filesproxy-owner": owner}
    for path in ("", f"/{hers['id']}", f"/{hers['id']}/content"):
        assert keyed.get(f"/v1/files{path}", headers=sent, status=403).json["error"]["param"] == "x-filesproxy-owner"
    for named in ("", "bob"):
        assert keyed.get("/v1/files", headers={**BOB, "x-filesproxy-owner": named}).json["data"] == []


def test_key_without_access_to_the_store_is_403_and_no_key_is_401(keyed):
    refused = keyed.get("/v1/files", headers={"authorization": "Bearer fp_carol"}, status=403)
    assert set(refused.json) == {"error"}
    for headers in ({"authorization": "Bearer fp_nobody"}, {}):
        assert keyed.get("/v1/files", headers=headers, status=401).json["error"]["code"] == "invalid_api_key"


def test_store_uses_no_network(local, upstream):
    for name in ("local", "@local"):
        local.get("/v1/files", headers={"x-portkey-provider": name, "authorization": "Bearer sk-caller"})
    assert upstream.calls == []


def test_there_is_no_local_without_a_folder(client):
    error = client.get("/v1/files", headers={"x-portkey-provider": "local"}, status=400).json["error"]
    assert error["code"] == "unknown_provider"


def test_invalid_request_timeout_is_refused_here_too(local):
    local.get("/v1/files", headers={"x-portkey-request-timeout": "60000"}, status=200)
    refused = local.get("/v1/files", headers={"x-portkey-request-timeout": "soon"}, status=400)
    assert refused.json["error"]["param"] == "x-portkey-request-timeout"
