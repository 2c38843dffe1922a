"""`optimized_generate` and `evaluate`: what goes in, what comes out, and why a run ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from flashinfer_bench import TraceSet

from kernel_generator import NoPassingSolution
from kernel_generator.domain.errors import (
    InvalidInput,
    ProviderUnavailable,
    ScriptExhausted,
)
from kernel_generator.domain.events import Attempted
from kernel_generator.domain.outcome import Outcome
from kernel_generator.domain.proposal import Purpose
from kernel_generator.evaluation.toolchain import find_cuda
from kernel_generator.evaluation.workloads import split_workloads
from kernel_generator.models.scripted import ScriptedModel
from kernel_generator.runs.tracesets import load_traceset, workloads_of
from kernel_generator.verdict import evaluate
from tests.cli.commands import descendants, is_alive
from tests.desk import a_desk, generator_of, optimize, without_a_gpu
from tests.running import NEVER_ENDS, ctrl_c_once_one_runs
from tests.runs.sets import (
    RIGHT,
    WRONG,
    a_solution,
    a_traceset,
    python_reply,
    write_definition,
)

if TYPE_CHECKING:
    from pathlib import Path

    from kernel_generator.domain.conversation import Reply, Request


pytestmark = pytest.mark.usefixtures("bare_environment")
SLOW_CODE = python_reply(
    "def run(x):\n    for _ in range(100):\n        y = x * 2 + 1\n    return y\n"
)


# --- optimized_generate ----------------------------------------------------------------------


@pytest.mark.slow
def test_nothing_passing_raises_with_every_attempt(tmp_path: Path) -> None:
    desk = a_desk("no code", WRONG)
    with pytest.raises(NoPassingSolution) as raised:
        optimize(desk, a_traceset(tmp_path), rounds=2)
    assert str(raised.value) == (
        "All attempts failed for scale_add - SKIPPING (2 attempts: MALFORMED_REPLY, WRONG_VALUES; "
        "the last: an output differs from the reference beyond tolerance)"
    )
    unreadable, wrong = raised.value.attempts
    assert unreadable.candidate is None
    assert wrong.candidate is not None
    assert wrong.evaluation is not None
    assert wrong.evaluation.workloads[0].mismatches[0].output == "y"
    assert desk.generator.interrupted == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_best_of_all_rounds_is_returned_whichever_came_first(tmp_path: Path) -> None:
    desk = a_desk(SLOW_CODE, RIGHT, SLOW_CODE)
    # Calls of 4 ms, and of a hundred: a busy machine's pauses are no longer than the difference.
    traceset = a_traceset(tmp_path, sizes=(1_000_000,))
    solution = optimize(desk, traceset, rounds=3, keep_improving=True)
    assert desk.outcomes == [Outcome.PASSED] * 3
    assert "range(100)" not in solution.sources[0].content
    assert solution.evaluation is not None
    assert solution.evaluation.complete
    assert [e.is_best for e in desk.events if isinstance(e, Attempted)] == [True, True, False]
    assert "torch.compile" in solution.evaluation.baselines


@pytest.mark.slow
def test_a_target_speedup_ends_the_run_where_it_is_reached(tmp_path: Path) -> None:
    # About 0.04 and 0.6 of the reference, whose values are stored for it; apart on a busy machine.
    desk = a_desk(SLOW_CODE, RIGHT)
    traceset = a_traceset(tmp_path, sizes=(1_000_000,))
    solution = optimize(desk, traceset, rounds=5, target_speedup=0.25)
    assert desk.reason == "the target of 0.25x was reached"
    assert len(desk.model.asked) == 2
    assert desk.model.asked[1].proposal.purpose is Purpose.IMPROVE
    path = desk.generator.save(solution, traceset)
    again = TraceSet.from_path(str(tmp_path))
    assert again.get_solution(solution.name) == solution
    assert len(again.traces["scale_add"]) == 1
    origin = json.loads(json.loads(path.read_text())["description"].splitlines()[-1])
    assert origin["round"] == 2
    assert origin["outcome"] == "PASSED"
    assert origin["target"] == "CPU"
    assert origin["author"] == "scripted"
    assert origin["run_id"] in solution.name


@pytest.mark.slow
def test_a_version_that_fails_on_a_held_out_workload_is_told_so(tmp_path: Path) -> None:
    traceset = a_traceset(tmp_path, sizes=(1, 2, 3, 4, 5, 6))
    definition = traceset.definitions["scale_add"]
    _, held_out = split_workloads(definition, workloads_of(traceset, "scale_add"))
    size = held_out[0].axes["n"]
    overfitted = f"def run(x):\n    y = x * 2 + 1\n    return y - 1 if len(x) == {size} else y\n"
    # A target that is not here is not timed, so this takes seconds.
    desk = a_desk(python_reply(overfitted), RIGHT, target="H100")
    solution = optimize(desk, traceset, rounds=3)
    assert desk.outcomes[0] is Outcome.WRONG_VALUES
    told = desk.model.asked[1].messages[-1].text
    assert f"n={size} (a held-out size)" in told
    assert f"n={size}" not in desk.model.asked[0].messages[-1].text
    assert solution.evaluation is not None
    assert len(solution.evaluation.workloads) == 6


def test_optimized_generate_has_an_async_twin(tmp_path: Path) -> None:
    traceset = a_traceset(tmp_path)
    desk = a_desk("", "")
    work = desk.generator.optimized_generate_async(
        traceset=traceset, definition=traceset.definitions["scale_add"], rounds=2
    )
    with pytest.raises(NoPassingSolution):
        asyncio.run(work)
    assert desk.outcomes == [Outcome.EMPTY_REPLY] * 2


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        ({"rounds": 0}, "rounds is 0: give at least 1"),
        ({"rounds": -3}, "rounds is -3: give at least 1"),
        ({"target_speedup": 0.0}, "target_speedup is 0.0: give more than 0"),
        ({"target_speedup": float("nan")}, "target_speedup is nan: give more than 0"),
    ],
)
def test_an_impossible_goal_is_refused_before_anything_is_asked(
    tmp_path: Path, goal: dict[str, Any], words: str
) -> None:
    desk = a_desk()
    with pytest.raises(InvalidInput, match=words):
        optimize(desk, a_traceset(tmp_path), **goal)
    assert desk.events == []


def test_a_model_that_cannot_be_asked_further_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ScriptExhausted, match="add replies"):
        optimize(a_desk("no code"), a_traceset(tmp_path), rounds=2)


# --- Ctrl-C ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_interrupted_run_leaves_its_best_result(tmp_path: Path) -> None:
    class Stalls(ScriptedModel):
        async def ask(self, request: Request) -> Reply:
            if len(self.asked) == 1:
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.Event().wait()
            return await super().ask(request)

    traceset = a_traceset(tmp_path, sizes=(3,))
    generator = generator_of(Stalls([RIGHT]))
    with pytest.raises(KeyboardInterrupt):
        generator.optimized_generate(
            traceset=traceset,
            definition=traceset.definitions["scale_add"],
            rounds=3,
            keep_improving=True,
        )
    [best] = generator.interrupted
    assert best.evaluation is not None
    assert best.evaluation.outcome is Outcome.PASSED


# --- a target that is not here ---------------------------------------------------------------

TRITON = python_reply(
    """
