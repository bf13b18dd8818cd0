"""The feed with a thousand readers."""

from pathlib import Path

import pytest

from tests.support.feed_load import run_feed_load
from tests.support.lengths import short_or_long

READERS = 1000
CHANGES = short_or_long(400, 2000)
PER_S = 200


@pytest.mark.slow
async def test_a_thousand_readers_get_every_change_once_and_in_order(tmp_path: Path):
    """At 200 changes a second, that is 200,000 messages a second. The gateway's memory stays bounded."""
    result = await run_feed_load(tmp_path, READERS, CHANGES, PER_S)

    assert (result["readers"], result["wrong"]) == (READERS, [])
    # The feed also has some `ContactSeen`, so compare the readers' changes with the beginning of the feed.
    assert result["order"][0] == result["feed"][0]
    assert result["distinct"] == result["feed"].index(result["order"][1]) + 1
    assert result["rss_mib"] is None or result["rss_mib"] < 400
