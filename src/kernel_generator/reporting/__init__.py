"""What people see: progress and tables, read from events."""
