"""Other processes that a test talks to, what a process has open, and how much memory it has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Child:
    """Another process that runs Python code: a line to it, a line from it. Killed at the end of the block."""

    def __init__(self, code, *arguments):
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def __enter__(self):
        return self

    def told(self, line):
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def said(self):
        """Its next line; "" if it has ended."""
        return self._process.stdout.readline().rstrip("\n")

    def is_killed(self):
        self._process.kill()
        self._process.wait()

    def __exit__(self, *exc_info):
        self.is_killed()
        self._process.stdout.close()
        with suppress(BrokenPipeError):
            self._process.stdin.close()


def open_files(folder):
    """What this process has open inside the folder."""
    links = []
    for handle in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            links.append(os.readlink(f"/proc/self/fd/{handle}"))
    return [link for link in links if link.startswith(str(folder))]


def memory(pid, field="VmRSS"):
    """A field of /proc/<pid>/status, in bytes: VmRSS is what a process has now, VmHWM the most that it has had."""
    return int(re.search(rf"{field}:\s+([0-9]+) kB", Path(f"/proc/{pid}/status").read_text("ascii"))[1]) << 10
