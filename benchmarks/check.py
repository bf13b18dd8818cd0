"""The guard of the projector's speed: ratios and instruction counts beside the stored ones, none of them worse by a quarter.

    python benchmarks/check.py [--store] [--found FILE] [--slower 1.5]

Ratios: `live.py` and `replay.py`, shortened, to redis-py's XREAD and decode in the same rounds; seconds are nowhere in it.
Instructions of the projector for an event, by perf or by valgrind (without either, and under another Python or counter than the
stored ones are of, they are left out, and that is said). `--store` writes what it found to `benchmarks/stored.json`, from
where the next run takes what is allowed: after something became faster, so that it stays so. `--slower` pretends that all has
become slower, to show that the guard can fail, and `--found` measures nothing and takes what such a file says.
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

from kinfold_services.collector import collect_seldom
from kinfold_services.logs import configure_logs

STORED: Final = Path(__file__).parent / "stored.json"
WORSE: Final = 0.25
EVENTS: Final = 20_000
ROUNDS: Final = 5
REFERENCE: Final = "redis-py"
INSTRUCTIONS: Final = {"mix": "mix, 1,000 visitors", "no_ops": "90 % no-ops, 1,000 visitors"}


class Guarded(msgspec.Struct):
    """What was found, or is stored."""

    ratios: dict[str, float]
    """More is better."""
    counter: str | None = None
    """Python and the tool that counted."""
    instructions: dict[str, int] = {}
    """For an event; fewer are better."""


class Judged(msgspec.Struct):
    """One figure beside the stored one."""

    name: str
    found: float
    stored: float
    allowed: float
    holds: bool


def measure() -> Guarded:
    """All of it."""
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
    """Each figure that is in both."""
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
    """As if everything took so many times as long."""
    ratios = {name: significant(each / times) for name, each in found.ratios.items()}
    return Guarded(ratios, found.counter, {name: round(each * times) for name, each in found.instructions.items()})


def _read(file: Path) -> Guarded:
    return msgspec.json.decode(file.read_bytes(), type=Guarded)


def main() -> int:
    """Runs it; 1 where something is worse than it may be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--store", action="store_true", help="write what was found to benchmarks/stored.json")
    parser.add_argument("--slower", type=float, default=1.0, help="pretend that everything takes so many times as long")
    parser.add_argument("--found", type=Path, help="measure nothing, and take what this file says, made by --store")
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
    show("the guard", ("", "found", "stored", "allowed", ""), rows)
    if found.counter is None:
        print("instructions: not counted, since neither perf nor valgrind can do it here")
    elif found.counter != stored.counter:
        print(f"instructions: not compared, found are those of {found.counter}, stored those of {stored.counter}")
    for each in judged:
        if not each.holds:
            print(f"{each.name}: found {each.found:g}, allowed is {each.allowed:g} (stored {each.stored:g} and a quarter)")
    return 0 if all(each.holds for each in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
