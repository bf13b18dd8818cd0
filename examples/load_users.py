"""Load users from a CSV file with the columns id, email, name and plan. Loading it twice creates each user once.

    python load_users.py users.csv redis://localhost:6379/0

A call waits while the buffer is full and Redis accepts events, so the file may be of any size. Nothing is lost silently: the
exit status is 1 if an event was lost. The workspace is `default`. `kinfold import-contacts` loads a file without a program.
"""

import csv
import sys
from pathlib import Path

import kinfold

with Path(sys.argv[1]).open(newline="", encoding="utf-8-sig") as file, kinfold.Producer(sys.argv[2]) as users:
    for row in csv.DictReader(file):
        plan = {"plan": row["plan"]}
        users.identify(external_id=row["id"], email=row["email"] or None, name=row["name"], metadata=plan)
lost = users.counters.lost + users.counters.dropped
sys.exit(f"{lost} users were lost" if lost else 0)
