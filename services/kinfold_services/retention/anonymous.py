"""Visitors that no event identified and that were not seen for long: they go with their events, as in an erasure.

The log is rewritten beside the living one, without what it says of them, and swapped in with the state in one step
(`privacy/rewriting.py`). So a replay does not bring them back, and a late resend of an event of theirs is a duplicate.
"""

import uuid
from typing import Final, NamedTuple, cast

import msgspec

from kinfold_schemas.contacts import Link
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_schemas.keys import key
from kinfold_services.connections import Client
from kinfold_services.privacy.baselines import Forgetting
from kinfold_services.privacy.person import FoldedLog, fold_ownership
from kinfold_services.privacy.planning import Plan, make_plan
from kinfold_services.privacy.records import Records, salt_of
from kinfold_services.privacy.rewriting import Rewriting
from kinfold_services.replay.rebuild import Progress
from kinfold_services.settings import Settings

_SCANNED_AT_ONCE: Final = 1000


class _Seen(msgspec.Struct, rename="camel"):
    last_seen_at: str
    links: list[Link] = []


_decode: Final = msgspec.json.Decoder(_Seen).decode


class Leaving(NamedTuple):
    """Visitors that go, and what goes with them."""

    visitors: frozenset[str]
    log: FoldedLog
    plan: Plan


class Unidentified:
    """The visitors of one workspace that no event identified."""

    def __init__(self, client: Client, settings: Settings, rules: IdentifierRules) -> None:
        self._client: Final = client
        self._settings: Final = settings
        self._workspace: Final = settings.workspace
        self._rules: Final = rules

    async def seen_before(self, time: str, progress: Progress) -> Leaving | None:
        """Those that were last seen before a time (RFC 3339); None if there are none. Raises NoLog."""
        if not await self._are_there(time):
            return None
        log = await fold_ownership(self._client, self._settings, self._rules, progress)
        known = log.ownership.state.visitors
        visitors = frozenset(
            each
            for each in log.ownership.anonymous
            if (visitor := known.get(each)) is not None and not visitor.links and visitor.last_seen_at < time
        )
        if not visitors:
            return None
        salt = salt_of(await Records(self._client, self._workspace).secret())
        plan = await make_plan(self._client, self._workspace, log, log.ownership.belongings((), visitors), salt)
        return Leaving(visitors, log, plan)

    async def remove(self, leaving: Leaving, progress: Progress) -> None:
        """Rewrite the log. Raises Replaced if a replay, an erasure or a cut was faster, and WouldLose."""
        forgetting = Forgetting(self._client, self._workspace, leaving.plan.belongings, leaving.plan.token, uuid.uuid4().hex)
        job = Rewriting(self._client, self._settings, leaving.log, leaving.plan, forgetting)
        try:
            await job.run(tuple, (), progress)
        finally:
            await job.close()

    async def _are_there(self, time: str) -> bool:
        """Whether the state has such visitors: reading it is cheaper than folding the log."""
        cursor = 0
        while True:
            cursor, found = await self._client.hscan(key(self._workspace, "visitors"), cursor, count=_SCANNED_AT_ONCE)
            for data in cast("dict[bytes, bytes]", found).values():
                seen = _decode(data)
                if not seen.links and seen.last_seen_at < time:
                    return True
            if cursor == 0:
                return False
