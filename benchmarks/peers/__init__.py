"""Alternatives to kinfold, for comparison."""
