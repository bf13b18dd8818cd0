"""Health in Chromium: what is wrong in one sentence, and the charts; and the sentences for each trouble."""

import time

import msgspec
import pytest
from playwright.async_api import expect

from kinfold_schemas.keys import key
from kinfold_services.connections import connect
from kinfold_services.gateway.changes.hub import FeedHub
from kinfold_services.gateway.metrics import Metrics
from kinfold_services.gateway.screen.health import charts, duration, troubles
from kinfold_services.gateway.vitals import Sample, Vitals
from kinfold_services.state.queries import StateQueries
from kinfold_services.state.status import DirectoryStatus, Status
from tests.support.screen import Agent, Stage, violations
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="package")

STATUS = Status(
    workspace="shop",
    entries=10,
    position="10-0",
    lag=0,
    contacts=3,
    visitors=4,
    folded=9,
    no_op=1,
    stale=0,
    duplicate=0,
    rejected=0,
    blocked_identifiers=0,
    id_reused=0,
    untrusted=0,
    entries_lost=0,
    rebuilds=0,
    rebuild_reason=None,
    damage=None,
    directory=DirectoryStatus("current", "10-1", 0),
)
WELL = Sample(1000.0, 0, 0.0, 10, 0, 0, 0.0, 3, 4)


async def test_health_says_that_all_is_well(agent: Agent):
    await agent.people("Ada")
    tab = await agent.sign_in("read", path="/health")

    await expect(tab.get_by_role("status")).to_contain_text("All is well.")
    await expect(tab.get_by_role("img", name="People: 1 now")).to_be_visible()
    await expect(tab.locator(".facts")).to_contain_text("1 entry, folded up to log entry")
    await expect(tab.locator(".facts")).to_contain_text("1 changed something, 0 said nothing new")
    assert await tab.locator("[style]").count() == 0
    assert await violations(tab) == []

    await agent.publish({"type": "Nope"})  # the page finds out by itself
    await expect(tab.get_by_role("status")).to_contain_text("1 event was rejected in the last minute")
    await tab.get_by_role("link", name="Look at the rejects").click()
    await tab.wait_for_url("**/rejects")


async def test_ignored_traits_of_segment_are_named(agent: Agent):
    """A nested trait cannot be metadata. An SDK does not show the answer, so the page says which trait it was."""
    await agent.people("Ada")
    call = {"userId": "u-ada", "traits": {"plan": "pro", "address": {"city": "London"}}}
    async with agent.client() as client:
        answer = await client.post("/v1/identify", json=call, headers={"Authorization": f"Bearer {await agent.key()}"})
    assert answer.json()["ignoredCount"] == 1
    tab = await agent.sign_in("read", path="/health")

    await expect(tab.locator("dt:text-is('Ignored') + dd")).to_contain_text("1 trait, of Segment’s calls")
    await expect(tab.locator("dt:text-is('Ignored') + dd")).to_contain_text("traits.address: expected")


async def test_events_that_wait_are_named_with_their_age(stage: Stage):
    """No projector serves the workspace, since it is not listed."""
    async with await stage.browser.new_context() as context:
        agent = Agent(stage, f"unserved-{time.time_ns()}", context)
        entry = f"{time.time_ns() // 1_000_000 - 90_000}-0"
        await stage.redis.xadd(key(agent.workspace, "events"), {"event": "{}"}, id=entry)
        tab = await agent.sign_in(path="/health")

        await expect(tab.get_by_role("status")).to_contain_text(f"No projector has folded anything in {agent.workspace} yet")
        await expect(tab.get_by_role("status")).to_contain_text("1 event waits, the oldest for")
        assert await violations(tab) == []
        assert agent.complaints == []


async def test_health_is_readable_without_javascript(stage: Stage, workspace: str):
    async with stage.agent(workspace, java_script_enabled=False) as agent:
        await agent.people("Ada")
        tab = await agent.sign_in(path="/health")
        await expect(tab.get_by_role("status")).to_contain_text("All is well.")


@pytest.mark.parametrize(
    ("status", "sample", "sentence"),
    [
        ({}, {"lag": 7, "behind_s": 12.3}, "The projector is 12 s behind in shop: 7 events wait."),
        ({"damage": "the log lost entries"}, {"lag": 7, "behind_s": 12}, "No projector can serve shop: the log lost entries"),
        ({"directory": None}, {}, "No directory follows shop, so search, lists and timelines do not work."),
        ({"directory": DirectoryStatus("building", "1-0", 0)}, {}, "The directory of shop is being built."),
        ({"directory": DirectoryStatus("current", "1-0", 90_000)}, {}, "The directory is 90 s behind in shop"),
        ({}, {"rejected": 2, "at_s": 1300.0}, "2 events were rejected in the last 5 minutes."),
        ({"entries_lost": 1}, {}, "1 log entry was removed before the projector had folded them."),
        ({}, {"lag": 1, "behind_s": 0.4}, ""),
        ({}, {}, ""),
    ],
)
async def test_each_trouble_has_a_sentence(status: dict[str, object], sample: dict[str, object], sentence: str):
    said = list(troubles(msgspec.structs.replace(STATUS, **status), [WELL, WELL._replace(**sample)]))  # type: ignore[arg-type]

    assert [each.sentence for each in said][:1] == ([] if not sentence else [said[0].sentence])
    assert (said[0].sentence if said else "").startswith(sentence)
    assert len(said) <= 1


async def test_charts_name_their_units():
    later = WELL._replace(at_s=1005.0, lag=1, behind_s=0.42, entries=60, rejected=1, directory_s=2.0, readers=3)

    shown = {chart.title: (chart.now, chart.note) for chart in charts([WELL, later])}

    assert shown == {
        "Events per second": ("10/s", "all events, rejected ones included"),
        "Projector delay": ("0.4 s", "1 event waits in the log"),
        "Directory delay": ("2.0 s", "age of search and lists"),
        "Rejected events per minute": ("12/min", "1 rejected in total"),
        "Feed readers": ("3", "connected to this gateway"),
        "People": ("3", "4 devices"),
    }


@pytest.mark.parametrize(("seconds", "words"), [(0, "0 s"), (0.42, "0.4 s"), (12.3, "12 s"), (150, "2 min"), (9000, "2 h")])
async def test_durations_are_short(seconds: float, words: str):
    assert duration(seconds) == words


async def test_samples_are_taken_while_the_screen_is_used(redis_url: str, workspace: str):
    async with connect(redis_url) as client:
        hub = FeedHub(client, workspace, 100, Metrics())
        vitals = Vitals(client, workspace, StateQueries(client, workspace), hub)
        assert vitals.samples == []
        vitals.touch()
        vitals.touch()  # one sampler, however often the screen is used

        async def has_one() -> bool:
            return len(vitals.samples) == 1

        await wait_until(has_one)
        await vitals.stop()
