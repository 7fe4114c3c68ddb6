"""The documents' commands and snippets, run as printed but for ports and keys.

With curl, SDKs, gunicorn, systemd, nginx, and pip with a package index. tests/documents.py says which test runs which
block.
"""

from __future__ import annotations

import configparser
import contextlib
import gc
import glob
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from http.client import HTTPConnection

import llama
import pytest
import strict_anthropic
import webtest
from configurations import hashed
from documents import PRINTED_URL, ROOT, Shell, block, blocks, clone, text_of
from fakes import form, form_type, sha
from servers import free_port, running
from sockets import until
from strict_anthropic import StrictAnthropic
from strict_openai import KEY, StrictOpenAI

import filesproxy
from filesproxy import create_app
from filesproxy.transports.local.ledger import FolderLedger

GATEWAY_KEY = "fp_" + "readme" * 7
SBIN = ":/usr/sbin:/sbin"  # where nginx may be without being on a user's PATH
NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + SBIN)
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
needs_gunicorn = pytest.mark.skipif(not importlib.util.find_spec("gunicorn"), reason="needs gunicorn")
DEMO_IS_WELL = "All calls did what they should"


def snippets(language, mark):
    """The pages' blocks in that language that hold the mark, each as a parameter with its place for a name."""
    found = [each for page in ("README.md", "docs/clients.md") for each in blocks(page, language) if mark in each.text]
    return [pytest.param(each.text, id=f"{each.page}:{each.line}") for each in found]


def key_section(**more):
    """The section of the one gateway key."""
    lines = [f"{name} = {value}" for name, value in {"sha256": hashed(GATEWAY_KEY), **more}.items()]
    return "\n".join(["[key:team]", *lines, ""])


@pytest.fixture
def here(tmp_path):
    """A folder with every file that a snippet names."""
    text = text_of("README.md") + text_of("docs/clients.md")
    names = re.findall(r'(?:open|createReadStream)\("([^"]+)"|-F file=@(\S+)', text)
    for n, name in enumerate(sorted({one or other for one, other in names})):
        (tmp_path / name).write_bytes(random.Random(n).randbytes(5000))
    return tmp_path


@pytest.fixture(autouse=True)
def empty(fake):
    """The fake has no files when a test starts, also if another one failed."""
    fake.files.clear()


@pytest.fixture(scope="module")
def saved(fake, tmp_path_factory):
    """A gateway with the fake as the saved provider `openai`, which is the default, and one gateway key."""
    folder = tmp_path_factory.mktemp("saved")
    (folder / "filesproxy.ini").write_text(
        "[filesproxy]\ndefault_provider = openai\n"
        f"[provider:openai]\nbase_url = {fake.base_url}\ncredential = {KEY}\n" + key_section(providers="openai"),
        encoding="utf-8",
    )
    with running("embedded", folder / "run", FILESPROXY_CONFIG=folder / "filesproxy.ini") as gateway:
        yield gateway


@pytest.fixture
def claude(tmp_path):
    """(gateway, upstream) with a strict Anthropic as the saved provider `claude`, and the same gateway key."""
    with StrictAnthropic() as upstream:
        (tmp_path / "claude.ini").write_text(
            f"[provider:claude]\nkind = anthropic\nbase_url = {upstream.base_url}\n"
            f"credential = {strict_anthropic.KEY}\n" + key_section(providers="claude"),
            encoding="utf-8",
        )
        with running("embedded", tmp_path / "run", FILESPROXY_CONFIG=tmp_path / "claude.ini") as gateway:
            yield gateway, upstream
        assert upstream.problems == []


def filled(snippet, gateway):
    """A snippet with base URL and key of ours."""
    assert PRINTED_URL in snippet
    return snippet.replace(PRINTED_URL, gateway.root_url).replace('"GATEWAY_KEY"', f'"{GATEWAY_KEY}"')


def needs(*modules):
    """Skip where one of these is not installed."""
    for module in modules:
        if not importlib.util.find_spec(module):
            pytest.skip(f"needs {module}")


def python(snippet, folder):
    """What a snippet of Python prints."""
    needs(*set(re.findall(r"^from (openai|portkey_ai) import", snippet, re.MULTILINE)))
    (folder / "snippet.py").write_text(snippet, "utf-8")
    return Shell(folder).run("python snippet.py")


