"""Measure the cost per event and the memory as the population grows.

    python benchmarks/growth.py [--full] [--events 20000] [--rounds 5] [--json FILE]

One projector folds a population that grows from 10,000 to 2,000,000 visitors (with `--full` to 5,000,000, which needs about
10 GB of memory and of disk for the server), and at each size the mix of `live.py`. The cost of an event at 2,000,000 visitors
is compared with that at 50,000 in the same rounds, on a second server and projector that stay at that size.

At the end the projector restarts with a low `KINFOLD_CACHE_BYTES`, to measure its peak memory. The results of `--full` go to
a separate file, so that the next `make bench` does not overwrite them.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import msgspec
from harness.projector import Projector
from harness.results import Figure, environment, show, significant, write
from harness.servers import BenchServer, bench_server, resident_bytes
from harness.wire import append
from harness.workloads import LARGE, MIDDLE, SMALL, Producer, uniform, zipf
from live import WORKSPACE, Round, figures, measure_round

from kinfold_schemas.keys import PrivateName, PublicName, key
from kinfold_services.runtime.garbage import collect_seldom

SIZES: Final = (10_000, MIDDLE, 200_000, 1_000_000, LARGE)
FULL_SIZE: Final = 5_000_000
CACHE_BYTES: Final = 16 * 2**20
"""The setting that bounds the projector's memory."""

OF_VISITORS: Final[tuple[PublicName | PrivateName, ...]] = ("visitors", "members")
OF_CONTACTS: Final[tuple[PublicName | PrivateName, ...]] = ("contacts", "external-ids", "emails", "contact-stamps", "created")
SAMPLES: Final = 1000
"""How many fields the server samples to estimate the memory of a key."""


class Size(msgspec.Struct):
    """Results at one size."""

    visitors: int
    contacts: int
    figures: list[Figure]
    projector_bytes: int
    redis_bytes: int
    log_bytes: int
    feed_bytes: int
    bytes_per_visitor: float
    """In the server's memory."""
    bytes_per_contact: float


class Bounded(msgspec.Struct):
    """Results with a low `cache_bytes`."""

    cache_bytes: int
    visitors: int
    projector_peak_bytes: int
    figures: list[Figure]


class Population:
    """A server with a growing number of visitors."""

    def __init__(self, server: BenchServer) -> None:
        self.server: Final = server
        self.visitors = 0
        self.producer: Final = Producer(SMALL)

    def grow(self, projector: Projector, visitors: int) -> None:
        """Grow to this number of visitors."""
        projector.fold(
            {WORKSPACE: append(self.server.socket, WORKSPACE, self.producer.population(self.visitors, visitors))},
            timeout_s=3600,
        )
        self.visitors = visitors

    def round(self, projector: Projector, events: int, *, by_zipf: bool = False) -> Round:
        """Measure one round of the mix."""
        drawn = zipf(self.visitors) if by_zipf else uniform(self.visitors)
        return measure_round(self.server, projector, self.producer.mix(drawn, events))

    def bytes_of(self, *names: PublicName | PrivateName) -> int:
        """The approximate memory of some keys."""
        found = (self.server.client.memory_usage(key(WORKSPACE, name), samples=SAMPLES) for name in names)
        return sum(each or 0 for each in found)

    def size(self, projector: Projector, rounds: list[Round]) -> Size:
        """The results at the current size."""
        client: Any = self.server.client
        visitors, contacts = client.hlen(key(WORKSPACE, "visitors")), client.hlen(key(WORKSPACE, "contacts"))
        return Size(
            visitors=self.visitors,
            contacts=contacts,
            figures=figures(rounds),
            projector_bytes=projector.resident_bytes,
            redis_bytes=self.server.used_memory_bytes,
            log_bytes=self.bytes_of("events"),
            feed_bytes=self.bytes_of("changes"),
            bytes_per_visitor=significant(self.bytes_of(*OF_VISITORS) / visitors),
            bytes_per_contact=significant(self.bytes_of(*OF_CONTACTS) / contacts),
        )


