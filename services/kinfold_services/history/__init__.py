"""The state at a past position of the log, and why a contact is what it is (contract section 9).

past.py          folds the log in memory up to a position, from a snapshot
past_queries.py  queries of a past state
moments.py       a time or a position, as users write it
explanation.py   every event that shaped a contact
"""
