"""The project's documents as tests see them: their code blocks, who runs each one, and a shell that runs them in order.

Every block of sh, ini, python, js and the like is in `RUN_BY`, in the order of its page, with the name of the test that
runs it, or with "not run: " and the reason. test_docs.py fails for a block that is not there.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from sockets import children, has_own_handlers

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md") + tuple(
    sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
)
PRINTED_URL = "http://127.0.0.1:8787"  # the gateway of every example
START_SECONDS = STOP_SECONDS = 20

RECURSIVE = "not run: a test would run the tests again; .ci/run runs it from a fresh clone, on every Python"
BENCHMARK = "not run: takes minutes, and its figures mean something only on a quiet machine"
NEEDS_ROOT = "not run: needs root, and systemd as process 1"

FIVE_OPERATIONS = "test_five_operations_work_below_a_prefix_and_the_password_stays_with_the_host"

#: page → (language, how the block begins, the test that runs it or why none does), in the order of the page
RUN_BY = {
    "README.md": (
        ("sh", "python3 -m filesproxy\n", "test_readmes_server_is_tried_as_printed"),
        ("text", "filesproxy 0.1.0 listens on", "test_readmes_server_is_tried_as_printed"),
        ("sh", "python3 -m venv .venv && .venv/bin/pip install --quiet --editable", RECURSIVE),
        ("sh", "curl -F purpose=assistants", "test_readmes_server_is_tried_as_printed"),
        ("json", '{"id":"file-', "test_readmes_server_is_tried_as_printed"),
        ("sh", "curl http://127.0.0.1:8787/v1/files\n", "test_readmes_server_is_tried_as_printed"),
        ("ini", "[filesproxy]\ndefault_provider = llm", "test_model_is_asked_about_a_kept_file_as_printed"),
        ("python", "from openai import OpenAI\n\nclient = OpenAI(api_key=\"unused\"",
         "test_model_is_asked_about_a_kept_file_as_printed"),
        ("python", "from openai import OpenAI", "test_python_snippet_works_as_printed"),
        ("python", "from portkey_ai import Portkey", "test_python_snippet_works_as_printed"),
        ("sh", "python3 -m venv .venv\n", "test_readmes_ten_lines_deploy_a_gateway_that_its_key_opens"),
        ("ini", "[filesproxy]", "test_ini_example_is_a_configuration"),
    ),
    "CONTRIBUTING.md": (
        ("sh", "python3 -m filesproxy\n", "test_readmes_server_is_tried_as_printed"),
        ("sh", "python3 -m venv .venv && .venv/bin/pip install --quiet --editable", RECURSIVE),
        ("sh", ".ci/run\n", RECURSIVE),
        ("sh", ".venv/bin/pip install --quiet --editable '.[test,clients]'", RECURSIVE),
        ("sh", "python3 -m pip wheel --quiet --no-deps", "test_release_is_checked_as_printed"),
    ),
    "SECURITY.md": (),
    "CHANGELOG.md": (),
    "docs/api.md": (),
    "docs/architecture.md": (
        ("text", " client ", "not run: a picture"),
        ("text", "filesproxy/\n", "test_rooms_are_those_of_the_package"),
        ("text", "serving ─▶ app", "not run: a picture; the arrows have a test of their own"),
    ),
    "docs/clients.md": (
        ("sh", "curl http://127.0.0.1:8787/v1/files -H \"authorization: Bearer $GATEWAY_KEY\"",
         "test_curl_line_to_a_provider_works_as_printed"),
        ("sh", "curl http://127.0.0.1:8787/v1/files -H \"authorization: Bearer $OPENAI_API_KEY\"",
         "test_curl_line_to_a_provider_works_as_printed"),
        ("sh", "curl http://127.0.0.1:8787/v1/files -F purpose=assistants", "test_clients_curl_lines_work_as_printed"),
        ("sh", "curl http://127.0.0.1:8787/v1/chat/completions", "test_chat_line_works_as_printed"),
        ("python", "from openai import OpenAI\n\nclient = OpenAI(\n", "test_python_snippet_works_as_printed"),
        ("js", "import OpenAI from", "test_node_snippet_works_as_printed"),
        ("python", "from openai import OpenAI\n\nclient = OpenAI(api_key", "test_chat_snippet_works_as_printed"),
        ("python", "from portkey_ai import Portkey\n\nportkey = Portkey(api_key=\"GATEWAY_KEY\", provider",
         "test_python_snippet_works_as_printed"),
        ("js", "import { Portkey }", "test_node_snippet_works_as_printed"),
        ("python", "from openai import OpenAI\nfrom portkey_ai", "test_python_snippet_works_as_printed"),
        ("js", "import OpenAI from", "test_node_snippet_works_as_printed"),
        ("python", "from portkey_ai import Portkey\n\nportkey = Portkey(api_key=\"GATEWAY_KEY\", base_url",
         "test_chat_snippet_works_as_printed"),
    ),
    "docs/configuration.md": (
        ("sh", "python3 -m filesproxy check", "test_key_and_check_work_as_printed"),
        ("ini", "[filesproxy]", "test_ini_example_is_a_configuration"),
    ),
    "docs/deploy.md": (
        ("sh", "python3 -m venv .venv\n", "test_deploy_page_works_from_its_first_line_to_a_reload"),
        ("sh", "install -m 600 /dev/null filesproxy.ini", "test_deploy_page_works_from_its_first_line_to_a_reload"),
        ("sh", ".venv/bin/filesproxy key", "test_deploy_page_works_from_its_first_line_to_a_reload"),
        ("sh", "export FILESPROXY_CONFIG", "test_deploy_page_works_from_its_first_line_to_a_reload"),
        ("sh", ".venv/bin/gunicorn -c gunicorn.conf.py", "test_deploy_page_works_from_its_first_line_to_a_reload"),
        ("sh", ".venv/bin/gunicorn -c python:", "test_deploy_page_works_from_its_first_line_to_a_reload"),
        ("sh", "curl http://127.0.0.1:8787/v1/health", "test_deploy_page_works_from_its_first_line_to_a_reload"),
        ("systemd", "[Unit]", "test_systemd_unit_is_right"),
        ("sh", "useradd", NEEDS_ROOT),
        ("sh", "systemctl reload", NEEDS_ROOT),
        ("sh", "systemd-run", NEEDS_ROOT),
        ("nginx", "location /v1/", "test_nginx_in_front_passes_20_mb_both_ways_and_keeps_no_body"),
        ("python", "import logging", "test_all_five_calls"),
        ("uwsgi", "[uwsgi]", "test_all_five_calls"),
        ("apache", "WSGIDaemonProcess", "test_all_five_calls"),
        ("sh", "python3 -m pip wheel", "test_offline_kit_works_as_printed"),
        ("sh", "python3 -m venv offline", "test_offline_kit_works_as_printed"),
        ("sh", "mkdir -p dist/folder", "test_folder_and_zipapp_work_as_printed"),
        ("sh", "rm -rf dist/zipapp", "test_folder_and_zipapp_work_as_printed"),
    ),
    "docs/embed.md": (
        ("python", "from filesproxy import create_app", FIVE_OPERATIONS),
        ("python", "from flask import Flask", FIVE_OPERATIONS),
        ("python", "class Mount", FIVE_OPERATIONS),
        ("python", "class WithGatewayKey", "test_host_that_sets_the_gateway_key_as_printed"),
    ),
    "docs/isolation.md": (
        ("ini", "[filesproxy]", "test_ini_example_is_a_configuration"),
        ("sh", "python3 -m filesproxy files orphans", "test_files_at_a_provider_are_looked_after_as_printed"),
        ("sh", "python3 -m filesproxy files list", "test_files_at_a_provider_are_looked_after_as_printed"),
    ),
    "docs/kept-files.md": (
        ("ini", "[filesproxy]", "test_ini_example_is_a_configuration"),
        ("text", "[file: notes.txt]", "test_text_in_a_request_stands_between_the_lines_that_the_page_shows"),
    ),
    "docs/local-store.md": (
        ("ini", "[filesproxy]", "test_ini_example_is_a_configuration"),
        ("sh", "python3 -m filesproxy files list", "test_store_is_looked_after_as_printed"),
        ("sh", "python3 -m filesproxy files backup", "test_store_is_looked_after_as_printed"),
        ("sh", "python3 -m filesproxy files rebuild", "test_store_is_looked_after_as_printed"),
        ("sh", "python3 -m filesproxy files restore", "test_store_is_looked_after_as_printed"),
    ),
    "docs/performance.md": (),
    "docs/providers.md": (
        ("ini", "[provider:acme]", "test_ini_example_is_a_configuration"),
        ("python", "from filesproxy import create_app", "test_private_provider_is_served"),
        ("python", "from filesproxy.providers import PROVIDERS\nfrom filesproxy.providers.toolkit import by_cursor",
         "test_provider_that_pages_by_a_cursor_is_read_to_its_end"),
        ("python", '"""Depot', "test_worked_example_passes_its_own_test"),
        ("python", "from depot import", "test_worked_example_passes_its_own_test"),
        ("sh", 'python3 -c "import my_gateway"', "test_application_with_a_private_provider_is_served_as_printed"),
        ("python", '"""Depot', "test_worked_example_passes_its_own_test"),
        ("sh", "python3 -m pytest", "test_worked_example_passes_its_own_test"),
    ),
    "docs/security.md": (),
    "docs/troubleshooting.md": (),
}  # fmt: skip

