"""The files of the server and of the directory, after an erasure: rewritten, and searched where they are at hand."""

import asyncio
from typing import Any, Final

from redis.exceptions import ResponseError

from kinfold_services.connections import Client
from kinfold_services.privacy.records import Check
from kinfold_services.privacy.searching import Searcher, search_files
from kinfold_services.server.embedded import running_url
from kinfold_services.settings import Settings

_POLL_S: Final = 0.05
_REWRITE_S: Final = 600.0


class Files:
    """Has the server rewrite its append-only file."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client: Final[Any] = client
        self._settings: Final = settings

    async def clean(self, searcher: Searcher | None) -> list[Check]:
        """Rewrite the file, wait for it, and search the data dir if it is the server's. What was done, for the receipt."""
        checks = [Check("append-only file", 0, await self._rewrite())]
        if searcher is not None and self._is_at_hand():
            found = await asyncio.to_thread(search_files, self._settings.data_dir, searcher)
            checks += [Check(f"file {name}", count) for name, count in found.items()] or [Check("files of the data dir", 0)]
        return checks

    def _is_at_hand(self) -> bool:
        """Whether the data dir is that of the server."""
        url = running_url(self._settings.data_dir) if self._settings.data_dir.exists() else None
        return url is not None and self._settings.redis_url in {None, url}

    async def _rewrite(self) -> str:
        try:
            before = await self._client.info("persistence")
            if "aof_enabled" not in before:
                return "several nodes: run BGREWRITEAOF on each of them"
            if not before["aof_enabled"]:
                return "the server writes none; run BGSAVE if it saves snapshots"
            await self._until_idle()  # a rewriting that runs already may have begun before the swap
            await self._client.bgrewriteaof()
            after = await self._until_idle()
            if after["aof_last_bgrewrite_status"] != "ok":
                return "the server could not rewrite it: see its log, and run BGREWRITEAOF"
        except (ResponseError, TimeoutError) as error:
            return f"not rewritten ({error}): run BGREWRITEAOF on the server"
        return "rewritten"

    async def _until_idle(self) -> dict[str, Any]:
        async with asyncio.timeout(_REWRITE_S):
            while True:
                info: dict[str, Any] = await self._client.info("persistence")
                if not info["aof_rewrite_in_progress"] and not info.get("aof_rewrite_scheduled"):
                    return info
                await asyncio.sleep(_POLL_S)
