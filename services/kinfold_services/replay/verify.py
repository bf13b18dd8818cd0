"""`kinfold verify`: is the living state what the log says it is?

Folds the log beside the living state and compares every contact, visitor and identifier. Nobody waits for it: what differs at
first may only be newer, so it is read again together with the position that it stands at, the rebuilt state is brought to that
very position, and only what differs then counts.
"""

from typing import Final

from kinfold_schemas.identifiers import IdentifierRules
from kinfold_services.connections import Client
from kinfold_services.projector.store import StateStore
from kinfold_services.replay.differences import KINDS, Difference, Kind, Sides, field_differences
from kinfold_services.replay.rebuild import Progress, Rebuild
from kinfold_services.settings import Settings

_AT_ONCE: Final = 1000


class Verification:
    """One verification of one workspace."""

    def __init__(self, client: Client, settings: Settings, rules: IdentifierRules) -> None:
        self._client: Final = client
        self._workspace: Final = settings.workspace
        self._sides: Final = Sides(client, settings.workspace, "verify")
        self.rebuild: Final = Rebuild(client, settings, "verify", rules)

    async def differences(self, progress: Progress) -> list[Difference]:
        """All that differs, field by field. Raises NoLog, and Replaced where another verification has begun."""
        try:
            await self.rebuild.begin()
            await self.rebuild.build((await StateStore(self._client, self._workspace).position()).stream_id, progress)
            while True:
                begun = self.rebuild.beginnings
                found = [each for kind in KINDS for each in await self._differences(kind)]
                if self.rebuild.beginnings == begun:  # else the log, read on, excludes what was folded when we compared
                    await self.rebuild.check_place()
                    return found
        finally:
            await self.rebuild.clean()

    async def _differences(self, kind: Kind) -> list[Difference]:
        suspects = sorted({each async for each in self._sides.differing(kind)})
        found: list[Difference] = []
        for first in range(0, len(suspects), _AT_ONCE):
            some = suspects[first : first + _AT_ONCE]
            position, living = await self._sides.living(kind, some)
            await self.rebuild.advance(position)
            rebuilt = await self._sides.rebuilt(kind, some)
            for each, one, other in zip(some, living, rebuilt, strict=True):
                found += field_differences(kind, each, one, other)
        return found
