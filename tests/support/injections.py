"""Hostile text for the directory: SQL injections of every technique that sqlmap knows, as data, in every place of a question.

sqlmap puts a test between a prefix that closes what the text may stand in, and a suffix that opens it again or makes the rest a
comment. This does the same, with statements about our own tables. Each text has MARK in it, which no SQL may contain.
"""

import base64
import random
from collections.abc import Callable
from typing import Final

import msgspec

from kinfold_schemas.filter_tokens import quoted
from kinfold_schemas.filters import parse
from kinfold_services.directory.query import Query
from kinfold_services.directory.sorting import parse_sort

MARK: Final = "zqxjv"

_PREFIXES: Final = [
    *(
        "",
        "'",
        "')",
        "'))",
        "')))",
        '"',
        '")',
        '"))',
        ")",
        "))",
        "`",
        "`)",
        "%'",
        "%')",
        "]",
        "1",
        "1)",
        "-1",
        "\\'",
        "\\",
        "''",
    ),
    *("' || ", "'||(", '"||(', "' + ", "$.", '$."', "$.a')", "::text", "}", "' ESCAPE '", "/*", "*/", "\n", "\t", ";", "'\n"),
    *("%27", "%2527", "\u02bc", "\uff07", "\u2019", "\u00bf'", "a* ", "^", '"a" ', "NEAR(", "search_text:", "{", "a:b "),
]
_TESTS: Final = [
    # true and false
    *(
        "OR 1=1",
        "AND 1=2",
        "OR 'a'='a'",
        'OR ""=""',
        "OR NOT 1=2",
        "RLIKE 1",
        "XOR 1",
        "|| 1=1",
        "OR build > 0",
        "OR build IN (1,2)",
    ),
    "AND (SELECT count(*) FROM directory_builds) > 0",
    "OR EXISTS (SELECT 1 FROM sqlite_master)",
    "AND ascii(substr((SELECT record FROM directory2_contacts LIMIT 1),1,1)) > 64",
    # errors that tell
    "AND 1=CAST((SELECT record FROM directory2_contacts LIMIT 1) AS INTEGER)",
    "AND json_extract((SELECT record FROM directory2_contacts), '$[')",
    "AND extractvalue(1, concat(0x7e, version()))",
    "AND 1/0",
    # unions and inline queries
    "UNION SELECT record FROM directory2_contacts",
    "UNION ALL SELECT NULL, NULL, record FROM directory2_contacts",
    "UNION ALL SELECT 1,2,3,4,5,6,7,8,9,10",
    "UNION SELECT sql FROM sqlite_master",
    "UNION SELECT usename || passwd FROM pg_shadow",
    "(SELECT record FROM directory2_contacts LIMIT 1)",
    # further statements
    *("; DROP TABLE directory2_contacts", "; DELETE FROM directory2_contacts", "; UPDATE directory_builds SET state='old'"),
    *("; ATTACH DATABASE '/tmp/zqxjv' AS x", "; PRAGMA writable_schema=1", "; VACUUM INTO '/tmp/zqxjv'", "; COMMIT; BEGIN"),
    *("; COPY directory2_contacts TO PROGRAM 'id'", "; SELECT pg_read_file('/etc/passwd')", "; SET search_path = ''"),
    *(
        "; EXEC xp_cmdshell('dir')",
        "; CREATE FUNCTION f() RETURNS int AS $$ SELECT 1 $$ LANGUAGE sql",
        "; SELECT load_extension('x')",
    ),
    # time
    *(
        "AND pg_sleep(9) IS NULL",
        "; SELECT pg_sleep(9)",
        "OR 1=(SELECT 1 FROM pg_sleep(9))",
        "AND SLEEP(9)",
        "WAITFOR DELAY '0:0:9'",
    ),
    "AND 1=LIKE('ABCDEFG',UPPER(HEX(RANDOMBLOB(900000000))))",
    "AND 1=(SELECT count(*) FROM generate_series(1,900000000))",
    # orders and pages
    *(
        "ORDER BY 99",
        "GROUP BY 1 HAVING 1=1",
        "LIMIT 1 OFFSET 1",
        "LIMIT 9 INTO OUTFILE 'x'",
        "PROCEDURE ANALYSE(1,1)",
        "ASC, record",
    ),
    # what a statement is put together of
    *(
        "%s",
        "%(record)s",
        ":param_1",
        ":build",
        "?",
        "$1",
        "{0}",
        "{{7*7}}",
        "${7*7}",
        "%",
        "_",
        "\\",
        "::jsonb",
        "->>'plan'",
        "@> '{}'",
    ),
    *(
        "*",
        "NEAR(a b)",
        "AND NOT a",
        "OR b*",
        "+a -b",
        "!!",
        "a OR",
        "(",
        ")",
        "x'41'",
        "0x41",
        "chr(65)||chr(66)",
        "U&'\\0041'",
    ),
]
_SUFFIXES: Final = [
    *[""] * 8,
    *("", " --", " -- -", "--+", "#", " /*", "/**/", ";", ";--", ";%00", " AND 'a'='a", " AND ('a'='a", " AND (('a' LIKE 'a"),
    *(' AND "a"="a', ' AND ("a"="a', " AND (1=1", " OR 'a'='b", ")||'", ")+'", "'", '"', "`", "\\", "\ud800", "\0", "\u202e"),
]
_VALID: Final = [
    *("plan = pro", "plan = 'pro'", "mrr >= 99", "metadata.plan in (pro, free, 1)", "not plan exists", "name contains ada"),
    *("email = 'ada@example.org'", "lastSeenAt before 30d", "(plan = pro or mrr < 5) and trial = true", "a = null"),
    *('metadata."any key" != "x"', "signupDate after 2026-01-01", "visitorCount > 1", "id = ct_1", "image exists"),
]
_FIELDS: Final = [
    "plan",
    "mrr",
    "name",
    "email",
    "externalId",
    "id",
    "image",
    "createdAt",
    "visitorCount",
    "metadata.x",
    "note",
]
_OPERATORS: Final = [
    "=",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "contains",
    "in",
    "before",
    "after",
    "exists",
    "==",
    "<>",
    "LIKE",
    "~",
    "IS",
]


