"""What tests of the command line share."""

from __future__ import annotations

import pytest

from filesproxy.serving import cli


@pytest.fixture
def files_command(capsys):
    """Runs `filesproxy files` in this process: files_command(*words) → (status, lines of stdout, stderr)."""

    def call(*words):
        capsys.readouterr()
        try:
            status = cli.main(("files", *words))
        except SystemExit as ended:
            status = ended.code
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out.splitlines(), err

    return call
