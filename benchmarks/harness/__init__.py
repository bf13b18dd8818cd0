"""What the benchmarks share: servers of their own, events, the projector as it ships, references, results."""
