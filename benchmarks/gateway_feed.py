"""The feed with many readers: from an event appended to the log until its change has arrived, through projector and gateway.

    python benchmarks/gateway_feed.py [READERS] [CHANGES] [PER_SECOND]

Server, projector, gateway and readers are a process each. Beside it the same with ten readers, so that the ratio says what the
crowd costs. Latencies are of a twentieth of the readers.
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.feed_load import run_feed_load

FEW: Final = 10


def run(readers: int, changes: int, per_s: int) -> dict[str, Any]:
    """What the readers say; each got every change in order, once."""
    with tempfile.TemporaryDirectory() as directory:
        result = asyncio.run(run_feed_load(Path(directory), readers, changes, per_s))
    assert (result["readers"], result["wrong"]) == (readers, [])
    return {name: result[name] for name in ("p50_ms", "p99_ms", "max_ms", "rss_mib")}


def main() -> None:
    """Prints one JSON object."""
    readers, changes, per_s = [int(each) for each in sys.argv[1:]] + [1000, 4000, 200][len(sys.argv) - 1 :]
    few, many = run(FEW, changes, per_s), run(readers, changes, per_s)
    ratios = {name: round(many[name] / few[name], 1) for name in ("p50_ms", "p99_ms")}
    print(json.dumps({f"{FEW} readers": few, f"{readers} readers": many, "ratio": ratios}, indent=2))


if __name__ == "__main__":
    main()
