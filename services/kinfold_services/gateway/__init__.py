"""The gateway: events in over HTTP, questions answered, and the change feed for everyone who does not speak Redis.

    app.py         the application: its routes, what they share, how errors look
    server.py      the process: listening, and stopping within 5 s with streams open
    keys.py        API keys                    signatures.py  identities that a backend has signed for a browser
    callers.py     who asks, what they may     limits.py      how often they may
    bodies.py      bytes to events             ingest.py      events to the log
    segment.py     Segment's tracking API, translated in segment_calls.py
    lookups.py     one contact, one visitor    listings.py    many, page by page
    hub.py         one reader of the feed for all who follow it
    snapshot.py    every contact, as of one moment
    following.py   one follower's way: snapshot, what it missed, what comes
    feed.py        the feed as server-sent events and over WebSocket
    operations.py  health, readiness, metrics  openapi.py     what the document says of bodies
    docs.py        the document as a page

The wire, in short; `/docs` has all of it. A request names its workspace by its key: `Authorization: Bearer KEY`. Errors are
`{"error": code, "detail": sentence, "requestId": id}`. `POST /v1/events` takes an event, an array or NDJSON and answers 202
with the position of the last; `GET` routes take `?after=POSITION` and wait for the projector; `GET /v1/changes` is resumed by
`Last-Event-ID` or `?since=`.
"""
