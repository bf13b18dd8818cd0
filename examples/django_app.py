"""A Django application of one file whose visitors become contacts. Needs kinfold and django.

kinfold up --detach
KINFOLD_REDIS_URL=… python examples/django_app.py       # `kinfold up` prints the URL; then open http://localhost:8080
"""

import os
import sys

from django.conf import settings

import kinfold

visitors = kinfold.Producer(
    os.environ.get("KINFOLD_REDIS_URL", "redis://localhost:6379/0"),
    workspace=os.environ.get("KINFOLD_WORKSPACE", "default"),
)

settings.configure(
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.environ.get("APP_SECRET", "only for this example"),
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    MIDDLEWARE=["kinfold.django.VisitorMiddleware"],
    KINFOLD={"producer": visitors},
    LOGGING_CONFIG=None,
)

from django.core.wsgi import get_wsgi_application  # noqa: E402  needs the settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402

from kinfold.django import identify, reset, visitor_id  # noqa: E402


def home(_: HttpRequest) -> HttpResponseBase:
    """A page, whose view is published."""
    return HttpResponse("<h1>Hello</h1><a href='/log-in/u-1'>log in as u-1</a> <a href='/log-out'>log out</a>")


def log_in(request: HttpRequest, user: str) -> HttpResponseBase:
    """Identify the visitor after a log-in."""
    identify(request, external_id=user, email=f"{user}@example.org", metadata={"plan": "pro"})
    return HttpResponseRedirect("/")


def log_out(_: HttpRequest) -> HttpResponseBase:
    """Forget the visitor: the next user of this browser is another one."""
    response = HttpResponseRedirect("/")
    reset(response)
    return response


async def me(request: HttpRequest) -> HttpResponseBase:
    """Data, not a page: no page view."""
    return JsonResponse({"visitor": visitor_id(request)})


urlpatterns = [path("", home), path("log-in/<str:user>", log_in), path("log-out", log_out), path("me", me)]
application = get_wsgi_application()

if __name__ == "__main__":
    from wsgiref.simple_server import make_server

    with make_server("127.0.0.1", int(os.environ.get("PORT", "8080")), application) as server:
        sys.stderr.write(f"http://localhost:{server.server_port}\n")
        server.serve_forever()
