"""The command line (contract section 9): `kinfold`, one program."""

import os
import sys

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from kinfold_schemas.identifiers import BadPattern
from kinfold_services.cli.commands import app
from kinfold_services.cli.output import DONE, NO, UNREACHABLE, CannotPrint, complain, open_closed_streams, say
from kinfold_services.connections import ServerUnfit
from kinfold_services.embedded import EmbeddedServerError
from kinfold_services.queries import NotFolded
from kinfold_services.replay.log import NoLog
from kinfold_services.replay.moments import NoMoment
from kinfold_services.settings import unknown_variables


def main() -> None:
    """Runs `kinfold`. Exit status: 0 done, 1 the answer is no, 2 wrong usage, 3 the server could not be asked."""
    open_closed_streams()
    for sentence in unknown_variables(os.environ).values():
        say(f"kinfold: {sentence}")
    try:
        app()
        status = DONE  # not reached: the command's own status ends the program, `commands.leave`
    except (CannotPrint, NotFolded, NoLog, NoMoment, BadPattern) as error:
        status = complain(str(error), NO)
    except (RedisConnectionError, RedisTimeoutError, ConnectionError, ServerUnfit, EmbeddedServerError) as error:
        status = complain(str(error), UNREACHABLE)
    except RedisError as error:  # full, a replica, short of replicas, or it lacks a right: never an answer
        status = complain(f"redis: {error}", UNREACHABLE)
    sys.exit(status)
