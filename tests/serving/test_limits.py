"""Limits of the process: the soft limit of file descriptors is raised by what serves, and by nothing else."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LIMIT = "import resource; print(*resource.getrlimit(resource.RLIMIT_NOFILE))"


def limits_after(program):
    """(soft, hard) at the end of a program that began with a soft limit of 256."""
    command = f"ulimit -Sn 256; exec '{sys.executable}' -c '{program}; {LIMIT}'"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    return tuple(map(int, done.stdout.split()))


def test_soft_limit_of_descriptors_is_raised_to_the_hard_one():
    """A thousand uploads at once at a limit of 1,024 left both workers dead in accept()."""
    soft, hard = limits_after("from filesproxy.serving.limits import raise_descriptor_limit as r; r()")
    assert soft == hard == resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def test_application_that_is_embedded_leaves_the_limit_alone():
    assert limits_after("import filesproxy; filesproxy.create_app()")[0] == 256
