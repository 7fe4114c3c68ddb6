"""The clients people use, through the servers they use: openai, portkey-ai, curl, Node; local store and upstream."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import subprocess
import warnings

import pytest
from fakes import content_of, sha
from strict_openai import KEY

openai = pytest.importorskip("openai", reason="needs the openai package")
pytest.importorskip("gunicorn", reason="needs gunicorn")

NAMES = [
    "plain.jsonl",
    "with spaces.txt",
    'quo"ted".txt',
    "日本語.pdf",
    '日本語 "x".pdf',
    "semi;colon=1.txt",
    "per%cent.txt",
]
BIG = 25 << 20


@pytest.fixture(scope="module", params=["local", "compat"])
def provider(request):
    return request.param


@pytest.fixture
def client(gunicorn, provider):
    with sdk(gunicorn, provider) as made:
        yield made


def sdk(gateway, provider, key=KEY, **options):
    return openai.OpenAI(
        api_key=key, base_url=gateway.url, default_headers={"x-portkey-provider": provider}, timeout=60, **options
    )


def five_operations(files, upload, content, filename, not_found):
    """The whole life of a file by an SDK's `files`; the uploaded object."""
    made = upload()
    assert (made.object, made.filename, made.bytes, made.purpose) == ("file", filename, len(content), "batch")
    assert made.id in [file.id for file in files.list(limit=10, purpose="batch").data]
    assert files.retrieve(made.id).filename == filename
    assert sha(files.content(made.id).content) == sha(content)
    assert files.delete(made.id).deleted is True
    with pytest.raises(not_found):
        files.retrieve(made.id)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_openai_makes_all_five_calls_whatever_the_file_is_called(name, client):
    content = content_of(3000)
    upload = lambda: client.files.create(file=(name, content), purpose="batch")  # noqa: E731
    made = five_operations(client.files, upload, content, name, openai.NotFoundError)
    assert made.status == "processed"


def test_openai_uploads_an_empty_file(client):
    made = client.files.create(file=("empty.txt", b""), purpose="batch")
    assert made.bytes == 0
    assert client.files.content(made.id).content == b""


def test_openai_uploads_25_mib_from_a_path_and_gets_the_same_bytes(client, tmp_path):
    path = tmp_path / "big one.bin"
    path.write_bytes(content_of(BIG))
    made = client.files.create(file=path, purpose="batch")
    assert (made.filename, made.bytes) == ("big one.bin", BIG)
    digest = hashlib.sha256()
    with client.files.with_streaming_response.content(made.id) as response:
        for block in response.iter_bytes():
            digest.update(block)
    assert digest.hexdigest() == sha(path.read_bytes())
    client.files.delete(made.id)


def test_openai_sets_an_expiry(client):
    made = client.files.create(
        file=("a", b"x"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200}
    )
    assert made.expires_at == made.created_at + 7200


def test_async_openai_uploads_and_lists(gunicorn, provider):
    async def upload_and_list():
        headers = {"x-portkey-provider": provider}
        async with openai.AsyncOpenAI(api_key=KEY, base_url=gunicorn.url, default_headers=headers) as client:
            uploads = [client.files.create(file=(f"{n}.txt", b"%d" % n), purpose="evals") for n in range(8)]
            made = {file.id for file in await asyncio.gather(*uploads)}
            return made, {file.id async for file in client.files.list(purpose="evals", limit=3)}

    made, listed = asyncio.run(upload_and_list())
    assert len(made) == 8
    assert made <= listed


@pytest.fixture(scope="module")
def many(gunicorn, provider, fake):
    """250 files of a purpose that nothing else here has; their ids, oldest first."""
    if provider == "compat":
        return fake.seed(250, "vision")
    with sdk(gunicorn, provider) as client:
        return [client.files.create(file=(f"{n}.txt", b"x"), purpose="vision").id for n in range(250)]


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_openai_pages_through_250_files_and_meets_each_once(order, many, client):
    visited = [file.id for file in client.files.list(limit=100, order=order, purpose="vision")]
    assert visited == (many if order == "asc" else many[::-1])


def test_openai_without_a_limit_gets_them_all_in_one_page(many, client):
    page = client.files.list(purpose="vision")
    assert (len(page.data), page.has_more) == (250, False)


def test_wrong_key_is_an_authentication_error_with_words_and_a_request_id(gunicorn):
    with sdk(gunicorn, "compat", key="sk-wrong") as client, pytest.raises(openai.AuthenticationError) as caught:
        client.files.list()
    assert "Incorrect API key provided" in caught.value.message
    assert "sk-wrong" not in caught.value.message
    assert caught.value.code == "invalid_api_key"
    assert caught.value.request_id.startswith("req_")


