"""Queries of contacts and visitors.

`lookups.py` answers with one, `listings.py` with pages of many. `searching.py`, `timelines.py` and `conflicts.py` ask the
directory.
"""
