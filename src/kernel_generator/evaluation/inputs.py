"""What a workload's call takes: names, dtypes and shapes. Its values are made in `values`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from flashinfer_bench.data import SafetensorsInput, ScalarInput
from flashinfer_bench.utils import dtype_str_to_torch_dtype

from kernel_generator.sandbox.arena import Layout, Place

if TYPE_CHECKING:
    from flashinfer_bench import Definition, Workload


class InputsUnavailable(Exception):
    """The workload's inputs cannot be had here; the message says which and why."""


class NoRoom(InputsUnavailable):
    """There is no memory left for them."""


@dataclass(frozen=True)
class InputPlan:
    """Everything about a workload's call but the values."""

    inputs: tuple[Place, ...]
    outputs: tuple[Place, ...]

    def layout(self, slot: int, sets: int = 1) -> Layout:
        """The arena for it."""
        return Layout.plan(slot, self.inputs, self.outputs, sets)


def plan_call(definition: Definition, workload: Workload) -> InputPlan:
    """Names, dtypes and shapes of the call.

    Raises `InputsUnavailable` where the workload does not fit the definition.
    """
    missing = [a for a in definition.var_axes if a not in workload.axes]
    if missing:
        raise InputsUnavailable(f"workload {workload.uuid} gives no value for axis {missing[0]}")
    undescribed = [n for n in definition.inputs if n not in workload.inputs]
    if undescribed:
        raise InputsUnavailable(
            f"workload {workload.uuid} does not describe input '{undescribed[0]}'"
        )
    inputs: list[Place] = []
    shapes = definition.get_input_shapes(workload.axes)
    for (name, spec), shape in zip(definition.inputs.items(), shapes, strict=True):
        described = workload.inputs[name]
        if isinstance(described, ScalarInput):
            inputs.append(Place(name, _dtype_name(spec.dtype), (), scalar=described.value))
        elif shape is None and isinstance(described, SafetensorsInput):
            # FlashInfer-Bench hands a captured scalar over as the tensor that was stored.
            inputs.append(Place(name, _dtype_name(spec.dtype), ()))
        elif shape is None:
            # A number that the workload leaves open: whoever makes the call settles it before.
            open_number = 0.0 if dtype_str_to_torch_dtype(spec.dtype).is_floating_point else 0
            inputs.append(Place(name, _dtype_name(spec.dtype), (), scalar=open_number))
        else:
            inputs.append(Place(name, _dtype_name(spec.dtype), tuple(shape)))
    outputs = [
        Place(name, _dtype_name(spec.dtype), tuple(shape or ()))
        for (name, spec), shape in zip(
            definition.outputs.items(), definition.get_output_shapes(workload.axes), strict=True
        )
    ]
    for place in outputs:
        if place.torch_dtype is torch.float4_e2m1fn_x2:
            raise InputsUnavailable(f"output '{place.name}' is packed fp4, which is not compared")
    return InputPlan(tuple(inputs), tuple(outputs))


def check_captured(workload: Workload, root: Path | None) -> None:
    """Raises `InputsUnavailable` where a file of captured tensors is missing; opens none."""
    for name, described in workload.inputs.items():
        if isinstance(described, SafetensorsInput):
            _captured_file(described, name, root)


def _dtype_name(dtype: str) -> str:
    return str(dtype_str_to_torch_dtype(dtype)).removeprefix("torch.")


def _captured_file(described: SafetensorsInput, name: str, root: Path | None) -> Path:
    path = Path(described.path)
    if not path.is_absolute() and root is not None:
        path = root / path
    if not path.is_file():
        raise InputsUnavailable(
            f"input '{name}' was captured in {described.path}, which is missing: "
            "download the trace set together with its blob/ folder"
        )
    return path
