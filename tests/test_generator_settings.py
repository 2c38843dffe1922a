"""What a generator is told, and what it says where that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kernel_generator import KernelGenerator
from kernel_generator.domain.errors import (
    InvalidInput,
    MissingKey,
    NoWorkloads,
    ReferenceFailed,
    UnknownName,
)
from kernel_generator.models.scripted import ScriptedModel
from kernel_generator.runs.store import Store
from kernel_generator.runs.tracesets import load_traceset
from tests.desk import a_desk, optimize, without_a_gpu
from tests.runs.sets import (
    OP_TYPE,
    a_traceset,
    workload_line,
    write_definition,
)

pytestmark = pytest.mark.usefixtures("bare_environment")


# --- what cannot be worked on ----------------------------------------------------------------


def test_a_definition_without_workloads_is_skipped_with_the_documented_sentence(
    tmp_path: Path,
) -> None:
    desk = a_desk()
    with pytest.raises(NoWorkloads) as raised:
        optimize(desk, a_traceset(tmp_path, sizes=()))
    assert str(raised.value) == "No workloads found for definition 'scale_add' - SKIPPING"


def test_a_blob_that_does_not_fit_is_named_with_what_is_in_it(tmp_path: Path) -> None:
    blob = {"type": "safetensors", "path": "./other.safetensors", "tensor_key": "x"}
    save_file({"x": torch.ones(5)}, tmp_path / "other.safetensors")
    write_definition(tmp_path, "scale_add", sizes=())
    file = tmp_path / "workloads" / OP_TYPE / "scale_add.jsonl"
    file.write_text(workload_line("scale_add", 3, blob) + "\n")
    with pytest.raises(
        NoWorkloads, match=r"other\.safetensors is torch\.float32 \[5\], the workload"
    ):
        optimize(a_desk(), load_traceset(tmp_path)[0])


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("def run(x):\n    raise ValueError('broken by its author')", "broken by its author"),
        ("import a_module_nobody_has\ndef run(x): ...", "a_module_nobody_has"),
        pytest.param("def run(x):\n    return x.cuda() * 2", "CUDA", marks=without_a_gpu),
    ],
    ids=["raises", "does not import", "needs a GPU"],
)
def test_a_reference_that_fails_is_the_definitions_fault_and_costs_no_reply(
    tmp_path: Path, reference: str, words: str
) -> None:
    write_definition(tmp_path, "scale_add", reference=reference)
    desk = a_desk()
    with pytest.raises(ReferenceFailed, match=f"(?s)the reference of 'scale_add'.*{words}"):
        optimize(desk, load_traceset(tmp_path)[0])
    assert desk.model.asked == []


# --- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"language": "tritn"}, "unknown language 'tritn': did you mean 'triton'"),
        ({"target_gpu": "H10"}, "unknown target 'H10': did you mean 'H100'"),
        ({"model_name": "builtin:compile"}, "did you mean 'builtin:compiler'"),
    ],
)
def test_an_unknown_name_offers_the_closest(settings: dict[str, str], words: str) -> None:
    with pytest.raises(UnknownName, match=words):
        KernelGenerator(**settings)


def test_a_missing_key_is_said_in_the_documented_words() -> None:
    with pytest.raises(MissingKey) as raised:
        KernelGenerator(model_name="gpt-4o", language="triton", target_gpu="H100")
    assert str(raised.value) == (
        "Please set LLM_API_KEY environment variable or modify this script to pass api_key "
        "explicitly"
    )


def test_a_key_without_a_model_is_not_silently_left_unused() -> None:
    with pytest.raises(InvalidInput, match=r"a key is set .* but no model is named"):
        KernelGenerator(api_key="sk-something")


def test_the_embedded_model_writes_no_other_language() -> None:
    with pytest.raises(InvalidInput, match=r"writes python .*, not cuda: leave the language out"):
        KernelGenerator("builtin:compiler", language="cuda", target_gpu="H100")


@pytest.mark.parametrize(("target", "language"), [("H100", "triton"), ("CPU", "cpp")])
def test_the_language_follows_from_the_target(target: str, language: str) -> None:
    made = KernelGenerator(model=ScriptedModel([]), target_gpu=target)
    assert made.language == language


def test_the_target_may_be_written_in_any_case() -> None:
    assert KernelGenerator(model=ScriptedModel([]), target_gpu="rtx4090").target.name == "RTX4090"


def test_generators_that_share_a_store_open_its_file_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs.db")
    assert store.runs() == []

    def opened() -> int:
        return sum(fd.resolve() == store.path for fd in Path("/proc/self/fd").iterdir())

    before = opened()
    for _ in range(3):
        made = KernelGenerator(model=ScriptedModel([]), language="python", store=store)
        with pytest.raises(UnknownName):
            made.optimized_generate(
                traceset=(traceset := a_traceset(tmp_path / "set")),
                definition=traceset.definitions["scale_add"],
                run_id="unheard_of",
            )
    assert opened() == before == 1
