"""A thousand readers of the feed."""

from pathlib import Path

import pytest

from tests.support.feed_load import run_feed_load

READERS = 1000
CHANGES = 2000
PER_S = 200


@pytest.mark.slow
async def test_a_thousand_readers_get_every_change_in_order_and_once(tmp_path: Path):
    """At 200 changes a second, which are 200,000 messages; the gateway's memory stays bounded."""
    result = await run_feed_load(tmp_path, READERS, CHANGES, PER_S)

    assert (result["readers"], result["wrong"]) == (READERS, [])
    # `ContactSeen` comes along now and then: what counts is that the readers have the feed's beginning, without a gap.
    assert result["order"][0] == result["feed"][0]
    assert result["distinct"] == result["feed"].index(result["order"][1]) + 1
    assert result["rss_mib"] is None or result["rss_mib"] < 400
