"""Folds the whole log again: builds a state beside the living one, compares both, and swaps (contract section 9)."""
