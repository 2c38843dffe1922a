"""Each command: what it prints where, what it leaves in the trace set, and how it exits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from flashinfer_bench import TraceSet

from tests.cli.commands import Shell, start
from tests.loopback import LoopbackServer, fails, says, says_nothing, stalls_midway
from tests.runs.sets import (
    OP_TYPE,
    REFERENCE,
    RIGHT,
    a_solution,
    a_traceset,
    cpp_reply,
    listing,
    write_definition,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.loopback import Behaviour
    from tests.loopback_wire import Exchange

EXAMPLE = Path(__file__).parents[2] / "examples" / "traceset"
KEY = "sk-planted-key-4711"
ON_SET = ("set", "-d", "scale_add")
# A target that is not on this machine is checked and not timed, which takes seconds.
UNTIMED = ("--language", "python", "--target", "V100")


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    """A user beside the trace set `set`, whose key is in the environment."""
    a_traceset(tmp_path / "set", sizes=(3,))
    made = Shell(tmp_path, monkeypatch, capsys)
    monkeypatch.setenv("LLM_API_KEY", KEY)
    return made


def at(server: LoopbackServer, model: str = "some/model:1") -> tuple[str, ...]:
    return ("--model", model, "--base-url", server.base_url)


# --- help ------------------------------------------------------------------------------------

OPTIONS = {
    "list": ["--json"],
    "generate": ["--definition", "--pass-k", "--model", "--language", "--target", "--json"],
    "optimize": [
        *("--definition", "--model", "--language", "--target", "--rounds", "--keep-improving"),
        *("--target-speedup", "--base-url", "--dialect", "--reasoning-effort", "--json"),
    ],
    "evaluate": ["--definition", "--solution", "--target", "--language", "--json"],
    "doctor": ["--json"],
}


@pytest.mark.parametrize("command", OPTIONS)
def test_help_names_every_option(shell: Shell, command: str) -> None:
    ran = shell.run(command, "--help")
    assert ran.code == 0
    assert [o for o in OPTIONS[command] if o not in ran.out] == []


def test_the_programs_help_names_commands_exit_codes_and_keys(shell: Shell) -> None:
    words = " ".join(shell.run("--help").out.split())
    assert all(command in words for command in OPTIONS)
    assert "0 all solved, 1 some unsolved, 2 bad input, 3 the provider refused" in words
    assert "LLM_API_KEY" in words


def test_nothing_at_all_shows_the_help(shell: Shell) -> None:
    ran = shell.run()
    assert ran.code == 2
    assert "optimize" in ran.out + ran.err


# --- list ------------------------------------------------------------------------------------


def test_list_shows_a_line_a_definition(shell: Shell) -> None:
    ran = shell.run("list", EXAMPLE)
    assert ran.code == 0
    assert ran.err == ""
    names = sorted(p.stem for p in (EXAMPLE / "definitions").rglob("*.json"))
    assert [name for name in names if name not in ran.out] == []


# --- generate --------------------------------------------------------------------------------


def test_generate_saves_each_sample_and_prints_where(shell: Shell, tmp_path: Path) -> None:
    with LoopbackServer([says(RIGHT)] * 3) as server:
        ran = shell.run("generate", *ON_SET, "-k", 3, *at(server), "-l", "python", "-t", "CPU")
    assert ran.code == 0
    folder = f"set/solutions/{OP_TYPE}/scale_add"
    assert ran.out.splitlines() == [
        f"{folder}/some-model-1_optimized_solution_{n}.json" for n in (1, 2, 3)
    ]
    assert len(TraceSet.from_path(str(tmp_path / "set")).solutions["scale_add"]) == 3
    assert server.keys == {KEY}


def test_generate_prints_the_solutions_as_they_were_saved(shell: Shell) -> None:
    with LoopbackServer([says(RIGHT)]) as server:
        ran = shell.run("generate", *ON_SET, *at(server), "-l", "python", "-t", "CPU", "--json")
    assert ran.code == 0
    [solution] = ran.document["solutions"]
    assert ran.document["evaluated"] is False
    assert json.loads(Path(ran.document["files"][0]).read_text()) == solution


def test_generate_without_a_readable_reply_exits_1(shell: Shell, tmp_path: Path) -> None:
    with LoopbackServer([says("no code")] * 2) as server:
        ran = shell.run("generate", *ON_SET, *at(server), "-l", "python", "-t", "CPU", "--json")
    assert ran.code == 1
    assert ran.document["solutions"] == []
    assert "0 of 1 solutions could be read; MALFORMED_REPLY" in ran.errors[0]
    assert not (tmp_path / "set" / "solutions").exists()


# --- the provider refuses --------------------------------------------------------------------


def test_a_refused_key_exits_3_and_is_shown_nowhere(shell: Shell) -> None:
    with LoopbackServer([fails(401, f"Incorrect API key provided: {KEY}")]) as server:
        ran = shell.run("generate", *ON_SET, *at(server), "-l", "python", "-t", "CPU", "--json")
    assert ran.code == 3
    assert "rejected the key from LLM_API_KEY (401)" in ran.document["error"]["message"]
    assert KEY not in ran.out + ran.err


def test_a_refused_key_ends_the_campaign_at_once_with_exit_3(shell: Shell, tmp_path: Path) -> None:
    write_definition(tmp_path / "set", "second")
    with LoopbackServer([fails(401, f"Incorrect API key provided: {KEY}")]) as server:
        ran = shell.run("optimize", "set", *at(server), *UNTIMED, "--json")
    assert ran.code == 3
    assert len(server.requests) == 1
    assert [d["definition"] for d in ran.document["definitions"]] == ["scale_add"]
    assert ran.document["statistics"]["total"] == 2
    assert KEY not in ran.out + ran.err


# --- optimize --------------------------------------------------------------------------------


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
    again = TraceSet.from_path(str(tmp_path / "set"))
    assert len(again.traces["scale_add"]) == 1
    assert "round 1 draft: PASSED" in ran.err


def then(do: Callable[[], object], behave: Behaviour) -> Behaviour:
    """An answer before which something happens."""

    def both(exchange: Exchange) -> None:
        do()
        behave(exchange)

    return both


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


def descendants(pid: int) -> set[int]:
    """Every process that a program has started, and theirs."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    parents = dict(tuple(map(int, line.split())) for line in listed.stdout.splitlines())
    found = {pid}
    while True:
        more = {child for child, parent in parents.items() if parent in found} - found
        if not more:
            return found - {pid}
        found |= more


