"""The fold from events to contacts. No I/O, no clock, no randomness, no logging."""
