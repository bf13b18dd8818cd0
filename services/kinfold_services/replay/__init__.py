"""The log folded again: rebuilding the state, comparing it, looking back, explaining (contract section 9)."""
