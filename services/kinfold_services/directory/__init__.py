"""The directory: contacts as tables of a SQL database, kept current from the change feed."""
