"""Set-up on machines that lack something."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

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