def made_and_gone(fake, before):
    """Whether a snippet uploaded one file and deleted it, as its gateway's access to the fake shows."""
    made = [method for method, _, _ in fake.requests[before:]]
    return made.count("POST") == made.count("DELETE") == 1 and not fake.files


# Clients


def test_model_is_asked_about_a_kept_file_as_printed(tmp_path):
    """The README's, with a real model."""
    if llama.missing():
        pytest.skip(llama.missing())
    config, snippet = block("README.md", "ini", "default_provider = llm"), block("README.md", "python", "weather.csv")
    with llama.running(tmp_path) as port:
        assert "127.0.0.1:8080" in config and "~/.local/share/filesproxy" in config
        config = config.replace("127.0.0.1:8080", f"127.0.0.1:{port}").replace("~/.local/share", str(tmp_path))
        (tmp_path / "local.ini").write_text(config, "utf-8")
        with running("embedded", tmp_path / "run", "--config", str(tmp_path / "local.ini")) as gateway:
            said = python(filled(snippet, gateway), tmp_path)
    assert "31" in said


@pytest.mark.parametrize("snippet", snippets("python", "files.retrieve("))
def test_python_snippet_works_as_printed(snippet, saved, fake, here):
    before = len(fake.requests)
    script = filled(snippet, saved) + "\nprint(type(content).__name__, len(content))\n"
    ids, deleted, content = python(script, here).splitlines()
    assert re.fullmatch(r"\['file-[0-9a-f]{24}'\] [\w.]+", ids)
    assert (deleted, content) == ("True", "bytes 5000")
    assert made_and_gone(fake, before)


def test_plain_openai_works_with_a_server_that_has_just_been_started(here):
    """`python3 -m filesproxy` without a configuration: it has no keys, and ignores the one that the SDK sends."""
    snippet = block("README.md", "python", "client.files.list()")
    with running("embedded", here / "run") as gateway:
        assert python(filled(snippet, gateway), here).splitlines()[1] == "True"


@pytest.mark.parametrize("snippet", snippets("js", "files.create("))
def test_node_snippet_works_as_printed(snippet, saved, fake, here, node_folder):
    before = len(fake.requests)
    for name in re.findall(r'createReadStream\("([^"]+)"', snippet):
        shutil.copy(here / name, node_folder)
    (node_folder / "snippet.mjs").write_text(filled(snippet, saved), "utf-8")
    assert re.fullmatch(r"file-[0-9a-f]{24} 1 true\n", Shell(node_folder).run("node snippet.mjs"))
    assert made_and_gone(fake, before)


@pytest.mark.parametrize("snippet", snippets("python", 'model="@claude/'))
def test_chat_snippet_works_as_printed(snippet, claude, here):
    gateway, upstream = claude
    assert python(filled(snippet, gateway), here).strip() == strict_anthropic.DEFAULT_TEXT
    (asked,) = upstream.messages
    assert [part["type"] for part in asked["messages"][0]["content"]] == ["text", "document"]


@needs_curl
def test_chat_line_works_as_printed(claude, here):
    line = block("docs/clients.md", "sh", "chat/completions").replace(PRINTED_URL, claude[0].root_url)
    events = Shell(here, GATEWAY_KEY=GATEWAY_KEY).run(line.replace("curl ", "curl -sS ", 1)).split("\n\n")
    assert events[-2] == "data: [DONE]" and '"role":"assistant"' in events[0]


@pytest.mark.parametrize("page", ["README.md", "docs/clients.md"])
def test_header_that_names_the_provider_works_as_printed(page, fake, here):
    """Where there is no default provider, or another one."""
    openai = pytest.importorskip("openai", reason="needs openai")
    (text, *_) = re.findall(r'default_headers=(\{"x-portkey-provider": "@openai"\})', text_of(page))
    (here / "two.ini").write_text(
        f"[provider:openai]\nbase_url = {fake.base_url}\ncredential = {KEY}\n" + key_section(providers="openai"),
        "utf-8",
    )
    with (
        running("embedded", here / "run", FILESPROXY_CONFIG=here / "two.ini") as gateway,
        openai.OpenAI(api_key=GATEWAY_KEY, base_url=gateway.url) as client,
    ):
        with pytest.raises(openai.BadRequestError, match="Name a provider"):
            client.files.list()
        assert client.with_options(default_headers=json.loads(text)).files.list().data == []