import triton
import triton.language as tl


@triton.jit
def kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    tl.store(y_ptr + at, x * 2 + 1, mask=at < n)


def run(x, y):
    kernel[(triton.cdiv(x.numel(), 128),)](x, y, x.numel(), BLOCK=128)
"""
)
CUDA = """```cuda kernel.cu
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>

__global__ void scale_add(const float* x, float* y, int64_t n) {
  int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i < n) y[i] = x[i] * 2 + 1;
}

void Run(tvm::ffi::TensorView x, tvm::ffi::TensorView y) {
  int64_t n = x.numel();
  scale_add<<<(n + 255) / 256, 256>>>(static_cast<const float*>(x.data_ptr()),
                                      static_cast<float*>(y.data_ptr()), n);
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, Run);
```
"""


@without_a_gpu
@pytest.mark.slow
def test_triton_for_an_absent_gpu_is_checked_saved_and_never_called_measured(
    tmp_path: Path,
) -> None:
    traceset = a_traceset(tmp_path)
    desk = a_desk(TRITON, target="H100", language="triton")
    solution = optimize(desk, traceset, rounds=5, keep_improving=True)
    assert desk.outcomes == [Outcome.CORRECT_NOT_MEASURED]
    assert solution.evaluation is not None
    assert solution.evaluation.speedup is None
    desk.generator.save(solution, traceset)
    again = TraceSet.from_path(str(tmp_path))
    saved = again.get_solution(solution.name)
    assert saved is not None
    assert saved.spec.target_hardware == ["H100"]
    assert "speedup" not in (saved.description or "")
    assert again.traces == {}


@without_a_gpu
@pytest.mark.slow
@pytest.mark.skipif(find_cuda() is None, reason="needs nvcc")
def test_cuda_for_an_absent_gpu_is_compiled_and_the_run_ends_there(tmp_path: Path) -> None:
    desk = a_desk(CUDA, target="H100", language="cuda")
    with pytest.raises(NoPassingSolution) as raised:
        optimize(desk, a_traceset(tmp_path), rounds=5)
    assert [a.outcome for a in raised.value.attempts] == [Outcome.BUILT_NOT_RUN]
    assert "compiled for the target, which is not on this machine" in str(raised.value)
    assert "needs a machine with H100" in str(raised.value)
    assert desk.reason == "nothing more can be found out on this machine"


# --- evaluate --------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_given_solution_is_judged_on_all_workloads(tmp_path: Path) -> None:
    traceset = a_traceset(tmp_path, sizes=(1, 2, 3, 4, 5, 6))
    verdict = evaluate(traceset, traceset.definitions["scale_add"], a_solution(), target_gpu="H100")
    assert verdict.outcome.is_result
    assert verdict.complete
    assert len(verdict.workloads) == 6


# --- a run that cannot go on -----------------------------------------------------------------


def test_a_provider_that_gives_up_tells_what_had_been_tried(tmp_path: Path) -> None:
    desk = a_desk("no code", ProviderUnavailable("is down"))
    with pytest.raises(ProviderUnavailable) as raised:
        optimize(desk, a_traceset(tmp_path), rounds=3)
    assert [a.outcome for a in raised.value.attempts] == [Outcome.MALFORMED_REPLY]


@without_a_gpu
@pytest.mark.slow
def test_two_versions_in_a_row_that_cannot_be_tried_here_end_the_run(tmp_path: Path) -> None:
    needs_a_gpu = python_reply("def run(x):\n    return (x.cuda() * 2 + 1).cpu()\n")
    desk = a_desk(needs_a_gpu, "no code", needs_a_gpu, needs_a_gpu, RIGHT, target="H100")
    with pytest.raises(NoPassingSolution, match="could not be tried on this machine"):
        optimize(desk, a_traceset(tmp_path), rounds=5)
    assert desk.outcomes == [
        *(Outcome.NOT_RUN, Outcome.MALFORMED_REPLY),
        *(Outcome.NOT_RUN, Outcome.NOT_RUN),
    ]
    assert desk.reason.startswith("2 versions in a row could not be tried here: ")


@pytest.mark.timeout(120)
def test_ctrl_c_while_the_reference_runs_stops_at_once_and_leaves_no_process(
    tmp_path: Path,
) -> None:
    before = descendants(os.getpid())
    write_definition(tmp_path, "scale_add", reference=NEVER_ENDS)
    desk = a_desk()
    with pytest.raises(KeyboardInterrupt), ctrl_c_once_one_runs():
        optimize(desk, load_traceset(tmp_path)[0])
    assert [pid for pid in descendants(os.getpid()) - before if is_alive(pid)] == []
    assert desk.model.asked == []
