"""Measure the feed with many readers, from appending an event to the arrival of its change, through projector and gateway.

    python benchmarks/gateway_feed.py [READERS] [CHANGES] [PER_SECOND]

Server, projector, gateway and readers are one process each. The same runs with ten readers, so that the ratio shows the cost of
the number of readers. Latencies are sampled from one in twenty readers.
"""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from harness.results import environment, show, significant, write

from kinfold_services.server.binary import find_server_binary

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.feed_load import run_feed_load

FEW: Final = 10


def run(readers: int, changes: int, per_s: int) -> dict[str, Any]:
    """The readers' results, after checking that each got every change once and in order."""
    with tempfile.TemporaryDirectory() as directory:
        result = asyncio.run(run_feed_load(Path(directory), readers, changes, per_s))
    assert (result["readers"], result["wrong"]) == (readers, [])
    return {name: result[name] for name in ("p50_ms", "p99_ms", "max_ms", "rss_mib")}


def main() -> None:
    """Print a table and write `benchmarks/results/gateway_feed.json`."""
    readers, changes, per_s = [int(each) for each in sys.argv[1:]] + [1000, 4000, 200][len(sys.argv) - 1 :]
    crowds = [{"readers": count, "changes_per_s": per_s, **run(count, changes, per_s)} for count in (FEW, readers)]
    few, many = crowds
    ratios = {name: significant(many[name] / few[name]) for name in ("p50_ms", "p99_ms")}
    show("from an append to its change's arrival", list(few), [each.values() for each in crowds])
    write("gateway_feed", {"environment": environment(str(find_server_binary())), "crowds": crowds, "ratios": ratios})


if __name__ == "__main__":
    main()
