"""What a call may touch: outputs are poisoned before it, inputs and guard zones looked at after."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kernel_generator.domain.outcome import Outcome
from kernel_generator.sandbox.arena import GUARD_VALUE, POISON_VALUE

if TYPE_CHECKING:
    from kernel_generator.sandbox.arena import Block, Layout

_POISONS = (POISON_VALUE, 0x5A)
_BOOL_POISONS = (1, 0)


def poison(arena: Block, turn: int = 0, sets: int = 1) -> None:
    """Fill the outputs of the first `sets` sets with a pattern that changes with `turn`.

    What looks right under one pattern because it was never written looks different under another.
    """
    for place in arena.layout.outputs:
        patterns = _BOOL_POISONS if place.dtype == "bool" else _POISONS
        arena.sets[:sets, place.offset : place.offset + place.nbytes].fill_(patterns[turn % 2])


def is_untouched(layout: Layout, before: torch.Tensor, found: torch.Tensor) -> bool:
    """True where nothing but outputs differs: uint8 [sets, layout.size] each."""
    ends = 0
    for place in sorted(layout.outputs, key=lambda place: place.offset):
        if not torch.equal(before[:, ends : place.offset], found[:, ends : place.offset]):
            return False
        ends = place.offset + place.nbytes
    return torch.equal(before[:, ends:], found[:, ends:])


def trespass(
    layout: Layout, before: torch.Tensor, found: torch.Tensor
) -> tuple[Outcome, str] | None:
    """What a call wrote that it must not: `before` and `found` are the content of its set then."""
    after = found.clone()
    for place in layout.inputs:
        region = slice(place.offset, place.offset + place.nbytes)
        if place.nbytes and not torch.equal(after[region], before[region]):
            return Outcome.INPUT_MODIFIED, f"input '{place.name}' was changed by the call"
    places = [p for p in (*layout.inputs, *layout.outputs) if p.scalar is None]
    for place in places:
        after[place.offset : place.offset + place.nbytes] = GUARD_VALUE
    strange = after != GUARD_VALUE
    if not bool(strange.any()):
        return None
    at = int(strange.to(torch.uint8).argmax())
    nearest = min(places, key=lambda p: min(abs(p.offset - at), abs(p.offset + p.nbytes - at)))
    return Outcome.OUT_OF_BOUNDS, f"memory next to '{nearest.name}' was written by the call"
