"""What this machine can build and run: versions, devices, and the environment builds need.

`build_environment` is exactly what FlashInfer-Bench's TVM-FFI builder needs beside its defaults; a
saved solution names it, so that `apply` can be given the same.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_generator.domain.errors import UnsupportedTarget
from kernel_generator.domain.task import Toolchain

if TYPE_CHECKING:
    from kernel_generator.domain.target import Target

CPP_COMPILER = "c++ -march=native -fopenmp -ftree-vectorize -fvect-cost-model=dynamic"
"""TVM-FFI's builder takes the compiler from CXX and puts `-std=c++17 -fPIC -O2` after it, which
would overrule an `-O3` here; the vectoriser's settings of `-O3` are given by name instead."""
NVCC_FLAGS = "-O3 -lineinfo"

_VECTOR_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")
_PROBE_S = 30.0


@dataclass(frozen=True)
class CudaToolkit:
    """An nvcc and where it lives."""

    nvcc: Path
    home: Path
    release: tuple[int, int]


@cache
def find_cuda() -> CudaToolkit | None:
    """The CUDA toolkit that builds here, or None."""
    candidates = [
        Path(os.environ[name]) / "bin" / "nvcc"
        for name in ("CUDA_HOME", "CUDA_PATH")
        if os.environ.get(name)
    ]
    on_path = shutil.which("nvcc")
    if on_path:
        candidates.append(Path(on_path))
    candidates.append(Path("/usr/local/cuda/bin/nvcc"))
    for nvcc in candidates:
        if not nvcc.is_file():
            continue
        version = re.search(r"release (\d+)\.(\d+)", _output([str(nvcc), "--version"]))
        # nvcc may be a wrapper or a link: it knows best where its toolkit is.
        top = re.search(r"TOP=(\S+)", _output([str(nvcc), "-dryrun", "-x", "cu", os.devnull]))
        if version:
            home = Path(top.group(1)).resolve() if top else nvcc.resolve().parent.parent
            return CudaToolkit(nvcc, home, (int(version.group(1)), int(version.group(2))))
    return None


@cache
def find_toolchain() -> Toolchain:
    """Versions and processors of this machine."""
    cuda = find_cuda()
    compiler = shutil.which("c++")
    cpu, extensions = _cpu()
    return Toolchain(
        python=platform.python_version(),
        torch=_version("torch"),
        triton=_version("triton"),
        cuda=f"{cuda.release[0]}.{cuda.release[1]}" if cuda else None,
        compiler=_output([compiler, "--version"]).split("\n", 1)[0] if compiler else None,
        cpu=cpu,
        cores=len(os.sched_getaffinity(0)),
        vector_extensions=extensions,
        gpu=gpu_name(),
    )


@cache
def gpu_name() -> str | None:
    """The first visible CUDA device's name, or None."""
    import torch  # noqa: PLC0415 - takes seconds: only where the answer is wanted

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


@cache
def cutlass_includes() -> tuple[Path, ...]:
    """CUTLASS and CuTe headers of the installed flashinfer wheel; empty where it has none."""
    spec = util.find_spec("flashinfer")
    if spec is None or not spec.submodule_search_locations:
        return ()
    root = Path(next(iter(spec.submodule_search_locations))) / "data" / "cutlass"
    found = [root / "include", root / "tools" / "util" / "include"]
    return tuple(p for p in found if p.is_dir())


def build_environment(target: Target, language: str) -> dict[str, str]:
    """Variables that building a kernel of that language for that target needs."""
    if language == "cpp":
        return {"CXX": CPP_COMPILER}
    if language != "cuda":
        return {}
    includes = " ".join(f"-I{path}" for path in cutlass_includes())
    environment = {
        "TVM_FFI_CUDA_ARCH_LIST": target.architecture,
        "NVCC_APPEND_FLAGS": f"{NVCC_FLAGS} {includes}".strip(),
    }
    cuda = find_cuda()
    if cuda is not None:
        environment["CUDA_HOME"] = str(cuda.home)
    return environment


