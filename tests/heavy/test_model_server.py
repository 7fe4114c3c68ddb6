"""Kept files that chats and Responses name, read by a real model server: llama.cpp with SmolLM2.

A relay before it keeps every byte of every request, so that a test can assert that nothing was sent.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import struct
import subprocess
import threading
import warnings
import zlib
from contextlib import contextmanager
from hashlib import sha256

import llama
import pytest
from fakes import form, form_type
from servers import running
from sockets import Upstream, connect

from filesproxy.operations import KEPT_ID

openai = pytest.importorskip("openai", reason="needs the openai package")
pytest.importorskip("gunicorn", reason="needs gunicorn")
if llama.missing():
    pytest.skip(llama.missing(), allow_module_level=True)

NOTES = b"Notes of the kitchen.\nThe secret word is marmalade.\n"
WORD = "marmalade"
QUESTION = "What is the secret word in the file?"
MODEL = "smollm2"
ASKED = {"model": MODEL, "temperature": 0}
SECONDS = 60  # a chat takes less than one, if the machine has nothing else to do
KEYS = {"one": "fp_model-server-of-one", "two": "fp_model-server-of-two"}
CONFIG = """
[filesproxy]
default_files = local
default_chat = llm
[provider:local]
folder = {folder}
[provider:llm]
kind = openai
base_url = {relay}
credential = none
files = local
[provider:roomy]
kind = openai
base_url = http://127.0.0.1:{port}/v1
credential = none
files = local
max_inline_bytes = {roomy}
"""


def png(width, height):
    """A grey image."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = (b"\0" + b"\x7f" * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


IMAGE = png(40, 24)


class Relay(Upstream):
    """Forwards to the model server, and keeps what it forwarded."""

    def __init__(self, port):
        super().__init__(self._pass_on)
        self._to = port

    def _pass_on(self, peer):
        with connect(self._to) as server:
            for sock in (peer.sock, server):
                sock.settimeout(SECONDS)
            back = threading.Thread(target=self._pass_back, args=(server, peer.sock))
            back.start()
            while block := peer.read():
                server.sendall(block)
            server.shutdown(socket.SHUT_RDWR)
            back.join()

    def _pass_back(self, server, sock):
        try:
            while block := server.recv(1 << 16):
                sock.sendall(block)
            sock.shutdown(socket.SHUT_RDWR)  # wakes the read of the other direction
        except OSError:
            pass

    def received(self):
        """What came so far, connection by connection."""
        return [bytes(peer.received) for peer in self.peers]

    def requests(self):
        """How many requests came so far."""
        return sum(each.count(b" HTTP/1.1\r\n") for each in self.received())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The model server's port."""
    with llama.running(tmp_path_factory.mktemp("llama")) as port:
        yield port


@pytest.fixture(scope="module")
def relay(server):
    """The way to the model server, which no file's id ever takes, in no test of this module."""
    with Relay(server) as made:
        yield made
    assert not [each for each in made.received() if re.search(KEPT_ID.pattern.encode(), each)]


@pytest.fixture(scope="module", params=["embedded", "gunicorn"])
def gateway(request, server, relay, tmp_path_factory):
    """A gateway without keys in front of the model server."""
    with gateway_of(request.param, server, relay, tmp_path_factory) as made:
        yield made


@contextmanager
def gateway_of(kind, server, relay, tmp_path_factory, more=""):
    folder = tmp_path_factory.mktemp(kind)
    config = folder / "filesproxy.ini"
    values = {"folder": folder / "store", "relay": relay.url, "port": server, "roomy": 4 * llama.MAX_BODY_BYTES}
    config.write_text(CONFIG.format(**values) + more, "utf-8")
    with running(kind, folder / "run", FILESPROXY_CONFIG=config) as made:
        yield made


def uploaded(gateway, content, name="notes.txt", **headers):
    """The id of a file that the gateway keeps."""
    body = form(("purpose", "user_data"), ("file", name, "", content))
    response, answer = gateway.request("POST", "/v1/files", body, {"content-type": form_type(), **headers})
    assert response.status == 200, answer
    return json.loads(answer)["id"]


def posted(gateway, path, body, **headers):
    """(status, JSON) of a request with JSON."""
    headers = {"content-type": "application/json", **headers}
    response, answer = gateway.request("POST", path, json.dumps(body), headers)
    return response.status, json.loads(answer)


def messages(*parts):
    return [{"role": "user", "content": [*parts, {"type": "text", "text": QUESTION}]}]


def file_part(file_id):
    return {"type": "file", "file": {"file_id": file_id}}


