"""The change feed over HTTP.

feed.py       the routes: server-sent events and WebSocket    messages.py   how a change looks on the wire
following.py  what one follower gets, and in which order      hub.py        the one reader of a workspace's feed
snapshot.py   every contact, as of one entry of the feed
"""
