"""The projector under FastStream's own command line: `faststream run kinfold_services.projector.app:app`.

The environment holds the settings. If they name no server, or are wrong, importing this module ends the program with a message.
The import connects to nothing. Without `KINFOLD_REDIS_URL` it looks for the embedded server of the data dir.
"""

import os
import sys
from typing import Final

from faststream import FastStream
from pydantic import ValidationError

from kinfold_services.projector.service import ProjectorService
from kinfold_services.runtime.logs import configure_logs
from kinfold_services.server.choice import NoServer, server_url
from kinfold_services.server.errors import EmbeddedServerError
from kinfold_services.settings import Settings, unknown_variables, wrong_settings


def _make() -> FastStream:
    for sentence in unknown_variables(os.environ).values():
        sys.stderr.write(f"kinfold: {sentence}\n")
    try:
        settings = Settings()
        configure_logs(settings.log_format, settings.log_level)
        return ProjectorService(settings, server_url(settings)).app
    except ValidationError as error:
        sys.exit(f"kinfold: {wrong_settings(error)}")
    except (NoServer, EmbeddedServerError) as error:
        sys.exit(f"kinfold: {error}")


app: Final[FastStream] = _make()
