"""Reading the log, and Redis streams in general.

streams.py     a stream with every byte as it is
pages.py       the log or the feed page by page, and what the log holds
exclusions.py  the entries that the log excludes
"""
