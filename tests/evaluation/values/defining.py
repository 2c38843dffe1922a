"""Definitions and workloads in a few lines."""

from __future__ import annotations

import pytest
import torch
from flashinfer_bench import Definition, Workload
from flashinfer_bench.data import RandomInput, ScalarInput

from kernel_generator.evaluation.values import CPU, Where

DIRECT = Where(torch.device("cpu"), pooled=False)
"""The CPU, filled as a GPU is."""
EITHER_WAY = pytest.mark.parametrize("where", [CPU, DIRECT], ids=["pooled", "direct"])


def defined(
    name: str,
    op_type: str,
    axes: dict[str, int | None],
    inputs: dict[str, str],
    outputs: dict[str, str],
    reference: str,
    constraints: tuple[str, ...] = (),
    describe: dict[str, str] | None = None,
) -> Definition:
    """`axes`: None is variable. Inputs and outputs: 'dtype axis axis ...', or 'dtype -' for a
    scalar."""

    def spec(key: str, text: str) -> dict:
        dtype, *shape = text.split()
        about = {"description": describe[key]} if describe and key in describe else {}
        return {"dtype": dtype, "shape": None if shape == ["-"] else shape, **about}

    return Definition.model_validate(
        {
            "name": name,
            "op_type": op_type,
            "axes": {
                k: {"type": "var"} if v is None else {"type": "const", "value": v}
                for k, v in axes.items()
            },
            "constraints": list(constraints),
            "inputs": {k: spec(k, v) for k, v in inputs.items()},
            "outputs": {k: spec(k, v) for k, v in outputs.items()},
            "reference": f"import math\nimport torch\nimport torch.nn.functional as F\n{reference}",
        }
    )


def workload(definition: Definition, uuid: str = "w", **axes: int) -> Workload:
    """Every input is to be drawn."""
    return Workload(axes=axes, inputs={n: RandomInput() for n in definition.inputs}, uuid=uuid)


def with_scalars(which: Workload, **scalars: float) -> Workload:
    """The same with these scalars given."""
    given = {n: ScalarInput(value=v) for n, v in scalars.items()}
    return which.model_copy(update={"inputs": {**which.inputs, **given}})
