"""The gateway mounted as docs/embed.md shows: in Flask, Django, Pyramid and plain WSGI, behind the host's password."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.util
import json
import random
import re
import subprocess
import sys
from http.client import HTTPConnection

import pytest
from servers import ROOT
from strict_openai import KEY

EMBED = (ROOT / "docs" / "embed.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", EMBED, re.DOTALL | re.MULTILINE)
CREATE = next(block for block in BLOCKS if "create_app(" in block)
FLASK = next(block for block in BLOCKS if "Flask(" in block)
MOUNT = next(block for block in BLOCKS if "class Mount" in block)
PYRAMID = "\n".join(re.findall(r"`(config\.add_(?:route|view)\([^`]*\))`", EMBED))
GATEWAY_KEY = "fp_" + "embed" * 8
BASIC = "Basic " + base64.b64encode(b"ada:secret of the host").decode()
CONTENT = random.Random(7).randbytes(1_300_000)

#: host → what it needs, and a script that leaves its WSGI application in `served`; /hello is a page of its own
HOSTS = {
    "flask": (("flask", "werkzeug"), f"""
{CREATE}
{FLASK}
@app.route("/hello")
def hello():
    return "hello of the host"
served = app
"""),
    "django": (("django",), f"""
{CREATE}
{MOUNT}
import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
settings.configure(ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__, SECRET_KEY="of the test")
urlpatterns = [path("hello", lambda request: HttpResponse("hello of the host"))]
served = Mount(get_wsgi_application(), "/llm", application)
"""),
    "pyramid": (("pyramid",), f"""
{CREATE}
from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.wsgi import wsgiapp2
with Configurator() as config:
    config.add_route("hello", "/hello")
    config.add_view(lambda request: Response("hello of the host"), route_name="hello")
    {PYRAMID.replace(chr(10), chr(10) + "    ")}
    served = config.make_wsgi_app()
"""),
    "plain": ((), f"""
{CREATE}
{MOUNT}
def host(environ, start_response):
    body = b"hello of the host"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
served = Mount(host, "/llm", application)
"""),
}  # fmt: skip

GUARD = f"""
class Guard:
    def __init__(self, inner):
        self.inner = inner
    def __call__(self, environ, start_response):
        if environ.get("HTTP_AUTHORIZATION") == {BASIC!r}:
            return self.inner(environ, start_response)
        start_response("401 Unauthorized", [("WWW-Authenticate", "Basic realm=host"), ("Content-Length", "0")])
        return []
served = Guard(served)
"""
#: what docs/embed.md says of hosts that know their users: one gateway key, set by the host
GIVES_KEY = f"""
class GivesKey:
    def __init__(self, inner):
        self.inner = inner
    def __call__(self, environ, start_response):
        return self.inner({{**environ, "HTTP_X_PORTKEY_API_KEY": {GATEWAY_KEY!r}}}, start_response)
served = Guard(GivesKey(served.inner))
"""
SERVE = """
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
class Quiet(WSGIRequestHandler):
    def log_message(self, *words):
        pass
