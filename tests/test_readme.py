"""README.md and docs/ do what they say: their commands are run, and what they print is compared (see `tests.support.pages`)."""

import re
from pathlib import Path
from typing import Final

import pytest

from tests.support.pages import PAGES, README, ROOT, Block, Command, Shell, blocks, commands, matches, place, runnable

FIRST_SCREEN_LINES: Final = 40
SHELLS: Final = frozenset({"sh", "bash", "shell"})
README_LINES: Final = 150
OWN: Final = [page for page in PAGES if place(page) == "own"]
SHARED: Final = [page for page in PAGES if place(page) == "shared"]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.slow
@pytest.mark.parametrize("page", OWN, ids=name)
def test_a_page_with_its_own_server_does_what_it_shows(page: Path) -> None:
    with Shell(installed=page == README) as shell:
        if page == README:
            shell.check(Command("kinfold up --detach", "kinfold is up.\n...", 1), "what `make demo` starts")
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


@pytest.mark.parametrize("page", [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"], ids=name)
def test_a_shell_block_that_is_not_run_says_why(page: Path) -> None:
    unexplained = [block.line for block in blocks(page) if block.kind in SHELLS and not block.is_skipped]
    assert unexplained == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_shell_block_of_a_page_is_run_or_says_why_not(page: Path) -> None:
    run = runnable(page)
    assert [block.line for block in blocks(page) if block.kind in SHELLS and not block.is_skipped and block not in run] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_of_several_lines_have_no_prompts(page: Path) -> None:
    """A reader pastes them. So they stand in an `sh` block."""
    with_prompts = [
        command.line for block in blocks(page) if block.kind == "console" for command in commands(block) if "\n" in command.text
    ]
    assert with_prompts == []


def test_the_readme_has_at_most_150_lines() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= README_LINES


def test_the_readme_links_to_files_that_exist() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", README.read_text("utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_first_screen_says_what_it_is_for_and_shows_it_working() -> None:
    """A sentence, how to start it, then at most five commands and what they print."""
    first = runnable(README)[0]

    assert first.kind == "sh"
    assert len(first.text.splitlines()) <= 5
    assert first.printed is not None
    assert first.line + first.text.count("\n") < FIRST_SCREEN_LINES
    above = README.read_text("utf-8").splitlines()[: first.line - 2]
    assert any(line.startswith("**") for line in above)


def test_the_readme_says_how_to_start_before_anything_else() -> None:
    start, first = next(blocks(README)), runnable(README)[0]

    assert start.text.startswith("make demo")
    assert start.line < first.line


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
def test_dots_stand_for_any_text(printed: str, expected: str, *, matching: bool) -> None:
    assert matches(printed, expected) is matching


@pytest.mark.parametrize(
    ("printed", "matching"),
    [
        ("publishing -: 2 of 2\n{}\n", True),
        ("publishing -: 1 of 2\npublishing -: 2 of 2\n{}\n", True),
        ("publishing -: 2 of 2\nfolding the remaining events: 1 of 2\nfolding the remaining events: 2 of 2\n{}\n", True),
        ("publishing -: 1 of 2\n{}\n", False),
        ("publishing -: 2 of 2\nexporting: 2 of 2\n{}\n", False),
    ],
)
def test_progress_that_only_a_slow_machine_prints_does_not_count(printed: str, *, matching: bool) -> None:
    assert matches(printed, "publishing -: 2 of 2\n{}") is matching


def test_block_is_read_as_commands_and_what_they_print() -> None:
    """Commands, their continuations and what they print."""
    block = Block("console", "$ one\n$ two \\\n> more\nprints\n> this\n\n$ three\n...\n", 10)

    assert list(commands(block)) == [
        Command("one", "", 10),
        Command("two \\\nmore", "prints\n> this\n", 11),
        Command("three", "...", 16),
    ]


def test_a_block_to_paste_is_read_with_what_it_prints(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\none\n```\n\n```text\nprints\n```\n\n```text\nanother\n```\n\n```sh\ntwo\n```\n")

    assert list(blocks(page)) == [
        Block("sh", "one\n", 2, printed="prints\n"),
        Block("text", "another\n", 10),
        Block("sh", "two\n", 14),
    ]


def test_a_pasted_block_fails_where_a_line_fails_or_it_prints_something_else() -> None:
    """What it exports holds for the blocks below it."""
    with Shell(installed=False) as shell:
        shell.check_pasted(Block("sh", "export WORD=on\n", 1), "a page")
        shell.check_pasted(Block("sh", "echo $WORD\n", 1, printed="on\n"), "a page")
        for text, printed in (("echo $WORD\n", "off\n"), ("false\necho on\n", "on\n"), ("false\necho on\n", None)):
            with pytest.raises(AssertionError):
                shell.check_pasted(Block("sh", text, 1, printed=printed), "a page")
