"""Keeps a workspace's data no longer than promised (contract section 11).

limits.py     how long what is kept
baselines.py  makes a baseline of the state at an entry, and checks it
anonymous.py  removes visitors that no event identified, with their events
run.py        one run: what is due, removed in atomic steps (`cut.lua`), with a receipt
job.py        the projector's job: starts a run when one is due
"""