def test_missing_file_is_a_not_found_error(client):
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            call("file-doesnotexist")
        assert "No such File object: file-doesnotexist" in caught.value.message
        assert caught.value.param == "id"
        assert caught.value.request_id


def test_content_that_the_provider_refuses_is_a_bad_request_with_its_words(gunicorn, fake):
    (file_id,) = fake.seed(1, "user_data")
    with sdk(gunicorn, "compat") as client, pytest.raises(openai.BadRequestError) as caught:
        client.files.content(file_id)
    assert "Not allowed to download files of purpose: user_data" in caught.value.message


def test_upload_over_the_limit_is_a_413(start, tmp_path):
    gateway = start("gunicorn", max_upload_bytes=1 << 20)
    for provider in ("local", "compat"):
        with sdk(gateway, provider) as client, pytest.raises(openai.APIStatusError) as caught:
            client.files.create(file=("big", content_of(2 << 20)), purpose="batch")
        assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")
    assert len(gateway.wait_for_lines(2, operation="upload_file")) == 2  # it is not tried again


@pytest.mark.parametrize("operation", ["list_files", "upload_file"])
def test_unreachable_upstream_is_a_502_and_tries_end(operation, gunicorn):
    before = len(gunicorn.lines(provider="nowhere", operation=operation))
    with sdk(gunicorn, "nowhere", max_retries=1) as client, pytest.raises(openai.InternalServerError) as caught:
        if operation == "upload_file":
            client.files.create(file=("a", b"x"), purpose="batch")
        else:
            client.files.list()
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_unreachable")
    made = gunicorn.wait_for_lines(before + 1, provider="nowhere", operation=operation)[before:]
    assert 1 <= len(made) <= 2  # the SDK has given up, so no more will come


def test_openai_sees_no_header_of_the_upstreams_own(gunicorn):
    with sdk(gunicorn, "compat") as client:
        headers = client.files.with_raw_response.list().headers
    assert headers["x-request-id"].startswith("req_")
    assert headers["openai-processing-ms"] == "12"
    assert "cloudflare" not in headers.get("server", "")
    assert not {"set-cookie", "x-internal-host"} & {name.lower() for name in headers}


# portkey-ai


def test_portkey_makes_all_five_calls(gunicorn, provider):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports warn
        portkey_ai = pytest.importorskip("portkey_ai", reason="needs the portkey-ai package")
        client = portkey_ai.Portkey(api_key=KEY, provider=provider, base_url=gunicorn.url)
        content = content_of(5000)
        upload = lambda: client.files.create(file=("of portkey.txt", content), purpose="batch")  # noqa: E731
        from portkey_ai._vendor.openai import NotFoundError

        five_operations(client.files, upload, content, "of portkey.txt", NotFoundError)
        client.openai_client.close()


# curl

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


def curl(gateway, provider, path, *arguments):
    """(exit status, standard output, standard error) of curl with a key and a provider."""
    headers = ["-H", f"Authorization: Bearer {KEY}", "-H", f"x-portkey-provider: {provider}"]
    words = ["curl", "-sS", "--max-time", "60", *headers, *arguments, gateway.url + path]
    done = subprocess.run(words, capture_output=True, timeout=90)
    return done.returncode, done.stdout, done.stderr.decode("utf-8", "replace")


def curl_json(*arguments):
    status, out, err = curl(*arguments)
    assert status == 0, err
    return json.loads(out)


