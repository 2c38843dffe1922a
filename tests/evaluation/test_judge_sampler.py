"""Samplers, end to end: the right one passes, each way of being wrong is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from flashinfer_bench.data import RandomInput, SafetensorsInput, ScalarInput, Workload
from safetensors.torch import save_file

from kernel_generator.domain.outcome import Outcome
from tests.evaluation.judging import BRIEF, SAMPLE, opened, solution, task

if TYPE_CHECKING:
    from collections.abc import Generator

    from kernel_generator.domain.evaluation import Evaluation
    from kernel_generator.evaluation.session import LocalSession

TOP_K = "p[:, top_k:] = 0"
TOP_P = "p[p.cumsum(dim=-1) - p >= top_p.unsqueeze(-1)] = 0"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Generator[LocalSession]:
    root = tmp_path_factory.mktemp("traceset")
    save_file({"p": torch.full((8,), 0.7)}, root / "p.safetensors")
    which = Workload(
        axes={"batch": 8},
        inputs={
            "probs": RandomInput(),
            "top_k": ScalarInput(value=20),
            "top_p": SafetensorsInput(path="p.safetensors", tensor_key="p"),
        },
        uuid="w",
    )
    with opened(task(SAMPLE, [which], root=root)) as found:
        yield found


def judged(session: LocalSession, *steps: str) -> Evaluation:
    source = SAMPLE.reference
    for old, new in zip(steps[::2], steps[1::2], strict=True):
        assert old in source
        source = source.replace(old, new)
    return session.evaluate(solution(source, definition=SAMPLE.name), BRIEF)


def test_the_reference_itself_passes(session: LocalSession) -> None:
    assert judged(session).outcome is Outcome.PASSED


def test_another_right_sampler_passes(session: LocalSession) -> None:
    # The largest of p / exponential draws: the Gumbel trick.
    other = "(p / torch.empty_like(p).exponential_()).argmax(dim=-1, keepdim=True)"
    assert judged(session, "torch.multinomial(p, 1)", other).outcome is Outcome.PASSED


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("torch.multinomial(p, 1)", "p.argmax(dim=-1, keepdim=True)", "do not follow"),
        ("torch.multinomial(p, 1)", "torch.multinomial((p > 0).float(), 1)", "do not follow"),
        (TOP_P, "pass", "which the filters exclude"),
        (TOP_K, "p[:, top_k + 1:] = 0", "which the filters exclude"),
        (".squeeze(-1)", ".squeeze(-1) * 0 - 1", "sample -1 is not a token"),
    ],
    ids=[
        "greedy",
        "uniform",
        "top-p ignored",
        "top-k off by one",
        "no token",
    ],
)
def test_a_wrong_sampler_fails(session: LocalSession, old: str, new: str, says: str) -> None:
    found = judged(session, old, new)
    assert found.outcome is Outcome.WRONG_VALUES
    assert says in found.message
