"""What can go wrong with the embedded server. Every message is one sentence for the person who started the program."""


class EmbeddedServerError(Exception):
    """The embedded server cannot be used."""


class ServerNotFound(EmbeddedServerError):
    """This machine has no server program that kinfold can use."""


class ServerAlreadyRunning(EmbeddedServerError):
    """Another embedded server holds the data directory; `running_url` returns its URL."""


class DataDirMismatch(EmbeddedServerError):
    """The server program cannot read the data that another server wrote to the data directory."""


class DataDirUnusable(EmbeddedServerError):
    """The data directory is not a directory, is full, or cannot be read or written."""


class ServerFailed(EmbeddedServerError):
    """The server did not start or did not answer; the message ends with the end of its log."""
