"""Why the directory could not be asked. Each message is one sentence, without any password."""


class DirectoryUnavailable(Exception):
    """The directory's database could not be asked, or failed."""


class NoDirectory(DirectoryUnavailable):
    """No directory has been built, in this database or for this workspace."""


class QueryTookTooLong(DirectoryUnavailable):
    """A query was ended because its time was up."""


class WrongQuery(ValueError):
    """A query that cannot run: its sort, its cursor or its words are wrong."""
