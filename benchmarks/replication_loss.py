"""Measure what asynchronous replication loses when a primary dies, and how much `min-replicas-to-write` saves.

    python benchmarks/replication_loss.py [ROUNDS]

A `kinfold.Producer` sends 1,000 events per second to a primary with a replica. After a while the link between the two servers
breaks; some time later the primary is killed and the replica promoted. An event is lost if the primary acknowledged it and the
promoted server does not have it. A link can break in two ways: the primary notices (its connection is reset), or it does not
(a cable, a firewall, a hung replica), and then it counts on the replica for `min-replicas-max-lag` more seconds.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, cast

from harness.results import environment, show, write

import kinfold
from kinfold_schemas.keys import key
from kinfold_services.server.binary import ServerBinary

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.proxy import Proxy
from tests.support.topologies import Node, replicated, server_program
from tests.support.waiting import wait_until

PER_S: Final = 1000
WARM_UP_S: Final = 1.0
_TICK_S: Final = 0.01
_LOG: Final = key("default", "events")


class Case(NamedTuple):
    """How the link breaks, for how long before the primary dies, and the settings of the servers."""

    link: Literal["intact", "reset", "silent"]
    cut_s: float
    min_replicas: int
    max_lag_s: int = 10


CASES: Final = (
    Case("intact", 0, 0),
    Case("reset", 1.5, 0),
    Case("reset", 1.5, 1),
    Case("silent", 5, 0),
    Case("silent", 5, 1),
    Case("silent", 5, 1, max_lag_s=1),
)


class Loss(NamedTuple):
    """The result of one round, in events."""

    acknowledged: int
    lost: int
    waiting: int
    """Events in the producer's buffer when the primary died, which it sends to the promoted server."""
    refusals: Counter[str]
    """The errors that the producer received meanwhile, by their Redis codes."""


async def lose(directory: Path, case: Case) -> Loss:
    """Run one round."""
    options = ["--min-replicas-to-write", case.min_replicas, "--min-replicas-max-lag", case.max_lag_s]
    async with replicated(directory, *options) as (primary, replica):
        with Proxy(f"redis://127.0.0.1:{primary.port}") as link:
            await replica.ask("REPLICAOF", "127.0.0.1", link.port)
            await wait_until(lambda: _takes_writes(primary, replica), 30, 0.05)
            return await _kill_under_load(case, primary, replica, link)


async def _takes_writes(primary: Node, replica: Node) -> bool:
    async with primary.client() as client:
        replicas = cast("dict[str, Any]", await client.info("replication"))
    return await replica.replicates() and replicas.get("min_slaves_good_slaves", 1) >= 1


async def _kill_under_load(case: Case, primary: Node, replica: Node, link: Proxy) -> Loss:
    refusals: Counter[str] = Counter()

    def note(failure: kinfold.Failure) -> None:
        if not failure.lost:
            refusals[str(failure.error).removeprefix("Redis: ").split()[0]] += 1

    producer = kinfold.Producer(
        f"redis://127.0.0.1:{primary.port}", exit_timeout_s=0, last_retry_s=0.5, when_full="drop", on_error=note
    )
    talking = asyncio.create_task(_talk(producer))
    try:
        await asyncio.sleep(WARM_UP_S)
        if case.link == "reset":
            await replica.cut_off_from(primary)
        elif case.link == "silent":
            link.fall_silent()
        await asyncio.sleep(case.cut_s)
        primary.kill()
        counters = producer.counters
    finally:
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
        await asyncio.to_thread(producer.close, 0)
    await replica.ask("REPLICAOF", "NO", "ONE")
    held = await replica.ask("XLEN", _LOG)
    return Loss(counters.sent, counters.sent - held, counters.buffered, refusals)


async def _talk(producer: kinfold.Producer) -> None:
    started, said = time.monotonic(), 0
    while True:
        while said < (time.monotonic() - started) * PER_S:
            producer.seen(f"v-{said % 1000}", context={"number": said})
            said += 1
        await asyncio.sleep(_TICK_S)


def main() -> None:
    """Print a table and write `benchmarks/results/replication_loss.json`."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    rows: list[dict[str, Any]] = []
    for case in CASES:
        found: list[Loss] = []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as directory:
                found.append(asyncio.run(lose(Path(directory), case)))
        rows.append(
            {
                **case._asdict(),
                "acknowledged": round(statistics.median(each.acknowledged for each in found)),
                "lost": round(statistics.median(each.lost for each in found)),
                "lost_at_most": max(each.lost for each in found),
                "waiting": round(statistics.median(each.waiting for each in found)),
                "refusals": " ".join(sorted({code for each in found for code in each.refusals})),
            }
        )
    show("what a failover loses", list(rows[0]), [each.values() for each in rows])
    write(
        "replication_loss",
        {
            "environment": environment(str(ServerBinary.at(Path(server_program())))),
            "events_per_s": PER_S,
            "rounds": rounds,
            "cases": rows,
        },
    )


if __name__ == "__main__":
    main()
