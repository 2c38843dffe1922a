"""What is said of a target and a language before anything is generated."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kernel_generator.domain.errors import UnsupportedTarget
from kernel_generator.domain.target import TARGETS, find_target
from kernel_generator.domain.task import Toolchain
from kernel_generator.evaluation.toolchain import (
    build_environment,
    check_target,
    portable_build_environment,
)

BARE = Toolchain(python="3.12.1")
LAPTOP = Toolchain(python="3.12.1", torch="2.13.0", triton="3.6.0", cuda="13.0", compiler="c++ 13")
SERVER = replace(LAPTOP, gpu="NVIDIA H100 80GB HBM3")


@pytest.mark.parametrize("target", ["H100", "H200", "B200", "A100", "L40S", "RTX4090"])
@pytest.mark.parametrize("language", ["triton", "cuda", "python"])
def test_without_a_gpu_every_current_target_is_served_unmeasured(
    target: str, language: str
) -> None:
    (sentence,) = check_target(find_target(target), language, LAPTOP)
    assert sentence.startswith(f"no {target} on this machine")


def test_without_a_gpu_triton_runs_in_its_interpreter() -> None:
    (sentence,) = check_target(find_target("H100"), "triton", LAPTOP)
    assert "interpreter" in sentence and "no speedup" in sentence


def test_without_a_gpu_cuda_is_compiled_and_cannot_pass() -> None:
    (sentence,) = check_target(find_target("H100"), "cuda", LAPTOP)
    assert "nvcc 13.0" in sentence and "none can pass here" in sentence


@pytest.mark.parametrize("language", ["triton", "cuda", "python"])
def test_on_the_targets_own_gpu_nothing_is_missing(language: str) -> None:
    assert check_target(find_target("H100"), language, SERVER) == []


@pytest.mark.parametrize("language", ["cpp", "python"])
def test_on_a_cpu_nothing_is_missing(language: str) -> None:
    assert check_target(find_target("CPU"), language, LAPTOP) == []


@pytest.mark.parametrize(
    ("target", "language", "toolchain", "says"),
    [
        ("V100", "cuda", LAPTOP, ["nvcc 13.0 no longer serves V100", "CUDA 12.9 or older"]),
        ("V100", "triton", LAPTOP, ["Triton 3.6.0 no longer serves V100", "Triton 3.2 or older"]),
        ("B200", "cuda", replace(LAPTOP, cuda="12.4"), ["does not know B200", "12.8 or newer"]),
        ("H100", "cuda", BARE, ["nvcc, which was not found", "CUDA_HOME"]),
        ("H100", "triton", BARE, ["Triton is not installed", "pip install triton"]),
        ("A100", "triton", SERVER, ["target is A100", "NVIDIA H100 80GB HBM3"]),
        ("H200", "cuda", replace(SERVER, gpu="NVIDIA GH200 480GB"), ["target is H200", "GH200"]),
        ("H100", "cpp", LAPTOP, ["C++ kernels run on the CPU", "--target CPU"]),
        ("CPU", "cuda", LAPTOP, ["cuda kernels need a GPU target", "--target H100"]),
        ("CPU", "triton", LAPTOP, ["triton kernels need a GPU target", "--language cpp"]),
        ("CPU", "cpp", BARE, ["no C++ compiler found", "install g++"]),
    ],
)  # fmt: skip
def test_what_cannot_be_served_says_what_to_do(
    target: str, language: str, toolchain: Toolchain, says: list[str]
) -> None:
    with pytest.raises(UnsupportedTarget) as refused:
        check_target(find_target(target), language, toolchain)
    assert all(words in str(refused.value) for words in says)


@pytest.mark.parametrize(
    ("cuda", "triton"), [("12.9", "3.2.0"), ("12.9", "3.2"), ("12.4", "3.1.0")]
)
def test_older_toolchains_still_serve_a_v100(cuda: str, triton: str) -> None:
    older = replace(LAPTOP, cuda=cuda, triton=triton)
    assert check_target(find_target("V100"), "cuda", older)
    assert check_target(find_target("V100"), "triton", older)


@pytest.mark.parametrize("target", [t for t in TARGETS.values() if t.is_gpu], ids=lambda t: t.name)
def test_cuda_is_built_for_the_targets_architecture(target: object) -> None:
    environment = build_environment(target, "cuda")  # type: ignore[arg-type]
    assert environment["TVM_FFI_CUDA_ARCH_LIST"] == target.architecture  # type: ignore[attr-defined]
    assert "-O3" in environment["NVCC_APPEND_FLAGS"]


@pytest.mark.parametrize("language", ["triton", "python"])
def test_python_needs_nothing_from_the_environment(language: str) -> None:
    assert build_environment(find_target("H100"), language) == {}


@pytest.mark.parametrize("language", ["triton", "python", "cuda", "cpp"])
def test_what_a_saved_solution_states_names_no_path_of_this_machine(language: str) -> None:
    stated = portable_build_environment(find_target("H100"), language)
    paths = [w for value in stated.values() for w in value.split() if "/" in w]
    assert all(path.startswith("-I<flashinfer>/") for path in paths)
