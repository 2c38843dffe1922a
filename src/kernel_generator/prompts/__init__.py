"""What an author is told, and how source files are read out of the reply."""