class Growth:
    """The whole benchmark; `result` holds its results."""

    def __init__(self, events: int, rounds: int) -> None:
        self._events: Final = events
        self._rounds: Final = rounds
        self.result: dict[str, Any] = {}

    def run(self, sizes: tuple[int, ...]) -> None:
        """Measure all sizes, then the low `cache_bytes`."""
        found: list[Size] = []
        with bench_server() as server:
            population = Population(server)
            self.result["environment"] = environment(server.name)
            with Projector(server) as projector:
                for visitors in sizes:
                    population.grow(projector, visitors)
                    if visitors == LARGE:
                        rounds = self._large(population, projector)
                    else:
                        rounds = [population.round(projector, self._events) for _ in range(self._rounds)]
                    found.append(population.size(projector, rounds))
                    print(f"{visitors:,} visitors: {found[-1].figures[0].events_per_s:,} events/s", flush=True)
            self.result["sizes"] = found
            self.result["bounded"] = self._bounded(population)

    def _large(self, large: Population, projector: Projector) -> list[Round]:
        """Measure 2,000,000 and 50,000 visitors in turn; then 2,000,000 by Zipf's law."""
        with ExitStack() as stack:
            server = stack.enter_context(bench_server())
            beside = stack.enter_context(Projector(server))
            middle = Population(server)
            middle.grow(beside, MIDDLE)
            large.round(projector, self._events)  # a warm-up, because the population has just grown
            found, middles = [], []
            for _ in range(self._rounds):
                middles.append(middle.round(beside, self._events))
                found.append(large.round(projector, self._events))
        costs = [one.folded.seconds / other.folded.seconds for one, other in zip(found, middles, strict=True)]
        cpu = [one.folded.projector_cpu_s / other.folded.projector_cpu_s for one, other in zip(found, middles, strict=True)]
        self.result["large_to_middle"] = {
            "cost": significant(sorted(costs)[len(costs) // 2]),
            "cpu": significant(sorted(cpu)[len(cpu) // 2]),
            "large": figures(found),
            "middle": figures(middles),
        }
        self.result["large_zipf"] = figures([large.round(projector, self._events, by_zipf=True) for _ in range(self._rounds)])
        return found

    def _bounded(self, population: Population) -> Bounded:
        with Projector(population.server, {"cache_bytes": CACHE_BYTES}) as projector:
            population.round(projector, self._events)  # opens the workspace and fills the cache
            rounds = [population.round(projector, self._events) for _ in range(self._rounds)]
            peak = resident_bytes(projector.process_id, "VmHWM")
        return Bounded(CACHE_BYTES, population.visitors, peak, figures(rounds))


def _show_sizes(sizes: list[Size]) -> None:
    columns = ("visitors", "contacts", "events/s", "CPU µs/event", "server's", "× redis-py")
    memory = ("projector MiB", "Redis MiB", "log", "feed", "B/visitor", "B/contact")
    rows: list[tuple[object, ...]] = []
    for each in sizes:
        kinfold = each.figures[0]
        mib = (each.projector_bytes, each.redis_bytes, each.log_bytes, each.feed_bytes)
        rows.append(
            (
                f"{each.visitors:,}",
                each.contacts,
                kinfold.events_per_s,
                kinfold.cpu_us,
                kinfold.server_cpu_us,
                kinfold.ratios["redis-py"],
                *(round(size / 2**20) for size in mib),
                each.bytes_per_visitor,
                each.bytes_per_contact,
            )
        )
    show("growth", (*columns, *memory), rows)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--full", action="store_true", help="up to 5,000,000 visitors")
    parser.add_argument("--sizes", help="numbers of visitors to measure instead, separated by commas")
    parser.add_argument("--events", type=int, default=20_000, help="events per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="output file; default: benchmarks/results/growth.json")
    options: Any = parser.parse_args()
    collect_seldom()
    sizes: tuple[int, ...] = (*SIZES, FULL_SIZE) if options.full else SIZES
    if options.sizes:
        sizes = tuple(int(each) for each in options.sizes.split(","))
    growth = Growth(options.events, options.rounds)
    growth.run(sizes)
    _show_sizes(growth.result["sizes"])
    bounded: Bounded = growth.result["bounded"]
    rate, peak = bounded.figures[0].events_per_s, bounded.projector_peak_bytes / 2**20
    cache = bounded.cache_bytes / 2**20
    print(f"{bounded.visitors:,} visitors, {cache:.0f} MiB of cache: {rate:,} events/s, {peak:.0f} MiB at most")
    if "large_to_middle" in growth.result:
        print(f"an event at {LARGE:,} visitors costs {growth.result['large_to_middle']['cost']} × one at {MIDDLE:,}")
    write("growth-full" if options.full else "growth", growth.result, options.json)


if __name__ == "__main__":
    main()
