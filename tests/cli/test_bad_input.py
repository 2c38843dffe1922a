"""Bad input costs a clear sentence and exit code 2; nothing is lost and nothing half-written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.commands import Shell
from tests.runs.sets import OP_TYPE, a_solution, a_traceset, listing, write_definition

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    """A user beside the trace set `set`."""
    a_traceset(tmp_path / "set")
    return Shell(tmp_path, monkeypatch, capsys)


ON_SET = ("set", "-d", "scale_add")

SENTENCES = [
    (("list", "nowhere"), "there is no trace set at 'nowhere': the path does not exist"),
    (("list", "."), "'.' is not a FlashInfer-Bench trace set: it has no definitions/ folder"),
    (("optimize", "set", "-d", "scale_ad"), "unknown definition 'scale_ad': did you mean"),
    (("generate", "set", "-d", "scale_ad"), "unknown definition 'scale_ad': did you mean"),
    (("evaluate", "set", "-d", "scal_add", "-s", "x.py"), "unknown definition 'scal_add': did"),
    (("optimize", "set", "-l", "tritn"), "unknown language 'tritn': did you mean 'triton'?"),
    (("optimize", "set", "-t", "H10"), "unknown target 'H10': did you mean 'H100'"),
    (("optimize", "set", "-m", "builtin:x"), "unknown builtin model 'builtin:x'"),
    (("optimize", "set", "-m", "gpt-4o"), "Please set LLM_API_KEY environment variable or modify"),
    (("optimize", "set", "-r", "0"), "rounds is 0: give at least 1"),
    (("optimize", "set", "-r", "many"), "Invalid value for '--rounds' / '-r'"),
    (("optimize", "set", "--target-speedup", "0"), "target_speedup is 0.0: give more than 0"),
    (("generate", *ON_SET, "-k", "0"), "pass_k is 0: ask for at least 1 solution"),
    (("generate", "set"), "Missing option '--definition' / '-d'"),
    (("optimise", "set"), "No such command 'optimise'"),
    (("list", "set", "--jsno"), "No such option: --jsno"),
    (("evaluate", *ON_SET, "-s", "gone.py"), "cannot read the solution 'gone.py': No such file"),
    (("evaluate", *ON_SET, "-s", "set"), "cannot read the solution 'set': Is a directory"),
]


@pytest.mark.parametrize(("command", "sentence"), SENTENCES, ids=[s for _, s in SENTENCES])
def test_one_sentence_says_what_is_wrong(
    shell: Shell, tmp_path: Path, command: tuple[str, ...], sentence: str
) -> None:
    before = listing(tmp_path)
    ran = shell.run(*command)
    assert ran.code == 2
    assert [sentence in line for line in ran.errors] == [True], ran.err
    assert ran.out == ""
    assert listing(tmp_path) == before


@pytest.mark.parametrize("command", [c for c, _ in SENTENCES[:6]], ids=" ".join)
def test_json_says_it_in_one_document(shell: Shell, command: tuple[str, ...]) -> None:
    ran = shell.run(*command, "--json")
    assert ran.code == 2
    assert f"error: {ran.document['error']['message']}" == ran.errors[0]


def test_a_misspelt_option_among_json_is_one_document_too(shell: Shell) -> None:
    assert shell.run("list", "set", "--jsno", "--json").document["error"]["kind"] == "UsageError"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("s.py", b"", "the solution 's.py' is empty"),
        ("s.py", b"\xff\xfe", "the solution 's.py' is not UTF-8 text"),
        ("s.foo", b"text", "has an ending that says nothing of its language: name it with --lang"),
        ("s.json", b"text", "'s.json' is not a Solution: Invalid JSON: "),
        ("s.json", b'{"name": 3}', "'s.json' is not a Solution: name: Input should be a valid str"),
        (
            "s.json",
            a_solution(definition="another").model_dump_json().encode(),
            "'s.json' solves 'another', not 'scale_add': use -d another",
        ),
    ],
)
def test_a_solution_file_that_is_none_is_said(
    shell: Shell, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    ran = shell.run("evaluate", *ON_SET, "-s", name)
    assert ran.code == 2
    assert words in ran.errors[0]


def test_what_is_malformed_is_named_and_the_rest_is_listed(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "set" / "definitions" / "bad.json").write_text("{")
    with (tmp_path / "set" / "workloads" / OP_TYPE / "scale_add.jsonl").open("a") as file:
        file.write("garbage\n")
    ran = shell.run("list", "set", "--json")
    assert ran.code == 0
    assert [d["name"] for d in ran.document["definitions"]] == ["scale_add"]
    assert ran.document["definitions"][0]["workloads"] == 2
    skipped = [line.removeprefix("skipped ") for line in ran.err.splitlines()]
    assert skipped == ran.document["problems"]
    assert [s.split(": ")[0] for s in skipped] == [
        "set/definitions/bad.json",
        f"set/workloads/{OP_TYPE}/scale_add.jsonl:3",
    ]


def test_a_set_without_one_readable_definition_has_nothing_to_work_on(
    shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "set" / "definitions" / OP_TYPE / "scale_add.json").write_text("{")
    ran = shell.run("optimize", "set")
    assert ran.code == 2
    assert ran.errors == ["error: the trace set at 'set' has no readable definition"]


def test_a_contradiction_of_model_and_host_says_both(shell: Shell) -> None:
    ran = shell.run(
        "optimize", "set", "-m", "claude-opus-4-1", "--base-url", "https://api.openai.com/v1"
    )
    assert ran.code == 2
    assert "'claude-opus-4-1' is served by anthropic" in ran.errors[0]
    assert "is the host of openai" in ran.errors[0]


def test_no_workloads_and_broken_references_stop_nothing(shell: Shell, tmp_path: Path) -> None:
    write_definition(tmp_path / "set", "a_empty", sizes=())
    write_definition(tmp_path / "set", "b_broken", reference="def run(x):\n    raise OSError(7)\n")
    ran = shell.run("optimize", "set", "-d", "b_broken", "-d", "a_empty", "--json")
    assert ran.code == 1
    broken, empty = ran.document["definitions"]
    assert (broken["outcome"], empty["outcome"]) == ("FAILED", "SKIPPED")
    assert "the reference of 'b_broken' fails on" in broken["message"]
    assert empty["message"] == "No workloads found for definition 'a_empty' - SKIPPING"
    assert empty["message"] in ran.err
    assert ran.document["statistics"]["processed"] == 2
    assert ran.document["statistics"]["successful"] == 0


def test_the_embedded_default_is_said_with_how_to_use_a_language_model(shell: Shell) -> None:
    ran = shell.run("generate", *ON_SET)
    assert ran.code == 0
    assert "using the embedded 'builtin:compiler'" in ran.err
    assert "set LLM_API_KEY" in ran.err
    assert "--model gpt-5" in ran.err
