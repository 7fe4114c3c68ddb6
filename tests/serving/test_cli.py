"""`python -m filesproxy` as an operator meets it: the banner, the first answer, exit statuses, the demo, the log."""

from __future__ import annotations

import glob
import io
import json
import os
import re
import shlex
import socket
import stat
import subprocess
import sys
import time
from typing import NamedTuple

import pytest
from configurations import hashed
from fakes import form, form_type
from sockets import WAIT, ask, environment, get, program, request, run

from filesproxy import __version__
from filesproxy.config.settings import known_settings
from filesproxy.providers import PROVIDERS
from filesproxy.serving import cli

UPLOAD = form(("purpose", "batch"), ("file", "a.jsonl", "application/jsonl", b"hello"))
LOCAL = {"host": "localhost"}
_OLD_PYTHONS = glob.glob(os.path.expanduser("~/.pyenv/versions/3.8.*/bin/python3.8")) + ["/usr/bin/python3.8"]
OLD_PYTHON = next(filter(os.path.exists, _OLD_PYTHONS), None)


def upload(port):
    return ask(port, request("POST", "/v1/files", UPLOAD, {"content-type": form_type()}))


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def called(monkeypatch, capsys, tmp_path):
    """Runs a command that ends by itself in this process, where a start costs nothing: called(*words, **environ)."""

    def call(*words, **environ):
        with monkeypatch.context() as patched:
            patched.delenv("XDG_DATA_HOME", raising=False)
            patched.setattr(cli, "to_stdout", lambda: None)  # which is for the life of a process
            for name, value in {"HOME": str(tmp_path), **environ}.items():
                patched.setenv(name, value)
            try:
                status = cli.main(words)
            except SystemExit as ended:
                status = ended.code
        return Done(status, *capsys.readouterr())

    return call


def refused(done, *words):
    """Exit status 2, a message with these words, and no traceback."""
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    for word in words:
        assert word in done.stderr
    return done.stderr


def test_banner_has_the_url_where_files_go_and_a_line_to_try(tmp_path):
    with program(tmp_path) as gateway:
        assert gateway.url == f"http://127.0.0.1:{gateway.port}"
        lines = gateway.banner.splitlines()
    assert lines[0].startswith(f"filesproxy {__version__} listens on {gateway.url}")
    assert f"files in {tmp_path}/.local/share/filesproxy, the default" in gateway.banner
    assert "api.openai.com" in gateway.banner or "provider openai" in gateway.banner
    assert re.fullmatch(rf"try: curl .*-F file=@\S+ {gateway.url}/v1/files", lines[-1])


def test_first_answer_comes_soon_after_the_start(tmp_path):
    started = time.monotonic()
    with program(tmp_path) as gateway:
        assert get(gateway.port, "/v1/health").json["status"] == "ok"
        assert time.monotonic() - started < WAIT


def test_access_log_is_one_json_line_a_request_on_standard_output(tmp_path):
    with program(tmp_path) as gateway:
        file = upload(gateway.port).json["id"]
        get(gateway.port, f"/v1/files/{file}/content", LOCAL)
        get(gateway.port, "/nowhere", LOCAL)
        status, out, err = gateway.stop()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["operation"], line["status"], line["provider"]) for line in lines] == [
        ("upload_file", 200, "local"),
        ("retrieve_file_content", 200, "local"),
        (None, 404, None),
    ]
    assert (lines[0]["bytes_in"], lines[1]["bytes_out"]) == (len(UPLOAD), 5)
    assert (status, err) == (0, "")


