"""Which workloads are searched on, which are held out, and the floors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashinfer_bench.data import Definition, RandomInput, SafetensorsInput, Workload
from hypothesis import given
from hypothesis import strategies as st

from kernel_generator.domain.task import Floor
from kernel_generator.evaluation.inputs import plan_call
from kernel_generator.evaluation.workloads import declared_floor, split_workloads
from tests.evaluation.judging import DOUBLE, workload

if TYPE_CHECKING:
    from pathlib import Path

SIZES = st.lists(st.integers(0, 500), min_size=0, max_size=15)


def workloads(sizes: list[int]) -> list[Workload]:
    return [workload(f"w{i}", n=n) for i, n in enumerate(sizes)]


def captured_and_gone(sizes: list[int]) -> list[Workload]:
    described = SafetensorsInput(path="gone.safetensors", tensor_key="x")
    return [
        Workload(axes={"n": n}, inputs={"x": described}, uuid=f"g{i}") for i, n in enumerate(sizes)
    ]


class TestSplit:
    @given(SIZES, st.randoms())
    def test_does_not_depend_on_the_order(self, sizes: list[int], random: object) -> None:
        given_order = workloads(sizes)
        shuffled = list(given_order)
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        assert split_workloads(DOUBLE, given_order) == split_workloads(DOUBLE, shuffled)

    @given(SIZES)
    def test_keeps_every_workload_exactly_once(self, sizes: list[int]) -> None:
        searched, held_out = split_workloads(DOUBLE, workloads(sizes))
        uuids = [w.uuid for w in (*searched, *held_out)]
        assert sorted(uuids) == sorted(f"w{i}" for i in range(len(sizes)))

    @given(SIZES)
    def test_searches_on_at_most_four_with_the_extremes_among_them(self, sizes: list[int]) -> None:
        searched, _ = split_workloads(DOUBLE, workloads(sizes))
        assert len(searched) == min(4, len(sizes))
        found = [w.axes["n"] for w in searched]
        assert found == sorted(found)
        if sizes:
            assert (found[0], found[-1]) == (min(sizes), max(sizes))

    def test_holds_nothing_out_where_there_are_four(self) -> None:
        searched, held_out = split_workloads(DOUBLE, workloads([4, 3, 2, 1]))
        assert (len(searched), held_out) == (4, ())

    def test_keeps_a_workload_that_does_not_fit_its_definition(self) -> None:
        odd = Workload(axes={"other": 3}, inputs={"x": RandomInput()}, uuid="odd")
        searched, held_out = split_workloads(DOUBLE, [odd, *workloads([1, 2])])
        assert odd in (*searched, *held_out)

    def test_searches_on_captured_values_before_what_is_made_up(self, tmp_path: Path) -> None:
        gone = captured_and_gone([9, 9, 9, 9])
        here = workloads([1, 2, 3, 4, 5])
        searched, held_out = split_workloads(DOUBLE, [*gone, *here], tmp_path)
        assert {w.uuid for w in searched} < {w.uuid for w in here}
        assert list(held_out[-4:]) == gone

    def test_spreads_over_the_sizes_where_all_is_made_up(self, tmp_path: Path) -> None:
        gone = captured_and_gone([3, 6, 1, 5, 7, 2, 4])
        searched, _ = split_workloads(DOUBLE, gone, tmp_path)
        assert [w.axes["n"] for w in searched] == [1, 3, 5, 7]

    def test_fills_up_with_what_is_made_up_before_what_does_not_fit(self, tmp_path: Path) -> None:
        odd = Workload(axes={"other": 3}, inputs={"x": RandomInput()}, uuid="odd")
        some = [odd, *captured_and_gone([5, 6, 7]), *workloads([8, 9])]
        searched, held_out = split_workloads(DOUBLE, some, tmp_path)
        assert [w.axes.get("n") for w in searched] == [8, 9, 5, 7]
        assert [w.axes.get("n") for w in held_out] == [6, None]


class TestFloor:
    def test_counts_all_declared_inputs_and_outputs(self) -> None:
        floor = declared_floor(plan_call(DOUBLE, workload(n=10)), 7)
        assert floor == Floor(10 * 64 * 4 * 2, 10 * 64 * 4 * 2, 7)

    def test_knows_only_the_declared_bytes_where_indices_decide(self) -> None:
        gather = Definition.model_validate(
            {
                "name": "gather",
                "op_type": "gather",
                "axes": {"n": {"type": "var"}},
                "inputs": {
                    "table": {"shape": ["n"], "dtype": "float32"},
                    "index": {"shape": ["n"], "dtype": "int64"},
                },
                "outputs": {"y": {"shape": ["n"], "dtype": "float32"}},
                "reference": "def run(table, index):\n    return table[index]\n",
            }
        )
        which = Workload(
            axes={"n": 8}, inputs={"table": RandomInput(), "index": RandomInput()}, uuid="w"
        )
        assert declared_floor(plan_call(gather, which), 7) == Floor(8 * 16, None, None)
