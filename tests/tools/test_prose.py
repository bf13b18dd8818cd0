"""`make prose`: what it finds, what it leaves alone, and that its files are clean."""

import re
from pathlib import Path
from typing import Final

import pytest

from tools.prose import Style, check, check_file, prose_of_page, prose_of_python, prose_of_script, read_style

STYLE: Final = Style({re.compile(r"\bwhoever\b", re.IGNORECASE): "name the person"}, [], [], [], max_words=5)
ADVICE: Final = "expected other words, got 'whoever': name the person"


def on_page(source: str) -> list[tuple[int, str]]:
    return [(each.line, each.sentence) for each in check(prose_of_page(source), STYLE, with_length=False)]


def in_python(source: str) -> list[tuple[int, str]]:
    return [(each.line, each.sentence) for each in check(prose_of_python(source), STYLE, with_length=False)]


def lengths(source: str) -> list[int]:
    return [each.line for each in check(prose_of_page(source), STYLE, with_length=True)]


def test_a_phrase_on_a_page_is_found_on_its_line():
    assert on_page("# Title\n\nIt serves whoever asks.\n") == [(3, ADVICE)]


@pytest.mark.parametrize(
    "source",
    [
        "It prints `whoever`.\n",
        "```text\nwhoever\n```\n",
        "- a list\n\n    ```text\n    whoever\n    ```\n",
        "<!-- whoever -->\n",
        "[the page](whoever.md)\n",
        "However.\n",
    ],
)
def test_code_comments_and_targets_of_links_are_not_prose(source: str):
    assert on_page(source) == []


def test_lines_are_counted_past_a_block():
    assert on_page("```sh\none\ntwo\n```\nwhoever\n") == [(5, ADVICE)]


def test_docstrings_and_comments_are_read_and_code_is_not():
    source = '"""Serves whoever asks."""\n\nwhoever = "whoever"  # whoever\n'

    assert in_python(source) == [(1, ADVICE), (3, ADVICE)]


def test_names_of_tests_are_read_as_words():
    source = "def test_it_serves_whoever_asks(): ...\n\n\nasync def test_whoever(): ...\n\n\ndef whoever(): ...\n"

    assert in_python(source) == [(1, ADVICE), (4, ADVICE)]


@pytest.mark.parametrize(
    ("suffix", "source", "lines"),
    [
        (".lua", "-- Serves whoever asks.\nlocal whoever = 1 -- whoever\n", [1, 2]),
        (".ts", '/**\n * Serves whoever asks.\n */\nconst whoever = "https://whoever"; // whoever\n', [2, 4]),
    ],
)
def test_comments_of_scripts_are_read_and_code_is_not(suffix: str, source: str, lines: list[int]):
    found = check(prose_of_script(source, suffix), STYLE, with_length=False)

    assert [(each.line, each.sentence) for each in found] == [(line, ADVICE) for line in lines]


def test_an_example_in_a_docstring_is_code():
    assert in_python('def f():\n    """Asks.\n\n    >>> print("whoever")\n    """\n') == []


def test_a_sentence_of_more_words_than_the_style_allows_is_a_warning():
    findings = check(prose_of_page("One two three four five. One two three four five six.\n"), STYLE, with_length=True)

    assert [(each.line, each.is_error) for each in findings] == [(1, False)]


def test_a_point_inside_a_word_does_not_end_a_sentence():
    assert lengths("See version 2.0 of file.toml and tests.\n") == [1]


def test_items_of_a_list_are_separate_sentences():
    assert lengths("- One two three\n- four five six\n") == []


def test_a_phrase_that_is_not_a_regular_expression_is_refused(tmp_path: Path):
    path = tmp_path / "style.toml"
    path.write_text("pages = []\npython = []\nscripts = []\nmax_words = 1\n[phrases]\n'(' = 'x'\n")

    with pytest.raises(re.error):
        read_style(path)


@pytest.mark.parametrize(
    "sentence",
    [
        "It tells whomever asks.",
        "Allowed are a and b.",
        "The state can be had again.",
        "It is nobody's affair.",
        "A time of one's own.",
        "Nothing is said.",
        "It shall wait.",
        "A value that is none.",
        "So long as it runs.",
        "A contact is there that was not.",
    ],
)
def test_our_style_finds_what_the_project_used_to_say(sentence: str):
    assert [each for each in check(prose_of_page(sentence), read_style(), with_length=False) if each.is_error]


def test_a_python_file_and_a_page_are_told_apart(tmp_path: Path):
    for name, count in (("page.md", 1), ("code.py", 0)):
        path = tmp_path / name
        path.write_text("shall = 1\n")
        assert len([each for each in check_file(path, read_style()) if each.is_error]) == count
