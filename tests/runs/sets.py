"""Small trace sets, records and replies that the tests of the loop are made of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashinfer_bench.data import BuildSpec, Solution, SourceFile, SupportedLanguages

from kernel_generator.domain.attempt import Attempt, Candidate
from kernel_generator.domain.evaluation import (
    Device,
    Evaluation,
    Interval,
    Timing,
    WorkloadEvaluation,
)
from kernel_generator.domain.outcome import Outcome
from kernel_generator.domain.proposal import Proposal, Purpose
from kernel_generator.runs.tracesets import load_traceset

if TYPE_CHECKING:
    from flashinfer_bench import TraceSet

REFERENCE = "import torch\n\n\ndef run(x):\n    return x * 2 + 1\n"
OP_TYPE = "elementwise"


def write_definition(
    root: Path, name: str = "scale_add", *, sizes: tuple[int, ...] = (3, 64), **changed: Any
) -> None:
    """A definition that doubles a vector and adds one, with a workload for each size."""
    definition = {
        "name": name,
        "op_type": OP_TYPE,
        "axes": {"n": {"type": "var"}},
        "inputs": {"x": {"shape": ["n"], "dtype": "float32"}},
        "outputs": {"y": {"shape": ["n"], "dtype": "float32"}},
        "reference": REFERENCE,
    } | changed
    folder = root / "definitions" / OP_TYPE
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(definition))
    folder = root / "workloads" / OP_TYPE
    folder.mkdir(parents=True, exist_ok=True)
    lines = [workload_line(name, size) for size in sizes]
    (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))


def workload_line(name: str, size: int, x: dict[str, Any] | None = None) -> str:
    """One captured workload as a trace set holds it; `x` random unless described."""
    workload = {"axes": {"n": size}, "inputs": {"x": x or {"type": "random"}}, "uuid": f"n{size}"}
    return json.dumps({"definition": name, "workload": workload})


def a_traceset(root: Path, *names: str, sizes: tuple[int, ...] = (3, 64)) -> TraceSet:
    """A new trace set with these definitions, loaded."""
    for name in names or ("scale_add",):
        write_definition(root, name, sizes=sizes)
    loaded, problems = load_traceset(root)
    assert not problems
    return loaded


def listing(root: Path) -> dict[str, int]:
    """Every path below a folder with its size, to compare before and after."""
    return {
        str(p.relative_to(root)): p.stat().st_size if p.is_file() else -1
        for p in sorted(root.rglob("*"))
    }


def a_solution(
    name: str = "a_solution",
    *,
    author: str = "an-author",
    definition: str = "scale_add",
    source: str = REFERENCE,
) -> Solution:
    """A Python solution; the reference unless told otherwise."""
    return Solution(
        name=name,
        definition=definition,
        author=author,
        spec=BuildSpec(
            language=SupportedLanguages.PYTHON,
            target_hardware=["CPU"],
            entry_point="main.py::run",
            destination_passing_style=False,
        ),
        sources=[SourceFile(path="main.py", content=source)],
    )


def exactly(value: float) -> Interval:
    """A figure without doubt."""
    return Interval(value=value, low=value, high=value)


def an_evaluation(
    outcome: Outcome = Outcome.PASSED,
    *,
    speedup: float = 2.0,
    sizes: tuple[int, ...] = (3, 64),
    complete: bool = True,
    promoted: bool | None = None,
    absolute: float = 0.25,
    relative: float = 0.5,
) -> Evaluation:
    """A verdict on workloads of `sizes`, measured where it passed."""
    measured = outcome is Outcome.PASSED
    records = tuple(
        WorkloadEvaluation(
            uuid=f"n{size}",
            axes={"n": size},
            outcome=outcome,
            max_absolute_error=absolute,
            max_relative_error=relative,
            timing=Timing(device_us=exactly(10.0)) if measured else None,
            baselines={"reference": Timing(device_us=exactly(10.0 * speedup))} if measured else {},
            speedups={"reference": exactly(speedup)} if measured else {},
        )
        for size in sizes
    )
    return Evaluation(
        outcome=outcome,
        workloads=records,
        speedup=exactly(speedup) if measured else None,
        baselines={"reference": exactly(speedup)} if measured else {},
        promoted=promoted if measured else None,
        device=Device(kind="cpu", name="a CPU"),
        complete=complete and outcome.is_result,
    )


def an_attempt(
    outcome: Outcome = Outcome.PASSED,
    *,
    number: int = 1,
    purpose: Purpose = Purpose.DRAFT,
    speedup: float = 2.0,
    complete: bool = True,
    promoted: bool | None = None,
) -> Attempt:
    """An attempt as the engine records it, with a candidate where its outcome speaks of one."""
    proposal = Proposal(purpose, number, parent=None if purpose is Purpose.DRAFT else 0)
    if outcome.value.endswith("_REPLY"):
        return Attempt(proposal, None, outcome, "cannot be read")
    return Attempt(
        proposal,
        None,
        outcome,
        candidate=Candidate(a_solution(f"s{number}"), proposal),
        evaluation=an_evaluation(outcome, speedup=speedup, complete=complete, promoted=promoted),
    )


def python_reply(code: str) -> str:
    """A reply that gives one Python program."""
    return f"Here it is.\n\n```python main.py\n{code.strip()}\n```\n"


def cpp_reply(body: str) -> str:
    """A reply that gives one C++ program whose `Run` has this body."""
    return f"""Here it is.

```cpp kernel.cpp
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/function.h>

#include <cstdint>

void Run(tvm::ffi::TensorView x, tvm::ffi::TensorView y) {{
  const float* in = static_cast<const float*>(x.data_ptr());
  float* out = static_cast<float*>(y.data_ptr());
  {body}
}}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, Run);
```
"""


RIGHT = python_reply("def run(x):\n    return x * 2 + 1\n")
WRONG = python_reply("def run(x):\n    return x * 2\n")


def as_nobody(code: str, root: Path) -> str:
    """What a program prints that is not the superuser, for whom no folder is closed."""
    if os.getuid() == 0:
        base = Path(tempfile.gettempdir())
        for folder in (root, *root.parents):
            if folder.is_relative_to(base) and folder != base:
                folder.chmod(folder.stat().st_mode | 0o055)
    # Imported before the drop: the environment may lie where only the superuser looks.
    warm = (
        "import os, flashinfer_bench\n"
        "import sqlalchemy.dialects.sqlite.pysqlite\n"
        "import kernel_generator.runs.saving, kernel_generator.runs.store\n"
        "import kernel_generator.runs.tracesets\n"
        "import tests.runs.sets\n"
        "os.getuid() or (os.setgroups([]), os.setgid(65534), os.setuid(65534))\n"
    )
    return run_python(warm + code)


def run_python(code: str) -> str:
    """What a program prints that must not fail."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