#: a command in the text of a page → the test that runs it, or why none does
INLINE_RUN_BY = {
    "python3 -m filesproxy": "test_readmes_server_is_tried_as_printed",
    "python3 -m filesproxy demo": "test_demo_says_that_all_is_well",
    "python3 -m filesproxy --config local.ini": "test_model_is_asked_about_a_kept_file_as_printed",
    "python3 -m filesproxy key": "test_key_and_check_work_as_printed",
    "python3 -m filesproxy check --config filesproxy.ini": "test_key_and_check_work_as_printed",
    "gunicorn -c python:filesproxy.serving.gunicorn": "test_deploy_page_works_from_its_first_line_to_a_reload",
    "nginx -t": "test_nginx_in_front_passes_20_mb_both_ways_and_keeps_no_body",
    ".ci/run": RECURSIVE,
    "pip install '.[clients]'": RECURSIVE,
    "python3 tests/bench/compare.py": BENCHMARK,
    "python3 tests/bench/events.py": BENCHMARK,
    "python3 tests/bench/inline.py": BENCHMARK,
    "python3 tests/bench/ownership.py": BENCHMARK,
    "python3 tests/bench/stress.py": BENCHMARK,
}


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str


def text_of(page):
    """A page's text."""
    return (ROOT / page).read_text("utf-8")


