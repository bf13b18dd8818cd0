"""What the gateway's background tasks say of an error after which they try again."""

import structlog

from kinfold_services.connections import SERVER_ERRORS


def report_failure(what: str, error: Exception, **values: object) -> None:
    """Log that something failed and is tried again. An error that no outage explains has its traceback."""
    log = structlog.get_logger()
    if isinstance(error, SERVER_ERRORS):
        log.warning(what, error=str(error), seldom=True, **values)
    else:
        log.error(what, error=str(error), exc_info=error, **values)