@needs_curl
@pytest.mark.parametrize("provider", ["openai", "@openai"])
def test_curl_line_to_a_provider_works_as_printed(provider, saved, fake, here):
    line = block("docs/clients.md", "sh", f'x-portkey-provider: {provider}"')
    if provider == "openai":  # a credential of one's own, where the gateway has no keys
        (here / "own.ini").write_text(f"[provider:openai]\nbase_url = {fake.base_url}\n", "utf-8")
        served = running("embedded", here / "run", FILESPROXY_CONFIG=here / "own.ini")
    else:
        served = contextlib.nullcontext(saved)
    with served as gateway:
        line = line.replace(PRINTED_URL, gateway.root_url).replace("curl ", "curl -sS --fail-with-body ", 1)
        made = json.loads(Shell(here, OPENAI_API_KEY=KEY, GATEWAY_KEY=GATEWAY_KEY).run(line))
    assert (made["filename"], made["purpose"], made["bytes"]) == ("training_data.jsonl", "fine-tune", 5000)
    assert fake.files[made["id"]][3] == sha((here / "training_data.jsonl").read_bytes())


# gunicorn, from a fresh clone


@pytest.fixture(scope="session")
def index(tmp_path_factory):
    """A package index that pip can reach."""
    words = ["-m", "pip", "download", "--quiet", "--no-deps", "packaging", "--dest"]
    done = subprocess.run([sys.executable, *words, tmp_path_factory.mktemp("index")], capture_output=True, timeout=60)
    if done.returncode:
        pytest.skip("needs a package index")


def at(port, script):
    """A script whose server listens there: the port of the settings may be taken."""
    script = re.sub(r"gunicorn -c \S+", rf"\g<0> --bind 127.0.0.1:{port}", script)
    assert script.count(f":{port}") == 1
    return script


def roundtrip(port, content, **more):
    """Upload and download by http.client, with more headers; the upload's object."""
    form = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n' + content + b"\r\n--b--\r\n"
    )
    headers = {"content-type": "multipart/form-data; boundary=b", **more}
    with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("POST", "/v1/files", form, headers)
        with connection.getresponse() as response:
            made = json.loads(response.read())
        connection.request("GET", f"/v1/files/{made['id']}/content", headers=more)
        with connection.getresponse() as response:
            assert sha(response.read()) == sha(content)
    assert made["bytes"] == len(content)
    return made


def point_at(fake, path):
    """Put the fake in the place of OpenAI, in a configuration that a page has made."""
    text = path.read_text("utf-8")
    assert "[provider:openai]\n" in text
    path.write_text(text.replace("[provider:openai]\n", f"[provider:openai]\nbase_url = {fake.base_url}\n"), "utf-8")


def made_key(text):
    """The gateway key that a terminal shows."""
    (key,) = re.findall(r"fp_[A-Za-z0-9_-]{43}", text)
    return key


@needs_gunicorn
def test_readmes_ten_lines_deploy_a_gateway_that_its_key_opens(fake, tmp_path, index):
    lines = block("README.md", "sh", "gunicorn -c").splitlines()
    assert len(lines) <= 10
    *configure, export, check, serve = lines
    shell = Shell(clone(tmp_path / "clone"))
    for line in configure:
        shell.run(line)
    key = made_key(shell.errors)
    assert key not in (shell.folder / "filesproxy.ini").read_text("utf-8")
    point_at(fake, shell.folder / "filesproxy.ini")
    shell.run(export.replace("sk-your-key", KEY))
    assert "key team-a: providers *" in shell.run(check)
    port = free_port()
    with shell.server(at(port, serve), port):
        roundtrip(port, random.Random(1).randbytes(100_000), authorization=f"Bearer {key}")


