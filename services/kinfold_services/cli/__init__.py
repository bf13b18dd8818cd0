"""The command line: the program `kinfold` (contract section 9)."""

import os
import sys
from typing import Final

from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from kinfold_schemas.identifiers import BadPattern
from kinfold_services.cli.commands import app
from kinfold_services.cli.hidden_arguments import hide_passwords
from kinfold_services.cli.output import DONE, NO, UNREACHABLE, USAGE, CannotPrint, complain, open_closed_streams, say
from kinfold_services.connections import ServerUnfit
from kinfold_services.contact_files.arrow import NoPyarrow
from kinfold_services.directory.errors import DirectoryUnavailable, WrongQuery
from kinfold_services.history.moments import NoMoment
from kinfold_services.log.baseline import LogCut, UnknownBaseline
from kinfold_services.log.pages import NoLog
from kinfold_services.server.data_dir import PRIVATE_UMASK
from kinfold_services.server.errors import EmbeddedServerError
from kinfold_services.settings import unknown_variables
from kinfold_services.state.queries import NotFolded

_LOGIN: Final = "put user and password into the URL of KINFOLD_REDIS_URL or --redis-url (redis://user:password@host:6379/0)"


def main() -> None:
    """Run `kinfold`. Exit status: 0 done, 1 the answer is no, 2 wrong usage, 3 the server cannot be asked."""
    open_closed_streams()
    hide_passwords()
    os.umask(PRIVATE_UMASK)
    for sentence in unknown_variables(os.environ).values():
        say(f"kinfold: {sentence}")
    try:
        app()
        status = DONE  # not reached: `commands.leave` ends the program with the status of the command
    except (NoPyarrow, WrongQuery) as error:
        status = complain(str(error), USAGE)
    except (CannotPrint, NotFolded, NoLog, NoMoment, BadPattern, UnknownBaseline, LogCut) as error:
        status = complain(str(error), NO)
    except AuthenticationError as error:
        status = complain(f"redis: the login was refused ({str(error).rstrip('.')}); {_LOGIN}", UNREACHABLE)
    except (
        RedisConnectionError,
        RedisTimeoutError,
        ConnectionError,
        ServerUnfit,
        EmbeddedServerError,
        DirectoryUnavailable,
    ) as error:
        status = complain(str(error), UNREACHABLE)
    except RedisError as error:  # full, a replica, short of replicas, or a missing right: not an answer
        status = complain(f"redis: {error}", UNREACHABLE)
    sys.exit(status)
