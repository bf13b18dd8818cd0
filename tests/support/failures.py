"""Ways in which a primary fails, alike behind Sentinel and in a cluster."""

from tests.support.nodes import Node
from tests.support.topologies import Topology


async def killed(_: Topology, primary: Node, __: Node) -> None:
    """The primary's machine is gone."""
    primary.kill()


async def hung(_: Topology, primary: Node, __: Node) -> None:
    """The primary keeps every connection open and answers nothing."""
    primary.hang()


async def promoted(servers: Topology, _: Node, replica: Node) -> None:
    """An operator fails over, and both servers survive."""
    await servers.promote(replica)
