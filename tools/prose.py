"""Checks the prose of the project: pages, docstrings, comments and names of tests (`make prose`).

    python -m tools.prose [FILE ...]

`tools/prose.toml` lists the phrases that are not written here, each with what to write instead, and the files to read. A phrase
fails the check. A sentence of a page that is too long is a warning. Code, in blocks or between backquotes, is not prose.
"""

import argparse
import ast
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
STYLE: Final = Path(__file__).with_name("prose.toml")

_BLOCK: Final = re.compile(r"^( *)(```|~~~).*?^\1\2[^\n]*$|^    [^\n]*$|<!--.*?-->", re.MULTILINE | re.DOTALL)
_CODE: Final = re.compile(r"`+[^`\n]*(?:\n[^`\n]*)?`+")
_TARGET: Final = re.compile(r"\]\([^)\s]*\)")
_COMMENT: Final = {".lua": re.compile(r"--[^\n]*"), ".ts": re.compile(r"/\*.*?\*/|(?<!:)//[^\n]*", re.DOTALL)}
_SENTENCE: Final = re.compile(r"[^.!?:]+(?:[.!?:](?!\s|$)[^.!?:]*)*[.!?:]?")
_PARAGRAPH: Final = re.compile(r"(?:^(?!\s*(?:[|#>]|[-*] |\d+\. )).+\n?)+|^\s*(?:[-*]|\d+\.) .+\n(?:^ +\S.*\n?)*", re.MULTILINE)


class Style(NamedTuple):
    """What `prose.toml` says."""

    phrases: dict[re.Pattern[str], str]
    pages: list[str]
    python: list[str]
    scripts: list[str]
    """Lua and TypeScript."""
    max_words: int


class Text(NamedTuple):
    """A piece of prose, and the line of its file on which it begins."""

    text: str
    line: int


class Finding(NamedTuple):
    """What is wrong, and where."""

    line: int
    sentence: str
    is_error: bool = True


def read_style(path: Path = STYLE) -> Style:
    """The style of a file. Raises re.error for a phrase that is not a regular expression."""
    given: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    phrases = {re.compile(phrase, re.IGNORECASE): advice for phrase, advice in given["phrases"].items()}
    return Style(phrases, given["pages"], given["python"], given["scripts"], given["max_words"])


def prose_of_page(source: str) -> list[Text]:
    """A page without its code, line for line."""
    without = _BLOCK.sub(_blank, source)
    return [Text(_TARGET.sub(_blank, _CODE.sub(_blank, without)), 1)]


def prose_of_python(source: str) -> list[Text]:
    """The docstrings and comments of a Python file, without code between backquotes, and the names of its tests as words."""
    found = [Text(token.string, token.start[0]) for token in _tokens(source) if token.type == tokenize.COMMENT]
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str() as text)):
                found.append(Text(text, node.lineno))
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if name.startswith("test_"):
                found.append(Text(name.replace("_", " "), node.lineno))
            case _:
                pass
    return [Text(_CODE.sub(_blank, re.sub(r"^\s*>>> .*$", "", each.text, flags=re.MULTILINE)), each.line) for each in found]


def prose_of_script(source: str, suffix: str) -> list[Text]:
    """The comments of a Lua (`.lua`) or TypeScript (`.ts`) file, without code between backquotes."""
    comments = _COMMENT[suffix].finditer(source)
    return [Text(_CODE.sub(_blank, each[0]), source.count("\n", 0, each.start()) + 1) for each in comments]


def _tokens(source: str) -> Iterator[tokenize.TokenInfo]:
    return tokenize.generate_tokens(iter(source.splitlines(keepends=True)).__next__)


def _blank(match: re.Match[str]) -> str:
    """As many lines as the code had, so that line numbers stay right."""
    return "\n" * match[0].count("\n") or "X"


def check(texts: list[Text], style: Style, *, with_length: bool) -> list[Finding]:
    """What is wrong with a file's prose, by line."""
    found: list[Finding] = []
    for text, line in texts:
        for phrase, advice in style.phrases.items():
            found += (
                Finding(line + text.count("\n", 0, match.start()), f"expected other words, got {match[0]!r}: {advice}")
                for match in phrase.finditer(text)
            )
        if with_length:
            found += (Finding(line + each.line - 1, each.sentence, is_error=False) for each in _long_sentences(text, style))
    return sorted(found)


def _long_sentences(text: str, style: Style) -> Iterator[Finding]:
    for paragraph in _PARAGRAPH.finditer(text):
        for sentence in _SENTENCE.finditer(paragraph[0]):
            words = len(sentence[0].split())
            if words > style.max_words:
                line = (
                    text.count("\n", 0, paragraph.start() + sentence.start() + len(sentence[0]) - len(sentence[0].lstrip())) + 1
                )
                yield Finding(line, f"expected at most {style.max_words} words in a sentence, got {words}")


def check_file(path: Path, style: Style) -> list[Finding]:
    """What is wrong with a page, a Python file or a script."""
    source = path.read_text("utf-8")
    if path.suffix in _COMMENT:
        return check(prose_of_script(source, path.suffix), style, with_length=False)
    if path.suffix == ".py":
        return check(prose_of_python(source), style, with_length=False)
    return check(prose_of_page(source), style, with_length=True)


def _matching(patterns: list[str]) -> list[Path]:
    return sorted({path for pattern in patterns for path in ROOT.glob(pattern)})


def main() -> int:
    """Print what is wrong; exit status 1 where that is more than warnings."""
    parser = argparse.ArgumentParser(description="Checks the prose of the project.")
    parser.add_argument("files", nargs="*", type=Path, help="read these, not the files of prose.toml")
    given: Any = parser.parse_args()
    style = read_style()
    errors = warnings = 0
    for path in given.files or _matching([*style.pages, *style.python, *style.scripts]):
        for finding in check_file(path, style):
            errors += finding.is_error
            warnings += not finding.is_error
            kind = "error" if finding.is_error else "warning"
            print(f"{path}:{finding.line}: {kind}: {finding.sentence}")
    print(f"prose: {errors} errors, {warnings} warnings", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
