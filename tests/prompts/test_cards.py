"""The example on each language card builds, and gives what the card says it gives."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from flashinfer_bench.compile import BuilderRegistry, Runnable

from kernel_generator.domain.evaluation import Evaluation
from kernel_generator.domain.outcome import Outcome
from kernel_generator.domain.proposal import Proposal, Purpose
from kernel_generator.domain.target import TARGETS
from kernel_generator.prompts.feedback import feedback
from kernel_generator.prompts.render import render
from kernel_generator.prompts.replies import Unreadable, read_files, read_solution
from tests.prompts import records

NVCC = shutil.which("nvcc")
DRAFT = Proposal(purpose=Purpose.DRAFT, round=1)


def example(language: str) -> str:
    """The card's example, as it stands in a prompt: a reply in the asked-for format."""
    text = render(records.brief(language), DRAFT)[1].text
    return text.split("A complete example", 1)[1].split("\n- ", 1)[0]


def built(language: str, name: str, text: str) -> Runnable:
    solution = read_solution(records.reply(text), records.brief(language), DRAFT, "card", name)
    assert not isinstance(solution, Unreadable), solution.reason
    return BuilderRegistry.get_instance().build(records.DEFINITION, solution)


def expected() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(37, 64).to(torch.bfloat16)
    x[0, :3] = torch.tensor([float("nan"), float("inf"), 1e-40])
    return x, (x.float() * 0.3).to(torch.bfloat16)


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIB_CACHE_PATH", str(tmp_path))
    # The flags that the C++ card promises.
    monkeypatch.setenv("CXX", "c++ -march=native -fopenmp")


@pytest.mark.slow
def test_the_cpp_example_builds_and_rounds_as_torch_does() -> None:
    runnable = built("cpp", "card_cpp", example("cpp"))
    x, want = expected()
    out = torch.full_like(x, 7.0)
    runnable.call_destination_passing(x, 0.3, out)
    assert torch.equal(out.isnan(), want.isnan())
    assert torch.equal(out.nan_to_num(), want.nan_to_num())


@pytest.mark.slow
def test_the_compilers_words_reach_the_author_without_the_builders() -> None:
    text = example("cpp").replace("const int64_t n", "const int64_t m")
    with pytest.raises(Exception, match="n") as raised:
        built("cpp", "card_broken", text)
    found = Evaluation(outcome=Outcome.COMPILE_ERROR, message=str(raised.value))
    files = {"kernel.cpp": "..."}
    told = feedback(records.attempt(found, "cpp", files), records.brief("cpp"))
    assert "kernel.cpp:" in told
    assert "was not declared in this scope" in told
    for noise in ("ninja", "-fPIC", "FAILED", str(os.environ["FIB_CACHE_PATH"])):
        assert noise not in told


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
def test_the_cuda_example_builds_for_its_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dry = subprocess.run(
        [NVCC or "", "--dryrun", "-x", "cu", "/dev/null"],
        capture_output=True,
        text=True,
        check=False,
    )
    top = next(line for line in dry.stderr.split("\n") if "TOP=" in line).split("TOP=")[1].strip()
    monkeypatch.setenv("CUDA_HOME", str(Path(top).resolve()))
    monkeypatch.setenv("TVM_FFI_CUDA_ARCH_LIST", TARGETS["H100"].architecture)
    built("cuda", "card_cuda", example("cuda"))
    assert list(tmp_path.rglob("*.so"))


def test_the_python_example_gives_the_reference() -> None:
    runnable = built("python", "card_python", example("python"))
    x, want = expected()
    assert torch.equal(runnable(x, 0.3).nan_to_num(), want.nan_to_num())


@pytest.mark.slow
def test_the_triton_example_runs_in_the_interpreter(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    read = read_files(example("triton"), "triton")
    assert not isinstance(read, Unreadable)
    (tmp_path / "main.py").write_text(read[0].content)
    (tmp_path / "check.py").write_text(
        "import torch\nfrom main import run\n"
        "x = torch.randn(37, 64).to(torch.bfloat16)\nout = torch.full_like(x, 7.0)\n"
        "run(x, 0.25, out)\nassert torch.equal(out, x * 0.25)\n"
    )
    ended = subprocess.run(
        [sys.executable, "check.py"],
        cwd=tmp_path,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
