"""`python -m tests.model`: compares the fold with a model of the contract on random logs (`make model`).

`contract` is the model: what the fold of a log must return. It is slow and obvious, and shares no code with the fold. If the
two differ, one of them has a bug, or the contract is ambiguous. `identifiers` is section 2 of the contract. `logs` makes random
logs. `differential` folds a log both ways, compares everything that the contract specifies, and minimises a log that differs.

It runs until it is stopped (Ctrl-C), or for a number of events or minutes. The exit status is 1 if anything differed.
"""
# ruff: noqa: T201  a program prints

import argparse
import itertools
import json
import secrets
import sys
import time
from collections import Counter
from contextlib import suppress

from tests.model.differential import Difference, difference, smallest
from tests.model.logs import MORE, PROFILES, Log, log_of


def main() -> int:
    """Try one log after another; print the smallest log for each kind of difference."""
    options = _options()
    profiles = options.profile or list(PROFILES)
    found: Counter[str] = Counter()
    events = logs = 0
    started = told_at = time.monotonic()
    with suppress(KeyboardInterrupt):
        for number in itertools.count():
            minutes = (time.monotonic() - started) / 60
            if events >= options.events or minutes >= options.minutes:
                break
            profile, seed = profiles[number % len(profiles)], f"{options.seed}/{number}"
            log = log_of(profile, seed)
            events, logs = events + len(log.entries), logs + 1
            if (differs := difference(log)) is not None:
                found[differs.where] += 1
                if found[differs.where] == 1:
                    _show(smallest(log, differs), differs, f"{profile} {seed}")
            if time.monotonic() > told_at + 60:
                told_at = time.monotonic()
                print(f"{events:,} events in {logs:,} logs, {found.total()} differ", flush=True)
    kinds = f": {dict(found)}" if found else ""
    print(f"seed {options.seed}: {events:,} events in {logs:,} logs, {found.total()} differ{kinds}")
    return 1 if found else 0


def _show(log: Log, differs: Difference, name: str) -> None:
    now = difference(log) or differs
    print(f"\n{now.where} ({name}, {log.limits})\n  fold:  {now.fold}\n  model: {now.model}")
    for entry, event in log.entries:
        print(f"  {entry} {json.dumps(event)}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.model", description="Compares the fold with a model of the contract."
    )
    parser.add_argument(
        "--seed", default=secrets.token_hex(4), help="the same seed gives the same logs (default: a random one)"
    )
    parser.add_argument("--events", type=float, default=float("inf"), help="stop after this many events")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after this many minutes")
    parser.add_argument(
        "--profile", action="append", choices=[*PROFILES, *MORE], help="only logs of this kind; may be repeated"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
