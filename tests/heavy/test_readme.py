"""The rest of the README's commands and snippets, run as printed but for ports and keys: deployment, packages, SDKs."""

from __future__ import annotations

import configparser
import contextlib
import glob
import hashlib
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import venv
from http.client import HTTPConnection
from pathlib import Path

import pytest
import strict_anthropic
from servers import ROOT, START_SECONDS, free_port, running
from strict_anthropic import StrictAnthropic
from strict_openai import KEY

README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
PRINTED_URL = "http://127.0.0.1:8787"
GATEWAY_KEY = "fp_" + "readme" * 7
SBIN = ":/usr/sbin:/sbin"  # where nginx may be without being on a user's PATH
TREE = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "gunicorn.conf.py", "filesproxy")
#: what each block is known by, and who runs it; a block that nobody runs fails
RUN_BY = {
    "python3 -m filesproxy\n": "test_docs", "curl -F purpose=": "test_docs", "listens on": "test_docs",
    '{"id":"file-': "test_docs", "pip install --quiet --editable": ".ci/run", "TEST_OUTPUT": ".ci/run",
    " passed": ".ci/run", "x-portkey-provider: openai": "here", "x-portkey-provider: @openai": "here",
    "curl -X DELETE": "test_docs", "provider=\"@openai\", base_url": "here", "model=\"@claude/": "here",
    "chat/completions": "here", "new Portkey(": "here", "client = OpenAI(": "here",
    "new OpenAI(": "here", "gunicorn -c": "here", "[Unit]": "here", "location /v1/": "here", "pip wheel": "here",
    "zipapp": "here", "create_app(": "test_embed", "DispatcherMiddleware": "test_embed", "class Mount": "test_embed",
    "[filesproxy]": "test_docs",
}  # fmt: skip


def block(language, mark):
    """The README's one block in that language that holds the mark."""
    (found,) = (text for own, text in BLOCKS if own == language and mark in text)
    return found


