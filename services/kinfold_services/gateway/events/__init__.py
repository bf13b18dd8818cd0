"""Events from HTTP to the log.

ingest.py          `POST /v1/events`                 bodies.py          the bytes of a request, split into events
segment.py         Segment's tracking API            segment_calls.py   its calls as events
segment_traits.py  traits as fields of events        segment_times.py   times as its callers write them
"""
