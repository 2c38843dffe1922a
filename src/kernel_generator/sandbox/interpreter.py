"""Makes Triton's interpreter honest enough to check kernels without a GPU.

Two traps of Triton 3.6: `tl.dot` multiplies the bit patterns of bfloat16 operands (errors of 5e10
and no exception), and `@triton.autotune` asks for a GPU driver. Dot operands are converted to
float32 first, and autotuned kernels run their first configuration.
"""

from __future__ import annotations

import os
from typing import Any


def prepare_interpreter() -> None:
    """Switch Triton to its interpreter and mend the two traps. Call before Triton is imported."""
    os.environ["TRITON_INTERPRET"] = "1"
    import numpy as np  # noqa: PLC0415 - only a child that interprets Triton pays for this
    import triton.language as tl  # noqa: PLC0415 - must follow the environment variable
    from triton.runtime import autotuner, interpreter  # noqa: PLC0415

    interpreter_module: Any = interpreter
    convert: Any = interpreter_module._convert_float
    handle: Any = interpreter_module.TensorHandle

    def as_float32(operand: Any) -> Any:
        if operand.dtype == tl.bfloat16:
            return convert(operand.data, tl.bfloat16, tl.float32, None).view(np.float32)
        if operand.dtype.is_floating() and operand.dtype.primitive_bitwidth == 8:
            half = convert(operand.data, operand.dtype, tl.float16, None).view(np.float16)
            return half.astype(np.float32)
        return operand.data

    def create_dot(_self: Any, a: Any, b: Any, d: Any, _precision: Any, _max_imprecise: Any) -> Any:
        a_data, b_data = as_float32(a), as_float32(b)
        if np.issubdtype(a_data.dtype, np.floating):
            wide = np.float64 if d.data.dtype == np.float64 else np.float32
            product = np.matmul(a_data.astype(wide), b_data.astype(wide))
        else:
            product = np.matmul(a_data, b_data, dtype=d.data.dtype)
        return handle(product.astype(d.data.dtype) + d.data, d.dtype.scalar)

    def first_configuration(_self: Any, *_args: Any, **_meta: Any) -> list[float]:
        return [0.0, 0.0, 0.0]

    interpreter_module.InterpreterBuilder.create_dot = create_dot
    tuner: Any = autotuner.Autotuner
    tuner._bench = first_configuration


def is_interpreters_fault(error: BaseException) -> bool:
    """True where the interpreter, not the kernel, is why this failed."""
    cause, seen = error, {id(error)}
    while cause.__cause__ is not None and id(cause.__cause__) not in seen:
        cause = cause.__cause__
        seen.add(id(cause))
    frame = cause.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = frame.tb_frame.f_code.co_filename if frame is not None else ""
    inside = f"{os.sep}triton{os.sep}" in where
    return inside and (
        isinstance(cause, NotImplementedError | AttributeError | KeyError)
        or "active drivers" in str(cause)
    )