def sh(script, cwd, timeout=120, **environment):
    """What a shell prints, with this Python and its programs first on the path."""
    environ = environment_of(**environment)
    done = subprocess.run(["sh", "-ec", script], cwd=cwd, env=environ, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def environment_of(**more):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FILESPROXY_", "OPENAI_"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**inherited, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **more}


def sha(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def tree(tmp_path):
    """A copy of what a clone holds: commands of the README leave files behind."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in TREE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def here(tmp_path):
    """A folder with every file that a snippet names."""
    names = re.findall(r'(?:open|createReadStream)\("([^"]+)"|-F file=@(\S+)', README)
    for n, name in enumerate(sorted({one or other for one, other in names})):
        (tmp_path / name).write_bytes(random.Random(n).randbytes(5000))
    return tmp_path


@pytest.fixture(autouse=True)
def empty(fake):
    """The fake has no files when a test starts, also if another one failed."""
    fake.files.clear()


@pytest.fixture(scope="module")
def saved(fake, tmp_path_factory):
    """A gateway with the fake as the saved provider `openai`, and one gateway key."""
    folder = tmp_path_factory.mktemp("saved")
    (folder / "filesproxy.ini").write_text(
        f"[provider:openai]\nbase_url = {fake.base_url}\ncredential = {KEY}\n"
        f"[key:team]\nsha256 = {sha(GATEWAY_KEY.encode())}\nproviders = openai\n", encoding="utf-8",
    )  # fmt: skip
    with running("embedded", folder / "run", FILESPROXY_CONFIG=folder / "filesproxy.ini") as gateway:
        yield gateway


def filled(snippet, gateway):
    """A snippet with base URL and key of ours."""
    assert PRINTED_URL in snippet
    return snippet.replace(PRINTED_URL, gateway.root_url).replace('"GATEWAY_KEY"', f'"{GATEWAY_KEY}"')


def made_and_gone(fake, before):
    """Whether a snippet uploaded one file and deleted it, as its gateway's access to the fake shows."""
    made = [method for method, _, _ in fake.requests[before:]]
    return made.count("POST") == made.count("DELETE") == 1 and not fake.files


def test_every_block_is_run_by_something():
    unknown = [text for _, text in BLOCKS if not any(mark in text for mark in RUN_BY)]
    assert unknown == []


# Clients


@pytest.mark.parametrize("mark,package", [("portkey.files.retrieve(", "portkey_ai"), ("client = OpenAI(", "openai")])
def test_python_snippet_works_as_printed(mark, package, saved, fake, here):
    for needed in (package, "portkey_ai"):
        if not importlib.util.find_spec(needed):
            pytest.skip(f"needs {needed}")
    before = len(fake.requests)
    script = filled(block("python", mark), saved) + "\nprint(type(content).__name__, len(content))\n"
    (here / "snippet.py").write_text(script, "utf-8")
    ids, deleted, content = sh("python snippet.py", here).splitlines()
    assert re.fullmatch(r"\['file-[0-9a-f]{24}'\] [\w.]+", ids)
    assert (deleted, content) == ("True", "bytes 5000")
    assert made_and_gone(fake, before)


@pytest.mark.parametrize("mark", ["new Portkey(", "new OpenAI("])
def test_node_snippet_works_as_printed(mark, saved, fake, here, node_folder):
    before = len(fake.requests)
    script = filled(block("js", mark), saved)
    for name in re.findall(r'createReadStream\("([^"]+)"', script):
        shutil.copy(here / name, node_folder)
    (node_folder / "snippet.mjs").write_text(script, "utf-8")
    assert re.fullmatch(r"file-[0-9a-f]{24} 1 true\n", sh("node snippet.mjs", node_folder))
    assert made_and_gone(fake, before)


@pytest.fixture
def claude(tmp_path):
    """(gateway, upstream) with a strict Anthropic as the saved provider `claude`, and the same gateway key."""
    with StrictAnthropic() as upstream:
        (tmp_path / "claude.ini").write_text(
            f"[provider:claude]\nkind = anthropic\nbase_url = {upstream.base_url}\n"
            f"credential = {strict_anthropic.KEY}\n"
            f"[key:team]\nsha256 = {sha(GATEWAY_KEY.encode())}\nproviders = claude\n", encoding="utf-8",
        )  # fmt: skip
        with running("embedded", tmp_path / "run", FILESPROXY_CONFIG=tmp_path / "claude.ini") as gateway:
            yield gateway, upstream
        assert upstream.problems == []


def test_chat_snippet_works_as_printed(claude, here):
    if not importlib.util.find_spec("portkey_ai"):
        pytest.skip("needs portkey_ai")
    gateway, upstream = claude
    (here / "snippet.py").write_text(filled(block("python", 'model="@claude/'), gateway), "utf-8")
    assert sh("python snippet.py", here).strip() == strict_anthropic.DEFAULT_TEXT
    (asked,) = upstream.messages
    assert [part["type"] for part in asked["messages"][0]["content"]] == ["text", "document"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_chat_line_works_as_printed(claude, here):
    line = block("sh", "chat/completions").replace(PRINTED_URL, claude[0].root_url).replace("curl ", "curl -sS ", 1)
    events = sh(line, here, GATEWAY_KEY=GATEWAY_KEY).split("\n\n")
    assert events[-2] == "data: [DONE]" and '"role":"assistant"' in events[0]


def test_default_header_does_what_create_headers_does(saved, fake):
    openai = pytest.importorskip("openai", reason="needs openai")
    (text,) = re.findall(r'`(\{"x-portkey-provider": "@openai"\})` as default headers', README)
    with openai.OpenAI(api_key=GATEWAY_KEY, base_url=saved.url, default_headers=json.loads(text)) as client:
        assert client.files.list().data == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("provider", ["openai", "@openai"])
def test_curl_line_to_openai_works_as_printed(provider, saved, fake, here):
    line = block("sh", f"x-portkey-provider: {provider}").replace("curl ", "curl -sS --fail-with-body ", 1)
    if provider == "openai":  # a credential of one's own, where the gateway has no keys
        (here / "own.ini").write_text(f"[provider:openai]\nbase_url = {fake.base_url}\n", "utf-8")
        served = running("embedded", here / "run", FILESPROXY_CONFIG=here / "own.ini")
    else:
        served = contextlib.nullcontext(saved)
    with served as gateway:
        line = line.replace(PRINTED_URL, gateway.root_url)
        made = json.loads(sh(line, here, OPENAI_API_KEY=KEY, GATEWAY_KEY=GATEWAY_KEY))
    assert (made["filename"], made["purpose"], made["bytes"]) == ("training_data.jsonl", "fine-tune", 5000)
    assert fake.files[made["id"]][3] == sha((here / "training_data.jsonl").read_bytes())


# The command line


def test_key_that_is_made_opens_the_gateway_that_its_lines_configure(fake, tmp_path):
    assert "`python3 -m filesproxy key --name team-a`" in README
    assert "`python3 -m filesproxy check --config filesproxy.ini`" in README
    lines = sh("python3 -m filesproxy key --name team-a", ROOT)
    (key,) = re.findall(r"fp_[A-Za-z0-9_-]{43}", lines)
    path = tmp_path / "filesproxy.ini"
    path.write_text(f"[provider:openai]\nbase_url = {fake.base_url}\ncredential = {KEY}\n{lines}", "utf-8")
    said = sh(f"python3 -m filesproxy check --config '{path}'", ROOT)
    assert "team-a" in said
    assert key not in said and KEY not in said
    with running("embedded", tmp_path / "run", FILESPROXY_CONFIG=path) as gateway:
        own = {"x-portkey-provider": "@openai", "x-portkey-api-key": key}
        assert gateway.request("GET", "/v1/files", headers=own)[0].status == 200
        assert gateway.request("GET", "/v1/files", headers={**own, "x-portkey-api-key": key + "x"})[0].status == 401


def test_demo_says_that_all_is_well(tree):
    assert "`python3 -m filesproxy demo`" in README
    assert "All five calls did what they should" in sh("python3 -m filesproxy demo", tree)


# gunicorn, systemd, nginx


@contextlib.contextmanager
def shell_server(script, cwd, port, path="/v1/health", **environment):
    """A server that a shell runs, once it answers; stopped at the end."""
    with open(Path(cwd) / "shell.log", "w+b") as log:
        process = subprocess.Popen(
            ["sh", "-ec", script], cwd=cwd, env=environment_of(**environment), stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            end = time.monotonic() + START_SECONDS
            while not _answers(port, path):
                assert process.poll() is None and time.monotonic() < end, (Path(cwd) / "shell.log").read_text("utf-8")
                time.sleep(0.05)  # between two attempts
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)  # a session of its own: nobody else is in it
            process.wait(20)


def _answers(port, path):
    with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        try:
            connection.request("GET", path)
            with connection.getresponse() as response:
                return response.status == 200
        except OSError:
            return False


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


def test_gunicorn_command_serves(tree):
    pytest.importorskip("gunicorn", reason="needs gunicorn")
    script = block("sh", "gunicorn -c")
    (tree / "filesproxy.ini").write_text("[filesproxy]\nfolder = store\ndefault_provider = local\n", "utf-8")
    port = free_port()
    bound = script.rstrip("\n") + f" --bind 127.0.0.1:{port}\n"  # the one of gunicorn.conf.py may be taken
    with shell_server(bound, tree, port):
        roundtrip(port, random.Random(1).randbytes(100_000))
    assert f'bind = "{PRINTED_URL[7:]}"' in (tree / "gunicorn.conf.py").read_text("utf-8")


def test_systemd_unit_is_right(tmp_path):
    unit = block("systemd", "[Unit]")
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str
    parser.read_string(unit)
    assert parser.sections() == ["Unit", "Service", "Install"]
    assert int(parser["Service"]["TimeoutStopSec"]) > 300  # graceful_timeout
    assert parser["Service"]["ExecStart"].endswith("/gunicorn -c gunicorn.conf.py")
    if shutil.which("systemd-analyze") is None:
        return
    # what is not on this machine is replaced: the program, which systemd looks for
    unit = re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={sys.executable}", unit)
    (tmp_path / "filesproxy.service").write_text(unit, "utf-8")
    words = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "filesproxy.service")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "filesproxy.service" in line]
    assert ours == []


NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + SBIN)