server = Server(("127.0.0.1", 0), Quiet)
server.set_app(served)
print(server.server_port, flush=True)
server.serve_forever()
"""
OPEN = "[filesproxy]\nfolder = store\ndefault_provider = local\n[provider:compat]\nkind = openai\nbase_url = {url}\n"
KEYED = f"""[filesproxy]
default_provider = openai
[provider:openai]
base_url = {{url}}
credential = {KEY}
[key:host]
sha256 = {hashlib.sha256(GATEWAY_KEY.encode()).hexdigest()}
providers = openai
"""


class Host:
    """A host that runs; `call` makes one request below its prefix, with the host's password if not said otherwise."""

    def __init__(self, port):
        self.port = port

    def call(self, method, path, body=None, **headers):
        headers = {"authorization": BASIC, **{name.replace("_", "-"): value for name, value in headers.items()}}
        with contextlib.closing(HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request(method, path, body, {name: value for name, value in headers.items() if value})
            with connection.getresponse() as response:
                return response.status, response.read()


@contextlib.contextmanager
def hosted(script, config, folder):
    """The script as a process of its own: frameworks configure their process, and warn."""
    (folder / "filesproxy.ini").write_text(config, "utf-8")
    (folder / "host.py").write_text(script + SERVE, "utf-8")
    environ = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    with open(folder / "err", "w+b") as err:
        process = subprocess.Popen(
            [sys.executable, "host.py"], cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=err, text=True
        )
        try:
            port = process.stdout.readline()
            assert port, (folder / "err").read_text("utf-8")
            yield Host(int(port))
        finally:
            process.terminate()
            process.wait(10)
            process.stdout.close()


@pytest.fixture(scope="module", params=list(HOSTS))
def host(request, fake, tmp_path_factory):
    """Each host, guarded, with the gateway under /llm: local as default, and the fake as a plain name."""
    needs, script = HOSTS[request.param]
    for name in needs:
        if not importlib.util.find_spec(name):
            pytest.skip(f"needs {name}")
    folder = tmp_path_factory.mktemp(request.param)
    with hosted(script + GUARD, OPEN.format(url=fake.base_url), folder) as running:
        yield running


def form():
    head = (
        '--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        '--b\r\nContent-Disposition: form-data; name="file"; filename="hosté.jsonl"\r\n\r\n'
    )
    return head.encode() + CONTENT + b"\r\n--b--\r\n"


def five_operations(host, **headers):
    """The whole life of a file below the prefix."""
    status, body = host.call("POST", "/llm/v1/files", form(), content_type="multipart/form-data; boundary=b", **headers)
    assert status == 200, body
    made = json.loads(body)
    path = f"/llm/v1/files/{made['id']}"
    assert (made["filename"], made["bytes"], made["purpose"]) == ("hosté.jsonl", len(CONTENT), "batch")
    listed = json.loads(host.call("GET", "/llm/v1/files?limit=10&purpose=batch", **headers)[1])
    assert [file["id"] for file in listed["data"]] == [made["id"]]
    assert json.loads(host.call("GET", path, **headers)[1]) == made
    assert host.call("GET", path + "/content", **headers) == (200, CONTENT)
    assert json.loads(host.call("DELETE", path, **headers)[1]) == {"id": made["id"], "object": "file", "deleted": True}
    assert host.call("GET", path, **headers)[0] == 404


@pytest.mark.parametrize("provider", ["local", "compat"])
def test_five_operations_work_below_a_prefix_and_the_password_stays_with_the_host(provider, host, fake):
    fake.requests.clear()
    own = {} if provider == "local" else {"x_portkey_provider": provider, "x_portkey_api_key": KEY}
    five_operations(host, **own)
    sent = [value for _, _, headers in fake.requests for _, value in headers]
    assert len(fake.requests) == (0 if provider == "local" else 6)
    assert not any("Basic" in value or BASIC[6:] in value for value in sent)


def test_without_the_hosts_password_nothing_reaches_the_gateway(host, fake):
    fake.requests.clear()
    for method, path in (("GET", "/llm/v1/files"), ("GET", "/llm/v1/health"), ("DELETE", "/llm/v1/files/file-a")):
        for header in ("", "Basic d3Jvbmc6", f"Bearer {KEY}"):
            assert host.call(method, path, authorization=header, x_portkey_provider="compat") == (401, b"")
    assert fake.requests == []


def test_pages_of_the_host_are_still_its_own(host):
    assert host.call("GET", "/hello") == (200, b"hello of the host")


def test_error_below_the_prefix_is_openais_object(host):
    status, body = host.call("GET", "/llm/v1/nothing")
    assert (status, json.loads(body)["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("name", ["flask", "plain"])
def test_host_that_sets_one_gateway_key_lets_its_users_use_a_saved_provider(name, fake, tmp_path):
    needs, script = HOSTS[name]
    for module in needs:
        pytest.importorskip(module, reason=f"needs {module}")
    with hosted(script + GUARD + GIVES_KEY, KEYED.format(url=fake.base_url), tmp_path) as running:
        assert running.call("GET", "/llm/v1/files", authorization="") == (401, b"")
        five_operations(running)
        five_operations(running, x_portkey_provider="@openai", x_portkey_api_key="what a user sends is overwritten")
