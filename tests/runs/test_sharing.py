"""Bundles: what is exported adds to what is there, and what is imported is whole or refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from flashinfer_bench import TraceSet

from kernel_generator.domain.errors import InvalidInput, KernelGeneratorError
from kernel_generator.runs.bundle import text_key
from kernel_generator.runs.journal import known_run
from kernel_generator.runs.results import save_result
from kernel_generator.runs.sharing import export_run, import_run
from kernel_generator.runs.store import Store
from tests.runs.kept import keep_run
from tests.runs.sets import OP_TYPE, a_traceset, an_evaluation, listing, write_definition

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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
    document = json.loads(bundle.read_text())
    change(document)
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
