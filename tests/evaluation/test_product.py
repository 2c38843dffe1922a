"""Which product a reference is, read from its source; what is anything more is none."""

from __future__ import annotations

import pytest
from flashinfer_bench.data import Definition

from kernel_generator.evaluation.product import Factor, Product, product_of

AXES = {"M": {"type": "var"}, **{n: {"type": "const", "value": 64} for n in ("N", "K")}}
A_BT = Product(Factor(0, False), Factor(1, True))


def gemm(body: str, a: str = "M K", b: str = "N K", c: str = "M N", before: str = "") -> Definition:
    return Definition.model_validate(
        {
            "name": "gemm",
            "op_type": "gemm",
            "axes": AXES,
            "inputs": {
                "A": {"shape": a.split(), "dtype": "float32"},
                "B": {"shape": b.split(), "dtype": "float32"},
            },
            "outputs": {"C": {"shape": c.split(), "dtype": "float32"}},
            "reference": f"import torch\nimport torch.nn.functional as F\n{before}\n"
            f"def run(A, B):\n    {body}\n",
        }
    )


@pytest.mark.parametrize(
    "body",
    [
        "return A @ B.T",
        "C = torch.matmul(A, B.T)\n    return C",
        "return torch.mm(A, B.t())",
        "return A.matmul(B.transpose(-2, -1))",
        "return F.linear(A, B)",
        "return torch.nn.functional.linear(A.float(), B.float()).to(A.dtype)",
        "return (B @ A.T).T.contiguous()",
        "M, K = A.shape\n    assert K == 64\n    x = A.to(torch.float32)\n    kind = A.dtype\n"
        "    return (x @ B.to(torch.float32).T).to(torch.bfloat16)",
    ],
)
def test_a_product_is_found_however_it_is_written(body: str) -> None:
    assert product_of(gemm(body)) == A_BT


def test_a_decorator_of_torchs_changes_nothing() -> None:
    assert product_of(gemm("return A @ B.T", before="@torch.no_grad()")) == A_BT


@pytest.mark.parametrize(
    ("definition", "product"),
    [
        (gemm("return A @ B", b="K N"), Product(Factor(0, False), Factor(1, False))),
        (gemm("return A.T @ B", a="K M", b="K N"), Product(Factor(0, True), Factor(1, False))),
        (gemm("return B @ A", a="K N", b="M K"), Product(Factor(1, False), Factor(0, False))),
        (gemm("return A.T @ B.T", a="K M"), Product(Factor(0, True), Factor(1, True))),
    ],
    ids=["A B", "At B", "B A", "At Bt"],
)
def test_which_operand_is_transposed_follows_from_the_reference(
    definition: Definition, product: Product
) -> None:
    assert product_of(definition) == product


@pytest.mark.parametrize(
    "body",
    [
        "return torch.relu(A @ B.T)",
        "return (A @ B.T) * 2",
        "return A @ B.T + 1",
        "A.mul_(2)\n    return A @ B.T",
        "x = A.mul_(2)\n    return A @ B.T",
        "A = A * 2\n    return A @ B.T",
        "if A.sum() > 0:\n        A = A.T\n    return A @ B.T",
        "return A.to(torch.float8_e4m3fn) @ B.T",
        "return torch.matmul(A, B.T, out=A)",
        "return A @ B.T @ B @ B.T",
        "return A @ A.T",
        "return F.linear(A, B, A)",
        "return A @ B",
        "pass",
    ],
)
def test_what_does_anything_more_or_else_is_no_product(body: str) -> None:
    assert product_of(gemm(body)) is None


def test_a_decorator_that_is_not_known_may_do_anything() -> None:
    assert product_of(gemm("return A @ B.T", before="twice = print\n@twice")) is None


def test_axes_that_do_not_meet_by_name_are_no_product() -> None:
    assert product_of(gemm("return A @ B.T", b="K N")) is None
    assert product_of(gemm("return A @ B.T", c="N M")) is None
