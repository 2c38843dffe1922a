"""This program's version."""

VERSION = "0.1.0"
"""The one place that says it."""
