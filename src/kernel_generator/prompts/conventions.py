"""How each language's entry point is called: its file, its signature and the rules around it.

The tables here are what prompts tell an author and what `replies` builds a solution from, so the
two cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flashinfer_bench import Definition

ENTRY_FUNCTION = "run"
"""Name of the entry function, in every language."""


@dataclass(frozen=True)
class Convention:
    """What is fixed about one language."""

    title: str
    """The language's name in prose."""
    entry_file: str
    fence: str
    """The info string's language in a fenced block."""
    fence_aliases: tuple[str, ...]
    """Languages by which an unnamed block may hold this language's code; '' is no language."""
    binding: str | None
    """FlashInfer-Bench binding, for compiled languages."""
    destination_passing: bool
    """The style where the source does not tell."""

    @property
    def is_compiled(self) -> bool:
        """True for CUDA and C++, whose style is always destination passing."""
        return self.binding is not None

    @property
    def entry_point(self) -> str:
        """'{file}::{function}', as a build spec holds it."""
        return f"{self.entry_file}::{ENTRY_FUNCTION}"


_PYTHON_FENCES = ("", "python", "py", "python3", "triton")

CONVENTIONS: dict[str, Convention] = {
    "triton": Convention(
        title="Triton",
        entry_file="main.py",
        fence="python",
        fence_aliases=_PYTHON_FENCES,
        binding=None,
        destination_passing=True,
    ),
    "python": Convention(
        title="Python (PyTorch)",
        entry_file="main.py",
        fence="python",
        fence_aliases=_PYTHON_FENCES,
        binding=None,
        destination_passing=False,
    ),
    "cuda": Convention(
        title="CUDA C++",
        entry_file="kernel.cu",
        fence="cuda",
        fence_aliases=("", "cuda", "cu", "cpp", "c++", "cxx", "c"),
        binding="tvm-ffi",
        destination_passing=True,
    ),
    "cpp": Convention(
        title="C++",
        entry_file="kernel.cpp",
        fence="cpp",
        fence_aliases=("", "cpp", "c++", "cxx", "cc", "c"),
        binding="tvm-ffi",
        destination_passing=True,
    ),
}
"""By language."""

_CUDA_TYPES = {
    "float32": "float",
    "float16": "__half",
    "bfloat16": "__nv_bfloat16",
    "float8_e4m3fn": "__nv_fp8_e4m3",
    "float8_e5m2": "__nv_fp8_e5m2",
    "float4_e2m1": "uint8_t, two values a byte",
    "int64": "int64_t",
    "int32": "int32_t",
    "int16": "int16_t",
    "int8": "int8_t",
    "bool": "bool",
}
_CPP_TYPES = _CUDA_TYPES | {
    "float16": "uint16_t holding the bits, or _Float16 where the compiler has it",
    "bfloat16": "uint16_t holding the bits",
    "float8_e4m3fn": "uint8_t holding the bits",
    "float8_e5m2": "uint8_t holding the bits",
}


def element_type(language: str, dtype: str) -> str | None:
    """The C++ type of a tensor's elements; None for languages that need none."""
    table = {"cuda": _CUDA_TYPES, "cpp": _CPP_TYPES}.get(language)
    return None if table is None else table.get(dtype, "see dtype()")


def signature(definition: Definition, language: str) -> str:
    """The entry function's declaration for this definition, outputs last."""
    if CONVENTIONS[language].is_compiled:
        parameters = [
            f"{'tvm::ffi::TensorView' if spec.shape is not None else _scalar(spec.dtype.value)} "
            f"{name}"
            for name, spec in definition.inputs.items()
        ]
        parameters += [f"tvm::ffi::TensorView {name}" for name in definition.outputs]
        return (
            f"void Run({', '.join(parameters)});\n"
            f"TVM_FFI_DLL_EXPORT_TYPED_FUNC({ENTRY_FUNCTION}, Run);"
        )
    names = list(definition.inputs)
    if CONVENTIONS[language].destination_passing:
        return f"def {ENTRY_FUNCTION}({', '.join(names + list(definition.outputs))}): ..."
    outputs = ", ".join(definition.outputs)
    return f"def {ENTRY_FUNCTION}({', '.join(names)}):\n    ...\n    return {outputs}"


def rules(definition: Definition, language: str) -> str:
    """What goes with the signature, in a sentence or three."""
    outputs = "output" if len(definition.outputs) == 1 else "outputs"
    scalars = [name for name, spec in definition.inputs.items() if spec.shape is None]
    told = f" Scalars are plain Python numbers: `{'`, `'.join(scalars)}`." if scalars else ""
    if CONVENTIONS[language].is_compiled:
        return (
            f"Inputs first, then the {outputs}, allocated by the caller and written in place; "
            "nothing is returned. Scalars are `double`, `int64_t` or `bool` by value."
        )
    if language == "triton":
        return (
            f"Tensors are torch tensors. The {outputs} are allocated by the caller: write in "
            f"place, return None.{told} (`run` may instead take the inputs only and return new "
            "tensors, several as a tuple; the number of its parameters decides.)"
        ).replace("The output are", "The output is")
    several = " as a tuple, in this order" if len(definition.outputs) > 1 else ""
    return (
        f"Tensors are torch tensors. Return the {outputs}{several}.{told} (`run` may instead take "
        f"the {outputs} after the inputs and write in place; what copying returned values takes on "
        "a CPU counts. The number of its parameters decides.)"
    )


def _scalar(dtype: str) -> str:
    if dtype == "bool":
        return "bool"
    return "int64_t" if dtype.startswith("int") else "double"