def quoted(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


PURPOSE = ("-F", "purpose=batch")


@needs_curl
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("order", ["purpose first", "file first"])
def test_curl_makes_all_five_calls(order, name, gunicorn, provider, tmp_path):
    path = tmp_path / name
    path.write_bytes(content_of(2000))
    file = ("-F", f"file=@{quoted(str(path))}")
    form = (*PURPOSE, *file) if order == "purpose first" else (*file, *PURPOSE)
    made = curl_json(gunicorn, provider, "/files", *form)
    assert (made["filename"], made["bytes"]) == (name, 2000)
    assert made["id"] in [item["id"] for item in curl_json(gunicorn, provider, "/files?limit=5")["data"]]
    assert curl_json(gunicorn, provider, f"/files/{made['id']}") == made
    assert curl(gunicorn, provider, f"/files/{made['id']}/content")[1] == path.read_bytes()
    deleted = curl_json(gunicorn, provider, f"/files/{made['id']}", "-X", "DELETE")
    assert deleted == {"id": made["id"], "object": "file", "deleted": True}
    assert curl_json(gunicorn, provider, f"/files/{made['id']}")["error"]["param"] == "id"


@needs_curl
def test_curl_uploads_an_empty_file(gunicorn, provider, tmp_path):
    (tmp_path / "empty").touch()
    made = curl_json(gunicorn, provider, "/files", *PURPOSE, "-F", f"file=@{tmp_path / 'empty'}")
    assert made["bytes"] == 0


@needs_curl
def test_curl_that_expects_100_continue_is_not_kept_waiting(gunicorn, provider, tmp_path):
    path = tmp_path / "two.bin"
    path.write_bytes(content_of(2 << 20))
    timed = ("-v", "-w", "\n%{time_total}")
    status, out, err = curl(gunicorn, provider, "/files", *timed, *PURPOSE, "-F", f"file=@{path}")
    answer, _, seconds = out.decode().rpartition("\n")
    assert status == 0
    assert "> Expect: 100-continue" in err
    assert "< HTTP/1.1 100 Continue" in err
    assert json.loads(answer)["bytes"] == 2 << 20
    assert float(seconds) < 0.9  # after a second curl would have gone on by itself


@needs_curl
@pytest.mark.parametrize("size", [0, 10, 3 << 20])
def test_curl_uploads_chunked(size, gunicorn, provider, tmp_path):
    path = tmp_path / "chunked.bin"
    path.write_bytes(content_of(size))
    form = (*PURPOSE, "-F", f"file=@{path}", "-H", "Transfer-Encoding: chunked")
    made = curl_json(gunicorn, provider, "/files", *form)
    assert made["bytes"] == size
    assert sha(curl(gunicorn, provider, f"/files/{made['id']}/content")[1]) == sha(path.read_bytes())


@needs_curl
def test_curl_without_a_purpose_is_told_so(gunicorn, provider, tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    error = curl_json(gunicorn, provider, "/files", "-F", f"file=@{tmp_path / 'a'}")["error"]
    assert (error["param"], error["code"]) == ("purpose", "missing_purpose")


# Node

NODE = r"""
import fs from "node:fs";
import crypto from "node:crypto";
import OpenAI from "openai";
import { Portkey } from "portkey-ai";
const [sdk, baseURL, provider, key, path] = process.argv.slice(2);
const client = sdk === "openai"
  ? new OpenAI({ apiKey: key, baseURL, defaultHeaders: { "x-portkey-provider": provider } })
  : new Portkey({ apiKey: key, baseURL, provider });
const made = await client.files.create({ file: fs.createReadStream(path), purpose: "batch" });
const seen = [];
for (const file of (await client.files.list({ limit: 100, purpose: "batch" })).data) seen.push(file.id);
const got = await client.files.retrieve(made.id);
// portkey-ai 3.1.0's retrieveContent copies the fields of the stream into a plain object: nobody can read that.
const content = sdk === "openai" ? client.files.content(made.id) : fetch(`${baseURL}/files/${made.id}/content`,
  { headers: { "x-portkey-api-key": key, "x-portkey-provider": provider } });
const bytes = Buffer.from(await (await content).arrayBuffer());
const deleted = await client.files.delete(made.id);
let missing = null;
try { await client.files.retrieve(made.id); } catch (error) { missing = { status: error.status, text: error.message }; }
console.log(JSON.stringify({ made, listed: seen.includes(made.id), got, missing, deleted: deleted.deleted,
  sha: crypto.createHash("sha256").update(bytes).digest("hex") }));
"""


@pytest.fixture(scope="module")
def node(node_folder):
    """A folder with the Node SDKs and a script that makes all five calls."""
    (node_folder / "five.mjs").write_text(NODE, "utf-8")
    return node_folder


@pytest.fixture(scope="module", params=["gunicorn", "embedded"])
def served(request, start):
    return start(request.param)


@pytest.mark.parametrize("size", [13, 3 << 20])
@pytest.mark.parametrize("package", ["openai", "portkey-ai"])
def test_node_streams_a_file_up_and_makes_all_five_calls(package, size, node, served, provider, tmp_path):
    path = tmp_path / "日本語 of node.pdf"
    path.write_bytes(content_of(size))
    words = ["node", "five.mjs", package, served.url, provider, KEY, str(path)]
    done = subprocess.run(words, cwd=node, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    seen = json.loads(done.stdout)
    assert (seen["made"]["filename"], seen["made"]["bytes"], seen["listed"]) == (path.name, size, True)
    assert (seen["got"]["id"], seen["deleted"], seen["missing"]["status"]) == (seen["made"]["id"], True, 404)
    assert "No such File object" in seen["missing"]["text"]
    assert seen["sha"] == sha(path.read_bytes())


# waitress and the embedded server, with the same client


@pytest.mark.parametrize("kind", ["waitress", "embedded"])
def test_openai_makes_all_five_calls_on_other_servers(kind, start, provider):
    if kind == "waitress":
        pytest.importorskip("waitress", reason="needs waitress")
    content = content_of(700_000)
    with sdk(start(kind), provider) as client:
        upload = lambda: client.files.create(file=("a b.bin", content), purpose="batch")  # noqa: E731
        five_operations(client.files, upload, content, "a b.bin", openai.NotFoundError)
