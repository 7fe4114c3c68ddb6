"""Client × provider × operation, each cell with the real client behind gunicorn; the table is in pytest's summary."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import strict_azure
import strict_openai
from configurations import hashed
from fakes import sha
from servers import provider_sections, running
from strict_azure import StrictAzure
from strict_openai import StrictOpenAI

pytest.importorskip("gunicorn", reason="needs gunicorn")

PYTHON_SDKS = ("portkey-ai Python", "openai Python")
NODE_SDKS = ("portkey-ai Node", "openai Node")
CLIENTS = ("portkey-ai Python", "portkey-ai Node", "openai Python", "openai Node", "curl")
PROVIDERS = ("@openai", "@azure-dated", "@azure-v1", "local", "compat")
ROWS = ("upload", "list", "retrieve", "content", "delete", "non-ASCII name", "empty file", "25 MiB file",
        "wrong key", "missing file")  # fmt: skip
GATEWAY_KEY = "fp_" + "matrix" * 7
SMALL, UNICODE, EMPTY, BIG = "training_data.jsonl", "données 日本語.jsonl", "empty.jsonl", "big.jsonl"
SIZES = {SMALL: 3000, UNICODE: 700, EMPTY: 0, BIG: 25 << 20}
LISTED = 12
CONFIG = """
[filesproxy]
folder = {folder}
{providers}[key:matrix]
sha256 = {hash}
providers = openai azure-dated azure-v1 local
caller_credentials = yes
"""

#: the five commands of Portkey's reference, as printed there
CURL = {
    "upload": """
curl https://your-gateway.example.com/v1/files \\
  -X POST \\
  -H "x-portkey-api-key: YOUR_API_KEY" \\
  -H "x-portkey-provider: openai" \\
  -F "purpose=fine-tune" \\
  -F "file=@training_data.jsonl"
""",
    "list": """
curl https://your-gateway.example.com/v1/files \\
  -H "x-portkey-api-key: YOUR_API_KEY" \\
  -H "x-portkey-provider: openai"
""",
    "retrieve": """
curl https://your-gateway.example.com/v1/files/file-1 \\
  -H "x-portkey-api-key: YOUR_API_KEY" \\
  -H "x-portkey-provider: openai"
""",
    "content": """
curl https://your-gateway.example.com/v1/files/file-1/content \\
  -H "x-portkey-api-key: YOUR_API_KEY" \\
  -H "x-portkey-provider: openai" \\
  --output file_content.jsonl
""",
    "delete": """
curl https://your-gateway.example.com/v1/files/file-1 \\
  -X DELETE \\
  -H "x-portkey-api-key: YOUR_API_KEY" \\
  -H "x-portkey-provider: openai"
""",
}


@pytest.fixture(scope="module")
def upstreams():
    """The fakes by provider; nothing the gateway sent them may have been wrong."""
    with StrictOpenAI() as saved, StrictOpenAI() as compat, StrictAzure() as azure:
        yield {"@openai": saved, "compat": compat, "@azure-dated": azure, "@azure-v1": azure}
        assert (saved.problems, compat.problems, azure.problems) == ([], [], [])


@pytest.fixture(scope="module")
def gateway(upstreams, tmp_path_factory):
    folder = tmp_path_factory.mktemp("matrix")
    (folder / "filesproxy.ini").write_text(CONFIG.format(
        folder=folder / "store", providers=provider_sections(upstreams),
        hash=hashed(GATEWAY_KEY),
    ), encoding="utf-8")  # fmt: skip
    with running("gunicorn", folder / "run", FILESPROXY_CONFIG=folder / "filesproxy.ini") as served:
        yield served


@pytest.fixture(scope="module")
def stored(upstreams, gateway):
    """Provider → the ids of twelve files that are there already, newest first."""
    azure = upstreams["@azure-v1"].seed(LISTED, "assistants")[::-1]
    return {
        "@openai": upstreams["@openai"].seed(LISTED, "assistants")[::-1],
        "compat": upstreams["compat"].seed(LISTED, "assistants")[::-1],
        "@azure-dated": azure,
        "@azure-v1": azure,
        "local": [_into_local(gateway, n) for n in range(LISTED)][::-1],
    }


def _into_local(gateway, number):
    response, answer = uploaded(gateway, "local", str(number), purpose="assistants")
    assert response.status == 200, answer
    return answer["id"]


def uploaded(gateway, provider, content, **fields):
    """(response, its JSON) of an upload without an SDK."""
    parts = [f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n' for name, text in fields.items()]
    file = f'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{content}\r\n--b--\r\n'
    headers = {
        "content-type": "multipart/form-data; boundary=b",
        "x-portkey-api-key": GATEWAY_KEY,
        "x-portkey-provider": provider,
    }
    response, body = gateway.request("POST", "/v1/files", "".join([*parts, file]), headers)
    return response, json.loads(body)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that are uploaded."""
    made = tmp_path_factory.mktemp("files")
    for name, size in SIZES.items():
        (made / name).write_bytes(random.Random(name).randbytes(size))
    return made


