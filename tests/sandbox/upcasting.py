"""What tests of double precision share."""

from __future__ import annotations

import torch


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def agree(found: list[torch.Tensor], by_hand: list[torch.Tensor]) -> None:
    """To 1e-10, which float32 anywhere on the way would miss by far."""
    for got, right in zip(found, by_hand, strict=True):
        assert got.shape == right.shape
        if right.is_floating_point():
            assert got.dtype == torch.float64
            torch.testing.assert_close(got.cpu(), right, rtol=1e-10, atol=1e-12)
        else:
            assert torch.equal(got.cpu(), right.to(got.dtype))
