"""The values that a kernel is judged on: made by the judge, per operator family, from a generator.

Pure functions from a definition, a workload and a `torch.Generator` to CPU tensors. Index structure
(page tables, offsets, positions, slots, routing) is always valid; everything else differs from
trial to trial.
"""

from kernel_generator.evaluation.values.edges import edge_workloads
from kernel_generator.evaluation.values.generate import draw, variants, vary
from kernel_generator.evaluation.values.record import Values, Variant

__all__ = ["Values", "Variant", "draw", "edge_workloads", "variants", "vary"]
