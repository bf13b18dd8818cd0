"""The Redis or Valkey server that kinfold talks to: an embedded one, or the one that the settings name."""