def is_alive(pid: int) -> bool:
    """False for what has ended, whether or not anybody has noticed."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.mark.slow
def test_an_interrupted_run_saves_and_names_what_was_finished(tmp_path: Path) -> None:
    a_traceset(tmp_path / "set", sizes=(3,))
    write_definition(tmp_path / "set", "second")
    with LoopbackServer([says(RIGHT), stalls_midway()]) as server:
        program = start(
            *("optimize", "set", *at(server), "--language", "python", "--target", "CPU"),
            *("--keep-improving", "--json"),
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


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interruption_before_anything_passed_says_so(tmp_path: Path, how: int) -> None:
    a_traceset(tmp_path / "set", sizes=(3,))
    before = listing(tmp_path)
    arrived = threading.Event()
    with LoopbackServer([then(arrived.set, stalls_midway())]) as server:
        program = start(
            *("generate", *ON_SET, *at(server), "--language", "python", "--target", "CPU"),
            "--json",
            folder=tmp_path,
        )
        assert arrived.wait(60)
        program.send_signal(how)
        out, err = program.communicate(timeout=60)
    assert program.returncode == 130, err
    assert err.splitlines()[-1] == "interrupted"
    assert json.loads(out)["error"]["kind"] == "Interrupted"
    assert listing(tmp_path) == before


# --- evaluate --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text"),
    [("k.py", REFERENCE), ("k.json", a_solution().model_dump_json())],
    ids=["plain source", "Solution JSON"],
)
def test_evaluate_takes_a_plain_source_or_a_solution(
    shell: Shell, tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    before = listing(tmp_path)
    ran = shell.run("evaluate", *ON_SET, "--target", "V100", "--solution", name, "--json")
    assert ran.code == 0
    assert ran.document["outcome"] == "CORRECT_NOT_MEASURED"
    assert ran.document["complete"]
    assert "CORRECT_NOT_MEASURED: correct on every workload" in ran.err
    assert listing(tmp_path) == before, "judging leaves nothing in the set"


def test_evaluate_tells_what_is_wrong_and_exits_1(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "k.py").write_text("def run(x):\n    return x * 2\n")
    ran = shell.run("evaluate", *ON_SET, "--target", "V100", "--solution", "k.py")
    assert ran.code == 1
    assert "WRONG_VALUES: an output differs from the reference" in ran.out
    assert "y: 3 of 3 elements wrong; first at [0]: got" in ran.out


@pytest.mark.slow
def test_evaluate_builds_and_measures_a_cpp_file(shell: Shell, tmp_path: Path) -> None:
    reply = cpp_reply("for (int64_t i = 0; i < x.size(0); ++i) out[i] = in[i] * 2 + 1;")
    (tmp_path / "k.cpp").write_text(reply.partition("```cpp kernel.cpp\n")[2].partition("```")[0])
    ran = shell.run("evaluate", *ON_SET, "--target", "CPU", "--solution", "k.cpp", "--json")
    assert ran.code == 0
    assert ran.document["outcome"] == "PASSED"
    assert set(ran.document["baselines"]) == {"reference", "torch.compile"}


# --- doctor ----------------------------------------------------------------------------------


def test_doctor_tells_of_keys_whether_they_are_there_and_nothing_more(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-planted-0815")
    ran = shell.run("doctor", "--json")
    assert ran.code == 0
    found = {check["name"]: check for check in ran.document["checks"]}
    assert found["LLM_API_KEY"]["detail"] == "present"
    assert found["ANTHROPIC_API_KEY"]["detail"] == "present"
    assert found["GEMINI_API_KEY"]["detail"] == "not set"
    assert found["judge on the CPU"]["status"] == "works"
    assert all(check["advice"] for check in ran.document["checks"] if check["status"] == "limited")
    assert "planted" not in ran.out + ran.err
