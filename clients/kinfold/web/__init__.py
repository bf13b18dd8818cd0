"""What the middlewares share: the visitor of a request, page views, and the settings. See `tracking` for the rules.

`kinfold.asgi`, `kinfold.wsgi` and `kinfold.django` have a middleware each, and the functions of `visits`.
"""

from kinfold.web.tracking import Publisher, Settings, Tracking
from kinfold.web.visits import VISIT, Person, Visit, entered, identify, reset, visitor_id

__all__ = ["VISIT", "Person", "Publisher", "Settings", "Tracking", "Visit", "entered", "identify", "reset", "visitor_id"]
