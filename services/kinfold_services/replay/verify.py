"""`kinfold verify`: is the stored state what the log says it is?

Folds the log in memory and compares every contact, visitor and identifier. It writes nothing, so nobody waits for it, and a
replica will do. What differs at first may only be newer. It is read again together with the position it stands at, the
rebuilt state is brought to that position, and only what differs then counts.
"""

from typing import Final

from kinfold_schemas.identifiers import IdentifierRules
from kinfold_services.connections import Client
from kinfold_services.replay.differences import SHOWN, Difference, Sides, field_differences
from kinfold_services.replay.rebuild import Part, Progress, Rebuild
from kinfold_services.settings import Settings
from kinfold_services.state.reader import StateReader


class Verification:
    """One verification of one workspace."""

    def __init__(self, client: Client, settings: Settings, rules: IdentifierRules) -> None:
        self.rebuild: Final = Rebuild(client, settings, rules)
        self._reader: Final = StateReader(client, settings.workspace)
        self._sides: Final = Sides(client, settings.workspace, self.rebuild)

    async def differences(self, progress: Progress) -> list[Difference]:
        """All that differs, field by field. Raises NoLog."""
        await self.rebuild.begin()
        await self.rebuild.build((await self._reader.position()).stream_id, progress)
        while True:
            begun = self.rebuild.beginnings
            found = [each for part in SHOWN for each in await self._differences(part)]
            if self.rebuild.beginnings == begun:  # else the log, read on, excludes what was folded when we compared
                return found

    async def _differences(self, part: Part) -> list[Difference]:
        found: list[Difference] = []
        async for each, living, rebuilt in self._sides.at_one_position(part, await self._sides.suspects(part)):
            found += field_differences(part, each, living, rebuilt)
        return found
