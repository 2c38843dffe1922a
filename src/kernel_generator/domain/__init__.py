"""Frozen records that every other room speaks in. Imports nothing else of this package."""