@pytest.mark.parametrize(
    "words", [("--version",), ("--help",), ("serve", "--help"), ("-h",), ("check", "-h"), ("key", "-h")]
)
def test_questions_are_answered_with_status_0(words, called):
    done = called(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("filesproxy " + __version__ if words == ("--version",) else "usage: filesproxy")


def test_help_of_serve_names_every_setting(called):
    text = called("serve", "--help").stdout
    for flag in (
        "--config",
        "--listen",
        "--folder",
        "--default-provider",
        "--max-upload-bytes",
        "--proxy",
        "--ca-file",
    ):
        assert flag in text


@pytest.mark.parametrize(
    "words,said",
    [
        (("--bogus",), "--bogus"),
        (("--max-upload", "3"), "--max-upload"),
        (("--conf", "a.ini"), "--conf"),
        (("check", "--conf", "a.ini"), "--conf"),
        (("key", "--nam", "a"), "--nam"),
        (("bogus",), "bogus"),
        (("check", "--bogus"), "--bogus"),
        (("check", "--config"), "--config"),
        (("check", "--config", "/nonexistent/filesproxy.ini"), "/nonexistent/filesproxy.ini: the file cannot be read"),
        (("key",), "--name"),
        (("key", "--name", "Team A"), "the name of a key must consist of"),
        (("key", "--name", ""), "the name of a key must consist of"),
        (("key", "--name", "a]\nproviders = *"), "the name of a key must consist of"),
        (("--listen",), "--listen"),
        (("--listen", "8787"), "listen must be HOST:PORT"),
        (("--listen", "127.0.0.1:99999"), "listen must be HOST:PORT"),
        (("--max-upload-bytes", "many"), "max_upload_bytes must be a whole number"),
        (("--ca-file", "/nonexistent/ca.pem"), "ca_file must be a file"),
        (("--default-provider", "nobody"), "default_provider"),
        (("--config", "/nonexistent/filesproxy.ini"), "cannot be read"),
        (("--config", "/"), "cannot be read"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else "",
)
def test_argument_that_cannot_be_used_is_status_2(words, said, called):
    refused(called(*words), said)


BAD_FILES = {
    "unknown_key": ("[filesproxy]\nmax_upload_byte = 5\n", "Did you mean max_upload_bytes?"),
    "unknown_section": ("[gateway]\n", "line 1: sections are [filesproxy], "),
    "unknown_kind": ("[provider:mine]\nbase_url = http://127.0.0.1/v1\n", "needs kind"),
    "bad_url": ("[provider:openai]\nbase_url = 127.0.0.1\n", "base_url must be"),
    "no_section": ("listen = 127.0.0.1:1\n", "line 1"),
    "twice": ("[filesproxy]\nproxy = none\nproxy = none\n", "line 3"),
    "no_ini": ("[filesproxy]\nwhat is this sk-canary\n", "line 2"),
    "saved_without_a_key": ("\n[provider:openai]\ncredential = sk-canary\n", "line 3: [provider:openai]: a saved"),
    "key_in_clear": ("[key:a]\nsha256 = fp_sk-canary\n", "line 2: [key:a]: sha256 must be"),
    "credential_of_two_words": ("[provider:openai]\ncredential = sk-canary sk-canary\n", "line 2: [provider:openai]"),
    "credential_with_a_colon": ("[provider:openai]\ncredential: sk-canary\n", "line 2"),
    "credential_in_a_missing_file": ("[provider:openai]\ncredential = file:/nonexistent/sk-canary\n", "line 2"),
    "credential_in_an_unset_variable": ("[provider:openai]\ncredential = env:UNSET\n", "line 2"),
    "unknown_operation": ("[key:a]\noperations = sk-canary\n", "line 2: [key:a]: operations must be"),
    "comment_after_a_value": ("[filesproxy]\nproxy = none # sk-canary\n", "a comment on a line of its own"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_configuration_file_that_cannot_be_used_is_status_2(name, called, tmp_path):
    text, said = BAD_FILES[name]
    path = tmp_path / "filesproxy.ini"
    path.write_text(text)
    served = refused(called("--config", str(path)), said, str(path))
    checked = called("check", "--config", str(path))
    assert "sk-canary" not in served
    assert (refused(checked), checked.stdout) == (served, "")
    assert len(served.splitlines()) == 1


def test_configuration_file_that_is_not_text_is_status_2(tmp_path):
    path = tmp_path / "filesproxy.ini"
    path.write_bytes(b"\xff\xfe\x00[filesproxy]")
    refused(run(tmp_path, "--config", str(path)), "not UTF-8")


@pytest.mark.parametrize(
    "variable", ["FILESPROXY_BOGUS", "FILESPROXY_LISTN", "FILESPROXY_MAX_UPLOAD_BYTES", "FILESPROXY_CONFIG"]
)
def test_environment_that_cannot_be_used_is_status_2(variable, called):
    refused(called(**{variable: "sk-canary"}))


def test_environment_and_file_are_read(tmp_path):
    path = tmp_path / "filesproxy.ini"
    path.write_text(f"[filesproxy]\nfolder = {tmp_path}/there\ndefault_provider = local\n")
    more = {"FILESPROXY_CONFIG": str(path), "FILESPROXY_MAX_UPLOAD_BYTES": "9", "FILESPROXY_PORT": "tcp://10.0.0.1:80"}
    with program(tmp_path, **more) as gateway:
        assert f"files in {tmp_path}/there" in gateway.banner
        assert upload(gateway.port).status == 413


USABLE = """\
[filesproxy]
proxy = http://user:sk-canary@proxy.example:3128
folder = {folder}
[provider:openai]
credential = sk-canary
[provider:compat]
kind = openai
base_url = http://models.example/v1
credential = env:A_CREDENTIAL
[provider:azure-prod]
kind = azure-openai
resource = mine
credential = file:{folder}/credential
[key:team-a]
sha256 = {one}
providers = openai compat
operations = list_files
[key:team-b]
sha256 = {two}
providers = *
owner = retail
sees = all
max_file_bytes = 1000
allowed_types = text/* image/png
"""


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_check_says_what_a_configuration_means_in_plain_words_and_no_value_of_it(how, tmp_path):
    path, one, two = tmp_path / "filesproxy.ini", hashed("fp_a"), hashed("fp_b")
    path.write_text(USABLE.format(folder=tmp_path, one=one, two=two))
    (tmp_path / "credential").write_text("sk-canary\n")
    words = ("--config", str(path)) if how == "flag" else ()
    more = {} if how == "flag" else {"FILESPROXY_CONFIG": str(path)}
    done = run(tmp_path, "check", *words, A_CREDENTIAL="sk-canary", **more)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "The configuration is valid.")
    for said in ("provider openai: https://api.openai.com/v1, saved credential", f"files in {tmp_path}",
                 "provider compat: http://models.example/v1, saved credential", "provider azure-prod: mine on Azure",
                 "key team-a: providers openai compat, operations list_files",
                 "key team-b: providers *, operations *, owner retail, sees all, max_file_bytes 1000",
                 ", allowed_types text/* image/png\n",
                 f"ledger in {tmp_path}: keeps owners apart at the accounts compat, openai",
                 "The saved provider compat sends its credential over plain http"):  # fmt: skip
        assert said in done.stdout
    for hidden in ("sk-canary", one, two, "user:"):
        assert hidden not in done.stdout + done.stderr


WHERE_FILES_ARE = """
[filesproxy]
default_files = local
default_chat = llm
max_inline_bytes = 1800000
[provider:local]
folder = {folder}
inline_to = central claude
[provider:others]
kind = local
folder = {folder}/others
[provider:llm]
kind = openai
base_url = http://127.0.0.1:8080/v1
credential = none
files = local
[provider:blind]
kind = openai
base_url = http://127.0.0.1:8081/v1
credential = none
files = none
[provider:central]
kind = openai
base_url = http://127.0.0.1:8082/v1
[provider:unknown]
kind = openai
base_url = http://127.0.0.1:8083/v1
[provider:claude]
kind = anthropic
file_parts = text
max_inline_bytes = 31457280
"""


def test_check_says_where_files_are_and_where_kept_ones_may_go(called, tmp_path):
    path = tmp_path / "filesproxy.ini"
    path.write_text(WHERE_FILES_ARE.format(folder=tmp_path / "files"))
    said = called("check", "--config", str(path)).stdout.splitlines()
    shown = dict(zip((line.split()[1].rstrip(":") for line in said[1::2]), zip(said[1::2], said[2::2])))
    takes = "takes kept files of local: text image, up to 1.717 MiB in a request"
    assert {name: lines[1].strip() for name, lines in shown.items()} == {
        "openai": "files of its own",
        "azure-openai": "files of its own",
        "anthropic": "files of its own",
        "local": "its files may go into requests to llm central claude",
        "others": "its files may go into requests to no provider",
        "llm": f"files of local; {takes}",
        "blind": "takes no file ids; its file operations are passed on",
        "central": f"other ids go there as they are; {takes}",
        "unknown": "files unknown: ids go there as they are (set files = own, none or a provider that keeps files)",
        "claude": "files of its own; takes kept files of local: text, up to 30 MiB in a request",
    }
    assert shown["local"][0].endswith(", the default for files")
    assert shown["llm"][0].endswith(", saved without a credential, the default for chats")
    assert shown["central"][0].endswith(", callers' own credentials only")


def test_check_without_a_configuration_is_about_the_defaults_and_writes_nothing(called, tmp_path):
    done = called("check")
    assert (done.returncode, done.stderr, list(tmp_path.iterdir())) == (0, "", [])
    assert done.stdout.splitlines()[0] == "There is no configuration file; these are the defaults."
    assert "provider openai: https://api.openai.com/v1, callers' own credentials only\n" in done.stdout


def test_key_that_is_made_works_with_the_lines_that_are_printed(tmp_path, make_client):
    done = run(tmp_path, "key", "--name", "team-a")
    assert done.returncode == 0
    (made,) = re.findall(r"\bfp_[A-Za-z0-9_-]{43}\b", done.stderr)
    path = tmp_path / "filesproxy.ini"
    path.write_text(f"[filesproxy]\nfolder = {tmp_path}/files\ndefault_provider = local\n{done.stdout}")
    client = make_client(str(path), transports=None)
    assert client.get("/v1/files", headers={"x-portkey-api-key": made}).json["data"] == []
    assert client.get("/v1/files", headers={"authorization": f"Bearer {made}"}).json["data"] == []
    for wrong in ({}, {"x-portkey-api-key": made[:-1]}, {"x-portkey-api-key": hashed(made)}):
        client.get("/v1/files", headers=wrong, status=401)


def test_section_of_a_new_key_can_be_appended_to_the_configuration_without_the_key(called):
    done = called("key", "--name", "team-x")
    assert done.stdout.startswith("\n[key:team-x]\nsha256 = ") and "fp_" not in done.stdout
    assert "fp_" in done.stderr


NOT_WRITTEN = {
    "check >/dev/full": (1, "", "the output cannot be written"),
    "key --name a >/dev/full": (1, "", "the output cannot be written"),
    "key --name a 2>/dev/full": (1, "", ""),
    "key --name a >&-": (1, "", "standard output, which is closed"),
    "key --name a 2>&-": (1, "", ""),
}


@pytest.mark.parametrize("words", NOT_WRITTEN)
def test_command_whose_output_cannot_be_written_fails_in_one_line(words, tmp_path):
    """`check >/dev/full` was a traceback, and `key 2>&-` lost the key with status 0."""
    done = subprocess.run(f"{shlex.quote(sys.executable)} -m filesproxy {words}", shell=True, cwd=tmp_path,
                          env=environment(tmp_path), capture_output=True, text=True, timeout=WAIT)  # fmt: skip
    status, out, said = NOT_WRITTEN[words]
    assert (done.returncode, done.stdout) == (status, out) and said in done.stderr
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_keys_that_are_made_are_never_the_same_and_stored_nowhere(called, tmp_path):
    made = {called("key", "--name", "a").stderr for _ in range(2)}
    assert len(made) == 2 and list(tmp_path.iterdir()) == []


def test_warnings_of_a_configuration_are_on_standard_error_and_hold_no_value(tmp_path):
    path = tmp_path / "filesproxy.ini"
    shared = USABLE.replace("[filesproxy]\n", "[filesproxy]\nisolation = no\n")
    path.write_text(shared.format(folder=tmp_path, one=hashed("fp_a"), two=hashed("fp_b")))
    (tmp_path / "credential").write_text("sk-canary\n")
    with program(tmp_path, "--config", str(path), A_CREDENTIAL="sk-canary") as gateway:
        get(gateway.port, "/v1/files", LOCAL)
        status, out, err = gateway.stop()
    assert "over plain http" in gateway.banner and "share the files" in gateway.banner
    assert status == 0 and json.loads(out)["status"] == 401
    assert "sk-canary" not in gateway.banner + out + err


def test_check_warns_of_a_credential_that_others_can_read(tmp_path, called):
    path = tmp_path / "filesproxy.ini"
    path.write_text("[filesproxy]\nopen_access = yes\n[provider:openai]\ncredential = sk-canary\n")
    path.chmod(0o644)
    done = called("check", "--config", str(path))
    assert done.returncode == 0 and f"  warning: {path}, line 4: [provider:openai]: others than" in done.stdout
    assert "sk-canary" not in done.stdout + done.stderr
    path.chmod(0o600)
    assert "warning" not in called("check", "--config", str(path)).stdout


def test_port_in_use_is_status_1_with_a_hint(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(tmp_path, "--listen", f"127.0.0.1:{port}")
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr and "try --listen 127.0.0.1:0" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("host", ["nosuch.invalid", "192.0.2.1", "a..b", "256.1.1.1"])
def test_address_that_is_not_ours_is_status_1(host, called):
    done = called("--listen", f"{host}:0")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert f"cannot listen on {host}:0 (" in done.stderr
    assert "Unknown error" not in done.stderr and "Success" not in done.stderr


def test_demo_makes_the_five_calls_and_a_chat_and_leaves_nothing(tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    done = run(tmp_path, "demo", TMPDIR=str(temporary))
    assert (done.returncode, done.stderr) == (0, "")
    requests = re.findall(r"^(POST|GET|DELETE) (\S+)", done.stdout, re.MULTILINE)
    file = requests[2][1]
    assert requests[:5] == [
        ("POST", "/v1/files"),
        ("GET", "/v1/files?purpose=assistants&limit=10"),
        ("GET", file),
        ("GET", f"{file}/content"),
        ("DELETE", file),
    ]
    assert len(set(re.findall(r"SHA-256 ([0-9a-f]{16})", done.stdout))) == 1
    assert requests[-2:] == [("POST", "/v1/files"), ("POST", "/v1/chat/completions")]
    assert "The model host got: " in done.stdout and "[file: notes.txt]\\nNotes of the kitchen." in done.stdout
    assert list(temporary.iterdir()) == []
    assert not (tmp_path / ".local").exists()


def test_demo_speaks_where_the_terminal_knows_no_unicode(tmp_path):
    done = run(tmp_path, "demo", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")


def test_data_folder_is_the_users_and_nobody_elses(tmp_path):
    with program(tmp_path, XDG_DATA_HOME=str(tmp_path / "data")) as gateway:
        assert upload(gateway.port).status == 200
    folder = tmp_path / "data" / "filesproxy"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert not (tmp_path / ".local").exists()


def test_files_outlive_the_process(tmp_path):
    with program(tmp_path) as gateway:
        file = upload(gateway.port).json["id"]
        assert gateway.stop()[0] == 0
    with program(tmp_path) as gateway:
        assert get(gateway.port, f"/v1/files/{file}/content", LOCAL).body == b"hello"


def test_demo_works_beside_a_configuration_with_keys(tmp_path):
    path = tmp_path / "filesproxy.ini"
    path.write_text(f"[filesproxy]\nfolder = {tmp_path}/files\n[key:a]\nsha256 = {hashed('fp_a')}\nproviders = *\n")
    done = run(tmp_path, "demo", FILESPROXY_CONFIG=str(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "All calls did what they should" in done.stdout
    assert list(tmp_path.iterdir()) == [path]


def test_without_keys_no_other_host_and_no_web_page_reaches_any_provider(tmp_path):
    plain = {"x-portkey-provider": "openai", "authorization": "Bearer sk-caller", "host": "localhost"}
    foreign = [{"host": "evil.example"}, {"origin": "http://evil.example"}, {"origin": "null"},
               {"sec-fetch-site": "cross-site"}, {"x-forwarded-for": "192.0.2.1"}]  # fmt: skip
    path = tmp_path / "filesproxy.ini"
    path.write_text("[provider:openai]\nbase_url = http://127.0.0.1:1/v1\n")
    with program(tmp_path, "--config", str(path)) as gateway:
        for headers in foreign:
            for asked in ({**plain, **headers}, {**LOCAL, **headers}):
                reply = get(gateway.port, "/v1/files", asked)
                assert (reply.status, reply.error["code"]) == (403, "forbidden")
        assert get(gateway.port, "/v1/files", plain).error["code"] == "upstream_unreachable"
        assert get(gateway.port, "/v1/health", {"host": "evil.example"}).status == 200


@pytest.mark.parametrize("broken", ["list_files", "retrieve_file", "retrieve_file_content", "delete_file"])
def test_demo_says_what_went_wrong_with_status_1(broken, called, monkeypatch):
    monkeypatch.delitem(PROVIDERS["local"]["operations"], broken)
    done = called("demo")
    assert done.returncode == 1
    assert "FAILED: " in done.stdout and "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("words", [("serve", "--help"), ("check",), ("--config", "/nönexistent/日本.ini")])
def test_output_fits_every_encoding_of_a_terminal(words, encoding, tmp_path, called, monkeypatch):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, write_through=True) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    done = called(*words, FILESPROXY_FOLDER=str(tmp_path / "données 日本"))
    out, err = (stream.buffer.getvalue() for stream in streams)
    assert b"Traceback" not in err and done.returncode == (2 if "--config" in words else 0)
    assert (err if "--config" in words else out) != b""


def test_texts_of_the_settings_are_ascii():
    for setting in known_settings(PROVIDERS).values():
        assert setting.doc.isascii(), setting.name


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-"])
def test_server_starts_with_closed_standard_streams(closed, tmp_path):
    """Neither the log nor a file of the store gets the number of a stream that was closed."""
    words = shlex.join([sys.executable, "-m", "filesproxy", "--listen", "127.0.0.1:0"])
    process = subprocess.Popen(
        ["sh", "-c", f"exec {words} {closed}"], env=environment(tmp_path), stderr=subprocess.PIPE, encoding="utf-8"
    )
    try:
        line = next(line for line in process.stderr if line.startswith("try:"))
        port = int(re.search(r":([0-9]+)/v1", line)[1])
        assert upload(port).status == 200
        assert get(port, "/v1/files", LOCAL).json["data"][0]["bytes"] == 5
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


@pytest.mark.skipif(not OLD_PYTHON, reason="needs Python 3.8")
def test_python_that_is_too_old_is_told_in_one_line(tmp_path):
    done = subprocess.run([OLD_PYTHON, "-m", "filesproxy"], env=environment(tmp_path), capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert "filesproxy needs Python 3.9 or newer" in done.stderr and len(done.stderr.splitlines()) == 1