def blocks(page, language=""):
    """The page's blocks, in order; those in one language, if one is named."""
    text = text_of(page)
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    every = [Block(page, text.count("\n", 0, each.start()) + 1, each[1], each[2]) for each in found]
    return [each for each in every if language in ("", each.language)]


def inline_commands(page):
    """The commands in the text of a page, outside its blocks."""
    text = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`((?:python3 |pip |gunicorn -|nginx -|curl |systemctl |\.ci/run)[^`\n]*)`", text)


def block(page, language, mark):
    """The text of the page's one block in that language that holds the mark."""
    (found,) = (each.text for each in blocks(page, language) if mark in each.text)
    return found


def environment(**more):
    """This process's environment without settings of the gateway or an SDK, and with this Python first on the path."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FILESPROXY_", "OPENAI_"))}
    inherited.pop("PYTHONPATH", None)  # what a page imports is what its own lines have put there
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**inherited, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **more}


def clone(folder):
    """A copy of what a clone holds, which is all that git does not ignore; commands leave files behind."""
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text("utf-8").split()]
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".git", *ignored))
    return folder


class Shell:
    """A terminal: blocks are run in order in one folder, and what one exports the next one sees."""

    def __init__(self, folder, **more):
        self.folder = Path(folder)
        self.environment = environment(**more)

    def run(self, script, timeout=120):
        """What a block prints to standard output; `errors` is then what it printed to standard error."""
        with tempfile.NamedTemporaryFile() as exported:
            done = subprocess.run(
                ["sh", "-ec", f"{script}\nenv -0 > {exported.name}"], cwd=self.folder, env=self.environment,
                capture_output=True, text=True, timeout=timeout,
            )  # fmt: skip
            pairs = [pair.partition("=") for pair in exported.read().decode().split("\0") if pair]
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        self.environment = {name: value for name, _, value in pairs}
        self.errors = done.stderr
        return done.stdout

    @contextlib.contextmanager
    def server(self, script, port, path="/v1/health"):
        """A block that serves: its process, once it answers; stopped at the end."""
        log = self.folder / "server.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                ["sh", "-ec", f"exec {script}"], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        try:
            end = time.monotonic() + START_SECONDS
            # gunicorn's workers lose a signal that comes before they have their own handlers.
            while not (answers(port, path) and all(map(has_own_handlers, children(process.pid)))):
                assert process.poll() is None and time.monotonic() < end, log.read_text("utf-8")
                time.sleep(0.05)  # between two attempts to connect: a server that starts tells nobody
            yield process
        finally:
            stop(process)


def stop(process):
    """End a session by SIGTERM, once a second: gunicorn may be forking its next worker, which loses the first one.

    A server that does not end is killed, and fails the test.
    """
    end = time.monotonic() + STOP_SECONDS
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # a session of its own: nobody else is in it
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise AssertionError(f"the server did not end in {STOP_SECONDS} s")


def answers(port, path="/v1/health"):
    """Whether a server on that port answers 200."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        try:
            connection.request("GET", path)
            with connection.getresponse() as response:
                return response.status == 200
        except OSError:
            return False