@pytest.mark.skipif(NGINX is None, reason="needs nginx")
def test_nginx_in_front_passes_20_mb_both_ways_and_keeps_no_body(tmp_path):
    pytest.importorskip("gunicorn", reason="needs gunicorn")
    (tmp_path / "filesproxy.ini").write_text(
        f"[filesproxy]\nfolder = {tmp_path / 'store'}\ndefault_provider = local\n"
        f"[key:team]\nsha256 = {sha(GATEWAY_KEY.encode())}\nproviders = local\n", encoding="utf-8",
    )  # fmt: skip
    with running("gunicorn", tmp_path / "run", FILESPROXY_CONFIG=tmp_path / "filesproxy.ini") as gateway:
        made = through_nginx(gateway, tmp_path, {"x-portkey-api-key": GATEWAY_KEY})
        (uploaded,) = gateway.wait_for_lines(1, operation="upload_file", file_id=made["id"])
    assert uploaded["status"] == 200
    assert "buffered to a temporary file" not in (tmp_path / "error.log").read_text("utf-8")


@pytest.mark.skipif(NGINX is None, reason="needs nginx")
def test_nginx_does_not_make_everybody_this_machine(start, tmp_path):
    """Without keys: behind nginx each peer is 127.0.0.1, and a client may say that the host is localhost.

    And the refusal of 20 MB gets through: gunicorn used to reset it away, so that nginx answered 502 with a page.
    """
    pytest.importorskip("gunicorn", reason="needs gunicorn")
    with pytest.raises(KeyError, match="id"):
        through_nginx(start("gunicorn"), tmp_path, {"host": "localhost"})


