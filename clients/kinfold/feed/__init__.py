"""The change feed: every change of a workspace's contacts, in order and without a gap (contract section 6).

`redis_source` and `gateway_source` read over one connection. `reader` continues after failures. `following` is the iterator for
applications, and `live` the mapping of contacts that the feed keeps current.
"""

from kinfold.feed.following import Feed, Follow
from kinfold.feed.live import LiveContacts
from kinfold.feed.positions import FilePosition

__all__ = ["Feed", "FilePosition", "Follow", "LiveContacts"]