@needs_gunicorn
@needs_curl
def test_deploy_page_works_from_its_first_line_to_a_reload(fake, tmp_path, index):
    install, configure, make_key, check, own, module, health = blocks("docs/deploy.md", "sh")[:7]
    shell = Shell(clone(tmp_path / "clone"))
    for each in (install, configure, make_key):
        shell.run(each.text)
    key, path = made_key(shell.errors), shell.folder / "filesproxy.ini"
    assert path.stat().st_mode & 0o777 == 0o600 and key not in path.read_text("utf-8")
    point_at(fake, path)
    assert "saved credential" in shell.run(check.text.replace("sk-your-key", KEY))
    for script in (own.text, module.text):
        port = free_port()
        with shell.server(at(port, script), port):
            line = health.text.replace(PRINTED_URL, f"http://127.0.0.1:{port}").replace("curl ", "curl -sS ")
            assert json.loads(shell.run(line))["status"] == "ok"
            roundtrip(port, random.Random(1).randbytes(100_000), authorization=f"Bearer {key}")
    with shell.server(at(port, module.text), port) as process:
        path.write_text(path.read_text("utf-8") + "\n[key:wrong]\n", "utf-8")
        assert shell.run(".venv/bin/filesproxy check || echo $?") == "2\n"
        process.send_signal(signal.SIGHUP)
        log = shell.folder / "server.log"
        assert until(lambda: f"{path.name}, line " in log.read_text("utf-8"), 20), "the page says that the log names it"
        assert json.loads(shell.run(line))["status"] == "ok"


@needs_gunicorn
@needs_curl
def test_application_with_a_private_provider_is_served_as_printed(tmp_path):
    for name, mark in (("depot.py", "DEPOT: Provider = {"), ("my_gateway.py", '"depot": DEPOT})')):
        (tmp_path / name).write_text(block("docs/providers.md", "python", mark), "utf-8")
    (tmp_path / "filesproxy.ini").write_text("[provider:depot]\nanswer_timeout = 5\n", "utf-8")
    check, serve = block("docs/providers.md", "sh", "my_gateway").splitlines()
    shell, port = Shell(tmp_path, PYTHONPATH=str(ROOT)), free_port()
    shell.run(check)
    with shell.server(at(port, serve), port):
        asked = f"curl -sS http://127.0.0.1:{port}/v1/files -H 'x-portkey-provider: depot'"
        assert json.loads(shell.run(asked))["error"]["message"].startswith("This provider needs a credential")


@needs_gunicorn
def test_settings_of_gunicorn_listen_where_the_pages_say():
    from filesproxy.serving import gunicorn

    assert gunicorn.bind == PRINTED_URL[len("http://") :]


def test_systemd_unit_is_right(tmp_path):
    unit = block("docs/deploy.md", "systemd", "[Unit]")
    parser = configparser.ConfigParser(interpolation=None, strict=False)  # ExecReload is there twice
    parser.optionxform = str
    parser.read_string(unit)
    assert parser.sections() == ["Unit", "Service", "Install"]
    service = parser["Service"]
    assert service["Restart"] == "on-failure"
    assert int(service["TimeoutStopSec"]) > 300  # graceful_timeout
    command = block("docs/deploy.md", "sh", "gunicorn -c python:")
    assert service["ExecStart"] == f"/opt/filesproxy/{command.strip()}"
    reload = re.findall(r"^ExecReload=(.+)$", unit, re.MULTILINE)
    assert reload[0] == service["ExecStartPre"] and reload[0].endswith("/filesproxy check") and "-HUP" in reload[1]
    if shutil.which("systemd-analyze") is None:
        return
    # what is not on this machine is replaced: the programs, which systemd looks for
    unit = re.sub(r"(?m)^(Exec\w+=)/opt/\S+", rf"\g<1>{sys.executable}", unit)
    (tmp_path / "filesproxy.service").write_text(unit, "utf-8")
    words = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "filesproxy.service")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "filesproxy.service" in line]
    assert ours == []


# nginx


@pytest.mark.skipif(NGINX is None, reason="needs nginx")
@needs_gunicorn
def test_nginx_in_front_passes_20_mb_both_ways_and_keeps_no_body(tmp_path):
    (tmp_path / "filesproxy.ini").write_text(
        f"[filesproxy]\nfolder = {tmp_path / 'store'}\ndefault_provider = local\n" + key_section(providers="local"),
        encoding="utf-8",
    )
    with running("gunicorn", tmp_path / "run", FILESPROXY_CONFIG=tmp_path / "filesproxy.ini") as gateway:
        made = through_nginx(gateway, tmp_path, {"x-portkey-api-key": GATEWAY_KEY})
        (uploaded,) = gateway.wait_for_lines(1, operation="upload_file", file_id=made["id"])
    assert uploaded["status"] == 200
    assert "buffered to a temporary file" not in (tmp_path / "error.log").read_text("utf-8")


