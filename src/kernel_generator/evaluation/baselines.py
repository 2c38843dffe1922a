"""What a candidate is compared with, by name, as solutions that run in children of their own.

A name means one thing: the built-in names are kept, and no solution is compared under another's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashinfer_bench.data import BuildSpec, Solution, SourceFile, SupportedLanguages

from kernel_generator.domain.compiled import ENTRY_POINT, CompileMode, compiled_sources
from kernel_generator.domain.errors import InvalidInput, UnknownName
from kernel_generator.evaluation.product import product_of
from kernel_generator.evaluation.timing import CANDIDATE, INCUMBENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kernel_generator.domain.task import Task
    from kernel_generator.evaluation.product import Factor, Product

REFERENCE = "reference"
TORCH_COMPILE = "torch.compile"
MAX_AUTOTUNE = "torch.compile max-autotune"
CUBLAS = "cuBLAS"
BUILT_IN = (REFERENCE, TORCH_COMPILE, MAX_AUTOTUNE, CUBLAS)
"""Names that are no solution's, whether or not the task has such a baseline."""
_PARTIES = (CANDIDATE, INCUMBENT)
"""Others that are timed beside the baselines, each by its name."""

_MAX_AUTOTUNE_MODE = CompileMode("max-autotune-no-cudagraphs")
"""Without CUDA graphs: with them the output belongs to the graph's own pool and is overwritten by
the next replay, and inputs at new addresses, which every block brings, are copied or captured
again. What graphs save is launches, which GPU time does not hold in any case."""
_CUBLAS_DTYPES = frozenset({"bfloat16", "float16", "float32"})


@dataclass(frozen=True)
class Baseline:
    """Something to be timed beside the candidate."""

    name: str
    """What it is called wherever figures are told."""
    solution: Solution
    """Of the task's definition."""


def reference_solution(task: Task) -> Solution:
    """The definition's reference as a value-returning Python solution."""
    return _trusted(task, "reference", {"main.py": task.definition.reference})


def compiled_solution(task: Task) -> Solution:
    """`torch.compile` of the reference, default mode."""
    return _trusted(task, "torch-compile", compiled_sources(task.definition.reference))


def autotuned_solution(task: Task) -> Solution:
    """`torch.compile` of the reference that tries many kernels for each product: takes minutes."""
    sources = compiled_sources(task.definition.reference, _MAX_AUTOTUNE_MODE)
    return _trusted(task, "torch-compile-max-autotune", sources)


_OF_ANY_TASK = {
    REFERENCE: reference_solution,
    TORCH_COMPILE: compiled_solution,
    MAX_AUTOTUNE: autotuned_solution,
}


def cublas_solution(task: Task) -> Solution | None:
    """The library's product, written straight into the output; None where the task has none."""
    found = _library_product(task)
    return None if isinstance(found, str) else _cublas(task, found)


def default_baselines(task: Task) -> list[Baseline]:
    """The reference, `torch.compile` and, for a GEMM on a GPU, cuBLAS."""
    found = [
        Baseline(REFERENCE, reference_solution(task)),
        Baseline(TORCH_COMPILE, compiled_solution(task)),
    ]
    cublas = cublas_solution(task)
    return found if cublas is None else [*found, Baseline(CUBLAS, cublas)]


def named_baselines(
    task: Task, names: Sequence[str], solutions: Mapping[str, Solution]
) -> list[Baseline]:
    """The baselines of these names, each once, in order.

    `solutions` are the trace set's, by their names, whatever they solve.

    Raises `UnknownName`, and `InvalidInput` where a name is known and the task has no such
    baseline: a solution of another definition, cuBLAS where there is no product to make.
    """
    return [_named(task, name, solutions) for name in dict.fromkeys(names)]


def _named(task: Task, name: str, solutions: Mapping[str, Solution]) -> Baseline:
    if name in solutions and name in (*BUILT_IN, *_PARTIES):
        raise InvalidInput(
            f"the trace set's solution '{name}' cannot be a baseline: '{name}' means another one "
            "in every report; rename the solution"
        )
    if name == CUBLAS:
        found = _library_product(task)
        if isinstance(found, str):
            raise InvalidInput(f"there is no '{CUBLAS}' to compare with: {found}")
        return Baseline(name, _cublas(task, found))
    make = _OF_ANY_TASK.get(name)
    return Baseline(name, make(task) if make else _of_the_set(task, name, solutions))


def _of_the_set(task: Task, name: str, solutions: Mapping[str, Solution]) -> Solution:
    wanted = task.definition.name
    if name not in solutions:
        fitting = sorted(key for key, s in solutions.items() if s.definition == wanted)
        raise UnknownName("baseline", name, [*_offered(task), *fitting])
    solution = solutions[name]
    if solution.definition != wanted:
        raise InvalidInput(
            f"the solution '{name}' solves '{solution.definition}', so it is no baseline for "
            f"'{wanted}'"
        )
    return solution


def _offered(task: Task) -> list[str]:
    without = isinstance(_library_product(task), str)
    return [name for name in BUILT_IN if not (without and name == CUBLAS)]


def _library_product(task: Task) -> Product | str:
    """The product that cuBLAS would make, or why there is none, in a sentence's second half."""
    definition = task.definition
    if definition.op_type != "gemm":
        return f"'{definition.name}' is of type '{definition.op_type}', not 'gemm'"
    if not task.target.is_gpu:
        return f"it runs on GPUs, and the target is {task.target.name}"
    specs = (*definition.inputs.values(), *definition.outputs.values())
    dtypes = {spec.dtype.value for spec in specs}
    if len(dtypes) != 1 or not dtypes <= _CUBLAS_DTYPES:
        return (
            f"the inputs and the output of '{definition.name}' are {', '.join(sorted(dtypes))}, "
            f"and not all of one of {', '.join(sorted(_CUBLAS_DTYPES))}"
        )
    return product_of(definition) or (
        f"the reference of '{definition.name}' was not recognised as the product of two matrices"
    )


def _cublas(task: Task, product: Product) -> Solution:
    # A float32 product in TF32 would be another operation than the reference's.
    source = f'''"""The product by cuBLAS, written into the output."""

import torch

torch.set_float32_matmul_precision("highest")


def run(first, second, out):
    torch.mm({_operand(product.left)}, {_operand(product.right)}, out=out)
'''
    return _trusted(task, "cublas", {"main.py": source}, passing=True)


def _operand(factor: Factor) -> str:
    return ("first", "second")[factor.index] + (".T" if factor.transposed else "")


def _trusted(task: Task, what: str, sources: dict[str, str], *, passing: bool = False) -> Solution:
    return Solution(
        name=f"{task.definition.name}__{what}",
        definition=task.definition.name,
        author="kernel-generator",
        spec=BuildSpec(
            language=SupportedLanguages.PYTHON,
            target_hardware=[task.target.name],
            entry_point=ENTRY_POINT,
            destination_passing_style=passing,
        ),
        sources=[SourceFile(path=path, content=text) for path, text in sources.items()],
    )
