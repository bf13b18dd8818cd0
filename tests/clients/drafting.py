"""The calls of a producer that sends nothing: each returns the draft that it made."""

from typing import Final

from kinfold.calls import Calls
from kinfold.drafts import Draft


def _itself(draft: Draft) -> Draft:
    return draft


DRAFTING: Final = Calls(_itself)
