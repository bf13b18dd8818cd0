"""Reading the log, and Redis streams in general.

streams.py         a stream byte for byte
pages.py           the log or the feed page by page, and the extent of the log
baseline.py        what stands for the part of the log that was cut
exclusions.py      the entries that the log excludes
erased_entries.py  the entries that an erasure has replaced
"""
