"""The CUDA kernels of concrete, run on the CPU, against their twin in plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from cuda_host_build import Host, HostError
from cuda_host_model import TOLERANCE
from torch import Tensor

from fastgmtl import reference
from fastgmtl.reference.concrete import concrete_sample

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SEED = torch.tensor([11 << 40])


def odds(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return (2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


def close(got: Tensor, want: Tensor) -> bool:
    """Up to rounding, relative to the largest entry."""
    scale = max(1.0, float(want.double().abs().max())) if want.numel() else 1.0
    return bool(((got.double() - want.double()).abs() <= 2 * TOLERANCE[got.dtype] * scale).all())


def check(host: Host, tasks: int, dtype: torch.dtype, temperature: float = 0.7, explore: float = 0.05) -> None:
    """All pairs and listed ones at several orders, and the graph."""
    logits, v = odds(tasks, tasks, dtype=dtype), odds(tasks, tasks, dtype=dtype, seed=1)
    src, dst = torch.randint(tasks, (2, 300), generator=torch.Generator().manual_seed(2)).contiguous()
    numbers = temperature, explore
    # The twin's polynomials of high order cancel: they say something in float64 alone.
    for order in (0, 1, 2, 5, 8) if dtype == torch.float64 else (0, 1, 2):
        of_all, of_some = (v, v[src, dst].contiguous()) if order else (None, None)
        for given in ((logits, of_all, None, None), (logits[src, dst].contiguous(), of_some, src, dst)):
            want = concrete_sample(None, *given, SEED, order, *numbers)
            out = torch.zeros_like(want)
            host.concrete([*given, SEED], order, *numbers, out)
            assert torch.equal(out, want) if order == 0 else close(out, want)
    graph, _ = reference.concrete(logits, temperature, explore, SEED)
    words, counts = torch.zeros(tasks, (tasks + 31) // 32, dtype=torch.int32), torch.zeros(tasks + 1).long()
    host.concrete_draw(logits, SEED, explore, words, counts)
    assert torch.equal(counts.cumsum(0), graph.row_ptr)
    for index in (torch.int32, torch.int64):
        col = torch.zeros(graph.num_edges, dtype=index)
        host.concrete_edges(words, graph.row_ptr, col)
        assert torch.equal(col, graph.col.to(index))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tasks", [1, 2, 5, 32, 33, 70, 130])
def test_sizes(host: Host, tasks: int, dtype: torch.dtype) -> None:
    check(host, tasks, dtype)


@pytest.mark.parametrize(("temperature", "explore"), [(1.0, 0.0), (0.1, 0.0), (3.0, 0.3), (1.0, 0.5)])
def test_options(host: Host, temperature: float, explore: float) -> None:
    check(host, 20, torch.float64, temperature, explore)


def test_what_does_not_fit(host: Host) -> None:
    logits, out = torch.zeros(3, 3), torch.zeros(3, 3)
    for change, text in (
        ({"order": 9}, "concrete: order must be 0 to 8, got 9"),
        ({"temperature": -1.0}, "concrete: temperature must be positive"),
        ({"explore": 0.7}, r"concrete: explore must be in \[0, 0.5\]"),
        ({"inputs": [logits, out, None, None, SEED]}, "concrete: v belongs to orders above 0"),
    ):
        given = {"inputs": [logits, None, None, None, SEED], "order": 0, "temperature": 1.0, "explore": 0.0} | change
        with pytest.raises(HostError, match=text):
            host.concrete(**given, out=out)


def test_every_kernel_has_run(host: Host) -> None:
    """Each instance of each kernel, by its symbol; this test brings them all about by itself."""
    for dtype in DTYPES:
        check(host, 5, dtype)
    known, executed = host.kernels()
    mine = {name for name in known if "concrete_" in name}
    assert len(mine) == 14
    assert not sorted(mine - executed)
