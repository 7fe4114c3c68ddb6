"""How the commands print files."""

from __future__ import annotations

import pytest

from filesproxy.serving import lines


@pytest.mark.parametrize("seconds,shown", [(-5, "0s"), (59, "59s"), (60, "1m"), (7199, "1h"), (86400 * 400, "400d")])
def test_age_is_in_its_largest_unit(seconds, shown, monkeypatch):
    monkeypatch.setattr(lines.time, "time", lambda: 1_700_000_000.0 + seconds)
    assert lines.age(1_700_000_000) == shown


def test_file_is_one_line_that_cannot_steer_a_terminal(monkeypatch):
    monkeypatch.setattr(lines.time, "time", lambda: 1_700_000_090.0)
    shown = lines.line("file-1", "\x1b[2J", None, 1_700_000_000, 10**18, "a\nb")
    assert shown == "file-1  \\x1b[2J  ?  2023-11-14T22:13:20Z  1m  expires @1000000000000000000  a\\nb"
