"""The kernels of relation_gate, run on the CPU, against the twin in float64: every size, type and mode."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from cuda_host_build import Host, HostError
from cuda_host_model import TOLERANCE
from torch import Tensor

from fastgmtl import reference
from fastgmtl.reference.relation_gate import ACTIVATIONS, relation_gate_backward

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# N, R, T, S, d: short of a warp and beyond a block; one of everything; more targets than four; widths on both sides of
# a vector, of a group and of what a group holds at once; so many gates that some groups of a block have to wait.
SIZES = [
    (5, 3, 2, 2, 8),
    (1, 1, 1, 1, 1),
    (33, 2, 3, 5, 7),
    (9, 2, 2, 4, 64),
    (4, 1, 5, 3, 130),
    (3, 2, 2, 9, 260),
    (17, 6, 4, 8, 16),
    (2, 30, 2, 16, 24),
]


def randn(seed: int, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def operands(
    size: tuple[int, ...], dtype: torch.dtype, weight: bool, residual: bool, masked: bool
) -> list[Tensor | None]:
    n, r, t, s, d = size
    return [
        randn(0, dtype, n, r, t, d),
        randn(1, dtype, n, r, t, s),
        randn(2, dtype, s, d) if weight else None,
        randn(3, dtype, n, s, d) if residual else None,
        torch.rand(n, r, generator=torch.Generator().manual_seed(4)) < 0.6 if masked else None,
    ]


def wide(value: Tensor | None) -> Tensor | None:
    return value.double() if value is not None and value.is_floating_point() else value


def close(got: Tensor, want: Tensor) -> None:
    scale = max(1.0, float(want.abs().max())) if want.numel() else 1.0
    torch.testing.assert_close(got.double(), want, rtol=0, atol=2 * TOLERANCE[got.dtype] * scale)


def check(
    host: Host, size: tuple[int, ...], dtype: torch.dtype, weight: bool, residual: bool, masked: bool, rows: int
) -> None:
    n, _, _, s, d = size
    z, logits, w, h, mask = operands(size, dtype, weight, residual, masked)
    places = None if mask is None else mask.int()
    for number, activation in enumerate(ACTIVATIONS):
        y = torch.full((n, s, d), 7.0, dtype=dtype)
        host.relation_gate(z, logits, w, h, places, number, y)  # type: ignore[arg-type]
        close(y, reference.relation_gate(*map(wide, (z, logits, w, h)), mask, activation))  # type: ignore[arg-type]
    u = randn(5, dtype, n, s, d)
    out = [torch.full_like(v, 7.0) for v in (z, logits, w) if v is not None]
    partial = torch.zeros(min(n, rows), s, d, dtype=wide(u).dtype if dtype == torch.float64 else torch.float32)  # type: ignore[union-attr]
    last = (out[2], partial) if weight else (None, None)
    host.relation_gate_backward(u, z, logits, w, places, *out[:2], *last)
    want = relation_gate_backward(*map(wide, (u, z, logits, w)), mask)  # type: ignore[arg-type]
    for got, expected in zip(out, want, strict=False):
        close(got, expected)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sizes(host: Host, dtype: torch.dtype, size: tuple[int, ...]) -> None:
    check(host, size, dtype, True, True, False, rows=3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_modes(host: Host, dtype: torch.dtype) -> None:
    for weight, residual, masked, rows in product((True, False), (True, False), (True, False), (1, 2, 100)):
        check(host, (6, 3, 2, 2, 8), dtype, weight, residual, masked, rows)


@pytest.mark.parametrize(
    "size", [(3, 0, 2, 2, 4), (3, 2, 0, 2, 4), (3, 2, 2, 0, 4), (3, 2, 2, 2, 0), (0, 2, 2, 2, 4)], ids=str
)
def test_nothing_of_something(host: Host, size: tuple[int, ...]) -> None:
    check(host, size, torch.float32, True, True, False, rows=2)
    check(host, size, torch.float32, False, False, True, rows=2)


def test_many_rows_of_partial_sums(host: Host) -> None:
    """More than the threads that add up a column take one each."""
    check(host, (40, 2, 2, 2, 8), torch.float32, True, False, False, rows=40)


def test_unaligned_pointers(host: Host) -> None:
    """Contiguous tensors that do not start at 16 bytes take the path of single elements."""
    z = randn(0, torch.float32, 5 * 2 * 2 * 8 + 1)[1:].reshape(5, 2, 2, 8)
    logits, w = randn(1, torch.float32, 5, 2, 2, 3), randn(2, torch.float32, 3, 8)
    y = torch.zeros(5, 3, 8)
    host.relation_gate(z, logits, w, None, None, 0, y)
    close(y, reference.relation_gate(z.double(), logits.double(), w.double()))


def test_same_bits_again(host: Host) -> None:
    z, logits, w, h, _ = operands((50, 2, 2, 2, 8), torch.float32, True, True, False)
    results = []
    for fill in (0.0, 1.0):
        out = [torch.full_like(v, fill) for v in (z, logits, w) if v is not None]
        host.relation_gate_backward(h, z, logits, w, None, *out, torch.zeros(7, 2, 8))
        results.append(out)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_nan_stays_in_its_node(host: Host) -> None:
    for place in (0, 1):
        z, logits, w, h, _ = operands((40, 2, 2, 2, 8), torch.float32, True, True, False)
        tensor = (z, logits)[place]
        assert tensor is not None
        tensor[11].view(-1)[3] = torch.nan
        for activation in range(len(ACTIVATIONS)):
            y = torch.zeros(40, 2, 8)
            host.relation_gate(z, logits, w, h, None, activation, y)  # type: ignore[arg-type]
            assert y.isnan().flatten(1).any(1).nonzero().flatten().tolist() == [11]


def test_large_logits_and_scores_do_not_overflow(host: Host) -> None:
    z, logits, w, h, mask = operands((9, 3, 2, 2, 8), torch.float32, True, True, True)
    assert logits is not None and w is not None and mask is not None
    logits, w, y = 300 * logits, 1000 * w, torch.zeros(9, 2, 8)
    host.relation_gate(z, logits, w, h, mask.int(), 2, y)  # type: ignore[arg-type]
    close(y, reference.relation_gate(*map(wide, (z, logits, w, h)), mask, "elu"))  # type: ignore[arg-type]


def test_what_shared_memory_cannot_hold_is_refused(host: Host) -> None:
    z, logits, w, h, _ = operands((1, 64, 8, 16, 4), torch.float32, True, True, False)
    with pytest.raises(
        HostError, match=r"^relation_gate: on CUDA R \* T \* S and S \* d are limited: this needs 17408 numbers"
    ):
        host.relation_gate(z, logits, w, h, None, 0, torch.zeros(1, 16, 4))  # type: ignore[arg-type]
