"""Corrections by hand (contract section 5, Corrections), for the command line, the HTTP API and the screen.

preview.py     what a correction would change, and what contradicts it
appending.py   appends a correction to the log, if the contact has not changed since the preview
undoing.py     takes entries back: a correction, or the events that merged two contacts
process.py     does so in a process of its own
"""
