"""Recurrent layers (GDN, KDA, Mamba): tokens between offsets, and states in use."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kernel_generator.evaluation.values.roles import Role
from kernel_generator.evaluation.work.record import Case, NotKnown, Use, Work, work_of

if TYPE_CHECKING:
    from kernel_generator.sandbox.arena import Place

_KNOWN_OPS = r"(gdn|kda|mamba).*"
_KNOWN = (Role.Q_INDPTR, Role.KV_INDPTR, Role.STATE_SLOTS)


def count(case: Case) -> Work:
    """Raises `NotKnown`."""
    integers = [p for p in case.places.values() if not case.call.inputs[p.name].is_float]
    if any(case.role(p) not in _KNOWN for p in integers) or len(integers) > 1:
        raise NotKnown("integers beside offsets or slots")
    uses = {p.name: Use(p.nbytes, p.nbytes) for p in case.places.values() if p not in integers}
    if integers:
        uses[integers[0].name] = Use(integers[0].nbytes)
        slotted = case.role(integers[0]) is Role.STATE_SLOTS
        uses |= _slotted(case, integers[0]) if slotted else _ragged(case, integers[0])
    return work_of(case, uses, certain=re.fullmatch(_KNOWN_OPS, case.call.op_type) is not None)


def _slotted(case: Case, slots: Place) -> dict[str, Use]:
    """Sequences whose slot is negative are padding."""
    index = case.index(Role.STATE_SLOTS)
    assert index is not None
    uses: dict[str, Use] = {}
    rows, axis = int((index >= 0).sum()), case.axes(slots)[0]
    for place in case.places.values():
        if case.role(place) is Role.STATE:
            pool = place.shape[0]
            used = int(index[(index >= 0) & (index < pool)].unique().numel())
            uses[place.name] = Use.rows(place, _copied(case, place, used), pool, used)
        elif case.axes(place)[:1] == (axis,) and place is not slots:
            uses[place.name] = Use.rows(place, rows, len(index))
    return uses


def _ragged(case: Case, offsets: Place) -> dict[str, Use]:
    """Every token of every sequence, and the states of sequences that have one."""
    index = case.index(case.role(offsets))
    assert index is not None
    lengths = index.diff()
    if len(index) == 0 or int(index[0]) != 0 or bool((lengths < 0).any()):
        raise NotKnown("offsets do not begin at 0 and rise")
    tokens, sequences = int(lengths.sum()), int((lengths > 0).sum())
    axis = case.call.ends_at.get(offsets.name)
    if axis is None:
        raise NotKnown("what the offsets point into")
    uses: dict[str, Use] = {}
    for place in case.places.values():
        if case.role(place) is Role.STATE:
            if place.shape[0] != len(lengths):
                raise NotKnown("states are not of the sequences")
            touched = _copied(case, place, sequences)
            uses[place.name] = Use.rows(place, touched, len(lengths), sequences)
        elif case.axes(place)[:1] == (axis,):
            uses[place.name] = Use.rows(place, tokens, place.shape[0])
    return uses


def _copied(case: Case, state: Place, used: int) -> int:
    """Rows of the state: all of them where an output is the whole of it after the call."""
    whole = any(p.shape == state.shape for p in case.plan.outputs)
    return state.shape[0] if whole else used
