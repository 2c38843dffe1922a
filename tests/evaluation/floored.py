"""Floors of a call in bytes and operations, at the rates of the H100 of the table: bytes pass at
3.0 TB/s (shown) and at most 3.938 TB/s (refusing), bfloat16 products at 800 TFLOP/s (shown)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from kernel_generator.domain.target import TARGETS
from kernel_generator.evaluation.floors import find_floors
from kernel_generator.evaluation.inputs import plan_call

if TYPE_CHECKING:
    from flashinfer_bench import Definition, Workload

    from kernel_generator.domain.evaluation import Floors
    from kernel_generator.domain.target import Target

H100 = TARGETS["H100"]


@dataclass(frozen=True)
class Found:
    """Floors of one call, as bytes and operations at the H100's rates."""

    floors: Floors

    @property
    def moved(self) -> int | None:
        shown = self.floors.shown_us
        return None if shown is None else round(shown * 3.0e6)

    @property
    def compulsory(self) -> int | None:
        refusing = self.floors.refusing_us
        return None if refusing is None else round(refusing * 3.938e6)

    @property
    def operations(self) -> int:
        assert self.floors.shown_us is not None
        return round(self.floors.shown_us * 8e8)


def ints(*values: object, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


def found(
    definition: Definition,
    which: Workload,
    tensors: dict[str, torch.Tensor] | None = None,
    operations: int | None = None,
    target: Target = H100,
) -> Found:
    plan = plan_call(definition, which)
    return Found(find_floors(definition, which, plan, tensors or {}, target, operations))


def renamed(definition: Definition, name: str) -> Definition:
    return definition.model_copy(update={"name": name})