@pytest.fixture(scope="module")
def seen(request, gateway, stored, folder, tmp_path_factory):
    """seen(client, provider): row → what that client gave; each pair runs once."""

    @functools.cache
    def run(client, provider):
        own = strict_openai.KEY if provider == "compat" else ""
        task = {
            "client": client, "provider": provider, "url": gateway.url, "folder": str(folder),
            "key": GATEWAY_KEY, "credential": own, "purpose": "assistants",
            "wrong_key": GATEWAY_KEY if own else "fp_wrong", "wrong_credential": own and "sk-wrong",
            "small": SMALL, "unicode": UNICODE, "empty": EMPTY, "big": BIG,
        }  # fmt: skip
        scratch = tmp_path_factory.mktemp("client")
        if client == "curl":
            return Curl(task, scratch).seen()
        script = Path(__file__).parent / "clients" / ("sdk.mjs" if client in NODE_SDKS else "sdk.py")
        if client in NODE_SDKS:
            script = shutil.copy(script, request.getfixturevalue("node_folder"))
        (scratch / "task.json").write_text(json.dumps(task), encoding="utf-8")
        words = ["node" if client in NODE_SDKS else sys.executable, str(script), "task.json", "seen.json"]
        try:
            subprocess.run(words, cwd=scratch, capture_output=True, text=True, timeout=60, check=True)
        except subprocess.SubprocessError as problem:  # once, not in each row
            return dict.fromkeys(ROWS, f"{problem}\n{problem.stderr}")
        return json.loads((scratch / "seen.json").read_text("utf-8"))

    return run


class Curl:
    """The commands as printed, but for base URL, keys, provider and id."""

    def __init__(self, task, scratch):
        self.task, self.scratch = task, scratch

    def seen(self):
        """Row → what curl gave, or why it failed."""
        made = self.json(self.printed("upload", SMALL))
        wrong = Curl(
            {**self.task, "key": self.task["wrong_key"], "credential": self.task["wrong_credential"]}, self.scratch
        )
        calls = {
            "upload": lambda: made,
            "list": self.listed,
            "retrieve": lambda: self.json(self.printed("retrieve", made["id"])),
            "content": lambda: (
                self.sh(self.printed("content", made["id"])) + sha((self.scratch / "file_content.jsonl").read_bytes())
            ),
            "delete": lambda: self.json(self.printed("delete", made["id"]))["deleted"],
            "missing file": lambda: self.refused(self.printed("retrieve", made["id"])),
            "non-ASCII name": lambda: self.whole_life(UNICODE),
            "empty file": lambda: self.whole_life(EMPTY),
            "25 MiB file": lambda: self.whole_life(BIG),
            "wrong key": lambda: wrong.refused(wrong.printed("list")),
        }
        return {row: self.attempted(call) for row, call in calls.items()}

    def attempted(self, call):
        try:
            return call()
        except (AssertionError, KeyError, ValueError) as problem:
            return f"{type(problem).__name__}: {problem}"

    def printed(self, operation, what=""):
        """The command; `what` is a file's name for an upload, else an id."""
        changes = {
            "https://your-gateway.example.com/v1": self.task["url"],
            "x-portkey-provider: openai": f"x-portkey-provider: {self.task['provider']}",
            "YOUR_API_KEY": self.task["key"],
            "training_data.jsonl": f"{self.task['folder']}/{what}" if operation == "upload" else "",
            "file-1": what,
        }
        command = CURL[operation].strip()
        for printed, ours in changes.items():
            command = command.replace(printed, ours)
        own = self.task["credential"]
        return command.replace("curl ", "curl -sS --max-time 60 ", 1) + (
            f' -H "authorization: Bearer {own}"' if own else ""
        )

    def sh(self, command):
        done = subprocess.run(["sh", "-ec", command], cwd=self.scratch, capture_output=True, text=True, timeout=90)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    def json(self, command):
        return json.loads(self.sh(command))

    def listed(self):
        ids, after = [], ""
        while True:
            command = self.printed("list").replace("/files", f"/files?limit=5\\&purpose=assistants{after}")
            page = self.json(command)
            ids += [file["id"] for file in page["data"]]
            if not page["has_more"]:
                return ids
            after = f"\\&after={page['last_id']}"

    def whole_life(self, name):
        made = self.json(self.printed("upload", name))
        self.sh(self.printed("content", made["id"]))
        self.sh(self.printed("delete", made["id"]))
        return {
            "filename": made["filename"],
            "bytes": made["bytes"],
            "sha": sha((self.scratch / "file_content.jsonl").read_bytes()),
        }

    def refused(self, command):
        body, _, status = self.sh(command + " -w '\\n%{http_code}'").rpartition("\n")
        return {"class": "none", "status": int(status), "code": json.loads(body)["error"]["code"]}


