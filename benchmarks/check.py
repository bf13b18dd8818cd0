"""Guard the projector's speed: fail if a ratio or instruction count is more than a quarter worse than the stored one.

    python benchmarks/check.py [--store] [--found FILE] [--slower 1.5]

The ratios come from shortened runs of `live.py` and `replay.py`, relative to redis-py's XREAD and decode in the same rounds, so
they do not depend on absolute times. Instructions per event are counted by perf or valgrind. Without either, or if the stored
counts come from another Python or counter, they are skipped with a message. `--store` writes the results to
`benchmarks/stored.json`, which the next run compares with: use it after an improvement, to keep it. `--slower` simulates a
slowdown, to show that the guard can fail. `--found` reads the results from such a file instead of measuring.
"""

import argparse
import platform
import sys
from pathlib import Path
from typing import Any, Final

import live
import msgspec
import replay
from harness.instructions import counter, instructions_per_event, warm
from harness.results import show, significant

from kinfold_services.runtime.garbage import collect_seldom
from kinfold_services.runtime.logs import configure_logs

STORED: Final = Path(__file__).parent / "stored.json"
WORSE: Final = 0.25
EVENTS: Final = 20_000
ROUNDS: Final = 5
REFERENCE: Final = "redis-py"
INSTRUCTIONS: Final = {"mix": "mix, 1,000 visitors", "no_ops": "90 % no-ops, 1,000 visitors"}


class Guarded(msgspec.Struct):
    """Measured or stored results."""

    ratios: dict[str, float]
    """Higher is better."""
    counter: str | None = None
    """The Python version, tool and machine of the counts."""
    instructions: dict[str, int] = {}
    """Per event. Lower is better."""


class Judged(msgspec.Struct):
    """One result compared with the stored one."""

    name: str
    found: float
    stored: float
    allowed: float
    holds: bool


def measure() -> Guarded:
    """Measure everything."""
    found = Guarded({})
    for name in ("middle-uniform", "no-ops"):
        _, figures = live.measure(name, EVENTS, ROUNDS)
        found.ratios[f"live, {name}"] = figures[0].ratios[REFERENCE]
    _, figures = replay.measure("middle-uniform", EVENTS, ROUNDS)
    for figure in figures[:2]:
        found.ratios[f"{figure.name}, middle-uniform"] = figure.ratios[REFERENCE]
    tool = counter()
    if tool is not None:
        warm()
        found.counter = f"Python {'.'.join(platform.python_version_tuple()[:2])}, {tool}, {platform.machine()}"
        found.instructions = {title: instructions_per_event(tool, kind) for kind, title in INSTRUCTIONS.items()}
    return found


def judge(found: Guarded, stored: Guarded) -> list[Judged]:
    """Compare each result that both have."""
    judged = []
    for name in found.ratios.keys() & stored.ratios.keys():
        allowed = significant(stored.ratios[name] * (1 - WORSE))
        judged.append(Judged(name, found.ratios[name], stored.ratios[name], allowed, found.ratios[name] >= allowed))
    if found.counter == stored.counter:
        for name in found.instructions.keys() & stored.instructions.keys():
            most = round(stored.instructions[name] * (1 + WORSE))
            count = found.instructions[name]
            judged.append(Judged(f"instructions, {name}", count, stored.instructions[name], most, count <= most))
    return sorted(judged, key=lambda each: each.name)


def slowed(found: Guarded, times: float) -> Guarded:
    """The results as if everything took `times` as long."""
    ratios = {name: significant(each / times) for name, each in found.ratios.items()}
    return Guarded(ratios, found.counter, {name: round(each * times) for name, each in found.instructions.items()})


def _read(file: Path) -> Guarded:
    return msgspec.json.decode(file.read_bytes(), type=Guarded)


def main() -> int:
    """Run the guard; returns 1 if a result is too bad."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--store", action="store_true", help="write the results to benchmarks/stored.json")
    parser.add_argument("--slower", type=float, default=1.0, help="simulate that everything takes this many times as long")
    parser.add_argument("--found", type=Path, help="read the results from this file, made by --store, instead of measuring")
    options: Any = parser.parse_args()
    configure_logs(level="warning")
    collect_seldom()
    found = slowed(_read(options.found) if options.found is not None else measure(), options.slower)
    if options.store:
        STORED.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
        print(f"stored: {len(found.ratios)} ratios and {len(found.instructions)} instruction counts")
        return 0
    stored = _read(STORED)
    judged = judge(found, stored)
    rows = [(each.name, each.found, each.stored, each.allowed, "" if each.holds else "WORSE") for each in judged]
    show("the guard", ("", "measured", "stored", "limit", ""), rows)
    if found.counter is None:
        print("instructions: not counted, because neither perf nor valgrind is available")
    elif found.counter != stored.counter:
        print(f"instructions: not compared, because they come from {found.counter} and the stored ones from {stored.counter}")
    for each in judged:
        if not each.holds:
            print(f"{each.name}: expected {each.allowed:g} or better (stored: {each.stored:g}), got {each.found:g}")
    return 0 if all(each.holds for each in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
