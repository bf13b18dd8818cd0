"""Measure how fast the projector as shipped folds, relative to reading the same entries.

    python benchmarks/live.py [--only middle-uniform,no-ops] [--events 30000] [--rounds 5] [--json FILE]
                              [--profile FILE]

Each scenario has its own server, its own `kinfold projector`, and a population that it has folded. In each round the projector
is paused, events are appended, and it resumes; then each reference reads the same events. The result is the median of the
ratios of all rounds.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from harness.projector import Folded, Projector, Run, measure_fold
from harness.references import Reference, hiredis_drain, redis_py
from harness.results import Figure, environment, figure, ratio, show, significant, write
from harness.servers import BenchServer, bench_server
from harness.wire import append
from harness.workloads import (
    HISTORY_EVENTS,
    LARGE,
    MIDDLE,
    SMALL,
    Producer,
    history,
    uniform,
    zipf,
)

from kinfold_schemas.keys import key
from kinfold_services.runtime.garbage import collect_seldom

WORKSPACE: Final = "default"
REFERENCES: Final[dict[str, Reference]] = {"redis-py": redis_py, "hiredis": hiredis_drain}


class Scenario(NamedTuple):
    """The events to fold before measuring, and those of each round."""

    title: str
    before: Callable[[int], Iterator[bytes]]
    """Takes the total number of events of all rounds."""
    events: Callable[[int, int], Iterator[bytes]]
    """Takes the number of the round and its size."""
    share: float = 1.0
    """The size of a round, relative to the requested number of events."""


def _mixed(title: str, visitors: int, drawn: Any, share: float = 1.0) -> Scenario:
    producer = Producer(visitors)
    draw: Any = None

    def events(_: int, count: int) -> Iterator[bytes]:
        nonlocal draw
        draw = draw or drawn(visitors)
        return producer.mix(draw, count)

    return Scenario(title, lambda _: producer.population(0, visitors), events, share)


def _no_ops() -> Scenario:
    producer = Producer(MIDDLE)
    return Scenario(
        "90 % no-ops, 50,000 visitors",
        lambda _: producer.population(0, MIDDLE),
        lambda _, count: producer.no_ops(uniform(MIDDLE), count),
    )


def _merges() -> Scenario:
    producer = Producer(MIDDLE)
    return Scenario(
        "merge storm",
        lambda total: producer.before_merges(0, total),
        lambda turn, count: producer.merges(turn * count, (turn + 1) * count),
        0.2,
    )


def _history() -> Scenario:
    def events(turn: int, count: int) -> Iterator[bytes]:
        turns = max(1, round(count / HISTORY_EVENTS))
        return history(range(1 + turn * turns, 1 + (turn + 1) * turns))

    return Scenario("Swift history", lambda _: history(range(1)), events)


SCENARIOS: Final[dict[str, Callable[[], Scenario]]] = {
    "small-uniform": lambda: _mixed("mix, 1,000 visitors", SMALL, uniform),
    "small-zipf": lambda: _mixed("mix, 1,000 visitors, Zipf", SMALL, zipf),
    "middle-uniform": lambda: _mixed("mix, 50,000 visitors", MIDDLE, uniform),
    "middle-zipf": lambda: _mixed("mix, 50,000 visitors, Zipf", MIDDLE, zipf),
    "no-ops": _no_ops,
    "history": _history,
    "merges": _merges,
    "large-uniform": lambda: _mixed("mix, 2,000,000 visitors", LARGE, uniform),
    "large-zipf": lambda: _mixed("mix, 2,000,000 visitors, Zipf", LARGE, zipf),
}
LONG: Final = frozenset({"large-uniform", "large-zipf"})
"""Not run by default, because building the population takes a minute or more. `growth.py` measures them."""


class Round(NamedTuple):
    """One round: its number of events, and the times of the projector and of each reference."""

    events: int
    folded: Folded
    references: dict[str, float]


def measure_round(
    server: BenchServer, projector: Projector, events: Iterator[bytes], references: Mapping[str, Reference] = REFERENCES
) -> Round:
    """Append the events, let the projector fold them, and let each reference read them."""
    behind = _last_id(server)
    length = server.client.xlen(key(WORKSPACE, "events"))
    folded = measure_fold(server, [projector], lambda: {WORKSPACE: append(server.socket, WORKSPACE, events)})
    upto = _last_id(server)
    seconds = {name: read(server, WORKSPACE, behind, upto) for name, read in references.items()}
    return Round(int(server.client.xlen(key(WORKSPACE, "events"))) - int(length), folded, seconds)


def figures(rounds: list[Round]) -> list[Figure]:
    """The figures of the projector, with its ratios, and of each reference."""
    events = rounds[0].events
    found = {name: figure(name, events, [each.references[name] for each in rounds]) for name in rounds[0].references}
    kinfold = figure(
        "kinfold",
        events,
        [each.folded.seconds for each in rounds],
        cpu_us=_microseconds(each.folded.projector_cpu_s / each.events for each in rounds),
        server_cpu_us=_microseconds(each.folded.server_cpu_s / each.events for each in rounds),
    )
    kinfold.ratios = {name: ratio(kinfold, each) for name, each in found.items()}
    return [kinfold, *found.values()]


def _microseconds(seconds: Iterator[float]) -> float:
    return significant(statistics.median(seconds) * 1e6)


def _last_id(server: BenchServer) -> str:
    newest: Any = server.client.xrevrange(key(WORKSPACE, "events"), count=1)
    return newest[0][0].decode() if newest else ""


def counts(server: BenchServer) -> dict[str, int]:
    """The number of entries so far by outcome."""
    stored: Any = server.client.hgetall(key(WORKSPACE, "position"))
    return {name.decode(): int(value) for name, value in stored.items() if value.isdigit()}


def check_outcomes(name: str, before: dict[str, int], after: dict[str, int]) -> None:
    """Check that the outcomes match the scenario, because rejected events would be fast."""
    came = {each: after[each] - before.get(each, 0) for each in ("folded", "no-op", "stale", "duplicate", "rejected", "merged")}
    entries = sum(came.values()) - came["merged"]
    assert not came["rejected"] + came["duplicate"], came
    if name == "no-ops":
        assert 0.88 < came["no-op"] / entries < 0.92, came
    elif name == "merges":
        assert came["merged"] == entries, came
    elif name != "history":
        assert came["folded"] / entries > 0.85, came


def measure(name: str, events: int, rounds: int, profile: Path | None = None) -> tuple[str, list[Figure]]:
    """Measure one scenario on its own server."""
    scenario = SCENARIOS[name]()
    each = round(events * scenario.share)
    with bench_server() as server, Projector(server, run=Run(profile=profile)) as projector:
        projector.fold({WORKSPACE: append(server.socket, WORKSPACE, scenario.before(each * rounds))})
        before = counts(server)
        found = [measure_round(server, projector, scenario.events(turn, each)) for turn in range(rounds)]
        check_outcomes(name, before, counts(server))
        return server.name, figures(found)


def show_figures(title: str, found: list[Figure]) -> None:
    """Print the table of a scenario."""
    columns = ("", "events", "events/s", "CPU µs/event", "server's", *(f"× {name}" for name in found[0].ratios))
    rows = [
        (each.name, each.events, each.events_per_s, each.cpu_us, each.server_cpu_us, *each.ratios.values()) for each in found
    ]
    show(title, columns, [(*row, *[None] * (len(columns) - len(row))) for row in rows])


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", help=f"scenarios, separated by commas; of {', '.join(SCENARIOS)}")
    parser.add_argument("--events", type=int, default=30_000, help="events per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="output file; default: benchmarks/results/live.json")
    parser.add_argument("--profile", type=Path, help="file for cProfile's statistics of the projector; slows it down")
    options: Any = parser.parse_args()
    collect_seldom()  # as the projector does, so that the references are comparable
    names = options.only.split(",") if options.only else [name for name in SCENARIOS if name not in LONG]
    result: dict[str, Any] = {}
    for name in names:
        server, found = measure(name, options.events, options.rounds, options.profile)
        show_figures(SCENARIOS[name]().title, found)
        result |= {"environment": environment(server)}
        result.setdefault("scenarios", {})[name] = {"title": SCENARIOS[name]().title, "figures": found}
    if options.json is not None or not options.only:
        write("live", result, options.json)


if __name__ == "__main__":
    main()
