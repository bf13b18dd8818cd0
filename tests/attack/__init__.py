"""Attacks on a running gateway, projector and server (`make attack`), on loopback and bounded. See docs/security.md."""
