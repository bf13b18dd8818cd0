"""Set-up of `.venv`: what running needs, then the rest; also on machines that lack something, and after interruptions."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.waiting import wait_until_sync

ROOT: Final = Path(__file__).parents[1]
SERVICE: Final = "constraints-service.txt"
EVERYTHING: Final = "constraints.txt"
NOTHING_SUCH: Final = "no-such-package @ file:///no/such/file --hash=sha256:" + "0" * 64 + "\n"

# A project without dependencies, that is its own build backend: nothing comes from the network.
PYPROJECT: Final = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "tiny"
version = "1"
"""
BACKEND: Final = """
from zipfile import ZipFile

def get_requires_for_build_editable(config_settings=None):
    return []

def build_editable(directory, config_settings=None, metadata_directory=None):
    with ZipFile(f"{directory}/tiny-1-py3-none-any.whl", "w") as wheel:
        info = "tiny-1.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return "tiny-1-py3-none-any.whl"
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Give the Makefile with a tiny project."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "backend.py").write_text(BACKEND)
    for name in (SERVICE, EVERYTHING):
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give a Python whose `-m venv` copies a venv with its bytecode, because pip's own installation takes seconds."""
    made = tmp_path_factory.mktemp("python")
    subprocess.run([sys.executable, "-m", "venv", made / "venv"], check=True)
    script = made / "python"
    script.write_text(
        f'#!/bin/sh\nif [ "$1 $2" = "-m venv" ]; then exec cp -Rp "{made}/venv/." "$3"; fi\nexec "{sys.executable}" "$@"\n'
    )
    script.chmod(0o755)
    return str(script)


def make(clone: Path, target: str, python: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["make", target, f"PYTHON={python}"], cwd=clone, check=False, capture_output=True, text=True)


def leave_behind(clone: Path) -> Path:
    """Put a file into `.venv`, which is there as long as the `.venv` is not made again."""
    (site_packages,) = clone.glob(".venv/lib/*/site-packages")
    left = site_packages / "half.py"
    left.touch()
    return left


def installed(clone: Path, target: str) -> list[str]:
    """The files of constraints that the target would install now."""
    would = subprocess.run(["make", "-n", target], cwd=clone, check=True, capture_output=True, text=True)
    return re.findall(r"--require-hashes -r (\S+)", would.stdout)


def test_running_needs_no_development_tools(clone: Path) -> None:
    for target in ("up", "demo", "down", "install-service"):
        assert installed(clone, target) == [SERVICE]
    for target in ("test", "lint", "check", "install"):
        assert installed(clone, target) == [SERVICE, EVERYTHING]


def test_the_development_tools_come_with_the_versions_that_running_needs() -> None:
    """So one installs nothing that the other has."""
    service, everything = (
        set(re.findall(r"^[a-z0-9]\S*==\S+", (ROOT / name).read_text("utf-8"), re.MULTILINE)) for name in (SERVICE, EVERYTHING)
    )
    assert service
    assert service < everything


@pytest.mark.slow
def test_what_is_there_is_not_installed_again(clone: Path, python: str) -> None:
    assert make(clone, "install-service", python).returncode == 0
    left = leave_behind(clone)
    assert installed(clone, "up") == []
    assert installed(clone, "test") == [EVERYTHING]

    assert make(clone, "install", python).returncode == 0

    assert left.exists()
    assert installed(clone, "up") == installed(clone, "test") == []
    os.utime(clone / "pyproject.toml")
    assert installed(clone, "test") == [SERVICE, EVERYTHING]


@pytest.mark.slow
def test_a_venv_that_a_python_without_ensurepip_left_behind_is_made_again(clone: Path, python: str) -> None:
    """Debian's `python3 -m venv` says what to install, and leaves a `.venv` without pip: the next `make` must not take it."""
    (clone / SERVICE).write_text(NOTHING_SUCH)  # it ends with an error, after the venv is there
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", clone / ".venv"], check=True)

    make(clone, "install-service", python)

    subprocess.run([clone / ".venv/bin/python", "-m", "pip", "--version"], check=True)


_MISSING = """
from importlib.metadata import files
print([str(file) for file in files("pip") if file.suffix == ".py" and not file.locate().exists()])
"""


@pytest.mark.slow
def test_a_venv_that_ctrl_c_left_half_made_is_made_again(clone: Path, python: str) -> None:
    """In the middle of pip's own installation, when it can be imported, and cannot install anything."""
    (clone / SERVICE).write_text(NOTHING_SUCH)  # as above
    command = ["make", "install", f"PYTHON={sys.executable}"]
    with subprocess.Popen(
        command, cwd=clone, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as first:
        wait_until_sync(lambda: list(clone.glob(".venv/lib/*/site-packages/pip/__init__.py")))
        os.killpg(first.pid, signal.SIGINT)
        assert first.wait(200) != 0

    make(clone, "install-service", python)

    asked = subprocess.run([clone / ".venv/bin/python", "-c", _MISSING], check=True, capture_output=True, text=True)
    assert asked.stdout == "[]\n"


@pytest.mark.slow
@pytest.mark.parametrize("unfinished", [SERVICE, EVERYTHING])
def test_a_venv_in_which_an_installation_did_not_end_is_made_again(clone: Path, python: str, unfinished: str) -> None:
    """A package that was copied by half is installed to pip: so nothing of the interrupted installation is kept."""
    (clone / unfinished).write_text(NOTHING_SUCH)
    assert make(clone, "install", python).returncode != 0
    left = leave_behind(clone)

    make(clone, "install-service", python)

    assert not left.exists()
