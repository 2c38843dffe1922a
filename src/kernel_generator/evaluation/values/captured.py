"""Captured values: read from their files, and varied without losing what they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import safetensors
import torch
from flashinfer_bench.data import SafetensorsInput

from kernel_generator.evaluation.inputs import InputsUnavailable, check_captured
from kernel_generator.evaluation.values.noise import rotated
from kernel_generator.evaluation.values.roles import Role

if TYPE_CHECKING:
    from pathlib import Path

    from flashinfer_bench import Workload

    from kernel_generator.evaluation.values.call import Call
    from kernel_generator.evaluation.values.noise import Source
    from kernel_generator.evaluation.values.roles import Input


def read(call: Call, workload: Workload, root: Path | None) -> dict[str, torch.Tensor]:
    """The captured inputs whose files are here, on the CPU. Those whose files are missing are left
    out.

    Raises `InputsUnavailable` for a file that cannot be read or does not fit the workload: it is
    there, so whoever put it there wants it used.
    """
    found: dict[str, torch.Tensor] = {}
    for name in sorted(call.captured):
        described = workload.inputs[name]
        assert isinstance(described, SafetensorsInput)
        try:
            check_captured(workload.model_copy(update={"inputs": {name: described}}), root)
        except InputsUnavailable:
            continue
        found[name] = _tensor(described, call.inputs[name], root)
    return found


def _tensor(described: SafetensorsInput, one: Input, root: Path | None) -> torch.Tensor:
    # An absolute path stays as it is.
    path = described.path if root is None else root / described.path
    try:
        with safetensors.safe_open(path, framework="pt") as blob:
            value: torch.Tensor = blob.get_tensor(described.tensor_key)
    except (safetensors.SafetensorError, OSError) as error:
        raise InputsUnavailable(
            f"input '{one.name}': cannot read '{described.tensor_key}' from {path}: {error}"
        ) from error
    if tuple(value.shape) != (one.shape or ()) or value.dtype != one.dtype:
        raise InputsUnavailable(
            f"input '{one.name}' in {path} is {value.dtype} {list(value.shape)}, "
            f"the workload says {one.dtype} {list(one.shape or ())}"
        )
    return value.contiguous()


def resampled(
    call: Call, one: Input, role: Role, value: torch.Tensor, source: Source
) -> torch.Tensor:
    """Other floats with the captured ones' distribution, on their device: their rows in random
    runs, rotated where columns are alike."""
    if value.numel() == 0 or one.shape is None:
        return value
    width = value.shape[-1] if value.dim() > 0 else 1
    rows = value.reshape(-1, width)
    if role is Role.ROUTING_LOGITS:
        return _rerouted(call, rows, source.numbers)
    if role is Role.ROUTING_BIAS:
        # Its experts keep their numbers, so the load on this call's experts stays as captured.
        return value.clone()
    if role is Role.ROPE_TABLE:
        return rotated(rows, one.shape, source.choices, width)
    return rotated(rows, one.shape, source.choices, 1)


def _rerouted(call: Call, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Tokens in another order, and experts renumbered within each device's block of them, which
    keeps groups of experts and the load of this call."""
    tokens, experts = rows.shape
    device = generator.device
    made = rows[torch.randperm(tokens, generator=generator, device=device)]
    block = call.num_local_experts
    if experts % block or block == experts:
        return made
    blocks = torch.rand((experts // block, block), generator=generator, device=device).argsort(-1)
    blocks += torch.arange(0, experts, block, device=device)[:, None]
    return made[:, blocks.view(-1)].contiguous()
