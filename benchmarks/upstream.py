"""flashinfer-bench's own runners on a list of candidates: seconds from source to verdict of each.

    python benchmarks/upstream.py ORDER ANSWERS

`ORDER` is a JSON file written by `evaluation_cost.py`; `ANSWERS` gets a JSON line for the start of
the runner, and one for each candidate. A runner that cannot start ends this with its exception.

Its workers import this file, so what it imports at the top counts as their start.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main() -> None:
    """Run the order."""
    order = json.loads(Path(sys.argv[1]).read_text())
    with Path(sys.argv[2]).open("a", buffering=1) as answers:
        began = time.perf_counter()
        # Nothing is imported before the clock runs: a user's first evaluation waits for it too.
        from flashinfer_bench.bench import BenchmarkConfig  # noqa: PLC0415
        from flashinfer_bench.bench.runner import IsolatedRunner, PersistentRunner  # noqa: PLC0415
        from flashinfer_bench.data import Definition, Solution, Workload  # noqa: PLC0415

        definition = Definition.model_validate(order["definition"])
        workloads = [Workload.model_validate(w) for w in order["workloads"]]
        solutions = [Solution.model_validate(s) for s in order["solutions"]]
        root = Path(order["root"])
        config = BenchmarkConfig(log_dir=order["log_dir"])
        kinds = {"isolated": IsolatedRunner, "persistent": PersistentRunner}
        runner = kinds[order["runner"]](config.log_dir)
        try:
            _answer(answers, {"started_s": time.perf_counter() - began})
            groups = [solutions] if order["together"] else [[one] for one in solutions]
            for group in groups:
                began = time.perf_counter()
                ended = [
                    evaluation.status.value
                    for workload in workloads
                    for evaluation in runner.run_workload(
                        definition, workload, group, config, root
                    ).values()
                ]
                seconds = time.perf_counter() - began
                passed = sum(status == "PASSED" for status in ended)
                _answer(answers, {"seconds": seconds, "passed": passed, "of": len(ended)})
        finally:
            runner.close()


def _answer(answers: object, line: dict[str, float]) -> None:
    print(json.dumps(line), file=answers, flush=True)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
