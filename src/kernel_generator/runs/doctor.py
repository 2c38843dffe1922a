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

from flashinfer_bench.data import (
    BuildSpec,
    Definition,
    RandomInput,
    Solution,
    SourceFile,
    SupportedBindings,
    SupportedLanguages,
    Workload,
)

from kernel_generator.domain.errors import InvalidInput, KernelGeneratorError
from kernel_generator.domain.target import TARGETS, target_of_device
from kernel_generator.domain.task import Task
from kernel_generator.evaluation.judge import Limits, Profile
from kernel_generator.evaluation.local import LocalJudge
from kernel_generator.evaluation.toolchain import (
    check_target,
    cutlass_includes,
    find_cuda,
    find_toolchain,
)
from kernel_generator.models.address import shown
from kernel_generator.models.credentials import parse_base_url
from kernel_generator.models.settings import KEY_VARIABLES, read_settings
from kernel_generator.sandbox.isolation import JailUnavailable, Level, isolate

if TYPE_CHECKING:
    from kernel_generator.domain.target import Target
    from kernel_generator.models.settings import Settings


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
            "give the serving process the build_environment that each saved solution states; its "
            "`<flashinfer>` stands for the folder that this prints: "
            "python -c 'import flashinfer; print(flashinfer.__path__[0])'",
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
    # Without a GPU, what can be done for one is shown by the card that most people write for.
    gpu = target_of_device(toolchain.gpu) if toolchain.gpu else TARGETS["H100"]
    probes = [(TARGETS["CPU"], "python"), (TARGETS["CPU"], "cpp")]
    if gpu is not None:
        probes += [(gpu, "python"), (gpu, "triton"), (gpu, "cuda")]
    return [
        *(_probe(target, language) for target, language in probes),
        _isolation(),
    ]


def _isolation() -> Check:
    try:
        found = isolate(Level.STRICT)
    except JailUnavailable as error:
        return Check(
            "isolation",
            Status.MISSING,
            "level 'strict' cannot be had; the kernels above ran at level 'process'",
            str(error),
        )
    return Check(
        "isolation",
        Status.WORKS,
        f"level 'strict': the kernels above ran in it; lacks {', '.join(found.lacked)}",
        "run kernels of authors who are out to harm you inside a virtual machine",
    )


def _level() -> Level:
    """The level that the probes can have."""
    try:
        return isolate(Level.STRICT).level
    except JailUnavailable:
        return Level.PROCESS


_PROBES = {
    "python": "def run(x):\n    return x * 2 + 1\n",
    "triton": """
import torch, triton
import triton.language as tl

@triton.jit
def _kernel(x, y, n, block: tl.constexpr):
    at = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(y + at, tl.load(x + at, mask=at < n) * 2 + 1, mask=at < n)

def run(x):
    y = torch.empty_like(x)
    _kernel[(triton.cdiv(x.numel(), 256),)](x, y, x.numel(), block=256)
    return y
""",
    "cpp": """
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>

void run(tvm::ffi::TensorView x, tvm::ffi::TensorView y) {
  auto* in = static_cast<const float*>(x.data_ptr());
  auto* out = static_cast<float*>(y.data_ptr());
  for (int64_t i = 0; i < x.size(0); ++i) out[i] = in[i] * 2 + 1;
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
""",
    "cuda": """
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/function.h>

__global__ void twice(const float* in, float* out, int64_t n) {
  int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i < n) out[i] = in[i] * 2 + 1;
}
void run(tvm::ffi::TensorView x, tvm::ffi::TensorView y) {
  auto stream = static_cast<cudaStream_t>(
      TVMFFIEnvGetStream(x.device().device_type, x.device().device_id));
  int64_t n = x.size(0);
  twice<<<(n + 255) / 256, 256, 0, stream>>>(static_cast<const float*>(x.data_ptr()),
                                             static_cast<float*>(y.data_ptr()), n);
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
""",
}
"""A kernel in each language that cannot be wrong: twice the input, plus one."""


def _probe(target: Target, language: str) -> Check:
    """Judge a real kernel of the language."""
    name = f"{language} on {target.name}"
    definition = Definition.model_validate(
        {
            "name": "probe",
            "op_type": "probe",
            "axes": {"n": {"type": "var"}},
            "inputs": {"x": {"shape": ["n"], "dtype": "float32"}},
            "outputs": {"y": {"shape": ["n"], "dtype": "float32"}},
            "reference": _PROBES["python"],
        }
    )
    workload = Workload(axes={"n": 4096}, inputs={"x": RandomInput()}, uuid="probe")
    task = Task(definition, (workload,), (), target, language, Path(tempfile.gettempdir()))
    try:
        notices = check_target(target, language, find_toolchain())
        session = LocalJudge(Limits(build_s=180, first_call_s=60), _level()).open(task)
    except KernelGeneratorError as error:
        return Check(name, Status.MISSING, str(error))
    try:
        session.prepare()
        verdict = session.evaluate(_probe_solution(language, target), Profile(trials=1))
    except KernelGeneratorError as error:
        return Check(name, Status.MISSING, str(error))
    finally:
        session.close()
    if verdict.outcome.is_result:
        detail = f"a real kernel was judged in {verdict.seconds:.1f} s"
    else:
        detail = f"{verdict.outcome.value}: {verdict.message[-300:].strip()}"
    if verdict.outcome.is_candidates_fault:
        return Check(name, Status.MISSING, detail)
    return Check(name, Status.LIMITED if notices else Status.WORKS, detail, "; ".join(notices))


def _probe_solution(language: str, target: Target) -> Solution:
    path = {"cpp": "main.cpp", "cuda": "main.cu"}.get(language, "main.py")
    compiled = language in ("cpp", "cuda")
    return Solution(
        name=f"probe-{language}",
        definition="probe",
        author="kernel-generator",
        spec=BuildSpec(
            language=SupportedLanguages(language),
            target_hardware=[target.name],
            entry_point=f"{path}::run",
            destination_passing_style=compiled,
            binding=SupportedBindings.TVM_FFI if compiled else None,
        ),
        sources=[SourceFile(path=path, content=_PROBES[language])],
    )


def _keys() -> list[Check]:
    settings = read_settings()
    keys = settings.keys_set()
    found = [
        Check(variable, Status.WORKS, "present")
        if variable in keys
        else Check(variable, Status.MISSING, "not set")
        for variable in KEY_VARIABLES
    ]
    found.append(_base_url(settings))
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


def _base_url(settings: Settings) -> Check:
    url = (settings.base_url or "").strip()
    if not url:
        return Check("BASE_URL", Status.MISSING, "not set")
    try:
        parse_base_url(url, "BASE_URL")
    except InvalidInput as error:
        return Check("BASE_URL", Status.LIMITED, shown(url), str(error))
    advice = settings.split_pair()
    return Check("BASE_URL", Status.LIMITED if advice else Status.WORKS, shown(url), advice)
