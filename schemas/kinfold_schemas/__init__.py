"""The wire format of kinfold: events, changes, contacts, identifiers, keys, and their encoding."""
