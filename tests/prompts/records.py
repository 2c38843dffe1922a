"""Small records that the prompt tests share; nothing here comes from a real data set."""

from __future__ import annotations

from flashinfer_bench.data import (
    AxisConst,
    AxisVar,
    BuildSpec,
    Definition,
    RandomInput,
    SafetensorsInput,
    ScalarInput,
    Solution,
    SourceFile,
    SupportedLanguages,
    TensorSpec,
    Workload,
)

from kernel_generator.domain.attempt import Attempt, Candidate
from kernel_generator.domain.conversation import Finish, Reply
from kernel_generator.domain.evaluation import (
    Evaluation,
    Floors,
    Interval,
    Timing,
    WorkloadEvaluation,
)
from kernel_generator.domain.outcome import Outcome
from kernel_generator.domain.proposal import Proposal, Purpose
from kernel_generator.domain.target import find_target
from kernel_generator.domain.task import Brief, Floor, Toolchain

DEFINITION = Definition(
    name="scale_h64",
    op_type="elementwise",
    description="Scales every element.",
    axes={
        "rows": AxisVar(description="How many rows."),
        "hidden": AxisConst(value=64),
    },
    inputs={
        "x": TensorSpec(shape=["rows", "hidden"], dtype="bfloat16", description="What to scale."),
        "scale": TensorSpec(shape=None, dtype="float32"),
    },
    outputs={"out": TensorSpec(shape=["rows", "hidden"], dtype="bfloat16")},
    constraints=["rows > 0"],
    reference=(
        "import torch\n\n\ndef run(x, scale):\n    return (x.float() * scale).to(torch.bfloat16)\n"
    ),
)

WORKLOADS = (
    Workload(
        axes={"rows": 3}, inputs={"x": RandomInput(), "scale": ScalarInput(value=0.5)}, uuid="small"
    ),
    Workload(
        axes={"rows": 4096},
        inputs={
            "x": SafetensorsInput(path="blob/x.safetensors", tensor_key="x"),
            "scale": ScalarInput(value=2.0),
        },
        uuid="large",
    ),
)

FLOORS = {
    "small": Floor(declared_bytes=768, compulsory_bytes=768, operations=192),
    "large": Floor(declared_bytes=1_048_576),
}

GPU_TOOLCHAIN = Toolchain(
    python="3.12.1",
    torch="2.11.0",
    triton="3.6.0",
    cuda="13.0",
    compiler="g++ 12.2.0",
    cpu="A CPU",
    cores=16,
    gpu="NVIDIA H100 80GB HBM3",
)
CPU_TOOLCHAIN = Toolchain(
    python="3.11.4",
    torch="2.13.0",
    compiler="g++ 12.2.0",
    cpu="A CPU",
    cores=2,
    vector_extensions=("avx2", "avx512f"),
)

SOURCES = {
    "triton": ("main.py", "def run(x, scale, out):\n    out.copy_(x * scale)\n"),
    "python": ("main.py", "def run(x, scale):\n    return x * scale\n"),
    "cuda": ("kernel.cu", "// a kernel\nTVM_FFI_DLL_EXPORT_TYPED_FUNC(run, Run);\n"),
    "cpp": ("kernel.cpp", "// a kernel\nTVM_FFI_DLL_EXPORT_TYPED_FUNC(run, Run);\n"),
}


def brief(language: str = "triton", target: str | None = None, **changes: object) -> Brief:
    """A brief of `DEFINITION`: on the H100 for GPU languages, on the CPU for the others."""
    chosen = find_target(target or ("H100" if language in ("triton", "cuda") else "CPU"))
    values: dict[str, object] = {
        "definition": DEFINITION,
        "workloads": WORKLOADS,
        "target": chosen,
        "language": language,
        "toolchain": GPU_TOOLCHAIN if chosen.is_gpu else CPU_TOOLCHAIN,
        "floors": FLOORS,
        "held_out": 3,
    }
    return Brief(**(values | changes))  # type: ignore[arg-type]


def reply(text: str, finish: Finish = Finish.COMPLETE, detail: str = "") -> Reply:
    """A reply of a scripted model."""
    return Reply(text=text, finish=finish, model="scripted", detail=detail)


def solution(language: str = "triton", files: dict[str, str] | None = None) -> Solution:
    """A solution of `DEFINITION` with the given files, the entry file first."""
    path, content = SOURCES[language]
    files = files or {path: content}
    return Solution(
        name="attempt",
        definition=DEFINITION.name,
        author="scripted",
        spec=BuildSpec(
            language=SupportedLanguages(language),
            target_hardware=["H100"],
            entry_point=f"{next(iter(files))}::run",
        ),
        sources=[SourceFile(path=p, content=c) for p, c in files.items()],
    )


def attempt(
    evaluation: Evaluation,
    language: str = "triton",
    files: dict[str, str] | None = None,
    purpose: Purpose = Purpose.DRAFT,
) -> Attempt:
    """An attempt whose candidate was evaluated."""
    proposal = Proposal(purpose=purpose, round=1)
    return Attempt(
        proposal=proposal,
        reply=reply("..."),
        outcome=evaluation.outcome,
        candidate=Candidate(solution=solution(language, files), proposal=proposal),
        evaluation=evaluation,
    )


def unreadable(outcome: Outcome, message: str = "", text: str = "") -> Attempt:
    """An attempt whose reply held no files."""
    return Attempt(
        proposal=Proposal(purpose=Purpose.DRAFT, round=1),
        reply=reply(text),
        outcome=outcome,
        message=message,
    )


def interval(value: float) -> Interval:
    """An interval of ±5 %."""
    return Interval(value=value, low=value * 0.95, high=value * 1.05)


def passed(first_call_us: float = 2e5, floor_us: float | None = 5.0) -> Evaluation:
    """A passed evaluation of both workloads, twice as fast as the reference."""
    workloads = tuple(
        WorkloadEvaluation(
            uuid=w.uuid,
            axes=w.axes,
            outcome=Outcome.PASSED,
            timing=Timing(
                device_us=interval(10.0), first_call_us=first_call_us, timer="cuda events"
            ),
            speedups={"reference": interval(2.0), "torch.compile": interval(0.8)},
            floors=Floors(shown_us=floor_us),
        )
        for w in WORKLOADS
    )
    return Evaluation(
        outcome=Outcome.PASSED,
        workloads=workloads,
        speedup=interval(2.0),
        baselines={"reference": interval(2.0), "torch.compile": interval(0.8)},
    )
