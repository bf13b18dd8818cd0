"""What one would write instead of kinfold, to be measured beside it."""
