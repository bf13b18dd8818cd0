"""What is said: events, changes, contacts, identifiers, the canonical hash, keys and their codec."""
