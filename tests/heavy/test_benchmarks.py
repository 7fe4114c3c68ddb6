"""Benchmarks are run by hand; here, only that each one starts from a shell that knows nothing of the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"


@pytest.mark.parametrize("name", sorted(path.name for path in BENCH.glob("*.py")))
def test_benchmark_starts_and_says_what_it_takes(name):
    """Its imports were broken once by a helper that had moved to tests/."""
    ended = subprocess.run([sys.executable, str(BENCH / name), "--help"], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("usage: ")
