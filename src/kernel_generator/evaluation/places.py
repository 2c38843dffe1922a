"""Which judges there are for a target: on this machine, or on a Ray cluster.

With one GPU, or none, the judge works in this process; with more each GPU has a process of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_generator.domain.errors import InvalidInput
from kernel_generator.evaluation.device import visible_gpus
from kernel_generator.evaluation.local import LocalJudge
from kernel_generator.evaluation.process_judge import ProcessJudge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernel_generator.domain.target import Target
    from kernel_generator.evaluation.device import Gpu
    from kernel_generator.evaluation.judge import Limits, PlacedJudge

RAY = "ray"


def judges_for(
    evaluators: str | None, target: Target, limits: Limits, isolation: str
) -> list[PlacedJudge]:
    """The judges that `--evaluators` names: None, 'ray' or 'ray://HEAD:PORT'.

    Raises `InvalidInput` where it names nothing, the cluster is not reached, or no machine of it
    has what the target says; `UnknownName` for the isolation level.
    """
    if evaluators is None:
        return local_judges(target, limits, isolation)
    if evaluators != RAY and not evaluators.startswith(f"{RAY}://"):
        raise InvalidInput(
            f"'{evaluators}' is no place to judge: say 'ray' or 'ray://HEAD:10001', or leave "
            "--evaluators out for the GPUs of this machine"
        )
    # Ray is an extra, and takes a second to import.
    from kernel_generator.evaluation.ray_judge import ray_judges  # noqa: PLC0415

    address = None if evaluators == RAY else evaluators
    return [*ray_judges(address, target, limits, isolation)]


def local_judges(
    target: Target, limits: Limits, isolation: str, gpus: Sequence[Gpu] | None = None
) -> list[PlacedJudge]:
    """The judges of this machine: one for each GPU that is the target's, where this process may use
    several GPUs (`gpus`; None: `visible_gpus`), else one in this process. Raises `UnknownName`."""
    if not target.is_gpu:
        return [LocalJudge(limits, isolation, for_gpu=False)]
    gpus = visible_gpus() if gpus is None else gpus
    if len(gpus) > 1:
        judges = [
            ProcessJudge(limits, isolation, gpu.uuid, f"GPU {index}")
            for index, gpu in enumerate(gpus)
            if target.matches(gpu.name)
        ]
        if judges:
            return [*judges]
    return [LocalJudge(limits, isolation)]