@pytest.mark.skipif(NGINX is None, reason="needs nginx")
@needs_gunicorn
def test_nginx_does_not_make_everybody_this_machine(start, tmp_path):
    """Without keys: behind nginx each peer is 127.0.0.1, and a client may say that the host is localhost.

    And the refusal of 20 MB gets through: gunicorn used to reset it away, so that nginx answered 502 with a page.
    """
    with pytest.raises(KeyError, match="id"):
        through_nginx(start("gunicorn"), tmp_path, {"host": "localhost"})


def through_nginx(gateway, tmp_path, headers):
    """20 MB up and down through the page's location block, once `nginx -t` has taken it."""
    port = free_port()
    location = block("docs/deploy.md", "nginx", "location").replace(PRINTED_URL, gateway.root_url)
    assert gateway.root_url in location
    kept = " ".join(
        f"{name}_temp_path {tmp_path}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {tmp_path}/pid; error_log {tmp_path}/error.log notice;\n"
        f"events {{ worker_connections 64; }}\nhttp {{ access_log off; {kept}\n"
        f"server {{ listen 127.0.0.1:{port};\n{location}}} }}\n", encoding="utf-8",
    )  # fmt: skip
    shell, words = Shell(tmp_path), f"'{NGINX}' -c '{tmp_path}/nginx.conf' -p '{tmp_path}'"
    shell.run(f"{words} -t")
    with shell.server(words, port):
        return roundtrip(port, random.Random(2).randbytes(20_000_000), **headers)


# Packages


def test_offline_kit_works_as_printed(tmp_path, index):
    """The wheels are made with an index; what installs them may reach none, and has only what was carried over."""
    shell = Shell(clone(tmp_path / "clone"))
    shell.run(block("docs/deploy.md", "sh", "pip wheel"))
    carried = tmp_path / "offline"
    shutil.copytree(shell.folder / "dist", carried / "dist")
    offline = Shell(carried, PIP_INDEX_URL="http://127.0.0.1:9/", PIP_CONFIG_FILE=os.devnull)
    assert DEMO_IS_WELL in offline.run(block("docs/deploy.md", "sh", "--no-index"))
    assert offline.run("offline/bin/gunicorn --version").startswith("gunicorn ")


def test_release_is_checked_as_printed(tmp_path, index):
    shell = Shell(clone(tmp_path / "clone"))
    assert DEMO_IS_WELL in shell.run(block("CONTRIBUTING.md", "sh", "release-check"))
    assert len(glob.glob(str(shell.folder / "dist" / "*"))) == 1
    installed = shell.folder / "release-check"
    where = shell.run(f"cd / && '{installed}/bin/python' -c 'import filesproxy; print(filesproxy.__file__)'")
    assert where.startswith(str(installed))


def test_what_no_test_runs_is_what_ci_runs():
    """Commands that run the tests: a test cannot run them, so here is that .ci/run does."""
    script = text_of(".ci/run")
    assert "README.md" in script and 'bash -ec "$test_command"' in script
    readme = block("README.md", "sh", "'.[test]'")
    assert block("CONTRIBUTING.md", "sh", "'.[test]'") == readme
    install, test = block("CONTRIBUTING.md", "sh", "'.[test,clients]'").splitlines()
    assert "--editable '.[test,clients]'" in install and "--editable '.[test,clients]'" in script
    assert "pytest --quiet tests/heavy" in test and re.search(r"pytest --quiet \S*tests/heavy", script)


def test_worked_example_passes_its_own_test(tmp_path):
    for name, mark in (("depot.py", "DEPOT: Provider = {"), ("test_depot.py", "class FakeDepot")):
        (tmp_path / name).write_text(block("docs/providers.md", "python", mark), "utf-8")
    shell = Shell(tmp_path, PYTHONPATH=str(ROOT))
    assert re.search(r"^[0-9]+ passed", shell.run(block("docs/providers.md", "sh", "pytest")), re.MULTILINE)


# The command line


