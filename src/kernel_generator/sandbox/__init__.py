"""Isolation, and the child program that runs a candidate."""