class Hostile:
    """Draws hostile questions from a seed."""

    def __init__(self, seed: int, cursor: str) -> None:
        """`cursor` is a real one, of the question `sort=metadata.note`."""
        padded = cursor + "=" * (-len(cursor) % 4)
        self._cursor: Final[list[object]] = msgspec.json.decode(base64.urlsafe_b64decode(padded))
        self._dice: Final = random.Random(seed)  # noqa: S311  the same attacks in every run
        self._places: Final = [
            *[self._as_words] * 3,
            self._as_filter,
            self._in_a_filter,
            *[self._as_value] * 4,
            *[self._as_key] * 2,
            self._as_sort,
            self._as_cursor,
            self._in_a_cursor,
            self._between_tokens,
        ]

    def text(self) -> str:
        """An injection: prefix, test, suffix."""
        pick = self._dice.choice
        between = pick(["", " ", " ", "/**/", "\n", "\t", "+", "%20"])
        test = pick(_TESTS)
        if self._dice.random() < 0.2:
            test = "".join([pick([char.upper(), char.lower()]) for char in test])
        before = f"{pick(['', 'a', 'ada', '1', 'pro'])}{pick(_PREFIXES)}{between}{MARK}{pick(['', ' ', between])}"
        return f"{before}{test}{pick(_SUFFIXES)}"

    def question(self) -> tuple[str, Callable[[], Query]]:
        """A question, as text and as what makes the query: it may raise WrongFilter and WrongQuery."""
        place = self._dice.choice(self._places)
        text, make = place(self.text())
        return f"{place.__name__[1:]}: {text!r}", make

    def number(self, upto: int) -> int:
        """A number from 0 to below `upto`."""
        return self._dice.randrange(upto)

    def _as_words(self, text: str) -> tuple[str, Callable[[], Query]]:
        return text, lambda: Query(q=text)

    def _as_filter(self, text: str) -> tuple[str, Callable[[], Query]]:
        return text, lambda: Query(where=parse(text))

    def _in_a_filter(self, text: str) -> tuple[str, Callable[[], Query]]:
        valid = self._dice.choice(_VALID)
        at = self._dice.randrange(len(valid) + 1)
        return self._as_filter(f"{valid[:at]}{text}{valid[at + self._dice.randrange(3) :]}")

    def _as_value(self, text: str) -> tuple[str, Callable[[], Query]]:
        pick = self._dice.choice
        quotes: list[Callable[[str], str]] = [*[quoted] * 6, "'{}'".format, '"{}"'.format, str]
        quote = pick(quotes)
        operator = pick(_OPERATORS)
        value = f"({quote(text)}, {quote(self.text())})" if operator == "in" else quote(text)
        return self._as_filter(f"{pick(_FIELDS)} {operator} {value}{pick(['', '', ' and plan = pro', ' or mrr > 5'])}")

    def _as_key(self, text: str) -> tuple[str, Callable[[], Query]]:
        pick = self._dice.choice
        key = pick([*[f"metadata.{quoted(text[:120])}"] * 4, f"metadata.{text}", text])
        return self._as_filter(
            f"{key} {pick(['= pro', '>= 1', 'exists', 'contains a', 'in (1, pro)', 'before 30d', '= null'])}"
        )

    def _as_sort(self, text: str) -> tuple[str, Callable[[], Query]]:
        sort = self._dice.choice(["", "-"]) + self._dice.choice(
            [text, *[f"metadata.{quoted(text[:120])}"] * 3, f"metadata.{text}"]
        )
        return sort, lambda: Query(sort=parse_sort(sort))

    def _as_cursor(self, text: str) -> tuple[str, Callable[[], Query]]:
        raw = text.encode(errors="replace")
        cursor = self._dice.choice(
            [text, base64.urlsafe_b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode().rstrip("=")]
        )
        return cursor, lambda: Query(cursor=cursor)

    def _in_a_cursor(self, text: str) -> tuple[str, Callable[[], Query]]:
        """The real cursor with one part replaced."""
        parts = list(self._cursor)
        clean = text.encode(errors="replace").decode()
        spoil = self._dice.choice(["values", "id", "question", "kind", "now"])
        if spoil == "values":
            parts[3] = [3, 0.0, clean, "ct_0"]
        elif spoil == "id":
            parts[3] = [3, 0.0, "a", clean]
        elif spoil == "kind":
            parts[3] = [clean, clean, "a", "ct_0"]
        else:
            parts[0 if spoil == "question" else 1] = clean
        cursor = base64.urlsafe_b64encode(msgspec.json.encode(parts)).decode().rstrip("=")
        return f"{spoil} {clean}", lambda: Query(sort=parse_sort("metadata.note"), cursor=cursor)

    def _between_tokens(self, text: str) -> tuple[str, Callable[[], Query]]:
        """Tokens of the grammar and pieces of an injection in any order."""
        pieces = [
            *text.split(),
            *_OPERATORS,
            *_FIELDS,
            "and",
            "or",
            "not",
            "(",
            ")",
            ",",
            "'a'",
            '"b"',
            "1",
            "30d",
            "null",
            "true",
        ]
        return self._as_filter(" ".join([self._dice.choice(pieces) for _ in range(1 + self._dice.randrange(12))]))
