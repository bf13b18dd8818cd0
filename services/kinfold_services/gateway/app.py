"""The application: its routes, and what they share."""

from importlib.metadata import version
from typing import Final

from litestar import Litestar
from litestar.datastructures import State
from litestar.types import ASGIApp, ControllerRouterHandler

from kinfold_services.connections import Client
from kinfold_services.gateway.access_log import with_access_log
from kinfold_services.gateway.callers import MAX_BODY_BYTES
from kinfold_services.gateway.changes.feed import changes, changes_socket
from kinfold_services.gateway.clients import with_known_clients
from kinfold_services.gateway.contacts.conflicts import identity_conflicts
from kinfold_services.gateway.contacts.listings import contact_visitors, contacts
from kinfold_services.gateway.contacts.lookups import contact_by_id, visitor_by_id
from kinfold_services.gateway.contacts.own_contact import own_contact
from kinfold_services.gateway.contacts.searching import contact_count
from kinfold_services.gateway.contacts.timelines import contact_timeline
from kinfold_services.gateway.correcting import correct, undo_correction, unmerge_contact
from kinfold_services.gateway.erasures import erasure_receipt, erasures, request_erasure
from kinfold_services.gateway.events.ingest import append_events
from kinfold_services.gateway.events.segment import segment_batch, segment_call
from kinfold_services.gateway.framework_bounds import with_bounds
from kinfold_services.gateway.openapi import openapi_config
from kinfold_services.gateway.operations import healthz, healthz_head, metrics, readyz, readyz_head
from kinfold_services.gateway.page_policies import with_page_policies
from kinfold_services.gateway.parameters import only_known_parameters
from kinfold_services.gateway.preflights import with_refused_preflights
from kinfold_services.gateway.problems import HANDLERS, note_refusal
from kinfold_services.gateway.screen.app import NO_PAGE, screen_router
from kinfold_services.gateway.script import kinfold_js
from kinfold_services.gateway.sdk_settings import rudderstack_settings, segment_settings
from kinfold_services.gateway.subjects import subject
from kinfold_services.gateway.workspaces import Gateway
from kinfold_services.settings import Settings

ROUTES: Final[list[ControllerRouterHandler]] = [
    append_events,
    segment_batch,
    segment_call,
    contacts,
    contact_count,
    contact_by_id,
    contact_visitors,
    contact_timeline,
    identity_conflicts,
    correct,
    undo_correction,
    unmerge_contact,
    visitor_by_id,
    own_contact,
    changes,
    changes_socket,
    request_erasure,
    erasures,
    erasure_receipt,
    kinfold_js,
    segment_settings,
    rudderstack_settings,
    healthz,
    healthz_head,
    readyz,
    readyz_head,
    metrics,
    subject,
]


def make_app(settings: Settings, client: Client) -> tuple[ASGIApp, Gateway]:
    """The application, and the gateway behind it. Call `Gateway.end_streams` before the application stops."""
    gateway = Gateway(settings, client)
    litestar = Litestar(
        route_handlers=[*ROUTES, screen_router()],
        state=State({"gateway": gateway}),
        guards=[only_known_parameters],
        cors_config=gateway.cors,
        exception_handlers={**HANDLERS, **NO_PAGE},
        after_exception=[note_refusal],
        openapi_config=openapi_config(version("kinfold"), ROUTES),
        request_max_body_size=MAX_BODY_BYTES,
        on_shutdown=[gateway.close],
        logging_config=None,
    )
    app: ASGIApp = litestar
    if gateway.cors is not None:
        app = with_refused_preflights(app, gateway.cors)
    app = with_bounds(with_page_policies(with_access_log(app, gateway.metrics)), litestar)
    return with_known_clients(app, settings.gateway_trusted_proxies), gateway
