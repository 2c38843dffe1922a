"""The engine that moves a run forward, and what it writes down."""
