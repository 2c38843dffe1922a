"""What runs cost and gave, as `show` and the closing statistics tell it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kernel_generator.cli.economy import economy_of_runs, summary_lines
from kernel_generator.domain.conversation import Finish, Reply, Usage
from kernel_generator.domain.outcome import Outcome
from kernel_generator.runs.store import Store
from tests.runs.ledgers import a_run, a_try, kept

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.commands import Shell

RISING = (
    a_try(Outcome.WRONG_VALUES, 0.25),
    a_try(cost=0.25, speedup=1.8, torch_compile=0.9),
    a_try(cost=0.5, speedup=2.5, promoted=True, torch_compile=1.1),
)


def test_show_tells_what_was_spent_until_the_best_baseline_was_reached(
    shell: Shell, own_store: Path
) -> None:
    run = kept(Store(own_store), a_run(*RISING))
    ran = shell.run("show", run)
    assert ran.code == 0
    for line in (
        "cost per passing kernel: $0.5000; 2 of 3 replies passed",
        "1.0x the best baseline (torch.compile) reached after $1.0000 and 360 tokens; "
        "1.2x the best baseline not reached",
        "best speedup over the reference: 1.80x after $0.5000 and 240 tokens (attempt 2), "
        "2.50x after $1.0000 and 360 tokens (attempt 3)",
        "best speedup over the best baseline: 0.90x torch.compile after $0.5000 and 240 tokens "
        "(attempt 2), 1.10x torch.compile after $1.0000 and 360 tokens (attempt 3)",
    ):
        assert line in ran.out.splitlines()


def test_show_as_a_document_has_the_same_records(shell: Shell, own_store: Path) -> None:
    run = kept(Store(own_store), a_run(*RISING))
    economy = shell.run("show", run, "--json").document["economy"]
    assert (economy["run"], economy["cost_usd"], economy["passing"]) == (run, 1.0, 2)
    assert [point["speedup"] for point in economy["over_best_baseline"]] == [0.9, 1.1]
    assert [mark["reached"] is not None for mark in economy["marks"]] == [True, False]


def test_a_price_that_nobody_knows_leaves_tokens(shell: Shell, own_store: Path) -> None:
    run = kept(Store(own_store), a_run(a_try(cost=None)))
    ran = shell.run("show", run)
    assert "cost per passing kernel: cost unknown; 1 of 1 replies passed" in ran.out
    assert "1.2x the best baseline (reference) reached after 120 tokens, cost unknown" in ran.out
    economy = shell.run("show", run, "--json").document["economy"]
    assert (economy["cost_usd"], economy["marks"][0]["reached"]["tokens"]) == (None, 120)


def test_what_was_answered_elsewhere_without_a_count_is_not_told_as_nothing(
    shell: Shell, own_store: Path
) -> None:
    elsewhere = replace(a_try(), reply=Reply("", Finish.COMPLETE, "a-colleague"))
    run = kept(Store(own_store), a_run(elsewhere))
    ran = shell.run("show", run)
    assert "2.00x after cost and tokens that nobody told (attempt 1)" in ran.out


def test_a_run_without_a_result_is_shown(shell: Shell, own_store: Path) -> None:
    run = kept(Store(own_store), a_run())
    ran = shell.run("show", run)
    assert "cost per passing kernel: nothing passed; 0 of 0 replies passed" in ran.out
    assert "speedup over" not in ran.out


def test_several_runs_are_told_in_sum_and_one_by_one(own_store: Path) -> None:
    store = Store(own_store)
    first = kept(store, a_run(*RISING))
    second = kept(store, a_run(a_try(Outcome.WRONG_VALUES, 0.5), definition="second"))
    economy = economy_of_runs(own_store, [first, second, first])
    assert summary_lines(economy) == [
        "cost per passing kernel: $0.7500; per solved definition: $1.5000",
        f"scale_add (run {first}): 1.0x the best baseline (torch.compile) reached after $1.0000 "
        "and 360 tokens; 1.2x the best baseline not reached",
    ]


def test_of_what_is_free_only_that_is_told(own_store: Path) -> None:
    free = a_try(cost=0.0)
    free = replace(free, reply=Reply("", Finish.COMPLETE, "builtin:compiler", Usage(), 0.0))
    run = kept(Store(own_store), a_run(free))
    assert summary_lines(economy_of_runs(own_store, [run])) == ["cost per passing kernel: $0.0000"]


def test_statistics_do_without_a_store_that_cannot_be_read(own_store: Path) -> None:
    own_store.write_bytes(b"no database")
    assert summary_lines(economy_of_runs(own_store, ["r1"])) == []
    assert economy_of_runs(own_store, []) is None
