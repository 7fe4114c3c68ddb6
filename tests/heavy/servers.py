"""The gateway under real servers: starts them, captures what they write, stops them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import strict_azure
import strict_openai
from documents import block
from sockets import WAIT, children, has_own_handlers

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("gunicorn", "embedded", "waitress")
HOSTED_KINDS = ("uwsgi", "mod_wsgi")  # what locked-down hosts run
APACHE, MODULES = "/usr/sbin/apache2", Path("/usr/lib/apache2/modules")  # Debian's
START_SECONDS = 20
STOP_SECONDS = 15
WORKERS = 2  # of gunicorn, as shipped


class Gateway:
    """A running server. `folder` holds what it wrote: `out`, `err`, `tmp/` (its TMPDIR)."""

    def __init__(self, kind, process, port, folder, count=WORKERS):
        self.kind, self.process, self.port, self.folder, self._count = kind, process, port, folder, count
        self.root_url = f"http://127.0.0.1:{port}"
        self.url = f"{self.root_url}/v1"

    def out(self):
        """Its standard output so far."""
        return (self.folder / "out").read_text("utf-8")

    def err(self):
        """Its standard error so far."""
        return (self.folder / "err").read_text("utf-8")

    def lines(self, **wanted):
        """The access log's lines so far that have these fields."""
        lines = [json.loads(line) for line in self.out().splitlines() if line.startswith("{")]
        return [line for line in lines if all(line.get(name) == value for name, value in wanted.items())]

    def wait_for_lines(self, count, seconds=WAIT, **wanted):
        """Those lines, once there are `count` of them: the last byte reaches a client before the log."""
        end = time.monotonic() + seconds
        while len(found := self.lines(**wanted)) < count and time.monotonic() < end:
            time.sleep(0.02)  # between two looks at the file
        return found

    def workers(self):
        """The process ids that serve: gunicorn's children, or the process itself."""
        return children(self.process.pid) or [self.process.pid]

    def is_ready(self):
        """Whether it answers, and gunicorn's workers handle their signals: a new one loses a SIGTERM."""
        try:
            is_up = self.request("GET", "/v1/health")[0].status == 200
        except OSError:
            return False
        if self.kind != "gunicorn":
            return is_up
        workers = self.workers()
        return is_up and len(workers) >= self._count and all(map(has_own_handlers, workers))

    def request(self, method, path, body=None, headers=None):
        """One call over a connection of its own: (response, its bytes)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            with response:
                return response, response.read()

    def connect(self, timeout=30, source="127.0.0.1"):
        """A plain connection, from this address of this machine (127.0.0.0/8)."""
        return socket.create_connection(("127.0.0.1", self.port), timeout, (source, 0))

    def has_begun_to_stop(self):
        """Whether it ends: gunicorn says so, the embedded server stops listening."""
        if "Handling signal: term" in self.err():
            return True
        try:
            self.connect().close()
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:  # it closed while we connected
            return False
        return False

    def stop(self):
        """End it as a supervisor would; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)  # a session of its own: nobody else is in it
            self.process.wait()
            raise


def free_port():
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def impatient_conf(path, seconds):
    """Write gunicorn's configuration as shipped, except for the seconds that a client may be idle. The path."""
    shipped = (ROOT / "gunicorn.conf.py").read_text("utf-8")
    changed = f"from filesproxy.serving import gunicorn as served\n\nserved.CLIENT_IDLE_SECONDS = {seconds}\n"
    path.write_text(f"{shipped}\n{changed}", "utf-8")
    return path


def uwsgi_binary():
    """The uWSGI that belongs to this Python, else any; None if there is none."""
    own = Path(sys.executable).parent / "uwsgi"
    return str(own) if own.exists() else shutil.which("uwsgi")


def missing(kind):
    """Why a server of this kind cannot run here; "" if it can."""
    if kind == "uwsgi" and not uwsgi_binary():
        return "needs uwsgi (pip install uwsgi)"
    if kind == "mod_wsgi" and not (os.path.exists(APACHE) and (MODULES / "mod_wsgi.so").exists()):
        return "needs Debian's apache2 and libapache2-mod-wsgi-py3"
    return ""


APACHE_CONF = """
ServerRoot {place}
PidFile {place}/httpd.pid
ErrorLog /dev/stderr
Listen 127.0.0.1:{port}
ServerName localhost
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule wsgi_module {modules}/mod_wsgi.so
User www-data
Group www-data
WSGISocketPrefix {place}/wsgi
{documented}
<Location "/">
    Require all granted
</Location>
"""


