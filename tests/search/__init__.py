"""Strategies and ranking."""
