"""What a gateway key allows its uploads: refused before the body where that can be known, and never sent whole."""

from __future__ import annotations

import json

import pytest
from configurations import hashed
from fakes import FILE, FakeUpstream, form, form_type

from filesproxy.wire.multipart import encode

HEADERS = {"content-type": form_type(), "authorization": "Bearer fp_team"}
PNG = b"\x89PNG\r\n\x1a\n" + b"p" * 100


class Reading(FakeUpstream):
    """An upstream that keeps each whole form that it was sent, and the JSON."""

    def __init__(self):
        super().__init__()
        self.forms, self.bodies_sent = [], []
        self.answers(FILE)

    def __call__(self, call, target):
        if call.upload:
            self.forms.append(b"".join(encode(call.upload, "boundary")))
            call = call._replace(upload=None)
        self.bodies_sent.append(call.json)
        return super().__call__(call, target)


@pytest.fixture
def upstream():
    return Reading()


@pytest.fixture
def gateway(make_client):
    """A function that makes a client whose key has these rules, with OpenAI by default."""

    def make(**rules):
        key = {"sha256": hashed("fp_team"), "providers": "*", **{name: str(rule) for name, rule in rules.items()}}
        azure = {"kind": "azure-openai", "resource": "mine", "credential": "sk-saved-azure"}
        sections = {
            "provider:openai": {"credential": "sk-saved"},
            "provider:claude": {"kind": "anthropic", "credential": "sk-saved-ant"},
            "provider:azure": azure,
            "key:team": key,
        }
        return make_client(sections, default_provider="openai")

    return make


def upload(client, *parts, status=200, **headers):
    parts = parts or (("purpose", "batch"), ("file", "a.csv", "text/csv", b"a,b\n"))
    return client.post("/v1/files", form(*parts), {**HEADERS, **headers}, status=status)


