"""The entries that could not be folded (contract section 7).

browsing.py pages of the rejects for the screen
entries.py  an entry of the stream `rejects`
retry.py    lists rejects, and appends their events again
stored.py   the stored rejects, merged with those that a rebuild finds
"""
