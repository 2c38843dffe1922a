"""Trace sets, saving, and the engine."""
