"""The guard of the projector's speed can fail. It measures nothing here: it is given what it would have found."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

BENCHMARKS: Final = Path(__file__).parents[2] / "benchmarks"
STORED: Final = BENCHMARKS / "stored.json"


def check(*arguments: str, found: Path = STORED) -> subprocess.CompletedProcess[str]:
    """Runs the guard."""
    command = [sys.executable, str(BENCHMARKS / "check.py"), "--found", str(found), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("slower", ["1", "1.2", "0.5"])
def test_what_is_not_worse_by_a_quarter_holds(slower: str):
    ran = check("--slower", slower)

    assert ran.returncode == 0, ran.stderr
    assert "WORSE" not in ran.stdout


def test_what_is_worse_by_more_is_named_with_what_was_found_and_what_is_allowed():
    ran = check("--slower", "1.4")

    assert ran.returncode == 1
    assert "live, middle-uniform: found " in ran.stdout
    assert "instructions, mix, 1,000 visitors: found " in ran.stdout
    assert ", allowed is " in ran.stdout


def test_instructions_that_something_else_has_counted_are_not_compared(tmp_path: Path):
    other = tmp_path / "found.json"
    other.write_text(STORED.read_text().replace('"counter": "Python', '"counter": "Another Python'))

    ran = check("--slower", "1.2", found=other)

    assert ran.returncode == 0
    assert "instructions: not compared, found are those of Another Python" in ran.stdout
