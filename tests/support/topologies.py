"""Several real servers that can be killed, hung, promoted and disconnected: behind Sentinel and in a cluster.

Every server is a process with its own port. All of them are stopped at the end of a test, even if it fails.
"""

import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from redis.crc import key_slot
from redis.exceptions import RedisError, ResponseError

from tests.support.engines import MASTER
from tests.support.nodes import POLL_S, START_S, Node, ask
from tests.support.waiting import wait_until

PROMOTION_S: Final = 30.0
_DOWN_AFTER_MS: Final = 1000
_NODE_TIMEOUT_MS: Final = 2000
_MANUAL_FAILOVER_S: Final = 6.0
"""A server gives up after 5 s."""
_SLOTS: Final = 16384
_PRIMARIES: Final = 3
_SENTINELS: Final = 3
_QUORUM: Final = 2


class Topology:
    """Several nodes. One of them at a time serves the workspace's keys."""

    def __init__(self, url: str, nodes: list[Node]) -> None:
        self.url: Final = url
        self.nodes: Final = nodes
        """The primary of the workspace's keys and its replica, in any order."""

    async def primary(self) -> Node:
        """Return the node that serves the keys now; exactly one must respond as a primary."""
        roles = [(node, await node.role()) for node in self.nodes if node.is_running]
        (primary,) = [node for node, role in roles if role == "master"]
        return primary

    async def replica(self) -> Node:
        """Return the other one."""
        primary = await self.primary()
        return next(node for node in self.nodes if node is not primary)

    async def wait_until_promoted(self, node: Node) -> None:
        """Wait until clients can learn that `node` is the primary now."""
        raise NotImplementedError

    async def promote(self, node: Node) -> None:
        """Promote the replica as an operator does, without waiting for the result."""
        raise NotImplementedError

    async def heal(self) -> None:
        """Restart killed nodes, resume hung ones, and wait until one of the two replicates the other."""
        for node in self.nodes:
            if node.is_running:
                node.go_on()
            else:
                await node.start()
            await node.connect_again()

        async def is_whole() -> bool:
            try:
                roles = sorted([await node.role() for node in self.nodes])
                return roles == ["master", "slave"] and any([await node.replicates() for node in self.nodes])
            except (RedisError, OSError):
                return False

        await wait_until(is_whole, START_S, POLL_S)


class Sentinels(Topology):
    """A primary, a replica, and three sentinels."""

    def __init__(self, sentinels: list[Node], nodes: list[Node]) -> None:
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in sentinels)
        super().__init__(f"redis+sentinel://{hosts}/{MASTER}/0", nodes)
        self.sentinels: Final = sentinels

    async def wait_until_promoted(self, node: Node) -> None:
        """Wait until the first sentinel names `node`, the earliest moment at which a client can know it."""

        async def is_named() -> bool:
            named = [await each.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER) for each in self.sentinels]
            return any(int(address[1]) == node.port for address in named)

        await wait_until(is_named, PROMOTION_S, POLL_S)

    async def promote(self, node: Node) -> None:
        """Send `SENTINEL FAILOVER`: the sentinels promote the only replica and demote the primary."""
        assert node is await self.replica()
        await self.sentinels[0].ask("SENTINEL", "FAILOVER", MASTER)

    async def heal(self) -> None:
        """Like `Topology.heal`, and wait until every sentinel sees a healthy replica that it can promote."""
        await super().heal()
        port = (await self.primary()).port

        async def is_agreed() -> bool:
            return all([await _is_settled(each, port) for each in self.sentinels])

        await wait_until(is_agreed, START_S, POLL_S)


async def _is_settled(sentinel: Node, primary_port: int) -> bool:
    """Whether a sentinel knows all nodes, considers none down, and runs no failover."""
    async with sentinel.client() as client:
        known = _pairs(await ask(client, "SENTINEL", "MASTER", MASTER))
        replicas = [_pairs(each) for each in await ask(client, "SENTINEL", "REPLICAS", MASTER)]
    return (
        int(known["port"]) == primary_port
        and known["flags"] == "master"
        and int(known["num-other-sentinels"]) == _SENTINELS - 1
        and [(each["flags"], each["master-link-status"]) for each in replicas] == [("slave", "ok")]
    )


