"""Portkey's page on Anthropic's files, as printed, and what else real clients do with Anthropic behind the gateway."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from processes import memory
from servers import running
from sockets import SOON, WAIT
from strict_anthropic import (
    BETA,
    DEFAULT_TEXT,
    KEY,
    StrictAnthropic,
    cut,
    error_event,
    events,
    failing,
    html,
    message,
    tool_use,
    waiting,
)

openai = pytest.importorskip("openai", reason="needs the openai package")
pytest.importorskip("gunicorn", reason="needs gunicorn")

MIB = 1 << 20
GATEWAY_KEY = "fp_" + "mission" * 6
MODEL = "@anthropic/claude-sonnet-4-5-20250929"
PDF = b"%PDF-1.7\n" + random.Random(5).randbytes(3000)
CONFIG = """
[provider:anthropic]
base_url = {fake}
credential = {key}
[provider:stale]
kind = anthropic
base_url = {fake}
credential = sk-ant-stale
[key:team]
sha256 = {hash}
providers = *
"""
OPEN_CONFIG = """
[provider:anthropic]
base_url = {fake}
"""


# Portkey's page, with its indentation restored

PYTHON = {
    "portkey-ai": """
from portkey_ai import Portkey

portkey = Portkey(
    api_key="PORTKEY_API_KEY",
    provider="@anthropic"
)
""",
    "openai": """
from openai import OpenAI
from portkey_ai import PORTKEY_GATEWAY_URL, createHeaders

client = OpenAI(
    api_key="PORTKEY_API_KEY",
    base_url=PORTKEY_GATEWAY_URL,
    default_headers=createHeaders(
        provider="@anthropic",
        api_key="PORTKEY_API_KEY"
    )
)
""",
}
PYTHON_CALLS = {
    "upload": """
file = portkey.files.create(
    purpose="assistants",
    file=open("document.pdf", "rb")
)
print(file.id)
""",
    "list": """
files = portkey.files.list()
print(files)
""",
    "retrieve": """
file = portkey.files.retrieve(file_id="<file_id>")
print(file)
""",
    "delete": """
response = portkey.files.delete(file_id="<file_id>")
print(response)
""",
}
PYTHON_CHAT = """
from portkey_ai import Portkey

portkey = Portkey(api_key="PORTKEY_API_KEY")

response = portkey.chat.completions.create(
    model="@anthropic/claude-sonnet-4-5-20250929",
    max_tokens=1024,
    messages=[{
        "role": "user",
        "content": [
            {"type": "text", "text": "Please summarize this document."},
            {"type": "file", "file": {"file_id": "<file_id>", "mime_type": "application/pdf"}}
        ]
    }]
)

print(response.choices[0].message.content)
"""
NODE = {
    "portkey-ai": """
import Portkey from 'portkey-ai';
import fs from 'fs';

const portkey = new Portkey({
    apiKey: "PORTKEY_API_KEY",
    provider: "@anthropic"
});
""",
    "openai": """
import OpenAI from 'openai';
import { PORTKEY_GATEWAY_URL, createHeaders } from 'portkey-ai';
import fs from 'fs';

const client = new OpenAI({
    apiKey: "PORTKEY_API_KEY",
    baseURL: PORTKEY_GATEWAY_URL,
    defaultHeaders: createHeaders({
        provider: "@anthropic",
        apiKey: "PORTKEY_API_KEY"
    })
});
""",
}
NODE_CALLS = {
    "upload": """
const file = await portkey.files.create({
    purpose: "assistants",
    file: fs.createReadStream("document.pdf")
});
console.log(file.id);
""",
    "list": """
const files = await portkey.files.list();
console.log(files);
""",
    "retrieve": """
const file = await portkey.files.retrieve("<file_id>");
console.log(file);
""",
    "delete": """
const response = await portkey.files.delete("<file_id>");
console.log(response);
""",
}
NODE_CHAT = """
import Portkey from 'portkey-ai';

const portkey = new Portkey({
    apiKey: "PORTKEY_API_KEY"
});

const response = await portkey.chat.completions.create({
    model: "@anthropic/claude-sonnet-4-5-20250929",
    max_tokens: 1024,
    messages: [{
        role: "user",
        content: [
            { type: "text", text: "Please summarize this document." },
            { type: "file", file: { file_id: "<file_id>", mime_type: "application/pdf" } }
        ]
    }]
});

console.log(response.choices[0].message.content);
"""
CURL = {
    "upload": """
curl -X POST https://api.portkey.ai/v1/files \\
  -H "x-portkey-api-key: $PORTKEY_API_KEY" \\
  -H "x-portkey-provider: @anthropic" \\
  -H "anthropic-beta: files-api-2025-04-14" \\
  -F 'file=@"document.pdf"'
