"""`optimize --estimate`: what it would take, without a key, a question or a verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kernel_generator.runs.store import Store
from tests.cli.commands import UNTIMED, Shell, at
from tests.loopback import LoopbackServer
from tests.runs.ledgers import a_run, a_try, kept
from tests.runs.sets import listing, write_definition

if TYPE_CHECKING:
    from pathlib import Path

ON_GPU = ("--language", "triton", "--target", "H100")


@pytest.fixture
def keyless(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.delenv("LLM_API_KEY")
    return shell


def test_it_needs_no_key_and_leaves_nothing_behind(keyless: Shell, own_store: Path) -> None:
    before = listing(keyless.folder)
    ran = keyless.run("optimize", "set", "--model", "gpt-5", *ON_GPU, "--estimate")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("estimate; nothing was asked or judged: gpt-5 writes triton for H100")
    assert "1 to 5" in ran.out
    assert "low: the first version passes; high: all 5 rounds are used" in ran.out
    assert "cost unknown" not in ran.out
    assert listing(keyless.folder) == before
    assert not own_store.exists()


def test_it_is_one_document(keyless: Shell) -> None:
    write_definition(keyless.folder / "set", "second", sizes=(3,))
    ran = keyless.run("optimize", "set", "-m", "gpt-5", *ON_GPU, "--estimate", "--json")
    assert [d["definition"] for d in ran.document["definitions"]] == ["scale_add", "second"]
    assert ran.document["requests"] == {"low": 2, "high": 10}
    assert 0 < ran.document["cost_usd"]["low"] < ran.document["cost_usd"]["high"]


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        ("0.001", "the high end exceeds --max-usd 0.001, where the command would stop"),
        ("1000", "the high end stays within --max-usd 1000"),
    ],
)
def test_it_is_held_against_the_budget(keyless: Shell, budget: str, told: str) -> None:
    ran = keyless.run("optimize", "set", "-m", "gpt-5", *ON_GPU, "--estimate", "--max-usd", budget)
    assert ran.code == 0
    assert told in ran.out.splitlines()


def test_an_endpoints_price_is_unknown_until_it_is_stated(shell: Shell) -> None:
    with LoopbackServer() as server:
        ran = shell.run("optimize", "set", *at(server), *UNTIMED, "--estimate")
        stated = shell.run("optimize", "set", *at(server), *UNTIMED, "--estimate", "--price", "1,2")
    assert server.requests == []
    assert ran.code == stated.code == 0
    assert "the price of 'some/model:1' is not known: state it with --price" in ran.out
    assert "cost unknown" in ran.out
    assert "prices are as stated: $1 and $2 per million tokens" in stated.out
    assert "cost unknown" not in stated.out


def test_a_replay_is_of_its_runs_language_and_free(keyless: Shell, own_store: Path) -> None:
    run = kept(Store(own_store), a_run(a_try()))
    options = ("--target", "H100", "--estimate", "--json")
    ran = keyless.run("optimize", "set", "--model", f"replay:{run}", *options)
    assert (ran.code, ran.document["language"]) == (0, "python")
    assert ran.document["cost_usd"] == {"low": 0.0, "high": 0.0}
    write_definition(keyless.folder / "set", "second", sizes=(3,))
    ran = keyless.run("optimize", "set", "--model", f"replay:{run}", *options)
    assert f"run {run} is of 'scale_add', not of 'second'" in ran.err
    assert keyless.run("optimize", "set", "--model", "replay:nothing", *options).code == 2


def test_a_definition_without_workloads_is_said_to_be_skipped(keyless: Shell) -> None:
    write_definition(keyless.folder / "set", "bare", sizes=())
    ran = keyless.run("optimize", "set", "-m", "gpt-5", *ON_GPU, "--estimate")
    assert ran.code == 0
    assert "bare would be skipped: No workloads found for definition 'bare'" in ran.out
    ran = keyless.run("optimize", "set", "-d", "bare", "-m", "gpt-5", *ON_GPU, "--estimate")
    assert ran.code == 2


def test_it_is_as_strict_as_the_command(keyless: Shell) -> None:
    ran = keyless.run("optimize", "set", "-m", "gtp-5", *ON_GPU, "--estimate")
    assert ran.code == 2
    assert "cannot be told from its name (did you mean 'gpt-5'" in ran.err
    ran = keyless.run("optimize", "set", "-m", "gpt-5", *ON_GPU, "--estimate", "--json-events")
    assert (ran.code, ran.out) == (2, "")
    assert "--estimate has no events to tell" in ran.err
