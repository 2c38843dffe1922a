"""Unusual solutions that are honest, by language."""

from __future__ import annotations

from tests.adversarial.honest import cpp, cuda, python, triton

HONEST = (*python.CASES, *cpp.CASES, *triton.CASES, *cuda.CASES)