def _pairs(answer: Any) -> dict[str, str]:
    """Convert Sentinel's description of one server to a dict, for both versions of the protocol."""
    if hasattr(answer, "items"):
        return {_text(name): _text(value) for name, value in answer.items()}
    flat = [_text(each) for each in answer]
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@asynccontextmanager
async def replicated(directory: Path, *options: object) -> AsyncGenerator[tuple[Node, Node]]:
    """Start a primary and a replica of it, with these options of the server."""
    async with AsyncExitStack() as stack:
        common = ["--repl-diskless-sync-delay", 0, "--save", "", "--appendonly", "no", *options]
        primary = await _started(stack, Node(directory / "a", *common))
        replica = await _started(stack, Node(directory / "b", *common))
        await replica.ask("REPLICAOF", "127.0.0.1", primary.port)
        await wait_until(replica.replicates, START_S, POLL_S)
        yield primary, replica


@asynccontextmanager
async def three_sentinels(directory: Path) -> AsyncGenerator[Sentinels]:
    """Start a primary, a replica, and three sentinels that know each other and both."""
    async with AsyncExitStack() as stack:
        primary, replica = await stack.enter_async_context(replicated(directory))
        sentinels: list[Node] = []
        for number in range(_SENTINELS):
            home = directory / f"sentinel-{number}"
            node = Node(home, home / "sentinel.conf", "--sentinel")
            (home / "sentinel.conf").touch()
            sentinels.append(await _started(stack, node))
        for each in sentinels:
            await each.ask("SENTINEL", "MONITOR", MASTER, "127.0.0.1", primary.port, _QUORUM)
            for name, value in (("down-after-milliseconds", _DOWN_AFTER_MS), ("failover-timeout", 5000)):
                await each.ask("SENTINEL", "SET", MASTER, name, value)
            with suppress(ResponseError):  # without this, a sentinel notices only after 10 or 20 s that a server has come back
                await each.ask("SENTINEL", "DEBUG", "info-period", 1000)
        topology = Sentinels(sentinels, [primary, replica])
        await topology.heal()
        yield topology


