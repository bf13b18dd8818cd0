"""Folds the whole log again: builds a state beside the live one, compares both, and swaps them (contract section 9)."""