def portable_build_environment(target: Target, language: str) -> dict[str, str]:
    """`build_environment` without this machine's paths, as a saved solution states it.

    `<flashinfer>` stands for the folder of the installed `flashinfer` package.
    """
    if language == "cpp":
        return {"CXX": CPP_COMPILER}
    if language != "cuda":
        return {}
    return {
        "TVM_FFI_CUDA_ARCH_LIST": target.architecture,
        "NVCC_APPEND_FLAGS": f"{NVCC_FLAGS} -I<flashinfer>/data/cutlass/include "
        "-I<flashinfer>/data/cutlass/tools/util/include",
    }


def check_target(target: Target, language: str, toolchain: Toolchain) -> list[str]:
    """What cannot be done here for this target, as sentences for people; empty: everything can.

    Raises `UnsupportedTarget` where the installed toolchain cannot serve the target at all.
    """
    if language == "cpp" and target.is_gpu:
        raise UnsupportedTarget(
            f"C++ kernels run on the CPU, the target is {target.name}: use --target CPU, "
            "or --language cuda"
        )
    if not target.is_gpu:
        if language in ("cuda", "triton"):
            raise UnsupportedTarget(
                f"{language} kernels need a GPU target, the target is CPU: use --target H100 "
                "(or another GPU), or --language cpp or python"
            )
        if language == "cpp" and toolchain.compiler is None:
            raise UnsupportedTarget("no C++ compiler found: install g++ (apt install g++)")
        return []
    _check_versions(target, language, toolchain)
    if toolchain.gpu is None:
        return [_without_gpu(target, language, toolchain)]
    if not target.matches(toolchain.gpu):
        raise UnsupportedTarget(
            f"the target is {target.name}, the GPU here is '{toolchain.gpu}': name the GPU that "
            "is here as the target, or hide it with CUDA_VISIBLE_DEVICES= to check without a GPU"
        )
    return []


def _check_versions(target: Target, language: str, toolchain: Toolchain) -> None:
    if language == "cuda":
        if toolchain.cuda is None:
            raise UnsupportedTarget(
                "CUDA kernels need nvcc, which was not found: install the CUDA toolkit or set "
                "CUDA_HOME"
            )
        release = tuple(int(part) for part in toolchain.cuda.split("."))
        if target.last_cuda is not None and release > target.last_cuda:
            raise UnsupportedTarget(
                f"nvcc {toolchain.cuda} no longer serves {target.name} (compute capability "
                f"{target.architecture}): install CUDA {_dotted(target.last_cuda)} or older"
            )
        if release < target.min_cuda:
            raise UnsupportedTarget(
                f"nvcc {toolchain.cuda} does not know {target.name} (architecture "
                f"{target.architecture}): install CUDA {_dotted(target.min_cuda)} or newer"
            )
    if language == "triton":
        if toolchain.triton is None:
            raise UnsupportedTarget("Triton is not installed: pip install triton")
        if target.last_triton is not None and _numbers(toolchain.triton) > _numbers(
            target.last_triton
        ):
            raise UnsupportedTarget(
                f"Triton {toolchain.triton} no longer serves {target.name} (compute capability "
                f"{target.architecture}): install Triton {target.last_triton} or older"
            )


def _without_gpu(target: Target, language: str, toolchain: Toolchain) -> str:
    if language == "triton":
        return (
            f"no {target.name} on this machine: Triton kernels are checked in its interpreter on "
            "the CPU; nothing is measured and no speedup is shown"
        )
    if language == "cuda":
        return (
            f"no {target.name} on this machine: CUDA kernels are compiled by nvcc "
            f"{toolchain.cuda} but not run, so none can pass here"
        )
    return (
        f"no {target.name} on this machine: Python kernels are checked on CPU tensors; nothing is "
        "measured and no speedup is shown"
    )


def _dotted(release: tuple[int, int]) -> str:
    return f"{release[0]}.{release[1]}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PROBE_S,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def _cpu() -> tuple[str, tuple[str, ...]]:
    name, flags = platform.machine(), frozenset[str]()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() == "flags":
                flags = frozenset(value.split())
                break
    except OSError:
        pass
    return name, tuple(f for f in _VECTOR_FLAGS if f in flags)
