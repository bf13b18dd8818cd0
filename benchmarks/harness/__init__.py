"""Shared parts of the benchmarks: servers, events, the projector as shipped, references, results."""