""",
    "chat": """
curl -X POST https://api.portkey.ai/v1/chat/completions \\
  -H "x-portkey-api-key: $PORTKEY_API_KEY" \\
  -H "anthropic-beta: files-api-2025-04-14" \\
  -H "Content-Type: application/json" \\
  -d '{
    "model": "@anthropic/claude-sonnet-4-5-20250929",
    "max_tokens": 1024,
    "messages": [
      {
        "role": "user",
        "content": [
          {
            "type": "text",
            "text": "Please summarize this document."
          },
          {
            "type": "file",
            "file": {
              "file_id": "<file_id>",
              "mime_type": "application/pdf"
            }
          }
        ]
      }
    ]
  }'
""",
    "list": """
curl https://api.portkey.ai/v1/files \\
  -H "x-portkey-api-key: $PORTKEY_API_KEY" \\
  -H "x-portkey-provider: @anthropic" \\
  -H "anthropic-beta: files-api-2025-04-14"
""",
    "retrieve": """
curl https://api.portkey.ai/v1/files/<file_id> \\
  -H "x-portkey-api-key: $PORTKEY_API_KEY" \\
  -H "x-portkey-provider: @anthropic" \\
  -H "anthropic-beta: files-api-2025-04-14"
""",
    "delete": """
curl -X DELETE https://api.portkey.ai/v1/files/<file_id> \\
  -H "x-portkey-api-key: $PORTKEY_API_KEY" \\
  -H "x-portkey-provider: @anthropic" \\
  -H "anthropic-beta: files-api-2025-04-14"
""",
}
OPERATIONS = ("upload", "chat", "list", "retrieve", "delete")
CLIENTS = ("portkey-ai Python", "portkey-ai Node", "curl", "openai Python", "openai Node")
#: the page has no chat with OpenAI's SDKs
SNIPPETS = [(client, operation) for client in CLIENTS for operation in OPERATIONS
            if operation != "chat" or not client.startswith("openai")]  # fmt: skip


def printed(client, operation):
    """The page's text for this client and operation."""
    package, _, language = client.partition(" ")
    if client == "curl":
        return CURL[operation]
    if operation == "chat":
        return PYTHON_CHAT if language == "Python" else NODE_CHAT
    heads, calls = (PYTHON, PYTHON_CALLS) if language == "Python" else (NODE, NODE_CALLS)
    head, call = heads[package], calls[operation]
    if operation != "upload":
        head = head.replace("import fs from 'fs';\n", "")
    if package == "openai":
        call = call.replace("portkey.files", "client.files").replace('file_id="<file_id>"', '"<file_id>"')
    return head + call


def ours(snippet, url, file_id):
    """The same with our URL, key and id."""
    changes = {
        "https://api.portkey.ai/v1": url,
        "base_url=PORTKEY_GATEWAY_URL": f'base_url="{url}"',
        "baseURL: PORTKEY_GATEWAY_URL": f'baseURL: "{url}"',
        "= Portkey(": f'= Portkey(base_url="{url}", ',
        # what the page imports is there for TypeScript's default imports alone, with any gateway
        "import Portkey from 'portkey-ai'": "import { Portkey } from 'portkey-ai'",
        "new Portkey({": f'new Portkey({{ baseURL: "{url}",',
        '"PORTKEY_API_KEY"': f'"{GATEWAY_KEY}"',
        "<file_id>": file_id,
    }
    for there, here in changes.items():
        snippet = snippet.replace(there, here)
    return snippet


# Fixtures


@pytest.fixture(scope="module")
def fake():
    with StrictAnthropic() as upstream:
        yield upstream
    assert upstream.problems == []


@pytest.fixture(autouse=True)
def behaved(fake):
    """Each test begins with a fake that has no files and nothing prepared, and leaves it with no complaint."""
    fake.behave()
    fake.files.clear()
    fake.requests.clear()
    fake.problems.clear()
    yield
    assert fake.problems == []


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """start(kind, fake, *arguments, config=…): a context manager of a gateway in front of the fake."""

    def starter(kind, fake, *arguments, config=CONFIG):
        folder = tmp_path_factory.mktemp("mission")
        hashed = hashlib.sha256(GATEWAY_KEY.encode()).hexdigest()
        written = config.format(fake=fake.base_url, key=KEY, hash=hashed)
        (folder / "filesproxy.ini").write_text(written, encoding="utf-8")
        return running(kind, folder / "run", *arguments, FILESPROXY_CONFIG=folder / "filesproxy.ini")

    return starter


@pytest.fixture(scope="module")
def gateway(start, fake):
    with start("gunicorn", fake) as served:
        yield served


