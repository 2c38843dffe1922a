"""What the tests of this room share: small definitions, solutions in a line, and sessions."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from flashinfer_bench.data import (
    BuildSpec,
    Definition,
    RandomInput,
    Solution,
    SourceFile,
    SupportedLanguages,
    Workload,
)

from kernel_generator.domain.target import find_target
from kernel_generator.domain.task import Task
from kernel_generator.evaluation.judge import Limits, Profile
from kernel_generator.evaluation.local import LocalJudge
from kernel_generator.evaluation.timing import TimingPlan

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from kernel_generator.evaluation.session import LocalSession

CORRECTNESS = Profile(trials=1)
BRIEF = Profile(
    timing=TimingPlan(block_s=0.001, min_blocks=3, max_blocks=3, budget_s=0.5, call_limit_s=10.0)
)
"""Measures, in a fraction of a second."""
TINY = Limits(build_s=60.0, first_call_s=8.0, call_s=3.0)

DOUBLE = Definition.model_validate(
    {
        "name": "double",
        "op_type": "elementwise",
        "axes": {"n": {"type": "var"}, "m": {"type": "const", "value": 64}},
        "inputs": {"x": {"shape": ["n", "m"], "dtype": "float32"}},
        "outputs": {"y": {"shape": ["n", "m"], "dtype": "float32"}},
        "reference": "import torch\n\ndef run(x):\n    return x * 2\n",
    }
)

SAMPLE = Definition.model_validate(
    {
        "name": "sample_top_k_top_p",
        "op_type": "sampling",
        "axes": {"batch": {"type": "var"}, "vocabulary": {"type": "const", "value": 50}},
        "inputs": {
            "probs": {"shape": ["batch", "vocabulary"], "dtype": "float32"},
            "top_k": {"shape": None, "dtype": "int32"},
            "top_p": {"shape": ["batch"], "dtype": "float32"},
        },
        "outputs": {"samples": {"shape": ["batch"], "dtype": "int64"}},
        "reference": """
import torch

def run(probs, top_k, top_p):
    p, order = probs.sort(dim=-1, descending=True)
    p[:, top_k:] = 0
    p = p / p.sum(dim=-1, keepdim=True)
    p[p.cumsum(dim=-1) - p >= top_p.unsqueeze(-1)] = 0
    return order.gather(-1, torch.multinomial(p, 1)).squeeze(-1)
""",
    }
)


def workload(uuid: str = "w", **axes: int) -> Workload:
    """A workload of `DOUBLE`."""
    return Workload(axes=axes or {"n": 5}, inputs={"x": RandomInput()}, uuid=uuid)


def solution(
    source: str,
    *,
    language: str = "python",
    passing: bool = False,
    entry: str = "",
    definition: str = "double",
) -> Solution:
    """A solution of one file. `passing`: it is given its outputs (destination passing)."""
    path = {"cpp": "kernel.cpp", "cuda": "kernel.cu"}.get(language, "main.py")
    return Solution(
        name="candidate",
        definition=definition,
        author="test",
        spec=BuildSpec(
            language=SupportedLanguages(language),
            target_hardware=["any"],
            entry_point=entry or f"{path}::run",
            destination_passing_style=passing,
            binding="tvm-ffi" if language in ("cpp", "cuda") else None,
        ),
        sources=[SourceFile(path=path, content=source)],
    )


def task(
    definition: Definition = DOUBLE,
    searched: Sequence[Workload] = (),
    held_out: Sequence[Workload] = (),
    *,
    target: str = "CPU",
    language: str = "python",
    root: Path | None = None,
) -> Task:
    """A task with one workload, if none are given."""
    return Task(
        definition=definition,
        searched=tuple(searched) or (workload(),),
        held_out=tuple(held_out),
        target=find_target(target),
        language=language,
        root=root,
    )


@contextmanager
def opened(what: Task, limits: Limits = TINY) -> Generator[LocalSession]:
    """A prepared session that is closed at the end."""
    session = LocalJudge(limits).open(what)
    try:
        session.prepare()
        yield session
    finally:
        session.close()
