"""`kinfold verify`: checks that the stored state is what the log says.

It folds the log in memory and compares every contact, visitor and identifier. It writes nothing, so it delays nobody, and a
replica is enough. A difference may only be newer on one side. So it is read again together with the state's position, the
rebuilt state is advanced to that position, and only what still differs counts.
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
        """Yield every difference, field by field. Raises NoLog."""
        await self.rebuild.begin()
        await self.rebuild.build((await self._reader.position()).stream_id, progress)
        while True:
            begun = self.rebuild.beginnings
            found = [each for part in SHOWN for each in await self._differences(part)]
            if self.rebuild.beginnings == begun:  # otherwise the log, read further, excludes what was folded when we compared
                return found

    async def _differences(self, part: Part) -> list[Difference]:
        found: list[Difference] = []
        async for each, living, rebuilt in self._sides.at_one_position(part, await self._sides.suspects(part)):
            found += field_differences(part, each, living, rebuilt)
        return found
