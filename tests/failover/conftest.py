"""Every test here may be repeated: `make failover` sets KINFOLD_FAILOVER_ROUNDS, and each round is another test."""

import os
import random
from typing import Final

import pytest

ROUNDS: Final = int(os.environ.get("KINFOLD_FAILOVER_ROUNDS", "1"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "round_number" in metafunc.fixturenames:
        metafunc.parametrize("round_number", range(ROUNDS))


@pytest.fixture
def warm_up(round_number: int) -> int:
    """Give how many entries are folded before something fails: another number in each round."""
    return random.Random(round_number).randrange(100, 600)  # noqa: S311  the same rounds again


@pytest.fixture(autouse=True)
def _is_repeated(round_number: int) -> None:
    """Make every test ask for its round."""
