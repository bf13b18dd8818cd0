"""Measure what work costs the server: commands by name, and bytes in and out."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis

OURS = {"cmdstat_info"}
HANDSHAKE = ("cmdstat_hello", "cmdstat_client|", "cmdstat_select", "cmdstat_auth")
"""The commands of a new connection, which the work did not ask for."""


class Cost:
    """The cost, filled in when the work is done."""

    def __init__(self) -> None:
        self.commands: dict[str, int] = {}
        """Number of calls by command, including those in scripts, except the handshake of a connection."""
        self.bytes_in = 0
        self.bytes_out = 0

    def __repr__(self) -> str:
        return f"<{self.bytes_in} bytes in, {self.bytes_out} out, {self.commands}>"


@asynccontextmanager
async def costing(client: Redis) -> AsyncGenerator[Cost]:
    """Measure what the server does during the block, for all clients."""
    cost = Cost()
    before, stats = await _counters(client)
    yield cost
    after, later = await _counters(client)
    cost.commands = {name: count for name, calls in after.items() if (count := calls - before.get(name, 0))}
    cost.bytes_in = int(later["total_net_input_bytes"]) - int(stats["total_net_input_bytes"])
    cost.bytes_out = int(later["total_net_output_bytes"]) - int(stats["total_net_output_bytes"])


async def _counters(client: Redis) -> tuple[dict[str, int], Mapping[str, Any]]:
    # In one reply: what another client sends between two would be in one of them alone.
    info: dict[str, Any] = await client.info("commandstats", "stats")
    commands = {name: stats for name, stats in info.items() if name.startswith("cmdstat_")}
    counted = {name: stats for name, stats in commands.items() if name not in OURS and not name.startswith(HANDSHAKE)}
    return {name.removeprefix("cmdstat_"): int(stats["calls"]) for name, stats in counted.items()}, info
