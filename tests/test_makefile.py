"""Set-up on machines that lack something."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.waiting import wait_until_sync

ROOT: Final = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_venv_that_a_python_without_ensurepip_left_behind_is_made_anew(tmp_path: Path) -> None:
    """Debian's `python3 -m venv` says what to install, and leaves a `.venv` without pip: the next `make` must not take it."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)

    # Nothing is there to be installed, so that it ends with an error; the venv comes first.
    subprocess.run(["make", "install", f"PYTHON={sys.executable}"], cwd=tmp_path, check=False, capture_output=True)

    subprocess.run([tmp_path / ".venv/bin/python", "-m", "pip", "--version"], check=True)


_MISSING = """
from importlib.metadata import files
print([str(file) for file in files("pip") if file.suffix == ".py" and not file.locate().exists()])
"""


@pytest.mark.slow
def test_a_venv_that_ctrl_c_left_half_made_is_made_again(tmp_path: Path) -> None:
    """In the middle of pip's own installation, when it can be imported, and cannot install anything."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    command = ["make", "install", f"PYTHON={sys.executable}"]
    with subprocess.Popen(
        command, cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as first:
        wait_until_sync(lambda: list(tmp_path.glob(".venv/lib/*/site-packages/pip/__init__.py")), 60)
        os.killpg(first.pid, signal.SIGINT)
        assert first.wait(60) != 0

    subprocess.run(command, cwd=tmp_path, check=False, capture_output=True)

    asked = subprocess.run([tmp_path / ".venv/bin/python", "-c", _MISSING], check=True, capture_output=True, text=True)
    assert asked.stdout == "[]\n"


@pytest.mark.slow
def test_a_venv_in_which_an_installation_did_not_end_is_made_again(tmp_path: Path) -> None:
    """A package that was copied by half is installed to pip: so nothing of the interrupted installation is kept."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "constraints.txt").write_text("no-such-package @ file:///no/such/file --hash=sha256:" + "0" * 64 + "\n")
    command = ["make", "install", f"PYTHON={sys.executable}"]
    assert subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode != 0
    (left,) = (each / "half.py" for each in tmp_path.glob(".venv/lib/*/site-packages"))
    left.touch()

    subprocess.run(command, cwd=tmp_path, check=False, capture_output=True)

    assert not left.exists()
