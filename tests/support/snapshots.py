"""Everything a projector has written for one workspace, byte for byte, for comparison with another run."""

from collections.abc import AsyncIterator, Awaitable
from typing import Any, NamedTuple, cast

from redis.asyncio import Redis

from kinfold_schemas.keys import PrivateName, PublicName, key

RawEntry = tuple[bytes, dict[bytes, bytes]]
_SHOWN = 3


class Snapshot(NamedTuple):
    """State, position, rejects and feed, without the ids of rejects and feed entries, which the server assigns."""

    contacts: dict[bytes, bytes]
    visitors: dict[bytes, bytes]
    external_ids: dict[bytes, bytes]
    emails: dict[bytes, bytes]
    members: list[tuple[bytes, float]]
    position: dict[bytes, bytes]
    rejects: list[list[tuple[bytes, bytes]]]
    """The fields of each reject, in order."""
    feed: list[bytes]
    others: dict[str, Any]
    """All other keys by name, except the log, `projector` and `owner`."""

    def must_equal(self, expected: "Snapshot") -> None:
        """Assert that every byte is equal; the error shows the first differences."""
        for name, found, wanted in zip(self._fields, self, expected, strict=True):
            assert found == wanted, f"{name} differs: {_differences(found, wanted)}"


async def take_snapshot(client: Redis, workspace: str) -> Snapshot:
    """Read the whole workspace."""

    async def hash_of(name: PublicName) -> dict[bytes, bytes]:
        return await cast("Awaitable[dict[bytes, bytes]]", client.hgetall(key(workspace, name)))

    position = await hash_of("position")
    position.pop(b"owner", None)  # another projector's run has another token
    members = await client.zrange(key(workspace, "members"), 0, -1, withscores=True)
    return Snapshot(
        contacts=await hash_of("contacts"),
        visitors=await hash_of("visitors"),
        external_ids=await hash_of("external-ids"),
        emails=await hash_of("emails"),
        members=cast("list[tuple[bytes, float]]", members),
        position=position,
        rejects=[list(fields.items()) for _, fields in await read_stream(client, workspace, "rejects")],
        feed=[fields[b"change"] for _, fields in await read_stream(client, workspace, "changes")],
        others=await _others(client, workspace),
    )


async def _others(client: Redis, workspace: str) -> dict[str, Any]:
    known: set[PublicName | PrivateName] = {
        *("contacts", "visitors", "external-ids", "emails", "members", "position", "rejects", "changes", "events"),
        "projector",
        "owner",
    }
    others: dict[str, Any] = {}
    for name in await keys_like(client, f"kinfold:{{{workspace}}}:*"):
        text = name.decode()
        if text in {key(workspace, each) for each in known}:
            continue
        match await client.type(name):
            case b"zset":
                others[text] = await client.zrange(text, 0, -1, withscores=True)
            case b"set":
                others[text] = sorted(await cast("Awaitable[set[bytes]]", client.smembers(text)))
            case b"hash":
                others[text] = await cast("Awaitable[dict[bytes, bytes]]", client.hgetall(text))
            case _:
                others[text] = await client.dump(text)
    return others


async def keys_like(client: Redis, pattern: str) -> list[bytes]:
    """The existing keys that match a pattern, sorted."""
    return sorted([name async for name in cast("AsyncIterator[bytes]", client.scan_iter(match=pattern))])


async def read_stream(client: Redis, workspace: str, name: PublicName | PrivateName) -> list[RawEntry]:
    """All entries of a stream."""
    return cast("list[RawEntry]", await client.xrange(key(workspace, name)))


def _differences(found: Any, wanted: Any) -> str:
    if isinstance(found, dict):
        found, wanted = cast("dict[bytes, bytes]", found), cast("dict[bytes, bytes]", wanted)
        names = sorted(found.keys() | wanted.keys())
        pairs = [(name, found.get(name), wanted.get(name)) for name in names if found.get(name) != wanted.get(name)]
    else:
        pairs = [(index, *both) for index, both in enumerate(zip(found, wanted, strict=False)) if both[0] != both[1]]
    shown = "; ".join(f"{name!r}: expected {theirs!r}, got {ours!r}" for name, ours, theirs in pairs[:_SHOWN])
    return f"{len(found)} and {len(wanted)} items, {len(pairs)} of them different: {shown}"
