"""What the tests of this room share: a definition, solutions in a line, and one arena."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

from kernel_generator.sandbox.arena import Arena, Layout, Place, view
from kernel_generator.sandbox.orders import Order

if TYPE_CHECKING:
    from kernel_generator.sandbox.orders import Answer
    from kernel_generator.sandbox.worker import Worker

LIMIT_S = 60.0


def order(
    source: str,
    *,
    language: str = "python",
    passing: bool = False,
    interpret: bool = False,
    stands_in: bool = False,
    shape: tuple[str, ...] | None = ("n", "n"),
    dtype: str = "float32",
    furnish: str | None = None,
) -> Order:
    """To load a kernel of one square matrix in, and one out (destination passing if `passing`)."""
    definition: dict[str, Any] = {
        "name": "double",
        "op_type": "elementwise",
        "axes": {"n": {"type": "var"}},
        "inputs": {"x": {"shape": ["n", "n"], "dtype": dtype}},
        "outputs": {"y": {"shape": shape, "dtype": "float32"}},
        "reference": "def run(x):\n    return x * 2\n",
    }
    solution: dict[str, Any] = {
        "name": "candidate",
        "definition": "double",
        "author": "test",
        "spec": {
            "language": language,
            "target_hardware": ["any"],
            "entry_point": "main.py::run",
            "destination_passing_style": passing,
        },
        "sources": [{"path": "main.py", "content": source}],
    }
    return Order(
        json.dumps(definition),
        json.dumps(solution),
        "cpu",
        interpret,
        stands_in,
        threads=1,
        furnish=furnish,
    )


def square(n: int = 32, dtype: str = "float32", scalar: bool = False, sets: int = 1) -> Arena:
    """An arena for calls of it, its inputs all ones."""
    out = () if scalar else (n, n)
    layout = Layout.plan(0, (Place("x", dtype, (n, n)),), (Place("y", "float32", out),), sets)
    arena = Arena.create(layout)
    for block in arena.sets:
        view(block, layout.inputs[0]).copy_(torch.ones(n, n))
    return arena


def output(arena: Arena) -> torch.Tensor:
    """What the call left."""
    return view(arena.bytes, arena.layout.outputs[0])


def call(worker: Worker, what: Order, arena: Arena) -> Answer:
    """Load a kernel into a worker, whatever it held, and call it once."""
    worker.prepare(what, LIMIT_S)
    worker.bind(arena, LIMIT_S)
    return worker.run(arena.layout.slot, LIMIT_S)
