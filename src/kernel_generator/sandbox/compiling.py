"""The child's side of an artefact: one child compiles without loading, another loads without
compiling.

Nothing of the candidate runs in the child that compiles: a library runs code when it is loaded.
Compiled is exactly what FlashInfer-Bench's TVM-FFI builder would compile, by the same call, but
without importing torch, which takes longer than many a kernel takes to compile.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from kernel_generator.sandbox.wire import Fault

_NAME = "kernel"
_CPP, _CUDA = frozenset({".cpp", ".cc", ".cxx", ".c"}), frozenset({".cu"})
"""Suffixes that the builder takes for sources; other files can be included."""
_EXPORTED = "__tvm_ffi_"
"""TVM-FFI's prefix of the symbol behind an exported function."""
_MAGIC = b"\x7fELF"
_CHUNK = 1 << 20


class BuildError(RuntimeError):
    """The candidate does not compile; the text is the compiler's."""


class NotTaken(Exception):
    """What was built is not taken from one child to the other."""

    def __init__(self, fault: Fault, text: str) -> None:
        super().__init__(text)
        self.fault = fault


def only_compiles() -> None:
    """Make this process ready to compile, and for nothing else."""
    modules: Any = sys.modules
    modules["torch"] = None
    os.environ["TVM_FFI_GPU_BACKEND"] = "cuda"
    importlib.import_module("tvm_ffi.cpp")


def compile_into(order: Any, fd: int | None) -> None:
    """Compile the solution of a BUILD frame, and write the library to the memory that came along.

    Raises `BuildError`, `NotTaken`, `OSError`, `ValueError`.
    """
    if fd is None:
        raise ValueError("a BUILD frame carries a descriptor")
    solution = order["solution"]
    library = _compile(solution, Path.home() / "build")
    size, bound = library.stat().st_size, os.fstat(fd).st_size
    if size > bound:
        raise NotTaken(
            Fault.RESOURCE,
            f"the library takes {size / 2**20:.0f} MiB, more than the {bound / 2**20:.0f} MiB "
            "that it may",
        )
    content = library.read_bytes()
    symbol = solution["spec"]["entry_point"].rpartition("::")[2]
    if f"{_EXPORTED}{symbol}\0".encode() not in content:
        raise BuildError(f"Entry point '{symbol}' not found in module")
    with os.fdopen(fd, "wb") as memory:
        memory.write(content)
        memory.truncate()


def _compile(solution: Any, folder: Path) -> Path:
    import tvm_ffi.cpp  # noqa: PLC0415 - takes time: only where it is needed

    paths = [_written(folder, source) for source in solution["sources"]]
    try:
        return Path(
            tvm_ffi.cpp.build(
                name=_NAME,
                cpp_files=[str(path) for path in paths if path.suffix in _CPP],
                cuda_files=[str(path) for path in paths if path.suffix in _CUDA],
                extra_include_paths=[str(folder)],
                build_directory=str(folder),
            )
        )
    except Exception as error:
        # As the builder does: whatever it is, there is no library.
        raise BuildError(f"TVM-FFI compilation failed for '{solution['name']}': {error}") from error


def _written(folder: Path, source: Any) -> Path:
    path = folder / source["path"]
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BuildError(f"the source '{source['path']}' lies outside the solution")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source["content"])
    return path


def take_over(fd: int) -> None:
    """Let the TVM-FFI builder of this process find compiled what another child compiled. Closes
    the descriptor. Raises `NotTaken`, `OSError`."""
    import tvm_ffi.cpp  # noqa: PLC0415

    library = Path.home() / f"{_NAME}.so"
    with os.fdopen(fd, "rb") as memory, library.open("wb") as file:
        if memory.read(len(_MAGIC)) != _MAGIC:
            raise NotTaken(Fault.PROTOCOL, "what the build left is no shared library")
        memory.seek(0)
        shutil.copyfileobj(memory, file, _CHUNK)

    def already_built(**_asked: object) -> str:
        return str(library)

    compiler: Any = tvm_ffi.cpp
    compiler.build = already_built
