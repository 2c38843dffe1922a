"""The main job over the bundled trace set, as a Markdown table: outcome and speedups by definition.

Runs the embedded model over every definition, then the kernels in `examples/replies` (scripted
replies: a language model's answers kept as text) through the same loop. Figures are this machine's.

    python benchmarks/bundled_set.py [--definition NAME]... [--only embedded|scripted]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_generator import KernelGenerator, NoPassingSolution, load_traceset
from kernel_generator.domain.errors import KernelGeneratorError
from kernel_generator.evaluation.device import describe_device
from kernel_generator.models.scripted import ScriptedModel

if TYPE_CHECKING:
    from kernel_generator.generator import GeneratedSolution

ROOT = Path(__file__).resolve().parent.parent
REPLIES = ROOT / "examples" / "replies"
HEADER = (
    "| definition | author | outcome | x reference | x torch.compile | largest workload: "
    "GPU or CPU time | call time | floor | s |\n|---|---|---|---|---|---|---|---|---|"
)


def main() -> int:
    """Print the table; 0 where everything passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--definition", action="append")
    parser.add_argument("--only", choices=["embedded", "scripted"])
    options = parser.parse_args()
    solved = True
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "traceset"
        shutil.copytree(ROOT / "examples" / "traceset", copy)
        traceset, _ = load_traceset(copy)
        wanted = options.definition or sorted(traceset.definitions)
        rows: list[str] = []
        generator = KernelGenerator(model_name="builtin:compiler")
        device = describe_device("cuda:0" if generator.target.is_gpu else "cpu")
        for name in wanted if options.only != "scripted" else []:
            rows.append(_row(generator, traceset, name, "torch.compile (embedded model)"))
            print(rows[-1], file=sys.stderr, flush=True)
        for path in sorted(REPLIES.glob("*.md")) if options.only != "embedded" else []:
            name, _, language = path.stem.partition(".")
            if name not in wanted or language not in ("triton", "cuda", "cpp", "python"):
                continue
            try:
                scripted = KernelGenerator(
                    language=language, model=ScriptedModel([path.read_text()])
                )
            except KernelGeneratorError as error:
                rows.append(f"| {name} | {language} | not run: {error} | | | | | | |")
            else:
                rows.append(_row(scripted, traceset, name, f"{language} (scripted reply)"))
            print(rows[-1], file=sys.stderr, flush=True)
        solved = all("| PASSED |" in row for row in rows)
    print(f"{device.name}, {device.libraries}, {time.strftime('%Y-%m-%d')}\n")
    print(HEADER)
    print("\n".join(rows))
    return 0 if solved else 1


def _row(generator: KernelGenerator, traceset: object, name: str, author: str) -> str:
    began = time.perf_counter()
    try:
        solution = generator.optimized_generate(
            traceset=traceset,  # type: ignore[arg-type]
            definition=traceset.definitions[name],  # type: ignore[attr-defined]
            rounds=5,
        )
        generator.save(solution, traceset)  # type: ignore[arg-type]
    except NoPassingSolution as error:
        last = error.attempts[-1]
        print(f"{name}: {last.outcome}: {last.message[-2000:]}", file=sys.stderr)
        for record in last.evaluation.workloads if last.evaluation else ():
            for mismatch in record.mismatches:
                print(f"  {record.axes}: {mismatch}", file=sys.stderr)
        return f"| {name} | {author} | {last.outcome.value} | | | | | | |"
    except KernelGeneratorError as error:
        return f"| {name} | {author} | {type(error).__name__}: {error} | | | | | | |"
    return _measured(solution, name, author, time.perf_counter() - began)


def _measured(solution: GeneratedSolution, name: str, author: str, seconds: float) -> str:
    evaluation = solution.evaluation
    assert evaluation is not None
    means = {
        baseline: f"{i.value:.2f} [{i.low:.2f}, {i.high:.2f}]"
        for baseline, i in evaluation.baselines.items()
    }
    largest = max(
        (w for w in evaluation.workloads if w.timing and w.timing.device_us),
        key=lambda w: w.baselines["reference"].device_us.value,
        default=None,
    )
    cells = ["-"] * 3
    if largest is not None:
        timing = largest.timing
        host = " (host-bound)" if timing.host_bound else ""
        cells = [
            f"{timing.device_us.value:.1f} us{host}",
            f"{timing.call_us.value:.1f} us",
            f"{largest.floors.shown_us:.1f} us" if largest.floors.shown_us else "not known",
        ]
    return (
        f"| {name} | {author} | {evaluation.outcome.value} | {means.get('reference', '-')} | "
        f"{means.get('torch.compile', '-')} | {cells[0]} | {cells[1]} | {cells[2]} | "
        f"{seconds:.1f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
