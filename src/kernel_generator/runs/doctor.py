"""Looks at this machine: what works, what does not, and what to do about the rest.

A key's presence is told, never its value.
"""

from __future__ import annotations

import platform
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from flashinfer_bench.data import Definition, RandomInput, Workload

from kernel_generator.domain.errors import KernelGeneratorError
from kernel_generator.domain.target import TARGETS, target_of_device
from kernel_generator.domain.task import Task
from kernel_generator.evaluation.judge import Limits, Profile
from kernel_generator.evaluation.local import LocalJudge, reference_solution
from kernel_generator.evaluation.toolchain import cutlass_includes, find_cuda, find_toolchain
from kernel_generator.models.settings import Settings, read_settings
from kernel_generator.sandbox.worker import LACKED, LEVEL

if TYPE_CHECKING:
    from kernel_generator.domain.target import Target


class Status(StrEnum):
    """What a check found."""

    WORKS = "works"
    LIMITED = "limited"
    MISSING = "missing"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Status
    detail: str
    advice: str = ""
    """What to do about it; empty where there is nothing to do."""


def diagnose() -> list[Check]:
    """All checks, in the order a person reads them. Starts a sandbox; takes some seconds."""
    return [*_packages(), *_compilers(), _gpu(), *_sandbox(), *_keys()]


def _packages() -> list[Check]:
    found = [Check("python", Status.WORKS, platform.python_version())]
    for package, purpose in (
        ("torch", "references, the embedded model"),
        ("flashinfer-bench", "definitions, solutions, builders"),
        ("openai", "language models"),
        ("triton", "Triton kernels"),
    ):
        try:
            found.append(Check(package, Status.WORKS, metadata.version(package)))
        except metadata.PackageNotFoundError:
            found.append(
                Check(package, Status.MISSING, f"needed for {purpose}", f"pip install {package}")
            )
    return found


def _compilers() -> list[Check]:
    toolchain = find_toolchain()
    compiler = (
        Check("C++ compiler", Status.WORKS, toolchain.compiler)
        if toolchain.compiler
        else Check(
            "C++ compiler",
            Status.MISSING,
            "needed for C++ kernels and for torch.compile on the CPU",
            "install g++ (apt install g++)",
        )
    )
    cuda = find_cuda()
    if cuda is None:
        return [
            compiler,
            Check(
                "nvcc",
                Status.MISSING,
                "needed for CUDA kernels",
                "install the CUDA toolkit, or set CUDA_HOME to where it is",
            ),
        ]
    release = ".".join(str(part) for part in cuda.release)
    unserved = [
        t.name
        for t in TARGETS.values()
        if t.is_gpu and (cuda.release < t.min_cuda or (t.last_cuda and cuda.release > t.last_cuda))
    ]
    headers = cutlass_includes()
    return [
        compiler,
        Check(
            "nvcc",
            Status.LIMITED if unserved else Status.WORKS,
            f"{release} in {cuda.home}",
            f"does not serve {', '.join(unserved)}" if unserved else "",
        ),
        Check("CUTLASS headers", Status.WORKS, str(headers[0]))
        if headers
        else Check(
            "CUTLASS headers",
            Status.MISSING,
            "kernels that include cute/ or cutlass/ will not build",
            "pip install flashinfer-python",
        ),
        Check(
            "apply",
            Status.LIMITED,
            "flashinfer_bench.apply builds CUDA and C++ solutions anew, with its own flags",
            "give the serving process the build_environment that each saved solution states",
        ),
    ]


def _gpu() -> Check:
    toolchain = find_toolchain()
    if toolchain.gpu is None:
        return Check(
            "GPU",
            Status.MISSING,
            f"none visible; the target is the CPU ({toolchain.cpu}, {toolchain.cores} cores)",
            "Triton kernels are checked in the interpreter and CUDA kernels compiled only; "
            "nothing of either is measured",
        )
    target = target_of_device(toolchain.gpu)
    if target is None:
        return Check(
            "GPU",
            Status.LIMITED,
            f"{toolchain.gpu} is not in the table of targets",
            "known: " + ", ".join(t.name for t in TARGETS.values() if t.is_gpu),
        )
    return Check("GPU", Status.WORKS, f"{toolchain.gpu} (target {target.name})")


def _sandbox() -> list[Check]:
    toolchain = find_toolchain()
    devices = [TARGETS["CPU"]]
    known = target_of_device(toolchain.gpu) if toolchain.gpu else None
    if known is not None:
        devices.append(known)
    return [
        *(_probe(target) for target in devices),
        Check(
            "isolation",
            Status.LIMITED,
            f"level '{LEVEL}': a process of its own, scrubbed environment, private files; "
            f"lacks {', '.join(LACKED)}",
            "run kernels of authors you do not trust inside a virtual machine",
        ),
    ]


def _probe(target: Target) -> Check:
    """Judge a real kernel that cannot be wrong: the reference against itself."""
    name = f"judge on {'the GPU' if target.is_gpu else 'the CPU'}"
    definition = Definition.model_validate(
        {
            "name": "probe",
            "op_type": "probe",
            "axes": {"n": {"type": "var"}},
            "inputs": {"x": {"shape": ["n"], "dtype": "float32"}},
            "outputs": {"y": {"shape": ["n"], "dtype": "float32"}},
            "reference": "def run(x):\n    return x * 2 + 1\n",
        }
    )
    workload = Workload(axes={"n": 4096}, inputs={"x": RandomInput()}, uuid="probe")
    root = Path(tempfile.gettempdir())
    task = Task(definition, (workload,), (), target, "python", root)
    try:
        session = LocalJudge(Limits(build_s=120, first_call_s=60)).open(task)
    except KernelGeneratorError as error:
        return Check(name, Status.MISSING, str(error))
    try:
        verdict = session.evaluate(reference_solution(task), Profile(trials=1))
    finally:
        session.close()
    if verdict.outcome.is_result:
        return Check(name, Status.WORKS, f"a real kernel was judged in {verdict.seconds:.1f} s")
    return Check(name, Status.MISSING, f"{verdict.outcome.value}: {verdict.message[-300:]}")


def _keys() -> list[Check]:
    settings = read_settings()
    found: list[Check] = []
    for field in Settings.model_fields:
        if field == "base_url":
            continue
        variable = field.upper()
        present = settings.key(variable) is not None
        found.append(
            Check(
                variable,
                Status.WORKS if present else Status.MISSING,
                "present" if present else "not set",
            )
        )
    base = settings.base_url
    found.append(
        Check("BASE_URL", Status.WORKS if base else Status.MISSING, base if base else "not set")
    )
    if all(c.status is Status.MISSING for c in found):
        found.append(
            Check(
                "language model",
                Status.LIMITED,
                "no key: only the embedded model 'builtin:compiler' can be asked",
                "set LLM_API_KEY in the environment or in .env",
            )
        )
    return found
