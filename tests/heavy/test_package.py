"""What people install: a small wheel without dependencies, a copied folder, a zip."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile

import pytest
from servers import ROOT

MAX_WHEEL_BYTES = 320_000
TREE = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "gunicorn.conf.py", "filesproxy")


def run(*words, cwd=None, timeout=120):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # only what is installed
    words = [str(word) for word in words]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of what is packaged: a build leaves folders behind."""
    folder = tmp_path_factory.mktemp("tree")
    for name in TREE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory):
    """The wheel that pip builds; without the net where the build tools are installed."""
    folder = tmp_path_factory.mktemp("wheel")
    here = importlib.util.find_spec("setuptools") and importlib.util.find_spec("wheel")
    offline = ["--no-build-isolation", "--no-index"] if here else []
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *offline, "-w", folder, ".", cwd=tree)
    (built,) = folder.iterdir()
    return built


def test_wheel_is_small_and_holds_the_package_alone(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")
    assert wheel.stat().st_size <= MAX_WHEEL_BYTES
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "filesproxy").rglob("*.py")} | {"filesproxy/py.typed"}
    assert {name for name in names if ".dist-info/" not in name} == sources


def test_wheel_requires_nothing_but_in_extras(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = archive.read(name).decode("utf-8")
    required = re.findall(r"(?m)^Requires-Dist: (.*)$", metadata)
    assert required
    assert [line for line in required if "extra ==" not in line] == []


def test_wheel_installs_without_an_index_and_runs(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-index", wheel)
    assert "All calls did what they should" in run(tmp_path / "venv" / "bin" / "filesproxy", "demo", cwd=tmp_path)
    where = run(python, "-c", "import filesproxy; print(filesproxy.__file__)", cwd=tmp_path)
    assert str(tmp_path) in where


def test_copied_folder_needs_no_other_package(tree):
    code = "import sys; sys.path.insert(0, '.'); import filesproxy, filesproxy.serving.cli; filesproxy.create_app()"
    run(sys.executable, "-I", "-S", "-W", "error", "-c", code, cwd=tree)


def test_zip_runs_the_demo(tree, tmp_path):
    (tmp_path / "app").mkdir()
    shutil.copytree(tree / "filesproxy", tmp_path / "app" / "filesproxy", ignore=shutil.ignore_patterns("__pycache__"))
    run(
        sys.executable, "-m", "zipapp", "app", "-o", "filesproxy.pyz", "-m", "filesproxy.serving.cli:main", cwd=tmp_path
    )
    shutil.rmtree(tmp_path / "app")
    out = run(sys.executable, "-I", "-S", "-W", "error", "filesproxy.pyz", "demo", cwd=tmp_path)
    assert "All calls did what they should" in out
