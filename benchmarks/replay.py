"""Measure how fast `kinfold replay` and `kinfold verify` fold a log, relative to reading it.

    python benchmarks/replay.py [--only history,middle-uniform] [--events 30000] [--rounds 5] [--json FILE] [--profile FILE]

It uses the logs of `live.py`, each folded by a projector first. Each round is a whole replay, a whole verify, and redis-py's
XREAD with msgspec's decoding of the same log, one after the other in this process. Both read, fold and compare with the live
state, and write nothing, because nothing differs. The result is the median of the ratios of all rounds.
"""

import argparse
import cProfile
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import uvloop
from harness.projector import Projector
from harness.references import hiredis_drain, redis_py
from harness.results import Figure, environment, figure, ratio, show, significant, write
from harness.servers import BenchServer, bench_server
from harness.wire import append
from live import SCENARIOS, WORKSPACE

from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import key
from kinfold_services.connections import Client, connect
from kinfold_services.replay.replay import Replay
from kinfold_services.replay.verify import Verification
from kinfold_services.runtime.garbage import collect_seldom
from kinfold_services.runtime.logs import configure_logs
from kinfold_services.settings import Settings

LOGS: Final = ("middle-uniform", "middle-zipf", "no-ops", "history", "merges")


async def replayed(client: Client) -> int:
    """Run a whole `kinfold replay` of a state that is right: read, fold, compare."""
    job = Replay(client, Settings(workspace=WORKSPACE), IdentifierRules())
    await job.build(lambda _: None)
    assert await job.compare() == []
    assert await job.replace(allow_lost=False) == []
    return job.rebuild.position.counts.entries


async def verified(client: Client) -> int:
    """Run a whole `kinfold verify`."""
    job = Verification(client, Settings(workspace=WORKSPACE), IdentifierRules())
    assert await job.differences(lambda _: None) == []
    return job.rebuild.position.counts.entries


WAYS: Final[dict[str, Callable[[Client], Awaitable[int]]]] = {"replay": replayed, "verify": verified}


def timed(server: BenchServer, way: Callable[[Client], Awaitable[int]], entries: int) -> tuple[float, float]:
    """Measure the elapsed seconds, the CPU seconds of this process, and the number of entries."""

    async def work() -> tuple[float, float]:
        client = connect(server.url)
        try:
            started, cpu_started = time.perf_counter(), time.process_time()
            assert await way(client) == entries
            return time.perf_counter() - started, time.process_time() - cpu_started
        finally:
            await client.aclose()

    return uvloop.run(work())


def measure(name: str, events: int, rounds: int, profile: Path | None = None) -> tuple[str, list[Figure]]:
    """Measure one log on its own server."""
    scenario = SCENARIOS[name]()
    each = round(events * scenario.share)
    with bench_server() as server:
        with Projector(server) as projector:
            append(server.socket, WORKSPACE, scenario.before(each))
            last = append(server.socket, WORKSPACE, scenario.events(0, each))
            projector.fold({WORKSPACE: last})
        entries: Any = server.client.xlen(key(WORKSPACE, "events"))
        seconds: dict[str, list[float]] = {way: [] for way in (*WAYS, "redis-py", "hiredis")}
        cpu: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way, work in WAYS.items():
                took, used = timed(server, work, entries)
                seconds[way].append(took)
                cpu[way].append(used)
            seconds["redis-py"].append(redis_py(server, WORKSPACE, "", last))
            seconds["hiredis"].append(hiredis_drain(server, WORKSPACE, "", last))
        if profile is not None:
            with cProfile.Profile() as profiler:
                timed(server, replayed, entries)
            profiler.dump_stats(profile)
        found = {way: figure(way, entries, took) for way, took in seconds.items()}
        for way, each_used in cpu.items():
            found[way].cpu_us = significant(statistics.median(each_used) / entries * 1e6)
            found[way].ratios = {name: ratio(found[way], found[name]) for name in ("redis-py", "hiredis")}
        return server.name, list(found.values())


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", help=f"logs, separated by commas; of {', '.join(SCENARIOS)}; default: {','.join(LOGS)}")
    parser.add_argument("--events", type=int, default=30_000, help="events per log, after those that create its population")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="output file; default: benchmarks/results/replay.json")
    parser.add_argument("--profile", type=Path, help="file for cProfile's statistics of one more replay")
    options: Any = parser.parse_args()
    configure_logs(level="warning")
    collect_seldom()  # as the commands do; the references benefit too
    result: dict[str, Any] = {}
    for name in options.only.split(",") if options.only else LOGS:
        server, found = measure(name, options.events, options.rounds, options.profile)
        title = SCENARIOS[name]().title
        rows = [(each.name, each.events, each.events_per_s, each.cpu_us, *each.ratios.values()) for each in found]
        show(f"replay: {title}", ("", "events", "events/s", "CPU µs/event", "× redis-py", "× hiredis"), rows)
        result["environment"] = environment(server)
        result.setdefault("scenarios", {})[name] = {"title": title, "figures": found}
    if options.json is not None or not options.only:
        write("replay", result, options.json)


if __name__ == "__main__":
    main()
