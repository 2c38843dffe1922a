"""The child's side of an arena: the tensors of each call, as views of the memory that it shares."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from kernel_generator.sandbox.arena import Arena, Layout

if TYPE_CHECKING:
    from kernel_generator.sandbox.arena import Block


@dataclass(frozen=True)
class Buffers:
    """The tensors of one call."""

    inputs: list[Any]
    outputs: list[torch.Tensor]

    def apart(self) -> Buffers:
        """Copies, each tensor in an allocation of its own that is no larger than it."""
        return Buffers([_copy(i) for i in self.inputs], [_copy(o) for o in self.outputs])


def kept(returned: Any, buffers: Buffers) -> list[Any]:
    """What a call returned, as its user keeps it. An input that was handed back is the user's own
    to change: of such a one, what it is now."""
    values = list(returned) if isinstance(returned, tuple | list) else [returned]
    inputs = [i for i in buffers.inputs if isinstance(i, torch.Tensor)]
    spans = [range(i.data_ptr(), i.data_ptr() + max(1, i.nbytes)) for i in inputs]

    def own(value: Any) -> Any:
        if isinstance(value, bool | int | float):
            return value
        return value.clone() if any(value.data_ptr() in span for span in spans) else value

    return [own(value) for value in values]


class Binding:
    """A ring of buffers, on the device where the candidate runs."""

    def __init__(self, arena: Block) -> None:
        self._arena = arena
        self._values: list[list[torch.Tensor]] = []
        self._made: list[Buffers] = []
        if not arena.gate:
            # Timed calls would be seen to make them.
            self.ring(arena.layout.sets)

    @staticmethod
    def of(order: Any, fd: int | None) -> Binding:
        """What the judge shares by a BIND frame. Raises `OSError`, `ValueError`."""
        layout = Layout.from_json(json.dumps(order["layout"]).encode())
        if order["handle"] is not None:
            # The one that needs a driver.
            from kernel_generator.sandbox.device_arena import DeviceArena  # noqa: PLC0415

            return Binding(DeviceArena.opened(layout, bytes.fromhex(order["handle"])))
        if fd is None:
            raise ValueError("a BIND frame carries a descriptor or a handle")
        arena = Arena(layout, fd)
        # The mapping is all that is needed; a descriptor a workload would add up.
        arena.close()
        return Binding(arena)

    @property
    def gate(self) -> int:
        """The address of the number that gated work waits for; 0 where there is none."""
        return self._arena.gate

    def ring(self, count: int) -> list[Buffers]:
        """The first `count` sets; each is made at its first use and kept."""
        layout = self._arena.layout
        tensor = self._arena.tensor
        for at in range(len(self._made), min(count, layout.sets)):
            inputs = [tensor(p, at) if p.scalar is None else p.scalar for p in layout.inputs]
            self._made.append(Buffers(inputs, [tensor(p, at) for p in layout.outputs]))
        return self._made[:count]

    def values(self, count: int) -> list[list[torch.Tensor]]:
        """What calls might return, by set: tensors like the outputs, made once and kept, so that
        what storing them takes can be measured without making them."""
        while len(self._values) < count:
            outputs = self.ring(count)[len(self._values)].outputs
            self._values.append([output.clone() for output in outputs])
        return self._values[:count]

    def release(self) -> None:
        """Let go of the memory."""
        self._made.clear()
        self._values.clear()
        self._arena.leave()


def _copy(value: Any) -> Any:
    if isinstance(value, bool | int | float):
        return value
    # Byte by byte: torch has no copies of some packed formats.
    return value.reshape(-1).view(torch.uint8).clone().view(value.dtype).view(value.shape)
