"""Bundles: what is exported adds to what is there, and what is imported is whole or refused."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from flashinfer_bench import TraceSet
from pydantic import ValidationError

from kernel_generator import KernelGenerator
from kernel_generator.domain.errors import (
    InvalidInput,
    KernelGeneratorError,
    NoPassingSolution,
)
from kernel_generator.domain.outcome import Outcome
from kernel_generator.evaluation.judge import Opened
from kernel_generator.models.scripted import ScriptedModel
from kernel_generator.runs.bundle import Bundle, text_key
from kernel_generator.runs.journal import known_run, known_runs
from kernel_generator.runs.results import save_result
from kernel_generator.runs.sharing import export_run, import_run
from kernel_generator.runs.store import Store
from tests.runs.kept import keep_run
from tests.runs.sets import OP_TYPE, a_traceset, an_evaluation, listing, write_definition

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flashinfer_bench import Solution

    from kernel_generator.domain.evaluation import Evaluation

TRACES = f"traces/{OP_TYPE}/scale_add.jsonl"


@pytest.fixture
def traceset(tmp_path: Path) -> TraceSet:
    return a_traceset(tmp_path / "set")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "here.db")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Store:
    return Store(tmp_path / "elsewhere.db")


def bundle_of(store: Store, run: str, folder: Path) -> Path:
    return export_run(store, run, folder, None)[0]


def altered(bundle: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """By somebody who makes the digest anew."""
    document = json.loads(bundle.read_text())
    change(document)
    with contextlib.suppress(ValidationError):
        document = json.loads(Bundle.model_validate(document).sealed().dumped())
    bundle.write_text(json.dumps(document))
    return bundle


# --- out -----------------------------------------------------------------------------------------


def test_two_runs_of_a_definition_in_one_folder_keep_the_traces_of_both(
    store: Store, traceset: TraceSet, tmp_path: Path
) -> None:
    for _ in range(2):
        run = keep_run(store, traceset, an_evaluation(), an_evaluation())
        for _ in range(2):
            export_run(store, run, tmp_path / "out", traceset)
    read = TraceSet.from_path(str(tmp_path / "out"))
    assert len(read.solutions["scale_add"]) == 4
    assert len(read.traces["scale_add"]) == 8


def test_an_export_into_the_trace_set_itself_takes_nothing_away_and_repeats_nothing(
    store: Store, traceset: TraceSet, tmp_path: Path
) -> None:
    run = keep_run(store, traceset)
    saved = save_result(known_run(store, run), store, traceset)
    before = listing(tmp_path / "set")
    written = export_run(store, run, tmp_path / "set", traceset)
    assert saved in written
    assert listing(tmp_path / "set") == before | {f"{run}.bundle.json": written[0].stat().st_size}
    TraceSet.from_path(str(tmp_path / "set"))


@pytest.mark.parametrize("what", ["definition", "solution"])
def test_a_folder_that_holds_another_of_that_name_is_left_as_it_is(
    store: Store, traceset: TraceSet, tmp_path: Path, what: str
) -> None:
    run, out = keep_run(store, traceset), tmp_path / "out"
    if what == "definition":
        write_definition(out, reference="def run(x):\n    return x * 3\n")
    else:
        (out / "solutions" / "scale_add").mkdir(parents=True)
        (out / "solutions" / "scale_add" / f"scale_add_r1_{run}.json").write_text("{}")
    before = listing(out)
    with pytest.raises(InvalidInput, match=f"holds another {what} than the run's 'scale_add"):
        export_run(store, run, out, traceset)
    assert listing(out) == before


def test_what_cannot_be_written_leaves_no_part_of_an_export(
    store: Store, traceset: TraceSet, tmp_path: Path
) -> None:
    run, out = keep_run(store, traceset), tmp_path / "out"
    (out / TRACES).mkdir(parents=True)
    with pytest.raises(InvalidInput, match="cannot be written: Is a directory"):
        export_run(store, run, out, traceset)
    assert [path for path in out.rglob("*") if path.is_file()] == []


def test_a_run_whose_texts_are_not_utf8_goes_from_store_to_store(
    store: Store, elsewhere: Store, traceset: TraceSet, tmp_path: Path
) -> None:
    run = keep_run(store, traceset, reason=None)
    store.append(run, "finished", {"reason": "said \ud800"}, {"note": "\udfff"})
    taken, is_new = import_run(elsewhere, bundle_of(store, run, tmp_path))
    assert is_new
    assert taken.history.reason == "said \ud800"
    assert elsewhere.events(run) == store.events(run)


# --- in ------------------------------------------------------------------------------------------


def with_a_text_nobody_names(bundle: dict[str, Any]) -> None:
    bundle["texts"][text_key('"extra"')] = '"extra"'


def with_a_false_text_nobody_names(bundle: dict[str, Any]) -> None:
    bundle["texts"][text_key('"what another run will say"')] = '"poison"'


def with_a_text_that_is(text: str) -> Callable[[dict[str, Any]], None]:
    def change(bundle: dict[str, Any]) -> None:
        key = text_key(text) if text.isascii() else "0" * 64
        event = bundle["events"][0]["document"]
        bundle["texts"][key] = text
        bundle["texts"].pop(event["texts"]["messages"])
        event["texts"]["messages"] = key

    return change


def with_a_field(kind: str, name: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(bundle: dict[str, Any]) -> None:
        document = {"path": "p", "name": "n", "texts": {}}
        bundle["events"].append({"at": "2026-01-01", "kind": "saved", "document": document})
        for event in bundle["events"]:
            if event["kind"] == kind:
                event["document"][name] = value

    return change


def with_a_half_pair_for_a_kind(bundle: dict[str, Any]) -> None:
    bundle["events"][0]["kind"] = "\ud800"


def with_a_half_pair_for_a_time(bundle: dict[str, Any]) -> None:
    bundle["began"] = "\ud800"


def without_events(bundle: dict[str, Any]) -> None:
    bundle["events"], bundle["texts"] = [], {}


def with_an_unknown_kind(bundle: dict[str, Any]) -> None:
    bundle["events"][0]["kind"] = "foo"


def with_another_source_than_was_judged(bundle: dict[str, Any]) -> None:
    [key] = {e["document"]["texts"]["noted"] for e in bundle["events"] if e["kind"] == "attempted"}
    solution = json.loads(json.loads(bundle["texts"][key]))
    solution["sources"][0]["content"] += "# another"
    text = json.dumps(json.dumps(solution))
    bundle["texts"][text_key(text)] = text
    for event in bundle["events"]:
        if event["kind"] == "attempted":
            event["document"]["texts"]["noted"] = text_key(text)


def without_a_verdict(bundle: dict[str, Any]) -> None:
    [judged] = [event for event in bundle["events"] if event["kind"] == "judged"]
    bundle["events"].remove(judged)
    bundle["texts"].pop(judged["document"]["texts"]["evaluation"])


def of_another_definition(bundle: dict[str, Any]) -> None:
    bundle["settings"]["definition"] = "another"


def without_the_source_of_its_best(bundle: dict[str, Any]) -> None:
    for event in bundle["events"]:
        event["document"]["texts"].pop("noted", None)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (with_a_text_nobody_names, "1 texts that no event names"),
        (with_a_false_text_nobody_names, "1 texts that no event names"),
        (with_a_text_that_is("no JSON"), "the messages of event 1 is no JSON string"),
        (with_a_text_that_is('"cut'), "the messages of event 1 is no JSON string"),
        (with_a_text_that_is("[1]"), "the messages of event 1 is no JSON string"),
        (with_a_text_that_is('"\ud800"'), "the messages of event 1 is no JSON string"),
        (with_a_text_that_is("[" * 100_000), "the messages of event 1 is no JSON string"),
        (with_a_field("finished", "reason", 1), "cannot be read.*1 is no text"),
        (with_a_field("attempted", "message", ["x"]), "cannot be read.*is no text"),
        (with_a_field("attempted", "duplicate_of", "x"), "cannot be read.*valid integer"),
        (with_a_field("saved", "path", None), "cannot be read.*is no text"),
        (with_a_field("saved", "name", {}), "cannot be read.*is no text"),
        (with_a_half_pair_for_a_kind, "is no bundle of a run: events.0.kind"),
        (with_a_half_pair_for_a_time, "is no bundle of a run: began"),
        (without_events, "it has no events"),
        (with_an_unknown_kind, "event 1 is of no known kind, 'foo'"),
        (with_a_field("attempted", "outcome", "WRONG_VALUES"), "is WRONG_VALUES where .* PASSED"),
        (with_another_source_than_was_judged, "another source than was judged"),
        (without_a_verdict, "is PASSED where the judge said nothing"),
        (of_another_definition, "a version is not of 'another'"),
        (without_the_source_of_its_best, "cannot be read.*its best version has no source"),
    ],
)
def test_a_bundle_that_was_tampered_with_is_refused_in_a_sentence(
    store: Store,
    elsewhere: Store,
    traceset: TraceSet,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], None],
    told: str,
) -> None:
    bundle = altered(bundle_of(store, keep_run(store, traceset), tmp_path), change)
    with pytest.raises(KernelGeneratorError, match=told):
        import_run(elsewhere, bundle)
    assert elsewhere.runs() == []


def test_what_is_added_to_a_run_that_is_here_is_judged_in_full_isolation(
    store: Store, elsewhere: Store, traceset: TraceSet, tmp_path: Path
) -> None:
    run = keep_run(store, traceset, reason=None, isolation="process")
    bundle = bundle_of(store, run, tmp_path)
    import_run(store, bundle)
    assert store.find(run).settings["isolation"] == "process", "nothing was added"
    import_run(elsewhere, bundle)
    elsewhere.append(run, "finished", {"reason": "it went on there"})
    _, is_new = import_run(store, bundle_of(elsewhere, run, tmp_path))
    assert is_new
    assert store.find(run).settings["isolation"] == "strict"


def test_a_run_that_was_begun_otherwise_is_not_mixed(
    store: Store, traceset: TraceSet, tmp_path: Path
) -> None:
    run = keep_run(store, traceset)
    bundle = bundle_of(store, run, tmp_path)
    here = Store(tmp_path / "third.db")
    settings = store.find(run).settings
    here.begin(run, settings | {"traceset": "/another/place"})
    with pytest.raises(InvalidInput, match="begun or went on otherwise: import it into another"):
        import_run(here, bundle)
    assert here.events(run) == []
    assert here.find(run).settings["traceset"] == "/another/place"


def test_events_that_were_edited_by_hand_are_noticed(
    store: Store, elsewhere: Store, traceset: TraceSet, tmp_path: Path
) -> None:
    bundle = bundle_of(store, keep_run(store, traceset), tmp_path)
    bundle.write_text(bundle.read_text().replace('"cost_usd": 0.5', '"cost_usd": 0.0'))
    with pytest.raises(InvalidInput, match="its settings or its events were altered"):
        import_run(elsewhere, bundle)


# --- whose word a verdict is ---------------------------------------------------------------------


class Says:
    """A judge that finds what it was told beforehand. Simulated."""

    opened = Opened()

    def __init__(self, *verdicts: Evaluation) -> None:
        self.judged: list[str] = []
        self._verdicts = list(verdicts)

    def check(self) -> None:
        """Nothing is isolated."""

    def open(self, task: Any) -> Says:
        del task
        return self

    def prepare(self) -> None:
        """Nothing to prepare."""

    def evaluate(self, solution: Solution, profile: Any) -> Evaluation:
        assert profile.certified
        self.judged.append(solution.name)
        return self._verdicts.pop(0)

    def close(self) -> None:
        """Nothing to close."""


def goes_on(store: Store, run: str, traceset: TraceSet, judge: Says) -> Path:
    """The file that the result of a run was saved in, once the run was gone on with."""
    generator = KernelGenerator(
        model=ScriptedModel([]), language="python", target_gpu="CPU", store=store, judge=judge
    )
    definition = traceset.definitions["scale_add"]
    best = generator.optimized_generate(traceset=traceset, definition=definition, run_id=run)
    return generator.save(best, traceset)


@pytest.fixture
def taken_in(store: Store, elsewhere: Store, traceset: TraceSet, tmp_path: Path) -> str:
    """A run that another store had judged twice to have passed, the second version faster."""
    fast = an_evaluation(speedup=9.0, promoted=True)
    run = keep_run(store, traceset, an_evaluation(), fast)
    import_run(elsewhere, bundle_of(store, run, tmp_path / "bundles"))
    return run


def test_what_passed_elsewhere_is_not_saved_or_exported_on_its_word(
    elsewhere: Store, taken_in: str, traceset: TraceSet, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=f"was judged elsewhere: 'resume {taken_in}' judges it"):
        save_result(known_run(elsewhere, taken_in), elsewhere, traceset)
    [bundle, definition] = export_run(elsewhere, taken_in, tmp_path / "out", traceset)
    assert bundle.name == f"{taken_in}.bundle.json"
    assert definition.name == "scale_add.json"
    assert not (tmp_path / "set" / "solutions").exists()


def test_what_passed_elsewhere_is_saved_with_the_figures_of_this_machine(
    elsewhere: Store, taken_in: str, traceset: TraceSet
) -> None:
    judge = Says(an_evaluation(speedup=1.5))
    path = goes_on(elsewhere, taken_in, traceset, judge)
    assert judge.judged == [f"scale_add_r2_{taken_in}"]
    assert '\\"speedup\\": 1.5' in path.read_text()
    assert known_run(elsewhere, taken_in).is_over
    assert goes_on(elsewhere, taken_in, traceset, Says()) == path, "it is not judged a third time"
    [known], _ = known_runs(elsewhere)
    assert known.history.best is not None
    assert known.history.best.speedup == 1.5


def test_what_does_not_pass_here_is_not_saved_and_the_next_best_is_judged(
    elsewhere: Store, taken_in: str, traceset: TraceSet
) -> None:
    judge = Says(an_evaluation(Outcome.WRONG_VALUES), an_evaluation(speedup=1.2))
    path = goes_on(elsewhere, taken_in, traceset, judge)
    assert judge.judged == [f"scale_add_r{number}_{taken_in}" for number in (2, 1)]
    assert f"scale_add_r1_{taken_in}" in path.read_text()
    attempts = known_run(elsewhere, taken_in).history.attempts
    assert [attempt.outcome.value for attempt in attempts] == ["PASSED", "WRONG_VALUES"]


def test_a_run_of_which_nothing_passes_here_has_no_result(
    elsewhere: Store, taken_in: str, traceset: TraceSet
) -> None:
    wrong = an_evaluation(Outcome.WRONG_VALUES)
    with pytest.raises(NoPassingSolution):
        goes_on(elsewhere, taken_in, traceset, Says(wrong, wrong))


@pytest.mark.parametrize("outcome", [Outcome.BUILT_NOT_RUN, Outcome.CORRECT_NOT_MEASURED])
def test_where_the_target_is_not_here_that_is_said_and_nothing_noted(
    elsewhere: Store, taken_in: str, traceset: TraceSet, outcome: Outcome
) -> None:
    before = elsewhere.events(taken_in)
    with pytest.raises(InvalidInput, match="was judged elsewhere, and here is no CPU to judge it"):
        goes_on(elsewhere, taken_in, traceset, Says(an_evaluation(outcome)))
    assert elsewhere.events(taken_in) == before


def test_a_verdict_made_here_stays_one_where_the_run_comes_back(
    store: Store, elsewhere: Store, traceset: TraceSet, tmp_path: Path
) -> None:
    run = keep_run(store, traceset, reason=None)
    import_run(elsewhere, bundle_of(store, run, tmp_path))
    elsewhere.append(run, "finished", {"reason": "it went on there"})
    import_run(store, bundle_of(elsewhere, run, tmp_path))
    assert save_result(known_run(store, run), store, traceset).is_file()
