"""`python -m tests.attack`: runs every attack at full size, and prints what each cost and what it did (`make attack`).

The exit status is 1 if a bar is missed: a process grew by 64 MiB, a genuine event took more than 2 s to be folded, a
`/healthz` more than 500 ms, an attack was answered in another way than expected, or a genuine contact is not what its backend
has said. On a machine that does other work as well, the times say little.
"""
# ruff: noqa: T201  a program prints

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.attack.attacks import ATTACKS, Attack
from tests.attack.stage import Outcome, staged

GROWTH_BYTES: Final = 64 << 20
HEALTHZ_S: Final = 0.5
FOLD_S: Final = 2.0
_HEAD: Final = (
    f"{'attack':52} {'sent':>9} {'requests':>8} | {'memory, MiB':^20} | {'CPU, s':^17} | {'healthz':>8} {'fold':>8}  answers\n"
    f"{'':52} {'':>9} {'':>8} | {'gateway':>7} {'proj':>6}{'server':>7} | {'gw':>5}{'proj':>6}{'server':>6} |"
)


def main() -> int:
    """Run the attacks, and print the table."""
    options = _options()
    chosen = [each for each in ATTACKS if options.only is None or options.only in each.name]
    missed: list[str] = []
    print(_HEAD, flush=True)
    with tempfile.TemporaryDirectory(prefix="kinfold-attack-") as directory, staged(Path(directory)) as stage:
        for each in chosen:
            outcome = stage.attack(each, options.scale)
            faults = [*answers_missed(outcome), *memory_missed(outcome), *times_missed(outcome)]
            missed += [f"{each.name}: {fault}" for fault in faults]
            print(_row(outcome, is_bad=bool(faults)), flush=True)
        missed += stage.faults()
        print(f"{stage.backend.sent} genuine events sent and folded by {len(chosen)} attacks")
    print("\n".join(["missed:", *missed]) if missed else "every bar held, and the genuine contacts are correct")
    return 1 if missed else 0


def answers_missed(outcome: Outcome) -> list[str]:
    """The answers that were not expected."""
    return [f"answered {each}" for each in outcome.account.answers if not _is_expected(outcome.attack, each)]


def memory_missed(outcome: Outcome) -> list[str]:
    """The programs that grew too much."""
    return [
        f"the {name} grew by {cost.memory_bytes >> 20} MiB"
        for name, cost in outcome.costs.items()
        if cost.memory_bytes >= GROWTH_BYTES
    ]


def times_missed(outcome: Outcome) -> list[str]:
    """The bars of time that were missed."""
    missed = [f"/healthz took {outcome.healthz_s:.2f} s"] if outcome.healthz_s > HEALTHZ_S else []
    return missed + ([f"a genuine event took {outcome.fold_s:.2f} s"] if outcome.fold_s > FOLD_S else [])


def _is_expected(attack: Attack, answer: str) -> bool:
    return answer in attack.answers or answer.startswith("closed (")


def _row(outcome: Outcome, *, is_bad: bool) -> str:
    account = outcome.account
    memory = "".join(f"{cost.memory_bytes / (1 << 20):7.1f}" for cost in outcome.costs.values())
    cpu = "".join(f"{cost.cpu_s:6.1f}" for cost in outcome.costs.values())
    answers = ", ".join(f"{count}× {answer}" for answer, count in account.answers.most_common())
    times = f"{outcome.healthz_s * 1000:5.0f} ms {outcome.fold_s * 1000:5.0f} ms"
    mark = "  MISSED" if is_bad else ""
    return (
        f"{outcome.attack.name:52} {account.sent_bytes / 1e6:6.1f} MB {account.requests:8} |{memory} |{cpu} |"
        f" {times}  {answers}{mark}"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description="Attacks a gateway of its own, on loopback.")
    parser.add_argument("--scale", type=float, default=1.0, help="the size of the attacks (default: 1)")
    parser.add_argument("--only", help="only attacks whose name contains this")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
