"""Inputs: what a workload describes is what a kernel is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from flashinfer_bench.data import (
    Definition,
    RandomInput,
    SafetensorsInput,
    ScalarInput,
    Workload,
)
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from kernel_generator.evaluation.inputs import InputsUnavailable, plan_call
from kernel_generator.evaluation.values import as_described

if TYPE_CHECKING:
    from pathlib import Path

DTYPES = ["float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2",
          "int64", "int32", "int16", "int8", "bool"]  # fmt: skip


def definition(dtype: str = "float32", shape: list[str] | None = ["n"]) -> Definition:  # noqa: B006
    return Definition.model_validate(
        {
            "name": "copy",
            "op_type": "copy",
            "axes": {"n": {"type": "var"}},
            "inputs": {"x": {"shape": shape, "dtype": dtype}},
            "outputs": {"y": {"shape": ["n"], "dtype": "float32"}},
            "reference": "def run(x):\n    return x\n",
        }
    )


def workload(described: Any = None, **axes: int) -> Workload:
    return Workload(axes=axes or {"n": 40}, inputs={"x": described or RandomInput()}, uuid="w1")


def drawn(what: Definition, which: Workload, seed: int, root: Path | None = None) -> torch.Tensor:
    found = as_described(what, which, root, torch.Generator().manual_seed(seed))
    place = plan_call(what, which).inputs[0]
    if "x" in found.scalars:
        return torch.tensor(found.scalars["x"], dtype=place.torch_dtype)
    (value,) = found.tensors.values()
    assert (value.dtype, tuple(value.shape)) == (place.torch_dtype, place.shape)
    return value


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
class TestRandomValues:
    def test_have_the_declared_dtype_and_shape(self, dtype: str) -> None:
        value = drawn(definition(dtype), workload(n=40), 1)
        assert (value.dtype, value.shape) == (getattr(torch, dtype), (40,))

    def test_are_the_same_for_the_same_seed(self, dtype: str) -> None:
        one, two = (drawn(definition(dtype), workload(n=40), 5) for _ in range(2))
        assert bits(one) == bits(two)

    def test_differ_for_another_seed(self, dtype: str) -> None:
        one, two = (drawn(definition(dtype), workload(n=200), seed) for seed in (5, 6))
        assert bits(one) != bits(two)

    def test_are_finite_and_not_all_the_same(self, dtype: str) -> None:
        value = drawn(definition(dtype), workload(n=200), 3).to(torch.float64)
        assert bool(torch.isfinite(value).all())
        assert len(value.unique()) > 1

    def test_may_be_none_at_all(self, dtype: str) -> None:
        assert drawn(definition(dtype), workload(n=0), 1).shape == (0,)


@given(st.integers(0, 2**63 - 1), st.integers(1, 50))
def test_any_seed_of_the_judge_can_be_used(seed: int, n: int) -> None:
    assert drawn(definition(), workload(n=n), seed).shape == (n,)


def test_a_samplers_probabilities_sum_to_one() -> None:
    what = Definition.model_validate(
        {
            "name": "sample",
            "op_type": "sampling",
            "axes": {"n": {"type": "var"}},
            "inputs": {"probs": {"shape": ["n", "n"], "dtype": "float32"}},
            "outputs": {"y": {"shape": ["n"], "dtype": "int64"}},
            "reference": "def run(probs):\n    return probs.argmax(-1)\n",
        }
    )
    which = Workload(axes={"n": 9}, inputs={"probs": RandomInput()}, uuid="w1")
    value = drawn(what, which, 1)
    assert value.sum(dim=-1).tolist() == pytest.approx([1.0] * 9)
    assert bool((value > 0).all())


class TestScalars:
    @pytest.mark.parametrize("value", [3, 2.5, True, False, 0, float("inf"), float("-inf")])
    def test_are_handed_over_as_given(self, value: float) -> None:
        plan = plan_call(definition("float32", None), workload(ScalarInput(value=value)))
        place = plan.inputs[0]
        assert place.scalar == value
        assert type(place.scalar) is type(value)

    @pytest.mark.parametrize("value", [3, 2.5, True, False, 0, float("inf"), float("-inf")])
    def test_reach_the_child_unchanged(self, value: float) -> None:
        plan = plan_call(definition("float32", None), workload(ScalarInput(value=value)))
        layout = plan.layout(0)
        there = type(layout).from_json(layout.to_json()).inputs[0]
        assert there.scalar == value
        assert type(there.scalar) is type(value)

    def test_take_no_memory(self) -> None:
        plan = plan_call(definition("float32", None), workload(ScalarInput(value=1.0)))
        assert plan.inputs[0].nbytes == 0

    @pytest.mark.parametrize(("dtype", "kind"), [("int32", int), ("bfloat16", float)])
    def test_that_are_random_have_the_declared_kind(self, dtype: str, kind: type) -> None:
        place = plan_call(definition(dtype, None), workload()).inputs[0]
        assert type(place.scalar) is kind

    def test_that_were_captured_are_read_from_their_file(self, tmp_path: Path) -> None:
        save_file({"k": torch.tensor(7.0)}, tmp_path / "a.safetensors")
        described = SafetensorsInput(path="a.safetensors", tensor_key="k")
        assert drawn(definition("float32", None), workload(described), 1, tmp_path).item() == 7.0


class TestCapturedTensors:
    KEPT = torch.arange(40, dtype=torch.float32)

    def read(self, folder: Path, *, path: str = "a.safetensors", key: str = "k") -> torch.Tensor:
        described = SafetensorsInput(path=path, tensor_key=key)
        return drawn(definition(), workload(described), 1, folder)

    def test_are_given_bit_by_bit(self, tmp_path: Path) -> None:
        save_file({"k": self.KEPT}, tmp_path / "a.safetensors")
        assert torch.equal(self.read(tmp_path), self.KEPT)

    def test_may_be_named_by_an_absolute_path(self, tmp_path: Path) -> None:
        save_file({"k": self.KEPT}, tmp_path / "a.safetensors")
        got = self.read(tmp_path / "elsewhere", path=str(tmp_path / "a.safetensors"))
        assert torch.equal(got, self.KEPT)

    def test_without_the_key_are_named(self, tmp_path: Path) -> None:
        save_file({"other": self.KEPT}, tmp_path / "a.safetensors")
        with pytest.raises(InputsUnavailable, match="cannot read 'k'"):
            self.read(tmp_path)

    def test_that_are_no_safetensors_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "a.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
        with pytest.raises(InputsUnavailable, match=r"a\.safetensors"):
            self.read(tmp_path)

    @pytest.mark.parametrize(
        "other",
        [torch.zeros(39), torch.zeros(40, 1), torch.zeros(40, dtype=torch.float64)],
        ids=["shape", "rank", "dtype"],
    )
    def test_that_do_not_fit_are_refused(self, tmp_path: Path, other: torch.Tensor) -> None:
        save_file({"k": other}, tmp_path / "a.safetensors")
        with pytest.raises(InputsUnavailable, match=r"the workload says torch\.float32 \[40\]"):
            self.read(tmp_path)


def test_a_missing_axis_is_named() -> None:
    which = Workload(axes={"other": 1}, inputs={"x": RandomInput()}, uuid="w1")
    with pytest.raises(InputsUnavailable, match="w1 gives no value for axis n"):
        plan_call(definition(), which)


def test_an_input_that_the_workload_leaves_out_is_named() -> None:
    which = Workload(axes={"n": 1}, inputs={}, uuid="w1")
    with pytest.raises(InputsUnavailable, match="w1 does not describe input 'x'"):
        plan_call(definition(), which)
