"""A workspace's state in Redis: where it stands, what it consists of, and how it is written (contract section 1)."""
