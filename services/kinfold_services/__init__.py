"""What runs: the projector, the embedded server, settings and the command line."""
