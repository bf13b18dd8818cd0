"""The baseline of a log that loses people: a copy without them, beside the living one (contract sections 10 and 11)."""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from kinfold_projections.counts import Counts
from kinfold_projections.forgetting import forget
from kinfold_projections.ownership import Belongings
from kinfold_projections.records import encode_record, encode_stamps
from kinfold_projections.state import State
from kinfold_schemas.contacts import MergedContact
from kinfold_schemas.keys import staged_baseline_key
from kinfold_services.connections import Client
from kinfold_services.log.baseline import read_baseline
from kinfold_services.state.baseline import Begun, RecordPart, read_window, restore, state_pieces, window_pieces

_STAGED_S: Final = 900
_ENCODE: Final[dict[RecordPart, Callable[[Any], bytes]]] = {
    "contacts": encode_record,
    "contact-stamps": encode_stamps,
    "visitors": encode_record,
    "visitor-stamps": encode_stamps,
    "external-ids": str.encode,
    "emails": str.encode,
}


class Forgetting:
    """Removes people from a workspace's baseline, as soon as a rewritten log takes its place."""

    def __init__(self, client: Client, workspace: str, people: Belongings, token: Callable[[str], str], run: str) -> None:
        """`run` is part of the names of the staged keys."""
        self._client: Final = client
        self._workspace: Final = workspace
        self._people: Final = people
        self._token: Final = token
        self.staged: Final = [staged_baseline_key(workspace, run, "about"), staged_baseline_key(workspace, run, "pieces")]
        """The hash and the list that take the place of `baseline` and `baseline-pieces`; they expire."""

    @property
    def contacts(self) -> list[str]:
        """The contacts that are erased."""
        return sorted(self._people.contacts)

    def __call__(self, begun: Begun, counts: Counts) -> Counts:
        """Remove the people from what a baseline restores; return its counts without them."""
        state = begun.state
        forget(state, begun.members, self._people, self._token)
        return msgspec.structs.replace(
            counts,
            contacts=len(state.contacts),
            merged=sum(type(each) is MergedContact for each in state.contacts.values()),
            visitors=len(state.visitors),
            external_ids=sum(each is not None for each in state.external_ids.values()),
            emails=sum(each is not None for each in state.emails.values()),
        )

    async def stage(self) -> None:
        """Write the baseline without the people, if the log has one. Raises UnknownBaseline."""
        await self.discard()
        baseline = await read_baseline(self._client, self._workspace)
        if baseline is None:
            return
        begun = await restore(self._client, self._workspace, baseline)
        counts = self(begun, baseline.counts)
        window = list(window_pieces(await read_window(self._client, self._workspace, baseline)))
        digest, count = hashlib.sha256(), 0
        for data in (*state_pieces(lambda part: _stored(begun.state, part), begun.state, begun.members), *window):
            digest.update(data)
            count += 1
            await self._write(self.staged[1], "rpush", data)
        about = msgspec.structs.replace(
            baseline, counts=counts, pieces=count, window_pieces=len(window), sha256=digest.hexdigest()
        )
        fields = {"position": about.position, "about": msgspec.json.encode(about)}
        await self._write(self.staged[0], "hset", mapping=fields)

    async def discard(self) -> None:
        """Delete what was staged."""
        await self._client.unlink(*self.staged)

    async def _write(self, name: str, command: str, *values: Any, **options: Any) -> None:
        pipeline = self._client.pipeline(transaction=True)
        getattr(pipeline, command)(name, *values, **options)
        pipeline.expire(name, _STAGED_S)
        await pipeline.execute()


def _stored(state: State, part: RecordPart) -> Iterable[tuple[str, bytes | None]]:
    held, encode = getattr(state, part.replace("-", "_")), _ENCODE[part]
    return ((each, None if value is None else encode(value)) for each, value in held.items())
