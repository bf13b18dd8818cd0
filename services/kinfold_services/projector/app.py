"""`faststream run kinfold_services.projector.app:app`: the projector under FastStream's own command line.

Settings come from the environment; without `KINFOLD_REDIS_URL` the log is looked for at redis://localhost:6379/0. Importing
this module connects to nothing.
"""

from typing import Final

from faststream import FastStream

from kinfold_services.logs import configure_logs
from kinfold_services.projector.service import ProjectorService
from kinfold_services.settings import Settings

_settings: Final = Settings()
configure_logs(_settings.log_format, _settings.log_level)

app: Final[FastStream] = ProjectorService(_settings, _settings.redis_url or "redis://localhost:6379/0").app
