"""Compare the projector as shipped with the alternatives that a team might write.

    python benchmarks/against_peers.py [--events 20000] [--rounds 5] [--json FILE]

- `peers/idiomatic.py`: a FastStream service, one message at a time, in its own process, measured like the projector.
- `peers/eventsourced.py`: the package `eventsourcing` with SQLite, in this process, fed from memory.
- FastStream's batch parser with an empty handler.

All use the mix of `live.py`. The projector folds it on the middle population. The two services use the small one: they look up
records by key or hold them in memory, so its size hardly matters to them, and they would take long to build the middle one. In
each round, each folds as many events as it can in about a second.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from harness.projector import Projector, Run, measure_fold
from harness.references import faststream_batch, redis_py
from harness.results import Figure, environment, figure, ratio, show, write
from harness.servers import BenchServer, bench_server
from harness.wire import append
from harness.workloads import MIDDLE, SMALL, Producer, uniform
from live import WORKSPACE, figures, measure_round
from peers.eventsourced import Identities

from kinfold_services.runtime.garbage import collect_seldom

IDIOMATIC: Final = Path(__file__).parent / "peers" / "idiomatic.py"
SHARE: Final = {"idiomatic": 0.04, "eventsourcing": 0.2}


class Peers:
    """The two services, with the small population."""

    def __init__(self, server: BenchServer, service: Projector, identities: Identities) -> None:
        self._server: Final = server
        self._service: Final = service
        self._identities: Final = identities
        self._producer: Final = Producer(SMALL)
        population = list(self._producer.population(0, SMALL))
        self._identities.fold(population)
        self._service.fold({WORKSPACE: append(server.socket, WORKSPACE, population)})

    def idiomatic(self, count: int) -> float:
        """Fold `count` events with the FastStream service; returns the seconds."""
        events = list(self._producer.mix(uniform(SMALL), count))
        return measure_fold(
            self._server, [self._service], lambda: {WORKSPACE: append(self._server.socket, WORKSPACE, events)}
        ).seconds

    def eventsourcing(self, count: int) -> float:
        """Fold `count` events with `eventsourcing`; returns the seconds."""
        return self._identities.fold(list(self._producer.mix(uniform(SMALL), count)))


def measure(server: BenchServer, peers: Peers, events: int, rounds: int) -> Iterator[Figure]:
    """Measure all of them in turn in each round."""
    producer, drawn = Producer(MIDDLE), uniform(MIDDLE)
    seconds: dict[str, list[float]] = {name: [] for name in SHARE}
    references = {"redis-py": redis_py, "faststream batch": faststream_batch}
    found = []
    with Projector(server) as projector:
        projector.fold({WORKSPACE: append(server.socket, WORKSPACE, producer.population(0, MIDDLE))})
        for _ in range(rounds):
            found.append(measure_round(server, projector, producer.mix(drawn, events), references))
            for name, taken in seconds.items():
                taken.append(getattr(peers, name)(round(events * SHARE[name])))
    kinfold, *read = figures(found)
    yield kinfold
    for name, taken in seconds.items():
        peer = figure(name, round(events * SHARE[name]), taken)
        kinfold.ratios[name] = ratio(kinfold, peer)
        yield peer
    yield from read


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=20_000, help="events that the projector folds per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="output file; default: benchmarks/results/peers.json")
    options: Any = parser.parse_args()
    collect_seldom()
    with (
        bench_server() as server,
        bench_server() as other,
        Projector(other, run=Run(program=(str(IDIOMATIC), other.url, WORKSPACE))) as service,
        tempfile.TemporaryDirectory(prefix="kinfold-bench-") as directory,
    ):
        peers = Peers(other, service, Identities(Path(directory) / "events.sqlite"))
        found = list(measure(server, peers, options.events, options.rounds))
        where = environment(server.name)
    ratios = found[0].ratios
    rows = [(each.name, each.events, each.events_per_s, ratios.get(each.name)) for each in found]
    show("live, beside what one would write instead", ("", "events", "events/s", "kinfold is × this"), rows)
    write("peers", {"environment": where, "figures": found}, options.json)


if __name__ == "__main__":
    main()
