"""What every process sets up: logs, the garbage collector, and tasks and child processes that end."""
