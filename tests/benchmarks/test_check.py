"""The guard of the projector's speed, with given results instead of measured ones."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

BENCHMARKS: Final = Path(__file__).parents[2] / "benchmarks"
STORED: Final = BENCHMARKS / "stored.json"


def check(*arguments: str, found: Path = STORED) -> subprocess.CompletedProcess[str]:
    """Run the guard."""
    command = [sys.executable, str(BENCHMARKS / "check.py"), "--found", str(found), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("slower", ["1", "1.2", "0.5"])
def test_result_that_is_less_than_a_quarter_worse_passes(slower: str):
    ran = check("--slower", slower)

    assert ran.returncode == 0, ran.stderr
    assert "WORSE" not in ran.stdout


def test_result_that_is_much_worse_is_named_with_its_limit():
    ran = check("--slower", "1.4")

    assert ran.returncode == 1
    assert "live, middle-uniform: expected " in ran.stdout
    assert "instructions, mix, 1,000 visitors: expected " in ran.stdout
    assert ", got " in ran.stdout


def test_instructions_of_another_counter_are_not_compared(tmp_path: Path):
    other = tmp_path / "found.json"
    other.write_text(STORED.read_text().replace('"counter": "Python', '"counter": "Another Python'))

    ran = check("--slower", "1.2", found=other)

    assert ran.returncode == 0
    assert "instructions: not compared, because they come from Another Python" in ran.stdout