def chat(gateway, *parts, **headers):
    """(status, JSON) of a chat whose answer nobody reads."""
    return posted(gateway, "/v1/chat/completions", {**ASKED, "max_tokens": 1, "messages": messages(*parts)}, **headers)


@contextmanager
def nothing_sent(gateway, relay, *parts, **headers):
    """Assert that the block sends nothing: the model server's next request is the chat after it."""
    before = relay.requests()
    yield
    assert chat(gateway, *parts, **headers)[0] == 200
    assert relay.requests() == before + 1


# a text, with the clients people use


@pytest.fixture
def client(gateway):
    """OpenAI's SDK as its users have it: a key, an address and nothing of the gateway's own."""
    with openai.OpenAI(api_key="sk-of-nobody", base_url=gateway.url, timeout=SECONDS) as made:
        yield made


@pytest.fixture
def notes(client):
    return client.files.create(file=("notes.txt", NOTES), purpose="user_data").id


def test_model_reads_a_file_that_openai_names_in_a_chat(client, notes):
    answer = client.chat.completions.create(messages=messages(file_part(notes)), **ASKED)
    assert WORD in answer.choices[0].message.content


def test_model_reads_a_file_that_openai_names_in_a_chat_and_streams_its_answer(client, notes):
    with client.chat.completions.create(messages=messages(file_part(notes)), stream=True, **ASKED) as stream:
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert len(pieces) > 5
    assert WORD in "".join(pieces)


def test_model_reads_a_file_that_openai_names_in_a_response(client, notes):
    parts = [{"type": "input_file", "file_id": notes}, {"type": "input_text", "text": QUESTION}]
    answer = client.responses.create(input=[{"role": "user", "content": parts}], **ASKED)
    assert WORD in answer.output_text


def test_model_reads_a_file_that_portkey_names(gateway):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports warn
        portkey_ai = pytest.importorskip("portkey_ai", reason="needs the portkey-ai package")
        client = portkey_ai.Portkey(api_key="sk-of-nobody", provider="@llm", base_url=gateway.url)
        file_id = client.files.create(file=("notes.txt", NOTES), purpose="user_data").id
        answer = client.chat.completions.create(messages=messages(file_part(file_id)), **ASKED)
        client.openai_client.close()
    assert WORD in answer.choices[0].message.content


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_model_reads_a_file_that_curl_names(gateway, tmp_path):
    def curl(path, *arguments):
        words = ["curl", "-sS", "--fail-with-body", "--max-time", str(SECONDS), *arguments, gateway.url + path]
        done = subprocess.run(words, capture_output=True, timeout=SECONDS + 10)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return json.loads(done.stdout)

    (tmp_path / "notes.txt").write_bytes(NOTES)
    made = curl("/files", "-F", "purpose=user_data", "-F", f"file=@{tmp_path / 'notes.txt'}")
    asked = {**ASKED, "messages": messages(file_part(made["id"]))}
    answer = curl("/chat/completions", "-H", "Content-Type: application/json", "-d", json.dumps(asked))
    assert WORD in answer["choices"][0]["message"]["content"]


NODE = r"""
import fs from "node:fs";
import OpenAI from "openai";
import { Portkey } from "portkey-ai";
const [sdk, baseURL, path, request] = process.argv.slice(2);
const apiKey = "sk-of-nobody";
const client = sdk === "openai" ? new OpenAI({ apiKey, baseURL }) : new Portkey({ apiKey, baseURL, provider: "@llm" });
const made = await client.files.create({ file: fs.createReadStream(path), purpose: "user_data" });
const asked = JSON.parse(request.replace("FILE_ID", made.id));
const answer = await client.chat.completions.create(asked);
const pieces = [];
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true }))
  pieces.push(chunk.choices[0]?.delta?.content ?? "");
console.log(JSON.stringify({ answer: answer.choices[0].message.content, pieces }));
"""