def fields_of(upstream):
    """name → value of the fields in the last form that was sent."""
    found = {}
    for part in upstream.forms[-1].split(b"--boundary")[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        if b"filename" not in head:
            found[head.split(b'name="')[1].split(b'"')[0].decode()] = value[:-2].decode()
    return found


def test_key_without_rules_uploads_as_before(gateway, upstream):
    answer = upload(gateway())
    assert fields_of(upstream) == {"purpose": "batch"} and "x-filesproxy-expires-after" not in answer.headers


@pytest.mark.parametrize("size,status", [(9, 200), (10, 200), (11, 413), (100_000, 413)])
def test_file_has_a_size_at_most(size, status, gateway, upstream):
    answer = upload(gateway(max_file_bytes=10), ("purpose", "batch"), ("file", "a", "", b"x" * size), status=status)
    assert len(upstream.forms) == (status == 200)
    if status == 413:
        assert answer.json["error"]["code"] == "request_too_large" and "10 bytes" in answer.json["error"]["message"]


def test_request_that_cannot_hold_a_file_within_the_limit_is_refused_before_its_body(gateway, upstream):
    client = gateway(max_file_bytes=10)
    broken = {**HEADERS, "content-length": str(3 << 20)}
    error = client.post("/v1/files", b"--nothing of a form", broken, status=413).json["error"]
    assert error["code"] == "request_too_large" and upstream.forms == []


@pytest.mark.parametrize("place", [0, 1])
def test_purpose_must_be_allowed_wherever_it_stands(place, gateway, upstream):
    for purpose, status in (("batch", 200), ("user_data", 200), ("vision", 403), ("Batch", 403)):
        parts = [("file", "a", "", b"x")]
        parts.insert(place, ("purpose", purpose))
        answer = upload(gateway(allowed_purposes="batch user_data"), *parts, status=status)
        if status == 403:
            assert (answer.json["error"]["code"], answer.json["error"]["param"]) == ("purpose_not_allowed", "purpose")
    assert [fields_of(upstream)["purpose"], len(upstream.forms)] == ["user_data", 2]


ALLOWED = [
    ("text/csv", "a.csv", b"a,b\n", 200),
    ("Text/CSV; charset=utf-8", "a.csv", b"a,b\n", 200),
    ("application/octet-stream", "a.csv", b"a,b\n", 200),  # Node's SDK says this of every file
    ("", "a.csv", b"a,b\n", 200),
    ("image/png", "a.png", PNG, 200),
    ("image/jpeg", "a.jpg", b"\xff\xd8\xff\xe0", 200),
    ("text/html", "a.csv", b"<html>", 403),
    ("application/octet-stream", "a", b"?", 403),
    ("application/octet-stream", "a.exe", b"MZ", 403),
    ("text/csv", "a.csv", b"%PDF-1.7 in disguise" + b"p" * 90, 403),
    ("text/csv", "a.csv", b"PK\x03\x04", 403),
    ("text/csv", "a.csv", PNG, 200),  # an image is allowed too
]


@pytest.mark.parametrize("media_type,name,content,status", ALLOWED)
def test_type_must_be_allowed_by_the_clients_word_and_by_the_first_bytes(
    media_type, name, content, status, gateway, upstream
):
    client = gateway(allowed_types="text/csv image/*")
    answer = upload(client, ("purpose", "batch"), ("file", name, media_type, content), status=status)
    assert len(upstream.forms) == (status == 200)
    if status == 403:
        assert answer.json["error"]["code"] == "type_not_allowed"
    else:
        assert content in upstream.forms[0]


def test_first_bytes_are_judged_before_any_of_the_file_is_sent_however_they_come(gateway, make_client):
    sent = []

    def reads(call, target):
        for block in call.upload:
            sent.append(block)
        raise AssertionError("a whole file")

    key = {"sha256": hashed("fp_team"), "providers": "*", "allowed_types": "text/*"}
    client = make_client({"provider:openai": {"credential": "sk-saved"}, "key:team": key},
                         default_provider="openai", transports={"https": reads})  # fmt: skip
    upload(client, ("purpose", "batch"), ("file", "a.txt", "text/plain", b"%PDF-" + b"p" * 1_000_000), status=403)
    assert sent == []


DAY = 86400


@pytest.mark.parametrize(
    "rules,asked,sent,header",
    [
        ({"default_expires_after": DAY}, None, DAY, DAY),
        ({"default_expires_after": DAY}, 7200, 7200, None),
        ({"default_expires_after": DAY}, 2 * DAY, 2 * DAY, None),
        ({"max_expires_after": DAY}, None, DAY, DAY),
        ({"max_expires_after": DAY}, 2 * DAY, DAY, DAY),
        ({"max_expires_after": DAY}, DAY, DAY, None),
        ({"default_expires_after": 7200, "max_expires_after": DAY}, None, 7200, 7200),
        ({"default_expires_after": 2 * DAY, "max_expires_after": DAY}, None, DAY, DAY),
        ({"default_expires_after": 7200, "max_expires_after": DAY}, 2 * DAY, DAY, DAY),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_missing_or_longer_expiry_is_shortened_and_named(rules, asked, sent, header, place, gateway, upstream):
    parts = [("purpose", "batch"), ("file", "a", "", b"x")]
    if asked:
        expiry = [("expires_after[anchor]", "created_at"), ("expires_after[seconds]", str(asked))]
        parts = [*expiry, *parts] if place == 0 else [*parts, *expiry]
    answer = upload(gateway(**rules), *parts)
    assert fields_of(upstream) == {
        "purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": str(sent),
    }  # fmt: skip
    named = answer.headers.get("x-filesproxy-expires-after")
    assert (named and int(named)) == header


def test_expiry_in_json_is_shortened_too(gateway, upstream):
    expiry = json.dumps({"anchor": "created_at", "seconds": 2 * DAY})
    upload(gateway(max_expires_after=DAY), ("expires_after", expiry), ("purpose", "batch"), ("file", "a", "", b"x"))
    assert fields_of(upstream)["expires_after[seconds]"] == str(DAY)


def test_anthropic_gets_the_expiry_under_its_own_name(gateway, upstream):
    upstream.answers({"id": "file_1", "type": "file", "filename": "a", "mime_type": "text/csv", "size_bytes": 1,
                      "created_at": "2026-01-01T00:00:00Z", "downloadable": False})  # fmt: skip
    upload(gateway(default_expires_after=DAY), **{"x-portkey-provider": "@claude"})
    assert fields_of(upstream) == {"expires_in_seconds": str(DAY)}


def test_provider_without_expiry_gets_no_file_that_must_expire(gateway, upstream):
    error = upload(gateway(max_expires_after=DAY), status=400, **{"x-portkey-provider": "@azure"}).json["error"]
    assert error["code"] == "no_expiry" and upstream.forms == []


def test_local_honours_the_expiry_too(make_client, tmp_path):
    key = {"sha256": hashed("fp_team"), "providers": "*", "default_expires_after": str(DAY)}
    client = make_client({"key:team": key}, folder=tmp_path / "files", default_provider="local")
    file = upload(client).json
    assert file["expires_at"] - file["created_at"] == DAY


def in_parts(client, status=200, **body):
    whole = {"filename": "a.csv", "purpose": "batch", "bytes": 10, "mime_type": "text/csv", **body}
    return client.post_json("/v1/uploads", whole, headers={"authorization": HEADERS["authorization"]}, status=status)


def test_rules_hold_for_uploads_in_parts(gateway, upstream):
    rules = {"max_file_bytes": 10, "allowed_purposes": "batch", "allowed_types": "text/*", "max_expires_after": DAY}
    client = gateway(**rules)
    answer = in_parts(client)
    given = {"anchor": "created_at", "seconds": DAY}
    assert upstream.bodies_sent[-1]["expires_after"] == given
    assert answer.headers["x-filesproxy-expires-after"] == str(DAY)
    in_parts(client, expires_after={"anchor": "created_at", "seconds": 2 * DAY})
    assert upstream.bodies_sent[-1]["expires_after"] == given
    in_parts(client, expires_after={"anchor": "created_at", "seconds": 3600})
    assert upstream.bodies_sent[-1]["expires_after"]["seconds"] == 3600
    for wrong, status, code in (
        ({"bytes": 11}, 413, "request_too_large"), ({"purpose": "vision"}, 403, "purpose_not_allowed"),
        ({"mime_type": "image/png"}, 403, "type_not_allowed"), ({"purpose": None}, 403, "purpose_not_allowed"),
        ({"expires_after": {"anchor": "created_at"}}, 400, None), ({"bytes": "10"}, 400, None),
    ):  # fmt: skip
        assert in_parts(client, status, **wrong).json["error"]["code"] == code
    assert len(upstream.bodies_sent) == 3


def test_size_and_type_hold_for_files_of_containers_and_expiry_does_not(gateway, upstream):
    client = gateway(max_file_bytes=10, allowed_types="text/*", max_expires_after=DAY)
    for content, media_type, status in (
        (b"x" * 11, "text/plain", 413),
        (b"x", "image/png", 403),
        (b"x", "text/plain", 200),
    ):
        body = form(("file", "a", media_type, content))
        client.post("/v1/containers/c/files", body, HEADERS, status=status)
    assert len(upstream.forms) == 1 and fields_of(upstream) == {}
