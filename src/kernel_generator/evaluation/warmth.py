"""Compiler caches that trusted code filled once, copied into every fresh sandbox that compiles.

On a CPU the first `torch.compile` of a machine probes the compiler and precompiles headers for
15-25 s; on a GPU Triton's first launch compiles a module and a launcher in C. That is paid once per
machine and installation, never by a candidate, and nothing that a candidate writes comes back.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
from filelock import FileLock
from flashinfer_bench.data import (
    BuildSpec,
    Definition,
    RandomInput,
    Solution,
    SourceFile,
    SupportedLanguages,
    Workload,
)

from kernel_generator.domain.compiled import ENTRY_POINT, compiled_sources
from kernel_generator.evaluation.inputs import plan_call
from kernel_generator.sandbox.arena import Arena
from kernel_generator.sandbox.orders import Done, Order, WarmOrder
from kernel_generator.sandbox.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_LIMIT_S = 240.0
_REFERENCE = "def run(x):\n    y = x.float()\n    return (y * y.mean()).exp().to(x.dtype)\n"


@cache
def compile_caches() -> Path | None:
    """Files for a fresh sandbox's HOME, made on first use; None where they cannot be made."""
    return _kept("compile", ("torch",), _warm)


@cache
def launch_caches(device: str) -> Path | None:
    """As `compile_caches`, for Triton's first launch on a GPU."""

    def make(folder: Path) -> None:
        # Run with the judge's own rights: the kernel is this package's.
        with Worker() as worker:
            if isinstance(worker.warm(WarmOrder(device, triton=True), _LIMIT_S), Done):
                made = (worker.home / "cache" / name for name in ("triton", "launcher"))
                _keep(folder, [one for one in made if one.is_dir()], worker.home)

    return _kept("launch", ("torch", "triton"), make)


def _kept(what: str, packages: Sequence[str], make: Callable[[Path], None]) -> Path | None:
    try:
        versions = [metadata.version(name) for name in packages]
    except metadata.PackageNotFoundError:
        return None
    # The compiler's caches hold the paths of the installation that filled them.
    key = "|".join([platform.node(), sys.prefix, platform.python_version(), *versions])
    name = f"{what}-" + hashlib.sha256(key.encode()).hexdigest()[:12]
    try:
        root = _root()
        root.mkdir(parents=True, exist_ok=True)
        folder = root / name
        with FileLock(root / f"{name}.lock"):
            if not folder.is_dir():
                make(folder)
    except OSError:
        return None
    return folder if folder.is_dir() else None


def _keep(folder: Path, kept: Iterable[Path], home: Path) -> None:
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    for one in kept:
        shutil.copytree(one, partial / one.relative_to(home))
    partial.rename(folder)


def seen_folders() -> tuple[Path, ...]:
    """What a jailed child has to see, so that it can copy from there."""
    with contextlib.suppress(OSError):
        _root().mkdir(parents=True, exist_ok=True)
        return (_root(),)
    return ()


def _root() -> Path:
    # Nothing but what this module wrote lies there: candidates may read it.
    return Path(platformdirs.user_cache_path("kernel-generator")) / "warm"


def _warm(folder: Path) -> None:
    definition = Definition.model_validate(
        {
            "name": "warm_up",
            "op_type": "warm_up",
            "axes": {"n": {"type": "var"}},
            "inputs": {"x": {"shape": ["n"], "dtype": "bfloat16"}},
            "outputs": {"y": {"shape": ["n"], "dtype": "bfloat16"}},
            "reference": _REFERENCE,
        }
    )
    solution = Solution(
        name="warm_up",
        definition="warm_up",
        author="kernel-generator",
        spec=BuildSpec(
            language=SupportedLanguages.PYTHON,
            target_hardware=["CPU"],
            entry_point=ENTRY_POINT,
            destination_passing_style=False,
        ),
        sources=[
            SourceFile(path=path, content=text)
            for path, text in compiled_sources(_REFERENCE).items()
        ],
    )
    order = Order(definition.model_dump_json(), solution.model_dump_json(), "cpu")
    arena = Arena.create(plan_call(definition, _workload()).layout(0))
    arena.region(arena.layout.inputs[0]).zero_()
    with Worker() as worker:
        steps = (
            lambda: worker.prepare(order, _LIMIT_S),
            lambda: worker.bind(arena, _LIMIT_S),
            lambda: worker.run(0, _LIMIT_S),
        )
        done = all(isinstance(step(), Done) for step in steps)
        if done:
            kept = (worker.home / "cache" / "inductor", *worker.home.glob("torchinductor_*"))
            _keep(folder, kept, worker.home)
    arena.close()


def _workload() -> Workload:
    return Workload(axes={"n": 64}, inputs={"x": RandomInput()}, uuid="warm-up")
