"""Queries of contacts and visitors: `lookups.py` answers with one, `listings.py` with pages of many."""
