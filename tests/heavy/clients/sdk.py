"""One Python SDK's part of the matrix: reads what to do from a JSON file, prints what the SDK gave as JSON."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import openai
import portkey_ai

with open(sys.argv[1], encoding="utf-8") as file:
    TASK = json.load(file)


def client(key, credential):
    if TASK["client"] == "portkey-ai Python":
        own = {"Authorization": credential} if credential else {}
        return portkey_ai.Portkey(api_key=key, provider=TASK["provider"], base_url=TASK["url"], **own)
    headers = portkey_ai.createHeaders(provider=TASK["provider"], api_key=key)
    return openai.OpenAI(api_key=credential or key, base_url=TASK["url"], default_headers=headers)


def sha(content):
    return hashlib.sha256(content).hexdigest()


def upload(name):
    with open(TASK["folder"] + "/" + name, "rb") as file:
        return files.create(purpose="batch", file=file)


def listed():
    """Ids page by page: openai pages by itself; portkey-ai has no paging of its own, so by `after`."""
    if TASK["client"] == "openai Python":
        return [file.id for file in files.list(limit=5, purpose=TASK["purpose"])]
    ids, more = [], {}
    while True:
        page = files.list(limit=5, purpose=TASK["purpose"], **more)
        ids += [file.id for file in page.data]
        if not page.has_more:
            return ids
        more = {"after": page.last_id}


def whole_life(name):
    made = upload(name)
    content = files.content(made.id).content
    files.delete(made.id)
    return {"filename": made.filename, "bytes": made.bytes, "sha": sha(content)}


def refused(call):
    try:
        call()
    except Exception as error:
        return {"class": type(error).__name__, "status": error.status_code, "code": error.code}
    return {"class": "none"}


def run():
    """Row → what the SDK gave, in order; a row that raises is its exception."""
    made = upload(TASK["small"])
    yield "upload", lambda: made.model_dump()
    yield "list", listed
    yield "retrieve", lambda: files.retrieve(made.id).model_dump()
    yield "content", lambda: sha(files.content(made.id).content)
    yield "delete", lambda: files.delete(made.id).deleted
    yield "missing file", lambda: refused(lambda: files.retrieve(made.id))
    yield "non-ASCII name", lambda: whole_life(TASK["unicode"])
    yield "empty file", lambda: whole_life(TASK["empty"])
    yield "25 MiB file", lambda: whole_life(TASK["big"])
    yield "wrong key", lambda: refused(client(TASK["wrong_key"], TASK["wrong_credential"]).files.list)


files = client(TASK["key"], TASK["credential"]).files
seen = {}
for row, call in run():
    try:
        seen[row] = call()
    except Exception as problem:
        seen[row] = f"{type(problem).__name__}: {problem}"
Path(sys.argv[2]).write_text(json.dumps(seen, default=str), encoding="utf-8")
