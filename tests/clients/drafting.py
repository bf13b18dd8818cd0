"""The calls of a producer that sends nothing: each returns its draft."""

from typing import Final

from kinfold.calls import Calls
from kinfold.calls.drafts import Draft


def _itself(draft: Draft) -> Draft:
    return draft


DRAFTING: Final = Calls(_itself)