@pytest.mark.parametrize("package", ["openai", "portkey-ai"])
def test_model_reads_a_file_that_node_names_and_streams_its_answer_too(package, gateway, node_folder, tmp_path):
    (node_folder / "kept.mjs").write_text(NODE, "utf-8")
    (tmp_path / "notes.txt").write_bytes(NOTES)
    asked = json.dumps({**ASKED, "messages": messages(file_part("FILE_ID"))})
    words = ["node", "kept.mjs", package, gateway.url, str(tmp_path / "notes.txt"), asked]
    done = subprocess.run(words, cwd=node_folder, capture_output=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr.decode()
    seen = json.loads(done.stdout)
    assert WORD in seen["answer"]
    assert len(seen["pieces"]) > 5
    assert WORD in "".join(seen["pieces"])


# file operations under the provider's name


def test_file_operations_under_the_model_servers_name_are_those_of_the_store(gateway, relay, client):
    with nothing_sent(gateway, relay):
        of_model = client.with_options(default_headers={"x-portkey-provider": "@llm"}).files
        of_store = client.with_options(default_headers={"x-portkey-provider": "local"}).files
        made = of_model.create(file=("notes.txt", NOTES), purpose="user_data")
        assert made.id in [file.id for file in of_model.list(limit=100)]
        assert of_model.retrieve(made.id) == made == of_store.retrieve(made.id)
        assert of_model.content(made.id).content == NOTES == of_store.content(made.id).content
        assert of_model.delete(made.id).deleted
        for files in (of_model, of_store):
            with pytest.raises(openai.NotFoundError):
                files.retrieve(made.id)


# an image


@pytest.mark.parametrize(
    "part",
    [
        lambda file_id: {"type": "file", "file": {"file_id": file_id}},
        lambda file_id: {"type": "image_url", "image_url": {"file_id": file_id}},
        lambda file_id: {"type": "image_url", "image_url": {"url": file_id}},
    ],
    ids=["file", "image_url with file_id", "image_url with url"],
)
def test_model_sees_an_image_that_a_chat_names(part, gateway):
    image = part(uploaded(gateway, IMAGE, "grey.png"))
    (status, seen), (_, without) = chat(gateway, image), chat(gateway)
    assert status == 200, seen
    assert seen["usage"]["prompt_tokens"] - without["usage"]["prompt_tokens"] == llama.IMAGE_TOKENS


def test_model_sees_an_image_that_a_response_names(gateway):
    def tokens(*parts):
        content = [*parts, {"type": "input_text", "text": "What is this?"}]
        asked = {**ASKED, "max_output_tokens": 1, "input": [{"role": "user", "content": content}]}
        status, answer = posted(gateway, "/v1/responses", asked)
        assert status == 200, answer
        return answer["usage"]["input_tokens"]

    image = {"type": "input_image", "file_id": uploaded(gateway, IMAGE, "grey.png")}
    assert tokens(image) - tokens() == llama.IMAGE_TOKENS


# what the gateway refuses by itself, and what the model server refuses


def test_pdf_is_refused_before_anything_is_sent(gateway, relay):
    pdf = file_part(uploaded(gateway, b"%PDF-1.7\n%%EOF\n", "report.pdf"))
    with nothing_sent(gateway, relay):
        status, answer = chat(gateway, pdf)
    assert (status, answer["error"]["code"]) == (400, "unsupported_file")
    assert "report.pdf" in answer["error"]["message"]


@pytest.fixture(scope="module")
def huge(gateway):
    """The id of an image of 80 MiB: in base64, more than the model server takes."""
    return uploaded(gateway, IMAGE + bytes(80 << 20), "huge.png")


def test_image_over_max_inline_bytes_is_refused_before_anything_is_sent(gateway, relay, huge):
    with nothing_sent(gateway, relay):
        status, answer = chat(gateway, file_part(huge))
    assert (status, answer["error"]["code"]) == (413, "request_too_large")
    assert "max_inline_bytes" in answer["error"]["message"]


def test_refusal_of_the_model_server_for_its_size_names_max_inline_bytes(gateway, huge):
    status, answer = chat(gateway, file_part(huge), **{"x-portkey-provider": "@roomy"})
    assert (status, answer["error"]["code"]) == (413, None)  # the gateway's own has a code
    assert answer["error"]["message"].startswith("The provider answered 413.")
    assert "max_inline_bytes" in answer["error"]["message"]


@pytest.fixture(scope="module")
def keyed(gateway, server, relay, tmp_path_factory):
    """A gateway under the same server, with two keys."""
    hashes = {name: sha256(key.encode()).hexdigest() for name, key in KEYS.items()}
    sections = [f"[key:{name}]\nsha256 = {digest}\nproviders = local llm\n" for name, digest in hashes.items()]
    with gateway_of(gateway.kind, server, relay, tmp_path_factory, "".join(sections)) as made:
        yield made


def test_file_of_another_key_is_not_found_and_nothing_is_sent(keyed, relay):
    own, other = ({"x-portkey-api-key": key} for key in KEYS.values())
    notes = file_part(uploaded(keyed, NOTES, **own))
    with nothing_sent(keyed, relay, notes, **own):
        status, answer = chat(keyed, notes, **other)
    assert (status, answer["error"]["code"]) == (404, "not_found")
