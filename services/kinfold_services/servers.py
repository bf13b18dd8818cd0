"""Which server a command talks to: the one that was named, or the embedded one of the data dir."""

from kinfold_services.embedded import disk_is_full, running_url
from kinfold_services.settings import Settings


class NoServer(ConnectionError):
    """No URL was given, and no embedded server runs on the data dir."""


def server_url(settings: Settings) -> str:
    """The server's URL. Raises NoServer."""
    if settings.redis_url is not None:
        return settings.redis_url
    url = running_url(settings.data_dir)
    if url is None:
        full = " (its disk is full)" if disk_is_full(settings.data_dir) else ""
        raise NoServer(
            f"redis URL: found none, and no server runs on {settings.data_dir.absolute()}{full}; allowed are --redis-url, "
            "KINFOLD_REDIS_URL, or a running `kinfold up`"
        )
    return url
