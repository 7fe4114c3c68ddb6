"""The contract that every provider of the built-in table fulfils: the whole application in front of a strict fake.

The table is read, not copied. A provider that is OpenAI with another address needs nothing here; any other one needs a
row in `ROWS`, and the suite fails until it has one.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import strict_anthropic
import strict_azure
import strict_openai
from configurations import hashed
from fakes import FILE, form, form_type
from strict_anthropic import StrictAnthropic
from strict_azure import StrictAzure
from strict_openai import StrictOpenAI

from filesproxy.app import make_transports
from filesproxy.operations import FILE_OPERATIONS
from filesproxy.providers import PROVIDERS
from filesproxy.providers.openai import OPENAI
from filesproxy.redaction import Secret, redact

CONTENT = b"0123456789abcdef"
NAME = "données.jsonl"
GATEWAY_KEY = "fp_" + "contract" * 5
REFUSED = "sk-refused-0123456789"
AUTH = {"x-portkey-provider": "@saved", "authorization": f"Bearer {GATEWAY_KEY}"}
MISSING = "file-000000000000"


class Row(NamedTuple):
    """One way to reach a provider: what is started, the settings of the saved provider, and a file to download."""

    name: str
    fake: Callable[[], Any]
    settings: Callable[[Any, str], dict[str, str]]  # from the fake and an empty folder
    downloadable: Callable[[Any], str] | None = None  # the id of a file to download, if no uploaded file can be


def older_anthropic():
    """The fake as a host whose lists have `has_more` instead of `next_page`."""
    fake = StrictAnthropic()
    fake.is_older = True
    return fake


def made_by_tool(fake):
    """The id of a file made by a tool, which Anthropic lets clients download."""
    return fake.store(NAME, "application/jsonl", CONTENT, downloadable=True)["id"]


def anthropic_settings(fake, _):
    return {"base_url": fake.base_url, "credential": strict_anthropic.KEY}


#: the rows of a provider that is OpenAI with another address
COMPATIBLE = (Row("", StrictOpenAI, lambda fake, _: {"base_url": fake.base_url, "credential": strict_openai.KEY}),)
#: the rows of every other provider
ROWS = {
    "azure-openai": (
        Row("dated", StrictAzure, lambda fake, _: {"base_url": fake.dated_url, "credential": strict_azure.KEY}),
        Row("v1", StrictAzure, lambda fake, _: {"base_url": fake.v1_url, "credential": strict_azure.TOKEN,
                                                "api_version": "v1", "auth": "bearer"}),
    ),
    "anthropic": (
        Row("has_more", older_anthropic, anthropic_settings, made_by_tool),
        Row("next_page", StrictAnthropic, anthropic_settings, made_by_tool),
    ),
    "local": (Row("", contextlib.nullcontext, lambda _, folder: {"folder": folder}),),
}  # fmt: skip


def has_files(provider):
    """Whether the provider has the file operations; one that only chats is not a case of this suite."""
    return set(FILE_OPERATIONS) <= set(provider["operations"])


def is_compatible(provider):
    """Whether the provider authenticates and answers as OpenAI does."""
    return all(provider[key] == OPENAI[key] for key in ("authorize", "operations", "error"))


def rows_of(name, provider):
    """The rows of a provider; none if it differs from OpenAI and has no row yet."""
    return ROWS.get(name) or (COMPATIBLE if is_compatible(provider) else ())


CASES = {
    f"{name} {row.name}".strip(): (name, row)
    for name, provider in PROVIDERS.items()
    if has_files(provider)
    for row in rows_of(name, provider)
}
WITH_CREDENTIAL = [case for case, (name, _) in CASES.items() if not PROVIDERS[name].get("is_store")]


def without_rows(table):
    """What is wrong with a table, in words: its providers that this suite does not test."""
    return [
        f"'{name}' is not tested: add a row to ROWS in test_contract.py that names its fake"
        for name, provider in table.items()
        if has_files(provider) and not rows_of(name, provider)
    ]


class Gateway:
    """A gateway with one saved provider and one gateway key. `seen` has every text that it showed, except its logs."""

    def __init__(self, case, fake, folder, make_client, **settings):
        name, self.row = CASES[case]
        self.fake = fake
        self.seen = []
        saved = {"kind": name, **self.row.settings(fake, folder), **settings}
        self.credential = saved.get("credential", "")
        config = {"provider:saved": saved, "key:team": {"sha256": hashed(GATEWAY_KEY), "providers": "saved"}}
        transports = {scheme: self._noting(transport) for scheme, transport in make_transports().items()}
        self._client = make_client(config, transports=transports)

    def _noting(self, transport):
        def noting(call, target):
            self.seen.append(f"{call!r} {call} {target!r} {target}")
            answer = transport(call, target)
            self.seen.append(f"{answer!r} {answer}")
            return answer

        return noting

    def ask(self, method, path, status=200, headers=(), **more):
        answer = self._client.request(
            f"/v1/files{path}", method=method, headers={**AUTH, **dict(headers)}, status=status, **more
        )
        self.seen.append(f"{answer.status} {answer.headers!r} {answer.text if answer.charset else answer.body!r}")
        return answer

    def upload(self, content=CONTENT):
        body = form(("purpose", "batch"), ("file", NAME, "application/jsonl", content))
        return self.ask("POST", "", body=body, headers={"content-type": form_type()}).json

    def downloadable(self):
        """The id of a file whose content can be asked for."""
        return self.row.downloadable(self.fake) if self.row.downloadable else self.upload()["id"]

    def error(self, method, path, status, **more):
        """The error object; its envelope must be complete."""
        answer = self.ask(method, path, status, **more)
        assert set(answer.json) == {"error"}
        assert set(answer.json["error"]) == {"message", "type", "param", "code"}
        return answer.json["error"]


@pytest.fixture(scope="module")
def fakes():
    """case → its fake, which starts when it is first asked for."""
    started = {}
    with contextlib.ExitStack() as stack:

        def fake_of(case):
            if case not in started:
                started[case] = stack.enter_context(CASES[case][1].fake())
            return started[case]

        yield fake_of


@pytest.fixture
def make_gateway(fakes, make_client, tmp_path):
    """A gateway for one of CASES, perhaps with other settings. Its fake must record no problem."""
    used = []

    def make(case, **settings):
        fake = fakes(case)
        if fake:
            fake.files.clear()
            fake.requests.clear()
            used.append(fake)
        return Gateway(case, fake, str(tmp_path), make_client, **settings)

    yield make
    for fake in used:
        assert fake.problems == []


@pytest.fixture(params=CASES)
def gateway(request, make_gateway):
    return make_gateway(request.param)


def test_every_provider_of_the_table_runs_through_this_suite():
    assert without_rows(PROVIDERS) == []
    assert set(ROWS) <= set(PROVIDERS)


def test_compatible_provider_is_tested_without_a_row_and_any_other_one_is_not():
    compatible = {**OPENAI, "base_url": "https://api.example.com/v1"}
    other = {**compatible, "authorize": lambda call, target: call}
    assert rows_of("example", compatible) == COMPATIBLE
    assert without_rows({"example": compatible, "other": other}) == [
        "'other' is not tested: add a row to ROWS in test_contract.py that names its fake"
    ]


def test_upload_answers_a_complete_file_object(gateway):
    file = gateway.upload()
    assert set(FILE) <= set(file)
    assert (file["object"], file["bytes"], file["filename"], file["purpose"]) == ("file", 16, NAME, "batch")
    assert file["status"] in ("uploaded", "processed")
    assert isinstance(file["created_at"], int)


def test_empty_file_can_be_uploaded(gateway):
    assert gateway.upload(b"")["bytes"] == 0


def test_retrieve_answers_the_uploaded_file(gateway):
    uploaded = gateway.upload()
    found = gateway.ask("GET", f"/{uploaded['id']}").json
    kept = ("id", "object", "bytes", "created_at", "filename")
    assert [found[name] for name in kept] == [uploaded[name] for name in kept]
    assert set(FILE) <= set(found)


@pytest.mark.parametrize("order", ["", "&order=desc", "&order=asc"])
def test_list_is_paged_in_order_until_nothing_follows(order, gateway):
    ids = [gateway.upload()["id"] for _ in range(5)]
    found, sizes, after = [], [], ""
    for _ in range(3):
        page = gateway.ask("GET", f"?limit=2{order}{after}").json
        data = page["data"]
        assert (page["object"], page["first_id"], page["last_id"]) == ("list", data[0]["id"], data[-1]["id"])
        found += [file["id"] for file in data]
        sizes.append(len(data))
        assert page["has_more"] is (len(found) < 5)
        after = f"&after={page['last_id']}"
    assert (found, sizes) == (ids if "asc" in order else ids[::-1], [2, 2, 1])


def test_empty_list_is_complete(gateway):
    assert gateway.ask("GET", "").json == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False,
    }  # fmt: skip


@pytest.mark.parametrize("case", WITH_CREDENTIAL)  # the local store accepts any id as a position
def test_list_after_an_unknown_file_is_refused(case, make_gateway):
    gateway = make_gateway(case)
    gateway.upload()
    assert gateway.error("GET", f"?after={MISSING}", status=(400, 404))["param"] == "after"


def test_content_is_what_was_stored(gateway):
    content = gateway.ask("GET", f"/{gateway.downloadable()}/content")
    assert (content.body, content.content_type) == (CONTENT, "application/jsonl")
    assert (content.headers["content-length"], content.headers["accept-ranges"]) == ("16", "bytes")


@pytest.mark.parametrize(
    "asked, bounds, body",
    [("bytes=2-4", "2-4", b"234"), ("bytes=10-", "10-15", b"abcdef"), ("bytes=-3", "13-15", b"def")],
)
def test_range_of_the_content(asked, bounds, body, gateway):
    part = gateway.ask("GET", f"/{gateway.downloadable()}/content", 206, headers={"range": asked})
    assert (part.body, part.headers["content-range"]) == (body, f"bytes {bounds}/16")
    assert part.headers["content-length"] == str(len(body))


def test_range_after_the_end_is_416(gateway):
    path = f"/{gateway.downloadable()}/content"
    assert gateway.error("GET", path, 416, headers={"range": "bytes=16-"})["code"] == "range_not_satisfiable"


def test_head_answers_the_headers_alone(gateway):
    file_id = gateway.downloadable()
    content = gateway.ask("HEAD", f"/{file_id}/content")
    assert (content.body, content.headers["content-length"], content.content_type) == (b"", "16", "application/jsonl")
    whole = gateway.ask("HEAD", f"/{file_id}/content", headers={"range": "bytes=2-4"})  # RFC 9110 §14.2: GET only
    assert (whole.body, whole.headers["content-length"]) == (b"", "16")
    metadata = gateway.ask("HEAD", f"/{file_id}")
    assert (metadata.body, metadata.content_type) == (b"", "application/json")


def test_deleted_file_is_gone(gateway):
    file_id, other_id = gateway.upload()["id"], gateway.upload()["id"]
    assert gateway.ask("DELETE", f"/{file_id}").json == {"id": file_id, "object": "file", "deleted": True}
    gateway.error("GET", f"/{file_id}", 404)
    assert [file["id"] for file in gateway.ask("GET", "").json["data"]] == [other_id]


@pytest.mark.parametrize("method, path", [("GET", ""), ("GET", "/content"), ("DELETE", "")])
def test_missing_file_is_the_providers_404_in_openais_envelope(method, path, gateway):
    error = gateway.error(method, f"/{MISSING}{path}", 404)
    assert error["type"] == "invalid_request_error"
    assert MISSING in error["message"]  # the provider's own words


@pytest.mark.parametrize("case", WITH_CREDENTIAL)
@pytest.mark.parametrize("method, path", [("GET", ""), ("GET", f"/{MISSING}/content"), ("DELETE", f"/{MISSING}")])
def test_refused_saved_credential_is_a_502_that_says_so(method, path, case, make_gateway):
    gateway = make_gateway(case, credential=REFUSED)
    error = gateway.error(method, path, 502)
    assert error["code"] == "upstream_credential_rejected"
    assert REFUSED not in "".join(gateway.seen)


@pytest.mark.parametrize("case", WITH_CREDENTIAL)
def test_credential_is_in_no_answer_log_or_repr(case, make_gateway, caplog):
    caplog.set_level(logging.DEBUG)
    for name in ("filesproxy", "filesproxy.access"):
        caplog.set_level(logging.DEBUG, logger=name)
    for gateway in (make_gateway(case), make_gateway(case, credential=REFUSED)):
        _use_every_operation(gateway)
        sent = [value for _, _, headers in gateway.fake.requests for _, value in headers]
        assert any(gateway.credential in value for value in sent)  # it went where it belongs, and nowhere else
        assert not any(GATEWAY_KEY in value for value in sent)
        logged = [f"{record.getMessage()} {record.__dict__!r}" for record in caplog.records]
        assert logged
        secrets = [Secret(gateway.credential), Secret(GATEWAY_KEY)]  # in no form that would be redacted
        assert not [text for text in (*gateway.seen, *logged) if redact(text, secrets) != text]


def _use_every_operation(gateway):
    body = form(("purpose", "batch"), ("file", NAME, "", CONTENT))
    uploaded = gateway.ask("POST", "", "*", body=body, headers={"content-type": form_type()}).json
    file_id = uploaded.get("id", MISSING)
    for method, path in (("GET", ""), ("GET", f"/{file_id}"), ("GET", f"/{file_id}/content"),
                         ("DELETE", f"/{file_id}"), ("DELETE", f"/{file_id}")):  # fmt: skip
        gateway.ask(method, path, "*")
