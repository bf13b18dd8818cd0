"""What every process sets up: logs, the garbage collector, and tasks that end."""