class Cluster(Topology):
    """Three primaries, and a replica of the one that has the slot of the workspace."""

    def __init__(self, nodes: list[Node], others: list[Node], slot: int) -> None:
        super().__init__(f"redis+cluster://127.0.0.1:{others[0].port}", nodes)
        self.others: Final = others
        """The primaries of the other slots."""
        self.slot: Final = slot

    async def owner(self) -> Node:
        """Return the node that has the slot according to all nodes. Raises ValueError while they disagree."""
        owners = {await _owner_port(each, self.slot) for each in (*self.nodes, *self.others) if each.is_running}
        (port,) = owners
        return next(node for node in (*self.nodes, *self.others) if node.port == port)

    async def wait_until_promoted(self, node: Node) -> None:
        """Wait until one of the other primaries knows that `node` has the slot."""

        async def is_known() -> bool:
            return any([await _owner_port(each, self.slot) == node.port for each in self.others])

        await wait_until(is_known, PROMOTION_S, POLL_S)

    async def promote(self, node: Node) -> None:
        """Send `CLUSTER FAILOVER`, in which primary and replica cooperate and lose no entry. Retries if they fail to."""
        deadline = time.monotonic() + PROMOTION_S
        while await node.role() != "master":
            assert time.monotonic() < deadline, f"nobody promoted {node.directory.name}: {node.log()[-1000:]}"
            await node.ask("CLUSTER", "FAILOVER")
            with suppress(AssertionError):
                await wait_until(lambda: _is_primary(node), _MANUAL_FAILOVER_S, POLL_S)

    async def heal(self) -> None:
        """Like `Topology.heal`, and wait until all nodes see a complete cluster and agree on the owner of the slot."""
        await super().heal()

        port = (await self.primary()).port

        async def is_ok() -> bool:
            nodes = (*self.nodes, *self.others)
            return all([await _is_whole(each) and await _owner_port(each, self.slot) == port for each in nodes])

        await wait_until(is_ok, START_S, POLL_S)

    async def migrate(self, source: Node, target: Node, between_keys: Callable[[], Awaitable[None]]) -> None:
        """Move the slot, key by key, as `redis-cli --cluster reshard` does; calls `between_keys` after each.

        Meanwhile the keys are on both nodes, and commands on several keys get TRYAGAIN or ASK.
        """
        source_id, target_id = [_text(await each.ask("CLUSTER", "MYID")) for each in (source, target)]
        await target.ask("CLUSTER", "SETSLOT", self.slot, "IMPORTING", source_id)
        await source.ask("CLUSTER", "SETSLOT", self.slot, "MIGRATING", target_id)
        while keys := await source.ask("CLUSTER", "GETKEYSINSLOT", self.slot, 100):
            random.Random(len(keys)).shuffle(keys)  # noqa: S311  imitates the arbitrary order of a server
            for each in keys:
                await source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 10_000, "REPLACE", "KEYS", each)
                await between_keys()
        for each in (target, source, *self.others):
            if each.is_running and await each.role() == "master":
                await each.ask("CLUSTER", "SETSLOT", self.slot, "NODE", target_id)


async def _is_primary(node: Node) -> bool:
    return await node.role() == "master"


async def _owner_port(node: Node, slot: int) -> int | None:
    for first, last, owner, *_ in await node.ask("CLUSTER", "SLOTS"):
        if first <= slot <= last:
            return int(owner[1])
    return None


async def _is_whole(node: Node) -> bool:
    state = _text(await node.ask("CLUSTER", "INFO"))
    return "cluster_state:ok" in state and f"cluster_known_nodes:{_PRIMARIES + 1}" in state


@asynccontextmanager
async def three_node_cluster(directory: Path, key: str) -> AsyncGenerator[Cluster]:
    """Start three primaries with a third of the slots each, and a replica of the one that has the slot of `key`."""
    options = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", _NODE_TIMEOUT_MS]
    options += ["--repl-diskless-sync-delay", 0, "--save", "", "--appendonly", "no"]
    slot = key_slot(key.encode())
    async with AsyncExitStack() as stack:
        made = [Node(directory / f"node-{number}", *options, needs_bus=True) for number in range(_PRIMARIES + 1)]
        *primaries, replica = [await _started(stack, node) for node in made]
        bounds = [_SLOTS * number // _PRIMARIES for number in range(_PRIMARIES + 1)]
        for node, first, behind in zip(primaries, bounds, bounds[1:], strict=False):
            await node.ask("CLUSTER", "ADDSLOTSRANGE", first, behind - 1)
            await node.ask("CLUSTER", "SET-CONFIG-EPOCH", primaries.index(node) + 1)
        for node in (*primaries[1:], replica):
            await node.ask("CLUSTER", "MEET", "127.0.0.1", primaries[0].port, primaries[0]._bus_port)

        async def have_met() -> bool:
            return all([await _is_whole(node) for node in made])

        await wait_until(have_met, START_S, POLL_S)
        (primary,) = [node for node, first, last in zip(primaries, bounds, bounds[1:], strict=False) if first <= slot < last]
        await replica.ask("CLUSTER", "REPLICATE", _text(await primary.ask("CLUSTER", "MYID")))
        topology = Cluster([primary, replica], [node for node in primaries if node is not primary], slot)
        await topology.heal()
        yield topology


async def _started(stack: AsyncExitStack, node: Node) -> Node:
    stack.callback(node.kill)
    return await node.start()
