"""The state that a rewritten log gives, made from the fold that found out what is to be erased (contract section 10).

Only the entries around the redacted ones are read and folded again (`kinfold_projections.refolding`).
"""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Final

from kinfold_projections.duplicates import Occurrence
from kinfold_projections.entries import EVENT_FIELD, read_entries
from kinfold_projections.refolding import Folding
from kinfold_projections.state import State
from kinfold_services.connections import Client, RawEntry
from kinfold_services.privacy.person import FoldedLog, own_entries
from kinfold_services.rejects.entries import as_rejects
from kinfold_services.rejects.stored import stored_rejects
from kinfold_services.replay.rebuild import Ahead
from kinfold_services.state.position import Position, entry_digest

_SHARE: Final = 2
"""More than one entry in this many is not read and folded by itself: to fold the whole log is quicker."""


async def refolded(client: Client, workspace: str, log: FoldedLog, redacted: Mapping[str, bytes]) -> Ahead | None:
    """The state where the log was folded to, as if these entries had been there in place of theirs. Uses up the fold.

    None if the whole log has to be folded: it begins at a baseline, or has lost entries, or half of it is concerned.
    """
    if log.begins or log.last is None or log.last[0].decode() != log.upto:
        return None
    folding = log.folding
    around = await asyncio.to_thread(log.parts.around, redacted.keys(), log.ownership.entries)  # a second for many entries
    around -= log.excluded
    if len(around) * _SHARE > folding.counts.entries:
        return None
    before, after = (Folding(State(workspace, tells=False)) for _ in range(2))
    occurred: dict[str, Occurrence] = {each: kind for each, kind in folding.occurred.items() if each not in redacted}
    async with aclosing(own_entries(client, workspace, around)) as pages:
        async for page in pages:
            entries = read_entries(page, log.rules)
            before.fold(entries, folding.occurred)
            changed = [_redacted(raw, redacted) for raw in page if raw[0].decode() in redacted]
            instead = {each.id: each for each in read_entries(changed, log.rules)}
            after.fold([instead.get(each.id, each) for each in entries], occurred)
    before.take_changes()
    after.take_changes()
    if not folding.replace(before, after):
        return None
    position = Position(log.upto, folding.counts, digest=entry_digest(_redacted(log.last, redacted)[1]))
    ahead = Ahead(folding.state, folding.members, position, log.excluded)
    rejected = {reject.entry async for reject in stored_rejects(client, workspace)} | folding.rejections.keys()
    async with aclosing(own_entries(client, workspace, rejected)) as pages:
        async for page in pages:
            raws = [_redacted(raw, redacted) for raw in page]
            ahead.looked_at += raws
            found = ((raw, rejection) for raw in raws if (rejection := folding.rejections.get(raw[0].decode())) is not None)
            ahead.rejects += as_rejects(found)
    return ahead


def _redacted(raw: RawEntry, redacted: Mapping[str, bytes]) -> RawEntry:
    event = redacted.get(raw[0].decode())
    return raw if event is None else (raw[0], {EVENT_FIELD: event})
