"""What warms a child up compiles for a GPU, here without one."""

from __future__ import annotations

import subprocess
import sysconfig
from typing import TYPE_CHECKING, Any

from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import driver
from triton.compiler import ASTSource, compile

from kernel_generator.sandbox.warm_up import copy, launcher_compiler

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_kernel_that_is_launched_first_compiles() -> None:
    types = {"source": "*fp32", "target": "*fp32", "count": "i32", "BLOCK": "constexpr"}
    source = ASTSource(fn=copy, signature=types, constexprs={(3,): 64})
    assert "cubin" in compile(source, target=GPUTarget("cuda", 90, 32)).asm


def test_launchers_are_compiled_with_headers_that_were_read_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    compiler = launcher_compiler()
    assert compiler is not None
    made: Any = driver
    source = tmp_path / "launcher.c"
    source.write_text(made.make_launcher({(1,): 64}, {0: "*bf16", 1: "constexpr"}, None))
    include = [*made.include_dirs, sysconfig.get_paths()["include"]]
    command = [str(compiler), str(source), "-O3", "-shared", "-fPIC", "-Wno-psabi", "-H"]
    command += ["-o", str(tmp_path / "launcher.so"), *(f"-I{folder}" for folder in include)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # GCC's mark of a precompiled header that fits.
    assert f"! {compiler.with_name('headers.h.gch')}" in done.stderr


def test_other_programs_are_compiled_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    compiler = launcher_compiler()
    assert compiler is not None
    source = tmp_path / "main.c"
    source.write_text("int main(void) { return 3; }\n")
    subprocess.run([compiler, source, "-o", tmp_path / "main"], check=True)
    assert subprocess.run([tmp_path / "main"], check=False).returncode == 3
