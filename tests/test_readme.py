"""README.md and docs/ do what they say: their commands are run, and what they print is compared (see `tests.support.pages`)."""

import re
from pathlib import Path
from typing import Final

import pytest

from tests.support.pages import PAGES, README, ROOT, Block, Command, Shell, blocks, commands, matches, place, runnable

FIRST_SCREEN_LINES: Final = 40
README_LINES: Final = 150
OWN: Final = [page for page in PAGES if place(page) == "own"]
SHARED: Final = [page for page in PAGES if place(page) == "shared"]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.slow
@pytest.mark.parametrize("page", OWN, ids=name)
def test_a_page_with_its_own_server_does_what_it_shows(page: Path) -> None:
    with Shell(installed=page == README) as shell:
        shell.check_page(page)


@pytest.mark.slow
@pytest.mark.timeout(900)  # each command has its own limit, and there are many
def test_the_pages_that_share_a_server_do_what_they_show() -> None:
    with Shell(installed=False) as shell:
        for number, line in enumerate(("kinfold up --detach", "kinfold publish examples/swift-history.ndjson.gz --wait"), 1):
            shell.check(Command(line, "...", number), "the shared server")
        for page in SHARED:
            shell.check_page(page)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_with_commands_names_its_server(page: Path) -> None:
    assert place(page) is not None or not runnable(page)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"], ids=name)
def test_a_shell_block_that_is_not_run_says_why(page: Path) -> None:
    unexplained = [block.line for block in blocks(page) if block.kind in {"sh", "bash", "shell"} and not block.is_skipped]
    assert unexplained == []


def test_the_readme_has_at_most_150_lines() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= README_LINES


def test_the_readme_links_to_files_that_exist() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", README.read_text("utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_first_screen_says_what_it_is_for_and_shows_it_working() -> None:
    """A sentence, then at most five commands."""
    first = runnable(README)[0]

    assert first.kind == "console"
    assert len(list(commands(first))) <= 5
    assert first.line + first.text.count("\n") < FIRST_SCREEN_LINES
    above = README.read_text("utf-8").splitlines()[: first.line - 2]
    assert any(line.startswith("**") for line in above)


@pytest.mark.parametrize(
    ("printed", "expected", "matching"),
    [
        ("", "", True),
        ("a\n", "a", True),
        ("a\nb\n", "a", False),
        ("a\nb\n", "a\n...", True),
        ('{"id":"ct_1","name":"Ada"}', '{"id":"ct_...","name":"Ada"}', True),
        ("something", "", False),
        ("something", "...", True),
        ("", "...", True),
    ],
)
def test_what_dots_stand_for(printed: str, expected: str, *, matching: bool) -> None:
    assert matches(printed, expected) is matching


def test_how_a_block_is_read() -> None:
    """Commands, their continuations and what they print."""
    block = Block("console", "$ one\n$ two \\\n> more\nprints\n> this\n\n$ three\n...\n", 10)

    assert list(commands(block)) == [
        Command("one", "", 10),
        Command("two \\\nmore", "prints\n> this\n", 11),
        Command("three", "...", 16),
    ]
