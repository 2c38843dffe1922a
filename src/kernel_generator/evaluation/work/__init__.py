"""The least work of one call: bytes that its own indices reach, and operations that count.

Pure functions from a definition, a workload and the values of its index tensors to three numbers.
What is not known is None; nothing here guesses.
"""

from kernel_generator.evaluation.work.count import count_work
from kernel_generator.evaluation.work.record import Work

__all__ = ["Work", "count_work"]
