"""Rebuild a state that no longer matches its log: a replay that the projector itself runs (contract section 8)."""

from kinfold_schemas.changes import Change
from kinfold_schemas.identifiers import IdentifierRules
from kinfold_services.connections import connect
from kinfold_services.log.pages import log_extent
from kinfold_services.replay.replay import Replay, WouldLose
from kinfold_services.settings import Settings
from kinfold_services.state.reader import StateReader

_NOTHING: str = "0-0"


async def rebuild_state(url: str, settings: Settings) -> list[Change]:
    """Replace the state of `settings.workspace` by what the whole log says. Returns the changes that went to the feed.

    For the owner of the workspace, which must not commit meanwhile. Raises WouldLose if the log has lost entries and contacts
    would disappear: the state is then the only place that has them, and a person has to decide. Raises Replaced if another
    replay has begun.
    """
    async with connect(url) as client:  # its own client: a replay reads and writes more at once than a projector does
        if (await log_extent(client, settings.workspace)).last == _NOTHING:
            raise WouldLose(
                f"workspace {settings.workspace}: expected the log that the state was made from, got an empty one; nothing is "
                "replaced; bring the log back, or let kinfold replay --allow-truncated empty the state"
            )
        rules = IdentifierRules(await StateReader(client, settings.workspace).blocked_identifiers())
        job = Replay(client, settings, rules, whole_log=True)
        try:
            await job.build(lambda _: None)
            await job.compare()
            return await job.replace(allow_lost=False)
        finally:
            await job.close()
