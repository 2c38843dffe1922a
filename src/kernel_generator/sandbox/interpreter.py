"""Makes Triton's interpreter honest enough to check kernels without a GPU.

Five traps of Triton 3.6: `tl.dot` multiplies the bit patterns of bfloat16 operands (errors of 5e10
and no exception), casts of float32 to bfloat16 cut bits off where a GPU rounds, `range` over
values of the kernel fails with NumPy 2.4, `@triton.autotune` asks for a GPU driver, and the
functions of `libdevice` return None. Dot operands are converted to float32 first, casts round to
nearest even, a scalar is an index, autotuned kernels run their first configuration, and `libdevice`
says that it cannot be interpreted.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class NotInterpretable(NotImplementedError):
    """A kernel uses what only a GPU has."""


def prepare_interpreter() -> None:
    """Switch Triton to its interpreter and mend the traps. Call before Triton is imported."""
    os.environ["TRITON_INTERPRET"] = "1"
    import numpy as np  # noqa: PLC0415 - only a child that interprets Triton pays for this
    import triton.language as tl  # noqa: PLC0415 - must follow the environment variable
    from triton.language.extra import libdevice  # noqa: PLC0415
    from triton.language.extra.cuda import libdevice as cuda_libdevice  # noqa: PLC0415
    from triton.runtime import autotuner, interpreter  # noqa: PLC0415

    interpreter_module: Any = interpreter
    convert: Any = interpreter_module._convert_float
    handle: Any = interpreter_module.TensorHandle

    def converted(data: Any, source: Any, target: Any, rounding: Any) -> Any:
        towards_zero = rounding == interpreter_module._ir.ROUNDING_MODE.RTZ
        if source != tl.float32 or target != tl.bfloat16 or towards_zero:
            return convert(data, source, target, rounding)
        bits = np.frombuffer(data.tobytes(), dtype=np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        # The sum would carry a NaN's bits over into a number.
        kept = np.where((bits & 0x7FFFFFFF) > 0x7F800000, (bits >> 16) | 0x40, rounded)
        return kept.astype(np.uint16).reshape(data.shape)

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

    def refuse(name: str) -> Any:
        def function(*_args: Any, **_kwargs: Any) -> Any:
            raise NotInterpretable(f"Triton's interpreter has no libdevice.{name}")

        return function

    for module in (libdevice, cuda_libdevice):
        for name in [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]:
            setattr(module, name, refuse(name))
    interpreter_module.InterpreterBuilder.create_dot = create_dot
    patch: Any = interpreter_module._patch_lang_tensor

    def with_index(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", _as_index)

    interpreter_module._patch_lang_tensor = with_index
    interpreter_module._convert_float = converted
    tuner: Any = autotuner.Autotuner
    tuner._bench = first_configuration


def _as_index(one: Any) -> int:
    return int(one.handle.data.item())


def is_interpreters_fault(error: BaseException) -> bool:
    """True where the interpreter, not the kernel, is why this failed."""
    cause, seen = error, {id(error)}
    while cause.__cause__ is not None and id(cause.__cause__) not in seen:
        cause = cause.__cause__
        seen.add(id(cause))
    if isinstance(cause, NotInterpretable):
        return True
    frame = cause.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    if frame is None:
        return False
    import triton  # noqa: PLC0415 - was imported by `prepare_interpreter`

    where = Path(frame.tb_frame.f_code.co_filename)
    if not where.is_relative_to(Path(triton.__file__).parent):
        return False
    text = str(cause)
    if isinstance(cause, NotImplementedError) or "active drivers" in text:
        return True
    # Elsewhere in Triton, these say that the kernel handed over something strange, None say.
    return isinstance(cause, AttributeError | KeyError) and (
        where.name == "interpreter.py" or "InterpreterBuilder" in text
    )
