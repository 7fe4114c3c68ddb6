"""A strict fake of Azure OpenAI's files on a real socket: the dated surface (2024-10-21) and v1, with the same files.

Built on strict_openai, with its rules. The dated surface requires its api-version in every call, answers an upload with
201 and without `bytes`, and has neither pages nor `expires_after`. v1 is nearly OpenAI's.
"""

from __future__ import annotations

import re
import secrets
from urllib.parse import parse_qsl, urlsplit

from strict_openai import _EXPECTED_HEADERS, _LIST_PARAMETERS, LEAKS, Refusal, StrictOpenAI, _Handler

KEY = "0123456789abcdef0123456789abcdef"  # as `api-key`
TOKEN = "eyJ0eXAi.entra.token"  # as bearer
VERSION = "2024-10-21"
#: headers of Azure that a gateway must not relay
AZURE_LEAKS = {**LEAKS, "x-ms-region": "Sweden Central", "x-ms-client-request-id": "leaked-client-request-id",
               "azureml-model-session": "leaked-session", "strict-transport-security": "max-age=31536000"}  # fmt: skip

_HEADERS = _EXPECTED_HEADERS - {"openai-organization", "openai-project"} | {"api-key"}
_DATED_PURPOSES = ("assistants", "batch", "fine-tune")
_CODES = {400: "invalidPayload", 401: "401", 403: "forbidden", 404: "notFound", 413: "quotaExceeded"}
_DENIED = "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key."


class StrictAzure(StrictOpenAI):
    """The fake; a context manager. `dated_url` and `v1_url` are the base URLs of its surfaces."""

    def __init__(self, keep=True):
        super().__init__(keep)
        self._server.RequestHandlerClass = _AzureHandler
        self.dated_url = f"http://127.0.0.1:{self.port}/openai"
        self.v1_url = self.base_url = f"{self.dated_url}/v1"
        self.states = {}  # id → the next statuses of an uploaded file


class _AzureHandler(_Handler):
    def _answer(self):
        path = urlsplit(self.path).path
        self.is_v1 = path.startswith("/openai/v1/")
        self.is_created = self.command == "POST" and not self.is_v1
        super()._answer()

    def _check_headers(self):
        names = [name.lower() for name in self.headers]
        for name in names:
            if name not in _HEADERS or names.count(name) > 1:
                raise Refusal(400, f"header {name} repeats or is unexpected", recorded=True)
        if self.headers["host"] != f"127.0.0.1:{self.fake.port}":
            raise Refusal(400, f"host is {self.headers['host']!r}", recorded=True)
        self._check_framing("content-length" in names, "transfer-encoding" in names)
        if ("api-key" in names) == ("authorization" in names):
            raise Refusal(401, "a call needs exactly one of api-key and Authorization", recorded=True)
        if self.headers.get("api-key", KEY) != KEY or self.headers.get("authorization", f"Bearer {TOKEN}") != (
            f"Bearer {TOKEN}"
        ):
            raise Refusal(401, _DENIED)

    def _operation(self):
        url = urlsplit(self.path)
        found = re.fullmatch(r"/openai(?:/v1)?/files(?:/([A-Za-z0-9._-]+)(/content)?)?", url.path)
        methods = ("GET",) if found and found[2] else ("GET", "DELETE") if found and found[1] else ("GET", "POST")
        if not found or self.command not in methods:
            raise Refusal(404, f"Resource not found ({self.command} {url.path})", recorded=True)
        query = self._query(url.query, listing=self.command == "GET" and not found[1])
        if found[1]:
            return self._one(found[1], bool(found[2]))
        return self._list(query) if self.command == "GET" else self._upload()

    def _query(self, text, listing):
        """The parameters, without the api-version that the surface requires."""
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text))
        query = dict(pairs)
        version = query.pop("api-version", None)
        if version not in ((None, "v1", "preview") if self.is_v1 else (VERSION,)):
            raise Refusal(404, f"Resource not found: api-version={version}", recorded=True)
        known = (_LIST_PARAMETERS if self.is_v1 else {"purpose"}) if listing else set()
        if len(dict(pairs)) < len(pairs) or set(query) - known:
            raise Refusal(400, f"unknown or repeated query parameters: {text}", recorded=True)
        return query

    def _one(self, file_id, content):
        answer = super()._one(file_id, content)
        if answer is None or "deleted" in answer:
            return answer
        states = self.fake.states.get(file_id, ())
        return self._shown({**answer, "status": states.pop(0) if states else answer["status"]})

    def _list(self, query):
        """OpenAI's list; on the dated surface without pages and oldest first."""
        if self.is_v1:
            answer = super()._list(query)
            return {**answer, "data": [self._shown(obj) for obj in answer["data"]]}
        answer = super()._list({**query, "order": "asc"})
        return {"object": "list", "data": [self._shown(obj) for obj in answer["data"]]}

    def _upload(self):
        obj = super()._upload()
        if not self.is_v1 and (obj["expires_at"] or obj["purpose"] not in _DATED_PURPOSES):
            del self.fake.files[obj["id"]]
            if obj["expires_at"]:
                raise Refusal(400, "this api-version does not have expires_after", recorded=True)
            raise Refusal(400, f"Invalid value for 'purpose': {obj['purpose']}", "purpose")
        self.fake.states[obj["id"]] = ["running"]
        shown = self._shown({**obj, "status": "pending"})
        self.location = f"{self.fake.dated_url}/files/{obj['id']}?api-version={VERSION}"
        return {name: value for name, value in shown.items() if self.is_v1 or name != "bytes"}

    def _shown(self, obj):
        """A file object with the fields that this surface has."""
        hidden = {"status_details"} if self.is_v1 else {"status_details", "expires_at"}
        return {name: value for name, value in obj.items() if name not in hidden}

    def _json(self, status, value):
        if "error" in value:
            value = {"error": self._azure_error(status, value["error"])}
        super()._json(201 if status == 200 and self.is_created else status, value)

    def _azure_error(self, status, error):
        """Without `type` and `param` on the dated surface; on v1 the type is always "error"."""
        shown = {"code": _CODES[status], "message": error["message"]}
        if status == 401:  # from the API management in front of both surfaces
            return shown
        if self.is_v1:
            return {**shown, "param": error["param"], "type": "error", "inner_error": {}}
        return {**shown, "target": error["param"], "details": [], "innererror": {"code": shown["code"]}}

    def _head(self, status, headers):
        own = {"apim-request-id": secrets.token_hex(16), **headers}
        if not self.is_v1:
            own["x-request-id"] = secrets.token_hex(16)
        if status == 201:
            own["location"] = self.location
        self.send_response(status)
        for name, value in [*own.items(), *((n, v) for n, v in AZURE_LEAKS.items() if n != "server")]:
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
