"""Strategies: pure functions from history to proposals."""
