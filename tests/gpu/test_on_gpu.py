"""What only a CUDA GPU can show. On a machine without one these fail; they never skip."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kernel_generator import KernelGenerator, NoPassingSolution, load_traceset
from kernel_generator.domain.outcome import Outcome
from kernel_generator.models.scripted import ScriptedModel

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
REPLIES = ROOT / "examples" / "replies"


@pytest.fixture
def traceset(tmp_path):
    shutil.copytree(ROOT / "examples" / "traceset", tmp_path / "set")
    loaded, problems = load_traceset(tmp_path / "set")
    assert problems == []
    return loaded


def scripted(language, *replies):
    return KernelGenerator(language=language, model=ScriptedModel(list(replies)))


@pytest.mark.parametrize(
    "reply", sorted(p.name for p in REPLIES.glob("*.*.md")), ids=lambda name: name
)
def test_an_example_reply_passes_and_is_saved_with_traces(reply, traceset):
    name, language, _ = reply.split(".")
    generator = scripted(language, (REPLIES / reply).read_text())
    solution = generator.optimized_generate(
        traceset=traceset, definition=traceset.definitions[name], rounds=1
    )
    assert solution.evaluation.outcome is Outcome.PASSED
    assert solution.evaluation.complete
    assert solution.evaluation.device.kind == "cuda"
    generator.save(solution, traceset)
    assert len(traceset.traces[name]) == len(traceset.workloads[name])


def test_the_embedded_model_solves_a_definition(traceset):
    generator = KernelGenerator("builtin:compiler")
    solution = generator.optimized_generate(
        traceset=traceset, definition=traceset.definitions["rmsnorm_h2048"], rounds=1
    )
    assert solution.evaluation.speedup.value > 1


ILLEGAL = """<file path="main.py">
import triton, triton.language as tl

@triton.jit
def kernel(y):
    tl.store(y + tl.arange(0, 128) + (1 << 40), tl.full((128,), 1.0, tl.bfloat16))

def run(hidden_states, weight, output):
    kernel[(1,)](output)
</file>"""

HANGS = """<file path="main.py">
import triton, triton.language as tl

@triton.jit
def kernel(y, n):
    i = 0
    while i < n:
        i = tl.atomic_min(y, 0) * 0

def run(hidden_states, weight, output):
    import torch
    flag = torch.ones(1, dtype=torch.int32, device=output.device)
    kernel[(1,)](flag, 1)
</file>"""


def test_an_illegal_access_is_told_and_the_next_candidate_is_unaffected(traceset):
    good = (REPLIES / "rmsnorm_h2048.triton.md").read_text()
    generator = scripted("triton", ILLEGAL, good)
    solution = generator.optimized_generate(
        traceset=traceset, definition=traceset.definitions["rmsnorm_h2048"], rounds=2
    )
    assert solution.evaluation.outcome is Outcome.PASSED


def test_a_kernel_that_never_ends_times_out(traceset):
    from kernel_generator.evaluation.judge import Limits

    generator = KernelGenerator(
        language="triton",
        model=ScriptedModel([HANGS]),
        limits=Limits(first_call_s=20, call_s=10),
    )
    with pytest.raises(NoPassingSolution) as caught:
        generator.optimized_generate(
            traceset=traceset, definition=traceset.definitions["rmsnorm_h2048"], rounds=1
        )
    assert caught.value.attempts[0].outcome is Outcome.TIMEOUT


def test_a_claimed_device_time_that_is_impossible_is_not_credited(traceset):
    forging = """<file path="main.py">
import torch
torch.cuda.Event.elapsed_time = lambda self, other: 0.0

def run(hidden_states, weight):
    x = hidden_states.float()
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight.float()).to(
        hidden_states.dtype
    )
</file>"""
    generator = scripted("python", forging)
    with pytest.raises(NoPassingSolution) as caught:
        generator.optimized_generate(
            traceset=traceset, definition=traceset.definitions["rmsnorm_h2048"], rounds=1
        )
    assert caught.value.attempts[0].outcome is Outcome.TIMING_UNTRUSTED