@pytest.fixture(scope="module")
def open_gateway(start, fake):
    """A gateway without keys of its own: callers bring Anthropic's."""
    with start("gunicorn", fake, config=OPEN_CONFIG) as served:
        yield served


@pytest.fixture(scope="module")
def embedded(start, fake):
    with start("embedded", fake) as served:
        yield served


def sdk(gateway, provider="@anthropic", key=GATEWAY_KEY):
    """OpenAI's SDK, which never tries again."""
    headers = {"x-portkey-provider": provider, "x-portkey-api-key": key}
    return openai.OpenAI(api_key=key, base_url=gateway.url, default_headers=headers, max_retries=0, timeout=30)


@pytest.fixture
def client(gateway):
    with sdk(gateway) as made:
        yield made


@pytest.fixture
def node(node_folder, gateway, tmp_path):
    """node(kind, **task): what OpenAI's SDK for Node gave."""
    script = shutil.copy(Path(__file__).parent / "clients" / "mission.mjs", node_folder)

    def run(kind, **task):
        task = {"kind": kind, "url": gateway.url, "key": GATEWAY_KEY, **task}
        (tmp_path / "task.json").write_text(json.dumps(task), encoding="utf-8")
        return json.loads(output(["node", str(script), "task.json"], tmp_path))

    return run


def output(words, folder, **environment):
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=90, env={**os.environ, **environment}
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


HELLO = [{"role": "user", "content": "Hello"}]


def ask(client, **more):
    return client.chat.completions.create(**{"model": MODEL, "max_tokens": 100, "messages": HELLO, **more})


def part(file_id, **more):
    return {"type": "file", "file": {"file_id": file_id, **more}}


# The page


@pytest.fixture
def ran(request, gateway, tmp_path):
    """ran(client, operation, file_id): what the snippet prints, in a folder with document.pdf."""
    (tmp_path / "document.pdf").write_bytes(PDF)

    def run(client, operation, file_id=""):
        snippet = ours(printed(client, operation), gateway.url, file_id)
        if client == "curl":
            if shutil.which("curl") is None:
                pytest.skip("needs curl")
            return output(["sh", "-ec", snippet], tmp_path, PORTKEY_API_KEY=GATEWAY_KEY)
        if client.endswith("Node"):
            script = request.getfixturevalue("node_folder") / "printed.mjs"
            script.write_text(snippet, encoding="utf-8")
            return output(["node", str(script)], tmp_path)
        (tmp_path / "printed.py").write_text(snippet, encoding="utf-8")
        return output([sys.executable, "printed.py"], tmp_path)

    return run


@pytest.mark.parametrize(("client_name", "operation"), SNIPPETS, ids=[" ".join(snippet) for snippet in SNIPPETS])
def test_snippet_of_portkeys_page_runs_as_printed(client_name, operation, ran, fake):
    if client_name.endswith("Python"):
        pytest.importorskip("portkey_ai", reason="needs the portkey-ai package")
    ids = [fake.store("document.pdf", "application/pdf", PDF)["id"] for _ in range(3)]
    said = ran(client_name, operation, ids[1])
    check_said(said, operation, ids, fake)
    if client_name == "curl":
        check_json(json.loads(said), operation, ids)


def check_said(said, operation, ids, fake):
    """What was printed, and what became of the files."""
    if operation == "upload":
        (new,) = set(fake.files) - set(ids)
        assert new in said
        obj, media_type, content, _ = fake.files[new]
        assert (obj["filename"], media_type, content) == ("document.pdf", "application/pdf", PDF)
    elif operation == "chat":
        assert DEFAULT_TEXT in said
        (asked,) = fake.messages
        assert asked["model"] == "claude-sonnet-4-5-20250929"
        assert asked["max_tokens"] == 1024
        document = {"type": "document", "source": {"type": "file", "file_id": ids[1]}}
        assert asked["messages"] == [
            {"role": "user", "content": [{"type": "text", "text": "Please summarize this document."}, document]}
        ]
    elif operation == "list":
        assert all(file_id in said for file_id in ids)
    elif operation == "retrieve":
        assert ids[1] in said
        assert "document.pdf" in said
        assert str(len(PDF)) in said
    else:
        assert ids[1] in said
        assert "deleted" in said
        assert set(fake.files) == {ids[0], ids[2]}


