"""`make attack` in its short form: every attack at a fraction of its size, without a look at the clock."""

from pathlib import Path

import pytest

from tests.attack.__main__ import answers_missed, memory_missed
from tests.attack.attacks import ATTACKS
from tests.attack.stage import staged

SCALE = 0.02


@pytest.mark.slow
def test_gateway_projector_and_server_hold_under_attack(tmp_path: Path) -> None:
    """Every attack is answered as documented, no program grows by 64 MiB, and none ends. The genuine contacts are exact."""
    missed: list[str] = []
    with staged(tmp_path) as stage:
        for each in ATTACKS:
            outcome = stage.attack(each, SCALE)
            missed += [f"{each.name}: {fault}" for fault in (*answers_missed(outcome), *memory_missed(outcome))]
        missed += stage.faults()

    assert missed == []
    assert stage.backend.sent > 0
