"""What warms a child up compiles for a GPU, here without one."""

from __future__ import annotations

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from kernel_generator.sandbox.warm_up import copy


def test_the_kernel_that_is_launched_first_compiles() -> None:
    types = {"source": "*fp32", "target": "*fp32", "count": "i32", "BLOCK": "constexpr"}
    source = ASTSource(fn=copy, signature=types, constexprs={(3,): 64})
    assert "cubin" in compile(source, target=GPUTarget("cuda", 90, 32)).asm
