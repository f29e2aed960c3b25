"""The CUDA kernels of edge_energy and gibbs, run on the CPU, against their twins in plain PyTorch."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from cuda_host_build import Host, HostError, Pattern
from cuda_host_model import TOLERANCE, degrees_of, pattern_of
from torch import Tensor

from fastgmtl import Graph
from fastgmtl.ops.edge_energy import TARGETS
from fastgmtl.reference import edge_energy as energy
from fastgmtl.reference.gibbs import orders, prepare, sweep

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
INDICES = [torch.int32, torch.int64]
COLUMNS = 40
# (rows, samples, degrees): rows without, with few and with many edges; samples on both sides of a group and a warp.
SIZES = [(rows, 5, "power") for rows in (0, 1, 33, 300)] + [(12, 3, "border"), (33, 1, "one"), (33, 40, "one")]
SIZES += [(8, 130, "power"), (5, 0, "power")]


def draw(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def labels(*shape: int, seed: int) -> Tensor:
    return torch.randint(-1, 2, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int32)


def close(got: Tensor, want: Tensor) -> bool:
    """Up to rounding, relative to the largest entry."""
    scale = max(1.0, float(want.double().abs().max())) if want.numel() else 1.0
    return bool(((got.double() - want.double()).abs() <= 2 * TOLERANCE[got.dtype] * scale).all())


def turned(graph: Graph, index: torch.dtype) -> Pattern:
    """The transposed pattern."""
    back = graph.t()
    edge_id = None if back.edge_id is None else back.edge_id.to(index)
    return Pattern(back.row_ptr, back.col.to(index), edge_id, back.num_src)


def check(
    host: Host,
    degrees: list[int],
    samples: int,
    dtype: torch.dtype,
    index: torch.dtype = torch.int32,
    orders: tuple[int, int] = (0, 0),
    slots: str = "",
    each: bool = False,
    ids: bool = True,
) -> None:
    """Sums of all four kinds; of the factors in ``slots`` those that there may be."""
    p = pattern_of(degrees, COLUMNS, index, ids)
    graph = Graph(p.row_ptr, p.col, p.edge_id, p.cols)
    per_edge = (p.edges, samples) if each else (p.edges,)
    field, weight = draw(p.rows, samples, dtype=dtype, seed=1), draw(*per_edge, dtype=dtype, seed=2)
    y = labels(p.cols, samples, seed=3), labels(p.rows, samples, seed=4)
    shapes = {"a": (p.cols, samples), "c": (p.rows, samples), "v": per_edge}
    for number, to in enumerate(TARGETS):
        if to == "each" and not each:
            continue
        taken = {"src": "a", "dst": "c"}.get(to, "v")
        factors = [
            draw(*shape, dtype=dtype, seed=5) if name in slots and name != taken else None
            for name, shape in shapes.items()
        ]
        wanted = energy.edge_energy(graph, *factors, field, weight, *y, to, *orders, -1.5)
        out = torch.zeros_like(wanted)
        pattern = turned(graph, index) if to == "src" else p
        host.edge_energy(pattern, [*factors, field, weight, *y], [number, *orders], -1.5, out)
        assert close(out, wanted)


@pytest.mark.parametrize(("rows", "samples", "kind"), SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sizes(host: Host, dtype: torch.dtype, rows: int, samples: int, kind: str) -> None:
    for each in (False, True):
        check(host, degrees_of(rows, kind), samples, dtype, INDICES[rows % 2], (0, 0), "ac", each, ids=samples % 2 == 0)


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_modes(host: Host, index: torch.dtype) -> None:
    """Every order that there is code for, every set of factors."""
    degrees = [3, 0, 1, 9, 66, 2, 140]
    for derivative in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 3), (9, 0)):
        check(host, degrees, 6, torch.float64, index, derivative, "acv")
    for slots, each in product(("", "a", "c", "v", "av", "cv"), (False, True)):
        check(host, degrees, 6, torch.float32, index, (1, 0), slots, each, ids=each)


def test_energies_that_do_not_fit(host: Host) -> None:
    p = pattern_of([1, 2], 3)
    y, field, weight = torch.zeros(3, 4, dtype=torch.int32), torch.zeros(2, 4), torch.zeros(3)
    given = [None, None, None, field, weight, y, y[:2].clone()]
    for number, text in ((4, "to must be 0 to 3"), (-1, "to must be 0 to 3")):
        with pytest.raises(HostError, match=f"edge_energy: {text}"):
            host.edge_energy(p, given, [number, 0, 0], 1.0, torch.zeros(2, 4))
    with pytest.raises(HostError, match="orders must be 0 or more and 9 at most together, got 5 and 5"):
        host.edge_energy(p, given, [1, 5, 5], 1.0, torch.zeros(2, 4))
    with pytest.raises(HostError, match="the factor of what is summed for must be None"):
        host.edge_energy(p, [None, field, *given[2:]], [1, 0, 0], 1.0, torch.zeros(2, 4))


def simple(tasks: int, edges: int, seed: int) -> Graph:
    """Distinct edges without loops."""
    keys = torch.randperm(tasks * (tasks - 1), generator=torch.Generator().manual_seed(seed))[:edges]
    src, dst = keys % max(1, tasks - 1), keys // max(1, tasks - 1)
    return Graph.from_edge_index(torch.stack((src + (src >= dst), dst)), tasks, tasks)


def check_gibbs(
    host: Host,
    graph: Graph,
    samples: int,
    dtype: torch.dtype,
    index: torch.dtype = torch.int32,
    each: bool = False,
    clamped: bool = False,
    normalised: bool = True,
    burn_in: int = 0,
    sweeps: int = 3,
) -> None:
    bias = draw(samples, graph.num_dst, dtype=dtype, seed=1)
    coupling = draw(*((samples,) if each else ()), graph.num_edges, dtype=dtype, seed=2)
    known = labels(graph.num_dst, samples, seed=3) > 0 if clamped else None
    seed = torch.tensor([11 << 40])
    field, weight, start = prepare(graph, bias, coupling, None)
    order = orders(graph, sweeps, "random", normalised, seed)
    wanted = sweep(graph, field, weight, start, known, order, seed, burn_in, normalised)
    label, mean = torch.zeros_like(start).contiguous(), torch.zeros_like(field).contiguous()
    tensors = [field, weight, start, None if known is None else known.int(), order, seed]
    back = turned(graph, index)
    host.gibbs(back, [None if v is None else v.contiguous() for v in tensors], burn_in, normalised, label, mean)
    assert close(mean, wanted[1])
    assert torch.equal(label, wanted[0])


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize(("tasks", "edges", "samples"), [(1, 0, 1), (5, 9, 7), (40, 300, 6), (70, 2000, 2)])
def test_chains(host: Host, tasks: int, edges: int, samples: int, dtype: torch.dtype) -> None:
    graph = simple(tasks, edges, tasks)
    check_gibbs(host, graph, samples, dtype)
    check_gibbs(host, graph, samples, dtype, torch.int64, normalised=False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_chains_of_all_modes(host: Host, dtype: torch.dtype) -> None:
    for each, clamped, normalised in product((False, True), repeat=3):
        check_gibbs(host, simple(9, 20, 1), 9, dtype, torch.int32, each, clamped, normalised, burn_in=1)


def test_so_many_tasks_that_warps_wait(host: Host) -> None:
    check_gibbs(host, simple(520, 1500, 2), 4, torch.float64, sweeps=1)
    with pytest.raises(HostError, match="gibbs: on CUDA there may be 2048 tasks of this dtype, got 2049"):
        check_gibbs(host, simple(2049, 10, 3), 1, torch.float64)


def test_every_kernel_has_run(host: Host) -> None:
    """Each instance of each kernel, by its symbol; this test brings them all about by itself."""
    for dtype in DTYPES:
        check(host, [1, 70], 5, dtype)
        check_gibbs(host, simple(5, 9, 1), 3, dtype)
    known, executed = host.kernels()
    mine = {name for name in known if "edge_energy_" in name or "gibbs_" in name}
    assert len(mine) == 12
    assert not sorted(mine - executed)
