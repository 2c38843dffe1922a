"""Other inputs for one of a block's last calls, put there while its first ones run.

Whoever answers the inputs that were there before, although it was not that call's turn yet, has
computed it ahead. On a GPU the judge's kernels would wait until the child's time slice is over:
bytes are exchanged with pinned memory of the host, which the copy engines do meanwhile.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from flashinfer_bench import Workload

    from kernel_generator.evaluation.trials import Trials
    from kernel_generator.sandbox.arena import Block

_LATE = 4
"""One of the last quarter of a block's calls is chosen."""
_MOST_BYTES = 4 << 20
"""Of larger inputs the first bytes are replaced: more would not be there in time."""
_LEAST_BYTES = 512 << 10
"""The copy engines take what is not smaller (H100: 4 KiB wait for a time slice, 1 MiB do not)."""
_GLANCED_BYTES = 64 << 10


class Surprise:
    """One workload's."""

    def __init__(self, trials: Trials, workload: Workload, block: Block) -> None:
        """`block` holds what a block's calls find before anything is replaced."""
        self._trials = trials
        self._workload = workload
        self._block = block
        self._later = trials.private(replace(block.layout, sets=1))
        self._random = random.SystemRandom()
        # What others are found by stays: half replaced, it would lead out of bounds.
        self._replaced = [
            p for p in block.layout.inputs if p.nbytes and p.torch_dtype.is_floating_point
        ]
        self._written = max(block.layout.outputs, key=lambda place: place.nbytes)
        self.late = 0
        """The number of the call that is given other inputs."""
        self._now = self._later.sets[0]
        self._new = self._on_host(0)
        self._glance = self._on_host(min(self._written.nbytes, _GLANCED_BYTES))
        self._poison = self._on_host(len(self._glance))

    def prepare(self, count: int) -> None:
        """Choose a call of a block of `count`, and other inputs for it. Raises
        `InputsUnavailable`."""
        self._trials.refill(self._later, self._workload, 1)
        self.late = self._random.randrange(count - -(-count // _LATE), count)
        flat = self._block.sets.view(-1)[self.late * self._block.layout.size :]
        ends = max((p.offset + p.nbytes for p in self._replaced), default=0)
        # What lies behind is written as it was: the calls that it is for have not begun either.
        many = min(len(flat), max(min(ends, _MOST_BYTES), _LEAST_BYTES))
        self._now = self._block.sets[self.late].clone()
        for place in self._replaced:
            region = slice(place.offset, min(place.offset + place.nbytes, many))
            self._now[region] = self._later.sets[0, region]
        new = flat[:many].clone()
        new[: len(self._now)] = self._now[:many]
        if len(self._new) != many:
            self._new = self._on_host(many)
        self._new.copy_(new)
        self._poison.copy_(self._before(self._block))

    def replace(self, arena: Block) -> bool:
        """Put them there. True where that was in time: the call before had not even written."""
        flat = arena.sets.view(-1)[self.late * arena.layout.size :]
        flat[: len(self._new)].copy_(self._new, non_blocking=True)
        self._glance.copy_(self._before(arena), non_blocking=True)
        self._trials.synchronize()
        return torch.equal(self._glance, self._poison)

    @property
    def content(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What lay in the call's set at first, and then, uint8 [1, layout.size] each."""
        return self._block.sets[self.late][None], self._now[None]

    def _before(self, block: Block) -> torch.Tensor:
        """The first bytes that the call before is to write."""
        return block.region(self._written, self.late - 1)[: len(self._glance)]

    def _on_host(self, nbytes: int) -> torch.Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=self._trials.on_gpu)
