"""Every command and every code block of the README does what it says.

A command that is not in the table below fails the test: nobody adds one that is not tried.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.loopback import LoopbackServer, says

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent

KERNEL = """import torch


def run(hidden_states, weight):
    x = hidden_states.float()
    scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
    return (x * scale * weight.float()).to(hidden_states.dtype)
"""
CPP_REPLY = """<file path="kernel.cpp">
#include <cmath>
#include <cstdint>
#include <cstring>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>

static float widen(uint16_t bits) {
  uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

static uint16_t narrow(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

void Run(tvm::ffi::TensorView x, tvm::ffi::TensorView w, tvm::ffi::TensorView y) {
  const int64_t rows = x.size(0), n = x.size(1);
  const auto* in = static_cast<const uint16_t*>(x.data_ptr());
  const auto* weight = static_cast<const uint16_t*>(w.data_ptr());
  auto* out = static_cast<uint16_t*>(y.data_ptr());
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    float sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += widen(in[r * n + i]) * widen(in[r * n + i]);
    const float scale = 1.0f / std::sqrt(sum / static_cast<float>(n) + 1e-6f);
    for (int64_t i = 0; i < n; ++i)
      out[r * n + i] = narrow(widen(in[r * n + i]) * scale * widen(weight[i]));
  }
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, Run);
</file>"""
TRITON_REPLY = (ROOT / "examples" / "replies" / "rmsnorm_h2048.triton.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


COMMANDS = [line.strip() for block in blocks("bash") for line in block.splitlines() if line.strip()]
MAKE = [c for c in COMMANDS if c.startswith("make ")]
OTHERS = [c for c in COMMANDS if not c.startswith("make ")]


@pytest.fixture
def home(tmp_path):
    """A folder as `make demo` leaves it, without what the demo saved."""
    shutil.copytree(ROOT / "examples" / "traceset", tmp_path / "demo" / "traceset")
    (tmp_path / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "example.py", tmp_path / "examples")
    (tmp_path / "my_kernel.py").write_text(KERNEL)
    return tmp_path


def environment(home, server=None):
    kept = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY") and k != "BASE_URL"}
    kept["PATH"] = f"{BIN}{os.pathsep}{kept['PATH']}"
    if server is not None:
        kept |= {"LLM_API_KEY": "a-key-for-the-test", "BASE_URL": server.base_url}
    return kept


def run(command, home, server=None, limit=280):
    return subprocess.run(
        command,
        shell=True,
        cwd=home,
        env=environment(home, server),
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )


def test_the_readme_opens_with_the_two_commands():
    assert blocks("bash")[0].splitlines() == ["make demo", "make test"]


@pytest.mark.parametrize("command", MAKE)
def test_a_make_command_of_the_readme_exists(command):
    # `make demo` itself is run below; the others are what is running this test.
    done = subprocess.run(
        f"{command} --dry-run", shell=True, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if "MODEL=" in command:
        assert '--model "gpt-5"' in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_make_demo_solves_the_bundled_set_and_ends_with_a_table(tmp_path):
    copy = tmp_path / "project"
    shutil.copytree(
        ROOT, copy, ignore=shutil.ignore_patterns(".venv", ".git", "demo", ".*cache", ".whl")
    )
    (copy / ".venv").symlink_to(Path(sys.prefix))
    done = run("make demo --assume-old=.venv/.installed", copy, limit=580)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "processed 9 of 9, successful 9" in done.stdout
    saved = list((copy / "demo" / "traceset" / "solutions").rglob("*.json"))
    assert len(saved) == 9
    assert not (copy / "examples" / "traceset" / "solutions").exists()


EXPECTED = {
    "kernel-generator doctor": "python on CPU",
    "kernel-generator list demo/traceset": "rmsnorm_h2048",
    "kernel-generator optimize demo/traceset -d rmsnorm_h2048": "successful 1",
    "kernel-generator optimize demo/traceset -d rmsnorm_h2048 --model gpt-5 --language cpp "
    "--target CPU --rounds 3": "successful 1",
    "kernel-generator optimize demo/traceset --model gpt-5 --target H100 --estimate": "in sum",
    "kernel-generator generate demo/traceset -d rmsnorm_h2048 --pass-k 3 --model gpt-5 "
    "--language triton --target H100": "gpt-5_optimized_solution_3.json",
    "kernel-generator evaluate demo/traceset -d rmsnorm_h2048 --target CPU --solution "
    "my_kernel.py --json": '"outcome": "PASSED"',
    "kernel-generator runs": "0 in ",
    "kernel-generator resume --all": "processed 0 of 0",
    "python examples/example.py demo/traceset": "success rate: 100 %",
}


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("command", OTHERS)
def test_a_command_of_the_readme_does_what_it_says(command, home):
    if command.startswith("python examples/example.py"):
        # The walkthrough's own loop; the whole set is what `make demo` runs.
        for folder in ("definitions", "workloads"):
            for path in (home / "demo" / "traceset" / folder).rglob("*.json*"):
                if path.stem not in ("rmsnorm_h2048", "silu_and_mul_i2816"):
                    path.unlink()
    reply = TRITON_REPLY if "--language triton" in command else CPP_REPLY
    with LoopbackServer(lambda _request: says(reply)) as server:
        done = run(command, home, server if "--model" in command else None)
    assert done.returncode == 0, done.stdout + done.stderr
    assert EXPECTED[command] in done.stdout, done.stdout + done.stderr
    if "--json" in command:
        json.loads(done.stdout)
    assert "a-key-for-the-test" not in done.stdout + done.stderr


@pytest.mark.slow
def test_the_python_block_runs_as_it_stands(home):
    (block,) = blocks("python")
    passing = iter([TRITON_REPLY] * 4)
    script = home / "block.py"
    script.write_text(f'if __name__ == "__main__":\n{_indented(block)}\n    print(solution.name)\n')
    with LoopbackServer(lambda _request: says(next(passing))) as server:
        done = run(f"{sys.executable} block.py", home, server)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rmsnorm_h2048_gpt-4o_triton_r1_" in done.stdout


def _indented(text):
    return "".join(f"    {line}\n" if line.strip() else "\n" for line in text.splitlines())
