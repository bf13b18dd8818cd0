"""Fuzzing of every byte that comes from outside (`make fuzz`)."""
