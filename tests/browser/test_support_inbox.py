"""`examples/support_inbox`, started as its README says: a customer with two devices, the next user of one, and an agent."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from playwright.async_api import Browser, BrowserContext, Locator, Page, Route, async_playwright, expect

from tests.support.engines import free_port
from tests.support.node import need_node
from tests.support.projecting import clean_environment
from tests.support.visits import FLAGS, chromium
from tests.support.waiting import wait_until_sync
from tools import web

pytestmark = pytest.mark.slow

README: Final = web.INBOX / "README.md"
PATIENCE_MS: Final = 120_000
LAPTOP: Final = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36"
PHONE: Final = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Version/18.0 Safari/604.1"
_NOT_AUTOMATED: Final = "Object.defineProperty(navigator, 'webdriver', { get: () => false })"
"""kinfold.js leaves automated browsers out."""


def commands() -> str:
    """The commands of the README that follow `make web`, with the project's programs on PATH."""
    found = re.search(
        r"^```sh\nmake web\n\. \.venv/bin/activate\n(.*?)\n^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the URL of the running example, with a server, a projector and a gateway of its own."""
    need_node()
    expect.set_options(timeout=PATIENCE_MS)
    directory = tmp_path_factory.mktemp("inbox")
    web.build_packages()
    web.build_inbox()
    (directory / "examples").symlink_to(web.INBOX.parent)
    port, gateway = free_port(), free_port()
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {
        **clean_environment(),
        "PATH": programs,
        "PORT": str(port),
        "KINFOLD_GATEWAY_PORT": str(gateway),
        "GATEWAY": f"http://127.0.0.1:{gateway}",
        "DATABASE": str(directory / "inbox.db"),
    }
    script = f"set -e\n{commands()}".replace("\npython ", "\nexec python ")
    log = directory / "log"
    with log.open("wb") as output:
        app = subprocess.Popen(["bash", "-c", script], cwd=directory, env=env, stdout=output, stderr=output)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert app.poll() is None, log.read_text()
        with suppress(OSError), urllib.request.urlopen(f"{url}/agent", timeout=10):  # noqa: S310  our own application
            return True
        return False

    try:
        wait_until_sync(answers, 300)  # it starts seven programs, one after the other
        yield url
        app.send_signal(signal.SIGINT)
        app.wait(60)
    finally:
        app.kill()
        app.wait()
        subprocess.run(["kinfold", "down"], cwd=directory, env=env, check=False, capture_output=True)


async def visit(browser: Browser, url: str, user_agent: str = LAPTOP) -> Page:
    """Open a page in a browser of its own."""
    context: BrowserContext = await browser.new_context(user_agent=user_agent)
    context.set_default_timeout(PATIENCE_MS)
    await context.add_init_script(_NOT_AUTOMATED)
    page = await context.new_page()
    await page.goto(url)
    return page


async def write(page: Page, text: str) -> None:
    await page.get_by_label("Message").fill(text)
    await page.get_by_role("button", name="Send").click()


async def press(page: Page, button: str) -> None:
    await page.get_by_role("button", name=button).click()


async def shows(messages: Locator, *texts: str) -> None:
    """Wait until the thread has exactly these messages."""
    await expect(messages).to_have_text(list(texts))


def thread(page: Page) -> Locator:
    return page.locator(".thread li")


async def test_thread_follows_the_person_and_the_agent_sees_who_it_is(url: str):
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        agent = await visit(browser, f"{url}/agent")
        person, threads = agent.get_by_label("Person"), agent.get_by_role("navigation").get_by_role("button")
        await expect(agent.get_by_text("No messages yet")).to_be_visible()

        # On the laptop, a visitor writes as nobody.
        laptop = await visit(browser, url)
        await write(laptop, "My order is late")
        await shows(thread(laptop), "My order is late")
        await expect(person.get_by_role("heading", level=2)).to_have_text("A visitor")
        await expect(person.get_by_role("listitem")).to_have_text(["Mac"])

        # The visitor logs in: the agent sees who it is.
        await press(laptop, "Log in as Ada")
        await expect(person.get_by_role("heading", level=2)).to_have_text("Ada Lovelace")
        await expect(person.locator(".plan")).to_have_text("free")

        # On the phone, the same person has the same thread.
        phone = await visit(browser, url, PHONE)
        await press(phone, "Log in as Ada")
        await shows(thread(phone), "My order is late")
        await write(phone, "It is number 7")
        for page in (laptop, phone):
            await shows(thread(page), "My order is late", "It is number 7")
        await expect(threads).to_have_count(1)
        await expect(person.get_by_role("listitem")).to_have_text(["Mac", "iPhone"])
        await write(agent, "It comes tomorrow")
        for page in (laptop, phone):
            await shows(thread(page), "My order is late", "It is number 7", "It comes tomorrow")

        # An upgrade on the phone changes before the agent's eyes, and on the laptop.
        await press(phone, "Upgrade to Pro")
        await expect(person.locator(".plan")).to_have_text("pro")
        await expect(laptop.locator(".plan")).to_have_text("pro")

        # The next user of the laptop sees nothing of it, before and after the log-in, and is somebody else for the agent.
        await press(laptop, "Log out")
        await shows(thread(laptop))
        await expect(laptop.locator(".plan")).to_have_count(0)
        await press(laptop, "Log in as Lin")
        await expect(laptop.locator(".plan")).to_have_text("free")
        await write(laptop, "Do you ship to France?")
        await shows(thread(laptop), "Do you ship to France?")
        await expect(threads).to_have_count(2)
        await expect(threads.locator("b")).to_have_text(["Lin Yutang", "Ada Lovelace"])
        await threads.nth(1).click()
        await shows(thread(agent), "My order is lateMac", "It is number 7iPhone", "It comes tomorrow")
        await expect(person.locator(".plan")).to_have_text("pro")
        await expect(person.get_by_role("listitem")).to_have_text(["Mac", "iPhone"])
        await shows(thread(phone), "My order is late", "It is number 7", "It comes tomorrow")

        # A page that is loaded again shows the same, and Ada on the laptop is herself again.
        await press(laptop, "Log out")
        await press(laptop, "Log in as Ada")
        await shows(thread(laptop), "My order is late", "It is number 7", "It comes tomorrow")
        await laptop.reload()
        await shows(thread(laptop), "My order is late", "It is number 7", "It comes tomorrow")
        await browser.close()


def test_thread_is_shown_only_to_a_page_that_knows_the_visitors_secret_id(url: str):
    """An id that can be guessed is rejected, and what the pages get contains no id of another visitor."""
    for path in ("/thread?visitor=1", "/me?visitor=v_1", "/thread"):
        with pytest.raises(urllib.error.HTTPError, match="422"):
            urllib.request.urlopen(url + path, timeout=200)  # noqa: S310  our own application
    with urllib.request.urlopen(f"{url}/thread?visitor=v_{'0' * 22}", timeout=200) as stream:  # noqa: S310  our own application
        assert stream.readline() == b"data: []\n"


async def test_what_was_typed_before_the_log_in_stays_and_is_dropped_by_the_log_out(url: str):
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        laptop = await visit(browser, url)
        message = laptop.get_by_label("Message")
        await message.fill("Where is my invoice?")
        await press(laptop, "Log in as Ada")
        await expect(laptop.locator(".plan")).to_be_visible()
        await expect(message).to_have_value("Where is my invoice?")
        await press(laptop, "Send")
        await expect(thread(laptop).last).to_have_text("Where is my invoice?")

        await message.fill("Please do not tell")
        await press(laptop, "Log out")
        await expect(laptop.get_by_role("button", name="Log in as Lin")).to_be_visible()
        await expect(message).to_have_value("")
        await browser.close()


async def test_late_answer_about_the_first_user_does_not_disturb_the_next_one(url: str):
    """After a log-out, the page asks again who is there, and the next user may log in before the answer."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        laptop = await visit(browser, url)
        await press(laptop, "Log in as Ada")
        await expect(laptop.locator(".plan")).to_be_visible()
        asked, answered = asyncio.Event(), asyncio.Event()

        async def hold(route: Route) -> None:
            answer = await route.fetch()
            asked.set()
            if answer.status == 409:
                await answered.wait()
            await route.fulfill(response=answer)

        async def log_out(route: Route) -> None:
            answer = await route.fetch()
            await asked.wait()  # the thread has said that it is not Ada's any more
            await route.fulfill(response=answer)

        await laptop.route("**/me?*", hold)
        await laptop.route("**/log-out", log_out)
        await press(laptop, "Log out")
        await press(laptop, "Log in as Lin")
        await expect(laptop.locator(".plan")).to_be_visible()
        await laptop.get_by_label("Message").fill("Do you ship to Italy?")
        async with laptop.expect_response(lambda answer: answer.status == 409):
            answered.set()
        await laptop.evaluate("new Promise(requestAnimationFrame)")  # React has rendered what came of it
        await expect(laptop.get_by_label("Message")).to_have_value("Do you ship to Italy?")
        await press(laptop, "Send")
        await expect(thread(laptop).last).to_have_text("Do you ship to Italy?")
        await browser.close()


async def test_answer_of_the_agent_goes_to_whom_it_was_begun_for(url: str):
    """Another thread becomes the newest one meanwhile."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        first, second = await visit(browser, url), await visit(browser, url)
        await write(first, "My parcel is wet")
        agent = await visit(browser, f"{url}/agent")
        await expect(thread(agent).last).to_contain_text("My parcel is wet")
        await agent.get_by_label("Message").fill("Here is your secret code")
        await write(second, "Who are you?")
        await expect(agent.get_by_role("navigation").get_by_role("button").first).to_contain_text("Who are you?")
        await press(agent, "Send")

        await shows(thread(first), "My parcel is wet", "Here is your secret code")
        await shows(thread(second), "Who are you?")
        await browser.close()


async def test_next_user_sees_and_writes_nothing_of_the_first_after_an_expired_session_and_in_another_tab(url: str):
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        laptop = await visit(browser, url)
        await press(laptop, "Log in as Ada")
        await write(laptop, "My card is stolen")
        await expect(thread(laptop).last).to_have_text("My card is stolen")
        tab = await laptop.context.new_page()
        await tab.goto(url)
        await expect(thread(tab).last).to_have_text("My card is stolen")

        # A log-out counts for both tabs.
        await press(laptop, "Log out")
        for page in (laptop, tab):
            await shows(thread(page))
            await expect(page.get_by_role("button", name="Log in as Lin")).to_be_visible()

        # So does a session that has expired.
        await tab.close()
        await press(laptop, "Log in as Ada")
        await expect(thread(laptop).last).to_have_text("My card is stolen")
        await laptop.context.clear_cookies(name="session")
        await laptop.reload()
        await shows(thread(laptop))
        await press(laptop, "Log in as Lin")
        await expect(laptop.locator(".plan")).to_have_text("free")

        # A message that cannot be sent is not lost.
        await laptop.context.set_offline(True)
        await write(laptop, "Do you ship to Spain?")
        await expect(laptop.get_by_role("alert")).to_have_text("Not sent. Try again.")
        await laptop.context.set_offline(False)
        await press(laptop, "Send")
        await expect(thread(laptop).last).to_have_text("Do you ship to Spain?")
        await expect(thread(laptop).filter(has_text="My card is stolen")).to_have_count(0)
        await browser.close()
