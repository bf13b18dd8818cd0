"""The programs: projector, gateway, replay, embedded server and command line."""
