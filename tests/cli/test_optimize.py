"""`optimize`: what it prints where, what it leaves in the trace set, and how it exits."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from flashinfer_bench import TraceSet
from safetensors.torch import save_file

from tests.cli.commands import KEY, UNTIMED, Shell, at, descendants, is_alive, start, then
from tests.loopback import LoopbackServer, fails, says, says_nothing, stalls_midway
from tests.runs.sets import (
    OP_TYPE,
    RIGHT,
    a_traceset,
    workload_line,
    write_definition,
)


def test_all_attempts_failing_is_said_in_the_documented_words_and_exits_1(
    shell: Shell, tmp_path: Path
) -> None:
    with LoopbackServer([says_nothing()] * 2) as server:
        ran = shell.run("optimize", "set", *at(server), *UNTIMED, "--rounds", 2)
    assert ran.code == 1
    assert "All attempts failed for scale_add - SKIPPING" in ran.err
    assert "[1/1] Processing definition: scale_add" in ran.err
    assert "processed 1 of 1, successful 0, failed 1, success rate 0 %" in ran.out
    assert "200 + 40 tokens, cost unknown" in ran.out
    assert not (tmp_path / "set" / "solutions").exists()


def test_what_passes_is_saved_and_an_unmeasured_one_is_called_so(
    shell: Shell, tmp_path: Path
) -> None:
    with LoopbackServer([says(RIGHT)]) as server:
        ran = shell.run("optimize", "set", *at(server), *UNTIMED)
    assert ran.code == 0
    assert "CORRECT_NOT_MEASURED; not measured" in ran.err
    file = f"set/solutions/{OP_TYPE}/scale_add/some-model-1_optimized_solution_1.json"
    assert f"saved {file}" in ran.err
    assert (tmp_path / file).is_file()
    assert not (tmp_path / "set" / "traces").exists()


@pytest.mark.slow
def test_optimize_measures_saves_and_traces_and_prints_one_document(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLM_API_KEY")
    ran = shell.run("optimize", "set", "--target", "CPU", "--json")
    assert ran.code == 0
    [row] = ran.document["definitions"]
    assert row["solved"]
    assert row["evaluation"]["outcome"] == "PASSED"
    assert row["evaluation"]["speedup"]["value"] > 0
    assert Path(row["file"]).is_file()
    assert ran.document["statistics"]["success_rate"] == 100.0
    economy = ran.document["statistics"]["economy"]
    assert (economy["passing"], economy["cost_per_passing_usd"]) == (1, 0.0)
    assert (
        economy["runs"][0]["over_reference"][0]["speedup"] == row["evaluation"]["speedup"]["value"]
    )
    again = TraceSet.from_path(str(tmp_path / "set"))
    assert len(again.traces["scale_add"]) == 1
    assert "round 1 draft: PASSED" in ran.err


def test_a_solution_that_cannot_be_saved_is_rescued_and_named(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelter = tmp_path / "tmp"
    shelter.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(shelter))

    def block_the_folder() -> None:
        (tmp_path / "set" / "solutions").mkdir()
        (tmp_path / "set" / "solutions" / OP_TYPE).write_text("in the way")

    with LoopbackServer([then(block_the_folder, says(RIGHT))]) as server:
        ran = shell.run("optimize", "set", *at(server), *UNTIMED, "--json")
    assert ran.code == 1
    [row] = ran.document["definitions"]
    assert not row["solved"]
    assert row["outcome"] == "CORRECT_NOT_MEASURED"
    assert "the solution could not be written below" in row["message"]
    [rescued] = shelter.glob("rescued_*.json")
    assert str(rescued) in row["message"]
    assert str(rescued) in ran.err
    assert "x * 2 + 1" in rescued.read_text()


@pytest.mark.slow
def test_an_interrupted_run_saves_and_names_what_was_finished(tmp_path: Path) -> None:
    a_traceset(tmp_path / "set", sizes=(3,))
    write_definition(tmp_path / "set", "second")
    with LoopbackServer([says(RIGHT), stalls_midway()]) as server:
        program = start(
            *("optimize", "set", *at(server), "--language", "python", "--target", "CPU"),
            *("--keep-improving", "--jobs", "1", "--json"),
            folder=tmp_path,
            LLM_API_KEY=KEY,
        )
        assert program.stderr is not None
        for line in program.stderr:
            if "round 1 draft: PASSED" in line:
                break
        workers = descendants(program.pid)
        assert workers, "the judge's children are at work"
        # The whole group, as a terminal does it, and once more, as people do.
        os.killpg(program.pid, signal.SIGINT)
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=60)
    assert program.returncode == 130, err
    assert "Traceback" not in err
    document = json.loads(out)
    [row] = document["definitions"]
    assert row["solved"]
    assert row["file"] in err
    assert (tmp_path / row["file"]).is_file()
    assert document["statistics"]["total"] == 2
    assert len(TraceSet.from_path(str(tmp_path / "set")).traces["scale_add"]) == 1
    assert [pid for pid in workers if is_alive(pid)] == []
    assert KEY not in out + err


def test_a_refused_key_ends_the_campaign_at_once_with_exit_3(shell: Shell, tmp_path: Path) -> None:
    write_definition(tmp_path / "set", "second")
    with LoopbackServer([fails(401, f"Incorrect API key provided: {KEY}")]) as server:
        ran = shell.run("optimize", "set", *at(server), *UNTIMED, "--jobs", 1, "--json")
    assert ran.code == 3
    assert len(server.requests) == 1
    assert [d["definition"] for d in ran.document["definitions"]] == ["scale_add"]
    assert ran.document["statistics"]["total"] == 2
    assert KEY not in ran.out + ran.err


def test_a_provider_that_is_down_for_every_definition_exits_3(shell: Shell, tmp_path: Path) -> None:
    write_definition(tmp_path / "set", "a_empty", sizes=())
    with LoopbackServer([says_nothing(), *[fails(500)] * 9]) as server:
        ran = shell.run("optimize", "set", *at(server), *UNTIMED, "--json")
    assert ran.code == 3
    empty, failed = ran.document["definitions"]
    assert empty["outcome"] == "SKIPPED"
    assert "kept answering 500" in failed["message"]
    assert failed["message"].endswith("(1 attempt had been made: EMPTY_REPLY)")


def test_results_judged_on_some_workloads_only_are_told_so(shell: Shell, tmp_path: Path) -> None:
    odd = {"type": "safetensors", "path": "./other.safetensors", "tensor_key": "x"}
    save_file({"x": torch.ones(5)}, tmp_path / "set" / "other.safetensors")
    with (tmp_path / "set" / "workloads" / OP_TYPE / "scale_add.jsonl").open("a") as file:
        file.write(workload_line("scale_add", 64, odd) + "\n")
    with LoopbackServer([says(RIGHT)]) as server:
        ran = shell.run("optimize", "set", *at(server), *UNTIMED)
    assert ran.code == 0
    assert "1 of 2 workloads cannot be run here: " in ran.err
    assert "scale_add: 1 of 2 workloads cannot be run here: " in ran.out
    [saved] = (tmp_path / "set" / "solutions").rglob("*.json")
    origin = json.loads(json.loads(saved.read_text())["description"].splitlines()[-1])
    assert origin["workloads"] == "1 of 2"


def test_results_on_inputs_made_up_for_missing_blobs_are_told_so(
    shell: Shell, tmp_path: Path
) -> None:
    gone = {"type": "safetensors", "path": "./blob/gone.safetensors", "tensor_key": "x"}
    with (tmp_path / "set" / "workloads" / OP_TYPE / "scale_add.jsonl").open("a") as file:
        file.write(workload_line("scale_add", 64, gone) + "\n")
    with LoopbackServer([says(RIGHT)]) as server:
        ran = shell.run("optimize", "set", *at(server), *UNTIMED)
    assert ran.code == 0
    assert "scale_add: synthetic values for 'x' on 1 of 2 workloads" in ran.out