@contextlib.contextmanager
def hosted(kind, port, config, router=False):
    """The command of uWSGI, or of Apache with mod_wsgi, with the configuration that docs/deploy.md prints.

    Apache reads and writes as another user, so everything lies in a folder that this user may read. `router` puts
    uWSGI's own in front of it, as the page says.
    """
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(ROOT / "filesproxy", f"{place}/filesproxy", ignore=shutil.ignore_patterns("__pycache__"))
        settings = re.sub(r"(?m)^folder = .*", f"folder = {place}/store", Path(config).read_text("utf-8"))
        Path(place, "filesproxy.ini").write_text(settings, "utf-8")
        script = block("docs/deploy.md", "python", "application = create_app")
        Path(place, "filesproxy.wsgi").write_text(script.replace("/etc/", f"{place}/"), "utf-8")
        language, mark = ("uwsgi", "[uwsgi]") if kind == "uwsgi" else ("apache", "WSGIScriptAlias")
        printed = block("docs/deploy.md", language, mark).replace("127.0.0.1:8787", f"127.0.0.1:{port}")
        printed = printed.replace("python-home=/opt/filesproxy/.venv", f"python-path={place}")
        printed = printed.replace("virtualenv = /opt/filesproxy/.venv", f"pythonpath = {place}")
        printed = printed.replace("/opt/filesproxy/", f"{place}/")
        printed = re.sub(r"(?m)^[ug]id = filesproxy\n| (user|group)=filesproxy", "", printed)  # not a user here
        if router:
            printed = printed.replace("http-socket =", "http =") + "http-chunked-input = true\nhttp-timeout = 300\n"
        if kind == "mod_wsgi":
            printed = APACHE_CONF.format(place=place, port=port, modules=MODULES, documented=printed)
        Path(place, "served.conf").write_text(printed, "utf-8")
        for path in (Path(place), *Path(place).rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o644)
        apache = [APACHE, "-f", f"{place}/served.conf", "-DFOREGROUND"]
        yield [uwsgi_binary(), "--ini", f"{place}/served.conf"] if kind == "uwsgi" else apache


def command(kind, port, *arguments, conf="gunicorn.conf.py"):
    """What starts a server of this kind on that port."""
    address = f"127.0.0.1:{port}"
    words = {
        "gunicorn": ["gunicorn", "-c", str(conf), "-b", address],
        "waitress": ["waitress", f"--listen={address}", "--call", "filesproxy:create_app"],
        "embedded": ["filesproxy", "--listen", address],
    }
    return [sys.executable, "-m", *words[kind], *arguments]


@contextlib.contextmanager
def running(kind, folder, *arguments, conf="gunicorn.conf.py", poll_seconds=0.03, router=False, **environment):
    """A Gateway that answers; environment as keywords, FILESPROXY_ and all. Stopped at the end."""
    folder = Path(folder)
    (folder / "tmp").mkdir(parents=True)
    port = free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FILESPROXY_", "OPENAI_"))}
    environment = {**inherited, "TMPDIR": str(folder / "tmp"), "XDG_DATA_HOME": str(folder / "data"),
                   **{name: str(value) for name, value in environment.items()}}  # fmt: skip
    with contextlib.ExitStack() as stack:
        if kind in HOSTED_KINDS:
            words = stack.enter_context(hosted(kind, port, environment["FILESPROXY_CONFIG"], router))
        else:
            words = command(kind, port, *arguments, conf=conf)
        out, err = (stack.enter_context(open(folder / name, "wb")) for name in ("out", "err"))
        process = subprocess.Popen(
            words, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
        count = int(arguments[arguments.index("--workers") + 1]) if "--workers" in arguments else WORKERS
        gateway = Gateway(kind, process, port, folder, count)
        try:
            _wait_until_it_is_ready(gateway, poll_seconds)
            yield gateway
        finally:
            gateway.stop()


def _wait_until_it_is_ready(gateway, poll_seconds):
    end = time.monotonic() + START_SECONDS
    while gateway.process.poll() is None and time.monotonic() < end:
        if gateway.is_ready():
            return
        time.sleep(poll_seconds)  # between two attempts
    raise AssertionError(f"the server did not start: {gateway.err()}")


def provider_sections(upstreams):
    """The INI sections of the strict fakes: OpenAI and both of Azure's APIs, saved, and `compat`, which is not."""
    azure = upstreams["@azure-v1"]
    return f"""
[provider:openai]
base_url = {upstreams["@openai"].base_url}
credential = {strict_openai.KEY}
[provider:azure-dated]
kind = azure-openai
base_url = {azure.dated_url}
api_version = {strict_azure.VERSION}
credential = {strict_azure.KEY}
[provider:azure-v1]
kind = azure-openai
base_url = {azure.v1_url}
api_version = v1
auth = bearer
credential = {strict_azure.TOKEN}
[provider:compat]
kind = openai
base_url = {upstreams["compat"].base_url}
"""


def write_config(path, fake, store, **settings):
    """An INI file: the fake as `compat`, nobody as `nowhere`, and a local store, which is the default."""
    lines = ["[filesproxy]", f"folder = {store}", "default_provider = local"]
    lines += [f"{name} = {value}" for name, value in settings.items()]
    lines += ["[provider:compat]", "kind = openai", f"base_url = {fake.base_url}"]
    lines += ["[provider:nowhere]", "kind = openai", f"base_url = http://127.0.0.1:{free_port()}/v1"]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path
