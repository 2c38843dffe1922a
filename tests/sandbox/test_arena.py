"""Shared memory: tensors where the layout says, guard zones around them."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernel_generator.sandbox.arena import (
    GUARD_BYTES,
    GUARD_VALUE,
    POISON_VALUE,
    Arena,
    Layout,
    Place,
    view,
)

PLACES = st.builds(
    lambda dtype, shape: Place("t", dtype, tuple(shape)),
    st.sampled_from(["float32", "bfloat16", "float8_e4m3fn", "int64", "int8", "bool"]),
    st.lists(st.integers(0, 9), max_size=3),
)


@given(st.lists(PLACES, max_size=4), st.lists(PLACES, min_size=1, max_size=3))
def test_a_guard_zone_lies_before_between_and_after_all_tensors(
    inputs: list[Place], outputs: list[Place]
) -> None:
    layout = Layout.plan(0, tuple(inputs), tuple(outputs))
    end = 0
    for place in (*layout.inputs, *layout.outputs):
        assert place.offset >= end + GUARD_BYTES
        assert place.offset % 256 == 0
        end = place.offset + place.nbytes
    assert layout.size >= end + GUARD_BYTES


@given(st.lists(PLACES, max_size=4), st.lists(PLACES, min_size=1, max_size=3))
def test_a_layout_reaches_the_child_unchanged(inputs: list[Place], outputs: list[Place]) -> None:
    layout = Layout.plan(7, tuple(inputs), tuple(outputs))
    assert Layout.from_json(layout.to_json()) == layout


@given(PLACES)
def test_a_tensor_has_its_shape_and_dtype_and_shares_the_memory(place: Place) -> None:
    layout = Layout.plan(0, (), (place,))
    arena = Arena.create(layout)
    tensor = view(arena.bytes, layout.outputs[0])
    assert (tensor.shape, tensor.dtype) == (torch.Size(place.shape), place.torch_dtype)
    arena.region(layout.outputs[0]).zero_()
    assert not bool(tensor.to(torch.float32).any())
    arena.close()


def test_fresh_outputs_are_poisoned_and_all_else_is_guarded() -> None:
    layout = Layout.plan(0, (Place("x", "float32", (5,)),), (Place("y", "float32", (5,)),))
    arena = Arena.create(layout)
    assert bool(torch.isnan(view(arena.bytes, layout.outputs[0])).all())
    rest = arena.bytes.clone()
    rest[layout.outputs[0].offset :][:20] = GUARD_VALUE
    assert bool((rest == GUARD_VALUE).all())
    assert bool((arena.region(layout.outputs[0]) == POISON_VALUE).all())
    arena.close()


@pytest.mark.parametrize("size", [0, 1 << 20], ids=["shrunk", "grown"])
def test_the_file_behind_it_keeps_its_size(size: int) -> None:
    # A shrunk file kills whoever reads the pages that are gone.
    arena = Arena.create(Layout.plan(0, (), (Place("y", "float32", (5,)),)))
    with pytest.raises(PermissionError):
        os.ftruncate(arena.fd, size)
    arena.close()


def test_more_than_the_machine_has_is_an_error_and_not_a_killed_process() -> None:
    with pytest.raises(OSError, match="Cannot allocate memory"):
        Arena.create(Layout.plan(0, (), (Place("y", "float32", (10**12,)),)))
