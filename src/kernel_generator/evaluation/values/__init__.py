"""The values that a kernel is judged on: made by the judge, per operator family, from a generator.

Pure functions from a definition, a workload and a `torch.Generator` of the CPU to tensors on any
device. Index structure (page tables, offsets, positions, slots, routing) is always valid;
everything else differs from trial to trial.
"""

from kernel_generator.evaluation.values.edges import SIZES, edge_workloads
from kernel_generator.evaluation.values.generate import (
    as_described,
    draw,
    variants,
    vary,
    vary_many,
)
from kernel_generator.evaluation.values.record import CPU, Values, Variant, Where

__all__ = [
    "CPU",
    "SIZES",
    "Values",
    "Variant",
    "Where",
    "as_described",
    "draw",
    "edge_workloads",
    "variants",
    "vary",
    "vary_many",
]
