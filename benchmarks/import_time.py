"""Measure `import kinfold` relative to `import redis`: medians of `-X importtime` in fresh interpreters.

python benchmarks/import_time.py [RUNS]
"""

import json
import os
import re
import statistics
import subprocess
import sys
from typing import Final

STATEMENTS: Final = {
    "redis": "import redis",
    "kinfold": "import kinfold",
    "kinfold.Producer": "import kinfold; kinfold.Producer",
    "kinfold.Producer for redis": "import kinfold; kinfold.Producer('redis://localhost')",
    "kinfold.Producer for https": "import kinfold; kinfold.Producer('https://localhost', key='k')",
}


# Applications do not compile their imports at every start.
ENVIRONMENT: Final = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def import_ms(statement: str) -> float:
    """The time of all imports of a statement in ms, without those that every interpreter makes."""
    report = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", f"import sys; sys.stderr.write('--- now\\n'); {statement}"],
        check=True,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    ).stderr.partition("--- now\n")[2]
    return sum(int(own_us) for own_us in re.findall(r"import time:\s+(\d+) \|", report)) / 1000


def main() -> None:
    """Print one JSON object."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    for statement in STATEMENTS.values():
        import_ms(statement)  # compiles
    found = {name: [import_ms(statement) for _ in range(runs)] for name, statement in STATEMENTS.items()}
    median = {name: statistics.median(times) for name, times in found.items()}
    ratios = {name: round(value / median["redis"], 3) for name, value in median.items()}
    print(json.dumps({"ms": {name: round(value, 1) for name, value in median.items()}, "ratio_to_redis": ratios}, indent=2))


if __name__ == "__main__":
    main()