def check_json(answer, operation, ids):
    """The shape of OpenAI's answer, which only curl shows as it is."""
    shown = {
        "object": "file", "bytes": len(PDF), "filename": "document.pdf", "purpose": "assistants",
        "status": "processed", "expires_at": None, "mime_type": "application/pdf", "downloadable": False,
    }  # fmt: skip
    if operation in ("upload", "retrieve"):
        assert {name: answer.get(name) for name in shown} == shown
        assert isinstance(answer["created_at"], int)
        assert "type" not in answer
    elif operation == "list":
        assert [file["id"] for file in answer["data"]] == ids[::-1]
        assert (answer["object"], answer["has_more"]) == ("list", False)
        assert (answer["first_id"], answer["last_id"]) == (ids[2], ids[0])
    elif operation == "delete":
        assert answer == {"id": ids[1], "object": "file", "deleted": True}
    else:
        assert answer["object"] == "chat.completion"
        assert answer["choices"][0]["finish_reason"] == "stop"
        usage = answer["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (10, 20, 30)


# Files


@pytest.mark.parametrize("ga", [False, True], ids=["older list", "newer list"])
@pytest.mark.parametrize("query", [{"limit": 100}, {}], ids=["by 100", "without a limit"])
def test_openai_python_meets_each_of_2500_files_once(query, ga, client, fake):
    ids, fake.is_older = fake.seed(2500), not ga
    began = time.monotonic()
    assert [file.id for file in client.files.list(**query)] == ids[::-1]
    calls, seconds = fake.asked("GET", "/v1/files"), time.monotonic() - began
    print(f"2500 files, {query}, ga={ga}: {calls} upstream calls, {seconds:.2f} s")


@pytest.mark.parametrize("ga", [False, True], ids=["older list", "newer list"])
@pytest.mark.parametrize("query", [{"limit": 100}, {}], ids=["by 100", "without a limit"])
def test_openai_node_meets_each_of_2500_files_once(query, ga, node, fake):
    ids, fake.is_older = fake.seed(2500), not ga
    assert node("pages", query=query) == ids[::-1]


@pytest.mark.parametrize("ga", [False, True], ids=["older list", "newer list"])
def test_unknown_after_is_an_error_and_no_first_page(ga, client, fake):
    fake.seed(30)
    fake.is_older = not ga
    with pytest.raises((openai.NotFoundError, openai.BadRequestError)):
        client.files.list(limit=10, after="file_none")


@pytest.mark.parametrize("betas", ["", BETA], ids=["no beta", "the client's own files beta"])
def test_expiry_of_openai_python_makes_a_round_trip(betas, client, fake):
    headers = {"anthropic-beta": betas} if betas else {}
    lives = {"anchor": "created_at", "seconds": 7200}
    made = client.files.create(file=("a.pdf", PDF), purpose="user_data", expires_after=lives, extra_headers=headers)
    assert made.expires_at == made.created_at + 7200
    assert client.files.retrieve(made.id).expires_at == made.expires_at
    assert [file.expires_at for file in client.files.list()] == [made.expires_at]


def test_content_comes_only_of_what_a_tool_made(client, fake):
    (closed,) = fake.seed(1)
    made = fake.store("table.csv", "text/csv", PDF, downloadable=True)
    assert client.files.content(made["id"]).read() == PDF
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.content(closed)
    assert caught.value.code == "file_not_downloadable"
    shown = client.files.retrieve(made["id"])
    assert (shown.purpose, shown.bytes, shown.created_at // 10**8) == ("assistants_output", len(PDF), 17)


@pytest.mark.parametrize("name", ["what?.pdf", "x" * 252 + ".pdf"], ids=["a question mark", "256 characters"])
def test_file_name_that_anthropic_refuses_is_refused_before_it_is_asked(name, client, fake):
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=(name, PDF), purpose="assistants")
    assert caught.value.param == "file"
    assert fake.requests == []


@pytest.mark.parametrize("name", ["x" * 251 + ".pdf", "日本語 é.pdf", "a & b; c=1.pdf"])
def test_file_name_that_anthropic_takes_arrives(name, client, fake):
    made = client.files.create(file=(name, PDF), purpose="user_data")
    assert (made.filename, made.purpose, made.status) == (name, "user_data", "processed")
    assert fake.files[made.id][0]["filename"] == name


def test_upload_of_200_mb_costs_the_gateway_little_memory(start, tmp_path):
    block = random.Random(3).randbytes(MIB)
    with open(tmp_path / "big.pdf", "wb") as file:
        for _ in range(200):
            file.write(block)
    with StrictAnthropic(keep=False) as fake, start("gunicorn", fake, "--workers", "1") as served:
        with sdk(served) as client:
            client.files.create(file=("small.pdf", block[:4096]), purpose="assistants")
            (worker,) = served.workers()
            before, began = memory(worker), time.monotonic()
            with open(tmp_path / "big.pdf", "rb") as file:
                made = client.files.create(file=file, purpose="assistants")
        growth, seconds = memory(worker, "VmHWM") - before, time.monotonic() - began
        assert fake.files[made.id][3] == hashlib.sha256(block * 200).hexdigest()
        assert fake.problems == []
    print(f"uploaded 200 MiB in {seconds:.1f} s; the worker grew by {growth / MIB:.1f} MiB")
    assert made.bytes == 200 * MIB
    assert growth <= 16 * MIB


# Chats


def tool(name, **properties):
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": name, "parameters": schema, "strict": True}}


TOOLS = [tool("get_weather", city={"type": "string"}, days={"type": "integer"}), tool("get_time")]
WEATHER = {"city": "Zürich 日本", "days": 3}
STREAMED = {"model": MODEL, "max_tokens": 100, "messages": HELLO, "tools": TOOLS,
            "stream_options": {"include_usage": True}}  # fmt: skip


def two_tools():
    """Text and two calls, the second without arguments, whose usage has all that Anthropic counts."""
    usage = {"input_tokens": 11, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 5, "output_tokens": 40}
    calls = tool_use("get_weather", WEATHER, "toolu_w"), tool_use("get_time", {}, "toolu_t")
    return message("I shall look: ünï 日本語.", *calls, stop_reason="tool_use", usage=usage)


def check_completion(completion):
    """What an SDK made of two_tools(), as a dict."""
    (choice,) = completion["choices"]
    said = choice["message"]
    assert (said["content"], choice["finish_reason"]) == ("I shall look: ünï 日本語.", "tool_calls")
    calls = [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in said["tool_calls"]]
    assert [(call_id, name, json.loads(arguments)) for call_id, name, arguments in calls] == [
        ("toolu_w", "get_weather", WEATHER),
        ("toolu_t", "get_time", {}),
    ]
    usage = completion["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (19, 40, 59)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 5


@pytest.mark.parametrize("chop", [0, 5])
def test_openai_python_accumulates_a_stream_with_two_tools(chop, client, fake):
    fake.script, fake.chop = [two_tools()], chop
    with client.chat.completions.stream(**STREAMED) as stream:
        for _ in stream:
            pass
        check_completion(stream.get_final_completion().model_dump())


def test_openai_python_gets_the_same_without_a_stream(client, fake):
    fake.script = [two_tools()]
    check_completion(ask(client, tools=TOOLS).model_dump())


def test_chunks_of_a_stream_are_openais(client, fake):
    fake.script = [two_tools()]
    chunks = list(client.chat.completions.create(**STREAMED, stream=True))
    assert {(chunk.object, chunk.id, chunk.created, chunk.model) for chunk in chunks} == {
        ("chat.completion.chunk", chunks[0].id, chunks[0].created, chunks[0].model)
    }
    assert (chunks[0].choices[0].delta.role, chunks[-1].choices, chunks[-1].usage.total_tokens) == ("assistant", [], 59)
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    pieces = [delta.content for delta in deltas if delta.content]
    assert len(pieces) > 2
    indexes = [call.index for delta in deltas for call in delta.tool_calls or ()]
    assert sorted(set(indexes)) == [0, 1]


def test_events_and_deltas_that_nobody_knows_yet_are_ignored(client, fake):
    def reply(handler, request):
        first, *rest = events(message("Hello."))
        unknown = {"index": 0, "delta": {"type": "hologram_delta", "hologram": "x"}}
        handler.stream([first, ("weather", {"sky": "blue"}), *rest[:2], ("content_block_delta", unknown), *rest[2:]])

    fake.script = [reply]
    chunks = list(ask(client, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello."
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_openai_node_accumulates_a_stream_with_two_tools(node, fake):
    fake.script = [two_tools()]
    check_completion(node("stream", request=STREAMED))


BROKEN = {
    "error event": lambda: error_event(5, "overloaded_error", "Overloaded"),
    "cut": lambda: cut(5),
    "cut at once": lambda: cut(0),
    "ended early": lambda: cut(5, clean=True),
    "ended before message_stop": lambda: cut(9, clean=True),
}


@pytest.mark.parametrize("how", BROKEN)
def test_stream_that_breaks_is_an_error_for_openai_python(how, client, fake):
    fake.script = [BROKEN[how]()]
    with pytest.raises(openai.APIError) as caught:
        for _ in ask(client, stream=True):
            pass
    if how == "error event":
        assert "Overloaded" in caught.value.message


@pytest.mark.parametrize("how", BROKEN)
def test_stream_that_breaks_throws_in_openai_node(how, node, fake):
    fake.script = [BROKEN[how]()]
    seen = node("chunks", request={"model": MODEL, "max_tokens": 100, "messages": HELLO})
    assert seen.get("isAPIError") is True
    if how == "error event":
        assert "Overloaded" in seen["message"]


def test_tool_loop_goes_round(client, fake):
    fake.script = [two_tools(), message("It is 20 degrees.")]
    answer = ask(client, tools=TOOLS)
    said = answer.choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": f"of {call.id}"} for call in said.tool_calls]
    conversation = [{"role": "system", "content": "Be brief."}, *HELLO, said.model_dump(exclude_none=True), *results]
    answer = ask(client, tools=TOOLS, messages=conversation, parallel_tool_calls=False)
    assert answer.choices[0].message.content == "It is 20 degrees."
    user, assistant, results = fake.messages[1]["messages"]
    assert [block["type"] for block in assistant["content"]] == ["text", "tool_use", "tool_use"]
    assert [block["input"] for block in assistant["content"][1:]] == [WEATHER, {}]
    assert [block["tool_use_id"] for block in results["content"]] == ["toolu_w", "toolu_t"]
    assert "of toolu_w" in json.dumps(results["content"][0]["content"])
    assert fake.messages[1]["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}


PNG = "data:image/png;base64," + base64.b64encode(b"a picture").decode()


def calling(*ids):
    """An assistant's message that calls a tool under these ids, without arguments, and with no words."""
    calls = [{"id": one, "type": "function", "function": {"name": "get_time", "arguments": ""}} for one in ids]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def result(call_id, content="x"):
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def user(*parts):
    return {"role": "user", "content": list(parts)}


def given(**function):
    return {"type": "function", "function": {"name": "f", **function}}


SYSTEM = {"role": "system", "content": "Be brief."}
TAKEN = {
    "temperature over 1": {"temperature": 2},
    "temperature and top_p": {"temperature": 0.5, "top_p": 0.5},
    "one stop": {"stop": "END"},
    "an empty stop": {"stop": ""},
    "max_completion_tokens": {"max_completion_tokens": 50},
    "a user": {"user": "u1"},
    "metadata": {"metadata": {"a": "b"}, "store": True, "seed": 1},
    "little effort": {"reasoning_effort": "minimal"},
    "a schema": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    },
    "a tool without parameters": {"tools": [given()]},
    "a tool with nulls": {"tools": [given(description=None, parameters=None, strict=None)]},
    "no tools": {"tools": [], "parallel_tool_calls": False},
    "a choice without tools": {"tool_choice": "auto"},
    "a choice": {"tools": [given()], "tool_choice": {"type": "function", "function": {"name": "f"}}},
    "no choice": {"tools": [given()], "tool_choice": "none", "parallel_tool_calls": False},
    "two systems": {"messages": [{**SYSTEM, "role": "developer"}, *HELLO, SYSTEM]},
    "an empty system": {"messages": [{**SYSTEM, "content": ""}, *HELLO]},
    "an empty text": {"messages": [user({"type": "text", "text": ""}, {"type": "text", "text": "x"})]},
    "two users": {"messages": [*HELLO, *HELLO]},
    "an empty assistant": {"messages": [*HELLO, {"role": "assistant", "content": None}, *HELLO]},
    "a refusal": {
        "messages": [*HELLO, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, *HELLO]
    },
    "results and a user": {"messages": [*HELLO, calling("a", "b"), result("a"), result("b"), *HELLO]},
    "results in another order": {"messages": [*HELLO, calling("a", "b"), result("b"), result("a")]},
    "an empty result": {"messages": [*HELLO, calling("a"), result("a", "")]},
    "a result in parts": {"messages": [*HELLO, calling("a"), result("a", [{"type": "text", "text": "x"}])]},
    "two rounds": {"messages": [*HELLO, calling("a"), result("a"), calling("a"), result("a")]},
    "a picture": {"messages": [user({"type": "image_url", "image_url": {"url": PNG, "detail": "low"}})]},
    "a picture as a file": {"messages": [user({"type": "file", "file": {"filename": "a.png", "file_data": PNG}})]},
    "a link": {"messages": [user({"type": "file", "file": {"file_url": "https://example.com/a.pdf"}})]},
    "a text": {
        "messages": [user({"type": "file", "file": {"filename": "a.txt", "file_data": "data:text/plain;base64,aGk="}})]
    },
}


@pytest.mark.parametrize("name", TAKEN)
def test_chat_as_openais_clients_have_it_is_right_for_anthropic(name, client, fake):
    assert ask(client, **TAKEN[name]).choices[0].message.content == DEFAULT_TEXT
    assert len(fake.messages) == 1


def test_type_of_a_file_is_looked_up_once_where_the_client_does_not_say_it(client, fake):
    (image,), (pdf,) = fake.seed(1, mime_type="image/png"), fake.seed(1)
    content = [part(image), part(image), part(pdf, mime_type="application/pdf"), {"type": "text", "text": "Compare."}]
    ask(client, messages=[{"role": "user", "content": content}, {"role": "user", "content": [part(image)]}])
    assert fake.asked("GET", f"/v1/files/{image}") == 1
    assert fake.asked("GET", f"/v1/files/{pdf}") == 0
    blocks = [block for one in fake.messages[0]["messages"] for block in one["content"]]
    assert [block["type"] for block in blocks] == ["image", "image", "document", "text", "image"]


def test_file_that_comes_with_the_chat_is_a_document(client, fake):
    data = "data:application/pdf;base64," + base64.b64encode(PDF).decode()
    content = [{"type": "file", "file": {"filename": "a.pdf", "file_data": data}}, {"type": "text", "text": "Well?"}]
    ask(client, messages=[{"role": "user", "content": content}])
    source = fake.messages[0]["messages"][0]["content"][0]["source"]
    assert (source["type"], source["media_type"]) == ("base64", "application/pdf")
    assert base64.b64decode(source["data"]) == PDF


# Errors

ERRORS = [
    (400, "invalid_request_error", "BadRequestError"),
    (404, "not_found_error", "NotFoundError"),
    (413, "request_too_large", "APIStatusError"),
    (429, "rate_limit_error", "RateLimitError"),
    (500, "api_error", "InternalServerError"),
    (529, "overloaded_error", "InternalServerError"),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("status", "kind", "name"), ERRORS, ids=[str(error[0]) for error in ERRORS])
def test_error_of_anthropics_is_the_sdks_class_with_its_words(status, kind, name, stream, client, fake):
    fake.script = [failing(status, kind, "Not like this.", {"retry-after": "7"} if status == 429 else None)]
    with pytest.raises(getattr(openai, name)) as caught:
        ask(client, stream=stream)
    assert caught.value.status_code == status
    assert "Not like this." in caught.value.message
    assert set(caught.value.body) == {"message", "type", "param", "code"}
    assert caught.value.request_id.startswith("req_011C")
    assert caught.value.response.headers["x-request-id"] == caught.value.request_id
    if status == 429:
        assert caught.value.response.headers["retry-after"] == "7"


def test_missing_file_is_a_not_found_error_in_files_and_in_chats(client):
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            call("file_none")
        assert "file_none" in caught.value.message
        assert caught.value.request_id.startswith("req_011C")
    for more in ({}, {"mime_type": "application/pdf"}):
        with pytest.raises(openai.NotFoundError) as caught:
            ask(client, messages=[{"role": "user", "content": [part("file_none", **more)]}])
        assert "file_none" in caught.value.message


def test_saved_credential_that_anthropic_refuses_is_not_the_callers_fault(gateway, fake):
    fake.script = [failing(403, "permission_error", "sk-ant-stale may not.")]
    with sdk(gateway, "@stale") as stale, sdk(gateway) as client:
        for call in (stale.files.list, lambda: ask(stale, model="claude-x"), lambda: ask(client)):
            with pytest.raises(openai.InternalServerError) as caught:
                call()
            assert (caught.value.status_code, caught.value.code) == (502, "upstream_credential_rejected")
            assert "sk-ant" not in str(caught.value)


def test_page_of_an_edge_proxy_is_not_handed_on(client, fake):
    fake.script, fake.instead = [html(503, "error code: leaked")], html(503, "error code: leaked")
    for call in (lambda: ask(client), client.files.list):
        with pytest.raises(openai.InternalServerError) as caught:
            call()
        assert (caught.value.status_code, caught.value.code) == (502, "upstream_invalid_answer")
        assert "leaked" not in str(caught.value)


def test_answer_that_breaks_off_is_a_502(client, fake):
    fake.script = [cut(0)]
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client)
    assert caught.value.status_code == 502


@pytest.mark.parametrize("provider", ["", "nobody", "@nobody"])
def test_unknown_provider_is_a_400(provider, gateway):
    headers = {"x-portkey-api-key": GATEWAY_KEY, **({"x-portkey-provider": provider} if provider else {})}
    response, body = gateway.request("GET", "/v1/files", headers=headers)
    assert response.status == 400
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


def test_headers_of_anthropics_own_are_not_passed_on(client, fake):
    fake.script = [message("a"), message("b")]
    (file_id,) = fake.seed(1, downloadable=True)
    raw = (
        client.files.with_raw_response.list(),
        client.files.with_raw_response.retrieve(file_id),
        client.chat.completions.with_raw_response.create(model=MODEL, max_tokens=9, messages=HELLO),
    )
    assert raw[0].headers["x-request-id"]  # the gateway's own: a list may take several calls
    assert [answer.headers["x-request-id"][:8] for answer in raw[1:]] == ["req_011C"] * 2
    for headers in (answer.headers for answer in raw):
        assert not {"set-cookie", "x-internal-host", "anthropic-organization-id"} & {name.lower() for name in headers}
        assert "cloudflare" not in headers.get("server", "")


# Callers with keys of their own


@pytest.mark.parametrize("header", ["x-api-key", "x-portkey-api-key"])
def test_caller_brings_anthropics_key(header, open_gateway, fake):
    (file_id,) = fake.seed(1)
    headers = {header: KEY, "x-portkey-provider": "anthropic"}
    response, body = open_gateway.request("GET", "/v1/files", headers=headers)
    assert response.status == 200, body
    assert [file["id"] for file in json.loads(body)["data"]] == [file_id]
    asked = json.dumps({"model": "claude-x", "max_tokens": 9, "messages": HELLO})
    response, body = open_gateway.request(
        "POST", "/v1/chat/completions", asked, {**headers, "content-type": "application/json"}
    )
    assert response.status == 200, body
    assert json.loads(body)["choices"][0]["message"]["content"] == DEFAULT_TEXT


def test_wrong_key_of_a_callers_own_is_an_authentication_error(open_gateway):
    with sdk(open_gateway, "anthropic", "sk-ant-wrong") as client, pytest.raises(openai.AuthenticationError) as caught:
        client.files.list()
    assert caught.value.code == "invalid_api_key"


def test_key_of_a_callers_own_that_may_not_do_that_is_a_permission_denied_error(open_gateway, fake):
    fake.script = [failing(403, "permission_error", "Not with this key.")]
    with sdk(open_gateway, "anthropic", KEY) as client, pytest.raises(openai.PermissionDeniedError) as caught:
        ask(client, model="claude-x")
    assert "Not with this key." in caught.value.message


def test_openai_sdk_with_anthropics_key_uploads_and_asks(open_gateway, fake):
    with sdk(open_gateway, "anthropic", KEY) as client:
        made = client.files.create(file=("document.pdf", PDF), purpose="assistants")
        answer = ask(client, model="claude-x", messages=[{"role": "user", "content": [part(made.id)]}])
    assert answer.choices[0].message.content == DEFAULT_TEXT
    assert fake.files[made.id][2] == PDF


# Time


@pytest.fixture(params=["gunicorn", "embedded"])
def served(request):
    return request.getfixturevalue({"gunicorn": "gateway", "embedded": "embedded"}[request.param])


def test_client_that_leaves_a_silent_stream_takes_the_upstream_with_it(served, fake):
    gate = threading.Semaphore(4)  # all up to the first piece of text
    fake.script = [waiting(gate)]
    with sdk(served) as client:
        stream = ask(client, stream=True)
        assert next(piece for chunk in stream for piece in [chunk.choices[0].delta.content] if piece)
        left = time.monotonic()
        stream.close()
        assert fake.stream_gone.wait(WAIT)
    seconds = fake.stream_gone_at - left
    print(f"the upstream's stream was closed {seconds * 1000:.0f} ms after the client had left")
    assert seconds < SOON


def test_events_are_handed_on_as_they_come(served, fake):
    gate, answer = threading.Semaphore(0), message(*["four pieces each"] * 10)
    fake.script = [waiting(gate, answer)]
    asked = {"model": MODEL, "max_tokens": 9, "messages": HELLO, "stream": True}
    headers = {"content-type": "application/json", "x-portkey-api-key": GATEWAY_KEY}
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    connection.request("POST", "/v1/chat/completions", json.dumps(asked), headers)
    delays = []
    gate.release()  # or no answer would begin
    with connection.getresponse() as response:
        for number, (_, value) in enumerate(events(answer)):
            if number:
                gate.release()
            if value.get("delta", {}).get("type") == "text_delta":
                read_until(response, value["delta"]["text"])
                delays.append(time.monotonic() - fake.sent[number])
        assert response.read().endswith(b"data: [DONE]\n\n")
    connection.close()
    print(f"an event is handed on in {statistics.median(delays) * 1000:.1f} ms (median of {len(delays)}), "
          f"at most {max(delays) * 1000:.1f} ms; the first {delays[0] * 1000:.1f} ms")  # fmt: skip
    assert statistics.median(delays) < 0.25  # the machine may be busy for longer at times


def read_until(response, words):
    """Read events up to the one that has this piece of text."""
    while True:
        line = response.readline()
        assert line, "the stream ended"
        if line.startswith(b"data: {"):
            choices = json.loads(line[len(b"data: ") :])["choices"]
            if choices and choices[0]["delta"].get("content") == words:
                return
