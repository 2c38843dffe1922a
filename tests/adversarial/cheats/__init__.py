"""Cheats and bugs, by what they are after."""

from __future__ import annotations

from tests.adversarial.cheats import (
    channel,
    cpp,
    cuda,
    partial,
    ragged,
    reading,
    remembering,
    ring,
    sampler,
    system,
    timing,
    triton,
    values,
)

CHEATS = (
    *remembering.CASES,
    *timing.CASES,
    *ring.CASES,
    *reading.CASES,
    *channel.CASES,
    *values.CASES,
    *partial.CASES,
    *ragged.CASES,
    *sampler.CASES,
    *system.CASES,
    *cpp.CASES,
    *triton.CASES,
    *cuda.CASES,
)
