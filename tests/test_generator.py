"""The public face: what goes in, what comes out, and what is said where nothing can."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import flashinfer_bench
import pytest
from flashinfer_bench import TraceSet

from kernel_generator import GeneratedSolution, KernelGenerator, NoPassingSolution
from kernel_generator.domain.conversation import Finish, Reply
from kernel_generator.domain.errors import (
    IncompleteGeneration,
    InvalidInput,
    MissingKey,
    NoWorkloads,
    ProviderUnavailable,
    ReferenceFailed,
    ScriptExhausted,
    UnknownName,
)
from kernel_generator.domain.events import Attempted, RunFinished
from kernel_generator.domain.outcome import Outcome
from kernel_generator.domain.proposal import Purpose
from kernel_generator.evaluation.toolchain import find_cuda, gpu_name
from kernel_generator.evaluation.workloads import split_workloads
from kernel_generator.generator import evaluate
from kernel_generator.models.scripted import ScriptedModel
from kernel_generator.models.settings import Settings
from kernel_generator.runs.blocking import run_blocking
from kernel_generator.runs.tracesets import load_traceset, workloads_of
from tests.runs.sets import (
    OP_TYPE,
    RIGHT,
    WRONG,
    a_solution,
    a_traceset,
    python_reply,
    workload_line,
    write_definition,
)

if TYPE_CHECKING:
    from pathlib import Path

    from kernel_generator.domain.conversation import Request
    from kernel_generator.domain.events import Event
    from kernel_generator.models.protocol import LanguageModel

without_a_gpu = pytest.mark.skipif(
    gpu_name() is not None, reason="says what happens on a machine without a GPU"
)
SLOW_CODE = python_reply(
    "def run(x):\n    for _ in range(30):\n        y = x * 2 + 1\n    return y\n"
)


@pytest.fixture(autouse=True)
def bare_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory and no key."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@dataclass
class Desk:
    """A generator, what it was told and what it tells."""

    generator: KernelGenerator
    model: ScriptedModel
    events: list[Event] = field(default_factory=list)

    @property
    def outcomes(self) -> list[Outcome]:
        return [e.attempt.outcome for e in self.events if isinstance(e, Attempted)]

    @property
    def reason(self) -> str:
        return next(e.reason for e in self.events if isinstance(e, RunFinished))


def a_desk(*replies: Any, target: str = "CPU", language: str = "python") -> Desk:
    """A generator whose model answers with `replies` in turn, or as one function says."""
    script = replies[0] if len(replies) == 1 and callable(replies[0]) else list(replies)
    model, events = ScriptedModel(script), []
    made = KernelGenerator(
        model=model, language=language, target_gpu=target, on_event=events.append
    )
    return Desk(made, model, events)


def optimize(desk: Desk, traceset: TraceSet, **goal: Any) -> GeneratedSolution:
    return desk.generator.optimized_generate(
        traceset=traceset, definition=traceset.definitions["scale_add"], **goal
    )


# --- generate --------------------------------------------------------------------------------


class Gathering:
    """A model that answers nobody before everybody has asked."""

    name = "gathering/model:1"

    def __init__(self, size: int) -> None:
        self._size = size
        self._all_here = asyncio.Event()
        self.asked: list[Request] = []

    async def ask(self, request: Request) -> Reply:
        self.asked.append(request)
        if len(self.asked) == self._size:
            self._all_here.set()
        await self._all_here.wait()
        return Reply(RIGHT, Finish.COMPLETE, self.name)

    async def close(self) -> None:
        """Nothing to close."""


def generator_of(model: LanguageModel) -> KernelGenerator:
    return KernelGenerator(model=model, language="python", target_gpu="CPU")


@pytest.mark.timeout(60)
def test_samples_are_asked_for_concurrently_and_know_nothing_of_each_other(tmp_path: Path) -> None:
    model = Gathering(3)
    solutions = generator_of(model).generate(
        a_traceset(tmp_path).definitions["scale_add"], pass_k=3
    )
    assert len(solutions) == 3
    assert [r.proposal.purpose for r in model.asked] == [Purpose.DRAFT] * 3
    assert len({r.messages for r in model.asked}) == 1
    assert len({s.name for s in solutions}) == 3


def test_generated_solutions_are_real_ones_and_unevaluated(tmp_path: Path) -> None:
    traceset = a_traceset(tmp_path)
    [solution] = generator_of(Gathering(1)).generate(traceset.definitions["scale_add"])
    assert isinstance(solution, flashinfer_bench.Solution)
    assert solution.evaluation is None
    assert solution.author == "gathering/model:1"
    assert flashinfer_bench.Solution.model_validate_json(solution.to_json()) == solution


def test_workloads_given_to_generate_are_told_to_the_model(tmp_path: Path) -> None:
    traceset = a_traceset(tmp_path, sizes=(3, 12345))
    desk = a_desk(RIGHT)
    desk.generator.generate(
        traceset.definitions["scale_add"], workloads=workloads_of(traceset, "scale_add")
    )
    assert "n=12345" in desk.model.asked[0].messages[-1].text


def test_what_could_be_read_is_kept_where_something_could_not(tmp_path: Path) -> None:
    desk = a_desk(lambda request: "no code" if request.proposal.sample == 1 else RIGHT)
    with pytest.raises(IncompleteGeneration, match="2 of 3 solutions could be read") as raised:
        desk.generator.generate(a_traceset(tmp_path).definitions["scale_add"], pass_k=3)
    assert len(raised.value.solutions) == 2
    assert [a.outcome for a in raised.value.attempts] == [Outcome.MALFORMED_REPLY]


def test_an_unreadable_sample_is_asked_once_more_with_the_reason(tmp_path: Path) -> None:
    desk = a_desk("no code", RIGHT)
    assert len(desk.generator.generate(a_traceset(tmp_path).definitions["scale_add"])) == 1
    assert "The reply holds no code block." in desk.model.asked[1].messages[-1].text


def test_a_provider_that_fails_some_samples_keeps_the_others(tmp_path: Path) -> None:
    desk = a_desk(ProviderUnavailable("is down"), RIGHT)
    with pytest.raises(IncompleteGeneration, match="1 of 2 solutions could be read; is down"):
        desk.generator.generate(a_traceset(tmp_path).definitions["scale_add"], pass_k=2)


def test_a_provider_that_fails_all_samples_is_the_error(tmp_path: Path) -> None:
    desk = a_desk(ProviderUnavailable("is down"), ProviderUnavailable("is down"))
    with pytest.raises(ProviderUnavailable, match="is down"):
        desk.generator.generate(a_traceset(tmp_path).definitions["scale_add"], pass_k=2)


@pytest.mark.parametrize("pass_k", [0, -1])
def test_no_solution_cannot_be_asked_for(tmp_path: Path, pass_k: int) -> None:
    desk = a_desk()
    with pytest.raises(InvalidInput, match=f"pass_k is {pass_k}: ask for at least 1"):
        desk.generator.generate(a_traceset(tmp_path).definitions["scale_add"], pass_k=pass_k)


def test_generate_has_an_async_twin(tmp_path: Path) -> None:
    definition = a_traceset(tmp_path).definitions["scale_add"]
    solutions = asyncio.run(generator_of(Gathering(2)).generate_async(definition, pass_k=2))
    assert len(solutions) == 2


def test_the_synchronous_one_works_inside_a_running_event_loop(tmp_path: Path) -> None:
    definition = a_traceset(tmp_path).definitions["scale_add"]

    async def notebook() -> list[GeneratedSolution]:
        return generator_of(Gathering(2)).generate(definition, pass_k=2)

    assert len(asyncio.run(notebook())) == 2


def test_the_embedded_model_proposes_a_different_mode_for_each_sample(tmp_path: Path) -> None:
    generator = KernelGenerator(target_gpu="CPU")
    assert generator.model_name == "builtin:compiler"
    definition = a_traceset(tmp_path).definitions["scale_add"]
    solutions = generator.generate(definition, pass_k=3)
    assert len({s.sources[0].content for s in solutions}) == 3
    assert all("torch.compile(reference.run" in s.sources[0].content for s in solutions)
    with pytest.raises(IncompleteGeneration, match="all 3 modes were proposed") as raised:
        generator.generate(definition, pass_k=40)
    assert len(raised.value.solutions) == 3


# --- Ctrl-C ----------------------------------------------------------------------------------


def test_ctrl_c_inside_a_running_event_loop_stops_the_work_too() -> None:
    main, seen = threading.main_thread().ident, []

    async def work() -> None:
        try:
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def notebook() -> None:
        run_blocking(work())

    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(notebook())
    finally:
        loop.close()
    assert seen == ["cancelled"]


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
    assert generator.interrupted is not None
    assert generator.interrupted.evaluation is not None
    assert generator.interrupted.evaluation.outcome is Outcome.PASSED


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
    assert desk.generator.interrupted is None


@pytest.mark.slow
def test_the_best_of_all_rounds_is_returned_whichever_came_first(tmp_path: Path) -> None:
    desk = a_desk(SLOW_CODE, RIGHT, SLOW_CODE)
    solution = optimize(desk, a_traceset(tmp_path, sizes=(100_000,)), rounds=3, keep_improving=True)
    assert desk.outcomes == [Outcome.PASSED] * 3
    assert "range(30)" not in solution.sources[0].content
    assert solution.evaluation is not None
    assert solution.evaluation.complete
    assert [e.is_best for e in desk.events if isinstance(e, Attempted)] == [True, True, False]
    assert "torch.compile" in solution.evaluation.baselines


@pytest.mark.slow
def test_a_target_speedup_ends_the_run_where_it_is_reached(tmp_path: Path) -> None:
    desk = a_desk(SLOW_CODE, RIGHT)
    traceset = a_traceset(tmp_path, sizes=(100_000,))
    solution = optimize(desk, traceset, rounds=5, target_speedup=0.5)
    assert desk.reason == "the target of 0.5x was reached"
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


# --- what cannot be worked on ----------------------------------------------------------------


def test_a_definition_without_workloads_is_skipped_with_the_documented_sentence(
    tmp_path: Path,
) -> None:
    desk = a_desk()
    with pytest.raises(NoWorkloads) as raised:
        optimize(desk, a_traceset(tmp_path, sizes=()))
    assert str(raised.value) == "No workloads found for definition 'scale_add' - SKIPPING"


def test_a_missing_blob_is_named_with_what_to_do(tmp_path: Path) -> None:
    blob = {"type": "safetensors", "path": "./blob/gone.safetensors", "tensor_key": "x"}
    write_definition(tmp_path, "scale_add", sizes=())
    file = tmp_path / "workloads" / OP_TYPE / "scale_add.jsonl"
    file.write_text(workload_line("scale_add", 3, blob) + "\n")
    with pytest.raises(NoWorkloads, match=r"\./blob/gone\.safetensors, which is missing: download"):
        optimize(a_desk(), load_traceset(tmp_path)[0])


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("def run(x):\n    raise ValueError('broken by its author')", "broken by its author"),
        ("import a_module_nobody_has\ndef run(x): ...", "a_module_nobody_has"),
        pytest.param("def run(x):\n    return x.cuda() * 2", "CUDA", marks=without_a_gpu),
    ],
    ids=["raises", "does not import", "needs a GPU"],
)
def test_a_reference_that_fails_is_the_definitions_fault_and_costs_no_reply(
    tmp_path: Path, reference: str, words: str
) -> None:
    write_definition(tmp_path, "scale_add", reference=reference)
    desk = a_desk()
    with pytest.raises(ReferenceFailed, match=f"(?s)the reference of 'scale_add'.*{words}"):
        optimize(desk, load_traceset(tmp_path)[0])
    assert desk.model.asked == []


# --- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"language": "tritn"}, "unknown language 'tritn': did you mean 'triton'"),
        ({"target_gpu": "H10"}, "unknown target 'H10': did you mean 'H100'"),
        ({"model_name": "builtin:compile"}, "did you mean 'builtin:compiler'"),
    ],
)
def test_an_unknown_name_offers_the_closest(settings: dict[str, str], words: str) -> None:
    with pytest.raises(UnknownName, match=words):
        KernelGenerator(**settings)


def test_a_missing_key_is_said_in_the_documented_words() -> None:
    with pytest.raises(MissingKey) as raised:
        KernelGenerator(model_name="gpt-4o", language="triton", target_gpu="H100")
    assert str(raised.value) == (
        "Please set LLM_API_KEY environment variable or modify this script to pass api_key "
        "explicitly"
    )


def test_a_key_without_a_model_is_not_silently_left_unused() -> None:
    with pytest.raises(InvalidInput, match=r"a key is set .* but no model is named"):
        KernelGenerator(api_key="sk-something")


def test_the_embedded_model_writes_no_other_language() -> None:
    with pytest.raises(InvalidInput, match=r"writes python .*, not cuda: leave the language out"):
        KernelGenerator("builtin:compiler", language="cuda", target_gpu="H100")


@pytest.mark.parametrize(("target", "language"), [("H100", "triton"), ("CPU", "cpp")])
def test_the_language_follows_from_the_target(target: str, language: str) -> None:
    made = KernelGenerator(model=ScriptedModel([]), target_gpu=target)
    assert made.language == language


def test_the_target_may_be_written_in_any_case() -> None:
    assert KernelGenerator(model=ScriptedModel([]), target_gpu="rtx4090").target.name == "RTX4090"


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
    assert desk.reason == "nothing more can be found out on this machine"


# --- evaluate --------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_given_solution_is_judged_on_all_workloads(tmp_path: Path) -> None:
    traceset = a_traceset(tmp_path, sizes=(1, 2, 3, 4, 5, 6))
    verdict = evaluate(traceset, traceset.definitions["scale_add"], a_solution(), target_gpu="H100")
    assert verdict.outcome.is_result
    assert verdict.complete
    assert len(verdict.workloads) == 6
