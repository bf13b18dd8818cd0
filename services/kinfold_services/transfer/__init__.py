"""Moves a workspace's log into a file, and from the file into an empty workspace (contract section 9)."""