def expected(row, client, provider, folder, stored):
    """What a cell must hold, of what was given: only the fields that are the contract's."""
    if row in ("upload", "retrieve"):
        status = "uploaded" if provider.startswith("@azure") else "processed"
        purpose = "fine-tune" if client == "curl" else "batch"
        return {"object": "file", "filename": SMALL, "purpose": purpose, "status": status, "bytes": SIZES[SMALL]}
    if row == "list":
        return stored[provider]
    if row == "content":
        # a bug of that client's, with any server: what content() gives holds no bytes
        return "no bytes" if client == "portkey-ai Node" else sha((folder / SMALL).read_bytes())
    if row == "delete":
        return True
    if row in ("wrong key", "missing file"):
        status, name = (401, "AuthenticationError") if row == "wrong key" else (404, "NotFoundError")
        return {"class": "none" if client == "curl" else name, "status": status}
    name = {"non-ASCII name": UNICODE, "empty file": EMPTY, "25 MiB file": BIG}[row]
    return {"filename": name, "bytes": SIZES[name], "sha": sha((folder / name).read_bytes())}


@contextlib.contextmanager
def cell(request, row, client, provider):
    """Notes the cell for the table: ok, the client's own bug, or what came instead."""
    note = [client, provider, row, "FAILED"]
    request.node.user_properties.append(("matrix", note))
    try:
        yield note
    except pytest.skip.Exception:
        note[-1] = "skipped"
        raise


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("client", CLIENTS)
def test_client_does_with_the_provider_what_the_contract_says(client, provider, row, request, seen, folder, stored):
    with cell(request, row, client, provider) as note:
        if client == "curl" and shutil.which("curl") is None:
            pytest.skip("needs curl")
        if client in PYTHON_SDKS:
            pytest.importorskip("openai", reason="needs the openai package")
            if not importlib.util.find_spec("portkey_ai"):
                pytest.skip("needs the portkey-ai package")
        given = seen(client, provider)[row]
        wanted = expected(row, client, provider, folder, stored)
        if isinstance(wanted, dict) and isinstance(given, dict):
            given = {name: given.get(name) for name in wanted}
        assert given == wanted
        note[-1] = "client bug" if wanted == "no bytes" else "ok"


def test_no_client_sees_a_header_of_azures_own(gateway):
    for provider in ("@azure-dated", "@azure-v1"):
        headers = {"x-portkey-api-key": GATEWAY_KEY, "x-portkey-provider": provider}
        for path in ("/v1/files?limit=1", "/v1/files/file-none"):
            response, _ = gateway.request("GET", path, headers=headers)
            names = {name.lower() for name in response.headers}
            assert not names & (set(strict_azure.AZURE_LEAKS) - {"server"} | {"apim-request-id", "location"})
            assert len(response.headers["x-request-id"]) == 32  # Azure's own


def test_expiry_reaches_the_surface_that_knows_it_and_is_refused_for_the_other(gateway, upstreams):
    expiry = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "7200"}
    response, made = uploaded(gateway, "@azure-v1", "{}", purpose="batch", **expiry)
    assert (response.status, made["status"], made["bytes"]) == (200, "uploaded", 2)
    assert made["expires_at"] == made["created_at"] + 7200
    assert response.headers["location"] is None
    del upstreams["@azure-v1"].files[made["id"]]
    before = set(upstreams["@azure-dated"].files)
    response, refused = uploaded(gateway, "@azure-dated", "{}", purpose="batch", **expiry)
    assert (response.status, refused["error"]["param"]) == (400, "expires_after[anchor]")
    assert set(upstreams["@azure-dated"].files) == before


def test_status_of_a_file_at_azure_goes_from_uploaded_to_processed(gateway, upstreams):
    for provider in ("@azure-dated", "@azure-v1"):
        made = uploaded(gateway, provider, "{}", purpose="fine-tune")[1]
        headers = {"x-portkey-api-key": GATEWAY_KEY, "x-portkey-provider": provider}
        states = [made["status"]]
        for _ in range(2):  # pending, then running, then processed
            states.append(json.loads(gateway.request("GET", f"/v1/files/{made['id']}", headers=headers)[1])["status"])
        assert states == ["uploaded", "uploaded", "processed"]
        del upstreams[provider].files[made["id"]]


def test_refusal_of_azure_is_openais_error_object_with_azures_words(gateway):
    response, answer = uploaded(gateway, "@azure-dated", "{}", purpose="user_data")
    assert response.status == 400
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert "Invalid value for 'purpose': user_data" in answer["error"]["message"]
    assert (answer["error"]["param"], answer["error"]["code"]) == ("purpose", "invalidPayload")