class Started:
    """`python3 -m filesproxy` as the README starts it, in a clone, on a free port: a context manager."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        shell = Shell(clone(self.folder / "clone"), XDG_DATA_HOME=str(self.folder))
        line = block("README.md", "sh", "python3 -m filesproxy\n").split()
        self.process = subprocess.Popen(
            [*line, "--listen", "127.0.0.1:0"], env=shell.environment, cwd=shell.folder,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        killer = threading.Timer(20, self.process.kill)
        killer.start()
        try:
            self.banner = [self.process.stderr.readline().rstrip() for _ in range(6)]
            self.port = re.search(r":(\d+) ", self.banner[0])[1]
        except BaseException:
            self.__exit__()
            raise
        finally:
            killer.cancel()
        self.shell = shell
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=10)
        self.process.stderr.close()

    def curl(self, line, **variables):
        """What one of a page's lines prints, as JSON; None if it prints nothing."""
        self.shell.environment.update(variables)
        script = line.replace(PRINTED_URL, f"http://127.0.0.1:{self.port}").replace("curl ", "curl -sS --fail ", 1)
        printed = self.shell.run(script, timeout=20)
        return json.loads(printed) if printed else None


@pytest.fixture
def started(tmp_path):
    """The README's server, and a shell beside it."""
    with Started(tmp_path) as running:
        yield running


@needs_curl
def test_readmes_server_is_tried_as_printed(started, tmp_path):
    said = "\n".join(started.banner).replace(started.port, "8787").replace(str(tmp_path), "~/.local/share") + "\n"
    assert said == block("README.md", "text", "listens on")
    assert block("CONTRIBUTING.md", "sh", "python3 -m filesproxy\n") == "python3 -m filesproxy\n"
    upload = started.curl(block("README.md", "sh", "curl -F purpose="))
    assert list(upload) == list(json.loads(block("README.md", "json", "file-")))
    lines = block("README.md", "sh", "curl -X DELETE").splitlines()
    listed, retrieved, _, deleted = (started.curl(line, ID=upload["id"]) for line in lines)
    assert [file["id"] for file in listed["data"]] == [upload["id"]]
    assert retrieved == upload and deleted["deleted"] is True
    folder = started.shell.folder
    assert (folder / "content").read_bytes() == (folder / "README.md").read_bytes()


@needs_curl
def test_clients_curl_lines_work_as_printed(started):
    first, *others = block("docs/clients.md", "sh", "curl -X DELETE").splitlines()
    upload = started.curl(first)
    assert upload["expires_at"] == upload["created_at"] + 86400
    filtered, retrieved, _, _, deleted = (started.curl(line, ID=upload["id"]) for line in others)
    assert [file["id"] for file in filtered["data"]] == [upload["id"]]
    assert retrieved == upload and deleted["deleted"] is True
    content = (started.shell.folder / "README.md").read_bytes()
    assert (started.shell.folder / "file_content").read_bytes() == content
    assert (started.shell.folder / "first_100_bytes").read_bytes() == content[:100]


def test_key_and_check_work_as_printed(tmp_path):
    assert "`python3 -m filesproxy check --config filesproxy.ini`" in text_of("README.md")
    check, make_key = block("docs/configuration.md", "sh", "filesproxy check").splitlines()
    shell = Shell(tmp_path, PYTHONPATH=str(ROOT))
    lines = shell.run(make_key)
    (key,) = re.findall(r"fp_[A-Za-z0-9_-]{43}", shell.errors)
    (tmp_path / "filesproxy.ini").write_text(f"[provider:openai]\ncredential = sk-saved\n{lines}", "utf-8")
    said = shell.run(check)
    assert "key team-a" in said and key not in said and "sk-saved" not in said
    (tmp_path / "filesproxy.ini").write_text("[filesproxy]\nmax_upload_bites = 5\n", "utf-8")
    assert shell.run(f"{check} 2>&1 || echo $?") == (
        "filesproxy: filesproxy.ini, line 2: [filesproxy]: "
        "there is no setting 'max_upload_bites'. Did you mean max_upload_bytes?\n2\n"
    )


def test_demo_says_that_all_is_well(tmp_path):
    assert "`python3 -m filesproxy demo`" in text_of("README.md")
    said = Shell(tmp_path, PYTHONPATH=str(ROOT)).run("python3 -m filesproxy demo")
    assert DEMO_IS_WELL in said


