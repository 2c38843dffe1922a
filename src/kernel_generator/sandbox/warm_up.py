"""What all Triton kernels' launches need, made by a kernel that does next to nothing.

Triton compiles a C module for every signature that is launched, most of which time goes into
reading the headers of Python and CUDA: those are precompiled, where the compiler is GCC.
"""

# Triton reads the annotations of a kernel's parameters as code: it cannot have the usual ones.
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false
from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl

LAUNCHER_FOLDER = Path("cache") / "launcher"
"""Below HOME: the precompiled headers, and a compiler that uses them."""
_HEADERS = ("cuda.h", "dlfcn.h", "stdbool.h", "stdlib.h", "Python.h")
_FLAGS = ("-O3", "-shared", "-fPIC", "-Wno-psabi")
"""Triton's own. Others than these get the compiler as it is."""
_LEVEL = "-O1"
"""Enough for what hands a few arguments to the driver, and half the work."""
_COMPILER = """\
#!/bin/sh
case "$*" in
*"{flags}"*) exec {gcc} -pipe -include {header} "$@" {level} ;;
*) exec {gcc} "$@" ;;
esac
"""


@triton.jit
def copy(source, target, count, BLOCK: tl.constexpr):  # noqa: N803
    """Copy `count` elements."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    tl.store(target + at, tl.load(source + at, mask=inside), mask=inside)


def launch(device: str) -> None:
    """Compile and launch it, so that driver module, launcher and headers are there."""
    source = torch.zeros(64, device=device)
    target = torch.empty_like(source)
    kernel: Any = copy
    kernel[(1,)](source, target, 64, BLOCK=64)
    if "CC" not in os.environ and (compiler := launcher_compiler()) is not None:
        os.environ["CC"] = str(compiler)


def launcher_compiler() -> Path | None:
    """A compiler for launchers below HOME that has read their headers; None where GCC is not the
    compiler."""
    gcc = shutil.which("gcc")
    compiler = Path.home() / LAUNCHER_FOLDER / "cc"
    if compiler.exists() or gcc is None:
        return compiler if gcc is not None else None
    header = compiler.with_name("headers.h")
    header.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"#include <{name}>" for name in _HEADERS]
    header.write_text("\n".join(["#define PY_SSIZE_T_CLEAN", *lines, ""]))
    cuda = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
    include = [f"-I{cuda}", f"-I{sysconfig.get_paths()['include']}"]
    made = ["-x", "c-header", *_FLAGS, _LEVEL, *include, str(header), "-o", f"{header}.gch"]
    if subprocess.run([gcc, *made], capture_output=True, check=False).returncode:
        return None
    flags = " ".join(_FLAGS)
    # $HOME: the folder is copied from one sandbox's to another's.
    ours = f'"$HOME/{LAUNCHER_FOLDER}/headers.h"'
    compiler.write_text(_COMPILER.format(flags=flags, gcc=gcc, header=ours, level=_LEVEL))
    compiler.chmod(0o755)
    return compiler
