"""Measure the same load on one, ten and a thousand workspaces, and on ten with two projectors.

    python benchmarks/workspaces.py [--events 40000] [--rounds 5] [--json FILE]

The middle population and the mix of `live.py` are spread evenly. Each case has its own server and projector. All of them run
from the beginning, and those that are not being measured are paused, so that the cases can take turns. A projector that was
paused has lost its leases and its connections, so it folds an event in each workspace before it is measured. Ratios are
relative to one workspace.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from harness.projector import Folded, Projector, measure_fold, stopped
from harness.results import Figure, environment, figure, ratio, show, significant, write
from harness.servers import BenchServer, bench_server
from harness.wire import append
from harness.workloads import MIDDLE, Producer, uniform

from kinfold_schemas.keys import WORKSPACES

WAYS: Final = {"one workspace": (1, 1), "10": (10, 1), "1,000": (1000, 1), "10, two projectors": (10, 2)}
"""The number of workspaces and of projectors."""


class Way:
    """One case: a server, workspaces, projectors, and their results."""

    def __init__(self, stack: ExitStack, workspaces: int, projectors: int) -> None:
        self.server: Final[BenchServer] = stack.enter_context(bench_server())
        self.names: Final = [f"w{number}" for number in range(workspaces)]
        self.rounds: Final[list[Folded]] = []
        self._visitors: Final = MIDDLE // workspaces
        self._producers: Final = {name: Producer(self._visitors, seed) for seed, name in enumerate(self.names, 1)}
        self.server.client.sadd(WORKSPACES, *self.names)
        settings: list[dict[str, object]] = [{}]
        if projectors > 1:
            settings = [{"serve": ",".join(self.names[number::projectors])} for number in range(projectors)]
        self.projectors: Final = [stack.enter_context(Projector(self.server, each)) for each in settings]
        last = {}
        for name, producer in self._producers.items():
            last[name] = append(self.server.socket, name, producer.population(0, self._visitors))
        self.projectors[0].fold(last)

    def round(self, events: int) -> None:
        """Fold `events` events, spread evenly over the workspaces."""
        drawn = uniform(self._visitors)

        def append_to_each(count: int) -> dict[str, str]:
            return {name: append(self.server.socket, name, self._producers[name].mix(drawn, count)) for name in self.names}

        self.projectors[0].fold(append_to_each(1))
        self.rounds.append(measure_fold(self.server, self.projectors, lambda: append_to_each(events // len(self.names))))


def figures(ways: dict[str, Way], events: int) -> list[Figure]:
    """The figures of each case, relative to the first."""
    found = []
    for name, way in ways.items():
        cpu = sorted(each.projector_cpu_s for each in way.rounds)[len(way.rounds) // 2] / events * 1e6
        served = sorted(each.server_cpu_s for each in way.rounds)[len(way.rounds) // 2] / events * 1e6
        own = figure(
            name,
            events,
            [each.seconds for each in way.rounds],
            cpu_us=significant(cpu),
            server_cpu_us=significant(served),
        )
        found.append(own)
        own.ratios = {found[0].name: ratio(own, found[0])}
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=40_000, help="events per round, in all workspaces together")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="output file; default: benchmarks/results/workspaces.json")
    options: Any = parser.parse_args()
    with ExitStack() as stack:
        ways = {}
        for name, (workspaces, projectors) in WAYS.items():
            ways[name] = Way(stack, workspaces, projectors)
        for _ in range(options.rounds):
            for way in ways.values():
                others = [each for other in ways.values() if other is not way for each in other.projectors]
                with stopped(*others):
                    way.round(options.events)
        where = environment(way.server.name)
    found = figures(ways, options.events)
    columns = ("workspaces", "events", "events/s", "CPU µs/event", "server's", "× one workspace")
    rows = [
        (each.name, each.events, each.events_per_s, each.cpu_us, each.server_cpu_us, *each.ratios.values()) for each in found
    ]
    show("the same load on several workspaces", columns, rows)
    write("workspaces", {"environment": where, "figures": found}, options.json)


if __name__ == "__main__":
    main()