def test_folder_and_zipapp_work_as_printed(tmp_path):
    """In their order, after pip has left its build/ behind; twice, as for the next version."""
    shell = Shell(clone(tmp_path / "clone"))
    (shell.folder / "build").mkdir()
    for _ in range(2):
        for mark in ("mkdir -p dist/folder", "rm -rf dist/zipapp"):
            assert DEMO_IS_WELL in shell.run(block("docs/deploy.md", "sh", mark))
    archive = shell.folder / "dist" / "filesproxy.pyz"
    version = shell.run(f"cd / && python3 -I -S '{archive}' --version")
    assert version == f"filesproxy {filesproxy.__version__}\n"
    refusal = shell.run(f"cd / && '{archive}' check --config none.ini 2>&1 || echo $?")
    assert refusal == "filesproxy: none.ini: the file cannot be read (no such file or directory).\n2\n"


def test_store_is_looked_after_as_printed(tmp_path):
    folder = tmp_path / "store"
    body = form(("purpose", "batch"), ("file", "a.jsonl", "application/jsonl", b"bytes"))
    made = store_in(folder).post("/v1/files", body, {"content-type": form_type()}).json
    gc.collect()  # of the gateway, which a rebuild would refuse to work beside
    shell = Shell(tmp_path, PYTHONPATH=str(ROOT), FILESPROXY_FOLDER=str(folder))

    def printed(mark):
        return shell.run(block("docs/local-store.md", "sh", mark).replace("/backup/", f"{tmp_path}/backup/"))

    assert "no problems" in printed("files list")
    assert "1 file (5 bytes) copied" in printed("files backup")
    (folder / "index.sqlite3").unlink()
    assert printed("files rebuild") == "the new index has 1 file\n"
    assert printed("files restore").startswith("0 files (0 bytes) restored")
    for kept in (folder, tmp_path / "backup" / "filesproxy"):
        client = store_in(kept)
        assert client.get("/v1/files").json["data"] == [made]
        assert client.get(f"/v1/files/{made['id']}/content").body == b"bytes"


def test_files_at_a_provider_are_looked_after_as_printed(tmp_path):
    ledger, body = str(tmp_path / "ledger"), form(("purpose", "batch"), ("file", "a.jsonl", "text/plain", b"bytes"))
    with StrictOpenAI() as provider:
        at = f"[provider:openai]\nkind = openai\nfiles = own\nbase_url = {provider.base_url}\n"
        text = block("docs/isolation.md", "ini", "[filesproxy]").replace("[provider:openai]\n", at)
        text = text.replace("8b574c08b786e6eab86c0fb5893e348ea933724d67d9d2d9e12f6511c6b242b1", hashed("fp_retail"))
        (tmp_path / "filesproxy.ini").write_text(text)
        one, two = provider.seed(2)
        FolderLedger(ledger)  # as a gateway makes it when it needs it
        shell = Shell(tmp_path, PYTHONPATH=str(ROOT), FILESPROXY_LEDGER=ledger, OPENAI_API_KEY=KEY)

        def printed(mark):
            printed = block("docs/isolation.md", "sh", mark).replace("file-abc123", one).replace("file-abc124", two)
            return shell.run(printed).splitlines()

        shown = printed("python3 -m filesproxy files orphans")
        assert shown[2:] == ["2 files at openai that nobody owns", "1 file given to retail",
                             "1 file deleted at openai"]  # fmt: skip
        assert list(provider.files) == [one]
        os.environ["OPENAI_API_KEY"] = KEY
        try:
            client = webtest.TestApp(create_app(str(tmp_path / "filesproxy.ini"), ledger=ledger))
        finally:
            del os.environ["OPENAI_API_KEY"]
        made = client.post("/v1/files", body, {"content-type": form_type(), "x-portkey-api-key": "fp_retail"}).json[
            "id"
        ]
        first, second, adopted, swept = printed("python3 -m filesproxy files list")
        assert [json.loads(line)["id"] for line in (first, second)] == [one, made]
        assert adopted.startswith("2 objects of retail at openai given to retail-emea")
        assert swept == "0 files deleted at openai after expiry"
        assert provider.problems == []


def store_in(folder):
    """A client of a gateway that keeps its files in this folder."""
    return webtest.TestApp(create_app({}, folder=str(folder), default_provider="local"))
