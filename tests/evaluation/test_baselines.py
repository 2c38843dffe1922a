"""Baselines by name: what each is, which a task has, and what a wrong name is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from flashinfer_bench.compile import BuilderRegistry
from flashinfer_bench.data import Definition

from kernel_generator.domain.errors import InvalidInput, UnknownName
from kernel_generator.evaluation.baselines import (
    CUBLAS,
    Baseline,
    cublas_solution,
    default_baselines,
    named_baselines,
)
from kernel_generator.evaluation.judge import Profile
from tests.adversarial.definitions import GEMM, definition
from tests.evaluation.judging import DOUBLE, solution, task

if TYPE_CHECKING:
    from kernel_generator.domain.task import Task

RIGHT = solution("def run(x):\n    return x + x\n")


def gemm(target: str = "H100", **changed: object) -> Task:
    return task(definition(GEMM).model_copy(update=changed), target=target)


def of_dtypes(a: str, b: str, c: str) -> Task:
    made = definition(GEMM).model_dump(mode="json")
    for spec, dtype in ((made["inputs"]["A"], a), (made["inputs"]["B"], b)):
        spec["dtype"] = dtype
    made["outputs"]["C"]["dtype"] = c
    return task(Definition.model_validate(made), target="H100")


def text(baseline: Baseline) -> str:
    return "\n".join(source.content for source in baseline.solution.sources)


def names(found: list[Baseline]) -> list[str]:
    return [baseline.name for baseline in found]


# --- which there are -------------------------------------------------------------------------


def test_without_a_name_there_are_the_reference_and_torch_compile() -> None:
    assert names(default_baselines(task(target="H100"))) == ["reference", "torch.compile"]


def test_a_gemm_on_a_gpu_is_compared_with_cublas_as_well() -> None:
    assert names(default_baselines(gemm())) == ["reference", "torch.compile", "cuBLAS"]
    assert names(default_baselines(gemm(target="CPU"))) == ["reference", "torch.compile"]


def test_names_are_taken_in_order_and_each_once() -> None:
    asked = ["candidate_2", "torch.compile", "candidate_2"]
    found = named_baselines(task(), asked, {"candidate_2": RIGHT})
    assert names(found) == ["candidate_2", "torch.compile"]
    assert found[0].solution is RIGHT


def test_every_baseline_solves_the_tasks_definition_under_a_name_of_its_own() -> None:
    asked = ["reference", "torch.compile", "torch.compile max-autotune", "cuBLAS"]
    found = named_baselines(gemm(), asked, {})
    assert {b.solution.definition for b in found} == {GEMM}
    assert len({b.solution.name for b in found}) == len(asked)


def test_a_profile_refuses_two_baselines_of_one_name() -> None:
    with pytest.raises(ValueError, match="a name of its own"):
        Profile(baselines=(Baseline("x", RIGHT), Baseline("x", RIGHT)))


# --- what they are ---------------------------------------------------------------------------


def test_the_reference_is_the_definitions_unchanged() -> None:
    [found] = named_baselines(task(), ["reference"], {})
    assert text(found) == DOUBLE.reference


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("torch.compile", 'mode="default"'),
        ("torch.compile max-autotune", 'mode="max-autotune-no-cudagraphs"'),
    ],
)
def test_torch_compile_is_called_in_the_mode_that_the_name_says(name: str, mode: str) -> None:
    [found] = named_baselines(task(), [name], {})
    assert mode in text(found)
    assert DOUBLE.reference in text(found)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_cublas_writes_the_references_product_into_the_output(dtype: str) -> None:
    what = of_dtypes(dtype, dtype, dtype)
    made = cublas_solution(what)
    assert made is not None
    assert made.spec.destination_passing_style
    # torch.mm is the CPU's own library here; which product it makes is the same.
    built = BuilderRegistry.get_instance().build(what.definition, made)
    a, b = (torch.randn(rows, 1024).to(getattr(torch, dtype)) for rows in (7, 1024))
    out = torch.empty(7, 1024, dtype=a.dtype)
    built(a, b, out)
    torch.testing.assert_close(out, a @ b.T)


def test_cublas_never_multiplies_float32_in_tf32() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        made = cublas_solution(of_dtypes("float32", "float32", "float32"))
        assert made is not None
        exec(made.sources[0].content, {})
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)


# --- what cannot be had ----------------------------------------------------------------------


def test_an_unknown_name_is_told_what_the_task_has() -> None:
    solutions = {"mine": RIGHT, "others": RIGHT.model_copy(update={"definition": "other"})}
    with pytest.raises(UnknownName) as raised:
        named_baselines(task(), ["tensorrt"], solutions)
    assert raised.value.choices == (
        "reference",
        "torch.compile",
        "torch.compile max-autotune",
        "mine",
    )


def test_a_slip_of_the_pen_is_told_what_was_meant() -> None:
    with pytest.raises(UnknownName, match="did you mean 'cuBLAS'"):
        named_baselines(gemm(), ["cublas"], {})


@pytest.mark.parametrize(
    ("what", "why"),
    [
        (gemm(op_type="moe"), "is of type 'moe', not 'gemm'"),
        (gemm(target="CPU"), "it runs on GPUs, and the target is CPU"),
        (of_dtypes("bfloat16", "bfloat16", "float32"), "are bfloat16, float32, and not all of one"),
        (
            gemm(reference="def run(A, B):\n    return (A @ B.T).relu()\n"),
            "was not recognised as the product of two matrices",
        ),
    ],
    ids=["another operation", "no GPU", "mixed dtypes", "more than a product"],
)
def test_cublas_is_refused_with_the_reason_where_there_is_no_product(what: Task, why: str) -> None:
    assert CUBLAS not in names(default_baselines(what))
    with pytest.raises(InvalidInput, match=why):
        named_baselines(what, ["cuBLAS"], {})


def test_a_solution_of_another_definition_is_no_baseline() -> None:
    other = RIGHT.model_copy(update={"definition": "other"})
    with pytest.raises(InvalidInput, match="'x' solves 'other', so it is no baseline for 'double'"):
        named_baselines(task(), ["x"], {"x": other})


@pytest.mark.parametrize("name", ["reference", "torch.compile", "cuBLAS", "candidate"])
def test_a_solution_with_a_name_that_means_another_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="rename the solution"):
        named_baselines(task(), [name], {name: RIGHT})


def test_a_solution_that_nobody_named_takes_no_name_away() -> None:
    found = named_baselines(task(), ["torch.compile"], {"reference": RIGHT})
    assert names(found) == ["torch.compile"]
