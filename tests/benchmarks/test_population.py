"""The made-up population: what the benchmarks and the tests of the directory take for the truth."""

import hashlib
from collections import Counter
from itertools import pairwise
from typing import Final

import msgspec

from benchmarks.harness.population import NOW_MS, Population
from kinfold_projections.entries import read_entry
from kinfold_projections.fold import fold
from kinfold_projections.state import State
from kinfold_schemas.contacts import Contact
from kinfold_schemas.times import text_ms

SIZE: Final = 2500
"""More than two blocks of people, and the last one is not full."""


def test_contacts_are_what_the_fold_makes_of_the_entries():
    population = Population(SIZE)
    state = State("shop")

    outcomes = fold(state, [read_entry(entry_id.encode(), {b"event": event}) for entry_id, event in population.entries()])

    assert {outcome.kind for outcome in outcomes} == {"folded"}
    folded = {each.id: msgspec.convert(msgspec.to_builtins(each), Contact) for each in state.living_contacts()}
    assert {each.id: each for each in population.contacts("shop")} == folded
    assert len(folded) == SIZE


def test_entry_ids_ascend():
    ids = [tuple(map(int, entry_id.split("-"))) for entry_id, _ in Population(SIZE).entries()]

    assert all(one < other for one, other in pairwise(ids))


def test_contacts_come_in_the_order_of_their_ids_and_before_the_end_of_the_history():
    contacts = list(Population(SIZE).contacts())

    assert [each.id for each in contacts] == sorted(each.id for each in contacts)
    assert max(text_ms(each.last_seen_at) for each in contacts) <= NOW_MS


def test_same_seed_gives_the_same_bytes_on_every_machine():
    digest = hashlib.sha256(b"\n".join(Population(1000).events())).hexdigest()

    assert digest == "1bf81ea847200ce67c93d6916b06a838fb68c64c88fdc94449e89383c47a629f"


def test_another_seed_gives_other_people():
    assert list(Population(10, seed=1).events()) != list(Population(10, seed=2).events())


def test_part_of_a_population_is_the_same_people():
    population = Population(SIZE)

    assert list(population.people(990, 2010)) == list(population.people())[990:2010]


def test_metadata_has_the_documented_kinds():
    contacts = list(Population(20_000).contacts())
    kinds: dict[str, Counter[str]] = {}
    for contact in contacts:
        for key, value in contact.metadata.items():
            kinds.setdefault(key, Counter())[type(value).__name__] += 1

    assert {key: set(found) for key, found in kinds.items()} == {
        "plan": {"str"},
        "mrr": {"int", "float"},
        "country": {"str"},
        "company": {"str"},
        "signupDate": {"str"},
        "seats": {"int", "NoneType", "str"},
        "trial": {"bool"},
        "note": {"str"},
    }
    plans = Counter(contact.metadata.get("plan") for contact in contacts)
    assert plans["free"] > 0.6 * len(contacts)
    assert 0 < plans["enterprise"] < 0.02 * len(contacts)
    notes = Counter(contact.metadata["note"] for contact in contacts if "note" in contact.metadata)
    assert len(notes) > 0.8 * notes.total()
    assert any(len(str(note)) > 200 for note in notes)