def through_nginx(gateway, tmp_path, headers):
    """20 MB up and down through the README's location block."""
    port = free_port()
    location = block("nginx", "location").replace(PRINTED_URL, gateway.root_url)
    assert gateway.root_url in location
    kept = " ".join(
        f"{name}_temp_path {tmp_path}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {tmp_path}/pid; error_log {tmp_path}/error.log notice;\n"
        f"events {{ worker_connections 64; }}\nhttp {{ access_log off; {kept}\n"
        f"server {{ listen 127.0.0.1:{port};\n{location}}} }}\n", encoding="utf-8",
    )  # fmt: skip
    with shell_server(f"exec '{NGINX}' -c '{tmp_path}/nginx.conf' -p '{tmp_path}'", tmp_path, port):
        return roundtrip(port, random.Random(2).randbytes(20_000_000), **headers)


# Packages


def test_wheel_is_built_and_installed_without_an_index_as_printed(tree, tmp_path):
    build, install = block("sh", "pip wheel").splitlines()
    tools = importlib.util.find_spec("setuptools") and importlib.util.find_spec("wheel")
    sh(build + (" --no-build-isolation --no-index" if tools else ""), tree)
    assert len(glob.glob(str(tree / "dist" / "*"))) == 1
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    sh(install, tree, PIP_PYTHON=str(python))
    out = sh(f"'{python}' -m filesproxy demo", tmp_path, PYTHONPATH="")
    assert "All five calls did what they should" in out
    where = sh(f"'{python}' -c 'import filesproxy; print(filesproxy.__file__)'", tmp_path, PYTHONPATH="")
    assert where.startswith(str(tmp_path / "venv"))


def test_zip_that_is_made_as_printed_runs(tree):
    (line,) = block("sh", "zipapp").splitlines()
    sh(line, tree)
    out = sh("python3 -I -S filesproxy.pyz demo && ./filesproxy.pyz --version", tree)
    assert "All five calls did what they should" in out
    assert re.search(r"filesproxy [0-9.]+$", out.strip())
